package inventory

import "fmt"

// Line is one product of an order.
type Line struct {
	SKU      string
	Quantity int
}

// Order is a list of products that one customer wants.
type Order struct {
	ID    string
	Lines []Line
}

// check returns an error if the stock cannot serve the order.
// It returns the pieces that are needed of every item.
func (s *Stock) check(o Order) (map[string]int, error) {
	needed := make(map[string]int)
	for i, line := range o.Lines {
		if line.Quantity < 1 {
			return nil, fmt.Errorf("line %d: quantity %d is less than 1", i, line.Quantity)
		}
		needed[line.SKU] += line.Quantity
	}
	for sku, quantity := range needed {
		item, err := s.find(sku)
		if err != nil {
			return nil, err
		}
		if item.Available() < quantity {
			return nil, fmt.Errorf("%s: want %d, have %d: %w", sku, quantity, item.Available(), ErrNotEnough)
		}
	}
	return needed, nil
}

// Reserve keeps the pieces of an order for its customer.
// Nothing is reserved if one line cannot be served.
func (s *Stock) Reserve(o Order) error {
	needed, err := s.check(o)
	if err != nil {
		return fmt.Errorf("reserve order %s: %w", o.ID, err)
	}
	for sku, quantity := range needed {
		s.items[sku].Reserved += quantity
	}
	return nil
}

// Ship removes the reserved pieces of an order from the stock.
// Nothing is removed if one line is not reserved.
func (s *Stock) Ship(o Order) error {
	needed := make(map[string]int)
	for _, line := range o.Lines {
		needed[line.SKU] += line.Quantity
	}
	for sku, quantity := range needed {
		item, err := s.find(sku)
		if err != nil {
			return fmt.Errorf("ship order %s: %w", o.ID, err)
		}
		if item.Reserved < quantity {
			return fmt.Errorf("ship order %s: %s is not reserved", o.ID, sku)
		}
	}
	for sku, quantity := range needed {
		s.items[sku].Reserved -= quantity
		s.items[sku].Quantity -= quantity
	}
	return nil
}

// Price returns the sum of the prices of an order.
func (s *Stock) Price(o Order) (int, error) {
	total := 0
	for _, line := range o.Lines {
		item, err := s.find(line.SKU)
		if err != nil {
			return 0, fmt.Errorf("price of order %s: %w", o.ID, err)
		}
		total += item.Price * line.Quantity
	}
	return total, nil
}
