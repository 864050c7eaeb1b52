//! [Incoming webhooks](https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks)
//! of Slack, and of what takes the same JSON.

use serde_json::json;

use super::http::Post;
use super::notice::{Happening, Notice};
use super::template::{Templates, slack_escaped};

/// Most characters of a header and of a section, as Slack has it.
const HEADER: usize = 150;
const SECTION: usize = 3_000;

/// What is posted for `notice`.
pub(super) fn post(notice: &Notice, templates: &Templates) -> Post {
    let words = templates.words(notice);
    let sign = match notice.happening {
        Happening::Firing => "Firing",
        Happening::Resolved => "Resolved",
    };
    let title = match templates.has_title() {
        true => words.title,
        false => format!("{sign}: {}", words.title),
    };
    let mut blocks = vec![json!({
        "type": "header",
        "text": {"type": "plain_text", "text": shortened(&title, HEADER)},
    })];
    if !words.text.is_empty() {
        blocks.push(json!({
            "type": "section",
            "text": {"type": "mrkdwn", "text": shortened(&words.text, SECTION)},
        }));
    }
    let mut facts = vec![
        slack_escaped(&notice.service()),
        slack_escaped(notice.label("severity")),
        format!("since {}", slack_escaped(&notice.starts_at)),
    ];
    if !notice.flamegraph.is_empty() {
        let link = slack_escaped(&notice.flamegraph);
        facts.push(format!("<{link}|flame graph>"));
    }
    blocks.push(json!({
        "type": "context",
        "elements": [{"type": "mrkdwn", "text": shortened(&facts.join(" · "), SECTION)}],
    }));
    // The text is what a notification shows.
    let body = json!({"text": shortened(&title, SECTION), "blocks": blocks});
    Post {
        headers: Vec::new(),
        body: body.to_string().into_bytes(),
    }
}

/// The first `limit` characters of `text`, which does not end within `&amp;`.
fn shortened(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(limit.saturating_sub(1)).collect();
    if let Some((whole, rest)) = short.rsplit_once('&')
        && !rest.contains(';')
    {
        short = whole.to_owned();
    }
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_and_never_within_an_escape() {
        for (text, limit, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("a&amp;bcd", 5, "a…"),
            ("a&amp;bcd", 8, "a&amp;b…"),
            ("üüüü", 3, "üü…"),
        ] {
            assert_eq!(shortened(text, limit), expected, "{text} {limit}");
        }
    }
}
