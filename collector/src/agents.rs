//! The agents that are or were connected, for `status`: an answer to "why is
//! there no data?". Bounded; the longest gone is forgotten first.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use proto::labels::{LabelSet, NAMESPACE, POD, SERVICE};
use proto::pb::tepui as pb;
use proto::window::UnixNanos;
use rustc_hash::FxHashMap;
use serde::Serialize;

use crate::feature::series_hash;
use crate::store::ServiceKey;

/// Agents that are remembered.
const MAX_AGENTS: usize = 10_000;
/// Longest text of an agent that is kept, in bytes.
const MAX_TEXT: usize = 2_048;
/// An agent that was heard longer ago may be gone: it sends a heartbeat each half minute.
const HEARD_WITHIN: Duration = Duration::from_secs(90);
/// Most capabilities of an agent that are kept.
const MAX_CAPABILITIES: usize = 64;

/// One line of an agent's report on what it can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CapabilityState {
    /// For example `perf_event_open`.
    pub name: String,
    /// Whether it works.
    pub available: bool,
    /// What was seen, and what would change it.
    pub detail: String,
}

/// What is known of one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentState {
    /// Its instance in hexadecimal.
    pub instance: String,
    /// Tenant of its connection.
    #[serde(skip)]
    pub tenant: String,
    /// Its version.
    pub version: String,
    /// Labels of its target.
    pub labels: Vec<(String, String)>,
    /// What it can do on its host.
    pub capabilities: Vec<CapabilityState>,
    /// Whether its stream is open.
    pub connected: bool,
    /// When that was opened, in seconds since 1970.
    #[serde(skip)]
    pub connected_since_s: i64,
    /// Its clock less ours when it said hello, in milliseconds.
    pub clock_skew_ms: i64,
    /// When it was last heard, in seconds since 1970.
    pub last_heard_s: i64,
    /// Windows waiting in its spool.
    pub spooled_windows: u64,
    /// Windows it dropped since it started.
    pub dropped_windows: u64,
}

/// An agent that is connected and has sent all that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attending {
    /// The service of its target.
    pub service: ServiceKey,
    /// Pod of its target, or `""`.
    pub pod: String,
    /// Hash of its target's labels.
    pub series: u64,
    /// Since when it is connected, in seconds since 1970.
    pub since_s: i64,
}

/// The agents of a collector.
#[derive(Debug, Default)]
pub struct Agents {
    states: Mutex<FxHashMap<[u8; 16], AgentState>>,
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

impl AgentState {
    /// `None` where its labels name no service: it watches several targets.
    fn attending(&self) -> Option<Attending> {
        let label = |name: &str| {
            let found = self.labels.iter().find(|(known, _)| known == name);
            found.map_or("", |(_, value)| value.as_str()).to_owned()
        };
        let labels = self.labels.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let service = ServiceKey {
            tenant: self.tenant.clone(),
            namespace: label(NAMESPACE),
            service: label(SERVICE),
        };
        (!service.service.is_empty()).then_some(())?;
        Some(Attending {
            service,
            pod: label(POD),
            series: series_hash(&LabelSet::new(labels).ok()?),
            since_s: self.connected_since_s,
        })
    }
}

impl Agents {
    fn lock(&self) -> std::sync::MutexGuard<'_, FxHashMap<[u8; 16], AgentState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An agent opened a stream.
    pub fn hello(&self, tenant: &str, instance: [u8; 16], hello: pb::Hello, now: UnixNanos) {
        let skew_ns = hello.send_time_unix_nanos.saturating_sub(now.get());
        let state = AgentState {
            instance: instance.iter().map(|byte| format!("{byte:02x}")).collect(),
            tenant: tenant.to_owned(),
            version: cut(&hello.agent_version),
            labels: hello
                .labels
                .unwrap_or_default()
                .labels
                .iter()
                .take(proto::labels::MAX_LABELS)
                .map(|label| (cut(&label.name), cut(&label.value)))
                .collect(),
            capabilities: hello
                .capabilities
                .iter()
                .take(MAX_CAPABILITIES)
                .map(|capability| CapabilityState {
                    name: cut(&capability.name),
                    available: capability.available,
                    detail: cut(&capability.detail),
                })
                .collect(),
            connected: true,
            connected_since_s: now.seconds(),
            clock_skew_ms: skew_ns / 1_000_000,
            last_heard_s: now.seconds(),
            spooled_windows: 0,
            dropped_windows: 0,
        };
        let mut states = self.lock();
        states.insert(instance, state);
        if states.len() > MAX_AGENTS {
            let gone = states.iter().filter(|(_, state)| !state.connected);
            let oldest = gone.min_by_key(|(_, state)| state.last_heard_s);
            if let Some(instance) = oldest.map(|(instance, _)| *instance) {
                states.remove(&instance);
            }
        }
    }

    /// An agent sent a heartbeat.
    pub fn heartbeat(&self, instance: &[u8; 16], beat: &pb::Heartbeat, now: UnixNanos) {
        if let Some(state) = self.lock().get_mut(instance) {
            state.last_heard_s = now.seconds();
            state.spooled_windows = beat.spooled_windows;
            state.dropped_windows = beat.dropped_windows;
        }
    }

    /// A stream of the agent ended.
    pub fn gone(&self, instance: &[u8; 16], now: UnixNanos) {
        if let Some(state) = self.lock().get_mut(instance) {
            state.connected = false;
            state.last_heard_s = now.seconds();
        }
    }

    /// Agents of a single service that are connected, were heard a short while ago, and
    /// have nothing waiting.
    pub fn attending(&self, now: UnixNanos) -> Vec<Attending> {
        let horizon = now.saturating_sub(HEARD_WITHIN).seconds();
        let states = self.lock();
        let attending = states
            .values()
            .filter(|state| state.connected && state.spooled_windows == 0)
            .filter(|state| state.last_heard_s >= horizon);
        attending.filter_map(AgentState::attending).collect()
    }

    /// Agents of `tenant` heard within `age` or connected, by labels.
    pub fn list(&self, tenant: &str, now: UnixNanos, age: Duration) -> Vec<AgentState> {
        let horizon = now.saturating_sub(age).seconds();
        let mut states: Vec<AgentState> = self
            .lock()
            .values()
            .filter(|state| state.tenant == tenant)
            .filter(|state| state.connected || state.last_heard_s >= horizon)
            .cloned()
            .collect();
        states.sort_by(|a, b| (&a.labels, &a.instance).cmp(&(&b.labels, &b.instance)));
        states
    }
}
