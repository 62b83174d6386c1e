package graph

import (
	"errors"
	"reflect"
	"testing"
)

func TestTopoSort(t *testing.T) {
	tests := []struct {
		name    string
		edges   [][2]string
		want    []string
		wantErr error
	}{
		{
			name:  "chain",
			edges: [][2]string{{"b", "c"}, {"a", "b"}},
			want:  []string{"a", "b", "c"},
		},
		{
			name:  "diamond",
			edges: [][2]string{{"a", "c"}, {"a", "b"}, {"b", "d"}, {"c", "d"}},
			want:  []string{"a", "b", "c", "d"},
		},
		{
			name:    "cycle",
			edges:   [][2]string{{"a", "b"}, {"b", "a"}},
			wantErr: ErrCycle,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := build(t, tt.edges)
			got, err := g.TopoSort()
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("TopoSort() error = %v, want %v", err, tt.wantErr)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("TopoSort() = %v, want %v", got, tt.want)
			}
			if cycle := g.HasCycle(); cycle != (tt.wantErr != nil) {
				t.Errorf("HasCycle() = %t", cycle)
			}
		})
	}
}

func TestLevels(t *testing.T) {
	g := build(t, [][2]string{{"a", "b"}, {"a", "c"}, {"b", "d"}})
	g.AddNode("e")
	got, err := g.Levels()
	if err != nil {
		t.Fatalf("Levels() error = %v", err)
	}
	want := [][]string{{"a", "e"}, {"b", "c"}, {"d"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Levels() = %v, want %v", got, want)
	}
}

func TestShortestPath(t *testing.T) {
	g := New()
	edges := []struct {
		from   string
		to     string
		weight int
	}{
		{"a", "b", 7},
		{"a", "c", 2},
		{"c", "b", 3},
		{"b", "d", 1},
		{"c", "d", 8},
	}
	for _, e := range edges {
		if err := g.AddEdge(e.from, e.to, e.weight); err != nil {
			t.Fatal(err)
		}
	}
	got, err := g.ShortestPath("a", "d")
	if err != nil {
		t.Fatalf("ShortestPath() error = %v", err)
	}
	want := Path{Nodes: []string{"a", "c", "b", "d"}, Weight: 6}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("ShortestPath() = %v, want %v", got, want)
	}
	if _, err := g.ShortestPath("d", "a"); !errors.Is(err, ErrNoPath) {
		t.Errorf("ShortestPath() error = %v, want %v", err, ErrNoPath)
	}
	if err := g.AddEdge("a", "d", -1); err == nil {
		t.Error("AddEdge() error = nil, want an error")
	}
}
