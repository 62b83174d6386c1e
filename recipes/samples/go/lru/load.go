package lru

import "fmt"

// Stats counts what happened to a cache since it was created.
type Stats struct {
	Hits      int
	Misses    int
	Evictions int
}

// HitRate returns the share of lookups that found a value, from 0 to 1.
func (s Stats) HitRate() float64 {
	total := s.Hits + s.Misses
	if total == 0 {
		return 0
	}
	return float64(s.Hits) / float64(total)
}

// String returns the counts on one line.
func (s Stats) String() string {
	return fmt.Sprintf("hits=%d misses=%d evictions=%d", s.Hits, s.Misses, s.Evictions)
}

// Stats returns a copy of the counts of the cache.
func (c *Cache[K, V]) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// GetOrLoad returns the value for key and calls load if it is not cached.
// A value is stored only if load returns no error.
func (c *Cache[K, V]) GetOrLoad(key K, load func(K) (V, error)) (V, error) {
	if value, ok := c.Get(key); ok {
		return value, nil
	}
	value, err := load(key)
	if err != nil {
		var zero V
		return zero, fmt.Errorf("load %v: %w", key, err)
	}
	c.Put(key, value)
	return value, nil
}
