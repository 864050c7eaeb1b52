//! From windows to findings: looks at each step of time once it is over.
//!
//! The writer marks the steps that got a window. When a step and a grace for
//! stragglers have passed, every marked series is added up from the store,
//! its feature row is computed and written, and the rows go to the alerts.
//! Rows are a function of what is stored, so a step may be computed again:
//! after a restart, or when a late window arrives.

mod coarse;
mod pods;
pub mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::labels::{LabelSet, VERSION};
use proto::profile::Facts;
use proto::status::chain;
use proto::window::{Clock, UnixNanos, Window};
use rustc_hash::FxHashMap;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use self::coarse::Coarse;
use crate::agents::Agents;
use crate::alert::Alerts;
use crate::detect::catalogue::Catalogue;
use crate::detect::spin::{self, SpinSettings};
use crate::directory::Directory;
use crate::dirty::Dirty;
use crate::feature::{self, SeriesRow, StepProfile, codec};
use crate::flatten::{Choice, flatten};
use crate::metrics::Metrics;
use crate::store::exact::ExactSums;
use crate::store::segment;
use crate::store::tier::{Tier, range};
use crate::store::tree::ServiceTree;
use crate::store::trees::{self, SharedTree, Trees};
use crate::store::{
    Epoch, KeyValue, PtypeId, SeriesId, ServiceId, ServiceKey, Store, StoreError, SumRequest,
};
use crate::tree::CallTree;

/// Longest wait for stragglers after a step; a shorter step waits its length.
const MAX_GRACE: Duration = Duration::from_secs(15);
/// Stacks of all services of which it is remembered whether they wait, a byte each.
const MAX_WAITS: usize = 4 << 20;
/// Bytes of feature rows that are written at a time.
const WRITE_BYTES: usize = 1 << 20;
/// How far back steps are computed again after a start.
const LOOK_BACK: Duration = Duration::from_secs(600);
/// How soon it is looked again when a step was over: more may be by then.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Looks at steps that are over.
#[derive(Debug)]
pub struct Watch {
    store: Arc<dyn Store>,
    trees: Arc<Trees>,
    directory: Arc<Directory>,
    dirty: Arc<Dirty>,
    alerts: Arc<Alerts>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    catalogue: Catalogue,
    settings: SpinSettings,
    waits: Waits,
    coarse: Coarse,
}

impl Watch {
    /// Returns what watches `store` for `alerts`.
    #[expect(
        clippy::too_many_arguments,
        reason = "wiring: each is a part of its own"
    )]
    pub fn new(
        store: Arc<dyn Store>,
        trees: Arc<Trees>,
        directory: Arc<Directory>,
        dirty: Arc<Dirty>,
        alerts: Arc<Alerts>,
        agents: Arc<Agents>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        catalogue: Catalogue,
        settings: SpinSettings,
    ) -> Self {
        let coarse = Coarse::new(
            Arc::clone(&store),
            Arc::clone(&directory),
            Arc::clone(&alerts),
            agents,
            dirty.step_s(),
        );
        Self {
            coarse,
            store,
            trees,
            directory,
            dirty,
            alerts,
            metrics,
            clock,
            catalogue,
            settings,
            waits: Waits::default(),
        }
    }

    /// Looks at steps until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let watch = Arc::new(self);
        let first = Arc::clone(&watch);
        blocking(move || first.mark_recent()).await;
        let step = Duration::from_secs(watch.dirty.step_s());
        let look_every = (step / 4).clamp(LOOK_AGAIN, Duration::from_secs(5));
        let mut pause = look_every;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let turn = Arc::clone(&watch);
            let was_over = blocking(move || Ok(turn.turn())).await.unwrap_or(false);
            pause = match was_over {
                true => LOOK_AGAIN,
                false => (2 * pause).min(look_every),
            };
        }
    }

    /// Marks what was written shortly before this start.
    fn mark_recent(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        self.coarse.touch_recent(now);
        let Ok(recent) = Window::new(now.saturating_sub(LOOK_BACK), now) else {
            return Ok(());
        };
        for service in self.directory.service_ids() {
            let request = SumRequest {
                tier: Tier::Window,
                ptype: PtypeId::FACTS,
                service,
                series: None,
                window: recent,
            };
            self.store.facts(&request, &mut |key, _, _| {
                self.dirty.mark([(key.service, key.series, key.start_s)]);
            })?;
        }
        Ok(())
    }

    /// Looks at every step that is over by now; returns whether there was one and all
    /// of them are done.
    pub fn turn(&self) -> bool {
        let now = self.clock.now();
        let step = Duration::from_secs(self.dirty.step_s());
        let settled = now.saturating_sub(step.min(MAX_GRACE));
        let settled_s = u64::try_from(settled.seconds()).unwrap_or(0);
        let _looking = self.dirty.looking();
        let mut is_done = false;
        while let Some((step_s, marks)) = self.dirty.take(settled_s) {
            is_done = self.step(step_s, &marks, now);
            if !is_done {
                // The store takes nothing now: this step and those after it wait.
                let marks = marks.into_iter();
                self.dirty
                    .mark(marks.map(|(service, series)| (service, series, step_s)));
                break;
            }
        }
        self.coarse.turn(settled_s, now);
        if let Err(failure) = self.alerts.tick(now) {
            error!(error = chain(&failure), "alerts not kept");
        }
        is_done
    }

    /// Computes, writes and judges the rows of one step. Returns whether what
    /// came of it is kept.
    fn step(&self, step_s: u64, marks: &BTreeSet<(ServiceId, SeriesId)>, now: UnixNanos) -> bool {
        let Some(step) = range(step_s, step_s.saturating_add(self.dirty.step_s())) else {
            return true;
        };
        let mut encoded = Vec::new();
        let mut bytes = 0;
        let mut rows = Vec::new();
        let mut services = by_service(marks).into_iter().peekable();
        while let Some((service, marked)) = services.next() {
            // What cannot be read of one service does not keep the others from
            // being judged.
            match self.service(step, service, &marked) {
                Err(StoreError::Deleted) => {}
                Ok(found) => {
                    bytes += found
                        .encoded
                        .iter()
                        .map(|(_, row)| row.len())
                        .sum::<usize>();
                    encoded.extend(found.encoded);
                    rows.extend(found.rows);
                }
                Err(failure) => self.tell(&failure, "service not looked at"),
            }
            if bytes < WRITE_BYTES && services.peek().is_some() {
                continue;
            }
            // A step of which only a part is kept is looked at whole once more.
            if !encoded.is_empty()
                && let Err(failure) = self.store.write_features(step.start(), &encoded)
            {
                self.tell(&failure, "feature rows not kept");
                return false;
            }
            encoded.clear();
            bytes = 0;
        }
        for (service, _) in marks {
            self.coarse.touch(*service, step_s);
        }
        if let Err(failure) = self.alerts.observe(&rows, now) {
            // Judged again from the store a little later; see `turn`.
            self.tell(&failure, "findings not kept");
            return false;
        }
        true
    }

    fn tell(&self, failure: &StoreError, what: &'static str) {
        self.metrics.store_read_errors.inc();
        error!(error = chain(failure), "{what}");
    }

    /// Rows of the marked series of a service in a step, and of every version of
    /// it that has one of them.
    fn service(
        &self,
        step: Window,
        service: ServiceId,
        marked: &BTreeSet<SeriesId>,
    ) -> Result<Found, StoreError> {
        let mut found = Found::default();
        let Some(key) = self.directory.service_key(service) else {
            return Ok(found);
        };
        let active = self.store.active_series(PtypeId::FACTS, service, step)?;
        let mut versions: BTreeMap<String, Vec<(SeriesId, Arc<LabelSet>)>> = BTreeMap::new();
        self.directory.with_series(service, |table| {
            for id in active {
                if let Some(labels) = table.labels(id) {
                    let of_version = versions.entry(version(labels).to_owned());
                    of_version.or_default().push((id, Arc::clone(labels)));
                }
            }
        })?;
        versions.retain(|_, series| series.iter().any(|(id, _)| marked.contains(id)));
        let shared = self.trees.get(service)?;
        let cpu = self.cpu_types();
        for (version, series) in versions {
            let mut whole = Sampled::default();
            let mut observed = 0_u64;
            let mut name = None;
            let ids: Vec<SeriesId> = series.iter().map(|(id, _)| *id).collect();
            let of_version = Some(ids.as_slice());
            let mut sampled =
                self.sampled(step, service, of_version, &cpu, &shared, &mut whole.values)?;
            for (id, labels) in series {
                let Some(sampled) = sampled.remove(&id) else {
                    continue;
                };
                whole.totals.absorb(&sampled);
                // Without names of all its samples it says nothing.
                if sampled.has_other_epoch {
                    continue;
                }
                observed += 1;
                let of_series = Name {
                    key: Arc::clone(&key),
                    labels,
                };
                if marked.contains(&id) {
                    let row =
                        self.series_row(step, service, id, &of_series, &shared, &cpu, &sampled)?;
                    found.series(row, service, id);
                }
                name = Some(of_series);
            }
            let Some(name) = name.filter(|_| !whole.totals.has_other_epoch) else {
                continue;
            };
            // Rows hold the time that one series was observed, on average.
            whole.totals.observed_ns /= observed.max(1);
            let nothing = CallTree::new();
            let profile = name.profile(step, &whole.totals, &nothing);
            let row = {
                let tree = trees::read(&shared);
                feature::service_row(&profile, feature::function_counts(&tree, &whole.values))
            };
            let discriminator = codec::version_number(&version);
            let key = codec::key(codec::SERVICE_ROW, service.0, step.start(), discriminator);
            found.encoded.push((key.to_vec(), row.encode()));
        }
        Ok(found)
    }

    fn cpu_types(&self) -> Vec<PtypeId> {
        let types = self.directory.types();
        let cpu = types
            .iter()
            .filter(|(_, t)| t.profile_type.is_called("cpu"));
        cpu.map(|(id, _)| *id).collect()
    }

    /// The row of a series; its call tree is built only if it may hold a spin.
    #[expect(
        clippy::too_many_arguments,
        reason = "what is known of one series while its service is gone through"
    )]
    fn series_row(
        &self,
        step: Window,
        service: ServiceId,
        id: SeriesId,
        name: &Name,
        shared: &SharedTree,
        cpu: &[PtypeId],
        totals: &Totals,
    ) -> Result<SeriesRow, StoreError> {
        let mut built = CallTree::new();
        let profile = name.profile(step, totals, &built);
        if spin::may_spin(feature::count(totals.waiting), &profile, &self.settings) {
            let mut values = ExactSums::default();
            self.sampled(step, service, Some(&[id]), cpu, shared, &mut values)?;
            flatten(&mut built, &trees::read(shared), &values, &Choice::ALL);
        }
        let profile = name.profile(step, totals, &built);
        Ok(feature::series_row(
            &profile,
            &self.catalogue,
            &self.settings,
        ))
    }

    /// Adds the sample counts of series in a step to `values`, by stack id; returns
    /// what is known of each series that was observed.
    fn sampled(
        &self,
        step: Window,
        service: ServiceId,
        series: Option<&[SeriesId]>,
        cpu: &[PtypeId],
        shared: &SharedTree,
        values: &mut ExactSums,
    ) -> Result<BTreeMap<SeriesId, Totals>, StoreError> {
        let request = |ptype| SumRequest {
            tier: Tier::Window,
            ptype,
            service,
            series,
            window: step,
        };
        let mut found: BTreeMap<SeriesId, Totals> = BTreeMap::new();
        // The writer must not wait for the reads below.
        let (epoch, waits) = {
            let tree = trees::read(shared);
            (tree.epoch(), self.waits.of(&tree, &self.catalogue))
        };
        for ptype in cpu {
            self.store.values(&request(*ptype), &mut |key, bytes| {
                let mut period_ns = 0;
                let mut samples: i128 = 0;
                let mut waiting: i128 = 0;
                let mut has_other_epoch = false;
                let observed_ns = segment::visit(bytes, |kind, stack, value| {
                    samples = samples.saturating_add(value);
                    // Stacks of the epoch before have no names here.
                    if kind.epoch != epoch {
                        has_other_epoch = true;
                        return;
                    }
                    period_ns = kind.weight.max(period_ns);
                    let index = usize::try_from(stack).unwrap_or(usize::MAX);
                    values.add(stack, value);
                    if waits.get(index) == Some(&true) {
                        waiting = waiting.saturating_add(value);
                    }
                })?;
                let totals = found.entry(key.series).or_default();
                totals.samples = totals.samples.saturating_add(samples);
                totals.waiting = totals.waiting.saturating_add(waiting);
                totals.has_other_epoch |= has_other_epoch;
                // Steps of one rate are the rule; at a change of rate the larger
                // period stands for both, a few samples off.
                totals.period_ns = totals.period_ns.max(period_ns);
                totals.observed_ns = totals.observed_ns.saturating_add(observed_ns);
                Ok(())
            })?;
        }
        found.retain(|_, totals| totals.observed_ns > 0);
        self.store
            .facts(&request(PtypeId::FACTS), &mut |key, _, window| {
                if let Some(totals) = found.get_mut(&key.series) {
                    totals.facts = added(&totals.facts, window);
                }
            })?;
        Ok(found)
    }
}

/// Facts of two windows: amounts add, of the rest the later one holds.
fn added(all: &Facts, next: &Facts) -> Facts {
    Facts {
        cpu_ns: all.cpu_ns.saturating_add(next.cpu_ns),
        throttled_ns: all.throttled_ns.saturating_add(next.throttled_ns),
        lost_samples: all.lost_samples.saturating_add(next.lost_samples),
        ..*next
    }
}

fn by_service(marks: &BTreeSet<(ServiceId, SeriesId)>) -> BTreeMap<ServiceId, BTreeSet<SeriesId>> {
    let mut services: BTreeMap<ServiceId, BTreeSet<SeriesId>> = BTreeMap::new();
    for (service, series) in marks {
        services.entry(*service).or_default().insert(*series);
    }
    services
}

/// Rows of a service in a step.
#[derive(Default)]
struct Found {
    encoded: Vec<KeyValue>,
    rows: Vec<SeriesRow>,
}

impl Found {
    fn series(&mut self, row: SeriesRow, service: ServiceId, id: SeriesId) {
        let key = codec::key(codec::SERIES_ROW, service.0, row.step.start(), id.0);
        self.encoded.push((key.to_vec(), row.encode()));
        self.rows.push(row);
    }
}

/// What a series is called.
struct Name {
    key: Arc<ServiceKey>,
    labels: Arc<LabelSet>,
}

/// CPU samples of a step.
#[derive(Default)]
struct Sampled {
    /// Sample counts by stack id.
    values: ExactSums,
    totals: Totals,
}

/// What is known of the CPU samples of a step beside their stacks.
#[derive(Default)]
struct Totals {
    samples: i128,
    /// Samples whose leaf waits.
    waiting: i128,
    period_ns: u64,
    observed_ns: u64,
    /// Some samples are of a tree that another follows.
    has_other_epoch: bool,
    facts: Facts,
}

impl Totals {
    fn absorb(&mut self, other: &Self) {
        self.samples = self.samples.saturating_add(other.samples);
        self.waiting = self.waiting.saturating_add(other.waiting);
        self.has_other_epoch |= other.has_other_epoch;
        self.period_ns = self.period_ns.max(other.period_ns);
        self.observed_ns = self.observed_ns.saturating_add(other.observed_ns);
        self.facts = added(&self.facts, &other.facts);
    }
}

impl Name {
    fn profile<'a>(&'a self, step: Window, totals: &Totals, tree: &'a CallTree) -> StepProfile<'a> {
        StepProfile {
            step,
            tenant: &self.key.tenant,
            namespace: &self.key.namespace,
            service: &self.key.service,
            labels: &self.labels,
            samples: feature::count(totals.samples),
            tree,
            period_ns: totals.period_ns,
            observed_ns: totals.observed_ns,
            facts: totals.facts,
        }
    }
}

/// Which stacks of which services count as waiting, found once for each.
#[derive(Debug, Default)]
struct Waits(Mutex<WaitingServices>);

#[derive(Debug, Default)]
struct WaitingServices {
    services: FxHashMap<ServiceId, WaitingStacks>,
    /// Stacks of all of them.
    stacks: usize,
}

/// Per stack: whether its leaf waits; and the tree's epoch and count of roll-backs
/// for which that holds.
type WaitingStacks = (Option<(Epoch, u64)>, Arc<Vec<bool>>);

impl Waits {
    /// Per stack of `tree`: whether its leaf waits.
    fn of(&self, tree: &ServiceTree, catalogue: &Catalogue) -> Arc<Vec<bool>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let version = Some((tree.epoch(), tree.roll_backs()));
        let (of_version, mut waits) = known.services.remove(&tree.service()).unwrap_or_default();
        known.stacks -= waits.len();
        if of_version != version {
            waits = Arc::default();
        }
        if waits.len() < tree.stack_count() {
            let waits = Arc::make_mut(&mut waits);
            let count = u32::try_from(tree.stack_count()).unwrap_or(u32::MAX);
            let first = u32::try_from(waits.len()).unwrap_or(u32::MAX);
            for stack in first..count {
                let roles = tree.frames_of(stack).map(|frame| {
                    let name = tree.string(frame.function).unwrap_or_default();
                    catalogue.role_of(frame.kind, name)
                });
                waits.push(spin::waits(roles));
            }
        }
        if known.stacks + waits.len() > MAX_WAITS {
            *known = WaitingServices::default();
        }
        known.stacks += waits.len();
        let remembered = (version, Arc::clone(&waits));
        known.services.insert(tree.service(), remembered);
        waits
    }
}

fn version(labels: &LabelSet) -> &str {
    labels.get(VERSION).unwrap_or("")
}

/// Runs `work` on a blocking thread and reports its failure.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => return Some(done),
        Ok(Err(failure)) => error!(error = chain(&failure), "recent windows not read"),
        Err(panicked) => warn!(error = %panicked, "a look at a step ended early"),
    }
    None
}
