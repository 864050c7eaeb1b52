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
//! - [`proc`] tells how much CPU each thread used where nothing better works,
//!   and what threads wait for.
//!
//! [`route`] chooses between those from outside for each process.
//! [`crate::observe`] prefers the first two for CPU wherever they work, so that
//! the endpoint's only CPU profile is left to people. What the endpoint gives
//! [`proc`] leaves out ([`claim`]).

use std::fmt;
use std::time::Duration;

use proto::profile::Column;
use proto::stack::Stack;
use proto::window::Window;

use crate::config::{CpuConfig, CpuSource, WallConfig, WallSource};
use claim::Claim;
use perf::PerfOptions;
use proc::{ThreadCpuOptions, WallOptions, WallSampler};
use python::PythonOptions;
use route::{Allowed, RouteOptions, Router};

pub mod claim;

pub mod endpoint;

mod pace;

pub mod perf;

pub mod proc;

pub mod python;

pub mod route;

/// Name of the source [`proc`].
pub const PROC: &str = "proc";

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
}

/// Begins to sample the processes with these ids.
pub type OpenSampler = Box<dyn FnMut(&[i32]) -> Result<Box<dyn CpuSampler>, SamplerError> + Send>;

/// Returns how CPU is sampled from outside by this configuration; nothing when
/// it is not. While `claim` holds the last resort leaves CPU to the endpoint.
pub fn cpu_sampler(config: &CpuConfig, claim: Claim) -> Option<OpenSampler> {
    let allowed = match config.source {
        CpuSource::Endpoint | CpuSource::Off => return None,
        CpuSource::Auto => Allowed::Both,
        CpuSource::Perf => Allowed::Perf,
        CpuSource::Python => Allowed::Python,
        CpuSource::Proc => Allowed::Proc,
    };
    let options = RouteOptions {
        allowed,
        perf: PerfOptions {
            rate_hz: config.rate_hz,
            stack_bytes: config.stack_bytes,
        },
        python: PythonOptions {
            looks_hz: config.python_rate_hz,
            rate_hz: config.rate_hz,
            ..PythonOptions::default()
        },
        proc: ThreadCpuOptions {
            rate_hz: config.rate_hz,
            ..ThreadCpuOptions::default()
        },
    };
    Some(Box::new(move |pids| {
        let router = Router::open(pids, options)?.beside(claim.clone());
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
