//! The measurements of `bench-store`: one row each, one file each, in the order
//! they are printed. A row says what it measured and whether each figure
//! reaches its target; what it could not measure it says too.

mod ack;
mod bytes;
mod curve;
mod diff;
mod drop;
mod flame;
mod ingest;
mod kill9;
mod lab;
mod overload;
mod pod;
mod pods34;
mod services1000;
mod tree1m;

use std::fmt;
use std::time::Duration;

use crate::quantile::{Quantiles, millis};
pub use lab::{Lab, Settings};

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// Windows per second and core.
    Ingest,
    /// Time to a durable acknowledgement.
    Ack,
    /// Bytes per window.
    Bytes,
    /// Merged flame graph of a service.
    Flame,
    /// One pod.
    Pod,
    /// Some pods.
    Pods34,
    /// Two ranges against each other.
    Diff,
    /// A very large tree.
    Tree1m,
    /// Dropping a day.
    Drop,
    /// Many services.
    Services1000,
    /// More than can be taken.
    Overload,
    /// Sudden ends.
    Kill9,
    /// Cost against size.
    Curve,
}

impl Row {
    /// Every row in the order of the table.
    pub const ALL: [Self; 13] = [
        Self::Ingest,
        Self::Ack,
        Self::Bytes,
        Self::Flame,
        Self::Pod,
        Self::Pods34,
        Self::Diff,
        Self::Tree1m,
        Self::Drop,
        Self::Services1000,
        Self::Overload,
        Self::Kill9,
        Self::Curve,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Ack => "ack",
            Self::Bytes => "bytes",
            Self::Flame => "flame",
            Self::Pod => "pod",
            Self::Pods34 => "pods34",
            Self::Diff => "diff",
            Self::Tree1m => "tree1m",
            Self::Drop => "drop",
            Self::Services1000 => "services1000",
            Self::Overload => "overload",
            Self::Kill9 => "kill9",
            Self::Curve => "curve",
        }
    }

    /// What it must reach.
    pub const fn target(self) -> &'static str {
        match self {
            Self::Ingest => "dictionary stream >= 20000 windows/s per core; pprof >= 700",
            Self::Ack => "p50 <= 5 ms, p99 <= 25 ms",
            Self::Bytes => "<= 1000 per window; <= 1/15 of gzip pprof; floor >= 4 times as large",
            Self::Flame => "1h 24h 7d 30d: p50 <= 15 15 30 15 ms; p99 <= 50 ms",
            Self::Pod => "1h 24h 7d 30d: p50 <= 15 ms",
            Self::Pods34 => "7d <= 150 ms; whole days <= 60 ms",
            Self::Diff => "<= 2 times one query + 1 ms",
            Self::Tree1m => "<= 20 ms",
            Self::Drop => "<= 100 ms",
            Self::Services1000 => {
                "RSS <= 512 MiB; >= 10000 windows/s per core; cold query <= 200 ms"
            }
            Self::Overload => "RSS <= 512 MiB; every refusal counted; everything acked present",
            Self::Kill9 => "0 lost, 0 double; first answer <= 2 s",
            Self::Curve => "near flat or linear as designed",
        }
    }

    /// The row of `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|row| row.name() == name)
    }

    /// Measures it.
    ///
    /// # Errors
    ///
    /// When it cannot be measured.
    pub async fn measure(self, lab: &mut Lab) -> anyhow::Result<Measured> {
        match self {
            Self::Ingest => ingest::measure(lab).await,
            Self::Ack => ack::measure(lab).await,
            Self::Bytes => bytes::measure(lab).await,
            Self::Flame => flame::measure(lab).await,
            Self::Pod => pod::measure(lab).await,
            Self::Pods34 => pods34::measure(lab).await,
            Self::Diff => diff::measure(lab).await,
            Self::Tree1m => tree1m::measure(lab),
            Self::Drop => drop::measure(lab).await,
            Self::Services1000 => services1000::measure(lab).await,
            Self::Overload => overload::measure(lab).await,
            Self::Kill9 => kill9::measure(lab).await,
            Self::Curve => curve::measure(lab).await,
        }
    }
}

/// Whether a figure reaches its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Holds,
    Misses,
    NotMeasured,
}

/// What a row found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    figures: Vec<(String, Reach)>,
}

impl Measured {
    /// Returns a row without figures, which is not measured.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Adds a figure and whether it reaches its target.
    pub fn add(&mut self, figure: impl Into<String>, holds: bool) {
        let reach = if holds { Reach::Holds } else { Reach::Misses };
        self.figures.push((figure.into(), reach));
    }

    /// Adds a figure that could not be measured, and why.
    pub fn miss(&mut self, figure: &str, reason: &str) {
        let text = format!("{figure}: not measured, {reason}");
        self.figures.push((text, Reach::NotMeasured));
    }

    /// `ok`, or that the row falls short.
    pub fn verdict(&self) -> &'static str {
        let has = |reach| self.figures.iter().any(|(_, other)| *other == reach);
        match (
            has(Reach::Holds),
            has(Reach::Misses),
            has(Reach::NotMeasured),
        ) {
            (true, false, false) => "ok",
            (true, false, true) => "FALLS SHORT (in part not measured)",
            (_, true, _) => "FALLS SHORT",
            (false, false, _) => "FALLS SHORT (not measured)",
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.figures.is_empty() {
            return f.write_str("-");
        }
        for (number, (figure, _)) in self.figures.iter().enumerate() {
            let before = if number > 0 { "; " } else { "" };
            write!(f, "{before}{figure}")?;
        }
        Ok(())
    }
}

/// The longest a query row asks about one range.
const RANGE_TIME: Duration = Duration::from_secs(120);

/// Adds the times of one range. A run that was cut short says so.
fn add_times(
    measured: &mut Measured,
    what: &str,
    times: Quantiles,
    wanted: usize,
    p50: Duration,
    p99: Option<Duration>,
) {
    let mut text = format!(
        "{what} p50 {} p99 {} ms",
        millis(times.p50),
        millis(times.p99)
    );
    if times.count < wanted {
        text.push_str(&format!(" (of {} queries)", times.count));
    }
    let holds = times.count > 0 && times.p50 <= p50 && p99.is_none_or(|p99| times.p99 <= p99);
    measured.add(text, holds);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_ok_only_when_all_of_it_was_measured_and_reaches() {
        for (figures, expected) in [
            (&[][..], "FALLS SHORT (not measured)"),
            (&[Some(true), Some(true)][..], "ok"),
            (
                &[Some(true), None][..],
                "FALLS SHORT (in part not measured)",
            ),
            (&[Some(true), Some(false), None][..], "FALLS SHORT"),
            (&[None][..], "FALLS SHORT (not measured)"),
        ] {
            let mut measured = Measured::nothing();
            for figure in figures {
                match figure {
                    Some(holds) => measured.add("x", *holds),
                    None => measured.miss("x", "no reason"),
                }
            }
            assert_eq!(measured.verdict(), expected);
        }
    }

    #[test]
    fn every_row_is_found_by_its_name() {
        for row in Row::ALL {
            assert_eq!(Row::named(row.name()), Some(row));
        }
        assert_eq!(Row::named("no such row"), None);
    }
}
