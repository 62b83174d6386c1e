// Package inventory counts the items in a warehouse.
package inventory

import (
	"errors"
	"fmt"
	"sort"
)

// Errors returned by the operations on the stock.
var (
	ErrUnknown   = errors.New("unknown item")
	ErrNotEnough = errors.New("not enough in stock")
)

// Item is a product and how many of it are there.
type Item struct {
	SKU      string
	Name     string
	Price    int
	Quantity int
	Reserved int
}

// Available returns how many pieces can still be sold.
func (i Item) Available() int {
	return i.Quantity - i.Reserved
}

// Stock holds the items by their SKU.
type Stock struct {
	items map[string]*Item
}

// NewStock returns an empty stock.
func NewStock() *Stock {
	return &Stock{items: make(map[string]*Item)}
}

// Add puts pieces of an item in the stock.
// The name and the price of a known item are replaced.
func (s *Stock) Add(sku, name string, price, quantity int) error {
	if sku == "" {
		return errors.New("add: sku is empty")
	}
	if price < 0 || quantity < 0 {
		return fmt.Errorf("add %s: price %d or quantity %d is negative", sku, price, quantity)
	}
	item, ok := s.items[sku]
	if !ok {
		item = &Item{SKU: sku}
		s.items[sku] = item
	}
	item.Name = name
	item.Price = price
	item.Quantity += quantity
	return nil
}

// find returns the item with the given SKU.
func (s *Stock) find(sku string) (*Item, error) {
	item, ok := s.items[sku]
	if !ok {
		return nil, fmt.Errorf("item %q: %w", sku, ErrUnknown)
	}
	return item, nil
}

// Get returns a copy of the item with the given SKU.
func (s *Stock) Get(sku string) (Item, error) {
	item, err := s.find(sku)
	if err != nil {
		return Item{}, fmt.Errorf("get: %w", err)
	}
	return *item, nil
}

// Low returns the items with fewer than limit pieces, ordered by SKU.
func (s *Stock) Low(limit int) []Item {
	var low []Item
	for _, item := range s.items {
		if item.Available() < limit {
			low = append(low, *item)
		}
	}
	sort.Slice(low, func(i, j int) bool { return low[i].SKU < low[j].SKU })
	return low
}

// Value returns the price of all pieces in the stock.
func (s *Stock) Value() int {
	total := 0
	for _, item := range s.items {
		total += item.Price * item.Quantity
	}
	return total
}
