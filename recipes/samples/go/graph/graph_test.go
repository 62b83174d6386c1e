package graph

import (
	"errors"
	"reflect"
	"testing"
)

// build returns a graph with the given edges, all of weight 1.
func build(t *testing.T, edges [][2]string) *Graph {
	t.Helper()
	g := New()
	for _, e := range edges {
		if err := g.AddEdge(e[0], e[1], 1); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func TestSearch(t *testing.T) {
	g := build(t, [][2]string{{"a", "b"}, {"a", "c"}, {"b", "d"}, {"c", "d"}, {"d", "e"}})
	tests := []struct {
		name  string
		start string
		bfs   []string
		dfs   []string
	}{
		{
			name:  "from the top",
			start: "a",
			bfs:   []string{"a", "b", "c", "d", "e"},
			dfs:   []string{"a", "b", "d", "e", "c"},
		},
		{
			name:  "from the middle",
			start: "c",
			bfs:   []string{"c", "d", "e"},
			dfs:   []string{"c", "d", "e"},
		},
		{name: "from a leaf", start: "e", bfs: []string{"e"}, dfs: []string{"e"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bfs, err := g.BFS(tt.start)
			if err != nil {
				t.Fatalf("BFS() error = %v", err)
			}
			if !reflect.DeepEqual(bfs, tt.bfs) {
				t.Errorf("BFS() = %v, want %v", bfs, tt.bfs)
			}
			dfs, err := g.DFS(tt.start)
			if err != nil {
				t.Fatalf("DFS() error = %v", err)
			}
			if !reflect.DeepEqual(dfs, tt.dfs) {
				t.Errorf("DFS() = %v, want %v", dfs, tt.dfs)
			}
		})
	}
	if _, err := g.BFS("x"); !errors.Is(err, ErrNoNode) {
		t.Errorf("BFS() error = %v, want %v", err, ErrNoNode)
	}
}

func TestConnected(t *testing.T) {
	g := build(t, [][2]string{{"a", "b"}, {"b", "c"}})
	tests := []struct {
		name string
		from string
		to   string
		want bool
	}{
		{name: "forward", from: "a", to: "c", want: true},
		{name: "backward", from: "c", to: "a", want: false},
		{name: "itself", from: "b", to: "b", want: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := g.Connected(tt.from, tt.to)
			if err != nil {
				t.Fatalf("Connected() error = %v", err)
			}
			if got != tt.want {
				t.Errorf("Connected() = %t, want %t", got, tt.want)
			}
		})
	}
}

func TestReverse(t *testing.T) {
	g := build(t, [][2]string{{"a", "b"}, {"a", "c"}})
	got, err := g.Reverse().Neighbors("b")
	if err != nil {
		t.Fatalf("Neighbors() error = %v", err)
	}
	if want := []string{"a"}; !reflect.DeepEqual(got, want) {
		t.Errorf("Neighbors() = %v, want %v", got, want)
	}
}

func TestHops(t *testing.T) {
	g := build(t, [][2]string{{"a", "b"}, {"b", "c"}, {"a", "c"}, {"c", "d"}})
	got, err := g.Hops("a")
	if err != nil {
		t.Fatalf("Hops() error = %v", err)
	}
	want := map[string]int{"a": 0, "b": 1, "c": 1, "d": 2}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Hops() = %v, want %v", got, want)
	}
}
