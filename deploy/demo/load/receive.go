package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const batchMaxBytes = 16 << 20 // unpacked

// receive takes gzipped batches of lines until ctx ends, and logs the counts.
func receive(ctx context.Context, address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	log.Printf("sink on http://%s", listener.Addr())
	var batches, lines, packed atomic.Int64
	server := &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body := &counted{reader: http.MaxBytesReader(w, r.Body, batchMaxBytes)}
			n, err := countLines(body)
			if err != nil {
				http.Error(w, "cannot read the batch: "+err.Error(), http.StatusBadRequest)
				return
			}
			batches.Add(1)
			lines.Add(n)
			packed.Add(body.bytes)
			w.WriteHeader(http.StatusNoContent)
		}),
	}
	go func() {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		server.Shutdown(drain)
	}()
	err = server.Serve(listener)
	log.Printf("took %d batches, %d lines, %d bytes packed", batches.Load(), lines.Load(), packed.Load())
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// countLines returns how many lines the gzip stream holds, read in pieces.
func countLines(packed io.Reader) (int64, error) {
	text, err := gzip.NewReader(packed)
	if err != nil {
		return 0, err
	}
	limited := io.LimitReader(text, batchMaxBytes)
	piece := make([]byte, 32<<10)
	lines := int64(0)
	for {
		n, err := limited.Read(piece)
		lines += int64(bytes.Count(piece[:n], []byte{'\n'}))
		if err == io.EOF {
			return lines, nil
		}
		if err != nil {
			return lines, err
		}
	}
}

type counted struct {
	reader io.Reader
	bytes  int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.reader.Read(p)
	c.bytes += int64(n)
	return n, err
}
