package ratelimit

import (
	"fmt"
	"sync"
	"time"
)

// Window allows a number of events per key in any period of a fixed length.
type Window struct {
	mu     sync.Mutex
	limit  int
	period time.Duration
	events map[string][]time.Time
	now    func() time.Time
}

// NewWindow returns a window that allows limit events per period.
func NewWindow(limit int, period time.Duration) (*Window, error) {
	if limit < 1 {
		return nil, fmt.Errorf("new window: limit %d is less than 1", limit)
	}
	if period <= 0 {
		return nil, fmt.Errorf("new window: period %s is not positive", period)
	}
	return &Window{
		limit:  limit,
		period: period,
		events: make(map[string][]time.Time),
		now:    time.Now,
	}, nil
}

// recent returns the events of key that are inside the period.
// The caller holds the lock.
func (w *Window) recent(key string) []time.Time {
	events := w.events[key]
	oldest := w.now().Add(-w.period)
	first := 0
	for first < len(events) && !events[first].After(oldest) {
		first++
	}
	return events[first:]
}

// Allow records an event for key and reports whether it is within the limit.
func (w *Window) Allow(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()

	events := w.recent(key)
	if len(events) >= w.limit {
		w.events[key] = events
		return false
	}
	w.events[key] = append(events, w.now())
	return true
}

// Remaining returns how many more events are allowed for key now.
func (w *Window) Remaining(key string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limit - len(w.recent(key))
}

// Clean forgets the keys without recent events and returns their number.
func (w *Window) Clean() int {
	w.mu.Lock()
	defer w.mu.Unlock()

	removed := 0
	for key := range w.events {
		if len(w.recent(key)) == 0 {
			delete(w.events, key)
			removed++
		}
	}
	return removed
}
