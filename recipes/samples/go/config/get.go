package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrMissing is returned when a setting is not there.
var ErrMissing = errors.New("setting is missing")

// String returns the text of a setting.
func (c *Config) String(key string) (string, error) {
	value, ok := c.values[key]
	if !ok {
		return "", fmt.Errorf("config %q: %w", key, ErrMissing)
	}
	return value, nil
}

// StringOr returns the text of a setting, or a default if it is missing.
func (c *Config) StringOr(key, def string) string {
	if value, ok := c.values[key]; ok {
		return value
	}
	return def
}

// Int returns a setting as a number.
func (c *Config) Int(key string) (int, error) {
	value, err := c.String(key)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		return 0, fmt.Errorf("config %q: %w", key, err)
	}
	return n, nil
}

// Bool returns a setting as a truth value.
// It understands true, false, yes, no, on and off.
func (c *Config) Bool(key string) (bool, error) {
	value, err := c.String(key)
	if err != nil {
		return false, err
	}
	switch strings.ToLower(value) {
	case "true", "yes", "on":
		return true, nil
	case "false", "no", "off":
		return false, nil
	}
	return false, fmt.Errorf("config %q: %q is neither true nor false", key, value)
}

// Duration returns a setting such as "1m30s" as a duration.
func (c *Config) Duration(key string) (time.Duration, error) {
	value, err := c.String(key)
	if err != nil {
		return 0, err
	}
	d, err := time.ParseDuration(value)
	if err != nil {
		return 0, fmt.Errorf("config %q: %w", key, err)
	}
	return d, nil
}

// List returns a setting as a list of texts separated by commas.
func (c *Config) List(key string) ([]string, error) {
	value, err := c.String(key)
	if err != nil {
		return nil, err
	}
	var items []string
	for _, item := range strings.Split(value, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items, nil
}

// Require returns an error that names every missing setting.
func (c *Config) Require(keys ...string) error {
	var missing []string
	for _, key := range keys {
		if _, ok := c.values[key]; !ok {
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s: %w", strings.Join(missing, ", "), ErrMissing)
	}
	return nil
}
