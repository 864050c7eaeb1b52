//! Metrics in Prometheus'
//! [text format 0.0.4](https://prometheus.io/docs/instrumenting/exposition_formats/).

use std::fmt::Write as _;
use std::sync::Arc;

use super::kinds::{BOUNDS, Family, Gauge, Times};
use super::{Delivery, FAILURES, Metrics, QueryKind, QueryRefusal, REFUSALS, ReceiverMetrics};

impl Metrics {
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
                "tepui_ingest_dictionary_resets_total",
                "Streams that were told to begin anew.",
                &self.dictionary_resets,
            ),
            (
                "tepui_ingest_refused_streams_total",
                "Streams that found no room when they were opened.",
                &self.refused_streams,
            ),
            (
                "tepui_tree_overflows_total",
                "Stacks that were cut off, and end in [other], since their tree is full.",
                &self.tree_overflows,
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
                "tepui_store_stretches",
                "Stretches of time that are kept, of all tiers.",
                &self.stretches,
            ),
            (
                "tepui_store_disk_full",
                "Whether windows are refused for want of room on the disk.",
                &self.disk_full,
            ),
            ("tepui_trees", "Trees of services in memory.", &self.trees),
            (
                "tepui_tree_nodes",
                "Nodes of the trees in memory.",
                &self.tree_nodes,
            ),
            (
                "tepui_alerts_firing",
                "Alerts that are firing.",
                &self.alerts_firing,
            ),
        ] {
            out.one(name, "gauge", help, &[], gauge.get());
        }
        out.one(
            "tepui_store_drop_seconds_max",
            "gauge",
            "Longest drop of a stretch of time since the start.",
            &[],
            self.longest_drop.get().as_secs_f64(),
        );
        out.times(
            "tepui_ingest_ack_seconds",
            "From a batch's arrival to its answer.",
            &self.ack_times,
        );
        out.times(
            "tepui_store_commit_seconds",
            "Synced write of a group of batches.",
            &self.commit_times,
        );
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
            "tepui_query_refusals_total",
            "Queries refused that may be answered later, or in parts.",
            "reason",
            &QueryRefusal::ALL,
            &self.query_refusals,
        );
        out.receivers(&self.lock_receivers());
        out.0
    }
}

/// One gauge of a receiver.
type GaugeOf = fn(&ReceiverMetrics) -> &Gauge;

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

    fn times(&mut self, name: &str, help: &str, times: &Times) {
        self.head(name, "histogram", help);
        let counts = times.cumulative();
        for ((bound, _), count) in BOUNDS.iter().zip(&counts) {
            self.line(format_args!("{name}_bucket{{le=\"{bound}\"}} {count}"));
        }
        let count = counts.last().copied().unwrap_or(0);
        let sum = times.sum().as_secs_f64();
        self.line(format_args!("{name}_bucket{{le=\"+Inf\"}} {count}"));
        self.line(format_args!("{name}_sum {sum}"));
        self.line(format_args!("{name}_count {count}"));
    }

    /// What is counted of receivers of alerts, if there are any.
    fn receivers(&mut self, receivers: &[(String, Arc<ReceiverMetrics>)]) {
        if receivers.is_empty() {
            return;
        }
        let name = "tepui_hook_deliveries_total";
        self.head(name, "counter", "Tries to tell a receiver of an alert.");
        for (receiver, metrics) in receivers {
            for (outcome, word) in Delivery::ALL {
                let count = metrics.deliveries(outcome).get();
                self.line(format_args!(
                    "{name}{{receiver=\"{receiver}\",outcome=\"{word}\"}} {count}"
                ));
            }
        }
        let gauges: [(_, _, GaugeOf); 2] = [
            (
                "tepui_hook_waiting",
                "Alerts, fired or resolved, that a receiver was not told yet.",
                |metrics| &metrics.waiting,
            ),
            (
                "tepui_hook_dead_letters",
                "Alerts, fired or resolved, that a receiver will not be told; collector status shows them.",
                |metrics| &metrics.dead_letters,
            ),
        ];
        for (name, help, gauge) in gauges {
            self.head(name, "gauge", help);
            for (receiver, metrics) in receivers {
                let value = gauge(metrics).get();
                self.line(format_args!("{name}{{receiver=\"{receiver}\"}} {value}"));
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
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use proto::pb::tepui::RefusalCode;

    use super::*;
    use crate::memory::NoShare;
    use crate::query::QueryError;

    /// Units that have a base unit, and short forms: not for names.
    const NOT_BASE_UNITS: [&str; 22] = [
        "s",
        "ms",
        "us",
        "ns",
        "sec",
        "secs",
        "millis",
        "nanos",
        "milliseconds",
        "nanoseconds",
        "minutes",
        "hours",
        "b",
        "kb",
        "mb",
        "gb",
        "kilobytes",
        "megabytes",
        "bits",
        "cores",
        "millicores",
        "percent",
    ];
    const KINDS: [&str; 5] = ["counter", "gauge", "histogram", "summary", "untyped"];

    /// What is wrong with an exposition, by the rules of `promtool check metrics`
    /// and of the exposition format.
    fn lint(text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
        let mut helps: BTreeSet<&str> = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open = "";
        for line in text.lines() {
            let mut problem = |what: &str| problems.push(format!("{what}: {line}"));
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
                if !helps.insert(name) {
                    problem("described twice");
                }
                if !help.ends_with('.') || help.len() < 10 {
                    problem("no sentence");
                }
                open = name;
                continue;
            }
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
                if name != open {
                    problem("type without its help before it");
                }
                if (kind == "counter") != name.ends_with("_total") {
                    problem("counters, and they alone, end in _total");
                }
                if !name.starts_with("tepui_") {
                    problem("not ours");
                }
                let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                if !name.chars().all(plain) {
                    problem("a name is lower case, digits and underscores");
                }
                let words: Vec<&str> = name.split('_').collect();
                if words.iter().any(|word| KINDS.contains(word)) {
                    problem("the kind stands in the name");
                }
                if words.iter().any(|word| NOT_BASE_UNITS.contains(word)) {
                    problem("no base unit");
                }
                if kind == "histogram" && !name.ends_with("_seconds") && !name.ends_with("_bytes") {
                    problem("a histogram without its unit");
                }
                kinds.insert(name, kind);
                continue;
            }
            let Some((series, value)) = line.rsplit_once(' ') else {
                problem("no sample");
                continue;
            };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            if kinds.get(open) == Some(&"histogram") {
                let parts = ["_bucket", "_sum", "_count"].map(|end| format!("{open}{end}"));
                if !parts.iter().any(|part| part == name) {
                    problem("not of the histogram before it");
                }
            } else if name != open || !kinds.contains_key(name) {
                problem("not of the metric before it");
            }
            let label = labels.split('=').next().unwrap_or("");
            if !label.is_empty() && name.split('_').any(|word| word == label) {
                problem("a label stands in the name");
            }
            if label.contains(|c: char| !c.is_ascii_lowercase()) {
                problem("a label is lower case");
            }
            if !seen.insert(series) {
                problem("twice");
            }
            if value.parse::<f64>().is_err() {
                problem("no number");
            }
        }
        if helps.len() != kinds.len() {
            problems.push("help or type is missing".to_owned());
        }
        if !text.ends_with('\n') {
            problems.push("the last line does not end".to_owned());
        }
        problems
    }

    #[test]
    fn what_is_shown_follows_the_rules_of_prometheus() {
        let metrics = Metrics::default();
        assert_eq!(lint(&metrics.render()), [""; 0]);
        metrics.refused_windows(RefusalCode::TooOld).add(3);
        metrics.ingest_streams.add(2);
        metrics.longest_drop.observe(Duration::from_millis(250));
        for millis in [3, 300, 30_000] {
            metrics.ack_times.observe(Duration::from_millis(millis));
        }
        for error in [
            QueryError::Busy,
            QueryError::Memory(NoShare::Busy),
            QueryError::NoServiceName,
        ] {
            metrics.query_failed(&error);
        }
        let receivers = metrics.receivers(&["default", "oncall"]);
        receivers[1].deliveries(Delivery::Retried).add(2);
        receivers[1].waiting.set(3);
        metrics.receivers(&["oncall"])[0].dead_letters.set(4);
        let text = metrics.render();
        assert_eq!(lint(&text), [""; 0]);
        for line in [
            "tepui_ingest_refused_windows_total{reason=\"too_old\"} 3",
            "tepui_ingest_streams 2",
            "tepui_store_drop_seconds_max 0.25",
            "tepui_ingest_ack_seconds_bucket{le=\"0.0025\"} 0",
            "tepui_ingest_ack_seconds_bucket{le=\"0.005\"} 1",
            "tepui_ingest_ack_seconds_bucket{le=\"10\"} 2",
            "tepui_ingest_ack_seconds_bucket{le=\"+Inf\"} 3",
            "tepui_ingest_ack_seconds_sum 30.303",
            "tepui_ingest_ack_seconds_count 3",
            "tepui_query_refusals_total{reason=\"busy\"} 1",
            "tepui_query_refusals_total{reason=\"memory\"} 1",
            "tepui_query_failures_total{kind=\"exhausted\"} 2",
            "tepui_query_failures_total{kind=\"invalid\"} 1",
            "tepui_hook_deliveries_total{receiver=\"default\",outcome=\"delivered\"} 0",
            "tepui_hook_deliveries_total{receiver=\"oncall\",outcome=\"retried\"} 2",
            "tepui_hook_waiting{receiver=\"oncall\"} 3",
            "tepui_hook_dead_letters{receiver=\"oncall\"} 4",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
        }
    }

    #[test]
    fn mistakes_are_found() {
        let metric = |name: &str, kind: &str, sample: &str| {
            format!("# HELP {name} Some help for it.\n# TYPE {name} {kind}\n{sample} 1\n")
        };
        for (text, expected) in [
            (metric("tepui_a_total", "counter", "tepui_a_total"), ""),
            (metric("tepui_a", "counter", "tepui_a"), "_total"),
            (metric("tepui_a_total", "gauge", "tepui_a_total"), "_total"),
            (metric("tepui_aB", "gauge", "tepui_aB"), "lower case"),
            (metric("tepui_gauge", "gauge", "tepui_gauge"), "kind"),
            (metric("tepui_a_ms", "gauge", "tepui_a_ms"), "base unit"),
            (metric("tepui_a", "gauge", "tepui_a{a=\"b\"}"), "label"),
            (metric("tepui_a", "gauge", "tepui_b"), "before it"),
            (
                metric("tepui_a_seconds", "histogram", "tepui_a_seconds"),
                "histogram",
            ),
            (metric("a", "gauge", "a"), "not ours"),
            ("tepui_a 1\n".to_owned(), "before it"),
            ("# HELP tepui_a Some help for it.\n".to_owned(), "missing"),
            (
                "# HELP tepui_a\n# TYPE tepui_a gauge\ntepui_a 1\n".to_owned(),
                "sentence",
            ),
            (
                metric("tepui_a", "gauge", "tepui_a").replace(" 1", " x"),
                "number",
            ),
        ] {
            let found = lint(&text).join("\n");
            assert!(found.contains(expected), "{text}: {found}");
            assert_eq!(found.is_empty(), expected.is_empty(), "{text}: {found}");
        }
    }
}
