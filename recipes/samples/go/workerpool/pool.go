// Package workerpool runs tasks with a limited number of goroutines.
package workerpool

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrStopped is returned when a task is submitted to a stopped pool.
var ErrStopped = errors.New("pool is stopped")

// Task is a unit of work.
type Task func(ctx context.Context) error

// Pool runs tasks with a fixed number of workers.
type Pool struct {
	ctx    context.Context
	tasks  chan Task
	wg     sync.WaitGroup
	mu     sync.RWMutex
	closed bool

	errMu sync.Mutex
	errs  []error
}

// New starts a pool with the given number of workers.
func New(ctx context.Context, workers int) (*Pool, error) {
	if workers < 1 {
		return nil, fmt.Errorf("new pool: %d workers", workers)
	}
	p := &Pool{ctx: ctx, tasks: make(chan Task)}
	p.wg.Add(workers)
	for i := 0; i < workers; i++ {
		go p.work()
	}
	return p, nil
}

// work runs tasks until the channel is closed.
func (p *Pool) work() {
	defer p.wg.Done()
	for task := range p.tasks {
		if err := run(p.ctx, task); err != nil {
			p.errMu.Lock()
			p.errs = append(p.errs, err)
			p.errMu.Unlock()
		}
	}
}

// run calls one task and turns a panic into an error.
func run(ctx context.Context, task Task) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("task panicked: %v", r)
		}
	}()
	return task(ctx)
}

// Submit hands a task to a worker and waits until one is free.
func (p *Pool) Submit(task Task) error {
	p.mu.RLock()
	defer p.mu.RUnlock()

	if p.closed {
		return ErrStopped
	}
	select {
	case p.tasks <- task:
		return nil
	case <-p.ctx.Done():
		return fmt.Errorf("submit: %w", p.ctx.Err())
	}
}

// Stop waits for the running tasks and returns the errors of all tasks.
func (p *Pool) Stop() []error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.tasks)
	}
	p.mu.Unlock()
	p.wg.Wait()

	p.errMu.Lock()
	defer p.errMu.Unlock()
	return p.errs
}
