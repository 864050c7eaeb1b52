//! What one receiver must still be told, on disk.
//!
//! Three prefixes in the state store, each followed by the receiver's name and
//! a slash: `notice/` and a sequence number, for what waits; `dead/` and a
//! sequence number, for what was given up; `repeat/` and an alert's id, for
//! what was told and must be told again. `hook/` and a sequence number is
//! what releases kept that knew one webhook; it is read and never written.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::status::chain;
use proto::window::UnixNanos;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::error;

use super::notice::{Notice, decode, encode};
use crate::metrics::{Delivery, ReceiverMetrics};
use crate::store::{Change, StateStore, StoreError};
use crate::time_range::rfc3339;

pub(super) const NOTICES: &str = "notice/";
pub(super) const DEAD: &str = "dead/";
pub(super) const REPEATS: &str = "repeat/";
/// Most notices that wait for one receiver. Beyond it the oldest is given up.
pub const MAX_WAITING: usize = 10_000;
/// Most dead letters of one receiver that are kept. Beyond it the oldest is
/// forgotten; each was counted as `dropped` when it was given up.
pub const MAX_DEAD: usize = 50;
/// How long a dead letter is shown.
const DEAD_AGE: Duration = Duration::from_secs(7 * 86_400);

/// One thing that a receiver was not told. Its JSON is an interface: fields may
/// be added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The receiver.
    pub receiver: String,
    /// The id of the message.
    pub id: String,
    /// The alert's id.
    pub alert: String,
    /// `firing` or `resolved`.
    pub status: String,
    /// What was seen.
    pub kind: String,
    /// The service, with its namespace.
    pub service: String,
    /// Why it was given up.
    pub reason: String,
    /// When, RFC 3339.
    pub at: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredDead {
    tenant: String,
    at_ns: i64,
    letter: DeadLetter,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredRepeat {
    notice: Notice,
    /// Nanoseconds since 1970; `None`: as long as it fires.
    until_ns: Option<i64>,
}

/// A notice that waits; what it says is in the store.
#[derive(Debug)]
struct Place {
    sequence: u64,
    alert: String,
    tries: u32,
    /// Tries that a person may have to do something about.
    failures: u32,
}

#[derive(Debug, Default)]
struct State {
    places: VecDeque<Place>,
    next: u64,
    dead: VecDeque<(u64, StoredDead)>,
    next_dead: u64,
}

/// The queue of one receiver.
#[derive(Debug)]
pub(super) struct Queue {
    name: String,
    store: Arc<dyn StateStore>,
    metrics: Arc<ReceiverMetrics>,
    state: Mutex<State>,
    pub(super) arrived: Notify,
}

/// The key of a row of `receiver`.
pub(super) fn key(prefix: &str, receiver: &str, id: &[u8]) -> Vec<u8> {
    [prefix.as_bytes(), receiver.as_bytes(), b"/", id].concat()
}

/// The sequence number at the end of `key`, after `start`.
fn sequence(key: &[u8], start: usize) -> Option<u64> {
    let bytes = key.get(start..)?.try_into().ok()?;
    Some(u64::from_be_bytes(bytes))
}

/// The number of the next notice for `receiver`.
pub(super) fn next_number(store: &dyn StateStore, receiver: &str) -> Result<u64, StoreError> {
    let prefix = key(NOTICES, receiver, &[]);
    let Some((key, _)) = store.scan(&prefix)?.pop() else {
        return Ok(0);
    };
    let last = sequence(&key, prefix.len()).ok_or_else(|| damaged(&key))?;
    Ok(last.saturating_add(1))
}

/// The time before which dead letters are old.
fn horizon(now: UnixNanos) -> i64 {
    now.saturating_sub(DEAD_AGE).get()
}

fn damaged(key: &[u8]) -> StoreError {
    StoreError::damaged(key, "no hook entry of a known format")
}

impl Queue {
    /// Reads what `store` keeps for the receiver `name`; dead letters that are old
    /// are forgotten.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store fails or an entry is damaged.
    pub(super) fn open(
        name: &str,
        store: Arc<dyn StateStore>,
        metrics: Arc<ReceiverMetrics>,
        now: UnixNanos,
    ) -> Result<Self, StoreError> {
        let mut state = State::default();
        let prefix = key(NOTICES, name, &[]);
        for (key, value) in store.scan(&prefix)? {
            let sequence = sequence(&key, prefix.len()).ok_or_else(|| damaged(&key))?;
            let notice = Notice::decode(&value).ok_or_else(|| damaged(&key))?;
            state.next = sequence.saturating_add(1);
            state.places.push_back(Place {
                sequence,
                alert: notice.alert_id,
                tries: 0,
                failures: 0,
            });
        }
        let mut old = Vec::new();
        let prefix = key(DEAD, name, &[]);
        for (key, value) in store.scan(&prefix)? {
            let sequence = sequence(&key, prefix.len()).ok_or_else(|| damaged(&key))?;
            let dead: StoredDead = decode(&value).ok_or_else(|| damaged(&key))?;
            state.next_dead = sequence.saturating_add(1);
            match dead.at_ns < horizon(now) {
                true => old.push((key, None)),
                false => state.dead.push_back((sequence, dead)),
            }
        }
        if !old.is_empty() {
            store.write(old)?;
        }
        let queue = Self {
            name: name.to_owned(),
            store,
            metrics,
            state: Mutex::new(state),
            arrived: Notify::new(),
        };
        queue.measure(&queue.lock());
        Ok(queue)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn metrics(&self) -> &ReceiverMetrics {
        &self.metrics
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn measure(&self, state: &State) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.waiting.set(count(state.places.len()));
        self.metrics.dead_letters.set(count(state.dead.len()));
    }

    pub(super) fn len(&self) -> usize {
        self.lock().places.len()
    }

    /// The next sequence number, which no other notice gets.
    pub(super) fn number(&self) -> u64 {
        let mut state = self.lock();
        let number = state.next;
        state.next = number.saturating_add(1);
        number
    }

    /// The change that keeps `notice` under `sequence`.
    pub(super) fn change(&self, sequence: u64, notice: &Notice) -> Change {
        let key = key(NOTICES, &self.name, &sequence.to_be_bytes());
        (key, Some(notice.encode()))
    }

    /// Adds a notice that is kept by now.
    pub(super) fn push(&self, sequence: u64, alert: &str, now: UnixNanos) {
        let surplus: Vec<u64> = {
            let mut state = self.lock();
            state.places.push_back(Place {
                sequence,
                alert: alert.to_owned(),
                tries: 0,
                failures: 0,
            });
            let surplus = state.places.len().saturating_sub(MAX_WAITING);
            self.measure(&state);
            let places = state.places.iter().take(surplus);
            places.map(|place| place.sequence).collect()
        };
        for sequence in surplus {
            if let Err(failure) = self.bury(sequence, "too many wait for this receiver", now) {
                error!(error = chain(&failure), "hook queue not read or written");
                self.remove(sequence);
            }
        }
        self.arrived.notify_one();
    }

    /// What to tell next: of the notices that no earlier one of the same alert
    /// waits before, the one that was tried least, and of those the earliest. So
    /// one that its receiver stumbles over does not delay the others.
    pub(super) fn next(&self) -> Option<u64> {
        let state = self.lock();
        let mut alerts: HashSet<&str> = HashSet::new();
        let mut best: Option<&Place> = None;
        for place in &state.places {
            if !alerts.insert(&place.alert) {
                continue;
            }
            if best.is_none_or(|best| place.tries < best.tries) {
                best = Some(place);
            }
            if place.tries == 0 {
                break;
            }
        }
        best.map(|place| place.sequence)
    }

    /// The notice `sequence`, or `None` if it was given up in the meantime.
    pub(super) fn read(&self, sequence: u64) -> Result<Option<Notice>, StoreError> {
        let key = key(NOTICES, &self.name, &sequence.to_be_bytes());
        let Some((_, value)) = self.store.scan(&key)?.into_iter().next() else {
            return Ok(None);
        };
        Notice::decode(&value)
            .map(Some)
            .ok_or_else(|| damaged(&key))
    }

    /// Counts a try that did not succeed; returns how many there were that a
    /// person may have to do something about.
    pub(super) fn tried(&self, sequence: u64, failed: bool) -> u32 {
        let mut state = self.lock();
        let place = state.places.iter_mut().find(|p| p.sequence == sequence);
        place.map_or(0, |place| {
            place.tries = place.tries.saturating_add(1);
            place.failures = place.failures.saturating_add(u32::from(failed));
            place.failures
        })
    }

    /// Forgets a notice that was told. With `repeat` it is kept to be told again,
    /// in the same write; the time is when that ends.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store fails. The notice waits still: what would be told
    /// again is of before.
    pub(super) fn told(
        &self,
        sequence: u64,
        repeat: Option<(Notice, Option<UnixNanos>)>,
    ) -> Result<(), StoreError> {
        let mut changes = vec![(key(NOTICES, &self.name, &sequence.to_be_bytes()), None)];
        if let Some((notice, until)) = repeat {
            let key = key(REPEATS, &self.name, notice.alert_id.as_bytes());
            let stored = StoredRepeat {
                notice,
                until_ns: until.map(UnixNanos::get),
            };
            changes.push((key, Some(encode(&stored))));
        }
        self.store.write(changes)?;
        self.metrics.deliveries(Delivery::Delivered).inc();
        self.remove(sequence);
        Ok(())
    }

    /// Forgets a notice that is not in the store any more.
    pub(super) fn remove(&self, sequence: u64) {
        let mut state = self.lock();
        state.places.retain(|place| place.sequence != sequence);
        self.measure(&state);
    }

    /// Gives a notice up: it becomes a dead letter. A receiver that was told that
    /// this alert fires is not told so again: it could not be told the end.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store fails. The notice waits still if it cannot be
    /// read, and comes again after a restart if that cannot be written.
    pub(super) fn bury(
        &self,
        sequence: u64,
        reason: &str,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let Some(notice) = self.read(sequence)? else {
            // Somebody else did so.
            self.remove(sequence);
            return Ok(());
        };
        error!(
            receiver = self.name,
            id = notice.id,
            reason,
            "alert not told; it is a dead letter now"
        );
        self.metrics.deliveries(Delivery::Dropped).inc();
        let mut changes = vec![
            (key(NOTICES, &self.name, &sequence.to_be_bytes()), None),
            (key(REPEATS, &self.name, notice.alert_id.as_bytes()), None),
        ];
        changes.extend(self.dead_changes(notice, reason, now));
        let written = self.store.write(changes);
        self.remove(sequence);
        written
    }

    /// The changes that make a dead letter of `notice`.
    fn dead_changes(&self, notice: Notice, reason: &str, now: UnixNanos) -> Vec<Change> {
        let dead = StoredDead {
            letter: DeadLetter {
                receiver: self.name.clone(),
                alert: notice.alert_id.clone(),
                status: notice.happening.word().to_owned(),
                kind: notice.label("kind").to_owned(),
                service: notice.service(),
                reason: reason.to_owned(),
                at: rfc3339(now),
                id: notice.id,
            },
            tenant: notice.tenant,
            at_ns: now.get(),
        };
        let mut state = self.lock();
        let number = state.next_dead;
        state.next_dead = number.saturating_add(1);
        let row = |number: u64| key(DEAD, &self.name, &number.to_be_bytes());
        let mut changes = vec![(row(number), Some(encode(&dead)))];
        state.dead.push_back((number, dead));
        while let Some((number, oldest)) = state.dead.front() {
            if state.dead.len() <= MAX_DEAD && oldest.at_ns >= horizon(now) {
                break;
            }
            changes.push((row(*number), None));
            state.dead.pop_front();
        }
        self.measure(&state);
        changes
    }

    /// Dead letters about alerts of `tenant`, oldest first.
    pub(super) fn dead(&self, tenant: &str, now: UnixNanos) -> Vec<DeadLetter> {
        let state = self.lock();
        let of_tenant = state
            .dead
            .iter()
            .filter(|(_, dead)| dead.tenant == tenant && dead.at_ns >= horizon(now));
        of_tenant.map(|(_, dead)| dead.letter.clone()).collect()
    }

    /// What must be told again, without what was told for long enough, which is
    /// forgotten.
    pub(super) fn repeats(&self, now: UnixNanos) -> Result<Vec<Notice>, StoreError> {
        let (mut notices, mut over) = (Vec::new(), Vec::new());
        for (key, value) in self.store.scan(&key(REPEATS, &self.name, &[]))? {
            let stored: StoredRepeat = decode(&value).ok_or_else(|| damaged(&key))?;
            match stored.until_ns {
                Some(until) if until <= now.get() => over.push((key, None)),
                _ => notices.push(stored.notice),
            }
        }
        if !over.is_empty() {
            self.store.write(over)?;
        }
        Ok(notices)
    }

    /// Forgets what would be told again, but for what is to `keep`: of the rest the
    /// receiver would never be told the end.
    pub(super) fn forget_repeats(&self, keep: impl Fn(&Notice) -> bool) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        for (key, value) in self.store.scan(&key(REPEATS, &self.name, &[]))? {
            let stored: StoredRepeat = decode(&value).ok_or_else(|| damaged(&key))?;
            if !keep(&stored.notice) {
                gone.push((key, None));
            }
        }
        match gone.is_empty() {
            true => Ok(()),
            false => self.store.write(gone),
        }
    }
}
