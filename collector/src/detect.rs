//! Judges feature rows. Pure: no I/O, no clock; one file per detector.
//!
//! A detector says what one row shows. How long it must last, and what becomes
//! of it then, is left to [`crate::alert`].

pub mod catalogue;
pub mod spin;

use std::fmt;

use proto::window::Window;

use crate::feature::{PathFrame, SeriesRow};

/// What kind of trouble a finding is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// CPU time that only asks whether waiting is over.
    Spin,
}

impl FindingKind {
    /// The word that the API, labels and identities use; never changes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Enough to begin an alert.
    Enter,
    /// Enough to keep an alert that has begun.
    Hold,
}

/// What a detector saw in one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What kind.
    pub kind: FindingKind,
    /// How much.
    pub level: Level,
    /// The step of the row.
    pub step: Window,
    /// Frames from the root to the heaviest leaf.
    pub path: Vec<PathFrame>,
    /// The part of the path that names it, see
    /// [`crate::feature::SpinCandidate::identity`].
    pub identity: Vec<String>,
    /// CPU time in cores.
    pub cores: f64,
    /// Samples it rests on.
    pub samples: u64,
    /// Share of samples whose leaf waits.
    pub wait_share: f64,
    /// Share of channel operations that succeed, if there are any.
    pub progress_share: Option<f64>,
    /// Effective number of leaf functions.
    pub leaf_eff: f64,
    /// Largest leaf functions with their share.
    pub top_leaves: Vec<(String, f64)>,
    /// Share of the step for which the cgroup was throttled, 0 to 1.
    pub throttled_share: f64,
}

/// Looks for one kind of trouble.
pub trait Detector: fmt::Debug + Send + Sync {
    /// What it looks for.
    fn kind(&self) -> FindingKind;

    /// What `row` shows of it, largest first.
    fn judge(&self, row: &SeriesRow) -> Vec<Finding>;
}
