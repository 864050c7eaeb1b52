//! Judges feature rows. Pure: no I/O, no clock; one file per detector.
//!
//! A detector says what one row shows. How long it must last, and what becomes
//! of it then, is left to [`crate::alert`].

//!
//! | kind | judged | told when, by the defaults of [`defaults`] |
//! |---|---|---|
//! | `spin` | each step of a series | [`spin::SpinSettings`] |
//! | `regression`, `improvement`, `new_hot_function`, `drift` | ten minutes and hours of a service | [`shift::ShiftSettings`] |
//! | `memory_leak`, `thread_leak` | ten minutes and hours of a series | [`leak::LeakSettings`] |
//! | `sibling_outlier` | ten minutes of the series of a version | [`sibling::SiblingSettings`] |
//! | `silent` | ten minutes of a series, and who is connected | [`silent::SilentSettings`] |
//! | `gc_pressure` | ten minutes of a service | [`gc::CollectionSettings`] |

pub mod catalogue;
pub mod defaults;
pub mod gc;
pub mod growth;
pub mod leak;
mod measure;
pub mod past;
pub mod shift;
pub mod sibling;
pub mod silent;
pub mod spin;

use std::fmt;

use proto::stack::FrameKind;
use proto::window::Window;

pub use self::defaults::Thresholds;
pub use self::measure::{Measure, Quantity};
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
    /// A process takes memory and does not give it back.
    MemoryLeak,
    /// A process starts threads that do not end.
    ThreadLeak,
    /// A pod takes much more CPU time than others of its version.
    SiblingOutlier,
    /// No profile comes of a pod although it should.
    Silent,
    /// Collecting garbage takes much of the CPU time.
    GcPressure,
}

/// Rows that a kind of finding is judged by. Alerts of one basis are judged together:
/// only its rows say that they are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Steps of series.
    Series,
    /// What a service spends on its functions in ten minutes, beside what it spent.
    Functions,
    /// What a service spends on collecting garbage in ten minutes.
    Collection,
    /// What the series of a service take in ten minutes.
    Pods,
    /// Who sent something in ten minutes, and who is connected.
    Presence,
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
    pub const ALL: [Self; 10] = [
        Self::Spin,
        Self::Regression,
        Self::Improvement,
        Self::NewHotFunction,
        Self::Drift,
        Self::MemoryLeak,
        Self::ThreadLeak,
        Self::SiblingOutlier,
        Self::Silent,
        Self::GcPressure,
    ];

    /// The word that the API, labels and identities use; never changes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Regression => "regression",
            Self::Improvement => "improvement",
            Self::NewHotFunction => "new_hot_function",
            Self::Drift => "drift",
            Self::MemoryLeak => "memory_leak",
            Self::ThreadLeak => "thread_leak",
            Self::SiblingOutlier => "sibling_outlier",
            Self::Silent => "silent",
            Self::GcPressure => "gc_pressure",
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
            Self::Regression
            | Self::NewHotFunction
            | Self::MemoryLeak
            | Self::ThreadLeak
            | Self::SiblingOutlier
            | Self::Silent
            | Self::GcPressure => Severity::Warning,
            Self::Improvement | Self::Drift => Severity::Info,
        }
    }

    /// Whether its alerts are about one pod each.
    pub const fn is_of_pod(self) -> bool {
        matches!(self, Self::SiblingOutlier | Self::Silent)
    }

    /// The rows that it is judged by.
    pub const fn basis(self) -> Basis {
        match self {
            Self::Spin => Basis::Series,
            Self::Regression | Self::Improvement | Self::NewHotFunction | Self::Drift => {
                Basis::Functions
            }
            Self::MemoryLeak | Self::ThreadLeak | Self::SiblingOutlier => Basis::Pods,
            Self::Silent => Basis::Presence,
            Self::GcPressure => Basis::Collection,
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
    /// What is measured, where the finding is about that.
    pub measure: Option<Measure>,
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
            measure: None,
        }
    }

    /// What a number shows in `step`, without frames and without CPU time. `identity`
    /// tells findings of one kind and service apart.
    pub fn of_measure(
        kind: FindingKind,
        level: Level,
        step: Window,
        identity: &[String],
        measure: Measure,
    ) -> Self {
        Self {
            kind,
            level,
            step,
            path: Vec::new(),
            identity: identity.to_vec(),
            cores: 0.0,
            samples: 0,
            wait_share: 0.0,
            progress_share: None,
            leaf_eff: 0.0,
            top_leaves: Vec::new(),
            throttled_share: 0.0,
            shift: None,
            measure: Some(measure),
        }
    }

    /// When it began, nanoseconds since 1970, where that is before its step.
    pub fn onset_ns(&self) -> Option<i64> {
        let shift = self.shift.as_ref().map(|shift| shift.onset_ns);
        shift.or(self.measure.as_ref().map(|measure| measure.since_ns))
    }
}

/// Looks for one kind of trouble.
pub trait Detector: fmt::Debug + Send + Sync {
    /// What it looks for.
    fn kind(&self) -> FindingKind;

    /// What `row` shows of it, largest first.
    fn judge(&self, row: &SeriesRow) -> Vec<Finding>;
}
