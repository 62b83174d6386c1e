package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const sample = `
# settings of the server
name = demo
debug = yes

[server]
port = 8080
timeout = 1m30s
motto = "fast = good"
hosts = a.example, b.example,
`

func TestParse(t *testing.T) {
	c, err := Parse(strings.NewReader(sample))
	if err != nil {
		t.Fatalf("Parse() error = %v", err)
	}
	want := []string{"debug", "name", "server.hosts", "server.motto", "server.port", "server.timeout"}
	if got := c.Keys(); !reflect.DeepEqual(got, want) {
		t.Errorf("Keys() = %v, want %v", got, want)
	}
	if got := c.StringOr("server.motto", ""); got != "fast = good" {
		t.Errorf("StringOr() = %q", got)
	}
	if err := c.Require("name", "color", "size"); !errors.Is(err, ErrMissing) {
		t.Errorf("Require() error = %v, want %v", err, ErrMissing)
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct {
		name string
		text string
		want string
	}{
		{name: "no equals sign", text: "a = 1\nb", want: "line 2"},
		{name: "no key", text: "= 1", want: "key is empty"},
		{name: "set twice", text: "a = 1\na = 2", want: "set twice"},
		{name: "open quote", text: `a = "x`, want: `value of "a"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(strings.NewReader(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Parse() error = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestGet(t *testing.T) {
	c, err := Parse(strings.NewReader(sample))
	if err != nil {
		t.Fatalf("Parse() error = %v", err)
	}
	if got, err := c.Int("server.port"); err != nil || got != 8080 {
		t.Errorf("Int() = %d, %v, want 8080", got, err)
	}
	if got, err := c.Bool("debug"); err != nil || !got {
		t.Errorf("Bool() = %t, %v, want true", got, err)
	}
	if got, err := c.Duration("server.timeout"); err != nil || got != 90*time.Second {
		t.Errorf("Duration() = %s, %v, want 1m30s", got, err)
	}
	hosts, err := c.List("server.hosts")
	if err != nil {
		t.Fatalf("List() error = %v", err)
	}
	if want := []string{"a.example", "b.example"}; !reflect.DeepEqual(hosts, want) {
		t.Errorf("List() = %v, want %v", hosts, want)
	}
	if _, err := c.Int("name"); err == nil {
		t.Error("Int(name) error = nil, want an error")
	}
	if _, err := c.Bool("missing"); !errors.Is(err, ErrMissing) {
		t.Errorf("Bool() error = %v, want %v", err, ErrMissing)
	}
}

func TestLoadAndMerge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.conf")
	if err := os.WriteFile(path, []byte("name = other\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	base, err := Parse(strings.NewReader(sample))
	if err != nil {
		t.Fatalf("Parse() error = %v", err)
	}
	over, err := Load(path)
	if err != nil {
		t.Fatalf("Load() error = %v", err)
	}
	base.Merge(over)
	if got := base.StringOr("name", ""); got != "other" {
		t.Errorf("name = %q, want %q", got, "other")
	}
}
