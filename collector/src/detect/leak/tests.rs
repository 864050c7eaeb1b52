use super::super::past::tests::{pod, row};
use super::super::past::{HOURS, TENS};
use super::*;
use crate::feature::pods::PodsRow;

/// End of the last row, a Friday noon.
const END_S: i64 = (2_900 * 7 * 24 + 36) * 3_600;

/// Memory in bytes and threads of a pod at hours before the end.
type Shape = fn(f64) -> (f64, f64);

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole numbers, not negative"
)]
fn count(value: f64) -> u64 {
    value as u64
}

/// Rows of two pods, the first of `shape`; both started `uptime` hours ago, the first
/// again `restarted` hours ago.
fn past(shape: Shape, restarted: f64) -> Past {
    let at_end = |start_s: i64, length_s: u64| -> PodsRow {
        let hours = (start_s - END_S) as f64 / 3_600.0;
        let mut first = pod(1, length_s, 500);
        let (memory, threads) = shape(hours);
        first.rss_bytes = count(memory);
        first.threads_count = u32::try_from(count(threads)).unwrap();
        first.started_ns = if hours >= -restarted { 9 } else { 5 };
        row(start_s, length_s, vec![first, pod(2, length_s, 500)])
    };
    let back = |slots: usize, length_s: u64| {
        let length = i64::try_from(length_s).unwrap();
        (1..=i64::try_from(slots).unwrap()).map(move |ago| END_S - ago * length)
    };
    let tens: Vec<PodsRow> = back(TENS, 600).map(|at| at_end(at, 600)).collect();
    let hours: Vec<PodsRow> = back(HOURS, 3_600).map(|at| at_end(at, 3_600)).collect();
    Past::new(&tens[0], &tens[1..], &hours)
}

fn judged(shape: Shape, restarted: f64) -> Vec<(usize, FindingKind, Level)> {
    let found = judge(&past(shape, restarted), &LeakSettings::default()).into_iter();
    found
        .map(|(place, finding)| (place, finding.kind, finding.level))
        .collect()
}

#[test]
fn the_pod_that_grows_is_told_and_the_other_is_not() {
    let memory = |at: f64| (5e8 + 5e6 * (at + 18.0).max(0.0), 20.0);
    let threads = |at: f64| (5e8, 200.0 + 100.0 * (at + 5.0).max(0.0));
    let pool = |at: f64| (5e8, if at > -5.0 { 900.0 } else { 200.0 });
    let few = |at: f64| (5e8, 20.0 + 10.0 * (at + 5.0).max(0.0));
    let cases: [(&str, Shape, Vec<_>); 5] = [
        (
            "memory",
            memory,
            vec![(0, FindingKind::MemoryLeak, Level::Enter)],
        ),
        (
            "threads",
            threads,
            vec![(0, FindingKind::ThreadLeak, Level::Enter)],
        ),
        (
            "a pool that became larger",
            pool,
            vec![(0, FindingKind::ThreadLeak, Level::Hold)],
        ),
        ("neither", |_| (5e8, 20.0), vec![]),
        ("unknown", |_| (0.0, 0.0), vec![]),
    ];
    for (what, shape, expected) in cases {
        assert_eq!(judged(shape, 500.0), expected, "{what}");
    }
    let of_few: Vec<Level> = judged(few, 500.0)
        .into_iter()
        .map(|(.., level)| level)
        .collect();
    assert!(!of_few.contains(&Level::Enter), "{of_few:?}");
}

#[test]
fn a_restart_begins_anew() {
    let leaking: Shape = |at| (5e8 + 5e6 * (at + 18.0).max(0.0), 20.0);
    assert_eq!(judged(leaking, 10.0), []);
}

#[test]
fn the_numbers_are_those_of_the_pod_that_grows_fastest() {
    let past = past(|at| (5e8 + 5e6 * (at + 18.0).max(0.0), 20.0), 500.0);
    let found = judge(&past, &LeakSettings::default());
    let measure = found[0].1.measure.clone().unwrap();
    assert_eq!((measure.pod.as_str(), measure.of), ("p-1", 2));
    let per_hour = measure.per_hour.unwrap();
    assert!((3.5e6..6.5e6).contains(&per_hour), "{measure:?}");
    assert!(measure.since_ns < past.step.start().get(), "{measure:?}");
}
