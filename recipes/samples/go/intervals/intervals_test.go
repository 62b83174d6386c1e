package intervals

import (
	"reflect"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name    string
		text    string
		want    Interval
		wantErr bool
	}{
		{name: "range", text: "3-7", want: Interval{3, 8}},
		{name: "single", text: "5", want: Interval{5, 6}},
		{name: "backwards", text: "7-3", wantErr: true},
		{name: "not a number", text: "a-3", wantErr: true},
		{name: "no end", text: "3-", wantErr: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.text)
			if (err != nil) != tt.wantErr {
				t.Fatalf("Parse() error = %v, wantErr %t", err, tt.wantErr)
			}
			if got != tt.want {
				t.Errorf("Parse() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestMerge(t *testing.T) {
	tests := []struct {
		name    string
		list    []Interval
		want    []Interval
		covered int
	}{
		{name: "empty", list: nil, want: nil, covered: 0},
		{name: "apart", list: []Interval{{5, 6}, {1, 3}}, want: []Interval{{1, 3}, {5, 6}}, covered: 3},
		{name: "touching", list: []Interval{{1, 3}, {3, 4}}, want: []Interval{{1, 4}}, covered: 3},
		{name: "overlap", list: []Interval{{1, 5}, {2, 8}}, want: []Interval{{1, 8}}, covered: 7},
		{name: "inside", list: []Interval{{1, 9}, {2, 3}}, want: []Interval{{1, 9}}, covered: 8},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Merge(tt.list); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Merge() = %v, want %v", got, tt.want)
			}
			if got := Covered(tt.list); got != tt.covered {
				t.Errorf("Covered() = %d, want %d", got, tt.covered)
			}
		})
	}
}

func TestGaps(t *testing.T) {
	whole := Interval{0, 10}
	tests := []struct {
		name string
		list []Interval
		want []Interval
	}{
		{name: "no intervals", list: nil, want: []Interval{{0, 10}}},
		{name: "middle", list: []Interval{{3, 5}}, want: []Interval{{0, 3}, {5, 10}}},
		{name: "both ends", list: []Interval{{-2, 2}, {8, 20}}, want: []Interval{{2, 8}}},
		{name: "outside", list: []Interval{{20, 30}}, want: []Interval{{0, 10}}},
		{name: "everything", list: []Interval{{0, 6}, {5, 10}}, want: nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Gaps(whole, tt.list); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Gaps() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestContains(t *testing.T) {
	i := Interval{2, 4}
	for n, want := range map[int]bool{1: false, 2: true, 3: true, 4: false} {
		if got := i.Contains(n); got != want {
			t.Errorf("Contains(%d) = %t, want %t", n, got, want)
		}
	}
}
