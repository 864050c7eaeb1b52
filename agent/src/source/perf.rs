//! CPU samples of other processes by perf events. Stacks are those of user
//! code; where the kernel allows it, its own work for a thread counts for the
//! call that asked for it.
//!
//! Promises: nothing of the target is stopped or changed. Its threads and
//! processes are followed as they come, a thread is counted once, dead ones
//! cost nothing, and what the kernel or a bound drops is counted as lost. The
//! kernel follows frame pointers where a program keeps them (Go, Node);
//! otherwise registers and a piece of the stack are unwound here.
//!
//! Not asynchronous: [`PerfSampler`] lives on a thread of its own.

mod events;
mod follow;
mod permission;
mod picture;
mod processes;
mod record;
mod subset;
mod tally;
mod worth;

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use proto::profile::Column;
use proto::value_type::{ProfileType, Temporality};
use proto::window::Window;
use rustc_hash::{FxHashMap, FxHashSet};

use self::events::{CpuRings, Ring};
use self::follow::{Opener, Target};
use self::permission::Circumstances;
use self::processes::Processes;
use self::record::Capture;
use super::random::Random;
use super::{Collected, SampleGroup};
use crate::symbolize::Symbolizer;
use crate::symbolize::binary::keeps_frame_pointers;
use crate::sys::wait::{Readiness, wait_readable};

/// How often new threads are looked for where events are not inherited.
const RESCAN_EVERY: Duration = Duration::from_millis(500);
/// Looks at a process's threads until none is new, at most this often.
const MAX_LOOKS: usize = 4;
/// Calls that the kernel follows, `kernel.perf_event_max_stack`.
const DEFAULT_CHAIN_LIMIT: usize = 127;

/// How to sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerfOptions {
    /// Samples per second of CPU time.
    pub rate_hz: u32,
    /// Bytes of stack that are taken with a sample that is unwound here.
    pub stack_bytes: u32,
    /// Most events that are opened for one process, each a descriptor: one for
    /// each thread and CPU. Beyond it a thread has one for all CPUs, new threads
    /// are looked for, and of very many some stand for the others.
    pub max_events: usize,
}

impl Default for PerfOptions {
    fn default() -> Self {
        Self {
            rate_hz: 99,
            stack_bytes: 16 << 10,
            max_events: 2_000,
        }
    }
}

/// Why a process cannot be sampled.
#[derive(Debug, thiserror::Error)]
pub enum PerfError {
    /// The kernel refuses; `advice` says what changes that.
    #[error("may not sample process {pid} with perf events: {advice}")]
    NotPermitted {
        /// The process.
        pid: i32,
        /// What to do.
        advice: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The process is gone.
    #[error("process {pid} is gone")]
    TargetGone {
        /// The process.
        pid: i32,
    },
    /// Not even small rings may be locked in memory.
    #[error(
        "cannot lock memory for perf rings: raise kernel.perf_event_mlock_kb, or add the \
         capability PERFMON"
    )]
    Memlock(#[source] io::Error),
    /// Something else failed.
    #[error("cannot {doing} process {pid} with perf events")]
    Io {
        /// The process; 0 for all.
        pid: i32,
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn failure(pid: i32, doing: &'static str, source: io::Error) -> PerfError {
    match source.raw_os_error() {
        Some(libc::ESRCH) => PerfError::TargetGone { pid },
        Some(libc::EACCES | libc::EPERM | libc::ENOSYS) => PerfError::NotPermitted {
            pid,
            advice: Circumstances::of(pid).advice(&source),
            source,
        },
        _ if source.kind() == io::ErrorKind::NotFound => PerfError::TargetGone { pid },
        _ => PerfError::Io { pid, doing, source },
    }
}

/// Asks whether process `pid` can be sampled; samples nothing.
///
/// # Errors
///
/// [`PerfError`] says why not, and what changes it.
pub fn probe(pid: i32) -> Result<(), PerfError> {
    let sampler = PerfSampler::open(&[pid], PerfOptions::default())?;
    drop(sampler);
    Ok(())
}

/// Samples a set of processes.
pub struct PerfSampler {
    options: PerfOptions,
    /// CPU time from sample to sample, now.
    period_ns: u64,
    random: Random,
    rings: CpuRings,
    targets: FxHashMap<i32, Target>,
    /// Wanted processes that inherited their events from another target.
    inheriting: FxHashSet<i32>,
    processes: Processes,
    symbolizer: Symbolizer,
    rescanned: Instant,
    /// When sampling began, until the first window is collected.
    began: Option<Instant>,
    /// Whether samples taken within system calls are asked for; the kernel may
    /// not allow it.
    with_kernel: bool,
}

impl fmt::Debug for PerfSampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerfSampler")
            .field("options", &self.options)
            .field("targets", &self.targets.keys())
            .field("inheriting", &self.inheriting)
            .finish_non_exhaustive()
    }
}

/// Whether process `pid` is there and has a thread that has not ended; its
/// first thread may end before the others.
fn is_alive(pid: i32) -> bool {
    let threads = events::threads(pid).unwrap_or_default();
    threads.iter().any(|tid| {
        let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")) else {
            return false;
        };
        // The name before it may hold anything.
        let state = text
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        !matches!(state, None | Some('Z' | 'X'))
    })
}

/// Lets this process open as many files as it may: an event is one.
pub(super) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::debug!(%error, "limit of open files not raised");
    }
}

fn period_ns(rate_hz: u32) -> u64 {
    1_000_000_000 / u64::from(rate_hz.max(1))
}

fn chain_limit() -> usize {
    std::fs::read_to_string("/proc/sys/kernel/perf_event_max_stack")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT_CHAIN_LIMIT)
}

impl PerfSampler {
    /// Begins to sample the processes `pids`.
    ///
    /// # Errors
    ///
    /// [`PerfError`] of the first, if none can be sampled.
    pub fn open(pids: &[i32], options: PerfOptions) -> Result<Self, PerfError> {
        raise_descriptor_limit();
        let first = pids.first().copied().unwrap_or(0);
        // A filter's refusal must not be taken for one of locked memory.
        events::may_open().map_err(|source| failure(first, "open events for", source))?;
        let rings = CpuRings::open(events::online_cpus()).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EPERM | libc::ENOMEM | libc::EAGAIN) => PerfError::Memlock(source),
                _ => failure(first, "map rings for", source),
            }
        })?;
        let period_ns = period_ns(options.rate_hz);
        let mut sampler = Self {
            options,
            period_ns,
            random: Random::new(),
            rings,
            targets: FxHashMap::default(),
            inheriting: FxHashSet::default(),
            processes: Processes::new(chain_limit(), period_ns),
            symbolizer: Symbolizer::default(),
            rescanned: Instant::now(),
            began: Some(Instant::now()),
            with_kernel: true,
        };
        let mut first_failure = None;
        for &pid in pids {
            if let Err(failure) = sampler.add_process(pid) {
                first_failure.get_or_insert(failure);
            }
        }
        match first_failure {
            Some(failure) if !sampler.has_targets() => Err(failure),
            _ => Ok(sampler),
        }
    }

    /// Samples process `pid`, too. Its later threads and children are followed
    /// by themselves.
    ///
    /// # Errors
    ///
    /// [`PerfError`]; the other processes go on.
    pub fn add_process(&mut self, pid: i32) -> Result<(), PerfError> {
        if self.targets.contains_key(&pid) || self.inheriting.contains(&pid) {
            if is_alive(pid) {
                return Ok(());
            }
            // Its id may belong to another process soon.
            self.remove_process(pid);
        }
        self.drain(Instant::now());
        self.processes.want(pid);
        let parent = self.processes.inherited_from(pid);
        if parent.is_some_and(|parent| self.is_followed(parent)) {
            self.inheriting.insert(pid);
            return Ok(());
        }
        self.follow(pid)
    }

    /// Whether children of `pid` inherit events.
    fn is_followed(&self, pid: i32) -> bool {
        let own = self
            .targets
            .get(&pid)
            .is_some_and(|target| !target.is_alone());
        own || self.inheriting.contains(&pid)
    }

    fn follow(&mut self, pid: i32) -> Result<(), PerfError> {
        let reads = keeps_frame_pointers(pid);
        let capture = match reads.map_err(|source| failure(pid, "read", source))? {
            true => Capture::Chain,
            false => Capture::Dump {
                stack_bytes: events::stack_bytes_for(
                    self.options.stack_bytes,
                    self.rings.ring_bytes,
                ),
            },
        };
        let mut target = Target::new(pid, capture);
        let mut opener = self.opener();
        for _ in 0..MAX_LOOKS {
            if target.follow_new_threads(&mut opener)? == 0 {
                break;
            }
        }
        if !target.is_followed() {
            return Err(PerfError::TargetGone { pid });
        }
        self.processes.stands_alone(pid);
        self.processes.prepare(pid, Instant::now());
        self.targets.insert(pid, target);
        Ok(())
    }

    fn opener(&mut self) -> Opener<'_> {
        Opener {
            rings: &self.rings,
            processes: &mut self.processes,
            random: &mut self.random,
            period_ns: self.period_ns,
            max_events: self.options.max_events,
            with_kernel: &mut self.with_kernel,
        }
    }

    /// Samples process `pid` no longer.
    pub fn remove_process(&mut self, pid: i32) {
        self.drain(Instant::now());
        self.inheriting.remove(&pid);
        self.follow_heirs(pid);
        self.processes.ignore(pid);
        if let Some(target) = self.targets.remove(&pid) {
            self.processes.closed(&target.ids());
        }
    }

    /// Gives events of their own to processes that inherited those of `pid`:
    /// what was inherited ends with what it came from.
    fn follow_heirs(&mut self, pid: i32) {
        if !self.targets.contains_key(&pid) {
            return;
        }
        let heirs: Vec<i32> = self
            .inheriting
            .iter()
            .copied()
            .filter(|heir| self.processes.descends(*heir, pid))
            .collect();
        for heir in heirs {
            self.inheriting.remove(&heir);
            if let Err(error) = self.follow(heir) {
                tracing::debug!(pid = heir, %error, "process not followed");
            }
        }
    }

    /// Takes in samples; sleeps while there are none, for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`PerfError::Io`] if waiting fails.
    pub fn poll(&mut self, timeout: Duration) -> Result<(), PerfError> {
        self.wait(timeout).map_err(|source| PerfError::Io {
            pid: 0,
            doing: "wait for",
            source,
        })?;
        let now = Instant::now();
        self.drain(now);
        self.follow_programs();
        if now.saturating_duration_since(self.rescanned) >= RESCAN_EVERY {
            self.rescanned = now;
            self.rescan();
        }
        Ok(())
    }

    /// Waits for a ring that has something, or until `timeout`. Rings of
    /// threads that are gone are never waited for again.
    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let mut waited: Vec<&mut Ring> = self
            .targets
            .values_mut()
            .flat_map(Target::rings)
            .chain(&mut self.rings.rings)
            .filter(|ring| ring.waits)
            .collect();
        let descriptors: Vec<_> = waited.iter().map(|ring| ring.descriptor()).collect();
        let readiness = wait_readable(&descriptors, timeout)?;
        drop(descriptors);
        for (ring, readiness) in waited.iter_mut().zip(readiness) {
            if readiness == Readiness::Gone {
                ring.waits = false;
            }
        }
        Ok(())
    }

    /// Takes in everything the rings hold.
    fn drain(&mut self, now: Instant) {
        let Self {
            rings,
            targets,
            processes,
            ..
        } = self;
        for ring in &mut rings.rings {
            ring.drain(|kind, misc, body| processes.take(kind, misc, body, now));
        }
        for target in targets.values_mut() {
            for ring in target.rings() {
                ring.drain(|kind, misc, body| processes.take(kind, misc, body, now));
            }
            processes.closed(&target.close_ended());
        }
    }

    /// A process that runs another program now may want another way of
    /// taking stacks.
    fn follow_programs(&mut self) {
        for pid in self.processes.take_executed() {
            let was_wanted = self.targets.contains_key(&pid) || self.inheriting.contains(&pid);
            if !was_wanted {
                continue;
            }
            self.remove_process(pid);
            self.processes.want(pid);
            if let Err(error) = self.follow(pid) {
                tracing::debug!(pid, %error, "program not followed");
            }
        }
    }

    /// Looks for new threads where nothing inherits events.
    fn rescan(&mut self) {
        self.for_each_alone(|target, opener| target.follow_new_threads(opener));
    }

    /// Does `change` to each process whose threads have events of their own.
    fn for_each_alone(
        &mut self,
        change: impl Fn(&mut Target, &mut Opener<'_>) -> Result<usize, PerfError>,
    ) {
        let mut targets = std::mem::take(&mut self.targets);
        for (pid, target) in targets.iter_mut().filter(|(_, target)| target.is_alone()) {
            if let Err(error) = change(target, &mut self.opener()) {
                tracing::debug!(pid, %error, "threads not followed");
            }
        }
        self.targets = targets;
    }

    /// Samples at the configured rate divided by `divisor` from now on. Belongs
    /// right behind [`PerfSampler::collect`]: a window has one period.
    pub fn set_divisor(&mut self, divisor: u32) {
        let period_ns = period_ns(self.options.rate_hz).saturating_mul(u64::from(divisor.max(1)));
        if period_ns == self.period_ns {
            return;
        }
        self.period_ns = period_ns;
        self.processes.count_in(period_ns);
        // What was taken at the rate before is worth what it was.
        self.drain(Instant::now());
        for target in self.targets.values_mut() {
            target.set_period(period_ns, &mut self.processes);
        }
    }

    /// Forgets names; they are read again when they are needed.
    pub fn forget(&mut self) {
        self.symbolizer.forget();
    }

    /// Returns what was sampled since the last call, as that of `window`: one
    /// column of CPU time, one value per distinct stack, largest first.
    pub fn collect(&mut self, window: Window) -> Collected {
        self.drain(Instant::now());
        // Right behind it: closing events drops what their rings hold.
        self.for_each_alone(Target::redraw);
        let (tally, lost_samples) = self.processes.take_tally();
        let (stacks, values) = picture::stacks(&tally, &mut self.processes, &mut self.symbolizer);
        if self.processes.end_round() {
            // Ids of files that were closed are never used again.
            self.symbolizer.forget();
        }
        let period_ns = self.period_ns;
        let column = Column {
            profile_type: ProfileType::cpu(),
            temporality: Temporality::Delta,
            period: i64::try_from(period_ns).unwrap_or(i64::MAX),
            weight: period_ns.max(1),
            values,
        };
        Collected {
            window,
            observed_ns: self.began.take().map_or(0, |began| {
                u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
            }),
            lost_samples,
            dropped_labels: 0,
            samples_count: tally.samples,
            groups: vec![SampleGroup {
                labels: Vec::new(),
                stacks,
                columns: vec![column],
            }],
        }
    }

    /// Whether there is a process to sample that has not ended.
    pub fn has_targets(&self) -> bool {
        let mut targets = self.targets.keys().chain(&self.inheriting);
        targets.any(|pid| is_alive(*pid))
    }
}
