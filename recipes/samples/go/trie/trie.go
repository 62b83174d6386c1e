// Package trie stores words by their letters and finds them by prefix.
package trie

import "sort"

// node is one letter of the stored words.
type node struct {
	children map[rune]*node
	word     bool
}

// Trie is a set of words that can be searched by prefix.
type Trie struct {
	root *node
	size int
}

// New returns a trie with the given words.
func New(words ...string) *Trie {
	t := &Trie{root: newNode()}
	for _, word := range words {
		t.Insert(word)
	}
	return t
}

// newNode returns a node without children.
func newNode() *node {
	return &node{children: make(map[rune]*node)}
}

// Len returns the number of words.
func (t *Trie) Len() int {
	return t.size
}

// Insert adds a word and reports whether it is new.
func (t *Trie) Insert(word string) bool {
	n := t.root
	for _, r := range word {
		child, ok := n.children[r]
		if !ok {
			child = newNode()
			n.children[r] = child
		}
		n = child
	}
	if n.word {
		return false
	}
	n.word = true
	t.size++
	return true
}

// find returns the node for the last letter of prefix, or nil.
func (t *Trie) find(prefix string) *node {
	n := t.root
	for _, r := range prefix {
		n = n.children[r]
		if n == nil {
			return nil
		}
	}
	return n
}

// Has reports whether the word was inserted.
func (t *Trie) Has(word string) bool {
	n := t.find(word)
	return n != nil && n.word
}

// HasPrefix reports whether any word starts with prefix.
func (t *Trie) HasPrefix(prefix string) bool {
	return t.size > 0 && t.find(prefix) != nil
}

// Words returns the words that start with prefix in sorted order.
func (t *Trie) Words(prefix string) []string {
	n := t.find(prefix)
	if n == nil {
		return nil
	}
	var words []string
	n.collect(prefix, &words)
	return words
}

// collect appends the words below n to words.
func (n *node) collect(prefix string, words *[]string) {
	if n.word {
		*words = append(*words, prefix)
	}
	letters := make([]rune, 0, len(n.children))
	for r := range n.children {
		letters = append(letters, r)
	}
	sort.Slice(letters, func(i, j int) bool { return letters[i] < letters[j] })
	for _, r := range letters {
		n.children[r].collect(prefix+string(r), words)
	}
}
