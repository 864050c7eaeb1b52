package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const maxInFlight = 64

// send POSTs a body of lines every interval until ctx ends, and logs the counts.
//
// The loop is open: a slow answer does not slow the rate. Past maxInFlight open
// requests one is left out and counted as dropped.
func send(ctx context.Context, target string, interval time.Duration, lines int) {
	var sent, failed, dropped atomic.Int64
	var open sync.WaitGroup
	slots := make(chan struct{}, maxInFlight)
	client := &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: maxInFlight},
	}
	random := rand.New(rand.NewSource(1))

	began := time.Now()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for due := int64(0); ; {
		select {
		case <-ctx.Done():
			open.Wait()
			log.Printf("sent %d, failed %d, dropped %d requests", sent.Load(), failed.Load(), dropped.Load())
			return
		case <-tick.C:
		}
		// A ticker drops ticks when it is late; the clock says how many are due.
		for now := int64(time.Since(began) / interval); due < now; due++ {
			select {
			case slots <- struct{}{}:
			default:
				dropped.Add(1)
				continue
			}
			body := logLines(random, lines)
			open.Add(1)
			go func() {
				defer open.Done()
				defer func() { <-slots }()
				if post(client, target, body) != nil {
					failed.Add(1)
				} else {
					sent.Add(1)
				}
			}()
		}
	}
}

func post(client *http.Client, target string, body []byte) error {
	answer, err := client.Post(target, "text/plain; charset=utf-8", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("%s answered %s", target, answer.Status)
	}
	return nil
}

var (
	levels  = []string{"debug", "info", "info", "info", "warn", "error"}
	methods = []string{"GET", "GET", "GET", "POST", "PUT", "DELETE"}
	routes  = []string{"/cart", "/checkout", "/login", "/orders", "/products", "/search", "/users"}
)

// logLines returns the body of a request: lines as a web shop might log them.
func logLines(random *rand.Rand, lines int) []byte {
	var body bytes.Buffer
	for i := 0; i < lines; i++ {
		fmt.Fprintf(&body,
			`{"level":"%s","method":"%s","path":"%s/%d","status":%d,"took_us":%d,"trace":"%016x","user":"u-%05d","agent":"Mozilla/5.0 (X11; Linux x86_64) shop/%d.%d"}`+"\n",
			levels[random.Intn(len(levels))], methods[random.Intn(len(methods))],
			routes[random.Intn(len(routes))], random.Intn(100000), 200+random.Intn(5)*100,
			random.Intn(2000000), random.Uint64(), random.Intn(50000), random.Intn(9), random.Intn(30))
	}
	return body.Bytes()
}
