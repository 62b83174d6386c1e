package matrix

import "fmt"

// add returns the sum of two matrices of the same size.
func add(a, b *Matrix) (*Matrix, error) {
	if a.rows != b.rows || a.cols != b.cols {
		return nil, fmt.Errorf("add %dx%d and %dx%d: %w", a.rows, a.cols, b.rows, b.cols, ErrShape)
	}
	sum, err := New(a.rows, a.cols)
	if err != nil {
		return nil, fmt.Errorf("add: %w", err)
	}
	for i := range sum.data {
		sum.data[i] = a.data[i] + b.data[i]
	}
	return sum, nil
}

// multiply returns the product of two matrices.
func multiply(a, b *Matrix) (*Matrix, error) {
	if a.cols != b.rows {
		return nil, fmt.Errorf("multiply %dx%d by %dx%d: %w", a.rows, a.cols, b.rows, b.cols, ErrShape)
	}
	product, err := New(a.rows, b.cols)
	if err != nil {
		return nil, fmt.Errorf("multiply: %w", err)
	}
	for i := 0; i < a.rows; i++ {
		for j := 0; j < b.cols; j++ {
			sum := 0.0
			for k := 0; k < a.cols; k++ {
				sum += a.At(i, k) * b.At(k, j)
			}
			product.Set(i, j, sum)
		}
	}
	return product, nil
}

// Scale returns the matrix with every number multiplied by factor.
func (m *Matrix) Scale(factor float64) *Matrix {
	scaled := &Matrix{rows: m.rows, cols: m.cols, data: make([]float64, len(m.data))}
	for i, v := range m.data {
		scaled.data[i] = v * factor
	}
	return scaled
}

// Transpose returns the matrix with rows and columns exchanged.
func (m *Matrix) Transpose() *Matrix {
	t := &Matrix{rows: m.cols, cols: m.rows, data: make([]float64, len(m.data))}
	for i := 0; i < m.rows; i++ {
		for j := 0; j < m.cols; j++ {
			t.Set(j, i, m.At(i, j))
		}
	}
	return t
}

// Trace returns the sum of the numbers on the diagonal.
func (m *Matrix) Trace() (float64, error) {
	if m.rows != m.cols {
		return 0, fmt.Errorf("trace of %dx%d: %w", m.rows, m.cols, ErrShape)
	}
	sum := 0.0
	for i := 0; i < m.rows; i++ {
		sum += m.At(i, i)
	}
	return sum, nil
}

// Power multiplies a square matrix by itself n times.
func (m *Matrix) Power(n int) (*Matrix, error) {
	if n < 0 {
		return nil, fmt.Errorf("power: exponent %d is negative", n)
	}
	result, err := Identity(m.rows)
	if err != nil {
		return nil, fmt.Errorf("power: %w", err)
	}
	for i := 0; i < n; i++ {
		result, err = multiply(result, m)
		if err != nil {
			return nil, fmt.Errorf("power: %w", err)
		}
	}
	return result, nil
}
