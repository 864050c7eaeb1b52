//! What is known of services, profile types and series, in memory.
//!
//! Filled from the store at start, extended by the writer once a group is
//! durable, read by queries. A service's series are read when first needed.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, PoisonError, RwLock};

use proto::labels::{LabelSet, Selector};
use rustc_hash::{FxHashMap, FxHashSet};

use self::index::LabelIndex;
use crate::store::{PtypeId, SeriesId, ServiceId, ServiceKey, Store, StoreError, StoredType};

mod index;

/// Series of one service.
#[derive(Debug, Default)]
pub struct SeriesTable {
    ids: FxHashMap<LabelSet, SeriesId>,
    labels: BTreeMap<SeriesId, Arc<LabelSet>>,
    index: LabelIndex,
}

impl SeriesTable {
    /// The id of a series, if it is known.
    pub fn id(&self, labels: &LabelSet) -> Option<SeriesId> {
        self.ids.get(labels).copied()
    }

    /// Labels of series `id`.
    pub fn labels(&self, id: SeriesId) -> Option<&Arc<LabelSet>> {
        self.labels.get(&id)
    }

    /// Every series, by id.
    pub fn iter(&self) -> impl Iterator<Item = (SeriesId, &Arc<LabelSet>)> {
        self.labels.iter().map(|(id, labels)| (*id, labels))
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The id of the series that comes next, above that of every series; ids count up
    /// from 1, since 0 is the whole service.
    pub fn next_id(&self) -> SeriesId {
        let last = self.labels.last_key_value();
        SeriesId(last.map_or(0, |(id, _)| id.0).saturating_add(1))
    }

    /// The series that `selector` picks, sorted.
    pub fn select(&self, selector: &Selector) -> Vec<SeriesId> {
        let all = self.labels.keys().copied();
        self.index.select(selector, all, &mut 0)
    }

    /// Names of labels, sorted.
    pub fn label_names(&self) -> impl Iterator<Item = &str> {
        self.index.names()
    }

    /// The values of label `name`, each with its series; all sorted.
    pub fn label_values(&self, name: &str) -> impl Iterator<Item = (&str, &[SeriesId])> {
        self.index.values(name)
    }

    fn insert(&mut self, id: SeriesId, labels: LabelSet) {
        if !self.labels.contains_key(&id) {
            self.index.insert(id, &labels);
        }
        self.labels.insert(id, Arc::new(labels.clone()));
        self.ids.insert(labels, id);
    }

    fn remove(&mut self, id: SeriesId) {
        if let Some(labels) = self.labels.remove(&id) {
            self.ids.remove(&*labels);
            self.index.remove(id, &labels);
        }
    }
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<ServiceKey, ServiceId>,
    names: BTreeMap<ServiceId, Arc<ServiceKey>>,
    types: Vec<(PtypeId, Arc<StoredType>)>,
    series: FxHashMap<ServiceId, SeriesTable>,
    /// Latest start of a window, in seconds since 1970.
    last_s: FxHashMap<ServiceId, u64>,
    /// Services that were deleted since the start.
    deleted: FxHashSet<ServiceId>,
}

/// The directory of one store.
#[derive(Debug)]
pub struct Directory {
    store: Arc<dyn Store>,
    state: RwLock<State>,
}

/// What a durable group added.
#[derive(Debug, Default)]
pub struct Additions {
    /// New services.
    pub services: Vec<(ServiceId, ServiceKey)>,
    /// New profile types.
    pub types: Vec<(PtypeId, StoredType)>,
    /// New series.
    pub series: Vec<(ServiceId, SeriesId, LabelSet)>,
    /// Services that got a window, with its start in seconds.
    pub windows: Vec<(ServiceId, u64)>,
}

impl Directory {
    /// Reads the directory of `store`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails or a row is damaged.
    pub fn open(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let catalog = store.catalog()?;
        let directory = Self {
            store,
            state: RwLock::default(),
        };
        directory.add(Additions {
            services: catalog.services,
            types: catalog.types,
            ..Additions::default()
        });
        Ok(directory)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what a group made durable.
    pub fn add(&self, additions: Additions) {
        let mut state = self.write();
        for (id, key) in additions.services {
            state.names.insert(id, Arc::new(key.clone()));
            state.services.insert(key, id);
        }
        for (id, stored) in additions.types {
            state.types.push((id, Arc::new(stored)));
        }
        for (service, id, labels) in additions.series {
            state.series.entry(service).or_default().insert(id, labels);
        }
        for (service, start_s) in additions.windows {
            let last = state.last_s.entry(service).or_default();
            *last = start_s.max(*last);
        }
    }

    /// Forgets a service that was deleted.
    pub fn remove(&self, service: ServiceId) {
        let mut state = self.write();
        if let Some(key) = state.names.remove(&service) {
            state.services.remove(&*key);
        }
        state.series.remove(&service);
        state.last_s.remove(&service);
        state.deleted.insert(service);
    }

    /// Forgets series of which no row is left.
    pub fn remove_series(&self, service: ServiceId, gone: &[SeriesId]) {
        if let Some(table) = self.write().series.get_mut(&service) {
            gone.iter().for_each(|id| table.remove(*id));
        }
    }

    /// Whether one of `services` was deleted since the start.
    pub fn has_deleted(&self, mut services: impl Iterator<Item = ServiceId>) -> bool {
        let state = self.read();
        !state.deleted.is_empty() && services.any(|id| state.deleted.contains(&id))
    }

    /// The id of a service, if it is known.
    pub fn service(&self, key: &ServiceKey) -> Option<ServiceId> {
        self.read().services.get(key).copied()
    }

    /// The name of a service.
    pub fn service_key(&self, id: ServiceId) -> Option<Arc<ServiceKey>> {
        self.read().names.get(&id).map(Arc::clone)
    }

    /// Services of `tenant`, by namespace and name.
    pub fn services(&self, tenant: &str) -> Vec<(ServiceId, ServiceKey)> {
        let state = self.read();
        let services = state.services.iter();
        services
            .filter(|(key, _)| key.tenant == tenant)
            .map(|(key, id)| (*id, key.clone()))
            .collect()
    }

    /// Every service with its name, of all tenants.
    pub fn all_services(&self) -> Vec<(ServiceId, Arc<ServiceKey>)> {
        let state = self.read();
        let names = state.names.iter();
        names.map(|(id, name)| (*id, Arc::clone(name))).collect()
    }

    /// Every service, of all tenants.
    pub fn service_ids(&self) -> Vec<ServiceId> {
        self.read().names.keys().copied().collect()
    }

    /// How many services there are, of all tenants.
    pub fn service_count(&self) -> usize {
        self.read().services.len()
    }

    /// The id of a profile type, if it is known.
    pub fn type_id(&self, stored: &StoredType) -> Option<PtypeId> {
        let state = self.read();
        let mut types = state.types.iter();
        types
            .find(|(_, known)| **known == *stored)
            .map(|(id, _)| *id)
    }

    /// Every profile type.
    pub fn types(&self) -> Vec<(PtypeId, Arc<StoredType>)> {
        self.read().types.clone()
    }

    /// Latest start of a window since this process began, in seconds since 1970.
    pub fn last_window_s(&self, service: ServiceId) -> Option<u64> {
        self.read().last_s.get(&service).copied()
    }

    /// Calls `look` with the series of `service`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when they must be read from the store and that fails.
    pub fn with_series<T>(
        &self,
        service: ServiceId,
        look: impl FnOnce(&SeriesTable) -> T,
    ) -> Result<T, StoreError> {
        if let Some(table) = self.read().series.get(&service) {
            return Ok(look(table));
        }
        // Read and inserted under the lock, so that a series that the writer
        // adds meanwhile cannot be missed.
        let mut state = self.write();
        let table = match state.series.entry(service) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let mut table = SeriesTable::default();
                for (id, labels) in self.store.series(service)? {
                    table.insert(id, labels);
                }
                place.insert(table)
            }
        };
        Ok(look(table))
    }
}
