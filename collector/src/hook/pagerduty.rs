//! [Events API v2](https://developer.pagerduty.com/docs/send-alert-event) of
//! PagerDuty. The alert's id is the key by which PagerDuty knows that two
//! events are about one alert.

use serde_json::json;

use super::http::Post;
use super::notice::{Happening, Notice};
use super::template::Templates;

/// Where events are posted unless told.
pub(super) const URL: &str = "https://events.pagerduty.com/v2/enqueue";
/// Most characters of a summary, as PagerDuty has it.
const SUMMARY: usize = 1_024;

/// The one of PagerDuty's four severities that `severity` is nearest to.
fn severity(severity: &str) -> &'static str {
    match severity {
        "critical" => "critical",
        "warning" => "warning",
        "info" => "info",
        _ => "error",
    }
}

/// What is posted for `notice`.
pub(super) fn post(notice: &Notice, templates: &Templates, routing_key: &str) -> Post {
    let body = match notice.happening {
        Happening::Resolved => json!({
            "routing_key": routing_key,
            "event_action": "resolve",
            "dedup_key": notice.alert_id,
        }),
        Happening::Firing => {
            let words = templates.words(notice);
            let summary: String = words.title.chars().take(SUMMARY).collect();
            let details = words.annotations(notice);
            let mut event = json!({
                "routing_key": routing_key,
                "event_action": "trigger",
                "dedup_key": notice.alert_id,
                "client": "Tepui",
                "payload": {
                    "summary": summary,
                    "source": notice.service(),
                    "severity": severity(notice.label("severity")),
                    "timestamp": notice.starts_at,
                    "component": notice.label("frame"),
                    "group": notice.service(),
                    "class": notice.label("kind"),
                    "custom_details": details,
                },
            });
            if !notice.flamegraph.is_empty()
                && let Some(event) = event.as_object_mut()
            {
                event.insert("client_url".to_owned(), json!(notice.flamegraph));
                event.insert(
                    "links".to_owned(),
                    json!([{"href": notice.flamegraph, "text": "flame graph"}]),
                );
            }
            event
        }
    };
    Post {
        headers: Vec::new(),
        body: body.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severities_are_pagerdutys() {
        for (ours, theirs) in [
            ("critical", "critical"),
            ("warning", "warning"),
            ("info", "info"),
            ("page", "error"),
            ("", "error"),
        ] {
            assert_eq!(severity(ours), theirs);
        }
    }
}
