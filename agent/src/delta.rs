//! Turns counters that grow since a process started into what happened within
//! a window.
//!
//! Go's allocation, mutex and block profiles are cumulative. Subtracting in
//! the agent keeps requests short and survives a missed one. State is one
//! 16-byte key and the last values per stack, so its memory is bounded by
//! [`MAX_STACKS`]; stacks beyond are added up under one synthetic stack, which
//! keeps every total.
//!
//! Pure: no I/O, no clock.

use std::sync::Arc;

use proto::stack::{Frame, FrameKind, Stack};
use proto::window::UnixNanos;
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::Xxh3;

/// Most stacks that are followed one by one.
pub const MAX_STACKS: usize = 64 * 1024;

/// Name of the stack that holds what is beyond [`MAX_STACKS`].
const OTHER: &str = "[other stacks]";

/// Values per stack; each vector has the same length.
pub type Snapshot = Vec<(Stack, Vec<i64>)>;

/// Whether a snapshot could be compared with the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// There was none: nothing can be said yet.
    First,
    /// The same process was seen before.
    Continued,
    /// The process is a new one: its counts are all new.
    Restarted,
}

/// What changed since the last snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// What it was compared with.
    pub basis: Basis,
    /// Stacks with a value other than zero. Go's estimates may fall by a
    /// little, so a value may be negative unless the basis is a restart.
    pub changes: Snapshot,
}

#[derive(Debug)]
struct Last {
    started: UnixNanos,
    values: FxHashMap<u128, Vec<i64>>,
    totals: Vec<i128>,
}

/// Follows the counters of one process.
#[derive(Debug, Default)]
pub struct Cumulative {
    last: Option<Last>,
}

/// A name for a stack that two parses of the same frames share.
fn key(stack: &Stack) -> u128 {
    let mut hash = Xxh3::new();
    for frame in stack.iter() {
        for text in [
            &frame.function,
            &frame.system_name,
            &frame.file,
            &frame.build_id,
        ] {
            hash.update(text.as_bytes());
            // Not part of UTF-8, so two texts never run into each other.
            hash.update(&[0xff]);
        }
        hash.update(&frame.start_line.to_le_bytes());
        hash.update(&frame.line.to_le_bytes());
        hash.update(&frame.file_offset.to_le_bytes());
        hash.update(&[frame.kind.code()]);
    }
    hash.digest128()
}

/// Adds `values` to `sums`, held within 64 bits.
pub(crate) fn add_values(sums: &mut [i64], values: &[i64]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = sum.saturating_add(*value);
    }
}

/// Adds up equal stacks, in order of first appearance, at most `limit` of
/// them; the rest goes under one synthetic stack.
pub(crate) fn merge_stacks(
    samples: impl IntoIterator<Item = (Stack, Vec<i64>)>,
    limit: usize,
) -> Snapshot {
    let mut index: FxHashMap<u128, usize> = FxHashMap::default();
    let mut merged: Snapshot = Vec::new();
    let mut other: Option<(Stack, Vec<i64>)> = None;
    for (stack, values) in samples {
        let key = key(&stack);
        if let Some((_, sums)) = index.get(&key).and_then(|at| merged.get_mut(*at)) {
            add_values(sums, &values);
        } else if merged.len() < limit {
            index.insert(key, merged.len());
            merged.push((stack, values));
        } else if let Some((_, sums)) = &mut other {
            add_values(sums, &values);
        } else {
            let frame = Frame::named(FrameKind::Synthetic, OTHER);
            other = Some((Arc::from([frame]), values));
        }
    }
    merged.extend(other);
    merged
}

fn totals(snapshot: &Snapshot) -> Vec<i128> {
    let width = snapshot
        .iter()
        .map(|(_, values)| values.len())
        .max()
        .unwrap_or(0);
    let mut totals = vec![0i128; width];
    for (_, values) in snapshot {
        for (total, value) in totals.iter_mut().zip(values) {
            *total = total.saturating_add(i128::from(*value));
        }
    }
    totals
}

/// Whether a counter fell so far that another process must be counting.
///
/// Go scales its allocation counts up from samples, so totals may fall by a
/// rounding; half is far beyond any rounding, and a restart that grows past
/// half within one interval is seen by its start time.
fn fell(before: &[i128], now: &[i128]) -> bool {
    before
        .iter()
        .enumerate()
        .any(|(column, old)| now.get(column).copied().unwrap_or(0) < old / 2)
}

impl Cumulative {
    /// Returns what happened between the last snapshot and this one, taken
    /// from a process that started at `started` (zero when unknown).
    ///
    /// The first snapshot yields nothing. After a restart every count is new.
    pub fn advance(&mut self, started: UnixNanos, snapshot: Snapshot) -> Delta {
        let snapshot = merge_stacks(snapshot, MAX_STACKS);
        let totals = totals(&snapshot);
        let basis = match &self.last {
            None => Basis::First,
            Some(last) if last.started != started || fell(&last.totals, &totals) => {
                Basis::Restarted
            }
            Some(_) => Basis::Continued,
        };
        let mut before = match (basis, self.last.take()) {
            (Basis::Continued, Some(last)) => last.values,
            _ => FxHashMap::default(),
        };
        let mut values = FxHashMap::default();
        let mut changes = Vec::new();
        for (stack, now) in snapshot {
            let key = key(&stack);
            let old = before.remove(&key);
            if basis != Basis::First {
                let change = subtract(&now, old.as_deref(), basis);
                if change.iter().any(|value| *value != 0) {
                    changes.push((stack, change));
                }
            }
            values.insert(key, now);
        }
        self.last = Some(Last {
            started,
            values,
            totals,
        });
        Delta { basis, changes }
    }

    /// Forgets everything: the next snapshot is a first one.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

fn subtract(now: &[i64], old: Option<&[i64]>, basis: Basis) -> Vec<i64> {
    now.iter()
        .enumerate()
        .map(|(column, value)| {
            let before = old.and_then(|old| old.get(column)).copied().unwrap_or(0);
            let change = value.saturating_sub(before);
            match basis {
                Basis::Restarted => change.max(0),
                Basis::First | Basis::Continued => change,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stack(name: &str) -> Stack {
        Arc::from([Frame::named(FrameKind::Go, name)])
    }

    fn snapshot(values: &[(&str, i64)]) -> Snapshot {
        values
            .iter()
            .map(|(name, value)| (stack(name), vec![*value]))
            .collect()
    }

    fn check(before: &[(&str, i64)], now: &[(&str, i64)], basis: Basis, expected: &[(&str, i64)]) {
        let mut counters = Cumulative::default();
        let at = UnixNanos::new(1);
        assert_eq!(
            counters.advance(at, snapshot(before)),
            Delta {
                basis: Basis::First,
                changes: Vec::new()
            }
        );
        let delta = counters.advance(at, snapshot(now));
        assert_eq!(delta.basis, basis);
        assert_eq!(delta.changes, snapshot(expected));
    }

    #[test]
    fn a_window_holds_what_happened_in_it() {
        use Basis::{Continued, Restarted};
        check(
            &[("a", 5)],
            &[("a", 8), ("b", 2)],
            Continued,
            &[("a", 3), ("b", 2)],
        );
        check(&[("a", 5)], &[("a", 5)], Continued, &[]);
        // The same stack twice, as Go's heap has it once per object size.
        check(
            &[("a", 5), ("a", 1)],
            &[("a", 7), ("a", 2)],
            Continued,
            &[("a", 3)],
        );
        // A rounding.
        check(
            &[("a", 50), ("b", 1)],
            &[("a", 49), ("b", 3)],
            Continued,
            &[("a", -1), ("b", 2)],
        );
        // Counters began anew.
        check(&[("a", 50), ("b", 1)], &[("a", 2)], Restarted, &[("a", 2)]);
        check(&[("a", 50)], &[("a", -2)], Restarted, &[]);
    }

    #[test]
    fn a_new_start_makes_every_count_new() {
        let mut counters = Cumulative::default();
        counters.advance(UnixNanos::new(1), snapshot(&[("a", 5)]));
        let delta = counters.advance(UnixNanos::new(2), snapshot(&[("a", 9)]));
        assert_eq!(delta.basis, Basis::Restarted);
        assert_eq!(delta.changes, snapshot(&[("a", 9)]));
    }

    #[test]
    fn stacks_beyond_the_limit_keep_the_total() {
        let many = (0..10).map(|n| (stack(&n.to_string()), vec![1]));
        let merged = merge_stacks(many, 4);
        assert_eq!(merged.len(), 5);
        assert_eq!(totals(&merged), [10]);
        assert_eq!(&*merged[4].0[0].function, OTHER);
    }

    proptest! {
        #[test]
        fn deltas_add_up_to_last_minus_first(
            growth in proptest::collection::vec(proptest::collection::vec(0i64..1000, 4), 1..8),
        ) {
            let names = ["a", "b", "c", "d"];
            let mut counts = vec![0i64; names.len()];
            let mut counters = Cumulative::default();
            let mut first = None;
            let mut sums: FxHashMap<u128, i64> = FxHashMap::default();
            for step in growth {
                add_values(&mut counts, &step);
                let taken: Snapshot = names
                    .iter()
                    .zip(&counts)
                    .map(|(name, count)| (stack(name), vec![*count]))
                    .collect();
                first.get_or_insert_with(|| counts.clone());
                for (stack, change) in counters.advance(UnixNanos::new(1), taken).changes {
                    *sums.entry(key(&stack)).or_default() += change[0];
                }
            }
            let first = first.unwrap();
            for ((name, last), first) in names.iter().zip(&counts).zip(&first) {
                let sum = sums.get(&key(&stack(name))).copied().unwrap_or(0);
                prop_assert_eq!(sum, last - first);
            }
        }

        #[test]
        fn no_values_panic(before: Vec<i64>, now: Vec<i64>) {
            let mut counters = Cumulative::default();
            for values in [before, now] {
                let taken = values.into_iter().map(|v| (stack("a"), vec![v])).collect();
                let _delta = counters.advance(UnixNanos::new(0), taken);
            }
        }
    }
}
