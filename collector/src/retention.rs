//! Drops what is older than it is kept, and measures sizes.
//!
//! Families of rows go whole. Fine rows go only when every coarser row that is
//! computed from them was: a window that comes after that is added to the
//! coarser rows by the writer.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proto::status::chain;
use proto::window::{Clock, UnixNanos};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::metrics::Metrics;
use crate::rollup::rolled::Rolled;
use crate::store::tier::{Tier, instant, range};
use crate::store::trees::Trees;
use crate::store::{Kept, Store, StoreError, SumRequest, WriteGroup, rows};

/// How often old rows are dropped and sizes measured.
const HOUSEKEEPING: Duration = Duration::from_secs(20);
/// Free bytes of the file system below which no windows are taken: the log and
/// a flush must still fit.
const LEAST_FREE_BYTES: u64 = 256 << 20;
/// Which rows go first when there are too many: the finest and oldest.
const FIRST_TO_GO: [Tier; 4] = [Tier::Window, Tier::Minute, Tier::Hour, Tier::Day];

/// How long rows are kept.
#[derive(Clone, Copy, Debug)]
pub struct Horizons {
    /// Windows, minutes of services, and feature rows.
    pub windows: Duration,
    /// Hours.
    pub hours: Duration,
    /// Days, and which series were active.
    pub days: Duration,
}

impl Horizons {
    fn of(&self, tier: Tier) -> Duration {
        match tier {
            Tier::Import => Duration::MAX,
            Tier::Window | Tier::Minute => self.windows,
            Tier::Hour => self.hours.max(self.windows),
            Tier::Day => self.days.max(self.hours).max(self.windows),
        }
    }
}

/// What was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// How many stretches of time.
    pub stretches: usize,
    /// How long the longest drop of one took.
    pub longest: Duration,
}

impl Dropped {
    fn and(self, other: Self) -> Self {
        Self {
            stretches: self.stretches.saturating_add(other.stretches),
            longest: self.longest.max(other.longest),
        }
    }
}

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
    fn keep_below(&self, store: &dyn Store, rolled: &Rolled) -> Result<Dropped, StoreError> {
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

/// Drops old rows and measures sizes until `shutdown`.
#[expect(
    clippy::too_many_arguments,
    reason = "wiring: each is a part of its own"
)]
pub async fn keep_house(
    store: Arc<dyn Store>,
    trees: Arc<Trees>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    rolled: Arc<Rolled>,
    horizons: Horizons,
    folder: Folder,
    shutdown: CancellationToken,
) {
    loop {
        let (store, trees, rolled) = (Arc::clone(&store), Arc::clone(&trees), Arc::clone(&rolled));
        let now = clock.now();
        let (folder, is_full) = (folder.clone(), Arc::clone(&folder.is_full));
        let measured = tokio::task::spawn_blocking(move || {
            let dropped = drop_old(&*store, &rolled, &horizons, now)
                .and_then(|old| Ok(old.and(folder.keep_below(&*store, &rolled)?)))
                .and_then(|dropped| {
                    if dropped.stretches > 0 {
                        remove_trees(&*store, &trees, &rolled)?;
                    }
                    Ok(dropped)
                });
            (dropped, store.usage(), trees.usage(), trees.node_count())
        })
        .await;
        match measured {
            Ok((dropped, usage, (tree_bytes, trees), nodes)) => {
                match dropped {
                    Ok(Dropped { stretches: 0, .. }) => {}
                    Ok(Dropped { stretches, longest }) => {
                        metrics.longest_drop.observe(longest);
                        info!(stretches, ?longest, "old rows dropped");
                    }
                    Err(failure) => error!(error = chain(&failure), "old rows not dropped"),
                }
                metrics.store_bytes.set(signed(usage.disk_bytes));
                let tree_bytes = u64::try_from(tree_bytes).unwrap_or(u64::MAX);
                metrics
                    .cache_bytes
                    .set(signed(usage.memory_bytes.saturating_add(tree_bytes)));
                metrics.stretches.set(count(usage.families));
                metrics.trees.set(count(trees));
                metrics.tree_nodes.set(count(nodes));
                metrics
                    .disk_full
                    .set(is_full.load(Ordering::Relaxed).into());
            }
            Err(panicked) => error!(error = %panicked, "housekeeping ended early"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(HOUSEKEEPING) => {}
        }
    }
}

/// Second before which every window starts: 32 bits of minutes are thousands of
/// years.
const MAX_TIME_S: u64 = 1 << 33;

/// Removes the trees of which no row is left in any tier. Those of services with
/// imports stay: imports are kept for ever.
///
/// # Errors
///
/// [`StoreError`] when the store fails.
pub fn remove_trees(store: &dyn Store, trees: &Trees, rolled: &Rolled) -> Result<(), StoreError> {
    let tiers = [Tier::Window, Tier::Minute, Tier::Hour, Tier::Day];
    let dropped = tiers.map(|tier| rolled.dropped(tier));
    let until_s = dropped.into_iter().min().unwrap_or(0);
    let catalog = store.catalog()?;
    let Some(always) = range(0, MAX_TIME_S) else {
        return Ok(());
    };
    for (service, _) in &catalog.services {
        let mut imports = 0_u64;
        for (ptype, _) in &catalog.types {
            let request = SumRequest {
                tier: Tier::Import,
                ptype: *ptype,
                service: *service,
                series: None,
                window: always,
            };
            store.keys(&request, &mut |_| imports += 1)?;
        }
        if imports == 0 && trees.remove_before(*service, until_s)? > 0 {
            info!(service = service.0, "old call trees removed");
        }
    }
    Ok(())
}

/// Drops every stretch of time that ended before it is to be kept.
///
/// # Errors
///
/// [`StoreError`] when the store fails.
pub fn drop_old(
    store: &dyn Store,
    rolled: &Rolled,
    horizons: &Horizons,
    now: UnixNanos,
) -> Result<Dropped, StoreError> {
    let mut dropped = Dropped::default();
    for tier in Tier::ALL {
        let horizon = now.saturating_sub(horizons.of(tier));
        dropped = dropped.and(drop_rows(store, rolled, tier, horizon)?);
    }
    let features = now.saturating_sub(horizons.windows);
    let days = now.saturating_sub(horizons.of(Tier::Day));
    Ok(dropped
        .and(drop_stretches(store, Kept::Features, features)?)
        .and(drop_stretches(store, Kept::Active, days)?))
}

/// Drops what `kept` says that ended before `time`, one stretch after the other.
fn drop_stretches(store: &dyn Store, kept: Kept, time: UnixNanos) -> Result<Dropped, StoreError> {
    let before = u64::try_from(time.seconds()).unwrap_or(0);
    let mut dropped = Dropped::default();
    for (_, end) in store.stretches(kept) {
        if end > before {
            continue;
        }
        let began = Instant::now();
        let stretches = store.drop_before(kept, instant(end))?;
        dropped = dropped.and(Dropped {
            stretches,
            longest: began.elapsed(),
        });
    }
    Ok(dropped)
}

/// Drops the families of `tier` that ended before `time` and on which no
/// coarser row depends any more.
fn drop_rows(
    store: &dyn Store,
    rolled: &Rolled,
    tier: Tier,
    time: UnixNanos,
) -> Result<Dropped, StoreError> {
    let before = u64::try_from(time.seconds()).unwrap_or(0);
    let old = store.stretches(Kept::Rows(tier));
    let Some(until) = old
        .iter()
        .map(|(_, end)| *end)
        .filter(|end| *end <= before)
        // Minutes are computed from windows.
        .filter(|end| tier != Tier::Minute || *end <= rolled.dropped(Tier::Window))
        .max()
    else {
        return Ok(Dropped::default());
    };
    // Windows and minutes go into hours, hours into days.
    let summed = match tier {
        Tier::Window | Tier::Minute => rolled.until(Tier::Hour),
        Tier::Import | Tier::Hour | Tier::Day => rolled.until(Tier::Day),
    };
    // Nothing is written meanwhile: a window is either there when its sums are
    // made, or known to have come after its family went.
    let _alone = rolled.alone();
    let waits = rolled.has_late_before(until);
    if summed < until || waits {
        return Ok(Dropped::default());
    }
    // Before the first day was summed, where days begin is known from the first
    // window alone: it is written down with what goes.
    let begun = [Tier::Hour, Tier::Day].map(|tier| rows::rolled(tier, rolled.until(tier)));
    let gone = WriteGroup {
        dictionary: begun
            .into_iter()
            .chain([rows::dropped(tier, until)])
            .collect(),
        ..WriteGroup::default()
    };
    Store::write(store, &gone)?;
    rolled.drop_before(tier, until);
    drop_stretches(store, Kept::Rows(tier), instant(until))
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rocks::RocksStore;
    use crate::store::rows::Late;
    use crate::store::tier::DAY_S;
    use crate::store::{Catalog, PtypeId, RowKey, SeriesId, ServiceId, WindowKey, WriterId};

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
}
