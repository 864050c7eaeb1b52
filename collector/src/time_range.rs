//! Times as people write them, for the command line and for HTTP: `1h`, `90m`
//! and `7d` ago, RFC 3339, a date (its midnight in UTC), or `now`. Pure.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use proto::status::Kind;
use proto::window::{UnixNanos, Window};

/// How far back a range reaches when nothing is said.
pub const DEFAULT_SINCE: Duration = Duration::from_secs(3600);

/// Why a text is no time, or two are no range.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TimeRangeError {
    /// The text is no time.
    #[error(
        "{name} = {text:?} is no time; write how long ago (90m, 1h, 7d), a date (2026-01-31) or RFC 3339 (2026-01-31T08:00:00Z)"
    )]
    Time {
        /// Which parameter.
        name: &'static str,
        /// Its text, cut to a printable length.
        text: String,
    },
    /// The range ends before it begins, or begins before 1970.
    #[error("the range from {since} to {until} is empty; --since must lie before --until")]
    Empty {
        /// The start.
        since: String,
        /// The end.
        until: String,
    },
}

impl TimeRangeError {
    /// What kind of failure it is for a caller.
    pub fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// Returns the time that `text` means at `now`.
///
/// # Errors
///
/// [`TimeRangeError::Time`] if it means none; it speaks of `name`.
pub fn parse(name: &'static str, text: &str, now: UnixNanos) -> Result<UnixNanos, TimeRangeError> {
    let text = text.trim();
    let wrong = || TimeRangeError::Time {
        name,
        text: text.chars().take(64).collect(),
    };
    if text == "now" {
        return Ok(now);
    }
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(now.saturating_sub(ago));
    }
    let time = if let Ok(time) = text.parse::<Timestamp>() {
        time
    } else if let Ok(date) = text.parse::<Date>() {
        midnight(date).ok_or_else(wrong)?
    } else {
        return Err(wrong());
    };
    i64::try_from(time.as_nanosecond())
        .map(UnixNanos::new)
        .map_err(|_| wrong())
}

fn midnight(date: Date) -> Option<Timestamp> {
    let midnight: DateTime = date.at(0, 0, 0, 0);
    TimeZone::UTC.to_timestamp(midnight).ok()
}

/// Returns the range from `since` (default [`DEFAULT_SINCE`] ago) to `until`
/// (default now).
///
/// # Errors
///
/// [`TimeRangeError`] if one is no time or the range is empty.
pub fn window(
    since: Option<&str>,
    until: Option<&str>,
    now: UnixNanos,
) -> Result<Window, TimeRangeError> {
    let start = match since {
        Some(text) => parse("since", text, now)?,
        None => now.saturating_sub(DEFAULT_SINCE),
    };
    let end = match until {
        Some(text) => parse("until", text, now)?,
        None => now,
    };
    Window::new(start, end).map_err(|_| TimeRangeError::Empty {
        since: rfc3339(start),
        until: rfc3339(end),
    })
}

/// `time` in RFC 3339, UTC, to the second.
pub fn rfc3339(time: UnixNanos) -> String {
    Timestamp::from_second(time.seconds())
        .map_or_else(|_| time.to_string(), |time| time.to_string())
}

/// How long before `now` `time` was, in one or two units: `3m 20s ago`.
pub fn ago(time: UnixNanos, now: UnixNanos) -> String {
    if time > now {
        return "ahead of the clock".to_owned();
    }
    format!("{} ago", length(now.since(time)))
}

/// A length of time in its two largest units.
pub fn length(length: Duration) -> String {
    let seconds = length.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Some(first) = units.iter().position(|(size, _)| seconds >= *size) else {
        return "0s".to_owned();
    };
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, unit) in units.iter().skip(first).take(2) {
        let count = rest.checked_div(*size).unwrap_or(0);
        rest = rest.checked_rem(*size).unwrap_or(0);
        if count > 0 {
            parts.push(format!("{count}{unit}"));
        }
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-31T08:00:00Z.
    const NOW: UnixNanos = UnixNanos::new(1_769_846_400_000_000_000);

    #[test]
    fn every_way_to_write_a_time_is_read() {
        for (text, expected) in [
            ("1h", "2026-01-31T07:00:00Z"),
            ("90m", "2026-01-31T06:30:00Z"),
            ("7d", "2026-01-24T08:00:00Z"),
            ("1h 30m", "2026-01-31T06:30:00Z"),
            (" now ", "2026-01-31T08:00:00Z"),
            ("2026-01-30", "2026-01-30T00:00:00Z"),
            ("2026-01-30T10:00:00+02:00", "2026-01-30T08:00:00Z"),
            ("2026-01-30T08:00:00.5Z", "2026-01-30T08:00:00Z"),
        ] {
            let time = parse("since", text, NOW).unwrap();
            assert_eq!(rfc3339(time), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_advice() {
        for text in [
            "",
            "yesterday",
            "1",
            "-1h",
            "2026-13-01",
            "1hh",
            "9999999-01-01",
        ] {
            let error = parse("since", text, NOW).unwrap_err().to_string();
            assert!(error.contains("90m"), "{text}: {error}");
        }
    }

    #[test]
    fn a_range_is_never_empty() {
        for (since, until, starts) in [
            (None, None, Some("2026-01-31T07:00:00Z")),
            (Some("2h"), Some("1h"), Some("2026-01-31T06:00:00Z")),
            (Some("1h"), Some("2h"), None),
            (Some("1h"), Some("1h"), None),
            (Some("1000000d"), None, None),
            (Some("99999999999999999d"), None, None),
        ] {
            let window = window(since, until, NOW);
            let start = window.as_ref().ok().map(|window| rfc3339(window.start()));
            assert_eq!(start.as_deref(), starts, "{since:?} {until:?} {window:?}");
        }
    }

    #[test]
    fn lengths_have_two_units() {
        for (seconds, expected) in [
            (0, "0s"),
            (59, "59s"),
            (200, "3m 20s"),
            (3_600, "1h"),
            (90_061, "1d 1h"),
        ] {
            assert_eq!(length(Duration::from_secs(seconds)), expected);
        }
    }
}
