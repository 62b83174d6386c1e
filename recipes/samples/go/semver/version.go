// Package semver parses and compares version numbers.
package semver

import (
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// ErrFormat is returned when a text is not a version.
var ErrFormat = errors.New("want major.minor.patch")

// Version is a version number such as 1.4.2 or 2.0.0-rc1.
type Version struct {
	Major int
	Minor int
	Patch int
	Pre   string
}

// Parse reads a version. A leading "v" is allowed.
func Parse(text string) (Version, error) {
	core, pre, hasPre := strings.Cut(strings.TrimPrefix(text, "v"), "-")
	if hasPre && pre == "" {
		return Version{}, fmt.Errorf("parse %q: nothing after the dash: %w", text, ErrFormat)
	}
	parts := strings.Split(core, ".")
	if len(parts) != 3 {
		return Version{}, fmt.Errorf("parse %q: %w", text, ErrFormat)
	}
	var numbers [3]int
	for i, part := range parts {
		n, err := parseNumber(part)
		if err != nil {
			return Version{}, fmt.Errorf("parse %q: %w", text, err)
		}
		numbers[i] = n
	}
	return Version{Major: numbers[0], Minor: numbers[1], Patch: numbers[2], Pre: pre}, nil
}

// parseNumber reads one part of a version without leading zeros.
func parseNumber(part string) (int, error) {
	if len(part) > 1 && part[0] == '0' {
		return 0, fmt.Errorf("%q has a leading zero: %w", part, ErrFormat)
	}
	n, err := strconv.ParseUint(part, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number: %w", part, ErrFormat)
	}
	return int(n), nil
}

// String returns the version as text.
func (v Version) String() string {
	text := fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
	if v.Pre != "" {
		text += "-" + v.Pre
	}
	return text
}

// Compare returns -1, 0 or 1 if v is below, equal to or above other.
// A version with a suffix is below the same version without one.
func (v Version) Compare(other Version) int {
	pairs := [][2]int{{v.Major, other.Major}, {v.Minor, other.Minor}, {v.Patch, other.Patch}}
	for _, p := range pairs {
		if p[0] < p[1] {
			return -1
		}
		if p[0] > p[1] {
			return 1
		}
	}
	switch {
	case v.Pre == other.Pre:
		return 0
	case v.Pre == "":
		return 1
	case other.Pre == "":
		return -1
	}
	return strings.Compare(v.Pre, other.Pre)
}

// Compatible reports whether v can be used where want is needed.
func (v Version) Compatible(want Version) bool {
	if v.Major != want.Major {
		return false
	}
	if v.Major == 0 && v.Minor != want.Minor {
		return false
	}
	return v.Compare(want) >= 0
}

// Latest returns the highest of the versions that are not pre-releases.
func Latest(texts []string) (Version, error) {
	var versions []Version
	for _, text := range texts {
		v, err := Parse(text)
		if err != nil {
			return Version{}, fmt.Errorf("latest: %w", err)
		}
		if v.Pre == "" {
			versions = append(versions, v)
		}
	}
	if len(versions) == 0 {
		return Version{}, errors.New("latest: no releases")
	}
	sort.Slice(versions, func(i, j int) bool {
		return versions[i].Compare(versions[j]) > 0
	})
	return versions[0], nil
}
