package textwrap

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Align says where text is placed in a column.
type Align int

// The places for text in a column.
const (
	Left Align = iota
	Right
	Center
)

// pad fills text with spaces up to width letters.
func pad(text string, width int, align Align) string {
	space := width - utf8.RuneCountInString(text)
	if space <= 0 {
		return text
	}
	switch align {
	case Right:
		return strings.Repeat(" ", space) + text
	case Center:
		left := space / 2
		return strings.Repeat(" ", left) + text + strings.Repeat(" ", space-left)
	default:
		return text + strings.Repeat(" ", space)
	}
}

// columnWidths returns the length of the longest cell of every column.
func columnWidths(rows [][]string) ([]int, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	widths := make([]int, len(rows[0]))
	for i, row := range rows {
		if len(row) != len(widths) {
			return nil, fmt.Errorf("row %d has %d cells, want %d", i, len(row), len(widths))
		}
		for j, cell := range row {
			if n := utf8.RuneCountInString(cell); n > widths[j] {
				widths[j] = n
			}
		}
	}
	return widths, nil
}

// Columns formats rows so that their cells line up.
// A missing alignment means left.
func Columns(rows [][]string, aligns ...Align) (string, error) {
	widths, err := columnWidths(rows)
	if err != nil {
		return "", fmt.Errorf("columns: %w", err)
	}
	var b strings.Builder
	for _, row := range rows {
		cells := make([]string, len(row))
		for j, cell := range row {
			align := Left
			if j < len(aligns) {
				align = aligns[j]
			}
			cells[j] = pad(cell, widths[j], align)
		}
		b.WriteString(strings.TrimRight(strings.Join(cells, "  "), " "))
		b.WriteByte('\n')
	}
	return b.String(), nil
}

// Underline returns a title with a line of the same length below it.
func Underline(title string, mark rune) string {
	n := utf8.RuneCountInString(title)
	return title + "\n" + strings.Repeat(string(mark), n)
}
