//! Where alerts are sent.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{HOUR, is_url, text};

/// Most receivers; each has metrics of its own.
const MAX_RECEIVERS: usize = 32;
/// Longest name of a receiver.
const MAX_NAME: usize = 40;
/// Name of the receiver that `hook.url` makes.
const DEFAULT_NAME: &str = "default";

/// Where alerts are sent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookConfig {
    /// Receives every alert as Alertmanager's webhook JSON by POST, as the
    /// receiver `default`; empty for none.
    pub url: String,
    /// How long one delivery may take, where a receiver does not say.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// More receivers.
    pub receivers: Vec<ReceiverConfig>,
}

/// What a receiver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReceiverKind {
    /// An Alertmanager, by its API version 2.
    Alertmanager,
    /// Takes Alertmanager's webhook JSON, signed as Standard Webhooks.
    Webhook,
    /// An incoming webhook of Slack.
    Slack,
    /// PagerDuty's Events API v2.
    PagerDuty,
    /// A command of the operator's.
    Command,
}

/// One receiver. What does not belong to its kind must be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReceiverConfig {
    /// Its name, in logs, metrics and the status.
    pub name: String,
    /// What it is; must be given.
    pub kind: Option<ReceiverKind>,
    /// Where alerts are posted.
    pub url: Secret,
    /// File that holds the url.
    pub url_file: PathBuf,
    /// Secrets that sign what a webhook gets.
    pub secret: Secret,
    /// File that holds them.
    pub secret_file: PathBuf,
    /// PagerDuty's key of a service.
    pub routing_key: Secret,
    /// File that holds it.
    pub routing_key_file: PathBuf,
    /// Program and arguments.
    pub command: Vec<String>,
    /// How long one delivery may take; `hook.timeout` unless given.
    #[serde(with = "humantime_serde")]
    pub timeout: Option<Duration>,
    /// Template of the one line that a person reads.
    pub title: String,
    /// Template of what a person reads below.
    pub text: String,
    /// Which alerts it is told of; `match` in the file.
    #[serde(rename = "match")]
    pub matches: MatchConfig,
}

/// Which alerts a receiver is told of: each list that is given must hold an
/// expression that the whole value is like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MatchConfig {
    /// Services.
    pub service: Option<Vec<String>>,
    /// Namespaces; `""` for none.
    pub namespace: Option<Vec<String>>,
    /// Kinds of alerts.
    pub kind: Option<Vec<String>>,
    /// Severities.
    pub severity: Option<Vec<String>>,
}

/// A text that is not shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn get(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "\"\""
        } else {
            "[secret]"
        })
    }
}

impl Default for HookConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            timeout: Duration::from_secs(10),
            receivers: Vec::new(),
        }
    }
}

impl HookConfig {
    /// A key, what to show of its value, and what it must be, if something cannot
    /// be used. Whether secrets, templates and expressions can is found when the
    /// receivers are made.
    pub(super) fn problem(&self) -> Option<(&'static str, String, &'static str)> {
        if !self.url.is_empty() && !is_url(&self.url) {
            let reason = "it must be empty, or begin with http:// or https:// and name a host";
            // It may hold a secret.
            return Some(("hook.url", "…".to_owned(), reason));
        }
        if self.timeout.is_zero() || self.timeout > HOUR {
            let reason = "it must be above 0s, and at most 1h";
            return Some(("hook.timeout", text(self.timeout), reason));
        }
        if self.receivers.len() > MAX_RECEIVERS {
            let count = self.receivers.len().to_string();
            return Some(("hook.receivers", count, "there may be at most 32"));
        }
        let mut names = BTreeSet::new();
        if !self.url.is_empty() {
            names.insert(DEFAULT_NAME);
        }
        self.receivers.iter().find_map(|receiver| {
            let problem = match names.insert(receiver.name.as_str()) {
                true => receiver.problem(),
                false => Some("the name of each must be its own, and \"default\" is hook.url's"),
            };
            problem.map(|reason| ("hook.receivers", receiver.name.clone(), reason))
        })
    }
}

impl ReceiverConfig {
    /// What must be otherwise.
    fn problem(&self) -> Option<&'static str> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
        if self.name.is_empty() || self.name.len() > MAX_NAME || !self.name.chars().all(plain) {
            return Some("its name must be up to 40 lower case letters, digits, - and _");
        }
        let Some(kind) = self.kind else {
            return Some("its kind must be alertmanager, webhook, slack, pagerduty or command");
        };
        if self.timeout.is_some_and(|t| t.is_zero() || t > HOUR) {
            return Some("its timeout must be above 0s, and at most 1h");
        }
        let given = |value: &Secret, file: &PathBuf| {
            usize::from(!value.0.is_empty()) + usize::from(!file.as_os_str().is_empty())
        };
        let url = given(&self.url, &self.url_file);
        let secret = given(&self.secret, &self.secret_file);
        let routing_key = given(&self.routing_key, &self.routing_key_file);
        if url > 1 || secret > 1 || routing_key > 1 {
            return Some("a value is given in a file or in place, not both");
        }
        let has_command = !self.command.is_empty();
        let is_http = kind != ReceiverKind::Command;
        if is_http && url == 0 && kind != ReceiverKind::PagerDuty {
            return Some("its url or url_file must be given");
        }
        if (kind == ReceiverKind::PagerDuty) != (routing_key == 1) {
            return Some("routing_key or routing_key_file must be given with pagerduty alone");
        }
        if secret == 1 && kind != ReceiverKind::Webhook {
            return Some("a secret is for a webhook");
        }
        if has_command == is_http || (url == 1 && !is_http) {
            return Some("command must be given with the kind command alone, and without a url");
        }
        if self.command.first().is_some_and(String::is_empty) {
            return Some("its command must name a program");
        }
        None
    }
}
