//! Series and their labels: what a selector picks, and what there is to pick.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::labels::{LabelSet, Selector};

use super::{Inner, QueryError, ServiceName};
use crate::rollup::read::Selection;
use crate::store::ServiceId;

/// Most series of a list.
pub const MAX_SERIES: usize = 10_000;

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
        let series = self.directory.with_series(service, |table| {
            let picked = table.iter().filter(|(_, labels)| selector.accepts(labels));
            picked.map(|(id, _)| id).collect()
        })?;
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

    /// Labels of the series that `selector` picks, at most [`MAX_SERIES`].
    pub(super) fn series(
        &self,
        tenant: &str,
        service: &ServiceName,
        selector: &Selector,
    ) -> Result<Vec<Arc<LabelSet>>, QueryError> {
        let mut found = Vec::new();
        for (id, _) in self.find(tenant, service)? {
            self.directory.with_series(id, |table| {
                let picked = table.iter().filter(|(_, labels)| selector.accepts(labels));
                found.extend(picked.map(|(_, labels)| Arc::clone(labels)));
            })?;
        }
        found.truncate(MAX_SERIES);
        Ok(found)
    }

    /// Names of labels of the series that `selector` picks, or the values of
    /// label `name`.
    pub(super) fn labels(
        &self,
        tenant: &str,
        service: &ServiceName,
        selector: &Selector,
        name: Option<&str>,
    ) -> Result<Vec<String>, QueryError> {
        let mut values = BTreeSet::new();
        for (id, _) in self.find(tenant, service)? {
            self.directory.with_series(id, |table| {
                for (_, labels) in table.iter().filter(|(_, l)| selector.accepts(l)) {
                    match name {
                        Some(name) => values.extend(labels.get(name).map(str::to_owned)),
                        None => values.extend(labels.iter().map(|(n, _)| n.to_owned())),
                    }
                }
            })?;
        }
        Ok(values.into_iter().collect())
    }
}
