package retry

import (
	"fmt"
	"math/rand"
	"time"
)

// Backoff computes the delay before the next attempt.
type Backoff struct {
	Base   time.Duration
	Max    time.Duration
	Factor float64
	Jitter float64
}

// NewBackoff returns a backoff that doubles the delay up to a maximum.
func NewBackoff(base, max time.Duration) (Backoff, error) {
	if base <= 0 {
		return Backoff{}, fmt.Errorf("new backoff: base %s is not positive", base)
	}
	if max < base {
		return Backoff{}, fmt.Errorf("new backoff: maximum %s is below base %s", max, base)
	}
	return Backoff{Base: base, Max: max, Factor: 2}, nil
}

// Delay returns the delay after the given attempt, which counts from 1.
func (b Backoff) Delay(attempt int) time.Duration {
	factor := b.Factor
	if factor < 1 {
		factor = 1
	}
	delay := float64(b.Base)
	for i := 1; i < attempt; i++ {
		delay *= factor
		if b.Max > 0 && delay >= float64(b.Max) {
			delay = float64(b.Max)
			break
		}
	}
	if b.Jitter > 0 {
		delay -= delay * b.Jitter * rand.Float64()
	}
	return time.Duration(delay)
}

// Total returns the longest time that the given number of attempts can wait.
func (b Backoff) Total(attempts int) time.Duration {
	b.Jitter = 0
	var total time.Duration
	for attempt := 1; attempt < attempts; attempt++ {
		total += b.Delay(attempt)
	}
	return total
}
