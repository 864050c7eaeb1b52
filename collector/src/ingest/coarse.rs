//! Windows whose tier was dropped: they are added to the coarser rows, in the
//! same write as the dedupe row, since those cannot be computed again.

use proto::labels::LabelSet;
use rustc_hash::FxHashMap;

use crate::rollup::groups::Groups;
use crate::rollup::rolled::{Gone, Rolled};
use crate::rollup::total::Total;
use crate::store::tier::Tier;
use crate::store::{RowKey, SeriesId, Store, StoreError, WindowKey};

/// Most rows that one write changes; each is in memory whole.
const MAX_ROWS: usize = 64;
/// Most rows of a batch that comes alone.
const MAX_ROWS_ALONE: usize = 2_048;

/// Why a window was not added.
#[derive(Debug)]
pub(super) enum CoarseError {
    /// A row could not be read.
    Store(StoreError),
    /// Too many rows, or rows that are being computed.
    Busy,
}

impl From<StoreError> for CoarseError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A row that is changed.
#[derive(Debug)]
struct Row {
    total: Total,
    is_changed: bool,
}

/// The coarser rows that a write changes.
#[derive(Debug)]
pub(super) struct Coarse {
    /// What has no rows of its own any more.
    gone: Gone,
    /// Tiers with rows for it, and before which second they are complete.
    tiers: [(Tier, u64); 3],
    rows: FxHashMap<RowKey, Row>,
    /// Rows of the batches before the present one.
    before: usize,
    /// Rows that each window of the batch is added to.
    targets: FxHashMap<WindowKey, Vec<RowKey>>,
}

impl Coarse {
    pub(super) fn new(rolled: &Rolled) -> Self {
        let tiers = [Tier::Minute, Tier::Hour, Tier::Day];
        Self {
            gone: rolled.gone(),
            tiers: tiers.map(|tier| (tier, rolled.until(tier))),
            rows: FxHashMap::default(),
            before: 0,
            targets: FxHashMap::default(),
        }
    }

    /// Whether a window's own tier is gone.
    pub(super) fn takes(&self, key: &WindowKey) -> bool {
        key.tier == Tier::Window && key.start_s < self.gone.before(key.service, Tier::Window)
    }

    /// Reads the rows that a window belongs to.
    pub(super) fn prepare(
        &mut self,
        key: &WindowKey,
        labels: &LabelSet,
        store: &dyn Store,
        groups: &Groups,
    ) -> Result<(), CoarseError> {
        let most = match self.before {
            0 => MAX_ROWS_ALONE,
            _ => MAX_ROWS,
        };
        if self.rows.len() >= most {
            return Err(CoarseError::Busy);
        }
        let groups = groups.of(key.service, labels)?;
        let mut targets = Vec::new();
        for (tier, until_s) in self.tiers {
            let start_s = tier.bucket(key.start_s);
            if start_s < self.gone.before(key.service, tier) {
                continue;
            }
            if start_s.saturating_add(tier.length_s()) > until_s {
                return Err(CoarseError::Busy);
            }
            let own = tier.has_series().then_some(key.series);
            let always = [Some(SeriesId::WHOLE), own].into_iter().flatten();
            let always = always.map(|series| (series, true));
            for (series, is_made) in always.chain(groups.iter().map(|id| (*id, false))) {
                let row = RowKey {
                    tier,
                    ptype: key.ptype,
                    service: key.service,
                    series,
                    start_s,
                };
                // A group without a row is the sum of its series.
                if self.load(row, store, is_made)? {
                    targets.push(row);
                }
            }
        }
        self.targets.insert(*key, targets);
        Ok(())
    }

    /// Reads a row; returns whether there is one now.
    fn load(&mut self, key: RowKey, store: &dyn Store, is_made: bool) -> Result<bool, StoreError> {
        if self.rows.contains_key(&key) {
            return Ok(true);
        }
        let stored = store.row(&key)?;
        if stored.is_none() && !is_made {
            return Ok(false);
        }
        let mut total = Total::empty(key.ptype);
        if let Some(stored) = stored {
            total.add_row(key.series, key.start_s, &stored)?;
        }
        let row = Row {
            total,
            is_changed: false,
        };
        self.rows.insert(key, row);
        Ok(true)
    }

    /// Adds an accepted window to its rows.
    pub(super) fn accept(&mut self, key: &WindowKey, value: &[u8]) {
        self.before = self.rows.len();
        for target in self.targets.remove(key).unwrap_or_default() {
            if let Some(row) = self.rows.get_mut(&target) {
                // The value was encoded by this very program.
                row.is_changed |= row.total.add_row(key.series, key.start_s, value).is_ok();
            }
        }
    }

    /// Forgets the windows of a batch that is refused.
    pub(super) fn refuse(&mut self) {
        self.targets.clear();
    }

    /// The changed rows.
    pub(super) fn rows(&mut self) -> Vec<(RowKey, Vec<u8>)> {
        let rows = std::mem::take(&mut self.rows).into_iter();
        rows.filter(|(_, row)| row.is_changed)
            .filter_map(|(key, mut row)| Some((key, row.total.encode(key.start_s)?)))
            .collect()
    }
}
