// Package lexer splits expressions into tokens and computes their value.
package lexer

import (
	"fmt"
	"unicode"
)

// Kind is the kind of a token.
type Kind int

// The kinds of tokens.
const (
	Number Kind = iota
	Name
	Operator
	Open
	Close
	End
)

// String returns the name of the kind.
func (k Kind) String() string {
	names := []string{"number", "name", "operator", "open", "close", "end"}
	if k < 0 || int(k) >= len(names) {
		return fmt.Sprintf("kind(%d)", int(k))
	}
	return names[k]
}

// Token is a piece of the input and where it starts.
type Token struct {
	Kind Kind
	Text string
	Pos  int
}

// lexer reads the input one letter at a time.
type lexer struct {
	input []rune
	pos   int
}

// tokenize returns the tokens of the input. The last one has the kind End.
func tokenize(input string) ([]Token, error) {
	l := &lexer{input: []rune(input)}
	var tokens []Token
	for {
		tok, err := l.next()
		if err != nil {
			return nil, fmt.Errorf("tokenize: %w", err)
		}
		tokens = append(tokens, tok)
		if tok.Kind == End {
			return tokens, nil
		}
	}
}

// next returns the token at the current position.
func (l *lexer) next() (Token, error) {
	l.takeWhile(unicode.IsSpace)
	start := l.pos
	if start == len(l.input) {
		return Token{Kind: End, Pos: start}, nil
	}
	switch r := l.input[start]; {
	case isDigit(r):
		return Token{Kind: Number, Text: l.takeWhile(isDigit), Pos: start}, nil
	case unicode.IsLetter(r):
		return Token{Kind: Name, Text: l.takeWhile(unicode.IsLetter), Pos: start}, nil
	case r == '(':
		l.pos++
		return Token{Kind: Open, Text: "(", Pos: start}, nil
	case r == ')':
		l.pos++
		return Token{Kind: Close, Text: ")", Pos: start}, nil
	case r == '+' || r == '-' || r == '*' || r == '/':
		l.pos++
		return Token{Kind: Operator, Text: string(r), Pos: start}, nil
	default:
		return Token{}, fmt.Errorf("position %d: unexpected %q", start, r)
	}
}

// takeWhile reads letters as long as ok returns true for them.
func (l *lexer) takeWhile(ok func(rune) bool) string {
	start := l.pos
	for l.pos < len(l.input) && ok(l.input[l.pos]) {
		l.pos++
	}
	return string(l.input[start:l.pos])
}

// isDigit reports whether r can be part of a number.
func isDigit(r rune) bool {
	return r == '.' || (r >= '0' && r <= '9')
}
