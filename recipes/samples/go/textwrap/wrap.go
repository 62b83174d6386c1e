// Package textwrap formats text for a terminal.
package textwrap

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// wrap breaks text into lines of at most width letters.
// A word that is longer than width gets a line of its own.
func wrap(text string, width int) ([]string, error) {
	if width < 1 {
		return nil, fmt.Errorf("wrap: width %d is less than 1", width)
	}
	var lines []string
	var line strings.Builder
	length := 0
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		if length > 0 && length+1+n > width {
			lines = append(lines, line.String())
			line.Reset()
			length = 0
		}
		if length > 0 {
			line.WriteByte(' ')
			length++
		}
		line.WriteString(word)
		length += n
	}
	if length > 0 {
		lines = append(lines, line.String())
	}
	return lines, nil
}

// Fill wraps every paragraph of text. Paragraphs are separated by empty lines.
func Fill(text string, width int) (string, error) {
	var paragraphs []string
	for _, p := range strings.Split(text, "\n\n") {
		lines, err := wrap(p, width)
		if err != nil {
			return "", fmt.Errorf("fill: %w", err)
		}
		if len(lines) > 0 {
			paragraphs = append(paragraphs, strings.Join(lines, "\n"))
		}
	}
	return strings.Join(paragraphs, "\n\n"), nil
}

// Indent puts prefix before every line that is not empty.
func Indent(text, prefix string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.TrimSpace(line) != "" {
			lines[i] = prefix + line
		}
	}
	return strings.Join(lines, "\n")
}

// Dedent removes the leading space that all lines have in common.
func Dedent(text string) string {
	lines := strings.Split(text, "\n")
	common, first := "", true
	for _, line := range lines {
		body := strings.TrimLeft(line, " \t")
		if body == "" {
			continue
		}
		space := line[:len(line)-len(body)]
		if first {
			common, first = space, false
			continue
		}
		for !strings.HasPrefix(space, common) {
			common = common[:len(common)-1]
		}
	}
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, common)
	}
	return strings.Join(lines, "\n")
}

// Shorten cuts text after width letters and marks the cut with dots.
func Shorten(text string, width int) string {
	letters := []rune(text)
	if len(letters) <= width {
		return text
	}
	if width <= 3 {
		return strings.Repeat(".", width)
	}
	return strings.TrimRight(string(letters[:width-3]), " ") + "..."
}
