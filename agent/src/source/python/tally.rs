//! From looks to CPU time: which stacks were seen running, and how much CPU
//! time each of them stands for. Pure.
//!
//! How often a stack was seen says what share of the process's CPU time is
//! its, and nothing of how much that is: a thread that waits for a CPU, or is
//! throttled, looks like one that runs. How much it is the kernel knows. So the
//! CPU time of a window is dealt out to the stacks that were seen in it, in
//! units of the period, and the sum of all values is what the kernel says.

use std::time::Duration;

use proto::limits::MAX_STACK_FRAMES;
use proto::stack::{Frame, FrameKind, Stack};
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::Xxh3;

use crate::source::TRUNCATED;

/// Most frames of one window, and of which nothing is forgotten after it.
const MAX_FRAMES: usize = 256 * 1024;
const MAX_KEPT_FRAMES: usize = 16 * 1024;
/// Most bytes of names of one window, and of which none is forgotten after it.
const MAX_NAME_BYTES: usize = 32 << 20;
const MAX_KEPT_NAME_BYTES: usize = 2 << 20;
/// Most different stacks of one window of one process.
const MAX_STACKS: usize = 16 * 1024;
/// Most frames of all different stacks of one window of one process together.
const MAX_FRAMES_IN_STACKS: usize = 1 << 20;
/// CPU time that waits for a look at which something runs; what is beyond is
/// lost.
const MAX_WAITING: Duration = Duration::from_secs(1);

/// A stack as it was seen, leaf first: indices into [`FrameTable`].
pub(super) type Seen = Box<[u32]>;

/// Units of CPU time by stack.
pub(super) type Units = FxHashMap<Seen, u64>;

/// One frame as the interpreter tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) kind: FrameKind,
    pub(super) function: &'a str,
    pub(super) file: &'a str,
    pub(super) line: u32,
}

/// Every frame that was seen, once.
#[derive(Debug, Default)]
pub(super) struct FrameTable {
    frames: Vec<Frame>,
    index: FxHashMap<u128, u32>,
    name_bytes: usize,
}

fn key(place: Place<'_>) -> u128 {
    let mut hash = Xxh3::new();
    for text in [place.function, place.file] {
        hash.update(text.as_bytes());
        // Not part of UTF-8, so two texts never run into each other.
        hash.update(&[0xff]);
    }
    hash.update(&place.line.to_le_bytes());
    hash.update(&[place.kind.code()]);
    hash.digest128()
}

impl FrameTable {
    fn frame(&mut self, place: Place<'_>) -> Option<u32> {
        let key = key(place);
        if let Some(id) = self.index.get(&key) {
            return Some(*id);
        }
        let bytes = self.name_bytes + place.function.len() + place.file.len();
        if self.frames.len() >= MAX_FRAMES || bytes > MAX_NAME_BYTES {
            return None;
        }
        self.name_bytes = bytes;
        let id = u32::try_from(self.frames.len()).ok()?;
        let frame = Frame::named(place.kind, place.function);
        self.frames.push(frame.at(place.file, place.line));
        self.index.insert(key, id);
        Some(id)
    }

    /// The stack of these frames, leaf first; one that is too deep says so.
    /// Nothing when there is no room for its frames.
    pub(super) fn seen<'a>(&mut self, places: impl Iterator<Item = Place<'a>>) -> Option<Seen> {
        let most = MAX_STACK_FRAMES - 1;
        let mut ids: Vec<u32> = Vec::with_capacity(64);
        for (depth, place) in places.enumerate() {
            if depth >= most {
                ids.push(self.frame(synthetic(TRUNCATED))?);
                break;
            }
            ids.push(self.frame(place)?);
        }
        Some(ids.into())
    }

    /// The frames of a stack that was seen since the last [`Self::end_round`].
    pub(super) fn stack(&self, seen: &[u32]) -> Stack {
        let frames = seen.iter().filter_map(|id| usize::try_from(*id).ok());
        frames
            .filter_map(|index| self.frames.get(index).cloned())
            .collect()
    }

    /// Forgets every frame when there are many; no stack may be in use.
    pub(super) fn end_round(&mut self) {
        if self.frames.len() > MAX_KEPT_FRAMES || self.name_bytes > MAX_KEPT_NAME_BYTES {
            *self = Self::default();
        }
    }
}

/// A frame that the profiler makes.
pub(super) fn synthetic(name: &str) -> Place<'_> {
    Place {
        kind: FrameKind::Synthetic,
        function: name,
        file: "",
        line: 0,
    }
}

/// The CPU time of one process, and what was seen running in it.
#[derive(Debug, Default)]
pub(super) struct Account {
    unsettled: Duration,
    seen: FxHashMap<Seen, u64>,
    frames_in_stacks: usize,
    lost: u64,
}

/// What an account comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Units by stack, in the order of the stacks.
    pub(super) units: Vec<(Seen, u64)>,
    /// Units that belong to no stack, and looks that found no room.
    pub(super) lost: u64,
}

impl Account {
    /// The process used so much CPU time.
    pub(super) fn used(&mut self, time: Duration) {
        self.unsettled = self.unsettled.saturating_add(time);
    }

    /// A thread was seen running this stack, at a look that stands for so many
    /// milliseconds.
    pub(super) fn see(&mut self, stack: Seen, stands_for_ms: u64) {
        if let Some(count) = self.seen.get_mut(&stack) {
            *count = count.saturating_add(stands_for_ms);
            return;
        }
        let more = self.frames_in_stacks + stack.len();
        if self.seen.len() >= MAX_STACKS || more > MAX_FRAMES_IN_STACKS {
            self.lost += 1;
            return;
        }
        self.frames_in_stacks = more;
        self.seen.insert(stack, stands_for_ms);
    }

    /// A thread ran, and its stack could not be read.
    pub(super) fn miss(&mut self) {
        self.lost += 1;
    }

    /// Deals the CPU time out to the stacks that were seen, in units of `unit`;
    /// what makes no whole unit waits for the next time. Without a stack all
    /// of it waits, but not for ever.
    ///
    /// `phase` decides which stack gets the unit that several have a part in,
    /// so that each gets its share in the long run.
    pub(super) fn settle(&mut self, unit: Duration, phase: u64) -> Settled {
        let mut settled = Settled {
            units: Vec::new(),
            lost: std::mem::take(&mut self.lost),
        };
        let units_in = |time: Duration| {
            let count = time.as_nanos().checked_div(unit.as_nanos()).unwrap_or(0);
            u64::try_from(count).unwrap_or(u64::MAX)
        };
        let seen_ms = self.seen.values().fold(0u64, |a, b| a.saturating_add(*b));
        let whole = if seen_ms == 0 {
            let lost = units_in(self.unsettled.saturating_sub(MAX_WAITING));
            settled.lost = settled.lost.saturating_add(lost);
            lost
        } else {
            units_in(self.unsettled)
        };
        let time = u128::from(whole).saturating_mul(unit.as_nanos());
        let time = Duration::from_nanos(u64::try_from(time).unwrap_or(u64::MAX));
        self.unsettled = self.unsettled.saturating_sub(time);
        let mut seen: Vec<(Seen, u64)> = self.seen.drain().collect();
        self.frames_in_stacks = 0;
        seen.sort_unstable();
        let seen_ms = u128::from(seen_ms);
        let offset = (u128::from(phase) * seen_ms) >> 64;
        let dealt_before = |sum: u128| (sum * u128::from(whole) + offset).checked_div(seen_ms);
        let mut sum: u128 = 0;
        for (stack, count) in seen {
            let before = dealt_before(sum).unwrap_or(0);
            sum += u128::from(count);
            let units = dealt_before(sum).unwrap_or(0) - before;
            if units > 0 {
                let units = u64::try_from(units).unwrap_or(u64::MAX);
                settled.units.push((stack, units));
            }
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNIT: Duration = Duration::from_millis(10);

    fn seen(id: u32) -> Seen {
        Box::from([id])
    }

    fn account(used: Duration, counts: &[u64]) -> Account {
        let mut account = Account::default();
        account.used(used);
        for (id, count) in (0..).zip(counts) {
            account.see(seen(id), 1);
            account.see(seen(id), *count - 1);
        }
        account
    }

    #[test]
    fn cpu_time_is_dealt_out_by_what_was_seen() {
        for (used_ms, counts, expected) in [
            // One core: each look stands for two units.
            (1000, &[35, 15][..], &[70, 30][..]),
            // Two threads looked as if they ran, and shared one core.
            (500, &[35, 35], &[25, 25]),
            (1000, &[1], &[100]),
            (9, &[3], &[0]),
            (0, &[3], &[0]),
        ] {
            let settled = account(Duration::from_millis(used_ms), counts).settle(UNIT, 1 << 63);
            let units = settled.units.iter().map(|(_, units)| *units);
            let expected = expected.iter().copied().filter(|units| *units > 0);
            assert!(units.eq(expected), "{used_ms} {counts:?}: {settled:?}");
            assert_eq!(settled.lost, 0);
        }
    }

    #[test]
    fn what_makes_no_unit_waits() {
        let mut account = account(Duration::from_millis(14), &[1]);
        assert_eq!(account.settle(UNIT, 0).units, [(seen(0), 1)]);
        account.used(Duration::from_millis(6));
        account.see(seen(1), 1);
        assert_eq!(account.settle(UNIT, 0).units, [(seen(1), 1)]);
    }

    #[test]
    fn time_in_which_nothing_was_seen_waits_and_is_lost_in_the_end() {
        let mut account = account(Duration::from_millis(300), &[]);
        assert_eq!(account.settle(UNIT, 0), Settled::default());
        account.used(Duration::from_millis(900));
        let settled = account.settle(UNIT, 0);
        assert_eq!((settled.units.len(), settled.lost), (0, 20));
        account.see(seen(0), 7);
        assert_eq!(account.settle(UNIT, 0).units, [(seen(0), 100)]);
    }

    #[test]
    fn looks_that_fail_or_find_no_room_are_counted() {
        let mut account = Account::default();
        account.miss();
        for id in 0..MAX_STACKS + 5 {
            account.see(seen(u32::try_from(id).unwrap()), 1);
        }
        account.see(seen(3), 1);
        assert_eq!(account.settle(UNIT, 0).lost, 6);
    }

    #[test]
    fn equal_frames_are_one_and_a_deep_stack_is_cut() {
        let place = |line| Place {
            kind: FrameKind::Python,
            function: "f",
            file: "a.py",
            line,
        };
        let mut table = FrameTable::default();
        let ids = table.seen([1, 2, 1].map(place).into_iter()).unwrap();
        assert_eq!(*ids, [0, 1, 0]);
        let stack = table.stack(&[1]);
        assert_eq!(
            stack,
            Stack::from([Frame::named(FrameKind::Python, "f").at("a.py", 2)])
        );
        let deep = table.seen(std::iter::repeat_n(place(1), 5000)).unwrap();
        let stack = table.stack(&deep);
        assert_eq!(stack.len(), MAX_STACK_FRAMES);
        assert_eq!(&*stack.last().unwrap().function, TRUNCATED);
        let whole = table.seen(std::iter::repeat_n(place(1), MAX_STACK_FRAMES - 1));
        assert_eq!(whole.unwrap().len(), MAX_STACK_FRAMES - 1);
    }

    #[test]
    fn names_beyond_the_bound_are_refused_and_then_forgotten() {
        let long = "x".repeat(MAX_NAME_BYTES);
        let place = |function| Place {
            kind: FrameKind::Python,
            function,
            file: "",
            line: 0,
        };
        let mut table = FrameTable::default();
        assert!(table.seen([place(&long)].into_iter()).is_some());
        assert_eq!(table.seen([place("y")].into_iter()), None);
        assert!(table.seen([place(&long)].into_iter()).is_some());
        table.end_round();
        assert!(table.seen([place("y")].into_iter()).is_some());
    }

    proptest! {
        #[test]
        fn the_sum_is_what_the_kernel_says(
            used_ms in 0u64..100_000,
            counts in proptest::collection::vec(1u64..200, 1..20),
            phase in any::<u64>(),
        ) {
            let mut account = account(Duration::from_millis(used_ms), &counts);
            let settled = account.settle(UNIT, phase);
            let dealt: u64 = settled.units.iter().map(|(_, units)| units).sum();
            prop_assert_eq!(dealt, used_ms / 10);
            prop_assert_eq!(account.unsettled, Duration::from_millis(used_ms % 10));
            let looks: u64 = counts.iter().sum();
            for (stack, units) in &settled.units {
                let count = counts[usize::try_from(stack[0]).unwrap()];
                // Each gets its share, rounded one way or the other.
                prop_assert!((units * looks).abs_diff(dealt * count) < looks);
            }
        }
    }
}
