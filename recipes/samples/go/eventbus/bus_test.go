package eventbus

import (
	"errors"
	"reflect"
	"testing"
)

func TestMatchTopic(t *testing.T) {
	tests := []struct {
		name    string
		pattern string
		topic   string
		want    bool
	}{
		{name: "same", pattern: "order.created", topic: "order.created", want: true},
		{name: "other", pattern: "order.created", topic: "order.deleted", want: false},
		{name: "star", pattern: "order.*", topic: "order.deleted", want: true},
		{name: "star needs a part", pattern: "order.*", topic: "order", want: false},
		{name: "star is one part", pattern: "order.*", topic: "order.item.added", want: false},
		{name: "rest", pattern: "order.**", topic: "order.item.added", want: true},
		{name: "rest needs a part", pattern: "order.**", topic: "order", want: false},
		{name: "everything", pattern: "**", topic: "user.login", want: true},
		{name: "longer topic", pattern: "a.b", topic: "a.b.c", want: false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := matchTopic(tt.pattern, tt.topic); got != tt.want {
				t.Errorf("matchTopic() = %t, want %t", got, tt.want)
			}
		})
	}
}

func TestPublish(t *testing.T) {
	b := New()
	var got []string
	stop, err := b.Subscribe("user.*", func(e Event) error {
		got = append(got, e.Topic+"="+e.Payload.(string))
		return nil
	})
	if err != nil {
		t.Fatalf("Subscribe() error = %v", err)
	}
	for _, topic := range []string{"user.login", "order.created", "user.logout"} {
		if _, err := b.Publish(topic, "ann"); err != nil {
			t.Fatalf("Publish(%q) error = %v", topic, err)
		}
	}
	stop()
	if n, err := b.Publish("user.login", "bob"); n != 0 || err != nil {
		t.Errorf("Publish() = %d, %v, want 0, nil", n, err)
	}
	want := []string{"user.login=ann", "user.logout=ann"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("events = %v, want %v", got, want)
	}
}

func TestPublishError(t *testing.T) {
	b := New()
	errFull := errors.New("disk is full")
	calls := 0
	handlers := []Handler{
		func(Event) error { return errFull },
		func(Event) error { calls++; return nil },
	}
	for _, h := range handlers {
		if _, err := b.Subscribe("save", h); err != nil {
			t.Fatalf("Subscribe() error = %v", err)
		}
	}
	n, err := b.Publish("save", nil)
	if !errors.Is(err, errFull) {
		t.Errorf("Publish() error = %v, want %v", err, errFull)
	}
	if n != 2 || calls != 1 {
		t.Errorf("n, calls = %d, %d, want 2, 1", n, calls)
	}
	if _, err := b.Subscribe("save", nil); err == nil {
		t.Error("Subscribe(nil) error = nil, want an error")
	}
}

func TestRecorder(t *testing.T) {
	b := New()
	r, err := NewRecorder(b, "**", 2)
	if err != nil {
		t.Fatalf("NewRecorder() error = %v", err)
	}
	for _, topic := range []string{"a", "b", "c"} {
		if _, err := b.Publish(topic, nil); err != nil {
			t.Fatalf("Publish() error = %v", err)
		}
	}
	r.Close()
	if _, err := b.Publish("d", nil); err != nil {
		t.Fatalf("Publish() error = %v", err)
	}
	if got, want := r.Topics(), []string{"b", "c"}; !reflect.DeepEqual(got, want) {
		t.Errorf("Topics() = %v, want %v", got, want)
	}
	copied := New()
	second, err := NewRecorder(copied, "*", 5)
	if err != nil {
		t.Fatalf("NewRecorder() error = %v", err)
	}
	if err := r.Replay(copied); err != nil {
		t.Fatalf("Replay() error = %v", err)
	}
	if got := second.Topics(); len(got) != 2 {
		t.Errorf("Topics() = %v, want 2 topics", got)
	}
}
