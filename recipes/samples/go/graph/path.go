package graph

import (
	"errors"
	"fmt"
)

// ErrNoPath is returned when a node cannot be reached.
var ErrNoPath = errors.New("no path")

// Path is a list of nodes and the sum of the weights between them.
type Path struct {
	Nodes  []string
	Weight int
}

// ShortestPath returns the path with the smallest weight between two nodes.
func (g *Graph) ShortestPath(from, to string) (Path, error) {
	for _, name := range []string{from, to} {
		if !g.Has(name) {
			return Path{}, fmt.Errorf("shortest path: %q: %w", name, ErrNoNode)
		}
	}
	dist := map[string]int{from: 0}
	prev := make(map[string]string)
	done := make(map[string]bool)
	for {
		name, ok := nearest(dist, done)
		if !ok {
			return Path{}, fmt.Errorf("from %q to %q: %w", from, to, ErrNoPath)
		}
		if name == to {
			break
		}
		done[name] = true
		for _, e := range g.edges[name] {
			next := dist[name] + e.Weight
			if old, ok := dist[e.To]; !ok || next < old {
				dist[e.To] = next
				prev[e.To] = name
			}
		}
	}
	return Path{Nodes: trace(prev, from, to), Weight: dist[to]}, nil
}

// nearest returns the node with the smallest distance that is not done.
func nearest(dist map[string]int, done map[string]bool) (string, bool) {
	best, found := "", false
	for name, d := range dist {
		if done[name] {
			continue
		}
		if !found || d < dist[best] || (d == dist[best] && name < best) {
			best, found = name, true
		}
	}
	return best, found
}

// trace follows prev back from to and returns the nodes in order.
func trace(prev map[string]string, from, to string) []string {
	nodes := []string{to}
	for nodes[len(nodes)-1] != from {
		nodes = append(nodes, prev[nodes[len(nodes)-1]])
	}
	for i, j := 0, len(nodes)-1; i < j; i, j = i+1, j-1 {
		nodes[i], nodes[j] = nodes[j], nodes[i]
	}
	return nodes
}
