// Package retry calls a function again until it works.
package retry

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrGiveUp is returned when every attempt failed.
var ErrGiveUp = errors.New("too many attempts")

// permanent marks an error that another attempt cannot fix.
type permanent struct {
	err error
}

// Error returns the text of the wrapped error.
func (p *permanent) Error() string { return p.err.Error() }

// Unwrap returns the wrapped error.
func (p *permanent) Unwrap() error { return p.err }

// Permanent wraps err so that Do stops at once.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanent{err: err}
}

// Policy says how often and how fast to try again.
type Policy struct {
	Attempts int
	Backoff  Backoff
	sleep    func(ctx context.Context, d time.Duration) error
}

// Do calls fn until it returns nil or the policy gives up.
func (p Policy) Do(ctx context.Context, fn func() error) error {
	if p.Attempts < 1 {
		return fmt.Errorf("retry: attempts %d is less than 1", p.Attempts)
	}
	sleep := p.sleep
	if sleep == nil {
		sleep = wait
	}
	var last error
	for attempt := 1; attempt <= p.Attempts; attempt++ {
		last = fn()
		if last == nil {
			return nil
		}
		var stop *permanent
		if errors.As(last, &stop) {
			return fmt.Errorf("attempt %d: %w", attempt, stop.err)
		}
		if attempt == p.Attempts {
			break
		}
		if err := sleep(ctx, p.Backoff.Delay(attempt)); err != nil {
			return fmt.Errorf("retry after attempt %d: %w", attempt, err)
		}
	}
	return fmt.Errorf("%w: %d: %v", ErrGiveUp, p.Attempts, last)
}

// wait sleeps for d or until the context ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
