// Package intervals works with ranges of whole numbers.
package intervals

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// Interval is the numbers from Start up to, but without, End.
type Interval struct {
	Start int
	End   int
}

// New returns an interval and checks that it is not empty.
func New(start, end int) (Interval, error) {
	if end <= start {
		return Interval{}, fmt.Errorf("new interval: end %d is not after start %d", end, start)
	}
	return Interval{Start: start, End: end}, nil
}

// Parse reads an interval such as "3-7", where both numbers belong to it.
func Parse(text string) (Interval, error) {
	first, last, found := strings.Cut(text, "-")
	if !found {
		last = first
	}
	start, err := strconv.Atoi(first)
	if err != nil {
		return Interval{}, fmt.Errorf("parse start of %q: %w", text, err)
	}
	end, err := strconv.Atoi(last)
	if err != nil {
		return Interval{}, fmt.Errorf("parse end of %q: %w", text, err)
	}
	return New(start, end+1)
}

// Len returns how many numbers are in the interval.
func (i Interval) Len() int {
	return i.End - i.Start
}

// Contains reports whether n is in the interval.
func (i Interval) Contains(n int) bool {
	return n >= i.Start && n < i.End
}

// Overlaps reports whether two intervals have a number in common.
func (i Interval) Overlaps(other Interval) bool {
	return i.Start < other.End && other.Start < i.End
}

// Merge joins the intervals that touch or overlap and sorts the result.
func Merge(list []Interval) []Interval {
	sorted := append([]Interval(nil), list...)
	sort.Slice(sorted, func(a, b int) bool { return sorted[a].Start < sorted[b].Start })
	var merged []Interval
	for _, next := range sorted {
		last := len(merged) - 1
		if last < 0 || next.Start > merged[last].End {
			merged = append(merged, next)
			continue
		}
		if next.End > merged[last].End {
			merged[last].End = next.End
		}
	}
	return merged
}

// Gaps returns the parts of whole that no interval of the list covers.
func Gaps(whole Interval, list []Interval) []Interval {
	var gaps []Interval
	start := whole.Start
	for _, i := range Merge(list) {
		if !i.Overlaps(whole) {
			continue
		}
		if i.Start > start {
			gaps = append(gaps, Interval{Start: start, End: i.Start})
		}
		if i.End > start {
			start = i.End
		}
	}
	if start < whole.End {
		gaps = append(gaps, Interval{Start: start, End: whole.End})
	}
	return gaps
}

// Covered returns how many different numbers the intervals contain.
func Covered(list []Interval) int {
	total := 0
	for _, i := range Merge(list) {
		total += i.Len()
	}
	return total
}
