//! Gives each process of a target to the sampler that shows most of it, and
//! adds up what they saw. Nobody else decides that.
//!
//! A process that runs CPython goes to [`PythonSampler`], a Java virtual
//! machine to its flight recorder, every other one to [`PerfSampler`]: of
//! Python, perf events show the interpreter's own C functions, of Java machine
//! code without names. What two samplers see of one process is not joined in
//! one stack: it is of different moments, unless the target is stopped for it.
//!
//! Where the interpreter cannot be read the process is perf's, and that is said
//! once. Where nothing of these works [`ThreadCpu`] tells what the threads used,
//! until something does. A process that begins to run another program is looked
//! at anew, and one whose interpreter was not ready is tried again a few times.
//!
//! The flight recorder works beside the router and needs a while to start.
//! Until it offers to tell of a machine ([`Claims`]), and again when it loses
//! it, perf events have it if they work. A machine that is waited for is nobody
//! else's. The endpoint works beside the router, too: while it gives CPU the
//! accounting of threads goes on and is left out.

use std::time::{Duration, Instant};

use proto::window::{UnixNanos, Window};
use rustc_hash::{FxHashMap, FxHashSet};
use tracing::{debug, warn};

use super::jvm;
use super::perf::{PerfError, PerfOptions, PerfSampler};
use super::proc::{ThreadCpu, ThreadCpuOptions, Told};
use super::python::{self, PythonError, PythonOptions, PythonSampler};
use super::{Collected, CpuSampler, PROC, SamplerError};
use crate::config::{CpuSource, JvmMode};
use crate::target::process;

mod claims;

pub use claims::Claims;

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

/// Which samplers may be used. A process goes to the first of them that shows
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Python's.
    pub python: bool,
    /// Java's flight recorder.
    pub jvm: bool,
    /// Perf events.
    pub perf: bool,
    /// The accounting of threads, where none of the others works.
    pub proc: bool,
}

impl Allowed {
    fn only_jvm(self) -> bool {
        !self.python && !self.perf && !self.proc
    }

    fn only_proc(self) -> bool {
        !self.python && !self.jvm && !self.perf
    }

    /// Those that a configuration allows; nothing where CPU is not sampled from
    /// outside.
    pub fn by(source: CpuSource, jvm: JvmMode) -> Option<Self> {
        let only = Self {
            python: source == CpuSource::Python,
            jvm: source == CpuSource::Jvm,
            perf: source == CpuSource::Perf,
            proc: source == CpuSource::Proc,
        };
        match source {
            CpuSource::Endpoint | CpuSource::Off => None,
            CpuSource::Perf | CpuSource::Python | CpuSource::Jvm | CpuSource::Proc => Some(only),
            CpuSource::Auto => Some(Self {
                python: true,
                jvm: jvm == JvmMode::Auto,
                perf: true,
                proc: true,
            }),
        }
    }
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
    /// The flight recorder tells its CPU.
    Jvm,
    /// A Java virtual machine that nobody samples until the flight recorder
    /// does.
    Awaited,
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

impl Routed {
    fn is_jvm(&self) -> bool {
        match self.by {
            By::Jvm | By::Awaited => true,
            By::Python | By::Perf | By::Proc | By::Nobody => false,
        }
    }
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
    claims: Claims,
    /// End of the last window that was collected.
    border: UnixNanos,
    processes: FxHashMap<i32, Routed>,
    /// Samplers that had a process so far.
    used: FxHashSet<By>,
    rechecked: Instant,
    told: FxHashSet<String>,
    /// What all rates are divided by.
    divisor: u32,
}

impl Router {
    /// Begins to sample the processes `pids`.
    ///
    /// # Errors
    ///
    /// What the first one's sampler says, if none can be sampled.
    pub fn open(pids: &[i32], options: RouteOptions, claims: Claims) -> Result<Self, SamplerError> {
        let mut router = Self {
            options,
            perf: Perf::Closed,
            python: PythonSampler::new(options.python),
            proc: ThreadCpu::new(options.proc),
            claims,
            border: UnixNanos::new(i64::MIN),
            processes: FxHashMap::default(),
            used: FxHashSet::default(),
            rechecked: Instant::now(),
            told: FxHashSet::default(),
            divisor: 1,
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

    /// What becomes of what the accounting of threads knows.
    fn told(&self) -> Told {
        match self.claims.is_claimed_by_endpoint() {
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
        let outcome = self.choose(pid, &mut routed);
        match routed.by {
            By::Jvm => {}
            By::Python | By::Awaited | By::Perf | By::Proc | By::Nobody => {
                self.claims.take_back(pid);
            }
        }
        if routed.by != By::Proc {
            self.proc.remove_process(pid, self.told());
        }
        self.processes.insert(pid, routed);
        self.used.insert(routed.by);
        outcome
    }

    fn choose(&mut self, pid: i32, routed: &mut Routed) -> Result<(), SamplerError> {
        let mut failure = match self.try_python(pid, routed) {
            Ok(()) => return Ok(()),
            Err(PythonError::TargetGone { pid }) => {
                return Err(PythonError::TargetGone { pid }.into());
            }
            Err(error) => error.into(),
        };
        let is_awaited = match self.options.allowed.jvm {
            true if self.claims.grant(pid, self.border) => {
                if let Perf::Open(perf) = &mut self.perf {
                    perf.remove_process(pid);
                }
                // It tells the window that is open from its beginning.
                self.proc.remove_process(pid, Told::ByOthers);
                routed.by = By::Jvm;
                return Ok(());
            }
            true => !self.claims.is_refused(pid) && jvm::is_expected(pid),
            false => false,
        };
        if self.options.allowed.perf {
            match self.try_perf(pid) {
                Ok(()) => {
                    routed.by = By::Perf;
                    return Ok(());
                }
                Err(error) => failure = error,
            }
        }
        if is_awaited {
            routed.by = By::Awaited;
            return Ok(());
        }
        if self.options.allowed.proc {
            match self.try_proc(pid, &*failure) {
                Ok(()) => {
                    routed.by = By::Proc;
                    return Ok(());
                }
                Err(error) if self.options.allowed.only_proc() => failure = error.into(),
                Err(_) => {}
            }
        }
        if self.options.allowed.only_jvm() {
            failure = jvm::JvmError::NotAMachine { pid }.into();
        }
        Err(failure)
    }

    /// Samples process `pid` as Python.
    fn try_python(&mut self, pid: i32, routed: &mut Routed) -> Result<(), PythonError> {
        let is_python = self.options.allowed.python && python::runs_cpython(pid);
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
                routed.by = By::Python;
                let version = self.python.version(pid).unwrap_or_default();
                debug!(pid, version, "sampling python");
                return Ok(());
            }
            Err(error) => error,
        };
        let may_change = match &error {
            PythonError::TargetGone { .. } | PythonError::NotPermitted { .. } => false,
            // A library that is loaded later, an interpreter that is not ready.
            PythonError::NotPython { .. } | PythonError::Read { .. } => self.options.allowed.python,
        };
        routed.attempts += 1;
        if may_change && routed.attempts < MAX_ATTEMPTS {
            let wait = RECHECK_EVERY * 2u32.saturating_pow(routed.attempts - 1);
            routed.retry_at = Some(Instant::now() + wait);
        }
        match &error {
            PythonError::TargetGone { .. } | PythonError::NotPython { .. } => {}
            // A second too late for an interpreter that just began.
            PythonError::NotPermitted { .. } | PythonError::Read { .. }
                if self.options.allowed.perf
                    && (routed.retry_at.is_none() || routed.attempts > 1) =>
            {
                self.tell(pid, &error);
            }
            PythonError::NotPermitted { .. } | PythonError::Read { .. } => {}
        }
        Err(error)
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

    /// Accounts for the threads of process `pid`, the last resort after what
    /// failed with `failure`.
    fn try_proc(
        &mut self,
        pid: i32,
        failure: &(dyn std::error::Error + Send + Sync + 'static),
    ) -> std::io::Result<()> {
        if self.proc.has(pid) {
            return Ok(());
        }
        self.proc.add_process(pid, &process::name(pid))?;
        if !self.options.allowed.only_proc() {
            self.tell_resort(pid, failure);
        }
        Ok(())
    }

    fn try_perf(&mut self, pid: i32) -> Result<(), SamplerError> {
        if let Perf::Open(perf) = &mut self.perf {
            return Ok(perf.add_process(pid)?);
        }
        let is_due = match &self.perf {
            Perf::Refused { since } => since.elapsed() >= REOPEN_AFTER,
            Perf::Closed | Perf::Open(_) => true,
        };
        if !is_due {
            return Err(NOT_DUE.into());
        }
        match PerfSampler::open(&[pid], self.options.perf) {
            Ok(mut perf) => {
                perf.set_divisor(self.divisor);
                self.perf = Perf::Open(Box::new(perf));
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
        self.claims.take_back(pid);
        self.python.remove_process(pid);
        self.proc.remove_process(pid, self.told());
        if let Perf::Open(perf) = &mut self.perf {
            perf.remove_process(pid);
        }
        self.processes.remove(&pid);
    }

    /// Leaves machines to the flight recorder that it offered to tell of from
    /// `border` on.
    fn grant(&mut self, border: UnixNanos) {
        self.border = border;
        if !self.options.allowed.jvm {
            return;
        }
        let told = self.told();
        for (pid, routed) in &mut self.processes {
            match routed.by {
                By::Python | By::Jvm => continue,
                By::Awaited | By::Perf | By::Proc | By::Nobody => {}
            }
            if !self.claims.grant(*pid, border) {
                continue;
            }
            if let Perf::Open(perf) = &mut self.perf {
                perf.remove_process(*pid);
            }
            self.proc.remove_process(*pid, told);
            routed.by = By::Jvm;
            self.used.insert(By::Jvm);
            debug!(pid, "left to the flight recorder");
        }
    }

    /// Looks for processes that run another program now, for interpreters that
    /// were not ready, and for machines that the flight recorder lost.
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
            let is_lost = match routed.by {
                By::Jvm => !self.claims.is_granted(*pid),
                By::Awaited => self.claims.is_refused(*pid),
                By::Python | By::Perf | By::Proc | By::Nobody => false,
            };
            if program.is_some() && program != routed.program {
                // What was offered was of the program before.
                self.claims.take_back(*pid);
                anew.push((*pid, 0));
            } else if is_lost {
                anew.push((*pid, MAX_ATTEMPTS - 1));
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
        // First, since naming what was sampled takes a while.
        self.grant(window.end());
        let mut others = self.python.collect(window);
        others.add(self.proc.collect(window, self.told()));
        match &mut self.perf {
            Perf::Open(perf) => {
                let mut sum = perf.collect(window);
                sum.add(others);
                sum
            }
            Perf::Closed | Perf::Refused { .. } => others,
        }
    }

    fn has_targets(&self) -> bool {
        let of_perf = match &self.perf {
            Perf::Open(perf) => perf.has_targets(),
            Perf::Closed | Perf::Refused { .. } => false,
        };
        let mut machines = self.processes.iter().filter(|(_, routed)| routed.is_jvm());
        of_perf
            || self.python.has_targets()
            || self.proc.has_targets()
            || machines.any(|(pid, _)| process::program(&process::exe(*pid)).is_some())
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
        // Nobody samples the others: they say nothing of a window either.
        let mut left = self.processes.values().map(|routed| match routed.by {
            By::Proc | By::Awaited | By::Nobody => true,
            By::Python | By::Jvm | By::Perf => false,
        });
        self.claims.is_claimed_by_endpoint() && left.all(|is_left| is_left)
    }

    fn set_divisor(&mut self, divisor: u32) {
        self.divisor = divisor;
        self.python.set_divisor(divisor);
        self.proc.set_divisor(divisor);
        if let Perf::Open(perf) = &mut self.perf {
            perf.set_divisor(divisor);
        }
    }

    fn forget(&mut self) {
        if let Perf::Open(perf) = &mut self.perf {
            perf.forget();
        }
    }

    fn source(&self) -> &'static str {
        let jvm = self.used.contains(&By::Jvm) || self.used.contains(&By::Awaited);
        match (
            self.used.contains(&By::Perf),
            self.used.contains(&By::Python),
            jvm,
            self.used.contains(&By::Proc),
        ) {
            (true, true, true, true) => "perf, python, jvm and proc",
            (true, true, true, false) => "perf, python and jvm",
            (true, true, false, true) => "perf, python and proc",
            (true, true, false, false) => "perf and python",
            (true, false, true, true) => "perf, jvm and proc",
            (true, false, true, false) => "perf and jvm",
            (true, false, false, true) => "perf and proc",
            (false, true, true, true) => "python, jvm and proc",
            (false, true, true, false) => "python and jvm",
            (false, true, false, true) => "python and proc",
            (false, true, false, false) => "python",
            (false, false, true, true) => "jvm and proc",
            (false, false, true, false) => "jvm",
            (false, false, false, true) => PROC,
            (true | false, false, false, false) => "perf",
        }
    }
}
