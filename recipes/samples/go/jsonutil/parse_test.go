package jsonutil

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

type user struct {
	Name string `json:"name"`
	Age  int    `json:"age"`
}

func TestParseJSON(t *testing.T) {
	tests := []struct {
		name    string
		data    string
		want    user
		wantErr string
	}{
		{name: "valid", data: `{"name": "ann", "age": 30}`, want: user{Name: "ann", Age: 30}},
		{name: "missing field", data: `{"name": "bob"}`, want: user{Name: "bob"}},
		{name: "unknown field", data: `{"name": "cat", "x": 1}`, want: user{Name: "cat"}},
		{name: "empty", data: "  \n", wantErr: "no data"},
		{name: "syntax", data: "{\n\"name\": }", wantErr: "line 2"},
		{name: "wrong type", data: `{"age": "old"}`, wantErr: `field "age"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got user
			err := parseJSON([]byte(tt.data), &got)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("parseJSON() error = %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatalf("parseJSON() error = %v", err)
			}
			if got != tt.want {
				t.Errorf("parseJSON() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestParseStrict(t *testing.T) {
	var got user
	if err := parseStrict([]byte(`{"name": "ann"}`), &got); err != nil {
		t.Fatalf("parseStrict() error = %v", err)
	}
	if err := parseStrict([]byte(`{"nickname": "ann"}`), &got); err == nil {
		t.Error("parseStrict() error = nil, want an unknown field error")
	}
	err := parseStrict([]byte(`{"name": "ann"} {}`), &got)
	if !errors.Is(err, ErrTrailing) {
		t.Errorf("parseStrict() error = %v, want %v", err, ErrTrailing)
	}
}

func TestPosition(t *testing.T) {
	tests := []struct {
		name   string
		data   string
		offset int64
		line   int
		col    int
	}{
		{name: "start", data: "abc", offset: 0, line: 1, col: 1},
		{name: "first line", data: "abc", offset: 2, line: 1, col: 2},
		{name: "second line", data: "a\nbcd", offset: 4, line: 2, col: 2},
		{name: "past the end", data: "a\n", offset: 9, line: 2, col: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			line, col := position([]byte(tt.data), tt.offset)
			if line != tt.line || col != tt.col {
				t.Errorf("position() = %d, %d, want %d, %d", line, col, tt.line, tt.col)
			}
		})
	}
}

func TestSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "user.json")
	want := user{Name: "ann", Age: 30}
	if err := SaveFile(path, want); err != nil {
		t.Fatalf("SaveFile() error = %v", err)
	}
	var got user
	if err := LoadFile(path, &got); err != nil {
		t.Fatalf("LoadFile() error = %v", err)
	}
	if got != want {
		t.Errorf("LoadFile() = %v, want %v", got, want)
	}
}
