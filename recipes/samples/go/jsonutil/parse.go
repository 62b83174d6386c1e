// Package jsonutil decodes JSON with errors that say what went wrong.
package jsonutil

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrTrailing is returned when data follows the first JSON value.
var ErrTrailing = errors.New("trailing data after value")

// parseJSON decodes data into v and reports the line of a syntax error.
func parseJSON(data []byte, v interface{}) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return errors.New("parse json: no data")
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("parse json: %w", explain(data, err))
	}
	return nil
}

// parseStrict decodes data into v and rejects fields that v does not have.
func parseStrict(data []byte, v interface{}) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("parse strict: %w", explain(data, err))
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("parse strict: %w", ErrTrailing)
	}
	return nil
}

// explain adds the position of the problem to a decoding error.
func explain(data []byte, err error) error {
	var syntaxErr *json.SyntaxError
	if errors.As(err, &syntaxErr) {
		line, col := position(data, syntaxErr.Offset)
		return fmt.Errorf("line %d, column %d: %w", line, col, err)
	}
	var typeErr *json.UnmarshalTypeError
	if errors.As(err, &typeErr) {
		line, _ := position(data, typeErr.Offset)
		return fmt.Errorf("line %d, field %q: want %s, got %s: %w",
			line, typeErr.Field, typeErr.Type, typeErr.Value, err)
	}
	return err
}

// position returns the line and column of the byte offset in data.
// Both are counted from 1.
func position(data []byte, offset int64) (line, col int) {
	if offset > int64(len(data)) {
		offset = int64(len(data))
	}
	before := data[:offset]
	line = 1 + bytes.Count(before, []byte("\n"))
	col = len(before) - bytes.LastIndexByte(before, '\n') - 1
	if col < 1 {
		col = 1
	}
	return line, col
}

// LoadFile reads the file at path and decodes it into v.
func LoadFile(path string, v interface{}) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("load file: %w", err)
	}
	if err := parseJSON(data, v); err != nil {
		return fmt.Errorf("load file %s: %w", path, err)
	}
	return nil
}

// SaveFile writes v as indented JSON to the file at path.
func SaveFile(path string, v interface{}) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	data = append(data, '\n')
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("save file: %w", err)
	}
	return nil
}
