// Package config reads settings from files of "key = value" lines.
package config

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strconv"
	"strings"
)

// ErrSyntax is returned when a line is not a setting.
var ErrSyntax = errors.New("want key = value")

// Config holds settings by name. A setting in a section has the name
// of the section and a dot before its own name.
type Config struct {
	values map[string]string
}

// Parse reads settings from r.
func Parse(r io.Reader) (*Config, error) {
	c := &Config{values: make(map[string]string)}
	section := ""
	scanner := bufio.NewScanner(r)
	for number := 1; scanner.Scan(); number++ {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			section = strings.TrimSpace(line[1:len(line)-1]) + "."
			continue
		}
		key, value, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		key = section + key
		if _, ok := c.values[key]; ok {
			return nil, fmt.Errorf("line %d: %q is set twice", number, key)
		}
		c.values[key] = value
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("parse config: %w", err)
	}
	return c, nil
}

// parseLine splits a line such as `name = "value"` into key and value.
func parseLine(line string) (key, value string, err error) {
	key, value, ok := strings.Cut(line, "=")
	if !ok {
		return "", "", fmt.Errorf("%q: %w", line, ErrSyntax)
	}
	key = strings.TrimSpace(key)
	if key == "" {
		return "", "", fmt.Errorf("%q: key is empty: %w", line, ErrSyntax)
	}
	value = strings.TrimSpace(value)
	if strings.HasPrefix(value, `"`) {
		value, err = strconv.Unquote(value)
		if err != nil {
			return "", "", fmt.Errorf("value of %q: %w", key, err)
		}
	}
	return key, value, nil
}

// Load reads settings from the file at path.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("load config: %w", err)
	}
	defer f.Close()

	c, err := Parse(f)
	if err != nil {
		return nil, fmt.Errorf("load config %s: %w", path, err)
	}
	return c, nil
}

// Keys returns the names of all settings in order.
func (c *Config) Keys() []string {
	keys := make([]string, 0, len(c.values))
	for key := range c.values {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

// Merge copies the settings of other over the settings of c.
func (c *Config) Merge(other *Config) {
	for key, value := range other.values {
		c.values[key] = value
	}
}
