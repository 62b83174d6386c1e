package httpapi

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Middleware wraps a handler with another one.
type Middleware func(http.Handler) http.Handler

// Chain wraps a handler so that the first middleware runs first.
func Chain(h http.Handler, middleware ...Middleware) http.Handler {
	for i := len(middleware) - 1; i >= 0; i-- {
		h = middleware[i](h)
	}
	return h
}

// statusWriter remembers the status of a response.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader stores the status and passes it on.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Logging writes one line per request to out.
func Logging(out io.Writer) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			start := time.Now()
			sw := &statusWriter{ResponseWriter: w, status: http.StatusOK}
			next.ServeHTTP(sw, r)
			elapsed := time.Since(start).Round(time.Millisecond)
			fmt.Fprintf(out, "%s %s %d %s\n", r.Method, r.URL.Path, sw.status, elapsed)
		})
	}
}

// RequireToken rejects requests without the right bearer token.
func RequireToken(token string) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
			if got != token {
				writeJSON(w, http.StatusUnauthorized, map[string]string{"error": "wrong token"})
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Recover answers with an error if a handler panics.
func Recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				writeError(w, fmt.Errorf("panic: %v", v))
			}
		}()
		next.ServeHTTP(w, r)
	})
}
