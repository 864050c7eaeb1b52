//! A quantity over time, step by step, in one or more groups. Pure: no I/O, no
//! clock.
//!
//! What was measured in a step becomes a rate or an average, so that steps with
//! gaps compare with full ones: both are sums divided by the time during which
//! the group was observed in the step. A count becomes a rate per second (CPU
//! time: cores), a gauge, which is stored times the seconds it stands for, its
//! average. A step without observed time has no point: it is unknown, not zero.
//! Leaves text and files to [`crate::render::timeline`].

use std::time::Duration;

use proto::value_type::{ProfileType, Temporality};
use proto::window::{UnixNanos, Window};

/// Most steps of a timeline.
pub const MAX_STEPS: usize = 10_000;
/// Steps that [`suited_step`] aims at, at most.
const SUITED_STEPS: u64 = 120;
/// Lengths of a step that people read easily, in seconds.
const SUITED_S: [u64; 11] = [
    10, 30, 60, 300, 600, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400,
];

/// Why a range cannot be cut into steps.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StepsError {
    /// The step is shorter than a second or no whole number of seconds.
    #[error("a step of {step:?} is no whole number of seconds, at least one")]
    NotWholeSeconds {
        /// The step as given.
        step: Duration,
    },
    /// There would be more than [`MAX_STEPS`].
    #[error(
        "a range of {range_s} s has more than {MAX_STEPS} steps of {step_s} s; use a longer one"
    )]
    TooMany {
        /// Length of the range in seconds.
        range_s: u64,
        /// Length of a step in seconds.
        step_s: u64,
    },
}

/// A range of time cut into steps of equal length.
///
/// Steps begin at multiples of their length since 1970, so that two timelines
/// of one step length have the same borders. The first and the last step may
/// therefore reach beyond the range; [`Steps::get`] cuts them to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    window: Window,
    first: UnixNanos,
    step: Duration,
    count: usize,
}

/// The shortest readable step with which `window` has a screenful of steps.
pub fn suited_step(window: &Window) -> Duration {
    let range_s = window.duration().as_secs();
    let fits = |step_s: &&u64| range_s.div_ceil(**step_s) <= SUITED_STEPS;
    let days = range_s.div_ceil(SUITED_STEPS).div_ceil(86_400);
    let suited = SUITED_S.iter().find(fits).copied();
    Duration::from_secs(suited.unwrap_or_else(|| days.saturating_mul(86_400)))
}

impl Steps {
    /// Returns `window` cut into steps of length `step`.
    ///
    /// # Errors
    ///
    /// [`StepsError`] if the step is no whole number of seconds or there would
    /// be more than [`MAX_STEPS`].
    pub fn new(window: Window, step: Duration) -> Result<Self, StepsError> {
        if step.as_secs() == 0 || step.subsec_nanos() != 0 {
            return Err(StepsError::NotWholeSeconds { step });
        }
        let first = window.start().floor(step);
        let range = window.end().since(first);
        let too_many = StepsError::TooMany {
            range_s: window.duration().as_secs(),
            step_s: step.as_secs(),
        };
        let count = match range.as_nanos().div_ceil(step.as_nanos()).try_into() {
            Ok(count) if count <= MAX_STEPS => count,
            _ => return Err(too_many),
        };
        Ok(Self {
            window,
            first,
            step,
            count,
        })
    }

    /// The range that is cut.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Start of the first step; not after the range's.
    pub fn first(&self) -> UnixNanos {
        self.first
    }

    /// Length of each step, in whole seconds.
    pub fn step(&self) -> Duration {
        self.step
    }

    /// How many steps there are; at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What of step `at` lies in the range; `None` when there is no such step.
    pub fn get(&self, at: usize) -> Option<Window> {
        if at >= self.count {
            return None;
        }
        let start = self.start(at);
        let end = start.saturating_add(self.step).min(self.window.end());
        Window::new(start.max(self.window.start()), end).ok()
    }

    /// The step that `time` lies in; `None` outside of the range.
    pub fn at(&self, time: UnixNanos) -> Option<usize> {
        if !self.window.contains(time) {
            return None;
        }
        let since = time.since(self.first).as_nanos();
        let at = since.checked_div(self.step.as_nanos())?;
        usize::try_from(at).ok().filter(|&at| at < self.count)
    }

    /// Start of step `at`, before or after the range's start.
    pub fn start(&self, at: usize) -> UnixNanos {
        let steps = u32::try_from(at).unwrap_or(u32::MAX);
        self.first.saturating_add(self.step.saturating_mul(steps))
    }
}

/// What was measured of one group in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepValue {
    /// Sum in the profile type's unit; of a gauge times seconds.
    pub value: i128,
    /// Time within the step during which the group was observed; of several
    /// series, during which any was. Zero means that nothing is known.
    pub observed: Duration,
}

/// What a timeline's points are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// CPU time per time: cores kept busy.
    Cores,
    /// The profile type's unit per second.
    PerSecond,
    /// The profile type's unit, averaged over time.
    Average,
}

impl Measure {
    /// What values of a profile type become.
    pub fn of(profile_type: &ProfileType, temporality: Temporality) -> Self {
        let sample = profile_type.sample();
        match temporality {
            Temporality::Gauge => Self::Average,
            Temporality::Delta if sample.kind() == "cpu" && sample.unit() == "nanoseconds" => {
                Self::Cores
            }
            Temporality::Delta => Self::PerSecond,
        }
    }

    /// What `value` means; `None` when nothing was observed.
    fn point(self, value: StepValue) -> Option<f64> {
        if value.observed.is_zero() {
            return None;
        }
        let per_second = value.value as f64 / value.observed.as_secs_f64();
        Some(match self {
            Self::Cores => per_second / 1e9,
            Self::PerSecond | Self::Average => per_second,
        })
    }
}

/// The points of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The label's values that name the group, in the order of
    /// [`Timeline::group_by`]; `""` stands for series without the label.
    pub group: Vec<String>,
    /// One per step, all finite; `None` where nothing was observed.
    pub points: Vec<Option<f64>>,
}

impl Series {
    /// The smallest point; `None` when there is none.
    pub fn min(&self) -> Option<f64> {
        self.points.iter().flatten().copied().reduce(f64::min)
    }

    /// The largest point; `None` when there is none.
    pub fn max(&self) -> Option<f64> {
        self.points.iter().flatten().copied().reduce(f64::max)
    }

    /// The latest point, however old; `None` when there is none.
    pub fn last(&self) -> Option<f64> {
        self.points.iter().rev().flatten().copied().next()
    }
}

/// A quantity over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// What the values count.
    pub profile_type: ProfileType,
    /// What the points are.
    pub measure: Measure,
    /// When each point is of.
    pub steps: Steps,
    /// Labels whose values tell groups apart; empty when all is one group.
    pub group_by: Vec<String>,
    /// One per group, by group.
    pub series: Vec<Series>,
}

impl Timeline {
    /// Returns the timeline of these groups, each with its values step by step.
    ///
    /// A group that is given twice is added up, its observed time being the
    /// longer of both. Missing values are unknown, those past the last step are
    /// left out.
    pub fn new(
        steps: Steps,
        profile_type: ProfileType,
        temporality: Temporality,
        group_by: Vec<String>,
        groups: impl IntoIterator<Item = (Vec<String>, Vec<StepValue>)>,
    ) -> Self {
        let measure = Measure::of(&profile_type, temporality);
        let mut sums = std::collections::BTreeMap::<Vec<String>, Vec<StepValue>>::new();
        for (group, values) in groups {
            let sum = sums.entry(group).or_default();
            sum.resize(steps.count(), StepValue::default());
            for (sum, value) in sum.iter_mut().zip(values) {
                sum.value = sum.value.saturating_add(value.value);
                sum.observed = sum.observed.max(value.observed);
            }
        }
        let series = sums
            .into_iter()
            .map(|(group, values)| Series {
                group,
                points: values
                    .into_iter()
                    .map(|value| measure.point(value))
                    .collect(),
            })
            .collect();
        Self {
            profile_type,
            measure,
            steps,
            group_by,
            series,
        }
    }

    /// The unit of the points: `cores`, `bytes/s`, `bytes`.
    pub fn unit(&self) -> String {
        let unit = self.profile_type.sample().unit();
        match self.measure {
            Measure::Cores => "cores".to_owned(),
            Measure::PerSecond => format!("{unit}/s"),
            Measure::Average => unit.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn window(start_s: i64, end_s: i64) -> Window {
        let at = |seconds: i64| UnixNanos::new(seconds * 1_000_000_000);
        Window::new(at(start_s), at(end_s)).unwrap()
    }

    fn seen(value: i128, observed_s: u64) -> StepValue {
        StepValue {
            value,
            observed: Duration::from_secs(observed_s),
        }
    }

    fn points(
        profile_type: &str,
        temporality: Temporality,
        values: &[StepValue],
    ) -> Vec<Option<f64>> {
        let steps = Steps::new(window(0, 240), MINUTE).unwrap();
        let groups = [(Vec::new(), values.to_vec())];
        let timeline = Timeline::new(
            steps,
            profile_type.parse().unwrap(),
            temporality,
            Vec::new(),
            groups,
        );
        timeline.series[0].points.clone()
    }

    #[test]
    fn counts_become_rates_over_the_observed_time() {
        let cpu = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";
        let values = [
            seen(90_000_000_000, 60),
            seen(45_000_000_000, 30),
            seen(0, 60),
        ];
        assert_eq!(
            points(cpu, Temporality::Delta, &values),
            [Some(1.5), Some(1.5), Some(0.0), None]
        );
        let alloc = "memory:alloc_space:bytes:space:bytes";
        assert_eq!(
            points(alloc, Temporality::Delta, &[seen(600, 60)]),
            [Some(10.0), None, None, None]
        );
    }

    #[test]
    fn gauges_become_averages_over_the_observed_time() {
        let heap = "memory:inuse_space:bytes:space:bytes";
        let values = [seen(64 * 60, 60), seen(64 * 20, 20), seen(7, 0)];
        assert_eq!(
            points(heap, Temporality::Gauge, &values),
            [Some(64.0), Some(64.0), None, None]
        );
    }

    #[test]
    fn steps_are_aligned_and_cut_to_the_range() {
        let steps = Steps::new(window(90, 200), MINUTE).unwrap();
        assert_eq!(steps.count(), 3);
        let parts: Vec<Option<Window>> = (0..4).map(|at| steps.get(at)).collect();
        let expected = [
            Some(window(90, 120)),
            Some(window(120, 180)),
            Some(window(180, 200)),
            None,
        ];
        assert_eq!(parts, expected);
        for (seconds, at) in [
            (89, None),
            (90, Some(0)),
            (120, Some(1)),
            (199, Some(2)),
            (200, None),
        ] {
            assert_eq!(
                steps.at(UnixNanos::new(seconds * 1_000_000_000)),
                at,
                "{seconds}"
            );
        }
    }

    #[test]
    fn steps_that_cannot_be_are_refused() {
        let ms = Duration::from_millis;
        for step in [Duration::ZERO, ms(500), ms(1_500)] {
            let error = Steps::new(window(0, 60), step).unwrap_err();
            assert_eq!(error, StepsError::NotWholeSeconds { step });
        }
        let long = window(0, 1_000_000);
        assert_eq!(
            Steps::new(long, Duration::from_secs(99))
                .unwrap_err()
                .to_string(),
            "a range of 1000000 s has more than 10000 steps of 99 s; use a longer one"
        );
        assert_eq!(
            Steps::new(long, Duration::from_secs(100)).unwrap().count(),
            MAX_STEPS
        );
        let all = Window::new(UnixNanos::new(0), UnixNanos::new(i64::MAX)).unwrap();
        assert!(Steps::new(all, Duration::from_secs(1)).is_err());
        assert_eq!(
            Steps::new(all, Duration::from_secs(u64::MAX))
                .unwrap()
                .count(),
            1
        );
    }

    #[test]
    fn a_suited_step_gives_a_screenful() {
        for (range_s, step_s) in [(60, 10), (3_600, 30), (86_400, 1_800), (604_800, 10_800)] {
            let step = suited_step(&window(0, range_s));
            assert_eq!(step, Duration::from_secs(step_s), "{range_s}");
        }
        let all = Window::new(UnixNanos::new(0), UnixNanos::new(i64::MAX)).unwrap();
        let steps = Steps::new(all, suited_step(&all)).unwrap();
        assert!(steps.count() <= 121, "{}", steps.count());
    }

    #[test]
    fn groups_are_sorted_and_one_given_twice_is_added_up() {
        let steps = Steps::new(window(0, 60), MINUTE).unwrap();
        let group =
            |name: &str, value, observed_s| (vec![name.to_owned()], vec![seen(value, observed_s)]);
        let timeline = Timeline::new(
            steps,
            "a:b:count:d:e".parse().unwrap(),
            Temporality::Delta,
            vec!["version".to_owned()],
            [group("2", 60, 60), group("1", 5, 0), group("2", 60, 30)],
        );
        let found: Vec<_> = timeline
            .series
            .iter()
            .map(|series| (series.group[0].as_str(), series.points[0]))
            .collect();
        assert_eq!(found, [("1", None), ("2", Some(2.0))]);
        assert_eq!(timeline.unit(), "count/s");
    }

    proptest! {
        #[test]
        fn points_are_finite_and_known_where_something_was_observed(
            values in prop::collection::vec((any::<i128>(), any::<u64>()), 0..8),
            gauge: bool,
        ) {
            let values: Vec<StepValue> = values
                .into_iter()
                .map(|(value, nanos)| StepValue { value, observed: Duration::from_nanos(nanos) })
                .collect();
            let temporality = if gauge { Temporality::Gauge } else { Temporality::Delta };
            let found = points("process_cpu:cpu:nanoseconds:cpu:nanoseconds", temporality, &values);
            prop_assert_eq!(found.len(), 4);
            for (at, point) in found.iter().enumerate() {
                let observed = values.get(at).is_some_and(|value| !value.observed.is_zero());
                prop_assert_eq!(point.is_some(), observed);
                prop_assert!(point.is_none_or(f64::is_finite));
            }
        }

        #[test]
        fn every_moment_lies_in_the_step_that_says_so(
            start_s in 0i64..10_000, length_s in 1i64..5_000, step_s in 1u64..700, offset in 0i64..5_000,
        ) {
            let range = window(start_s, start_s + length_s);
            let steps = Steps::new(range, Duration::from_secs(step_s)).unwrap();
            let time = UnixNanos::new((start_s + offset % length_s) * 1_000_000_000);
            let at = steps.at(time).unwrap();
            prop_assert!(steps.get(at).unwrap().contains(time));
            let covered: Duration = (0..steps.count()).map(|at| steps.get(at).unwrap().duration()).sum();
            prop_assert_eq!(covered, range.duration());
        }
    }
}
