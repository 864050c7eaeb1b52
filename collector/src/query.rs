//! Answers readers: picks services and series, sums vectors over the range,
//! and maps them to a call tree.
//!
//! Summing runs on blocking threads, at most [`MAX_QUERIES`] at once; a caller
//! that goes away while it waits costs nothing.

mod admission;
mod basis;
pub mod diff;
pub mod groups;
mod labels;
mod one_tree;
mod profile;
mod sandwich;
pub mod series;
mod services;
pub mod timeline;
mod verdict;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use proto::status::{Kind, chain};
use proto::window::{Clock, Window};

use self::admission::{Admission, Gone};
use self::diff::DiffRequest;
use self::groups::{GroupsRequest, MAX_VALUES};
use self::series::FoundSeries;
use self::timeline::{MAX_POINTS, TimelineAnswer, TimelineRequest};
use crate::alert::{Alert, AlertFilter, Alerts};
use crate::answer::ProfileAnswer;
use crate::diff::{DiffAnswer, DiffError};
use crate::directory::Directory;
use crate::groups::GroupsAnswer;
use crate::memory::{Budget, NoShare};
use crate::rollup::read::RangeReader;
use crate::sandwich::{SandwichAnswer, Wanted};
use crate::store::trees::Trees;
use crate::store::{ServiceId, ServiceKey, Store, StoreError};
use crate::verdict::Verdict;
use crate::watch::replay;

pub use self::admission::{MAX_QUERIES, MAX_WAITING};
pub use self::labels::{LabelsRequest, MAX_SERIES};
pub use self::profile::{DEFAULT_MAX_NODES, ProfileRequest};
pub use self::services::{ServiceName, ServiceSummary};

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The service's name is empty.
    #[error("a service is needed: --service NAME or NAMESPACE/NAME")]
    NoServiceName,
    /// No such service.
    #[error("no service {name:?} is known here; known are: {known}")]
    UnknownService {
        /// What was asked for.
        name: String,
        /// Names of services, cut to a few.
        known: String,
    },
    /// The service has no such profile type.
    #[error("service {service:?} has no profile type {asked:?} in this range; it has: {known}")]
    UnknownType {
        /// The service.
        service: String,
        /// What was asked for.
        asked: String,
        /// The types it has.
        known: String,
    },
    /// Functions are judged by CPU time only.
    #[error("a verdict is of CPU time, and {asked:?} is not")]
    NotCpu {
        /// What was asked for.
        asked: String,
    },
    /// No sample has the function.
    #[error(
        "no sample of service {service:?} in this range has a function {asked:?}, by name or as a pattern; {hint}"
    )]
    NoFunction {
        /// The service.
        service: String,
        /// What was asked for.
        asked: String,
        /// Why that is no pattern.
        #[source]
        pattern: Option<regex::Error>,
        /// What to do.
        hint: String,
    },
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// A timeline would have too many points.
    #[error(
        "that makes {points} points, more than {MAX_POINTS}: take a longer step, a shorter range or fewer groups"
    )]
    TooManyPoints {
        /// How many.
        points: usize,
    },
    /// A label has more values than can be told apart.
    #[error(
        "label {label:?} has {values} values here, more than {MAX_VALUES}: narrow it with --select, or group by another label"
    )]
    TooManyValues {
        /// The label.
        label: String,
        /// How many.
        values: usize,
    },
    /// The two sides of a comparison count different things.
    #[error(transparent)]
    Diff(#[from] DiffError),
    /// Too many ask at once.
    #[error("more queries came than can be answered; ask again in some seconds")]
    Busy,
    /// It would take more memory than there is.
    #[error(transparent)]
    Memory(#[from] NoShare),
    /// The work was ended before it was done.
    #[error("the query was ended: the collector is stopping or the query is defective")]
    Ended,
}

impl QueryError {
    /// What kind of failure it is for a caller.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoServiceName
            | Self::TooManyPoints { .. }
            | Self::TooManyValues { .. }
            | Self::NotCpu { .. }
            | Self::Diff(_) => Kind::Invalid,
            Self::UnknownService { .. } | Self::UnknownType { .. } | Self::NoFunction { .. } => {
                Kind::NotFound
            }
            Self::Store(error) => error.kind(),
            Self::Busy | Self::Memory(_) => Kind::Exhausted,
            Self::Ended => Kind::Unavailable,
        }
    }

    /// When to ask again; `None` when that cannot help by itself.
    pub fn retry_after(&self) -> Option<Duration> {
        /// Most queries take far less.
        const SOON: Duration = Duration::from_secs(1);
        matches!(self, Self::Busy | Self::Memory(NoShare::Busy)).then_some(SOON)
    }

    /// The gRPC status of this failure.
    pub fn status(&self) -> tonic::Status {
        self.kind().status(chain(self))
    }
}

/// Answers readers; cheap to clone.
#[derive(Clone, Debug)]
pub struct Query {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    trees: Arc<Trees>,
    directory: Arc<Directory>,
    clock: Arc<dyn Clock>,
    admission: Admission,
    reader: RangeReader,
}

impl Query {
    /// Returns what answers from `store`.
    pub fn new(
        store: Arc<dyn Store>,
        trees: Arc<Trees>,
        directory: Arc<Directory>,
        reader: RangeReader,
        memory: Budget,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                trees,
                directory,
                reader,
                admission: Admission::new(memory),
                clock,
            }),
        }
    }

    /// Runs `work` on a blocking thread when one of the few places is free. It
    /// is told when the caller is gone.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, &Arc<AtomicBool>) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let place = self.inner.admission.enter().await?;
        let inner = Arc::clone(&self.inner);
        let caller = Gone::default();
        let gone = Arc::clone(&caller.0);
        tokio::task::spawn_blocking(move || {
            let _held_until_done = place;
            work(&inner, &gone)
        })
        .await
        .map_err(|_panicked| QueryError::Ended)?
    }

    /// Services that `name` means.
    ///
    /// # Errors
    ///
    /// [`QueryError::UnknownService`] with the services there are.
    pub fn find(
        &self,
        tenant: &str,
        name: &ServiceName,
    ) -> Result<Vec<(ServiceId, ServiceKey)>, QueryError> {
        self.inner.find(tenant, name)
    }

    /// Whether `name` means a service.
    ///
    /// # Errors
    ///
    /// [`QueryError::UnknownService`] with the services there are.
    pub fn knows(&self, tenant: &str, name: &ServiceName) -> Result<(), QueryError> {
        self.inner.find(tenant, name).map(drop)
    }

    /// The merged call tree of a selection; a range without windows gives an
    /// empty tree with a note.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the service or type is not known or the store fails.
    pub async fn profile(
        &self,
        tenant: &str,
        request: ProfileRequest,
    ) -> Result<ProfileAnswer, QueryError> {
        let tenant = tenant.to_owned();
        self.blocking(move |inner, gone| inner.profile(&tenant, &request, gone))
            .await
    }

    /// A function of a selection between its callers and its callees.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the service or type is not known, no sample has the
    /// function, or the store fails.
    pub async fn sandwich(
        &self,
        tenant: &str,
        request: ProfileRequest,
        wanted: Wanted,
    ) -> Result<SandwichAnswer, QueryError> {
        let tenant = tenant.to_owned();
        self.blocking(move |inner, gone| inner.sandwich(&tenant, &request, &wanted, gone))
            .await
    }

    /// The merged call trees of a selection by the value of a label, largest
    /// first; no groups when the range has no windows.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the service or type is not known or the store fails.
    pub async fn groups(
        &self,
        tenant: &str,
        request: GroupsRequest,
    ) -> Result<GroupsAnswer, QueryError> {
        let tenant = tenant.to_owned();
        self.blocking(move |inner, gone| inner.groups(&tenant, &request, gone))
            .await
    }

    /// Two selections compared, folded alike on both sides.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if a service or the type is not known or the store fails.
    pub async fn diff(&self, tenant: &str, request: DiffRequest) -> Result<DiffAnswer, QueryError> {
        let tenant = tenant.to_owned();
        self.blocking(move |inner, gone| inner.diff(&tenant, &request, gone))
            .await
    }

    /// Which functions became dearer from the base to the new side of `request`, and how
    /// sure that is.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if a service or the type is not known or the store fails.
    pub async fn verdict(&self, tenant: &str, request: DiffRequest) -> Result<Verdict, QueryError> {
        let tenant = tenant.to_owned();
        self.blocking(move |inner, gone| inner.verdict(&tenant, &request, gone))
            .await
    }

    /// Lets `alerts` judge the stored rows of a service again; returns what it tells
    /// then, latest first.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the service is not known or the store fails.
    pub async fn replay(
        &self,
        tenant: &str,
        name: ServiceName,
        window: Window,
        alerts: Alerts,
    ) -> Result<Vec<Alert>, QueryError> {
        let tenant = tenant.to_owned();
        self.blocking(move |inner, gone| {
            for (service, key) in inner.find(&tenant, &name)? {
                let of = (service, &key);
                replay::replay(&*inner.store, &alerts, of, window, gone)?;
            }
            Ok(alerts.list(&tenant, &AlertFilter::default()))
        })
        .await
    }

    /// A quantity over time, per group of series.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the service or type is not known, there would be too
    /// many points, or the store fails.
    pub async fn timeline(
        &self,
        tenant: &str,
        request: TimelineRequest,
    ) -> Result<TimelineAnswer, QueryError> {
        let tenant = tenant.to_owned();
        self.blocking(move |inner, gone| timeline::answer(inner, &tenant, &request, gone))
            .await
    }

    /// The series that are meant, by service and number, at most [`MAX_SERIES`].
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the service is not known or the store fails.
    pub async fn series(
        &self,
        tenant: &str,
        request: LabelsRequest,
    ) -> Result<Vec<FoundSeries>, QueryError> {
        let tenant = tenant.to_owned();
        self.blocking(move |inner, _| inner.series(&tenant, &request))
            .await
    }

    /// Services with a window in `window`, by namespace and name.
    ///
    /// # Errors
    ///
    /// [`QueryError::Store`] if the store fails.
    pub async fn services(
        &self,
        tenant: &str,
        window: Window,
    ) -> Result<Vec<ServiceSummary>, QueryError> {
        let tenant = tenant.to_owned();
        self.blocking(move |inner, _| inner.services(&tenant, window))
            .await
    }

    /// Label names of the series that are meant, or the values of label `name`;
    /// sorted.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the service is not known or the store fails.
    pub async fn labels(
        &self,
        tenant: &str,
        request: LabelsRequest,
        name: Option<&str>,
    ) -> Result<Vec<String>, QueryError> {
        let (tenant, name) = (tenant.to_owned(), name.map(str::to_owned));
        self.blocking(move |inner, _| inner.labels(&tenant, &request, name.as_deref()))
            .await
    }

    /// Profile types of the series that are meant, in five-part form; sorted.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the service is not known or the store fails.
    pub async fn profile_types(
        &self,
        tenant: &str,
        request: LabelsRequest,
    ) -> Result<Vec<String>, QueryError> {
        let tenant = tenant.to_owned();
        self.blocking(move |inner, _| inner.profile_types(&tenant, &request))
            .await
    }
}
