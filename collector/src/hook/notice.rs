//! What a receiver is told, as it is kept: the alert as data, so that each
//! receiver, and each repetition, writes it anew.

use std::collections::BTreeMap;

use proto::window::UnixNanos;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::payload;
use crate::alert::Alert;
use crate::auth::ANONYMOUS;

/// Format of a stored notice, its first byte.
const FORMAT: u8 = 2;
/// Format of entries that held the rendered body of the one webhook.
const FORMAT_RENDERED: u8 = 1;

/// Names and their texts, in order.
pub(super) type Texts = BTreeMap<String, String>;

/// What happened to an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Happening {
    /// It fired.
    Firing,
    /// It is over.
    Resolved,
}

impl Happening {
    /// The word for it, as Alertmanager has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// One thing to be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Notice {
    /// The same at each try, and for the same happening also after a restart:
    /// receivers count a repeat once by it.
    pub(super) id: String,
    /// The alert's id.
    pub(super) alert_id: String,
    /// Whose alert it is.
    pub(super) tenant: String,
    pub(super) happening: Happening,
    /// The identity of the alert, the same whenever it is told.
    pub(super) labels: Texts,
    /// What changes.
    pub(super) annotations: Texts,
    /// RFC 3339.
    pub(super) starts_at: String,
    /// RFC 3339; `None` while it fires.
    pub(super) ends_at: Option<String>,
    /// The flame graph.
    pub(super) flamegraph: String,
    /// What links begin with.
    pub(super) external_url: String,
    /// When it began to wait, nanoseconds since 1970.
    pub(super) queued_ns: i64,
    /// The alert as `/api/v1/anomalies` shows it; null where an earlier release
    /// kept only what it had written of it.
    pub(super) alert: Value,
}

/// What of an entry of format 1 is read: Alertmanager's webhook.
#[derive(Deserialize)]
struct Rendered {
    id: String,
    body: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    #[serde(rename = "externalURL")]
    external_url: String,
    alerts: [BodyAlert; 1],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BodyAlert {
    status: Happening,
    labels: Texts,
    annotations: Texts,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: String,
    fingerprint: String,
}

impl Notice {
    pub(super) fn new(
        alert: &Alert,
        happening: Happening,
        external_url: &str,
        now: UnixNanos,
    ) -> Self {
        Self {
            id: format!("tepui-{}-{}-{}", alert.id, happening.word(), alert.since),
            alert_id: alert.id.clone(),
            tenant: alert.tenant.clone(),
            happening,
            labels: payload::labels(alert),
            annotations: payload::annotations(alert),
            starts_at: alert.since.clone(),
            ends_at: match happening {
                Happening::Firing => None,
                Happening::Resolved => alert.resolved_at.clone(),
            },
            flamegraph: alert.links.get("flamegraph").cloned().unwrap_or_default(),
            external_url: external_url.to_owned(),
            queued_ns: now.get(),
            alert: serde_json::to_value(alert).expect("an alert is plain numbers and texts"),
        }
    }

    /// The label `name`, or `""`.
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// The annotation `name`, or `""`.
    pub(super) fn annotation(&self, name: &str) -> &str {
        self.annotations.get(name).map_or("", String::as_str)
    }

    /// The service with its namespace, as `prod/logger`.
    pub(super) fn service(&self) -> String {
        match self.label("namespace") {
            "" => self.label("service").to_owned(),
            namespace => format!("{namespace}/{}", self.label("service")),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes)
    }

    /// Reads an entry of format 1, which was kept by a release that knew a single
    /// webhook. Whose alert it is was not kept: it is taken for one of a collector
    /// without tokens, so that no other tenant sees it.
    pub(super) fn from_rendered(bytes: &[u8], now: UnixNanos) -> Option<Self> {
        let json = bytes.strip_prefix(&[FORMAT_RENDERED])?;
        let rendered: Rendered = serde_json::from_slice(json).ok()?;
        let body: Body = serde_json::from_str(&rendered.body).ok()?;
        let [alert] = body.alerts;
        Some(Self {
            id: rendered.id,
            alert_id: alert.fingerprint,
            tenant: ANONYMOUS.to_owned(),
            happening: alert.status,
            labels: alert.labels,
            annotations: alert.annotations,
            starts_at: alert.starts_at,
            ends_at: match alert.status {
                Happening::Firing => None,
                Happening::Resolved => Some(alert.ends_at),
            },
            flamegraph: alert.generator_url,
            external_url: body.external_url,
            queued_ns: now.get(),
            alert: Value::Null,
        })
    }
}

/// `value` as it is stored.
pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    serde_json::to_writer(&mut bytes, value).expect("what is stored is plain numbers and texts");
    bytes
}

/// What [`encode`] stored; `None` for anything else.
pub(super) fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes.strip_prefix(&[FORMAT])?).ok()
}
