package retry

import (
	"context"
	"errors"
	"testing"
	"time"
)

var errBusy = errors.New("server is busy")

// noSleep is used in tests so that they do not wait.
func noSleep(ctx context.Context, d time.Duration) error {
	return ctx.Err()
}

func TestDo(t *testing.T) {
	tests := []struct {
		name     string
		failures int
		attempts int
		calls    int
		wantErr  error
	}{
		{name: "first try", failures: 0, attempts: 3, calls: 1},
		{name: "second try", failures: 1, attempts: 3, calls: 2},
		{name: "last try", failures: 2, attempts: 3, calls: 3},
		{name: "gives up", failures: 9, attempts: 3, calls: 3, wantErr: ErrGiveUp},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			calls := 0
			p := Policy{Attempts: tt.attempts, sleep: noSleep}
			err := p.Do(context.Background(), func() error {
				calls++
				if calls <= tt.failures {
					return errBusy
				}
				return nil
			})
			if !errors.Is(err, tt.wantErr) {
				t.Errorf("Do() error = %v, want %v", err, tt.wantErr)
			}
			if calls != tt.calls {
				t.Errorf("calls = %d, want %d", calls, tt.calls)
			}
		})
	}
}

func TestDoPermanent(t *testing.T) {
	calls := 0
	p := Policy{Attempts: 5, sleep: noSleep}
	err := p.Do(context.Background(), func() error {
		calls++
		return Permanent(errBusy)
	})
	if !errors.Is(err, errBusy) {
		t.Errorf("Do() error = %v, want %v", err, errBusy)
	}
	if calls != 1 {
		t.Errorf("calls = %d, want 1", calls)
	}
}

func TestDoCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	p := Policy{Attempts: 3, Backoff: Backoff{Base: time.Hour}}
	err := p.Do(ctx, func() error {
		cancel()
		return errBusy
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Do() error = %v, want %v", err, context.Canceled)
	}
}

func TestDelay(t *testing.T) {
	b, err := NewBackoff(time.Second, 5*time.Second)
	if err != nil {
		t.Fatalf("NewBackoff() error = %v", err)
	}
	tests := []struct {
		name    string
		attempt int
		want    time.Duration
	}{
		{name: "first", attempt: 1, want: time.Second},
		{name: "second", attempt: 2, want: 2 * time.Second},
		{name: "third", attempt: 3, want: 4 * time.Second},
		{name: "limited", attempt: 4, want: 5 * time.Second},
		{name: "far", attempt: 100, want: 5 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := b.Delay(tt.attempt); got != tt.want {
				t.Errorf("Delay() = %s, want %s", got, tt.want)
			}
		})
	}
	if got := b.Total(4); got != 7*time.Second {
		t.Errorf("Total(4) = %s, want 7s", got)
	}
}

func TestDelayJitter(t *testing.T) {
	b := Backoff{Base: time.Second, Factor: 1, Jitter: 0.5}
	for i := 0; i < 100; i++ {
		got := b.Delay(1)
		if got < 500*time.Millisecond || got > time.Second {
			t.Fatalf("Delay() = %s, want between 500ms and 1s", got)
		}
	}
}
