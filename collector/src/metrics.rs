//! Counters and gauges of the collector, shown at `/metrics` in Prometheus'
//! [text format 0.0.4](https://prometheus.io/docs/instrumenting/exposition_formats/).
//!
//! The set of names and of label values is closed: every metric is a field of
//! [`Metrics`], so that no input can add a series. Counting is one relaxed
//! atomic addition.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use proto::pb::tepui::RefusalCode;
use proto::status::Kind;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that grows and shrinks.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `count`.
    pub fn add(&self, count: i64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes `count` away.
    pub fn sub(&self, count: i64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    /// Sets the number.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a counter of queries is split by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKind {
    /// A merged profile.
    Profile,
    /// Two profiles compared.
    Diff,
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
    const ALL: [(Self, &'static str); 8] = [
        (Self::Profile, "profile"),
        (Self::Diff, "diff"),
        (Self::Timeline, "timeline"),
        (Self::Export, "export"),
        (Self::Services, "services"),
        (Self::Labels, "labels"),
        (Self::Anomalies, "anomalies"),
        (Self::Status, "status"),
    ];
}

/// How one try to deliver an alert to a hook ended.
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

/// One counter per value of a closed label.
#[derive(Debug)]
struct Family<const N: usize>([Counter; N]);

impl<const N: usize> Default for Family<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl<const N: usize> Family<N> {
    fn sum(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum: u64, counter| sum.saturating_add(counter.get()))
    }

    /// The counter of `key`; a key outside of `keys` counts as the first.
    fn of<K: PartialEq>(&self, keys: &[(K, &'static str); N], key: &K) -> &Counter {
        let place = keys.iter().position(|(known, _)| known == key).unwrap_or(0);
        self.0.get(place).unwrap_or(&UNKNOWN)
    }
}

/// Takes what no counter of a family stands for; never shown.
static UNKNOWN: Counter = Counter(AtomicU64::new(0));

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
    queries: Family<8>,
    query_failures: Family<8>,
    deliveries: Family<3>,
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

    /// Queries that failed, by how.
    pub fn query_failures(&self, kind: Kind) -> &Counter {
        self.query_failures.of(&FAILURES, &kind)
    }

    /// Tries to deliver to a hook, by how they ended.
    pub fn deliveries(&self, outcome: Delivery) -> &Counter {
        self.deliveries.of(&Delivery::ALL, &outcome)
    }

    /// Every metric in text format 0.0.4.
    pub fn render(&self) -> String {
        let mut out = Text::default();
        out.one(
            "tepui_build_info",
            "gauge",
            "Version of the collector; always 1.",
            &[("version", env!("CARGO_PKG_VERSION"))],
            1,
        );
        for (name, help, counter) in [
            (
                "tepui_ingest_batches_total",
                "Batches whose windows are durable.",
                &self.ingest_batches,
            ),
            (
                "tepui_ingest_duplicate_batches_total",
                "Batches that were sent again and not counted again.",
                &self.ingest_duplicate_batches,
            ),
            (
                "tepui_ingest_windows_total",
                "Windows that are durable.",
                &self.ingest_windows,
            ),
            (
                "tepui_ingest_bytes_total",
                "Bytes of packed batch bodies.",
                &self.ingest_bytes,
            ),
            (
                "tepui_store_write_errors_total",
                "Writes that the store refused or failed.",
                &self.store_write_errors,
            ),
            (
                "tepui_store_read_errors_total",
                "Reads that the store failed.",
                &self.store_read_errors,
            ),
            (
                "tepui_feature_rows_dropped_total",
                "Feature rows not computed for want of room.",
                &self.feature_rows_dropped,
            ),
            (
                "tepui_http_requests_total",
                "Requests over HTTP, pages and API.",
                &self.http_requests,
            ),
            (
                "tepui_auth_refusals_total",
                "Requests refused for want of a token or a role.",
                &self.auth_refusals,
            ),
        ] {
            out.one(name, "counter", help, &[], counter.get());
        }
        for (name, help, gauge) in [
            (
                "tepui_ingest_streams",
                "Push streams that are open.",
                &self.ingest_streams,
            ),
            (
                "tepui_connections",
                "Connections that are open.",
                &self.connections,
            ),
            (
                "tepui_store_bytes",
                "Bytes of the store's files.",
                &self.store_bytes,
            ),
            (
                "tepui_cache_bytes",
                "Bytes of trees and tables kept in memory.",
                &self.cache_bytes,
            ),
            (
                "tepui_alerts_firing",
                "Alerts that are firing.",
                &self.alerts_firing,
            ),
        ] {
            out.one(name, "gauge", help, &[], gauge.get());
        }
        out.family(
            "tepui_ingest_refused_batches_total",
            "Batches refused whole.",
            "reason",
            &REFUSALS,
            &self.refused_batches,
        );
        out.family(
            "tepui_ingest_refused_windows_total",
            "Windows refused in accepted batches.",
            "reason",
            &REFUSALS,
            &self.refused_windows,
        );
        out.family(
            "tepui_queries_total",
            "Queries asked over gRPC and HTTP.",
            "query",
            &QueryKind::ALL,
            &self.queries,
        );
        out.family(
            "tepui_query_failures_total",
            "Queries that failed.",
            "kind",
            &FAILURES,
            &self.query_failures,
        );
        out.family(
            "tepui_hook_deliveries_total",
            "Tries to deliver an alert to a hook.",
            "outcome",
            &Delivery::ALL,
            &self.deliveries,
        );
        out.0
    }
}

/// Text format under construction.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        self.0.write_fmt(line).unwrap_or_default();
        self.0.push('\n');
    }

    fn one(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        labels: &[(&str, &str)],
        value: impl std::fmt::Display,
    ) {
        self.head(name, kind, help);
        match labels {
            [] => self.line(format_args!("{name} {value}")),
            [(label, text), ..] => {
                self.line(format_args!("{name}{{{label}=\"{text}\"}} {value}"));
            }
        }
    }

    fn family<K, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        keys: &[(K, &'static str); N],
        family: &Family<N>,
    ) {
        self.head(name, "counter", help);
        for ((_, word), counter) in keys.iter().zip(&family.0) {
            self.line(format_args!(
                "{name}{{{label}=\"{word}\"}} {}",
                counter.get()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_line_belongs_to_a_metric_with_help_and_type() {
        let metrics = Metrics::default();
        metrics.refused_windows(RefusalCode::TooOld).add(3);
        metrics.ingest_streams.add(2);
        let text = metrics.render();
        let mut described = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(name.starts_with("tepui_") && help.ends_with('.'), "{line}");
                assert!(described.insert(name.to_owned()), "described twice: {line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                assert!(described.contains(name), "{line}");
                assert!(seen.insert(series.to_owned()), "twice: {line}");
                value.parse::<i64>().unwrap();
            }
        }
        assert!(text.contains("tepui_ingest_refused_windows_total{reason=\"too_old\"} 3\n"));
        assert!(text.contains("tepui_ingest_streams 2\n"));
        assert!(text.ends_with('\n'));
    }

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
