package main

import (
	"bytes"
	"compress/gzip"
	"math/rand"
	"testing"
)

func TestTheLinesThatAreSentAreTheLinesThatAreCounted(t *testing.T) {
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	if _, err := zip.Write(logLines(rand.New(rand.NewSource(1)), 1234)); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := countLines(&packed); got != 1234 || err != nil {
		t.Fatalf("counted %d, %v", got, err)
	}
}
