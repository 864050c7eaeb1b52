//! `agent run`: samples, spools and ships until it is told to stop.
//!
//! Start: the spool is opened (a wrong folder or address ends the run before
//! anything is touched), then the command is started if there is one, then the
//! shipper, the assembling task, the endpoint and the JVM source, and the
//! observer thread.
//!
//! Stop, on SIGTERM, SIGINT, or the end of the target:
//! 1. the observer and the other sources stop; each gives what it has of its
//!    last window and closes its queue, and recordings of JVMs are ended;
//! 2. the assembling task ends when both queues are closed and empty, with all
//!    profiles in the spool;
//! 3. the shipper is told to stop and tries to empty the spool for
//!    [`DRAIN_TIME`](crate::ship::DRAIN_TIME); what is left is sent by the
//!    next agent.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use proto::limits::INSTANCE_BYTES;
use proto::profile::Profile;
use proto::window::{Clock, UnixNanos, Window};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::assemble::{Accounted, Assembler};
use crate::config::{Config, ConfigError, CpuSource, EndpointChoice, JvmMode};
use crate::doctor;
use crate::govern::{Budget, Governor};
use crate::observe::{Observation, Observer, Outlets};
use crate::ship::{HelloInfo, ShipConfig, ShipError, run_shipper};
use crate::source::endpoint::{EndpointError, EndpointSource, Plan, TargetState};
use crate::source::jvm::{self, JvmSource};
use crate::source::route::{Allowed, Claims};
use crate::source::{Collected, cpu_sampler, wall_sampler};
use crate::spool::{Spool, SpoolError};
use crate::target::{Selection, TargetError};

/// Windows that may wait to be assembled; beyond they are dropped and counted.
const MAX_WAITING: usize = 16;
/// Windows whose accounting is remembered for profiles that arrive late.
const HISTORY: usize = 64;
/// Time allowed to find out what can be sampled, before sampling begins.
const EXAMINE_TIME: Duration = Duration::from_secs(20);
/// Exit code of a shell for a command that was ended by a signal.
const SIGNAL_EXIT: i32 = 128;

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be used.
    #[error("the configuration cannot be used")]
    Config(#[from] ConfigError),
    /// The token file cannot be read.
    #[error("cannot read the token file {path}")]
    Token {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No random instance id can be drawn.
    #[error("cannot draw the agent's instance id: {0}")]
    Random(getrandom::Error),
    /// The spool cannot be used.
    #[error("cannot use the spool")]
    Spool(#[from] SpoolError),
    /// The collector's address or certificates cannot be used.
    #[error("cannot ship to the collector")]
    Ship(#[from] ShipError),
    /// The target cannot be followed.
    #[error("cannot follow the target")]
    Target(#[from] TargetError),
    /// The endpoint source cannot be made.
    #[error("cannot ask endpoints")]
    Endpoint(#[from] EndpointError),
    /// The command cannot be started.
    #[error("cannot start {command:?}")]
    Command {
        /// Its first word.
        command: OsString,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Signals cannot be listened to, or a thread cannot be started.
    #[error("cannot set up signals and threads")]
    Setup(#[source] io::Error),
}

impl Config {
    /// The processes that are meant.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Command`] if the expression is wrong.
    pub fn selection(&self) -> Result<Selection, ConfigError> {
        if self.target.pid > 0 {
            return Ok(Selection::Pid(self.target.pid));
        }
        if !self.target.name.is_empty() {
            return Ok(Selection::Name(self.target.name.clone()));
        }
        let command = self.command_regex()?;
        Ok(command.map_or(Selection::Others, Selection::Command))
    }

    fn plan(&self) -> Plan {
        Plan {
            choice: self.endpoint.url.clone(),
            with_cpu: match self.cpu.source {
                CpuSource::Auto | CpuSource::Endpoint => true,
                CpuSource::Perf
                | CpuSource::Python
                | CpuSource::Jvm
                | CpuSource::Proc
                | CpuSource::Off => false,
            },
            window: self.window.length,
            cpu_length: self.endpoint.cpu_length,
            cpu_every: self.endpoint.cpu_every,
            snapshot_every: self.endpoint.snapshot_every,
        }
    }

    fn budget(&self) -> Budget {
        Budget {
            cpu_millicores: self.budget.cpu_millicores,
            memory_bytes: self.budget.memory_bytes,
        }
    }

    fn jvm_plan(&self) -> jvm::Plan {
        jvm::Plan {
            with_cpu: Allowed::by(self.cpu.source, self.jvm.mode)
                .is_some_and(|allowed| allowed.jvm),
            window: self.window.length,
            rate_hz: self.cpu.rate_hz,
            ends_after: None,
        }
    }

    fn ship(&self) -> Result<ShipConfig, RunError> {
        let token_file = &self.collector.token_file;
        let token = if token_file.as_os_str().is_empty() {
            None
        } else {
            Some(read_token(token_file)?)
        };
        let ca_file = &self.collector.ca_file;
        Ok(ShipConfig {
            url: self.collector.url.clone(),
            token,
            ca_file: (!ca_file.as_os_str().is_empty()).then(|| ca_file.clone()),
            hello: HelloInfo {
                labels: self.label_set()?,
                capabilities: Vec::new(),
            },
        })
    }
}

fn read_token(path: &Path) -> Result<String, RunError> {
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|source| RunError::Token {
            path: path.to_owned(),
            source,
        })
}

/// Everything that ends a run.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
    forwarded: [(Signal, rustix::process::Signal); 4],
}

impl Ends {
    fn new() -> io::Result<Self> {
        use rustix::process::Signal as Sent;
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            forwarded: [
                (signal(SignalKind::hangup())?, Sent::HUP),
                (signal(SignalKind::quit())?, Sent::QUIT),
                (signal(SignalKind::user_defined1())?, Sent::USR1),
                (signal(SignalKind::user_defined2())?, Sent::USR2),
            ],
        })
    }

    /// Waits for SIGTERM or SIGINT.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for the command to end, passing on every signal meanwhile.
    async fn command(&mut self, child: &mut Child) -> io::Result<ExitStatus> {
        use rustix::process::Signal as Sent;
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let pid = pid.and_then(rustix::process::Pid::from_raw);
        loop {
            let [hangup, quit, user1, user2] = &mut self.forwarded;
            let sent = tokio::select! {
                status = child.wait() => return status,
                _ = self.terminate.recv() => Sent::TERM,
                _ = self.interrupt.recv() => Sent::INT,
                _ = hangup.0.recv() => hangup.1,
                _ = quit.0.recv() => quit.1,
                _ = user1.0.recv() => user1.1,
                _ = user2.0.recv() => user2.1,
            };
            // A key press reached the command already: it is of the same
            // process group as the agent.
            let is_from_keyboard = (sent == Sent::INT || sent == Sent::QUIT)
                && io::IsTerminal::is_terminal(&io::stdin());
            if let Some(pid) = pid.filter(|_| !is_from_keyboard)
                && let Err(error) = rustix::process::kill_process(pid, sent)
            {
                info!(%error, "signal not passed on: the command has ended");
            }
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| SIGNAL_EXIT + signal))
        .unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// Runs the agent beside its target, or with `command` as its target.
///
/// Returns the exit code: the command's, or 0.
///
/// # Errors
///
/// [`RunError`] if it cannot start.
pub async fn run(
    mut config: Config,
    command: &[OsString],
    clock: Arc<dyn Clock>,
) -> Result<u8, RunError> {
    let mut ends = Ends::new().map_err(RunError::Setup)?;
    let mut instance = [0; INSTANCE_BYTES];
    getrandom::fill(&mut instance).map_err(RunError::Random)?;
    let mut ship = config.ship()?;
    ship.check()?;
    let spool = Spool::open(
        &config.spool.folder(&config.collector.url),
        config.spool.max_bytes,
        instance,
    )?;
    let spool = Arc::new(spool);

    let mut child = match command.split_first() {
        None => None,
        Some((program, arguments)) => {
            let child = Command::new(program)
                .args(arguments)
                // Only if the agent cannot start after all.
                .kill_on_drop(true)
                .spawn();
            let child = child.map_err(|source| RunError::Command {
                command: program.clone(),
                source,
            })?;
            config.target = crate::config::TargetConfig {
                pid: child
                    .id()
                    .and_then(|id| i32::try_from(id).ok())
                    .unwrap_or(0),
                ..Default::default()
            };
            Some(child)
        }
    };
    let examined = {
        let config = config.clone();
        let examining = tokio::task::spawn_blocking(move || doctor::examine_host(&config));
        // Files of the target are looked at, which may not answer.
        tokio::time::timeout(EXAMINE_TIME, examining).await
    };
    let mut assembler = Assembler::new(
        config.label_set()?,
        1_000_000_000 / u64::from(config.cpu.rate_hz.max(1)),
    );
    if let Ok(Ok(report)) = examined {
        assembler.name_service(&report.target_name);
        ship.hello.capabilities = report.capabilities();
        ship.hello.labels = assembler.labels();
    }

    let stop_sources = CancellationToken::new();
    let stop_shipper = CancellationToken::new();
    let (observations, from_observer) = mpsc::channel(MAX_WAITING);
    let (yields, from_endpoint) = mpsc::channel(MAX_WAITING);
    let (target, target_state) = watch::channel(TargetState::default());
    let claims = Claims::default();
    let outlets = Outlets {
        target,
        observations,
    };
    let observer = Observer::new(
        config.selection()?,
        cpu_sampler(&config.cpu, config.jvm.mode, claims.clone()),
        config.window.length,
        Arc::clone(&clock),
        outlets,
        stop_sources.clone(),
    )?
    .with_wall(wall_sampler(&config.wall))
    .with_governor(Governor::new(config.budget(), config.cpu.rate_hz));

    let mut shipper = JoinSet::new();
    shipper.spawn(run_shipper(
        Arc::clone(&spool),
        ship,
        Arc::clone(&clock),
        stop_shipper.clone(),
    ));
    let mut tasks = JoinSet::new();
    let batches = Batches {
        assembler,
        samples_cpu: config.cpu.source != CpuSource::Off,
        history: VecDeque::new(),
        claims: claims.clone(),
        spool,
    };
    tasks.spawn(batches.run(from_observer, from_endpoint));
    match config.jvm.mode {
        JvmMode::Off => {}
        JvmMode::Auto => {
            let (target, yields) = (target_state.clone(), yields.clone());
            let source = JvmSource::new(
                config.jvm_plan(),
                Arc::clone(&clock),
                target,
                yields,
                claims.clone(),
            );
            let started = source.start(stop_sources.clone());
            tasks.spawn(started.map_err(RunError::Setup)?);
        }
    }
    if config.endpoint.url == EndpointChoice::Off {
        drop(yields);
    } else {
        let source =
            EndpointSource::new(config.plan(), clock, target_state, yields)?.claiming(claims);
        tasks.spawn(source.run(stop_sources.clone()));
    }
    let over = CancellationToken::new();
    let observer_over = over.clone().drop_guard();
    let thread = std::thread::Builder::new()
        .name("observer".to_owned())
        .spawn(move || {
            observer.run();
            drop(observer_over);
        })
        .map_err(RunError::Setup)?;
    info!(spool = %config.spool.folder(&config.collector.url).display(), collector = config.collector.url, "agent runs");

    let code = match &mut child {
        Some(child) => match ends.command(child).await {
            Ok(status) => exit_code(status),
            Err(error) => {
                error!(%error, "cannot wait for the command");
                1
            }
        },
        None => {
            tokio::select! {
                () = ends.stop() => info!("told to stop"),
                () = over.cancelled() => info!("target has ended"),
            }
            0
        }
    };
    stop_sources.cancel();
    thread.thread().unpark();
    over.cancelled().await;
    if thread.join().is_err() {
        error!("observer thread panicked");
    }
    join(&mut tasks).await;
    stop_shipper.cancel();
    join(&mut shipper).await;
    Ok(code)
}

/// Takes out of `waiting` what had ended at `end`.
fn take_until(end: UnixNanos, waiting: &mut Vec<Collected>) -> Vec<Collected> {
    waiting.extract_if(.., |c| c.window.end() <= end).collect()
}

async fn join<T: 'static>(tasks: &mut JoinSet<T>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            error!(%error, "task failed");
        }
    }
}

/// Puts what the sources saw into the spool, one batch per window.
struct Batches {
    assembler: Assembler,
    samples_cpu: bool,
    history: VecDeque<(Window, Accounted)>,
    /// Whose CPU comes a little later than the rest of a window.
    claims: Claims,
    spool: Arc<Spool>,
}

impl Batches {
    async fn run(
        mut self,
        mut observer: mpsc::Receiver<Observation>,
        mut endpoint: mpsc::Receiver<Vec<Collected>>,
    ) {
        let mut waiting: Vec<Collected> = Vec::new();
        // A window whose CPU has not come from everywhere; until the next one.
        let mut held: Option<Observation> = None;
        loop {
            // Both arms wait; closed queues disable theirs.
            tokio::select! {
                Some(observation) = observer.recv() => {
                    while let Ok(more) = endpoint.try_recv() {
                        waiting.extend(more);
                    }
                    if let Some(earlier) = held.take() {
                        let profiles = self.window(earlier, &mut waiting);
                        self.append(profiles).await;
                    }
                    if self.is_incomplete(&observation, &waiting) {
                        held = Some(observation);
                        continue;
                    }
                    let profiles = self.window(observation, &mut waiting);
                    self.append(profiles).await;
                }
                Some(collected) = endpoint.recv() => {
                    // Profiles whose window is still open wait for its facts.
                    waiting.extend(collected);
                    if let Some(whole) = held.take_if(|held| !self.is_incomplete(held, &waiting)) {
                        let profiles = self.window(whole, &mut waiting);
                        self.append(profiles).await;
                    }
                    if let Some(last) = self.history.back().map(|(last, _)| last.end()) {
                        let late = take_until(last, &mut waiting);
                        let profiles = self.late(late);
                        self.append(profiles).await;
                    }
                }
                else => break,
            }
        }
        if let Some(last) = held {
            let profiles = self.window(last, &mut waiting);
            self.append(profiles).await;
        }
        let profiles = self.late(waiting);
        self.append(profiles).await;
    }

    /// Whether CPU of the window is still to come.
    fn is_incomplete(&self, observation: &Observation, waiting: &[Collected]) -> bool {
        let window = observation.window;
        let mut come = waiting.iter();
        self.claims.tells_any(window.start()) && !come.any(|c| c.window == window && c.is_cpu())
    }

    /// Profiles of one window and of everything that waits and has ended with
    /// it.
    fn window(
        &mut self,
        mut observation: Observation,
        waiting: &mut Vec<Collected>,
    ) -> Vec<Profile> {
        self.assembler.name_service(&observation.name);
        // One profile of CPU for each window, so that its facts count once.
        let window = observation.window;
        let is_of_window = |c: &Collected| c.window == window && c.is_cpu();
        let ended = take_until(window.end(), waiting);
        let (cpu, mut others): (Vec<_>, Vec<_>) = ended.into_iter().partition(is_of_window);
        for cpu in cpu {
            match &mut observation.collected {
                Some(sum) => sum.add(cpu),
                None => observation.collected = Some(cpu),
            }
        }
        let accounted = Accounted {
            usage: observation.usage,
            watched: observation.watched,
        };
        // A target that ended before it was looked at again left its samples.
        let has_samples = observation
            .collected
            .as_ref()
            .is_some_and(|collected| collected.samples_count > 0);
        let is_there =
            observation.usage.processes_count > 0 || observation.usage.cpu_ns > 0 || has_samples;
        others.extend(observation.wall.filter(|wall| wall.samples_count > 0));
        let mut profiles = Vec::new();
        let mut untold = accounted;
        if let Some(collected) = observation
            .collected
            .filter(|_| self.samples_cpu && is_there)
        {
            profiles.extend(self.assembler.profiles(collected, accounted));
            // The endpoint may sample processes that the sampler cannot: what
            // the whole target used goes with one profile only.
            untold.usage.cpu_ns = 0;
            untold.usage.throttled_ns = 0;
        }
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        self.history.push_back((observation.window, untold));
        profiles.extend(self.late(others));
        profiles
    }

    fn late(&mut self, collected: Vec<Collected>) -> Vec<Profile> {
        let mut profiles = Vec::new();
        for collected in collected {
            let accounted = self.accounted(&collected.window);
            profiles.extend(self.assembler.profiles(collected, accounted));
        }
        profiles
    }

    /// What was accounted to the target within `window`, and its size at the
    /// end of what is known.
    fn accounted(&self, window: &Window) -> Accounted {
        let mut sum = self
            .history
            .back()
            .map(|(_, last)| *last)
            .unwrap_or_default();
        sum.usage.cpu_ns = 0;
        sum.usage.throttled_ns = 0;
        sum.watched = Duration::ZERO;
        for (part, accounted) in &self.history {
            if window.contains(part.start()) {
                let usage = &accounted.usage;
                sum.usage.cpu_ns = sum.usage.cpu_ns.saturating_add(usage.cpu_ns);
                sum.usage.throttled_ns = sum.usage.throttled_ns.saturating_add(usage.throttled_ns);
                sum.watched = sum.watched.saturating_add(accounted.watched);
            }
        }
        sum
    }

    async fn append(&self, profiles: Vec<Profile>) {
        if profiles.is_empty() {
            return;
        }
        let spool = Arc::clone(&self.spool);
        let count = profiles.len();
        let appended = tokio::task::spawn_blocking(move || spool.append(&profiles)).await;
        match appended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                error!(
                    profiles = count,
                    error, "profiles lost: spool cannot take them"
                );
            }
            Err(error) => error!(%error, "spool task failed"),
        }
    }
}
