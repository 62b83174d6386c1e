package mathx

import (
	"errors"
	"reflect"
	"testing"
)

func TestGCD(t *testing.T) {
	tests := []struct {
		name string
		a    int
		b    int
		want int
	}{
		{name: "common factor", a: 12, b: 18, want: 6},
		{name: "no common factor", a: 7, b: 9, want: 1},
		{name: "zero", a: 0, b: 5, want: 5},
		{name: "negative", a: -8, b: 12, want: 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := gcd(tt.a, tt.b); got != tt.want {
				t.Errorf("gcd() = %d, want %d", got, tt.want)
			}
		})
	}
	if got, err := LCM(4, 6); err != nil || got != 12 {
		t.Errorf("LCM(4, 6) = %d, %v, want 12", got, err)
	}
}

func TestFactorial(t *testing.T) {
	if got, err := Factorial(10); err != nil || got != 3628800 {
		t.Errorf("Factorial(10) = %d, %v, want 3628800", got, err)
	}
	if _, err := Factorial(100); !errors.Is(err, ErrOverflow) {
		t.Errorf("Factorial(100) error = %v, want %v", err, ErrOverflow)
	}
	if _, err := Factorial(-1); err == nil {
		t.Error("Factorial(-1) error = nil, want an error")
	}
}

func TestPrimes(t *testing.T) {
	if got, want := Primes(20), []int{2, 3, 5, 7, 11, 13, 17, 19}; !reflect.DeepEqual(got, want) {
		t.Errorf("Primes(20) = %v, want %v", got, want)
	}
	for n, want := range map[int][]int{2: {2}, 12: {2, 2, 3}, 97: {97}, 91: {7, 13}} {
		got, err := Factors(n)
		if err != nil {
			t.Fatalf("Factors(%d) error = %v", n, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("Factors(%d) = %v, want %v", n, got, want)
		}
	}
}

func TestQuantile(t *testing.T) {
	tests := []struct {
		name   string
		values []float64
		q      float64
		want   float64
	}{
		{name: "median of three", values: []float64{9, 1, 5}, q: 0.5, want: 5},
		{name: "median of four", values: []float64{4, 1, 3, 2}, q: 0.5, want: 2.5},
		{name: "smallest", values: []float64{4, 1, 3}, q: 0, want: 1},
		{name: "largest", values: []float64{4, 1, 3}, q: 1, want: 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Quantile(tt.values, tt.q)
			if err != nil {
				t.Fatalf("Quantile() error = %v", err)
			}
			if got != tt.want {
				t.Errorf("Quantile() = %v, want %v", got, tt.want)
			}
		})
	}
	if _, err := Quantile(nil, 0.5); !errors.Is(err, ErrNoValues) {
		t.Errorf("Quantile() error = %v, want %v", err, ErrNoValues)
	}
}

func TestStdDev(t *testing.T) {
	got, err := StdDev([]float64{2, 4, 4, 4, 5, 5, 7, 9})
	if err != nil {
		t.Fatalf("StdDev() error = %v", err)
	}
	if got != 2 {
		t.Errorf("StdDev() = %v, want 2", got)
	}
	if got := Clamp(12, 0, 10); got != 10 {
		t.Errorf("Clamp() = %v, want 10", got)
	}
}
