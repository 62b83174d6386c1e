package bank

import (
	"errors"
	"reflect"
	"sync"
	"testing"
)

// newBank returns a bank in which ann has 100.00 and bob has 50.00.
func newBank(t *testing.T) *Bank {
	t.Helper()
	b := New()
	for id, amount := range map[string]Money{"ann": 10000, "bob": 5000} {
		if err := b.Open(id, "owner of "+id); err != nil {
			t.Fatal(err)
		}
		if err := b.Deposit(id, amount); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func TestTransfer(t *testing.T) {
	tests := []struct {
		name    string
		from    string
		to      string
		amount  Money
		ann     Money
		bob     Money
		wantErr error
	}{
		{name: "some", from: "ann", to: "bob", amount: 2500, ann: 7500, bob: 7500},
		{name: "all", from: "bob", to: "ann", amount: 5000, ann: 15000, bob: 0},
		{name: "to itself", from: "ann", to: "ann", amount: 100, ann: 10000, bob: 5000},
		{name: "too much", from: "bob", to: "ann", amount: 5001, ann: 10000, bob: 5000, wantErr: ErrFunds},
		{name: "zero", from: "ann", to: "bob", amount: 0, ann: 10000, bob: 5000, wantErr: ErrAmount},
		{name: "no source", from: "cat", to: "bob", amount: 1, ann: 10000, bob: 5000, wantErr: ErrNoAccount},
		{name: "no target", from: "ann", to: "cat", amount: 1, ann: 10000, bob: 5000, wantErr: ErrNoAccount},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBank(t)
			err := b.Transfer(tt.from, tt.to, tt.amount)
			if !errors.Is(err, tt.wantErr) {
				t.Errorf("Transfer() error = %v, want %v", err, tt.wantErr)
			}
			for id, want := range map[string]Money{"ann": tt.ann, "bob": tt.bob} {
				got, err := b.Balance(id)
				if err != nil {
					t.Fatalf("Balance() error = %v", err)
				}
				if got != want {
					t.Errorf("Balance(%q) = %s, want %s", id, got, want)
				}
			}
			if total := b.Total(); total != 15000 {
				t.Errorf("Total() = %s, want 150.00", total)
			}
		})
	}
}

func TestTransferConcurrent(t *testing.T) {
	b := newBank(t)
	var wg sync.WaitGroup
	for i := 0; i < 50; i++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := b.Transfer("ann", "bob", 100); err != nil {
				t.Errorf("Transfer() error = %v", err)
			}
		}()
	}
	wg.Wait()
	if got, want := b.Richest(), []string{"bob", "ann"}; !reflect.DeepEqual(got, want) {
		t.Errorf("Richest() = %v, want %v", got, want)
	}
	if got := len(b.Statement("bob")); got != 51 {
		t.Errorf("Statement() has %d entries, want 51", got)
	}
}

func TestOpenTwice(t *testing.T) {
	b := newBank(t)
	if err := b.Open("ann", "someone else"); !errors.Is(err, ErrExists) {
		t.Errorf("Open() error = %v, want %v", err, ErrExists)
	}
}

func TestMoneyString(t *testing.T) {
	tests := []struct {
		name  string
		money Money
		want  string
	}{
		{name: "zero", money: 0, want: "0.00"},
		{name: "cents", money: 7, want: "0.07"},
		{name: "large", money: 123456, want: "1234.56"},
		{name: "negative", money: -250, want: "-2.50"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.money.String(); got != tt.want {
				t.Errorf("String() = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestInterest(t *testing.T) {
	a := &Account{ID: "x", balance: 12345}
	got, err := a.Interest(200)
	if err != nil {
		t.Fatalf("Interest() error = %v", err)
	}
	if got != 246 {
		t.Errorf("Interest() = %s, want 2.46", got)
	}
	if _, err := a.Interest(-1); err == nil {
		t.Error("Interest(-1) error = nil, want an error")
	}
}
