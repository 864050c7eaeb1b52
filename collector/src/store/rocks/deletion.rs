//! Deleting a service whole, in two steps that a kill may part: it is doomed,
//! and then erased.
//!
//! From the moment it is doomed nothing of it is written and reading of it fails,
//! also for those who began before; so what is erased is all there is, and nobody
//! takes a half of it for the whole.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};

use rocksdb::WriteBatch;

use super::dropping::bytes_before_service;
use super::{DICTIONARY, RocksStore, after};
use crate::store::tier::Tier;
use crate::store::{Kept, ServiceId, ServiceKey, StoreError, keys, rows};

/// Everything that services have rows of.
const KEPT: [Kept; 7] = [
    Kept::Rows(Tier::Import),
    Kept::Rows(Tier::Window),
    Kept::Rows(Tier::Minute),
    Kept::Rows(Tier::Hour),
    Kept::Rows(Tier::Day),
    Kept::Features,
    Kept::Active,
];

impl RocksStore {
    /// Services that are deleted; none joins them while this is held.
    pub(super) fn deleted(&self) -> RwLockReadGuard<'_, BTreeSet<ServiceId>> {
        self.deleted.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn deleted_to_change(&self) -> RwLockWriteGuard<'_, BTreeSet<ServiceId>> {
        self.deleted.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn check_not_deleted(&self, service: ServiceId) -> Result<(), StoreError> {
        match self.deleted().contains(&service) {
            true => Err(StoreError::Deleted),
            false => Ok(()),
        }
    }

    /// Reads which services an earlier run doomed.
    pub(super) fn remember_doomed(&self) -> Result<(), StoreError> {
        let doomed = self.read_doomed()?;
        let ids = doomed.into_iter().map(|(id, _)| id);
        self.deleted_to_change().extend(ids);
        Ok(())
    }

    pub(super) fn read_doomed(&self) -> Result<Vec<(ServiceId, ServiceKey)>, StoreError> {
        let mut doomed = Vec::new();
        let dictionary = self.family(DICTIONARY)?;
        self.prefixed(&dictionary, &[rows::DOOMED_ROW], |key, value| {
            let row = rows::read_service(key, value)
                .ok_or_else(|| StoreError::damaged(key, "unreadable"))?;
            doomed.push(row);
            Ok(())
        })?;
        Ok(doomed)
    }

    pub(super) fn mark_doomed(
        &self,
        service: ServiceId,
        name: &ServiceKey,
    ) -> Result<(), StoreError> {
        // Waits for what is being written of it.
        let mut deleted = self.deleted_to_change();
        let dictionary = self.family(DICTIONARY)?;
        let given_out = self
            .get(DICTIONARY, &[rows::NEXT_SERVICE_ROW])?
            .and_then(|value| rows::read_next_service(&value));
        let next = ServiceId(service.0.saturating_add(1)).max(given_out.unwrap_or(service));
        let mut batch = WriteBatch::default();
        for (key, value) in [rows::doomed(service, name), rows::next_service(next)] {
            batch.put_cf(&dictionary, key, value);
        }
        batch.delete_cf(&dictionary, rows::service_key(service));
        self.write_batch(batch)?;
        deleted.insert(service);
        Ok(())
    }

    pub(super) fn erase_doomed(&self, service: ServiceId) -> Result<(), StoreError> {
        let mut ranges: Vec<(String, Vec<u8>)> = Vec::new();
        for kept in KEPT {
            let families = match kept {
                // Nothing drops it.
                Kept::Rows(Tier::Import) => vec![(0, keys::family(Tier::Import, 0))],
                kept => self.families_between(kept, 0, u64::MAX),
            };
            for (_, name) in families {
                let prefixes = self.prefixes_of(&name, bytes_before_service(kept), service)?;
                ranges.extend(prefixes.into_iter().map(|prefix| (name.clone(), prefix)));
            }
        }
        let dictionary = self.family(DICTIONARY)?;
        let mut batch = WriteBatch::default();
        for row in rows::ROWS_OF_SERVICES {
            let prefix = [&[row][..], &service.0.to_be_bytes()].concat();
            if let Some(end) = after(&prefix) {
                batch.delete_range_cf(&dictionary, prefix, end);
            }
        }
        self.prefixed(&dictionary, &[rows::LATE_ROW], |key, _| {
            if rows::service_of(key) == Some(service) {
                batch.delete_cf(&dictionary, key);
            }
            Ok(())
        })?;
        batch.delete_cf(&dictionary, rows::doomed_key(service));
        self.erase_ranges(batch, ranges)?;
        self.recent_to_change().remove(Some(service), 0, u64::MAX);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proto::window::UnixNanos;
    use rocksdb::IteratorMode;

    use super::*;
    use crate::store::keys::RowKey;
    use crate::store::tier::{DAY_S, range};
    use crate::store::{
        Active, KeyValue, PtypeId, SeriesId, Store, SumRequest, WindowKey, WriteGroup, WriterId,
    };

    const START_S: u64 = 20_585 * DAY_S;

    fn name(service: u32) -> ServiceKey {
        ServiceKey {
            tenant: "anonymous".to_owned(),
            namespace: String::new(),
            service: format!("s{service}"),
        }
    }

    /// Something in every family and of every kind.
    fn fill(store: &RocksStore, service: u32) {
        let id = ServiceId(service);
        let mut group = WriteGroup::default();
        group.dictionary.push(rows::service(id, &name(service)));
        let given_up = rows::GivenUp {
            service: id,
            tier: Tier::Hour,
            before_s: START_S,
            erased_s: 0,
        };
        group.dictionary.push(rows::given_up(&given_up));
        let others = rows::ROWS_OF_SERVICES.into_iter();
        for row in others.filter(|row| ![rows::SERVICE_ROW, rows::GIVEN_UP_ROW].contains(row)) {
            let key = [&[row][..], &id.0.to_be_bytes(), &[0, 0, 0, 7]].concat();
            group.dictionary.push((key, vec![row]));
        }
        for (n, ptype) in [0, 1, 255, 256, 999].into_iter().map(PtypeId).enumerate() {
            let start_s = START_S + u64::try_from(n).unwrap() * DAY_S;
            let late = rows::Late {
                minute_s: start_s,
                service: id,
                ptype,
                series: SeriesId(1),
            };
            group.dictionary.push(rows::late(&late));
            group.active.push(Active {
                service: id,
                ptype,
                day_s: start_s,
                series: SeriesId(1),
            });
            for tier in [Tier::Window, Tier::Import] {
                let key = WindowKey {
                    tier,
                    ptype,
                    service: id,
                    start_s,
                    series: SeriesId(1),
                    writer: WriterId(1),
                };
                group.windows.push((key, vec![1]));
            }
            for tier in [Tier::Minute, Tier::Hour, Tier::Day] {
                let key = RowKey {
                    tier,
                    ptype,
                    service: id,
                    series: SeriesId::WHOLE,
                    start_s,
                };
                group.rows.push((key, vec![1]));
            }
        }
        Store::write(store, &group).unwrap();
        let features: Vec<KeyValue> = [1_u8, 2, 255]
            .iter()
            .map(|kind| {
                let key = [&[*kind][..], &id.0.to_be_bytes(), &[0; 12]].concat();
                (key, vec![2])
            })
            .collect();
        let step = UnixNanos::new(i64::try_from(START_S).unwrap() * 1_000_000_000);
        store.write_features(step, &features).unwrap();
    }

    /// Every entry of every family.
    fn dump(store: &RocksStore) -> BTreeSet<(String, Vec<u8>, Vec<u8>)> {
        let mut families = store.kept_families().clone();
        families.extend([DICTIONARY, "import/0"].map(str::to_owned));
        let mut all = BTreeSet::new();
        for family in families {
            let handle = store.db.cf_handle(&family).unwrap();
            for entry in store.db.iterator_cf(&handle, IteratorMode::Start) {
                let (key, value) = entry.unwrap();
                all.insert((family.clone(), key.to_vec(), value.to_vec()));
            }
        }
        all
    }

    fn open(folder: &std::path::Path) -> RocksStore {
        RocksStore::open(folder, 8 << 20).unwrap()
    }

    #[test]
    fn nothing_of_an_erased_service_is_left_and_everything_of_others() {
        let folder = tempfile::tempdir().unwrap();
        for service in [1, 3] {
            fill(&open(folder.path()), service);
        }
        let store = open(folder.path());
        let others = dump(&store);
        fill(&store, 2);
        let all = dump(&store);
        // 11 dictionary rows, 5 late, 5 active, 10 windows, 15 sums, 3 features.
        assert_eq!(all.len() - others.len(), 11 + 5 + 5 + 10 + 15 + 3);
        store.doom(ServiceId(2), &name(2)).unwrap();
        // What comes too late is left out.
        fill(&store, 2);
        store.erase(ServiceId(2)).unwrap();
        let next = rows::next_service(ServiceId(3));
        let left: BTreeSet<_> = dump(&store)
            .into_iter()
            .filter(|(_, key, _)| *key != next.0)
            .collect();
        assert_eq!(left, others);
    }

    #[test]
    fn a_doomed_service_is_gone_for_readers_and_writers_at_once_and_after_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path());
        for service in [1, 2, 9] {
            fill(&store, service);
        }
        for service in [9, 2] {
            store.doom(ServiceId(service), &name(service)).unwrap();
        }
        for _ in 0..2 {
            fill(&store, 2);
            let catalog = store.catalog().unwrap();
            assert_eq!(catalog.services, [(ServiceId(1), name(1))]);
            assert_eq!(catalog.next_service, Some(ServiceId(10)));
            let doomed = [2, 9].map(|service| (ServiceId(service), name(service)));
            assert_eq!(store.doomed().unwrap(), doomed);
            let all = range(0, 1 << 33).unwrap();
            for tier in [Tier::Import, Tier::Window, Tier::Minute, Tier::Day] {
                let request = SumRequest {
                    tier,
                    ptype: PtypeId(1),
                    service: ServiceId(2),
                    series: None,
                    window: all,
                };
                let found = store.keys(&request, &mut |_| {});
                assert!(matches!(found, Err(StoreError::Deleted)), "{found:?}");
            }
            let found = store.active_series(PtypeId(1), ServiceId(2), all);
            assert!(matches!(found, Err(StoreError::Deleted)), "{found:?}");
            drop(store);
            store = open(folder.path());
        }
        for service in [2, 9] {
            store.erase(ServiceId(service)).unwrap();
        }
        assert_eq!(store.doomed().unwrap(), []);
        drop(store);
        let next = open(folder.path()).catalog().unwrap().next_service;
        assert_eq!(next, Some(ServiceId(10)), "an id is never given out again");
    }
}
