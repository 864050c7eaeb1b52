//! Garbage collection that takes much of a service's CPU time.
//!
//! The share is that of functions below which nothing but collection happens, by a list
//! per language (`gc.toml`). Collection on threads of its own and what programs must do
//! themselves when they allocate count alike.

use serde::Deserialize;

use super::{Finding, FindingKind, Level, Measure, Quantity};
use crate::feature::{ServiceRow, cores, real};

const BUILT_IN: &str = include_str!("gc.toml");
const FORMAT: u32 = 1;
/// Fewest rows of an hour that say what was usual.
const MIN_HOURS: usize = 3;

/// When collection takes too much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CollectionSettings {
    /// Least share of the CPU time.
    pub share: f64,
    /// Least ratio to the median hour of the day before.
    pub ratio: f64,
    /// Least share where nothing is known of the day before.
    pub unsure_share: f64,
    /// The part of the least share at which an alert that began goes on.
    pub leave_share: f64,
    /// Fewest samples in ten minutes.
    pub samples: u64,
}

/// Functions below which garbage is collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collectors {
    exact: Vec<String>,
    beginnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    #[serde(rename = "version")]
    _version: u32,
    language: std::collections::BTreeMap<String, Vec<String>>,
}

impl Default for Collectors {
    fn default() -> Self {
        Self::parse(BUILT_IN).expect("the list that is built in is tested")
    }
}

impl Collectors {
    /// `None` if `text` is no list of this format, or has a rule for everything.
    fn parse(text: &str) -> Option<Self> {
        let file: File = toml::from_str(text).ok()?;
        let rules: Vec<String> = file.language.into_values().flatten().collect();
        let is_rule = |rule: &String| !rule.trim_end_matches('*').is_empty();
        if file.format != FORMAT || !rules.iter().all(is_rule) {
            return None;
        }
        let (beginnings, exact): (Vec<String>, Vec<String>) =
            rules.into_iter().partition(|rule| rule.ends_with('*'));
        let cut = |rule: String| rule.trim_end_matches('*').to_owned();
        Some(Self {
            exact,
            beginnings: beginnings.into_iter().map(cut).collect(),
        })
    }

    fn holds(&self, function: &str) -> bool {
        self.exact.iter().any(|name| name == function)
            || self.beginnings.iter().any(|b| function.starts_with(b))
    }

    /// Share of the samples of `row` below these functions, 0 to 1, and the one that has
    /// most of them; `None` without samples.
    fn share<'r>(&self, row: &'r ServiceRow) -> Option<(f64, &'r str)> {
        let of_collection = row.functions.iter().filter(|f| self.holds(&f.function));
        let (mut sum, mut largest) = (0_u64, (0, ""));
        for count in of_collection {
            sum = sum.saturating_add(count.cum);
            largest = largest.max((count.cum, count.function.as_str()));
        }
        let share = (real(sum) / real(row.samples)).min(1.0);
        (row.samples > 0).then_some((share, largest.1))
    }
}

/// Whether `row` shows so much that it matters what was usual.
pub fn is_much(row: &ServiceRow, collectors: &Collectors, settings: &CollectionSettings) -> bool {
    let share = collectors.share(row).map_or(0.0, |(share, _)| share);
    share >= settings.share * settings.leave_share
}

/// What `row`, of ten minutes, shows; `hours` are those of the day before, in any order.
pub fn judge(
    row: &ServiceRow,
    hours: &[ServiceRow],
    collectors: &Collectors,
    settings: &CollectionSettings,
) -> Option<Finding> {
    let (share, function) = collectors.share(row)?;
    if row.samples < settings.samples {
        return None;
    }
    let mut usual: Vec<f64> = hours
        .iter()
        .filter_map(|hour| Some(collectors.share(hour)?.0))
        .collect();
    usual.sort_unstable_by(f64::total_cmp);
    let usual = match usual.len() >= MIN_HOURS {
        true => usual.get(usual.len() / 2).copied(),
        false => None,
    };
    let least = match usual {
        Some(usual) => settings.share.max(usual * settings.ratio),
        None => settings.unsure_share,
    };
    if share < least * settings.leave_share {
        return None;
    }
    let level = match share >= least {
        true => Level::Enter,
        false => Level::Hold,
    };
    let measure = Measure {
        quantity: Quantity::CpuShare,
        now: share,
        before: usual.unwrap_or(0.0),
        per_hour: None,
        since_ns: row.step.start().get(),
        pod: String::new(),
        of: 0,
    };
    let kind = FindingKind::GcPressure;
    let mut finding = Finding::of_measure(kind, level, row.step, &[], measure);
    finding.cores = share * cores(row.samples, row.period_ns, row.observed_ns);
    finding.samples = row.samples;
    finding.top_leaves = vec![(function.to_owned(), share)];
    Some(finding)
}

#[cfg(test)]
mod tests {
    use proto::window::{UnixNanos, Window};

    use super::*;
    use crate::feature::FunctionCount;

    fn row(at: i64, samples: u64, functions: &[(&str, u64)]) -> ServiceRow {
        let start = UnixNanos::new(at * 600_000_000_000);
        ServiceRow {
            step: Window::from_start(start, 600_000_000_000).unwrap(),
            version: String::new(),
            period_ns: 10_000_000,
            observed_ns: 600_000_000_000,
            samples,
            functions: functions
                .iter()
                .map(|(function, cum)| FunctionCount {
                    function: (*function).to_owned(),
                    flat: 0,
                    cum: *cum,
                })
                .collect(),
            other_flat: 0,
        }
    }

    fn judged(now: &ServiceRow, usual: u64, hours: i64) -> Option<(Level, Measure)> {
        let hours: Vec<ServiceRow> = (0..hours)
            .map(|at| row(at, 10_000, &[("runtime.gcBgMarkWorker", usual)]))
            .collect();
        let settings = CollectionSettings::default();
        let found = judge(now, &hours, &Collectors::default(), &settings)?;
        Some((found.level, found.measure?))
    }

    #[test]
    fn much_collection_is_told_when_it_is_more_than_on_the_day_before() {
        let at = |mark: u64, assist: u64| {
            let functions = [
                ("main.main", 9_000),
                ("runtime.gcBgMarkWorker", mark),
                ("runtime.gcAssistAlloc", assist),
                ("runtime.mallocgc", 4_000),
            ];
            row(200, 10_000, &functions)
        };
        for (what, now, usual, hours, expected) in [
            (
                "both count",
                at(1_500, 1_000),
                1_000,
                24,
                Some(Level::Enter),
            ),
            ("as on every day", at(2_500, 0), 2_400, 24, None),
            ("near it", at(2_000, 300), 1_700, 24, Some(Level::Hold)),
            ("a fifth of it", at(1_000, 0), 100, 24, None),
            ("a new service", at(2_500, 0), 0, 0, None),
            (
                "a new service with very much",
                at(4_500, 0),
                0,
                0,
                Some(Level::Enter),
            ),
            (
                "few samples",
                row(9, 50, &[("runtime.gcBgMarkWorker", 40)]),
                0,
                24,
                None,
            ),
            ("nothing sampled", row(9, 0, &[]), 0, 24, None),
            (
                "hostile",
                row(9, 500, &[("gc_start", u64::MAX)]),
                0,
                24,
                Some(Level::Enter),
            ),
        ] {
            let found = judged(&now, usual, hours);
            assert_eq!(found.as_ref().map(|(level, _)| *level), expected, "{what}");
            assert!(
                found.is_none_or(|(_, m)| (0.0..=1.0).contains(&m.now)),
                "{what}"
            );
        }
        let (_, measure) = judged(&at(1_500, 1_000), 1_000, 24).unwrap();
        assert_eq!((measure.now, measure.before), (0.25, 0.1));
    }

    #[test]
    fn every_language_has_rules_and_other_texts_are_none() {
        let built_in = Collectors::default();
        for function in [
            "runtime.gcBgMarkWorker",
            "GangWorker::loop()",
            "v8::internal::Heap::CollectGarbage",
            "gc_start",
            "gc_collect_main",
        ] {
            assert!(built_in.holds(function), "{function}");
        }
        assert!(!built_in.holds("runtime.mallocgc"));
        for text in [
            "",
            "format = 2\nversion = 1\n[language]\ngo = [\"a\"]",
            "format = 1\nversion = 1\n[language]\ngo = [\"*\"]",
        ] {
            assert_eq!(Collectors::parse(text), None, "{text}");
        }
    }
}
