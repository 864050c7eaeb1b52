//! Promises of every store, run against each.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use proto::labels::LabelSet;
use proto::profile::Facts;
use proto::stack::{Frame, FrameKind};
use proto::value_type::{ProfileType, Temporality};
use proto::window::{UnixNanos, Window};

use super::keys::DAY_S;
use super::rocks::RocksStore;
use super::rows::{self, WriterRow};
use super::segment::{RangeSum, Segment, SegmentKind, Value, Waiter};
use super::trees::{Trees, read, write};
use super::*;

const START_S: u64 = 20_585 * DAY_S;

fn at(seconds: u64) -> UnixNanos {
    UnixNanos::new(i64::try_from(seconds * 1_000_000_000).unwrap())
}

fn window(from: u64, until: u64) -> Window {
    Window::new(at(from), at(until)).unwrap()
}

fn key(start_s: u64, series: u32) -> WindowKey {
    WindowKey {
        tier: Tier::Window,
        ptype: PtypeId(1),
        service: ServiceId(1),
        start_s,
        series: SeriesId(series),
        writer: WriterId(1),
    }
}

fn value(entries: &[(u32, i128)]) -> Vec<u8> {
    Value {
        span_ns: 10_000_000_000,
        segments: vec![Segment {
            kind: SegmentKind {
                epoch: Epoch(0),
                period: 10,
                weight: 1,
            },
            observed_ns: 10_000_000_000,
            windows: 1,
            entries: entries.to_vec(),
        }],
    }
    .encode()
}

fn put(store: &dyn Store, windows: Vec<(WindowKey, Vec<u8>)>) {
    let group = WriteGroup {
        windows,
        ..WriteGroup::default()
    };
    Store::write(store, &group).unwrap();
}

fn total(store: &dyn Store, series: Option<&[SeriesId]>, window: Window) -> i128 {
    total_of(store, Tier::Window, series, window)
}

fn total_of(store: &dyn Store, tier: Tier, series: Option<&[SeriesId]>, window: Window) -> i128 {
    let request = SumRequest {
        tier,
        ptype: PtypeId(1),
        service: ServiceId(1),
        series,
        window,
    };
    let mut sum = RangeSum::default();
    store.sum(&request, &mut sum).unwrap();
    sum.sums.values().map(|sum| sum.values.total()).sum()
}

/// Gives `check` a fresh store of every kind, one after the other.
fn with_stores(check: impl Fn(Arc<dyn Store>)) {
    let folder = tempfile::tempdir().unwrap();
    check(Arc::new(RocksStore::open(folder.path(), 8 << 20).unwrap()));
}

#[test]
fn a_sum_holds_just_the_windows_that_start_in_the_range() {
    with_stores(|store| {
        let mut windows = Vec::new();
        for start in (START_S - 30..START_S + 30).step_by(10) {
            for series in 1..4 {
                windows.push((key(start, series), value(&[(series, 1), (9, 10)])));
            }
        }
        put(&*store, windows);
        for (from, until, expected) in [
            (START_S - 30, START_S + 30, 6 * 3 * 11),
            (START_S, START_S + 10, 3 * 11),
            (START_S - 10, START_S + 1, 2 * 3 * 11),
            (START_S + 1, START_S + 10, 0),
            (START_S + 30, START_S + 90, 0),
        ] {
            assert_eq!(total(&*store, None, window(from, until)), expected);
        }
        let whole = window(START_S - 30, START_S + 30);
        let two = [SeriesId(1), SeriesId(3)];
        assert_eq!(total(&*store, Some(&two), whole), 6 * 2 * 11);
        assert_eq!(total(&*store, Some(&[]), whole), 0);
    });
}

#[test]
fn any_range_equals_the_sum_of_its_windows() {
    with_stores(|store| {
        let starts: Vec<u64> = (0..200).map(|n| START_S - 5000 + n * 47).collect();
        put(
            &*store,
            starts
                .iter()
                .map(|s| (key(*s, 1), value(&[(0, i128::from(*s % 7))])))
                .collect(),
        );
        let mut runner = TestRunner::new(Config::with_cases(64));
        runner
            .run(&(0u64..12_000, 1u64..6_000), |(offset, length)| {
                let from = START_S - 6000 + offset;
                let expected: u64 = starts
                    .iter()
                    .filter(|s| (from..from + length).contains(s))
                    .map(|s| s % 7)
                    .sum();
                let found = total(&*store, None, window(from, from + length));
                prop_assert_eq!(found, i128::from(expected));
                Ok(())
            })
            .unwrap();
    });
}

#[test]
fn any_range_of_imports_equals_the_sum_of_its_windows() {
    with_stores(|store| {
        let places = (0..60).map(|n| (START_S + n * 7_919 % 4_000, n % 7));
        let places: Vec<(u64, u32)> = places
            .map(|(start_s, series)| (start_s, u32::try_from(series * series).unwrap()))
            .collect();
        let import = |(number, &(start_s, series)): (u32, &(u64, u32))| {
            let key = WindowKey {
                tier: Tier::Import,
                ..key(start_s, series)
            };
            (key, value(&[(0, 1 << number)]))
        };
        let windows = (0..).zip(&places).map(import);
        let others = [(1, 2), (2, 1)].map(|(ptype, service)| {
            let (mut key, value) = import((70, &(START_S, 9)));
            (key.ptype, key.service) = (PtypeId(ptype), ServiceId(service));
            (key, value)
        });
        put(&*store, windows.chain(others).collect());
        let chosen = proptest::option::of(proptest::collection::btree_set(0_u32..40, 0..6));
        let mut runner = TestRunner::new(Config::with_cases(256));
        runner
            .run(
                &(0u64..4_500, 1u64..4_500, chosen),
                |(offset, length, chosen)| {
                    let range = START_S + offset..START_S + offset + length;
                    let is_meant = |(start_s, series): &(u64, u32)| {
                        range.contains(start_s)
                            && chosen.as_ref().is_none_or(|chosen| chosen.contains(series))
                    };
                    let meant = (0..).zip(&places).filter(|(_, place)| is_meant(place));
                    let expected: i128 = meant.map(|(number, _)| 1_i128 << number).sum();
                    let series: Option<Vec<SeriesId>> = chosen
                        .as_ref()
                        .map(|chosen| chosen.iter().map(|id| SeriesId(*id)).collect());
                    let window = window(range.start, range.end);
                    let found = total_of(&*store, Tier::Import, series.as_deref(), window);
                    prop_assert_eq!(found, expected);
                    Ok(())
                },
            )
            .unwrap();
    });
}

#[test]
fn the_catalog_gives_back_what_was_written() {
    with_stores(|store| {
        let service = ServiceKey {
            tenant: "anonymous".into(),
            namespace: "prod".into(),
            service: "logger".into(),
        };
        let stored = StoredType {
            profile_type: ProfileType::cpu(),
            temporality: Temporality::Delta,
        };
        let row = WriterRow {
            writer: WriterId(7),
            sequence: 9,
            seen: 3,
            last_s: 11,
        };
        let labels = LabelSet::new([("service", "logger"), ("pod", "a")]).unwrap();
        let group = WriteGroup {
            dictionary: vec![
                rows::service(ServiceId(1), &service),
                rows::profile_type(PtypeId(1), &stored),
                rows::writer(&[5; 16], &row),
                rows::series(ServiceId(1), SeriesId(1), &labels),
            ],
            ..WriteGroup::default()
        };
        Store::write(&*store, &group).unwrap();
        let catalog = store.catalog().unwrap();
        assert_eq!(catalog.services, [(ServiceId(1), service)]);
        assert_eq!(catalog.types, [(PtypeId(1), stored)]);
        assert_eq!(catalog.writers, [([5; 16], row)]);
        assert_eq!(store.series(ServiceId(1)).unwrap(), [(SeriesId(1), labels)]);
        assert!(store.series(ServiceId(2)).unwrap().is_empty());
        let group = WriteGroup {
            forget: vec![rows::writer_key(&[5; 16])],
            ..WriteGroup::default()
        };
        Store::write(&*store, &group).unwrap();
        assert!(store.catalog().unwrap().writers.is_empty());
    });
}

#[test]
fn a_tree_comes_back_after_it_left_memory() {
    with_stores(|store| {
        let trees = Trees::new(Arc::clone(&store), 1);
        let stack = [
            Frame::named(FrameKind::Go, "main.main"),
            Frame::named(FrameKind::Go, "main.startSink").at("sink.go", 12),
        ];
        let tree = trees.get(ServiceId(1)).unwrap();
        let stack_id = write(&tree).intern(stack.iter());
        let group = WriteGroup {
            dictionary: read(&tree).fresh_rows(),
            ..WriteGroup::default()
        };
        trees.shrink();
        assert_eq!(trees.usage().1, 1, "what is not durable stays");
        Store::write(&*store, &group).unwrap();
        write(&tree).mark_durable();
        drop(tree);
        trees.shrink();
        assert_eq!(trees.usage(), (0, 0));
        let again = trees.get(ServiceId(1)).unwrap();
        assert_eq!(write(&again).intern(stack.iter()), stack_id);
        assert!(read(&again).is_durable());
    });
}

#[test]
fn old_days_are_dropped_whole() {
    with_stores(|store| {
        for day in 0..4 {
            put(
                &*store,
                vec![(key(START_S + day * DAY_S, 1), value(&[(0, 1)]))],
            );
            store
                .write_features(at(START_S + day * DAY_S), &[(vec![1], vec![2])])
                .unwrap();
        }
        assert_eq!(store.usage().families, 8);
        let windows = Kept::Rows(Tier::Window);
        let before = at(START_S + 2 * DAY_S + 5);
        assert_eq!(store.drop_before(windows, before).unwrap(), 2);
        assert_eq!(store.drop_before(Kept::Features, before).unwrap(), 2);
        let left = [2, 3].map(|day| (START_S + day * DAY_S, START_S + (day + 1) * DAY_S));
        assert_eq!(store.stretches(windows), left);
        let whole = window(START_S, START_S + 5 * DAY_S);
        assert_eq!(total(&*store, None, whole), 2);
        assert_eq!(store.features(whole, &[1]).unwrap().len(), 2);
        assert_eq!(store.drop_before(windows, at(START_S)).unwrap(), 0);
    });
}

#[test]
fn facts_and_state_are_kept() {
    with_stores(|store| {
        let facts = Facts {
            cpu_ns: 5,
            lost_samples: 2,
            ..Facts::default()
        };
        let facts_key = WindowKey {
            ptype: PtypeId::FACTS,
            ..key(START_S, 1)
        };
        put(&*store, vec![(facts_key, rows::facts(7, &facts))]);
        let mut seen = Vec::new();
        let request = SumRequest {
            tier: Tier::Window,
            ptype: PtypeId(1),
            service: ServiceId(1),
            series: None,
            window: window(START_S, START_S + 1),
        };
        store
            .facts(&request, &mut |key, span, facts| {
                seen.push((*key, span, *facts))
            })
            .unwrap();
        assert_eq!(seen, [(facts_key, 7, facts)]);

        StateStore::write(
            &*store,
            vec![
                (b"a1".to_vec(), Some(vec![1])),
                (b"a\xff".to_vec(), Some(vec![2])),
                (b"b".to_vec(), Some(vec![3])),
            ],
        )
        .unwrap();
        StateStore::write(&*store, vec![(b"a1".to_vec(), None)]).unwrap();
        assert_eq!(store.scan(b"a").unwrap(), [(b"a\xff".to_vec(), vec![2])]);
        assert_eq!(store.scan(b"").unwrap().len(), 2);
    });
}

#[test]
fn a_second_collector_and_a_newer_format_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = RocksStore::open(folder.path(), 8 << 20).unwrap();
    assert!(matches!(
        RocksStore::open(folder.path(), 8 << 20),
        Err(StoreError::Open { .. })
    ));
    let newer = (rows::FORMAT + 1).to_be_bytes().to_vec();
    let group = WriteGroup {
        dictionary: vec![(vec![rows::FORMAT_ROW], newer)],
        ..WriteGroup::default()
    };
    Store::write(&store, &group).unwrap();
    drop(store);
    assert!(matches!(
        RocksStore::open(folder.path(), 8 << 20),
        Err(StoreError::NewerFormat { found, .. }) if found == rows::FORMAT + 1
    ));
}

/// A reader who went away.
#[derive(Debug)]
struct Nobody;

impl Waiter for Nobody {
    fn is_gone(&self) -> bool {
        true
    }

    fn holds_more(&self, _bytes: usize) {}
}

#[test]
fn a_sum_stops_when_its_reader_is_gone() {
    with_stores(|store| {
        put(&*store, vec![(key(START_S, 1), value(&[(0, 1)]))]);
        let request = SumRequest {
            tier: Tier::Window,
            ptype: PtypeId(1),
            service: ServiceId(1),
            series: None,
            window: window(START_S, START_S + 1),
        };
        let mut sum = RangeSum {
            waiter: Some(Arc::new(Nobody)),
            ..RangeSum::default()
        };
        let stopped = store.sum(&request, &mut sum).unwrap_err();
        assert!(matches!(stopped, StoreError::Cancelled), "{stopped}");
        assert_eq!(sum.windows(), 0);
    });
}

#[test]
fn damaged_values_are_errors_with_their_key() {
    with_stores(|store| {
        put(&*store, vec![(key(START_S, 1), vec![77])]);
        let request = SumRequest {
            tier: Tier::Window,
            ptype: PtypeId(1),
            service: ServiceId(1),
            series: None,
            window: window(START_S, START_S + 1),
        };
        let error = store.sum(&request, &mut RangeSum::default()).unwrap_err();
        assert!(
            matches!(&error, StoreError::Damaged { key, .. } if key.starts_with("000100000001")),
            "{error}"
        );
    });
}
