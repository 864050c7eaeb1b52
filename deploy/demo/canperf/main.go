// Command canperf says whether this user may sample a process with perf events:
// it opens a CPU clock for user space on it. Exit code 1 and the reason if not.
package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

// The first published layout of perf_event_attr (PERF_ATTR_SIZE_VER0) has 64
// bytes: type u32, size u32, config u64, period u64, three u64 of masks and
// flags, … See perf_event_open(2).
const (
	attrBytes       = 64
	typeSoftware    = 1
	configCPUClock  = 0
	flagExclKernel  = 1 << 5
	flagExclHypervr = 1 << 6
	openCloseOnExec = 1 << 3
	offsetType      = 0
	offsetSize      = 4
	offsetConfig    = 8
	offsetPeriod    = 16
	offsetFlags     = 40
	anyCPU          = -1
	noGroup         = -1
	periodNanos     = 10_000_000
)

func main() {
	pid := flag.Int("pid", 0, "the process; 0 is this one")
	flag.Parse()

	var attr [attrBytes]byte
	binary.LittleEndian.PutUint32(attr[offsetType:], typeSoftware)
	binary.LittleEndian.PutUint32(attr[offsetSize:], attrBytes)
	binary.LittleEndian.PutUint64(attr[offsetConfig:], configCPUClock)
	binary.LittleEndian.PutUint64(attr[offsetPeriod:], periodNanos)
	binary.LittleEndian.PutUint64(attr[offsetFlags:], flagExclKernel|flagExclHypervr)
	cpu, group := anyCPU, noGroup
	fd, _, errno := syscall.Syscall6(syscall.SYS_PERF_EVENT_OPEN,
		uintptr(unsafe.Pointer(&attr[0])), uintptr(*pid), uintptr(cpu), uintptr(group), openCloseOnExec, 0)
	if errno != 0 {
		fmt.Fprintf(os.Stderr, "perf_event_open on process %d: %v\n", *pid, errno)
		os.Exit(1)
	}
	syscall.Close(int(fd))
}
