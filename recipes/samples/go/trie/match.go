package trie

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// Delete removes a word and reports whether it was in the trie.
// Nodes that no other word needs are removed too.
func (t *Trie) Delete(word string) bool {
	if !t.Has(word) {
		return false
	}
	letters := []rune(word)
	path := []*node{t.root}
	for _, r := range letters {
		path = append(path, path[len(path)-1].children[r])
	}
	path[len(letters)].word = false
	for i := len(letters); i > 0; i-- {
		n := path[i]
		if n.word || len(n.children) > 0 {
			break
		}
		delete(path[i-1].children, letters[i-1])
	}
	t.size--
	return true
}

// LongestPrefix returns the longest word that text starts with.
func (t *Trie) LongestPrefix(text string) (string, bool) {
	n := t.root
	end, found := 0, n.word
	for i, r := range text {
		n = n.children[r]
		if n == nil {
			break
		}
		if n.word {
			end, found = i+len(string(r)), true
		}
	}
	return text[:end], found
}

// Match returns the words that fit a pattern in which '?' is any letter.
func (t *Trie) Match(pattern string) []string {
	var words []string
	t.root.match([]rune(pattern), "", &words)
	return New(words...).Words("")
}

// match appends the words below n that fit the rest of the pattern.
func (n *node) match(rest []rune, prefix string, words *[]string) {
	if len(rest) == 0 {
		if n.word {
			*words = append(*words, prefix)
		}
		return
	}
	if rest[0] != '?' {
		if child := n.children[rest[0]]; child != nil {
			child.match(rest[1:], prefix+string(rest[0]), words)
		}
		return
	}
	for r, child := range n.children {
		child.match(rest[1:], prefix+string(r), words)
	}
}

// Load adds one word per line from r and returns the number of new words.
// Empty lines are skipped.
func (t *Trie) Load(r io.Reader) (int, error) {
	added := 0
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		word := strings.TrimSpace(scanner.Text())
		if word != "" && t.Insert(word) {
			added++
		}
	}
	if err := scanner.Err(); err != nil {
		return added, fmt.Errorf("load words: %w", err)
	}
	return added, nil
}
