//! The way from every door to the writer: what waits is bounded, and what finds
//! no room is refused with a hint and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::dictionary::{WireWindow, WireWindowError};
use proto::pb::tepui::RefusalCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::resolve::{Dictionaries, SharedDictionary};
use super::writer::{Outcome, Submission};
use crate::metrics::Metrics;
use crate::normalize::Rules;

/// How long a batch waits for room before it is refused.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a sender waits when the disk is full.
const DISK_RETRY_AFTER: Duration = Duration::from_secs(10);
/// What a sender waits when there is no room, or the collector stops.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What all senders together may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of streams and their dictionaries. Near it no stream may begin, and
    /// beyond it one that wants to grow is ended, so that those that are known well
    /// go on.
    pub dictionaries: usize,
    /// Bytes of batches that arrive; more stay with their senders, and are told to
    /// come again when that takes long.
    pub arriving: usize,
    /// Bytes of windows that wait for the writer; more wait a little, and are
    /// then refused with a retry hint.
    pub waiting: usize,
    /// Whether the disk has no room for windows.
    pub disk: Arc<AtomicBool>,
}

impl Limits {
    /// KiB of windows that may wait.
    fn waiting_kib(&self) -> u32 {
        u32::try_from(self.waiting / 1024).unwrap_or(u32::MAX >> 4)
    }
}

/// The way to the writer; cheap to clone.
#[derive(Clone, Debug)]
pub struct Intake {
    queue: mpsc::Sender<Submission>,
    metrics: Arc<Metrics>,
    room: Arc<Semaphore>,
    dictionaries: Arc<Dictionaries>,
    limits: Limits,
}

impl Intake {
    /// Returns the way to the writer that reads `queue`. Names are normalised by
    /// `rules` as they come in.
    pub fn new(
        queue: mpsc::Sender<Submission>,
        metrics: Arc<Metrics>,
        limits: Limits,
        rules: Rules,
    ) -> Self {
        let kib = usize::try_from(limits.waiting_kib()).unwrap_or(usize::MAX >> 4);
        Self {
            queue,
            metrics,
            room: Arc::new(Semaphore::new(kib)),
            dictionaries: Arc::new(Dictionaries::new(rules)),
            limits,
        }
    }

    /// The dictionary of a stream that has said nothing.
    pub(crate) fn begin(&self) -> SharedDictionary {
        self.dictionaries.begin()
    }

    /// Bytes of batches that may arrive.
    pub(super) fn arriving_bytes(&self) -> usize {
        self.limits.arriving
    }

    /// Whether another stream finds a place.
    pub(super) fn may_open(&self) -> bool {
        self.dictionaries.bytes() <= self.limits.dictionaries
    }

    /// Whether a stream that `is_new`, or one that is not, may name what it did not
    /// name before. A sixteenth is left to streams that are not new: or they would
    /// push each other out in turn.
    pub(super) fn may_grow(&self, is_new: bool) -> bool {
        let limit = self.limits.dictionaries;
        let limit = if is_new { limit - limit / 16 } else { limit };
        self.dictionaries.bytes() <= limit
    }

    /// Memory for `kib` KiB of windows until they are written. Waits a little
    /// while there is none.
    ///
    /// # Errors
    ///
    /// The refusal, when there is none or the disk is full.
    pub(crate) async fn room(&self, kib: u32) -> Result<OwnedSemaphorePermit, Outcome> {
        if self.limits.disk.load(Ordering::Relaxed) {
            return Err(overloaded("the disk is full", DISK_RETRY_AFTER));
        }
        let kib = kib.min(self.limits.waiting_kib());
        let room = Arc::clone(&self.room).acquire_many_owned(kib);
        match tokio::time::timeout(PATIENCE, room).await {
            Ok(Ok(room)) => Ok(room),
            _ => Err(overloaded(
                "waiting windows take too much memory",
                RETRY_AFTER,
            )),
        }
    }

    /// Puts a batch into the writer's queue. Waits a little while that is full.
    ///
    /// # Errors
    ///
    /// The refusal, when it stays full.
    pub(crate) async fn send(&self, submission: Submission) -> Result<(), Outcome> {
        match tokio::time::timeout(PATIENCE, self.queue.send(submission)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(overloaded("the write queue is full", RETRY_AFTER)),
        }
    }

    /// Counts a refusal. Doors do when they tell it: so it is counted as often as
    /// senders see it.
    pub(crate) fn count(&self, outcome: &Outcome) {
        if let Outcome::Refused { code, .. } = outcome {
            self.metrics.refused_batches(*code).inc();
        }
    }
}

/// The refusal of what may come again.
pub(crate) fn overloaded(message: &str, retry_after: Duration) -> Outcome {
    Outcome::refused(RefusalCode::Overloaded, message, Some(retry_after))
}

/// The outcome of a batch whose writer is gone.
pub(crate) fn stopping() -> Outcome {
    let message = "the collector is stopping";
    Outcome::refused(RefusalCode::Unavailable, message, Some(RETRY_AFTER))
}

/// About what windows take in memory, at least 1.
pub(crate) fn size_kib(windows: &[Result<WireWindow, WireWindowError>]) -> u32 {
    let bytes = windows.iter().flatten().fold(0_usize, |sum, window| {
        let values = window.columns.iter().map(|column| column.values.len());
        let values = values.fold(0_usize, usize::saturating_add);
        sum.saturating_add(window.stacks.len().saturating_mul(4))
            .saturating_add(values.saturating_mul(8))
    });
    u32::try_from(bytes / 1024)
        .unwrap_or(u32::MAX)
        .saturating_add(1)
}
