//! A receiver as configured: what it is, checked, with its secrets read.

use std::path::Path;

use proto::status::chain;
use proto::window::UnixNanos;

use super::command::Runner;
use super::http::{self, Door, Try};
use super::notice::Notice;
use super::route::Route;
use super::template::{Markup, Templates};
use super::webhook::Signer;
use super::worker::Tell;
use super::{alertmanager, pagerduty, slack, webhook};
use crate::config::{HookConfig, ReceiverConfig, ReceiverKind};

/// Name of the receiver that `hook.url` makes.
pub(super) const DEFAULT: &str = "default";
/// Longest secret that is read from a file.
const SECRET_BYTES: u64 = 4_096;

/// A receiver that cannot be used. No value is shown: it may be a secret.
#[derive(Debug, thiserror::Error)]
#[error("the receiver {name:?} of [hook] cannot be used: {reason}")]
pub struct ReceiverError {
    name: String,
    reason: String,
}

#[derive(Debug)]
enum Kind {
    Alertmanager(Door),
    Webhook(Door, Vec<Signer>),
    Slack(Door),
    PagerDuty(Door, String),
    Command(Runner),
}

/// A receiver.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) name: String,
    pub(super) route: Route,
    kind: Kind,
    templates: Templates,
}

/// Every receiver of `config`, ready to be told.
///
/// # Errors
///
/// [`ReceiverError`] if one cannot be used: a secret's file cannot be read, an
/// address is none, a template has a mistake.
pub(super) fn receivers(config: &HookConfig) -> Result<Vec<Receiver>, ReceiverError> {
    let client = http::client().map_err(|failure| ReceiverError {
        name: DEFAULT.to_owned(),
        reason: chain(&failure),
    })?;
    let single = (!config.url.is_empty()).then(|| ReceiverConfig {
        name: DEFAULT.to_owned(),
        kind: Some(ReceiverKind::Webhook),
        url: config.url.clone().into(),
        ..ReceiverConfig::default()
    });
    let all = single.iter().chain(&config.receivers);
    all.map(|receiver| {
        Receiver::new(receiver, config, &client).map_err(|reason| ReceiverError {
            name: receiver.name.clone(),
            reason,
        })
    })
    .collect()
}

/// A secret of the configuration or of a file, without the line's end.
fn secret(key: &str, value: &str, file: &Path) -> Result<String, String> {
    if file.as_os_str().is_empty() {
        return Ok(value.to_owned());
    }
    let fails = |why: String| format!("{key}_file = {file:?} cannot be read: {why}");
    let bytes = std::fs::metadata(file).map_err(|error| fails(error.to_string()))?;
    if bytes.len() > SECRET_BYTES {
        return Err(fails(format!("it has more than {SECRET_BYTES} bytes")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| fails(error.to_string()))?;
    match text.trim() {
        "" => Err(fails("it is empty".to_owned())),
        text => Ok(text.to_owned()),
    }
}

impl Receiver {
    fn new(
        config: &ReceiverConfig,
        hook: &HookConfig,
        client: &reqwest::Client,
    ) -> Result<Self, String> {
        let timeout = config.timeout.unwrap_or(hook.timeout);
        let door = |default: &str, secrets: Vec<String>| {
            let url = match secret("url", config.url.get(), &config.url_file)? {
                url if url.is_empty() => default.to_owned(),
                url => url,
            };
            let url = match config.kind {
                Some(ReceiverKind::Alertmanager) => alertmanager::url(&url),
                _ => url,
            };
            let url = http::url(&url)
                .ok_or("its url must begin with http:// or https:// and name a host".to_owned())?;
            Ok::<_, String>(Door::new(client.clone(), url, timeout, secrets))
        };
        let kind = match config.kind {
            None => return Err("it has no kind".to_owned()),
            Some(ReceiverKind::Alertmanager) => Kind::Alertmanager(door("", Vec::new())?),
            Some(ReceiverKind::Slack) => Kind::Slack(door("", Vec::new())?),
            Some(ReceiverKind::Webhook) => {
                let secrets = secret("secret", config.secret.get(), &config.secret_file)?;
                let signers = Signer::parse(&secrets).ok_or(
                    "secret must be whsec_ and 24 to 64 bytes in base64, or several of those"
                        .to_owned(),
                )?;
                let hidden = secrets.split_whitespace().map(str::to_owned).collect();
                Kind::Webhook(door("", hidden)?, signers)
            }
            Some(ReceiverKind::PagerDuty) => {
                let file = &config.routing_key_file;
                let routing_key = secret("routing_key", config.routing_key.get(), file)?;
                let door = door(pagerduty::URL, vec![routing_key.clone()])?;
                Kind::PagerDuty(door, routing_key)
            }
            Some(ReceiverKind::Command) => {
                let (program, arguments) = config
                    .command
                    .split_first()
                    .ok_or("it has no command".to_owned())?;
                Kind::Command(Runner {
                    program: program.clone(),
                    arguments: arguments.to_vec(),
                    timeout,
                })
            }
        };
        let markup = match kind {
            Kind::Slack(_) => Markup::Slack,
            Kind::Alertmanager(_) | Kind::Webhook(..) | Kind::PagerDuty(..) | Kind::Command(_) => {
                Markup::Plain
            }
        };
        Ok(Self {
            name: config.name.clone(),
            route: Route::new(&config.matches).map_err(|error| chain(&error))?,
            templates: Templates::new(&config.title, &config.text, markup)
                .map_err(|error| chain(&error))?,
            kind,
        })
    }

    /// The word for what it is.
    pub(super) fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Alertmanager(_) => "alertmanager",
            Kind::Webhook(..) => "webhook",
            Kind::Slack(_) => "slack",
            Kind::PagerDuty(..) => "pagerduty",
            Kind::Command(_) => "command",
        }
    }
}

impl Tell for Receiver {
    async fn tell(&self, notices: &[Notice], now: UnixNanos) -> Try {
        let templates = &self.templates;
        let Some(notice) = notices.first() else {
            return Try::Delivered;
        };
        let (door, post) = match &self.kind {
            Kind::Command(runner) => return runner.run(notice, templates).await,
            Kind::Alertmanager(door) => (door, alertmanager::post(notices, templates, now)),
            Kind::Webhook(door, signers) => (door, webhook::post(notice, templates, signers, now)),
            Kind::Slack(door) => (door, slack::post(notice, templates)),
            Kind::PagerDuty(door, key) => (door, pagerduty::post(notice, templates, key)),
        };
        door.post(post, now).await
    }

    fn repeats(&self) -> bool {
        matches!(self.kind, Kind::Alertmanager(_))
    }
}
