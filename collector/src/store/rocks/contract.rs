//! What other parts of the program may ask of the engine: [`Store`] and
//! [`StateStore`].

use std::path::Path;

use proto::labels::LabelSet;
use proto::profile::Facts;
use proto::window::{UnixNanos, Window};
use rocksdb::WriteBatch;

use super::{DICTIONARY, Family, RocksStore, STATE, after, write_error};
use crate::store::keys::{self, RowKey};
use crate::store::rows::EpochRow;
use crate::store::segment::RangeSum;
use crate::store::tier::{Tier, seconds};
use crate::store::tree::ServiceTree;
use crate::store::{
    Catalog, Change, Kept, KeyValue, PtypeId, SeriesId, ServiceId, ServiceKey, StateStore, Store,
    StoreError, SumRequest, TreeId, Usage, ValueVisitor, WindowKey, WriteGroup, rows,
};

impl StateStore for RocksStore {
    fn scan(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let mut out = Vec::new();
        self.prefixed(&self.family(STATE)?, prefix, |key, value| {
            out.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(out)
    }

    fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.write_state(changes)
    }
}

impl Store for RocksStore {
    fn write(&self, group: &WriteGroup) -> Result<(), StoreError> {
        self.write_group(group)
    }

    fn window(&self, key: &WindowKey) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(known) = self.recent().window(key) {
            return Ok(known);
        }
        self.get(
            &keys::family(key.tier, key.start_s),
            &keys::encode_window(key),
        )
    }

    fn row(&self, key: &RowKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(&keys::family(key.tier, key.start_s), &keys::encode_row(key))
    }

    fn sum(&self, request: &SumRequest<'_>, sum: &mut RangeSum) -> Result<(), StoreError> {
        self.rows_of(request, |key, value| {
            if sum.is_cancelled() {
                return Err(StoreError::Cancelled);
            }
            sum.add(key.series, key.start_s, value)
                .map_err(|problem| StoreError::damaged(&keys::encode(key), problem))
        })
    }

    fn facts(
        &self,
        request: &SumRequest<'_>,
        visit: &mut dyn FnMut(&WindowKey, u64, &Facts),
    ) -> Result<(), StoreError> {
        let request = SumRequest {
            ptype: PtypeId::FACTS,
            ..request.clone()
        };
        self.rows_of(&request, |key, value| {
            let (span_ns, facts) = rows::read_facts(value)
                .ok_or_else(|| StoreError::damaged(&keys::encode(key), "unreadable facts"))?;
            visit(key, span_ns, &facts);
            Ok(())
        })
    }

    fn values(
        &self,
        request: &SumRequest<'_>,
        visit: &mut ValueVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.rows_of(request, |key, value| {
            visit(key, value).map_err(|problem| StoreError::damaged(&keys::encode(key), problem))
        })
    }

    fn keys(
        &self,
        request: &SumRequest<'_>,
        visit: &mut dyn FnMut(&WindowKey),
    ) -> Result<(), StoreError> {
        self.rows_of(request, |key, _| {
            visit(key);
            Ok(())
        })
    }

    fn active_series(
        &self,
        ptype: PtypeId,
        service: ServiceId,
        window: Window,
    ) -> Result<Vec<SeriesId>, StoreError> {
        let (from, until) = seconds(window);
        let mut series = Vec::new();
        if from >= until {
            return Ok(series);
        }
        let from = Tier::Day.bucket(from);
        for (start, name) in self.families_between(Kept::Active, from, until) {
            let Some(family) = self.db.cf_handle(&name) else {
                continue;
            };
            let first = from.max(start);
            let last = until.min(start.saturating_add(keys::ACTIVE_FAMILY_S)) - 1;
            let end = after(&keys::active_prefix(service, ptype, last));
            self.entries(
                &family,
                &keys::active_prefix(service, ptype, first),
                end,
                |key, _| {
                    let id = keys::series_of_active(key)
                        .ok_or_else(|| StoreError::damaged(key, "not an activity's key"))?;
                    if series.last() != Some(&id) {
                        series.push(id);
                    }
                    Ok(())
                },
            )?;
        }
        self.check_not_deleted(service)?;
        series.sort_unstable();
        series.dedup();
        Ok(series)
    }

    fn groups(&self, service: ServiceId) -> Result<Vec<rows::Group>, StoreError> {
        let mut out = Vec::new();
        let prefix = rows::group_prefix(service);
        self.prefixed(&self.family(DICTIONARY)?, &prefix, |key, value| {
            let row = rows::read_group(key, value)
                .ok_or_else(|| StoreError::damaged(key, "unreadable"))?;
            out.push(row);
            Ok(())
        })?;
        self.check_not_deleted(service)?;
        Ok(out)
    }

    fn catalog(&self) -> Result<Catalog, StoreError> {
        let dictionary = self.family(DICTIONARY)?;
        let mut catalog = Catalog::default();
        let damaged = |key: &[u8]| StoreError::damaged(key, "unreadable");
        self.prefixed(&dictionary, &[rows::SERVICE_ROW], |key, value| {
            let row = rows::read_service(key, value).ok_or_else(|| damaged(key))?;
            catalog.services.push(row);
            Ok(())
        })?;
        self.prefixed(&dictionary, &[rows::TYPE_ROW], |key, value| {
            let row = rows::read_profile_type(key, value).ok_or_else(|| damaged(key))?;
            catalog.types.push(row);
            Ok(())
        })?;
        self.prefixed(&dictionary, &[rows::WRITER_ROW], |key, value| {
            let row = rows::read_writer(key, value).ok_or_else(|| damaged(key))?;
            catalog.writers.push(row);
            Ok(())
        })?;
        self.prefixed(&dictionary, &[rows::ROLLED_ROW], |key, value| {
            let row = rows::read_tier_row(key, value).ok_or_else(|| damaged(key))?;
            catalog.rolled.push(row);
            Ok(())
        })?;
        self.prefixed(&dictionary, &[rows::DROPPED_ROW], |key, value| {
            let row = rows::read_tier_row(key, value).ok_or_else(|| damaged(key))?;
            catalog.dropped.push(row);
            Ok(())
        })?;
        self.prefixed(&dictionary, &[rows::GIVEN_UP_ROW], |key, value| {
            let row = rows::read_given_up(key, value).ok_or_else(|| damaged(key))?;
            catalog.given_up.push(row);
            Ok(())
        })?;
        self.prefixed(&dictionary, &[rows::LATE_ROW], |key, _| {
            let row = rows::read_late(key).ok_or_else(|| damaged(key))?;
            catalog.late.push(row);
            Ok(())
        })?;
        if let Some(value) = self.get(DICTIONARY, &[rows::NEXT_SERVICE_ROW])? {
            let next = rows::read_next_service(&value);
            catalog.next_service = Some(next.ok_or_else(|| damaged(&[rows::NEXT_SERVICE_ROW]))?);
        }
        Ok(catalog)
    }

    fn series(&self, service: ServiceId) -> Result<Vec<(SeriesId, LabelSet)>, StoreError> {
        let mut out = Vec::new();
        let prefix = rows::series_prefix(service);
        self.prefixed(&self.family(DICTIONARY)?, &prefix, |key, value| {
            let row = rows::read_series(key, value)
                .ok_or_else(|| StoreError::damaged(key, "unreadable"))?;
            out.push(row);
            Ok(())
        })?;
        self.check_not_deleted(service)?;
        Ok(out)
    }

    fn epochs(&self, service: ServiceId) -> Result<Vec<EpochRow>, StoreError> {
        let mut out = Vec::new();
        let prefix = rows::epoch_prefix(service);
        self.prefixed(&self.family(DICTIONARY)?, &prefix, |key, value| {
            let row = rows::read_epoch(key, value)
                .ok_or_else(|| StoreError::damaged(key, "unreadable"))?;
            out.push(row);
            Ok(())
        })?;
        Ok(out)
    }

    fn forget_tree(&self, TreeId { service, epoch }: TreeId) -> Result<(), StoreError> {
        let dictionary = self.family(DICTIONARY)?;
        let mut batch = WriteBatch::default();
        for row in rows::RUNS {
            let prefix = rows::run_prefix(row, service, epoch);
            if let Some(end) = after(&prefix) {
                batch.delete_range_cf(&dictionary, prefix, end);
            }
        }
        batch.delete_cf(&dictionary, rows::epoch_key(service, epoch));
        self.write_batch(batch)
    }

    fn tree(&self, TreeId { service, epoch }: TreeId) -> Result<ServiceTree, StoreError> {
        let dictionary = self.family(DICTIONARY)?;
        let mut tree = ServiceTree::new(service, epoch);
        for row in rows::RUNS {
            let prefix = rows::run_prefix(row, service, epoch);
            self.prefixed(&dictionary, &prefix, |key, value| {
                tree.load_run(key, value)
                    .map_err(|problem| StoreError::damaged(key, problem))
            })?;
        }
        tree.loaded();
        self.check_not_deleted(service)?;
        Ok(tree)
    }

    fn drop_before(&self, kept: Kept, time: UnixNanos) -> Result<usize, StoreError> {
        self.drop_families(kept, time)
    }

    fn stretches(&self, kept: Kept) -> Vec<(u64, u64)> {
        self.families_between(kept, 0, u64::MAX)
            .iter()
            .filter_map(|(_, name)| keys::span_of_family(name))
            .collect()
    }

    fn write_features(&self, step: UnixNanos, rows: &[KeyValue]) -> Result<(), StoreError> {
        self.put_features(step, rows)
    }

    fn features(&self, window: Window, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let (from, until) = seconds(window);
        let mut out = Vec::new();
        for (_, name) in self.families_between(Kept::Features, from, until) {
            if let Some(family) = self.db.cf_handle(&name) {
                self.prefixed(&family, prefix, |key, value| {
                    out.push((key.to_vec(), value.to_vec()));
                    Ok(())
                })?;
            }
        }
        Ok(out)
    }

    fn compact(&self) -> Result<(), StoreError> {
        let kept = self.kept_families().clone();
        let fixed = [DICTIONARY, STATE].map(str::to_owned);
        for name in kept.into_iter().chain(fixed) {
            if let Some(family) = self.db.cf_handle(&name) {
                self.db.flush_cf(&family).map_err(write_error)?;
                self.db
                    .compact_range_cf(&family, None::<&[u8]>, None::<&[u8]>);
            }
        }
        Ok(())
    }

    fn drop_of(
        &self,
        kept: Kept,
        service: ServiceId,
        from: UnixNanos,
        until: UnixNanos,
    ) -> Result<(), StoreError> {
        self.drop_rows_of(kept, service, from, until)
    }

    fn doom(&self, service: ServiceId, name: &ServiceKey) -> Result<(), StoreError> {
        self.mark_doomed(service, name)
    }

    fn doomed(&self) -> Result<Vec<(ServiceId, ServiceKey)>, StoreError> {
        self.read_doomed()
    }

    fn erase(&self, service: ServiceId) -> Result<(), StoreError> {
        self.erase_doomed(service)
    }

    fn backup(&self, folder: &Path) -> Result<(), StoreError> {
        self.checkpoint(folder)
    }

    fn usage(&self) -> Usage {
        let property = |family: &Family<'_>, name: &str| {
            let value = self.db.property_int_value_cf(family, name);
            value.ok().flatten().unwrap_or(0)
        };
        let mut usage = Usage {
            memory_bytes: u64::try_from(self.cache.get_usage()).unwrap_or(u64::MAX),
            ..Usage::default()
        };
        let kept = self.kept_families().clone();
        usage.families = kept.len();
        let fixed = [DICTIONARY, STATE].map(str::to_owned);
        for name in kept.into_iter().chain(fixed) {
            if let Some(family) = self.db.cf_handle(&name) {
                usage.disk_bytes += property(&family, "rocksdb.total-sst-files-size");
                usage.memory_bytes += property(&family, "rocksdb.cur-size-all-mem-tables");
            }
        }
        usage
    }
}
