package semver

import (
	"errors"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name    string
		text    string
		want    string
		wantErr error
	}{
		{name: "plain", text: "1.2.3", want: "1.2.3"},
		{name: "with v", text: "v0.10.0", want: "0.10.0"},
		{name: "suffix", text: "2.0.0-rc1", want: "2.0.0-rc1"},
		{name: "two parts", text: "1.2", wantErr: ErrFormat},
		{name: "leading zero", text: "1.02.3", wantErr: ErrFormat},
		{name: "letters", text: "1.x.3", wantErr: ErrFormat},
		{name: "negative", text: "1.2.+3", wantErr: ErrFormat},
		{name: "empty suffix", text: "1.2.3-", wantErr: ErrFormat},
		{name: "empty", text: "", wantErr: ErrFormat},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.text)
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("Parse() error = %v, want %v", err, tt.wantErr)
			}
			if err == nil && got.String() != tt.want {
				t.Errorf("Parse() = %s, want %s", got, tt.want)
			}
		})
	}
}

func TestCompare(t *testing.T) {
	ordered := []string{"0.9.9", "1.0.0-alpha", "1.0.0-beta", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2.0.0"}
	for i, left := range ordered {
		for j, right := range ordered {
			a, err := Parse(left)
			if err != nil {
				t.Fatal(err)
			}
			b, err := Parse(right)
			if err != nil {
				t.Fatal(err)
			}
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := a.Compare(b); got != want {
				t.Errorf("Compare(%s, %s) = %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestCompatible(t *testing.T) {
	tests := []struct {
		name string
		have Version
		need Version
		want bool
	}{
		{name: "same", have: Version{Major: 1}, need: Version{Major: 1}, want: true},
		{name: "newer minor", have: Version{Major: 1, Minor: 3}, need: Version{Major: 1, Minor: 2}, want: true},
		{name: "older minor", have: Version{Major: 1, Minor: 1}, need: Version{Major: 1, Minor: 2}, want: false},
		{name: "other major", have: Version{Major: 2}, need: Version{Major: 1}, want: false},
		{name: "zero major", have: Version{Minor: 3}, need: Version{Minor: 2}, want: false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.have.Compatible(tt.need); got != tt.want {
				t.Errorf("Compatible() = %t, want %t", got, tt.want)
			}
		})
	}
}

func TestLatest(t *testing.T) {
	got, err := Latest([]string{"1.9.0", "1.10.0", "2.0.0-rc1"})
	if err != nil {
		t.Fatalf("Latest() error = %v", err)
	}
	if got.String() != "1.10.0" {
		t.Errorf("Latest() = %s, want 1.10.0", got)
	}
	if _, err := Latest([]string{"1.0.0-rc1"}); err == nil {
		t.Error("Latest() error = nil, want an error")
	}
}
