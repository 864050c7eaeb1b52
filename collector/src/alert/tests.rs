//! Alerts over a state store in memory.

use proto::profile::Facts;
use proto::stack::FrameKind;
use proto::window::Window;

use super::*;
use crate::detect::spin::SpinDetector;
use crate::feature::SpinCandidate;
use crate::hook::Receivers;
use crate::store::memory::MemoryState as Memory;
use crate::store::{Change, KeyValue, ServiceKey};
use crate::time_range::rfc3339;

const MINUTE: Duration = Duration::from_secs(60);
const START: UnixNanos = UnixNanos::new(1_780_000_020_000_000_000);

/// One receiver, which is never told.
fn hooks(store: &Arc<dyn StateStore>) -> Arc<Hooks> {
    let config = crate::config::HookConfig {
        url: "http://127.0.0.1:9/".to_owned(),
        ..crate::config::HookConfig::default()
    };
    let receivers = Receivers::new(&config).unwrap();
    let clock = Arc::new(proto::window::SystemClock);
    let hooks = Hooks::open(receivers, Arc::clone(store), &Metrics::default(), clock);
    Arc::new(hooks.unwrap())
}

fn open(store: &Arc<Memory>) -> Alerts {
    let shared: Arc<dyn StateStore> = Arc::<Memory>::clone(store);
    let settings = Settings {
        step: MINUTE,
        hold: 5 * MINUTE,
        keep: 5 * MINUTE,
        public_url: "http://c:4040".to_owned(),
        hooks: hooks(&shared),
        shift: ShiftSettings::default(),
        thresholds: Thresholds::default(),
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
fn a_spin_that_people_know_of_goes_on_until_it_is_gone() {
    let store: Arc<Memory> = Arc::default();
    let alerts = open(&store);
    for minute in 0..6 {
        let rows = [row("logger", "a", minute, "main.startSink", 0.9)];
        alerts.observe(&rows, at(minute + 1)).unwrap();
    }
    let id = alerts.list("anonymous", &AlertFilter::default())[0]
        .id
        .clone();
    let told = alerts.queue().len();
    let known = |tenant: &str, id: &str| {
        let note = "ü".repeat(MAX_NOTE_BYTES);
        alerts.acknowledge(tenant, id, &note, at(7)).unwrap()
    };
    assert_eq!(known("anonymous", "nobody"), None);
    assert_eq!(known("another", &id), None);
    let alert = known("anonymous", &id).unwrap();
    assert_eq!(alert.state, AlertState::Firing);
    assert_eq!(alert.acknowledged_at, Some(rfc3339(at(7))));
    assert_eq!(alert.note.len(), MAX_NOTE_BYTES);
    // It survives a restart, and hooks are not told anything.
    let again = open(&store).list("anonymous", &AlertFilter::default());
    assert_eq!(again, [alert]);
    assert_eq!(alerts.queue().len(), told);
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
    assert_eq!(
        alerts.queue().len(),
        2,
        "that it fired, and that it is over"
    );
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

fn logger(minute: u64, cores: f64) -> SeriesRow {
    row("logger", "a", minute, "main.startSink", cores)
}

/// Rows of several steps in one look come to what they come to one by one.
#[test]
fn a_batch_of_steps_fires() {
    let alerts = open(&Arc::default());
    let rows: Vec<SeriesRow> = (0..6).map(|minute| logger(minute, 0.9)).collect();
    observe(&alerts, &rows);
    assert_eq!(states(&alerts), [AlertState::Firing]);
}

#[test]
fn a_batch_with_a_clear_step_between_begins_anew() {
    let alerts = open(&Arc::default());
    spin(&alerts, 0, 3, 0.9);
    observe(&alerts, &[logger(3, 0.0), logger(4, 0.9), logger(5, 0.9)]);
    assert_eq!(states(&alerts), [AlertState::Pending]);
    let since = alerts.list("anonymous", &AlertFilter::default())[0]
        .since
        .clone();
    assert_eq!(since, rfc3339(at(4)));
}

/// A resolved alert stays listed when the same loop shows up for one step only.
#[test]
fn a_resolved_alert_survives_a_blip() {
    let alerts = open(&Arc::default());
    spin(&alerts, 0, 6, 0.9);
    spin(&alerts, 6, 12, 0.0);
    assert_eq!(states(&alerts), [AlertState::Resolved]);
    spin(&alerts, 12, 13, 0.9);
    spin(&alerts, 13, 14, 0.0);
    assert_eq!(states(&alerts), [AlertState::Resolved]);
}

/// A loop that comes and goes is told of five times a day.
#[test]
fn flapping_is_bounded() {
    let alerts = open(&Arc::default());
    for cycle in 0..10 {
        let from = cycle * 12;
        spin(&alerts, from, from + 6, 0.9);
        spin(&alerts, from + 6, from + 12, 0.0);
    }
    let fired = alerts.queue().len() / 2;
    assert!(fired <= MAX_PER_DAY, "fired {fired} times");
}

#[derive(Debug, Default)]
struct Failing(Memory, std::sync::atomic::AtomicBool);
impl StateStore for Failing {
    fn scan(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        self.0.scan(prefix)
    }
    fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        if self.1.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(StoreError::Write("full".into()));
        }
        self.0.write(changes)
    }
}

#[test]
fn what_could_not_be_written_is_judged_anew() {
    let store: Arc<Failing> = Arc::default();
    let shared: Arc<dyn StateStore> = Arc::<Failing>::clone(&store);
    let settings = Settings {
        step: MINUTE,
        hold: 5 * MINUTE,
        keep: 5 * MINUTE,
        public_url: String::new(),
        hooks: hooks(&shared),
        shift: ShiftSettings::default(),
        thresholds: Thresholds::default(),
    };
    let alerts = Alerts::open(
        shared,
        settings,
        vec![Box::<SpinDetector>::default()],
        Arc::default(),
    )
    .unwrap();
    spin(&alerts, 0, 4, 0.9);
    store.1.store(true, std::sync::atomic::Ordering::Relaxed);
    let now = at(5).saturating_add(Duration::from_secs(20));
    assert!(alerts.observe(&[logger(4, 0.9)], now).is_err());
    assert_eq!(states(&alerts), [AlertState::Pending]);
    assert_eq!(alerts.queue().len(), 0);
    store.1.store(false, std::sync::atomic::Ordering::Relaxed);
    spin(&alerts, 5, 6, 0.9);
    assert_eq!(states(&alerts), [AlertState::Firing]);
    assert_eq!(alerts.queue().len(), 1);
}

#[test]
fn a_pod_that_is_gone_beside_a_clear_one_resolves() {
    let alerts = open(&Arc::default());
    for minute in 0..6 {
        observe(
            &alerts,
            &[
                logger(minute, 0.9),
                row("logger", "b", minute, "main.startSink", 0.0),
            ],
        );
    }
    assert_eq!(states(&alerts), [AlertState::Firing]);
    // a is silent from now on; b is clear.
    for minute in 6..10 {
        observe(&alerts, &[row("logger", "b", minute, "x", 0.0)]);
    }
    assert_eq!(states(&alerts), [AlertState::Firing]);
    for minute in 10..12 {
        observe(&alerts, &[row("logger", "b", minute, "x", 0.0)]);
    }
    assert_eq!(states(&alerts), [AlertState::Resolved]);
}

#[test]
fn the_same_clear_row_twice_changes_nothing() {
    let alerts = open(&Arc::default());
    spin(&alerts, 0, 6, 0.9);
    for _ in 0..10 {
        spin(&alerts, 6, 7, 0.0);
    }
    let first = alerts.list("anonymous", &AlertFilter::default());
    spin(&alerts, 0, 7, 0.9);
    assert_eq!(alerts.list("anonymous", &AlertFilter::default()), first);
    assert_eq!(states(&alerts), [AlertState::Firing]);
}

#[test]
fn a_restart_amid_clear_steps_goes_on() {
    let store: Arc<Memory> = Arc::default();
    let alerts = open(&store);
    spin(&alerts, 0, 6, 0.9);
    spin(&alerts, 6, 9, 0.0);
    drop(alerts);
    let alerts = open(&store);
    spin(&alerts, 4, 6, 0.9);
    spin(&alerts, 6, 10, 0.0);
    assert_eq!(states(&alerts), [AlertState::Firing]);
    spin(&alerts, 10, 11, 0.0);
    assert_eq!(states(&alerts), [AlertState::Resolved]);
    assert_eq!(alerts.queue().len(), 2);
}

/// Two series of one pod: either order.
#[test]
fn one_series_of_two_that_spins_is_enough() {
    for swap in [false, true] {
        let alerts = open(&Arc::default());
        for minute in 0..6 {
            let mut rows = vec![
                logger(minute, 0.9),
                SeriesRow {
                    series: 2,
                    ..logger(minute, 0.0)
                },
            ];
            if swap {
                rows.reverse();
            }
            observe(&alerts, &rows);
        }
        assert_eq!(states(&alerts), [AlertState::Firing], "swapped: {swap}");
    }
}

#[test]
fn two_spinning_series_of_one_pod_add_up() {
    let alerts = open(&Arc::default());
    for minute in 0..6 {
        observe(
            &alerts,
            &[
                logger(minute, 0.9),
                SeriesRow {
                    series: 2,
                    ..logger(minute, 0.8)
                },
            ],
        );
    }
    let cores = alerts.list("anonymous", &AlertFilter::default())[0].cores;
    assert!((cores - 1.7).abs() < 1e-6, "{cores}");
}

#[test]
fn an_id_is_of_service_and_frames_only() {
    let id = |rows: Vec<SeriesRow>| {
        let alerts = open(&Arc::default());
        observe(&alerts, &rows);
        alerts.list("anonymous", &AlertFilter::default())[0]
            .id
            .clone()
    };
    let base = id(vec![logger(0, 0.9)]);
    assert_eq!(
        base,
        id(vec![SeriesRow {
            version: "9".into(),
            ..row("logger", "zz", 7, "main.startSink", 1.5)
        }])
    );
    assert_ne!(base, id(vec![row("other", "a", 0, "main.startSink", 0.9)]));
    assert_ne!(base, id(vec![row("logger", "a", 0, "main.other", 0.9)]));
    assert_eq!(base.len(), 16);
}
/// Late rows carry an alert that fires.
#[test]
fn late_rows_update_what_is_open() {
    let alerts = open(&Arc::default());
    spin(&alerts, 0, 6, 0.9);
    let late = at(7).saturating_add(11 * MINUTE);
    alerts.observe(&[logger(6, 0.9)], late).unwrap();
    let alert = &alerts.list("anonymous", &AlertFilter::default())[0];
    assert_eq!(alert.last_seen, rfc3339(at(7)));
    assert_eq!(alert.state, AlertState::Firing);
}

#[test]
fn alerts_of_a_deleted_service_are_forgotten_and_the_hook_is_told() {
    let store = Arc::default();
    let alerts = open(&store);
    spin(&alerts, 0, 6, 0.9);
    for minute in 0..6 {
        observe(&alerts, &[row("other", "b", minute, "main.loop", 0.9)]);
    }
    assert_eq!(states(&alerts), [AlertState::Firing; 2]);
    let name = |service: &str| ServiceKey {
        tenant: "anonymous".to_owned(),
        namespace: "prod".to_owned(),
        service: service.to_owned(),
    };
    let told = alerts.queue().len();
    assert_eq!(alerts.forget(&name("logger"), at(7)).unwrap(), 1);
    assert_eq!(alerts.queue().len(), told + 1);
    assert_eq!(alerts.forget(&name("logger"), at(7)).unwrap(), 0);
    // The same from memory and from the store, where nothing names it any more.
    for alerts in [alerts, open(&store)] {
        let left = alerts.list("anonymous", &AlertFilter::default());
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].service, "other");
        assert_eq!(alerts.metrics.alerts_firing.get(), 1);
    }
    for prefix in [ALERTS, HISTORIES] {
        let rows = store.scan(prefix).unwrap();
        assert_eq!(rows.len(), 1, "{}", String::from_utf8_lossy(prefix));
    }
}
