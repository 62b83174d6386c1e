// Package matrix has small dense matrices of floating-point numbers.
package matrix

import (
	"errors"
	"fmt"
	"strings"
)

// ErrShape is returned when the sizes of two matrices do not fit.
var ErrShape = errors.New("shapes do not match")

// Matrix is a table of numbers that is stored row by row.
type Matrix struct {
	rows int
	cols int
	data []float64
}

// New returns a matrix of zeros.
func New(rows, cols int) (*Matrix, error) {
	if rows <= 0 || cols <= 0 {
		return nil, fmt.Errorf("new matrix: invalid size %dx%d", rows, cols)
	}
	return &Matrix{rows: rows, cols: cols, data: make([]float64, rows*cols)}, nil
}

// FromRows returns a matrix with the given rows.
func FromRows(rows [][]float64) (*Matrix, error) {
	if len(rows) == 0 {
		return nil, errors.New("from rows: no rows")
	}
	m, err := New(len(rows), len(rows[0]))
	if err != nil {
		return nil, fmt.Errorf("from rows: %w", err)
	}
	for i, row := range rows {
		if len(row) != m.cols {
			return nil, fmt.Errorf("from rows: row %d has %d columns: %w", i, len(row), ErrShape)
		}
		copy(m.data[i*m.cols:], row)
	}
	return m, nil
}

// Identity returns a square matrix with ones on the diagonal.
func Identity(n int) (*Matrix, error) {
	m, err := New(n, n)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	for i := 0; i < n; i++ {
		m.Set(i, i, 1)
	}
	return m, nil
}

// Size returns the number of rows and columns.
func (m *Matrix) Size() (rows, cols int) {
	return m.rows, m.cols
}

// At returns the number in row i and column j.
func (m *Matrix) At(i, j int) float64 {
	return m.data[i*m.cols+j]
}

// Set stores a number in row i and column j.
func (m *Matrix) Set(i, j int, value float64) {
	m.data[i*m.cols+j] = value
}

// Row returns a copy of row i.
func (m *Matrix) Row(i int) []float64 {
	row := make([]float64, m.cols)
	copy(row, m.data[i*m.cols:(i+1)*m.cols])
	return row
}

// String returns the matrix with one line per row.
func (m *Matrix) String() string {
	var b strings.Builder
	for i := 0; i < m.rows; i++ {
		for j, v := range m.Row(i) {
			if j > 0 {
				b.WriteByte(' ')
			}
			fmt.Fprintf(&b, "%g", v)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
