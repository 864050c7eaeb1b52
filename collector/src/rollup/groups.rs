//! Groups of series that share the value of a chosen label: their sums are
//! kept like those of the whole service.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::labels::LabelSet;
use rustc_hash::FxHashMap;

use crate::directory::Directory;
use crate::store::rows::{self, Group};
use crate::store::{SeriesId, ServiceId, Store, StoreError, WriteGroup};

/// Least series of a group that is kept: one series has its own rows.
const MIN_MEMBERS: usize = 2;
/// Most groups of one service; series of further ones are summed when asked.
const MAX_GROUPS: usize = 1_000;

type Table = BTreeMap<(String, String), SeriesId>;

/// The groups of a store.
#[derive(Debug)]
pub struct Groups {
    store: Arc<dyn Store>,
    labels: Vec<String>,
    tables: Mutex<FxHashMap<ServiceId, Table>>,
}

impl Groups {
    /// Returns the groups of `store` by the values of `labels`.
    pub fn new(store: Arc<dyn Store>, labels: Vec<String>) -> Self {
        Self {
            store,
            labels,
            tables: Mutex::default(),
        }
    }

    /// Forgets the groups of a service that was deleted.
    pub fn forget(&self, service: ServiceId) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.remove(&service);
    }

    fn with_table<T>(
        &self,
        service: ServiceId,
        look: impl FnOnce(&mut Table) -> T,
    ) -> Result<T, StoreError> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get_mut(&service) {
            return Ok(look(table));
        }
        let groups = self.store.groups(service)?;
        let mut table = groups
            .into_iter()
            .map(|group| ((group.name, group.value), group.id))
            .collect();
        let looked = look(&mut table);
        tables.insert(service, table);
        Ok(looked)
    }

    /// The group of a service's series whose label `name` is `value`, if its
    /// sums are kept.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails.
    pub fn get(
        &self,
        service: ServiceId,
        name: &str,
        value: &str,
    ) -> Result<Option<SeriesId>, StoreError> {
        if !self.labels.iter().any(|label| label == name) {
            return Ok(None);
        }
        let key = (name.to_owned(), value.to_owned());
        self.with_table(service, |table| table.get(&key).copied())
    }

    /// The groups of a series with `labels`, of those whose sums are kept.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails.
    pub fn of(&self, service: ServiceId, labels: &LabelSet) -> Result<Vec<SeriesId>, StoreError> {
        let mut groups = Vec::new();
        for name in &self.labels {
            if let Some(value) = labels.get(name) {
                groups.extend(self.get(service, name, value)?);
            }
        }
        Ok(groups)
    }

    /// The groups that have at least two of `series`, with those of each. A new
    /// group is written before it is used.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails.
    pub fn members(
        &self,
        service: ServiceId,
        series: &[SeriesId],
        directory: &Directory,
    ) -> Result<BTreeMap<SeriesId, Vec<SeriesId>>, StoreError> {
        let mut by_value: BTreeMap<(&str, String), Vec<SeriesId>> = BTreeMap::new();
        directory.with_series(service, |table| {
            for id in series {
                let Some(labels) = table.labels(*id) else {
                    continue;
                };
                for name in &self.labels {
                    if let Some(value) = labels.get(name) {
                        let key = (name.as_str(), value.to_owned());
                        by_value.entry(key).or_default().push(*id);
                    }
                }
            }
        })?;
        by_value.retain(|_, members| members.len() >= MIN_MEMBERS);
        let mut groups = BTreeMap::new();
        for ((name, value), members) in by_value {
            if let Some(id) = self.id(service, name, value)? {
                groups.insert(id, members);
            }
        }
        Ok(groups)
    }

    /// The id of a group, given out and written when it is new; `None` when the
    /// service has too many.
    fn id(
        &self,
        service: ServiceId,
        name: &str,
        value: String,
    ) -> Result<Option<SeriesId>, StoreError> {
        let key = (name.to_owned(), value);
        let (known, count) =
            self.with_table(service, |table| (table.get(&key).copied(), table.len()))?;
        if known.is_some() || count >= MAX_GROUPS {
            return Ok(known);
        }
        let offset = u32::try_from(count).unwrap_or(u32::MAX);
        let group = Group {
            id: SeriesId(SeriesId::FIRST_GROUP.0.saturating_add(offset)),
            name: key.0.clone(),
            value: key.1.clone(),
        };
        let row = rows::group(service, &group);
        let write = WriteGroup {
            dictionary: vec![row],
            ..WriteGroup::default()
        };
        Store::write(&*self.store, &write)?;
        self.with_table(service, |table| table.insert(key, group.id))?;
        Ok(Some(group.id))
    }
}
