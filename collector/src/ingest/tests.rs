//! The writer against a store that fails on demand.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use proto::dictionary::Encoder;
use proto::labels::{LabelSet, Selector};
use proto::pb::tepui::RefusalCode;
use proto::profile::{Column, Facts, Profile};
use proto::stack::{Frame, FrameKind};
use proto::value_type::{ProfileType, Temporality};
use proto::window::{Clock, UnixNanos, Window};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

use super::resolve::{SharedDictionary, lock};
use super::writer::{MAX_INSTANCES, Names, Outcome, Submission, Writer};
use crate::alert::{self, Alerts};
use crate::deletion::{self, Deletion};
use crate::directory::Directory;
use crate::dirty::Dirty;
use crate::hook::{Hooks, Receivers};
use crate::memory::Budget;
use crate::metrics::Metrics;
use crate::normalize::Rules;
use crate::query::Query;
use crate::retention;
use crate::rollup::groups::Groups;
use crate::rollup::read::RangeReader;
use crate::rollup::rolled::Rolled;
use crate::store::rocks::RocksStore;
use crate::store::rows::EpochRow;
use crate::store::segment::RangeSum;
use crate::store::tier::Tier;
use crate::store::tree::ServiceTree;
use crate::store::trees::{self, Trees};
use crate::store::*;

/// A clock that says what it is told.
#[derive(Debug)]
struct Told(AtomicI64);

impl Clock for Told {
    fn now(&self) -> UnixNanos {
        UnixNanos::new(self.0.load(Ordering::SeqCst))
    }
}

const NOW: UnixNanos = UnixNanos::new(1_780_000_000_000_000_000);

/// A real store whose next writes fail when it is told so.
#[derive(Debug)]
struct Failing {
    inner: RocksStore,
    fails: AtomicBool,
    /// Reads of windows after which one fails; 0 means none does.
    read_fails_after: AtomicUsize,
    /// Looks for imports that find none, as if they came later.
    imports_come_after: AtomicUsize,
}

impl StateStore for Failing {
    fn scan(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        self.inner.scan(prefix)
    }
    fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        StateStore::write(&self.inner, changes)
    }
}

impl Store for Failing {
    fn write(&self, group: &WriteGroup) -> Result<(), StoreError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(StoreError::Write("no space left on device".into()));
        }
        Store::write(&self.inner, group)
    }
    fn window(&self, key: &WindowKey) -> Result<Option<Vec<u8>>, StoreError> {
        let left = self.read_fails_after.load(Ordering::SeqCst);
        self.read_fails_after
            .store(left.saturating_sub(1), Ordering::SeqCst);
        if left == 1 {
            return Err(StoreError::Read("input/output error".into()));
        }
        self.inner.window(key)
    }
    fn row(&self, key: &RowKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.row(key)
    }
    fn sum(&self, request: &SumRequest<'_>, sum: &mut RangeSum) -> Result<(), StoreError> {
        self.inner.sum(request, sum)
    }
    fn values(
        &self,
        request: &SumRequest<'_>,
        visit: &mut ValueVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.inner.values(request, visit)
    }
    fn keys(
        &self,
        request: &SumRequest<'_>,
        visit: &mut dyn FnMut(&WindowKey),
    ) -> Result<(), StoreError> {
        let left = self.imports_come_after.load(Ordering::SeqCst);
        if request.tier == Tier::Import && left > 0 {
            self.imports_come_after.store(left - 1, Ordering::SeqCst);
            return Ok(());
        }
        self.inner.keys(request, visit)
    }
    fn groups(&self, service: ServiceId) -> Result<Vec<rows::Group>, StoreError> {
        self.inner.groups(service)
    }
    fn facts(
        &self,
        request: &SumRequest<'_>,
        visit: &mut dyn FnMut(&WindowKey, u64, &Facts),
    ) -> Result<(), StoreError> {
        self.inner.facts(request, visit)
    }
    fn active_series(
        &self,
        ptype: PtypeId,
        service: ServiceId,
        window: Window,
    ) -> Result<Vec<SeriesId>, StoreError> {
        self.inner.active_series(ptype, service, window)
    }
    fn catalog(&self) -> Result<Catalog, StoreError> {
        self.inner.catalog()
    }
    fn series(&self, service: ServiceId) -> Result<Vec<(SeriesId, LabelSet)>, StoreError> {
        self.inner.series(service)
    }
    fn tree(&self, tree: TreeId) -> Result<ServiceTree, StoreError> {
        self.inner.tree(tree)
    }

    fn epochs(&self, service: ServiceId) -> Result<Vec<EpochRow>, StoreError> {
        self.inner.epochs(service)
    }

    fn forget_tree(&self, tree: TreeId) -> Result<(), StoreError> {
        self.inner.forget_tree(tree)
    }
    fn drop_before(&self, kept: Kept, time: UnixNanos) -> Result<usize, StoreError> {
        self.inner.drop_before(kept, time)
    }
    fn stretches(&self, kept: Kept) -> Vec<(u64, u64)> {
        self.inner.stretches(kept)
    }
    fn write_features(&self, step: UnixNanos, rows: &[KeyValue]) -> Result<(), StoreError> {
        self.inner.write_features(step, rows)
    }
    fn features(&self, window: Window, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        self.inner.features(window, prefix)
    }
    fn compact(&self) -> Result<(), StoreError> {
        self.inner.compact()
    }
    fn drop_of(
        &self,
        kept: Kept,
        service: ServiceId,
        from: UnixNanos,
        until: UnixNanos,
    ) -> Result<(), StoreError> {
        self.inner.drop_of(kept, service, from, until)
    }
    fn doom(&self, service: ServiceId, name: &ServiceKey) -> Result<(), StoreError> {
        self.inner.doom(service, name)
    }
    fn doomed(&self) -> Result<Vec<(ServiceId, ServiceKey)>, StoreError> {
        self.inner.doomed()
    }
    fn erase(&self, service: ServiceId) -> Result<(), StoreError> {
        self.inner.erase(service)
    }
    fn backup(&self, folder: &std::path::Path) -> Result<(), StoreError> {
        self.inner.backup(folder)
    }
    fn usage(&self) -> Usage {
        self.inner.usage()
    }
}

struct Bench {
    store: Arc<Failing>,
    trees: Arc<Trees>,
    directory: Arc<Directory>,
    rolled: Arc<Rolled>,
    names: retention::Names,
    writer: Writer,
    clock: Arc<Told>,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn all_is_dropped_before(&self, until_s: u64) {
        for tier in [Tier::Window, Tier::Minute, Tier::Hour, Tier::Day] {
            self.rolled.drop_before(tier, until_s);
        }
        self.names.turn().unwrap();
    }

    /// The service of all profiles here, if it is known.
    fn service(&self) -> Option<ServiceId> {
        self.directory.service_ids().first().copied()
    }
}

fn bench() -> Bench {
    limited(usize::MAX, 1 << 30)
}

/// With at most `max_nodes` nodes in a tree, and trees in about `tree_bytes`.
fn limited(max_nodes: usize, tree_bytes: usize) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Failing {
        inner: RocksStore::open(folder.path(), 8 << 20).unwrap(),
        fails: AtomicBool::new(false),
        read_fails_after: AtomicUsize::new(0),
        imports_come_after: AtomicUsize::new(0),
    });
    let shared: Arc<dyn Store> = Arc::<Failing>::clone(&store);
    let trees = Arc::new(Trees::new(Arc::clone(&shared), tree_bytes).limited(max_nodes));
    let clock = Arc::new(Told(AtomicI64::new(NOW.get())));
    let metrics: Arc<Metrics> = Arc::default();
    let groups = Arc::new(Groups::new(Arc::clone(&shared), Vec::new()));
    let directory = Arc::new(Directory::open(Arc::clone(&shared)).unwrap());
    let dirty = Arc::new(Dirty::new(Duration::from_secs(60), Arc::clone(&metrics)));
    let rolled = Arc::new(Rolled::new(&Catalog::default(), 0));
    let writer = Writer::new(
        Arc::clone(&shared),
        Arc::clone(&trees),
        Arc::clone(&directory),
        Arc::clone(&metrics),
        Arc::clone(&dirty),
        Arc::clone(&rolled),
        Arc::clone(&groups),
        Arc::<Told>::clone(&clock),
        Duration::from_secs(14 * 86_400),
    )
    .unwrap();
    let state: Arc<dyn StateStore> = Arc::<Failing>::clone(&store);
    let hooks = Hooks::open(
        Receivers::default(),
        Arc::clone(&state),
        &metrics,
        Arc::<Told>::clone(&clock),
    );
    let settings = alert::Settings {
        step: Duration::from_secs(60),
        hold: Duration::from_secs(300),
        keep: Duration::from_secs(86_400),
        public_url: String::new(),
        hooks: Arc::new(hooks.unwrap()),
        shift: crate::detect::shift::ShiftSettings::default(),
        thresholds: crate::detect::Thresholds::default(),
    };
    let reader = RangeReader::new(
        Arc::clone(&shared),
        Arc::clone(&rolled),
        Arc::clone(&groups),
    );
    let deletion = Deletion::new(deletion::Parts {
        store: Arc::clone(&shared),
        trees: Arc::clone(&trees),
        directory: Arc::clone(&directory),
        rolled: Arc::clone(&rolled),
        groups,
        dirty,
        alerts: Arc::new(Alerts::open(state, settings, Vec::new(), metrics).unwrap()),
        query: Query::new(
            Arc::clone(&shared),
            Arc::clone(&trees),
            Arc::clone(&directory),
            reader,
            Budget::new(1 << 20),
            Arc::<Told>::clone(&clock),
        ),
        clock: Arc::<Told>::clone(&clock),
    });
    let names = retention::Names::new(
        shared,
        Arc::clone(&trees),
        Arc::clone(&directory),
        Arc::clone(&rolled),
        Arc::new(deletion),
    );
    Bench {
        store,
        trees,
        directory,
        rolled,
        names,
        writer,
        clock,
        _folder: folder,
    }
}

fn profile(function: &str, offset_s: u64, value: i64) -> Profile {
    profile_of([("service", "s")], function, offset_s, value)
}

fn profile_of<const N: usize>(
    labels: [(&str, &str); N],
    function: &str,
    offset_s: u64,
    value: i64,
) -> Profile {
    let start = NOW.saturating_sub(Duration::from_secs(offset_s));
    let stack = [
        Frame::named(FrameKind::Go, function),
        Frame::named(FrameKind::Go, "main"),
    ];
    let column = Column {
        profile_type: ProfileType::cpu(),
        temporality: Temporality::Delta,
        period: 10,
        weight: 10,
        values: vec![value],
    };
    Profile::new(
        LabelSet::new(labels).unwrap(),
        Window::from_start(start, 10_000_000_000).unwrap(),
        vec![Arc::from(stack)],
        vec![column],
        Facts::default(),
    )
    .unwrap()
}

/// One agent's stream.
struct Stream {
    encoder: Encoder,
    dictionary: SharedDictionary,
    instance: [u8; 16],
}

impl Stream {
    fn new(instance: u8) -> Self {
        Self {
            encoder: Encoder::new(),
            dictionary: SharedDictionary::default(),
            instance: [instance; 16],
        }
    }

    fn submission(
        &mut self,
        sequence: u64,
        profile: Profile,
    ) -> (Submission, oneshot::Receiver<Outcome>) {
        let body = self.encoder.encode(&[profile]).unwrap();
        let windows = lock(&self.dictionary).decoder.apply(body).unwrap();
        let (reply, outcome) = oneshot::channel();
        let submission = Submission {
            tenant: Arc::from("anonymous"),
            instance: self.instance,
            sequence,
            is_import: false,
            windows,
            names: Names::Stream(Arc::clone(&self.dictionary)),
            max_instances: MAX_INSTANCES,
            room: None,
            reply,
        };
        (submission, outcome)
    }
}

fn commit(bench: &mut Bench, stream: &mut Stream, sequence: u64, profile: Profile) -> Outcome {
    let (submission, mut outcome) = stream.submission(sequence, profile);
    bench.writer.commit(vec![submission]);
    outcome.try_recv().unwrap()
}

fn first_tree(service: ServiceId) -> TreeId {
    TreeId {
        service,
        epoch: Epoch(0),
    }
}

const ACKED: Outcome = Outcome::Acked {
    refused: Vec::new(),
    duplicate: false,
};

/// Leaf functions and values of everything stored, read from a fresh tree.
fn stored(bench: &Bench) -> Vec<(String, i128)> {
    let tree = bench.store.inner.tree(first_tree(ServiceId(1))).unwrap();
    let hour = Window::new(
        NOW.saturating_sub(Duration::from_secs(3600)),
        NOW.saturating_add(Duration::from_secs(3600)),
    );
    let request = SumRequest {
        tier: Tier::Window,
        ptype: PtypeId(1),
        service: ServiceId(1),
        series: None,
        window: hour.unwrap(),
    };
    let mut sum = RangeSum::default();
    bench.store.sum(&request, &mut sum).unwrap();
    let mut out = Vec::new();
    for values in sum.sums.values() {
        for (stack, value) in values.values.held() {
            let leaf = tree.leaf(stack).expect("no dangling stack");
            let (_, frame) = tree.nodes()[leaf as usize];
            let frame = tree.frame(frame).expect("no dangling frame");
            out.push((frame.function.to_string(), value));
        }
    }
    out.sort();
    out
}

fn reset(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Refused {
            code: RefusalCode::DictionaryReset,
            retry_after: Some(_),
            ..
        }
    )
}

#[test]
fn streams_begin_anew_when_a_tree_is_followed_by_another() {
    let mut bench = bench();
    let (mut a, mut b) = (Stream::new(1), Stream::new(2));
    assert_eq!(commit(&mut bench, &mut a, 1, profile("old", 10, 1)), ACKED);
    assert_eq!(commit(&mut bench, &mut b, 1, profile("old", 10, 2)), ACKED);

    let mut bench = Bench {
        writer: bench.writer.normalising(Rules::NONE),
        ..bench
    };
    // The first begins it with this very batch, the other finds it begun.
    assert!(reset(&commit(&mut bench, &mut a, 2, profile("new", 20, 4))));
    assert!(reset(&commit(&mut bench, &mut b, 2, profile("new", 20, 8))));
    assert!(reset(&commit(&mut bench, &mut a, 2, profile("new", 20, 4))));
    for (stream, sequence, value) in [(1, 2, 4), (2, 2, 8)] {
        let mut anew = Stream::new(stream);
        let window = profile("old", 20, value);
        assert_eq!(commit(&mut bench, &mut anew, sequence, window), ACKED);
    }
    let epochs = bench.store.epochs(ServiceId(1)).unwrap();
    let rules: Vec<_> = epochs.iter().map(|row| (row.epoch, row.rules)).collect();
    let rows = [Rules::DEFAULT, Rules::NONE].map(|rules| Some(rules.bits()));
    assert_eq!(rules, [(Epoch(0), rows[0]), (Epoch(1), rows[1])]);
    let of = |epoch| TreeId {
        service: ServiceId(1),
        epoch: Epoch(epoch),
    };
    for epoch in [0, 1] {
        assert_eq!(bench.store.tree(of(epoch)).unwrap().stack_count(), 1);
    }
    // Nothing before the second is asked for: the first goes, and only it.
    let until_s = epochs[1].since_s;
    assert_eq!(
        bench
            .trees
            .remove_before(ServiceId(1), until_s - 1)
            .unwrap(),
        0
    );
    assert_eq!(bench.trees.remove_before(ServiceId(1), until_s).unwrap(), 1);
    assert_eq!(bench.store.tree(of(0)).unwrap().stack_count(), 0);
    assert_eq!(bench.store.tree(of(1)).unwrap().stack_count(), 1);
}

#[test]
fn a_full_tree_is_followed_by_another_once_it_is_a_day_old() {
    follow(limited(4, 1 << 30));
}

#[test]
fn a_full_tree_is_followed_also_when_there_is_no_room_to_keep_it() {
    let bench = limited(4, 0);
    let trees = Arc::clone(&bench.trees);
    follow(bench);
    assert!(trees.is_full(first_tree(ServiceId(1))), "it was dropped");
}

fn follow(mut bench: Bench) {
    let epochs = |bench: &Bench| {
        let rows = bench.store.epochs(ServiceId(1)).unwrap();
        rows.iter().map(|row| row.epoch.0).collect::<Vec<_>>()
    };
    let mut stream = Stream::new(1);
    for (sequence, function) in [(1, "one"), (2, "two"), (3, "three")] {
        let window = profile(function, 10, 1);
        assert_eq!(commit(&mut bench, &mut stream, sequence, window), ACKED);
    }
    let names: Vec<String> = stored(&bench).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["[other]", "one", "two"], "the tree is full");
    assert_eq!(epochs(&bench), [0]);

    let day = 86_400 * 1_000_000_000;
    // It counts from two minutes ahead of the clock, as windows may be.
    bench.clock.0.fetch_add(day, Ordering::SeqCst);
    let window = profile("three", 20, 2);
    assert_eq!(commit(&mut bench, &mut stream, 4, window), ACKED);
    assert_eq!(epochs(&bench), [0]);
    bench
        .clock
        .0
        .fetch_add(120 * 1_000_000_000, Ordering::SeqCst);
    let window = || profile("three", 30, 4);
    assert!(reset(&commit(&mut bench, &mut stream, 5, window())));
    let mut anew = Stream::new(1);
    assert_eq!(commit(&mut bench, &mut anew, 5, window()), ACKED);
    assert_eq!(epochs(&bench), [0, 1]);
    let current = bench.trees.get(ServiceId(1)).unwrap();
    let current = trees::read(&current);
    assert_eq!(&*current.path(0)[1].function, "three");
}

#[test]
fn old_trees_are_removed_unless_the_service_has_imports() {
    for has_imports in [false, true] {
        let mut bench = bench();
        let mut stream = Stream::new(1);
        assert_eq!(
            commit(&mut bench, &mut stream, 1, profile("old", 10, 1)),
            ACKED
        );
        if has_imports {
            let mut files = Stream::new(2);
            let (submission, mut outcome) = files.submission(1, profile("old", 99_999, 1));
            bench.writer.commit(vec![Submission {
                is_import: true,
                ..submission
            }]);
            assert_eq!(outcome.try_recv().unwrap(), ACKED);
        }
        let mut bench = Bench {
            writer: bench.writer.normalising(Rules::NONE),
            ..bench
        };
        let mut anew = Stream::new(1);
        assert_eq!(
            commit(&mut bench, &mut anew, 2, profile("new", 10, 1)),
            ACKED
        );
        // The day is not over, so the series stays; no stack came to its tree since.
        bench.all_is_dropped_before(u64::try_from(NOW.seconds()).unwrap() + 300);
        let old = bench.store.tree(first_tree(ServiceId(1))).unwrap();
        assert_eq!(old.stack_count(), usize::from(has_imports));
        assert!(bench.service().is_some());
    }
}

#[test]
fn series_and_services_go_with_their_last_row() {
    let day_s = 86_400;
    let today_s = u64::try_from(NOW.seconds()).unwrap() / day_s * day_s;
    let mut bench = bench();
    let mut stream = Stream::new(1);
    let of_pod = |pod: &str, days_ago: u64| {
        let labels = [("service", "s"), ("pod", pod)];
        profile_of(labels, "f", days_ago * day_s + 10, 1)
    };
    let pods = |bench: &Bench| -> Vec<(u32, String)> {
        let stored = bench.store.series(ServiceId(1)).unwrap();
        let pod = |labels: &LabelSet| labels.get("pod").unwrap_or_default().to_owned();
        let stored = stored.iter().map(|(id, labels)| (id.0, pod(labels)));
        let stored: Vec<_> = stored.collect();
        let known = bench.directory.with_series(ServiceId(1), |table| {
            table
                .iter()
                .map(|(id, labels)| (id.0, pod(labels)))
                .collect::<Vec<_>>()
        });
        assert_eq!(known.unwrap(), stored, "in memory and on disk");
        stored
    };
    let windows = [("a", 3), ("b", 1), ("c", 2)];
    for (sequence, (pod, days_ago)) in (1..).zip(windows) {
        assert_eq!(
            commit(&mut bench, &mut stream, sequence, of_pod(pod, days_ago)),
            ACKED
        );
    }
    let named = |all: &[(u32, &str)]| -> Vec<(u32, String)> {
        all.iter()
            .map(|(id, pod)| (*id, (*pod).to_owned()))
            .collect()
    };
    assert_eq!(pods(&bench), named(&[(1, "a"), (2, "b"), (3, "c")]));

    bench.all_is_dropped_before(today_s - 2 * day_s);
    assert_eq!(pods(&bench), named(&[(2, "b"), (3, "c")]));
    // What is gone is named anew, and no id of a series that is there is taken.
    assert_eq!(commit(&mut bench, &mut stream, 4, of_pod("a", 1)), ACKED);
    assert_eq!(pods(&bench), named(&[(2, "b"), (3, "c"), (4, "a")]));
    let pod_a = bench.directory.with_series(ServiceId(1), |table| {
        table.select(&r#"{pod="a"}"#.parse::<Selector>().unwrap())
    });
    assert_eq!(pod_a.unwrap(), [SeriesId(4)]);

    bench.all_is_dropped_before(today_s);
    assert_eq!(bench.service(), None);
    assert!(bench.store.catalog().unwrap().services.is_empty());
    assert!(reset(&commit(&mut bench, &mut stream, 5, of_pod("a", 0))));
    let mut anew = Stream::new(1);
    assert_eq!(commit(&mut bench, &mut anew, 5, of_pod("a", 0)), ACKED);
    assert_eq!(bench.service(), Some(ServiceId(2)));
}

#[test]
fn names_stay_for_an_import_that_comes_while_they_are_looked_at() {
    let today_s = u64::try_from(NOW.seconds()).unwrap() / 86_400 * 86_400;
    // One series, so that the service goes with it; and one that stays beside it.
    for stays in [false, true] {
        let mut bench = bench();
        let mut files = Stream::new(2);
        let of_pod =
            |pod: &str, offset_s| profile_of([("service", "s"), ("pod", pod)], "f", offset_s, 1);
        let (submission, mut outcome) = files.submission(1, of_pod("a", 99_999));
        bench.writer.commit(vec![Submission {
            is_import: true,
            ..submission
        }]);
        assert_eq!(outcome.try_recv().unwrap(), ACKED);
        if stays {
            let mut stream = Stream::new(1);
            assert_eq!(commit(&mut bench, &mut stream, 1, of_pod("b", 10)), ACKED);
        }
        let types = bench.directory.types().len();
        bench
            .store
            .imports_come_after
            .store(types, Ordering::SeqCst);
        bench.all_is_dropped_before(today_s);
        // It was asked for and not found, and found when it was asked for again.
        assert_eq!(bench.store.imports_come_after.load(Ordering::SeqCst), 0);
        assert_eq!(bench.service(), Some(ServiceId(1)));
        let series = bench.store.series(ServiceId(1)).unwrap();
        assert_eq!(series.len(), 1 + usize::from(stays));
    }
}

#[test]
fn a_failed_write_leaves_no_dangling_id_and_streams_begin_anew() {
    let mut bench = bench();
    let (mut a, mut b) = (Stream::new(1), Stream::new(2));
    assert_eq!(commit(&mut bench, &mut a, 1, profile("kept", 10, 1)), ACKED);

    bench.store.fails.store(true, Ordering::SeqCst);
    let (first, mut first_outcome) = a.submission(2, profile("lost_a", 20, 2));
    let (second, mut second_outcome) = b.submission(1, profile("lost_b", 20, 4));
    bench.writer.commit(vec![first, second]);
    assert!(reset(&first_outcome.try_recv().unwrap()));
    assert!(reset(&second_outcome.try_recv().unwrap()));
    bench.store.fails.store(false, Ordering::SeqCst);

    // The old streams hold ids that are void: they get nothing through.
    assert!(reset(&commit(
        &mut bench,
        &mut a,
        3,
        profile("lost_a", 30, 8)
    )));
    // Other stacks take the ids that became free.
    let mut c = Stream::new(3);
    assert_eq!(
        commit(&mut bench, &mut c, 1, profile("other", 40, 16)),
        ACKED
    );
    // The same batches over new streams count, once.
    let (mut a, mut b) = (Stream::new(1), Stream::new(2));
    assert_eq!(
        commit(&mut bench, &mut a, 2, profile("lost_a", 20, 2)),
        ACKED
    );
    assert_eq!(
        commit(&mut bench, &mut b, 1, profile("lost_b", 20, 4)),
        ACKED
    );
    let again = commit(&mut bench, &mut b, 1, profile("lost_b", 20, 4));
    assert_eq!(
        again,
        Outcome::Acked {
            refused: Vec::new(),
            duplicate: true
        }
    );

    let expected = [("kept", 1), ("lost_a", 2), ("lost_b", 4), ("other", 16)];
    assert_eq!(
        stored(&bench),
        expected.map(|(name, value)| (name.to_owned(), value))
    );
    let tree = bench.trees.get(ServiceId(1)).unwrap();
    assert!(trees::read(&tree).is_durable());
}

#[test]
fn a_batch_whose_reading_fails_half_way_counts_once_when_it_comes_again() {
    let mut bench = bench();
    let mut stream = Stream::new(1);
    for fails_after in 1..=4 {
        let offset_s = fails_after * 100;
        let sequence = fails_after * 10;
        let batch = |stream: &mut Stream| {
            let profiles = [profile("f", offset_s, 1), profile("g", offset_s + 10, 2)];
            let body = stream.encoder.encode(&profiles).unwrap();
            let windows = lock(&stream.dictionary).decoder.apply(body).unwrap();
            let (reply, outcome) = oneshot::channel();
            let submission = Submission {
                tenant: Arc::from("anonymous"),
                instance: stream.instance,
                sequence,
                is_import: false,
                windows,
                names: Names::Stream(Arc::clone(&stream.dictionary)),
                max_instances: MAX_INSTANCES,
                room: None,
                reply,
            };
            (submission, outcome)
        };
        // Beside another batch of the same group, which is kept.
        let (other, mut kept) = Stream::new(9).submission(sequence, profile("h", offset_s, 4));
        let (first, mut refused) = batch(&mut stream);
        let at = usize::try_from(fails_after).unwrap();
        bench.store.read_fails_after.store(at, Ordering::SeqCst);
        bench.writer.commit(vec![first, other]);
        assert!(matches!(
            refused.try_recv().unwrap(),
            Outcome::Refused {
                code: RefusalCode::Unavailable,
                retry_after: Some(_),
                ..
            }
        ));
        assert_eq!(kept.try_recv().unwrap(), ACKED);
        let (again, mut acked) = batch(&mut stream);
        bench.writer.commit(vec![again]);
        assert_eq!(acked.try_recv().unwrap(), ACKED);
    }
    let expected = [("f", 4), ("g", 8), ("h", 16)];
    assert_eq!(
        stored(&bench),
        expected.map(|(name, value)| (name.to_owned(), value))
    );
}

#[test]
fn two_windows_that_start_in_one_second_add_up() {
    let mut bench = bench();
    let mut stream = Stream::new(1);
    assert_eq!(
        commit(&mut bench, &mut stream, 1, profile("f", 10, 1)),
        ACKED
    );
    assert_eq!(
        commit(&mut bench, &mut stream, 2, profile("f", 10, 2)),
        ACKED
    );
    let (first, _) = stream.submission(3, profile("f", 10, 4));
    let (second, _) = stream.submission(4, profile("g", 10, 8));
    bench.writer.commit(vec![first, second]);
    assert_eq!(stored(&bench), [("f".to_owned(), 7), ("g".to_owned(), 8)]);
}

#[test]
fn a_service_has_no_more_series_than_allowed() {
    let mut bench = bench();
    let mut stream = Stream::new(1);
    let mut refused = 0;
    for batch in 0..11_u64 {
        let profiles: Vec<Profile> = (0..1000)
            .map(|n| {
                let pod = format!("p-{}", batch * 1000 + n);
                let profile = profile("f", 10, 1);
                let labels = LabelSet::new([("service", "s"), ("pod", &pod)]).unwrap();
                Profile::new(
                    labels,
                    profile.window(),
                    profile.stacks().to_vec(),
                    profile.columns().to_vec(),
                    Facts::default(),
                )
                .unwrap()
            })
            .collect();
        let body = stream.encoder.encode(&profiles).unwrap();
        let windows = lock(&stream.dictionary).decoder.apply(body).unwrap();
        let (reply, mut outcome) = oneshot::channel();
        bench.writer.commit(vec![Submission {
            tenant: Arc::from("anonymous"),
            instance: stream.instance,
            sequence: batch + 1,
            is_import: false,
            windows,
            names: Names::Stream(Arc::clone(&stream.dictionary)),
            max_instances: MAX_INSTANCES,
            room: None,
            reply,
        }]);
        match outcome.try_recv().unwrap() {
            Outcome::Acked {
                refused: windows, ..
            } => {
                assert!(
                    windows
                        .iter()
                        .all(|(_, code, _)| *code == RefusalCode::SeriesLimit)
                );
                refused += windows.len();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 1000);
    assert_eq!(
        bench.store.series(ServiceId(1)).unwrap().len(),
        super::writer::MAX_SERIES
    );
}
