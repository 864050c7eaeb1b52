//! Removes what nothing refers to any more: names of series and services without a
//! row in any tier, and call trees of a time of which every row was dropped.
//!
//! Services with imports keep all of it, since imports are kept for ever.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::info;

use crate::deletion::Deletion;
use crate::directory::Directory;
use crate::rollup::rolled::Rolled;
use crate::store::tier::{Tier, range};
use crate::store::trees::Trees;
use crate::store::{PtypeId, SeriesId, ServiceId, Store, StoreError, SumRequest, WriteGroup, rows};

/// Second before which every window starts: 32 bits of minutes are thousands of
/// years.
const MAX_TIME_S: u64 = 1 << 33;

/// Removes names and trees; call it after rows were dropped.
#[derive(Debug)]
pub struct Names {
    store: Arc<dyn Store>,
    trees: Arc<Trees>,
    directory: Arc<Directory>,
    rolled: Arc<Rolled>,
    deletion: Arc<Deletion>,
    /// Second before which all was gone when names were last gone through.
    done_s: AtomicU64,
}

impl Names {
    /// Returns what keeps the dictionary of `store` as small as its rows allow.
    pub fn new(
        store: Arc<dyn Store>,
        trees: Arc<Trees>,
        directory: Arc<Directory>,
        rolled: Arc<Rolled>,
        deletion: Arc<Deletion>,
    ) -> Self {
        Self {
            store,
            trees,
            directory,
            rolled,
            deletion,
            done_s: AtomicU64::new(0),
        }
    }

    /// Removes what nothing refers to by now.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails; the rest goes another time.
    pub fn turn(&self) -> Result<(), StoreError> {
        let tiers = [Tier::Window, Tier::Minute, Tier::Hour, Tier::Day];
        let dropped = tiers.map(|tier| self.rolled.dropped(tier));
        let until_s = dropped.into_iter().min().unwrap_or(0);
        // Only when more is gone, names can have lost their last row.
        if until_s <= self.done_s.load(Ordering::Relaxed) {
            return Ok(());
        }
        for service in self.directory.service_ids() {
            match self.service(service, until_s) {
                // Somebody was quicker.
                Ok(()) | Err(StoreError::Deleted) => {}
                Err(failure) => return Err(failure),
            }
        }
        self.done_s.store(until_s, Ordering::Relaxed);
        Ok(())
    }

    fn service(&self, service: ServiceId, until_s: u64) -> Result<(), StoreError> {
        if self.has_imports(service)? {
            return Ok(());
        }
        let unused = self.unused(service, until_s)?;
        let is_whole = |unused: &[SeriesId]| {
            let count = self.directory.with_series(service, |table| table.len());
            count.map(|count| unused.len() == count)
        };
        if is_whole(&unused)? {
            let may_go = || {
                Ok(self.may_still_go(service, until_s, &unused)? == unused && is_whole(&unused)?)
            };
            if self.deletion.delete_if(service, may_go)? {
                info!(service = service.0, "a service without rows removed");
            }
            return Ok(());
        }
        if !unused.is_empty() {
            self.forget_series(service, until_s, &unused)?;
        }
        if self.trees.remove_before(service, until_s)? > 0 {
            info!(service = service.0, "old call trees removed");
        }
        Ok(())
    }

    fn forget_series(
        &self,
        service: ServiceId,
        until_s: u64,
        unused: &[SeriesId],
    ) -> Result<(), StoreError> {
        // A window that comes now finds its series, or names it anew.
        let _alone = self.rolled.alone();
        let unused = self.may_still_go(service, until_s, unused)?;
        let keys = unused.iter().map(|id| rows::series_key(service, *id));
        let group = WriteGroup {
            forget: keys.collect(),
            ..WriteGroup::default()
        };
        Store::write(&*self.store, &group)?;
        self.directory.remove_series(service, &unused);
        info!(
            service = service.0,
            series = unused.len(),
            "series without rows removed"
        );
        Ok(())
    }

    /// Those of `unused` that got no window meanwhile; none where there are imports by
    /// now. To be asked while nothing is being written, so it looks at the facts alone,
    /// which every window has.
    fn may_still_go(
        &self,
        service: ServiceId,
        until_s: u64,
        unused: &[SeriesId],
    ) -> Result<Vec<SeriesId>, StoreError> {
        let Some(kept) = range(until_s, MAX_TIME_S) else {
            return Ok(Vec::new());
        };
        if self.has_imports(service)? {
            return Ok(Vec::new());
        }
        let active = self.store.active_series(PtypeId::FACTS, service, kept)?;
        let unused = unused.iter().copied();
        Ok(unused
            .filter(|id| active.binary_search(id).is_err())
            .collect())
    }

    /// Series of which no row is left when all before `until_s` were dropped.
    fn unused(&self, service: ServiceId, until_s: u64) -> Result<Vec<SeriesId>, StoreError> {
        let Some(kept) = range(until_s, MAX_TIME_S) else {
            return Ok(Vec::new());
        };
        let types = self.directory.types().into_iter().map(|(id, _)| id);
        let mut active = BTreeSet::new();
        for ptype in types.chain([PtypeId::FACTS]) {
            active.extend(self.store.active_series(ptype, service, kept)?);
        }
        self.directory.with_series(service, |table| {
            let ids = table.iter().map(|(id, _)| id);
            ids.filter(|id| !active.contains(id)).collect()
        })
    }

    fn has_imports(&self, service: ServiceId) -> Result<bool, StoreError> {
        let Some(always) = range(0, MAX_TIME_S) else {
            return Ok(false);
        };
        let mut imports = 0_u64;
        for (ptype, _) in self.directory.types() {
            let request = SumRequest {
                tier: Tier::Import,
                ptype,
                service,
                series: None,
                window: always,
            };
            self.store.keys(&request, &mut |_| imports += 1)?;
        }
        Ok(imports > 0)
    }
}
