//! [Alertmanager](https://prometheus.io/docs/alerting/latest/alerts_api/), by
//! its API version 2.
//!
//! Alertmanager forgets an alert that it does not hear of: one that fires is
//! told again every minute and ends five minutes after it was last told; one
//! that is over is told for five minutes, in case Alertmanager restarts. Labels
//! are always the same; what changes is an annotation.

use std::time::Duration;

use proto::window::UnixNanos;
use serde::Serialize;

use super::http::Post;
use super::notice::{Happening, Notice, Texts};
use super::template::Templates;
use crate::time_range::rfc3339;

/// When an alert that fires ends, should it not be told again.
const ENDS_AFTER: Duration = Duration::from_secs(300);
/// Where alerts are posted.
const PATH: &str = "/api/v2/alerts";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Posted<'a> {
    labels: &'a Texts,
    annotations: Texts,
    starts_at: &'a str,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: &'a str,
}

/// The address of the API of the Alertmanager at `base`.
pub(super) fn url(base: &str) -> String {
    let base = base.trim_end_matches('/');
    match base.ends_with(PATH) {
        true => base.to_owned(),
        false => format!("{base}{PATH}"),
    }
}

/// What is posted for `notices`.
pub(super) fn post(notices: &[Notice], templates: &Templates, now: UnixNanos) -> Post {
    let alerts = notices.iter().map(|notice| Posted {
        labels: &notice.labels,
        annotations: templates.words(notice).annotations(notice),
        starts_at: &notice.starts_at,
        ends_at: match (notice.happening, &notice.ends_at) {
            (Happening::Resolved, Some(time)) => time.clone(),
            (Happening::Resolved, None) => rfc3339(now),
            (Happening::Firing, _) => rfc3339(now.saturating_add(ENDS_AFTER)),
        },
        generator_url: &notice.flamegraph,
    });
    Post {
        headers: Vec::new(),
        body: serde_json::to_vec(&alerts.collect::<Vec<_>>()).expect("alerts are plain texts"),
    }
}
