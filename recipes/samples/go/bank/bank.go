package bank

import (
	"fmt"
	"sort"
	"sync"
)

// Entry is one line in the history of a bank.
type Entry struct {
	Kind   string
	From   string
	To     string
	Amount Money
}

// Bank holds accounts and the history of their changes.
type Bank struct {
	mu       sync.Mutex
	accounts map[string]*Account
	history  []Entry
}

// New returns a bank without accounts.
func New() *Bank {
	return &Bank{accounts: make(map[string]*Account)}
}

// Open adds an account for an owner.
func (b *Bank) Open(id, owner string) error {
	b.mu.Lock()
	defer b.mu.Unlock()

	if _, ok := b.accounts[id]; ok {
		return fmt.Errorf("open %q: %w", id, ErrExists)
	}
	b.accounts[id] = &Account{ID: id, Owner: owner}
	return nil
}

// find returns the account with the given id. The caller holds the lock.
func (b *Bank) find(id string) (*Account, error) {
	a, ok := b.accounts[id]
	if !ok {
		return nil, fmt.Errorf("account %q: %w", id, ErrNoAccount)
	}
	return a, nil
}

// Deposit adds money to an account.
func (b *Bank) Deposit(id string, amount Money) error {
	b.mu.Lock()
	defer b.mu.Unlock()

	a, err := b.find(id)
	if err != nil {
		return fmt.Errorf("deposit: %w", err)
	}
	if err := a.deposit(amount); err != nil {
		return err
	}
	b.history = append(b.history, Entry{Kind: "deposit", To: id, Amount: amount})
	return nil
}

// Transfer moves money from one account to another.
// Nothing changes if it returns an error.
func (b *Bank) Transfer(from, to string, amount Money) error {
	b.mu.Lock()
	defer b.mu.Unlock()

	source, err := b.find(from)
	if err != nil {
		return fmt.Errorf("transfer from: %w", err)
	}
	target, err := b.find(to)
	if err != nil {
		return fmt.Errorf("transfer to: %w", err)
	}
	if err := source.withdraw(amount); err != nil {
		return fmt.Errorf("transfer from %q: %w", from, err)
	}
	if err := target.deposit(amount); err != nil {
		source.balance += amount
		return fmt.Errorf("transfer to %q: %w", to, err)
	}
	b.history = append(b.history, Entry{Kind: "transfer", From: from, To: to, Amount: amount})
	return nil
}

// Balance returns the money in an account.
func (b *Bank) Balance(id string) (Money, error) {
	b.mu.Lock()
	defer b.mu.Unlock()

	a, err := b.find(id)
	if err != nil {
		return 0, fmt.Errorf("balance: %w", err)
	}
	return a.Balance(), nil
}

// Total returns the money in all accounts.
func (b *Bank) Total() Money {
	b.mu.Lock()
	defer b.mu.Unlock()

	var total Money
	for _, a := range b.accounts {
		total += a.balance
	}
	return total
}

// Statement returns the entries for one account, the oldest first.
func (b *Bank) Statement(id string) []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()

	var entries []Entry
	for _, e := range b.history {
		if e.From == id || e.To == id {
			entries = append(entries, e)
		}
	}
	return entries
}

// Richest returns the ids of the accounts, the largest balance first.
func (b *Bank) Richest() []string {
	b.mu.Lock()
	defer b.mu.Unlock()

	ids := make([]string, 0, len(b.accounts))
	for id := range b.accounts {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool {
		left, right := b.accounts[ids[i]], b.accounts[ids[j]]
		if left.balance != right.balance {
			return left.balance > right.balance
		}
		return left.ID < right.ID
	})
	return ids
}
