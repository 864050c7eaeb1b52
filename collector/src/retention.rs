//! Drops what is older than it is kept, and measures sizes.
//!
//! Families of rows go whole, once no service keeps them; what single services
//! keep shorter is removed from them (`services`). Fine rows go only when every
//! coarser row that is computed from them was: a window that comes after that is
//! added to the coarser rows by the writer.

mod folder;
mod names;
mod services;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proto::status::chain;
use proto::window::{Clock, UnixNanos};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

pub use self::folder::Folder;
pub use self::names::Names;
pub use self::services::Services;
use crate::directory::Directory;
use crate::metrics::Metrics;
use crate::rollup::rolled::Rolled;
use crate::store::tier::{Tier, instant};
use crate::store::trees::Trees;
use crate::store::{Kept, ServiceKey, Store, StoreError, WriteGroup, rows};

/// How often old rows are dropped and sizes measured.
const HOUSEKEEPING: Duration = Duration::from_secs(20);

/// How long rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizons {
    /// Windows, minutes of services, and feature rows.
    pub windows: Duration,
    /// Hours.
    pub hours: Duration,
    /// Days, and which series were active.
    pub days: Duration,
}

impl Horizons {
    /// How long rows of `tier` are kept: never shorter than finer ones.
    pub fn of(&self, tier: Tier) -> Duration {
        match tier {
            Tier::Import => Duration::MAX,
            Tier::Window | Tier::Minute => self.windows,
            Tier::Hour => self.hours.max(self.windows),
            Tier::Day => self.days.max(self.hours).max(self.windows),
        }
    }

    fn or_longer(self, other: &Self) -> Self {
        Self {
            windows: self.windows.max(other.windows),
            hours: self.hours.max(other.hours),
            days: self.days.max(other.days),
        }
    }
}

/// Which services rows are kept for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// Of this namespace; `None` means any.
    pub namespace: Option<String>,
    /// Of this name; `None` means any.
    pub service: Option<String>,
    /// So long.
    pub horizons: Horizons,
}

/// How long rows of each service are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Rows of services that no override is for.
    pub others: Horizons,
    /// The first that fits a service holds for it.
    pub overrides: Vec<Override>,
}

impl Retention {
    /// How long rows of a service are kept.
    pub fn of(&self, name: &ServiceKey) -> &Horizons {
        let fits = |wanted: &Option<String>, has: &String| {
            wanted.as_ref().is_none_or(|wanted| wanted == has)
        };
        self.overrides
            .iter()
            .find(|o| fits(&o.namespace, &name.namespace) && fits(&o.service, &name.service))
            .map_or(&self.others, |found| &found.horizons)
    }

    /// The longest that rows of any service are kept.
    pub fn longest(&self) -> Horizons {
        let overrides = self.overrides.iter();
        overrides.fold(self.others, |longest, o| longest.or_longer(&o.horizons))
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
    directory: Arc<Directory>,
    retention: Retention,
    names: Names,
    folder: Folder,
    shutdown: CancellationToken,
) {
    let names = Arc::new(names);
    let horizons = retention.longest();
    let services = Arc::new(Services::new(
        retention,
        Arc::clone(&store),
        Arc::clone(&rolled),
        directory,
    ));
    loop {
        let (store, trees, rolled) = (Arc::clone(&store), Arc::clone(&trees), Arc::clone(&rolled));
        let (services, names) = (Arc::clone(&services), Arc::clone(&names));
        let now = clock.now();
        let (folder, is_full) = (folder.clone(), Arc::clone(&folder.is_full));
        let measured = tokio::task::spawn_blocking(move || {
            let dropped = drop_old(&*store, &rolled, &horizons, now)
                .and_then(|old| services.turn(now).map(|()| old))
                .and_then(|old| Ok(old.and(folder.keep_below(&*store, &rolled)?)))
                .and_then(|dropped| names.turn().map(|()| dropped));
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
