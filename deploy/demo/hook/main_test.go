package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestEachJSONBodyBecomesOneLine(t *testing.T) {
	var out bytes.Buffer
	handler := receiver(&out)
	for _, row := range []struct {
		body string
		want int
	}{
		{"{\n  \"status\": \"firing\"\n}\n", http.StatusNoContent},
		{"not json", http.StatusBadRequest},
		{"{\"status\":\"resolved\"}", http.StatusNoContent},
	} {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(row.body)))
		if answer.Code != row.want {
			t.Errorf("%q: got %d, want %d", row.body, answer.Code, row.want)
		}
	}
	if want := "{\"status\":\"firing\"}\n{\"status\":\"resolved\"}\n"; out.String() != want {
		t.Errorf("kept %q, want %q", out.String(), want)
	}
}
