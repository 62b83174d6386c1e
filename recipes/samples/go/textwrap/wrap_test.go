package textwrap

import (
	"reflect"
	"testing"
)

func TestWrap(t *testing.T) {
	tests := []struct {
		name  string
		text  string
		width int
		want  []string
	}{
		{name: "empty", text: "", width: 10, want: nil},
		{name: "one line", text: "a b c", width: 10, want: []string{"a b c"}},
		{name: "exact", text: "aaa bbb", width: 7, want: []string{"aaa bbb"}},
		{name: "two lines", text: "aaa bbb", width: 6, want: []string{"aaa", "bbb"}},
		{name: "long word", text: "a bbbbbbb c", width: 3, want: []string{"a", "bbbbbbb", "c"}},
		{name: "not ascii", text: "äö üß", width: 5, want: []string{"äö üß"}},
		{name: "extra space", text: "  a \n b  ", width: 5, want: []string{"a b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := wrap(tt.text, tt.width)
			if err != nil {
				t.Fatalf("wrap() error = %v", err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("wrap() = %q, want %q", got, tt.want)
			}
		})
	}
	if _, err := wrap("a", 0); err == nil {
		t.Error("wrap() error = nil, want an error")
	}
}

func TestFill(t *testing.T) {
	got, err := Fill("one two\nthree\n\nfour five", 8)
	if err != nil {
		t.Fatalf("Fill() error = %v", err)
	}
	if want := "one two\nthree\n\nfour\nfive"; got != want {
		t.Errorf("Fill() = %q, want %q", got, want)
	}
}

func TestIndentDedent(t *testing.T) {
	tests := []struct {
		name string
		text string
		want string
	}{
		{name: "same space", text: "  a\n  b", want: "a\nb"},
		{name: "deeper line", text: "  a\n    b", want: "a\n  b"},
		{name: "empty line", text: "  a\n\n  b", want: "a\n\nb"},
		{name: "no space", text: "a\n  b", want: "a\n  b"},
		{name: "mixed space", text: "\ta\n  b", want: "\ta\n  b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Dedent(tt.text)
			if got != tt.want {
				t.Errorf("Dedent() = %q, want %q", got, tt.want)
			}
		})
	}
	if got, want := Indent("a\n\nb", "> "), "> a\n\n> b"; got != want {
		t.Errorf("Indent() = %q, want %q", got, want)
	}
}

func TestShorten(t *testing.T) {
	tests := []struct {
		name  string
		text  string
		width int
		want  string
	}{
		{name: "fits", text: "hello", width: 5, want: "hello"},
		{name: "cut", text: "hello world", width: 8, want: "hello..."},
		{name: "cut at a space", text: "hello world", width: 9, want: "hello..."},
		{name: "very short", text: "hello", width: 2, want: ".."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Shorten(tt.text, tt.width); got != tt.want {
				t.Errorf("Shorten() = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestColumns(t *testing.T) {
	rows := [][]string{{"name", "size"}, {"a.txt", "7"}, {"b", "1024"}}
	got, err := Columns(rows, Left, Right)
	if err != nil {
		t.Fatalf("Columns() error = %v", err)
	}
	want := "name   size\na.txt     7\nb      1024\n"
	if got != want {
		t.Errorf("Columns() = %q, want %q", got, want)
	}
	if _, err := Columns([][]string{{"a"}, {"b", "c"}}); err == nil {
		t.Error("Columns() error = nil, want an error")
	}
	if got := pad("ab", 5, Center); got != " ab  " {
		t.Errorf("pad() = %q, want %q", got, " ab  ")
	}
	if got := Underline("Title", '='); got != "Title\n=====" {
		t.Errorf("Underline() = %q", got)
	}
}
