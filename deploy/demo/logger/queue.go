package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	segmentBytes = 4 << 20
	headerBytes  = 4
	lineMaxBytes = 1 << 20
)

var (
	errQueueFull   = errors.New("the queue is full")
	errQueueClosed = errors.New("the queue is closed")
)

// diskQueue keeps lines in files of at most about segmentBytes, oldest first,
// and gives them out in order on the channel lines.
//
// A line is a little-endian u32 length and its bytes. A segment is deleted when
// its last line was taken. How far the oldest was read is written down at close;
// after a crash the lines of that one segment are given out again.
type diskQueue struct {
	lines <-chan []byte

	dir      string
	maxBytes int64

	mu       sync.Mutex
	closed   bool
	segments []segment // never empty; the last is written to
	writer   *os.File
	used     int64 // bytes of all segments
	buffer   []byte

	grown   chan struct{} // capacity 1: something was put, or the queue was closed
	done    chan struct{}
	stopped chan struct{}
}

type segment struct {
	id    uint64
	bytes int64
}

// openQueue opens the queue in dir, made if missing, of at most maxBytes on disk.
func openQueue(dir string, maxBytes int64) (*diskQueue, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	segments, err := listSegments(dir)
	if err != nil {
		return nil, err
	}
	lines := make(chan []byte)
	q := &diskQueue{
		lines:    lines,
		dir:      dir,
		maxBytes: maxBytes,
		segments: segments,
		grown:    make(chan struct{}, 1),
		done:     make(chan struct{}),
		stopped:  make(chan struct{}),
	}
	for _, s := range segments {
		q.used += s.bytes
	}
	// Never append to a segment of an earlier run: its tail may be torn.
	next := uint64(1)
	if n := len(segments); n > 0 {
		next = segments[n-1].id + 1
	}
	if err := q.startSegment(next); err != nil {
		return nil, err
	}
	go q.ioLoop(lines, q.readPosition())
	return q, nil
}

// put appends lines, all or none. errQueueFull says that they do not fit.
func (q *diskQueue) put(lines [][]byte) error {
	if len(lines) == 0 {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return errQueueClosed
	}
	q.buffer = q.buffer[:0]
	for _, line := range lines {
		if len(line) > lineMaxBytes {
			return fmt.Errorf("a line of %d bytes is longer than %d", len(line), lineMaxBytes)
		}
		q.buffer = appendLine(q.buffer, line)
	}
	size := int64(len(q.buffer))
	if q.used+size > q.maxBytes {
		return errQueueFull
	}
	last := &q.segments[len(q.segments)-1]
	if last.bytes > 0 && last.bytes+size > segmentBytes {
		if err := q.startSegment(last.id + 1); err != nil {
			return err
		}
		last = &q.segments[len(q.segments)-1]
	}
	if _, err := q.writer.WriteAt(q.buffer, last.bytes); err != nil {
		return fmt.Errorf("cannot write to the queue: %w", err)
	}
	last.bytes += size
	q.used += size
	select {
	case q.grown <- struct{}{}:
	default: // the reader is told already
	}
	return nil
}

// close stops giving out lines and writes down how far they were read.
func (q *diskQueue) close() {
	q.mu.Lock()
	already := q.closed
	q.closed = true
	q.mu.Unlock()
	if already {
		return
	}
	close(q.done)
	<-q.stopped
	q.writer.Close()
}

// ioLoop reads the segments in order and gives out their lines until close.
func (q *diskQueue) ioLoop(lines chan<- []byte, offset int64) {
	defer close(q.stopped)
	for {
		current := q.oldest()
		taken, err := q.readSegment(lines, current.id, offset)
		offset = taken
		if errors.Is(err, errQueueClosed) {
			q.writePosition(current.id, offset)
			return
		}
		if err != nil {
			log.Printf("skipping the rest of segment %d from byte %d: %v", current.id, offset, err)
		}
		for err = q.drop(current.id); err != nil; err = q.drop(current.id) {
			log.Print(err)
			select {
			case <-time.After(time.Second):
			case <-q.done:
				q.writePosition(current.id, offset)
				return
			}
		}
		offset = 0
	}
}

// readSegment gives out the lines of the oldest segment, id, from offset on, and
// returns how far they were taken. The error is nil when a later segment follows
// and all is read, errQueueClosed at close, or what is wrong with the file.
func (q *diskQueue) readSegment(lines chan<- []byte, id uint64, offset int64) (int64, error) {
	file, err := os.Open(q.path(id))
	if err != nil {
		return offset, err
	}
	defer file.Close()
	reader := bufio.NewReaderSize(nil, 64<<10)
	for {
		end, last := q.end()
		// Only what was put whole is read: bytes past end may still change.
		reader.Reset(io.NewSectionReader(file, offset, end-offset))
		for offset < end {
			line, err := readLine(reader)
			if err != nil {
				return offset, err
			}
			select {
			case lines <- line:
				offset += int64(headerBytes + len(line))
			case <-q.done:
				return offset, errQueueClosed
			}
		}
		if !last {
			return offset, nil
		}
		select {
		case <-q.grown:
		case <-q.done:
			return offset, errQueueClosed
		}
	}
}

func (q *diskQueue) oldest() segment {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.segments[0]
}

// end returns the bytes of the oldest segment, and whether it is the last one,
// which may still grow.
func (q *diskQueue) end() (int64, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.segments[0].bytes, len(q.segments) == 1
}

// drop deletes the oldest segment, id; if it is the last, a new one follows it first.
func (q *diskQueue) drop(id uint64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.segments) == 1 {
		if err := q.startSegment(id + 1); err != nil {
			return err
		}
	}
	q.used -= q.segments[0].bytes
	q.segments = append([]segment(nil), q.segments[1:]...)
	os.Remove(q.path(id))
	return nil
}

// startSegment makes id the segment that is written to. The caller holds the lock.
func (q *diskQueue) startSegment(id uint64) error {
	file, err := os.OpenFile(q.path(id), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot start a segment of the queue: %w", err)
	}
	if q.writer != nil {
		q.writer.Close()
	}
	q.writer = file
	q.segments = append(q.segments, segment{id: id})
	return nil
}

func (q *diskQueue) path(id uint64) string {
	return filepath.Join(q.dir, fmt.Sprintf("%016d.queue", id))
}

// readPosition returns how far the oldest segment was read before, or 0.
func (q *diskQueue) readPosition() int64 {
	text, err := os.ReadFile(filepath.Join(q.dir, "position"))
	if err != nil {
		return 0
	}
	var id uint64
	var offset int64
	if n, err := fmt.Sscanf(string(text), "%d %d", &id, &offset); err != nil || n != 2 {
		return 0
	}
	if oldest := q.segments[0]; id != oldest.id || offset < 0 || offset > oldest.bytes {
		return 0
	}
	return offset
}

func (q *diskQueue) writePosition(id uint64, offset int64) {
	text := fmt.Sprintf("%d %d\n", id, offset)
	path := filepath.Join(q.dir, "position")
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err == nil {
		os.Rename(path+".new", path)
	}
}

func listSegments(dir string) ([]segment, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.queue"))
	if err != nil {
		return nil, err
	}
	segments := make([]segment, 0, len(paths))
	for _, path := range paths {
		id, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(path), ".queue"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s is not a file of this queue", path)
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		segments = append(segments, segment{id: id, bytes: info.Size()})
	}
	sort.Slice(segments, func(i, j int) bool { return segments[i].id < segments[j].id })
	return segments, nil
}

func appendLine(buffer, line []byte) []byte {
	var header [headerBytes]byte
	binary.LittleEndian.PutUint32(header[:], uint32(len(line)))
	return append(append(buffer, header[:]...), line...)
}

func readLine(reader io.Reader) ([]byte, error) {
	var header [headerBytes]byte
	if _, err := io.ReadFull(reader, header[:]); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(header[:])
	if size > lineMaxBytes {
		return nil, fmt.Errorf("a line of %d bytes cannot be", size)
	}
	line := make([]byte, size)
	_, err := io.ReadFull(reader, line)
	return line, err
}
