package jsonutil

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// ErrNotFound is returned when a path does not lead to a value.
var ErrNotFound = errors.New("path not found")

// Lookup returns the value at a dotted path such as "users.0.name".
func Lookup(data []byte, path string) (interface{}, error) {
	var root interface{}
	if err := parseJSON(data, &root); err != nil {
		return nil, fmt.Errorf("lookup: %w", err)
	}
	value := root
	for _, key := range strings.Split(path, ".") {
		next, err := step(value, key)
		if err != nil {
			return nil, fmt.Errorf("lookup %q: %w", path, err)
		}
		value = next
	}
	return value, nil
}

// step returns the child of value with the given key or index.
func step(value interface{}, key string) (interface{}, error) {
	switch v := value.(type) {
	case map[string]interface{}:
		child, ok := v[key]
		if !ok {
			return nil, fmt.Errorf("key %q: %w", key, ErrNotFound)
		}
		return child, nil
	case []interface{}:
		i, err := strconv.Atoi(key)
		if err != nil {
			return nil, fmt.Errorf("index %q: %w", key, err)
		}
		if i < 0 || i >= len(v) {
			return nil, fmt.Errorf("index %d: %w", i, ErrNotFound)
		}
		return v[i], nil
	default:
		return nil, fmt.Errorf("key %q: %w", key, ErrNotFound)
	}
}

// LookupString returns the string at path.
func LookupString(data []byte, path string) (string, error) {
	value, err := Lookup(data, path)
	if err != nil {
		return "", err
	}
	s, ok := value.(string)
	if !ok {
		return "", fmt.Errorf("lookup %q: want a string, got %T", path, value)
	}
	return s, nil
}

// Flatten returns every leaf of data with its dotted path as the key.
func Flatten(data []byte) (map[string]interface{}, error) {
	var root interface{}
	if err := parseJSON(data, &root); err != nil {
		return nil, fmt.Errorf("flatten: %w", err)
	}
	leaves := make(map[string]interface{})
	flatten("", root, leaves)
	return leaves, nil
}

// flatten stores the leaves below value in leaves.
func flatten(prefix string, value interface{}, leaves map[string]interface{}) {
	switch v := value.(type) {
	case map[string]interface{}:
		for key, child := range v {
			flatten(join(prefix, key), child, leaves)
		}
	case []interface{}:
		for i, child := range v {
			flatten(join(prefix, strconv.Itoa(i)), child, leaves)
		}
	default:
		leaves[prefix] = v
	}
}

// join appends key to a dotted prefix.
func join(prefix, key string) string {
	if prefix == "" {
		return key
	}
	return prefix + "." + key
}

// Keys returns the sorted keys of a JSON object.
func Keys(data []byte) ([]string, error) {
	var object map[string]json.RawMessage
	if err := parseJSON(data, &object); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	keys := make([]string, 0, len(object))
	for key := range object {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys, nil
}
