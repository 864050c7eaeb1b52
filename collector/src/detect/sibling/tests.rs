use super::super::past::tests::{pod, row};
use super::*;
use crate::feature::pods::{PodTotals, PodsRow};

/// Start of the last row.
const NOW_S: i64 = 1_780_000_200;

fn pods(millicores: &[u64]) -> Vec<PodTotals> {
    (1..)
        .zip(millicores)
        .map(|(series, cores)| pod(series, 600, *cores))
        .collect()
}

/// What is told of pods with these millicores, in the last row and the one before, and
/// in each hour of the day before.
fn judged(now: Vec<PodTotals>, before: &[u64], hours: &[u64]) -> Vec<(String, Level)> {
    let whole_s = NOW_S - NOW_S % 3_600;
    let hours: Vec<PodsRow> = (1..=30)
        .map(|ago| row(whole_s - ago * 3_600, 3_600, pods(hours)))
        .map(|mut hour| {
            for pod in &mut hour.pods {
                (pod.seen_ns, pod.sampled_ns) = (pod.seen_ns * 6, pod.sampled_ns * 6);
            }
            hour
        })
        .collect();
    let tens = [row(NOW_S - 600, 600, pods(before))];
    let past = Past::new(&row(NOW_S, 600, now), &tens, &hours);
    let found = judge(&past, &SiblingSettings::default()).into_iter();
    found
        .map(|(_, finding)| (finding.identity.join(";"), finding.level))
        .collect()
}

#[test]
fn a_pod_beside_others_is_judged_by_two_rows() {
    let even = [400, 410, 390, 400];
    let one = [400, 410, 390, 1_000];
    let told = |level| vec![("p-4".to_owned(), level)];
    for (what, now, before, hours, expected) in [
        (
            "one is off",
            &one[..],
            &one[..],
            &even[..],
            told(Level::Enter),
        ),
        ("only now", &one, &even, &even, vec![]),
        (
            "a little less",
            &[400, 410, 390, 590],
            &one,
            &even,
            told(Level::Hold),
        ),
        (
            "all are busy",
            &[1_000, 1_010, 990, 1_020],
            &even,
            &even,
            vec![],
        ),
        ("one leads, as ever", &one, &one, &one, vec![]),
        (
            "an idle service",
            &[2, 2, 2, 100],
            &[2, 2, 2, 100],
            &[2, 2, 2, 2],
            vec![],
        ),
        (
            "less than the others",
            &[400, 410, 390, 10],
            &[400, 410, 390, 10],
            &even,
            vec![],
        ),
        (
            "two pods",
            &[400, 1_000],
            &[400, 1_000],
            &[400, 400],
            vec![],
        ),
        (
            "uneven by chance",
            &[300, 500, 700, 900],
            &[300, 500, 700, 900],
            &even,
            vec![],
        ),
    ] {
        assert_eq!(judged(pods(now), before, hours), expected, "{what}");
    }
}

#[test]
fn young_pods_and_other_versions_are_no_siblings() {
    let off = [400, 410, 390, 1_000];
    let even = [400, 410, 390, 400];
    let mut young = pods(&off);
    young[3].started_ns = (NOW_S - 60) * 1_000_000_000;
    assert_eq!(judged(young, &off, &even), []);
    let mut canary = pods(&off);
    canary[3].version = "2".to_owned();
    assert_eq!(judged(canary, &off, &even), []);
    let mut barely_seen = pods(&off);
    (barely_seen[3].seen_ns, barely_seen[3].sampled_ns) = (60_000_000_000, 60_000_000_000);
    assert_eq!(judged(barely_seen, &off, &even), []);
}

#[test]
fn the_evidence_says_what_siblings_use() {
    let off = [400, 410, 390, 1_000];
    let past = Past::new(
        &row(NOW_S, 600, pods(&off)),
        &[row(NOW_S - 600, 600, pods(&off))],
        &[],
    );
    let (place, finding) = judge(&past, &SiblingSettings::default()).remove(0);
    let measure = finding.measure.unwrap();
    assert_eq!(place, 3);
    assert_eq!((measure.now, measure.before, measure.of), (1.0, 0.41, 4));
    assert_eq!(measure.since_ns, (NOW_S - 600) * 1_000_000_000);
}
