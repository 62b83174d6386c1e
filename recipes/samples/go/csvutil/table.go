// Package csvutil reads and writes tables of comma-separated values.
package csvutil

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"sort"
	"strconv"
)

// ErrNoColumn is returned when a table does not have a column.
var ErrNoColumn = errors.New("no such column")

// Table is a header and the rows below it.
type Table struct {
	Header []string
	Rows   [][]string
}

// readTable reads a table whose first row is the header.
func readTable(r io.Reader) (*Table, error) {
	reader := csv.NewReader(r)
	reader.TrimLeadingSpace = true
	records, err := reader.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read table: %w", err)
	}
	if len(records) == 0 {
		return nil, errors.New("read table: no header")
	}
	return &Table{Header: records[0], Rows: records[1:]}, nil
}

// writeTable writes the header and the rows of a table.
func writeTable(w io.Writer, t *Table) error {
	writer := csv.NewWriter(w)
	if err := writer.Write(t.Header); err != nil {
		return fmt.Errorf("write header: %w", err)
	}
	for i, row := range t.Rows {
		if len(row) != len(t.Header) {
			return fmt.Errorf("write row %d: %d values for %d columns", i, len(row), len(t.Header))
		}
		if err := writer.Write(row); err != nil {
			return fmt.Errorf("write row %d: %w", i, err)
		}
	}
	writer.Flush()
	if err := writer.Error(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// index returns the position of a column.
func (t *Table) index(column string) (int, error) {
	for i, name := range t.Header {
		if name == column {
			return i, nil
		}
	}
	return 0, fmt.Errorf("column %q: %w", column, ErrNoColumn)
}

// Column returns the values of a column.
func (t *Table) Column(column string) ([]string, error) {
	i, err := t.index(column)
	if err != nil {
		return nil, err
	}
	values := make([]string, 0, len(t.Rows))
	for _, row := range t.Rows {
		values = append(values, row[i])
	}
	return values, nil
}

// Floats returns the values of a column as numbers.
func (t *Table) Floats(column string) ([]float64, error) {
	values, err := t.Column(column)
	if err != nil {
		return nil, err
	}
	numbers := make([]float64, len(values))
	for i, value := range values {
		numbers[i], err = strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("column %q, row %d: %w", column, i, err)
		}
	}
	return numbers, nil
}

// SortBy orders the rows by the text of a column.
func (t *Table) SortBy(column string) error {
	i, err := t.index(column)
	if err != nil {
		return fmt.Errorf("sort: %w", err)
	}
	sort.SliceStable(t.Rows, func(a, b int) bool {
		return t.Rows[a][i] < t.Rows[b][i]
	})
	return nil
}
