package ratelimit

import (
	"testing"
	"time"
)

// fakeClock is a clock that moves only when a test moves it.
type fakeClock struct {
	time time.Time
}

func (c *fakeClock) now() time.Time { return c.time }

func (c *fakeClock) advance(d time.Duration) { c.time = c.time.Add(d) }

func TestBucket(t *testing.T) {
	tests := []struct {
		name    string
		rate    float64
		burst   int
		advance time.Duration
		want    int
	}{
		{name: "nothing comes back", rate: 1, burst: 3, advance: 0, want: 0},
		{name: "one comes back", rate: 1, burst: 3, advance: time.Second, want: 1},
		{name: "fast rate", rate: 10, burst: 5, advance: 200 * time.Millisecond, want: 2},
		{name: "limited by burst", rate: 1, burst: 3, advance: time.Hour, want: 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := NewBucket(tt.rate, tt.burst)
			if err != nil {
				t.Fatalf("NewBucket() error = %v", err)
			}
			clock := &fakeClock{time: b.last}
			b.now = clock.now
			if !b.AllowN(tt.burst) {
				t.Fatal("AllowN() = false, want true for a full bucket")
			}
			clock.advance(tt.advance)
			got := 0
			for b.Allow() {
				got++
			}
			if got != tt.want {
				t.Errorf("allowed %d calls, want %d", got, tt.want)
			}
		})
	}
}

func TestBucketDelay(t *testing.T) {
	b, err := NewBucket(2, 4)
	if err != nil {
		t.Fatalf("NewBucket() error = %v", err)
	}
	clock := &fakeClock{time: b.last}
	b.now = clock.now
	b.AllowN(4)
	got, err := b.Delay(3)
	if err != nil {
		t.Fatalf("Delay() error = %v", err)
	}
	if want := 1500 * time.Millisecond; got != want {
		t.Errorf("Delay() = %s, want %s", got, want)
	}
	if _, err := b.Delay(5); err == nil {
		t.Error("Delay(5) error = nil, want an error")
	}
}

func TestWindow(t *testing.T) {
	w, err := NewWindow(2, time.Minute)
	if err != nil {
		t.Fatalf("NewWindow() error = %v", err)
	}
	clock := &fakeClock{time: time.Unix(1000, 0)}
	w.now = clock.now
	steps := []struct {
		name    string
		key     string
		advance time.Duration
		want    bool
	}{
		{name: "first", key: "ann", want: true},
		{name: "second", key: "ann", advance: 20 * time.Second, want: true},
		{name: "third", key: "ann", advance: 20 * time.Second, want: false},
		{name: "other key", key: "bob", want: true},
		{name: "after the first event", key: "ann", advance: 20 * time.Second, want: true},
		{name: "full again", key: "ann", want: false},
	}
	for _, step := range steps {
		clock.advance(step.advance)
		if got := w.Allow(step.key); got != step.want {
			t.Errorf("%s: Allow() = %t, want %t", step.name, got, step.want)
		}
	}
	if got := w.Remaining("bob"); got != 1 {
		t.Errorf("Remaining() = %d, want 1", got)
	}
	clock.advance(time.Hour)
	if got := w.Clean(); got != 2 {
		t.Errorf("Clean() = %d, want 2", got)
	}
}

func TestInvalidArguments(t *testing.T) {
	if _, err := NewBucket(0, 1); err == nil {
		t.Error("NewBucket(0, 1) error = nil, want an error")
	}
	if _, err := NewBucket(1, 0); err == nil {
		t.Error("NewBucket(1, 0) error = nil, want an error")
	}
	if _, err := NewWindow(0, time.Second); err == nil {
		t.Error("NewWindow(0, 1s) error = nil, want an error")
	}
	if _, err := NewWindow(1, 0); err == nil {
		t.Error("NewWindow(1, 0) error = nil, want an error")
	}
}
