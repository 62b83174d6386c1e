package fileutil

import (
	"path/filepath"
	"reflect"
	"testing"
)

// makeTree creates files below a temporary folder and returns the folder.
func makeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := writeFile(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestFind(t *testing.T) {
	root := makeTree(t, map[string]string{
		"main.go":       "package main",
		"docs/index.md": "# Index",
		"lib/lib.go":    "package lib",
		".cache/old.go": "package old",
	})
	tests := []struct {
		name string
		ext  string
		want []string
	}{
		{name: "go files", ext: ".go", want: []string{"lib/lib.go", "main.go"}},
		{name: "markdown", ext: ".md", want: []string{"docs/index.md"}},
		{name: "nothing", ext: ".py", want: nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			entries, err := Find(root, tt.ext)
			if err != nil {
				t.Fatalf("Find() error = %v", err)
			}
			var got []string
			for _, e := range entries {
				rel, err := filepath.Rel(root, e.Path)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, filepath.ToSlash(rel))
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Find() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestTotalSize(t *testing.T) {
	root := makeTree(t, map[string]string{"a": "123", "b/c": "45"})
	got, err := TotalSize(root)
	if err != nil {
		t.Fatalf("TotalSize() error = %v", err)
	}
	if got != 5 {
		t.Errorf("TotalSize() = %d, want 5", got)
	}
	if _, err := TotalSize(filepath.Join(root, "missing")); err == nil {
		t.Error("TotalSize() error = nil, want an error")
	}
}

func TestLargest(t *testing.T) {
	root := makeTree(t, map[string]string{"a": "1", "b": "333", "c": "22"})
	got, err := Largest(root, 2)
	if err != nil {
		t.Fatalf("Largest() error = %v", err)
	}
	if len(got) != 2 || got[0].Size != 3 || got[1].Size != 2 {
		t.Errorf("Largest() = %v, want sizes 3 and 2", got)
	}
}

func TestByExtension(t *testing.T) {
	root := makeTree(t, map[string]string{"a.go": "", "b.go": "", "c.md": ""})
	got, err := ByExtension(root)
	if err != nil {
		t.Fatalf("ByExtension() error = %v", err)
	}
	want := map[string]int{".go": 2, ".md": 1}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("ByExtension() = %v, want %v", got, want)
	}
}
