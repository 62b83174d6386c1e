package graph

import (
	"errors"
	"fmt"
	"sort"
)

// ErrCycle is returned when the graph has a cycle.
var ErrCycle = errors.New("graph has a cycle")

// TopoSort returns the nodes so that every edge points forward.
// Nodes without an order between them are sorted by name.
func (g *Graph) TopoSort() ([]string, error) {
	incoming := make(map[string]int)
	for _, edges := range g.edges {
		for _, e := range edges {
			incoming[e.To]++
		}
	}
	var ready []string
	for _, name := range g.Nodes() {
		if incoming[name] == 0 {
			ready = append(ready, name)
		}
	}
	var order []string
	for len(ready) > 0 {
		name := ready[0]
		ready = ready[1:]
		order = append(order, name)
		for _, e := range g.edges[name] {
			incoming[e.To]--
			if incoming[e.To] == 0 {
				ready = append(ready, e.To)
			}
		}
		sort.Strings(ready)
	}
	if len(order) < len(g.edges) {
		return nil, fmt.Errorf("topological sort: %w", ErrCycle)
	}
	return order, nil
}

// HasCycle reports whether any path leads back to its start.
func (g *Graph) HasCycle() bool {
	_, err := g.TopoSort()
	return errors.Is(err, ErrCycle)
}

// Levels groups the nodes so that each one comes after all nodes it needs.
// The nodes of one group do not depend on each other.
func (g *Graph) Levels() ([][]string, error) {
	order, err := g.TopoSort()
	if err != nil {
		return nil, fmt.Errorf("levels: %w", err)
	}
	level := make(map[string]int)
	deepest := -1
	for _, name := range order {
		if level[name] > deepest {
			deepest = level[name]
		}
		for _, e := range g.edges[name] {
			if level[name]+1 > level[e.To] {
				level[e.To] = level[name] + 1
			}
		}
	}
	groups := make([][]string, deepest+1)
	for _, name := range g.Nodes() {
		groups[level[name]] = append(groups[level[name]], name)
	}
	return groups, nil
}
