package jsonutil

import (
	"errors"
	"reflect"
	"testing"
)

const sample = `{
	"title": "report",
	"users": [
		{"name": "ann", "admin": true},
		{"name": "bob", "admin": false}
	],
	"size": {"width": 3, "height": 4}
}`

func TestLookup(t *testing.T) {
	tests := []struct {
		name    string
		path    string
		want    interface{}
		wantErr error
	}{
		{name: "top level", path: "title", want: "report"},
		{name: "nested", path: "size.width", want: 3.0},
		{name: "array", path: "users.1.name", want: "bob"},
		{name: "bool", path: "users.0.admin", want: true},
		{name: "missing key", path: "size.depth", wantErr: ErrNotFound},
		{name: "missing index", path: "users.2", wantErr: ErrNotFound},
		{name: "through a leaf", path: "title.x", wantErr: ErrNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Lookup([]byte(sample), tt.path)
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("Lookup() error = %v, want %v", err, tt.wantErr)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Lookup() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestLookupString(t *testing.T) {
	got, err := LookupString([]byte(sample), "users.0.name")
	if err != nil {
		t.Fatalf("LookupString() error = %v", err)
	}
	if got != "ann" {
		t.Errorf("LookupString() = %q, want %q", got, "ann")
	}
	if _, err := LookupString([]byte(sample), "size"); err == nil {
		t.Error("LookupString() error = nil, want an error")
	}
}

func TestFlatten(t *testing.T) {
	got, err := Flatten([]byte(`{"a": {"b": 1}, "c": ["x", "y"]}`))
	if err != nil {
		t.Fatalf("Flatten() error = %v", err)
	}
	want := map[string]interface{}{"a.b": 1.0, "c.0": "x", "c.1": "y"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Flatten() = %v, want %v", got, want)
	}
}

func TestKeys(t *testing.T) {
	got, err := Keys([]byte(sample))
	if err != nil {
		t.Fatalf("Keys() error = %v", err)
	}
	want := []string{"size", "title", "users"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Keys() = %v, want %v", got, want)
	}
}
