// Package mathx has functions on whole numbers and simple statistics.
package mathx

import (
	"errors"
	"fmt"
	"math"
)

// ErrOverflow is returned when a result does not fit in its type.
var ErrOverflow = errors.New("integer overflow")

// gcd returns the greatest common divisor of a and b.
func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	if a < 0 {
		return -a
	}
	return a
}

// LCM returns the least common multiple of two positive numbers.
func LCM(a, b int) (int, error) {
	if a <= 0 || b <= 0 {
		return 0, fmt.Errorf("lcm of %d and %d: numbers must be positive", a, b)
	}
	return multiply(a/gcd(a, b), b)
}

// multiply returns the product of two numbers that are not negative.
func multiply(a, b int) (int, error) {
	if a != 0 && b > math.MaxInt/a {
		return 0, fmt.Errorf("multiply %d by %d: %w", a, b, ErrOverflow)
	}
	return a * b, nil
}

// Factorial returns the product of the numbers from 1 to n.
func Factorial(n int) (int, error) {
	if n < 0 {
		return 0, fmt.Errorf("factorial: %d is negative", n)
	}
	result := 1
	for i := 2; i <= n; i++ {
		var err error
		result, err = multiply(result, i)
		if err != nil {
			return 0, fmt.Errorf("factorial of %d: %w", n, err)
		}
	}
	return result, nil
}

// Primes returns the prime numbers below limit.
func Primes(limit int) []int {
	if limit < 3 {
		return nil
	}
	composite := make([]bool, limit)
	var primes []int
	for n := 2; n < limit; n++ {
		if composite[n] {
			continue
		}
		primes = append(primes, n)
		for m := n * n; m < limit; m += n {
			composite[m] = true
		}
	}
	return primes
}

// Factors returns the prime factors of n, the smallest first.
func Factors(n int) ([]int, error) {
	if n < 2 {
		return nil, fmt.Errorf("factors: %d is less than 2", n)
	}
	var factors []int
	for p := 2; p*p <= n; p++ {
		for n%p == 0 {
			factors = append(factors, p)
			n /= p
		}
	}
	if n > 1 {
		factors = append(factors, n)
	}
	return factors, nil
}
