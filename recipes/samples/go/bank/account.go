// Package bank keeps accounts and moves money between them.
package bank

import (
	"errors"
	"fmt"
)

// Errors returned by the operations on accounts.
var (
	ErrNoAccount = errors.New("no such account")
	ErrExists    = errors.New("account already exists")
	ErrFunds     = errors.New("insufficient funds")
	ErrAmount    = errors.New("amount must be positive")
)

// Money is an amount in cents.
type Money int64

// String returns the amount with two digits after the point.
func (m Money) String() string {
	sign := ""
	if m < 0 {
		sign = "-"
		m = -m
	}
	return fmt.Sprintf("%s%d.%02d", sign, m/100, m%100)
}

// Account is the money of one owner.
type Account struct {
	ID      string
	Owner   string
	balance Money
}

// Balance returns the money in the account.
func (a *Account) Balance() Money {
	return a.balance
}

// deposit adds money to the account.
func (a *Account) deposit(amount Money) error {
	if amount <= 0 {
		return fmt.Errorf("deposit %s: %w", amount, ErrAmount)
	}
	a.balance += amount
	return nil
}

// withdraw takes money from the account.
func (a *Account) withdraw(amount Money) error {
	if amount <= 0 {
		return fmt.Errorf("withdraw %s: %w", amount, ErrAmount)
	}
	if amount > a.balance {
		return fmt.Errorf("withdraw %s of %s: %w", amount, a.balance, ErrFunds)
	}
	a.balance -= amount
	return nil
}

// Interest returns the interest for one year. The rate is in hundredths
// of a percent, and the result is rounded down to a whole cent.
func (a *Account) Interest(rate int64) (Money, error) {
	if rate < 0 {
		return 0, fmt.Errorf("interest: rate %d is negative", rate)
	}
	return a.balance * Money(rate) / 10000, nil
}
