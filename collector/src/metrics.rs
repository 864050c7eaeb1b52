//! What is counted and measured of the collector; `text` shows it at `/metrics`.
//!
//! The set of names and of label values is closed: every metric is a field of
//! [`Metrics`], or of the [`ReceiverMetrics`] of a configured receiver, so that no
//! input can add a series.

mod kinds;
mod text;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::pb::tepui::RefusalCode;
use proto::status::Kind;

use self::kinds::Family;
pub use self::kinds::{Counter, Gauge, Longest, Times};
use crate::memory::NoShare;
use crate::query::QueryError;

/// What a counter of queries is split by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKind {
    /// A merged profile.
    Profile,
    /// Two profiles compared.
    Diff,
    /// Two selections judged.
    Verdict,
    /// A quantity over time.
    Timeline,
    /// Raw windows.
    Export,
    /// The list of services.
    Services,
    /// Label names or values.
    Labels,
    /// Alerts.
    Anomalies,
    /// The collector's state.
    Status,
}

impl QueryKind {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Profile, "profile"),
        (Self::Diff, "diff"),
        (Self::Verdict, "verdict"),
        (Self::Timeline, "timeline"),
        (Self::Export, "export"),
        (Self::Services, "services"),
        (Self::Labels, "labels"),
        (Self::Anomalies, "anomalies"),
        (Self::Status, "status"),
    ];
}

/// Why a query was refused that might be answered later, or if it asked for less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryRefusal {
    /// More came at once than can be answered.
    Busy,
    /// Others keep the memory that it needs.
    Memory,
    /// It needs more memory than there is for queries.
    TooLarge,
    /// It asks for too many points.
    TooManyPoints,
    /// It groups by a label of too many values.
    TooManyValues,
}

impl QueryRefusal {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Busy, "busy"),
        (Self::Memory, "memory"),
        (Self::TooLarge, "too_large"),
        (Self::TooManyPoints, "too_many_points"),
        (Self::TooManyValues, "too_many_values"),
    ];

    fn of(error: &QueryError) -> Option<Self> {
        match error {
            QueryError::Busy => Some(Self::Busy),
            QueryError::Memory(NoShare::Busy) => Some(Self::Memory),
            QueryError::Memory(NoShare::TooLarge { .. }) => Some(Self::TooLarge),
            QueryError::TooManyPoints { .. } => Some(Self::TooManyPoints),
            QueryError::TooManyValues { .. } => Some(Self::TooManyValues),
            QueryError::NoServiceName
            | QueryError::UnknownService { .. }
            | QueryError::UnknownType { .. }
            | QueryError::NotCpu { .. }
            | QueryError::NoFunction { .. }
            | QueryError::Diff(_)
            | QueryError::Store(_)
            | QueryError::Ended => None,
        }
    }
}

/// How one try to tell a receiver of an alert ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The receiver took it.
    Delivered,
    /// It failed and is tried again.
    Retried,
    /// It is not tried again.
    Dropped,
}

impl Delivery {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Delivered, "delivered"),
        (Self::Retried, "retried"),
        (Self::Dropped, "dropped"),
    ];
}

const REFUSALS: [(RefusalCode, &str); 10] = [
    (RefusalCode::Unspecified, "unspecified"),
    (RefusalCode::Malformed, "malformed"),
    (RefusalCode::ClockAhead, "clock_ahead"),
    (RefusalCode::TooOld, "too_old"),
    (RefusalCode::SeriesLimit, "series_limit"),
    (RefusalCode::TooLarge, "too_large"),
    (RefusalCode::DictionaryReset, "dictionary_reset"),
    (RefusalCode::Overloaded, "overloaded"),
    (RefusalCode::Unavailable, "unavailable"),
    (RefusalCode::UnsupportedVersion, "unsupported_version"),
];

const FAILURES: [(Kind, &str); 8] = [
    (Kind::Invalid, "invalid"),
    (Kind::NotFound, "not_found"),
    (Kind::Unauthenticated, "unauthenticated"),
    (Kind::Forbidden, "forbidden"),
    (Kind::Exhausted, "exhausted"),
    (Kind::Unavailable, "unavailable"),
    (Kind::Timeout, "timeout"),
    (Kind::Internal, "internal"),
];

/// The word for `kind` in metrics and in JSON errors.
pub fn kind_word(kind: Kind) -> &'static str {
    FAILURES
        .iter()
        .find(|(known, _)| *known == kind)
        .map_or("internal", |(_, word)| word)
}

/// Every metric of a collector.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Batches whose windows are durable.
    pub ingest_batches: Counter,
    /// Batches that were sent again and not counted again.
    pub ingest_duplicate_batches: Counter,
    /// Windows that are durable.
    pub ingest_windows: Counter,
    /// Bytes of packed batch bodies.
    pub ingest_bytes: Counter,
    /// Push streams that are open.
    pub ingest_streams: Gauge,
    /// Streams that were told to begin anew.
    pub dictionary_resets: Counter,
    /// Streams that were refused when they were opened.
    pub refused_streams: Counter,
    /// From a batch's arrival to its answer.
    pub ack_times: Times,
    /// How long the store takes for a group of batches, synced.
    pub commit_times: Times,
    /// Longest drop of a stretch of time.
    pub longest_drop: Longest,
    /// Stretches of time that are kept and dropped whole.
    pub stretches: Gauge,
    /// Whether windows are refused for want of room on the disk; 0 or 1.
    pub disk_full: Gauge,
    /// Trees of services in memory.
    pub trees: Gauge,
    /// Nodes of those trees.
    pub tree_nodes: Gauge,
    /// Stacks that were cut off since their tree is full.
    pub tree_overflows: Counter,
    /// Writes that the store refused or failed.
    pub store_write_errors: Counter,
    /// Reads that the store failed.
    pub store_read_errors: Counter,
    /// Bytes of the store's files.
    pub store_bytes: Gauge,
    /// Bytes of trees and tables kept in memory.
    pub cache_bytes: Gauge,
    /// Feature rows that were not computed, for want of room.
    pub feature_rows_dropped: Counter,
    /// Alerts that are firing.
    pub alerts_firing: Gauge,
    /// Requests that came over HTTP, pages and API.
    pub http_requests: Counter,
    /// Requests refused for want of a token or a role.
    pub auth_refusals: Counter,
    /// Connections that are open.
    pub connections: Gauge,
    refused_batches: Family<10>,
    refused_windows: Family<10>,
    queries: Family<9>,
    query_failures: Family<8>,
    query_refusals: Family<5>,
    receivers: Mutex<Vec<(String, Arc<ReceiverMetrics>)>>,
}

/// Every metric of one receiver of alerts.
#[derive(Debug, Default)]
pub struct ReceiverMetrics {
    /// Notices that it was not told yet.
    pub waiting: Gauge,
    /// Notices that were given up and are kept to be looked at.
    pub dead_letters: Gauge,
    deliveries: Family<3>,
}

impl ReceiverMetrics {
    /// Tries to deliver, by how they ended.
    pub fn deliveries(&self, outcome: Delivery) -> &Counter {
        self.deliveries.of(&Delivery::ALL, &outcome)
    }
}

impl Metrics {
    /// Batches refused whole, by why.
    pub fn refused_batches(&self, code: RefusalCode) -> &Counter {
        self.refused_batches.of(&REFUSALS, &code)
    }

    /// Windows refused in accepted batches, by why.
    pub fn refused_windows(&self, code: RefusalCode) -> &Counter {
        self.refused_windows.of(&REFUSALS, &code)
    }

    /// Batches refused whole, for whatever reason.
    pub fn all_refused_batches(&self) -> u64 {
        self.refused_batches.sum()
    }

    /// Windows refused in accepted batches, for whatever reason.
    pub fn all_refused_windows(&self) -> u64 {
        self.refused_windows.sum()
    }

    /// Queries asked, by what for.
    pub fn queries(&self, kind: QueryKind) -> &Counter {
        self.queries.of(&QueryKind::ALL, &kind)
    }

    /// A query failed.
    pub fn query_failed(&self, error: &QueryError) {
        self.failed(error.kind());
        if let Some(refusal) = QueryRefusal::of(error) {
            self.query_refusals.of(&QueryRefusal::ALL, &refusal).inc();
        }
    }

    /// Something that was asked failed in this way.
    pub fn failed(&self, kind: Kind) {
        self.query_failures.of(&FAILURES, &kind).inc();
    }

    /// The metrics of receivers of these names, which the configuration gives.
    pub fn receivers(&self, names: &[&str]) -> Vec<Arc<ReceiverMetrics>> {
        let mut receivers = self.lock_receivers();
        let mut of = |name: &&str| match receivers.iter().find(|(known, _)| known == name) {
            Some((_, metrics)) => Arc::clone(metrics),
            None => {
                let metrics = Arc::<ReceiverMetrics>::default();
                receivers.push(((*name).to_owned(), Arc::clone(&metrics)));
                metrics
            }
        };
        names.iter().map(&mut of).collect()
    }

    fn lock_receivers(&self) -> MutexGuard<'_, Vec<(String, Arc<ReceiverMetrics>)>> {
        self.receivers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_code_has_its_own_counter() {
        let codes = (0..).map_while(|code| RefusalCode::try_from(code).ok());
        for code in codes {
            let (_, word) = REFUSALS.iter().find(|(known, _)| *known == code).unwrap();
            let name = format!("REFUSAL_CODE_{}", word.to_uppercase());
            assert_eq!(name, code.as_str_name());
        }
    }
}
