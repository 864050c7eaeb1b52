//! Ways of reading profiles from a target.
//!
//! A source observes a target for a window and yields [`Collected`]: stacks,
//! one value column per value type, and what was lost. It knows nothing of
//! series: [`crate::assemble`] turns its yield into profiles with labels.
//!
//! - [`perf`] samples CPU from outside, without help of the target;
//! - [`python`] does so for CPython programs, and shows their functions;
//! - [`endpoint`] asks a Go program's `/debug/pprof` for CPU, heap, goroutines,
//!   mutex, block and thread creation;
//! - [`jvm`] lets Java virtual machines record themselves: CPU, allocations and
//!   waits for locks;
//! - [`proc`] tells how much CPU each thread used where nothing better works,
//!   and what threads wait for.
//!
//! [`route`] chooses between [`perf`], [`python`], [`jvm`] and [`proc`] for the
//! CPU of each process. [`crate::observe`] prefers the first three wherever they
//! work, so that the endpoint's only CPU profile is left to people. What the
//! endpoint gives [`proc`] leaves out. Sources that work beside the router tell
//! it so by its [`Claims`].

use std::fmt;
use std::time::Duration;

use proto::profile::Column;
use proto::stack::Stack;
use proto::value_type::ProfileType;
use proto::window::Window;

use crate::config::{CpuConfig, JvmMode, WallConfig, WallSource};
use perf::PerfOptions;
use proc::{ThreadCpuOptions, WallOptions, WallSampler};
use python::PythonOptions;
use route::{Allowed, Claims, RouteOptions, Router};

pub mod endpoint;

pub mod jvm;

mod pace;

pub mod perf;

pub mod proc;

pub mod python;

mod random;

pub mod route;

/// Name of the source [`proc`].
pub const PROC: &str = "proc";
/// Name of the root of a stack whose own root is missing.
pub(crate) const TRUNCATED: &str = "[truncated]";

/// Samples of one set of sample labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleGroup {
    /// Sample labels, such as those of Go's `pprof.Do`; empty for most.
    pub labels: Vec<(String, String)>,
    /// One stack per sample, leaf first.
    pub stacks: Vec<Stack>,
    /// Columns with one value per stack.
    pub columns: Vec<Column>,
}

/// What a source saw of a target over one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// The time it stands for.
    pub window: Window,
    /// Time within the window during which samples were taken; 0 means all.
    pub observed_ns: u64,
    /// Samples the kernel or the source lost.
    pub lost_samples: u64,
    /// Sample labels that were left out.
    pub dropped_labels: u64,
    /// Samples taken, before equal stacks were added up; 0 for profiles that
    /// are not made of samples over time.
    pub samples_count: u64,
    /// The samples, one group per set of sample labels.
    pub groups: Vec<SampleGroup>,
}

impl Collected {
    /// What holds nothing of `window`.
    pub fn nothing(window: Window) -> Self {
        Self {
            window,
            observed_ns: 0,
            lost_samples: 0,
            dropped_labels: 0,
            samples_count: 0,
            groups: Vec::new(),
        }
    }

    /// Adds `other`, of the same window and the same kind of profile.
    pub fn add(&mut self, mut other: Self) {
        self.lost_samples = self.lost_samples.saturating_add(other.lost_samples);
        self.dropped_labels = self.dropped_labels.saturating_add(other.dropped_labels);
        self.samples_count = self.samples_count.saturating_add(other.samples_count);
        // Zero means all of it.
        self.observed_ns = match (self.observed_ns, other.observed_ns) {
            (0, _) | (_, 0) => 0,
            (a, b) => a.max(b),
        };
        other.groups.retain(|group| !group.stacks.is_empty());
        self.groups.append(&mut other.groups);
    }

    /// Whether it is a profile of CPU.
    pub fn is_cpu(&self) -> bool {
        let cpu = ProfileType::cpu();
        let mut columns = self.groups.iter().flat_map(|group| &group.columns);
        columns.any(|column| column.profile_type == cpu)
    }
}

/// Why a sampler cannot go on, in the words of its source.
pub type SamplerError = Box<dyn std::error::Error + Send + Sync>;

/// Samples a set of processes from outside. Not asynchronous: it lives
/// on a thread of its own.
pub trait CpuSampler: fmt::Debug {
    /// Samples process `pid`, too.
    ///
    /// # Errors
    ///
    /// If the process cannot be sampled; the others go on.
    fn add_process(&mut self, pid: i32) -> Result<(), SamplerError>;

    /// Samples process `pid` no longer.
    fn remove_process(&mut self, pid: i32);

    /// Takes in samples for at most `timeout`; sleeps while there are none.
    ///
    /// # Errors
    ///
    /// If nothing can be sampled any more.
    fn poll(&mut self, timeout: Duration) -> Result<(), SamplerError>;

    /// Returns what was sampled since the last call, as that of `window`.
    fn collect(&mut self, window: Window) -> Collected;

    /// Whether there is a process to sample.
    fn has_targets(&self) -> bool;

    /// Whether some of the processes that were added cannot be sampled, and an
    /// endpoint may be asked for them.
    fn misses_some(&self) -> bool;

    /// Whether nothing is sampled now although there are processes, because an
    /// endpoint shows more of them: then a window without samples does not mean
    /// that nothing ran.
    fn leaves_all(&self) -> bool {
        false
    }

    /// What the processes were sampled with so far, such as `perf`.
    fn source(&self) -> &'static str;

    /// From now on samples at the configured rate divided by `divisor`; each
    /// sample then stands for that much more. Called between two windows.
    fn set_divisor(&mut self, divisor: u32);

    /// Forgets what can be read again.
    fn forget(&mut self);
}

/// Begins to sample the processes with these ids.
pub type OpenSampler = Box<dyn FnMut(&[i32]) -> Result<Box<dyn CpuSampler>, SamplerError> + Send>;

/// Returns how CPU is sampled from outside by this configuration; nothing when
/// it is not. `claims` are shared with those who record Java virtual machines
/// and with the endpoint.
pub fn cpu_sampler(cpu: &CpuConfig, jvm: JvmMode, claims: Claims) -> Option<OpenSampler> {
    let options = RouteOptions {
        allowed: Allowed::by(cpu.source, jvm)?,
        perf: PerfOptions {
            rate_hz: cpu.rate_hz,
            stack_bytes: cpu.stack_bytes,
            ..PerfOptions::default()
        },
        python: PythonOptions {
            looks_hz: cpu.python_rate_hz,
            rate_hz: cpu.rate_hz,
            ..PythonOptions::default()
        },
        proc: ThreadCpuOptions {
            rate_hz: cpu.rate_hz,
            ..ThreadCpuOptions::default()
        },
    };
    Some(Box::new(move |pids| {
        let router = Router::open(pids, options, claims.clone())?;
        Ok(Box::new(router))
    }))
}

/// Returns what samples waiting by this configuration; nothing when nothing
/// does.
pub fn wall_sampler(config: &WallConfig) -> Option<WallSampler> {
    match config.source {
        WallSource::Off => None,
        WallSource::Proc => Some(WallSampler::new(WallOptions {
            looks_hz: config.rate_hz,
            ..WallOptions::default()
        })),
    }
}
