package trie

import (
	"reflect"
	"strings"
	"testing"
)

func TestWords(t *testing.T) {
	tr := New("car", "card", "care", "cat", "dog", "über")
	tests := []struct {
		name   string
		prefix string
		want   []string
	}{
		{name: "several", prefix: "car", want: []string{"car", "card", "care"}},
		{name: "one", prefix: "d", want: []string{"dog"}},
		{name: "not ascii", prefix: "ü", want: []string{"über"}},
		{name: "none", prefix: "x", want: nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tr.Words(tt.prefix); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Words() = %v, want %v", got, tt.want)
			}
			if got := tr.HasPrefix(tt.prefix); got != (tt.want != nil) {
				t.Errorf("HasPrefix() = %t, want %t", got, tt.want != nil)
			}
		})
	}
}

func TestInsertDelete(t *testing.T) {
	tr := New("go", "gopher")
	if tr.Insert("go") {
		t.Error("Insert(go) = true, want false")
	}
	if !tr.Delete("gopher") {
		t.Error("Delete(gopher) = false, want true")
	}
	if tr.Delete("gop") {
		t.Error("Delete(gop) = true, want false")
	}
	if !tr.Has("go") || tr.Has("gopher") || tr.HasPrefix("gop") {
		t.Errorf("words = %v, want only go", tr.Words(""))
	}
	if tr.Len() != 1 {
		t.Errorf("Len() = %d, want 1", tr.Len())
	}
}

func TestLongestPrefix(t *testing.T) {
	tr := New("a", "app", "apple", "é")
	tests := []struct {
		name  string
		text  string
		want  string
		found bool
	}{
		{name: "whole text", text: "apple", want: "apple", found: true},
		{name: "part", text: "applying", want: "app", found: true},
		{name: "one letter", text: "arm", want: "a", found: true},
		{name: "two bytes", text: "été", want: "é", found: true},
		{name: "nothing", text: "box", want: "", found: false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, found := tr.LongestPrefix(tt.text)
			if got != tt.want || found != tt.found {
				t.Errorf("LongestPrefix() = %q, %t, want %q, %t", got, found, tt.want, tt.found)
			}
		})
	}
}

func TestMatch(t *testing.T) {
	tr := New("bat", "cat", "cot", "coat")
	tests := []struct {
		name    string
		pattern string
		want    []string
	}{
		{name: "no wildcard", pattern: "cat", want: []string{"cat"}},
		{name: "first letter", pattern: "?at", want: []string{"bat", "cat"}},
		{name: "two letters", pattern: "c?t", want: []string{"cat", "cot"}},
		{name: "all letters", pattern: "????", want: []string{"coat"}},
		{name: "no match", pattern: "?", want: nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tr.Match(tt.pattern); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Match() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	tr := New("one")
	added, err := tr.Load(strings.NewReader("one\ntwo\n\n three \n"))
	if err != nil {
		t.Fatalf("Load() error = %v", err)
	}
	if added != 2 {
		t.Errorf("Load() = %d, want 2", added)
	}
}
