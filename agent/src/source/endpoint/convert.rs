//! From what Go's endpoint answers to what a source yields. Pure.
//!
//! Profile types are named as Pyroscope and Grafana name them.

use std::collections::BTreeMap;

use proto::pprof::{Pprof, PprofSample};
use proto::profile::Column;
use proto::stack::Stack;
use proto::value_type::{ProfileType, Temporality, ValueType};
use proto::window::Window;

use crate::delta::{MAX_STACKS, Snapshot, merge_stacks};
use crate::source::{Collected, SampleGroup};

/// A picture that the endpoint gives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Picture {
    /// Last part of its address.
    pub(super) path: &'static str,
    /// Name of its profile types.
    pub(super) name: &'static str,
    /// Sample types that count since the start of the process.
    pub(super) cumulative: &'static [&'static str],
    /// Sample types that hold at one moment.
    pub(super) gauges: &'static [&'static str],
}

/// Every picture that is taken.
pub(super) const PICTURES: [Picture; 5] = [
    Picture {
        path: "heap",
        name: "memory",
        cumulative: &["alloc_objects", "alloc_space"],
        gauges: &["inuse_objects", "inuse_space"],
    },
    Picture {
        path: "goroutine",
        name: "goroutine",
        cumulative: &[],
        gauges: &["goroutine"],
    },
    Picture {
        path: "threadcreate",
        name: "threadcreate",
        cumulative: &[],
        gauges: &["threadcreate"],
    },
    Picture {
        path: "mutex",
        name: "mutex",
        cumulative: &["contentions", "delay"],
        gauges: &[],
    },
    Picture {
        path: "block",
        name: "block",
        cumulative: &["contentions", "delay"],
        gauges: &[],
    },
];

type Labels = Vec<(String, String)>;

/// Samples by their string labels, sorted.
fn by_labels(samples: Vec<PprofSample>) -> BTreeMap<Labels, Vec<(Stack, Vec<i64>)>> {
    let mut groups: BTreeMap<Labels, Vec<(Stack, Vec<i64>)>> = BTreeMap::new();
    for sample in samples {
        let mut labels: Labels = sample
            .labels
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        labels.sort();
        labels.dedup_by(|later, earlier| later.0 == earlier.0);
        let group = groups.entry(labels).or_default();
        group.push((sample.stack, sample.values));
    }
    groups
}

/// Turns a CPU profile into counts of samples, each worth one period, where
/// the profile allows it, else into nanoseconds.
pub(super) fn cpu(profile: Pprof, window: Window) -> Collected {
    let index_of = |kind: &str| profile.sample_types.iter().position(|t| t.kind() == kind);
    let samples_at = index_of("samples");
    let cpu_at = index_of("cpu").or(profile.sample_types.len().checked_sub(1));
    let value =
        |values: &[i64], at: Option<usize>| at.and_then(|at| values.get(at)).copied().unwrap_or(0);
    let weight = u64::try_from(profile.period)
        .ok()
        .filter(|period| *period > 0)
        .filter(|_| {
            profile.samples.iter().all(|sample| {
                value(&sample.values, samples_at).checked_mul(profile.period)
                    == Some(value(&sample.values, cpu_at))
            })
        });
    let count_at = if weight.is_some() { samples_at } else { cpu_at };
    let samples_count = profile.samples.iter().fold(0u64, |sum, sample| {
        let count = u64::try_from(value(&sample.values, samples_at)).unwrap_or(0);
        sum.saturating_add(count)
    });
    let groups = by_labels(profile.samples)
        .into_iter()
        .map(|(labels, samples)| {
            let counts = samples
                .into_iter()
                .map(|(stack, values)| (stack, vec![value(&values, count_at)]));
            let (stacks, values): (Vec<Stack>, Vec<i64>) = merge_stacks(counts, MAX_STACKS)
                .into_iter()
                .map(|(stack, values)| (stack, value(&values, Some(0))))
                .unzip();
            let column = Column {
                profile_type: ProfileType::cpu(),
                temporality: Temporality::Delta,
                period: profile.period,
                weight: weight.unwrap_or(1),
                values,
            };
            SampleGroup {
                labels,
                stacks,
                columns: vec![column],
            }
        })
        .collect();
    Collected {
        window,
        observed_ns: u64::try_from(profile.duration_ns).unwrap_or(0),
        lost_samples: 0,
        dropped_labels: profile.numeric_labels,
        samples_count,
        groups,
    }
}

/// Some sample types of a picture, with what they need to become columns.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Samples by their labels; each has one value per type.
    pub(super) groups: Vec<(Labels, Snapshot)>,
    types: Vec<ProfileType>,
    period: i64,
    dropped_labels: u64,
}

impl Part {
    /// Takes the sample types called `kinds`, in that order, out of a picture;
    /// nothing if one is missing.
    pub(super) fn of(profile: &Pprof, name: &str, kinds: &[&str]) -> Option<Self> {
        let mut columns = Vec::new();
        let mut types = Vec::new();
        for kind in kinds {
            let found = profile
                .sample_types
                .iter()
                .position(|t| t.kind() == *kind)?;
            let sample = profile.sample_types.get(found)?.clone();
            let period: ValueType = profile
                .period_type
                .clone()
                .unwrap_or_else(|| sample.clone());
            types.push(ProfileType::new(name, sample, period).ok()?);
            columns.push(found);
        }
        let pick = |values: &[i64]| -> Vec<i64> {
            let values = columns.iter().map(|at| values.get(*at).copied());
            values.map(|value| value.unwrap_or(0)).collect()
        };
        let groups = by_labels(profile.samples.clone())
            .into_iter()
            .map(|(labels, samples)| {
                let picked = samples
                    .into_iter()
                    .map(|(stack, values)| (stack, pick(&values)))
                    .filter(|(_, values)| values.iter().any(|value| *value != 0));
                (labels, merge_stacks(picked, MAX_STACKS))
            })
            .filter(|(_, samples)| !samples.is_empty())
            .collect();
        Some(Self {
            groups,
            types,
            period: profile.period,
            dropped_labels: profile.numeric_labels,
        })
    }

    /// All samples without their labels.
    pub(super) fn unlabelled(&self) -> Snapshot {
        let samples = self.groups.iter().flat_map(|(_, samples)| samples.clone());
        merge_stacks(samples, MAX_STACKS)
    }

    /// Makes a yield of these samples for `window`.
    pub(super) fn yielding(
        &self,
        groups: Vec<(Labels, Snapshot)>,
        temporality: Temporality,
        window: Window,
    ) -> Collected {
        let groups = groups
            .into_iter()
            .map(|(labels, samples)| {
                let columns = self
                    .types
                    .iter()
                    .enumerate()
                    .map(|(at, profile_type)| Column {
                        profile_type: profile_type.clone(),
                        temporality,
                        period: self.period,
                        weight: 1,
                        values: samples
                            .iter()
                            .map(|(_, values)| values.get(at).copied().unwrap_or(0))
                            .collect(),
                    })
                    .collect();
                SampleGroup {
                    labels,
                    stacks: samples.into_iter().map(|(stack, _)| stack).collect(),
                    columns,
                }
            })
            .collect();
        Collected {
            window,
            observed_ns: 0,
            lost_samples: 0,
            dropped_labels: self.dropped_labels,
            samples_count: 0,
            groups,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::stack::{Frame, FrameKind};
    use proto::window::UnixNanos;
    use std::sync::Arc;

    fn window() -> Window {
        Window::new(UnixNanos::new(0), UnixNanos::new(10)).unwrap()
    }

    fn types(kinds: &[(&str, &str)]) -> Vec<ValueType> {
        let kinds = kinds.iter();
        kinds.map(|(k, u)| ValueType::new(k, u).unwrap()).collect()
    }

    fn sample(name: &str, values: &[i64], labels: &[(&str, &str)]) -> PprofSample {
        PprofSample {
            stack: Arc::from([Frame::named(FrameKind::Go, name)]),
            values: values.to_vec(),
            labels: labels
                .iter()
                .map(|(n, v)| (Arc::from(*n), Arc::from(*v)))
                .collect(),
        }
    }

    fn cpu_profile(samples: Vec<PprofSample>) -> Pprof {
        Pprof {
            sample_types: types(&[("samples", "count"), ("cpu", "nanoseconds")]),
            period_type: Some(ValueType::new("cpu", "nanoseconds").unwrap()),
            period: 10,
            time_ns: 0,
            duration_ns: 9,
            samples,
            numeric_labels: 1,
        }
    }

    #[test]
    fn cpu_is_counted_in_samples_where_that_is_exact() {
        let profile = cpu_profile(vec![
            sample("a", &[2, 20], &[]),
            sample("a", &[1, 10], &[]),
            sample("b", &[1, 10], &[("k", "v")]),
        ]);
        let seen = cpu(profile, window());
        assert_eq!(
            (seen.samples_count, seen.observed_ns, seen.dropped_labels),
            (4, 9, 1)
        );
        assert_eq!(seen.groups.len(), 2);
        assert_eq!(seen.groups[0].columns[0].values, [3]);
        assert_eq!(seen.groups[0].columns[0].weight, 10);
        assert_eq!(seen.groups[1].labels, [("k".to_owned(), "v".to_owned())]);
    }

    #[test]
    fn cpu_is_counted_in_nanoseconds_otherwise() {
        let seen = cpu(cpu_profile(vec![sample("a", &[2, 21], &[])]), window());
        assert_eq!(seen.groups[0].columns[0].values, [21]);
        assert_eq!(seen.groups[0].columns[0].weight, 1);
    }

    #[test]
    fn a_picture_is_split_by_what_its_values_mean() {
        let profile = Pprof {
            sample_types: types(&[
                ("alloc_objects", "count"),
                ("alloc_space", "bytes"),
                ("inuse_objects", "count"),
                ("inuse_space", "bytes"),
            ]),
            period_type: Some(ValueType::new("space", "bytes").unwrap()),
            ..cpu_profile(vec![
                sample("a", &[1, 8, 0, 0], &[]),
                sample("a", &[2, 64, 1, 32], &[]),
            ])
        };
        let part = Part::of(&profile, "memory", PICTURES[0].cumulative).unwrap();
        assert_eq!(part.unlabelled()[0].1, [3, 72]);
        let gauges = Part::of(&profile, "memory", PICTURES[0].gauges).unwrap();
        let seen = gauges.yielding(gauges.groups.clone(), Temporality::Gauge, window());
        let columns = &seen.groups[0].columns;
        assert_eq!(
            columns[1].profile_type.to_string(),
            "memory:inuse_space:bytes:space:bytes"
        );
        assert_eq!((columns[0].values[0], columns[1].values[0]), (1, 32));
        assert!(Part::of(&profile, "memory", &["absent"]).is_none());
    }
}
