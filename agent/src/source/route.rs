//! Gives each process of a target to the sampler that shows most of it, and
//! adds up what they saw.
//!
//! A process that runs CPython goes to [`PythonSampler`], every other one to
//! [`PerfSampler`]: of Python, perf events show the interpreter's own C
//! functions, which nobody can read. Both are not joined in one stack: they are
//! of different moments, unless the target is stopped for them.
//!
//! Where the interpreter cannot be read the process is perf's, and that is said
//! once. Where neither works [`ThreadCpu`] tells what its threads used, until
//! one of them does. A process that begins to run another program is looked at
//! anew, and one whose interpreter was not ready is tried again a few times.

use std::time::{Duration, Instant};

use proto::window::Window;
use rustc_hash::{FxHashMap, FxHashSet};
use tracing::{debug, warn};

use super::claim::Claim;
use super::perf::{PerfError, PerfOptions, PerfSampler};
use super::proc::{ThreadCpu, ThreadCpuOptions, Told};
use super::python::{self, PythonError, PythonOptions, PythonSampler};
use super::{Collected, CpuSampler, PROC, SamplerError};
use crate::target::process;

/// Time between two looks at what programs the processes run.
const RECHECK_EVERY: Duration = Duration::from_secs(1);
/// How often an interpreter that is not ready is looked for; each time after
/// twice the time.
const MAX_ATTEMPTS: u32 = 5;
/// Time after which perf events that were refused are tried again.
const REOPEN_AFTER: Duration = Duration::from_secs(60);
/// Why perf events are not tried again yet; the reason was told.
const NOT_DUE: &str = "perf events were refused";
/// Most reasons that are remembered as told.
const MAX_TOLD: usize = 64;

/// Which samplers may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Python's for Python, perf events for the rest, the accounting of threads
    /// where neither works.
    Both,
    /// Perf events alone.
    Perf,
    /// Python's alone.
    Python,
    /// The accounting of threads alone.
    Proc,
}

/// How to sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteOptions {
    /// Which samplers may be used.
    pub allowed: Allowed,
    /// For perf events.
    pub perf: PerfOptions,
    /// For Python.
    pub python: PythonOptions,
    /// For the accounting of threads.
    pub proc: ThreadCpuOptions,
}

/// Who samples a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum By {
    Python,
    Perf,
    Proc,
    Nobody,
}

/// A process of the target.
#[derive(Clone, Copy, Debug)]
struct Routed {
    by: By,
    /// Device and inode of its program.
    program: Option<(u64, u64)>,
    /// Times that an interpreter was looked for in vain.
    attempts: u32,
    /// When to look for one again.
    retry_at: Option<Instant>,
}

#[derive(Debug)]
enum Perf {
    Closed,
    Open(Box<PerfSampler>),
    Refused { since: Instant },
}

/// Samples a set of processes, each in the way that suits it.
#[derive(Debug)]
pub struct Router {
    options: RouteOptions,
    perf: Perf,
    python: PythonSampler,
    proc: ThreadCpu,
    claim: Claim,
    processes: FxHashMap<i32, Routed>,
    /// Samplers that had a process so far.
    used: FxHashSet<By>,
    rechecked: Instant,
    told: FxHashSet<String>,
}

impl Router {
    /// Begins to sample the processes `pids`.
    ///
    /// # Errors
    ///
    /// What the first one's sampler says, if none can be sampled.
    pub fn open(pids: &[i32], options: RouteOptions) -> Result<Self, SamplerError> {
        let mut router = Self {
            options,
            perf: Perf::Closed,
            python: PythonSampler::new(options.python),
            proc: ThreadCpu::new(options.proc),
            claim: Claim::default(),
            processes: FxHashMap::default(),
            used: FxHashSet::default(),
            rechecked: Instant::now(),
            told: FxHashSet::default(),
        };
        let mut first_failure = None;
        for &pid in pids {
            if let Err(failure) = router.add_process(pid) {
                first_failure.get_or_insert(failure);
            }
        }
        match first_failure {
            Some(failure) if !router.is_sampling() => Err(failure),
            _ => Ok(router),
        }
    }

    /// Leaves to the endpoint, while `claim` holds, what only the accounting of
    /// threads knows.
    #[must_use]
    pub fn beside(mut self, claim: Claim) -> Self {
        self.claim = claim;
        self
    }

    /// What becomes of what the accounting of threads knows.
    fn told(&self) -> Told {
        match self.claim.holds() {
            true => Told::ByOthers,
            false => Told::Here,
        }
    }

    fn is_sampling(&self) -> bool {
        self.processes
            .values()
            .any(|routed| routed.by != By::Nobody)
    }

    /// Gives process `pid` to a sampler. One that had another before must have
    /// been taken from it.
    fn route(&mut self, pid: i32, attempts: u32) -> Result<(), SamplerError> {
        let mut routed = Routed {
            by: By::Nobody,
            program: process::program(&process::exe(pid)),
            attempts,
            retry_at: None,
        };
        let outcome = match self.try_python(pid, &mut routed) {
            Ok(true) => {
                routed.by = By::Python;
                Ok(())
            }
            Ok(false) => match self.try_perf(pid, &mut routed) {
                Err(error) => self.try_proc(pid, &mut routed, error),
                done => done,
            },
            Err(error) => Err(error),
        };
        if routed.by != By::Proc {
            self.proc.remove_process(pid, self.told());
        }
        self.processes.insert(pid, routed);
        self.used.insert(routed.by);
        outcome
    }

    /// Whether process `pid` is sampled as Python now. An error means that it
    /// cannot be sampled at all.
    fn try_python(&mut self, pid: i32, routed: &mut Routed) -> Result<bool, SamplerError> {
        match self.options.allowed {
            Allowed::Perf | Allowed::Proc => return Ok(false),
            Allowed::Both | Allowed::Python => {}
        }
        let is_python = python::runs_cpython(pid);
        let outcome = match is_python {
            true => self.python.add_process(pid),
            false => Err(PythonError::NotPython { pid }),
        };
        let error = match outcome {
            Ok(()) => {
                // What it inherited would count a second time.
                if let Perf::Open(perf) = &mut self.perf {
                    perf.remove_process(pid);
                }
                let version = self.python.version(pid).unwrap_or_default();
                debug!(pid, version, "sampling python");
                return Ok(true);
            }
            Err(error) => error,
        };
        let may_change = match &error {
            PythonError::TargetGone { .. } | PythonError::NotPermitted { .. } => false,
            // A library that is loaded later, an interpreter that is not ready.
            PythonError::NotPython { .. } | PythonError::Read { .. } => true,
        };
        routed.attempts += 1;
        if may_change && routed.attempts < MAX_ATTEMPTS {
            let wait = RECHECK_EVERY * 2u32.saturating_pow(routed.attempts - 1);
            routed.retry_at = Some(Instant::now() + wait);
        }
        match (&error, self.options.allowed) {
            (PythonError::TargetGone { .. }, _) | (_, Allowed::Python) => {
                return Err(error.into());
            }
            (PythonError::NotPython { .. }, _) => {}
            (PythonError::NotPermitted { .. } | PythonError::Read { .. }, _) => {
                // A second too late for an interpreter that just began.
                if routed.retry_at.is_none() || routed.attempts > 1 {
                    self.tell(pid, &error);
                }
            }
        }
        Ok(false)
    }

    /// Says why a Python process has no Python frames; each reason once.
    fn tell(&mut self, pid: i32, error: &PythonError) {
        let cause = std::error::Error::source(error).map(proto::status::chain);
        let reason = match error {
            PythonError::NotPermitted { advice, .. } => advice.clone(),
            _ => cause.unwrap_or_else(|| error.to_string()),
        };
        if self.told.len() < MAX_TOLD && self.told.insert(reason) {
            let error = error as &dyn std::error::Error;
            warn!(
                pid,
                error, "no python frames: its process is sampled with perf events if they work"
            );
        }
    }

    /// Says why a process has no functions; each reason once.
    fn tell_resort(&mut self, pid: i32, error: &(dyn std::error::Error + Send + Sync + 'static)) {
        let reason = match error.downcast_ref::<PerfError>() {
            Some(PerfError::NotPermitted { advice, .. }) => advice.clone(),
            _ => proto::status::chain(error),
        };
        if reason == NOT_DUE || self.told.len() >= MAX_TOLD {
            return;
        }
        if self.told.insert(reason.clone()) {
            warn!(
                pid,
                reason,
                "no functions from outside: without an endpoint only cpu by thread is known"
            );
        }
    }

    /// The last resort, after perf events failed with `error`.
    fn try_proc(
        &mut self,
        pid: i32,
        routed: &mut Routed,
        error: SamplerError,
    ) -> Result<(), SamplerError> {
        match self.options.allowed {
            Allowed::Both | Allowed::Proc => {}
            Allowed::Perf | Allowed::Python => return Err(error),
        }
        if !self.proc.has(pid) {
            if self.proc.add_process(pid, &process::name(pid)).is_err() {
                return Err(error);
            }
            if self.options.allowed != Allowed::Proc {
                self.tell_resort(pid, &*error);
            }
        }
        routed.by = By::Proc;
        Ok(())
    }

    fn try_perf(&mut self, pid: i32, routed: &mut Routed) -> Result<(), SamplerError> {
        if self.options.allowed == Allowed::Proc {
            return Err("perf events are not asked for".into());
        }
        if let Perf::Open(perf) = &mut self.perf {
            perf.add_process(pid)?;
            routed.by = By::Perf;
            return Ok(());
        }
        let is_due = match &self.perf {
            Perf::Refused { since } => since.elapsed() >= REOPEN_AFTER,
            Perf::Closed | Perf::Open(_) => true,
        };
        if !is_due {
            return Err(NOT_DUE.into());
        }
        match PerfSampler::open(&[pid], self.options.perf) {
            Ok(perf) => {
                self.perf = Perf::Open(Box::new(perf));
                routed.by = By::Perf;
                Ok(())
            }
            Err(error) => {
                if !matches!(error, PerfError::TargetGone { .. }) {
                    self.perf = Perf::Refused {
                        since: Instant::now(),
                    };
                }
                Err(error.into())
            }
        }
    }

    fn leave(&mut self, pid: i32) {
        self.python.remove_process(pid);
        self.proc.remove_process(pid, self.told());
        if let Perf::Open(perf) = &mut self.perf {
            perf.remove_process(pid);
        }
        self.processes.remove(&pid);
    }

    /// Looks for processes that run another program now, and for interpreters
    /// that were not ready.
    fn recheck(&mut self, now: Instant) {
        for (pid, error) in self.python.take_broken() {
            debug!(pid, %error, "interpreter lost");
            self.tell(pid, &error);
            // It may have begun anew under the same name.
            self.reroute(pid, MAX_ATTEMPTS - 2);
        }
        if now.saturating_duration_since(self.rechecked) < RECHECK_EVERY {
            return;
        }
        self.rechecked = now;
        let may_reopen = match &self.perf {
            Perf::Refused { since } => since.elapsed() >= REOPEN_AFTER,
            Perf::Closed | Perf::Open(_) => false,
        };
        let mut anew = Vec::new();
        for (pid, routed) in &self.processes {
            let program = process::program(&process::exe(*pid));
            if program.is_some() && program != routed.program {
                anew.push((*pid, 0));
            } else if routed.retry_at.is_some_and(|at| now >= at) {
                anew.push((*pid, routed.attempts));
            } else if routed.by == By::Proc && may_reopen {
                anew.push((*pid, MAX_ATTEMPTS));
            }
        }
        for (pid, attempts) in anew {
            self.reroute(pid, attempts);
        }
    }

    fn reroute(&mut self, pid: i32, attempts: u32) {
        let by = self.processes.get(&pid).map(|routed| routed.by);
        // Perf events follow a process into another program, and go on while
        // an interpreter is looked for in vain.
        if by == Some(By::Python) {
            self.python.remove_process(pid);
        }
        // Another program has another name.
        if by == Some(By::Proc) && attempts == 0 {
            self.proc.remove_process(pid, self.told());
        }
        if let Err(error) = self.route(pid, attempts) {
            let error = &*error as &dyn std::error::Error;
            debug!(pid, error, "process is not sampled");
        }
    }
}

impl CpuSampler for Router {
    fn add_process(&mut self, pid: i32) -> Result<(), SamplerError> {
        // Its id may have been another's before.
        if self
            .processes
            .get(&pid)
            .is_some_and(|routed| routed.by == By::Python)
        {
            self.python.remove_process(pid);
        }
        self.proc.remove_process(pid, self.told());
        self.route(pid, 0)
    }

    fn remove_process(&mut self, pid: i32) {
        self.leave(pid);
    }

    fn poll(&mut self, timeout: Duration) -> Result<(), SamplerError> {
        let deadline = Instant::now() + timeout;
        loop {
            let now = Instant::now();
            self.recheck(now);
            if self.python.has_targets() {
                self.python.look(now);
            }
            let accounts = !self.proc.is_empty() && self.told() == Told::Here;
            if accounts {
                self.proc.look(now);
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(());
            }
            let until = match self.python.has_targets() {
                true => deadline.min(self.python.next_look()),
                false => deadline,
            };
            let until = match accounts {
                true => until.min(self.proc.next_look()),
                false => until,
            };
            let wait = until.saturating_duration_since(now);
            match &mut self.perf {
                Perf::Open(perf) => perf.poll(wait)?,
                Perf::Closed | Perf::Refused { .. } => std::thread::sleep(wait),
            }
        }
    }

    fn collect(&mut self, window: Window) -> Collected {
        let python = self.python.collect(window);
        let told = self.told();
        let proc = self.proc.collect(window, told);
        let others = merge(python, proc);
        let Perf::Open(perf) = &mut self.perf else {
            return others;
        };
        merge(perf.collect(window), others)
    }

    fn has_targets(&self) -> bool {
        let of_perf = match &self.perf {
            Perf::Open(perf) => perf.has_targets(),
            Perf::Closed | Perf::Refused { .. } => false,
        };
        of_perf || self.python.has_targets() || self.proc.has_targets()
    }

    fn misses_some(&self) -> bool {
        // Where perf events work, what they miss is no Go program: an endpoint
        // would count a second time what they sample.
        !matches!(self.perf, Perf::Open(_))
            && self
                .processes
                .values()
                .any(|routed| matches!(routed.by, By::Proc | By::Nobody))
    }

    fn leaves_all(&self) -> bool {
        let mut sampled = self.processes.values().filter(|r| r.by != By::Nobody);
        self.claim.holds() && sampled.all(|routed| routed.by == By::Proc)
    }

    fn source(&self) -> &'static str {
        match (
            self.used.contains(&By::Perf),
            self.used.contains(&By::Python),
            self.used.contains(&By::Proc),
        ) {
            (true, true, false) => "perf and python",
            (true, true, true) => "perf, python and proc",
            (true, false, true) => "perf and proc",
            (false, true, true) => "python and proc",
            (false, true, false) => "python",
            (false, false, true) => PROC,
            (true | false, false, false) => "perf",
        }
    }
}

/// What two samplers saw of one target over one window.
fn merge(mut first: Collected, mut second: Collected) -> Collected {
    first.lost_samples = first.lost_samples.saturating_add(second.lost_samples);
    first.samples_count = first.samples_count.saturating_add(second.samples_count);
    // Zero means all of it.
    first.observed_ns = match (first.observed_ns, second.observed_ns) {
        (0, _) | (_, 0) => 0,
        (a, b) => a.max(b),
    };
    second.groups.retain(|group| !group.stacks.is_empty());
    first.groups.append(&mut second.groups);
    first
}
