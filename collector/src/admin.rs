//! The gRPC door for operators: `tepui.v1.Admin`. Only callers with the role
//! admin come here, see [`crate::auth`].

use std::sync::Arc;

use proto::pb::tepui as pb;
use proto::pb::tepui::admin_server::Admin;
use proto::status::{Kind, chain};
use proto::window::Clock;
use tonic::{Request, Response, Status};
use tracing::info;

use crate::alert::Alerts;
use crate::auth::Principal;
use crate::backup::Backups;
use crate::deletion::Deletion;
use crate::query::{QueryError, ServiceName};

/// The operators' service.
#[derive(Debug)]
pub struct AdminService {
    backups: Arc<Backups>,
    deletion: Arc<Deletion>,
    alerts: Arc<Alerts>,
    clock: Arc<dyn Clock>,
}

impl AdminService {
    /// Returns the service that makes `backups`, deletes services and acknowledges alerts.
    pub fn new(
        backups: Backups,
        deletion: Arc<Deletion>,
        alerts: Arc<Alerts>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            backups: Arc::new(backups),
            deletion,
            alerts,
            clock,
        }
    }
}

/// Runs `work` where it may take its time; it goes on when the caller leaves.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_panicked) => Err(Kind::Internal.status("the work ended early")),
    }
}

/// Who asks, for the log.
fn tenant<T>(request: &Request<T>) -> Result<String, Status> {
    let principal = request.extensions().get::<Principal>();
    principal
        .map(|principal| principal.tenant.clone())
        .ok_or_else(|| Kind::Unauthenticated.status("no principal"))
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn backup(
        &self,
        request: Request<pb::BackupRequest>,
    ) -> Result<Response<pb::BackupResponse>, Status> {
        let tenant = tenant(&request)?;
        let name = request.into_inner().name;
        let backups = Arc::clone(&self.backups);
        let made = blocking(move || {
            let made = backups.make(&name);
            made.map_err(|error| error.kind().status(chain(&error)))
        })
        .await?;
        let folder = made.folder.display().to_string();
        info!(tenant, folder, bytes = made.bytes, "backup made");
        Ok(Response::new(pb::BackupResponse {
            folder,
            bytes: made.bytes,
        }))
    }

    async fn acknowledge(
        &self,
        request: Request<pb::AcknowledgeRequest>,
    ) -> Result<Response<pb::AcknowledgeResponse>, Status> {
        let tenant = tenant(&request)?;
        let pb::AcknowledgeRequest { id, note } = request.into_inner();
        let (alerts, now) = (Arc::clone(&self.alerts), self.clock.now());
        let found = blocking(move || {
            let known = alerts.acknowledge(&tenant, &id, &note, now);
            let known = known.map_err(|error| error.kind().status(chain(&error)))?;
            known.ok_or_else(|| {
                let shown: String = id.chars().take(64).collect();
                Kind::NotFound.status(format!(
                    "no alert {shown:?} is pending, firing or stale; `collector anomalies` lists them"
                ))
            })
        })
        .await?;
        let alert_json =
            serde_json::to_string(&found).map_err(|error| Kind::Internal.status(chain(&error)))?;
        Ok(Response::new(pb::AcknowledgeResponse { alert_json }))
    }

    async fn delete_service(
        &self,
        request: Request<pb::DeleteServiceRequest>,
    ) -> Result<Response<pb::DeleteServiceResponse>, Status> {
        let tenant = tenant(&request)?;
        let request = request.into_inner();
        let name: ServiceName = request
            .service
            .parse()
            .map_err(|error: QueryError| error.status())?;
        let (deletion, dry_run) = (Arc::clone(&self.deletion), request.dry_run);
        let found = blocking(move || {
            let found = match dry_run {
                true => deletion.find(&tenant, &name),
                false => deletion.delete(&tenant, &name),
            };
            found.map_err(|error| error.kind().status(chain(&error)))
        })
        .await?;
        let name = found.name;
        if !dry_run {
            info!(
                tenant = name.tenant,
                namespace = name.namespace,
                service = name.service,
                series = found.series,
                "service deleted"
            );
        }
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        Ok(Response::new(pb::DeleteServiceResponse {
            namespace: name.namespace,
            service: name.service,
            series: count(found.series),
            alerts: count(found.alerts),
        }))
    }
}
