package set

import (
	"reflect"
	"testing"
)

// ascending orders integers from small to large.
func ascending(a, b int) bool { return a < b }

func TestAddRemove(t *testing.T) {
	s := Of("a", "b")
	if s.Add("a") {
		t.Error("Add(a) = true, want false")
	}
	if !s.Add("c") {
		t.Error("Add(c) = false, want true")
	}
	if !s.Remove("b") {
		t.Error("Remove(b) = false, want true")
	}
	if s.Remove("z") {
		t.Error("Remove(z) = true, want false")
	}
	if !Equal(s, Of("c", "a")) {
		t.Errorf("set = %v, want a and c", s.Values())
	}
}

func TestOperations(t *testing.T) {
	tests := []struct {
		name      string
		a         []int
		b         []int
		union     []int
		intersect []int
		diff      []int
	}{
		{
			name:      "overlap",
			a:         []int{1, 2, 3},
			b:         []int{2, 3, 4},
			union:     []int{1, 2, 3, 4},
			intersect: []int{2, 3},
			diff:      []int{1},
		},
		{
			name:      "disjoint",
			a:         []int{1},
			b:         []int{2},
			union:     []int{1, 2},
			intersect: []int{},
			diff:      []int{1},
		},
		{
			name:      "empty right side",
			a:         []int{5, 6},
			b:         nil,
			union:     []int{5, 6},
			intersect: []int{},
			diff:      []int{5, 6},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := Of(tt.a...), Of(tt.b...)
			if got := Union(a, b).Sorted(ascending); !reflect.DeepEqual(got, tt.union) {
				t.Errorf("Union() = %v, want %v", got, tt.union)
			}
			if got := Intersect(a, b).Sorted(ascending); !reflect.DeepEqual(got, tt.intersect) {
				t.Errorf("Intersect() = %v, want %v", got, tt.intersect)
			}
			if got := Difference(a, b).Sorted(ascending); !reflect.DeepEqual(got, tt.diff) {
				t.Errorf("Difference() = %v, want %v", got, tt.diff)
			}
		})
	}
}

func TestIsSubset(t *testing.T) {
	tests := []struct {
		name string
		a    *Set[int]
		b    *Set[int]
		want bool
	}{
		{name: "empty", a: Of[int](), b: Of(1), want: true},
		{name: "inside", a: Of(1), b: Of(1, 2), want: true},
		{name: "same", a: Of(1, 2), b: Of(2, 1), want: true},
		{name: "larger", a: Of(1, 2, 3), b: Of(1, 2), want: false},
		{name: "other", a: Of(3), b: Of(1, 2), want: false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := IsSubset(tt.a, tt.b); got != tt.want {
				t.Errorf("IsSubset() = %t, want %t", got, tt.want)
			}
		})
	}
}

func TestUnique(t *testing.T) {
	got := Unique([]string{"b", "a", "b", "c", "a"})
	want := []string{"b", "a", "c"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Unique() = %v, want %v", got, want)
	}
}
