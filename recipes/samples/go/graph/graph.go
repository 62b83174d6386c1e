// Package graph is a directed graph with weights and the usual searches.
package graph

import (
	"errors"
	"fmt"
	"sort"
)

// ErrNoNode is returned when a node is not in the graph.
var ErrNoNode = errors.New("no such node")

// Edge is a connection to another node.
type Edge struct {
	To     string
	Weight int
}

// Graph is a directed graph whose nodes are names.
type Graph struct {
	edges map[string][]Edge
}

// New returns an empty graph.
func New() *Graph {
	return &Graph{edges: make(map[string][]Edge)}
}

// AddNode adds a node. Adding a node twice has no effect.
func (g *Graph) AddNode(name string) {
	if _, ok := g.edges[name]; !ok {
		g.edges[name] = nil
	}
}

// AddEdge connects two nodes and adds them if they are new.
func (g *Graph) AddEdge(from, to string, weight int) error {
	if weight < 0 {
		return fmt.Errorf("add edge %s -> %s: weight %d is negative", from, to, weight)
	}
	g.AddNode(from)
	g.AddNode(to)
	g.edges[from] = append(g.edges[from], Edge{To: to, Weight: weight})
	return nil
}

// Has reports whether the node is in the graph.
func (g *Graph) Has(name string) bool {
	_, ok := g.edges[name]
	return ok
}

// Nodes returns the names of all nodes in order.
func (g *Graph) Nodes() []string {
	nodes := make([]string, 0, len(g.edges))
	for name := range g.edges {
		nodes = append(nodes, name)
	}
	sort.Strings(nodes)
	return nodes
}

// Neighbors returns the nodes that can be reached in one step.
func (g *Graph) Neighbors(name string) ([]string, error) {
	edges, ok := g.edges[name]
	if !ok {
		return nil, fmt.Errorf("neighbors of %q: %w", name, ErrNoNode)
	}
	names := make([]string, 0, len(edges))
	for _, e := range edges {
		names = append(names, e.To)
	}
	return names, nil
}

// Reverse returns a graph in which every edge points the other way.
func (g *Graph) Reverse() *Graph {
	r := New()
	for _, from := range g.Nodes() {
		r.AddNode(from)
		for _, e := range g.edges[from] {
			r.AddNode(e.To)
			r.edges[e.To] = append(r.edges[e.To], Edge{To: from, Weight: e.Weight})
		}
	}
	return r
}
