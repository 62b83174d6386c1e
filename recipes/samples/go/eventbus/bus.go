// Package eventbus delivers events to the functions that ask for them.
package eventbus

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
)

// Event is a message about something that happened.
type Event struct {
	Topic   string
	Payload interface{}
}

// Handler is called for every event of a topic.
type Handler func(Event) error

// subscription is one handler and the pattern it waits for.
type subscription struct {
	id      int
	pattern string
	handler Handler
}

// Bus connects the senders of events with their handlers.
type Bus struct {
	mu     sync.RWMutex
	nextID int
	subs   map[int]subscription
}

// New returns a bus without handlers.
func New() *Bus {
	return &Bus{subs: make(map[int]subscription)}
}

// Subscribe calls handler for every event whose topic fits the pattern.
// It returns a function that ends the subscription.
func (b *Bus) Subscribe(pattern string, handler Handler) (func(), error) {
	if pattern == "" {
		return nil, errors.New("subscribe: pattern is empty")
	}
	if handler == nil {
		return nil, fmt.Errorf("subscribe to %q: handler is nil", pattern)
	}
	b.mu.Lock()
	defer b.mu.Unlock()

	b.nextID++
	id := b.nextID
	b.subs[id] = subscription{id: id, pattern: pattern, handler: handler}
	return func() { b.unsubscribe(id) }, nil
}

// unsubscribe removes the subscription with the given id.
func (b *Bus) unsubscribe(id int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subs, id)
}

// matching returns the subscriptions for topic, the oldest first.
func (b *Bus) matching(topic string) []subscription {
	b.mu.RLock()
	defer b.mu.RUnlock()

	var subs []subscription
	for _, sub := range b.subs {
		if matchTopic(sub.pattern, topic) {
			subs = append(subs, sub)
		}
	}
	sort.Slice(subs, func(i, j int) bool { return subs[i].id < subs[j].id })
	return subs
}

// Publish calls the handlers of a topic in order.
// It returns the number of calls and the first error of a handler.
func (b *Bus) Publish(topic string, payload interface{}) (int, error) {
	var first error
	subs := b.matching(topic)
	for _, sub := range subs {
		err := sub.handler(Event{Topic: topic, Payload: payload})
		if err != nil && first == nil {
			first = fmt.Errorf("publish %q: handler %d: %w", topic, sub.id, err)
		}
	}
	return len(subs), first
}

// matchTopic reports whether a topic such as "order.created" fits a pattern.
// A star fits exactly one part, and "**" at the end fits all the rest.
func matchTopic(pattern, topic string) bool {
	want := strings.Split(pattern, ".")
	have := strings.Split(topic, ".")
	for i, part := range want {
		if part == "**" && i == len(want)-1 {
			return len(have) > i
		}
		if i >= len(have) || (part != "*" && part != have[i]) {
			return false
		}
	}
	return len(want) == len(have)
}
