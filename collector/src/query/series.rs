//! Which series a service has, ever or over a range.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::labels::LabelSet;
use proto::window::Window;

use super::{Inner, LabelsRequest, MAX_SERIES, QueryError};
use crate::store::{PtypeId, SeriesId, ServiceId, StoreError};

/// A series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSeries {
    /// Its number within its service.
    pub id: SeriesId,
    /// Its labels, those of its service among them.
    pub labels: Arc<LabelSet>,
}

impl Inner {
    /// The series that are meant, by service and number, at most [`MAX_SERIES`].
    pub(super) fn series(
        &self,
        tenant: &str,
        request: &LabelsRequest,
    ) -> Result<Vec<FoundSeries>, QueryError> {
        let mut found = Vec::new();
        for (service, _) in self.find(tenant, &request.service)? {
            let present = match request.window {
                Some(window) => Some(self.present(service, window)?),
                None => None,
            };
            let is_present = |id: &SeriesId| present.as_ref().is_none_or(|ids| ids.contains(id));
            self.directory.with_series(service, |table| {
                let meant = table.select(&request.selector).into_iter();
                found.extend(meant.filter(is_present).filter_map(|id| {
                    let labels = Arc::clone(table.labels(id)?);
                    Some(FoundSeries { id, labels })
                }));
            })?;
        }
        found.truncate(MAX_SERIES);
        Ok(found)
    }

    /// Series with a window in a range, as exactly as it is kept.
    fn present(
        &self,
        service: ServiceId,
        window: Window,
    ) -> Result<BTreeSet<SeriesId>, StoreError> {
        let types = self.directory.types();
        let types = types.iter().map(|(id, _)| *id);
        let types: Vec<PtypeId> = std::iter::once(PtypeId::FACTS).chain(types).collect();
        self.reader.present(service, &types, window)
    }
}
