package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFindsTheFiringAlertOfAServiceByItsPath(t *testing.T) {
	const (
		resolved = `{"alerts":[{"status":"resolved","labels":{"service":"logger"},"annotations":{"path":"main.startSink;runtime.selectgo"}}]}`
		firing   = `{"alerts":[{"status":"firing","labels":{"service":"logger"},"annotations":{"path":"main.startSink;runtime.selectgo"}}]}`
		other    = `{"alerts":[{"status":"firing","labels":{"service":"shop"},"annotations":{"summary":"main.startSink runtime.selectgo"}}]}`
		torn     = `{"alerts":[{"status":"fir`
	)
	for _, row := range []struct {
		what, lines, service string
		path                 []string
		want                 string
	}{
		{"nothing was received", "", "logger", nil, ""},
		{"the first that fires", resolved + "\n" + firing + "\n", "logger", []string{"startSink", "selectgo"}, firing},
		{"a resolved one does not count", resolved + "\n", "logger", nil, ""},
		{"another service does not count", other + "\n", "logger", nil, ""},
		{"no path asked", other + "\n", "shop", nil, other},
		{"only an annotation of a path counts", other + "\n", "shop", []string{"startSink"}, ""},
		{"every part is needed", firing + "\n", "logger", []string{"startSink", "chanrecv"}, ""},
		{"a half written line is left alone", torn, "logger", nil, ""},
	} {
		file := filepath.Join(t.TempDir(), "alerts")
		if err := os.WriteFile(file, []byte(row.lines), 0o600); err != nil {
			t.Fatal(err)
		}
		body, labels, err := find(file, row.service, row.path)
		if err != nil || string(body) != row.want {
			t.Errorf("%s: got %s, %v", row.what, body, err)
		}
		if row.want != "" && !strings.Contains(row.want, string(labels)) {
			t.Errorf("%s: labels %s", row.what, labels)
		}
	}
}
