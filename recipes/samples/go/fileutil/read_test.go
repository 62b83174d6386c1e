package fileutil

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestReadFile(t *testing.T) {
	tests := []struct {
		name    string
		content string
		wantErr error
	}{
		{name: "one line", content: "hello\n"},
		{name: "no newline", content: "hello"},
		{name: "empty", content: "", wantErr: ErrEmpty},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file.txt")
			if err := os.WriteFile(path, []byte(tt.content), 0o644); err != nil {
				t.Fatal(err)
			}
			err := readFile(path)
			if !errors.Is(err, tt.wantErr) {
				t.Errorf("readFile() error = %v, want %v", err, tt.wantErr)
			}
		})
	}
}

func TestReadFileMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing.txt")
	if err := readFile(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("readFile() error = %v, want %v", err, os.ErrNotExist)
	}
	if err := Check(path); err == nil {
		t.Error("Check() error = nil, want an error")
	}
}

func TestReadAll(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "data.txt")
	if err := os.WriteFile(path, []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := ReadAll(path)
	if err != nil {
		t.Fatalf("ReadAll() error = %v", err)
	}
	if string(got) != "abc" {
		t.Errorf("ReadAll() = %q, want %q", got, "abc")
	}
	if _, err := ReadAll(dir); err == nil {
		t.Error("ReadAll(dir) error = nil, want an error")
	}
}

func TestHead(t *testing.T) {
	tests := []struct {
		name    string
		content string
		n       int
		want    []string
		lines   int
	}{
		{name: "fewer lines", content: "a\nb\n", n: 5, want: []string{"a", "b"}, lines: 2},
		{name: "more lines", content: "a\nb\nc\n", n: 2, want: []string{"a", "b"}, lines: 3},
		{name: "windows endings", content: "a\r\nb\r\n", n: 2, want: []string{"a", "b"}, lines: 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "lines.txt")
			if err := os.WriteFile(path, []byte(tt.content), 0o644); err != nil {
				t.Fatal(err)
			}
			got, err := Head(path, tt.n)
			if err != nil {
				t.Fatalf("Head() error = %v", err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Head() = %v, want %v", got, tt.want)
			}
			lines, err := CountLines(path)
			if err != nil {
				t.Fatalf("CountLines() error = %v", err)
			}
			if lines != tt.lines {
				t.Errorf("CountLines() = %d, want %d", lines, tt.lines)
			}
		})
	}
}
