//! `agent record`: one profile to a file in pprof's format, no collector.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proto::pprof::{PprofBuilder, PprofHead};
use proto::profile::Column;
use proto::value_type::{ProfileType, ValueType, ValueTypeError};
use proto::window::{Clock, UnixNanos, Window, WindowError};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{CpuConfig, CpuSource, EndpointChoice, JvmConfig, WallConfig, WallSource};
use crate::source::endpoint::{Client, EndpointError, TargetState, cpu_once, find_once};
use crate::source::jvm::{self, Cpu, Followed, JvmError};
use crate::source::route::{Allowed, Claims};
use crate::source::{Collected, CpuSampler, PROC, SamplerError, cpu_sampler, wall_sampler};
use crate::target::{Process, SCAN_EVERY, Selection, TargetError, Tracker};

/// Time between two reports of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Time that a Java virtual machine goes on recording when nobody stops it.
const JVM_ENDS_LATER: Duration = Duration::from_secs(60);

/// What to record.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Which processes.
    pub selection: Selection,
    /// How long, at least a second.
    pub length: Duration,
    /// Where to write; an existing file is replaced.
    pub output: PathBuf,
    /// How to sample.
    pub cpu: CpuConfig,
    /// Whether Java virtual machines record themselves.
    pub jvm: JvmConfig,
    /// Which endpoint, should it be asked.
    pub endpoint: EndpointChoice,
    /// How to sample what threads wait for; unless that is off it is recorded,
    /// and CPU is not.
    pub wall: WallConfig,
}

/// What was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Samples taken.
    pub samples_count: u64,
    /// Different stacks among them.
    pub stacks_count: usize,
    /// Samples lost.
    pub lost_samples: u64,
    /// Where they came from, such as `perf` or `endpoint`.
    pub source: &'static str,
}

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// No process matches.
    #[error("no process to record: check --pid, or run `agent doctor`")]
    NoTarget,
    /// Processes cannot be looked at.
    #[error("cannot look for the target")]
    Target(#[from] TargetError),
    /// The Java virtual machine gave nothing.
    #[error("cannot fetch what the Java virtual machine recorded")]
    Jvm(#[from] JvmError),
    /// A sampler was asked for and does not work.
    #[error("cannot sample this target from outside; `agent doctor` says why")]
    Sampler(#[source] SamplerError),
    /// No sampler works and there is no endpoint.
    #[error(
        "no way to sample: none of the sources that --source allows works here; `agent doctor` says which do, and why the others do not"
    )]
    NoSource(#[source] Option<SamplerError>),
    /// The endpoint gave nothing.
    #[error("cannot take a CPU profile from the endpoint")]
    Endpoint(#[from] EndpointError),
    /// The clock of the machine is out of range.
    #[error("the clock of this machine cannot be used")]
    Clock(#[from] WindowError),
    /// A value type is wrong.
    #[error("cannot name the value types")]
    ValueType(#[from] ValueTypeError),
    /// The file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No runtime can be started.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

/// Records one profile, calling `progress` with the time that has passed.
///
/// # Errors
///
/// [`RecordError`] if the target cannot be sampled or the file not written.
pub fn record(
    recording: &Recording,
    clock: &dyn Clock,
    mut progress: impl FnMut(Duration),
) -> Result<Recorded, RecordError> {
    let mut tracker = Tracker::new(recording.selection.clone())?;
    tracker.scan()?;
    let processes = tracker.processes();
    if processes.is_empty() {
        return Err(RecordError::NoTarget);
    }
    let pids: Vec<i32> = processes.iter().map(|p| p.pid).collect();
    let is_cpu = recording.wall.source == WallSource::Off;
    let may_ask_endpoint = is_cpu && recording.cpu.source == CpuSource::Auto;
    let claims = Claims::default();
    let machines = Machines::start(recording, clock, &claims, &processes)?;
    let opened = match is_cpu {
        true => cpu_sampler(&recording.cpu, recording.jvm.mode, claims.clone())
            .map(|mut open| open(&pids)),
        false => open_wall(&recording.wall, &pids),
    };
    let opened = match opened {
        // An endpoint shows more than the last resort.
        Some(Ok(sampler))
            if may_ask_endpoint
                && sampler.source() == PROC
                && has_endpoint(recording, &processes)? =>
        {
            None
        }
        opened => opened,
    };
    let (collected, source) = match opened {
        Some(Ok(sampler)) => with_sampler(
            recording,
            clock,
            &mut tracker,
            sampler,
            machines,
            &mut progress,
        )?,
        Some(Err(error)) if !may_ask_endpoint => {
            return Err(RecordError::Sampler(error));
        }
        refused => {
            let state = state_of(&processes);
            let error = refused.and_then(Result::err);
            (
                with_endpoint(recording, clock, &state, error, progress)?,
                "endpoint",
            )
        }
    };
    write(recording, &collected)?;
    Ok(Recorded {
        samples_count: collected.samples_count,
        stacks_count: collected
            .groups
            .iter()
            .map(|group| group.stacks.len())
            .sum(),
        lost_samples: collected.lost_samples,
        source,
    })
}

fn open_wall(
    config: &WallConfig,
    pids: &[i32],
) -> Option<Result<Box<dyn CpuSampler>, SamplerError>> {
    let mut sampler = wall_sampler(config)?;
    let added = pids.iter().map(|pid| sampler.add_process(*pid));
    let first_failure = added.filter_map(Result::err).reduce(|first, _| first);
    Some(match first_failure {
        Some(failure) if !sampler.has_processes() => Err(failure),
        _ => Ok(Box::new(sampler)),
    })
}

fn state_of(processes: &[Process]) -> TargetState {
    TargetState {
        started: processes.first().map(|p| p.started).unwrap_or_default(),
        processes: processes.to_vec(),
        may_be_unseen: false,
        is_sampled_from_outside: Some(false),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, RecordError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RecordError::Runtime)
}

fn has_endpoint(recording: &Recording, processes: &[Process]) -> Result<bool, RecordError> {
    let client = Client::new()?;
    let state = state_of(processes);
    let found = find_once(&client, &recording.endpoint, &state);
    Ok(runtime()?.block_on(found).is_some())
}

/// Java virtual machines that record themselves meanwhile.
struct Machines {
    runtime: tokio::runtime::Runtime,
    claims: Claims,
    followed: Vec<Followed>,
    /// Signals that end this; listened to only while there is something to be
    /// stopped.
    ends: Vec<Signal>,
}

impl Machines {
    /// Starts the recordings and offers to tell of them from the start;
    /// machines that refuse are left to others.
    fn start(
        recording: &Recording,
        clock: &dyn Clock,
        claims: &Claims,
        processes: &[Process],
    ) -> Result<Self, RecordError> {
        let mut machines = Self {
            runtime: runtime()?,
            claims: claims.clone(),
            followed: Vec::new(),
            ends: Vec::new(),
        };
        let allowed = match recording.wall.source {
            WallSource::Off => Allowed::by(recording.cpu.source, recording.jvm.mode),
            // No CPU is recorded then.
            WallSource::Proc => None,
        };
        if !allowed.is_some_and(|allowed| allowed.jvm) {
            return Ok(machines);
        }
        let plan = jvm::Plan {
            with_cpu: true,
            window: recording.length,
            rate_hz: recording.cpu.rate_hz,
            // Should this be ended before it has stopped them.
            ends_after: Some(recording.length.saturating_add(JVM_ENDS_LATER)),
        };
        for pid in processes.iter().map(|process| process.pid) {
            if !jvm::is_jvm(pid) {
                continue;
            }
            machines.listen()?;
            let starting = Followed::start(pid, plan, clock.now());
            match machines.runtime.block_on(starting) {
                Ok(followed) => {
                    claims.offer(pid, UnixNanos::new(i64::MIN));
                    machines.followed.push(followed);
                }
                Err(error) => {
                    claims.refuse(pid);
                    tracing::warn!(
                        pid,
                        error = &error as &dyn std::error::Error,
                        fix = error.fix(),
                        "java virtual machine does not record itself: another source is used if it works"
                    );
                }
            }
        }
        Ok(machines)
    }

    fn listen(&mut self) -> Result<(), RecordError> {
        if self.ends.is_empty() {
            let _within = self.runtime.enter();
            for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
                self.ends.push(signal(kind).map_err(RecordError::Runtime)?);
            }
        }
        Ok(())
    }

    /// Whether a signal came that ends this.
    fn is_told_to_end(&mut self) -> bool {
        let [interrupt, terminate] = &mut self.ends[..] else {
            return false;
        };
        self.runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => true,
                _ = terminate.recv() => true,
                // Signals come in only while this waits.
                () = tokio::time::sleep(Duration::from_millis(1)) => false,
            }
        })
    }

    /// What is told begins at `start`, which is now.
    fn begin(&mut self, start: UnixNanos) -> Result<(), RecordError> {
        for followed in &mut self.followed {
            self.runtime.block_on(followed.begin(start))?;
        }
        Ok(())
    }

    /// Fetches what was recorded of machines whose CPU nobody else sampled, adds it
    /// to `collected`, and stops.
    ///
    /// # Errors
    ///
    /// If a machine gave nothing, and nothing else was sampled either.
    fn finish(mut self, window: Window, collected: &mut Collected) -> Result<(), RecordError> {
        let mut failure = None;
        for mut followed in std::mem::take(&mut self.followed) {
            let pid = followed.pid();
            let cpu = match self.claims.is_granted(pid) {
                true => Cpu::Told,
                false => Cpu::ToldByOthers,
            };
            let mut taken = Vec::new();
            let (fetched, stopped) = self.runtime.block_on(async {
                let fetched = followed.take(window.end(), cpu, &mut taken).await;
                (fetched, followed.stop().await)
            });
            for cpu in taken.into_iter().filter(Collected::is_cpu) {
                collected.add(cpu);
            }
            if let Err(error) = stopped {
                tracing::warn!(pid, %error, "recording not stopped");
            }
            if let Err(error) = fetched {
                tracing::warn!(pid, %error, "stacks of a java virtual machine are lost");
                failure = Some(error);
            }
        }
        match failure {
            Some(error) if collected.samples_count == 0 => Err(error.into()),
            Some(_) | None => Ok(()),
        }
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for followed in std::mem::take(&mut self.followed) {
            let pid = followed.pid();
            if let Err(error) = self.runtime.block_on(followed.stop()) {
                tracing::warn!(pid, %error, "recording not stopped");
            }
        }
    }
}

fn with_sampler(
    recording: &Recording,
    clock: &dyn Clock,
    tracker: &mut Tracker,
    mut sampler: Box<dyn CpuSampler>,
    mut machines: Machines,
    progress: &mut impl FnMut(Duration),
) -> Result<(Collected, &'static str), RecordError> {
    let start = clock.now();
    let begun = Instant::now();
    machines.begin(start)?;
    let mut next_scan = begun + SCAN_EVERY;
    while begun.elapsed() < recording.length && !tracker.is_over() && !machines.is_told_to_end() {
        let left = recording.length.saturating_sub(begun.elapsed());
        if sampler.has_targets() {
            sampler
                .poll(left.min(PROGRESS_EVERY))
                .map_err(RecordError::Sampler)?;
        } else {
            std::thread::sleep(left.min(PROGRESS_EVERY));
        }
        progress(begun.elapsed());
        if Instant::now() >= next_scan {
            next_scan = Instant::now() + SCAN_EVERY;
            let changes = tracker.scan()?;
            for pid in changes.removed {
                sampler.remove_process(pid);
            }
            for pid in changes.added {
                if let Err(error) = sampler.add_process(pid) {
                    tracing::warn!(
                        pid,
                        error = &*error as &dyn std::error::Error,
                        "process is not sampled"
                    );
                }
            }
        }
    }
    let window = Window::new(start, start.saturating_add(begun.elapsed()))?;
    let source = sampler.source();
    let mut collected = sampler.collect(window);
    machines.finish(window, &mut collected)?;
    Ok((collected, source))
}

fn with_endpoint(
    recording: &Recording,
    clock: &dyn Clock,
    state: &TargetState,
    refused: Option<SamplerError>,
    mut progress: impl FnMut(Duration),
) -> Result<Collected, RecordError> {
    runtime()?.block_on(async {
        let client = Client::new()?;
        let found = find_once(&client, &recording.endpoint, state).await;
        let found = found.ok_or(RecordError::NoSource(refused))?;
        let start = clock.now();
        let window = Window::new(start, start.saturating_add(recording.length))?;
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(PROGRESS_EVERY);
        let pull = cpu_once(&client, &found.url, recording.length, window);
        tokio::pin!(pull);
        loop {
            tokio::select! {
                pulled = &mut pull => return Ok(pulled?),
                _ = ticks.tick() => progress(begun.elapsed()),
            }
        }
    })
}

/// Count and nanoseconds of each sample, as Go's own profiles have them.
fn values(column: &Column) -> impl Iterator<Item = Vec<i64>> {
    let weight = i64::try_from(column.weight).unwrap_or(i64::MAX);
    let period = column.period.max(1);
    column.values.iter().map(move |value| {
        if weight == 1 {
            vec![value / period, *value]
        } else {
            vec![*value, value.saturating_mul(weight)]
        }
    })
}

fn write(recording: &Recording, collected: &Collected) -> Result<(), RecordError> {
    let profile_type = match recording.wall.source {
        WallSource::Off => ProfileType::cpu(),
        WallSource::Proc => ProfileType::wall(),
    };
    let columns = collected.groups.iter().flat_map(|group| &group.columns);
    let period = columns
        .map(|column| column.period)
        .next()
        .unwrap_or(1_000_000_000 / i64::from(recording.cpu.rate_hz.max(1)));
    let window = collected.window;
    let observed = match collected.observed_ns {
        0 => window.duration(),
        part => Duration::from_nanos(part),
    };
    let mut builder = PprofBuilder::new(&PprofHead {
        sample_types: vec![
            ValueType::new("samples", "count")?,
            profile_type.sample().clone(),
        ],
        period_type: profile_type.period().clone(),
        period,
        time_ns: window.start().get(),
        duration_ns: i64::try_from(observed.as_nanos()).unwrap_or(i64::MAX),
        comments: vec![format!("recorded by agent {}", env!("CARGO_PKG_VERSION"))],
    });
    for group in &collected.groups {
        let mut columns = group.columns.iter();
        let column = columns.find(|column| column.profile_type == profile_type);
        for (stack, values) in group.stacks.iter().zip(column.into_iter().flat_map(values)) {
            builder.add(stack.iter(), values);
        }
    }
    std::fs::write(&recording.output, builder.finish()).map_err(|source| RecordError::Write {
        path: recording.output.clone(),
        source,
    })
}
