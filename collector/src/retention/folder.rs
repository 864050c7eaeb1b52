//! The ceiling of the folder's size: what goes first when there is too much, and
//! when windows must wait.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{info, warn};

use super::{Dropped, drop_rows, drop_stretches};
use crate::rollup::rolled::Rolled;
use crate::store::tier::{Tier, instant};
use crate::store::{Kept, Store, StoreError};

/// Free bytes of the file system below which no windows are taken: the log and
/// a flush must still fit.
const LEAST_FREE_BYTES: u64 = 256 << 20;
/// Which rows go first when there are too many: the finest and oldest.
const FIRST_TO_GO: [Tier; 4] = [Tier::Window, Tier::Minute, Tier::Hour, Tier::Day];

/// The folder of the store.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// What it may take; 0 means what the disk has.
    pub max_bytes: u64,
    /// Set while no windows may be added.
    pub is_full: Arc<AtomicBool>,
}

impl Folder {
    /// Bytes that its files take.
    fn bytes(&self) -> u64 {
        let Ok(files) = std::fs::read_dir(&self.path) else {
            return 0;
        };
        let sizes = files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len()));
        sizes.fold(0, u64::saturating_add)
    }

    /// Free bytes of its file system; everything when that cannot be read.
    fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.path)
            .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Drops the oldest rows while the folder is too large, and says whether
    /// windows may be added.
    pub(super) fn keep_below(
        &self,
        store: &dyn Store,
        rolled: &Rolled,
    ) -> Result<Dropped, StoreError> {
        // One stretch at a time: what its files give back shows only later.
        let dropped = match self.max_bytes > 0 && self.bytes() > self.max_bytes {
            true => drop_oldest(store, rolled)?,
            false => Dropped::default(),
        };
        let is_over = self.max_bytes > 0 && self.bytes() > self.max_bytes;
        let is_full = is_over || self.free_bytes() < LEAST_FREE_BYTES;
        if is_full != self.is_full.swap(is_full, Ordering::Relaxed) {
            match is_full {
                true => warn!(path = ?self.path, "disk full: agents are told to wait"),
                false => info!(path = ?self.path, "disk has room again"),
            }
        }
        Ok(dropped)
    }
}

/// Drops the oldest stretch of the finest rows that may go.
fn drop_oldest(store: &dyn Store, rolled: &Rolled) -> Result<Dropped, StoreError> {
    for tier in FIRST_TO_GO {
        let stretches = store.stretches(Kept::Rows(tier));
        // The newest is being written.
        if let [(_, end), _, ..] = stretches[..] {
            let time = instant(end);
            let dropped = drop_rows(store, rolled, tier, time)?;
            let features = match tier {
                Tier::Window if dropped.stretches > 0 => {
                    drop_stretches(store, Kept::Features, time)?
                }
                _ => Dropped::default(),
            };
            // Finer rows that must wait are no reason to drop coarser ones.
            return Ok(dropped.and(features));
        }
    }
    Ok(Dropped::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rocks::RocksStore;
    use crate::store::rows::Late;
    use crate::store::tier::DAY_S;
    use crate::store::{
        Catalog, PtypeId, RowKey, SeriesId, ServiceId, WindowKey, WriteGroup, WriterId,
    };

    const FIRST_S: u64 = 20_600 * DAY_S;

    /// A window, a minute and an hour on each of three days.
    fn fill(store: &dyn Store) {
        let mut group = WriteGroup::default();
        for day in 0..3 {
            let start_s = FIRST_S + day * DAY_S;
            let key = WindowKey {
                tier: Tier::Window,
                ptype: PtypeId(1),
                service: ServiceId(1),
                start_s,
                series: SeriesId(1),
                writer: WriterId(1),
            };
            group.windows.push((key, vec![1]));
            for tier in [Tier::Minute, Tier::Hour] {
                let key = RowKey {
                    tier,
                    ptype: PtypeId(1),
                    service: ServiceId(1),
                    series: SeriesId::WHOLE,
                    start_s,
                };
                group.rows.push((key, vec![1]));
            }
        }
        Store::write(store, &group).unwrap();
    }

    fn days(store: &dyn Store, tier: Tier) -> usize {
        store.stretches(Kept::Rows(tier)).len()
    }

    #[test]
    fn the_oldest_and_finest_goes_first_and_one_stretch_at_a_time() {
        let data = tempfile::tempdir().unwrap();
        let store = RocksStore::open(data.path(), 8 << 20).unwrap();
        fill(&store);
        let rolled = Rolled::new(&Catalog::default(), FIRST_S);
        let folder = Folder {
            path: data.path().to_owned(),
            max_bytes: 1,
            is_full: Arc::default(),
        };
        let left = |store: &dyn Store| (days(store, Tier::Window), days(store, Tier::Minute));
        // Nothing is summed up: nothing may go, and windows must wait.
        assert_eq!(
            folder.keep_below(&store, &rolled).unwrap(),
            Dropped::default()
        );
        assert_eq!(left(&store), (3, 3));
        assert!(folder.is_full.load(Ordering::Relaxed));
        for tier in [Tier::Minute, Tier::Hour, Tier::Day] {
            rolled.advance(tier, FIRST_S + 3 * DAY_S);
        }
        // A late window keeps its day, and all that is coarser.
        let late = Late {
            minute_s: FIRST_S,
            service: ServiceId(1),
            ptype: PtypeId(1),
            series: SeriesId(1),
        };
        rolled.mark([], [late]);
        assert_eq!(
            folder.keep_below(&store, &rolled).unwrap(),
            Dropped::default()
        );
        rolled.forget_late(&[late]);
        for (expected, stretches) in [
            ((2, 3), 1),
            ((1, 3), 1),
            ((1, 2), 1),
            ((1, 1), 1),
            ((1, 1), 0),
        ] {
            let dropped = folder.keep_below(&store, &rolled).unwrap();
            assert_eq!(dropped.stretches, stretches);
            assert_eq!(dropped.longest.is_zero(), stretches == 0);
            assert_eq!(left(&store), expected);
        }
        assert_eq!(rolled.dropped(Tier::Window), FIRST_S + 2 * DAY_S);
        let roomy = Folder {
            max_bytes: 0,
            ..folder
        };
        roomy.keep_below(&store, &rolled).unwrap();
        assert!(!roomy.is_full.load(Ordering::Relaxed));
    }

    #[test]
    fn a_day_that_was_not_summed_when_its_windows_went_is_summed_after_a_restart() {
        let data = tempfile::tempdir().unwrap();
        let store = RocksStore::open(data.path(), 8 << 20).unwrap();
        fill(&store);
        let now = instant(FIRST_S + 3 * DAY_S);
        let rolled = Rolled::open(&store, now).unwrap();
        // Its last hour was summed just now.
        rolled.advance(Tier::Minute, FIRST_S + DAY_S);
        rolled.advance(Tier::Hour, FIRST_S + DAY_S);
        let dropped = drop_rows(&store, &rolled, Tier::Window, instant(FIRST_S + DAY_S));
        assert_eq!(dropped.unwrap().stretches, 1);
        let again = Rolled::open(&store, now).unwrap();
        assert_eq!(again.until(Tier::Hour), FIRST_S + DAY_S);
        assert_eq!(again.until(Tier::Day), FIRST_S);
    }
}
