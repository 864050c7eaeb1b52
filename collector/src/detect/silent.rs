//! A pod of which no profile comes although it should.
//!
//! Two things can be known here. A row says that the kernel counted CPU time which no
//! sample shows: sampling is broken. And an agent that is connected sends nothing of a
//! pod that it sent before. Where the agent is gone too nobody knows whether the pod is:
//! scaling down is no silence.

use std::time::Duration;

use proto::window::Window;

use super::past::Past;
use super::{Finding, FindingKind, Level, Measure, Quantity};
use crate::feature::pods::PodTotals;

/// When a pod is silent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SilentSettings {
    /// Least CPU time that the kernel counted, in cores.
    pub cores: f64,
    /// Least part of it that samples must show.
    pub shown: f64,
    /// Part of both settings before at which an alert that began goes on.
    pub leave_share: f64,
    /// Least time in a row of ten minutes in which the pod was seen.
    pub seen: Duration,
}

/// Pods of `past` whose samples show hardly any of their CPU time, by their places.
pub fn judge(past: &Past, settings: &SilentSettings) -> Vec<(usize, Finding)> {
    let mut found = Vec::new();
    for (place, pod) in past.pods.iter().enumerate() {
        let now = &pod.now;
        let (kernel, sampled) = (now.kernel_cores(), now.cores());
        let was_seen = u128::from(now.seen_ns) >= settings.seen.as_nanos();
        let is_blind = |share: f64| {
            kernel >= settings.cores * share && sampled * share < kernel * settings.shown
        };
        if !was_seen || !is_blind(settings.leave_share) {
            continue;
        }
        let level = match is_blind(1.0) {
            true => Level::Enter,
            false => Level::Hold,
        };
        let measure = Measure {
            quantity: Quantity::UnseenCores,
            now: sampled,
            before: kernel,
            per_hour: None,
            since_ns: past.step.start().get(),
            pod: now.pod.clone(),
            of: 1,
        };
        found.push((place, of(now, level, past.step, measure)));
    }
    found
}

/// A pod whose agent is connected and of which nothing came in `step`; `last` is what
/// came of it before, until `until_ns`.
pub fn unheard(last: &PodTotals, until_ns: i64, step: Window) -> Finding {
    let measure = Measure {
        quantity: Quantity::LastCores,
        now: 0.0,
        before: last.cores(),
        per_hour: None,
        since_ns: until_ns.min(step.start().get()),
        pod: last.pod.clone(),
        of: 1,
    };
    of(last, Level::Enter, step, measure)
}

fn of(pod: &PodTotals, level: Level, step: Window, measure: Measure) -> Finding {
    let name = match pod.pod.as_str() {
        "" => format!("series {:016x}", pod.series),
        pod => pod.to_owned(),
    };
    Finding::of_measure(FindingKind::Silent, level, step, &[name], measure)
}

#[cfg(test)]
mod tests {
    use super::super::past::tests::{pod, row};
    use super::*;

    fn judged(kernel: u64, sampled: u64, seen_s: u64) -> Vec<Level> {
        let mut now = pod(1, seen_s, kernel);
        now.sampled_ns = sampled * seen_s * 1_000_000;
        let past = Past::new(&row(6_000, 600, vec![now]), &[], &[]);
        let found = judge(&past, &SilentSettings::default()).into_iter();
        found.map(|(_, finding)| finding.level).collect()
    }

    #[test]
    fn cpu_time_that_no_sample_shows_is_silence() {
        for (what, kernel, sampled, seen_s, expected) in [
            ("broken", 800, 10, 600, vec![Level::Enter]),
            ("no sample at all", 800, 0, 600, vec![Level::Enter]),
            ("a little better", 800, 120, 600, vec![Level::Hold]),
            ("as ever", 800, 790, 600, vec![]),
            ("half of it, by a slow source", 800, 400, 600, vec![]),
            ("idle", 50, 0, 600, vec![]),
            ("just started", 800, 0, 120, vec![]),
            ("the kernel's count is not known", 0, 500, 600, vec![]),
        ] {
            assert_eq!(judged(kernel, sampled, seen_s), expected, "{what}");
        }
    }

    #[test]
    fn a_pod_that_is_not_heard_is_named_with_what_it_took() {
        let step = row(6_000, 600, Vec::new()).step;
        let found = unheard(&pod(1, 600, 400), 5_400_000_000_000, step);
        assert_eq!(
            (found.level, found.identity.as_slice()),
            (Level::Enter, &["p-1".to_owned()][..])
        );
        let measure = found.measure.unwrap();
        assert_eq!((measure.before, measure.since_ns), (0.4, 5_400_000_000_000));
        let nameless = PodTotals {
            pod: String::new(),
            ..pod(1, 600, 400)
        };
        let found = unheard(&nameless, 0, step);
        assert_eq!(found.identity, ["series 0000000000000001"]);
    }
}
