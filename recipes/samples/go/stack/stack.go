// Package stack is a last-in first-out stack and a few uses of it.
package stack

import "errors"

// ErrEmpty is returned when an item is taken from an empty stack.
var ErrEmpty = errors.New("stack is empty")

// Stack is a last-in first-out stack. The zero value is ready to use.
type Stack[T any] struct {
	items []T
}

// Push puts an item on top of the stack.
func (s *Stack[T]) Push(item T) {
	s.items = append(s.items, item)
}

// Pop removes and returns the item on top of the stack.
func (s *Stack[T]) Pop() (T, error) {
	var zero T
	if len(s.items) == 0 {
		return zero, ErrEmpty
	}
	top := len(s.items) - 1
	item := s.items[top]
	s.items[top] = zero
	s.items = s.items[:top]
	return item, nil
}

// Peek returns the item on top of the stack without removing it.
func (s *Stack[T]) Peek() (T, error) {
	if len(s.items) == 0 {
		var zero T
		return zero, ErrEmpty
	}
	return s.items[len(s.items)-1], nil
}

// Len returns the number of items on the stack.
func (s *Stack[T]) Len() int {
	return len(s.items)
}

// Empty reports whether the stack has no items.
func (s *Stack[T]) Empty() bool {
	return len(s.items) == 0
}

// Each calls fn for every item from the top to the bottom.
// It stops at the first error and returns it.
func (s *Stack[T]) Each(fn func(T) error) error {
	for i := len(s.items) - 1; i >= 0; i-- {
		if err := fn(s.items[i]); err != nil {
			return err
		}
	}
	return nil
}
