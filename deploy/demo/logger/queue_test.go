package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func open(t *testing.T, dir string, maxBytes int64) *diskQueue {
	t.Helper()
	queue, err := openQueue(dir, maxBytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(queue.close)
	return queue
}

func put(t *testing.T, queue *diskQueue, lines ...string) {
	t.Helper()
	raw := [][]byte{}
	for _, line := range lines {
		raw = append(raw, []byte(line))
	}
	if err := queue.put(raw); err != nil {
		t.Fatal(err)
	}
}

func take(t *testing.T, queue *diskQueue, want ...string) {
	t.Helper()
	for _, line := range want {
		if got := string(<-queue.lines); got != line {
			t.Fatalf("got line %.40q, want %.40q", got, line)
		}
	}
}

func TestLinesComeOutInOrderAcrossSegments(t *testing.T) {
	queue := open(t, t.TempDir(), 64<<20)
	want := []string{}
	for i := 0; i < 24; i++ {
		want = append(want, fmt.Sprintf("%0*d", 512<<10, i)) // eight to a segment
		put(t, queue, want[i])
	}
	take(t, queue, want...)
	put(t, queue, "after")
	take(t, queue, "after")
	if left, err := filepath.Glob(filepath.Join(queue.dir, "*.queue")); err != nil || len(left) != 1 {
		t.Fatalf("segments left: %v, %v", left, err)
	}
}

func TestAReopenedQueueGoesOnWhereItWasClosed(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir, 1<<20)
	put(t, first, "a", "b", "c")
	take(t, first, "a")
	first.close()

	second := open(t, dir, 1<<20)
	put(t, second, "d")
	take(t, second, "b", "c", "d")
}

func TestAFullQueueRefusesAllLinesOfThePut(t *testing.T) {
	queue := open(t, t.TempDir(), 20)
	put(t, queue, "123456")
	err := queue.put([][]byte{[]byte("1"), []byte("123456")})
	if !errors.Is(err, errQueueFull) {
		t.Fatalf("got %v, want %v", err, errQueueFull)
	}
	put(t, queue, "654321")
	take(t, queue, "123456", "654321")
}

func TestATornTailIsSkipped(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir, 1<<20)
	put(t, first, "whole", "torn")
	first.close()
	path := filepath.Join(dir, "0000000000000001.queue")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()-2); err != nil {
		t.Fatal(err)
	}

	second := open(t, dir, 1<<20)
	put(t, second, "next")
	take(t, second, "whole", "next")
}
