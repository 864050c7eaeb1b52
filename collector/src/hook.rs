//! Tells a receiver about alerts: HTTP POST of JSON in the shape of
//! Alertmanager's webhook (version 4), so that what reads that reads this.
//!
//! What must be told is kept in the state store in the same write as the alert
//! itself and survives a restart. Deliveries go out in order, are retried with
//! backoff and jitter, honour `Retry-After`, and carry the same `webhook-id`
//! at each try, so a receiver can count a repeat once. A receiver that is slow
//! or gone delays nobody else. The queue holds [`MAX_QUEUED`] entries; beyond
//! that the oldest is dropped and counted as `dropped`.

mod payload;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::status::chain;
use proto::window::{Clock, UnixNanos};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::alert::Alert;
use crate::metrics::{Delivery, Metrics};
use crate::store::{Change, StateStore, StoreError};

/// Prefix of entries in the state store, before a sequence number.
const PREFIX: &[u8] = b"hook/";
/// Format of a stored entry, its first byte.
const FORMAT: u8 = 1;
/// Most entries that wait.
pub const MAX_QUEUED: usize = 10_000;
/// First and longest pause between two tries.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Longest pause that a receiver may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3_600);
/// An entry that could not be delivered for so long is dropped.
const GIVE_UP: Duration = Duration::from_secs(24 * 3_600);

/// Where alerts are sent.
#[derive(Clone, Debug)]
pub struct HookConfig {
    /// Takes a POST of JSON.
    pub url: String,
    /// How long one try may take.
    pub timeout: Duration,
}

/// One thing to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    sequence: u64,
    stored: StoredEntry,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredEntry {
    /// The same at each try.
    id: String,
    body: String,
}

impl Entry {
    fn key(&self) -> Vec<u8> {
        [PREFIX, &self.sequence.to_be_bytes()].concat()
    }

    /// The change of the state store that keeps it.
    pub fn change(&self) -> Change {
        let mut value = vec![FORMAT];
        serde_json::to_writer(&mut value, &self.stored).expect("an entry is two texts");
        (self.key(), Some(value))
    }
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    next: u64,
}

/// What must still be told.
#[derive(Debug)]
pub struct Queue {
    store: Arc<dyn StateStore>,
    metrics: Arc<Metrics>,
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

impl Queue {
    /// Reads what `store` keeps.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store fails or an entry is damaged.
    pub fn open(store: Arc<dyn StateStore>, metrics: Arc<Metrics>) -> Result<Self, StoreError> {
        let mut waiting = Waiting::default();
        for (key, value) in store.scan(PREFIX)? {
            let damaged = || StoreError::damaged(&key, "no hook entry of a known format");
            let sequence = key.last_chunk::<8>().ok_or_else(damaged)?;
            let json = value.strip_prefix(&[FORMAT]).ok_or_else(damaged)?;
            let entry = Entry {
                sequence: u64::from_be_bytes(*sequence),
                stored: serde_json::from_slice(json).map_err(|_| damaged())?,
            };
            waiting.next = entry.sequence.saturating_add(1);
            waiting.entries.push_back(entry);
        }
        Ok(Self {
            store,
            metrics,
            waiting: Mutex::new(waiting),
            arrived: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many entries wait.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An entry for `alert`, which fired or resolved; kept and pushed by the
    /// caller.
    pub fn entry(&self, alert: &Alert, resolved: bool, external_url: &str) -> Entry {
        let mut waiting = self.lock();
        let sequence = waiting.next;
        waiting.next = sequence.saturating_add(1);
        Entry {
            sequence,
            stored: StoredEntry {
                // The same transition has the same id, also after a restart.
                id: format!(
                    "tepui-{}-{}-{}",
                    alert.id,
                    payload::status(resolved),
                    alert.since
                ),
                body: payload::body(alert, resolved, external_url),
            },
        }
    }

    /// Adds entries that are kept by now.
    pub fn push(&self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let mut surplus = Vec::new();
        {
            let mut waiting = self.lock();
            waiting.entries.extend(entries);
            while waiting.entries.len() > MAX_QUEUED {
                surplus.extend(waiting.entries.pop_front());
            }
        }
        for entry in surplus {
            error!(id = entry.stored.id, "hook entry dropped: too many wait");
            self.metrics.deliveries(Delivery::Dropped).inc();
            if let Err(failure) = self.store.write(vec![(entry.key(), None)]) {
                error!(error = chain(&failure), "hook entry not removed");
            }
        }
        self.arrived.notify_one();
    }

    fn front(&self) -> Option<Entry> {
        self.lock().entries.front().cloned()
    }

    /// Forgets an entry that was told or given up.
    fn remove(&self, entry: &Entry) -> Result<(), StoreError> {
        self.lock()
            .entries
            .retain(|waiting| waiting.sequence != entry.sequence);
        self.store.write(vec![(entry.key(), None)])
    }
}

/// What one try came to.
#[derive(Debug, PartialEq, Eq)]
enum Try {
    Delivered,
    /// Try again, after this long if the receiver said so.
    Again(String, Option<Duration>),
    /// The receiver will never take it.
    Refused(String),
}

/// Delivers what `queue` holds until `shutdown`. What is left is delivered
/// after the next start.
pub async fn run_hook(
    queue: Arc<Queue>,
    config: HookConfig,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) {
    let client = match client(config.timeout) {
        Ok(client) => client,
        Err(failure) => {
            error!(error = chain(&failure), "hook not started");
            return;
        }
    };
    loop {
        let Some(entry) = queue.front() else {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = queue.arrived.notified() => continue,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = deliver(&queue, &entry, &client, &config.url, &*clock) => {}
        }
        let (queue, entry) = (Arc::clone(&queue), entry);
        let removed = tokio::task::spawn_blocking(move || queue.remove(&entry)).await;
        match removed {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => error!(error = chain(&failure), "hook entry not removed"),
            Err(panicked) => error!(error = %panicked, "hook entry not removed"),
        }
    }
}

fn client(timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    // Another part of the process may have installed it already.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("tepui-collector/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Tries until the entry is told or given up.
async fn deliver(
    queue: &Queue,
    entry: &Entry,
    client: &reqwest::Client,
    url: &str,
    clock: &dyn Clock,
) {
    let began = clock.now();
    let id = entry.stored.id.as_str();
    let mut pause = FIRST_PAUSE;
    loop {
        match once(entry, client, url).await {
            Try::Delivered => {
                queue.metrics.deliveries(Delivery::Delivered).inc();
                info!(id, "hook told");
                return;
            }
            Try::Refused(reason) => {
                queue.metrics.deliveries(Delivery::Dropped).inc();
                error!(id, reason, "hook refuses the alert; it is not sent again");
                return;
            }
            Try::Again(reason, asked) => {
                if clock.now().since(began) >= GIVE_UP {
                    queue.metrics.deliveries(Delivery::Dropped).inc();
                    error!(
                        id,
                        reason, "hook not reached for a day; the alert is not sent again"
                    );
                    return;
                }
                queue.metrics.deliveries(Delivery::Retried).inc();
                let wait = asked.unwrap_or_else(|| jittered(pause, clock.now()));
                warn!(id, reason, wait_s = wait.as_secs(), "hook not told yet");
                tokio::time::sleep(wait).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Between half of `pause` and all of it, so that collectors which lost one
/// receiver at once do not come back at once.
fn jittered(pause: Duration, now: UnixNanos) -> Duration {
    let spread = now.get().rem_euclid(1_000);
    let spread = u32::try_from(spread).unwrap_or(0);
    pause / 2 + pause * spread / 2_000
}

async fn once(entry: &Entry, client: &reqwest::Client, url: &str) -> Try {
    let sent = client
        .post(url)
        .header(CONTENT_TYPE, "application/json")
        .header("webhook-id", &entry.stored.id)
        .body(entry.stored.body.clone())
        .send()
        .await;
    let response = match sent {
        Ok(response) => response,
        Err(failure) => return Try::Again(chain(&failure), None),
    };
    let status = response.status();
    let asked = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|text| text.to_str().ok()?.trim().parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(LONGEST_ASKED));
    let reason = format!("the receiver answered {status}");
    match status {
        status if status.is_success() => Try::Delivered,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Try::Again(reason, asked),
        status if status.is_server_error() => Try::Again(reason, asked),
        _ => Try::Refused(reason),
    }
}

#[cfg(test)]
mod tests;
