package mathx

import (
	"errors"
	"fmt"
	"math"
	"sort"
)

// ErrNoValues is returned when there is nothing to compute from.
var ErrNoValues = errors.New("no values")

// Mean returns the average of the values.
func Mean(values []float64) (float64, error) {
	if len(values) == 0 {
		return 0, fmt.Errorf("mean: %w", ErrNoValues)
	}
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values)), nil
}

// StdDev returns the standard deviation of the values.
func StdDev(values []float64) (float64, error) {
	mean, err := Mean(values)
	if err != nil {
		return 0, fmt.Errorf("standard deviation: %w", err)
	}
	sum := 0.0
	for _, v := range values {
		sum += (v - mean) * (v - mean)
	}
	return math.Sqrt(sum / float64(len(values))), nil
}

// Quantile returns the value below which a share q of the values lies.
// It interpolates between neighbors, so that 0.5 gives the median.
func Quantile(values []float64, q float64) (float64, error) {
	if len(values) == 0 {
		return 0, fmt.Errorf("quantile: %w", ErrNoValues)
	}
	if q < 0 || q > 1 {
		return 0, fmt.Errorf("quantile: %g is not between 0 and 1", q)
	}
	sorted := append([]float64(nil), values...)
	sort.Float64s(sorted)
	pos := q * float64(len(sorted)-1)
	low := int(math.Floor(pos))
	high := int(math.Ceil(pos))
	rest := pos - float64(low)
	return sorted[low]*(1-rest) + sorted[high]*rest, nil
}

// Clamp returns the value, or the nearest end of the range it is outside of.
func Clamp(value, low, high float64) float64 {
	if value < low {
		return low
	}
	if value > high {
		return high
	}
	return value
}
