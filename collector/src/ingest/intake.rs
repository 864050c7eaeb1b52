//! The way from every door to the writer: what waits is bounded, and what finds
//! no room is refused with a hint and counted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proto::dictionary::{WireWindow, WireWindowError};
use proto::pb::tepui::RefusalCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::resolve::{Dictionaries, SharedDictionary};
use super::writer::{Outcome, Submission};
use crate::metrics::Metrics;
use crate::normalize::Rules;

/// Least time between two looks for texts that nobody has any more.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long a batch waits for room before it is refused.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a sender waits when the disk is full.
const DISK_RETRY_AFTER: Duration = Duration::from_secs(10);
/// What a sender waits when there is no room, or the collector stops.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What all senders together may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of dictionaries with their texts; beyond it a stream that wants to grow must begin
    /// anew.
    pub dictionaries: usize,
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
    /// When texts were last swept.
    swept: Arc<Mutex<Option<Instant>>>,
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
            swept: Arc::default(),
            limits,
        }
    }

    /// The dictionary of a stream that has said nothing.
    pub(crate) fn begin(&self) -> SharedDictionary {
        self.dictionaries.begin()
    }

    /// Lets go of texts that nobody has any more, at most every [`SWEEP_EVERY`].
    pub(super) fn sweep(&self) {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.is_none_or(|swept| swept.elapsed() >= SWEEP_EVERY) {
            self.dictionaries.sweep();
            *swept = Some(Instant::now());
        }
    }

    /// Whether the dictionaries of all streams take more than they may.
    pub(super) fn has_large_dictionaries(&self) -> bool {
        self.dictionaries.bytes() > self.limits.dictionaries
    }

    /// Memory for `kib` KiB of windows until they are written. Waits a little
    /// while there is none.
    ///
    /// # Errors
    ///
    /// The refusal, when there is none or the disk is full.
    pub(crate) async fn room(&self, kib: u32) -> Result<OwnedSemaphorePermit, Outcome> {
        if self.limits.disk.load(Ordering::Relaxed) {
            return Err(self.overloaded("the disk is full", DISK_RETRY_AFTER));
        }
        let kib = kib.min(self.limits.waiting_kib());
        let room = Arc::clone(&self.room).acquire_many_owned(kib);
        match tokio::time::timeout(PATIENCE, room).await {
            Ok(Ok(room)) => Ok(room),
            _ => Err(self.overloaded("waiting windows take too much memory", RETRY_AFTER)),
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
            _ => Err(self.overloaded("the write queue is full", RETRY_AFTER)),
        }
    }

    /// Counts and returns a refusal of what may come again.
    pub(crate) fn overloaded(&self, message: &str, retry_after: Duration) -> Outcome {
        let code = RefusalCode::Overloaded;
        self.metrics.refused_batches(code).inc();
        Outcome::refused(code, message, Some(retry_after))
    }

    /// Counts and returns a refusal for good.
    pub(crate) fn rejected(&self, code: RefusalCode, message: impl Into<String>) -> Outcome {
        self.metrics.refused_batches(code).inc();
        Outcome::refused(code, message, None)
    }
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
