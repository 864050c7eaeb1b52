//! The sum of what one function is off, in one direction.

use serde::{Deserialize, Serialize};

use super::ShiftSettings;
use super::baseline::{Baseline, Expected};
use crate::feature::ServiceRow;
use crate::feature::coarse::Grain;
use crate::verdict::By;

/// A residual counts as at least so many standard errors: one odd hour does not make up
/// for many.
const LEAST_ERRORS: f64 = -3.0;
/// A change of which less than this part came since the last day has grown for days.
const STEP_SHARE: f64 = 0.4;
/// A sum of this part of a threshold is likely a change.
const LIKELY: f64 = 0.5;
/// The sum ends at so many thresholds, so that it comes down again.
const HIGHEST: f64 = 3.0;
/// A function of which less is expected in a row is new: sums of ratios mean nothing.
const NEW_SAMPLES: f64 = 1.0;
/// A change is over when a row shows less than this part of it, for so many rows.
const OVER_SHARE: f64 = 0.5;
const OVER_HOURS: u32 = 2;
/// What grew slowly and is now so many times as much grew at once.
const JUMP: f64 = 2.0;
/// Standard errors of an interval of 95 %.
pub(super) const INTERVAL: f64 = 1.96;
const OVER_TEN_MINUTES: u32 = 3;
/// Thresholds are so much higher when the time of day is not known.
const UNSURE: f64 = 2.0;

/// Dearer or cheaper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Direction {
    Up,
    Down,
}

impl Direction {
    fn sign(self) -> f64 {
        match self {
            Self::Up => 1.0,
            Self::Down => -1.0,
        }
    }
}

/// What one row shows of one function.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    start_ns: i64,
    count: f64,
    expected: f64,
    /// Standard errors that it is off.
    errors: f64,
    /// Standard error as a part of what is expected.
    relative_error: f64,
    /// Samples of a service of this size.
    total: f64,
    is_sure: bool,
    /// What is expected by what the last day alone would make expect.
    over_last_day: f64,
    is_rare: bool,
}

impl Seen {
    pub(super) fn new(
        row: &ServiceRow,
        count: f64,
        expected: &Expected,
        size: f64,
        baseline: &Baseline,
    ) -> Option<Self> {
        let mean = expected.mean() * size;
        let error = expected.variance(size, baseline.days()).sqrt();
        let errors = (count - mean) / error;
        let last_day = expected.last_day().max(0.5 / size);
        errors.is_finite().then(|| Self {
            start_ns: row.step.start().get(),
            count,
            expected: mean,
            errors,
            relative_error: error / mean.max(0.5),
            total: baseline.total() * size,
            is_sure: baseline.is_sure(),
            over_last_day: expected.mean() / last_day,
            is_rare: expected.is_rare(),
        })
    }

    /// What is more than expected, as a part of the service.
    fn gain(&self) -> f64 {
        (self.count - self.expected) / self.total
    }

    /// Whether hardly any was expected, or none most of the time.
    pub(super) fn is_new(&self) -> bool {
        self.expected < NEW_SAMPLES || self.is_rare
    }

    /// Whether it says something of a change in this direction: what is there now and
    /// then is not cheaper when it is not there.
    pub(super) fn tells_of(&self, direction: Direction) -> bool {
        direction == Direction::Up || !self.is_rare
    }
}

/// What is remembered of a function that is off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Track {
    pub(super) by: By,
    pub(super) direction: Direction,
    /// The sum of residuals over hours.
    sum: f64,
    /// Start of the first row of it.
    pub(super) onset_ns: i64,
    /// Samples since then: seen, expected, and of the service.
    counted: f64,
    expected: f64,
    total: f64,
    /// Rows of ten minutes in a row that are far off, and hours of a new function.
    fast: u32,
    hot: u32,
    /// Whether it is told, and whether rows of ten minutes said so.
    pub(super) is_active: bool,
    is_fast: bool,
    /// How much of the service it was when that was told.
    told: f64,
    /// Rows that showed nothing of it since.
    over: u32,
    /// The last row: seen, expected, of the service, relative error.
    last: [f64; 4],
}

impl Track {
    pub(super) fn new(by: By, direction: Direction) -> Self {
        Self {
            by,
            direction,
            sum: 0.0,
            onset_ns: 0,
            counted: 0.0,
            expected: 0.0,
            total: 0.0,
            fast: 0,
            hot: 0,
            is_active: false,
            is_fast: false,
            told: 0.0,
            over: 0,
            last: [0.0; 4],
        }
    }

    pub(super) fn is(&self, by: By, direction: Direction) -> bool {
        self.by == by && self.direction == direction
    }

    /// Whether most of it was there on the last day of the baseline already.
    pub(super) fn is_drift(&self, seen: &Seen) -> bool {
        let (counted, expected, _) = self.since_onset();
        let ratio = counted / expected.max(f64::MIN_POSITIVE);
        ratio * seen.over_last_day - 1.0 < STEP_SHARE * (ratio - 1.0)
    }

    /// How much would be lost if it were forgotten.
    pub(super) fn weight(&self) -> f64 {
        match self.is_active {
            true => f64::INFINITY,
            false => self.sum + f64::from(self.fast) + f64::from(self.hot),
        }
    }

    fn is_idle(&self) -> bool {
        self.sum <= 0.0 && self.fast == 0 && self.hot == 0
    }

    /// Samples since it began, seen and expected, and those of the service.
    pub(super) fn since_onset(&self) -> (f64, f64, f64) {
        match self.total > 0.0 {
            true => (self.counted, self.expected, self.total),
            false => {
                let [count, expected, total, _] = self.last;
                (count, expected, total)
            }
        }
    }

    /// The last row: seen and expected parts of the service, and the relative error.
    pub(super) fn last(&self) -> (f64, f64, f64) {
        let [count, expected, total, error] = self.last;
        let total = total.max(f64::MIN_POSITIVE);
        (count / total, expected / total, error)
    }

    /// Whether it is more than the noise that every function has.
    pub(super) fn is_likely(&self, settings: &ShiftSettings) -> bool {
        self.is_active || self.fast > 0 || self.sum >= LIKELY * settings.threshold
    }

    /// More than expected since it began, as a part of the service; negative for less.
    pub(super) fn gain(&self) -> f64 {
        let (counted, expected, total) = self.since_onset();
        (counted - expected) / total.max(f64::MIN_POSITIVE)
    }

    /// Takes a row in; `None` when nothing is left to remember.
    pub(super) fn add(
        mut self,
        grain: Grain,
        seen: &Seen,
        settings: &ShiftSettings,
    ) -> Option<Self> {
        let was_idle = self.is_idle() && !self.is_active;
        match grain {
            Grain::Hour => self.add_hour(seen, settings),
            Grain::TenMinutes => self.add_ten_minutes(seen, settings),
        }
        if self.is_idle() && !self.is_active {
            return None;
        }
        if was_idle {
            self.onset_ns = seen.start_ns;
        }
        self.last = [seen.count, seen.expected, seen.total, seen.relative_error];
        if self.is_active {
            self.look_for_end(grain, seen)?;
        }
        Some(self)
    }

    /// Forgets what a row of `grain` would have added to; returns whether there is
    /// something left to remember.
    pub(super) fn pass_over(&mut self, grain: Grain) -> bool {
        self.fast = 0;
        if grain == Grain::Hour {
            (self.sum, self.hot) = (0.0, 0);
        }
        self.is_active || !self.is_idle()
    }

    /// Whether the last row shows what was told.
    pub(super) fn shows(&self) -> bool {
        let (after, before, _) = self.last();
        self.direction.sign() * (after - before) >= OVER_SHARE * self.told
    }

    /// Whether the last row certainly shows far more than what was told.
    pub(super) fn has_jumped(&self) -> bool {
        let (after, before, error) = self.last();
        after - before * (1.0 + INTERVAL * error) >= JUMP * self.told
    }

    /// Samples in the last row: seen, and expected.
    pub(super) fn last_samples(&self) -> [f64; 2] {
        let [count, expected, _, _] = self.last;
        [count, expected]
    }

    fn add_hour(&mut self, seen: &Seen, settings: &ShiftSettings) {
        let sign = self.direction.sign();
        let caution = if seen.is_sure { 1.0 } else { UNSURE };
        let errors = (sign * seen.errors).clamp(LEAST_ERRORS, settings.most_errors);
        let threshold = settings.threshold * caution;
        if self.sum <= 0.0 {
            (self.counted, self.expected, self.total) = (0.0, 0.0, 0.0);
        }
        self.sum = (self.sum + errors - settings.slack).clamp(0.0, HIGHEST * threshold);
        if self.sum > 0.0 {
            self.counted += seen.count;
            self.expected += seen.expected;
            self.total += seen.total;
        }
        let is_hot = self.direction == Direction::Up
            && seen.is_new()
            && seen.count >= settings.hot_samples
            && seen.gain() >= settings.hot_share;
        self.hot = if is_hot {
            self.hot.saturating_add(1)
        } else {
            0
        };
        if self.is_active {
            return;
        }
        let (counted, expected) = (self.counted, self.expected);
        let is_far = match self.direction {
            Direction::Up => counted >= settings.min_ratio * expected,
            Direction::Down => expected >= settings.min_ratio * counted,
        };
        let is_sure = !seen.is_new()
            && self.sum >= threshold
            && errors > 1.0
            && is_far
            && sign * self.gain() >= settings.min_gain;
        if is_sure || self.hot >= settings.hot_rows {
            self.is_active = true;
            self.told = self.gain().abs();
        }
    }

    fn add_ten_minutes(&mut self, seen: &Seen, settings: &ShiftSettings) {
        let caution = if seen.is_sure { 1.0 } else { UNSURE };
        let is_far = self.direction == Direction::Up
            && seen.errors >= settings.fast_errors * caution
            && seen.count >= settings.fast_ratio * seen.expected
            && seen.count >= settings.hot_samples
            && seen.gain() >= settings.fast_gain;
        self.fast = if is_far {
            self.fast.saturating_add(1)
        } else {
            0
        };
        if !self.is_active && self.fast >= settings.fast_rows {
            self.is_active = true;
            self.is_fast = true;
            self.told = seen.gain().abs();
        }
    }

    /// `None` when the change is over.
    fn look_for_end(&mut self, grain: Grain, seen: &Seen) -> Option<()> {
        let enough = match (grain, self.is_fast) {
            (Grain::TenMinutes, true) => OVER_TEN_MINUTES,
            (Grain::Hour, false) => OVER_HOURS,
            (Grain::TenMinutes, false) | (Grain::Hour, true) => return Some(()),
        };
        let is_over = self.direction.sign() * seen.gain() < OVER_SHARE * self.told;
        self.over = if is_over {
            self.over.saturating_add(1)
        } else {
            0
        };
        (self.over < enough).then_some(())
    }
}
