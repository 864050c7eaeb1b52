//! CPU samples of CPython programs: the functions, files and lines of Python
//! code, where perf events would show the interpreter's own C functions.
//!
//! Promises: the target is never stopped, nothing of it is changed, and one
//! that uses no CPU is not looked at. Threads that wait are not counted. The
//! sum of all values is the CPU time that the kernel accounts for.
//!
//! At a fixed rate a process that used CPU since the last look is looked at:
//! which of its threads run says the kernel (`threads`), what they run says
//! the interpreter's memory (`interpreter`), and how much CPU time that
//! stands for says the process's CPU clock (`tally`). Looks that cost more
//! than they may are rarer. Native code is not shown: its time belongs to
//! the Python function that called it, or to [`NATIVE`] in a thread that is not
//! Python's.
//!
//! Not asynchronous: [`PythonSampler`] lives on a thread of its own.

mod interpreter;
mod permission;
mod recognise;
mod tally;
mod threads;

use std::io;
use std::time::{Duration, Instant};

use proto::profile::Column;
use proto::value_type::{ProfileType, Temporality};
use proto::window::Window;
use rustc_hash::FxHashMap;

use self::interpreter::{Interpreter, LookError, PythonThread};
use self::tally::{Account, FrameTable, Seen, Settled, Units, synthetic};
use self::threads::{Numbering, Threads};
use super::pace::Pace;
use super::{Collected, SampleGroup, SamplerError};
use crate::sys::clock::CpuClock;

/// Name of the frame of a thread that runs and is not Python's.
pub const NATIVE: &str = "[native thread]";

/// Looks in a row that may fail before a process is given up.
const MAX_FAILURES: u32 = 50;
/// What a window's rounding moves on by, so that its place is spread evenly:
/// 2^64 over the golden ratio.
const PHASE_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// How to sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PythonOptions {
    /// Most looks per second.
    pub looks_hz: u32,
    /// Samples per second of CPU time that the values are given in. That of
    /// the perf events beside it, so that both make one series.
    pub rate_hz: u32,
    /// Most CPU time that looks may take, in thousandths of a core; beyond it
    /// they become rarer.
    pub max_cost_permille: u32,
}

impl Default for PythonOptions {
    fn default() -> Self {
        Self {
            looks_hz: 49,
            rate_hz: 99,
            max_cost_permille: 7,
        }
    }
}

/// Why a process cannot be sampled.
#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    /// The kernel refuses; `advice` says what changes that.
    #[error("may not read the memory of process {pid}: {advice}")]
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
    /// The process runs something else.
    #[error("process {pid} does not run CPython")]
    NotPython {
        /// The process.
        pid: i32,
    },
    /// Its interpreter cannot be read: it is not ready yet, of a version that
    /// is not known, or not what it seems.
    #[error("cannot read the Python interpreter of process {pid}")]
    Read {
        /// The process.
        pid: i32,
        /// What is wrong.
        #[source]
        source: SamplerError,
    },
}

/// Whether process `pid` runs CPython; not if that cannot be told.
pub fn runs_cpython(pid: i32) -> bool {
    recognise::runs_cpython(pid).unwrap_or(false)
}

/// Whether process `pid`, which may not be read, calls itself Python.
pub fn looks_like(pid: i32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let arguments = crate::target::process::command_line(pid);
    let first = arguments.first().and_then(|first| first.rsplit('/').next());
    [name.trim(), first.unwrap_or_default()]
        .iter()
        .any(|name| name.starts_with("python"))
}

/// Asks whether process `pid` can be sampled, and returns the version of its
/// interpreter; samples nothing.
///
/// # Errors
///
/// [`PythonError`] says why not.
pub fn probe(pid: i32) -> Result<String, PythonError> {
    match recognise::runs_cpython(pid) {
        Ok(true) => Ok(Interpreter::find(pid)?.version()),
        Ok(false) => Err(PythonError::NotPython { pid }),
        // The files of a process are refused where its memory is.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(PythonError::NotPermitted {
                pid,
                advice: permission::advice(pid),
                source: error,
            })
        }
        Err(_) => Err(PythonError::TargetGone { pid }),
    }
}

/// One process that is sampled.
#[derive(Debug)]
struct Process {
    interpreter: Interpreter,
    numbering: Numbering,
    clock: CpuClock,
    /// What the clock said last.
    used: Duration,
    account: Account,
    /// Looks in a row that failed.
    failures: u32,
}

/// How a look ended.
enum Looked {
    /// Whatever ran was counted.
    Counted,
    /// The process is gone.
    Gone,
    /// No look will succeed any more.
    Broken(SamplerError),
}

/// Samples a set of processes.
#[derive(Debug)]
pub struct PythonSampler {
    options: PythonOptions,
    processes: FxHashMap<i32, Process>,
    frames: FrameTable,
    /// Of processes that left within this window.
    ended: Units,
    ended_lost: u64,
    phase: u64,
    pace: Pace,
    /// What both rates are divided by.
    divisor: u32,
    next_look: Instant,
    looks: u64,
    began: Option<Instant>,
    broken: Vec<(i32, PythonError)>,
}

impl PythonSampler {
    /// Returns a sampler of no process.
    pub fn new(options: PythonOptions) -> Self {
        let now = Instant::now();
        Self {
            options,
            processes: FxHashMap::default(),
            frames: FrameTable::default(),
            ended: Units::default(),
            ended_lost: 0,
            phase: 0,
            pace: Pace::new(
                Duration::from_secs(1) / options.looks_hz.max(1),
                options.max_cost_permille,
                now,
            ),
            divisor: 1,
            next_look: now,
            looks: 0,
            began: Some(now),
            broken: Vec::new(),
        }
    }

    /// Samples process `pid`, too, from now on. Its children are not followed.
    ///
    /// # Errors
    ///
    /// [`PythonError`]; the other processes go on.
    pub fn add_process(&mut self, pid: i32) -> Result<(), PythonError> {
        let gone = |_| PythonError::TargetGone { pid };
        let clock = CpuClock::of_process(pid).map_err(gone)?;
        let interpreter = Interpreter::find(pid)?;
        let process = Process {
            interpreter,
            numbering: Numbering::of(pid),
            clock,
            used: clock.read().map_err(gone)?,
            account: Account::default(),
            failures: 0,
        };
        self.remove_process(pid);
        self.processes.insert(pid, process);
        Ok(())
    }

    /// The version of the interpreter of process `pid`, if it is sampled.
    pub fn version(&self, pid: i32) -> Option<String> {
        let process = self.processes.get(&pid)?;
        Some(process.interpreter.version())
    }

    /// Samples process `pid` no longer; what was seen of it stays counted.
    pub fn remove_process(&mut self, pid: i32) {
        if let Some(mut process) = self.processes.remove(&pid) {
            process.meter();
            let settled = process.account.settle(self.unit(), self.phase);
            self.phase = self.phase.wrapping_add(PHASE_STEP);
            self.absorb(settled);
        }
    }

    fn absorb(&mut self, settled: Settled) {
        self.ended_lost = self.ended_lost.saturating_add(settled.lost);
        for (stack, units) in settled.units {
            let sum = self.ended.entry(stack).or_default();
            *sum = sum.saturating_add(units);
        }
    }

    /// Processes that cannot be sampled any more, and why; told once.
    pub fn take_broken(&mut self) -> Vec<(i32, PythonError)> {
        std::mem::take(&mut self.broken)
    }

    /// When to look next.
    pub fn next_look(&self) -> Instant {
        self.next_look
    }

    /// Times that a process was looked into, so far.
    pub fn looks_count(&self) -> u64 {
        self.looks
    }

    /// Looks at the processes that used CPU, if it is time to.
    pub fn look(&mut self, now: Instant) {
        if now < self.next_look {
            return;
        }
        let stands_for_ms = self.pace.begin(now);
        let thread = CpuClock::of_this_thread();
        let before = thread.read().unwrap_or_default();
        let mut over: Vec<(i32, Option<SamplerError>)> = Vec::new();
        let mut has_looked = false;
        for (pid, process) in &mut self.processes {
            if !process.meter() {
                continue;
            }
            has_looked = true;
            self.looks = self.looks.saturating_add(1);
            match process.look(*pid, stands_for_ms, &mut self.frames) {
                Looked::Counted => {}
                Looked::Gone => over.push((*pid, None)),
                Looked::Broken(source) => over.push((*pid, Some(source))),
            }
        }
        for (pid, source) in over {
            self.remove_process(pid);
            if let Some(source) = source {
                self.broken.push((pid, PythonError::Read { pid, source }));
            }
        }
        if has_looked {
            let after = thread.read().unwrap_or_default();
            self.pace.learn(after.saturating_sub(before));
        }
        let interval = self.pace.plan();
        let next = self.next_look + interval;
        // A look that came late is not made up for.
        self.next_look = if next > now { next } else { now + interval };
    }

    /// CPU time that a sample stands for.
    fn unit(&self) -> Duration {
        Duration::from_nanos(1_000_000_000 / u64::from(self.options.rate_hz.max(1))) * self.divisor
    }

    /// From now on looks `divisor` times more rarely, and gives values in units
    /// that are as much larger. What is left of a window is in the units of the
    /// next one, so this belongs between two.
    pub fn set_divisor(&mut self, divisor: u32) {
        self.divisor = divisor.max(1);
        self.pace.set_divisor(self.divisor);
    }

    /// Returns what was sampled since the last call, as that of `window`: one
    /// column of CPU time, one value per distinct stack, largest first.
    pub fn collect(&mut self, window: Window) -> Collected {
        let unit = self.unit();
        let mut settled = Vec::with_capacity(self.processes.len());
        for process in self.processes.values_mut() {
            process.meter();
            settled.push(process.account.settle(unit, self.phase));
            self.phase = self.phase.wrapping_add(PHASE_STEP);
        }
        for settled in settled {
            self.absorb(settled);
        }
        let mut units: Vec<(Seen, u64)> = self.ended.drain().collect();
        units.sort_unstable_by(|(a, more), (b, most)| most.cmp(more).then_with(|| a.cmp(b)));
        let (stacks, values): (Vec<_>, Vec<_>) = units
            .into_iter()
            .map(|(seen, units)| {
                let value = i64::try_from(units).unwrap_or(i64::MAX);
                (self.frames.stack(&seen), value)
            })
            .unzip();
        self.frames.end_round();
        let period_ns = u64::try_from(unit.as_nanos()).unwrap_or(u64::MAX);
        let samples = values.iter().fold(0i64, |a, b| a.saturating_add(*b));
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
            lost_samples: std::mem::take(&mut self.ended_lost),
            dropped_labels: 0,
            samples_count: u64::try_from(samples).unwrap_or(0),
            groups: vec![SampleGroup {
                labels: Vec::new(),
                stacks,
                columns: vec![column],
            }],
        }
    }

    /// Whether there is a process to sample that has not ended.
    pub fn has_targets(&self) -> bool {
        self.processes
            .values()
            .any(|process| process.clock.read().is_ok())
    }
}

impl Process {
    /// Reads the CPU clock. Returns whether CPU was used since the last time.
    fn meter(&mut self) -> bool {
        let Ok(now) = self.clock.read() else {
            return false;
        };
        let used = now.saturating_sub(self.used);
        self.used = now;
        self.account.used(used);
        !used.is_zero()
    }

    /// Counts what runs now.
    fn look(&mut self, pid: i32, stands_for_ms: u64, frames: &mut FrameTable) -> Looked {
        let Ok(threads) = threads::look(pid) else {
            return Looked::Gone;
        };
        if threads.running.is_empty() {
            return Looked::Counted;
        }
        let source = match self.read(pid, &threads, stands_for_ms, frames) {
            Ok(()) => {
                self.failures = 0;
                return Looked::Counted;
            }
            Err(LookError::Torn(source)) => source,
            Err(broken @ LookError::Nonsense) => return Looked::Broken(broken.into()),
        };
        self.account.miss();
        self.failures += 1;
        if self.failures < MAX_FAILURES {
            return Looked::Counted;
        }
        Looked::Broken(source)
    }

    fn read(
        &mut self,
        pid: i32,
        threads: &Threads,
        stands_for_ms: u64,
        frames: &mut FrameTable,
    ) -> Result<(), LookError> {
        let own_ids = |tids: &[i32]| -> Vec<i32> {
            let ids = tids.iter().map(|tid| self.numbering.own_id(pid, *tid));
            ids.collect()
        };
        let (running, all) = (own_ids(&threads.running), own_ids(&threads.all));
        // Mostly one thread runs, and it holds the lock: the others need not
        // be read, however many they are.
        if let [running] = running[..]
            && let Some(holder) = self.interpreter.holder()?
            && holder
                .id()
                .is_none_or(|id| id == running || !all.contains(&id))
        {
            self.count(Some(&holder), stands_for_ms, frames);
            return Ok(());
        }
        let python = self.interpreter.threads()?;
        let main = self.numbering.own_id(pid, pid);
        for thread in matched(&running, &all, main, &python) {
            self.count(thread, stands_for_ms, frames);
        }
        Ok(())
    }

    fn count(
        &mut self,
        thread: Option<&PythonThread>,
        stands_for_ms: u64,
        frames: &mut FrameTable,
    ) {
        let mut places = thread.into_iter().flat_map(PythonThread::places).peekable();
        let seen = match places.peek() {
            Some(_) => frames.seen(places),
            None => frames.seen(std::iter::once(synthetic(NATIVE))),
        };
        match seen {
            Some(seen) => self.account.see(seen, stands_for_ms),
            None => self.account.miss(),
        }
    }
}

/// What is needed of a Python thread to tell which thread of the kernel it is.
trait Claims {
    fn id(&self) -> Option<i32>;
    fn holds_lock(&self) -> bool;
}

impl Claims for PythonThread {
    fn id(&self) -> Option<i32> {
        Self::id(self)
    }

    fn holds_lock(&self) -> bool {
        Self::holds_lock(self)
    }
}

/// The Python thread of each of `running`, of which `all` is the whole and
/// `main` the first.
///
/// Before 3.11 Python does not tell ids, and after a fork it may tell the
/// parent's. A thread without one is the main thread if it is the only one,
/// and otherwise runs if it holds the lock.
fn matched<'a, T: Claims>(
    running: &[i32],
    all: &[i32],
    main: i32,
    python: &'a [T],
) -> Vec<Option<&'a T>> {
    let known = |thread: &T| thread.id().filter(|id| all.contains(id));
    let mut unknown = match python {
        [only] if known(only).is_none() && running.contains(&main) => Some(only),
        [_] => None,
        several => several
            .iter()
            .find(|thread| known(thread).is_none() && thread.holds_lock()),
    };
    let of = |id: &i32| python.iter().find(|thread| known(thread) == Some(*id));
    let mut found: Vec<Option<&T>> = running.iter().map(of).collect();
    let is_only_main = python.len() == 1;
    for (id, place) in running.iter().zip(&mut found) {
        if place.is_none() && (!is_only_main || *id == main) {
            *place = unknown.take();
        }
    }
    found
}

#[cfg(test)]
mod tests;
