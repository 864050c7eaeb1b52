//! The JSON of Alertmanager's webhook, version 4. Labels are the identity of
//! an alert and the same whenever it is sent; what changes is an annotation.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::alert::Alert;

/// `endsAt` of an alert that has not ended.
const NEVER: &str = "0001-01-01T00:00:00Z";
const RECEIVER: &str = "tepui";

type Texts = BTreeMap<&'static str, String>;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    version: &'static str,
    group_key: String,
    truncated_alerts: u32,
    status: &'static str,
    receiver: &'static str,
    group_labels: Texts,
    common_labels: Texts,
    common_annotations: Texts,
    #[serde(rename = "externalURL")]
    external_url: &'a str,
    alerts: [Told<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    status: &'static str,
    labels: Texts,
    annotations: Texts,
    starts_at: &'a str,
    ends_at: &'a str,
    #[serde(rename = "generatorURL")]
    generator_url: &'a str,
    fingerprint: &'a str,
}

/// `spin` as `TepuiSpin`.
fn alertname(kind: &str) -> String {
    let mut letters = kind.chars();
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    format!(
        "Tepui{}{}",
        first.map(String::from).unwrap_or_default(),
        letters.as_str()
    )
}

fn labels(alert: &Alert) -> Texts {
    let mut labels = BTreeMap::from([
        ("alertname", alertname(&alert.kind)),
        ("kind", alert.kind.clone()),
        ("severity", alert.severity.clone()),
        ("service", alert.service.clone()),
        ("frame", alert.anchor.clone()),
    ]);
    if !alert.namespace.is_empty() {
        labels.insert("namespace", alert.namespace.clone());
    }
    labels
}

/// The frame path, root first, one function with file and line after another.
fn path(alert: &Alert) -> String {
    let frames = alert
        .path
        .iter()
        .map(|frame| match (frame.file.as_str(), frame.line) {
            ("", _) => frame.function.clone(),
            (file, 0) => format!("{} ({file})", frame.function),
            (file, line) => format!("{} ({file}:{line})", frame.function),
        });
    frames.collect::<Vec<_>>().join(" → ")
}

fn annotations(alert: &Alert) -> Texts {
    let link = |name: &str| alert.links.get(name).cloned().unwrap_or_default();
    let mut annotations = BTreeMap::from([
        ("summary", alert.title.clone()),
        ("description", alert.summary.clone()),
        ("path", path(alert)),
        ("cores", format!("{:.2}", alert.cores)),
        ("since", alert.since.clone()),
        ("flamegraph_url", link("flamegraph")),
        ("pprof_url", link("pprof")),
        ("query", link("query")),
    ]);
    if let Some(share) = alert.wait_share {
        annotations.insert("wait_share", format!("{share:.3}"));
    }
    if let Some(share) = alert.progress_share {
        annotations.insert("progress_share", format!("{share:.3}"));
    }
    if let Some(cores) = alert.baseline_cores {
        annotations.insert("baseline_cores", format!("{cores:.2}"));
    }
    for (name, text) in [
        ("version", alert.version.clone()),
        ("previous_version", alert.previous_version.clone()),
        ("pods", alert.pods.join(", ")),
    ] {
        if !text.is_empty() {
            annotations.insert(name, text);
        }
    }
    annotations
}

/// The word for what happened to an alert.
pub(super) fn status(resolved: bool) -> &'static str {
    if resolved { "resolved" } else { "firing" }
}

/// The body that tells of `alert`, which fired or resolved.
pub(super) fn body(alert: &Alert, resolved: bool, external_url: &str) -> String {
    let status = status(resolved);
    let labels = labels(alert);
    let annotations = annotations(alert);
    let ends_at = match (resolved, &alert.resolved_at) {
        (true, Some(time)) => time.as_str(),
        _ => NEVER,
    };
    let payload = Payload {
        version: "4",
        group_key: format!(
            "{{}}:{{alertname=\"{}\"}}:{}",
            alertname(&alert.kind),
            alert.id
        ),
        truncated_alerts: 0,
        status,
        receiver: RECEIVER,
        group_labels: BTreeMap::from([("alertname", alertname(&alert.kind))]),
        common_labels: labels.clone(),
        common_annotations: annotations.clone(),
        external_url,
        alerts: [Told {
            status,
            labels,
            annotations,
            starts_at: &alert.since,
            ends_at,
            generator_url: alert.links.get("flamegraph").map_or("", String::as_str),
            fingerprint: &alert.id,
        }],
    };
    serde_json::to_string(&payload).expect("a payload is plain texts")
}
