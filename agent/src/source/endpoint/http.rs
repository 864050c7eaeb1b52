//! Requests to a `/debug/pprof` endpoint: plain HTTP, no proxy, no redirect,
//! a time limit and a size cap on every answer.

use std::sync::Arc;
use std::time::Duration;

use proto::pprof::{MAX_PROFILE_BYTES, Pprof, PprofError};
use proto::stack::FrameKind;
use reqwest::StatusCode;

/// Time to connect; the endpoint is on this machine or next to it.
const CONNECT: Duration = Duration::from_secs(1);
/// Time allowed for a profile beyond the time it covers.
const ANSWER: Duration = Duration::from_secs(10);
/// Time allowed for a probe.
const PROBE: Duration = Duration::from_secs(1);
/// Most bytes that are read of an answer that is no profile.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// Why an endpoint gave no profile.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// No HTTP client can be made.
    #[error("cannot make an HTTP client")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Somebody else takes a CPU profile.
    #[error("{url} is taking a CPU profile for somebody else")]
    Busy {
        /// What was asked.
        url: String,
    },
    /// The server ends requests before the profile would be ready.
    #[error("{url} does not allow a profile of this length")]
    TooLong {
        /// What was asked.
        url: String,
    },
    /// The server answered with a failure.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked.
        url: String,
        /// What it answered.
        status: StatusCode,
    },
    /// The server cannot be reached or broke off.
    #[error("cannot read {url}")]
    Http {
        /// What was asked.
        url: String,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// The answer is larger than any profile that is read.
    #[error("{url} answered with more than {cap} bytes")]
    TooLarge {
        /// What was asked.
        url: String,
        /// The most that is read.
        cap: usize,
    },
    /// The answer is no profile.
    #[error("{url} did not answer with a profile")]
    Profile {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        #[source]
        source: PprofError,
    },
}

impl EndpointError {
    /// Whether the endpoint may have moved or gone.
    pub(super) fn is_contact_lost(&self) -> bool {
        match self {
            Self::Http { .. } | Self::Profile { .. } => true,
            Self::Status { status, .. } => *status == StatusCode::NOT_FOUND,
            Self::Client(_) | Self::Busy { .. } | Self::TooLong { .. } | Self::TooLarge { .. } => {
                false
            }
        }
    }
}

/// An answer that is no profile.
#[derive(Debug)]
pub(super) struct Text {
    /// Its bytes.
    pub(super) body: Vec<u8>,
    /// Whether its headers are those of Go's handlers.
    pub(super) is_like_go: bool,
}

/// Asks `/debug/pprof` endpoints; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
}

impl Client {
    /// Returns a client.
    ///
    /// # Errors
    ///
    /// [`EndpointError::Client`] if it cannot be made.
    pub fn new() -> Result<Self, EndpointError> {
        // Only http:// is asked: an empty set of roots keeps the system's
        // certificates from being loaded.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| EndpointError::Client(error.into()))?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            // No connection is held open at the target between requests.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("tepui-agent/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| EndpointError::Client(error.into()))?;
        Ok(Self { http })
    }

    async fn read(
        mut response: reqwest::Response,
        url: &str,
        cap: usize,
    ) -> Result<Vec<u8>, EndpointError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| failed(url, e))? {
            if body.len() + chunk.len() > cap {
                let url = url.to_owned();
                return Err(EndpointError::TooLarge { url, cap });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    async fn get(&self, url: &str, timeout: Duration) -> Result<reqwest::Response, EndpointError> {
        let request = self.http.get(url).timeout(timeout);
        request.send().await.map_err(|e| failed(url, e))
    }

    /// Asks for a short text.
    pub(super) async fn text(&self, url: &str) -> Result<Text, EndpointError> {
        let response = self.get(url, PROBE).await?;
        let status = response.status();
        if status != StatusCode::OK {
            let url = url.to_owned();
            return Err(EndpointError::Status { url, status });
        }
        let header = |name| {
            let value = response.headers().get(name);
            value.and_then(|value| value.to_str().ok()).unwrap_or("")
        };
        let is_like_go = header(reqwest::header::X_CONTENT_TYPE_OPTIONS) == "nosniff"
            && header(reqwest::header::CONTENT_TYPE).starts_with("text/plain");
        let body = Self::read(response, url, MAX_TEXT_BYTES).await?;
        Ok(Text { body, is_like_go })
    }

    async fn profile(&self, url: &str, covers: Duration) -> Result<Pprof, EndpointError> {
        let response = self.get(url, covers + ANSWER).await?;
        let status = response.status();
        if status != StatusCode::OK {
            let body = Self::read(response, url, MAX_TEXT_BYTES)
                .await
                .unwrap_or_default();
            return Err(refusal(url, status, &String::from_utf8_lossy(&body)));
        }
        let body = Self::read(response, url, MAX_PROFILE_BYTES).await?;
        let parsed = tokio::task::spawn_blocking(move || Pprof::parse(&body, FrameKind::Go)).await;
        match parsed {
            Ok(parsed) => parsed.map_err(|source| EndpointError::Profile {
                url: url.to_owned(),
                source,
            }),
            Err(panic) => Err(EndpointError::Client(panic.into())),
        }
    }

    /// Takes a CPU profile of `length`, which is cut to whole seconds.
    ///
    /// # Errors
    ///
    /// [`EndpointError::Busy`] while somebody else takes one, and others.
    pub async fn cpu(&self, base: &str, length: Duration) -> Result<Pprof, EndpointError> {
        let seconds = length.as_secs().max(1);
        let url = format!("{base}/profile?seconds={seconds}");
        self.profile(&url, length).await
    }

    /// Takes the picture called `name`, for example `heap`.
    ///
    /// # Errors
    ///
    /// [`EndpointError`] if there is none.
    pub async fn picture(&self, base: &str, name: &str) -> Result<Pprof, EndpointError> {
        self.profile(&format!("{base}/{name}"), Duration::ZERO)
            .await
    }
}

fn failed(url: &str, source: reqwest::Error) -> EndpointError {
    EndpointError::Http {
        url: url.to_owned(),
        // The URL is in the message already.
        source: source.without_url(),
    }
}

/// What a failure means, by the texts of `net/http/pprof`.
fn refusal(url: &str, status: StatusCode, text: &str) -> EndpointError {
    let url = url.to_owned();
    if text.contains("already in use") {
        EndpointError::Busy { url }
    } else if text.contains("WriteTimeout") {
        EndpointError::TooLong { url }
    } else {
        EndpointError::Status { url, status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart_by_go_s_texts() {
        let of = |status, text| refusal("u", status, text);
        let busy = "Could not enable CPU profiling: cpu profiling already in use\n";
        assert!(matches!(
            of(StatusCode::INTERNAL_SERVER_ERROR, busy),
            EndpointError::Busy { .. }
        ));
        let long = "profile duration exceeds server's WriteTimeout\n";
        assert!(matches!(
            of(StatusCode::BAD_REQUEST, long),
            EndpointError::TooLong { .. }
        ));
        assert!(matches!(
            of(StatusCode::NOT_FOUND, "404 page not found"),
            EndpointError::Status { .. }
        ));
    }
}
