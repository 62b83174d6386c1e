// Package ringbuffer is a buffer of fixed size that overwrites its oldest items.
package ringbuffer

import (
	"errors"
	"fmt"
)

// ErrEmpty is returned when the buffer holds no items.
var ErrEmpty = errors.New("ring buffer is empty")

// Ring holds the last items that were added to it.
type Ring[T any] struct {
	items []T
	start int
	count int
}

// New returns a ring that holds at most size items.
func New[T any](size int) (*Ring[T], error) {
	if size <= 0 {
		return nil, fmt.Errorf("new ring: size %d is not positive", size)
	}
	return &Ring[T]{items: make([]T, size)}, nil
}

// Len returns the number of items in the ring.
func (r *Ring[T]) Len() int {
	return r.count
}

// Cap returns the largest number of items that the ring can hold.
func (r *Ring[T]) Cap() int {
	return len(r.items)
}

// Full reports whether the next Push overwrites an item.
func (r *Ring[T]) Full() bool {
	return r.count == len(r.items)
}

// Push adds an item and overwrites the oldest one if the ring is full.
func (r *Ring[T]) Push(item T) {
	end := (r.start + r.count) % len(r.items)
	r.items[end] = item
	if r.Full() {
		r.start = (r.start + 1) % len(r.items)
		return
	}
	r.count++
}

// Pop removes and returns the oldest item.
func (r *Ring[T]) Pop() (T, error) {
	var zero T
	if r.count == 0 {
		return zero, ErrEmpty
	}
	item := r.items[r.start]
	r.items[r.start] = zero
	r.start = (r.start + 1) % len(r.items)
	r.count--
	return item, nil
}

// At returns the item at index i, where 0 is the oldest item.
func (r *Ring[T]) At(i int) (T, error) {
	var zero T
	if i < 0 || i >= r.count {
		return zero, fmt.Errorf("index %d out of range [0, %d)", i, r.count)
	}
	return r.items[(r.start+i)%len(r.items)], nil
}

// Items returns a copy of the items, the oldest first.
func (r *Ring[T]) Items() []T {
	items := make([]T, 0, r.count)
	for i := 0; i < r.count; i++ {
		items = append(items, r.items[(r.start+i)%len(r.items)])
	}
	return items
}

// Reset removes all items from the ring.
func (r *Ring[T]) Reset() {
	var zero T
	for i := range r.items {
		r.items[i] = zero
	}
	r.start = 0
	r.count = 0
}
