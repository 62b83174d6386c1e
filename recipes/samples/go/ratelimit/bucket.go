// Package ratelimit limits how often something may happen.
package ratelimit

import (
	"fmt"
	"sync"
	"time"
)

// Bucket is a token bucket. Every call takes one token, and tokens
// come back at a fixed rate until the bucket is full.
type Bucket struct {
	mu     sync.Mutex
	rate   float64
	burst  float64
	tokens float64
	last   time.Time
	now    func() time.Time
}

// NewBucket returns a full bucket with the given rate per second and size.
func NewBucket(rate float64, burst int) (*Bucket, error) {
	if rate <= 0 {
		return nil, fmt.Errorf("new bucket: rate %g is not positive", rate)
	}
	if burst < 1 {
		return nil, fmt.Errorf("new bucket: burst %d is less than 1", burst)
	}
	b := &Bucket{
		rate:   rate,
		burst:  float64(burst),
		tokens: float64(burst),
		now:    time.Now,
	}
	b.last = b.now()
	return b, nil
}

// refill adds the tokens that came back since the last call.
// The caller holds the lock.
func (b *Bucket) refill() {
	now := b.now()
	elapsed := now.Sub(b.last).Seconds()
	if elapsed <= 0 {
		return
	}
	b.last = now
	b.tokens += elapsed * b.rate
	if b.tokens > b.burst {
		b.tokens = b.burst
	}
}

// Allow takes one token and reports whether there was one.
func (b *Bucket) Allow() bool {
	return b.AllowN(1)
}

// AllowN takes n tokens and reports whether there were enough.
// It takes nothing if there were not.
func (b *Bucket) AllowN(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()

	b.refill()
	if b.tokens < float64(n) {
		return false
	}
	b.tokens -= float64(n)
	return true
}

// Delay returns how long to wait until n tokens are there.
func (b *Bucket) Delay(n int) (time.Duration, error) {
	b.mu.Lock()
	defer b.mu.Unlock()

	if float64(n) > b.burst {
		return 0, fmt.Errorf("delay: %d tokens do not fit in a bucket of %g", n, b.burst)
	}
	b.refill()
	missing := float64(n) - b.tokens
	if missing <= 0 {
		return 0, nil
	}
	return time.Duration(missing / b.rate * float64(time.Second)), nil
}
