package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrClosed is returned when a closed queue is used.
var ErrClosed = errors.New("queue is closed")

// Blocking is a queue with a limit. Put waits while the queue is full,
// and Take waits while it is empty.
type Blocking[T any] struct {
	items chan T
	done  chan struct{}
	once  sync.Once
}

// NewBlocking returns a queue that holds at most limit items.
func NewBlocking[T any](limit int) (*Blocking[T], error) {
	if limit < 1 {
		return nil, fmt.Errorf("new blocking queue: limit %d is less than 1", limit)
	}
	return &Blocking[T]{
		items: make(chan T, limit),
		done:  make(chan struct{}),
	}, nil
}

// Put adds an item and waits until there is room for it.
func (b *Blocking[T]) Put(ctx context.Context, item T) error {
	select {
	case <-b.done:
		return ErrClosed
	default:
	}
	select {
	case b.items <- item:
		return nil
	case <-b.done:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("put: %w", ctx.Err())
	}
}

// Take removes the oldest item and waits until there is one.
// Items that were added before Close can still be taken after it.
func (b *Blocking[T]) Take(ctx context.Context) (T, error) {
	var zero T
	select {
	case item := <-b.items:
		return item, nil
	default:
	}
	select {
	case item := <-b.items:
		return item, nil
	case <-b.done:
		return zero, ErrClosed
	case <-ctx.Done():
		return zero, fmt.Errorf("take: %w", ctx.Err())
	}
}

// TryPut adds an item if there is room and reports whether it did.
func (b *Blocking[T]) TryPut(item T) bool {
	select {
	case <-b.done:
		return false
	default:
	}
	select {
	case b.items <- item:
		return true
	default:
		return false
	}
}

// Len returns the number of items that wait in the queue.
func (b *Blocking[T]) Len() int {
	return len(b.items)
}

// Close wakes every waiting goroutine. It may be called more than once.
func (b *Blocking[T]) Close() {
	b.once.Do(func() { close(b.done) })
}
