//! Tells receivers about alerts: Alertmanager, webhooks, Slack, PagerDuty, a
//! command of the operator's.
//!
//! What must be told is kept in the state store, for each receiver that it is
//! for, in the same write as the alert itself. So it survives a restart, and is
//! told at least once, with an id that is the same at each try. Each receiver
//! has a queue and a task of its own (`queue`, `worker`): one that fails, hangs
//! or is gone delays no other. What is refused or given up becomes a dead letter, which
//! `collector status` shows.
//!
//! One file per kind of receiver says what is posted; `http` and `command` do
//! it; `template` finds the words, `route` the receivers.

mod alertmanager;
mod command;
mod http;
mod notice;
mod pagerduty;
mod payload;
mod queue;
mod receiver;
mod route;
mod slack;
mod template;
mod webhook;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::window::{Clock, SystemClock};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

pub use self::notice::Happening;
pub use self::queue::{DeadLetter, MAX_DEAD, MAX_WAITING};
pub use self::receiver::ReceiverError;

use self::notice::Notice;
use self::queue::{DEAD, NOTICES, Queue, REPEATS};
use self::receiver::{DEFAULT, Receiver, receivers};
use self::worker::{Tell, work};
use crate::alert::Alert;
use crate::config::HookConfig;
use crate::metrics::{Delivery, Metrics};
use crate::store::{Change, StateStore, StoreError};

/// Prefix of entries of releases that knew one webhook.
const RENDERED: &[u8] = b"hook/";

/// The receivers of a configuration, checked and not open yet.
#[derive(Debug, Default)]
pub struct Receivers(Vec<Receiver>);

impl Receivers {
    /// The receivers of `config`.
    ///
    /// # Errors
    ///
    /// [`ReceiverError`] if a receiver cannot be used: a secret's file cannot be
    /// read, an address is none, a template has a mistake.
    pub fn new(config: &HookConfig) -> Result<Self, ReceiverError> {
        receivers(config).map(Self)
    }
}

/// One thing that one receiver must be told, to be kept and then pushed.
#[derive(Clone, Debug)]
pub struct Entry {
    queue: Arc<Queue>,
    sequence: u64,
    notice: Arc<Notice>,
}

impl Entry {
    /// The change of the state store that keeps it.
    pub fn change(&self) -> Change {
        self.queue.change(self.sequence, &self.notice)
    }
}

/// How a receiver does. An interface: fields may be added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiverReport {
    /// Its name.
    pub receiver: String,
    /// What it is.
    pub kind: String,
    /// How much it was not told yet.
    pub waiting: usize,
    /// Tries since the start that it took.
    pub delivered: u64,
    /// Tries since the start after which it was, or is, tried again.
    pub retried: u64,
    /// What was given up since the start.
    pub dropped: u64,
}

/// Every receiver, with what it must still be told.
#[derive(Debug)]
pub struct Hooks {
    clock: Arc<dyn Clock>,
    /// Receivers that are configured, with their queues.
    active: Vec<(Arc<Receiver>, Arc<Queue>)>,
    /// Queues of receivers that are configured no more; only dead letters.
    retired: Vec<Arc<Queue>>,
}

impl Default for Hooks {
    /// Nobody is told.
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            active: Vec::new(),
            retired: Vec::new(),
        }
    }
}

impl Hooks {
    /// Reads what `store` keeps. What waits for a receiver that is not configured
    /// any more becomes a dead letter.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store fails or an entry is damaged.
    pub fn open(
        receivers: Receivers,
        store: Arc<dyn StateStore>,
        metrics: &Metrics,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let now = clock.now();
        bring_up_to_date(&receivers.0, &*store, &*clock)?;
        let names: Vec<&str> = receivers.0.iter().map(|r| r.name.as_str()).collect();
        let measured = metrics.receivers(&names);
        let mut active = Vec::new();
        for (receiver, metrics) in receivers.0.into_iter().zip(measured) {
            let queue = Queue::open(&receiver.name, Arc::clone(&store), metrics, now)?;
            queue.forget_repeats(|notice| receiver.repeats() && receiver.route.admits(notice))?;
            active.push((Arc::new(receiver), Arc::new(queue)));
        }
        let mut retired = Vec::new();
        for name in known(&*store)? {
            if active.iter().any(|(receiver, _)| receiver.name == name) {
                continue;
            }
            let queue = Queue::open(&name, Arc::clone(&store), Arc::default(), now)?;
            queue.forget_repeats(|_| false)?;
            while let Some(sequence) = queue.next() {
                queue.bury(sequence, "no receiver of this name is configured", now)?;
            }
            retired.push(Arc::new(queue));
        }
        Ok(Self {
            clock,
            active,
            retired,
        })
    }

    /// How many notices wait, for whomever.
    pub fn len(&self) -> usize {
        self.active.iter().map(|(_, queue)| queue.len()).sum()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An entry for each receiver that must be told that `alert` fired or is over;
    /// kept and pushed by the caller, in this order.
    pub fn entries(&self, alert: &Alert, happening: Happening, external_url: &str) -> Vec<Entry> {
        if self.active.is_empty() {
            return Vec::new();
        }
        let now = self.clock.now();
        let notice = Arc::new(Notice::new(alert, happening, external_url, now));
        let told = self.active.iter();
        told.filter(|(receiver, _)| receiver.route.admits(&notice))
            .map(|(_, queue)| Entry {
                queue: Arc::clone(queue),
                sequence: queue.number(),
                notice: Arc::clone(&notice),
            })
            .collect()
    }

    /// Adds entries that are kept by now.
    pub fn push(&self, entries: Vec<Entry>) {
        let now = self.clock.now();
        for entry in entries {
            entry
                .queue
                .push(entry.sequence, &entry.notice.alert_id, now);
        }
    }

    /// Tells every receiver what waits for it, each in a task of its own, until
    /// `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut workers = JoinSet::new();
        for (receiver, queue) in &self.active {
            info!(receiver = receiver.name, kind = receiver.kind(), "receiver");
            workers.spawn(work(
                Arc::clone(queue),
                Arc::clone(receiver),
                Arc::clone(&self.clock),
                shutdown.clone(),
            ));
        }
        while let Some(ended) = workers.join_next().await {
            if let Err(failure) = ended {
                error!(error = %failure, "a receiver's task ended by a panic");
                return;
            }
        }
        shutdown.cancelled().await;
    }

    /// How the receivers do, in the order of the configuration.
    pub fn report(&self) -> Vec<ReceiverReport> {
        let report = |(receiver, queue): &(Arc<Receiver>, Arc<Queue>)| ReceiverReport {
            receiver: receiver.name.clone(),
            kind: receiver.kind().to_owned(),
            waiting: queue.len(),
            delivered: queue.metrics().deliveries(Delivery::Delivered).get(),
            retried: queue.metrics().deliveries(Delivery::Retried).get(),
            dropped: queue.metrics().deliveries(Delivery::Dropped).get(),
        };
        self.active.iter().map(report).collect()
    }

    /// What receivers were not told of `tenant`'s alerts within a week, and why.
    pub fn dead_letters(&self, tenant: &str) -> Vec<DeadLetter> {
        let now = self.clock.now();
        let active = self.active.iter().map(|(_, queue)| queue);
        let queues = active.chain(&self.retired);
        queues.flat_map(|queue| queue.dead(tenant, now)).collect()
    }
}

/// Names of receivers that `store` keeps something for.
fn known(store: &dyn StateStore) -> Result<BTreeSet<String>, StoreError> {
    let mut names = BTreeSet::new();
    for prefix in [NOTICES, DEAD, REPEATS] {
        for (key, _) in store.scan(prefix.as_bytes())? {
            let rest = key.get(prefix.len()..).unwrap_or(&[]);
            let name = rest.split(|byte| *byte == b'/').next().unwrap_or(&[]);
            names.insert(String::from_utf8_lossy(name).into_owned());
        }
    }
    Ok(names)
}

/// Makes notices of what a release kept that knew one webhook.
fn bring_up_to_date(
    receivers: &[Receiver],
    store: &dyn StateStore,
    clock: &dyn Clock,
) -> Result<(), StoreError> {
    let mut changes: Vec<Change> = Vec::new();
    let mut next: BTreeMap<&str, u64> = BTreeMap::new();
    for (key, value) in store.scan(RENDERED)? {
        let Some(notice) = Notice::from_rendered(&value, clock.now()) else {
            return Err(StoreError::damaged(&key, "no hook entry of a known format"));
        };
        let admit = receivers.iter().filter(|r| r.route.admits(&notice));
        let mut names: Vec<&str> = admit.map(|receiver| receiver.name.as_str()).collect();
        if names.is_empty() {
            names.push(DEFAULT);
        }
        for name in names {
            // Behind what waits, should a release of before have run in between.
            let number = match next.get(name) {
                Some(number) => *number,
                None => queue::next_number(store, name)?,
            };
            next.insert(name, number.saturating_add(1));
            let key = queue::key(NOTICES, name, &number.to_be_bytes());
            changes.push((key, Some(notice.encode())));
        }
        changes.push((key, None));
    }
    if changes.is_empty() {
        return Ok(());
    }
    store.write(changes)
}

#[cfg(test)]
mod tests;
