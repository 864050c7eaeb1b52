//! Tiers: the lengths of time that stored rows stand for.
//!
//! Windows lie as they came. Minutes are kept for whole services and groups of
//! series, hours and days for single series too: a series' minute is six
//! windows, and reading those costs what reading their sum would.

use std::fmt;

use proto::window::{UnixNanos, Window};

/// Seconds of a minute, an hour and a day.
pub const MINUTE_S: u64 = 60;
/// Seconds of an hour.
pub const HOUR_S: u64 = 3_600;
/// Seconds of a day.
pub const DAY_S: u64 = 86_400;

/// A length of time that a stored row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Windows that came from files: they have no sums and are kept until they
    /// are deleted.
    Import,
    /// Windows as agents sent them.
    Window,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day of UTC.
    Day,
}

impl Tier {
    /// Every tier that is summed and dropped, finest first.
    pub const ALL: [Self; 4] = [Self::Window, Self::Minute, Self::Hour, Self::Day];

    /// Seconds of one row; a window may start at any second.
    pub fn length_s(self) -> u64 {
        match self {
            Self::Import | Self::Window => 1,
            Self::Minute => MINUTE_S,
            Self::Hour => HOUR_S,
            Self::Day => DAY_S,
        }
    }

    /// Start of the bucket that `at_s` lies in.
    pub fn bucket(self, at_s: u64) -> u64 {
        at_s - at_s % self.length_s()
    }

    /// Seconds that one column family of the tier holds: a day of fine rows,
    /// thirty days of hours, 360 days of days.
    pub fn family_s(self) -> u64 {
        match self {
            Self::Import => u64::MAX,
            Self::Window | Self::Minute => DAY_S,
            Self::Hour => 30 * DAY_S,
            Self::Day => 360 * DAY_S,
        }
    }

    /// What the names of the tier's families begin with.
    pub(super) fn family_name(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Window => "w10",
            Self::Minute => "p1m",
            Self::Hour => "p1h",
            Self::Day => "p1d",
        }
    }

    /// Whether rows of single series are kept beside those of the service.
    pub fn has_series(self) -> bool {
        self != Self::Minute
    }
}

/// Whole seconds of a window: the first that starts in it and the first after.
pub fn seconds(window: Window) -> (u64, u64) {
    let ceil = |time: UnixNanos| {
        let ns = u64::try_from(time.get().max(0)).unwrap_or(0);
        ns.div_ceil(1_000_000_000)
    };
    (ceil(window.start()), ceil(window.end()))
}

/// The moment `seconds` after the beginning of 1970.
pub fn instant(seconds: u64) -> UnixNanos {
    UnixNanos::new(i64::try_from(seconds.saturating_mul(1_000_000_000)).unwrap_or(i64::MAX))
}

/// The window `[from_s, until_s)`; `None` when it ends before it begins.
pub fn range(from_s: u64, until_s: u64) -> Option<Window> {
    Window::new(instant(from_s), instant(until_s)).ok()
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Import => "import",
            Self::Window => "window",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        })
    }
}
