package lru

import (
	"errors"
	"reflect"
	"testing"
)

func TestNew(t *testing.T) {
	for _, limit := range []int{0, -1} {
		if _, err := New[string, int](limit); err == nil {
			t.Errorf("New(%d) error = nil, want an error", limit)
		}
	}
}

func TestPut(t *testing.T) {
	tests := []struct {
		name  string
		limit int
		put   []string
		want  []string
	}{
		{name: "below the limit", limit: 3, put: []string{"a", "b"}, want: []string{"b", "a"}},
		{name: "above the limit", limit: 2, put: []string{"a", "b", "c"}, want: []string{"c", "b"}},
		{name: "same key twice", limit: 2, put: []string{"a", "b", "a"}, want: []string{"a", "b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := New[string, int](tt.limit)
			if err != nil {
				t.Fatalf("New() error = %v", err)
			}
			for i, key := range tt.put {
				c.Put(key, i)
			}
			if got := c.Keys(); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Keys() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestGetKeepsEntry(t *testing.T) {
	c, err := New[string, int](2)
	if err != nil {
		t.Fatalf("New() error = %v", err)
	}
	c.Put("a", 1)
	c.Put("b", 2)
	if got, ok := c.Get("a"); !ok || got != 1 {
		t.Errorf("Get(a) = %d, %t, want 1, true", got, ok)
	}
	c.Put("c", 3)
	if _, ok := c.Get("b"); ok {
		t.Error("Get(b) = true, want false after the eviction")
	}
	want := Stats{Hits: 1, Misses: 1, Evictions: 1}
	if got := c.Stats(); got != want {
		t.Errorf("Stats() = %v, want %v", got, want)
	}
	if rate := c.Stats().HitRate(); rate != 0.5 {
		t.Errorf("HitRate() = %v, want 0.5", rate)
	}
}

func TestRemove(t *testing.T) {
	c, err := New[int, string](2)
	if err != nil {
		t.Fatalf("New() error = %v", err)
	}
	c.Put(1, "one")
	if !c.Remove(1) {
		t.Error("Remove(1) = false, want true")
	}
	if c.Remove(1) {
		t.Error("Remove(1) = true, want false")
	}
	if c.Len() != 0 {
		t.Errorf("Len() = %d, want 0", c.Len())
	}
}

func TestGetOrLoad(t *testing.T) {
	c, err := New[string, int](2)
	if err != nil {
		t.Fatalf("New() error = %v", err)
	}
	calls := 0
	length := func(key string) (int, error) {
		calls++
		return len(key), nil
	}
	for i := 0; i < 3; i++ {
		got, err := c.GetOrLoad("abc", length)
		if err != nil {
			t.Fatalf("GetOrLoad() error = %v", err)
		}
		if got != 3 {
			t.Errorf("GetOrLoad() = %d, want 3", got)
		}
	}
	if calls != 1 {
		t.Errorf("load was called %d times, want 1", calls)
	}

	errBroken := errors.New("broken")
	_, err = c.GetOrLoad("x", func(string) (int, error) { return 0, errBroken })
	if !errors.Is(err, errBroken) {
		t.Errorf("GetOrLoad() error = %v, want %v", err, errBroken)
	}
}
