//! Opens perf events and the rings they write into.
//!
//! An event counts CPU time of one thread on one CPU and is inherited by the
//! threads and processes it starts; all events of a CPU share one ring. A ring
//! belongs to an event of our own process that never fires: it outlives every
//! target, so waiting on it cannot turn into a busy loop when a target dies.
//! Where that would take too many descriptors, a thread has one event with a
//! ring of its own, is not inherited from, and must be looked for.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use perf_event::events::Software;
use perf_event::{Builder, Counter, SampleFlag, Sampler};

use super::record::Capture;
use crate::sys::redirect;
use crate::unwind::REGISTERS_MASK;

/// Sizes of a ring in bytes, tried in turn: locked memory is scarce and shared
/// by all processes of a user.
const RING_LADDER: [usize; 6] = [1 << 20, 512 << 10, 256 << 10, 128 << 10, 64 << 10, 32 << 10];
/// Most bytes of all rings together.
const MAX_RINGS_BYTES: usize = 4 << 20;
/// Most bytes of all rings of threads that have one of their own.
const MAX_OWN_RINGS_BYTES: usize = 8 << 20;
/// Samples of full size that a ring must be able to hold.
const SAMPLES_PER_RING: usize = 4;
/// Largest dump of a stack in bytes: a record's length has 16 bits.
const MAX_STACK_BYTES: u32 = 63 << 10;
/// Smallest dump of a stack in bytes that is of any use.
const MIN_STACK_BYTES: u32 = 1 << 10;

/// A ring that the kernel writes records into.
#[derive(Debug)]
pub(super) struct Ring {
    sampler: SamplerDebug,
    /// Whether it can be waited for; not after it said that it is gone.
    pub(super) waits: bool,
}

/// The library's type has no `Debug`.
struct SamplerDebug(Sampler);

impl std::fmt::Debug for SamplerDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Sampler").field(&self.0.as_raw_fd()).finish()
    }
}

impl Ring {
    fn new(sampler: Sampler) -> Self {
        Self {
            sampler: SamplerDebug(sampler),
            waits: true,
        }
    }

    /// What to wait for.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        redirect::descriptor(self.sampler.0.as_counter())
    }

    /// CPU time that the event has counted; 0 if that cannot be read.
    pub(super) fn counted_ns(&mut self) -> u64 {
        self.sampler.0.as_counter_mut().read().unwrap_or(0)
    }

    /// Gives every record in the ring to `each` as kind, flags and body.
    ///
    /// Takes no more than the ring holds at once, so that a busy writer cannot
    /// keep us here. Returns whether there was any.
    pub(super) fn drain(&mut self, mut each: impl FnMut(u32, u16, &[u8])) -> bool {
        const MOST_RECORDS: usize = 64 * 1024;
        for taken in 0..MOST_RECORDS {
            let Some(record) = self.sampler.0.next_record() else {
                return taken > 0;
            };
            each(record.ty(), record.misc(), &record.to_contiguous());
        }
        true
    }
}

/// One ring per CPU.
#[derive(Debug)]
pub(super) struct CpuRings {
    pub(super) cpus: Vec<usize>,
    /// One per CPU, in the same order.
    pub(super) rings: Vec<Ring>,
    pub(super) ring_bytes: usize,
}

impl CpuRings {
    /// Maps a ring for each of `cpus`, as large as the user's budget of locked
    /// memory allows.
    ///
    /// # Errors
    ///
    /// `EPERM` if even the smallest do not fit.
    pub(super) fn open(cpus: Vec<usize>) -> io::Result<Self> {
        let (ring_bytes, rings) = descend(MAX_RINGS_BYTES / cpus.len().max(1), |ring_bytes| {
            cpus.iter()
                .map(|&cpu| silent_ring(cpu, ring_bytes))
                .collect()
        })?;
        Ok(Self {
            cpus,
            rings,
            ring_bytes,
        })
    }
}

/// Tries `open` with smaller and smaller rings, the first of at most `most`
/// bytes, while there is no permission to lock as much.
fn descend<T>(most: usize, open: impl Fn(usize) -> io::Result<T>) -> io::Result<(usize, T)> {
    let mut refused = io::Error::from_raw_os_error(libc::EPERM);
    let smallest = RING_LADDER.last().copied().unwrap_or_default();
    for ring_bytes in RING_LADDER {
        if ring_bytes > smallest && ring_bytes > most {
            continue;
        }
        match open(ring_bytes) {
            Ok(opened) => return Ok((ring_bytes, opened)),
            Err(error) if is_out_of_locked_memory(&error) => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

fn is_out_of_locked_memory(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::ENOMEM | libc::EAGAIN)
    )
}

/// Asks whether events can be opened at all.
///
/// # Errors
///
/// What the kernel, or a filter before it, says.
pub(super) fn may_open() -> io::Result<()> {
    let own = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    let opened = Builder::new(Software::DUMMY).observe_pid(own).build();
    opened.map(drop)
}

/// The event's process is our own main thread, which lives as long as we do.
fn silent_ring(cpu: usize, ring_bytes: usize) -> io::Result<Ring> {
    let own = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    let mut builder = Builder::new(Software::DUMMY);
    builder
        .observe_pid(own)
        .one_cpu(cpu)
        .wakeup_watermark(ring_bytes / 2);
    Ok(Ring::new(builder.build()?.sampled(ring_bytes)?))
}

/// What is sampled, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) tid: i32,
    /// CPU time from sample to sample.
    pub(super) period_ns: u64,
    pub(super) capture: Capture,
    /// Whether a sample is taken in system calls, too; its stack is that of
    /// the program either way.
    pub(super) with_kernel: bool,
}

impl Request {
    fn builder(self) -> Builder<'static> {
        let mut builder = Builder::new(Software::CPU_CLOCK);
        builder
            .observe_pid(self.tid)
            .enabled(false)
            .sample_period(self.period_ns)
            .sample(SampleFlag::IDENTIFIER | SampleFlag::IP | SampleFlag::TID)
            .sample(SampleFlag::STREAM_ID | SampleFlag::CPU | SampleFlag::PERIOD)
            .exclude_kernel(!self.with_kernel)
            .exclude_hv(true)
            .mmap(true)
            .comm(true)
            .comm_exec(true)
            .task(true);
        match self.capture {
            Capture::Chain => {
                builder
                    .sample(SampleFlag::CALLCHAIN)
                    .exclude_callchain_kernel(true);
            }
            Capture::Dump { stack_bytes } => {
                builder
                    .sample(SampleFlag::REGS_USER | SampleFlag::STACK_USER)
                    .sample_regs_user(REGISTERS_MASK)
                    .sample_stack_user(stack_bytes);
            }
        }
        builder
    }

    /// Opens the event on one CPU, inherited by what the thread starts, and
    /// lets it write into `ring`.
    pub(super) fn open_on_cpu(self, cpu: usize, ring: &Ring) -> io::Result<Counter> {
        let mut counter = self.builder().one_cpu(cpu).inherit(true).build()?;
        redirect::set_output(redirect::descriptor(&counter), ring.descriptor())?;
        counter.enable()?;
        Ok(counter)
    }

    /// Opens the event on every CPU with a ring of its own, one of as many as
    /// there are `threads`. A dump is no larger than such a ring can hold.
    pub(super) fn open_alone(self, threads: usize) -> io::Result<(u64, Ring)> {
        let most = MAX_OWN_RINGS_BYTES / threads.max(1);
        let (_, (id, mut ring)) = descend(most, |ring_bytes| {
            let capture = match self.capture {
                Capture::Chain => Capture::Chain,
                Capture::Dump { stack_bytes } => Capture::Dump {
                    stack_bytes: stack_bytes_for(stack_bytes, ring_bytes),
                },
            };
            let mut builder = Self { capture, ..self }.builder();
            builder.any_cpu().wakeup_watermark(ring_bytes / 2);
            let counter = builder.build()?;
            let id = counter.id();
            Ok((id, Ring::new(counter.sampled(ring_bytes)?)))
        })?;
        ring.sampler.0.enable()?;
        Ok((id, ring))
    }
}

/// The largest dump of at most `wanted` bytes of which a ring holds a few.
pub(super) fn stack_bytes_for(wanted: u32, ring_bytes: usize) -> u32 {
    let fitting = u32::try_from(ring_bytes / SAMPLES_PER_RING).unwrap_or(u32::MAX);
    let most = fitting.clamp(MIN_STACK_BYTES, MAX_STACK_BYTES);
    wanted.clamp(MIN_STACK_BYTES, most) & !7
}

/// CPUs that are online, from `/sys/devices/system/cpu/online`.
pub(super) fn online_cpus() -> Vec<usize> {
    let listed = std::fs::read_to_string("/sys/devices/system/cpu/online")
        .map(|text| cpu_list(text.trim()))
        .unwrap_or_default();
    if listed.is_empty() {
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        return (0..count).collect();
    }
    listed
}

/// Reads a list such as `0-3,8`.
fn cpu_list(text: &str) -> Vec<usize> {
    const MOST_CPUS: usize = 8192;
    text.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?)
        })
        .flatten()
        .take(MOST_CPUS)
        .collect()
}

/// Threads of process `pid`.
///
/// # Errors
///
/// If the process is gone.
pub(super) fn threads(pid: i32) -> io::Result<Vec<i32>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = entry?.file_name();
        threads.extend(name.to_str().and_then(|tid| tid.parse::<i32>().ok()));
    }
    Ok(threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_read_as_the_kernel_writes_them() {
        for (text, expected) in [
            ("0", vec![0]),
            ("0-3", vec![0, 1, 2, 3]),
            ("0-1,4,6-7", vec![0, 1, 4, 6, 7]),
            ("", vec![]),
            ("x,2-1,3", vec![3]),
        ] {
            assert_eq!(cpu_list(text), expected, "{text:?}");
        }
        assert_eq!(cpu_list("0-18446744073709551615").len(), 8192);
    }

    #[test]
    fn a_dump_leaves_room_for_others_in_its_ring() {
        for (wanted, ring_bytes, expected) in [
            (16_384, 512 << 10, 16_384),
            (16_384, 32 << 10, 8_192),
            (65_535, 512 << 10, 64_512),
            (1_001, 512 << 10, 1_024),
            (8_197, 512 << 10, 8_192),
            (0, 0, 1_024),
        ] {
            assert_eq!(stack_bytes_for(wanted, ring_bytes), expected);
        }
    }

    #[test]
    fn rings_shrink_until_they_may_be_locked() {
        let limit = |most: usize| {
            move |bytes: usize| {
                if bytes <= most {
                    Ok(())
                } else {
                    Err(io::Error::from_raw_os_error(libc::EPERM))
                }
            }
        };
        for (wanted, most, expected) in [
            (2 << 20, 1 << 20, Some(1 << 20)),
            (512 << 10, 1 << 20, Some(512 << 10)),
            (2 << 20, 100 << 10, Some(64 << 10)),
            (2 << 20, 32 << 10, Some(32 << 10)),
            (2 << 20, 1 << 10, None),
            (200 << 10, 1 << 20, Some(128 << 10)),
            (1 << 10, 1 << 20, Some(32 << 10)),
        ] {
            let got = descend(wanted, limit(most)).ok().map(|(bytes, ())| bytes);
            assert_eq!(got, expected, "{wanted} of at most {most}");
        }
    }
}
