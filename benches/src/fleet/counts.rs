//! What came of a fleet's windows.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Windows, answers and their times of one run.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Windows that were acknowledged.
    pub windows: u64,
    /// Batches that were acknowledged.
    pub batches: u64,
    /// Batches that the collector had already.
    pub duplicates: u64,
    /// Packed bytes of all batches, sent again included.
    pub sent_bytes: u64,
    /// Refused batches by code.
    pub refused_batches: BTreeMap<&'static str, u64>,
    /// Refused windows of acknowledged batches by code.
    pub refused_windows: BTreeMap<&'static str, u64>,
    /// Streams that were opened.
    pub streams: u64,
    /// Windows that an overloading driver offered.
    pub offered_windows: u64,
    /// Those of them that no stream had room for.
    pub held_back_windows: u64,
    /// From when a batch was due to its acknowledgement.
    pub ack_times: Vec<Duration>,
    /// How long the run took.
    pub wall: Duration,
}

impl Counts {
    /// Adds the counts of another agent.
    pub(super) fn merge(&mut self, other: Self) {
        self.windows += other.windows;
        self.batches += other.batches;
        self.duplicates += other.duplicates;
        self.sent_bytes += other.sent_bytes;
        self.streams += other.streams;
        for (code, count) in other.refused_batches {
            *self.refused_batches.entry(code).or_default() += count;
        }
        for (code, count) in other.refused_windows {
            *self.refused_windows.entry(code).or_default() += count;
        }
        self.ack_times.extend(other.ack_times);
    }

    /// Whether anything was refused.
    pub fn is_refused(&self) -> bool {
        !self.refused_batches.is_empty() || !self.refused_windows.is_empty()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} windows in {} batches acknowledged ({} again), {} bytes sent, {} streams, {:.1} s",
            self.windows,
            self.batches,
            self.duplicates,
            self.sent_bytes,
            self.streams,
            self.wall.as_secs_f64()
        )?;
        if self.offered_windows > 0 {
            let (offered, held_back) = (self.offered_windows, self.held_back_windows);
            write!(f, ", {offered} windows offered, {held_back} held back")?;
        }
        for (what, refused) in [
            ("batches", &self.refused_batches),
            ("windows", &self.refused_windows),
        ] {
            for (code, count) in refused {
                write!(f, ", {count} {what} {code}")?;
            }
        }
        Ok(())
    }
}
