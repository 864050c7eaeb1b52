//! A Rust program that profiles itself and ships to a collector.
//!
//! ```no_run
//! # fn main() -> Result<(), agent::embed::EmbedError> {
//! let mut config = agent::embed::EmbedConfig::new("checkout");
//! config.labels.push(("version".to_owned(), "1.8".to_owned()));
//! let _profiling = agent::embed::embed(config)?;
//! // … the program; the last window is shipped when `_profiling` is dropped.
//! # Ok(())
//! # }
//! ```
//!
//! Samples are taken by crate `pprof` with SIGPROF, which the kernel sends per
//! CPU time used: a program that waits is not woken. Everything else runs on two
//! threads of its own, with or without a runtime in the program. Samples whose
//! leaf lies in the C library or the unwinder are left out, since unwinding
//! there is not safe within a signal; the coverage of each window tells how
//! many. The sampler's tables take about 140 MB of memory whatever the program
//! does, and reading its debug information more. One program can hold one [`Profiling`] at a time, and must not use
//! SIGPROF otherwise.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pprof::{Frames, ProfilerGuard, ProfilerGuardBuilder, Symbol, UnresolvedReport};
use procfs::CurrentSI;
use proto::labels::{LabelError, LabelSet, SERVICE};
use proto::profile::{Column, Facts, Profile};
use proto::stack::{Frame, FrameKind, Stack};
use proto::status::chain;
use proto::value_type::{ProfileType, Temporality};
use proto::window::{Clock, SystemClock, UnixNanos, Window};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::ship::{DRAIN_TIME, HelloInfo, ShipConfig, ShipError, run_shipper};
use crate::spool::{Spool, SpoolError};

/// Sampling rate of [`EmbedConfig::new`], in samples per second of CPU time.
pub const DEFAULT_RATE_HZ: i32 = 99;
/// Window length of [`EmbedConfig::new`].
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(10);
/// Collector of [`EmbedConfig::new`].
pub const DEFAULT_COLLECTOR: &str = "http://127.0.0.1:4040";
/// Disk that unsent windows may take.
const SPOOL_BYTES: u64 = 64 << 20;
/// Highest sampling rate.
const MAX_RATE_HZ: i32 = 1000;
/// Frames of resolved stacks kept from window to window.
const MAX_CACHED_FRAMES: usize = 64 * 1024;
/// Libraries in which a signal may not unwind.
const BLOCKLIST: [&str; 5] = ["libc.so", "libgcc_s", "libpthread", "ld-linux", "vdso"];
/// How long dropping a [`Profiling`] may take beyond the last shipping.
const LAST_WINDOW_TIME: Duration = Duration::from_secs(2);

/// What to profile as, and where to ship.
#[derive(Clone, Debug)]
pub struct EmbedConfig {
    /// Label `service`.
    pub service: String,
    /// Further labels, such as `version` and `pod`.
    pub labels: Vec<(String, String)>,
    /// The collector, such as `http://127.0.0.1:4040`.
    pub collector: String,
    /// Bearer token, if the collector asks for one.
    pub token: Option<String>,
    /// Samples per second of CPU time, 1 to 1000.
    pub rate_hz: i32,
    /// Length of a window; windows begin at multiples of it.
    pub window: Duration,
    /// Folder of unsent windows; a private one among the temporary files if
    /// none is given.
    pub spool_dir: Option<PathBuf>,
}

/// Why a program does not profile itself.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The service or a label is not allowed.
    #[error("cannot profile service {service:?} with these labels")]
    Labels {
        /// The service.
        service: String,
        /// What is wrong.
        #[source]
        source: LabelError,
    },
    /// There is no service name.
    #[error("the service name is empty: give the program a name to be found by")]
    NoService,
    /// The rate cannot be sampled at.
    #[error("cannot sample at {rate_hz} Hz: give 1 to {MAX_RATE_HZ}")]
    Rate {
        /// The rate.
        rate_hz: i32,
    },
    /// The window is empty.
    #[error("cannot profile in windows of no length")]
    Window,
    /// The collector's URL or token is not usable.
    #[error("cannot ship to collector {url}")]
    Ship {
        /// The URL.
        url: String,
        /// What is wrong.
        #[source]
        source: ShipError,
    },
    /// The spool cannot be used.
    #[error("cannot keep unsent windows")]
    Spool(#[source] SpoolError),
    /// The sampler cannot start; it may be running already.
    #[error("cannot start the sampler")]
    Sampler(#[source] pprof::Error),
    /// The system gives no thread, runtime or randomness.
    #[error("cannot start the profiling thread")]
    Start(#[source] io::Error),
}

/// Profiling of this program; ends when dropped.
///
/// Dropping ships the last window and waits for it a few seconds at most;
/// what the collector did not take stays in the spool for the next start.
#[derive(Debug)]
pub struct Profiling {
    /// Dropped to stop the sampler, which then lets the shipper drain.
    stop: Option<mpsc::Sender<()>>,
    done: Mutex<mpsc::Receiver<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Default for EmbedConfig {
    /// The service is empty and must be given.
    fn default() -> Self {
        Self {
            service: String::new(),
            labels: Vec::new(),
            collector: DEFAULT_COLLECTOR.to_owned(),
            token: None,
            rate_hz: DEFAULT_RATE_HZ,
            window: DEFAULT_WINDOW,
            spool_dir: None,
        }
    }
}

impl EmbedConfig {
    /// Returns the configuration that ships to [`DEFAULT_COLLECTOR`] as `service`.
    pub fn new(service: &str) -> Self {
        Self {
            service: service.to_owned(),
            ..Self::default()
        }
    }

    fn label_set(&self) -> Result<LabelSet, EmbedError> {
        let others = self
            .labels
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let labels = LabelSet::new(others.chain([(SERVICE, self.service.as_str())]));
        let labels = labels.map_err(|source| EmbedError::Labels {
            service: self.service.clone(),
            source,
        })?;
        if labels.service().is_empty() {
            return Err(EmbedError::NoService);
        }
        Ok(labels)
    }

    fn spool_dir(&self) -> PathBuf {
        self.spool_dir.clone().unwrap_or_else(|| {
            let user = std::fs::metadata("/proc/self").map_or(0, |me| me.uid());
            std::env::temp_dir().join(format!("tepui-embed-spool-{user}"))
        })
    }
}

/// Begins to profile this program.
///
/// # Errors
///
/// [`EmbedError`] if the configuration is not usable or the sampler cannot
/// start. That the collector cannot be reached is no error: windows wait in
/// the spool.
pub fn embed(config: EmbedConfig) -> Result<Profiling, EmbedError> {
    let labels = config.label_set()?;
    if !(1..=MAX_RATE_HZ).contains(&config.rate_hz) {
        return Err(EmbedError::Rate {
            rate_hz: config.rate_hz,
        });
    }
    if config.window.is_zero() {
        return Err(EmbedError::Window);
    }
    let ship = ShipConfig {
        url: config.collector.clone(),
        token: config.token.clone(),
        ca_file: None,
        hello: HelloInfo {
            labels: labels.clone(),
            capabilities: Vec::new(),
        },
    };
    ship.check().map_err(|source| EmbedError::Ship {
        url: config.collector.clone(),
        source,
    })?;
    let mut instance = [0; proto::limits::INSTANCE_BYTES];
    getrandom::fill(&mut instance)
        .map_err(|failure| EmbedError::Start(io::Error::other(failure.to_string())))?;
    let spool = Spool::open(&config.spool_dir(), SPOOL_BYTES, instance);
    let spool = Arc::new(spool.map_err(EmbedError::Spool)?);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let drain = CancellationToken::new();

    let (stop, stopped) = mpsc::channel();
    let (started, outcome) = mpsc::sync_channel(1);
    let sampling = {
        let (spool, clock, drain) = (Arc::clone(&spool), Arc::clone(&clock), drain.clone());
        thread::Builder::new()
            .name("tepui-sampler".to_owned())
            .spawn(move || {
                let _draining = drain.drop_guard();
                match Sampler::start(&config, labels, &*clock) {
                    Ok(mut sampler) => {
                        let _heard = started.try_send(Ok(()));
                        sampler.run(&spool, &*clock, config.window, &stopped);
                    }
                    Err(failure) => {
                        let _heard = started.try_send(Err(failure));
                    }
                }
            })
            .map_err(EmbedError::Start)?
    };
    match outcome.recv() {
        Ok(outcome) => outcome.map_err(EmbedError::Sampler)?,
        Err(lost) => return Err(EmbedError::Start(io::Error::other(lost))),
    }
    let (done, finished) = mpsc::sync_channel(1);
    let (ready, outcome) = mpsc::sync_channel(1);
    let shipping = thread::Builder::new()
        .name("tepui-shipper".to_owned())
        .spawn(move || {
            // Made and dropped here: the caller may be within a runtime.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => {
                    let _heard = ready.try_send(Ok(()));
                    runtime.block_on(run_shipper(spool, ship, clock, drain));
                    runtime.shutdown_background();
                }
                Err(failure) => {
                    let _heard = ready.try_send(Err(failure));
                }
            }
            let _heard = done.try_send(());
        })
        .map_err(EmbedError::Start)?;
    outcome
        .recv()
        .unwrap_or_else(|lost| Err(io::Error::other(lost)))
        .map_err(EmbedError::Start)?;
    Ok(Profiling {
        stop: Some(stop),
        done: Mutex::new(finished),
        threads: vec![sampling, shipping],
    })
}

impl Drop for Profiling {
    fn drop(&mut self) {
        self.stop = None;
        let done = self.done.get_mut().unwrap_or_else(PoisonError::into_inner);
        match done.recv_timeout(DRAIN_TIME + LAST_WINDOW_TIME) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                for thread in self.threads.drain(..) {
                    if thread.join().is_err() {
                        error!("a profiling thread ended by a panic");
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                warn!("profiling threads still busy, their last windows stay in the spool");
            }
        }
    }
}

/// CPU time and the like of this process at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    cpu_ns: u64,
    rss_bytes: u64,
    threads_count: u32,
    start: UnixNanos,
}

impl Usage {
    fn read() -> Option<Self> {
        let stat = procfs::process::Process::myself().ok()?.stat().ok()?;
        let tick_ns = 1_000_000_000 / procfs::ticks_per_second().max(1);
        let boot = i64::try_from(procfs::KernelStats::current().ok()?.btime).ok()?;
        let start = Duration::from_nanos(stat.starttime.saturating_mul(tick_ns));
        Some(Self {
            cpu_ns: stat
                .utime
                .saturating_add(stat.stime)
                .saturating_mul(tick_ns),
            rss_bytes: stat.rss.saturating_mul(procfs::page_size()),
            threads_count: u32::try_from(stat.num_threads).unwrap_or(0),
            start: UnixNanos::new(boot.saturating_mul(1_000_000_000)).saturating_add(start),
        })
    }
}

/// Takes samples of this process and makes windows of them.
struct Sampler {
    labels: LabelSet,
    rate_hz: i32,
    period_ns: u32,
    /// None when it could not be started again.
    guard: Option<ProfilerGuard<'static>>,
    window_start: UnixNanos,
    usage: Usage,
    symbols: Symbols,
}

fn start_guard(rate_hz: i32) -> Result<ProfilerGuard<'static>, pprof::Error> {
    ProfilerGuardBuilder::default()
        .frequency(rate_hz)
        .blocklist(&BLOCKLIST)
        .build()
}

impl Sampler {
    fn start(
        config: &EmbedConfig,
        labels: LabelSet,
        clock: &dyn Clock,
    ) -> Result<Self, pprof::Error> {
        let rate = u32::try_from(config.rate_hz).unwrap_or(1).max(1);
        Ok(Self {
            labels,
            rate_hz: config.rate_hz,
            // The timer counts in whole microseconds.
            period_ns: 1_000_000 / rate * 1000,
            guard: Some(start_guard(config.rate_hz)?),
            window_start: clock.now(),
            usage: Usage::read().unwrap_or_default(),
            symbols: Symbols::default(),
        })
    }

    /// Makes windows until the other end of `stopped` is dropped.
    fn run(
        &mut self,
        spool: &Spool,
        clock: &dyn Clock,
        window: Duration,
        stopped: &mpsc::Receiver<()>,
    ) {
        loop {
            let now = clock.now();
            // A turn that came a little early makes no window of its own.
            let next = now
                .saturating_add(window / 8)
                .floor(window)
                .saturating_add(window);
            let is_last = stopped.recv_timeout(next.since(now)) != Err(RecvTimeoutError::Timeout);
            self.turn(spool, clock, is_last);
            if is_last {
                return;
            }
        }
    }

    /// Ends the window, spools it and begins the next one unless this was the
    /// last.
    fn turn(&mut self, spool: &Spool, clock: &dyn Clock, is_last: bool) {
        let end = clock.now();
        let report = self
            .guard
            .take()
            .map(|guard| guard.report().build_unresolved());
        let usage = Usage::read().unwrap_or(self.usage);
        // The guard is gone: a new one counts from zero.
        if !is_last {
            self.guard = match start_guard(self.rate_hz) {
                Ok(guard) => Some(guard),
                Err(failure) => {
                    error!(error = %failure, "cannot start the sampler for the next window");
                    None
                }
            };
        }
        let (start, before) = (self.window_start, self.usage);
        (self.window_start, self.usage) = (end, usage);
        let report = match report {
            Some(Ok(report)) => report,
            Some(Err(failure)) => {
                error!(error = %failure, "cannot read the samples of a window");
                spool.count_dropped_windows(1);
                return;
            }
            None => return,
        };
        let Ok(window) = Window::new(start, end) else {
            warn!("clock went back, window left out");
            spool.count_dropped_windows(1);
            return;
        };
        if let Some(profile) = self.profile(report, window, before)
            && let Err(failure) = spool.append(&[profile])
        {
            error!(error = %chain(&failure), "window lost");
        }
    }

    fn profile(
        &mut self,
        report: UnresolvedReport,
        window: Window,
        before: Usage,
    ) -> Option<Profile> {
        let mut counts: FxHashMap<Stack, i64> = FxHashMap::default();
        let mut samples = 0_u64;
        for (sample, count) in report.data {
            let addresses: Box<[usize]> = sample
                .frames
                .iter()
                .map(|frame| frame.ip().addr())
                .collect();
            let stack = self.symbols.stack(addresses, || sample.into());
            let count = i64::try_from(count).unwrap_or(0).max(0);
            samples = samples.saturating_add(count.unsigned_abs());
            let sum = counts.entry(stack).or_default();
            *sum = sum.saturating_add(count);
        }
        let (stacks, values): (Vec<Stack>, Vec<i64>) = counts.into_iter().unzip();
        let cpu_ns = self.usage.cpu_ns.saturating_sub(before.cpu_ns);
        let facts = Facts {
            cpu_ns,
            rss_bytes: self.usage.rss_bytes,
            threads_count: self.usage.threads_count,
            processes_count: 1,
            target_start: self.usage.start,
            coverage_permille: coverage_permille(samples, self.period_ns, cpu_ns),
            ..Facts::default()
        };
        let column = Column {
            profile_type: ProfileType::cpu(),
            temporality: Temporality::Delta,
            period: self.period_ns.into(),
            weight: self.period_ns.into(),
            values,
        };
        Profile::new(self.labels.clone(), window, stacks, vec![column], facts)
            .inspect_err(|failure| error!(error = %failure, "window lost"))
            .ok()
    }
}

/// Thousandths of the samples that `cpu_ns` of CPU time should have given; 0
/// when there was none.
fn coverage_permille(samples: u64, period_ns: u32, cpu_ns: u64) -> u32 {
    samples
        .saturating_mul(1000)
        .saturating_mul(period_ns.into())
        .checked_div(cpu_ns)
        .map_or(0, |share| u32::try_from(share).unwrap_or(u32::MAX))
}

/// Stacks that were resolved before, by their addresses, and the names they
/// share.
#[derive(Default)]
struct Symbols {
    stacks: FxHashMap<Box<[usize]>, Stack>,
    texts: FxHashSet<Arc<str>>,
    frames_count: usize,
}

impl Symbols {
    /// The stack at `addresses`, leaf first, resolved when it is new.
    fn stack(&mut self, addresses: Box<[usize]>, resolve: impl FnOnce() -> Frames) -> Stack {
        if let Some(known) = self.stacks.get(&addresses) {
            return Arc::clone(known);
        }
        if self.frames_count > MAX_CACHED_FRAMES {
            *self = Self::default();
        }
        let resolved = resolve();
        // Within an address the innermost inlined call comes first.
        let mut frames: Vec<Frame> = resolved
            .frames
            .iter()
            .flatten()
            .map(|symbol| self.frame(symbol))
            .collect();
        if frames.is_empty() {
            frames.push(Frame::named(FrameKind::Synthetic, "[unresolved]"));
        }
        self.frames_count += frames.len();
        let stack = Stack::from(frames);
        self.stacks.insert(addresses, Arc::clone(&stack));
        stack
    }

    fn frame(&mut self, symbol: &Symbol) -> Frame {
        let function = symbol.name();
        let system_name = symbol.sys_name();
        let system_name = if system_name == function.as_str() {
            ""
        } else {
            &system_name
        };
        let file = symbol
            .filename
            .as_ref()
            .map(|path| path.to_string_lossy())
            .unwrap_or_default();
        Frame {
            system_name: self.text(system_name),
            file: self.text(&file),
            line: symbol.lineno(),
            function: self.text(&function),
            ..Frame::named(FrameKind::Native, "")
        }
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = Arc::from(text);
        self.texts.insert(Arc::clone(&text));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_configurations_say_what_to_change() {
        let usable = EmbedConfig::new("s");
        for (config, expected) in [
            (
                EmbedConfig::default(),
                "the service name is empty: give the program a name to be found by",
            ),
            (
                EmbedConfig {
                    rate_hz: 0,
                    ..usable.clone()
                },
                "cannot sample at 0 Hz: give 1 to 1000",
            ),
            (
                EmbedConfig {
                    window: Duration::ZERO,
                    ..usable.clone()
                },
                "cannot profile in windows of no length",
            ),
            (
                EmbedConfig {
                    collector: "localhost:4040".to_owned(),
                    ..usable.clone()
                },
                "cannot ship to collector localhost:4040",
            ),
            (
                EmbedConfig {
                    labels: vec![("service".to_owned(), "other".to_owned())],
                    ..usable
                },
                "cannot profile service \"s\" with these labels",
            ),
        ] {
            assert_eq!(embed(config).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn coverage_is_samples_over_samples_expected() {
        for (samples, cpu_ns, expected) in [
            (99, 1_000_000_000, 990),
            (0, 1_000_000_000, 0),
            (5, 0, 0),
            (u64::MAX, 1, u32::MAX),
        ] {
            assert_eq!(coverage_permille(samples, 10_000_000, cpu_ns), expected);
        }
    }
}
