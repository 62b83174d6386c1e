package workerpool

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
)

func TestPool(t *testing.T) {
	tests := []struct {
		name    string
		workers int
		tasks   int
	}{
		{name: "one worker", workers: 1, tasks: 10},
		{name: "several workers", workers: 4, tasks: 100},
		{name: "more workers than tasks", workers: 8, tasks: 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := New(context.Background(), tt.workers)
			if err != nil {
				t.Fatalf("New() error = %v", err)
			}
			var count int64
			for i := 0; i < tt.tasks; i++ {
				err := p.Submit(func(context.Context) error {
					atomic.AddInt64(&count, 1)
					return nil
				})
				if err != nil {
					t.Fatalf("Submit() error = %v", err)
				}
			}
			if errs := p.Stop(); len(errs) != 0 {
				t.Errorf("Stop() = %v, want no errors", errs)
			}
			if count != int64(tt.tasks) {
				t.Errorf("count = %d, want %d", count, tt.tasks)
			}
		})
	}
}

func TestPoolErrors(t *testing.T) {
	p, err := New(context.Background(), 1)
	if err != nil {
		t.Fatalf("New() error = %v", err)
	}
	errBroken := errors.New("broken")
	tasks := []Task{
		func(context.Context) error { return errBroken },
		func(context.Context) error { panic("oops") },
		func(context.Context) error { return nil },
	}
	for _, task := range tasks {
		if err := p.Submit(task); err != nil {
			t.Fatalf("Submit() error = %v", err)
		}
	}
	errs := p.Stop()
	if len(errs) != 2 {
		t.Fatalf("Stop() = %v, want 2 errors", errs)
	}
	if !errors.Is(errs[0], errBroken) {
		t.Errorf("first error = %v, want %v", errs[0], errBroken)
	}
	if !strings.Contains(errs[1].Error(), "oops") {
		t.Errorf("second error = %v, want the panic", errs[1])
	}
	if err := p.Submit(tasks[2]); !errors.Is(err, ErrStopped) {
		t.Errorf("Submit() error = %v, want %v", err, ErrStopped)
	}
}

func TestMap(t *testing.T) {
	square := func(_ context.Context, v int) (int, error) {
		return v * v, nil
	}
	got, err := Map(context.Background(), 3, []int{1, 2, 3, 4, 5}, square)
	if err != nil {
		t.Fatalf("Map() error = %v", err)
	}
	if want := []int{1, 4, 9, 16, 25}; !reflect.DeepEqual(got, want) {
		t.Errorf("Map() = %v, want %v", got, want)
	}
}

func TestMapError(t *testing.T) {
	errOdd := errors.New("odd number")
	even := func(_ context.Context, v int) (int, error) {
		if v%2 == 1 {
			return 0, errOdd
		}
		return v, nil
	}
	if _, err := Map(context.Background(), 2, []int{2, 3, 4}, even); !errors.Is(err, errOdd) {
		t.Errorf("Map() error = %v, want %v", err, errOdd)
	}
}

func TestChunk(t *testing.T) {
	tests := []struct {
		name  string
		items []int
		size  int
		want  [][]int
	}{
		{name: "empty", items: nil, size: 2, want: nil},
		{name: "even", items: []int{1, 2, 3, 4}, size: 2, want: [][]int{{1, 2}, {3, 4}}},
		{name: "rest", items: []int{1, 2, 3}, size: 2, want: [][]int{{1, 2}, {3}}},
		{name: "one part", items: []int{1, 2}, size: 5, want: [][]int{{1, 2}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := chunk(tt.items, tt.size)
			if err != nil {
				t.Fatalf("chunk() error = %v", err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("chunk() = %v, want %v", got, tt.want)
			}
		})
	}
}
