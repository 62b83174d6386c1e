package heap

import (
	"errors"
	"reflect"
	"testing"
)

func lessInt(a, b int) bool { return a < b }

func TestSort(t *testing.T) {
	tests := []struct {
		name  string
		items []int
		want  []int
	}{
		{name: "empty", items: nil, want: []int{}},
		{name: "one", items: []int{1}, want: []int{1}},
		{name: "mixed", items: []int{5, 2, 9, 1, 7}, want: []int{1, 2, 5, 7, 9}},
		{name: "duplicates", items: []int{3, 1, 3, 1}, want: []int{1, 1, 3, 3}},
		{name: "descending", items: []int{4, 3, 2, 1}, want: []int{1, 2, 3, 4}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Sort(tt.items, lessInt); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Sort() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestPushPop(t *testing.T) {
	type job struct {
		name     string
		priority int
	}
	h := New(func(a, b job) bool { return a.priority < b.priority })
	h.Push(job{name: "write", priority: 3})
	h.Push(job{name: "read", priority: 1})
	h.Push(job{name: "parse", priority: 2})
	top, err := h.Peek()
	if err != nil {
		t.Fatalf("Peek() error = %v", err)
	}
	if top.name != "read" {
		t.Errorf("Peek() = %q, want %q", top.name, "read")
	}
	for _, want := range []string{"read", "parse", "write"} {
		got, err := h.Pop()
		if err != nil {
			t.Fatalf("Pop() error = %v", err)
		}
		if got.name != want {
			t.Errorf("Pop() = %q, want %q", got.name, want)
		}
	}
	if _, err := h.Pop(); !errors.Is(err, ErrEmpty) {
		t.Errorf("Pop() error = %v, want %v", err, ErrEmpty)
	}
}

func TestSmallest(t *testing.T) {
	items := []int{8, 3, 5, 1, 9, 2}
	tests := []struct {
		name    string
		n       int
		want    []int
		wantErr bool
	}{
		{name: "none", n: 0, want: nil},
		{name: "three", n: 3, want: []int{1, 2, 3}},
		{name: "more than there are", n: 10, want: []int{1, 2, 3, 5, 8, 9}},
		{name: "negative", n: -1, wantErr: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Smallest(items, tt.n, lessInt)
			if (err != nil) != tt.wantErr {
				t.Fatalf("Smallest() error = %v, wantErr %t", err, tt.wantErr)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Smallest() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestMerge(t *testing.T) {
	got := Merge(lessInt, []int{1, 4, 7}, nil, []int{2, 5}, []int{3, 6, 8})
	want := []int{1, 2, 3, 4, 5, 6, 7, 8}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Merge() = %v, want %v", got, want)
	}
}
