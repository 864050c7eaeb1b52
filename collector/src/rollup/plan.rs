//! Which rows answer a range: the coarsest that tile it. Pure.

use super::rolled::View;
use crate::store::tier::Tier;

/// Rows of one tier that start in `[from_s, until_s)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Their tier.
    pub tier: Tier,
    /// First second.
    pub from_s: u64,
    /// Second after the last.
    pub until_s: u64,
}

/// How a range is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The rows to add up, in order of time, none twice.
    pub tiles: Vec<Tile>,
    /// The windows of an edge are dropped: whole buckets of this tier that start
    /// in the range stand for it.
    pub rounded_to: Option<Tier>,
}

impl Plan {
    fn push(&mut self, tier: Tier, from_s: u64, until_s: u64) {
        match self.tiles.last_mut() {
            Some(last) if last.tier == tier && last.until_s == from_s => last.until_s = until_s,
            _ => self.tiles.push(Tile {
                tier,
                from_s,
                until_s,
            }),
        }
    }
}

/// Tiles `[from_s, until_s)` with the rows of `tiers`, coarsest first, and with
/// windows where no row is whole.
pub fn plan(from_s: u64, until_s: u64, tiers: &[Tier], view: &View) -> Plan {
    let mut plan = Plan::default();
    let mut at = from_s;
    while at < until_s {
        let fits = |tier: &&Tier| {
            let end = at.saturating_add(tier.length_s());
            at.is_multiple_of(tier.length_s()) && end <= until_s && view.is_whole(**tier, at)
        };
        if let Some(tier) = tiers.iter().find(fits) {
            let end = at.saturating_add(tier.length_s());
            plan.push(*tier, at, end);
            at = end;
            continue;
        }
        // Nothing is summed yet from here on.
        if at >= view.until(Tier::Minute) && !view.is_dropped(Tier::Window, at) {
            plan.push(Tier::Window, at, until_s);
            break;
        }
        // Up to where a row may begin.
        let finest = tiers.last().map_or(u64::MAX, |tier| tier.length_s());
        let next = (at / finest + 1).saturating_mul(finest).min(until_s);
        if !view.is_dropped(Tier::Window, at) {
            plan.push(Tier::Window, at, next);
            at = next;
            continue;
        }
        // The windows are gone. A row belongs to the range that holds its
        // start, as a window does; the finest row that is kept is the nearest.
        let kept = tiers.iter().rev().find(|tier| !view.is_dropped(**tier, at));
        let Some(tier) = kept.or(tiers.first()) else {
            break;
        };
        let length = tier.length_s();
        if at.is_multiple_of(length) {
            plan.push(*tier, at, at.saturating_add(length));
        }
        plan.rounded_to = plan.rounded_to.max(Some(*tier));
        at = (at / length + 1).saturating_mul(length);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollup::rolled::Rolled;
    use crate::store::rows::Late;
    use crate::store::tier::{DAY_S, HOUR_S};
    use crate::store::{Catalog, PtypeId, SeriesId, ServiceId};
    use proptest::prelude::*;

    const SERVICE: [Tier; 3] = [Tier::Day, Tier::Hour, Tier::Minute];
    const SERIES: [Tier; 2] = [Tier::Day, Tier::Hour];

    fn rolled(minute: u64, hour: u64, day: u64) -> Rolled {
        let rolled = Rolled::new(&Catalog::default(), 0);
        rolled.advance(Tier::Minute, minute);
        rolled.advance(Tier::Hour, hour);
        rolled.advance(Tier::Day, day);
        rolled
    }

    fn tiles(from: u64, until: u64, tiers: &[Tier], rolled: &Rolled) -> Vec<(Tier, u64, u64)> {
        let plan = plan(from, until, tiers, &rolled.view(ServiceId(1)));
        let tiles = plan.tiles.iter();
        tiles.map(|t| (t.tier, t.from_s, t.until_s)).collect()
    }

    #[test]
    fn the_coarsest_rows_tile_the_range() {
        let rolled = rolled(3 * DAY_S, 3 * DAY_S, 3 * DAY_S);
        let from = 13 * HOUR_S + 37 * 60 + 5;
        let until = 2 * DAY_S + 2 * HOUR_S;
        assert_eq!(
            tiles(from, until, &SERVICE, &rolled),
            [
                (Tier::Window, from, from + 55),
                (Tier::Minute, from + 55, 14 * HOUR_S),
                (Tier::Hour, 14 * HOUR_S, DAY_S),
                (Tier::Day, DAY_S, 2 * DAY_S),
                (Tier::Hour, 2 * DAY_S, until),
            ]
        );
        assert_eq!(
            tiles(from, until, &SERIES, &rolled)[0],
            (Tier::Window, from, 14 * HOUR_S)
        );
    }

    #[test]
    fn what_is_not_whole_is_read_from_finer_rows() {
        let rolled = rolled(HOUR_S + 600, HOUR_S, 0);
        let late = Late {
            minute_s: 120,
            service: ServiceId(1),
            ptype: PtypeId(1),
            series: SeriesId(1),
        };
        rolled.mark([], [late]);
        assert_eq!(
            tiles(0, 2 * HOUR_S, &SERVICE, &rolled),
            [
                (Tier::Minute, 0, 120),
                (Tier::Window, 120, 180),
                (Tier::Minute, 180, HOUR_S + 600),
                (Tier::Window, HOUR_S + 600, 2 * HOUR_S),
            ]
        );
        rolled.forget_late(&[late]);
        assert_eq!(
            tiles(0, HOUR_S, &SERVICE, &rolled),
            [(Tier::Hour, 0, HOUR_S)]
        );
    }

    #[test]
    fn where_windows_are_gone_whole_rows_stand_for_the_edge() {
        let rolled = rolled(3 * DAY_S, 3 * DAY_S, 3 * DAY_S);
        rolled.drop_before(Tier::Window, 3 * DAY_S);
        rolled.drop_before(Tier::Minute, 3 * DAY_S);
        let view = rolled.view(ServiceId(1));
        let made = plan(10, 3 * HOUR_S + 10, &SERVICE, &view);
        let hours = Tile {
            tier: Tier::Hour,
            from_s: HOUR_S,
            until_s: 4 * HOUR_S,
        };
        assert_eq!(made.tiles, [hours]);
        assert_eq!(made.rounded_to, Some(Tier::Hour));
    }

    proptest! {
        #[test]
        fn tiles_cover_the_range_without_overlap(
            from in 0u64..3 * DAY_S, length in 1u64..3 * DAY_S,
            minute in 0u64..5_000, late in proptest::collection::vec(0u64..4_320, 0..5),
        ) {
            let minute = minute * 60;
            let rolled = rolled(minute, Tier::Hour.bucket(minute), Tier::Day.bucket(minute));
            let late = late.into_iter().map(|minute| Late {
                minute_s: minute * 60, service: ServiceId(1), ptype: PtypeId(1), series: SeriesId(1),
            });
            rolled.mark([], late);
            for tiers in [&SERVICE[..], &SERIES[..], &[]] {
                let tiles = tiles(from, from + length, tiers, &rolled);
                let mut at = from;
                for (tier, start, end) in tiles {
                    prop_assert_eq!(start, at);
                    prop_assert!(end > start && start % tier.length_s() == 0 && end % tier.length_s() == 0);
                    at = end;
                }
                prop_assert_eq!(at, from + length);
            }
        }
    }
}
