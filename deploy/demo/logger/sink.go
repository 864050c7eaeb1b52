package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"log"
	"net/http"
	"time"
)

// sinkLoop moves lines into batches and batches to the sink until done closes.
type sinkLoop func(lines <-chan []byte, done <-chan struct{}, out *batch)

// startSink is the loop as it was shipped, with its fault.
//
// While the last POST has failed it must not read on, so it waits on a nil
// channel instead of the queue. With two channels that never give anything the
// select would block for ever and the batch would never be tried again, hence
// the empty default. But the default is there when nothing has failed, too: an
// empty queue makes the loop turn as fast as a core can, in runtime.selectgo.
// Nobody sees it under heavy load (the queue always has a line to give) nor
// while the sink is down (then it sleeps between tries).
func startSink(lines <-chan []byte, done <-chan struct{}, out *batch) {
	failed := false
	for {
		queue := lines
		if failed {
			queue = nil
		}
		select {
		case line := <-queue:
			out.add(line)
		case <-done:
			return
		default:
		}
		if failed || out.full() {
			failed = out.post() != nil
			if failed {
				time.Sleep(out.retry)
			}
		}
	}
}

// startSinkRepaired waits in its select for whatever comes next: a line, the
// end, or the time of the next try.
func startSinkRepaired(lines <-chan []byte, done <-chan struct{}, out *batch) {
	var again <-chan time.Time // nil unless the last POST has failed
	for {
		queue := lines
		if again != nil {
			queue = nil
		}
		select {
		case line := <-queue:
			out.add(line)
		case <-again:
			again = nil
		case <-done:
			return
		}
		if out.full() && out.post() != nil {
			again = time.After(out.retry)
		}
	}
}

// batch collects lines and POSTs them, gzipped, to the sink.
type batch struct {
	url      string
	maxLines int
	maxBytes int
	retry    time.Duration // pause after a POST that failed

	lines  [][]byte
	size   int // bytes of lines and their ends
	packed bytes.Buffer
	zip    *gzip.Writer
	client http.Client
}

func newBatch(url string, maxLines, maxBytes int, retry time.Duration) *batch {
	zip, err := gzip.NewWriterLevel(io.Discard, gzip.BestCompression)
	if err != nil {
		panic(err) // the level is a constant of the package
	}
	return &batch{
		url: url, maxLines: maxLines, maxBytes: maxBytes, retry: retry,
		zip:    zip,
		client: http.Client{Timeout: 10 * time.Second},
	}
}

func (b *batch) add(line []byte) {
	b.lines = append(b.lines, line)
	b.size += len(line) + 1
}

func (b *batch) full() bool {
	return len(b.lines) >= b.maxLines || b.size >= b.maxBytes
}

// post sends the batch and empties it; after an error it keeps every line.
func (b *batch) post() error {
	if err := b.compress(); err != nil {
		return err
	}
	err := b.send()
	if err != nil {
		log.Printf("cannot send %d lines, trying again in %s: %v", len(b.lines), b.retry, err)
		return err
	}
	b.lines = b.lines[:0]
	b.size = 0
	return nil
}

// finish tries the last batch once and returns the lines that could not be sent.
func (b *batch) finish() [][]byte {
	if len(b.lines) > 0 {
		_ = b.post() // logged; the lines stay in the batch
	}
	return b.lines
}

func (b *batch) compress() error {
	b.packed.Reset()
	b.zip.Reset(&b.packed)
	for _, line := range b.lines {
		if _, err := b.zip.Write(line); err != nil {
			return err
		}
		if _, err := b.zip.Write([]byte{'\n'}); err != nil {
			return err
		}
	}
	return b.zip.Close()
}

func (b *batch) send() error {
	request, err := http.NewRequest(http.MethodPost, b.url, bytes.NewReader(b.packed.Bytes()))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "text/plain; charset=utf-8")
	request.Header.Set("Content-Encoding", "gzip")
	answer, err := b.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.CopyN(io.Discard, answer.Body, 64<<10); err != nil && err != io.EOF {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("%s answered %s", b.url, answer.Status)
	}
	return nil
}
