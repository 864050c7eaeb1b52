//! `/api/v1`: profiles, services, labels and alerts as files and JSON. The JSON
//! is an interface: fields may be added, none changes its meaning.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Json, Redirect, Response};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use proto::labels::Selector;
use proto::status::Kind;
use proto::window::Window;
use serde::{Deserialize, Serialize};

use super::App;
use super::error::ApiError;
use super::groups;
use super::params::{
    AnomalyParams, LabelParams, Params, ProfileParams, RangeParams, SeriesParams, given,
};
use crate::alert::{Alert, AlertFilter, AlertState};
use crate::answer::ProfileAnswer;
use crate::auth::Principal;
use crate::metrics::QueryKind;
use crate::query::{ProfileRequest, ServiceName};
use crate::render::{self, Format, RenderContext, Style};
use crate::shapes::{self, SeriesShape, ServiceShape};
use crate::status::StatusReport;
use crate::time_range::{self, rfc3339};

/// How far back `services` looks when nothing is said.
pub const SERVICES_SINCE: &str = "24h";
/// The flame graph's own script and style, and nothing else.
const SVG_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; frame-ancestors 'self'",
);
/// How far back the collector's own profile reaches when nothing is said.
const SELF_SECONDS: u64 = 300;
/// The least it reaches back: a few windows, so that there is something.
const MIN_SELF_SECONDS: u64 = 60;

/// Answer of `/api/v1/services`.
#[derive(Debug, Serialize)]
pub struct Services {
    services: Vec<ServiceShape>,
}

/// Answer of `/api/v1/labels`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Labels {
    /// Names of labels.
    Names(Vec<String>),
    /// Values of the label that was asked for.
    Values(Vec<String>),
}

/// Answer of `/api/v1/anomalies`.
#[derive(Debug, Serialize)]
pub struct Anomalies {
    anomalies: Vec<Alert>,
}

/// Services with a window in `window` and their firing alerts.
///
/// # Errors
///
/// [`ApiError`] if the store fails.
pub async fn list_services(
    app: &App,
    tenant: &str,
    window: Window,
) -> Result<Vec<ServiceShape>, ApiError> {
    let found = app.query.services(tenant, window).await;
    let services = app.counted(QueryKind::Services, found)?;
    Ok(services
        .into_iter()
        .map(|service| {
            let alerts = shapes::firing(&app.alerts, tenant, &service);
            ServiceShape::new(service, alerts)
        })
        .collect())
}

/// `GET /api/v1/services`.
pub async fn services(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    Params(range): Params<RangeParams>,
) -> Result<Json<Services>, ApiError> {
    let since = given(range.since.as_deref()).unwrap_or(SERVICES_SINCE);
    let until = given(range.until.as_deref());
    let window = time_range::window(Some(since), until, app.clock.now())?;
    let services = list_services(&app, &principal.tenant, window).await?;
    Ok(Json(Services { services }))
}

/// `GET /api/v1/labels`.
pub async fn labels(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    Params(params): Params<LabelParams>,
) -> Result<Json<Labels>, ApiError> {
    let name = given(params.name.as_deref());
    let series = SeriesParams {
        service: params.service.clone(),
        select: params.select.clone(),
        since: params.since.clone(),
        until: params.until.clone(),
    };
    let request = series.request(app.clock.now())?;
    let found = app.query.labels(&principal.tenant, request, name).await;
    let found = app.counted(QueryKind::Labels, found)?;
    Ok(Json(match name {
        Some(_) => Labels::Values(found),
        None => Labels::Names(found),
    }))
}

/// Answer of `/api/v1/series`.
#[derive(Debug, Serialize)]
pub struct SeriesList {
    series: Vec<SeriesShape>,
}

/// `GET /api/v1/series`; without a range every series there ever was.
pub async fn series(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    Params(params): Params<SeriesParams>,
) -> Result<Json<SeriesList>, ApiError> {
    let request = params.request(app.clock.now())?;
    let found = app.query.series(&principal.tenant, request).await;
    let found = app.counted(QueryKind::Labels, found)?;
    Ok(Json(SeriesList {
        series: found.iter().map(SeriesShape::from).collect(),
    }))
}

/// Answer of `/api/v1/types`.
#[derive(Debug, Serialize)]
pub struct Types {
    types: Vec<String>,
}

/// `GET /api/v1/types`.
pub async fn types(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    Params(params): Params<SeriesParams>,
) -> Result<Json<Types>, ApiError> {
    let request = params.request(app.clock.now())?;
    let found = app.query.profile_types(&principal.tenant, request).await;
    let types = app.counted(QueryKind::Labels, found)?;
    Ok(Json(Types { types }))
}

/// `GET /api/v1/anomalies`.
pub async fn anomalies(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    Params(params): Params<AnomalyParams>,
) -> Result<Json<Anomalies>, ApiError> {
    app.metrics.queries(QueryKind::Anomalies).inc();
    let service = given(params.service.as_deref())
        .map(str::parse::<ServiceName>)
        .transpose()?;
    let state = given(params.state.as_deref())
        .map(|text| {
            text.parse::<AlertState>()
                .map_err(|error| ApiError::new(Kind::Invalid, error.to_string()))
        })
        .transpose()?;
    let id = given(params.id.as_deref()).map(str::to_owned);
    if let Some(service) = &service {
        app.query.knows(&principal.tenant, service)?;
    }
    let filter = AlertFilter {
        service,
        state,
        id: id.clone(),
    };
    let anomalies = app.alerts.list(&principal.tenant, &filter);
    match (&id, anomalies.is_empty()) {
        (Some(id), true) => Err(ApiError::new(
            Kind::NotFound,
            format!("no alert {id:?} is known here; /api/v1/anomalies lists them"),
        )),
        _ => Ok(Json(Anomalies { anomalies })),
    }
}

/// `GET /api/v1/status`.
pub async fn status(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
) -> Json<StatusReport> {
    app.metrics.queries(QueryKind::Status).inc();
    Json(app.status.report(&principal.tenant))
}

/// Runs `work` on an answer where it may take its time.
///
/// # Errors
///
/// [`ApiError`] of the work, or when the collector is stopping.
pub async fn compute<T: Send + 'static>(
    app: &App,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let ended = || ApiError::new(Kind::Unavailable, "the collector is stopping");
    let places = Arc::clone(&app.renders);
    let place = places.acquire_owned().await.map_err(|_| ended())?;
    tokio::task::spawn_blocking(move || {
        let _held_until_done = place;
        work()
    })
    .await
    .map_err(|_| ApiError::new(Kind::Internal, "writing the answer failed"))?
}

/// `GET /api/v1/profile`.
pub async fn profile(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    Params(params): Params<ProfileParams>,
) -> Result<Response, ApiError> {
    let format: Format = given(params.format.as_deref()).unwrap_or("json").parse()?;
    if given(params.group_by.as_deref()).is_some() {
        return groups::profiles(&app, &principal.tenant, &params, format).await;
    }
    if params.max_groups.is_some() {
        let message = "max_groups goes with group_by=LABEL";
        return Err(ApiError::new(Kind::Invalid, message));
    }
    let mut request = params.request(app.clock.now())?;
    if request.max_nodes == 0 {
        request.max_nodes = usize::try_from(format.max_nodes()).unwrap_or(0);
    }
    let context = context(&request);
    let service = request.service.clone();
    let found = app.query.profile(&principal.tenant, request).await;
    let answer = app.counted(QueryKind::Profile, found)?;
    let name = file_name(&service, &answer, format);
    let bytes = compute(&app, move || {
        Ok(render::render(
            &answer,
            format,
            &context,
            &Style::default(),
        )?)
    })
    .await?;
    Ok(file(format, &name, bytes))
}

/// What a picture or table of `request` says above itself.
pub(super) fn context(request: &ProfileRequest) -> RenderContext {
    RenderContext {
        title: format!("{} · {}", request.service, kind_of(&request.profile_type)),
        subtitle: selector_text(&request.selector),
    }
}

/// A selector for people; nothing when it picks all.
pub fn selector_text(selector: &Selector) -> Option<String> {
    (!selector.is_empty()).then(|| selector.to_string())
}

fn kind_of(profile_type: &str) -> &str {
    match profile_type {
        "" => "cpu",
        text => text,
    }
}

/// Start and end of `window`, for people.
pub fn range_text(window: Window) -> String {
    format!("{} to {}", rfc3339(window.start()), rfc3339(window.end()))
}

/// A name for a download that no shell or browser can misread.
fn file_name(service: &ServiceName, answer: &ProfileAnswer, format: Format) -> String {
    let plain = |text: &str| -> String {
        let kept = |c: char| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        };
        text.chars().take(80).map(kept).collect()
    };
    let time = rfc3339(answer.window.start()).replace([':', '-'], "");
    let kind = plain(answer.profile_type.sample().kind());
    format!(
        "{}-{kind}-{time}.{}",
        plain(&service.name),
        format.extension()
    )
}

pub(super) fn file(format: Format, name: &str, bytes: Vec<u8>) -> Response {
    let shown = match format {
        Format::Pprof | Format::Speedscope => "attachment",
        Format::Top | Format::Tree | Format::Folded | Format::Svg | Format::Json => "inline",
    };
    let mut response = Body::from(bytes).into_response();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(format.content_type()),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::from_str(&format!("{shown}; filename=\"{name}\"")) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    if format == Format::Svg {
        headers.insert(CONTENT_SECURITY_POLICY, SVG_POLICY);
    }
    response
}

/// Parameters of `/debug/pprof/profile`: those of Go's endpoint.
#[derive(Debug, Default, Deserialize)]
pub struct GoParams {
    seconds: Option<u64>,
}

/// `GET /debug/pprof/profile`: the collector's own CPU profile of the last
/// seconds, from its own store. What `go tool pprof http://host:port` asks.
pub async fn own_profile(Params(params): Params<GoParams>) -> Redirect {
    let seconds = params
        .seconds
        .unwrap_or(SELF_SECONDS)
        .clamp(MIN_SELF_SECONDS, 86_400);
    Redirect::temporary(&format!(
        "/api/v1/profile?service=collector&since={seconds}s&format=pprof"
    ))
}

/// `GET /metrics`.
pub async fn metrics(State(app): State<App>) -> Response {
    let content_type = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, app.metrics.render()).into_response()
}

/// `GET /ready`: whether pushes and queries are served.
pub async fn ready(State(app): State<App>) -> Result<&'static str, ApiError> {
    match app.status.is_ready() {
        true => Ok("ready\n"),
        false => Err(ApiError::new(
            Kind::Unavailable,
            "the collector is starting or stopping",
        )),
    }
}
