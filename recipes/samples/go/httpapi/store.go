// Package httpapi is a small HTTP service that stores notes in memory.
package httpapi

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
)

// ErrNotFound is returned when a note does not exist.
var ErrNotFound = errors.New("note not found")

// ErrInvalid is returned when a note has missing or wrong fields.
var ErrInvalid = errors.New("note is invalid")

// maxTitle is the longest title of a note, in bytes.
const maxTitle = 80

// Note is one stored text.
type Note struct {
	ID    int    `json:"id"`
	Title string `json:"title"`
	Body  string `json:"body"`
}

// validate returns an error if the note cannot be stored.
func (n Note) validate() error {
	if strings.TrimSpace(n.Title) == "" {
		return fmt.Errorf("title is empty: %w", ErrInvalid)
	}
	if len(n.Title) > maxTitle {
		return fmt.Errorf("title is longer than %d bytes: %w", maxTitle, ErrInvalid)
	}
	return nil
}

// Store holds notes in memory.
type Store struct {
	mu     sync.RWMutex
	lastID int
	notes  map[int]Note
}

// NewStore returns an empty store.
func NewStore() *Store {
	return &Store{notes: make(map[int]Note)}
}

// Create stores a new note and returns it with its id.
func (s *Store) Create(n Note) (Note, error) {
	if err := n.validate(); err != nil {
		return Note{}, fmt.Errorf("create: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()

	s.lastID++
	n.ID = s.lastID
	s.notes[n.ID] = n
	return n, nil
}

// Get returns the note with the given id.
func (s *Store) Get(id int) (Note, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()

	n, ok := s.notes[id]
	if !ok {
		return Note{}, fmt.Errorf("get %d: %w", id, ErrNotFound)
	}
	return n, nil
}

// Delete removes the note with the given id.
func (s *Store) Delete(id int) error {
	s.mu.Lock()
	defer s.mu.Unlock()

	if _, ok := s.notes[id]; !ok {
		return fmt.Errorf("delete %d: %w", id, ErrNotFound)
	}
	delete(s.notes, id)
	return nil
}

// List returns the notes whose title contains query, ordered by id.
func (s *Store) List(query string) []Note {
	s.mu.RLock()
	defer s.mu.RUnlock()

	notes := make([]Note, 0, len(s.notes))
	for _, n := range s.notes {
		if strings.Contains(n.Title, query) {
			notes = append(notes, n)
		}
	}
	sort.Slice(notes, func(i, j int) bool { return notes[i].ID < notes[j].ID })
	return notes
}
