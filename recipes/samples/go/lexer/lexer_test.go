package lexer

import (
	"errors"
	"reflect"
	"testing"
)

func TestTokenize(t *testing.T) {
	tests := []struct {
		name    string
		input   string
		want    []Token
		wantErr bool
	}{
		{name: "empty", input: "", want: []Token{{End, "", 0}}},
		{
			name:  "sum",
			input: "12 + x",
			want:  []Token{{Number, "12", 0}, {Operator, "+", 3}, {Name, "x", 5}, {End, "", 6}},
		},
		{
			name:  "no space",
			input: "(1.5)",
			want:  []Token{{Open, "(", 0}, {Number, "1.5", 1}, {Close, ")", 4}, {End, "", 5}},
		},
		{name: "unexpected", input: "1 # 2", wantErr: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tokenize(tt.input)
			if (err != nil) != tt.wantErr {
				t.Fatalf("tokenize() error = %v, wantErr %t", err, tt.wantErr)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("tokenize() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestEval(t *testing.T) {
	vars := map[string]float64{"x": 3, "half": 0.5}
	tests := []struct {
		name    string
		input   string
		want    float64
		wantErr bool
	}{
		{name: "number", input: "42", want: 42},
		{name: "order of operators", input: "1 + 2 * 3", want: 7},
		{name: "left to right", input: "10 - 4 - 3", want: 3},
		{name: "brackets", input: "(1 + 2) * 3", want: 9},
		{name: "negative", input: "-(2 + 1) * -x", want: 9},
		{name: "names", input: "x * half", want: 1.5},
		{name: "unknown name", input: "y + 1", wantErr: true},
		{name: "not closed", input: "(1 + 2", wantErr: true},
		{name: "not opened", input: "1 + 2)", wantErr: true},
		{name: "two numbers", input: "1 2", wantErr: true},
		{name: "no operand", input: "1 +", wantErr: true},
		{name: "bad number", input: "1.2.3", wantErr: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Eval(tt.input, vars)
			if (err != nil) != tt.wantErr {
				t.Fatalf("Eval() error = %v, wantErr %t", err, tt.wantErr)
			}
			if got != tt.want {
				t.Errorf("Eval() = %v, want %v", got, tt.want)
			}
		})
	}
	if _, err := Eval("1 / (x - 3)", vars); !errors.Is(err, ErrDivision) {
		t.Errorf("Eval() error = %v, want %v", err, ErrDivision)
	}
}
