//! Services: which a name means, and which there are with their load.

use std::str::FromStr;
use std::time::Duration;

use proto::window::{UnixNanos, Window};

use super::{Inner, QueryError};
use crate::store::segment::RangeSum;
use crate::store::tier::Tier;
use crate::store::{PtypeId, ServiceId, ServiceKey, StoreError, SumRequest};

/// How far back a service's load in `services` looks.
const LOAD_RANGE: Duration = Duration::from_secs(300);

/// A service as a reader names it: `logger` in every namespace or
/// `prod/logger` in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName {
    /// `None` means every namespace.
    pub namespace: Option<String>,
    /// The service.
    pub name: String,
}

impl FromStr for ServiceName {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, text),
        };
        if name.is_empty() {
            return Err(QueryError::NoServiceName);
        }
        Ok(Self {
            namespace,
            name: name.to_owned(),
        })
    }
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A service as `services` lists it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ServiceSummary {
    /// Its namespace, or `""`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Series it ever had.
    pub series: u64,
    /// Start of its latest window in the range.
    #[serde(skip)]
    pub last_window: UnixNanos,
    /// Thousandths of a core over the last minutes of the range.
    pub cpu_millicores: u64,
    /// Profile types that it had in the range, in five-part form.
    pub profile_types: Vec<String>,
}

impl Inner {
    /// Services that `name` means.
    pub(super) fn find(
        &self,
        tenant: &str,
        name: &ServiceName,
    ) -> Result<Vec<(ServiceId, ServiceKey)>, QueryError> {
        let all = self.directory.services(tenant);
        let whole = name.to_string();
        let is_meant = |key: &ServiceKey| match &name.namespace {
            None => key.service == name.name,
            Some(namespace) => key.service == name.name && key.namespace == *namespace,
        };
        let found: Vec<_> = all
            .iter()
            // A service's own name may hold a slash.
            .filter(|(_, key)| is_meant(key) || key.service == whole)
            .cloned()
            .collect();
        if found.is_empty() {
            let mut known: Vec<&str> = all.iter().map(|(_, key)| key.service.as_str()).collect();
            known.dedup();
            known.truncate(20);
            return Err(QueryError::UnknownService {
                name: name.to_string(),
                known: match known.is_empty() {
                    true => "none yet; start an agent beside your service".to_owned(),
                    false => known.join(", "),
                },
            });
        }
        Ok(found)
    }

    /// Services with a window in `window`.
    pub(super) fn services(
        &self,
        tenant: &str,
        window: Window,
    ) -> Result<Vec<ServiceSummary>, QueryError> {
        let mut out = Vec::new();
        let types = self.directory.types();
        for (service, key) in self.directory.services(tenant) {
            let mut summary = ServiceSummary {
                namespace: key.namespace,
                name: key.service,
                series: 0,
                last_window: UnixNanos::default(),
                cpu_millicores: 0,
                profile_types: Vec::new(),
            };
            let mut last_s = None;
            for (ptype, _) in &types {
                if !self
                    .store
                    .active_series(*ptype, service, window)?
                    .is_empty()
                {
                    let start = u64::try_from(window.start().seconds()).unwrap_or(0);
                    last_s = self.last_window_s(service, *ptype, window)?.or(Some(start));
                    break;
                }
            }
            let Some(last_s) = last_s else { continue };
            let last_ns = i64::try_from(last_s.saturating_mul(1_000_000_000)).unwrap_or(i64::MAX);
            summary.last_window = UnixNanos::new(last_ns);
            let series = self.directory.with_series(service, |table| table.len())?;
            summary.series = u64::try_from(series).unwrap_or(u64::MAX);
            // The load of the latest minutes, so that an idle service reads 0.
            let end = window.end().min(self.clock.now());
            let from = end.saturating_sub(LOAD_RANGE).max(window.start());
            let recent = Window::new(from, end).unwrap_or(window);
            for (ptype, stored) in &types {
                let series = self.store.active_series(*ptype, service, window)?;
                if series.is_empty() {
                    continue;
                }
                summary.profile_types.push(stored.profile_type.to_string());
                if stored.profile_type.is_called("cpu") {
                    let cores = self.millicores(*ptype, service, recent)?;
                    summary.cpu_millicores = summary.cpu_millicores.saturating_add(cores);
                }
            }
            out.push(summary);
        }
        Ok(out)
    }

    /// Start of the latest window of a service in `window`, from the latest
    /// rows that are there.
    fn last_window_s(
        &self,
        service: ServiceId,
        ptype: PtypeId,
        window: Window,
    ) -> Result<Option<u64>, StoreError> {
        if let Some(last_s) = self.directory.last_window_s(service)
            && i64::try_from(last_s).is_ok_and(|last_s| last_s < window.end().seconds())
        {
            return Ok(Some(last_s));
        }
        let mut last_s = None;
        for tier in [Tier::Window, Tier::Minute, Tier::Hour, Tier::Day] {
            // The finer the rows, the shorter the time that is looked through.
            let reach = Duration::from_secs(tier.length_s().saturating_mul(600));
            let from = window.end().saturating_sub(reach).max(window.start());
            let Ok(window) = Window::new(from, window.end()) else {
                continue;
            };
            let request = SumRequest {
                tier,
                ptype,
                service,
                series: None,
                window,
            };
            self.store
                .keys(&request, &mut |key| last_s = last_s.max(Some(key.start_s)))?;
            if last_s.is_some() {
                break;
            }
        }
        Ok(last_s)
    }

    /// Thousandths of a core that a service's samples stand for: per series its
    /// value over the time it was observed, added up.
    fn millicores(
        &self,
        ptype: PtypeId,
        service: ServiceId,
        window: Window,
    ) -> Result<u64, StoreError> {
        let mut sum = RangeSum::default();
        self.store.sum(
            &SumRequest {
                tier: Tier::Window,
                ptype,
                service,
                series: None,
                window,
            },
            &mut sum,
        )?;
        let value: i128 = sum
            .sums
            .iter()
            .map(|(kind, sum)| {
                let count = sum.values.total();
                count.saturating_mul(i128::from(kind.weight))
            })
            .fold(0, i128::saturating_add);
        let observed = i128::from(sum.observed_ns().max(1));
        // Value over observed time is the mean of the series; their number
        // makes it the service.
        let series = i128::try_from(sum.series.len()).unwrap_or(0);
        let millicores = value.saturating_mul(1000).saturating_mul(series) / observed;
        Ok(u64::try_from(millicores.max(0)).unwrap_or(u64::MAX))
    }
}
