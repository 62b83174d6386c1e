package set

// Union returns the values that are in a, in b or in both.
func Union[T comparable](a, b *Set[T]) *Set[T] {
	result := a.Clone()
	for v := range b.items {
		result.Add(v)
	}
	return result
}

// Intersect returns the values that are in both a and b.
func Intersect[T comparable](a, b *Set[T]) *Set[T] {
	if b.Len() < a.Len() {
		a, b = b, a
	}
	result := Of[T]()
	for v := range a.items {
		if b.Has(v) {
			result.Add(v)
		}
	}
	return result
}

// Difference returns the values that are in a but not in b.
func Difference[T comparable](a, b *Set[T]) *Set[T] {
	result := Of[T]()
	for v := range a.items {
		if !b.Has(v) {
			result.Add(v)
		}
	}
	return result
}

// IsSubset reports whether every value of a is in b.
func IsSubset[T comparable](a, b *Set[T]) bool {
	if a.Len() > b.Len() {
		return false
	}
	for v := range a.items {
		if !b.Has(v) {
			return false
		}
	}
	return true
}

// Equal reports whether a and b hold the same values.
func Equal[T comparable](a, b *Set[T]) bool {
	return a.Len() == b.Len() && IsSubset(a, b)
}

// Unique returns the values of a slice without duplicates, in order.
func Unique[T comparable](values []T) []T {
	seen := Of[T]()
	var result []T
	for _, v := range values {
		if seen.Add(v) {
			result = append(result, v)
		}
	}
	return result
}
