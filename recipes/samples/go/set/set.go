// Package set is a set of comparable values.
package set

import "sort"

// Set is a collection of values without duplicates.
type Set[T comparable] struct {
	items map[T]struct{}
}

// Of returns a set with the given values.
func Of[T comparable](values ...T) *Set[T] {
	s := &Set[T]{items: make(map[T]struct{}, len(values))}
	for _, v := range values {
		s.items[v] = struct{}{}
	}
	return s
}

// Add puts a value in the set and reports whether it is new.
func (s *Set[T]) Add(value T) bool {
	if _, ok := s.items[value]; ok {
		return false
	}
	s.items[value] = struct{}{}
	return true
}

// Remove deletes a value and reports whether it was in the set.
func (s *Set[T]) Remove(value T) bool {
	if _, ok := s.items[value]; !ok {
		return false
	}
	delete(s.items, value)
	return true
}

// Has reports whether the value is in the set.
func (s *Set[T]) Has(value T) bool {
	_, ok := s.items[value]
	return ok
}

// Len returns the number of values in the set.
func (s *Set[T]) Len() int {
	return len(s.items)
}

// Values returns the values in no particular order.
func (s *Set[T]) Values() []T {
	values := make([]T, 0, len(s.items))
	for v := range s.items {
		values = append(values, v)
	}
	return values
}

// Sorted returns the values in the order given by less.
func (s *Set[T]) Sorted(less func(a, b T) bool) []T {
	values := s.Values()
	sort.Slice(values, func(i, j int) bool {
		return less(values[i], values[j])
	})
	return values
}

// Clone returns a copy of the set.
func (s *Set[T]) Clone() *Set[T] {
	return Of(s.Values()...)
}
