package queue

import (
	"errors"
	"reflect"
	"testing"
)

func TestQueue(t *testing.T) {
	tests := []struct {
		name string
		push []int
		pops int
		want []int
	}{
		{name: "empty", push: nil, pops: 0, want: []int{}},
		{name: "keeps order", push: []int{1, 2, 3}, pops: 0, want: []int{1, 2, 3}},
		{name: "after pops", push: []int{1, 2, 3, 4}, pops: 2, want: []int{3, 4}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var q Queue[int]
			for _, v := range tt.push {
				q.Push(v)
			}
			for i := 0; i < tt.pops; i++ {
				if _, err := q.Pop(); err != nil {
					t.Fatalf("Pop() error = %v", err)
				}
			}
			if got := q.Drain(); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Drain() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestQueueInterleaved(t *testing.T) {
	var q Queue[string]
	q.Push("a")
	q.Push("b")
	if got, _ := q.Pop(); got != "a" {
		t.Errorf("Pop() = %q, want %q", got, "a")
	}
	q.Push("c")
	if got, _ := q.Peek(); got != "b" {
		t.Errorf("Peek() = %q, want %q", got, "b")
	}
	if got := q.Len(); got != 2 {
		t.Errorf("Len() = %d, want 2", got)
	}
}

func TestQueueEmpty(t *testing.T) {
	var q Queue[int]
	if _, err := q.Pop(); !errors.Is(err, ErrEmpty) {
		t.Errorf("Pop() error = %v, want %v", err, ErrEmpty)
	}
	if _, err := q.Peek(); !errors.Is(err, ErrEmpty) {
		t.Errorf("Peek() error = %v, want %v", err, ErrEmpty)
	}
}
