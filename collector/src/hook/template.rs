//! Title and text of what is told, from the configuration's templates
//! ([Jinja](https://docs.rs/minijinja/latest/minijinja/syntax/)). A mistake in
//! one is found when the collector starts: both are tried on an alert that
//! fires and on one that resolved.

use std::collections::BTreeMap;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use proto::stack::FrameKind;
use proto::status::chain;
use proto::window::UnixNanos;
use serde_json::json;
use tracing::warn;

use super::notice::{Happening, Notice, Texts};
use crate::alert::{Alert, AlertState};
use crate::feature::PathFrame;

/// What a person reads: one line, and more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) title: String,
    pub(super) text: String,
}

impl Words {
    /// The annotations of `notice` with these words as summary and description.
    pub(super) fn annotations(&self, notice: &Notice) -> Texts {
        let mut annotations = notice.annotations.clone();
        annotations.insert("summary".to_owned(), self.title.clone());
        annotations.insert("description".to_owned(), self.text.clone());
        annotations
    }
}

/// How values are written into a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Markup {
    /// As they are.
    Plain,
    /// With the three characters replaced that Slack obeys.
    Slack,
}

/// The templates of one receiver; an empty one gives the alert's own words.
#[derive(Debug)]
pub(super) struct Templates {
    environment: Environment<'static>,
    title: String,
    text: String,
    markup: Markup,
}

/// A template that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key} cannot be used: {reason}")]
pub(super) struct TemplateError {
    key: &'static str,
    reason: String,
}

impl Templates {
    /// # Errors
    ///
    /// [`TemplateError`] if a template has a mistake.
    pub(super) fn new(title: &str, text: &str, markup: Markup) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        if markup == Markup::Slack {
            environment.set_formatter(|out, _, value| {
                out.write_str(&slack_escaped(&value.to_string()))
                    .map_err(Into::into)
            });
        }
        let templates = Self {
            environment,
            title: title.to_owned(),
            text: text.to_owned(),
            markup,
        };
        for notice in samples() {
            for (key, template) in [("title", title), ("text", text)] {
                templates
                    .render(template, &notice)
                    .map_err(|reason| TemplateError { key, reason })?;
            }
        }
        Ok(templates)
    }

    /// Templates that give the alert's own words.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self::new("", "", Markup::Plain).unwrap()
    }

    /// Whether the title is the operator's.
    pub(super) fn has_title(&self) -> bool {
        !self.title.is_empty()
    }

    /// The words for `notice`; where a template fails after all, the alert's own.
    pub(super) fn words(&self, notice: &Notice) -> Words {
        let one = |template: &str, own: &str| {
            let own = match self.markup {
                Markup::Plain => own.to_owned(),
                Markup::Slack => slack_escaped(own),
            };
            if template.is_empty() {
                return own;
            }
            self.render(template, notice).unwrap_or_else(|reason| {
                warn!(reason, "template failed; the alert's own words are sent");
                own
            })
        };
        Words {
            title: one(&self.title, notice.annotation("summary")),
            text: one(&self.text, notice.annotation("description")),
        }
    }

    fn render(&self, template: &str, notice: &Notice) -> Result<String, String> {
        let values = json!({
            "id": notice.id,
            "status": notice.happening.word(),
            "labels": notice.labels,
            "annotations": notice.annotations,
            "starts_at": notice.starts_at,
            "ends_at": notice.ends_at,
            "flamegraph_url": notice.flamegraph,
            "alert": notice.alert,
        });
        self.environment
            .render_str(template, Serde(values))
            .map_err(|error| chain(&error))
    }
}

/// `text` with the characters replaced that Slack's markup is made of.
pub(super) fn slack_escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// An alert that fires and one that resolved, with every field.
fn samples() -> [Notice; 2] {
    [Happening::Firing, Happening::Resolved].map(|happening| {
        let time = "2026-11-24T14:02:00Z".to_owned();
        let alert = Alert {
            id: "0000000000000000".to_owned(),
            tenant: "anonymous".to_owned(),
            kind: "spin".to_owned(),
            state: match happening {
                Happening::Firing => AlertState::Firing,
                Happening::Resolved => AlertState::Resolved,
            },
            severity: "critical".to_owned(),
            namespace: "prod".to_owned(),
            service: "logger".to_owned(),
            anchor: "main.startSink".to_owned(),
            path: vec![PathFrame {
                function: "main.startSink".to_owned(),
                file: "main.go".to_owned(),
                line: 7,
                kind: FrameKind::Go,
            }],
            cores: 0.94,
            baseline_cores: Some(0.0),
            title: "logger spins in main.startSink: 0.94 cores".to_owned(),
            wait_share: Some(0.99),
            progress_share: Some(0.0),
            leaf_eff: 4.0,
            throttled_share: 0.0,
            top_leaves: vec![("runtime.selectgo".to_owned(), 0.7)],
            shift: None,
            measure: None,
            samples: 10,
            since: time.clone(),
            last_seen: time.clone(),
            fired_at: Some(time.clone()),
            resolved_at: (happening == Happening::Resolved).then(|| time.clone()),
            acknowledged_at: None,
            note: String::new(),
            version: "1.8.3".to_owned(),
            previous_version: "1.8.2".to_owned(),
            pods: vec!["logger-0".to_owned()],
            summary: "main.startSink has used 0.94 cores.".to_owned(),
            links: ["flamegraph", "pprof", "query"]
                .map(|name| (name.to_owned(), format!("http://c/{name}")))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
        };
        Notice::new(&alert, happening, "http://c", UnixNanos::new(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_sees_the_alert_and_mistakes_are_found_at_the_start() {
        let [firing, resolved] = samples();
        for (title, expected) in [
            ("", "logger spins in main.startSink: 0.94 cores"),
            ("{{ status | upper }} {{ labels.service }}", "FIRING logger"),
            (
                "{{ alert.cores }} of {{ alert.pods[0] }}",
                "0.94 of logger-0",
            ),
            ("{% if ends_at %}over{% else %}on{% endif %}", "on"),
            ("{{ alert.path[0].function }}", "main.startSink"),
        ] {
            let templates = Templates::new(title, "", Markup::Plain).unwrap();
            assert_eq!(templates.words(&firing).title, expected, "{title}");
            templates.words(&resolved);
        }
        for (title, text, expected) in [
            ("{{ status", "", "title"),
            ("", "{{ labels.srevice }}", "text"),
            ("", "{{ status | nosuch }}", "text"),
            ("{% for x in y %}{% endfor %}", "", "title"),
            ("{{ alert.cores.much }}", "", "title"),
        ] {
            let error = Templates::new(title, text, Markup::Plain).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }

    #[test]
    fn what_an_earlier_release_kept_is_told_in_the_alerts_own_words() {
        let [mut notice, _] = samples();
        notice.alert = serde_json::Value::Null;
        let templates = Templates::new("{{ alert.cores }}", "{{ status }}", Markup::Plain).unwrap();
        let words = templates.words(&notice);
        assert_eq!(words.title, "logger spins in main.startSink: 0.94 cores");
        assert_eq!(words.text, "firing");
    }

    #[test]
    fn values_cannot_be_slack_markup_and_the_template_can() {
        let [mut notice, _] = samples();
        notice
            .labels
            .insert("service".to_owned(), "<!channel> & co".to_owned());
        let templates = Templates::new(
            "<{{ flamegraph_url }}|{{ labels.service }}>",
            "",
            Markup::Slack,
        )
        .unwrap();
        let title = templates.words(&notice).title;
        assert_eq!(title, "<http://c/flamegraph|&lt;!channel&gt; &amp; co>");
    }
}
