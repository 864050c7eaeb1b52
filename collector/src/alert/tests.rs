//! Alerts over a state store in memory.

use proto::profile::Facts;
use proto::stack::FrameKind;
use proto::window::Window;

use super::*;
use crate::detect::spin::SpinDetector;
use crate::feature::SpinCandidate;
use crate::store::{Change, KeyValue};

const MINUTE: Duration = Duration::from_secs(60);
const START: UnixNanos = UnixNanos::new(1_780_000_020_000_000_000);

/// A state store that lives as long as the test.
#[derive(Debug, Default)]
struct Memory(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl StateStore for Memory {
    fn scan(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let map = self.0.lock().unwrap();
        let found = map.iter().filter(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let mut map = self.0.lock().unwrap();
        for (key, value) in changes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }
}

fn open(store: &Arc<Memory>) -> Alerts {
    let shared: Arc<dyn StateStore> = Arc::<Memory>::clone(store);
    let settings = Settings {
        hold: 5 * MINUTE,
        keep: 5 * MINUTE,
        public_url: "http://c:4040".to_owned(),
        has_hook: true,
    };
    let spin = Box::<SpinDetector>::default();
    Alerts::open(shared, settings, vec![spin], Arc::default()).unwrap()
}

fn at(minute: u64) -> UnixNanos {
    START.saturating_add(MINUTE * u32::try_from(minute).unwrap())
}

fn frame(function: &str, line: u32) -> PathFrame {
    PathFrame {
        function: function.to_owned(),
        file: "sink.go".to_owned(),
        line,
        kind: FrameKind::Go,
    }
}

/// A row of a pod in which `function` spins with so many cores.
fn row(service: &str, pod: &str, minute: u64, function: &str, cores: f64) -> SeriesRow {
    let candidate = SpinCandidate {
        path: vec![
            frame("main.main", 3),
            frame(function, 7),
            frame("runtime.selectgo", 9),
        ],
        identity: vec!["main.main".to_owned(), function.to_owned()],
        cores,
        samples: 5_000,
        leaf_eff: 3.0,
        wait_share: 0.98,
        progress_share: Some(0.01),
        top_leaves: vec![("runtime.selectgo".to_owned(), 0.7)],
    };
    SeriesRow {
        step: Window::from_start(at(minute), 60_000_000_000).unwrap(),
        tenant: "anonymous".to_owned(),
        namespace: "prod".to_owned(),
        service: service.to_owned(),
        series: 1,
        pod: pod.to_owned(),
        version: "1.8".to_owned(),
        period_ns: 10_000_000,
        observed_ns: 60_000_000_000,
        samples: 6_000,
        cores: 1.0,
        facts: Facts::default(),
        candidates: if cores > 0.0 {
            vec![candidate]
        } else {
            Vec::new()
        },
    }
}

fn observe(alerts: &Alerts, rows: &[SeriesRow]) {
    let end = rows.iter().map(|row| row.step.end()).max().unwrap();
    let now = end.saturating_add(Duration::from_secs(20));
    alerts.observe(rows, now).unwrap();
}

/// Minutes `from` to `until` of the spin of one pod.
fn spin(alerts: &Alerts, from: u64, until: u64, cores: f64) {
    for minute in from..until {
        observe(
            alerts,
            &[row("logger", "a", minute, "main.startSink", cores)],
        );
    }
}

fn states(alerts: &Alerts) -> Vec<AlertState> {
    let found = alerts.list("anonymous", &AlertFilter::default());
    found.iter().map(|alert| alert.state).collect()
}

#[test]
fn a_spin_fires_once_it_has_lasted_and_resolves_once_it_is_gone() {
    let alerts = open(&Arc::default());
    spin(&alerts, 0, 4, 0.9);
    assert_eq!(states(&alerts), [AlertState::Pending]);
    assert_eq!(alerts.queue().len(), 0);
    spin(&alerts, 4, 5, 0.9);
    assert_eq!(states(&alerts), [AlertState::Firing]);
    assert_eq!(alerts.queue().len(), 1);
    // Below the floor at which it began, above the one at which it ends.
    spin(&alerts, 5, 8, 0.4);
    assert_eq!(states(&alerts), [AlertState::Firing]);
    spin(&alerts, 8, 12, 0.0);
    assert_eq!(states(&alerts), [AlertState::Firing]);
    spin(&alerts, 12, 13, 0.0);
    assert_eq!(states(&alerts), [AlertState::Resolved]);
    assert_eq!(alerts.queue().len(), 2);
}

#[test]
fn what_is_weak_or_short_or_late_begins_nothing() {
    let alerts = open(&Arc::default());
    spin(&alerts, 0, 10, 0.4);
    assert!(states(&alerts).is_empty());
    // A clear minute between: the run begins anew.
    spin(&alerts, 10, 13, 0.9);
    spin(&alerts, 13, 14, 0.0);
    assert!(states(&alerts).is_empty());
    for minute in 20..30 {
        let late = at(minute + 1).saturating_add(11 * MINUTE);
        alerts
            .observe(&[row("logger", "a", minute, "main.startSink", 0.9)], late)
            .unwrap();
    }
    assert!(states(&alerts).is_empty());
}

#[test]
fn the_same_row_twice_changes_nothing() {
    let alerts = open(&Arc::default());
    for _ in 0..10 {
        spin(&alerts, 0, 1, 0.9);
    }
    assert_eq!(states(&alerts), [AlertState::Pending]);
}

#[test]
fn a_run_with_a_long_gap_begins_anew() {
    let alerts = open(&Arc::default());
    spin(&alerts, 0, 1, 0.9);
    spin(&alerts, 10, 11, 0.9);
    assert_eq!(states(&alerts), [AlertState::Pending]);
}

#[test]
fn silence_never_resolves_but_makes_stale_and_ends() {
    let alerts = open(&Arc::default());
    spin(&alerts, 0, 6, 0.9);
    alerts.tick(at(15)).unwrap();
    assert_eq!(states(&alerts), [AlertState::Firing]);
    alerts.tick(at(22)).unwrap();
    assert_eq!(states(&alerts), [AlertState::Stale]);
    spin(&alerts, 23, 24, 0.9);
    assert_eq!(states(&alerts), [AlertState::Firing]);
    alerts.tick(at(24 + 25 * 60)).unwrap();
    assert_eq!(states(&alerts), [AlertState::Ended]);
    assert_eq!(alerts.queue().len(), 1, "only that it fired");
}

#[test]
fn one_pod_that_spins_keeps_the_alert_of_two() {
    let alerts = open(&Arc::default());
    for minute in 0..6 {
        observe(
            &alerts,
            &[
                row("logger", "a", minute, "main.startSink", 0.9),
                row("logger", "b", minute, "main.startSink", 0.8),
            ],
        );
    }
    let filter = AlertFilter::default();
    let alert = &alerts.list("anonymous", &filter)[0];
    assert_eq!(alert.pods, ["a", "b"]);
    assert!((alert.cores - 1.7).abs() < 1e-6, "{}", alert.cores);
    for minute in 6..20 {
        observe(
            &alerts,
            &[
                row("logger", "a", minute, "main.startSink", 0.0),
                row("logger", "b", minute, "main.startSink", 0.8),
            ],
        );
    }
    assert_eq!(states(&alerts), [AlertState::Firing]);
}

#[test]
fn a_restart_in_the_middle_of_anything_goes_on() {
    let store: Arc<Memory> = Arc::default();
    spin(&open(&store), 0, 3, 0.9);
    let alerts = open(&store);
    assert_eq!(states(&alerts), [AlertState::Pending]);
    // The last steps are computed again after a start.
    spin(&alerts, 1, 5, 0.9);
    assert_eq!(states(&alerts), [AlertState::Firing]);
    let id = alerts.list("anonymous", &AlertFilter::default())[0]
        .id
        .clone();
    drop(alerts);
    let alerts = open(&store);
    assert_eq!(alerts.queue().len(), 1);
    spin(&alerts, 5, 8, 0.9);
    let again = alerts.list("anonymous", &AlertFilter::default());
    assert_eq!((again.len(), &again[0].id), (1, &id));
    assert_eq!(alerts.queue().len(), 1, "told once");
}

#[test]
fn a_service_tells_no_more_than_a_few_new_alerts_a_day() {
    let alerts = open(&Arc::default());
    for minute in 0..7 {
        let rows: Vec<SeriesRow> = (0..8)
            .map(|n| {
                row(
                    "logger",
                    &format!("p{n}"),
                    minute,
                    &format!("main.f{n}"),
                    0.9,
                )
            })
            .collect();
        observe(&alerts, &rows);
    }
    let count = |state| states(&alerts).iter().filter(|s| **s == state).count();
    assert_eq!(count(AlertState::Firing), MAX_PER_DAY);
    assert_eq!(count(AlertState::Pending), 8 - MAX_PER_DAY);
    assert_eq!(alerts.queue().len(), MAX_PER_DAY);
}

#[test]
fn readers_filter_and_tenants_are_apart() {
    let alerts = open(&Arc::default());
    spin(&alerts, 0, 6, 0.9);
    let id = alerts.list("anonymous", &AlertFilter::default())[0]
        .id
        .clone();
    let service = |name: &str| Some(name.parse().unwrap());
    for (filter, expected) in [
        (
            AlertFilter {
                service: service("logger"),
                ..AlertFilter::default()
            },
            1,
        ),
        (
            AlertFilter {
                service: service("prod/logger"),
                ..AlertFilter::default()
            },
            1,
        ),
        (
            AlertFilter {
                service: service("dev/logger"),
                ..AlertFilter::default()
            },
            0,
        ),
        (
            AlertFilter {
                state: Some(AlertState::Firing),
                ..AlertFilter::default()
            },
            1,
        ),
        (
            AlertFilter {
                state: Some(AlertState::Pending),
                ..AlertFilter::default()
            },
            0,
        ),
        (
            AlertFilter {
                id: Some(id),
                ..AlertFilter::default()
            },
            1,
        ),
        (
            AlertFilter {
                id: Some("x".to_owned()),
                ..AlertFilter::default()
            },
            0,
        ),
    ] {
        assert_eq!(
            alerts.list("anonymous", &filter).len(),
            expected,
            "{filter:?}"
        );
    }
    assert!(alerts.list("other", &AlertFilter::default()).is_empty());
}

#[test]
fn the_json_of_an_alert() {
    let alerts = open(&Arc::default());
    spin(&alerts, 0, 6, 0.9);
    let alert = &alerts.list("anonymous", &AlertFilter::default())[0];
    expect_test::expect_file!["../../tests/data/alert.json"]
        .assert_eq(&serde_json::to_string_pretty(alert).unwrap());
}
