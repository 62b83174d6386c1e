package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// maxBody is the largest request body that is read, in bytes.
const maxBody = 1 << 16

// Server answers requests for notes.
type Server struct {
	store *Store
	mux   *http.ServeMux
}

// NewServer returns a server for the notes in store.
func NewServer(store *Store) *Server {
	s := &Server{store: store, mux: http.NewServeMux()}
	s.mux.HandleFunc("/health", s.handleHealth)
	s.mux.HandleFunc("/notes", s.handleNotes)
	s.mux.HandleFunc("/notes/", s.handleNote)
	return s
}

// ServeHTTP passes the request to the handler for its path.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mux.ServeHTTP(w, r)
}

// handleHealth answers that the server is running.
func (s *Server) handleHealth(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// handleNotes lists the notes or creates a new one.
func (s *Server) handleNotes(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet:
		writeJSON(w, http.StatusOK, s.store.List(r.URL.Query().Get("q")))
	case http.MethodPost:
		var n Note
		if err := readJSON(w, r, &n); err != nil {
			writeError(w, err)
			return
		}
		created, err := s.store.Create(n)
		if err != nil {
			writeError(w, err)
			return
		}
		writeJSON(w, http.StatusCreated, created)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

// handleNote returns or deletes one note.
func (s *Server) handleNote(w http.ResponseWriter, r *http.Request) {
	id, err := parseID(r.URL.Path)
	if err != nil {
		writeError(w, err)
		return
	}
	switch r.Method {
	case http.MethodGet:
		n, err := s.store.Get(id)
		if err != nil {
			writeError(w, err)
			return
		}
		writeJSON(w, http.StatusOK, n)
	case http.MethodDelete:
		if err := s.store.Delete(id); err != nil {
			writeError(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

// parseID returns the number at the end of a path such as "/notes/7".
func parseID(path string) (int, error) {
	text := strings.TrimPrefix(path, "/notes/")
	id, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("id %q: %w", text, ErrInvalid)
	}
	return id, nil
}

// readJSON decodes the body of a request into v.
func readJSON(w http.ResponseWriter, r *http.Request, v interface{}) error {
	body := http.MaxBytesReader(w, r.Body, maxBody)
	if err := json.NewDecoder(body).Decode(v); err != nil {
		return fmt.Errorf("body: %v: %w", err, ErrInvalid)
	}
	return nil
}

// writeJSON answers with v as JSON.
func writeJSON(w http.ResponseWriter, status int, v interface{}) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "encode the answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(data, '\n'))
}

// writeError answers with the status that fits the error.
func writeError(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, ErrInvalid):
		status = http.StatusBadRequest
	}
	writeJSON(w, status, map[string]string{"error": err.Error()})
}
