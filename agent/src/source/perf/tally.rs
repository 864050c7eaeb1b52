//! Counts equal stacks of a window.
//!
//! Bounded: a stack that finds no room is counted as lost.

use rustc_hash::FxHashMap;

use crate::unwind::{End, Place};

/// Most different stacks of one window.
const MAX_STACKS: usize = 64 * 1024;
/// Most places of all different stacks of one window together.
const MAX_PLACES: usize = 1 << 20;

/// A stack as it was sampled, leaf first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sampled {
    /// Indices into the tally's places.
    pub(super) places: Box<[u32]>,
    /// Whether the root is there.
    pub(super) end: End,
}

/// Stacks of a window and how often each was seen.
#[derive(Debug, Default)]
pub(super) struct Tally {
    places: Vec<Place>,
    index: FxHashMap<Place, u32>,
    stacks: FxHashMap<Sampled, u64>,
    places_in_stacks: usize,
    /// Periods counted in `stacks`; one sample may stand for several.
    pub(super) samples: u64,
    /// Those that found no room.
    pub(super) overflowed: u64,
}

impl Tally {
    /// Counts a sample that stands for so many periods.
    pub(super) fn add(&mut self, places: impl Iterator<Item = Place>, end: End, periods: u64) {
        let places = places.map(|place| self.intern(place)).collect();
        let stack = Sampled { places, end };
        if let Some(count) = self.stacks.get_mut(&stack) {
            *count = count.saturating_add(periods);
            self.samples = self.samples.saturating_add(periods);
            return;
        }
        let more = self.places_in_stacks + stack.places.len();
        if self.stacks.len() >= MAX_STACKS || more > MAX_PLACES {
            self.overflowed = self.overflowed.saturating_add(periods);
            return;
        }
        self.places_in_stacks = more;
        self.samples = self.samples.saturating_add(periods);
        self.stacks.insert(stack, periods);
    }

    fn intern(&mut self, place: Place) -> u32 {
        if let Some(known) = self.index.get(&place) {
            return *known;
        }
        // The stack of a place that has no room is the one that loses: no
        // stack is kept when this many places are in use.
        let next = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        if self.places.len() < 2 * MAX_PLACES {
            self.places.push(place);
            self.index.insert(place, next);
        }
        next
    }

    /// Every place of the window; stacks refer to them by index.
    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }

    /// The stacks and how often each was seen.
    pub(super) fn stacks(&self) -> impl Iterator<Item = (&Sampled, u64)> {
        self.stacks.iter().map(|(stack, count)| (stack, *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(address: usize) -> Place {
        Place::Memory {
            pid: 1,
            address: u64::try_from(address).unwrap(),
        }
    }

    #[test]
    fn equal_stacks_are_counted_together() {
        let mut tally = Tally::default();
        for (addresses, end) in [
            (&[1, 2][..], End::Bottom),
            (&[1, 2], End::Bottom),
            (&[1, 2], End::Cut),
            (&[2, 1], End::Bottom),
        ] {
            tally.add(addresses.iter().copied().map(memory), end, 1);
        }
        let mut counts: Vec<u64> = tally.stacks().map(|(_, count)| count).collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 1, 2]);
        assert_eq!(tally.places().len(), 2);
        assert_eq!((tally.samples, tally.overflowed), (4, 0));
    }

    #[test]
    fn what_finds_no_room_is_counted_as_lost() {
        let mut tally = Tally::default();
        for address in 0..MAX_STACKS + 10 {
            tally.add(std::iter::once(memory(address)), End::Bottom, 1);
        }
        tally.add(std::iter::once(memory(5)), End::Bottom, 3);
        assert_eq!(tally.overflowed, 10);
        assert_eq!(tally.samples, u64::try_from(MAX_STACKS + 3).unwrap());
        assert_eq!(tally.stacks().count(), MAX_STACKS);
    }
}
