//! Pages for people: services, a service with its flame graph and functions,
//! the table of functions, alerts. Server-rendered, without script; the flame
//! graph is the API's SVG in a frame of its own.
//!
//! Everything that is not constant passes `html::esc`. Links carry the whole
//! state of a page.

mod alerts;
mod html;
mod link;
mod profile;
mod services;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};

use crate::http::App;
use crate::http::error::ApiError;
use html::{Html, esc};

const STYLE: &str = include_str!("web/style.css");
/// Own style and own frames, no script.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; img-src 'self' data:; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);

/// Routes of the pages.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/", get(services::page))
        .route("/service", get(profile::service_page))
        .route("/top", get(profile::top_page))
        .route("/alerts", get(alerts::page))
        .route("/style.css", get(style))
}

async fn style(State(_app): State<App>) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/css; charset=utf-8"),
        (CACHE_CONTROL, "max-age=300"),
    ];
    (headers, STYLE).into_response()
}

/// A failure as a page, with the status code of its kind.
struct PageError(ApiError);

impl<E: Into<ApiError>> From<E> for PageError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let mut body = Html::default();
        body.push(format_args!(
            "<h1>That did not work</h1><p class=\"empty\">{}</p><p><a href=\"/\">All services</a></p>",
            esc(self.0.message())
        ));
        let mut response = page("Error", Refresh::Never, body).into_response();
        *response.status_mut() = self.0.code();
        response
    }
}

/// Whether a page loads itself again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refresh {
    Never,
    EveryHalfMinute,
}

/// A whole page around `body`.
fn page(title: &str, refresh: Refresh, body: Html) -> Response {
    let mut all = Html::default();
    let refresh = match refresh {
        Refresh::Never => "",
        Refresh::EveryHalfMinute => "<meta http-equiv=\"refresh\" content=\"30\">",
    };
    all.push(format_args!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">{refresh}\
         <title>{} · Tepui</title><link rel=\"stylesheet\" href=\"/style.css\">\
         <link rel=\"icon\" href=\"data:,\"></head><body>\
         <header><a class=\"brand\" href=\"/\"><svg viewBox=\"0 0 32 20\" aria-hidden=\"true\">\
         <path d=\"M1 19 L7 4 H25 L31 19 Z\"/><path class=\"top\" d=\"M7 4 H25 L26.2 7 H5.8 Z\"/></svg>Tepui</a>\
         <nav><a href=\"/\">Services</a><a href=\"/alerts\">Alerts</a></nav></header><main>",
        esc(title)
    ));
    all.append(body);
    all.push(format_args!(
        "</main><footer>Tepui {} · times in UTC · <a href=\"/api/v1/status\">status</a> · <a href=\"/metrics\">metrics</a></footer></body></html>",
        env!("CARGO_PKG_VERSION")
    ));
    let headers = [
        (
            CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, all.into_text()).into_response()
}
