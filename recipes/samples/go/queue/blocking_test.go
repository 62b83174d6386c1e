package queue

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestBlockingOrder(t *testing.T) {
	q, err := NewBlocking[int](3)
	if err != nil {
		t.Fatalf("NewBlocking() error = %v", err)
	}
	ctx := context.Background()
	for i := 1; i <= 3; i++ {
		if err := q.Put(ctx, i); err != nil {
			t.Fatalf("Put(%d) error = %v", i, err)
		}
	}
	if q.TryPut(4) {
		t.Error("TryPut() = true, want false for a full queue")
	}
	for want := 1; want <= 3; want++ {
		got, err := q.Take(ctx)
		if err != nil {
			t.Fatalf("Take() error = %v", err)
		}
		if got != want {
			t.Errorf("Take() = %d, want %d", got, want)
		}
	}
}

func TestBlockingTimeout(t *testing.T) {
	q, err := NewBlocking[int](1)
	if err != nil {
		t.Fatalf("NewBlocking() error = %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	if _, err := q.Take(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Take() error = %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestBlockingClose(t *testing.T) {
	q, err := NewBlocking[string](2)
	if err != nil {
		t.Fatalf("NewBlocking() error = %v", err)
	}
	ctx := context.Background()
	if err := q.Put(ctx, "last"); err != nil {
		t.Fatalf("Put() error = %v", err)
	}
	q.Close()
	q.Close()
	if err := q.Put(ctx, "late"); !errors.Is(err, ErrClosed) {
		t.Errorf("Put() error = %v, want %v", err, ErrClosed)
	}
	if got, err := q.Take(ctx); err != nil || got != "last" {
		t.Errorf("Take() = %q, %v, want %q", got, err, "last")
	}
	if _, err := q.Take(ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("Take() error = %v, want %v", err, ErrClosed)
	}
}

func TestBlockingWakesTaker(t *testing.T) {
	q, err := NewBlocking[int](1)
	if err != nil {
		t.Fatalf("NewBlocking() error = %v", err)
	}
	result := make(chan int)
	go func() {
		v, err := q.Take(context.Background())
		if err != nil {
			v = -1
		}
		result <- v
	}()
	if err := q.Put(context.Background(), 7); err != nil {
		t.Fatalf("Put() error = %v", err)
	}
	if got := <-result; got != 7 {
		t.Errorf("Take() = %d, want 7", got)
	}
}
