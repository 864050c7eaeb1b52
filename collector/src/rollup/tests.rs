//! Any query equals the same query over the raw windows added up naively:
//! whatever came late, was dropped, or was interrupted by a restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proto::dictionary::{Decoder, Encoder};
use proto::labels::LabelSet;
use proto::profile::{Column, Facts, Profile};
use proto::stack::{Frame, FrameKind, Stack};
use proto::value_type::{ProfileType, Temporality};
use proto::window::{Clock, UnixNanos, Window};
use tokio::sync::oneshot;

use super::groups::Groups;
use super::read::{RangeReader, Selection};
use super::rolled::Rolled;
use super::total::Total;
use super::*;
use crate::dirty::Dirty;
use crate::ingest::resolve::{SharedDictionary, lock};
use crate::ingest::writer::{MAX_INSTANCES, Names, Outcome, Submission, Writer};
use crate::retention::{Horizons, Override, Retention, Services, drop_old};
use crate::store::rocks::RocksStore;
use crate::store::tier::{HOUR_S, range};
use crate::store::trees::Trees;

const SHORT: Horizons = Horizons {
    windows: Duration::from_secs(DAY_S),
    hours: Duration::from_secs(40 * DAY_S),
    days: Duration::from_secs(400 * DAY_S),
};
/// A day begins here; the tests begin late on the day before.
const MIDNIGHT_S: u64 = 20_600 * DAY_S;
const PODS: usize = 4;
const FUNCTIONS: usize = 3;

#[derive(Debug)]
struct Manual(AtomicI64);

impl Clock for Manual {
    fn now(&self) -> UnixNanos {
        UnixNanos::new(self.0.load(Ordering::SeqCst))
    }
}

/// A window as it was pushed.
#[derive(Clone, Debug)]
struct Pushed {
    start_s: u64,
    pod: usize,
    span_s: u64,
    is_gauge: bool,
    values: [i64; FUNCTIONS],
}

/// Everything that runs over one folder.
struct Running {
    store: Arc<dyn Store>,
    rolled: Arc<Rolled>,
    directory: Arc<Directory>,
    writer: Writer,
    rollup: Rollup,
    reader: RangeReader,
}

struct World {
    folder: tempfile::TempDir,
    clock: Arc<Manual>,
    running: Option<Running>,
    pushed: Vec<Pushed>,
    sequence: u64,
}

fn labels(pod: usize) -> LabelSet {
    let version = if pod.is_multiple_of(2) { "even" } else { "odd" };
    let zone = format!("z{pod}");
    let pod = format!("p{pod}");
    LabelSet::new([
        ("service", "s"),
        ("pod", &pod),
        ("version", version),
        ("zone", &zone),
    ])
    .unwrap()
}

fn stack(function: usize) -> Stack {
    let name = format!("f{function}");
    [name.as_str(), "main"]
        .iter()
        .map(|name| Frame::named(FrameKind::Go, name))
        .collect()
}

fn nanos(seconds: u64) -> UnixNanos {
    UnixNanos::new(i64::try_from(seconds * 1_000_000_000).unwrap())
}

fn start(folder: &std::path::Path, clock: &Arc<Manual>) -> Running {
    let store: Arc<dyn Store> = Arc::new(RocksStore::open(folder, 8 << 20).unwrap());
    let trees = Arc::new(Trees::new(Arc::clone(&store), 1 << 30));
    let directory = Arc::new(Directory::open(Arc::clone(&store)).unwrap());
    let metrics: Arc<Metrics> = Arc::default();
    let rolled = Arc::new(Rolled::open(&*store, clock.now()).unwrap());
    let by = ["version", "zone"].map(str::to_owned).to_vec();
    let groups = Arc::new(Groups::new(Arc::clone(&store), by));
    let shared_clock: Arc<dyn Clock> = Arc::<Manual>::clone(clock);
    let writer = Writer::new(
        Arc::clone(&store),
        trees,
        Arc::clone(&directory),
        Arc::clone(&metrics),
        Arc::new(Dirty::new(Duration::from_secs(60), Arc::clone(&metrics))),
        Arc::clone(&rolled),
        Arc::clone(&groups),
        Arc::clone(&shared_clock),
        Duration::from_secs(30 * DAY_S),
    )
    .unwrap();
    let rollup = Rollup::new(
        Arc::clone(&store),
        Arc::clone(&directory),
        Arc::clone(&rolled),
        Arc::clone(&groups),
        metrics,
        shared_clock,
    );
    rollup.mark_stored().unwrap();
    Running {
        reader: RangeReader::new(Arc::clone(&store), Arc::clone(&rolled), groups),
        store,
        rolled,
        directory,
        writer,
        rollup,
    }
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(Manual(AtomicI64::new(nanos(MIDNIGHT_S - 1_000).get())));
        let running = Some(start(folder.path(), &clock));
        Self {
            folder,
            clock,
            running,
            pushed: Vec::new(),
            sequence: 0,
        }
    }

    fn now_s(&self) -> u64 {
        u64::try_from(self.clock.now().seconds()).unwrap()
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().unwrap()
    }

    /// A window of a pod that began `ago_s` ago.
    fn push(&mut self, ago_s: u64, pod: usize, is_gauge: bool, values: [i64; FUNCTIONS]) {
        let pushed = Pushed {
            start_s: self.now_s() - ago_s,
            pod,
            span_s: if is_gauge { 60 } else { 10 },
            is_gauge,
            values,
        };
        let (profile_type, temporality) = match is_gauge {
            true => (
                "memory:inuse_space:bytes:space:bytes".parse().unwrap(),
                Temporality::Gauge,
            ),
            false => (ProfileType::cpu(), Temporality::Delta),
        };
        let column = Column {
            profile_type,
            temporality,
            period: 10,
            weight: 1,
            values: values.to_vec(),
        };
        let profile = Profile::new(
            labels(pod),
            Window::from_start(nanos(pushed.start_s), pushed.span_s * 1_000_000_000).unwrap(),
            (0..FUNCTIONS).map(stack).collect(),
            vec![column],
            Facts {
                lost_samples: 1,
                ..Facts::default()
            },
        )
        .unwrap();
        let dictionary = SharedDictionary::default();
        let body = Encoder::new().encode(&[profile]).unwrap();
        let windows = {
            let mut held = lock(&dictionary);
            held.decoder = Decoder::new();
            held.decoder.apply(body).unwrap()
        };
        let (reply, mut outcome) = oneshot::channel();
        self.sequence += 1;
        let submission = Submission {
            tenant: Arc::from("anonymous"),
            instance: [7; 16],
            sequence: self.sequence,
            is_import: false,
            windows,
            names: Names::Stream(dictionary),
            max_instances: MAX_INSTANCES,
            room: None,
            reply,
        };
        self.running().writer.commit(vec![submission]);
        match outcome.try_recv().unwrap() {
            Outcome::Acked { refused, .. } if refused.is_empty() => self.pushed.push(pushed),
            // The sums it belongs to are not made yet: it comes again.
            Outcome::Refused { retry_after, .. } => assert!(retry_after.is_some()),
            other => panic!("{other:?}"),
        }
    }

    fn advance(&mut self, seconds: u64) {
        let ns = i64::try_from(seconds * 1_000_000_000).unwrap();
        self.clock.0.fetch_add(ns, Ordering::SeqCst);
    }

    fn restart(&mut self) {
        self.running = None;
        self.running = Some(start(self.folder.path(), &self.clock));
    }

    fn drop_old(&mut self) {
        let now = self.clock.now();
        let running = self.running();
        drop_old(&*running.store, &running.rolled, &SHORT, now).unwrap();
    }

    /// The service is kept shorter than others, whose families stay.
    fn give_up(&mut self) {
        let now = self.clock.now();
        let running = self.running();
        let retention = Retention {
            others: Horizons {
                windows: SHORT.days,
                ..SHORT
            },
            overrides: vec![Override {
                namespace: None,
                service: Some("s".to_owned()),
                horizons: SHORT,
            }],
        };
        let services = Services::new(
            retention,
            Arc::clone(&running.store),
            Arc::clone(&running.rolled),
            Arc::clone(&running.directory),
        );
        services.turn(now).unwrap();
        // Erased only a while later.
        services
            .turn(now.saturating_add(Duration::from_secs(3_600)))
            .unwrap();
    }

    /// Compares the answer over `[from_s, until_s)` with the windows themselves.
    fn check(&mut self, from_s: u64, until_s: u64, is_gauge: bool, pods: Option<&[usize]>) {
        let window = range(from_s, until_s).unwrap();
        let pushed = self.pushed.clone();
        let running = self.running();
        let Some((service, _)) = running.directory.services("anonymous").pop() else {
            return;
        };
        let wanted = match is_gauge {
            true => Temporality::Gauge,
            false => Temporality::Delta,
        };
        let types = running.directory.types();
        let Some((ptype, _)) = types.iter().find(|(_, t)| t.temporality == wanted) else {
            return;
        };
        let series = |pods: &[usize]| -> Vec<SeriesId> {
            let id = |pod: &usize| {
                let look = |table: &crate::directory::SeriesTable| table.id(&labels(*pod));
                running.directory.with_series(service, look).unwrap()
            };
            let mut ids: Vec<SeriesId> = pods.iter().filter_map(id).collect();
            ids.sort_unstable();
            ids
        };
        let even = running
            .reader
            .groups()
            .get(service, "version", "even")
            .unwrap();
        let aligned = from_s.is_multiple_of(HOUR_S) && until_s.is_multiple_of(HOUR_S);
        if aligned || from_s >= running.rolled.gone().before(service, Tier::Window) {
            let in_range = pushed
                .iter()
                .filter(|p| (from_s..until_s).contains(&p.start_s));
            let pods: BTreeSet<usize> = in_range.map(|p| p.pod).collect();
            let expected = series(&pods.into_iter().collect::<Vec<_>>());
            let all: Vec<PtypeId> = types.iter().map(|(id, _)| *id).collect();
            let present = running.reader.present(service, &all, window).unwrap();
            assert_eq!(present.into_iter().collect::<Vec<_>>(), expected);
        }
        let selection = match (pods, even) {
            (None, _) => Selection::All,
            (Some([0, 2]), Some(id)) => Selection::Group {
                id,
                members: series(&[0, 2]),
            },
            (Some(pods), _) => Selection::Some(series(pods)),
        };
        let mut total = Total::empty(*ptype);
        let rounded = running
            .reader
            .add(service, *ptype, &selection, window, &mut total)
            .unwrap();
        if let Some(tier) = rounded
            && !(from_s.is_multiple_of(tier.length_s()) && until_s.is_multiple_of(tier.length_s()))
        {
            return;
        }
        let meant = |p: &&Pushed| {
            p.is_gauge == is_gauge
                && (from_s..until_s).contains(&p.start_s)
                && pods.is_none_or(|pods| pods.contains(&p.pod))
        };
        let mut expected = [0_i128; FUNCTIONS];
        let mut seconds = BTreeSet::new();
        let mut windows = 0;
        for p in pushed.iter().filter(meant) {
            windows += 1;
            seconds.extend(p.start_s..p.start_s + p.span_s);
            let factor = if is_gauge { i128::from(p.span_s) } else { 1 };
            for (sum, value) in expected.iter_mut().zip(p.values) {
                *sum += i128::from(value) * factor;
            }
        }
        let Total::Vectors(sum) = total else {
            panic!("facts");
        };
        let mut found = [0_i128; FUNCTIONS];
        for of_kind in sum.sums.values() {
            for (slot, value) in found.iter_mut().zip(of_kind.values.iter()) {
                *slot += value;
            }
        }
        let what = format!("{selection:?} in {from_s}..{until_s} of {pushed:?}");
        assert_eq!(found, expected, "{what}");
        assert_eq!(sum.windows(), windows, "{what}");
        assert_eq!(sum.covered_s(), seconds.len() as u64, "{what}");
        let mut facts = Total::empty(PtypeId::FACTS);
        let types = PtypeId::FACTS;
        let reader = &running.reader;
        reader
            .add(service, types, &selection, window, &mut facts)
            .unwrap();
        if !is_gauge {
            let lost = match facts {
                Total::Facts(Some((_, facts))) => facts.lost_samples,
                _ => 0,
            };
            assert_eq!(lost, windows, "{what}");
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Push(u64, usize, bool, [i64; FUNCTIONS]),
    Advance(u64),
    Turn,
    Late,
    Restart,
    Drop,
    GiveUp,
    Check(u64, u64, u64, bool, Option<Vec<usize>>),
}

fn op() -> impl Strategy<Value = Op> {
    let ago = prop_oneof![
        8 => 0u64..20,
        2 => 0u64..2 * HOUR_S,
        1 => 0u64..3 * DAY_S,
    ];
    let length = prop_oneof![
        4 => 1u64..120,
        2 => 60u64..2 * HOUR_S,
        1 => HOUR_S..2 * DAY_S,
    ];
    let pods = prop_oneof![
        Just(None),
        Just(Some(vec![0, 2])),
        proptest::sample::subsequence((0..PODS).collect::<Vec<_>>(), 1..PODS).prop_map(Some),
    ];
    let grain = prop_oneof![Just(1), Just(60), Just(HOUR_S), Just(DAY_S)];
    prop_oneof![
        12 => (ago, 0..PODS, any::<bool>(), [-3i64..100, 0i64..5, 0i64..2])
            .prop_map(|(ago, pod, gauge, values)| Op::Push(ago, pod, gauge, values)),
        6 => length.prop_map(Op::Advance),
        6 => Just(Op::Turn),
        2 => Just(Op::Late),
        1 => Just(Op::Restart),
        1 => Just(Op::Drop),
        1 => Just(Op::GiveUp),
        8 => (0u64..4 * DAY_S, 1u64..3 * DAY_S, grain, any::<bool>(), pods)
            .prop_map(|(ago, length, grain, gauge, pods)| Op::Check(ago, length, grain, gauge, pods)),
    ]
}

fn run(ops: Vec<Op>) {
    let mut world = World::new();
    for op in ops {
        match op {
            Op::Push(ago, pod, gauge, values) => world.push(ago, pod, gauge, values),
            Op::Advance(seconds) => world.advance(seconds),
            Op::Turn => assert!(world.running().rollup.turn().is_ok()),
            Op::Late => world.running().rollup.sum_late().unwrap(),
            Op::Restart => world.restart(),
            Op::Drop => world.drop_old(),
            Op::GiveUp => world.give_up(),
            Op::Check(ago, length, grain, gauge, pods) => {
                let from = (world.now_s() - ago) / grain * grain;
                let until = (from + length).div_ceil(grain) * grain;
                world.check(from, until, gauge, pods.as_deref());
            }
        }
    }
    for pods in [None, Some(&[0, 2][..]), Some(&[1][..])] {
        for gauge in [false, true] {
            world.check(
                MIDNIGHT_S - 4 * DAY_S,
                MIDNIGHT_S + 100 * DAY_S,
                gauge,
                pods,
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_query_equals_the_windows_added_up(ops in proptest::collection::vec(op(), 1..60)) {
        run(ops);
    }
}

#[test]
fn a_gauge_is_the_mean_over_the_time_it_was_seen() {
    let mut world = World::new();
    world.advance(1_000);
    let hour = world.now_s();
    for minute in 0..60 {
        let pods: &[usize] = if minute < 30 { &[0] } else { &[1] };
        for pod in pods {
            world.push(0, *pod, true, [100, 0, 0]);
        }
        world.advance(60);
        world.running().rollup.turn().unwrap();
    }
    for _ in 0..60 {
        for pod in [0, 1] {
            world.push(0, pod, true, [100, 0, 0]);
        }
        world.advance(60);
    }
    world.advance(120);
    world.running().rollup.turn().unwrap();
    assert!(world.running().rolled.until(Tier::Hour) >= hour + 2 * HOUR_S);
    let mean = |world: &mut World, from: u64| {
        let running = world.running();
        let (service, _) = running.directory.services("anonymous").pop().unwrap();
        let (ptype, _) = running.directory.types().pop().unwrap();
        let mut total = Total::empty(ptype);
        let window = range(from, from + HOUR_S).unwrap();
        let reader = &running.reader;
        reader
            .add(service, ptype, &Selection::All, window, &mut total)
            .unwrap();
        let Total::Vectors(sum) = total else {
            panic!("facts");
        };
        let all: i128 = sum.sums.values().map(|sum| sum.values.total()).sum();
        all / i128::from(sum.covered_s())
    };
    assert_eq!(mean(&mut world, hour), 100, "one after the other");
    assert_eq!(mean(&mut world, hour + HOUR_S), 200, "both all hour");
}
