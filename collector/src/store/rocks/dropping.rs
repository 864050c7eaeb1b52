//! Dropping: families of a stretch of time go whole.

use proto::window::UnixNanos;

use super::{RocksStore, family_prefix, write_error};
use crate::store::{Kept, StoreError, keys};

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
        }
        Ok(old.len())
    }
}
