//! Tells one receiver what its queue holds, in a task of its own, so that a
//! receiver that is slow or gone delays no other.
//!
//! Notices about one alert go out in order; one is gone from the queue only
//! when it was told or given up. After a failure the receiver is left alone for
//! a time that doubles up to [`LONGEST_PAUSE`], with jitter, and at least as long
//! as it asked in `Retry-After`; then what was tried least is tried. After a day
//! ([`GIVE_UP`]), or [`MAX_FAILURES`] failures of the kind that a person must
//! mend, or at once when it is refused, a notice becomes a dead letter.

use std::sync::Arc;
use std::time::Duration;

use proto::status::chain;
use proto::window::{Clock, UnixNanos};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::http::Try;
use super::notice::{Happening, Notice};
use super::queue::Queue;
use crate::metrics::Delivery;
use crate::store::StoreError;

/// First and longest pause between two tries.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A notice that could not be told for so long is given up.
const GIVE_UP: Duration = Duration::from_secs(24 * 3_600);
/// So is one that failed this often in a way that time alone may not mend.
pub(super) const MAX_FAILURES: u32 = 10;
/// How often what fires is told again to a receiver that forgets.
pub(super) const REPEAT_EVERY: Duration = Duration::from_secs(60);
/// How long such a receiver is told that an alert is over.
const REPEAT_RESOLVED: Duration = Duration::from_secs(300);
/// Most notices that are told again in one message.
const REPEATED_AT_ONCE: usize = 100;

/// Tells of notices once.
pub(super) trait Tell: Send + Sync + 'static {
    /// Tells of one notice, or of several where it [repeats](Self::repeats).
    fn tell(&self, notices: &[Notice], now: UnixNanos) -> impl Future<Output = Try> + Send;

    /// Whether the receiver forgets what it does not hear of.
    fn repeats(&self) -> bool;
}

impl<T: Tell> Tell for Arc<T> {
    fn tell(&self, notices: &[Notice], now: UnixNanos) -> impl Future<Output = Try> + Send {
        T::tell(self, notices, now)
    }

    fn repeats(&self) -> bool {
        T::repeats(self)
    }
}

struct Worker<T> {
    queue: Arc<Queue>,
    receiver: T,
    clock: Arc<dyn Clock>,
    /// Failures since the last success.
    failures: u32,
    /// Nothing is told before.
    resume: Option<Instant>,
    /// When to tell again next; `None` if the receiver remembers.
    repeat: Option<Instant>,
    /// Whether the last turn told again: then what waits has its turn, so that
    /// neither holds up the other when it fails.
    repeated: bool,
}

/// Tells `receiver` what `queue` holds until `shutdown`. What is left is told
/// after the next start.
pub(super) async fn work<T: Tell>(
    queue: Arc<Queue>,
    receiver: T,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) {
    let repeat = receiver.repeats().then(Instant::now);
    let mut worker = Worker {
        queue,
        receiver,
        clock,
        failures: 0,
        resume: None,
        repeat,
        repeated: false,
    };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = worker.turn() => {}
        }
    }
}

impl<T: Tell> Worker<T> {
    /// Waits for something to do and does it.
    async fn turn(&mut self) {
        if let Some(resume) = self.resume.take() {
            tokio::time::sleep_until(resume).await;
        }
        let is_due = self.repeat.is_some_and(|when| when <= Instant::now());
        let next = self.queue.next();
        match next {
            Some(sequence) if self.repeated || !is_due => {
                self.repeated = false;
                return self.tell(sequence).await;
            }
            _ if is_due => {
                self.repeated = true;
                return self.tell_again().await;
            }
            _ => {}
        }
        let arrived = self.queue.arrived.notified();
        match self.repeat {
            None => arrived.await,
            Some(when) => tokio::select! {
                () = arrived => {}
                () = tokio::time::sleep_until(when) => {}
            },
        }
    }

    async fn tell(&mut self, sequence: u64) {
        let notice = match self.blocking(move |queue| queue.read(sequence)).await {
            Some(Some(notice)) => notice,
            Some(None) => {
                self.queue.remove(sequence);
                return;
            }
            None => {
                self.queue.tried(sequence, false);
                self.rest(None);
                return;
            }
        };
        let now = self.clock.now();
        let came = self.receiver.tell(std::slice::from_ref(&notice), now).await;
        let name = self.queue.name().to_owned();
        match came {
            Try::Delivered => {
                self.failures = 0;
                info!(receiver = name, id = notice.id, "alert told");
                let until = match notice.happening {
                    Happening::Firing => None,
                    Happening::Resolved => Some(self.clock.now().saturating_add(REPEAT_RESOLVED)),
                };
                let repeat = self.receiver.repeats().then_some((notice, until));
                let kept = self.blocking(move |queue| queue.told(sequence, repeat));
                if kept.await.is_none() {
                    // Told once more, under the same id.
                    self.queue.tried(sequence, false);
                    self.rest(None);
                }
            }
            Try::Refused(reason) => {
                self.failures = 0;
                self.bury(sequence, reason).await;
            }
            Try::Failed(reason) => {
                let failures = self.queue.tried(sequence, true);
                match failures >= MAX_FAILURES {
                    true => self.bury(sequence, reason).await,
                    false => self.pause(&notice, &reason, None),
                }
            }
            Try::Again(reason, asked) => {
                self.queue.tried(sequence, false);
                let waited = self.clock.now().since(UnixNanos::new(notice.queued_ns));
                match waited >= GIVE_UP {
                    true => self.bury(sequence, reason).await,
                    false => self.pause(&notice, &reason, asked),
                }
            }
        }
    }

    async fn bury(&mut self, sequence: u64, reason: String) {
        let now = self.clock.now();
        let buried = self.blocking(move |queue| queue.bury(sequence, &reason, now));
        if buried.await.is_none() {
            self.rest(None);
        }
    }

    /// Leaves the receiver alone for a while.
    fn pause(&mut self, notice: &Notice, reason: &str, asked: Option<Duration>) {
        self.queue.metrics().deliveries(Delivery::Retried).inc();
        let wait = self.rest(asked);
        warn!(
            receiver = self.queue.name(),
            id = notice.id,
            reason,
            wait_ms = wait.as_millis(),
            "alert not told yet"
        );
    }

    /// Does nothing for a while that is longer after each failure, and not shorter
    /// than was asked.
    fn rest(&mut self, asked: Option<Duration>) -> Duration {
        let wait = pause(self.failures, self.clock.now()).max(asked.unwrap_or_default());
        self.failures = self.failures.saturating_add(1);
        self.resume = Instant::now().checked_add(wait);
        wait
    }

    /// Tells again what the receiver would forget.
    async fn tell_again(&mut self) {
        self.repeat = Some(Instant::now() + REPEAT_EVERY);
        let now = self.clock.now();
        let Some(notices) = self.blocking(move |queue| queue.repeats(now)).await else {
            return;
        };
        for notices in notices.chunks(REPEATED_AT_ONCE) {
            match self.receiver.tell(notices, self.clock.now()).await {
                Try::Delivered => self.failures = 0,
                Try::Again(reason, asked) => {
                    if let Some(notice) = notices.first() {
                        self.pause(notice, &reason, asked);
                    }
                    self.repeat = self.resume;
                    return;
                }
                Try::Failed(reason) | Try::Refused(reason) => {
                    warn!(
                        receiver = self.queue.name(),
                        reason, "alerts not told again"
                    );
                }
            }
        }
    }

    /// Does `work` where it may block; `None` if it failed.
    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Queue) -> Result<R, StoreError> + Send + 'static,
    ) -> Option<R> {
        let queue = Arc::clone(&self.queue);
        let done = tokio::task::spawn_blocking(move || work(&queue)).await;
        match done {
            Ok(Ok(result)) => Some(result),
            Ok(Err(failure)) => {
                error!(error = chain(&failure), "hook queue not read or written");
                None
            }
            Err(panicked) => {
                error!(error = %panicked, "hook queue not read or written");
                None
            }
        }
    }
}

/// The pause after `failures` earlier ones: between half of a length that
/// doubles and all of it, so that collectors which lost one receiver at once do
/// not come back at once.
fn pause(failures: u32, now: UnixNanos) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures));
    let longest = doubled.min(LONGEST_PAUSE);
    let spread = u32::try_from(now.get().rem_euclid(1_000)).unwrap_or(0);
    longest / 2 + longest * spread / 2_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_are_spread() {
        for (failures, nanos, expected_ms) in [
            (0, 0, 500),
            (0, 999, 999),
            (1, 0, 1_000),
            (5, 500, 24_000),
            (6, 0, 30_000),
            (400, 0, 30_000),
            (400, 999, 59_970),
        ] {
            let pause = pause(failures, UnixNanos::new(nanos));
            assert_eq!(pause.as_millis(), expected_ms, "{failures} {nanos}");
        }
    }
}
