//! Sums over ranges of time, read from the coarsest rows that tile them.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::window::Window;

use super::groups::Groups;
use super::plan::{Plan, Tile, plan};
use super::rolled::Rolled;
use super::total::Total;
use crate::store::tier::{Tier, range, seconds};
use crate::store::{PtypeId, RowKey, SeriesId, ServiceId, Store, StoreError, SumRequest};

/// Tiers with rows of services and groups, coarsest first.
const OF_SERVICES: [Tier; 3] = [Tier::Day, Tier::Hour, Tier::Minute];
/// Tiers with rows of single series.
const OF_SERIES: [Tier; 2] = [Tier::Day, Tier::Hour];

/// Which series of a service are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    All,
    /// These, sorted.
    Some(Vec<SeriesId>),
    /// Those of a group whose sums are kept.
    Group {
        /// The group.
        id: SeriesId,
        /// Its series, sorted.
        members: Vec<SeriesId>,
    },
}

impl Selection {
    /// The series that are meant; `None` means all.
    pub fn series(&self) -> Option<&[SeriesId]> {
        match self {
            Self::All => None,
            Self::Some(series) => Some(series),
            Self::Group { members, .. } => Some(members),
        }
    }
}

/// Reads sums over ranges.
#[derive(Clone, Debug)]
pub struct RangeReader {
    store: Arc<dyn Store>,
    rolled: Arc<Rolled>,
    groups: Arc<Groups>,
}

impl RangeReader {
    /// Returns what reads the sums of `store`.
    pub fn new(store: Arc<dyn Store>, rolled: Arc<Rolled>, groups: Arc<Groups>) -> Self {
        Self {
            store,
            rolled,
            groups,
        }
    }

    /// The groups whose sums are kept.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Adds a selection over `window` to `total`, whose type `ptype` is. Returns
    /// the tier whose whole rows stand for an edge of the range, when its
    /// windows are gone.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails or a row is damaged.
    pub fn add(
        &self,
        service: ServiceId,
        ptype: PtypeId,
        selection: &Selection,
        window: Window,
        total: &mut Total,
    ) -> Result<Option<Tier>, StoreError> {
        let (from, until) = seconds(window);
        let view = self.rolled.view(service);
        let tiers: &[Tier] = match selection {
            Selection::Some(_) => &OF_SERIES,
            // Where a group has no minute its windows are read: they must be there.
            Selection::Group { .. } if view.is_dropped(Tier::Window, from) => &OF_SERIES,
            Selection::All | Selection::Group { .. } => &OF_SERVICES,
        };
        let Plan { tiles, rounded_to } = plan(from, until, tiers, &view);
        let imports = Tile {
            tier: Tier::Import,
            from_s: from,
            until_s: until,
        };
        for tile in tiles.into_iter().chain([imports]) {
            match selection {
                Selection::Group { id, members } if tile.tier > Tier::Window => {
                    self.group(service, ptype, *id, members, tile, total)?;
                }
                _ => self.tile(service, ptype, selection.series(), tile, total)?,
            }
        }
        Ok(rounded_to)
    }

    /// Series of a service that have a window of one of `types` in a range. Where
    /// windows are gone, those that have one in the rows that stand for them.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails or a row is damaged.
    pub fn present(
        &self,
        service: ServiceId,
        types: &[PtypeId],
        window: Window,
    ) -> Result<BTreeSet<SeriesId>, StoreError> {
        let (from_s, until_s) = seconds(window);
        let mut present = BTreeSet::new();
        // Every window notes its series under this type, by day.
        let mut missing = self.store.active_series(PtypeId::FACTS, service, window)?;
        let view = self.rolled.view(service);
        let imports = Tile {
            tier: Tier::Import,
            from_s,
            until_s,
        };
        let tiles = plan(from_s, until_s, &OF_SERIES, &view).tiles;
        for tile in tiles.into_iter().chain([imports]) {
            let Some(window) = range(tile.from_s, tile.until_s) else {
                continue;
            };
            for ptype in types {
                if missing.is_empty() {
                    return Ok(present);
                }
                let request = SumRequest {
                    tier: tile.tier,
                    ptype: *ptype,
                    service,
                    series: Some(&missing),
                    window,
                };
                self.store.keys(&request, &mut |key| {
                    present.insert(key.series);
                })?;
                missing.retain(|series| !present.contains(series));
            }
        }
        Ok(present)
    }

    fn tile(
        &self,
        service: ServiceId,
        ptype: PtypeId,
        series: Option<&[SeriesId]>,
        tile: Tile,
        total: &mut Total,
    ) -> Result<(), StoreError> {
        let Some(window) = range(tile.from_s, tile.until_s) else {
            return Ok(());
        };
        total.add(
            &*self.store,
            &SumRequest {
                tier: tile.tier,
                ptype,
                service,
                series,
                window,
            },
        )
    }

    /// Adds the rows of a group; where it has none, those of its members.
    fn group(
        &self,
        service: ServiceId,
        ptype: PtypeId,
        id: SeriesId,
        members: &[SeriesId],
        tile: Tile,
        total: &mut Total,
    ) -> Result<(), StoreError> {
        let length = tile.tier.length_s();
        let mut start_s = tile.from_s;
        while start_s < tile.until_s {
            let row = self.store.row(&RowKey {
                tier: tile.tier,
                ptype,
                service,
                series: id,
                start_s,
            })?;
            let until_s = start_s.saturating_add(length);
            match row {
                Some(row) => total.add_row(id, start_s, &row)?,
                None => {
                    let tier = match tile.tier {
                        Tier::Minute => Tier::Window,
                        tier => tier,
                    };
                    let tile = Tile {
                        tier,
                        from_s: start_s,
                        until_s,
                    };
                    self.tile(service, ptype, Some(members), tile, total)?;
                }
            }
            start_s = until_s;
        }
        Ok(())
    }
}
