//! Judges feature rows. Pure: no I/O, no clock; one file per detector.
//!
//! A detector says what one row shows. How long it must last, and what becomes
//! of it then, is left to [`crate::alert`].

pub mod catalogue;
pub mod shift;
pub mod spin;

use std::fmt;

use proto::stack::FrameKind;
use proto::window::Window;

use self::shift::Shift;
use crate::feature::{PathFrame, SeriesRow, ServiceRow};

/// What kind of trouble a finding is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// CPU time that only asks whether waiting is over.
    Spin,
    /// A function takes more CPU time for the same work.
    Regression,
    /// A function takes less CPU time for the same work.
    Improvement,
    /// A function that took none takes much CPU time.
    NewHotFunction,
    /// A function has been taking more from day to day.
    Drift,
}

/// How bad a kind of finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know; nobody is told.
    Info,
    /// Somebody should look at it today.
    Warning,
    /// Somebody should look at it now.
    Critical,
}

impl Severity {
    /// The word that the API and labels use; never changes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl FindingKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Spin,
        Self::Regression,
        Self::Improvement,
        Self::NewHotFunction,
        Self::Drift,
    ];

    /// The word that the API, labels and identities use; never changes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Regression => "regression",
            Self::Improvement => "improvement",
            Self::NewHotFunction => "new_hot_function",
            Self::Drift => "drift",
        }
    }

    /// The kind that a word means.
    pub fn named(word: &str) -> Option<Self> {
        let mut kinds = Self::ALL.into_iter();
        kinds.find(|kind| kind.name() == word)
    }

    /// How bad it is.
    pub const fn severity(self) -> Severity {
        match self {
            Self::Spin => Severity::Critical,
            Self::Regression | Self::NewHotFunction => Severity::Warning,
            Self::Improvement | Self::Drift => Severity::Info,
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
    /// What a function cost before, where the finding is about that.
    pub shift: Option<Shift>,
}

impl Finding {
    /// What a function that changed shows in `row`. Its cores are those that it takes now.
    pub fn of_shift(shift: &Shift, row: &ServiceRow) -> Self {
        let [cores, _] = shift.cores;
        Self {
            kind: shift.kind,
            level: Level::Enter,
            step: row.step,
            path: vec![PathFrame {
                function: shift.function.clone(),
                file: String::new(),
                line: 0,
                kind: FrameKind::Native,
            }],
            identity: vec![shift.function.clone()],
            cores,
            samples: shift.samples,
            wait_share: 0.0,
            progress_share: None,
            leaf_eff: 0.0,
            top_leaves: Vec::new(),
            throttled_share: 0.0,
            shift: Some(shift.clone()),
        }
    }
}

/// Looks for one kind of trouble.
pub trait Detector: fmt::Debug + Send + Sync {
    /// What it looks for.
    fn kind(&self) -> FindingKind;

    /// What `row` shows of it, largest first.
    fn judge(&self, row: &SeriesRow) -> Vec<Finding>;
}
