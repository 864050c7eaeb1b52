//! Profiles of Java virtual machines, by their own flight recorder and without
//! flags at their start: CPU, allocations, and waits for locks.
//!
//! The agent attaches to HotSpot (`attach`), lets it record what is needed and
//! no more (`recording`), fetches what was recorded at the end of each window
//! (`jfr`), and puts it beside what the kernel counted (`convert`, `account`).
//! Events carry their time, so each goes to the window it ended in.
//!
//! Whether it tells a machine's CPU decides [`super::route`], to which it is
//! offered ([`Claims`]). Where recording does not work the reason is said once,
//! and perf events go on. When the agent stops, and when one starts after
//! another was killed, recordings and files of agents that are gone are removed.
//!
//! Needs: HotSpot from JDK 8u262 on, the machine's user and group, its `/tmp`
//! writable. The first time, the recorder takes about half a second of the
//! target's CPU to start; then some milliseconds per window.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::window::{Clock, UnixNanos};
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Collected;
use super::endpoint::TargetState;
use super::route::Claims;
use crate::target::Process;

mod account;
mod attach;
mod convert;
mod error;
mod folder;
mod followed;
mod jfr;
mod recording;

pub use error::JvmError;
pub use followed::{Cpu, Followed, Plan};

use attach::Machine;
use followed::aside;

/// Most machines that are recorded at a time.
const MAX_MACHINES: usize = 16;
/// Most threads that read files for it, each up to a chunk of a recording at a time.
const MAX_READERS: usize = 8;
/// Most processes that are looked at.
const MAX_PROCESSES: usize = 256;
/// Rounds that may wait to be passed on.
const MAX_ROUNDS: usize = 4;
/// Longest time until a process is looked at again.
const MAX_RETRY: Duration = Duration::from_secs(60);
/// Attempts before it is said that a machine does not catch SIGQUIT: one that
/// starts does not yet.
const QUIET_ATTEMPTS: u32 = 4;
/// Time within which others are told that a machine's CPU is sampled here.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// Time allowed for the last fetch, when the agent stops.
const LAST_FETCH: Duration = Duration::from_secs(5);
/// Time allowed for that and for stopping.
const LAST_STOP: Duration = Duration::from_secs(12);
/// Time allowed for all of it, should even the file system not answer.
const LAST_RESORT: Duration = Duration::from_secs(15);

/// Whether process `pid` is a Java virtual machine.
pub fn is_jvm(pid: i32) -> bool {
    attach::is_machine(pid)
}

/// Whether process `pid` is one or, by the name of its program, soon will be.
pub fn is_expected(pid: i32) -> bool {
    let program = std::fs::read_link(format!("/proc/{pid}/exe"));
    is_jvm(pid) || program.is_ok_and(|path| path.file_name().is_some_and(|name| name == "java"))
}

/// Looks at process `pid` from outside, and returns whether it could be
/// recorded as far as can be seen so.
///
/// # Errors
///
/// [`JvmError`] says why not.
pub fn look(pid: i32) -> Result<(), JvmError> {
    Machine::of(pid).map(drop)
}

/// Attaches to process `pid` and returns the version of its virtual machine,
/// which has a flight recorder. Records nothing.
///
/// # Errors
///
/// [`JvmError`] says why it cannot be recorded.
pub async fn probe(pid: i32) -> Result<String, JvmError> {
    let machine = aside(pid, move || Machine::of(pid)).await??;
    recording::probe(&machine).await
}

/// How it stands with a process.
#[derive(Debug)]
enum Standing {
    /// It is looked at again at this time.
    Due(Instant),
    /// This task has it.
    Busy(Id),
    /// It is recorded.
    Recorded(Box<Followed>),
    /// It is left alone.
    Never,
}

#[derive(Debug)]
struct Entry {
    process: Process,
    standing: Standing,
    failures: u32,
    is_told: bool,
    /// Whether it was seen to be a machine that there is room for.
    is_machine: bool,
}

/// What a task was doing, and with which outcome.
enum Done {
    Looked(bool),
    /// With the border from which on its CPU can be told.
    Started(Result<(Box<Followed>, UnixNanos), JvmError>),
    /// Also what was told before it failed.
    Taken(Result<Box<Followed>, JvmError>, Vec<Collected>),
    Stopped,
}

/// Records the machines of one target.
#[derive(Debug)]
pub struct JvmSource {
    plan: Plan,
    clock: Arc<dyn Clock>,
    target: watch::Receiver<TargetState>,
    yields: mpsc::Sender<Vec<Collected>>,
    claims: Claims,
    entries: FxHashMap<i32, Entry>,
    tasks: JoinSet<(Process, Done)>,
    /// What machines told of the window that ended last, while some have not.
    round: Vec<Collected>,
    fetch_at: UnixNanos,
    window_end: UnixNanos,
}

impl JvmSource {
    /// Returns a source whose yields go to `yields`, one for each window; when
    /// that queue is full they are dropped and counted in the log. `claims`
    /// are the router's.
    pub fn new(
        plan: Plan,
        clock: Arc<dyn Clock>,
        target: watch::Receiver<TargetState>,
        yields: mpsc::Sender<Vec<Collected>>,
        claims: Claims,
    ) -> Self {
        let now = clock.now();
        Self {
            window_end: now.floor(plan.window).saturating_add(plan.window),
            fetch_at: now.floor(plan.window).saturating_add(plan.fetch_every()),
            plan,
            clock,
            target,
            yields,
            claims,
            entries: FxHashMap::default(),
            tasks: JoinSet::new(),
            round: Vec::new(),
        }
    }

    /// Records until `shutdown`, on a thread of its own: files are exchanged with
    /// the target, and its file system may not answer. The future passes on what
    /// it yields; it ends with the thread, or without it if that hangs.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn start(
        mut self,
        shutdown: CancellationToken,
    ) -> io::Result<impl Future<Output = ()> + Send> {
        let (rounds, mut from_thread) = mpsc::channel(MAX_ROUNDS);
        let yields = std::mem::replace(&mut self.yields, rounds);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MAX_READERS)
            .build()?;
        let told = shutdown.clone();
        std::thread::Builder::new()
            .name("jvm".to_owned())
            .spawn(move || {
                runtime.block_on(self.run(told));
                // Work that hangs is left behind.
                runtime.shutdown_background();
            })?;
        Ok(async move {
            let late = async {
                shutdown.cancelled().await;
                tokio::time::sleep(LAST_RESORT).await;
            };
            tokio::pin!(late);
            let mut dropped: u64 = 0;
            loop {
                let round = tokio::select! {
                    round = from_thread.recv() => round,
                    () = &mut late => {
                        warn!("java virtual machines not left in order: their files do not answer");
                        return;
                    }
                };
                let Some(round) = round else {
                    return;
                };
                if yields.try_send(round).is_err() {
                    dropped = dropped.saturating_add(1);
                    warn!(
                        dropped_count = dropped,
                        "profiles of java virtual machines dropped: queue full"
                    );
                }
            }
        })
    }

    async fn run(mut self, shutdown: CancellationToken) {
        let mut target = self.target.clone();
        self.follow(&target.borrow_and_update().clone());
        loop {
            self.begin_due();
            let wait = self.until_due();
            tokio::select! {
                () = shutdown.cancelled() => break,
                changed = target.changed() => {
                    if changed.is_err() {
                        shutdown.cancelled().await;
                        break;
                    }
                    let state = target.borrow_and_update().clone();
                    self.follow(&state);
                }
                Some(done) = self.tasks.join_next() => self.end_task(done),
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.finish().await;
    }

    /// Takes note of who came and went.
    fn follow(&mut self, state: &TargetState) {
        let processes = state.processes.iter();
        let current: FxHashMap<i32, &Process> = processes.map(|p| (p.pid, p)).collect();
        let mut gone = Vec::new();
        for (pid, entry) in &mut self.entries {
            match current.get(pid) {
                Some(process) if process.started == entry.process.started => {
                    // It may have become another program.
                    if process.name != entry.process.name
                        && matches!(entry.standing, Standing::Due(_) | Standing::Never)
                    {
                        entry.standing = Standing::Due(Instant::now());
                        entry.failures = 0;
                        entry.is_told = false;
                        entry.is_machine = false;
                        self.claims.forget(*pid);
                    }
                    entry.process = (*process).clone();
                }
                Some(_) | None => gone.push(*pid),
            }
        }
        for pid in gone {
            self.claims.forget(pid);
            if let Some(entry) = self.entries.remove(&pid)
                && let Standing::Recorded(followed) = entry.standing
            {
                self.begin_stop(entry.process, followed);
            }
        }
        for (pid, process) in current {
            if self.entries.len() >= MAX_PROCESSES {
                break;
            }
            self.entries.entry(pid).or_insert_with(|| Entry {
                process: process.clone(),
                standing: Standing::Due(Instant::now()),
                failures: 0,
                is_told: false,
                is_machine: false,
            });
        }
    }

    /// Stops a recording that is no more use. The machine may run on as
    /// something else than the target.
    fn begin_stop(&mut self, process: Process, followed: Box<Followed>) {
        self.tasks.spawn(async move {
            if let Err(error) = followed.stop().await {
                debug!(%error, "flight recording not stopped");
            }
            (process, Done::Stopped)
        });
    }

    fn until_due(&self) -> Duration {
        let fetch = self.fetch_at.since(self.clock.now());
        let due = self
            .entries
            .values()
            .filter_map(|entry| match entry.standing {
                Standing::Due(at) => Some(at.saturating_duration_since(Instant::now())),
                Standing::Busy(_) | Standing::Recorded(_) | Standing::Never => None,
            });
        due.fold(fetch, Duration::min)
    }

    /// Starts tasks for all that is due.
    fn begin_due(&mut self) {
        let now = self.clock.now();
        // After the clock was set back, do not wait for the old time.
        let is_back = self.fetch_at.since(now) > self.plan.fetch_every();
        if now >= self.fetch_at || is_back {
            self.begin_fetches(now);
        }
        for entry in self.entries.values_mut() {
            match entry.standing {
                Standing::Due(at) if at <= Instant::now() => {}
                Standing::Due(_) | Standing::Busy(_) | Standing::Recorded(_) | Standing::Never => {
                    continue;
                }
            }
            let process = entry.process.clone();
            let task = self.tasks.spawn_blocking(move || {
                let is_machine = attach::is_machine(process.pid);
                (process, Done::Looked(is_machine))
            });
            entry.standing = Standing::Busy(task.id());
        }
    }

    /// Begins to record a process that was seen to be a machine.
    fn begin_recording(&mut self, process: Process) {
        let pid = process.pid;
        let recorded = self.entries.values().filter(|other| {
            let is_held = matches!(other.standing, Standing::Busy(_) | Standing::Recorded(_));
            is_held && other.is_machine && other.process.pid != pid
        });
        let is_room = recorded.count() < MAX_MACHINES;
        let Some(entry) = entry_of(&mut self.entries, &process) else {
            return;
        };
        if !is_room {
            if !std::mem::replace(&mut entry.is_told, true) {
                warn!(
                    pid,
                    most = MAX_MACHINES,
                    "too many java virtual machines: another source is used if it works"
                );
            }
            entry.is_machine = false;
            entry.standing = Standing::Due(Instant::now() + MAX_RETRY);
            self.claims.refuse(pid);
            return;
        }
        entry.is_machine = true;
        let (plan, clock) = (self.plan, Arc::clone(&self.clock));
        let task = self.tasks.spawn(async move {
            let begun = clock.now();
            let started = Followed::start(pid, plan, begun).await;
            let started = started.map(|mut followed| {
                // Who sampled its CPU so far goes on to a border that is far
                // enough away to be told of this.
                let told = clock.now().saturating_add(TOLD_WITHIN.min(plan.window));
                let cpu_since = told.floor(plan.window).saturating_add(plan.window);
                followed.tell_from(begun.floor(plan.window));
                (Box::new(followed), cpu_since)
            });
            (process, Done::Started(started))
        });
        entry.standing = Standing::Busy(task.id());
    }

    fn begin_fetches(&mut self, now: UnixNanos) {
        let is_end =
            now >= self.window_end || now < self.window_end.saturating_sub(self.plan.window);
        let end = now.floor(self.plan.window);
        if is_end {
            self.yield_round();
            self.window_end = end.saturating_add(self.plan.window);
        }
        self.fetch_at = now
            .floor(self.plan.fetch_every())
            .saturating_add(self.plan.fetch_every())
            .min(self.window_end);
        for entry in self.entries.values_mut() {
            match std::mem::replace(&mut entry.standing, Standing::Never) {
                Standing::Recorded(followed) => {
                    let process = entry.process.clone();
                    let cpu = cpu_of(&self.claims, &followed);
                    if is_end && cpu == Cpu::Told {
                        self.claims.keep(process.pid);
                    }
                    let end = is_end.then_some(end);
                    let task = self.tasks.spawn(async move {
                        let (outcome, taken) = fetch(followed, end, cpu).await;
                        (process, Done::Taken(outcome, taken))
                    });
                    entry.standing = Standing::Busy(task.id());
                }
                other => entry.standing = other,
            }
        }
    }

    fn end_task(&mut self, done: Result<(Process, Done), tokio::task::JoinError>) {
        let (process, done) = match done {
            Ok(done) => done,
            Err(error) => {
                warn!(%error, "recording a java virtual machine failed");
                self.retry(error.id());
                return;
            }
        };
        let entry = entry_of(&mut self.entries, &process);
        let failure = match done {
            Done::Stopped => return,
            Done::Looked(true) => {
                self.begin_recording(process);
                return;
            }
            Done::Looked(false) => {
                if let Some(entry) = entry {
                    entry.failures = entry.failures.saturating_add(1);
                    entry.standing = Standing::Due(Instant::now() + retry_after(entry.failures));
                    if entry.failures >= QUIET_ATTEMPTS {
                        self.claims.refuse(process.pid);
                    }
                }
                return;
            }
            Done::Started(Ok((followed, cpu_since))) => {
                info!(
                    pid = process.pid,
                    version = followed.version(),
                    "java virtual machine is recorded"
                );
                let Some(entry) = entry else {
                    self.begin_stop(process, followed);
                    return;
                };
                if self.plan.with_cpu {
                    self.claims.offer(process.pid, cpu_since);
                }
                entry.failures = 0;
                entry.standing = Standing::Recorded(followed);
                return;
            }
            Done::Taken(outcome, taken) => {
                let failure = match (outcome, entry) {
                    (Ok(followed), Some(entry)) => {
                        entry.standing = Standing::Recorded(followed);
                        None
                    }
                    (Ok(followed), None) => {
                        self.begin_stop(process.clone(), followed);
                        None
                    }
                    (Err(error), _) => Some(error),
                };
                self.take_in(taken);
                failure
            }
            Done::Started(Err(error)) => Some(error),
        };
        if let (Some(error), Some(entry)) = (failure, entry_of(&mut self.entries, &process)) {
            entry.failures = entry.failures.saturating_add(1);
            tell(entry, &error);
            entry.standing = match error.may_pass() {
                true => Standing::Due(Instant::now() + retry_after(entry.failures)),
                false => Standing::Never,
            };
            // One that is just starting is waited for.
            match entry.is_told {
                true => self.claims.refuse(process.pid),
                false => self.claims.forget(process.pid),
            }
        }
        let is_waited_for = self.entries.values().any(|entry| match entry.standing {
            Standing::Busy(_) => self.claims.is_granted(entry.process.pid),
            Standing::Recorded(_) | Standing::Due(_) | Standing::Never => false,
        });
        if !is_waited_for {
            self.yield_round();
        }
    }

    /// Lets the process that a task had, which panicked, be looked at again.
    fn retry(&mut self, task: Id) {
        let mut entries = self.entries.iter_mut();
        let found = entries.find(|(_, entry)| match entry.standing {
            Standing::Busy(id) => id == task,
            Standing::Due(_) | Standing::Recorded(_) | Standing::Never => false,
        });
        if let Some((pid, entry)) = found {
            entry.failures = entry.failures.saturating_add(1);
            entry.standing = Standing::Due(Instant::now() + retry_after(entry.failures));
            self.claims.refuse(*pid);
        }
    }

    /// Adds what one machine told to the round.
    fn take_in(&mut self, collected: Vec<Collected>) {
        for collected in collected {
            let same = |other: &&mut Collected| {
                other.window == collected.window && other.is_cpu() && collected.is_cpu()
            };
            match self.round.iter_mut().find(same) {
                Some(sum) => sum.add(collected),
                None => self.round.push(collected),
            }
        }
    }

    fn yield_round(&mut self) {
        let round = std::mem::take(&mut self.round);
        if !round.is_empty() && self.yields.try_send(round).is_err() {
            warn!("profiles of java virtual machines dropped: the agent is too busy");
        }
    }

    /// Fetches what there is and stops all recordings.
    async fn finish(mut self) {
        let ends = last_ends(self.clock.now(), self.window_end, self.plan.window);
        let now = tokio::time::Instant::now();
        let (fetched_by, stopped_by) = (now + LAST_FETCH, now + LAST_STOP);
        // What tasks have is waited for, so that it can be stopped.
        while !self.tasks.is_empty() {
            match tokio::time::timeout_at(fetched_by, self.tasks.join_next()).await {
                // Nothing is begun any more.
                Ok(Some(Ok((_, Done::Looked(_))))) => {}
                Ok(Some(done)) => self.end_task(done),
                Ok(None) | Err(_) => break,
            }
        }
        let mut last = JoinSet::new();
        for (_, entry) in std::mem::take(&mut self.entries) {
            if let Standing::Recorded(mut followed) = entry.standing {
                let cpu = cpu_of(&self.claims, &followed);
                let ends = ends.clone();
                last.spawn(async move {
                    let mut taken = Vec::new();
                    let taking = take_each(&mut followed, &ends, cpu, &mut taken);
                    let ended = tokio::time::timeout_at(fetched_by, taking).await;
                    (taken, ended.unwrap_or(Ok(())), followed.stop().await)
                });
            }
        }
        while let Ok(Some(done)) = tokio::time::timeout_at(stopped_by, last.join_next()).await {
            let Ok((taken, ended, stopped)) = done else {
                continue;
            };
            self.take_in(taken);
            for error in [ended.err(), stopped.err()].into_iter().flatten() {
                debug!(
                    error = &error as &dyn std::error::Error,
                    "flight recording not ended in order"
                );
            }
        }
        self.yield_round();
    }
}

/// Ends of the windows that are still to be told at `now`, when the next border
/// is `window_end`. If that has just passed there are two of them: what comes
/// after it belongs to no window that others close there.
fn last_ends(now: UnixNanos, window_end: UnixNanos, window: Duration) -> Vec<UnixNanos> {
    let open = now.floor(window).saturating_add(window);
    match open > window_end {
        true => vec![window_end, open],
        false => vec![open],
    }
}

/// Takes what happened up to each of `ends` into `taken`.
async fn take_each(
    followed: &mut Followed,
    ends: &[UnixNanos],
    cpu: Cpu,
    taken: &mut Vec<Collected>,
) -> Result<(), JvmError> {
    for end in ends {
        followed.take(*end, cpu, taken).await?;
    }
    Ok(())
}

/// Fetches what a machine recorded, and takes what happened up to `end` if a
/// window ends there. One that does not give it is begun anew, if at all.
async fn fetch(
    mut followed: Box<Followed>,
    end: Option<UnixNanos>,
    cpu: Cpu,
) -> (Result<Box<Followed>, JvmError>, Vec<Collected>) {
    let mut taken = Vec::new();
    let fetched = match end {
        Some(end) => followed.take(end, cpu, &mut taken).await,
        None => followed.fetch().await,
    };
    let outcome = match fetched {
        Ok(()) => Ok(followed),
        Err(error) => {
            if let Err(error) = followed.stop().await {
                debug!(%error, "flight recording not stopped");
            }
            Err(error)
        }
    };
    (outcome, taken)
}

/// Whether the CPU of the next window of `followed` is told here.
fn cpu_of(claims: &Claims, followed: &Followed) -> Cpu {
    match claims.tells(followed.pid(), followed.from()) {
        true => Cpu::Told,
        false => Cpu::ToldByOthers,
    }
}

fn entry_of<'a>(
    entries: &'a mut FxHashMap<i32, Entry>,
    process: &Process,
) -> Option<&'a mut Entry> {
    entries
        .get_mut(&process.pid)
        .filter(|entry| entry.process.started == process.started)
}

fn retry_after(failures: u32) -> Duration {
    let seconds = 2_u64.saturating_pow(failures.saturating_sub(1).min(16));
    Duration::from_secs(seconds).min(MAX_RETRY)
}

/// Says once why a machine is not recorded.
fn tell(entry: &mut Entry, error: &JvmError) {
    let is_starting =
        matches!(error, JvmError::DeafToQuit { .. }) && entry.failures < QUIET_ATTEMPTS;
    let is_quiet = matches!(error, JvmError::NotAMachine { .. } | JvmError::Gone { .. });
    if entry.is_told || is_starting || is_quiet {
        debug!(
            error = error as &dyn std::error::Error,
            "java virtual machine is not recorded"
        );
        return;
    }
    entry.is_told = true;
    warn!(
        pid = entry.process.pid,
        error = error as &dyn std::error::Error,
        fix = error.fix(),
        "java virtual machine is not recorded: another source is used if it works"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_just_after_a_border_tells_both_windows_on_their_own() {
        let seconds = |s: i64| UnixNanos::new(s * 1_000_000_000);
        let window = Duration::from_secs(2);
        let border = seconds(816);
        let before = UnixNanos::new(815_990_000_000);
        assert_eq!(last_ends(before, border, window), [border]);
        let after = UnixNanos::new(816_010_000_000);
        assert_eq!(last_ends(after, border, window), [border, seconds(818)]);
        // A border that was already told, and a clock that was set back.
        assert_eq!(last_ends(after, seconds(818), window), [seconds(818)]);
        assert_eq!(last_ends(before, seconds(900), window), [border]);
    }
}
