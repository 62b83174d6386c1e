package graph

import "fmt"

// BFS returns the nodes that can be reached from start, nearest first.
func (g *Graph) BFS(start string) ([]string, error) {
	if !g.Has(start) {
		return nil, fmt.Errorf("bfs from %q: %w", start, ErrNoNode)
	}
	seen := map[string]bool{start: true}
	order := []string{start}
	for i := 0; i < len(order); i++ {
		for _, e := range g.edges[order[i]] {
			if seen[e.To] {
				continue
			}
			seen[e.To] = true
			order = append(order, e.To)
		}
	}
	return order, nil
}

// DFS returns the nodes that can be reached from start.
// It follows each path to its end before it tries the next one.
func (g *Graph) DFS(start string) ([]string, error) {
	if !g.Has(start) {
		return nil, fmt.Errorf("dfs from %q: %w", start, ErrNoNode)
	}
	seen := make(map[string]bool)
	var order []string
	var visit func(name string)
	visit = func(name string) {
		seen[name] = true
		order = append(order, name)
		for _, e := range g.edges[name] {
			if !seen[e.To] {
				visit(e.To)
			}
		}
	}
	visit(start)
	return order, nil
}

// Connected reports whether there is a path from one node to another.
func (g *Graph) Connected(from, to string) (bool, error) {
	if !g.Has(to) {
		return false, fmt.Errorf("connected to %q: %w", to, ErrNoNode)
	}
	reached, err := g.BFS(from)
	if err != nil {
		return false, fmt.Errorf("connected: %w", err)
	}
	for _, name := range reached {
		if name == to {
			return true, nil
		}
	}
	return false, nil
}

// Hops returns the number of steps from start to every node it reaches.
func (g *Graph) Hops(start string) (map[string]int, error) {
	order, err := g.BFS(start)
	if err != nil {
		return nil, fmt.Errorf("hops: %w", err)
	}
	hops := map[string]int{start: 0}
	for _, name := range order {
		for _, e := range g.edges[name] {
			if _, ok := hops[e.To]; !ok {
				hops[e.To] = hops[name] + 1
			}
		}
	}
	return hops, nil
}
