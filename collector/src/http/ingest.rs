//! `POST /api/v1/ingest`: one pprof profile, as any profiler writes it, without a
//! stream. Its labels are in the query. The answer comes once it is durable.
//!
//! It goes the way of agents' windows: the same writer, limits, tiers, alerts and
//! retention. Files that are older than agents' windows may be, and other formats,
//! are for `collector import`.
//!
//! A profile that is sent twice is counted twice, unless its sender gives it an
//! `id`: a name, or a name and a number that counts up, as `build-7` and
//! `pusher-a/12`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Json, Response};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ORIGIN};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use proto::dictionary::WireWindow;
use proto::labels::{LabelSet, NAMESPACE, SERVICE};
use proto::limits::INSTANCE_BYTES;
use proto::pb::tepui::RefusalCode;
use proto::profile::Facts;
use proto::status::{Kind, chain};
use proto::window::{UnixNanos, Window};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use xxhash_rust::xxh3::xxh3_128;

use super::App;
use super::error::ApiError;
use super::params::given;
use crate::auth::Principal;
use crate::import::{self, Dense, Limits, Words};
use crate::ingest::intake::{Intake, RETRY_AFTER, overloaded, size_kib, stopping};
use crate::ingest::writer::{MAX_INSTANCES, MAX_NAMED_SENDERS, Names, Outcome, Submission};
use crate::query::ServiceName;
use crate::time_range::{self, rfc3339};

/// Largest body, packed or not.
const MAX_BODY_BYTES: usize = 8 << 20;
/// KiB of bodies that arrive or wait to be read at a time.
const BODIES_KIB: usize = 32 << 10;
/// Profiles that are read at once.
const MAX_READING: usize = 2;
/// How long a body waits until it may arrive.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is read of one profile: enough for those of large programs, and little
/// beside the memory of a collector.
const LIMITS: Limits = Limits {
    file_bytes: 16 << 20,
    decoded_bytes: 48 << 20,
    stacks: 64 * 1024,
    depth: 1024,
    name_bytes: proto::limits::MAX_STRING_BYTES,
    dictionary_bytes: 8 << 20,
};
/// How long a profile took when nobody says: one window of an agent.
const DEFAULT_LENGTH: Duration = Duration::from_secs(10);
/// What a sender waits whose profile was refused for want of room among series.
const REFUSED_RETRY_AFTER: Duration = Duration::from_secs(60);
/// What names of labels in the query begin with.
const LABEL: &str = "label.";
/// Longest name of an `id`.
const MAX_ID_BYTES: usize = 128;

/// Takes profiles; cheap to clone.
#[derive(Clone, Debug)]
pub struct PprofDoor {
    intake: Intake,
    /// Who sends the profiles that have no `id`, and how many there were.
    instance: [u8; INSTANCE_BYTES],
    sequence: Arc<AtomicU64>,
    bodies: Arc<Semaphore>,
    reading: Arc<Semaphore>,
}

impl PprofDoor {
    /// Returns the door before `intake`.
    ///
    /// # Errors
    ///
    /// When there is no random number.
    pub fn new(intake: Intake) -> Result<Self, getrandom::Error> {
        let mut instance = [0; INSTANCE_BYTES];
        getrandom::fill(&mut instance)?;
        Ok(Self {
            intake,
            instance,
            sequence: Arc::default(),
            bodies: Arc::new(Semaphore::new(BODIES_KIB)),
            reading: Arc::new(Semaphore::new(MAX_READING)),
        })
    }

    /// The body of `request`, with its share of the memory that bodies may take.
    async fn body(&self, request: Request) -> Result<(Bytes, OwnedSemaphorePermit), ApiError> {
        let headers = request.headers();
        if is_from_a_page(headers) {
            let message = "pages of other sites may not push; send the profile with a program";
            return Err(ApiError::new(Kind::Forbidden, message));
        }
        if let Some(form) = headers.get(CONTENT_TYPE)
            && form.as_bytes().starts_with(b"multipart/")
        {
            let message =
                "a form is not read; send the profile itself as the body: curl --data-binary @FILE";
            return Err(ApiError::new(Kind::Invalid, message));
        }
        let told = headers.get(CONTENT_LENGTH);
        let told = told.and_then(|text| text.to_str().ok()?.parse::<usize>().ok());
        let bytes = told.unwrap_or(MAX_BODY_BYTES).min(MAX_BODY_BYTES);
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX) + 1;
        let place = Arc::clone(&self.bodies).acquire_many_owned(kib);
        let Ok(Ok(place)) = tokio::time::timeout(PATIENCE, place).await else {
            let message = "other profiles take all the room there is for arriving ones";
            return Err(self.refuse(overloaded(message, RETRY_AFTER)));
        };
        let body = Limited::new(request.into_body(), MAX_BODY_BYTES);
        match body.collect().await {
            Ok(body) => Ok((body.to_bytes(), place)),
            Err(error) if error.is::<LengthLimitError>() => {
                let message = format!(
                    "the profile is larger than {MAX_BODY_BYTES} bytes; collector import reads larger ones"
                );
                Err(self.reject(RefusalCode::TooLarge, message))
            }
            Err(error) => Err(self.reject(
                RefusalCode::Malformed,
                format!("the body broke off: {error}"),
            )),
        }
    }

    /// Counts and returns a refusal for good.
    fn reject(&self, code: RefusalCode, message: impl Into<String>) -> ApiError {
        self.refuse(Outcome::refused(code, message, None))
    }

    /// Counts a refusal, and returns it as HTTP answers it.
    fn refuse(&self, outcome: Outcome) -> ApiError {
        self.intake.count(&outcome);
        refusal(outcome)
    }

    /// What the profile in `body` holds, with the place that is kept until there is
    /// room for it.
    async fn read(&self, body: Bytes) -> Result<(Dense, OwnedSemaphorePermit), ApiError> {
        let ended = || self.refuse(stopping());
        let place = Arc::clone(&self.reading).acquire_owned().await;
        let place = place.map_err(|_| ended())?;
        let reading = tokio::task::spawn_blocking(move || {
            import::read_pprof(&body, &LIMITS).map(|dense| (dense, place))
        });
        let read = reading.await.map_err(|_| ended())?;
        read.map_err(|error| self.reject(RefusalCode::Malformed, chain(&error)))
    }

    /// Has `window` written.
    async fn store(
        &self,
        tenant: &str,
        sender: Option<Sender>,
        window: WireWindow,
        words: Words,
        place: OwnedSemaphorePermit,
    ) -> Result<bool, ApiError> {
        let windows = vec![Ok(window)];
        let words_kib = u32::try_from(words.bytes() / 1024).unwrap_or(u32::MAX);
        let kib = size_kib(&windows).saturating_add(words_kib);
        let room = self.intake.room(kib).await;
        let room = room.map_err(|outcome| self.refuse(outcome))?;
        drop(place);
        let (reply, outcome) = oneshot::channel();
        let (instance, sequence, max_instances) = match sender {
            Some(sender) => (sender.instance(tenant), sender.number, MAX_NAMED_SENDERS),
            None => {
                let before = self.sequence.fetch_add(1, Ordering::Relaxed);
                (self.instance, before.saturating_add(1), MAX_INSTANCES)
            }
        };
        let submission = Submission {
            tenant: Arc::from(tenant),
            instance,
            sequence,
            is_import: false,
            windows,
            names: Names::Whole(words),
            max_instances,
            room: Some(room),
            reply,
        };
        let sent = self.intake.send(submission).await;
        sent.map_err(|outcome| self.refuse(outcome))?;
        match outcome.await.unwrap_or_else(|_| stopping()) {
            Outcome::Acked { refused, duplicate } => match refused.into_iter().next() {
                None => Ok(duplicate),
                Some((_, code, message)) => {
                    let kind = Kind::of_refusal(code);
                    let passes = matches!(kind, Kind::Exhausted | Kind::Unavailable);
                    let wait = passes.then_some(REFUSED_RETRY_AFTER);
                    Err(ApiError::new(kind, message).retry_after(wait))
                }
            },
            refused @ Outcome::Refused { .. } => Err(self.refuse(refused)),
        }
    }
}

/// Whether a browser sends it for a page of another site, which asks nobody.
fn is_from_a_page(headers: &HeaderMap) -> bool {
    match headers.get("sec-fetch-site") {
        Some(site) => !matches!(site.as_bytes(), b"same-origin" | b"none"),
        None => headers.contains_key(ORIGIN),
    }
}

/// A refusal as HTTP answers it.
fn refusal(outcome: Outcome) -> ApiError {
    match outcome {
        Outcome::Refused {
            code,
            message,
            retry_after,
        } => ApiError::new(Kind::of_refusal(code), message).retry_after(retry_after),
        Outcome::Acked { .. } => ApiError::new(Kind::Internal, "an acceptance is no refusal"),
    }
}

/// Who sends, and the number of what it sends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sender {
    name: String,
    number: u64,
}

impl Sender {
    fn parse(text: &str) -> Result<Self, ApiError> {
        let (name, number) = match text.rsplit_once('/') {
            Some((name, number)) => (name, number.parse().ok()),
            None => (text, Some(1)),
        };
        match number {
            Some(number) if number > 0 && (1..=MAX_ID_BYTES).contains(&name.len()) => Ok(Self {
                name: name.to_owned(),
                number,
            }),
            _ => Err(ApiError::new(
                Kind::Invalid,
                format!(
                    "id must read NAME or NAME/NUMBER, with at most {MAX_ID_BYTES} bytes and a number that counts up from 1"
                ),
            )),
        }
    }

    /// What stands for it where agents have an id of their own.
    fn instance(&self, tenant: &str) -> [u8; INSTANCE_BYTES] {
        // A zero byte is in no name of a tenant.
        xxh3_128(format!("{tenant}\0{}", self.name).as_bytes()).to_be_bytes()
    }
}

/// What the query says of a profile.
#[derive(Debug, PartialEq, Eq)]
struct Params {
    labels: LabelSet,
    from: Option<UnixNanos>,
    until: Option<UnixNanos>,
    sender: Option<Sender>,
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(Kind::Invalid, message)
}

impl Params {
    fn read(pairs: Vec<(String, String)>, now: UnixNanos) -> Result<Self, ApiError> {
        let (mut service, mut from, mut until, mut sender) = (None, None, None, None);
        let mut labels: Vec<(String, String)> = Vec::new();
        for (name, value) in pairs {
            if let Some(label) = name.strip_prefix(LABEL) {
                labels.push((label.to_owned(), value));
                continue;
            }
            let Some(value) = given(Some(&value)) else {
                continue;
            };
            match name.as_str() {
                SERVICE => service = Some(value.parse::<ServiceName>()?),
                NAMESPACE => labels.push((name, value.to_owned())),
                "from" => from = Some(time_range::parse("from", value, now)?),
                "until" => until = Some(time_range::parse("until", value, now)?),
                "id" => sender = Some(Sender::parse(value)?),
                _ => {
                    let shown: String = name.chars().take(64).collect();
                    return Err(invalid(format!(
                        "query parameters: unknown {shown:?}; there are service, namespace, from, until, id and label.NAME"
                    )));
                }
            }
        }
        let service = service.ok_or_else(|| invalid("a service is needed: service=NAME"))?;
        let namespace = service.namespace.map(|text| (NAMESPACE.to_owned(), text));
        let named = [(SERVICE.to_owned(), service.name)];
        let all = named.into_iter().chain(namespace).chain(labels);
        let labels = LabelSet::new(all).map_err(|error| invalid(chain(&error)))?;
        Ok(Self {
            labels,
            from,
            until,
            sender,
        })
    }

    /// The time that a profile covers which says `start` and `length` itself.
    fn window(
        &self,
        start: Option<UnixNanos>,
        length: Option<Duration>,
        now: UnixNanos,
    ) -> Result<Window, ApiError> {
        let length = length.unwrap_or(DEFAULT_LENGTH);
        let end = self.until;
        let start = self.from.or(start);
        let start = start.unwrap_or_else(|| end.unwrap_or(now).saturating_sub(length));
        let end = end.unwrap_or_else(|| start.saturating_add(length));
        Window::new(start, end).map_err(|error| invalid(chain(&error)))
    }
}

/// What was stored.
#[derive(Debug, Serialize)]
struct Stored {
    service: String,
    from: String,
    seconds: f64,
    types: Vec<String>,
    /// A profile with this id was stored before, and nothing now.
    duplicate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<String>,
}

/// `POST /api/v1/ingest`.
pub async fn pprof(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    request: Request,
) -> Result<Response, ApiError> {
    let now = app.clock.now();
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(request.uri())
        .map_err(|rejection| invalid(rejection.body_text()))?;
    let params = Params::read(pairs, now)?;
    let (body, place) = app.ingest.body(request).await?;
    if body.is_empty() {
        return Err(invalid(
            "the body is empty; send a pprof profile: curl --data-binary @FILE",
        ));
    }
    let (dense, reading) = app.ingest.read(body).await?;
    drop(place);
    let window = params.window(dense.start, dense.duration, now)?;
    let stored = Stored {
        service: params.labels.service().to_owned(),
        from: rfc3339(window.start()),
        seconds: window.duration().as_secs_f64(),
        types: dense
            .columns
            .iter()
            .map(|column| column.profile_type.to_string())
            .collect(),
        duplicate: false,
        left_out: dense.left_out.describe(),
    };
    let wire = WireWindow {
        labels: Arc::new(params.labels),
        window,
        stacks: (0..).take(dense.words.stack_count()).collect(),
        columns: dense.columns,
        facts: Facts {
            dropped_labels: dense.left_out.sample_labels,
            ..Facts::default()
        },
    };
    let door = &app.ingest;
    let duplicate = door
        .store(&principal.tenant, params.sender, wire, dense.words, reading)
        .await?;
    Ok(Json(Stored {
        duplicate,
        ..stored
    })
    .into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixNanos = UnixNanos::new(1_700_000_000_000_000_000);

    fn read(query: &[(&str, &str)]) -> Result<Params, String> {
        let pairs = query.iter();
        let pairs = pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Params::read(pairs.collect(), NOW).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn labels_are_read_from_the_query() {
        for (query, expected) in [
            (&[("service", "a")][..], r#"{service="a"}"#),
            (
                &[("service", "prod/a"), ("label.version", "1.8"), ("id", "")][..],
                r#"{namespace="prod", service="a", version="1.8"}"#,
            ),
            (
                &[("service", "a"), ("namespace", "prod"), ("label.x", "")][..],
                r#"{namespace="prod", service="a"}"#,
            ),
        ] {
            assert_eq!(read(query).unwrap().labels.to_string(), expected);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_reason() {
        for (query, reason) in [
            (&[][..], "service=NAME"),
            (&[("service", "a"), ("version", "1")][..], "label.NAME"),
            (&[("service", "a"), ("label.service", "b")][..], "twice"),
            (&[("service", "a"), ("from", "soon")][..], "soon"),
            (&[("service", "a"), ("id", "a/0")][..], "NAME/NUMBER"),
            (&[("service", "a"), ("id", "/1")][..], "NAME/NUMBER"),
            (&[("service", "a"), ("id", "a/b")][..], "NAME/NUMBER"),
        ] {
            let refused = read(query).unwrap_err();
            assert!(refused.contains(reason), "{query:?}: {refused}");
        }
    }

    #[test]
    fn the_query_says_when_before_the_profile_does() {
        let second = |at: u64| NOW.saturating_add(Duration::from_secs(at));
        let text = |at: u64| rfc3339(second(at));
        let (five, twenty) = (text(5), text(20));
        let told = Some((second(1), Duration::from_secs(30)));
        for (from, until, told, expected) in [
            (None, None, told, (1, 31)),
            (Some(&five), None, told, (5, 35)),
            (None, Some(&twenty), told, (1, 20)),
            (Some(&five), Some(&twenty), None, (5, 20)),
            (None, Some(&twenty), None, (10, 20)),
        ] {
            let times = [("from", from), ("until", until)].into_iter();
            let times = times.filter_map(|(name, text)| Some((name, text?.as_str())));
            let query: Vec<_> = [("service", "a")].into_iter().chain(times).collect();
            let params = read(&query).unwrap();
            let (start, length) = told.unzip();
            let window = params.window(start, length, NOW).unwrap();
            assert_eq!(
                window,
                Window::new(second(expected.0), second(expected.1)).unwrap()
            );
        }
        let now = read(&[("service", "a")]).unwrap().window(None, None, NOW);
        assert_eq!(now.unwrap().end(), NOW);
    }

    #[test]
    fn senders_of_tenants_are_not_the_same() {
        let sender = Sender::parse("ci/a/7").unwrap();
        assert_eq!((sender.name.as_str(), sender.number), ("ci/a", 7));
        assert_ne!(sender.instance("x"), sender.instance("y"));
        assert_eq!(
            sender.instance("x"),
            Sender::parse("ci/a/8").unwrap().instance("x")
        );
    }
}
