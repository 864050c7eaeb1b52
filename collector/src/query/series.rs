//! Which series a service has, ever or over a range.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::labels::{LabelSet, Selector};
use proto::window::Window;

use super::{Inner, MAX_SERIES, Query, QueryError, ServiceName};
use crate::store::{PtypeId, SeriesId, ServiceId, StoreError};

/// A series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSeries {
    /// Its number within its service.
    pub id: SeriesId,
    /// Its labels, those of its service among them.
    pub labels: Arc<LabelSet>,
}

impl Query {
    /// Series of a service that `selector` picks and that have a window in
    /// `window`, or ever; by service and number, at most [`MAX_SERIES`].
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the service is not known or the store fails.
    pub async fn series(
        &self,
        tenant: &str,
        service: &ServiceName,
        selector: &Selector,
        window: Option<Window>,
    ) -> Result<Vec<FoundSeries>, QueryError> {
        let (tenant, service, selector) = (tenant.to_owned(), service.clone(), selector.clone());
        self.blocking(move |inner| {
            let mut found = Vec::new();
            for (id, _) in inner.find(&tenant, &service)? {
                let present = match window {
                    Some(window) => Some(inner.present(id, window)?),
                    None => None,
                };
                inner.directory.with_series(id, |table| {
                    let meant = table.iter().filter(|(id, labels)| {
                        present.as_ref().is_none_or(|present| present.contains(id))
                            && selector.accepts(labels)
                    });
                    found.extend(meant.map(|(id, labels)| FoundSeries {
                        id,
                        labels: Arc::clone(labels),
                    }));
                })?;
            }
            found.truncate(MAX_SERIES);
            Ok(found)
        })
        .await
    }
}

impl Inner {
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
