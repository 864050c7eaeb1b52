//! One try over HTTP: posts a body, and says what came of it.
//!
//! Redirects are not followed: they would carry the alert, and its signature,
//! to whoever is named. What is said of a failure holds no part of an address
//! beyond its host, and no secret: those often are the whole protection of a receiver.

use std::time::Duration;

use proto::status::chain;
use proto::window::UnixNanos;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};

/// Longest pause that a receiver may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3_600);
/// How much of an answer is shown.
const SHOWN_BYTES: usize = 200;

/// What one try came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Try {
    Delivered,
    /// Try again, after this long if the receiver said so.
    Again(String, Option<Duration>),
    /// Try again some times: a person may have to mend something.
    Failed(String),
    /// The receiver will never take it.
    Refused(String),
}

/// What is posted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Post {
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

/// Where it is posted.
#[derive(Clone)]
pub(super) struct Door {
    client: reqwest::Client,
    url: reqwest::Url,
    timeout: Duration,
    /// Never shown, also when the receiver does.
    secrets: Vec<String>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door")
            .field("host", &self.url.host_str())
            .finish_non_exhaustive()
    }
}

/// A client for every receiver.
pub(super) fn client() -> Result<reqwest::Client, reqwest::Error> {
    // Another part of the process may have installed it already.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("tepui-collector/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// `text` as an address; `None` if it is none.
pub(super) fn url(text: &str) -> Option<reqwest::Url> {
    let url = reqwest::Url::parse(text).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

impl Door {
    pub(super) fn new(
        client: reqwest::Client,
        url: reqwest::Url,
        timeout: Duration,
        mut secrets: Vec<String>,
    ) -> Self {
        secrets.extend([url.path(), url.query().unwrap_or("")].map(str::to_owned));
        secrets.extend(url.password().map(str::to_owned));
        // A short one is in any text.
        secrets.retain(|secret| secret.len() >= 4);
        Self {
            client,
            url,
            timeout,
            secrets,
        }
    }

    /// Posts JSON once.
    pub(super) async fn post(&self, post: Post, now: UnixNanos) -> Try {
        let mut request = self
            .client
            .post(self.url.clone())
            .timeout(self.timeout)
            .header(CONTENT_TYPE, "application/json")
            .body(post.body);
        for (name, value) in post.headers {
            request = request.header(name, value);
        }
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(failure) => return Try::Again(chain(&failure.without_url()), None),
        };
        let status = response.status();
        if status.is_success() {
            return Try::Delivered;
        }
        let asked = asked(response.headers(), now);
        let mut answer = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            answer.extend_from_slice(&chunk);
            if answer.len() >= SHOWN_BYTES {
                break;
            }
        }
        classify(status, self.reason(status, &answer), asked)
    }

    fn reason(&self, status: StatusCode, answer: &[u8]) -> String {
        let mut said = String::from_utf8_lossy(answer).into_owned();
        for secret in &self.secrets {
            said = said.replace(secret, "[…]");
        }
        let said = shown(&said, SHOWN_BYTES);
        match said.is_empty() {
            true => format!("the receiver answered {status}"),
            false => format!("the receiver answered {status}: {said}"),
        }
    }
}

/// The first `limit` characters of `text` on one line, without any that a
/// terminal obeys.
pub(super) fn shown(text: &str, limit: usize) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let line = words.filter(|word| !word.is_empty()).collect::<Vec<_>>();
    line.join(" ").chars().take(limit).collect()
}

/// What an answer with `status` means.
fn classify(status: StatusCode, reason: String, asked: Option<Duration>) -> Try {
    match status {
        status if status.is_server_error() => Try::Again(reason, asked),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Try::Again(reason, asked)
        }
        // What stands before a receiver answers so while that is away, or until
        // somebody mends a token.
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED
        | StatusCode::CONFLICT
        | StatusCode::MISDIRECTED_REQUEST
        | StatusCode::LOCKED => Try::Failed(reason),
        status if status.is_redirection() => {
            Try::Failed(format!("{reason} (redirects are not followed)"))
        }
        _ => Try::Refused(reason),
    }
}

/// What `Retry-After` asks for, in seconds or as a date
/// ([RFC 9110](https://www.rfc-editor.org/rfc/rfc9110#field.retry-after)).
fn asked(headers: &HeaderMap, now: UnixNanos) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            let seconds = date.as_second().saturating_sub(now.seconds());
            Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        }
    };
    Some(wait.min(LONGEST_ASKED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_has_a_limit() {
        let now = UnixNanos::new(784_111_777_000_000_000); // Sun, 06 Nov 1994 08:49:37 GMT
        for (text, expected) in [
            ("0", Some(0)),
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("99999999", Some(3_600)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-3", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            let expected = expected.map(Duration::from_secs);
            assert_eq!(asked(&headers, now), expected, "{text}");
        }
        assert_eq!(asked(&HeaderMap::new(), now), None);
    }

    #[test]
    fn what_a_status_means() {
        for (status, expected) in [
            (500, "again"),
            (502, "again"),
            (503, "again"),
            (429, "again"),
            (408, "again"),
            (301, "failed"),
            (401, "failed"),
            (403, "failed"),
            (404, "failed"),
            (400, "refused"),
            (410, "refused"),
            (413, "refused"),
            (415, "refused"),
            (422, "refused"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let came = match classify(status, String::new(), None) {
                Try::Delivered => "delivered",
                Try::Again(..) => "again",
                Try::Failed(_) => "failed",
                Try::Refused(_) => "refused",
            };
            assert_eq!(came, expected, "{status}");
        }
    }

    #[test]
    fn an_answer_that_repeats_the_address_does_not_give_it_away() {
        let url =
            url("https://user:pass1234@hooks.example/services/T0/B0/token?key=abcdef").unwrap();
        let door = Door::new(
            client().unwrap(),
            url,
            Duration::from_secs(1),
            vec!["whsec_x".into()],
        );
        let said = b"no /services/T0/B0/token\r\n here\x1b[2J; key=abcdef whsec_x pass1234";
        let reason = door.reason(StatusCode::NOT_FOUND, said);
        assert_eq!(
            reason,
            "the receiver answered 404 Not Found: no […] here [2J; […] […] […]"
        );
        assert!(!format!("{door:?}").contains("token"));
    }
}
