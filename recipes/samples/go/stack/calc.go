package stack

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrDivideByZero is returned when an expression divides by zero.
var ErrDivideByZero = errors.New("divide by zero")

// evaluate computes an expression in postfix form such as "2 3 + 4 *".
func evaluate(expr string) (float64, error) {
	var values Stack[float64]
	for _, token := range strings.Fields(expr) {
		switch token {
		case "+", "-", "*", "/":
			if err := operate(&values, token); err != nil {
				return 0, fmt.Errorf("evaluate %q: %w", expr, err)
			}
		default:
			v, err := strconv.ParseFloat(token, 64)
			if err != nil {
				return 0, fmt.Errorf("evaluate %q: %w", expr, err)
			}
			values.Push(v)
		}
	}
	result, err := values.Pop()
	if err != nil {
		return 0, fmt.Errorf("evaluate %q: %w", expr, err)
	}
	if !values.Empty() {
		return 0, fmt.Errorf("evaluate %q: %d values left over", expr, values.Len())
	}
	return result, nil
}

// operate replaces the two values on top of the stack with one result.
func operate(values *Stack[float64], op string) error {
	right, err := values.Pop()
	if err != nil {
		return fmt.Errorf("right operand of %q: %w", op, err)
	}
	left, err := values.Pop()
	if err != nil {
		return fmt.Errorf("left operand of %q: %w", op, err)
	}
	switch op {
	case "+":
		values.Push(left + right)
	case "-":
		values.Push(left - right)
	case "*":
		values.Push(left * right)
	case "/":
		if right == 0 {
			return ErrDivideByZero
		}
		values.Push(left / right)
	}
	return nil
}

// pairs maps a closing bracket to the opening bracket it needs.
var pairs = map[rune]rune{')': '(', ']': '[', '}': '{'}

// CheckBrackets returns an error if the brackets in text do not match.
func CheckBrackets(text string) error {
	var open Stack[rune]
	for i, r := range text {
		switch r {
		case '(', '[', '{':
			open.Push(r)
		case ')', ']', '}':
			top, err := open.Pop()
			if err != nil {
				return fmt.Errorf("offset %d: nothing to close with %q", i, r)
			}
			if top != pairs[r] {
				return fmt.Errorf("offset %d: %q does not close %q", i, r, top)
			}
		}
	}
	if !open.Empty() {
		return fmt.Errorf("%d brackets are not closed", open.Len())
	}
	return nil
}
