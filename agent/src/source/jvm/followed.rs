//! One machine that is recorded: its recording, what the kernel counts of it,
//! and what of both belongs to which window.

use std::io;
use std::time::Duration;

use proto::window::{UnixNanos, Window};
use tracing::warn;

use super::account::{Account, Accountant};
use super::convert::{self, Rate, Stretch};
use super::error::JvmError;
use super::jfr::{Event, Room};
use super::recording::{Recording, Settings};
use crate::source::Collected;

/// Shortest and longest time between two CPU samples that is asked for.
const PERIODS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(1);
/// Longest time between two fetches, however long a window is.
const FETCH_EVERY: Duration = Duration::from_secs(60);
/// Events that may wait for the end of their window; beyond they are lost.
const MAX_PENDING: usize = 256 * 1024;

/// What to ask machines for.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Whether their CPU is sampled.
    pub with_cpu: bool,
    /// Length of a window.
    pub window: Duration,
    /// Samples of CPU per second.
    pub rate_hz: u32,
    /// Time after which machines stop by themselves; none without it.
    pub ends_after: Option<Duration>,
}

impl Plan {
    fn period(&self) -> Duration {
        let wanted = Duration::from_millis(u64::from(1000 / self.rate_hz.max(1)));
        wanted.clamp(*PERIODS.start(), *PERIODS.end())
    }

    pub(super) fn fetch_every(&self) -> Duration {
        self.window.min(FETCH_EVERY)
    }
}

/// Who tells the CPU of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpu {
    /// The flight recorder, if it samples CPU.
    Told,
    /// Another sampler.
    ToldByOthers,
}

/// Does work that reads files, or much of what was read, on another thread.
pub(super) async fn aside<T: Send + 'static>(
    pid: i32,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JvmError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| JvmError::Io {
        pid,
        doing: "look at",
        source: io::Error::other(error),
    })
}

/// A machine that is recorded.
#[derive(Debug)]
pub struct Followed {
    recording: Recording,
    accountant: Option<Accountant>,
    rate: Rate,
    /// Start of the next window.
    from: UnixNanos,
    pending: Vec<Event>,
    /// For what is read of this window.
    room: Room,
    lost: u64,
}

impl Followed {
    /// Begins to record process `pid`. What is told begins `now`; see
    /// [`Followed::tell_from`].
    ///
    /// # Errors
    ///
    /// [`JvmError`] says why it cannot be recorded.
    pub async fn start(pid: i32, plan: Plan, now: UnixNanos) -> Result<Self, JvmError> {
        let period = plan.period();
        let settings = Settings {
            period: plan.with_cpu.then_some(period),
            with_others: true,
            // What is fetched often need not be kept long.
            max_age: match plan.ends_after {
                Some(_) => plan.window,
                None => plan.fetch_every(),
            },
            ends_after: plan.ends_after,
        };
        let recording = Recording::start(pid, settings).await?;
        Ok(Self {
            rate: Rate {
                sampling: recording.sampling,
                period,
            },
            accountant: match plan.with_cpu {
                true => Some(aside(pid, move || Accountant::new(pid)).await?),
                false => None,
            },
            recording,
            from: now,
            pending: Vec::new(),
            room: Room::default(),
            lost: 0,
        })
    }

    /// Tells from `from` on.
    pub fn tell_from(&mut self, from: UnixNanos) {
        self.from = from;
    }

    /// Tells from `from` on, which is now.
    ///
    /// # Errors
    ///
    /// If the process cannot be looked at.
    pub async fn begin(&mut self, from: UnixNanos) -> Result<(), JvmError> {
        self.from = from;
        self.count().await.map(drop)
    }

    /// What the kernel counted since the last time, if CPU is sampled.
    async fn count(&mut self) -> Result<Option<Account>, JvmError> {
        let Some(mut accountant) = self.accountant.take() else {
            return Ok(None);
        };
        let (account, accountant) =
            aside(self.pid(), move || (accountant.take(), accountant)).await?;
        self.accountant = Some(accountant);
        Ok(Some(account))
    }

    /// Start of the next window.
    pub fn from(&self) -> UnixNanos {
        self.from
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.recording.pid()
    }

    /// Version of the machine.
    pub fn version(&self) -> &str {
        &self.recording.version
    }

    /// Fetches what was recorded.
    pub(super) async fn fetch(&mut self) -> Result<(), JvmError> {
        let taken = self.recording.take(self.room).await?;
        self.room = taken.room;
        for error in &taken.damaged {
            warn!(
                pid = self.recording.pid(),
                error = error as &dyn std::error::Error,
                "part of a flight recording cannot be read"
            );
        }
        self.lost = self
            .lost
            .saturating_add(u64::try_from(taken.damaged.len()).unwrap_or(u64::MAX));
        for chunk in taken.chunks {
            let room = MAX_PENDING.saturating_sub(self.pending.len());
            let beyond = chunk.events.len().saturating_sub(room);
            let beyond = u64::try_from(beyond).unwrap_or(u64::MAX);
            self.lost = self
                .lost
                .saturating_add(chunk.dropped)
                .saturating_add(beyond);
            self.pending.extend(chunk.events.into_iter().take(room));
        }
        Ok(())
    }

    /// Fetches, and adds to `taken` what happened up to `end`: CPU first if it is
    /// told here.
    ///
    /// # Errors
    ///
    /// [`JvmError`] if the machine does not give it; the recording is of no
    /// more use. What the kernel counted is told even then: a machine that does
    /// not answer is often one that is busy.
    pub async fn take(
        &mut self,
        end: UnixNanos,
        cpu: Cpu,
        taken: &mut Vec<Collected>,
    ) -> Result<(), JvmError> {
        let pid = self.recording.pid();
        // First, since it has no time of its own.
        let account = self.count().await?;
        let fetched = self.fetch().await;
        // The clock may have been set back.
        let Ok(window) = Window::new(std::mem::replace(&mut self.from, end), end) else {
            return fetched;
        };
        // Beyond the next window a clock was set, and no window would come.
        let latest = end.saturating_add(window.duration());
        let (later, now): (Vec<Event>, Vec<Event>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|event| event.at >= end && event.at < latest);
        self.pending = later;
        self.room = Room::default();
        let stretch = Stretch {
            events: now,
            account: account.filter(|_| cpu == Cpu::Told),
            lost: std::mem::take(&mut self.lost),
        };
        let rate = self.rate;
        taken.extend(aside(pid, move || convert::yields(&stretch, window, rate)).await?);
        fetched
    }

    /// Stops recording; nothing is left of it.
    ///
    /// # Errors
    ///
    /// [`JvmError`] if the machine does not answer.
    pub async fn stop(self) -> Result<(), JvmError> {
        self.recording.stop().await
    }
}
