//! The thread beside the target: follows its processes, samples their CPU, and
//! closes a window at each multiple of the window's length.
//!
//! It is a plain thread, so that no task can hold up sampling. It sleeps
//! between looks at `/proc` ([`SCAN_EVERY`]) and borders of windows; its queue
//! is bounded, and a window that finds it full is dropped and counted.
//!
//! At each border it measures what the agent costs and does what the
//! [`Governor`] orders. The rate that a window was sampled at is in its columns,
//! as their period and weight.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::window::{Clock, UnixNanos, Window};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::govern::{Governor, Order, Spent};
use crate::source::endpoint::TargetState;
use crate::source::proc::WallSampler;
use crate::source::{Collected, CpuSampler, OpenSampler};
use crate::sys::heap;
use crate::target::{Changes, SCAN_EVERY, Selection, TargetError, Tracker, Usage};
use cost::OwnCost;

mod cost;

/// Time after which a sampler that could not be opened is tried again.
const REOPEN_AFTER: Duration = Duration::from_secs(60);
/// How long the target may be away before that is said.
const EMPTY_IS_TOLD_AFTER: Duration = Duration::from_secs(5);
/// Longest sleep in the sampler, which a shutdown has to wait for.
const MAX_POLL: Duration = Duration::from_millis(250);

/// What was seen of the target over one window.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The window, whole.
    pub window: Window,
    /// How much of it was watched.
    pub watched: Duration,
    /// What the kernel accounted to the target meanwhile.
    pub usage: Usage,
    /// Name of the target's oldest process; empty when there is none.
    pub name: String,
    /// CPU samples, when a sampler ran.
    pub collected: Option<Collected>,
    /// What threads waited for, when that is sampled.
    pub wall: Option<Collected>,
}

/// Watches one target; see the module.
pub struct Observer {
    tracker: Tracker,
    open: Option<OpenSampler>,
    wall: Option<WallSampler>,
    governor: Option<Governor>,
    window: Duration,
    clock: Arc<dyn Clock>,
    may_be_unseen: bool,
    target: watch::Sender<TargetState>,
    observations: mpsc::Sender<Observation>,
    shutdown: CancellationToken,
}

/// An observer at work. Its sampler never leaves the thread it was opened on.
struct Watch {
    observer: Observer,
    sampler: Option<Box<dyn CpuSampler>>,
    reopen_at: Instant,
    /// Since when no process is the target, and whether that was said.
    empty_since: Option<Instant>,
    told_empty: bool,
    dropped_windows: u64,
    cost: OwnCost,
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer")
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

/// Where an observer tells what it sees.
#[derive(Debug)]
pub struct Outlets {
    /// The target as it is now.
    pub target: watch::Sender<TargetState>,
    /// One observation per window; dropped and counted when full.
    pub observations: mpsc::Sender<Observation>,
}

impl Observer {
    /// Returns an observer of `selection`. Without `open` no CPU is sampled.
    ///
    /// # Errors
    ///
    /// [`TargetError`] if `/proc` cannot be read.
    pub fn new(
        selection: Selection,
        open: Option<OpenSampler>,
        window: Duration,
        clock: Arc<dyn Clock>,
        outlets: Outlets,
        shutdown: CancellationToken,
    ) -> Result<Self, TargetError> {
        Ok(Self {
            may_be_unseen: matches!(selection, Selection::Others),
            tracker: Tracker::new(selection)?,
            open,
            wall: None,
            governor: None,
            window,
            clock,
            target: outlets.target,
            observations: outlets.observations,
            shutdown,
        })
    }

    /// Samples what threads wait for, too.
    #[must_use]
    pub fn with_wall(mut self, wall: Option<WallSampler>) -> Self {
        self.wall = wall;
        self
    }

    /// Lowers the rates when `governor` says so.
    #[must_use]
    pub fn with_governor(mut self, governor: Governor) -> Self {
        self.governor = Some(governor);
        self
    }

    /// Watches until the shutdown, or until a target that was selected by its
    /// id has ended. The last window is closed early.
    pub fn run(self) {
        let watch = Watch {
            observer: self,
            sampler: None,
            reopen_at: Instant::now(),
            empty_since: None,
            told_empty: false,
            dropped_windows: 0,
            cost: OwnCost::new(),
        };
        watch.run();
    }
}

impl Watch {
    fn run(mut self) {
        let (window, clock) = (self.observer.window, Arc::clone(&self.observer.clock));
        let mut next_scan = Instant::now();
        let mut begun = clock.now();
        let mut start = begun.floor(window);
        loop {
            if Instant::now() >= next_scan {
                self.scan();
                next_scan = Instant::now() + SCAN_EVERY;
            }
            let is_last = self.observer.shutdown.is_cancelled() || self.observer.tracker.is_over();
            let now = clock.now();
            let end = start.saturating_add(window);
            // The clock may have been set back before the window.
            if is_last || now >= end || now < start {
                self.close_window(start, now.since(begun).min(window));
                next_scan = Instant::now() + SCAN_EVERY;
                begun = now;
                start = now.floor(window);
            }
            if is_last {
                return;
            }
            let until_end = start.saturating_add(window).since(clock.now());
            let until_scan = next_scan.saturating_duration_since(Instant::now());
            let until_look = self.look_at_waiting();
            self.wait(until_end.min(until_scan).min(until_look));
        }
    }

    /// Looks at what threads wait for if it is time to; returns how long it is
    /// until the next time.
    fn look_at_waiting(&mut self) -> Duration {
        let Some(wall) = &mut self.observer.wall else {
            return Duration::MAX;
        };
        if !wall.has_processes() {
            return Duration::MAX;
        }
        wall.look(Instant::now());
        wall.next_look().saturating_duration_since(Instant::now())
    }

    /// Sleeps, in the sampler if there is something to sample.
    fn wait(&mut self, length: Duration) {
        match &mut self.sampler {
            Some(sampler) if sampler.has_targets() => {
                if let Err(error) = sampler.poll(length.min(MAX_POLL)) {
                    warn!(
                        error = &*error as &dyn std::error::Error,
                        "cpu sampler stopped"
                    );
                    self.give_up_sampler();
                    self.publish();
                }
            }
            // Unparked by the shutdown.
            Some(_) | None => std::thread::park_timeout(length),
        }
    }

    fn give_up_sampler(&mut self) {
        self.sampler = None;
        self.reopen_at = Instant::now() + REOPEN_AFTER;
    }

    fn scan(&mut self) {
        match self.observer.tracker.scan() {
            Ok(changes) => {
                self.follow(&changes);
                self.publish();
                self.tell_silence();
            }
            Err(error) => error!(
                error = &error as &dyn std::error::Error,
                "cannot look for the target"
            ),
        }
    }

    /// Says once that nothing matches, so that a wrong name is seen.
    fn tell_silence(&mut self) {
        let is_empty = self.observer.tracker.processes().is_empty();
        if !is_empty {
            self.empty_since = None;
            self.told_empty = false;
            return;
        }
        let since = *self.empty_since.get_or_insert_with(Instant::now);
        if !self.told_empty && since.elapsed() >= EMPTY_IS_TOLD_AFTER {
            self.told_empty = true;
            warn!("no process is the target yet: check --pid, --name or --command; waiting");
        }
    }

    /// Lets the sampler follow the target.
    fn follow(&mut self, changes: &Changes) {
        let pids: Vec<i32> = self
            .observer
            .tracker
            .processes()
            .iter()
            .map(|p| p.pid)
            .collect();
        if let Some(wall) = &mut self.observer.wall {
            for pid in &changes.removed {
                wall.remove_process(*pid);
            }
            for pid in &changes.added {
                if let Err(error) = wall.add_process(*pid) {
                    let error = &*error as &dyn std::error::Error;
                    debug!(pid, error, "waiting of process is not sampled");
                }
            }
        }
        if let Some(sampler) = &mut self.sampler {
            for pid in &changes.removed {
                sampler.remove_process(*pid);
            }
            for pid in &changes.added {
                if let Err(error) = sampler.add_process(*pid) {
                    debug!(
                        pid,
                        error = &*error as &dyn std::error::Error,
                        "process is not sampled"
                    );
                }
            }
            if pids.is_empty() || sampler.has_targets() {
                return;
            }
            self.give_up_sampler();
        }
        let is_due = !changes.added.is_empty() || Instant::now() >= self.reopen_at;
        if let Some(open) = &mut self.observer.open
            && is_due
            && !pids.is_empty()
        {
            match open(&pids) {
                Ok(mut sampler) => {
                    if let Some(governor) = &self.observer.governor {
                        sampler.set_divisor(governor.divisor());
                    }
                    let first: Vec<&i32> = pids.iter().take(8).collect();
                    let source = sampler.source();
                    info!(processes = pids.len(), pids = ?first, source, "sampling cpu");
                    self.sampler = Some(sampler);
                }
                Err(error) => {
                    let error = &*error as &dyn std::error::Error;
                    warn!(
                        error,
                        "cpu cannot be sampled from outside; `agent doctor` says why"
                    );
                    self.give_up_sampler();
                }
            }
        }
    }

    /// Tells the other sources about the target, if something changed.
    fn publish(&self) {
        let processes = self.observer.tracker.processes();
        let state = TargetState {
            started: processes.first().map(|p| p.started).unwrap_or_default(),
            processes,
            may_be_unseen: self.observer.may_be_unseen,
            is_sampled_from_outside: Some(
                self.sampler
                    .as_ref()
                    .is_some_and(|sampler| !sampler.misses_some()),
            ),
        };
        self.observer.target.send_if_modified(|place| {
            let changed = *place != state;
            *place = state;
            changed
        });
    }

    /// What was sampled; nothing if that says nothing of the window.
    fn collect(&mut self, window: Window) -> Option<Collected> {
        let sampler = self.sampler.as_mut()?;
        let leaves_all = sampler.leaves_all();
        let collected = sampler.collect(window);
        (!leaves_all).then_some(collected)
    }

    /// Measures what the agent cost and does what the governor orders.
    fn govern(&mut self, watched: Duration, throttled_ns: u64) {
        let Some(governor) = &mut self.observer.governor else {
            return;
        };
        let throttled = Duration::from_nanos(throttled_ns);
        let spent = self.cost.take(watched, throttled);
        let order = governor.judge(spent);
        debug!(?spent, divisor = order.divisor, "cost of a window");
        if order.forget {
            if let Some(sampler) = &mut self.sampler {
                sampler.forget();
            }
            heap::give_back();
        }
        if order.changed.is_none() {
            return;
        }
        tell(&order, &spent);
        if let Some(sampler) = &mut self.sampler {
            sampler.set_divisor(order.divisor);
        }
        if let Some(wall) = &mut self.observer.wall {
            wall.set_divisor(order.divisor);
        }
    }

    fn close_window(&mut self, start: UnixNanos, watched: Duration) {
        // Accounting must end where the window does.
        self.scan();
        let usage = self.observer.tracker.take_usage();
        let end = start.saturating_add(self.observer.window);
        let Ok(window) = Window::new(start, end) else {
            return;
        };
        let throttled_ns = usage.throttled_ns;
        let observation = Observation {
            window,
            watched,
            usage,
            name: self
                .observer
                .tracker
                .processes()
                .first()
                .map(|process| process.name.clone())
                .unwrap_or_default(),
            collected: self.collect(window),
            wall: self.observer.wall.as_mut().map(|wall| wall.collect(window)),
        };
        self.govern(watched, throttled_ns);
        if self.observer.observations.try_send(observation).is_err() {
            self.dropped_windows = self.dropped_windows.saturating_add(1);
            error!(
                dropped_windows = self.dropped_windows,
                "window dropped: queue full"
            );
        }
    }
}

/// Says that the rate changed, and why.
fn tell(order: &Order, spent: &Spent) {
    if let Some(reason) = order.changed {
        info!(
            divisor = order.divisor,
            %reason,
            cpu_ms = u64::try_from(spent.cpu.as_millis()).unwrap_or(u64::MAX),
            watched_ms = u64::try_from(spent.watched.as_millis()).unwrap_or(u64::MAX),
            rss_bytes = spent.rss_bytes,
            throttled_ms = u64::try_from(spent.throttled.as_millis()).unwrap_or(u64::MAX),
            "sampling rate changed: the configured one divided by"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::SamplerError;
    use proto::window::SystemClock;
    use std::process::{Child, Command};
    use std::thread::JoinHandle;

    const WINDOW: Duration = Duration::from_secs(1);

    /// A process that waits until it is ended.
    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            Self(Command::new("sleep").arg("600").spawn().unwrap())
        }

        fn selection(&self) -> Selection {
            Selection::Pid(i32::try_from(self.0.id()).unwrap())
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _killed = self.0.kill();
            let _ended = self.0.wait();
        }
    }

    #[derive(Debug)]
    struct Fake {
        targets: usize,
        fails: bool,
        leaves_all: bool,
        divisors: Divisors,
    }

    /// What a sampler was told to divide its rate by.
    type Divisors = Arc<std::sync::Mutex<Vec<u32>>>;

    impl CpuSampler for Fake {
        fn add_process(&mut self, _pid: i32) -> Result<(), SamplerError> {
            self.targets += 1;
            Ok(())
        }

        fn remove_process(&mut self, _pid: i32) {
            self.targets -= 1;
        }

        fn poll(&mut self, timeout: Duration) -> Result<(), SamplerError> {
            if self.fails {
                return Err("ring is gone".into());
            }
            std::thread::sleep(timeout);
            Ok(())
        }

        fn collect(&mut self, window: Window) -> Collected {
            Collected {
                window,
                observed_ns: 0,
                lost_samples: 0,
                dropped_labels: 0,
                samples_count: 0,
                groups: Vec::new(),
            }
        }

        fn has_targets(&self) -> bool {
            self.targets > 0
        }

        fn misses_some(&self) -> bool {
            false
        }

        fn leaves_all(&self) -> bool {
            self.leaves_all
        }

        fn source(&self) -> &'static str {
            "fake"
        }

        fn set_divisor(&mut self, divisor: u32) {
            self.divisors.lock().unwrap().push(divisor);
        }

        fn forget(&mut self) {}
    }

    struct Watched {
        thread: JoinHandle<()>,
        target: watch::Receiver<TargetState>,
        observations: mpsc::Receiver<Observation>,
        shutdown: CancellationToken,
    }

    fn watch_with(selection: Selection, open: OpenSampler) -> Watched {
        let (target, target_state) = watch::channel(TargetState::default());
        let (send, observations) = mpsc::channel(64);
        let shutdown = CancellationToken::new();
        let outlets = Outlets {
            target,
            observations: send,
        };
        let clock = Arc::new(SystemClock);
        let observer = Observer::new(
            selection,
            Some(open),
            WINDOW,
            clock,
            outlets,
            shutdown.clone(),
        );
        let observer = observer.unwrap();
        Watched {
            thread: std::thread::spawn(move || observer.run()),
            target: target_state,
            observations,
            shutdown,
        }
    }

    fn fake(fails: bool) -> OpenSampler {
        Box::new(move |pids| {
            let targets = pids.len();
            Ok(Box::new(Fake {
                targets,
                fails,
                leaves_all: false,
                divisors: Divisors::default(),
            }))
        })
    }

    #[test]
    fn a_window_that_is_left_to_the_endpoint_is_not_told_as_idle() {
        let sleeper = Sleeper::start();
        let open: OpenSampler = Box::new(|pids| {
            Ok(Box::new(Fake {
                targets: pids.len(),
                fails: false,
                leaves_all: true,
                divisors: Divisors::default(),
            }))
        });
        let mut watched = watch_with(sleeper.selection(), open);
        let observation = watched.observations.blocking_recv().unwrap();
        assert!(observation.collected.is_none() && observation.wall.is_none());
        assert_eq!(observation.usage.processes_count, 1);
        watched.shutdown.cancel();
        watched.thread.thread().unpark();
        watched.thread.join().unwrap();
    }

    #[test]
    fn windows_are_aligned_and_the_last_is_closed_when_the_target_ends() {
        let mut sleeper = Sleeper::start();
        let mut watched = watch_with(sleeper.selection(), fake(false));
        let whole: Vec<Observation> = (0..2)
            .map(|_| watched.observations.blocking_recv().unwrap())
            .collect();
        assert_eq!(whole[0].window.end(), whole[1].window.start());
        for observation in &whole {
            assert_eq!(observation.window.start().get() % 1_000_000_000, 0);
            assert_eq!(observation.usage.processes_count, 1);
            assert_eq!(observation.name, "sleep");
            assert!(observation.collected.is_some());
        }
        assert!(whole[1].watched > Duration::from_millis(500));
        assert_eq!(
            watched.target.borrow_and_update().is_sampled_from_outside,
            Some(true)
        );

        sleeper.0.kill().unwrap();
        sleeper.0.wait().unwrap();
        watched.thread.join().unwrap();
        let last = std::iter::from_fn(|| watched.observations.try_recv().ok()).last();
        assert_eq!(last.unwrap().usage.processes_count, 0);
    }

    #[test]
    fn a_shutdown_closes_the_window_at_once() {
        let sleeper = Sleeper::start();
        let mut watched = watch_with(sleeper.selection(), fake(false));
        watched.observations.blocking_recv().unwrap();
        watched.shutdown.cancel();
        watched.thread.thread().unpark();
        watched.thread.join().unwrap();
        let last = watched.observations.blocking_recv().unwrap();
        assert!(last.watched < WINDOW);
        assert_eq!(last.window.duration(), WINDOW);
    }

    #[test]
    fn a_sampler_that_fails_leaves_cpu_to_the_endpoint() {
        let refuse: OpenSampler = Box::new(|_| Err("not permitted".into()));
        for open in [refuse, fake(true)] {
            let sleeper = Sleeper::start();
            let mut watched = watch_with(sleeper.selection(), open);
            watched.observations.blocking_recv().unwrap();
            let last = watched.observations.blocking_recv().unwrap();
            assert!(last.collected.is_none());
            assert_eq!(
                watched.target.borrow_and_update().is_sampled_from_outside,
                Some(false)
            );
            watched.shutdown.cancel();
            watched.thread.thread().unpark();
            watched.thread.join().unwrap();
        }
    }
}
