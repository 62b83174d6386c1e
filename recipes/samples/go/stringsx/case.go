// Package stringsx has helpers for names and short texts.
package stringsx

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// ErrNoWords is returned when a name has no letters or digits.
var ErrNoWords = errors.New("name has no words")

// splitWords splits a name at case changes and at other characters.
func splitWords(name string) []string {
	var words []string
	var word []rune
	flush := func() {
		if len(word) > 0 {
			words = append(words, strings.ToLower(string(word)))
			word = word[:0]
		}
	}
	lower := false
	for _, r := range name {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			flush()
			lower = false
			continue
		}
		if unicode.IsUpper(r) && lower {
			flush()
		}
		word = append(word, r)
		lower = !unicode.IsUpper(r)
	}
	flush()
	return words
}

// SnakeCase returns a name in the form "two_words".
func SnakeCase(name string) (string, error) {
	words := splitWords(name)
	if len(words) == 0 {
		return "", fmt.Errorf("snake case of %q: %w", name, ErrNoWords)
	}
	return strings.Join(words, "_"), nil
}

// CamelCase returns a name in the form "twoWords".
func CamelCase(name string) (string, error) {
	words := splitWords(name)
	if len(words) == 0 {
		return "", fmt.Errorf("camel case of %q: %w", name, ErrNoWords)
	}
	for i := 1; i < len(words); i++ {
		words[i] = capitalize(words[i])
	}
	return strings.Join(words, ""), nil
}

// capitalize returns the word with its first letter in upper case.
func capitalize(word string) string {
	letters := []rune(word)
	if len(letters) == 0 {
		return word
	}
	letters[0] = unicode.ToUpper(letters[0])
	return string(letters)
}

// Reverse returns the letters of text from the last to the first.
func Reverse(text string) string {
	letters := []rune(text)
	for i, j := 0, len(letters)-1; i < j; i, j = i+1, j-1 {
		letters[i], letters[j] = letters[j], letters[i]
	}
	return string(letters)
}

// IsPalindrome reports whether text reads the same in both directions.
// Only letters and digits count.
func IsPalindrome(text string) bool {
	plain := strings.Join(splitWords(strings.ToLower(text)), "")
	return plain == Reverse(plain)
}
