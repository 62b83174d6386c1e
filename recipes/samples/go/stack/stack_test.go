package stack

import (
	"errors"
	"testing"
)

func TestStack(t *testing.T) {
	var s Stack[string]
	for _, item := range []string{"a", "b", "c"} {
		s.Push(item)
	}
	if top, err := s.Peek(); err != nil || top != "c" {
		t.Errorf("Peek() = %q, %v, want %q", top, err, "c")
	}
	for _, want := range []string{"c", "b", "a"} {
		got, err := s.Pop()
		if err != nil {
			t.Fatalf("Pop() error = %v", err)
		}
		if got != want {
			t.Errorf("Pop() = %q, want %q", got, want)
		}
	}
	if _, err := s.Pop(); !errors.Is(err, ErrEmpty) {
		t.Errorf("Pop() error = %v, want %v", err, ErrEmpty)
	}
}

func TestEach(t *testing.T) {
	var s Stack[int]
	s.Push(1)
	s.Push(2)
	s.Push(3)
	errStop := errors.New("stop")
	sum := 0
	err := s.Each(func(v int) error {
		if v == 1 {
			return errStop
		}
		sum += v
		return nil
	})
	if !errors.Is(err, errStop) {
		t.Errorf("Each() error = %v, want %v", err, errStop)
	}
	if sum != 5 {
		t.Errorf("sum = %d, want 5", sum)
	}
}

func TestEvaluate(t *testing.T) {
	tests := []struct {
		name    string
		expr    string
		want    float64
		wantErr bool
	}{
		{name: "number", expr: "42", want: 42},
		{name: "sum", expr: "1 2 +", want: 3},
		{name: "nested", expr: "2 3 + 4 *", want: 20},
		{name: "difference", expr: "10 4 -", want: 6},
		{name: "quotient", expr: "9 2 /", want: 4.5},
		{name: "divide by zero", expr: "1 0 /", wantErr: true},
		{name: "missing operand", expr: "1 +", wantErr: true},
		{name: "left over", expr: "1 2", wantErr: true},
		{name: "not a number", expr: "one 2 +", wantErr: true},
		{name: "empty", expr: "", wantErr: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := evaluate(tt.expr)
			if (err != nil) != tt.wantErr {
				t.Fatalf("evaluate() error = %v, wantErr %t", err, tt.wantErr)
			}
			if got != tt.want {
				t.Errorf("evaluate() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestCheckBrackets(t *testing.T) {
	tests := []struct {
		name string
		text string
		ok   bool
	}{
		{name: "no brackets", text: "plain text", ok: true},
		{name: "nested", text: "f(a[0], {b: (c)})", ok: true},
		{name: "wrong kind", text: "(]", ok: false},
		{name: "not closed", text: "((a)", ok: false},
		{name: "not opened", text: "a)", ok: false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := CheckBrackets(tt.text)
			if (err == nil) != tt.ok {
				t.Errorf("CheckBrackets() error = %v, want ok %t", err, tt.ok)
			}
		})
	}
}
