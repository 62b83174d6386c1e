package matrix

import (
	"errors"
	"reflect"
	"testing"
)

// must returns a matrix with the given rows or stops the test.
func must(t *testing.T, rows [][]float64) *Matrix {
	t.Helper()
	m, err := FromRows(rows)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestFromRows(t *testing.T) {
	if _, err := FromRows(nil); err == nil {
		t.Error("FromRows(nil) error = nil, want an error")
	}
	_, err := FromRows([][]float64{{1, 2}, {3}})
	if !errors.Is(err, ErrShape) {
		t.Errorf("FromRows() error = %v, want %v", err, ErrShape)
	}
	m := must(t, [][]float64{{1, 2}, {3, 4.5}})
	if got, want := m.String(), "1 2\n3 4.5\n"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}

func TestMultiply(t *testing.T) {
	tests := []struct {
		name    string
		a       [][]float64
		b       [][]float64
		want    [][]float64
		wantErr error
	}{
		{
			name: "square",
			a:    [][]float64{{1, 2}, {3, 4}},
			b:    [][]float64{{0, 1}, {1, 0}},
			want: [][]float64{{2, 1}, {4, 3}},
		},
		{
			name: "row by column",
			a:    [][]float64{{1, 2, 3}},
			b:    [][]float64{{4}, {5}, {6}},
			want: [][]float64{{32}},
		},
		{
			name:    "wrong shape",
			a:       [][]float64{{1, 2}},
			b:       [][]float64{{1, 2}},
			wantErr: ErrShape,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := multiply(must(t, tt.a), must(t, tt.b))
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("multiply() error = %v, want %v", err, tt.wantErr)
			}
			if err != nil {
				return
			}
			if want := must(t, tt.want); !reflect.DeepEqual(got, want) {
				t.Errorf("multiply() =\n%vwant\n%v", got, want)
			}
		})
	}
}

func TestAddAndScale(t *testing.T) {
	a := must(t, [][]float64{{1, 2}})
	sum, err := add(a, a)
	if err != nil {
		t.Fatalf("add() error = %v", err)
	}
	if !reflect.DeepEqual(sum, a.Scale(2)) {
		t.Errorf("add() = %v, want %v", sum, a.Scale(2))
	}
	if _, err := add(a, a.Transpose()); !errors.Is(err, ErrShape) {
		t.Errorf("add() error = %v, want %v", err, ErrShape)
	}
}

func TestPower(t *testing.T) {
	fib := must(t, [][]float64{{1, 1}, {1, 0}})
	got, err := fib.Power(10)
	if err != nil {
		t.Fatalf("Power() error = %v", err)
	}
	if got.At(0, 1) != 55 {
		t.Errorf("Power(10) = %v, want 55 at 0, 1", got)
	}
	trace, err := got.Trace()
	if err != nil {
		t.Fatalf("Trace() error = %v", err)
	}
	if trace != 89+34 {
		t.Errorf("Trace() = %v, want 123", trace)
	}
}
