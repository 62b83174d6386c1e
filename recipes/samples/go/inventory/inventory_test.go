package inventory

import (
	"errors"
	"testing"
)

// newStock returns a stock with ten pens and three books.
func newStock(t *testing.T) *Stock {
	t.Helper()
	s := NewStock()
	if err := s.Add("P1", "pen", 150, 10); err != nil {
		t.Fatal(err)
	}
	if err := s.Add("B1", "book", 2000, 3); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReserve(t *testing.T) {
	tests := []struct {
		name    string
		lines   []Line
		pens    int
		wantErr error
	}{
		{name: "one line", lines: []Line{{"P1", 4}}, pens: 6},
		{name: "two lines", lines: []Line{{"P1", 1}, {"B1", 3}}, pens: 9},
		{name: "same item twice", lines: []Line{{"P1", 6}, {"P1", 4}}, pens: 0},
		{name: "too many", lines: []Line{{"P1", 1}, {"B1", 4}}, pens: 10, wantErr: ErrNotEnough},
		{name: "too many together", lines: []Line{{"P1", 6}, {"P1", 5}}, pens: 10, wantErr: ErrNotEnough},
		{name: "unknown", lines: []Line{{"X9", 1}}, pens: 10, wantErr: ErrUnknown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStock(t)
			err := s.Reserve(Order{ID: "1", Lines: tt.lines})
			if !errors.Is(err, tt.wantErr) {
				t.Errorf("Reserve() error = %v, want %v", err, tt.wantErr)
			}
			pens, err := s.Get("P1")
			if err != nil {
				t.Fatalf("Get() error = %v", err)
			}
			if pens.Available() != tt.pens {
				t.Errorf("Available() = %d, want %d", pens.Available(), tt.pens)
			}
		})
	}
}

func TestShip(t *testing.T) {
	s := newStock(t)
	order := Order{ID: "7", Lines: []Line{{"P1", 2}, {"B1", 1}}}
	if err := s.Ship(order); err == nil {
		t.Error("Ship() error = nil, want an error before Reserve")
	}
	if err := s.Reserve(order); err != nil {
		t.Fatalf("Reserve() error = %v", err)
	}
	if err := s.Ship(order); err != nil {
		t.Fatalf("Ship() error = %v", err)
	}
	if got, want := s.Value(), 8*150+2*2000; got != want {
		t.Errorf("Value() = %d, want %d", got, want)
	}
}

func TestLowAndPrice(t *testing.T) {
	s := newStock(t)
	low := s.Low(5)
	if len(low) != 1 || low[0].Name != "book" {
		t.Errorf("Low() = %v, want the book", low)
	}
	price, err := s.Price(Order{Lines: []Line{{"P1", 2}, {"B1", 1}}})
	if err != nil {
		t.Fatalf("Price() error = %v", err)
	}
	if price != 2300 {
		t.Errorf("Price() = %d, want 2300", price)
	}
	if err := s.Add("", "nothing", 1, 1); err == nil {
		t.Error("Add() error = nil, want an error")
	}
}
