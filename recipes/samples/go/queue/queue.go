// Package queue has first-in first-out queues.
package queue

import "errors"

// ErrEmpty is returned when an item is taken from an empty queue.
var ErrEmpty = errors.New("queue is empty")

// Queue is a first-in first-out queue without a limit.
// The zero value is ready to use.
type Queue[T any] struct {
	in  []T
	out []T
}

// Push adds an item to the back of the queue.
func (q *Queue[T]) Push(item T) {
	q.in = append(q.in, item)
}

// Pop removes and returns the item at the front of the queue.
func (q *Queue[T]) Pop() (T, error) {
	q.shift()
	var zero T
	if len(q.out) == 0 {
		return zero, ErrEmpty
	}
	last := len(q.out) - 1
	item := q.out[last]
	q.out[last] = zero
	q.out = q.out[:last]
	return item, nil
}

// Peek returns the item at the front of the queue without removing it.
func (q *Queue[T]) Peek() (T, error) {
	q.shift()
	if len(q.out) == 0 {
		var zero T
		return zero, ErrEmpty
	}
	return q.out[len(q.out)-1], nil
}

// shift moves the new items to the output side once that side is empty.
func (q *Queue[T]) shift() {
	if len(q.out) > 0 {
		return
	}
	for i := len(q.in) - 1; i >= 0; i-- {
		q.out = append(q.out, q.in[i])
	}
	q.in = q.in[:0]
}

// Len returns the number of items in the queue.
func (q *Queue[T]) Len() int {
	return len(q.in) + len(q.out)
}

// Drain removes all items and returns them in order.
func (q *Queue[T]) Drain() []T {
	items := make([]T, 0, q.Len())
	for q.Len() > 0 {
		item, err := q.Pop()
		if err != nil {
			break
		}
		items = append(items, item)
	}
	return items
}
