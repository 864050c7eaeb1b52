//! Makes profiles of what sources saw: adds labels, facts and bounds. Pure.
//!
//! Sample labels split a window into several series, at most [`MAX_SPLITS`]
//! per hour; samples beyond go to the series without them, counted in
//! [`Facts::dropped_labels`]. A label of the target cannot be overwritten.
//!
//! Facts about the whole target go with one profile per window only, the CPU
//! profile without sample labels, so that adding series up counts them once.

use std::time::Duration;

use proto::labels::{LabelSet, SERVICE};
use proto::limits::MAX_SAMPLES;
use proto::profile::{Column, Facts, Profile};
use proto::stack::Stack;
use proto::value_type::{ProfileType, Temporality};
use proto::window::Window;
use rustc_hash::FxHashSet;
use tracing::warn;

use crate::delta::merge_stacks;
use crate::source::{Collected, SampleGroup};
use crate::target::Usage;

/// Most sets of sample labels per target and hour.
pub const MAX_SPLITS: usize = 32;
/// Coverage is unknown below this many expected samples: CPU time is accounted
/// in steps of 10 ms.
const MIN_EXPECTED_SAMPLES: u64 = 10;
/// Service of a target whose name cannot be seen.
const UNKNOWN_SERVICE: &str = "unknown";

/// What the kernel accounted to the target over a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounted {
    /// The target's use.
    pub usage: Usage,
    /// Time that was watched; zero when nothing is known.
    pub watched: Duration,
}

/// Makes profiles of one target.
#[derive(Debug)]
pub struct Assembler {
    labels: LabelSet,
    idle_period_ns: u64,
    hour: i64,
    splits: FxHashSet<Vec<(String, String)>>,
}

fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

impl Assembler {
    /// Returns an assembler for a target with these labels, whose CPU is
    /// sampled every `idle_period_ns` of CPU time.
    pub fn new(labels: LabelSet, idle_period_ns: u64) -> Self {
        Self {
            labels,
            idle_period_ns: idle_period_ns.max(1),
            hour: 0,
            splits: FxHashSet::default(),
        }
    }

    /// Names the service, unless it has a name.
    pub fn name_service(&mut self, name: &str) {
        if self.labels.get(SERVICE).is_none()
            && !name.is_empty()
            && let Ok(labels) = self.labels.with(SERVICE, name)
        {
            self.labels = labels;
        }
    }

    /// Labels of the target, with a service.
    pub fn labels(&self) -> LabelSet {
        if self.labels.get(SERVICE).is_some() {
            return self.labels.clone();
        }
        self.labels
            .with(SERVICE, UNKNOWN_SERVICE)
            .unwrap_or_else(|_| self.labels.clone())
    }

    /// Makes profiles of `collected`, one per set of sample labels.
    ///
    /// Without samples there is an empty CPU profile: the target was watched
    /// and idle, which is not the same as unknown.
    pub fn profiles(&mut self, collected: Collected, accounted: Accounted) -> Vec<Profile> {
        let window = collected.window;
        let mut facts = facts(&collected, accounted, self.idle_period_ns);
        let (groups, dropped) = self.split(collected.groups, window);
        facts.dropped_labels = facts.dropped_labels.saturating_add(dropped);
        // Only what scales the values holds for each series on its own.
        let rest = Facts {
            target_start: facts.target_start,
            coverage_permille: facts.coverage_permille,
            observed_ns: facts.observed_ns,
            ..Facts::default()
        };
        let mut facts_of_next = facts;
        let mut profiles = Vec::new();
        for (labels, group) in groups {
            let facts = std::mem::replace(&mut facts_of_next, rest);
            match Profile::new(labels, window, group.stacks, group.columns, facts) {
                Ok(profile) => profiles.push(profile),
                Err(error) => warn!(error = &error as &dyn std::error::Error, "profile dropped"),
            }
        }
        profiles
    }

    /// Gives each group its series, the one without sample labels first.
    fn split(
        &mut self,
        groups: Vec<SampleGroup>,
        window: Window,
    ) -> (Vec<(LabelSet, SampleGroup)>, u64) {
        let hour = window.start().seconds().div_euclid(3600);
        if hour != self.hour {
            self.hour = hour;
            self.splits.clear();
        }
        let base = self.labels();
        let mut dropped: u64 = 0;
        let mut unlabelled: Option<SampleGroup> = None;
        let mut labelled: Vec<(LabelSet, SampleGroup)> = Vec::new();
        for group in groups {
            if let Some(labels) = self.series(&base, &group.labels) {
                labelled.push((labels, bounded(group)));
                continue;
            }
            if !group.labels.is_empty() {
                let samples = u64::try_from(group.stacks.len()).unwrap_or(u64::MAX);
                dropped = dropped.saturating_add(samples);
            }
            unlabelled = Some(match unlabelled {
                None => group,
                Some(first) => merge(first, group),
            });
        }
        let unlabelled = match unlabelled {
            None if labelled.is_empty() => Some(self.idle()),
            other => other,
        };
        let mut all: Vec<(LabelSet, SampleGroup)> = unlabelled
            .into_iter()
            .map(|group| (base.clone(), bounded(group)))
            .collect();
        all.append(&mut labelled);
        (all, dropped)
    }

    /// The series of samples with these labels; nothing if they belong to the
    /// series without.
    fn series(&mut self, base: &LabelSet, labels: &[(String, String)]) -> Option<LabelSet> {
        if labels.is_empty() || labels.iter().any(|(name, _)| base.get(name).is_some()) {
            return None;
        }
        let pairs = labels.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let series = LabelSet::new(base.iter().chain(pairs)).ok()?;
        // A reserved name would make the samples those of another target.
        let is_moved = RESERVED
            .iter()
            .any(|name| series.get(name) != base.get(name));
        let is_room = self.splits.contains(labels) || self.splits.len() < MAX_SPLITS;
        if is_moved || !is_room || series == *base {
            return None;
        }
        self.splits.insert(labels.to_vec());
        Some(series)
    }

    fn idle(&self) -> SampleGroup {
        let column = Column {
            profile_type: ProfileType::cpu(),
            temporality: Temporality::Delta,
            period: i64::try_from(self.idle_period_ns).unwrap_or(i64::MAX),
            weight: self.idle_period_ns,
            values: Vec::new(),
        };
        SampleGroup {
            labels: Vec::new(),
            stacks: Vec::new(),
            columns: vec![column],
        }
    }
}

/// Labels that say which target a series is of.
const RESERVED: [&str; 7] = [
    SERVICE,
    proto::labels::NAMESPACE,
    proto::labels::POD,
    "container",
    "node",
    "zone",
    proto::labels::VERSION,
];

fn is_cpu(collected: &Collected) -> bool {
    let cpu = ProfileType::cpu();
    let mut columns = collected.groups.iter().flat_map(|group| &group.columns);
    collected.groups.is_empty() || columns.any(|column| column.profile_type == cpu)
}

fn facts(collected: &Collected, accounted: Accounted, idle_period_ns: u64) -> Facts {
    let usage = accounted.usage;
    let watched_ns = nanos(accounted.watched);
    let window_ns = nanos(collected.window.duration());
    let mut facts = Facts {
        rss_bytes: usage.rss_bytes,
        threads_count: usage.threads_count,
        processes_count: usage.processes_count,
        target_start: usage.started,
        cpu_limit_millicores: usage.cpu_limit_millicores,
        lost_samples: collected.lost_samples,
        dropped_labels: collected.dropped_labels,
        ..Facts::default()
    };
    if !is_cpu(collected) {
        facts.observed_ns = collected.observed_ns.min(window_ns);
        return facts;
    }
    let sampled_ns = match collected.observed_ns {
        0 if watched_ns > 0 => watched_ns,
        0 => window_ns,
        part => part,
    };
    facts.cpu_ns = usage.cpu_ns;
    facts.throttled_ns = usage.throttled_ns;
    facts.observed_ns = sampled_ns.min(window_ns);
    let period_ns = collected
        .groups
        .first()
        .and_then(|group| group.columns.first())
        .and_then(|column| u64::try_from(column.period).ok())
        .filter(|period| *period > 0)
        .unwrap_or(idle_period_ns);
    // Of the CPU time in the window, the part while samples were taken.
    let sampled_cpu_ns = match watched_ns {
        0 => 0,
        watched => {
            let share = u128::from(sampled_ns.min(watched));
            u64::try_from(u128::from(usage.cpu_ns) * share / u128::from(watched)).unwrap_or(0)
        }
    };
    let expected = sampled_cpu_ns / period_ns;
    if expected >= MIN_EXPECTED_SAMPLES {
        let permille = u128::from(collected.samples_count) * 1000 / u128::from(expected);
        facts.coverage_permille = u32::try_from(permille).unwrap_or(u32::MAX);
    }
    facts
}

fn samples(group: SampleGroup) -> (Vec<(Stack, Vec<i64>)>, Vec<Column>) {
    let rows = group
        .stacks
        .into_iter()
        .enumerate()
        .map(|(row, stack)| {
            let values = group.columns.iter().map(|column| column.values.get(row));
            (stack, values.map(|v| v.copied().unwrap_or(0)).collect())
        })
        .collect();
    (rows, group.columns)
}

fn group_of(rows: Vec<(Stack, Vec<i64>)>, mut columns: Vec<Column>) -> SampleGroup {
    for (at, column) in columns.iter_mut().enumerate() {
        let values = rows.iter().map(|(_, values)| values.get(at));
        column.values = values.map(|v| v.copied().unwrap_or(0)).collect();
    }
    SampleGroup {
        labels: Vec::new(),
        stacks: rows.into_iter().map(|(stack, _)| stack).collect(),
        columns,
    }
}

/// Keeps a group within what one window may hold.
fn bounded(group: SampleGroup) -> SampleGroup {
    if group.stacks.len() <= MAX_SAMPLES {
        return group;
    }
    let (rows, columns) = samples(group);
    group_of(merge_stacks(rows, MAX_SAMPLES - 1), columns)
}

/// Adds two groups of one source up. Their columns have the same types.
fn merge(first: SampleGroup, second: SampleGroup) -> SampleGroup {
    let is_same_weight = first.columns.len() == second.columns.len()
        && first
            .columns
            .iter()
            .zip(&second.columns)
            .all(|(a, b)| a.weight == b.weight);
    let (first, second) = if is_same_weight {
        (first, second)
    } else {
        (unweighted(first), unweighted(second))
    };
    let (mut rows, columns) = samples(first);
    rows.extend(samples(second).0);
    group_of(merge_stacks(rows, MAX_SAMPLES - 1), columns)
}

fn unweighted(mut group: SampleGroup) -> SampleGroup {
    for column in &mut group.columns {
        let weight = i64::try_from(column.weight).unwrap_or(i64::MAX);
        for value in &mut column.values {
            *value = value.saturating_mul(weight);
        }
        column.weight = 1;
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::stack::{Frame, FrameKind};
    use proto::window::UnixNanos;
    use std::sync::Arc;

    fn group(labels: &[(&str, &str)], rows: &[(&str, i64)]) -> SampleGroup {
        SampleGroup {
            labels: labels
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
            stacks: rows
                .iter()
                .map(|(name, _)| Stack::from([Frame::named(FrameKind::Go, name)]))
                .collect(),
            columns: vec![Column {
                profile_type: ProfileType::cpu(),
                temporality: Temporality::Delta,
                period: 10_000_000,
                weight: 10_000_000,
                values: rows.iter().map(|(_, value)| *value).collect(),
            }],
        }
    }

    fn seen(groups: Vec<SampleGroup>) -> Collected {
        let second = 1_000_000_000;
        Collected {
            window: Window::new(UnixNanos::new(0), UnixNanos::new(10 * second)).unwrap(),
            observed_ns: 0,
            lost_samples: 1,
            dropped_labels: 2,
            samples_count: 90,
            groups,
        }
    }

    fn accounted() -> Accounted {
        Accounted {
            usage: Usage {
                cpu_ns: 1_000_000_000,
                processes_count: 1,
                ..Usage::default()
            },
            watched: Duration::from_secs(10),
        }
    }

    fn assembler() -> Assembler {
        Assembler::new(
            LabelSet::new([("service", "logger"), ("pod", "p")]).unwrap(),
            10_000_000,
        )
    }

    #[test]
    fn facts_count_once_however_many_series() {
        let groups = vec![group(&[("k", "v")], &[("a", 1)]), group(&[], &[("b", 2)])];
        let profiles = assembler().profiles(seen(groups), accounted());
        assert_eq!(profiles[0].labels().get("k"), None);
        assert_eq!(profiles[1].labels().get("k"), Some("v"));
        let [first, second] = [profiles[0].facts(), profiles[1].facts()];
        assert_eq!(
            (first.cpu_ns, first.coverage_permille),
            (1_000_000_000, 900)
        );
        assert_eq!((first.lost_samples, first.dropped_labels), (1, 2));
        assert_eq!((second.cpu_ns, second.coverage_permille), (0, 900));
        assert_eq!(second.observed_ns, 10_000_000_000);
    }

    #[test]
    fn labels_beyond_the_limit_go_to_the_series_without() {
        let many = (0..40).map(|n| group(&[("k", &n.to_string())], &[("a", 1)]));
        let mut assembler = assembler();
        let profiles = assembler.profiles(seen(many.clone().collect()), accounted());
        assert_eq!(profiles.len(), MAX_SPLITS + 1);
        assert_eq!(profiles[0].facts().dropped_labels, 2 + 8);
        assert_eq!(profiles[0].columns()[0].values, [8]);
        // The same sets again are still allowed.
        assert_eq!(
            assembler.profiles(seen(many.collect()), accounted()).len(),
            MAX_SPLITS + 1
        );
    }

    #[test]
    fn a_sample_cannot_claim_another_target() {
        for name in ["service", "service_name", "pod", "version", ""] {
            let groups = vec![group(&[(name, "x")], &[("a", 1)])];
            let profiles = assembler().profiles(seen(groups), accounted());
            let labels: Vec<_> = profiles[0].labels().iter().collect();
            assert_eq!(labels, [("pod", "p"), ("service", "logger")], "{name}");
            assert_eq!(profiles[0].facts().dropped_labels, 3);
        }
    }

    #[test]
    fn an_idle_target_makes_an_empty_profile() {
        let idle = Accounted {
            watched: Duration::from_secs(4),
            ..Accounted::default()
        };
        let profiles = assembler().profiles(seen(Vec::new()), idle);
        assert_eq!(profiles.len(), 1);
        assert!(profiles[0].stacks().is_empty());
        assert_eq!(profiles[0].columns()[0].profile_type, ProfileType::cpu());
        assert_eq!(profiles[0].facts().observed_ns, 4_000_000_000);
        assert_eq!(profiles[0].facts().coverage_permille, 0);
    }

    #[test]
    fn the_service_is_named_once() {
        let mut assembler = Assembler::new(LabelSet::default(), 1);
        assert_eq!(assembler.labels().service(), UNKNOWN_SERVICE);
        assembler.name_service("logger");
        assembler.name_service("other");
        assert_eq!(assembler.labels().service(), "logger");
    }

    #[test]
    fn groups_of_different_weight_keep_their_total() {
        let mut exact = group(&[], &[("a", 5)]);
        exact.columns[0].weight = 1;
        let merged = merge(group(&[], &[("a", 1)]), exact);
        assert_eq!(merged.columns[0].values, [10_000_005]);
        assert_eq!(merged.columns[0].weight, 1);
        assert_eq!(
            merged.stacks,
            [Arc::from([Frame::named(FrameKind::Go, "a")])]
        );
    }
}
