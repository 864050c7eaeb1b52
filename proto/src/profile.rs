//! A profile as a source yields it: stacks named once, one column of values
//! per value type, and facts about the target over the same window.

use crate::labels::LabelSet;
use crate::stack::Stack;
use crate::value_type::{ProfileType, Temporality};
use crate::window::{UnixNanos, Window};

/// One value type of a profile.
///
/// The value of sample `i` in the unit of the profile type is
/// `values[i] * weight`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// What the values count.
    pub profile_type: ProfileType,
    /// How they behave over time.
    pub temporality: Temporality,
    /// Distance between two samples in the period's unit, as in pprof.
    pub period: i64,
    /// Unit value of one stored count, at least 1; for sampled CPU the period.
    pub weight: u64,
    /// One per sample; may be negative.
    pub values: Vec<i64>,
}

/// What is known of a target over a window beside its stacks. Zero means
/// unknown or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// CPU time of all processes of the target, from the kernel.
    pub cpu_ns: u64,
    /// Resident memory, summed over processes.
    pub rss_bytes: u64,
    /// Threads, summed over processes.
    pub threads_count: u32,
    /// Processes of the target.
    pub processes_count: u32,
    /// When the target started; a new value means a restart.
    pub target_start: UnixNanos,
    /// CPU limit of the cgroup in thousandths of a core.
    pub cpu_limit_millicores: u32,
    /// Time the cgroup was throttled within the window.
    pub throttled_ns: u64,
    /// Thousandths of the expected samples that were taken.
    pub coverage_permille: u32,
    /// Samples lost by the kernel or the agent.
    pub lost_samples: u64,
    /// Sample labels that were left out.
    pub dropped_labels: u64,
    /// Time within the window during which samples were taken; 0 means all.
    pub observed_ns: u64,
}

impl Facts {
    /// Time during which samples were taken in `window`, in nanoseconds.
    pub fn observed_in(&self, window: &Window) -> u64 {
        let whole = u64::try_from(window.duration().as_nanos()).unwrap_or(u64::MAX);
        match self.observed_ns {
            0 => whole,
            part => part.min(whole),
        }
    }
}

/// Samples of one series over one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    labels: LabelSet,
    window: Window,
    stacks: Vec<Stack>,
    columns: Vec<Column>,
    facts: Facts,
}

/// Why parts make no profile.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProfileError {
    /// A column does not have one value per stack.
    #[error("column {profile_type} has {values} values for {stacks} stacks")]
    UnevenColumn {
        /// The column's type.
        profile_type: String,
        /// Its number of values.
        values: usize,
        /// The number of stacks.
        stacks: usize,
    },
    /// A weight of zero would make every value zero.
    #[error("column {profile_type} has weight 0")]
    ZeroWeight {
        /// The column's type.
        profile_type: String,
    },
    /// Two columns have the same type.
    #[error("column {profile_type} appears twice")]
    TwiceTheSame {
        /// The column's type.
        profile_type: String,
    },
}

impl Profile {
    /// Returns the profile of these parts.
    ///
    /// # Errors
    ///
    /// [`ProfileError`] if a column has another length than `stacks`, a zero
    /// weight, or the type of another column.
    pub fn new(
        labels: LabelSet,
        window: Window,
        stacks: Vec<Stack>,
        columns: Vec<Column>,
        facts: Facts,
    ) -> Result<Self, ProfileError> {
        check_columns(&columns, stacks.len())?;
        Ok(Self {
            labels,
            window,
            stacks,
            columns,
            facts,
        })
    }

    /// Labels of the series.
    pub fn labels(&self) -> &LabelSet {
        &self.labels
    }

    /// The time it covers.
    pub fn window(&self) -> Window {
        self.window
    }

    /// One stack per sample, leaf first.
    pub fn stacks(&self) -> &[Stack] {
        &self.stacks
    }

    /// One column per value type.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// What else is known of the window.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The same profile with other facts.
    #[must_use]
    pub fn with_facts(mut self, facts: Facts) -> Self {
        self.facts = facts;
        self
    }
}

/// Checks what must hold of the columns of one window with `samples` samples.
pub(crate) fn check_columns(columns: &[Column], samples: usize) -> Result<(), ProfileError> {
    for (index, column) in columns.iter().enumerate() {
        if column.values.len() != samples {
            return Err(ProfileError::UnevenColumn {
                profile_type: column.profile_type.to_string(),
                values: column.values.len(),
                stacks: samples,
            });
        }
        if column.weight == 0 {
            return Err(ProfileError::ZeroWeight {
                profile_type: column.profile_type.to_string(),
            });
        }
        let earlier = columns.iter().take(index);
        if earlier
            .into_iter()
            .any(|other| other.profile_type == column.profile_type)
        {
            return Err(ProfileError::TwiceTheSame {
                profile_type: column.profile_type.to_string(),
            });
        }
    }
    Ok(())
}
