// Command load is the traffic of the demonstration: with -target it sends log
// lines at a steady rate, with -sink it is the receiver that logger POSTs to.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	var (
		target   = flag.String("target", "", "`URL` to POST log lines to")
		rate     = flag.Float64("rate", 50, "requests a second")
		lines    = flag.Int("lines", 1, "log lines in a request")
		duration = flag.Duration("duration", 0, "how long to send; 0 until SIGTERM")
		sink     = flag.String("sink", "", "`address` to take gzipped batches on, instead of sending")
	)
	flag.Parse()
	log.SetFlags(log.LstdFlags | log.LUTC)
	log.SetPrefix("load: ")
	if (*target == "") == (*sink == "") || *rate <= 0 || *lines <= 0 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(64)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *duration)
		defer cancel()
	}
	if *sink != "" {
		if err := receive(ctx, *sink); err != nil {
			log.Fatal(err)
		}
		return
	}
	send(ctx, *target, time.Duration(float64(time.Second) / *rate), *lines)
}
