//! Profiles that a Go program offers itself, over `/debug/pprof`.
//!
//! CPU comes by duty cycle, because the program allows one CPU profile at a
//! time and a person may want it; "already in use" makes the agent step back
//! for a random number of windows. CPU is not asked for at all while perf
//! samples the target. The other profiles are pictures or counters: one short
//! request each every [`Plan::snapshot_every`], never with `gc=1`, which would
//! stop the program. Counters become deltas here ([`crate::delta`]).
//!
//! Of a target with several such programs the first that answers is asked.
//! Follows <https://pkg.go.dev/net/http/pprof>.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::window::{Clock, UnixNanos, Window};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Collected;
use super::route::Claims;
use crate::config::EndpointChoice;
use crate::target::Process;

mod convert;
mod discover;
mod http;
mod snapshot;

pub use discover::Found;
pub use http::{Client, EndpointError};
use snapshot::Snapshots;

/// Most windows that are let pass after "already in use".
const MAX_BACKOFF_WINDOWS: u32 = 8;
/// Longest time between two searches for an endpoint.
const MAX_SEARCH_EVERY: Duration = Duration::from_secs(60);
/// A CPU profile may begin this much after its window did.
const LATE_START: Duration = Duration::from_millis(500);
/// Time allowed for the last snapshot when the agent stops.
const LAST_SNAPSHOT: Duration = Duration::from_secs(2);

/// When and how long to ask.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which endpoint.
    pub choice: EndpointChoice,
    /// Whether CPU may be asked for, while perf does not sample.
    pub with_cpu: bool,
    /// Length of a window; everything begins at multiples of it.
    pub window: Duration,
    /// Length of one CPU profile.
    pub cpu_length: Duration,
    /// Time between the starts of two CPU profiles.
    pub cpu_every: Duration,
    /// Time between two pictures of the other profiles.
    pub snapshot_every: Duration,
}

/// What is known of the target, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetState {
    /// Its processes, oldest first.
    pub processes: Vec<Process>,
    /// When it started.
    pub started: UnixNanos,
    /// Whether an endpoint may be taken for the target's although none of its
    /// processes can be seen, as in a pod that does not share them.
    pub may_be_unseen: bool,
    /// Whether all of its CPU is sampled from outside; nothing while that is
    /// being found out.
    pub is_sampled_from_outside: Option<bool>,
}

/// What happened on this way, counted since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// CPU profiles that were refused because somebody else takes one.
    pub busy: AtomicU64,
    /// Requests that failed otherwise.
    pub failed: AtomicU64,
    /// Yields that were dropped because their queue was full.
    pub dropped: AtomicU64,
}

/// Asks the endpoint of one target.
#[derive(Clone, Debug)]
pub struct EndpointSource {
    plan: Plan,
    client: Client,
    clock: Arc<dyn Clock>,
    target: watch::Receiver<TargetState>,
    yields: mpsc::Sender<Vec<Collected>>,
    counters: Arc<Counters>,
    claims: Claims,
    lost_contact: Arc<Notify>,
}

/// Looks once for the endpoint of the target.
pub async fn find_once(
    client: &Client,
    choice: &EndpointChoice,
    state: &TargetState,
) -> Option<Found> {
    discover::find(client, choice, state).await
}

/// Takes one CPU profile of `length` from the endpoint at `base`, as that of
/// `window`.
///
/// # Errors
///
/// [`EndpointError`] if it gives none.
pub async fn cpu_once(
    client: &Client,
    base: &str,
    length: Duration,
    window: Window,
) -> Result<Collected, EndpointError> {
    let profile = client.cpu(base, length).await?;
    Ok(convert::cpu(profile, window))
}

fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed).saturating_add(1)
}

/// A random number from 1 to `most`.
fn random_up_to(most: u32) -> u32 {
    let random = getrandom::u32().unwrap_or(0);
    1 + random % most.max(1)
}

impl EndpointSource {
    /// Returns a source whose yields go to `yields`; when that queue is full
    /// they are dropped and counted in [`Counters::dropped`].
    ///
    /// # Errors
    ///
    /// [`EndpointError::Client`] if no HTTP client can be made.
    pub fn new(
        plan: Plan,
        clock: Arc<dyn Clock>,
        target: watch::Receiver<TargetState>,
        yields: mpsc::Sender<Vec<Collected>>,
    ) -> Result<Self, EndpointError> {
        Ok(Self {
            plan,
            client: Client::new()?,
            clock,
            target,
            yields,
            counters: Arc::new(Counters::default()),
            claims: Claims::default(),
            lost_contact: Arc::new(Notify::new()),
        })
    }

    /// Says by `claims` when its profiles of CPU are taken.
    #[must_use]
    pub fn claiming(mut self, claims: Claims) -> Self {
        self.claims = claims;
        self
    }

    /// What was counted; stays valid after [`EndpointSource::run`].
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Asks until `shutdown`, then takes a last look at the counters.
    pub async fn run(self, shutdown: CancellationToken) {
        let (publish, found) = watch::channel(None);
        tokio::join!(
            self.search(publish, &shutdown),
            self.take_cpu(found.clone(), &shutdown),
            self.take_snapshots(found, &shutdown),
        );
    }

    /// Keeps `publish` at the endpoint of the target as it is now.
    async fn search(&self, publish: watch::Sender<Option<Found>>, shutdown: &CancellationToken) {
        let mut target = self.target.clone();
        let mut wait = Duration::from_secs(1);
        loop {
            let state = target.borrow_and_update().clone();
            let current = publish.borrow().clone();
            if !current
                .as_ref()
                .is_some_and(|found| found.belongs_to(&state))
            {
                let now_found = discover::find(&self.client, &self.plan.choice, &state).await;
                if let Some(found) = &now_found {
                    info!(url = found.url, "go pprof endpoint found");
                    wait = Duration::from_secs(1);
                }
                publish.send_if_modified(|place| {
                    let changed = *place != now_found;
                    *place = now_found;
                    changed
                });
            }
            let is_found = publish.borrow().is_some();
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = target.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // A new process may take a moment to open its port.
                    wait = Duration::from_secs(1);
                }
                () = self.lost_contact.notified(), if is_found => {
                    publish.send_replace(None);
                }
                () = tokio::time::sleep(wait), if !is_found => {
                    wait = (wait * 2).min(MAX_SEARCH_EVERY);
                }
            }
        }
    }

    /// Sleeps until the clock says `at`. Returns whether to go on: not after
    /// a change of `found` or of the target, nor after `shutdown`.
    async fn sleep_until(
        &self,
        at: UnixNanos,
        found: &mut watch::Receiver<Option<Found>>,
        target: &mut watch::Receiver<TargetState>,
        shutdown: &CancellationToken,
    ) -> bool {
        let wait = at.since(self.clock.now());
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            changed = found.changed() => {
                stop_if_closed(changed, shutdown).await;
                false
            }
            changed = target.changed() => {
                stop_if_closed(changed, shutdown).await;
                false
            }
            () = shutdown.cancelled() => false,
        }
    }

    async fn yield_or_drop(&self, collected: Vec<Collected>) {
        if !collected.is_empty() && self.yields.try_send(collected).is_err() {
            let dropped_count = count(&self.counters.dropped);
            warn!(
                dropped_count,
                "profiles of the endpoint dropped: queue full"
            );
        }
    }

    async fn take_cpu(
        &self,
        mut found: watch::Receiver<Option<Found>>,
        shutdown: &CancellationToken,
    ) {
        if !self.plan.with_cpu {
            return;
        }
        let mut target = self.target.clone();
        let mut length = self.plan.cpu_length;
        let mut not_before = UnixNanos::default();
        let mut busy_in_a_row: u32 = 0;
        while !shutdown.is_cancelled() {
            let is_free = target.borrow_and_update().is_sampled_from_outside == Some(false);
            let asked = found.borrow_and_update().clone();
            let (true, Some(Found { url, .. })) = (is_free, asked) else {
                self.claims.give_up_for_endpoint();
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    changed = found.changed() => stop_if_closed(changed, shutdown).await,
                    changed = target.changed() => stop_if_closed(changed, shutdown).await,
                }
                continue;
            };
            let start = self.next_start(not_before);
            if self.clock.now() < start
                && !self
                    .sleep_until(start, &mut found, &mut target, shutdown)
                    .await
            {
                continue;
            }
            self.claims.claim_for_endpoint();
            let pulled = tokio::select! {
                pulled = self.client.cpu(&url, length) => pulled,
                () = shutdown.cancelled() => return,
            };
            if pulled.is_err() {
                self.claims.give_up_for_endpoint();
            }
            let mut wait = self.plan.cpu_every;
            match pulled {
                Ok(profile) => {
                    busy_in_a_row = 0;
                    let is_free = target.borrow().is_sampled_from_outside == Some(false);
                    if let (true, Some(window)) = (is_free, self.cpu_window(start)) {
                        self.yield_or_drop(vec![convert::cpu(profile, window)])
                            .await;
                    }
                }
                Err(EndpointError::Busy { .. }) => {
                    busy_in_a_row = busy_in_a_row.saturating_add(1);
                    let most = 2u32.saturating_pow(busy_in_a_row).min(MAX_BACKOFF_WINDOWS);
                    let windows = random_up_to(most);
                    wait = self.plan.window.saturating_mul(windows);
                    let busy_count = count(&self.counters.busy);
                    info!(busy_count, windows, "cpu profile taken by somebody else");
                }
                Err(EndpointError::TooLong { .. }) if length > Duration::from_secs(1) => {
                    length = Duration::from_secs((length.as_secs() / 2).max(1));
                    wait = self.plan.window;
                    info!(
                        ?length,
                        "server cuts long requests, taking shorter profiles"
                    );
                }
                Err(error) => self.failed(&error),
            }
            not_before = start.saturating_add(wait);
        }
    }

    fn failed(&self, error: &EndpointError) {
        let failed_count = count(&self.counters.failed);
        debug!(
            failed_count,
            error = error as &dyn std::error::Error,
            "request failed"
        );
        if error.is_contact_lost() {
            self.lost_contact.notify_one();
        }
    }

    /// The next start of a window that is not before `not_before`; one that
    /// has just passed will do.
    fn next_start(&self, not_before: UnixNanos) -> UnixNanos {
        let now = self.clock.now();
        let begun = now.floor(self.plan.window);
        let next = if now.since(begun) <= LATE_START.min(self.plan.window / 4) {
            begun
        } else {
            begun.saturating_add(self.plan.window)
        };
        // After the clock was set back, do not wait for the old time.
        let latest = now.saturating_add(self.plan.cpu_every + self.plan.window);
        next.max(not_before.min(latest)).floor(self.plan.window)
    }

    /// The whole windows that a CPU profile from `start` touches.
    fn cpu_window(&self, start: UnixNanos) -> Option<Window> {
        let length = self.plan.cpu_length.as_nanos();
        let window = self.plan.window.as_nanos().max(1);
        let whole = length.div_ceil(window) * window;
        Window::from_start(start, u64::try_from(whole).ok()?).ok()
    }

    async fn take_snapshots(
        &self,
        mut found: watch::Receiver<Option<Found>>,
        shutdown: &CancellationToken,
    ) {
        let mut snapshots = Snapshots::default();
        let mut target = self.target.clone();
        let mut covered_until = UnixNanos::default();
        let every = self.plan.snapshot_every;
        while !shutdown.is_cancelled() {
            let current = found.borrow_and_update().clone();
            let Some(current) = current else {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    changed = found.changed() => stop_if_closed(changed, shutdown).await,
                }
                continue;
            };
            let now = self.clock.now();
            // After the clock was set back, do not wait for the old time.
            covered_until = covered_until.min(now.saturating_add(every));
            if now < covered_until {
                target.mark_unchanged();
                self.sleep_until(covered_until, &mut found, &mut target, shutdown)
                    .await;
                continue;
            }
            let start = now.floor(self.plan.window);
            covered_until = start.floor(every).saturating_add(every);
            let Ok(window) = Window::new(start, covered_until) else {
                continue;
            };
            let taken = tokio::select! {
                taken = snapshots.take(&self.client, &current, window) => taken,
                () = shutdown.cancelled() => break,
            };
            for error in &taken.errors {
                self.failed(error);
            }
            self.yield_or_drop(taken.collected).await;
        }
        let current = found.borrow().clone();
        if let Some(current) = current {
            let window = self.plan.window;
            let end = self.clock.now().floor(window).saturating_add(window);
            let last = snapshots.take_last(&self.client, &current, end);
            if let Ok(collected) = tokio::time::timeout(LAST_SNAPSHOT, last).await {
                self.yield_or_drop(collected).await;
            }
        }
    }
}

/// A closed channel stays "changed" for ever, so waiting on it again would
/// spin; it closes only when the agent stops.
async fn stop_if_closed(
    changed: Result<(), watch::error::RecvError>,
    shutdown: &CancellationToken,
) {
    if changed.is_err() {
        shutdown.cancelled().await;
    }
}
