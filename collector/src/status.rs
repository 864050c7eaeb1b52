//! The state of a collector, as `collector status` and `/api/v1/status` show it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::window::{Clock, UnixNanos};
use serde::{Deserialize, Serialize};

use crate::agents::{AgentState, Agents};
use crate::hook::{DeadLetter, Hooks, ReceiverReport};
use crate::metrics::Metrics;
use crate::time_range::rfc3339;

/// How long an agent that is gone is still listed.
const AGENT_AGE: Duration = Duration::from_secs(24 * 3_600);

/// Knows the state of a collector.
#[derive(Debug)]
pub struct Status {
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    agents: Arc<Agents>,
    hooks: Arc<Hooks>,
    started: UnixNanos,
    ready: AtomicBool,
}

/// The state of a collector. An interface: fields may be added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReport<A = AgentState> {
    /// Its version.
    pub version: String,
    /// Whether it serves pushes and queries.
    pub ready: bool,
    /// When it started, RFC 3339.
    pub started: String,
    /// Seconds since then.
    pub uptime_seconds: u64,
    /// What came in since then.
    pub ingest: IngestReport,
    /// The store.
    pub store: StoreReport,
    /// Alerts that are firing.
    pub alerts_firing: i64,
    /// Receivers of alerts, in the order of the configuration.
    #[serde(default)]
    pub receivers: Vec<ReceiverReport>,
    /// What receivers were not told of the caller's alerts within a week.
    #[serde(default)]
    pub dead_letters: Vec<DeadLetter>,
    /// The caller's agents, connected or heard within a day.
    pub agents: Vec<A>,
}

/// What came in since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestReport {
    /// Push streams that are open.
    pub streams: i64,
    /// Batches whose windows are durable.
    pub batches: u64,
    /// Batches that were sent again and not counted again.
    pub duplicate_batches: u64,
    /// Windows that are durable.
    pub windows: u64,
    /// Batches refused whole.
    pub refused_batches: u64,
    /// Windows refused in accepted batches.
    pub refused_windows: u64,
}

/// The store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreReport {
    /// Bytes of its files.
    pub bytes: i64,
    /// Bytes of trees and tables kept in memory.
    pub cache_bytes: i64,
    /// Writes that failed since the start.
    pub write_errors: u64,
}

impl Status {
    /// Returns the state of a collector that started then and is not ready yet.
    pub fn new(
        started: UnixNanos,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        agents: Arc<Agents>,
        hooks: Arc<Hooks>,
    ) -> Self {
        Self {
            started,
            clock,
            metrics,
            agents,
            hooks,
            ready: AtomicBool::new(false),
        }
    }

    /// Says whether pushes and queries are served.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Whether pushes and queries are served.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The state now, with the agents of `tenant`.
    pub fn report(&self, tenant: &str) -> StatusReport {
        let (now, metrics) = (self.clock.now(), &self.metrics);
        StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: self.is_ready(),
            started: rfc3339(self.started),
            uptime_seconds: now.since(self.started).as_secs(),
            ingest: IngestReport {
                streams: metrics.ingest_streams.get(),
                batches: metrics.ingest_batches.get(),
                duplicate_batches: metrics.ingest_duplicate_batches.get(),
                windows: metrics.ingest_windows.get(),
                refused_batches: metrics.all_refused_batches(),
                refused_windows: metrics.all_refused_windows(),
            },
            store: StoreReport {
                bytes: metrics.store_bytes.get(),
                cache_bytes: metrics.cache_bytes.get(),
                write_errors: metrics.store_write_errors.get(),
            },
            alerts_firing: metrics.alerts_firing.get(),
            receivers: self.hooks.report(),
            dead_letters: self.hooks.dead_letters(tenant),
            agents: self.agents.list(tenant, now, AGENT_AGE),
        }
    }
}
