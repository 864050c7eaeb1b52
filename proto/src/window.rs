//! Points and stretches of time.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970-01-01T00:00:00Z, without leap seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixNanos(i64);

/// The time `[start, end)`, never empty, never before 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    start: UnixNanos,
    end: UnixNanos,
}

/// Why a pair of times is no window.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WindowError {
    /// The end is not after the start.
    #[error("window from {start} to {end} is empty")]
    Empty {
        /// The start as given.
        start: UnixNanos,
        /// The end as given.
        end: UnixNanos,
    },
    /// The start lies before 1970 or the end past the year 2262.
    #[error("window from {start_ns} ns lasting {duration_ns} ns is outside of representable time")]
    OutOfRange {
        /// Start in nanoseconds since 1970.
        start_ns: i64,
        /// Length in nanoseconds.
        duration_ns: u64,
    },
}

/// Where code that must know the time takes it from, so that tests can set it.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time now.
    fn now(&self) -> UnixNanos;
}

/// The clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixNanos {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that reads the machine's clock"
        )]
        UnixNanos::from_system(SystemTime::now())
    }
}

impl UnixNanos {
    /// Returns the time `nanos` after (before, when negative) 1970.
    pub const fn new(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Returns `time`, held within what 64 bits can say.
    pub fn from_system(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(i64::try_from(after.as_nanos()).unwrap_or(i64::MAX)),
            Err(before) => {
                Self(i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n))
            }
        }
    }

    /// Nanoseconds since 1970.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// The time `length` later, held within what 64 bits can say.
    pub fn saturating_add(self, length: Duration) -> Self {
        let nanos = i64::try_from(length.as_nanos()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    /// The time `length` earlier, held within what 64 bits can say.
    pub fn saturating_sub(self, length: Duration) -> Self {
        let nanos = i64::try_from(length.as_nanos()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(nanos))
    }

    /// The length from `earlier` to this time; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        u64::try_from(self.0.saturating_sub(earlier.0)).map_or(Duration::ZERO, Duration::from_nanos)
    }

    /// The latest multiple of `step` (counted from 1970) that is not later.
    ///
    /// A zero `step` returns the time itself.
    pub fn floor(self, step: Duration) -> Self {
        match i64::try_from(step.as_nanos()) {
            Ok(step_ns) if step_ns > 0 => Self(self.0.saturating_sub(self.0.rem_euclid(step_ns))),
            _ => self,
        }
    }
}

impl fmt::Display for UnixNanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:09}",
            self.seconds(),
            self.0.rem_euclid(1_000_000_000)
        )
    }
}

impl Window {
    /// Returns `[start, end)`.
    ///
    /// # Errors
    ///
    /// [`WindowError::Empty`] if `end` is not after `start`, and
    /// [`WindowError::OutOfRange`] if `start` lies before 1970.
    pub fn new(start: UnixNanos, end: UnixNanos) -> Result<Self, WindowError> {
        if end <= start {
            return Err(WindowError::Empty { start, end });
        }
        if start.0 < 0 {
            return Err(WindowError::OutOfRange {
                start_ns: start.0,
                duration_ns: 0,
            });
        }
        Ok(Self { start, end })
    }

    /// Returns the window of length `duration_ns` that begins at `start`.
    ///
    /// # Errors
    ///
    /// [`WindowError::Empty`] for a zero length, [`WindowError::OutOfRange`]
    /// when an end of it cannot be represented.
    pub fn from_start(start: UnixNanos, duration_ns: u64) -> Result<Self, WindowError> {
        let end = i64::try_from(duration_ns)
            .ok()
            .and_then(|length| start.0.checked_add(length))
            .ok_or(WindowError::OutOfRange {
                start_ns: start.0,
                duration_ns,
            })?;
        Self::new(start, UnixNanos(end))
    }

    /// First moment of the window.
    pub fn start(&self) -> UnixNanos {
        self.start
    }

    /// First moment after the window.
    pub fn end(&self) -> UnixNanos {
        self.end
    }

    /// Length, greater than zero.
    pub fn duration(&self) -> Duration {
        self.end.since(self.start)
    }

    /// Whether `time` lies in it; the end does not.
    pub fn contains(&self, time: UnixNanos) -> bool {
        self.start <= time && time < self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn border_belongs_to_the_later_window() {
        let early = Window::new(UnixNanos::new(0), UnixNanos::new(10)).unwrap();
        let late = Window::new(UnixNanos::new(10), UnixNanos::new(20)).unwrap();
        assert!(!early.contains(UnixNanos::new(10)));
        assert!(late.contains(UnixNanos::new(10)));
    }

    #[test]
    fn empty_and_impossible_windows_are_refused() {
        let at = UnixNanos::new;
        assert!(matches!(
            Window::new(at(5), at(5)),
            Err(WindowError::Empty { .. })
        ));
        assert!(matches!(
            Window::new(at(-5), at(5)),
            Err(WindowError::OutOfRange { .. })
        ));
        assert!(matches!(
            Window::from_start(at(5), 0),
            Err(WindowError::Empty { .. })
        ));
        assert!(matches!(
            Window::from_start(at(5), u64::MAX),
            Err(WindowError::OutOfRange { .. })
        ));
    }

    #[test]
    fn floor_goes_down_also_before_1970() {
        let ten = Duration::from_secs(10);
        for (at, expected) in [
            (25_000_000_000, 20_000_000_000),
            (20_000_000_000, 20_000_000_000),
            (-1, -10_000_000_000),
        ] {
            assert_eq!(UnixNanos::new(at).floor(ten).get(), expected);
        }
        assert_eq!(UnixNanos::new(7).floor(Duration::ZERO).get(), 7);
    }
}
