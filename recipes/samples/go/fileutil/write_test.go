package fileutil

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "file.txt")
	if err := writeFile(path, []byte("content")); err != nil {
		t.Fatalf("writeFile() error = %v", err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != "content" {
		t.Errorf("content = %q, want %q", got, "content")
	}
}

func TestReplace(t *testing.T) {
	tests := []struct {
		name string
		old  string
		data string
	}{
		{name: "shorter", old: "a long line", data: "short"},
		{name: "longer", old: "x", data: "a longer line"},
		{name: "empty", old: "x", data: ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "file.txt")
			if err := writeFile(path, []byte(tt.old)); err != nil {
				t.Fatal(err)
			}
			if err := Replace(path, []byte(tt.data)); err != nil {
				t.Fatalf("Replace() error = %v", err)
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.data {
				t.Errorf("content = %q, want %q", got, tt.data)
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(entries) != 1 {
				t.Errorf("folder has %d entries, want 1", len(entries))
			}
		})
	}
}

func TestAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.txt")
	for _, line := range []string{"one\n", "two\n", "three\n"} {
		if err := Append(path, []byte(line)); err != nil {
			t.Fatalf("Append(%q) error = %v", line, err)
		}
	}
	n, err := CountLines(path)
	if err != nil {
		t.Fatal(err)
	}
	if n != 3 {
		t.Errorf("CountLines() = %d, want 3", n)
	}
}

func TestCopyFile(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src.txt")
	dst := filepath.Join(dir, "dst.txt")
	if err := WriteLines(src, []string{"a", "b"}); err != nil {
		t.Fatal(err)
	}
	n, err := copyFile(dst, src)
	if err != nil {
		t.Fatalf("copyFile() error = %v", err)
	}
	if n != 4 {
		t.Errorf("copyFile() = %d, want 4", n)
	}
	if _, err := copyFile(dst, filepath.Join(dir, "missing")); err == nil {
		t.Error("copyFile() error = nil, want an error")
	}
}
