//! Dropping: families of a stretch of time go whole; what services have in them
//! goes by ranges of keys.

use std::collections::BTreeSet;

use proto::window::UnixNanos;

use rocksdb::{ReadOptions, WriteBatch};

use super::{RocksStore, after, family_prefix, read_error, write_error};
use crate::store::tier::Tier;
use crate::store::{Kept, ServiceId, StoreError, keys};

/// Bytes of a key before its service.
pub(super) fn bytes_before_service(kept: Kept) -> usize {
    match kept {
        Kept::Rows(_) => 2,
        Kept::Features => 1,
        Kept::Active => 0,
    }
}

impl RocksStore {
    /// Drops the families of `kept` that ended before `time`; returns how many.
    pub(super) fn drop_families(&self, kept: Kept, time: UnixNanos) -> Result<usize, StoreError> {
        let first_kept = u64::try_from(time.seconds()).unwrap_or(0);
        let mut families = self.kept_families();
        let prefix = family_prefix(kept);
        let old: Vec<String> = families
            .iter()
            .filter(|name| name.split_once('/').is_some_and(|(tier, _)| tier == prefix))
            .filter(|name| keys::span_of_family(name).is_some_and(|(_, end)| end <= first_kept))
            .cloned()
            .collect();
        for name in &old {
            self.db.drop_cf(name).map_err(write_error)?;
            families.remove(name);
            self.forget_recent(kept, None, name);
        }
        Ok(old.len())
    }

    /// Removes what `kept` says of one service in the families that ended after
    /// `from` and not after `until`.
    pub(super) fn drop_rows_of(
        &self,
        kept: Kept,
        service: ServiceId,
        from: UnixNanos,
        until: UnixNanos,
    ) -> Result<(), StoreError> {
        let second = |time: UnixNanos| u64::try_from(time.seconds()).unwrap_or(0);
        let (from_s, until_s) = (second(from), second(until));
        let mut ranges = Vec::new();
        for (_, name) in self.families_between(kept, 0, until_s) {
            let is_meant =
                keys::span_of_family(&name).is_some_and(|(_, end)| from_s < end && end <= until_s);
            if is_meant {
                let prefixes = self.prefixes_of(&name, bytes_before_service(kept), service)?;
                ranges.extend(prefixes.into_iter().map(|prefix| (name.clone(), prefix)));
            }
        }
        if ranges.is_empty() {
            return Ok(());
        }
        let families: BTreeSet<String> = ranges.iter().map(|(name, _)| name.clone()).collect();
        self.erase_ranges(WriteBatch::default(), ranges)?;
        for family in families {
            self.forget_recent(kept, Some(service), &family);
        }
        Ok(())
    }

    /// Forgets the windows of a family that go: those of `service`, or all.
    fn forget_recent(&self, kept: Kept, service: Option<ServiceId>, family: &str) {
        if kept == Kept::Rows(Tier::Window)
            && let Some((from_s, until_s)) = keys::span_of_family(family)
        {
            self.recent_to_change().remove(service, from_s, until_s);
        }
    }

    /// Writes `batch` together with the removal of everything that begins with a
    /// prefix in a family, unless the family is dropped meanwhile.
    pub(super) fn erase_ranges(
        &self,
        mut batch: WriteBatch,
        ranges: Vec<(String, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        // Held, so that no family is dropped between being named and written.
        let _families = self.kept_families();
        for (name, prefix) in ranges {
            if let Some(family) = self.db.cf_handle(&name)
                && let Some(end) = after(&prefix)
            {
                batch.delete_range_cf(&family, prefix, end);
            }
        }
        self.write_batch(batch)
    }

    /// Prefixes of `lead` bytes and `service` that keys of a family begin with,
    /// found by a few steps for each.
    pub(super) fn prefixes_of(
        &self,
        family: &str,
        lead: usize,
        service: ServiceId,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut found = Vec::new();
        let Some(family) = self.db.cf_handle(family) else {
            return Ok(found);
        };
        let service = service.0.to_be_bytes();
        let mut iterator = self.db.raw_iterator_cf_opt(&family, ReadOptions::default());
        let mut leading = vec![0; lead];
        loop {
            let prefix = [&leading[..], &service].concat();
            iterator.seek(&prefix);
            let Some(key) = iterator.key() else { break };
            let here = key.get(..lead).unwrap_or(key).to_vec();
            let next = match key.starts_with(&prefix) {
                true => {
                    found.push(prefix);
                    after(&leading)
                }
                // Nothing of it lies before the key at hand, but may lie behind it.
                false if here > leading => Some(here),
                false => after(&leading),
            };
            match next {
                Some(mut next) => {
                    next.resize(lead, 0);
                    leading = next;
                }
                None => break,
            }
        }
        iterator.status().map_err(read_error)?;
        Ok(found)
    }
}
