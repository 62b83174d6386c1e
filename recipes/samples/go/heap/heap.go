// Package heap is a binary heap with the smallest item on top.
package heap

import "errors"

// ErrEmpty is returned when an item is taken from an empty heap.
var ErrEmpty = errors.New("heap is empty")

// Heap keeps its smallest item on top, in the order given by less.
type Heap[T any] struct {
	items []T
	less  func(a, b T) bool
}

// New returns a heap with the given order and items.
func New[T any](less func(a, b T) bool, items ...T) *Heap[T] {
	h := &Heap[T]{less: less}
	h.items = append(h.items, items...)
	for i := len(h.items)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
	return h
}

// Len returns the number of items in the heap.
func (h *Heap[T]) Len() int {
	return len(h.items)
}

// Push adds an item to the heap.
func (h *Heap[T]) Push(item T) {
	h.items = append(h.items, item)
	h.up(len(h.items) - 1)
}

// Pop removes and returns the smallest item.
func (h *Heap[T]) Pop() (T, error) {
	var zero T
	if len(h.items) == 0 {
		return zero, ErrEmpty
	}
	top := h.items[0]
	last := len(h.items) - 1
	h.items[0] = h.items[last]
	h.items[last] = zero
	h.items = h.items[:last]
	if last > 0 {
		h.down(0)
	}
	return top, nil
}

// Peek returns the smallest item without removing it.
func (h *Heap[T]) Peek() (T, error) {
	if len(h.items) == 0 {
		var zero T
		return zero, ErrEmpty
	}
	return h.items[0], nil
}

// up moves the item at index i towards the top.
func (h *Heap[T]) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(h.items[i], h.items[parent]) {
			return
		}
		h.items[i], h.items[parent] = h.items[parent], h.items[i]
		i = parent
	}
}

// down moves the item at index i towards the bottom.
func (h *Heap[T]) down(i int) {
	for {
		smallest := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(h.items); child++ {
			if h.less(h.items[child], h.items[smallest]) {
				smallest = child
			}
		}
		if smallest == i {
			return
		}
		h.items[i], h.items[smallest] = h.items[smallest], h.items[i]
		i = smallest
	}
}
