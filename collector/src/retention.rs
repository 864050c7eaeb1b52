//! Drops what is older than it is kept, and measures sizes.
//!
//! Families of rows go whole. Fine rows go only when every coarser row that is
//! computed from them was: a window that comes after that is added to the
//! coarser rows by the writer.

use std::sync::Arc;
use std::time::Duration;

use proto::status::chain;
use proto::window::{Clock, UnixNanos};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::metrics::Metrics;
use crate::rollup::rolled::Rolled;
use crate::store::tier::Tier;
use crate::store::trees::Trees;
use crate::store::{Kept, Store, StoreError, WriteGroup, rows};

/// How often old rows are dropped and sizes measured.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

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

/// Drops old rows and measures sizes until `shutdown`.
pub async fn keep_house(
    store: Arc<dyn Store>,
    trees: Arc<Trees>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    rolled: Arc<Rolled>,
    horizons: Horizons,
    shutdown: CancellationToken,
) {
    loop {
        let (store, trees, rolled) = (Arc::clone(&store), Arc::clone(&trees), Arc::clone(&rolled));
        let now = clock.now();
        let measured = tokio::task::spawn_blocking(move || {
            let dropped = drop_old(&*store, &rolled, &horizons, now);
            (dropped, store.usage(), trees.usage().0)
        })
        .await;
        match measured {
            Ok((dropped, usage, tree_bytes)) => {
                match dropped {
                    Ok(0) => {}
                    Ok(families) => info!(families, "old rows dropped"),
                    Err(failure) => error!(error = chain(&failure), "old rows not dropped"),
                }
                metrics.store_bytes.set(signed(usage.disk_bytes));
                let tree_bytes = u64::try_from(tree_bytes).unwrap_or(u64::MAX);
                metrics
                    .cache_bytes
                    .set(signed(usage.memory_bytes.saturating_add(tree_bytes)));
            }
            Err(panicked) => error!(error = %panicked, "housekeeping ended early"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(HOUSEKEEPING) => {}
        }
    }
}

/// Drops every family that ended before it is to be kept; returns how many.
///
/// # Errors
///
/// [`StoreError`] when the store fails.
pub fn drop_old(
    store: &dyn Store,
    rolled: &Rolled,
    horizons: &Horizons,
    now: UnixNanos,
) -> Result<usize, StoreError> {
    let mut dropped = 0;
    for tier in Tier::ALL {
        let horizon = now.saturating_sub(horizons.of(tier));
        dropped += drop_rows(store, rolled, tier, horizon)?;
    }
    let features = now.saturating_sub(horizons.windows);
    dropped += store.drop_before(Kept::Features, features)?;
    let days = now.saturating_sub(horizons.of(Tier::Day));
    Ok(dropped + store.drop_before(Kept::Active, days)?)
}

/// Drops the families of `tier` that ended before `time` and on which no
/// coarser row depends any more.
fn drop_rows(
    store: &dyn Store,
    rolled: &Rolled,
    tier: Tier,
    time: UnixNanos,
) -> Result<usize, StoreError> {
    let before = u64::try_from(time.seconds()).unwrap_or(0);
    let old = store.stretches(Kept::Rows(tier));
    let Some(until) = old
        .iter()
        .map(|(_, end)| *end)
        .filter(|end| *end <= before)
        .max()
    else {
        return Ok(0);
    };
    // Windows and minutes go into hours, hours into days.
    let summed = match tier {
        Tier::Window | Tier::Minute => rolled.until(Tier::Hour),
        Tier::Import | Tier::Hour | Tier::Day => rolled.until(Tier::Day),
    };
    // Nothing is written meanwhile: a window is either there when its sums are
    // made, or known to have come after its family went.
    let _alone = rolled.alone();
    let waits = rolled.late().keys().any(|late| late.minute_s < until);
    if summed < until || waits {
        return Ok(0);
    }
    let gone = WriteGroup {
        dictionary: vec![rows::dropped(tier, until)],
        ..WriteGroup::default()
    };
    Store::write(store, &gone)?;
    rolled.drop_before(tier, until);
    let at = i64::try_from(until.saturating_mul(1_000_000_000)).unwrap_or(i64::MAX);
    store.drop_before(Kept::Rows(tier), UnixNanos::new(at))
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
