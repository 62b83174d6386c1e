package eventbus

import (
	"fmt"
	"sync"
)

// Recorder keeps the last events of a bus.
type Recorder struct {
	mu     sync.Mutex
	limit  int
	events []Event
	stop   func()
}

// NewRecorder records the events of a bus that fit the pattern.
func NewRecorder(b *Bus, pattern string, limit int) (*Recorder, error) {
	if limit < 1 {
		return nil, fmt.Errorf("new recorder: limit %d is less than 1", limit)
	}
	r := &Recorder{limit: limit}
	stop, err := b.Subscribe(pattern, r.record)
	if err != nil {
		return nil, fmt.Errorf("new recorder: %w", err)
	}
	r.stop = stop
	return r, nil
}

// record stores one event and drops the oldest one if there are too many.
func (r *Recorder) record(e Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()

	r.events = append(r.events, e)
	if len(r.events) > r.limit {
		r.events = r.events[1:]
	}
	return nil
}

// Topics returns the topics of the recorded events in order.
func (r *Recorder) Topics() []string {
	r.mu.Lock()
	defer r.mu.Unlock()

	topics := make([]string, 0, len(r.events))
	for _, e := range r.events {
		topics = append(topics, e.Topic)
	}
	return topics
}

// Replay publishes the recorded events on another bus.
func (r *Recorder) Replay(target *Bus) error {
	r.mu.Lock()
	events := append([]Event(nil), r.events...)
	r.mu.Unlock()

	for _, e := range events {
		if _, err := target.Publish(e.Topic, e.Payload); err != nil {
			return fmt.Errorf("replay: %w", err)
		}
	}
	return nil
}

// Close ends the recording.
func (r *Recorder) Close() {
	r.stop()
}
