package lexer

import (
	"errors"
	"fmt"
	"strconv"
)

// ErrDivision is returned when an expression divides by zero.
var ErrDivision = errors.New("division by zero")

// parser computes the value of the tokens while it reads them.
type parser struct {
	tokens []Token
	pos    int
	vars   map[string]float64
}

// Eval returns the value of an expression such as "2 * (x + 1)".
func Eval(input string, vars map[string]float64) (float64, error) {
	tokens, err := tokenize(input)
	if err != nil {
		return 0, fmt.Errorf("eval: %w", err)
	}
	p := &parser{tokens: tokens, vars: vars}
	value, err := p.sum()
	if err != nil {
		return 0, fmt.Errorf("eval %q: %w", input, err)
	}
	if tok := p.peek(); tok.Kind != End {
		return 0, fmt.Errorf("eval %q: position %d: unexpected %s", input, tok.Pos, tok.Kind)
	}
	return value, nil
}

// peek returns the next token without moving on.
func (p *parser) peek() Token {
	return p.tokens[p.pos]
}

// accept moves on if the next token is one of the given operators.
func (p *parser) accept(operators ...string) (string, bool) {
	tok := p.peek()
	if tok.Kind != Operator {
		return "", false
	}
	for _, op := range operators {
		if tok.Text == op {
			p.pos++
			return op, true
		}
	}
	return "", false
}

// sum parses products that are joined by plus and minus.
func (p *parser) sum() (float64, error) {
	value, err := p.product()
	if err != nil {
		return 0, err
	}
	for {
		op, ok := p.accept("+", "-")
		if !ok {
			return value, nil
		}
		right, err := p.product()
		if err != nil {
			return 0, err
		}
		if op == "-" {
			right = -right
		}
		value += right
	}
}

// product parses factors that are joined by star and slash.
func (p *parser) product() (float64, error) {
	value, err := p.factor()
	if err != nil {
		return 0, err
	}
	for {
		op, ok := p.accept("*", "/")
		if !ok {
			return value, nil
		}
		right, err := p.factor()
		if err != nil {
			return 0, err
		}
		if op == "*" {
			value *= right
			continue
		}
		if right == 0 {
			return 0, ErrDivision
		}
		value /= right
	}
}

// factor parses a number, a name, a negation or a group in brackets.
func (p *parser) factor() (float64, error) {
	if _, ok := p.accept("-"); ok {
		value, err := p.factor()
		return -value, err
	}
	tok := p.peek()
	p.pos++
	switch tok.Kind {
	case Number:
		value, err := strconv.ParseFloat(tok.Text, 64)
		if err != nil {
			return 0, fmt.Errorf("position %d: %w", tok.Pos, err)
		}
		return value, nil
	case Name:
		value, ok := p.vars[tok.Text]
		if !ok {
			return 0, fmt.Errorf("position %d: unknown name %q", tok.Pos, tok.Text)
		}
		return value, nil
	case Open:
		value, err := p.sum()
		if err != nil {
			return 0, err
		}
		if p.peek().Kind != Close {
			return 0, fmt.Errorf("position %d: bracket is not closed", tok.Pos)
		}
		p.pos++
		return value, nil
	default:
		return 0, fmt.Errorf("position %d: unexpected %s", tok.Pos, tok.Kind)
	}
}
