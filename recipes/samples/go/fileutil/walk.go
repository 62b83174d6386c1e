package fileutil

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"sort"
	"strings"
)

// Entry describes one file found by a walk.
type Entry struct {
	Path string
	Size int64
}

// walkFiles calls fn for every regular file below root.
// It skips hidden folders, whose names start with a dot.
func walkFiles(root string, fn func(Entry) error) error {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != root && strings.HasPrefix(d.Name(), ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return fn(Entry{Path: path, Size: info.Size()})
	})
	if err != nil {
		return fmt.Errorf("walk %s: %w", root, err)
	}
	return nil
}

// Find returns the files below root whose names end with ext, sorted by path.
func Find(root, ext string) ([]Entry, error) {
	var found []Entry
	err := walkFiles(root, func(e Entry) error {
		if strings.HasSuffix(e.Path, ext) {
			found = append(found, e)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find: %w", err)
	}
	sort.Slice(found, func(i, j int) bool {
		return found[i].Path < found[j].Path
	})
	return found, nil
}

// TotalSize returns the sum of the sizes of all files below root.
func TotalSize(root string) (int64, error) {
	var total int64
	err := walkFiles(root, func(e Entry) error {
		total += e.Size
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("total size: %w", err)
	}
	return total, nil
}

// Largest returns at most n files below root, the largest first.
func Largest(root string, n int) ([]Entry, error) {
	entries, err := Find(root, "")
	if err != nil {
		return nil, fmt.Errorf("largest: %w", err)
	}
	sort.SliceStable(entries, func(i, j int) bool {
		return entries[i].Size > entries[j].Size
	})
	if len(entries) > n {
		entries = entries[:n]
	}
	return entries, nil
}

// ByExtension counts the files below root by their extension.
func ByExtension(root string) (map[string]int, error) {
	counts := make(map[string]int)
	err := walkFiles(root, func(e Entry) error {
		counts[filepath.Ext(e.Path)]++
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("by extension: %w", err)
	}
	return counts, nil
}
