//! Series and their labels: what a selector picks, and what there is to pick.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::labels::Selector;
use proto::window::{UnixNanos, Window};

use super::{Inner, QueryError, ServiceName};
use crate::directory::SeriesTable;
use crate::rollup::read::Selection;
use crate::store::tier::DAY_S;
use crate::store::{PtypeId, SeriesId, ServiceId, StoreError};

/// Most series of a list.
pub const MAX_SERIES: usize = 10_000;

/// Asks what there is.
#[derive(Clone, Debug)]
pub struct LabelsRequest {
    /// Of which service.
    pub service: ServiceName,
    /// Which series.
    pub selector: Selector,
    /// Only series with a window in this time, or on a day of it where labels are
    /// asked for; `None` means all that
    /// are known.
    pub window: Option<Window>,
}

/// Whether two sorted lists have a series in common.
fn in_both(ids: &[SeriesId], others: &[SeriesId]) -> bool {
    let (few, many) = match ids.len() <= others.len() {
        true => (ids, others),
        false => (others, ids),
    };
    few.iter().any(|id| many.binary_search(id).is_ok())
}

impl Inner {
    /// Series of a service that `selector` picks.
    pub(super) fn select(
        &self,
        service: ServiceId,
        selector: &Selector,
    ) -> Result<Selection, QueryError> {
        if selector.is_empty() {
            return Ok(Selection::All);
        }
        let series = self
            .directory
            .with_series(service, |table| table.select(selector))?;
        if let Some((name, value)) = selector.single_equal()
            && let Some(id) = self.reader.groups().get(service, name, value)?
        {
            return Ok(Selection::Group {
                id,
                members: series,
            });
        }
        Ok(Selection::Some(series))
    }

    /// Calls `look` with each service's table and the series that are meant.
    fn with_meant(
        &self,
        tenant: &str,
        request: &LabelsRequest,
        mut look: impl FnMut(&SeriesTable, &[SeriesId]),
    ) -> Result<(), QueryError> {
        for (service, _) in self.find(tenant, &request.service)? {
            let active = match request.window {
                Some(window) => Some(self.active_of_any_type(service, window)?),
                None => None,
            };
            self.directory.with_series(service, |table| {
                let mut meant = table.select(&request.selector);
                if let Some(active) = &active {
                    meant.retain(|id| active.binary_search(id).is_ok());
                }
                look(table, &meant);
            })?;
        }
        Ok(())
    }

    /// Series that had any window on a day of `window`, sorted.
    fn active_of_any_type(
        &self,
        service: ServiceId,
        window: Window,
    ) -> Result<Vec<SeriesId>, StoreError> {
        let mut active = self.store.active_series(PtypeId::FACTS, service, window)?;
        for (ptype, _) in self.directory.types() {
            active.extend(self.store.active_series(ptype, service, window)?);
        }
        active.sort_unstable();
        active.dedup();
        Ok(active)
    }

    /// Names of labels of the series that are meant, or the values of `name`.
    pub(super) fn labels(
        &self,
        tenant: &str,
        request: &LabelsRequest,
        name: Option<&str>,
    ) -> Result<Vec<String>, QueryError> {
        let mut found = BTreeSet::new();
        self.with_meant(tenant, request, |table, meant| match name {
            Some(name) => {
                let values = table.label_values(name);
                let values = values.filter(|(_, ids)| in_both(ids, meant));
                found.extend(values.map(|(value, _)| value.to_owned()));
            }
            None => {
                let has =
                    |name: &&str| table.label_values(name).any(|(_, ids)| in_both(ids, meant));
                found.extend(table.label_names().filter(has).map(str::to_owned));
            }
        })?;
        Ok(found.into_iter().collect())
    }

    /// Profile types, in five-part form, of which a series that is meant has
    /// windows; sorted.
    pub(super) fn profile_types(
        &self,
        tenant: &str,
        request: &LabelsRequest,
    ) -> Result<Vec<String>, QueryError> {
        let services = self.find(tenant, &request.service)?;
        let Some(window) = request.window.or_else(|| self.all_time()) else {
            return Ok(Vec::new());
        };
        let mut found = BTreeSet::new();
        for (service, _) in services {
            let selection = self.select(service, &request.selector)?;
            for (ptype, stored) in self.directory.types() {
                let active = self.store.active_series(ptype, service, window)?;
                let has = match selection.series() {
                    None => !active.is_empty(),
                    Some(series) => in_both(series, &active),
                };
                if has {
                    found.insert(stored.profile_type.to_string());
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// From 1970 to a day from now, which no window passes.
    fn all_time(&self) -> Option<Window> {
        let end = self.clock.now().saturating_add(Duration::from_secs(DAY_S));
        Window::new(UnixNanos::default(), end).ok()
    }
}
