//! Ways of reading profiles from a target.
//!
//! A source observes a target for a window and yields [`Collected`]: stacks,
//! one value column per value type, and what was lost. It knows nothing of
//! series: [`crate::assemble`] turns its yield into profiles with labels.
//!
//! - [`perf`] samples CPU from outside, without help of the target;
//! - [`endpoint`] asks a Go program's `/debug/pprof` for CPU, heap, goroutines,
//!   mutex, block and thread creation;
//! - [`jvm`] lets Java virtual machines record themselves: CPU, allocations and
//!   waits for locks.
//!
//! [`crate::observe`] prefers `perf` for CPU wherever it works, so that the
//! endpoint's only CPU profile is left to people; machines that record
//! themselves are left to that.

use std::fmt;
use std::time::Duration;

use proto::profile::Column;
use proto::stack::Stack;
use proto::window::Window;

use crate::config::{CpuConfig, CpuSource};
use perf::{PerfOptions, PerfSampler};

pub mod endpoint;

pub mod jvm;

pub mod perf;

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

/// Why a sampler cannot go on, in the words of its source.
pub type SamplerError = Box<dyn std::error::Error + Send + Sync>;

/// Samples CPU of a set of processes from outside. Not asynchronous: it lives
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
}

/// Begins to sample the processes with these ids.
pub type OpenSampler = Box<dyn FnMut(&[i32]) -> Result<Box<dyn CpuSampler>, SamplerError> + Send>;

/// Returns how CPU is sampled from outside by this configuration; nothing when
/// it is not.
pub fn cpu_sampler(config: &CpuConfig) -> Option<OpenSampler> {
    match config.source {
        CpuSource::Endpoint | CpuSource::Off => return None,
        CpuSource::Auto | CpuSource::Perf => {}
    }
    let options = PerfOptions {
        rate_hz: config.rate_hz,
        stack_bytes: config.stack_bytes,
    };
    Some(Box::new(move |pids| {
        let sampler = PerfSampler::open(pids, options)?;
        Ok(Box::new(sampler))
    }))
}

impl CpuSampler for PerfSampler {
    fn add_process(&mut self, pid: i32) -> Result<(), SamplerError> {
        Ok(Self::add_process(self, pid)?)
    }

    fn remove_process(&mut self, pid: i32) {
        Self::remove_process(self, pid);
    }

    fn poll(&mut self, timeout: Duration) -> Result<(), SamplerError> {
        Ok(Self::poll(self, timeout)?)
    }

    fn collect(&mut self, window: Window) -> Collected {
        Self::collect(self, window)
    }

    fn has_targets(&self) -> bool {
        Self::has_targets(self)
    }
}
