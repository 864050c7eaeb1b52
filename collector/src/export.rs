//! Raw windows as pprof files, one after the other: what a selection holds in
//! detail, for other tools or another collector.
//!
//! A file holds the types of one series' windows that start in one second and
//! belong to one profile: CPU, or the four of a heap profile. Its times are those
//! of the window, so that `collector import` makes the same sums of it. Memory
//! holds the keys of a few minutes and one file at a time; who reads slowly is
//! waited for.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::labels::{LabelSet, Selector};
use proto::pprof::{PprofBuilder, PprofHead};
use proto::status::Kind;
use proto::value_type::{Temporality, ValueType};
use proto::window::{UnixNanos, Window};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::directory::Directory;
use crate::query::{Query, QueryError, ServiceName};
use crate::rollup::rolled::Rolled;
use crate::store::segment::{Value, seconds_of};
use crate::store::tier::{DAY_S, Tier, range, seconds};
use crate::store::trees::{self, Trees};
use crate::store::{
    Epoch, PtypeId, SeriesId, ServiceId, ServiceKey, Store, StoreError, StoredType, SumRequest,
    TreeId, WindowKey,
};
use crate::time_range::rfc3339;

/// Exports that run at once; further ones are refused.
const MAX_EXPORTS: usize = 2;
/// Seconds whose keys are held at once.
const STRETCH_S: u64 = 300;

/// Asks for raw windows.
#[derive(Clone, Debug)]
pub struct ExportRequest {
    /// Of which service.
    pub service: ServiceName,
    /// Windows that start in this time.
    pub window: Window,
    /// Only types that are called so; empty means all.
    pub profile_type: String,
    /// Which series.
    pub selector: Selector,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedFile {
    /// The service.
    pub service: Arc<ServiceKey>,
    /// Its series.
    pub series: SeriesId,
    /// Start of the window, in whole seconds.
    pub start: UnixNanos,
    /// What the types of the file have in common, for example `process_cpu`.
    pub profile: String,
    /// Gzipped `profile.proto`.
    pub pprof_gz: Vec<u8>,
}

/// What was not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Files that were given out.
    pub files: u64,
    /// Windows of the range that start before this are kept as sums only.
    pub gone_before: Option<UnixNanos>,
}

/// Why an export ended early.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The selection cannot be read.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// Others export.
    #[error("{MAX_EXPORTS} exports are running; try again when one is done")]
    Busy,
    /// Who asked is gone.
    #[error("the reader went away")]
    Gone,
}

impl From<StoreError> for ExportError {
    fn from(error: StoreError) -> Self {
        Self::Query(error.into())
    }
}

impl ExportError {
    /// What kind of failure it is for a caller.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Query(error) => error.kind(),
            Self::Busy => Kind::Exhausted,
            Self::Gone => Kind::Unavailable,
        }
    }
}

/// Reads raw windows and writes files.
#[derive(Debug)]
pub struct Exporter {
    store: Arc<dyn Store>,
    trees: Arc<Trees>,
    directory: Arc<Directory>,
    rolled: Arc<Rolled>,
    query: Query,
    places: Arc<Semaphore>,
}

/// A right to export, given back when dropped.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

/// What the windows of one second of a series hold of one type.
struct Part {
    stored: Arc<StoredType>,
    keys: Vec<WindowKey>,
}

/// Windows by what goes into one file: start, series, and what the profile's
/// types have in common.
type Files = BTreeMap<(u64, SeriesId, String, ValueType), Vec<Part>>;

/// Of which service files are made.
struct Subject<'a> {
    id: ServiceId,
    name: Arc<ServiceKey>,
    series: Option<Vec<SeriesId>>,
    types: &'a [(PtypeId, Arc<StoredType>)],
}

impl Exporter {
    /// Returns what exports from `store`; `query` finds services.
    pub fn new(
        store: Arc<dyn Store>,
        trees: Arc<Trees>,
        directory: Arc<Directory>,
        rolled: Arc<Rolled>,
        query: Query,
    ) -> Self {
        Self {
            store,
            trees,
            directory,
            rolled,
            query,
            places: Arc::new(Semaphore::new(MAX_EXPORTS)),
        }
    }

    /// A place among the few that export.
    ///
    /// # Errors
    ///
    /// [`ExportError::Busy`] if there is none.
    pub fn place(&self) -> Result<Place, ExportError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map(Place).map_err(|_| ExportError::Busy)
    }

    /// Gives `send` every file of a selection, by service and time. Blocks.
    ///
    /// # Errors
    ///
    /// [`ExportError`] if the service or type is not known, the store fails, or
    /// `send` says that nobody reads.
    pub fn export(
        &self,
        tenant: &str,
        request: &ExportRequest,
        mut send: impl FnMut(ExportedFile) -> Result<(), ExportError>,
    ) -> Result<Exported, ExportError> {
        let mut types = self.directory.types();
        if !request.profile_type.is_empty() {
            types.retain(|(_, t)| t.profile_type.is_called(&request.profile_type));
            if types.is_empty() {
                return Err(QueryError::UnknownType {
                    service: request.service.to_string(),
                    asked: request.profile_type.clone(),
                    known: self.known_types(),
                }
                .into());
            }
        }
        let mut files = 0;
        let services = self.query.find(tenant, &request.service)?;
        for (id, name) in services.iter().cloned() {
            let series = self.directory.with_series(id, |table| {
                let picked = table.iter().filter(|(_, l)| request.selector.accepts(l));
                picked.map(|(id, _)| id).collect()
            })?;
            let subject = Subject {
                id,
                name: Arc::new(name),
                series: (!request.selector.is_empty()).then_some(series),
                types: &types,
            };
            self.service(&subject, request.window, &mut |file| {
                files += 1;
                send(file)
            })?;
        }
        // Looked at last: what was dropped meanwhile is told too.
        let gone = self.rolled.gone();
        let gone = services
            .iter()
            .map(|(id, _)| gone.before(*id, Tier::Window));
        let dropped = gone.max().unwrap_or(0);
        let (from, until) = seconds(request.window);
        Ok(Exported {
            files,
            gone_before: (dropped > from).then(|| at(dropped.min(until))),
        })
    }

    fn known_types(&self) -> String {
        let types = self.directory.types();
        let mut known: Vec<&str> = types
            .iter()
            .map(|(_, t)| t.profile_type.sample().kind())
            .collect();
        known.sort_unstable();
        known.dedup();
        known.join(", ")
    }

    /// The files of one service, a few minutes at a time; days without a window
    /// are passed over.
    fn service(
        &self,
        subject: &Subject<'_>,
        window: Window,
        send: &mut impl FnMut(ExportedFile) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let (from, until) = seconds(window);
        let mut day = from;
        while day < until {
            let day_end = Tier::Day.bucket(day).saturating_add(DAY_S).min(until);
            let active = self.active(subject, day, day_end)?;
            let mut start = if active.is_empty() { day_end } else { day };
            while start < day_end {
                let end = start.saturating_add(STRETCH_S).min(day_end);
                self.stretch(subject, &active, start, end, send)?;
                start = end;
            }
            day = day_end;
        }
        Ok(())
    }

    /// The types that have a window on a day.
    fn active(
        &self,
        subject: &Subject<'_>,
        from: u64,
        until: u64,
    ) -> Result<Vec<(PtypeId, Arc<StoredType>)>, StoreError> {
        let mut active = Vec::new();
        let Some(window) = range(from, until) else {
            return Ok(active);
        };
        for (ptype, stored) in subject.types {
            let series = self.store.active_series(*ptype, subject.id, window)?;
            if !series.is_empty() {
                active.push((*ptype, Arc::clone(stored)));
            }
        }
        Ok(active)
    }

    fn stretch(
        &self,
        subject: &Subject<'_>,
        types: &[(PtypeId, Arc<StoredType>)],
        from: u64,
        until: u64,
        send: &mut impl FnMut(ExportedFile) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let Some(window) = range(from, until) else {
            return Ok(());
        };
        let mut files = Files::new();
        for (ptype, stored) in types {
            let mut found: BTreeMap<(u64, SeriesId), Vec<WindowKey>> = BTreeMap::new();
            for tier in [Tier::Window, Tier::Import] {
                let request = SumRequest {
                    tier,
                    ptype: *ptype,
                    service: subject.id,
                    series: subject.series.as_deref(),
                    window,
                };
                self.store.keys(&request, &mut |key| {
                    let of_series = found.entry((key.start_s, key.series)).or_default();
                    of_series.push(*key);
                })?;
            }
            for ((start_s, series), keys) in found {
                let name = stored.profile_type.name().to_owned();
                let period = stored.profile_type.period().clone();
                let parts = files.entry((start_s, series, name, period)).or_default();
                parts.push(Part {
                    stored: Arc::clone(stored),
                    keys,
                });
            }
        }
        for ((start_s, series, profile, period), parts) in files {
            let Some(pprof_gz) = self.file(subject, start_s, series, period, &parts)? else {
                continue;
            };
            send(ExportedFile {
                service: Arc::clone(&subject.name),
                series,
                start: at(start_s),
                profile,
                pprof_gz,
            })?;
        }
        Ok(())
    }

    /// The file of some types of one second of a series; `None` if its windows
    /// were dropped meanwhile.
    fn file(
        &self,
        subject: &Subject<'_>,
        start_s: u64,
        series: SeriesId,
        period_type: ValueType,
        parts: &[Part],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let mut columns = Vec::new();
        for part in parts {
            if let Some(value) = self.value(&part.keys)? {
                columns.push(Column::new(&part.stored, &value));
            }
        }
        let Some(observed_ns) = columns.iter().map(|column| column.observed_ns).max() else {
            return Ok(None);
        };
        let labels = self
            .directory
            .with_series(subject.id, |table| table.labels(series).map(Arc::clone))?;
        let start = at(start_s);
        let mut builder = PprofBuilder::new(&PprofHead {
            sample_types: columns.iter().map(|column| column.sample.clone()).collect(),
            period_type,
            period: columns
                .iter()
                .map(|column| column.period)
                .max()
                .unwrap_or(0),
            time_ns: start.get(),
            duration_ns: i64::try_from(observed_ns).unwrap_or(i64::MAX),
            comments: comments(start, labels.as_deref()),
        });
        let mut stacks: BTreeMap<(Epoch, u32), Vec<i64>> = BTreeMap::new();
        for (place, column) in columns.iter().enumerate() {
            for (stack, value) in column.values(observed_ns) {
                let values = stacks.entry(stack);
                let values = values.or_insert_with(|| vec![0; columns.len()]);
                if let Some(slot) = values.get_mut(place) {
                    *slot = value;
                }
            }
        }
        for ((epoch, stack), values) in stacks {
            let service = subject.id;
            let tree = self.trees.at(TreeId { service, epoch })?;
            // The lock is not held while a file is packed: the writer waits for it.
            let mut frames = trees::read(&tree).path(stack);
            frames.reverse();
            builder.add(&frames, values);
        }
        Ok(Some(builder.finish()))
    }

    /// The windows under some keys as one.
    fn value(&self, keys: &[WindowKey]) -> Result<Option<Value>, StoreError> {
        let mut all: Option<Value> = None;
        for key in keys {
            let Some(bytes) = self.store.window(key)? else {
                continue;
            };
            let value = Value::decode(&bytes).map_err(|problem| {
                StoreError::damaged(&crate::store::keys::encode_window(key), problem)
            })?;
            match &mut all {
                Some(all) => all.add(&value),
                None => all = Some(value),
            }
        }
        Ok(all)
    }
}

fn at(start_s: u64) -> UnixNanos {
    crate::store::tier::instant(start_s)
}

/// What a person or a program may want to know of a file.
fn comments(start: UnixNanos, labels: Option<&LabelSet>) -> Vec<String> {
    let mut comments = vec![format!("window from {}", rfc3339(start))];
    let labels = labels.into_iter().flat_map(LabelSet::iter);
    comments.extend(labels.map(|(name, value)| format!("label {name}={value}")));
    comments
}

/// One sample type of a file.
struct Column {
    sample: ValueType,
    temporality: Temporality,
    period: i64,
    observed_ns: u64,
    /// In the unit of the type, by stack; of a gauge times seconds.
    sums: BTreeMap<(Epoch, u32), i128>,
}

impl Column {
    fn new(stored: &StoredType, value: &Value) -> Self {
        let mut sums: BTreeMap<(Epoch, u32), i128> = BTreeMap::new();
        for segment in &value.segments {
            let weight = i128::from(segment.kind.weight);
            for (stack, value) in &segment.entries {
                let sum = sums.entry((segment.kind.epoch, *stack)).or_default();
                *sum = sum.saturating_add(value.saturating_mul(weight));
            }
        }
        let segments = value.segments.iter();
        let observed_ns = segments.clone().fold(0_u64, |sum, segment| {
            sum.saturating_add(segment.observed_ns)
        });
        Self {
            sample: stored.profile_type.sample().clone(),
            temporality: stored.temporality,
            period: segments.map(|s| s.kind.period).max().unwrap_or(0),
            observed_ns: match observed_ns {
                0 => value.span_ns,
                // Windows under one key observed it at the same time.
                observed => observed.min(value.span_ns),
            },
            sums,
        }
    }

    /// Values as they stand in a file that covers `duration_ns`.
    fn values(&self, duration_ns: u64) -> impl Iterator<Item = ((Epoch, u32), i64)> {
        let seconds = seconds_of(duration_ns);
        let divisor = match self.temporality {
            Temporality::Delta => 1,
            Temporality::Gauge => i128::from(seconds.max(1)),
        };
        let round = move |sum: i128| {
            let half = if sum < 0 { -divisor / 2 } else { divisor / 2 };
            sum.saturating_add(half) / divisor
        };
        self.sums
            .iter()
            .map(move |(stack, sum)| (*stack, crate::render::pprof::saturate(round(*sum))))
    }
}
