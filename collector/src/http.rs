//! HTTP: the API for programs, the pages for people, and what tools expect at
//! fixed places (`/ready`, `/metrics`, `/debug/pprof/profile`).
//!
//! Doors only: parameters become domain types, answers become bytes. What is
//! computed comes from [`crate::query`], [`crate::alert`] and [`crate::render`].

pub mod api;
pub mod compare;
pub mod error;
mod groups;
pub mod ingest;
pub mod params;
pub mod sandwich;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::HeaderValue;
use http::header::{REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use proto::status::Kind;
use proto::window::Clock;
use tokio::sync::Semaphore;

use crate::alert::{AlertFilter, Alerts};
use crate::auth::{self, Authenticator};
use crate::metrics::{Metrics, QueryKind};
use crate::query::{Query, QueryError};
use crate::shapes::AlertShape;
use crate::status::Status;
use crate::web;
use error::ApiError;
use ingest::PprofDoor;

/// Answers that are written at once; others wait.
pub const MAX_RENDERS: usize = 4;
/// How long an answer may take; `go tool pprof` waits 60 s.
const DEADLINE: Duration = Duration::from_secs(55);

/// What the routes work on; cheap to clone.
#[derive(Clone, Debug)]
pub struct App {
    /// Answers about profiles.
    pub query: Query,
    /// Takes profiles.
    pub ingest: PprofDoor,
    /// Answers about alerts.
    pub alerts: Arc<Alerts>,
    /// The collector's state.
    pub status: Arc<Status>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Places for work on answers, [`MAX_RENDERS`].
    pub renders: Arc<Semaphore>,
}

impl App {
    /// Returns what the routes work on.
    pub fn new(
        query: Query,
        ingest: PprofDoor,
        alerts: Arc<Alerts>,
        status: Arc<Status>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            query,
            ingest,
            alerts,
            status,
            metrics,
            clock,
            renders: Arc::new(Semaphore::new(MAX_RENDERS)),
        }
    }

    /// Alerts that `filter` picks, as readers see them.
    pub(crate) fn alert_shapes(&self, tenant: &str, filter: &AlertFilter) -> Vec<AlertShape> {
        self.metrics.queries(QueryKind::Anomalies).inc();
        let alerts = self.alerts.list(tenant, filter);
        alerts.iter().map(AlertShape::from).collect()
    }

    /// Counts a query and its failure.
    pub(crate) fn counted<T>(
        &self,
        kind: QueryKind,
        found: Result<T, QueryError>,
    ) -> Result<T, ApiError> {
        self.metrics.queries(kind).inc();
        found.map_err(|error| {
            self.metrics.query_failed(&error);
            ApiError::from(error)
        })
    }
}

/// Returns every route of the one port: gRPC, API and pages, with the layer
/// that asks who calls before all of them.
pub fn router(app: App, grpc: tonic::service::Routes, authenticator: Arc<Authenticator>) -> Router {
    let metrics = Arc::clone(&app.metrics);
    let http = Router::new()
        .route("/api/v1/services", get(api::services))
        .route("/api/v1/labels", get(api::labels))
        .route("/api/v1/profile", get(api::profile))
        .route("/api/v1/sandwich", get(sandwich::sandwich))
        .route("/api/v1/diff", get(compare::diff))
        .route("/api/v1/verdict", get(compare::verdict))
        .route("/api/v1/timeline", get(compare::timeline))
        .route("/api/v1/series", get(api::series))
        .route("/api/v1/types", get(api::types))
        .route("/api/v1/anomalies", get(api::anomalies))
        .route("/api/v1/ingest", post(ingest::pprof))
        .route("/api/v1/status", get(api::status))
        .route("/debug/pprof/profile", get(api::own_profile))
        .route("/metrics", get(api::metrics))
        .route("/ready", get(api::ready))
        .merge(web::routes())
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(app.clone(), http_manners))
        .with_state(app);
    let all = http.merge(grpc.into_axum_router().reset_fallback());
    auth::protect(all, authenticator, metrics).layer(middleware::from_fn(error::explain_to_pprof))
}

/// Layer of everything but gRPC: counts, ends what takes too long, and tells
/// browsers not to guess.
async fn http_manners(State(app): State<App>, request: Request, next: Next) -> Response {
    app.metrics.http_requests.inc();
    let mut response = match tokio::time::timeout(DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => ApiError::new(
            Kind::Timeout,
            "the answer took too long; ask for a shorter range or fewer series",
        )
        .into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

async fn not_found(request: Request) -> Response {
    let is_grpc = request
        .headers()
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|text| text.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return tonic::Status::unimplemented("no such method here").into_http();
    }
    let path: String = request.uri().path().chars().take(128).collect();
    let message = format!(
        "nothing is at {path:?}; there are /api/v1/services, labels, series, types, profile, sandwich, diff, verdict, timeline, anomalies and status, and the page at /"
    );
    ApiError::new(Kind::NotFound, message).into_response()
}
