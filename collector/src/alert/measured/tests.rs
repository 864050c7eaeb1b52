//! Alerts about numbers, over a state store in memory.

use std::sync::Arc;
use std::time::Duration;

use expect_test::expect;
use proto::window::UnixNanos;

use super::super::{Alert, AlertFilter, AlertState, Settings};
use super::*;
use crate::detect::past::tests::{pod, row};
use crate::detect::past::{HOURS, TENS};
use crate::detect::shift::ShiftSettings;
use crate::detect::{FindingKind, Thresholds};
use crate::feature::FunctionCount;
use crate::feature::pods::PodsRow;
use crate::store::memory::MemoryState;

/// A Friday noon.
const START_S: i64 = (2_900 * 7 * 24 + 36) * 3_600;

fn open(store: &Arc<MemoryState>, off: &[FindingKind]) -> Alerts {
    let settings = Settings {
        step: Duration::from_secs(60),
        hold: Duration::from_secs(300),
        keep: Duration::from_secs(300),
        public_url: "http://c:4040".to_owned(),
        hooks: Arc::default(),
        shift: ShiftSettings::default(),
        thresholds: Thresholds {
            off: off.iter().copied().collect(),
            ..Thresholds::default()
        },
    };
    let shared: Arc<dyn crate::store::StateStore> = Arc::<MemoryState>::clone(store);
    Alerts::open(shared, settings, Vec::new(), Arc::default()).unwrap()
}

fn key() -> ServiceKey {
    ServiceKey {
        tenant: "anonymous".to_owned(),
        namespace: "prod".to_owned(),
        service: "shop".to_owned(),
    }
}

/// Time after the row that begins ten times `number` minutes after the start.
fn after(number: i64) -> UnixNanos {
    UnixNanos::new((START_S + number * 600 + 620) * 1_000_000_000)
}

fn only(alerts: &Alerts) -> Alert {
    let mut all = alerts.list("anonymous", &AlertFilter::default());
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn states(alerts: &Alerts) -> Vec<AlertState> {
    let all = alerts.list("anonymous", &AlertFilter::default());
    all.iter().map(|alert| alert.state).collect()
}

/// Two pods whose memory has grown by 1 % an hour for 18 hours before row `number`; from
/// row `restarted` on they are new processes.
fn leaking(number: i64, restarted: i64) -> Past {
    let end_s = START_S + number * 600 + 600;
    let of = |start_s: i64, length_s: u64| -> PodsRow {
        let grown = ((start_s - START_S + 18 * 3_600).max(0) * 1_400).unsigned_abs();
        let pods = [1, 2].map(|series| {
            let mut pod = pod(series, length_s, 300);
            pod.rss_bytes = (500 << 20) + grown;
            if start_s >= START_S + restarted * 600 {
                (pod.started_ns, pod.rss_bytes) = (9, 500 << 20);
            }
            pod
        });
        row(start_s, length_s, pods.into())
    };
    let whole_s = end_s - end_s % 3_600;
    let tens: Vec<PodsRow> = (0..i64::try_from(TENS).unwrap())
        .map(|ago| of(end_s - 600 - ago * 600, 600))
        .collect();
    let hours: Vec<PodsRow> = (1..=i64::try_from(HOURS).unwrap())
        .map(|ago| of(whole_s - ago * 3_600, 3_600))
        .collect();
    Past::new(&tens[0], &tens[1..], &hours)
}

#[test]
fn a_leak_is_told_once_for_all_pods_survives_a_restart_of_the_collector_and_ends_with_the_process()
{
    let store = Arc::<MemoryState>::default();
    let alerts = open(&store, &[]);
    for number in 0..3 {
        alerts
            .observe_pods(&key(), &leaking(number, 99), after(number))
            .unwrap();
    }
    let alert = only(&alerts);
    assert_eq!(
        (alert.state, alert.kind.as_str(), alert.severity.as_str()),
        (AlertState::Firing, "memory_leak", "warning")
    );
    assert_eq!(alert.pods, ["p-1", "p-2"]);
    assert_eq!((alert.wait_share, alert.baseline_cores), (None, None));
    expect![[r#"
        shop leaks memory: 569.7 MiB in p-2, and growing
        Memory of p-2 grew from 500.0 MiB to 569.7 MiB, 4.8 MiB an hour (twice as much in 119 h), and does not slow down. A cache that fills as steadily looks the same. At least since 2025-07-31T12:10:00Z. In 2 of 2 pods: p-1, p-2.
        {
            "flamegraph": "http://c:4040/service?name=prod%2Fshop&since=2025-07-31T12%3A10%3A00Z&until=2025-08-01T12%3A30%3A00Z",
            "pprof": "http://c:4040/api/v1/profile?service=prod%2Fshop&format=pprof&since=2025-07-31T12%3A10%3A00Z&until=2025-08-01T12%3A30%3A00Z",
            "query": "collector query --service prod/shop --since 2025-07-31T12:10:00Z --until 2025-08-01T12:30:00Z",
        }"#]].assert_eq(&format!(
        "{}\n{}\n{:#?}",
        alert.title, alert.summary, alert.links
    ));
    let alerts = open(&store, &[]);
    assert_eq!(states(&alerts), [AlertState::Firing]);
    // The processes are new: nothing shows it for half an hour.
    for number in 3..5 {
        alerts
            .observe_pods(&key(), &leaking(number, 3), after(number))
            .unwrap();
        assert_eq!(states(&alerts), [AlertState::Firing]);
    }
    alerts
        .observe_pods(&key(), &leaking(5, 3), after(5))
        .unwrap();
    assert_eq!(states(&alerts), [AlertState::Resolved]);
}

#[test]
fn a_late_row_raises_nothing_and_a_kind_that_is_off_is_not_looked_for() {
    let alerts = open(&Arc::default(), &[]);
    alerts
        .observe_pods(&key(), &leaking(0, 99), after(3))
        .unwrap();
    assert_eq!(states(&alerts), []);
    let alerts = open(&Arc::default(), &[FindingKind::MemoryLeak]);
    alerts
        .observe_pods(&key(), &leaking(0, 99), after(0))
        .unwrap();
    assert_eq!(states(&alerts), []);
}

#[test]
fn silence_is_told_for_each_pod_and_is_over_when_something_comes() {
    let alerts = open(&Arc::default(), &[]);
    let step = |number: i64| row(START_S + number * 600, 600, Vec::new()).step;
    let unheard = [1, 2].map(|series| Unheard {
        last: pod(series, 600, 400),
        until_ns: START_S * 1_000_000_000,
    });
    alerts
        .observe_presence(&key(), step(0), None, &unheard, after(0))
        .unwrap();
    assert_eq!(states(&alerts), [AlertState::Firing; 2]);
    let filter = AlertFilter::default();
    let first = alerts.list("anonymous", &filter).remove(0);
    expect![[r#"
        p-1 of shop is silent
        The agent of p-1 is connected, and nothing has come of the pod since 2025-08-01T12:00:00Z; it used 0.40 cores until then. Its process has ended, or sampling does not work."#]].assert_eq(&format!("{}\n{}", first.title, first.summary));
    assert_eq!(
        first.since,
        crate::time_range::rfc3339(UnixNanos::new(START_S * 1_000_000_000))
    );
    // One is heard again; the agent of the other is gone: nobody knows more of it.
    let heard = Past::new(&row(START_S + 600, 600, vec![pod(1, 600, 400)]), &[], &[]);
    alerts
        .observe_presence(&key(), step(1), Some(&heard), &[], after(1))
        .unwrap();
    let mut found = states(&alerts);
    found.sort();
    assert_eq!(found, [AlertState::Firing, AlertState::Resolved]);
    alerts.tick(after(3)).unwrap();
    let mut found = states(&alerts);
    found.sort();
    assert_eq!(found, [AlertState::Resolved, AlertState::Stale]);
}

#[test]
fn pods_that_are_not_like_others_and_garbage_have_sentences_of_their_own() {
    let alerts = open(&Arc::default(), &[]);
    let of = |start_s| {
        let pods = [400, 410, 390, 1_000];
        let pods = (1..)
            .zip(pods)
            .map(|(series, cores)| pod(series, 600, cores));
        row(start_s, 600, pods.collect())
    };
    let past = Past::new(&of(START_S), &[of(START_S - 600)], &[]);
    alerts.observe_pods(&key(), &past, after(0)).unwrap();
    let sibling = only(&alerts);
    let mut blind = pod(7, 600, 800);
    blind.sampled_ns = 0;
    let past = Past::new(&row(START_S, 600, vec![blind]), &[], &[]);
    alerts
        .observe_presence(&key(), past.step, Some(&past), &[], after(0))
        .unwrap();
    let collecting = ServiceRow {
        step: past.step,
        version: String::new(),
        period_ns: 10_000_000,
        observed_ns: 600_000_000_000,
        samples: 60_000,
        functions: vec![FunctionCount {
            function: "runtime.gcBgMarkWorker".to_owned(),
            flat: 0,
            cum: 30_000,
        }],
        other_flat: 0,
    };
    alerts
        .observe_collection(&key(), &collecting, || Ok(Vec::new()), after(0))
        .unwrap();
    let all = alerts.list("anonymous", &AlertFilter::default());
    let text: Vec<String> = all
        .iter()
        .map(|alert| format!("{} [{}]\n{}\n", alert.title, alert.kind, alert.summary))
        .collect();
    expect![[r#"
        p-7 of shop is sampled no more [silent]
        p-7 used 0.80 cores by the kernel's count, of which samples show 0.00 cores: sampling does not work there. At least since 2025-08-01T12:00:00Z.
        shop spends 50 % of its CPU time on collecting garbage [gc_pressure]
        Collecting garbage takes 50 % of the CPU time, 0.50 cores, most of it below runtime.gcBgMarkWorker. Nothing is known of the day before. At least since 2025-08-01T12:00:00Z. What allocates most is in a profile of type alloc_space, if there is one.
        p-4 of shop is not like its siblings: 1.00 cores [sibling_outlier]
        p-4 uses 1.00 cores, the median of the 4 pods of its version 0.41 cores. At least since 2025-08-01T11:50:00Z.
    "#]].assert_eq(&text.concat());
    assert_eq!(sibling.anchor, "");
    // Each basis is judged by its own rows only.
    alerts
        .observe_pods(
            &key(),
            &Past::new(&of(START_S + 600), &[of(START_S)], &[]),
            after(1),
        )
        .unwrap();
    assert_eq!(states(&alerts), [AlertState::Firing; 3]);
}
