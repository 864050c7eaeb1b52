//! Answers readers: picks services and series, sums vectors over the range,
//! and maps them to a call tree.
//!
//! Summing runs on blocking threads, at most [`MAX_QUERIES`] at once; a caller
//! that goes away while it waits costs nothing.

pub mod series;
pub mod timeline;

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use proto::labels::Selector;
use proto::status::{Kind, chain};
use proto::value_type::{ProfileType, Temporality};
use proto::window::{Clock, UnixNanos, Window};
use regex::{Regex, RegexBuilder};
use tokio::sync::Semaphore;

use self::timeline::{MAX_POINTS, TimelineAnswer, TimelineRequest};
use crate::answer::{Coverage, ProfileAnswer};
use crate::directory::Directory;
use crate::flatten::{Choice, flatten};
use crate::memory::{Budget, NoShare, Share};
use crate::prune;
use crate::rollup::read::{RangeReader, Selection};
use crate::rollup::total::Total;
use crate::store::segment::RangeSum;
use crate::store::tier::Tier;
use crate::store::tree::ServiceTree;
use crate::store::trees::{self, SharedTree, Trees};
use crate::store::{
    PtypeId, SeriesId, ServiceId, ServiceKey, Store, StoreError, StoredType, SumRequest,
};
use crate::tree::CallTree;

/// Queries that are summed at once; others wait.
pub const MAX_QUERIES: usize = 4;
/// Largest compiled regular expression of a request, in bytes.
const MAX_REGEX_BYTES: usize = 1 << 20;
/// Most series of a list.
pub const MAX_SERIES: usize = 10_000;
/// Queries that run or wait; further ones are refused.
const MAX_WAITING: usize = 256;
/// How long a query waits for its turn and for memory.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nodes of an answer when the caller does not say: more than a screen shows.
pub const DEFAULT_MAX_NODES: usize = 8_192;
/// How far back a service's load in `services` looks.
const LOAD_RANGE: Duration = Duration::from_secs(300);

/// A service as a reader names it: `logger` in every namespace or
/// `prod/logger` in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName {
    /// `None` means every namespace.
    pub namespace: Option<String>,
    /// The service.
    pub name: String,
}

impl FromStr for ServiceName {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, text),
        };
        if name.is_empty() {
            return Err(QueryError::NoServiceName);
        }
        Ok(Self {
            namespace,
            name: name.to_owned(),
        })
    }
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Asks for the merged call tree of a selection.
#[derive(Clone, Debug)]
pub struct ProfileRequest {
    /// Of which service.
    pub service: ServiceName,
    /// Windows that start in this time.
    pub window: Window,
    /// What is counted, as [`ProfileType::is_called`] reads it; empty means CPU.
    pub profile_type: String,
    /// Which series.
    pub selector: Selector,
    /// Only samples with a function that matches.
    pub focus: Option<Regex>,
    /// No samples with a function that matches.
    pub ignore: Option<Regex>,
    /// Most nodes of the answer; 0 means [`DEFAULT_MAX_NODES`].
    pub max_nodes: usize,
}

/// A service as `services` lists it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ServiceSummary {
    /// Its namespace, or `""`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Series it ever had.
    pub series: u64,
    /// Start of its latest window in the range.
    #[serde(skip)]
    pub last_window: UnixNanos,
    /// Thousandths of a core over the last minutes of the range.
    pub cpu_millicores: u64,
    /// Profile types it has, in five-part form.
    pub profile_types: Vec<String>,
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The service's name is empty.
    #[error("a service is needed: --service NAME or NAMESPACE/NAME")]
    NoServiceName,
    /// No such service.
    #[error("no service {name:?} is known here; known are: {known}")]
    UnknownService {
        /// What was asked for.
        name: String,
        /// Names of services, cut to a few.
        known: String,
    },
    /// The service has no such profile type.
    #[error("service {service:?} has no profile type {asked:?}; it has: {known}")]
    UnknownType {
        /// The service.
        service: String,
        /// What was asked for.
        asked: String,
        /// The types it has.
        known: String,
    },
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// A timeline would have too many points.
    #[error(
        "that makes {points} points, more than {MAX_POINTS}: take a longer step, a shorter range or fewer groups"
    )]
    TooManyPoints {
        /// How many.
        points: usize,
    },
    /// Too many ask at once.
    #[error("more queries came than can be answered; ask again in some seconds")]
    Busy,
    /// It would take more memory than there is.
    #[error(transparent)]
    Memory(#[from] NoShare),
    /// The work was ended before it was done.
    #[error("the query was ended: the collector is stopping or the query is defective")]
    Ended,
}

impl QueryError {
    /// What kind of failure it is for a caller.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoServiceName | Self::TooManyPoints { .. } => Kind::Invalid,
            Self::UnknownService { .. } | Self::UnknownType { .. } => Kind::NotFound,
            Self::Store(error) => error.kind(),
            Self::Busy | Self::Memory(_) => Kind::Exhausted,
            Self::Ended => Kind::Unavailable,
        }
    }

    /// The gRPC status of this failure.
    pub fn status(&self) -> tonic::Status {
        self.kind().status(chain(self))
    }
}

/// Answers readers; cheap to clone.
#[derive(Clone, Debug)]
pub struct Query {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    trees: Arc<Trees>,
    directory: Arc<Directory>,
    clock: Arc<dyn Clock>,
    permits: Arc<Semaphore>,
    /// Queries that run or wait.
    present: AtomicUsize,
    memory: Arc<Budget>,
    reader: RangeReader,
}

impl Query {
    /// Returns what answers from `store`.
    pub fn new(
        store: Arc<dyn Store>,
        trees: Arc<Trees>,
        directory: Arc<Directory>,
        reader: RangeReader,
        memory: Budget,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                trees,
                directory,
                reader,
                memory: Arc::new(memory),
                present: AtomicUsize::new(0),
                clock,
                permits: Arc::new(Semaphore::new(MAX_QUERIES)),
            }),
        }
    }

    /// Runs `work` on a blocking thread when one of the few places is free.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let _present = Present::count(&self.inner)?;
        let permits = Arc::clone(&self.inner.permits);
        let permit = tokio::time::timeout(PATIENCE, permits.acquire_owned())
            .await
            .map_err(|_elapsed| QueryError::Busy)?
            .map_err(|_| QueryError::Ended)?;
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || {
            let _held_until_done = permit;
            work(&inner)
        })
        .await
        .map_err(|_panicked| QueryError::Ended)?
    }

    /// Services that `name` means.
    ///
    /// # Errors
    ///
    /// [`QueryError::UnknownService`] with the services there are.
    pub fn find(
        &self,
        tenant: &str,
        name: &ServiceName,
    ) -> Result<Vec<(ServiceId, ServiceKey)>, QueryError> {
        self.inner.find(tenant, name)
    }

    /// Whether `name` means a service.
    ///
    /// # Errors
    ///
    /// [`QueryError::UnknownService`] with the services there are.
    pub fn knows(&self, tenant: &str, name: &ServiceName) -> Result<(), QueryError> {
        self.inner.find(tenant, name).map(drop)
    }

    /// The merged call tree of a selection; a range without windows gives an
    /// empty tree with a note.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the service or type is not known or the store fails.
    pub async fn profile(
        &self,
        tenant: &str,
        request: ProfileRequest,
    ) -> Result<ProfileAnswer, QueryError> {
        let tenant = tenant.to_owned();
        let gone = Gone::default();
        let flag = Arc::clone(&gone.0);
        self.blocking(move |inner| inner.profile(&tenant, &request, &flag))
            .await
    }

    /// A quantity over time, per group of series.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the service or type is not known, there would be too
    /// many points, or the store fails.
    pub async fn timeline(
        &self,
        tenant: &str,
        request: TimelineRequest,
    ) -> Result<TimelineAnswer, QueryError> {
        let tenant = tenant.to_owned();
        let gone = Gone::default();
        let flag = Arc::clone(&gone.0);
        self.blocking(move |inner| timeline::answer(inner, &tenant, &request, &flag))
            .await
    }

    /// Services with a window in `window`, by namespace and name.
    ///
    /// # Errors
    ///
    /// [`QueryError::Store`] if the store fails.
    pub async fn services(
        &self,
        tenant: &str,
        window: Window,
    ) -> Result<Vec<ServiceSummary>, QueryError> {
        let tenant = tenant.to_owned();
        self.blocking(move |inner| inner.services(&tenant, window))
            .await
    }

    /// Label names of a service's series that `selector` picks, or the values
    /// of label `name`; sorted.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the service is not known or the store fails.
    pub async fn labels(
        &self,
        tenant: &str,
        service: &ServiceName,
        selector: &Selector,
        name: Option<&str>,
    ) -> Result<Vec<String>, QueryError> {
        let (tenant, service) = (tenant.to_owned(), service.clone());
        let (selector, name) = (selector.clone(), name.map(str::to_owned));
        self.blocking(move |inner| {
            let mut values = std::collections::BTreeSet::new();
            for (id, _) in inner.find(&tenant, &service)? {
                inner.directory.with_series(id, |table| {
                    for (_, labels) in table.iter().filter(|(_, l)| selector.accepts(l)) {
                        match &name {
                            Some(name) => values.extend(labels.get(name).map(str::to_owned)),
                            None => values.extend(labels.iter().map(|(n, _)| n.to_owned())),
                        }
                    }
                })?;
            }
            Ok(values.into_iter().collect())
        })
        .await
    }
}

/// Sums up one or more services' answers.
#[derive(Default)]
struct Merge {
    tree: CallTree,
    coverage: Coverage,
    periods: Vec<i64>,
    /// Stretches of seconds during which something was observed.
    seconds: RangeSum,
    rounded_to: Option<Tier>,
}

impl Inner {
    /// Services that `name` means.
    fn find(
        &self,
        tenant: &str,
        name: &ServiceName,
    ) -> Result<Vec<(ServiceId, ServiceKey)>, QueryError> {
        let all = self.directory.services(tenant);
        let whole = name.to_string();
        let is_meant = |key: &ServiceKey| match &name.namespace {
            None => key.service == name.name,
            Some(namespace) => key.service == name.name && key.namespace == *namespace,
        };
        let found: Vec<_> = all
            .iter()
            // A service's own name may hold a slash.
            .filter(|(_, key)| is_meant(key) || key.service == whole)
            .cloned()
            .collect();
        if found.is_empty() {
            let mut known: Vec<&str> = all.iter().map(|(_, key)| key.service.as_str()).collect();
            known.dedup();
            known.truncate(20);
            return Err(QueryError::UnknownService {
                name: name.to_string(),
                known: match known.is_empty() {
                    true => "none yet; start an agent beside your service".to_owned(),
                    false => known.join(", "),
                },
            });
        }
        Ok(found)
    }

    /// Series of a service that `selector` picks.
    fn select(&self, service: ServiceId, selector: &Selector) -> Result<Selection, QueryError> {
        if selector.is_empty() {
            return Ok(Selection::All);
        }
        let series = self.directory.with_series(service, |table| {
            let picked = table.iter().filter(|(_, labels)| selector.accepts(labels));
            picked.map(|(id, _)| id).collect()
        })?;
        if let Some((name, value)) = selector.single_equal()
            && let Some(id) = self.reader.groups().get(service, name, value)?
        {
            return Ok(Selection::Group {
                id,
                members: series,
            });
        }
        Ok(Selection::Some(series))
    }

    /// Says which types there are.
    fn unknown_type(&self, service: &ServiceName, asked: &str) -> QueryError {
        let types = self.directory.types();
        let kinds = types.iter().map(|(_, t)| t.profile_type.sample().kind());
        let mut known: Vec<&str> = kinds.collect();
        known.sort_unstable();
        known.dedup();
        QueryError::UnknownType {
            service: service.to_string(),
            asked: asked.to_owned(),
            known: known.join(", "),
        }
    }

    /// The types that `asked` means, most used form first.
    fn types(&self, asked: &str) -> Vec<(PtypeId, Arc<StoredType>)> {
        let asked = if asked.is_empty() { "cpu" } else { asked };
        let mut types = self.directory.types();
        types.retain(|(_, stored)| stored.profile_type.is_called(asked));
        types
    }

    fn profile(
        &self,
        tenant: &str,
        request: &ProfileRequest,
        gone: &Arc<AtomicBool>,
    ) -> Result<ProfileAnswer, QueryError> {
        let services = self.find(tenant, &request.service)?;
        let types = self.types(&request.profile_type);
        let mut answer: Option<(Arc<StoredType>, Merge)> = None;
        for (ptype, stored) in types {
            let mut merge = Merge::default();
            for (service, _) in &services {
                self.merge(*service, ptype, request, gone, &mut merge)?;
            }
            // Of several types that answer to one name, the one with data.
            if answer.is_none() || merge.coverage.windows > 0 {
                let had = answer.as_ref().map_or(0, |(_, m)| m.coverage.windows);
                if merge.coverage.windows >= had {
                    answer = Some((stored, merge));
                }
            }
        }
        let Some((stored, merge)) = answer else {
            if request.profile_type.is_empty() {
                return Ok(self.finish(
                    request,
                    &StoredType {
                        profile_type: ProfileType::cpu(),
                        temporality: Temporality::Delta,
                    },
                    Merge::default(),
                ));
            }
            return Err(self.unknown_type(&request.service, &request.profile_type));
        };
        Ok(self.finish(request, &stored, merge))
    }

    /// Adds one service's vectors to `merge`, in the unit of the type.
    fn merge(
        &self,
        service: ServiceId,
        ptype: PtypeId,
        request: &ProfileRequest,
        gone: &Arc<AtomicBool>,
        merge: &mut Merge,
    ) -> Result<(), QueryError> {
        let selection = self.select(service, &request.selector)?;
        let tree = self.trees.get(service)?;
        let _memory = self.share(&tree)?;
        let mut total = Total::Vectors(RangeSum {
            cancelled: Some(Arc::clone(gone)),
            ..RangeSum::default()
        });
        let rounded = self
            .reader
            .add(service, ptype, &selection, request.window, &mut total)?;
        let Total::Vectors(sum) = total else {
            return Ok(());
        };
        if sum.windows() == 0 {
            return Ok(());
        }
        merge.rounded_to = merge.rounded_to.max(rounded);
        // One vector in the unit of the type, whatever the rates were.
        let mut weighted: Vec<i128> = Vec::new();
        let mut samples: i128 = 0;
        for (kind, of_kind) in &sum.sums {
            merge.periods.push(kind.period);
            let weight = i128::from(kind.weight);
            if weighted.len() < of_kind.values.len() {
                weighted.resize(of_kind.values.len(), 0);
            }
            for (slot, value) in weighted.iter_mut().zip(&of_kind.values) {
                samples = samples.saturating_add(*value);
                *slot = slot.saturating_add(value.saturating_mul(weight));
            }
        }
        let coverage = &mut merge.coverage;
        let samples = u64::try_from(samples.max(0)).unwrap_or(u64::MAX);
        coverage.samples = coverage.samples.saturating_add(samples);
        coverage.windows = coverage.windows.saturating_add(sum.windows());
        let choice = Choice {
            focus: request.focus.as_ref(),
            ignore: request.ignore.as_ref(),
            max_nodes: max_nodes(request),
        };
        let folded = flatten(&mut merge.tree, &trees::read(&tree), &weighted, &choice);
        coverage.pruned_nodes = coverage.pruned_nodes.saturating_add(folded);
        // Days are looked at, and no window has two series.
        let series = self.active(service, ptype, &selection, request.window)?;
        let series = series.min(sum.windows());
        coverage.series = coverage.series.saturating_add(series);
        let lost = self.lost_samples(service, &selection, request.window)?;
        coverage.lost_samples = coverage.lost_samples.saturating_add(lost);
        merge.seconds.absorb(&RangeSum {
            seconds: sum.seconds,
            ..RangeSum::default()
        });
        Ok(())
    }

    /// Memory for an answer over `tree`.
    fn share(&self, tree: &SharedTree) -> Result<Share, NoShare> {
        // The tree is let go before anything is waited for, or the writer could
        // not go on meanwhile.
        let bytes = cost(&trees::read(tree));
        self.memory.take(bytes, PATIENCE)
    }

    /// How many series of a selection had a window on a day of `window`.
    fn active(
        &self,
        service: ServiceId,
        ptype: PtypeId,
        selection: &Selection,
        window: Window,
    ) -> Result<u64, StoreError> {
        let active = self.store.active_series(ptype, service, window)?;
        let count = match selection.series() {
            None => active.len(),
            Some(series) => {
                let is_active = |id: &&SeriesId| active.binary_search(id).is_ok();
                series.iter().filter(is_active).count()
            }
        };
        Ok(u64::try_from(count).unwrap_or(u64::MAX))
    }

    fn lost_samples(
        &self,
        service: ServiceId,
        selection: &Selection,
        window: Window,
    ) -> Result<u64, StoreError> {
        let mut total = Total::empty(PtypeId::FACTS);
        let facts = PtypeId::FACTS;
        self.reader
            .add(service, facts, selection, window, &mut total)?;
        Ok(match total {
            Total::Facts(Some((_, facts))) => facts.lost_samples,
            _ => 0,
        })
    }

    /// Divides gauges by the time they were seen, prunes and adds notes.
    fn finish(&self, request: &ProfileRequest, stored: &StoredType, merge: Merge) -> ProfileAnswer {
        let Merge {
            mut tree,
            mut coverage,
            mut periods,
            mut seconds,
            rounded_to,
        } = merge;
        seconds.finish();
        if stored.temporality == Temporality::Gauge {
            tree.divide(i128::from(seconds.covered_s()));
        }
        coverage.observed = Duration::from_secs(seconds.covered_s());
        periods.sort_unstable();
        periods.dedup();
        // Several services together may have more than each was cut to.
        if tree.nodes().len() > max_nodes(request) {
            let pruned;
            (tree, pruned) = prune::prune(&tree, max_nodes(request));
            coverage.pruned_nodes = coverage.pruned_nodes.saturating_add(pruned);
        }
        if let Some(tier) = rounded_to {
            coverage.notes.push(format!(
                "single windows of the edge of the range are not kept any more: it was rounded to whole {tier}s"
            ));
        }
        if coverage.windows == 0 {
            coverage.notes.push(
                "no windows in this range; widen it with --since, or check the agent with `agent doctor`"
                    .to_owned(),
            );
        }
        if coverage.lost_samples > 0 {
            let lost = coverage.lost_samples;
            coverage
                .notes
                .push(format!("{lost} samples were lost on the way"));
        }
        let range_s = request.window.duration().as_secs();
        let since_first = seconds.seconds.first().map_or(0, |(from, _)| {
            let end = request.window.end().min(self.clock.now()).seconds();
            u64::try_from(end).unwrap_or(0).saturating_sub(*from)
        });
        if coverage.windows > 0
            && seconds.covered_s().saturating_mul(10) < since_first.saturating_mul(8)
        {
            coverage.notes.push(format!(
                "{} s of {} s were observed",
                seconds.covered_s(),
                since_first.min(range_s)
            ));
        }
        ProfileAnswer {
            profile_type: stored.profile_type.clone(),
            temporality: stored.temporality,
            period: match periods[..] {
                [only] => only,
                _ => 0,
            },
            window: request.window,
            tree,
            coverage,
        }
    }

    fn services(&self, tenant: &str, window: Window) -> Result<Vec<ServiceSummary>, QueryError> {
        let mut out = Vec::new();
        let types = self.directory.types();
        for (service, key) in self.directory.services(tenant) {
            let mut summary = ServiceSummary {
                namespace: key.namespace,
                name: key.service,
                series: 0,
                last_window: UnixNanos::default(),
                cpu_millicores: 0,
                profile_types: Vec::new(),
            };
            let mut last_s = None;
            for (ptype, _) in &types {
                if !self
                    .store
                    .active_series(*ptype, service, window)?
                    .is_empty()
                {
                    let start = u64::try_from(window.start().seconds()).unwrap_or(0);
                    last_s = self.last_window_s(service, *ptype, window)?.or(Some(start));
                    break;
                }
            }
            let Some(last_s) = last_s else { continue };
            let last_ns = i64::try_from(last_s.saturating_mul(1_000_000_000)).unwrap_or(i64::MAX);
            summary.last_window = UnixNanos::new(last_ns);
            let series = self.directory.with_series(service, |table| table.len())?;
            summary.series = u64::try_from(series).unwrap_or(u64::MAX);
            // The load of the latest minutes, so that an idle service reads 0.
            let end = window.end().min(self.clock.now());
            let from = end.saturating_sub(LOAD_RANGE).max(window.start());
            let recent = Window::new(from, end).unwrap_or(window);
            for (ptype, stored) in &types {
                let series = self.store.active_series(*ptype, service, recent)?;
                if series.is_empty() {
                    continue;
                }
                summary.profile_types.push(stored.profile_type.to_string());
                if stored.profile_type.is_called("cpu") {
                    let cores = self.millicores(*ptype, service, recent)?;
                    summary.cpu_millicores = summary.cpu_millicores.saturating_add(cores);
                }
            }
            out.push(summary);
        }
        Ok(out)
    }

    /// Start of the latest window of a service in `window`, from the latest
    /// rows that are there.
    fn last_window_s(
        &self,
        service: ServiceId,
        ptype: PtypeId,
        window: Window,
    ) -> Result<Option<u64>, StoreError> {
        if let Some(last_s) = self.directory.last_window_s(service)
            && i64::try_from(last_s).is_ok_and(|last_s| last_s < window.end().seconds())
        {
            return Ok(Some(last_s));
        }
        let mut last_s = None;
        for tier in [Tier::Window, Tier::Minute, Tier::Hour, Tier::Day] {
            // The finer the rows, the shorter the time that is looked through.
            let reach = Duration::from_secs(tier.length_s().saturating_mul(600));
            let from = window.end().saturating_sub(reach).max(window.start());
            let Ok(window) = Window::new(from, window.end()) else {
                continue;
            };
            let request = SumRequest {
                tier,
                ptype,
                service,
                series: None,
                window,
            };
            self.store
                .keys(&request, &mut |key| last_s = last_s.max(Some(key.start_s)))?;
            if last_s.is_some() {
                break;
            }
        }
        Ok(last_s)
    }

    /// Thousandths of a core that a service's samples stand for: per series its
    /// value over the time it was observed, added up.
    fn millicores(
        &self,
        ptype: PtypeId,
        service: ServiceId,
        window: Window,
    ) -> Result<u64, StoreError> {
        let mut sum = RangeSum::default();
        self.store.sum(
            &SumRequest {
                tier: Tier::Window,
                ptype,
                service,
                series: None,
                window,
            },
            &mut sum,
        )?;
        let value: i128 = sum
            .sums
            .iter()
            .map(|(kind, sum)| {
                sum.values
                    .iter()
                    .fold(0_i128, |all, v| all.saturating_add(*v))
                    .saturating_mul(i128::from(kind.weight))
            })
            .fold(0, i128::saturating_add);
        let observed = i128::from(sum.observed_ns().max(1));
        // Value over observed time is the mean of the series; their number
        // makes it the service.
        let series = i128::try_from(sum.series.len()).unwrap_or(0);
        let millicores = value.saturating_mul(1000).saturating_mul(series) / observed;
        Ok(u64::try_from(millicores.max(0)).unwrap_or(u64::MAX))
    }
}

/// Compiles a function pattern within a size cap; an empty one is none.
///
/// # Errors
///
/// The regex crate's, when the pattern is not usable.
pub fn pattern(text: &str) -> Result<Option<Regex>, regex::Error> {
    if text.is_empty() {
        return Ok(None);
    }
    RegexBuilder::new(text)
        .size_limit(MAX_REGEX_BYTES)
        .build()
        .map(Some)
}

/// About how many bytes an answer over `tree` takes while it is made.
fn cost(tree: &ServiceTree) -> usize {
    // Values and totals by node and by stack, in 128 bits, and their sizes.
    tree.node_count()
        .saturating_mul(64)
        .saturating_add(tree.stack_count().saturating_mul(64))
}

/// Counts a query that runs or waits.
struct Present<'a>(&'a Inner);

impl<'a> Present<'a> {
    fn count(inner: &'a Inner) -> Result<Self, QueryError> {
        let before = inner.present.fetch_add(1, Ordering::Relaxed);
        let present = Self(inner);
        match before < MAX_WAITING {
            true => Ok(present),
            false => Err(QueryError::Busy),
        }
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Says that a reader is gone, once it is dropped.
#[derive(Default)]
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Nodes that an answer may have.
fn max_nodes(request: &ProfileRequest) -> usize {
    match request.max_nodes {
        0 => DEFAULT_MAX_NODES,
        asked => asked,
    }
}
