package main

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/pprof"
)

const requestMaxBytes = 1 << 20

// intake answers POST /log (one line of the body is one log line) and GET /ready.
//
// A full queue is 503, so that the caller slows down; nothing is dropped here.
func intake(queue *diskQueue) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "ready\n")
	})
	mux.HandleFunc("/log", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "POST log lines here", http.StatusMethodNotAllowed)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, requestMaxBytes))
		var tooLarge *http.MaxBytesError
		switch {
		case errors.As(err, &tooLarge):
			http.Error(w, "body is larger than 1 MiB", http.StatusRequestEntityTooLarge)
			return
		case err != nil:
			http.Error(w, "cannot read the body", http.StatusBadRequest)
			return
		}
		switch err := queue.put(splitLines(body)); {
		case errors.Is(err, errQueueFull):
			w.Header().Set("Retry-After", "1")
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
	return mux
}

// splitLines returns the lines of body that are not empty, without their ends.
func splitLines(body []byte) [][]byte {
	return bytes.FieldsFunc(body, func(r rune) bool { return r == '\n' || r == '\r' })
}

// profiles serves Go's profiles on a mux of its own, so that they are never
// reachable through the port that takes log lines.
func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
