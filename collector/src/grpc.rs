//! The gRPC door for readers: `tepui.v1.Query`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use proto::labels::Selector;
use proto::pb::tepui as pb;
use proto::pb::tepui::export_response::Body;
use proto::pb::tepui::query_server::Query as QueryDoor;
use proto::status::{Kind, chain};
use proto::window::{UnixNanos, Window};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::alert::{Alert, AlertFilter};
use crate::answer::temporality_to_wire;
use crate::auth::Principal;
use crate::config::Sensitivity;
use crate::diff::{Reading, reading_from_wire};
use crate::export::{ExportError, ExportRequest, ExportedFile, Exporter};
use crate::flatten::pattern;
use crate::http::App;
use crate::http::params::MAX_NODES;
use crate::metrics::{Metrics, QueryKind};
use crate::query::diff::{DiffBase, DiffRequest};
use crate::query::groups::GroupsRequest;
use crate::query::timeline::TimelineRequest;
use crate::query::{LabelsRequest, ProfileRequest, QueryError, ServiceName};
use crate::sandwich::Wanted;
use crate::shapes::firing;
use crate::timeline::{StepValue, Steps};

/// Files of an export that wait for their reader.
const EXPORTED_FILES: usize = 4;
/// How long an export waits for its reader.
const EXPORT_PATIENCE: Duration = Duration::from_secs(60);

/// The query service.
#[derive(Debug)]
pub struct QueryService {
    app: App,
    exporter: Arc<Exporter>,
}

impl QueryService {
    /// Returns the service that answers from `app` and `exporter`.
    pub fn new(app: App, exporter: Exporter) -> Self {
        Self {
            app,
            exporter: Arc::new(exporter),
        }
    }

    fn counted<T>(&self, kind: QueryKind, found: Result<T, QueryError>) -> Result<T, Status> {
        self.app.metrics.queries(kind).inc();
        found.map_err(|error| {
            self.app.metrics.query_failed(&error);
            error.status()
        })
    }
}

fn exported(file: ExportedFile) -> pb::ExportedFile {
    pb::ExportedFile {
        namespace: file.service.namespace.clone(),
        service: file.service.service.clone(),
        series: file.series.0,
        start_unix_nanos: file.start.get(),
        profile: file.profile,
        pprof_gz: file.pprof_gz,
    }
}

fn principal<T>(request: &Request<T>) -> Result<Principal, Status> {
    let principal = request.extensions().get::<Principal>().cloned();
    principal.ok_or_else(|| Kind::Unauthenticated.status("no principal"))
}

fn invalid(error: &dyn std::error::Error) -> Status {
    Kind::Invalid.status(chain(error))
}

fn window(start_ns: i64, end_ns: i64) -> Result<Window, Status> {
    Window::new(UnixNanos::new(start_ns), UnixNanos::new(end_ns)).map_err(|e| invalid(&e))
}

/// `None` for no range at all.
fn window_or_all(start_ns: i64, end_ns: i64) -> Result<Option<Window>, Status> {
    match (start_ns, end_ns) {
        (0, 0) => Ok(None),
        _ => window(start_ns, end_ns).map(Some),
    }
}

fn service(text: &str) -> Result<ServiceName, Status> {
    text.parse().map_err(|error: QueryError| error.status())
}

/// The service of a base: that of the new side unless it is named.
fn base_service(text: &str, new: &ProfileRequest) -> Result<ServiceName, Status> {
    match text {
        "" => Ok(new.service.clone()),
        text => service(text),
    }
}

/// Alerts as they are sent.
fn alerts_response(alerts: &[Alert]) -> Result<Response<pb::AnomaliesResponse>, Status> {
    let alerts_json = alerts
        .iter()
        .map(serde_json::to_string)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Kind::Internal.status(chain(&error)))?;
    Ok(Response::new(pb::AnomaliesResponse { alerts_json }))
}

/// What is asked of the labels of a service.
fn labels_request(
    name: &str,
    picked: &str,
    (start_ns, end_ns): (i64, i64),
) -> Result<LabelsRequest, Status> {
    Ok(LabelsRequest {
        service: service(name)?,
        selector: selector(picked)?,
        window: window_or_all(start_ns, end_ns)?,
    })
}

fn selector(text: &str) -> Result<Selector, Status> {
    text.parse().map_err(|error| invalid(&error))
}

fn profile_request(request: pb::ProfileRequest) -> Result<ProfileRequest, Status> {
    Ok(ProfileRequest {
        service: service(&request.service)?,
        window: window(request.start_unix_nanos, request.end_unix_nanos)?,
        profile_type: request.profile_type,
        selector: selector(&request.selector)?,
        focus: pattern(&request.focus).map_err(|error| invalid(&error))?,
        ignore: pattern(&request.ignore).map_err(|error| invalid(&error))?,
        hide: pattern(&request.hide).map_err(|error| invalid(&error))?,
        max_nodes: usize::try_from(request.max_nodes).map_or(0, |nodes| nodes.min(MAX_NODES)),
    })
}

#[tonic::async_trait]
impl QueryDoor for QueryService {
    async fn profile(
        &self,
        request: Request<pb::ProfileRequest>,
    ) -> Result<Response<pb::ProfileResponse>, Status> {
        let principal = principal(&request)?;
        let profile = profile_request(request.into_inner())?;
        let answer = self.app.query.profile(&principal.tenant, profile).await;
        let answer = self.counted(QueryKind::Profile, answer)?;
        Ok(Response::new(answer.to_wire()))
    }

    async fn sandwich(
        &self,
        request: Request<pb::SandwichRequest>,
    ) -> Result<Response<pb::SandwichResponse>, Status> {
        let tenant = principal(&request)?.tenant;
        let request = request.into_inner();
        let profile = profile_request(request.profile.unwrap_or_default())?;
        if request.function.is_empty() {
            return Err(Kind::Invalid.status("a function is needed"));
        }
        let wanted = Wanted::new(&request.function);
        let answer = self.app.query.sandwich(&tenant, profile, wanted).await;
        let answer = self.counted(QueryKind::Profile, answer)?;
        Ok(Response::new(answer.to_wire()))
    }

    async fn groups(
        &self,
        request: Request<pb::GroupsRequest>,
    ) -> Result<Response<pb::GroupsResponse>, Status> {
        let tenant = principal(&request)?.tenant;
        let request = request.into_inner();
        if request.label.is_empty() {
            return Err(Kind::Invalid.status("a label is needed"));
        }
        let asked = GroupsRequest {
            profile: profile_request(request.profile.unwrap_or_default())?,
            label: request.label,
            max_groups: usize::try_from(request.max_groups).unwrap_or(usize::MAX),
        };
        let answer = self.app.query.groups(&tenant, asked).await;
        let answer = self.counted(QueryKind::Profile, answer)?;
        Ok(Response::new(answer.to_wire()))
    }

    async fn diff(
        &self,
        request: Request<pb::DiffRequest>,
    ) -> Result<Response<pb::DiffResponse>, Status> {
        let tenant = principal(&request)?.tenant;
        let request = request.into_inner();
        let new = profile_request(request.new.unwrap_or_default())?;
        let base = DiffBase {
            service: base_service(&request.base_service, &new)?,
            window: window(request.base_start_unix_nanos, request.base_end_unix_nanos)?,
            selector: selector(&request.base_selector)?,
        };
        let reading = reading_from_wire(request.reading)
            .map_err(|_| Kind::Invalid.status("the reading of a comparison is unknown"))?;
        let asked = DiffRequest { new, base, reading };
        let answer = self.app.query.diff(&tenant, asked).await;
        let answer = self.counted(QueryKind::Diff, answer)?;
        Ok(Response::new(answer.to_wire()))
    }

    async fn verdict(
        &self,
        request: Request<pb::VerdictRequest>,
    ) -> Result<Response<pb::VerdictResponse>, Status> {
        let tenant = principal(&request)?.tenant;
        let request = request.into_inner();
        let new = profile_request(request.new.unwrap_or_default())?;
        let base = DiffBase {
            service: base_service(&request.base_service, &new)?,
            window: window(request.base_start_unix_nanos, request.base_end_unix_nanos)?,
            selector: selector(&request.base_selector)?,
        };
        let reading = Reading::default();
        let asked = DiffRequest { new, base, reading };
        let answer = self.app.query.verdict(&tenant, asked).await;
        let answer = self.counted(QueryKind::Verdict, answer)?;
        Ok(Response::new(answer.to_wire()))
    }

    async fn timeline(
        &self,
        request: Request<pb::TimelineRequest>,
    ) -> Result<Response<pb::TimelineResponse>, Status> {
        let tenant = principal(&request)?.tenant;
        let request = request.into_inner();
        let window = window(request.start_unix_nanos, request.end_unix_nanos)?;
        let step = u64::try_from(request.step_nanos).unwrap_or(0);
        let steps = Steps::new(window, Duration::from_nanos(step)).map_err(|e| invalid(&e))?;
        let asked = TimelineRequest {
            service: service(&request.service)?,
            steps,
            profile_type: request.profile_type,
            selector: selector(&request.selector)?,
            group_by: Some(request.group_by).filter(|label| !label.is_empty()),
        };
        let found = self.app.query.timeline(&tenant, asked).await;
        let found = self.counted(QueryKind::Timeline, found)?;
        let group = |(value, values): (String, Vec<StepValue>)| pb::TimelineGroup {
            value,
            sums: values.iter().map(|step| step.value as f64).collect(),
            observed_nanos: values
                .iter()
                .map(|step| u64::try_from(step.observed.as_nanos()).unwrap_or(u64::MAX))
                .collect(),
        };
        Ok(Response::new(pb::TimelineResponse {
            profile_type: found.profile_type.to_string(),
            temporality: temporality_to_wire(found.temporality).into(),
            groups: found.groups.into_iter().map(group).collect(),
        }))
    }

    type ExportStream =
        Pin<Box<dyn Stream<Item = Result<pb::ExportResponse, Status>> + Send + 'static>>;

    async fn export(
        &self,
        request: Request<pb::ExportRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let tenant = principal(&request)?.tenant;
        let request = request.into_inner();
        let asked = ExportRequest {
            service: service(&request.service)?,
            window: window(request.start_unix_nanos, request.end_unix_nanos)?,
            profile_type: request.profile_type,
            selector: selector(&request.selector)?,
        };
        let metrics = &self.app.metrics;
        metrics.queries(QueryKind::Export).inc();
        let failed = |metrics: &Metrics, error: ExportError| {
            match &error {
                ExportError::Query(error) => metrics.query_failed(error),
                ExportError::Busy | ExportError::Gone => metrics.failed(error.kind()),
            }
            error.kind().status(chain(&error))
        };
        let place = self.exporter.place().map_err(|e| failed(metrics, e))?;
        let known = self.app.query.knows(&tenant, &asked.service);
        known.map_err(|error| failed(metrics, error.into()))?;
        let (exporter, metrics) = (Arc::clone(&self.exporter), Arc::clone(metrics));
        let (files, waiting) = mpsc::channel(EXPORTED_FILES);
        // It ends when nobody reads: at the first file that cannot be sent.
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let _held_until_done = place;
            // Whoever reads nothing for long must not keep others from exporting.
            let send = |file| {
                let file = Ok(pb::ExportResponse {
                    body: Some(Body::File(exported(file))),
                });
                let sent = runtime.block_on(files.send_timeout(file, EXPORT_PATIENCE));
                sent.map_err(|_| ExportError::Gone)
            };
            let last = match exporter.export(&tenant, &asked, send) {
                Ok(end) => Ok(pb::ExportResponse {
                    body: Some(Body::End(pb::ExportEnd {
                        files: end.files,
                        gone_before_unix_nanos: end.gone_before.map_or(0, UnixNanos::get),
                    })),
                }),
                Err(error) => Err(failed(&metrics, error)),
            };
            // A reader that is gone needs no end.
            let _gone = runtime.block_on(files.send_timeout(last, EXPORT_PATIENCE));
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(waiting))))
    }

    async fn services(
        &self,
        request: Request<pb::ServicesRequest>,
    ) -> Result<Response<pb::ServicesResponse>, Status> {
        let tenant = principal(&request)?.tenant;
        let request = request.into_inner();
        let window = window(request.start_unix_nanos, request.end_unix_nanos)?;
        let found = self.app.query.services(&tenant, window).await;
        let found = self.counted(QueryKind::Services, found)?;
        let services = found.into_iter().map(|summary| pb::Service {
            firing_alerts: firing(&self.app.alerts, &tenant, &summary)
                .try_into()
                .unwrap_or(u32::MAX),
            namespace: summary.namespace,
            name: summary.name,
            series: summary.series,
            last_window_unix_nanos: summary.last_window.get(),
            cpu_millicores: summary.cpu_millicores,
            profile_types: summary.profile_types,
        });
        Ok(Response::new(pb::ServicesResponse {
            services: services.collect(),
        }))
    }

    async fn labels(
        &self,
        request: Request<pb::LabelsRequest>,
    ) -> Result<Response<pb::LabelsResponse>, Status> {
        let tenant = principal(&request)?.tenant;
        let request = request.into_inner();
        let range = (request.start_unix_nanos, request.end_unix_nanos);
        let asked = labels_request(&request.service, &request.selector, range)?;
        let name = Some(request.name.as_str()).filter(|name| !name.is_empty());
        let found = self.app.query.labels(&tenant, asked, name).await;
        let values = self.counted(QueryKind::Labels, found)?;
        Ok(Response::new(pb::LabelsResponse { values }))
    }

    async fn series(
        &self,
        request: Request<pb::SeriesRequest>,
    ) -> Result<Response<pb::SeriesResponse>, Status> {
        let tenant = principal(&request)?.tenant;
        let request = request.into_inner();
        let range = (request.start_unix_nanos, request.end_unix_nanos);
        let asked = labels_request(&request.service, &request.selector, range)?;
        let found = self.app.query.series(&tenant, asked).await;
        let found = self.counted(QueryKind::Labels, found)?;
        let label = |(name, value): (&str, &str)| pb::Label {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let series = found.iter().map(|series| pb::Series {
            id: series.id.0,
            labels: Some(pb::LabelSet {
                labels: series.labels.iter().map(label).collect(),
            }),
        });
        Ok(Response::new(pb::SeriesResponse {
            series: series.collect(),
        }))
    }

    async fn profile_types(
        &self,
        request: Request<pb::ProfileTypesRequest>,
    ) -> Result<Response<pb::ProfileTypesResponse>, Status> {
        let tenant = principal(&request)?.tenant;
        let request = request.into_inner();
        let range = (request.start_unix_nanos, request.end_unix_nanos);
        let asked = labels_request(&request.service, &request.selector, range)?;
        let found = self.app.query.profile_types(&tenant, asked).await;
        let profile_types = self.counted(QueryKind::Labels, found)?;
        Ok(Response::new(pb::ProfileTypesResponse { profile_types }))
    }

    async fn anomalies(
        &self,
        request: Request<pb::AnomaliesRequest>,
    ) -> Result<Response<pb::AnomaliesResponse>, Status> {
        let principal = principal(&request)?;
        let request = request.into_inner();
        let filter = AlertFilter {
            service: match request.service.as_str() {
                "" => None,
                text => Some(service(text)?),
            },
            state: match request.state.as_str() {
                "" => None,
                text => Some(text.parse().map_err(|error| invalid(&error))?),
            },
            id: Some(request.id).filter(|id| !id.is_empty()),
        };
        if let Some(service) = &filter.service {
            let known = self.app.query.knows(&principal.tenant, service);
            known.map_err(|error| error.status())?;
        }
        alerts_response(&self.app.alerts.list(&principal.tenant, &filter))
    }

    async fn replay(
        &self,
        request: Request<pb::ReplayRequest>,
    ) -> Result<Response<pb::AnomaliesResponse>, Status> {
        let tenant = principal(&request)?.tenant;
        let request = request.into_inner();
        let name = service(&request.service)?;
        let window = window(request.start_unix_nanos, request.end_unix_nanos)?;
        let functions = match request.functions.as_str() {
            "" => None,
            text => Some(Sensitivity::named(text).ok_or_else(|| {
                let shown: String = text.chars().take(64).collect();
                Kind::Invalid.status(format!(
                    "functions = {shown:?} is none of off, normal, high"
                ))
            })?),
        };
        let alerts = self.app.alerts.afresh(|settings| {
            if let Ok(hold @ 1..) = u64::try_from(request.hold_nanos) {
                settings.hold = Duration::from_nanos(hold);
            }
            if let Some(functions) = functions {
                settings.shift = functions.settings();
            }
        });
        let alerts = alerts.map_err(|error| error.kind().status(chain(&error)))?;
        let found = self.app.query.replay(&tenant, name, window, alerts).await;
        alerts_response(&self.counted(QueryKind::Anomalies, found)?)
    }

    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let principal = principal(&request)?;
        let report = self.app.status.report(&principal.tenant);
        let status_json =
            serde_json::to_string(&report).map_err(|error| Kind::Internal.status(chain(&error)))?;
        Ok(Response::new(pb::StatusResponse { status_json }))
    }
}
