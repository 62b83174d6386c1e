package httpapi

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestServer(t *testing.T) {
	store := NewStore()
	for _, title := range []string{"shopping", "reading"} {
		if _, err := store.Create(Note{Title: title}); err != nil {
			t.Fatal(err)
		}
	}
	server := NewServer(store)
	tests := []struct {
		name   string
		method string
		path   string
		body   string
		status int
		want   string
	}{
		{name: "health", method: "GET", path: "/health", status: 200, want: `"ok"`},
		{name: "get", method: "GET", path: "/notes/1", status: 200, want: "shopping"},
		{name: "get missing", method: "GET", path: "/notes/99", status: 404, want: "not found"},
		{name: "get wrong id", method: "GET", path: "/notes/x", status: 400, want: "invalid"},
		{name: "search", method: "GET", path: "/notes?q=read", status: 200, want: "reading"},
		{name: "create", method: "POST", path: "/notes", body: `{"title": "new"}`, status: 201, want: `"id":3`},
		{name: "create empty", method: "POST", path: "/notes", body: `{}`, status: 400, want: "title is empty"},
		{name: "create broken", method: "POST", path: "/notes", body: `{`, status: 400, want: "body"},
		{name: "delete", method: "DELETE", path: "/notes/2", status: 204},
		{name: "delete again", method: "DELETE", path: "/notes/2", status: 404, want: "not found"},
		{name: "wrong method", method: "PUT", path: "/notes", status: 405},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body))
			w := httptest.NewRecorder()
			server.ServeHTTP(w, r)
			if w.Code != tt.status {
				t.Errorf("status = %d, want %d", w.Code, tt.status)
			}
			if !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("body = %q, want %q in it", w.Body.String(), tt.want)
			}
		})
	}
}

func TestListIsJSON(t *testing.T) {
	w := httptest.NewRecorder()
	NewServer(NewStore()).ServeHTTP(w, httptest.NewRequest("GET", "/notes", nil))
	var notes []Note
	if err := json.Unmarshal(w.Body.Bytes(), &notes); err != nil {
		t.Fatalf("Unmarshal() error = %v", err)
	}
	if len(notes) != 0 {
		t.Errorf("notes = %v, want none", notes)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type = %q", got)
	}
}

func TestMiddleware(t *testing.T) {
	var log strings.Builder
	panics := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		panic("boom")
	})
	h := Chain(panics, Logging(&log), RequireToken("secret"), Recover)
	tests := []struct {
		name   string
		token  string
		status int
		want   string
	}{
		{name: "no token", token: "", status: 401, want: "GET /x 401"},
		{name: "wrong token", token: "guess", status: 401, want: "GET /x 401"},
		{name: "panic", token: "secret", status: 500, want: "GET /x 500"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log.Reset()
			r := httptest.NewRequest("GET", "/x", nil)
			r.Header.Set("Authorization", "Bearer "+tt.token)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tt.status {
				t.Errorf("status = %d, want %d", w.Code, tt.status)
			}
			if !strings.HasPrefix(log.String(), tt.want) {
				t.Errorf("log = %q, want %q first", log.String(), tt.want)
			}
		})
	}
}
