// Command logger takes log lines over HTTP, keeps them in a queue on disk, and
// POSTs them to a sink in gzipped batches.
//
// It is the service of Tepui's demonstration: the loop that feeds the sink
// burns a core whenever the queue is empty (see startSink). The flag -repaired
// runs the same service with that loop mended.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	queueMaxBytes = 64 << 20
	batchMaxLines = 512
	batchMaxBytes = 256 << 10
	retryPause    = time.Second
	drainTime     = 5 * time.Second
)

func main() {
	var (
		listen   = flag.String("listen", "127.0.0.1:8080", "`address` to take log lines on (POST /log)")
		sinkURL  = flag.String("sink", "", "`URL` that gets the gzipped batches")
		queueDir = flag.String("queue", "logger-queue", "`folder` of the queue")
		pprofOn  = flag.String("pprof", "", "`address` to serve /debug/pprof/ on; empty serves none")
		repaired = flag.Bool("repaired", false, "run the repaired sink loop")
	)
	flag.Parse()
	log.SetFlags(log.LstdFlags | log.LUTC)
	log.SetPrefix("logger: ")
	if *sinkURL == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(64)
	}

	loop := startSink
	if *repaired {
		loop = startSinkRepaired
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *pprofOn, *queueDir, *sinkURL, loop); err != nil {
		log.Print(err)
		os.Exit(1)
	}
}

// run serves until ctx ends, then stops in this order: HTTP (no new lines), the
// sink loop (its last batch is sent, or goes back to the queue), the queue.
func run(ctx context.Context, listen, pprofOn, queueDir, sinkURL string, loop sinkLoop) error {
	queue, err := openQueue(queueDir, queueMaxBytes)
	if err != nil {
		return fmt.Errorf("cannot open the queue in %s: %w", queueDir, err)
	}
	defer queue.close()

	done := make(chan struct{})
	unsent := make(chan [][]byte, 1)
	go func() {
		out := newBatch(sinkURL, batchMaxLines, batchMaxBytes, retryPause)
		loop(queue.lines, done, out)
		unsent <- out.finish()
	}()

	failed := make(chan error, 2)
	servers := []*http.Server{}
	start := func(what, address string, handler http.Handler) error {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("cannot listen for %s: %w", what, err)
		}
		log.Printf("%s on http://%s", what, listener.Addr())
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
		servers = append(servers, server)
		go func() { failed <- server.Serve(listener) }()
		return nil
	}
	err = start("lines", listen, intake(queue))
	if err == nil && pprofOn != "" {
		err = start("pprof", pprofOn, profiles())
	}

	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	}

	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	for _, server := range servers {
		if stopErr := server.Shutdown(drain); stopErr != nil && !errors.Is(stopErr, context.DeadlineExceeded) {
			log.Printf("cannot stop a server: %v", stopErr)
		}
	}
	close(done)
	left := <-unsent
	if putErr := queue.put(left); putErr != nil {
		log.Printf("lost %d lines: %v", len(left), putErr)
	}
	return err
}
