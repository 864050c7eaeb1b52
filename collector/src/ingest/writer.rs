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

mod ids;
mod pending;
mod prepare;
mod stacks;
mod values;

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::dictionary::{WireWindow, WireWindowError};
use proto::pb::tepui::RefusalCode;
use proto::status::chain;
use proto::window::{Clock, UnixNanos};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::{error, warn};

pub use self::ids::MAX_SERIES;
use self::pending::Pending;
use super::gather::Gather;
use super::resolve::{SharedDictionary, lock};
use crate::directory::{Additions, Directory};
use crate::dirty::Dirty;
use crate::import::Words;
use crate::metrics::Metrics;
use crate::normalize::Rules;
use crate::rollup::groups::Groups;
use crate::rollup::rolled::Rolled;
use crate::store::rows::{self, WriterRow};
use crate::store::trees::{self, Trees};
use crate::store::{Active, ServiceId, Store, StoreError};

/// Batches that wait before the writer; more are refused with a retry hint.
pub const QUEUE_LENGTH: usize = 1_024;
/// Most batches of one group.
const GROUP_LENGTH: usize = 256;
/// What part of the trees' memory the trees that one group adds to may take: none
/// of them can be dropped before the group is written.
const TREES_OF_GROUP: usize = 2;
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
/// How far ahead of our clock a window may start.
const MAX_AHEAD: Duration = Duration::from_secs(120);
/// Longest time a batch may lie in a spool; older windows are refused.
pub const MAX_SPOOL_AGE: Duration = Duration::from_secs(7 * 86_400);
/// Dedupe rows are kept this long, so longer than any batch that is accepted.
const WRITER_ROW_AGE: Duration = Duration::from_secs(8 * 86_400);
/// What a sender waits after a failed write.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the ids of a batch's stacks are of.
#[derive(Debug)]
pub enum Names {
    /// The dictionary of the stream that brings it.
    Stream(SharedDictionary),
    /// Stacks that came with it.
    Whole(Words),
}

impl Names {
    /// Ids that a stream was given are void.
    fn make_void(&self) {
        match self {
            Self::Stream(dictionary) => lock(dictionary).make_void(),
            Self::Whole(_) => {}
        }
    }
}

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
    /// What its stack ids are of.
    pub names: Names,
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
        }
    }

    /// Writes batches, in one group unless they need too many trees at once, and
    /// answers each.
    pub fn commit(&mut self, mut submissions: Vec<Submission>) {
        while !submissions.is_empty() {
            submissions = self.commit_group(submissions);
            self.trees.shrink();
        }
    }

    /// Writes a group and answers each of its batches. Returns those that came when
    /// the trees of the group took [`TREES_OF_GROUP`] of what trees may take.
    fn commit_group(&mut self, mut submissions: Vec<Submission>) -> Vec<Submission> {
        let now = self.clock.now();
        let rolled = Arc::clone(&self.rolled);
        let _writing = rolled.writing();
        let mut pending = Pending::new(&rolled);
        let mut outcomes = Vec::with_capacity(submissions.len());
        for submission in &submissions {
            outcomes.push(self.prepare(submission, now, &mut pending));
            let has_several = pending.trees.len() > 1;
            if has_several && pending.tree_bytes() > self.trees.budget_bytes() / TREES_OF_GROUP {
                break;
            }
        }
        let later = submissions.split_off(outcomes.len());
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
                    submission.names.make_void();
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
        later
    }

    /// Counts what was accepted, and sends an outcome.
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
            // Counted by the door that tells it.
            Outcome::Refused { .. } => {}
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
}
