package ringbuffer

import (
	"errors"
	"reflect"
	"testing"
)

func TestPush(t *testing.T) {
	tests := []struct {
		name string
		size int
		push []int
		want []int
	}{
		{name: "empty", size: 3, push: nil, want: []int{}},
		{name: "partly filled", size: 3, push: []int{1, 2}, want: []int{1, 2}},
		{name: "full", size: 3, push: []int{1, 2, 3}, want: []int{1, 2, 3}},
		{name: "overwrites", size: 3, push: []int{1, 2, 3, 4, 5}, want: []int{3, 4, 5}},
		{name: "size one", size: 1, push: []int{1, 2}, want: []int{2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := New[int](tt.size)
			if err != nil {
				t.Fatalf("New() error = %v", err)
			}
			for _, v := range tt.push {
				r.Push(v)
			}
			if got := r.Items(); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Items() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestPop(t *testing.T) {
	r, err := New[string](2)
	if err != nil {
		t.Fatalf("New() error = %v", err)
	}
	for _, s := range []string{"a", "b", "c"} {
		r.Push(s)
	}
	for _, want := range []string{"b", "c"} {
		got, err := r.Pop()
		if err != nil {
			t.Fatalf("Pop() error = %v", err)
		}
		if got != want {
			t.Errorf("Pop() = %q, want %q", got, want)
		}
	}
	if _, err := r.Pop(); !errors.Is(err, ErrEmpty) {
		t.Errorf("Pop() error = %v, want %v", err, ErrEmpty)
	}
}

func TestAt(t *testing.T) {
	r, err := New[int](2)
	if err != nil {
		t.Fatalf("New() error = %v", err)
	}
	r.Push(1)
	r.Push(2)
	r.Push(3)
	got, err := r.At(1)
	if err != nil {
		t.Fatalf("At() error = %v", err)
	}
	if got != 3 {
		t.Errorf("At(1) = %d, want 3", got)
	}
	if _, err := r.At(2); err == nil {
		t.Error("At(2) error = nil, want an error")
	}
	r.Reset()
	if r.Len() != 0 || r.Cap() != 2 {
		t.Errorf("Len, Cap = %d, %d, want 0, 2", r.Len(), r.Cap())
	}
}

func TestAverage(t *testing.T) {
	tests := []struct {
		name   string
		window int
		values []float64
		want   float64
		max    float64
	}{
		{name: "one value", window: 3, values: []float64{4}, want: 4, max: 4},
		{name: "fills the window", window: 2, values: []float64{1, 3}, want: 2, max: 3},
		{name: "slides", window: 2, values: []float64{9, 1, 3}, want: 2, max: 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := NewAverage(tt.window)
			if err != nil {
				t.Fatalf("NewAverage() error = %v", err)
			}
			for _, v := range tt.values {
				a.Add(v)
			}
			if got := a.Value(); got != tt.want {
				t.Errorf("Value() = %v, want %v", got, tt.want)
			}
			max, err := a.Max()
			if err != nil {
				t.Fatalf("Max() error = %v", err)
			}
			if max != tt.max {
				t.Errorf("Max() = %v, want %v", max, tt.max)
			}
		})
	}
}
