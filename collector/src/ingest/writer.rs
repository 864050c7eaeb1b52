//! The one writer: maps stacks to trees and commits batches in groups.
//!
//! A thread of its own takes whatever batches have arrived, writes them with
//! the dictionary rows they need and their dedupe rows in one synced write, and
//! answers. There is no timer: the next group begins when the last sync
//! returns. When a write fails, trees go back to what is durable and every
//! stream of the group must begin anew, since it may hold ids that are void.
//!
//! The queue before the writer is bounded ([`QUEUE_LENGTH`]); a full queue is
//! refused with a retry hint and counted in `tepui_ingest_refused_batches_total`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::dictionary::{WireWindow, WireWindowError};
use proto::labels::LabelSet;
use proto::pb::tepui::RefusalCode;
use proto::profile::{Column, Facts};
use proto::status::chain;
use proto::value_type::{ProfileType, Temporality};
use proto::window::{Clock, UnixNanos, Window};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::{error, warn};

use super::coarse::{Coarse, CoarseError};
use super::dedupe::{self, Verdict};
use super::gather::Gather;
use super::resolve::{ResolveError, SharedDictionary, lock};
use crate::directory::{Additions, Directory};
use crate::dirty::Dirty;
use crate::metrics::Metrics;
use crate::normalize::Rules;
use crate::rollup::groups::Groups;
use crate::rollup::rolled::Rolled;
use crate::store::rows::{self, EpochRow, Late, WriterRow};
use crate::store::segment::{Segment, SegmentKind, Value};
use crate::store::tier::Tier;
use crate::store::trees::{self, SharedTree, Trees};
use crate::store::{
    Active, Epoch, PtypeId, SeriesId, ServiceId, ServiceKey, Store, StoreError, StoredType, TreeId,
    WindowKey, WriteGroup, WriterId,
};

/// Batches that wait before the writer; more are refused with a retry hint.
pub const QUEUE_LENGTH: usize = 1_024;
/// Most batches of one group.
const GROUP_LENGTH: usize = 256;
/// Live series of one service.
pub const MAX_SERIES: usize = 10_000;
/// How long a series counts as live after its last window.
const LIVE: Duration = Duration::from_secs(86_400);
/// Most services of one collector.
const MAX_SERVICES: usize = 100_000;
/// Most agent instances that are remembered.
pub const MAX_INSTANCES: usize = 100_000;
/// Instances beside which no sender of single profiles gets a name of its own: agents
/// must find room when they start again.
pub const MAX_NAMED_SENDERS: usize = MAX_INSTANCES / 2;
/// Least time between two rounds of what need not be done at each write.
const CHORE_EVERY: Duration = Duration::from_secs(60);
/// Series that are remembered to have been active; beyond it they are written
/// once more.
const MAX_ACTIVE: usize = 1 << 20;
/// Most profile types of one collector.
const MAX_TYPES: usize = 1_000;
/// How far ahead of our clock a window may start.
const MAX_AHEAD: Duration = Duration::from_secs(120);
/// Longest time a batch may lie in a spool; older windows are refused.
pub const MAX_SPOOL_AGE: Duration = Duration::from_secs(7 * 86_400);
/// Dedupe rows are kept this long, so longer than any batch that is accepted.
const WRITER_ROW_AGE: Duration = Duration::from_secs(8 * 86_400);
/// What a sender waits after a failed write.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long stacks are added to a tree at least, in seconds: each tree is kept as
/// long as anything that was seen while it grew.
const LEAST_EPOCH_S: u64 = 86_400;
const NANOS: u64 = 1_000_000_000;

/// A batch that waits for the writer.
#[derive(Debug)]
pub struct Submission {
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Agent instance that spooled it.
    pub instance: [u8; 16],
    /// Its number within the instance.
    pub sequence: u64,
    /// Whether it comes from files: of any age, and kept until deleted.
    pub is_import: bool,
    /// Its windows; those that could not be read are refused.
    pub windows: Vec<Result<WireWindow, WireWindowError>>,
    /// The dictionary that its stack ids are of.
    pub dictionary: SharedDictionary,
    /// Instances beside which a new one is refused.
    pub max_instances: usize,
    /// Its share of the memory that waiting windows may take.
    pub room: Option<OwnedSemaphorePermit>,
    /// Where the outcome goes.
    pub reply: oneshot::Sender<Outcome>,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// On disk and synced, but for the windows named.
    Acked {
        /// (window, code, message) of what was refused.
        refused: Vec<(usize, RefusalCode, String)>,
        /// It was known already.
        duplicate: bool,
    },
    /// Nothing of it was kept.
    Refused {
        /// Why.
        code: RefusalCode,
        /// In words.
        message: String,
        /// When to send it again; `None` means never.
        retry_after: Option<Duration>,
    },
}

impl Outcome {
    /// Nothing of it was kept, for this reason.
    pub(crate) fn refused(
        code: RefusalCode,
        message: impl Into<String>,
        retry_after: Option<Duration>,
    ) -> Self {
        Self::Refused {
            code,
            message: message.into(),
            retry_after,
        }
    }
}

/// Everything the writer works with.
#[derive(Debug)]
pub struct Writer {
    store: Arc<dyn Store>,
    trees: Arc<Trees>,
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
    dirty: Arc<Dirty>,
    rolled: Arc<Rolled>,
    groups: Arc<Groups>,
    clock: Arc<dyn Clock>,
    max_age: Duration,
    writers: FxHashMap<[u8; 16], WriterRow>,
    next_service: u32,
    next_type: u16,
    next_writer: u32,
    /// When old writers were last looked for.
    forgotten: UnixNanos,
    /// Live series of full services, and when they were counted.
    live: FxHashMap<ServiceId, (UnixNanos, usize)>,
    /// What is known to be stored of the last days' activity.
    active: FxHashSet<Active>,
    gather: Gather,
    rules: Rules,
}

/// What a group has prepared and not written yet.
struct Pending {
    group: WriteGroup,
    window_index: FxHashMap<WindowKey, usize>,
    writers: FxHashMap<[u8; 16], WriterRow>,
    services: FxHashMap<ServiceKey, ServiceId>,
    types: FxHashMap<StoredType, PtypeId>,
    series: FxHashMap<ServiceId, FxHashMap<LabelSet, SeriesId>>,
    trees: BTreeMap<TreeId, SharedTree>,
    /// Trees that stacks of this group are added to.
    current: BTreeMap<ServiceId, TreeId>,
    /// Epochs that begin with this group, and those before them.
    begun: Vec<(ServiceId, EpochRow)>,
    /// Windows of the batch that is being prepared; they join the group when all
    /// of it could be.
    staged: BTreeMap<WindowKey, Vec<u8>>,
    coarse: Coarse,
    touched: Vec<(ServiceId, SeriesId, u64)>,
    /// Windows before this second are late.
    closed: u64,
    /// Accepted windows whose minute is open, and late ones.
    marks: Vec<(ServiceId, PtypeId, SeriesId, u64)>,
    late: BTreeSet<Late>,
    active: FxHashSet<Active>,
    starts: FxHashMap<ServiceId, u64>,
    windows: u64,
}

impl Pending {
    fn new(rolled: &Rolled) -> Self {
        Self {
            group: WriteGroup::default(),
            window_index: FxHashMap::default(),
            writers: FxHashMap::default(),
            services: FxHashMap::default(),
            types: FxHashMap::default(),
            series: FxHashMap::default(),
            trees: BTreeMap::new(),
            current: BTreeMap::new(),
            begun: Vec::new(),
            staged: BTreeMap::new(),
            coarse: Coarse::new(rolled),
            touched: Vec::new(),
            closed: rolled.closed(),
            marks: Vec::new(),
            late: BTreeSet::new(),
            active: FxHashSet::default(),
            starts: FxHashMap::default(),
            windows: 0,
        }
    }

    /// What is written under `key` by this group so far.
    fn written(&self, key: &WindowKey) -> Option<&[u8]> {
        let staged = self.staged.get(key);
        staged.map(Vec::as_slice).or_else(|| {
            let index = *self.window_index.get(key)?;
            self.group
                .windows
                .get(index)
                .map(|(_, value)| value.as_slice())
        })
    }

    /// The batch could be prepared whole.
    fn accept_staged(&mut self, known: &FxHashSet<Active>) {
        for (key, value) in std::mem::take(&mut self.staged) {
            self.note(&key, known);
            if self.coarse.takes(&key) {
                self.coarse.accept(&key, &value);
                continue;
            }
            let end = self.group.windows.len();
            let index = *self.window_index.entry(key).or_insert(end);
            match self.group.windows.get_mut(index) {
                Some((_, place)) => *place = value,
                None => self.group.windows.push((key, value)),
            }
        }
    }
}

impl Pending {
    /// A window is accepted: its sums are to be made, or made again, and its
    /// series was active.
    fn note(&mut self, key: &WindowKey, known: &FxHashSet<Active>) {
        if key.tier == Tier::Import || self.coarse.takes(key) {
            // It has no sums, or they are changed in this very write.
        } else if key.start_s < self.closed {
            let late = Late {
                minute_s: Tier::Minute.bucket(key.start_s),
                service: key.service,
                ptype: key.ptype,
                series: key.series,
            };
            if self.late.insert(late) {
                self.group.dictionary.push(rows::late(&late));
            }
        } else {
            self.marks
                .push((key.service, key.ptype, key.series, key.start_s));
        }
        let active = Active {
            service: key.service,
            ptype: key.ptype,
            day_s: Tier::Day.bucket(key.start_s),
            series: key.series,
        };
        self.note_active(active, known);
    }

    fn note_active(&mut self, active: Active, known: &FxHashSet<Active>) {
        if !known.contains(&active) && self.active.insert(active) {
            self.group.active.push(active);
        }
    }
}

/// Why one window of a batch is refused.
struct WindowRefusal {
    code: RefusalCode,
    message: String,
}

fn refuse<T>(code: RefusalCode, message: impl Into<String>) -> Result<T, Refuse> {
    Err(Refuse::Window(WindowRefusal {
        code,
        message: message.into(),
    }))
}

/// Why a window was not prepared.
enum Refuse {
    /// The window alone.
    Window(WindowRefusal),
    /// The store failed: the batch must come again.
    Store(StoreError),
    /// Too many old sums are being changed: the batch must come again.
    Busy,
    /// The stream must begin anew, and then send the batch again.
    Anew,
}

impl From<CoarseError> for Refuse {
    fn from(error: CoarseError) -> Self {
        match error {
            CoarseError::Store(error) => error.into(),
            CoarseError::Busy => Self::Busy,
        }
    }
}

impl From<StoreError> for Refuse {
    fn from(error: StoreError) -> Self {
        match error {
            // Trying again cannot help, and must not hold up the others.
            StoreError::Damaged { .. } => Self::Window(WindowRefusal {
                code: RefusalCode::Unavailable,
                message: chain(&error),
            }),
            error => Self::Store(error),
        }
    }
}

impl Writer {
    /// Returns the writer of `store`. Windows older than `retention` or than
    /// [`MAX_SPOOL_AGE`] are refused.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the catalog cannot be read.
    #[expect(
        clippy::too_many_arguments,
        reason = "wiring: each is a part of its own"
    )]
    pub fn new(
        store: Arc<dyn Store>,
        trees: Arc<Trees>,
        directory: Arc<Directory>,
        metrics: Arc<Metrics>,
        dirty: Arc<Dirty>,
        rolled: Arc<Rolled>,
        groups: Arc<Groups>,
        clock: Arc<dyn Clock>,
        retention: Duration,
    ) -> Result<Self, StoreError> {
        let catalog = store.catalog()?;
        let after = |highest: Option<u32>| highest.map_or(1, |id| id.saturating_add(1));
        let next_type = catalog.types.iter().map(|(id, _)| id.0).max();
        Ok(Self {
            next_service: after(catalog.services.iter().map(|(id, _)| id.0).max())
                .max(catalog.next_service.map_or(1, |id| id.0)),
            next_type: next_type.map_or(1, |id| id.saturating_add(1)),
            next_writer: after(catalog.writers.iter().map(|(_, row)| row.writer.0).max()),
            forgotten: UnixNanos::default(),
            live: FxHashMap::default(),
            active: FxHashSet::default(),
            gather: Gather::default(),
            rules: Rules::DEFAULT,
            writers: catalog.writers.into_iter().collect(),
            store,
            trees,
            directory,
            metrics,
            dirty,
            rolled,
            groups,
            clock,
            max_age: retention.min(MAX_SPOOL_AGE),
        })
    }

    /// With names normalised by `rules`, which streams of batches do.
    #[must_use]
    pub fn normalising(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// Takes batches from `queue` until every sender is gone. Blocks.
    pub fn run(mut self, mut queue: mpsc::Receiver<Submission>) {
        let mut submissions = Vec::new();
        while let Some(first) = queue.blocking_recv() {
            submissions.push(first);
            while submissions.len() < GROUP_LENGTH
                && let Ok(next) = queue.try_recv()
            {
                submissions.push(next);
            }
            self.commit(std::mem::take(&mut submissions));
            self.trees.shrink();
        }
    }

    /// Writes a group and answers each of its batches.
    pub fn commit(&mut self, submissions: Vec<Submission>) {
        let now = self.clock.now();
        let rolled = Arc::clone(&self.rolled);
        let _writing = rolled.writing();
        let mut pending = Pending::new(&rolled);
        let mut outcomes = Vec::with_capacity(submissions.len());
        for submission in &submissions {
            outcomes.push(self.prepare(submission, now, &mut pending));
        }
        self.forget_old_writers(now, &mut pending);
        for tree in pending.trees.values() {
            pending
                .group
                .dictionary
                .extend(trees::read(tree).fresh_rows());
        }
        pending.group.rows = pending.coarse.rows();
        let written = if pending.group.is_empty() {
            Ok(())
        } else {
            let began = Instant::now();
            let written = Store::write(&*self.store, &pending.group);
            self.metrics.commit_times.observe(began.elapsed());
            written
        };
        match written {
            Ok(()) => {
                self.settle(pending);
                for (submission, outcome) in submissions.into_iter().zip(outcomes) {
                    self.answer(submission, outcome);
                }
            }
            Err(failure) => {
                error!(
                    error = chain(&failure),
                    batches = submissions.len(),
                    "group not written"
                );
                self.metrics.store_write_errors.inc();
                for tree in pending.trees.values() {
                    trees::write(tree).roll_back();
                }
                for (service, before) in pending.begun {
                    self.trees.set_current(service, before);
                }
                // Every stream of the group may have been given void ids.
                for submission in &submissions {
                    lock(&submission.dictionary).make_void();
                }
                let code = RefusalCode::DictionaryReset;
                let outcome = Outcome::Refused {
                    code,
                    message: chain(&failure),
                    retry_after: Some(RETRY_AFTER),
                };
                for submission in submissions {
                    self.answer(submission, outcome.clone());
                }
            }
        }
    }

    /// Counts and sends an outcome.
    fn answer(&self, submission: Submission, outcome: Outcome) {
        match &outcome {
            Outcome::Acked { refused, duplicate } => {
                if *duplicate {
                    self.metrics.ingest_duplicate_batches.inc();
                } else {
                    self.metrics.ingest_batches.inc();
                }
                for (window, code, message) in refused {
                    self.metrics.refused_windows(*code).inc();
                    warn!(window, code = code.as_str_name(), message, "window refused");
                }
            }
            Outcome::Refused { code, .. } => self.metrics.refused_batches(*code).inc(),
        }
        // A stream that is gone needs no answer: its agent sends again.
        let _gone = submission.reply.send(outcome);
    }

    /// The group is durable: everybody may know.
    fn settle(&mut self, pending: Pending) {
        for tree in pending.trees.values() {
            let mut tree = trees::write(tree);
            tree.mark_durable();
            self.metrics.tree_overflows.add(tree.take_overflowed());
        }
        self.writers.extend(pending.writers);
        self.metrics.ingest_windows.add(pending.windows);
        for (service, table) in &pending.series {
            if let Some((_, live)) = self.live.get_mut(service) {
                *live = live.saturating_add(table.len());
            }
        }
        let series = pending.series.into_iter().flat_map(|(service, table)| {
            table
                .into_iter()
                .map(move |(labels, id)| (service, id, labels))
        });
        self.directory.add(Additions {
            services: pending
                .services
                .into_iter()
                .map(|(k, id)| (id, k))
                .collect(),
            types: pending.types.into_iter().map(|(t, id)| (id, t)).collect(),
            series: series.collect(),
            windows: pending.starts.into_iter().collect(),
        });
        self.dirty.mark(pending.touched);
        self.rolled.mark(pending.marks, pending.late);
        if self.active.len() + pending.active.len() > MAX_ACTIVE {
            self.active.clear();
        }
        self.active.extend(pending.active);
    }

    /// Removes dedupe rows of instances that cannot send anything acceptable.
    fn forget_old_writers(&mut self, now: UnixNanos, pending: &mut Pending) {
        if now.since(self.forgotten) < CHORE_EVERY {
            return;
        }
        self.forgotten = now;
        let horizon = now.saturating_sub(WRITER_ROW_AGE).seconds();
        let horizon = u64::try_from(horizon).unwrap_or(0);
        let old: Vec<[u8; 16]> = self
            .writers
            .iter()
            .filter(|(instance, row)| {
                row.last_s < horizon && !pending.writers.contains_key(*instance)
            })
            .map(|(instance, _)| *instance)
            .collect();
        for instance in old {
            self.writers.remove(&instance);
            pending.group.forget.push(rows::writer_key(&instance));
        }
    }

    /// Adds a batch to the group.
    fn prepare(
        &mut self,
        submission: &Submission,
        now: UnixNanos,
        pending: &mut Pending,
    ) -> Outcome {
        if let Some(message) = self.void(submission) {
            return Outcome::Refused {
                code: RefusalCode::DictionaryReset,
                message: message.to_owned(),
                retry_after: Some(RETRY_AFTER),
            };
        }
        let known = pending.writers.get(&submission.instance);
        let known = known.or_else(|| self.writers.get(&submission.instance));
        let row = match known {
            Some(row) => *row,
            None if self.writers.len() + pending.writers.len() >= submission.max_instances => {
                return Outcome::Refused {
                    code: RefusalCode::Overloaded,
                    message: format!(
                        "{} agent instances are known already",
                        submission.max_instances
                    ),
                    retry_after: Some(CHORE_EVERY),
                };
            }
            None => {
                let fresh = dedupe::first(WriterId(self.next_writer));
                self.next_writer = self.next_writer.saturating_add(1);
                fresh
            }
        };
        match dedupe::judge(&row, submission.sequence) {
            Verdict::Fresh => {}
            Verdict::Duplicate => {
                return Outcome::Acked {
                    refused: Vec::new(),
                    duplicate: true,
                };
            }
            Verdict::Unknown => {
                return Outcome::Refused {
                    code: RefusalCode::TooOld,
                    message: format!(
                        "sequence {} is too far behind {}",
                        submission.sequence, row.sequence
                    ),
                    retry_after: None,
                };
            }
        }
        let mut refused = Vec::new();
        let mut written = 0;
        let touched = pending.touched.len();
        for (index, window) in submission.windows.iter().enumerate() {
            let outcome = match window {
                Err(error) => refuse(RefusalCode::Malformed, chain(error)),
                Ok(window) => self.window(submission, window, row.writer, now, pending),
            };
            match outcome {
                Ok(()) => written += 1,
                Err(Refuse::Window(WindowRefusal { code, message })) => {
                    refused.push((index, code, message));
                }
                Err(again) => {
                    let (code, message) = self.again(&again);
                    // The batch comes again whole: nothing of it is kept now.
                    pending.staged.clear();
                    pending.coarse.refuse();
                    pending.touched.truncate(touched);
                    return Outcome::Refused {
                        code,
                        message,
                        retry_after: Some(RETRY_AFTER),
                    };
                }
            }
        }
        pending.accept_staged(&self.active);
        // A batch of which nothing was kept may come again, and is judged again.
        if written > 0 || refused.is_empty() {
            let now_s = u64::try_from(now.seconds()).unwrap_or(0);
            let next = dedupe::accept(&row, submission.sequence, now_s);
            pending
                .group
                .dictionary
                .push(rows::writer(&submission.instance, &next));
            pending.writers.insert(submission.instance, next);
        }
        pending.windows += written;
        Outcome::Acked {
            refused,
            duplicate: false,
        }
    }

    /// Why the ids of a stream hold no more; `None` while they do.
    fn void(&self, submission: &Submission) -> Option<&'static str> {
        let mut dictionary = lock(&submission.dictionary);
        if dictionary.is_void() {
            return Some("an earlier write of this stream failed, or a service of it was deleted");
        }
        // What the stream named once may be kept nowhere else.
        if self.directory.has_deleted(dictionary.services()) {
            dictionary.make_void();
            return Some("a service of this stream was deleted");
        }
        // Its ids are of a tree that may be full, or removed one day.
        if dictionary.trees().any(|tree| self.is_followed(tree)) {
            dictionary.make_void();
            return Some("a call tree of this stream was followed by a new one");
        }
        None
    }

    /// Whether stacks are added to another tree by now.
    fn is_followed(&self, tree: TreeId) -> bool {
        let current = self.trees.current(tree.service);
        current.is_ok_and(|row| row.epoch != tree.epoch)
    }

    /// Why a batch must come again.
    fn again(&self, refuse: &Refuse) -> (RefusalCode, String) {
        match refuse {
            Refuse::Store(error) => {
                error!(error = chain(error), "batch not prepared");
                self.metrics.store_read_errors.inc();
                (RefusalCode::Unavailable, chain(error))
            }
            Refuse::Anew => (
                RefusalCode::DictionaryReset,
                "a new call tree was begun".to_owned(),
            ),
            Refuse::Busy | Refuse::Window(_) => (
                RefusalCode::Overloaded,
                "many old windows came at once".to_owned(),
            ),
        }
    }

    /// Adds a window to the group.
    fn window(
        &mut self,
        submission: &Submission,
        window: &WireWindow,
        writer: WriterId,
        now: UnixNanos,
        pending: &mut Pending,
    ) -> Result<(), Refuse> {
        let start = window.window.start();
        if start > now.saturating_add(MAX_AHEAD) {
            let ahead = start.since(now).as_secs();
            return refuse(
                RefusalCode::ClockAhead,
                format!("window starts {ahead} s ahead of this collector's clock"),
            );
        }
        if !submission.is_import && start < now.saturating_sub(self.max_age) {
            let days = now.since(start).as_secs() / 86_400;
            return refuse(
                RefusalCode::TooOld,
                format!("window started {days} days ago, before what is kept"),
            );
        }
        let start_s = u64::try_from(start.seconds()).unwrap_or(0);
        if !submission.is_import && start_s < pending.closed && self.rolled.is_full() {
            return Err(Refuse::Busy);
        }
        let service = self.service(submission, window, pending)?;
        let series = self.series(service, window, now, pending)?;
        let tier = match submission.is_import {
            true => Tier::Import,
            false => Tier::Window,
        };
        let key = |ptype| WindowKey {
            tier,
            ptype,
            service,
            start_s,
            series,
            writer,
        };
        let types = window
            .columns
            .iter()
            .map(|column| self.ptype(column, pending))
            .collect::<Result<Vec<_>, _>>()?;
        let (epoch, stacks) = self.stacks(submission, service, &window.stacks, now, pending)?;
        let span_ns = u64::try_from(window.window.duration().as_nanos()).unwrap_or(u64::MAX);
        // A window is staged whole or not at all.
        let mut made = Vec::with_capacity(types.len() + 1);
        for (column, ptype) in window.columns.iter().zip(types) {
            let observed_ns = window.facts.observed_in(&window.window);
            let time = (span_ns, observed_ns);
            let value = value(column, epoch, &stacks, time, &mut self.gather);
            made.push(self.put(key(ptype), &window.labels, value, pending)?);
        }
        let is_cpu = |column: &Column| column.profile_type.sample() == ProfileType::cpu().sample();
        if window.columns.is_empty() || window.columns.iter().any(is_cpu) {
            let key = key(PtypeId::FACTS);
            made.push(self.put_facts(key, &window.labels, span_ns, &window.facts, pending)?);
            if !submission.is_import {
                pending.touched.push((service, series, start_s));
            }
        }
        pending.staged.extend(made);
        // Live series are counted by their facts, which not every window has.
        pending.note_active(
            Active {
                service,
                ptype: PtypeId::FACTS,
                day_s: Tier::Day.bucket(start_s),
                series,
            },
            &self.active,
        );
        let last = pending.starts.entry(service).or_default();
        *last = start_s.max(*last);
        Ok(())
    }

    fn service(
        &mut self,
        submission: &Submission,
        window: &WireWindow,
        pending: &mut Pending,
    ) -> Result<ServiceId, Refuse> {
        let key = ServiceKey {
            tenant: submission.tenant.to_string(),
            namespace: window.labels.namespace().to_owned(),
            service: window.labels.service().to_owned(),
        };
        if let Some(id) = self.directory.service(&key) {
            return Ok(id);
        }
        if let Some(id) = pending.services.get(&key) {
            return Ok(*id);
        }
        if self.directory.service_count() + pending.services.len() >= MAX_SERVICES {
            return refuse(
                RefusalCode::SeriesLimit,
                format!("this collector has {MAX_SERVICES} services already"),
            );
        }
        let id = ServiceId(self.next_service);
        self.next_service = self.next_service.saturating_add(1);
        pending.group.dictionary.push(rows::service(id, &key));
        pending.services.insert(key, id);
        Ok(id)
    }

    fn ptype(&mut self, column: &Column, pending: &mut Pending) -> Result<PtypeId, Refuse> {
        let stored = StoredType {
            profile_type: column.profile_type.clone(),
            temporality: column.temporality,
        };
        let known = self.directory.type_id(&stored);
        if let Some(id) = known.or_else(|| pending.types.get(&stored).copied()) {
            return Ok(id);
        }
        if usize::from(self.next_type) > MAX_TYPES {
            return refuse(
                RefusalCode::SeriesLimit,
                format!("profile type {} would be one too many", stored.profile_type),
            );
        }
        let id = PtypeId(self.next_type);
        self.next_type = self.next_type.saturating_add(1);
        pending
            .group
            .dictionary
            .push(rows::profile_type(id, &stored));
        pending.types.insert(stored, id);
        Ok(id)
    }

    fn series(
        &mut self,
        service: ServiceId,
        window: &WireWindow,
        now: UnixNanos,
        pending: &mut Pending,
    ) -> Result<SeriesId, Refuse> {
        let labels = &*window.labels;
        let (known, count) = self
            .directory
            .with_series(service, |table| (table.id(labels), table.len()))?;
        if let Some(id) = known {
            return Ok(id);
        }
        let fresh = pending.series.entry(service).or_default();
        if let Some(id) = fresh.get(labels) {
            return Ok(*id);
        }
        let (fresh_count, count) = (fresh.len(), count + fresh.len());
        if count >= MAX_SERIES && self.live_series(service, now)? + fresh_count >= MAX_SERIES {
            return refuse(
                RefusalCode::SeriesLimit,
                format!(
                    "service has {MAX_SERIES} series within a day already; drop a label of many values"
                ),
            );
        }
        // Ids count up from 1; 0 is the whole service.
        let id = SeriesId(u32::try_from(count).unwrap_or(u32::MAX).saturating_add(1));
        pending
            .group
            .dictionary
            .push(rows::series(service, id, labels));
        let fresh = pending.series.entry(service).or_default();
        fresh.insert(labels.clone(), id);
        Ok(id)
    }

    /// Series of a service that had a window within a day, counted anew at most
    /// once a minute.
    fn live_series(&mut self, service: ServiceId, now: UnixNanos) -> Result<usize, StoreError> {
        if let Some((counted, live)) = self.live.get(&service)
            && now.since(*counted) < CHORE_EVERY
        {
            return Ok(*live);
        }
        let Ok(day) = Window::new(now.saturating_sub(LIVE), now.saturating_add(MAX_AHEAD)) else {
            return Ok(0);
        };
        let live = self
            .store
            .active_series(PtypeId::FACTS, service, day)?
            .len();
        self.live.insert(service, (now, live));
        Ok(live)
    }

    /// The tree that stacks of `service` are added to by this group. A new epoch
    /// begins when names are normalised otherwise than before, and when the tree
    /// is full and not new.
    fn current(
        &self,
        service: ServiceId,
        now: UnixNanos,
        pending: &mut Pending,
    ) -> Result<TreeId, StoreError> {
        if let Some(id) = pending.current.get(&service) {
            return Ok(*id);
        }
        let before = self.trees.current(service)?;
        let mut epoch = before.epoch;
        let old = TreeId { service, epoch };
        let now_s = u64::try_from(now.seconds()).unwrap_or(0);
        let is_renamed = before.rules != Some(self.rules.bits());
        // A tree that is not in memory was not added to lately.
        let is_over = now_s.saturating_sub(before.since_s) >= LEAST_EPOCH_S
            && self
                .trees
                .held(old)
                .is_some_and(|tree| trees::read(&tree).is_full());
        if is_renamed || is_over {
            let tree = self.tree(old, pending)?;
            if trees::read(&tree).stack_count() > 0 {
                epoch = Epoch(epoch.0.saturating_add(1));
            }
            let row = EpochRow {
                epoch,
                // No window of the epoch before starts later, whatever our clock says.
                since_s: now_s
                    .max(pending.closed)
                    .max(before.since_s)
                    .saturating_add(MAX_AHEAD.as_secs()),
                rules: Some(self.rules.bits()),
            };
            if before == EpochRow::FIRST && epoch != before.epoch {
                // So that it is known to be there, and removed one day.
                pending.group.dictionary.push(rows::epoch(service, &before));
            }
            pending.group.dictionary.push(rows::epoch(service, &row));
            pending.begun.push((service, before));
            self.trees.set_current(service, row);
        }
        let id = TreeId { service, epoch };
        pending.current.insert(service, id);
        Ok(id)
    }

    /// A tree; what this group adds to it is written with it.
    fn tree(&self, id: TreeId, pending: &mut Pending) -> Result<SharedTree, StoreError> {
        if let Some(tree) = pending.trees.get(&id) {
            return Ok(Arc::clone(tree));
        }
        let tree = self.trees.at(id)?;
        pending.trees.insert(id, Arc::clone(&tree));
        Ok(tree)
    }

    /// Stack ids for stack ids of the stream, and the epoch that they are of.
    fn stacks(
        &mut self,
        submission: &Submission,
        service: ServiceId,
        wire: &[u32],
        now: UnixNanos,
        pending: &mut Pending,
    ) -> Result<(Epoch, Vec<u32>), Refuse> {
        if wire.is_empty() {
            return Ok((Epoch(0), Vec::new()));
        }
        let id = self.current(service, now, pending)?;
        let mut dictionary = lock(&submission.dictionary);
        // This very batch may begin an epoch.
        if dictionary
            .trees()
            .any(|tree| tree.service == service && tree != id)
        {
            dictionary.make_void();
            return Err(Refuse::Anew);
        }
        let tree = |id| self.tree(id, pending);
        match dictionary.stacks(id, wire, tree) {
            Ok(stacks) => Ok((id.epoch, stacks)),
            Err(ResolveError::Store(error)) => Err(error.into()),
            Err(error) => refuse(RefusalCode::Malformed, error.to_string()),
        }
    }

    /// A window as it is to be staged, added to what lies under its key already.
    fn put(
        &self,
        key: WindowKey,
        labels: &LabelSet,
        mut value: Value,
        pending: &mut Pending,
    ) -> Result<(WindowKey, Vec<u8>), Refuse> {
        self.put_with(key, labels, pending, |stored| {
            if let Some(stored) = stored {
                let other = Value::decode(stored).map_err(|problem| {
                    StoreError::damaged(&crate::store::keys::encode(&key), problem)
                })?;
                value.add(&other);
            }
            Ok(value.encode())
        })
    }

    fn put_facts(
        &self,
        key: WindowKey,
        labels: &LabelSet,
        span_ns: u64,
        facts: &Facts,
        pending: &mut Pending,
    ) -> Result<(WindowKey, Vec<u8>), Refuse> {
        self.put_with(key, labels, pending, |stored| {
            let earlier = stored.and_then(rows::read_facts);
            let (span_ns, facts) = match earlier {
                Some((span, earlier)) => (span_ns.max(span), rows::join_facts(&earlier, facts)),
                None => (span_ns, *facts),
            };
            Ok(rows::facts(span_ns, &facts))
        })
    }

    /// Two windows of one series may start in one second, after a restart of
    /// the target, say: what is stored is made from both.
    fn put_with(
        &self,
        key: WindowKey,
        labels: &LabelSet,
        pending: &mut Pending,
        make: impl FnOnce(Option<&[u8]>) -> Result<Vec<u8>, StoreError>,
    ) -> Result<(WindowKey, Vec<u8>), Refuse> {
        if pending.coarse.takes(&key) {
            // Only in the batch itself two windows can share a key here.
            let value = make(pending.staged.get(&key).map(Vec::as_slice))?;
            pending
                .coarse
                .prepare(&key, labels, &*self.store, &self.groups)?;
            return Ok((key, value));
        }
        let value = match pending.written(&key) {
            Some(written) => make(Some(written))?,
            None => make(self.store.window(&key)?.as_deref())?,
        };
        Ok((key, value))
    }
}

/// The stored value of a column. A gauge is kept times the seconds it stands
/// for, so that it adds over time like any count.
fn value(
    column: &Column,
    epoch: Epoch,
    stacks: &[u32],
    (span_ns, observed_ns): (u64, u64),
    gather: &mut Gather,
) -> Value {
    let (factor, observed_ns) = match column.temporality {
        Temporality::Delta => (1, observed_ns),
        Temporality::Gauge => {
            let seconds = span_ns.saturating_add(NANOS / 2) / NANOS;
            let seconds = seconds.max(1);
            (i128::from(seconds), seconds.saturating_mul(NANOS))
        }
    };
    let pairs = stacks.iter().zip(&column.values);
    // Several stacks of the wire may be one of the tree.
    let entries = gather
        .by_id(pairs.map(|(&stack, &value)| (stack, i128::from(value).saturating_mul(factor))));
    Value {
        span_ns,
        segments: vec![Segment {
            kind: SegmentKind {
                epoch,
                period: column.period,
                weight: column.weight,
            },
            observed_ns,
            windows: 1,
            entries,
        }],
    }
}
