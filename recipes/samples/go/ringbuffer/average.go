package ringbuffer

import "fmt"

// Average is the moving average of the last values that were added.
type Average struct {
	ring *Ring[float64]
	sum  float64
}

// NewAverage returns a moving average over a window of the given size.
func NewAverage(window int) (*Average, error) {
	ring, err := New[float64](window)
	if err != nil {
		return nil, fmt.Errorf("new average: %w", err)
	}
	return &Average{ring: ring}, nil
}

// Add adds a value and returns the new average.
func (a *Average) Add(value float64) float64 {
	if a.ring.Full() {
		if oldest, err := a.ring.Pop(); err == nil {
			a.sum -= oldest
		}
	}
	a.ring.Push(value)
	a.sum += value
	return a.sum / float64(a.ring.Len())
}

// Value returns the current average, or 0 if no value was added.
func (a *Average) Value() float64 {
	if a.ring.Len() == 0 {
		return 0
	}
	return a.sum / float64(a.ring.Len())
}

// Max returns the largest value in the window.
func (a *Average) Max() (float64, error) {
	if a.ring.Len() == 0 {
		return 0, fmt.Errorf("max: %w", ErrEmpty)
	}
	values := a.ring.Items()
	max := values[0]
	for _, v := range values[1:] {
		if v > max {
			max = v
		}
	}
	return max, nil
}
