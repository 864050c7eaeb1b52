//! Deleting a service whole: its windows and sums, rows of features and activity,
//! its dictionary and its alerts, on disk and in memory.
//!
//! While nothing is being written the service is doomed, durably, and leaves the
//! directory; what comes of its name afterwards is a new service with a new id.
//! Streams that hold ids of the old one must begin anew. Then what looks at steps
//! is waited for, alerts go, and the store erases the rest in one write. A kill
//! between these steps is made good at the next start, by [`Deletion::finish`].

use std::sync::{Arc, Mutex, PoisonError};

use proto::status::Kind;
use proto::window::Clock;
use tracing::info;

use crate::alert::{AlertFilter, Alerts};
use crate::directory::Directory;
use crate::dirty::Dirty;
use crate::query::{Query, QueryError, ServiceName};
use crate::rollup::groups::Groups;
use crate::rollup::rolled::Rolled;
use crate::store::trees::Trees;
use crate::store::{ServiceId, ServiceKey, Store, StoreError};

/// Why a service is not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeletionError {
    /// There is no such service.
    #[error(transparent)]
    Unknown(#[from] QueryError),
    /// The name means several.
    #[error("{name:?} means several services: {all}; name one of them")]
    Several {
        /// What was asked for.
        name: String,
        /// What it means.
        all: String,
    },
    /// The store failed.
    #[error("not all of the service is deleted; the rest goes at the next try or start")]
    Store(#[from] StoreError),
}

impl DeletionError {
    /// What kind of failure it is for a caller.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unknown(error) => error.kind(),
            Self::Several { .. } => Kind::Invalid,
            Self::Store(error) => error.kind(),
        }
    }
}

/// A service that is to be deleted, or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: ServiceKey,
    /// How many series it had.
    pub series: usize,
    /// How many alerts it had.
    pub alerts: usize,
}

/// Everything that knows of services.
#[derive(Debug)]
pub struct Parts {
    /// Rows.
    pub store: Arc<dyn Store>,
    /// Call trees.
    pub trees: Arc<Trees>,
    /// Names.
    pub directory: Arc<Directory>,
    /// What is to be summed.
    pub rolled: Arc<Rolled>,
    /// Groups of series.
    pub groups: Arc<Groups>,
    /// What is to be looked at.
    pub dirty: Arc<Dirty>,
    /// Alerts.
    pub alerts: Arc<Alerts>,
    /// Finds services by name.
    pub query: Query,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Deletes services, one at a time.
#[derive(Debug)]
pub struct Deletion {
    parts: Parts,
    one: Mutex<()>,
}

impl Deletion {
    /// Returns what deletes services from `parts`.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            one: Mutex::default(),
        }
    }

    /// The one service of `tenant` that `name` means.
    ///
    /// # Errors
    ///
    /// [`DeletionError`] if there is none or more than one.
    pub fn find(&self, tenant: &str, name: &ServiceName) -> Result<Found, DeletionError> {
        self.one(tenant, name).map(|(_, found)| found)
    }

    fn one(&self, tenant: &str, name: &ServiceName) -> Result<(ServiceId, Found), DeletionError> {
        let parts = &self.parts;
        let found = parts.query.find(tenant, name)?;
        let [(id, key)] = &found[..] else {
            let all = found.iter();
            let all: Vec<String> = all
                .map(|(_, key)| format!("{}/{}", key.namespace, key.service))
                .collect();
            return Err(DeletionError::Several {
                name: name.to_string(),
                all: all.join(", "),
            });
        };
        let filter = AlertFilter {
            service: Some(ServiceName {
                namespace: Some(key.namespace.clone()),
                name: key.service.clone(),
            }),
            ..AlertFilter::default()
        };
        let series = parts.directory.with_series(*id, |table| table.len());
        let found = Found {
            series: series.map_err(QueryError::from)?,
            alerts: parts.alerts.list(tenant, &filter).len(),
            name: key.clone(),
        };
        Ok((*id, found))
    }

    /// Deletes the one service of `tenant` that `name` means. Blocks.
    ///
    /// # Errors
    ///
    /// [`DeletionError`]; the service is as it was then, unless the store failed.
    pub fn delete(&self, tenant: &str, name: &ServiceName) -> Result<Found, DeletionError> {
        let _one = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        self.finish()?;
        let (id, found) = self.one(tenant, name)?;
        self.remove(id, &found.name, || Ok(true))?;
        Ok(found)
    }

    /// Deletes service `id` if `may_go` says so while nothing is being written;
    /// returns whether it did. Blocks.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails.
    pub fn delete_if(
        &self,
        id: ServiceId,
        may_go: impl FnOnce() -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let _one = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        self.finish()?;
        match self.parts.directory.service_key(id) {
            Some(name) => self.remove(id, &name, may_go),
            None => Ok(false),
        }
    }

    fn remove(
        &self,
        id: ServiceId,
        name: &ServiceKey,
        may_go: impl FnOnce() -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let parts = &self.parts;
        {
            // No group of batches is half prepared.
            let _alone = parts.rolled.alone();
            if !may_go()? {
                return Ok(false);
            }
            parts.store.doom(id, name)?;
            parts.directory.remove(id);
            parts.trees.forget(id);
            parts.groups.forget(id);
            parts.rolled.forget(id);
        }
        {
            // What was seen of it before is judged by now, and forgotten.
            let _not_looking = parts.dirty.looking();
            parts.dirty.forget(id);
            parts.alerts.forget(name, parts.clock.now())?;
        }
        parts.store.erase(id)?;
        Ok(true)
    }

    /// Deletes what an earlier try left.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails.
    pub fn finish(&self) -> Result<(), StoreError> {
        let parts = &self.parts;
        for (id, name) in parts.store.doomed()? {
            // Alerts go by name, which may be a new service's by now.
            if parts.directory.service(&name).is_none() {
                let _not_looking = parts.dirty.looking();
                parts.alerts.forget(&name, parts.clock.now())?;
            }
            parts.store.erase(id)?;
            info!(
                namespace = name.namespace,
                service = name.service,
                "the rest of a service deleted"
            );
        }
        Ok(())
    }
}
