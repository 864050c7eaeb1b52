//! JSON shapes that the HTTP API and the command line share, so that both say
//! the same of a service.

use std::collections::BTreeMap;

use proto::pb::tepui as pb;
use proto::window::UnixNanos;
use serde::{Deserialize, Serialize};

use crate::alert::{Alert, AlertFilter, AlertState, Alerts};
use crate::detect::Severity;
use crate::query::series::FoundSeries;
use crate::query::{ServiceName, ServiceSummary};
use crate::time_range::rfc3339;

/// A series as `series` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SeriesShape {
    /// Its number within its service, as names of exported files have it.
    pub id: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl From<&FoundSeries> for SeriesShape {
    fn from(series: &FoundSeries) -> Self {
        let labels = series.labels.iter();
        Self {
            id: series.id.0,
            labels: labels
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        }
    }
}

impl From<pb::Series> for SeriesShape {
    fn from(series: pb::Series) -> Self {
        let labels = series.labels.unwrap_or_default().labels;
        Self {
            id: series.id,
            labels: labels
                .into_iter()
                .map(|label| (label.name, label.value))
                .collect(),
        }
    }
}

/// A service as `services` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceShape {
    /// Its namespace, or `""`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Series it has.
    pub series: u64,
    /// Start of its latest window, RFC 3339.
    pub last_window: String,
    /// The same, in nanoseconds since 1970.
    pub last_window_unix_ns: i64,
    /// Cores over the last minutes, thousandths exact.
    pub cpu_cores: f64,
    /// Alerts of it that are firing.
    pub firing_alerts: u64,
    /// Profile types, in five-part form.
    pub profile_types: Vec<String>,
}

impl ServiceShape {
    /// Returns the shape of `summary` with so many firing alerts.
    pub fn new(summary: ServiceSummary, firing_alerts: usize) -> Self {
        Self {
            namespace: summary.namespace,
            name: summary.name,
            series: summary.series,
            last_window: rfc3339(summary.last_window),
            last_window_unix_ns: summary.last_window.get(),
            cpu_cores: cores(summary.cpu_millicores),
            firing_alerts: u64::try_from(firing_alerts).unwrap_or(u64::MAX),
            profile_types: summary.profile_types,
        }
    }

    /// Start of the latest window.
    pub fn last_window(&self) -> UnixNanos {
        UnixNanos::new(self.last_window_unix_ns)
    }

    /// `namespace/name`, or the name alone.
    pub fn full_name(&self) -> String {
        match self.namespace.as_str() {
            "" => self.name.clone(),
            namespace => format!("{namespace}/{}", self.name),
        }
    }
}

impl From<pb::Service> for ServiceShape {
    fn from(service: pb::Service) -> Self {
        Self {
            namespace: service.namespace,
            name: service.name,
            series: service.series,
            last_window: rfc3339(UnixNanos::new(service.last_window_unix_nanos)),
            last_window_unix_ns: service.last_window_unix_nanos,
            cpu_cores: cores(service.cpu_millicores),
            firing_alerts: u64::from(service.firing_alerts),
            profile_types: service.profile_types,
        }
    }
}

/// An alert as readers of its JSON need it. What an older or newer collector
/// leaves out is empty.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AlertShape {
    /// Its id.
    pub id: String,
    /// What was seen, for example `spin`.
    pub kind: String,
    /// `pending`, `firing`, `resolved`, `stale` or `ended`.
    pub state: String,
    /// How bad it is.
    pub severity: String,
    /// Namespace of the service, or `""`.
    pub namespace: String,
    /// The service.
    pub service: String,
    /// The frame path, root first.
    pub path: Vec<FrameShape>,
    /// Cores it costs.
    pub cores: f64,
    /// Share of the leaves that wait, 0 to 1.
    pub wait_share: Option<f64>,
    /// What is measured, where the alert is about that.
    pub measure: Option<MeasureShape>,
    /// When it began, RFC 3339.
    pub since: String,
    /// When it fired.
    pub fired_at: Option<String>,
    /// When it resolved.
    pub resolved_at: Option<String>,
    /// When a person said that they know of it.
    pub acknowledged_at: Option<String>,
    /// What they noted.
    pub note: String,
    /// What the path cost before.
    pub baseline_cores: Option<f64>,
    /// The version that began it.
    pub version: Option<String>,
    /// Pods that show it.
    pub pods: Vec<String>,
    /// One sentence.
    pub summary: String,
    /// Links by name.
    pub links: BTreeMap<String, serde_json::Value>,
}

/// The number that an alert is about.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct MeasureShape {
    /// What it is, for example `memory_bytes`.
    pub quantity: String,
}

/// A frame of an alert's path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FrameShape {
    /// Function.
    pub function: String,
    /// File, or `""`.
    pub file: String,
    /// Line, or 0.
    pub line: u32,
}

impl AlertShape {
    /// Reads an alert's JSON.
    ///
    /// # Errors
    ///
    /// `serde_json`'s error if a field has another type.
    pub fn parse(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// `namespace/service`, or the service alone.
    pub fn full_name(&self) -> String {
        match self.namespace.as_str() {
            "" => self.service.clone(),
            namespace => format!("{namespace}/{}", self.service),
        }
    }
}

impl From<&Alert> for AlertShape {
    fn from(alert: &Alert) -> Self {
        serde_json::to_value(alert)
            .and_then(serde_json::from_value)
            .unwrap_or_default()
    }
}

/// How many alerts of a tenant's service are firing; what is only good to know is none.
pub fn firing(alerts: &Alerts, tenant: &str, service: &ServiceSummary) -> usize {
    let filter = AlertFilter {
        service: Some(ServiceName {
            namespace: Some(service.namespace.clone()),
            name: service.name.clone(),
        }),
        state: Some(AlertState::Firing),
        id: None,
    };
    let firing = alerts.list(tenant, &filter);
    let info = Severity::Info.name();
    firing.iter().filter(|alert| alert.severity != info).count()
}

fn cores(millicores: u64) -> f64 {
    f64::from(u32::try_from(millicores).unwrap_or(u32::MAX)) / 1000.0
}
