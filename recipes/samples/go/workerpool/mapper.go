package workerpool

import (
	"context"
	"fmt"
	"sync"
)

// Map calls fn for every input with a limited number of goroutines.
// The results are in the order of the inputs. The first error stops it.
func Map[In, Out any](ctx context.Context, workers int, inputs []In, fn func(context.Context, In) (Out, error)) ([]Out, error) {
	if workers < 1 {
		return nil, fmt.Errorf("map: %d workers", workers)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	var (
		wg       sync.WaitGroup
		once     sync.Once
		firstErr error
	)
	results := make([]Out, len(inputs))
	indexes := make(chan int)
	for i := 0; i < workers; i++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range indexes {
				out, err := fn(ctx, inputs[i])
				if err != nil {
					once.Do(func() {
						firstErr = fmt.Errorf("input %d: %w", i, err)
						cancel()
					})
					continue
				}
				results[i] = out
			}
		}()
	}
	feed(ctx, indexes, len(inputs))
	wg.Wait()
	if firstErr != nil {
		return nil, firstErr
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("map: %w", err)
	}
	return results, nil
}

// feed sends the numbers from 0 to n-1 until the context ends.
func feed(ctx context.Context, indexes chan<- int, n int) {
	defer close(indexes)
	for i := 0; i < n; i++ {
		select {
		case indexes <- i:
		case <-ctx.Done():
			return
		}
	}
}

// chunk splits items into parts of at most size items.
func chunk[T any](items []T, size int) ([][]T, error) {
	if size < 1 {
		return nil, fmt.Errorf("chunk: size %d is less than 1", size)
	}
	var parts [][]T
	for len(items) > size {
		parts = append(parts, items[:size])
		items = items[size:]
	}
	if len(items) > 0 {
		parts = append(parts, items)
	}
	return parts, nil
}
