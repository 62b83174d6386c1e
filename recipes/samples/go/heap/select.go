package heap

import "fmt"

// Sort returns the items in the order given by less.
func Sort[T any](items []T, less func(a, b T) bool) []T {
	h := New(less, items...)
	sorted := make([]T, 0, len(items))
	for h.Len() > 0 {
		item, err := h.Pop()
		if err != nil {
			break
		}
		sorted = append(sorted, item)
	}
	return sorted
}

// Smallest returns the n smallest items in order.
// It keeps only n items in memory besides the input.
func Smallest[T any](items []T, n int, less func(a, b T) bool) ([]T, error) {
	if n < 0 {
		return nil, fmt.Errorf("smallest: %d is negative", n)
	}
	if n == 0 {
		return nil, nil
	}
	largestFirst := func(a, b T) bool { return less(b, a) }
	h := New(largestFirst)
	for _, item := range items {
		if h.Len() < n {
			h.Push(item)
			continue
		}
		top, err := h.Peek()
		if err != nil {
			return nil, fmt.Errorf("smallest: %w", err)
		}
		if less(item, top) {
			h.items[0] = item
			h.down(0)
		}
	}
	return Sort(h.items, less), nil
}

// cursor is the position in one of the lists of Merge.
type cursor[T any] struct {
	list []T
	next int
}

// Merge combines sorted lists into one sorted list.
func Merge[T any](less func(a, b T) bool, lists ...[]T) []T {
	h := New(func(a, b *cursor[T]) bool {
		return less(a.list[a.next], b.list[b.next])
	})
	total := 0
	for _, list := range lists {
		total += len(list)
		if len(list) > 0 {
			h.Push(&cursor[T]{list: list})
		}
	}
	merged := make([]T, 0, total)
	for h.Len() > 0 {
		c, err := h.Pop()
		if err != nil {
			break
		}
		merged = append(merged, c.list[c.next])
		c.next++
		if c.next < len(c.list) {
			h.Push(c)
		}
	}
	return merged
}
