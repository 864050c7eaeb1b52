package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestIntakeAnswers(t *testing.T) {
	queue := open(t, t.TempDir(), 100)
	handler := intake(queue)
	for _, row := range []struct {
		what, method, path, body string
		want                     int
	}{
		{"ready", http.MethodGet, "/ready", "", http.StatusOK},
		{"two lines", http.MethodPost, "/log", "one\r\n\ntwo", http.StatusNoContent},
		{"no line", http.MethodPost, "/log", "\n", http.StatusNoContent},
		{"not a POST", http.MethodGet, "/log", "", http.StatusMethodNotAllowed},
		{"more than the queue holds", http.MethodPost, "/log", strings.Repeat("x", 100), http.StatusServiceUnavailable},
		{"a body past the limit", http.MethodPost, "/log", strings.Repeat("x", requestMaxBytes+1), http.StatusRequestEntityTooLarge},
		{"profiles are not on this port", http.MethodGet, "/debug/pprof/", "", http.StatusNotFound},
	} {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(row.method, row.path, strings.NewReader(row.body)))
		if answer.Code != row.want {
			t.Errorf("%s: got %d, want %d", row.what, answer.Code, row.want)
		}
	}
	take(t, queue, "one", "two")
}
