package stringsx

import (
	"errors"
	"testing"
)

func TestCases(t *testing.T) {
	tests := []struct {
		name    string
		text    string
		snake   string
		camel   string
		wantErr error
	}{
		{name: "one word", text: "Name", snake: "name", camel: "name"},
		{name: "camel", text: "readFile", snake: "read_file", camel: "readFile"},
		{name: "snake", text: "max_open_files", snake: "max_open_files", camel: "maxOpenFiles"},
		{name: "spaces", text: " two  words ", snake: "two_words", camel: "twoWords"},
		{name: "digits", text: "http2Server", snake: "http2_server", camel: "http2Server"},
		{name: "upper case", text: "userID", snake: "user_id", camel: "userId"},
		{name: "no words", text: "--", wantErr: ErrNoWords},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			snake, err := SnakeCase(tt.text)
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("SnakeCase() error = %v, want %v", err, tt.wantErr)
			}
			if snake != tt.snake {
				t.Errorf("SnakeCase() = %q, want %q", snake, tt.snake)
			}
			camel, err := CamelCase(tt.text)
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("CamelCase() error = %v, want %v", err, tt.wantErr)
			}
			if camel != tt.camel {
				t.Errorf("CamelCase() = %q, want %q", camel, tt.camel)
			}
		})
	}
}

func TestIsPalindrome(t *testing.T) {
	tests := []struct {
		name string
		text string
		want bool
	}{
		{name: "word", text: "level", want: true},
		{name: "sentence", text: "Was it a car or a cat I saw?", want: true},
		{name: "other", text: "hello", want: false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := IsPalindrome(tt.text); got != tt.want {
				t.Errorf("IsPalindrome() = %t, want %t", got, tt.want)
			}
		})
	}
}
