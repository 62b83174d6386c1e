// Package lru is a cache that removes the least recently used entry when full.
package lru

import (
	"container/list"
	"fmt"
	"sync"
)

// entry is one key and its value in the cache.
type entry[K comparable, V any] struct {
	key   K
	value V
}

// Cache holds a limited number of entries.
// It is safe for use by several goroutines.
type Cache[K comparable, V any] struct {
	mu      sync.Mutex
	limit   int
	order   *list.List
	entries map[K]*list.Element
	stats   Stats
}

// New returns a cache that holds at most limit entries.
func New[K comparable, V any](limit int) (*Cache[K, V], error) {
	if limit <= 0 {
		return nil, fmt.Errorf("new cache: limit %d is not positive", limit)
	}
	return &Cache[K, V]{
		limit:   limit,
		order:   list.New(),
		entries: make(map[K]*list.Element),
	}, nil
}

// Get returns the value for key and marks it as recently used.
func (c *Cache[K, V]) Get(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()

	elem, ok := c.entries[key]
	if !ok {
		c.stats.Misses++
		var zero V
		return zero, false
	}
	c.stats.Hits++
	c.order.MoveToFront(elem)
	return elem.Value.(*entry[K, V]).value, true
}

// Put stores value for key and removes the oldest entry if there are too many.
func (c *Cache[K, V]) Put(key K, value V) {
	c.mu.Lock()
	defer c.mu.Unlock()

	if elem, ok := c.entries[key]; ok {
		elem.Value.(*entry[K, V]).value = value
		c.order.MoveToFront(elem)
		return
	}
	c.entries[key] = c.order.PushFront(&entry[K, V]{key: key, value: value})
	if c.order.Len() > c.limit {
		c.removeOldest()
	}
}

// removeOldest removes the least recently used entry.
// The caller holds the lock.
func (c *Cache[K, V]) removeOldest() {
	elem := c.order.Back()
	if elem == nil {
		return
	}
	c.order.Remove(elem)
	delete(c.entries, elem.Value.(*entry[K, V]).key)
	c.stats.Evictions++
}

// Remove deletes key and reports whether it was in the cache.
func (c *Cache[K, V]) Remove(key K) bool {
	c.mu.Lock()
	defer c.mu.Unlock()

	elem, ok := c.entries[key]
	if !ok {
		return false
	}
	c.order.Remove(elem)
	delete(c.entries, key)
	return true
}

// Len returns the number of entries in the cache.
func (c *Cache[K, V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.order.Len()
}

// Keys returns the keys, the most recently used first.
func (c *Cache[K, V]) Keys() []K {
	c.mu.Lock()
	defer c.mu.Unlock()

	keys := make([]K, 0, c.order.Len())
	for elem := c.order.Front(); elem != nil; elem = elem.Next() {
		keys = append(keys, elem.Value.(*entry[K, V]).key)
	}
	return keys
}
