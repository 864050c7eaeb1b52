//! The JSON of Alertmanager's webhook, version 4. Labels are the identity of
//! an alert and the same whenever it is sent; what changes is an annotation.

use std::collections::BTreeMap;

use serde::Serialize;

use super::notice::{Notice, Texts};
use super::template::Words;
use crate::alert::Alert;
use crate::detect::FindingKind;

/// `endsAt` of an alert that has not ended.
const NEVER: &str = "0001-01-01T00:00:00Z";
const RECEIVER: &str = "tepui";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    version: &'static str,
    group_key: String,
    truncated_alerts: u32,
    status: &'static str,
    receiver: &'static str,
    group_labels: BTreeMap<&'static str, &'a str>,
    common_labels: &'a Texts,
    common_annotations: &'a Texts,
    #[serde(rename = "externalURL")]
    external_url: &'a str,
    alerts: [Told<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    status: &'static str,
    labels: &'a Texts,
    annotations: &'a Texts,
    starts_at: &'a str,
    ends_at: &'a str,
    #[serde(rename = "generatorURL")]
    generator_url: &'a str,
    fingerprint: &'a str,
}

/// `spin` as `TepuiSpin`, `memory_leak` as `TepuiMemoryLeak`.
fn alertname(kind: &str) -> String {
    let words = kind.split('_').map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    format!("Tepui{}", words.collect::<String>())
}

/// The identity of `alert`.
pub(super) fn labels(alert: &Alert) -> Texts {
    let mut labels = BTreeMap::from([
        ("alertname", alertname(&alert.kind)),
        ("kind", alert.kind.clone()),
        ("severity", alert.severity.clone()),
        ("service", alert.service.clone()),
    ]);
    if !alert.anchor.is_empty() {
        labels.insert("frame", alert.anchor.clone());
    }
    // Alerts of other kinds are of several pods, which come and go.
    if let Some(measure) = &alert.measure
        && FindingKind::named(&alert.kind).is_some_and(FindingKind::is_of_pod)
    {
        labels.insert("pod", measure.pod.clone());
    }
    if !alert.namespace.is_empty() {
        labels.insert("namespace", alert.namespace.clone());
    }
    owned(labels)
}

fn owned(texts: BTreeMap<&'static str, String>) -> Texts {
    let texts = texts.into_iter();
    texts.map(|(name, text)| (name.to_owned(), text)).collect()
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

/// What is known of `alert` besides.
pub(super) fn annotations(alert: &Alert) -> Texts {
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
    owned(annotations)
}

/// The body that tells of `notice`, with these words as summary and description.
pub(super) fn body(notice: &Notice, words: &Words) -> Vec<u8> {
    let status = notice.happening.word();
    let annotations = words.annotations(notice);
    let alertname = notice.label("alertname");
    let payload = Payload {
        version: "4",
        group_key: format!("{{}}:{{alertname=\"{alertname}\"}}:{}", notice.alert_id),
        truncated_alerts: 0,
        status,
        receiver: RECEIVER,
        group_labels: BTreeMap::from([("alertname", alertname)]),
        common_labels: &notice.labels,
        common_annotations: &annotations,
        external_url: &notice.external_url,
        alerts: [Told {
            status,
            labels: &notice.labels,
            annotations: &annotations,
            starts_at: &notice.starts_at,
            ends_at: notice.ends_at.as_deref().unwrap_or(NEVER),
            generator_url: &notice.flamegraph,
            fingerprint: &notice.alert_id,
        }],
    };
    serde_json::to_vec(&payload).expect("a payload is plain texts")
}
