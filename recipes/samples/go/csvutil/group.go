package csvutil

import (
	"fmt"
	"sort"
)

// Filter returns a table with the rows for which keep returns true.
// The row is passed as a map from column to value.
func (t *Table) Filter(keep func(row map[string]string) bool) *Table {
	result := &Table{Header: t.Header}
	for _, row := range t.Rows {
		if keep(t.named(row)) {
			result.Rows = append(result.Rows, row)
		}
	}
	return result
}

// named returns a row as a map from column to value.
func (t *Table) named(row []string) map[string]string {
	m := make(map[string]string, len(row))
	for i, name := range t.Header {
		if i < len(row) {
			m[name] = row[i]
		}
	}
	return m
}

// Select returns a table with only the given columns, in that order.
func (t *Table) Select(columns ...string) (*Table, error) {
	indexes := make([]int, len(columns))
	for i, column := range columns {
		index, err := t.index(column)
		if err != nil {
			return nil, fmt.Errorf("select: %w", err)
		}
		indexes[i] = index
	}
	result := &Table{Header: columns}
	for _, row := range t.Rows {
		values := make([]string, len(indexes))
		for i, index := range indexes {
			values[i] = row[index]
		}
		result.Rows = append(result.Rows, values)
	}
	return result, nil
}

// Group is the sum of a column for the rows with the same key.
type Group struct {
	Key   string
	Count int
	Sum   float64
}

// Mean returns the average value of the group.
func (g Group) Mean() float64 {
	if g.Count == 0 {
		return 0
	}
	return g.Sum / float64(g.Count)
}

// SumBy adds the numbers of one column for every value of another column.
func (t *Table) SumBy(key, value string) ([]Group, error) {
	keys, err := t.Column(key)
	if err != nil {
		return nil, fmt.Errorf("sum by key: %w", err)
	}
	numbers, err := t.Floats(value)
	if err != nil {
		return nil, fmt.Errorf("sum by value: %w", err)
	}
	byKey := make(map[string]*Group)
	for i, k := range keys {
		g, ok := byKey[k]
		if !ok {
			g = &Group{Key: k}
			byKey[k] = g
		}
		g.Count++
		g.Sum += numbers[i]
	}
	groups := make([]Group, 0, len(byKey))
	for _, g := range byKey {
		groups = append(groups, *g)
	}
	sort.Slice(groups, func(i, j int) bool { return groups[i].Key < groups[j].Key })
	return groups, nil
}
