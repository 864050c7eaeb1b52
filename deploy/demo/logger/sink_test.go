package main

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var loops = map[string]sinkLoop{"faulty": startSink, "repaired": startSinkRepaired}

// sink answers the first failures POSTs with 500 and keeps the lines of the others.
type sink struct {
	mu       sync.Mutex
	failures int
	got      []string
	enough   chan struct{}
	want     int
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures > 0 {
		s.failures--
		http.Error(w, "not now", http.StatusInternalServerError)
		return
	}
	text, err := gzip.NewReader(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	body, err := io.ReadAll(text)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.got = append(s.got, strings.Fields(string(body))...)
	if len(s.got) == s.want {
		close(s.enough)
	}
}

func TestEveryLineReachesTheSinkOnceInOrderThoughPostsFail(t *testing.T) {
	for name, loop := range loops {
		t.Run(name, func(t *testing.T) {
			const count, perBatch = 40, 4
			keeper := &sink{failures: 3, want: count, enough: make(chan struct{})}
			server := httptest.NewServer(keeper)
			defer server.Close()

			lines, done := make(chan []byte), make(chan struct{})
			stopped := make(chan struct{})
			go func() {
				loop(lines, done, newBatch(server.URL, perBatch, 1<<20, time.Millisecond))
				close(stopped)
			}()
			want := []string{}
			for i := 0; i < count; i++ {
				want = append(want, fmt.Sprintf("line-%d", i))
				lines <- []byte(want[i])
			}
			<-keeper.enough
			close(done)
			<-stopped
			if got := strings.Join(keeper.got, " "); got != strings.Join(want, " ") {
				t.Fatalf("the sink got %s", got)
			}
		})
	}
}

func TestLinesThatCannotBeSentAtTheEndAreHandedBack(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	out := newBatch(server.URL, 10, 1<<20, time.Millisecond)
	out.add([]byte("kept"))
	if left := out.finish(); len(left) != 1 || string(left[0]) != "kept" {
		t.Fatalf("handed back %q", left)
	}
}

// The faulty loop sets the length of the run: until it has burnt a fixed amount
// of CPU on an empty queue. In the same time the repaired loop may not need a
// tenth of that. However slow the machine is, both see the same of it.
func TestOnlyTheFaultyLoopSpinsOnAnEmptyQueue(t *testing.T) {
	const burn = 200 * time.Millisecond
	faulty, length := idle(startSink, func(cpu, _ time.Duration) bool { return cpu >= burn })
	repaired, _ := idle(startSinkRepaired, func(_, wall time.Duration) bool { return wall >= length })
	if repaired > burn/10 {
		t.Fatalf("in %s on an empty queue the faulty loop used %s, the repaired one %s", length, faulty, repaired)
	}
}

// idle runs loop on an empty queue until enough, and returns the CPU time that
// the process used and the time that passed.
func idle(loop sinkLoop, enough func(cpu, wall time.Duration) bool) (time.Duration, time.Duration) {
	done, stopped := make(chan struct{}), make(chan struct{})
	began, before := time.Now(), cpuTime()
	go func() {
		loop(make(chan []byte), done, newBatch("http://127.0.0.1:0", 1, 1, time.Hour))
		close(stopped)
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !enough(cpuTime()-before, time.Since(began)) {
		<-tick.C
	}
	close(done)
	<-stopped
	return cpuTime() - before, time.Since(began)
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
