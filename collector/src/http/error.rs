//! Failures as HTTP answers them: `{"error":{"kind":…,"message":…}}` with the
//! status code of [`proto::status`], and in the form that `go tool pprof` shows.

use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderName, HeaderValue, StatusCode};
use proto::labels::SelectorError;
use proto::status::{Kind, chain};
use serde::Serialize;

use crate::metrics::kind_word;
use crate::query::QueryError;
use crate::render::{RenderError, UnknownFormat};
use crate::time_range::TimeRangeError;

/// Without this header `go tool pprof` shows only the status code of a failure.
const GO_PPROF: HeaderName = HeaderName::from_static("x-go-pprof");

/// A failure with a message that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    kind: Kind,
    message: String,
    retry_after: Option<Duration>,
}

#[derive(Serialize)]
struct Body<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    kind: &'a str,
    message: &'a str,
}

impl ApiError {
    /// Returns a failure of `kind`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
        }
    }

    /// The same with when to try again.
    #[must_use]
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What went wrong and what to do.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The gRPC status of this failure.
    pub fn status(&self) -> tonic::Status {
        self.kind.status(self.message.as_str())
    }

    /// The HTTP status code of this failure.
    pub fn code(&self) -> StatusCode {
        StatusCode::from_u16(self.kind.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        Self::new(error.kind(), chain(&error)).retry_after(error.retry_after())
    }
}

impl From<TimeRangeError> for ApiError {
    fn from(error: TimeRangeError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl From<SelectorError> for ApiError {
    fn from(error: SelectorError) -> Self {
        Self::new(Kind::Invalid, chain(&error))
    }
}

impl From<UnknownFormat> for ApiError {
    fn from(error: UnknownFormat) -> Self {
        Self::new(Kind::Invalid, error.to_string())
    }
}

impl From<RenderError> for ApiError {
    fn from(error: RenderError) -> Self {
        Self::new(Kind::Internal, chain(&error))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Body {
            error: Inner {
                kind: kind_word(self.kind),
                message: &self.message,
            },
        };
        let mut response = (self.code(), axum::Json(body)).into_response();
        if let Some(wait) = self.retry_after {
            // Whole seconds are all that the header knows (RFC 9110, 10.2.3).
            let seconds = wait.as_millis().div_ceil(1_000).to_string();
            if let Ok(seconds) = HeaderValue::from_str(&seconds) {
                response.headers_mut().insert(RETRY_AFTER, seconds);
            }
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Layer: gives failures to `go tool pprof` as the plain text that it shows.
pub async fn explain_to_pprof(request: Request, next: Next) -> Response {
    let agent = request.headers().get(USER_AGENT);
    let from_go = agent.is_some_and(|name| name.as_bytes().starts_with(b"Go-http-client/"));
    let for_pprof = request
        .uri()
        .query()
        .is_some_and(|query| query.split('&').any(|pair| pair == "format=pprof"));
    let mut response = next.run(request).await;
    if from_go
        && for_pprof
        && let Some(error) = response.extensions_mut().remove::<ApiError>()
    {
        response = (error.code(), format!("{}\n", error.message)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert(GO_PPROF, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::NoShare;

    #[test]
    fn only_who_will_find_room_later_is_told_to_come_again() {
        let needs_more = NoShare::TooLarge { needs: 2, whole: 1 };
        for (error, wait) in [
            (QueryError::Busy, Some("1")),
            (QueryError::Memory(NoShare::Busy), Some("1")),
            (QueryError::Memory(needs_more), None),
            (QueryError::NoServiceName, None),
        ] {
            let response = ApiError::from(error).into_response();
            let told = response.headers().get(RETRY_AFTER);
            assert_eq!(told.map(|wait| wait.to_str().unwrap()), wait);
        }
    }
}
