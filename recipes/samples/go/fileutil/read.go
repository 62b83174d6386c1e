// Package fileutil has small helpers for reading, writing and walking files.
package fileutil

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// ErrEmpty is returned when a file has no content.
var ErrEmpty = errors.New("file is empty")

// maxSize is the largest file that ReadAll accepts, in bytes.
const maxSize = 16 << 20

// readFile opens the file at path and checks that it can be read.
func readFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read file: %w", err)
	}
	defer f.Close()

	buf := make([]byte, 4096)
	total := 0
	for {
		n, err := f.Read(buf)
		total += n
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read file %s: %w", path, err)
		}
	}
	if total == 0 {
		return fmt.Errorf("read file %s: %w", path, ErrEmpty)
	}
	return nil
}

// Check returns nil if every path can be read and is not empty.
func Check(paths ...string) error {
	for _, path := range paths {
		if err := readFile(path); err != nil {
			return fmt.Errorf("check: %w", err)
		}
	}
	return nil
}

// ReadAll returns the content of the file at path.
// It refuses files that are larger than 16 MiB.
func ReadAll(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("stat: %w", err)
	}
	if info.IsDir() {
		return nil, fmt.Errorf("read %s: is a directory", path)
	}
	if info.Size() > maxSize {
		return nil, fmt.Errorf("read %s: %d bytes is too large", path, info.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return data, nil
}

// readLines returns the lines of the file at path without line endings.
func readLines(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read lines: %w", err)
	}
	defer f.Close()

	var lines []string
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		lines = append(lines, strings.TrimRight(scanner.Text(), "\r"))
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("scan %s: %w", path, err)
	}
	return lines, nil
}

// CountLines returns the number of lines in the file at path.
func CountLines(path string) (int, error) {
	lines, err := readLines(path)
	if err != nil {
		return 0, fmt.Errorf("count lines: %w", err)
	}
	return len(lines), nil
}

// Head returns at most n lines from the start of the file at path.
func Head(path string, n int) ([]string, error) {
	lines, err := readLines(path)
	if err != nil {
		return nil, fmt.Errorf("head: %w", err)
	}
	if len(lines) > n {
		lines = lines[:n]
	}
	return lines, nil
}
