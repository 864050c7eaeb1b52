//! CPU time of one process by the kinds of its threads. Pure.
//!
//! Between two looks threads end, and others come and go unseen. The process's
//! clock knows of all of it, so what no thread explains is [`OTHER`]'s.

use std::sync::Arc;

use rustc_hash::FxHashMap;

/// Name of the frame of threads that are not told apart: they ended between two
/// looks, or there are too many.
pub const OTHER: &str = "[other threads]";

/// Most kinds of threads of one process that are told apart in a window.
const MAX_KINDS: usize = 512;

/// What was used since the last time it was settled.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    used_ns: FxHashMap<Arc<str>, u64>,
    /// CPU time of the process that no thread explains yet; less than zero
    /// where threads were read after their process.
    unexplained_ns: i64,
    /// What made no whole unit.
    rest_ns: u64,
}

fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}

impl Ledger {
    /// The process used so much.
    pub(super) fn used_by_all(&mut self, ns: u64) {
        self.unexplained_ns = self.unexplained_ns.saturating_add(signed(ns));
    }

    /// A thread of this kind used so much.
    pub(super) fn used_by(&mut self, kind: &Arc<str>, ns: u64) {
        self.unexplained_ns = self.unexplained_ns.saturating_sub(signed(ns));
        self.put(kind, ns);
    }

    fn put(&mut self, kind: &Arc<str>, ns: u64) {
        if ns == 0 {
            return;
        }
        if let Some(sum) = self.used_ns.get_mut(kind) {
            *sum = sum.saturating_add(ns);
        } else if self.used_ns.len() < MAX_KINDS {
            self.used_ns.insert(Arc::clone(kind), ns);
        } else {
            let sum = self.used_ns.entry(Arc::from(OTHER)).or_default();
            *sum = sum.saturating_add(ns);
        }
    }

    /// Every thread was read. What is unexplained by more than `precision_ns`
    /// was used by threads that nobody saw; returns how much that is.
    pub(super) fn end_look(&mut self, precision_ns: u64) -> u64 {
        if self.unexplained_ns <= signed(precision_ns) {
            return 0;
        }
        let unseen = u64::try_from(std::mem::take(&mut self.unexplained_ns)).unwrap_or(0);
        self.put(&Arc::from(OTHER), unseen);
        unseen
    }

    /// Deals everything out in units of `unit_ns`, in the order of the names;
    /// what makes no whole unit waits for the next time.
    ///
    /// `phase` decides which kind gets the unit that several have a part in,
    /// so that each gets its share in the long run.
    pub(super) fn settle(&mut self, unit_ns: u64, phase: u64) -> Vec<(Arc<str>, u64)> {
        let mut used: Vec<(Arc<str>, u64)> = self.used_ns.drain().collect();
        used.sort_unstable();
        let unit = u128::from(unit_ns.max(1));
        let sum: u128 = used.iter().map(|(_, ns)| u128::from(*ns)).sum();
        let all = sum + u128::from(self.rest_ns);
        let whole = all / unit;
        self.rest_ns = u64::try_from(all % unit).unwrap_or(0);
        let offset = (u128::from(phase) * sum) >> 64;
        let dealt_before = |part: u128| (part * whole + offset).checked_div(sum).unwrap_or(0);
        let mut part: u128 = 0;
        let mut dealt = Vec::with_capacity(used.len());
        for (kind, ns) in used {
            let before = dealt_before(part);
            part += u128::from(ns);
            let units = u64::try_from(dealt_before(part) - before).unwrap_or(u64::MAX);
            if units > 0 {
                dealt.push((kind, units));
            }
        }
        dealt
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNIT: u64 = 10_000_000;

    fn kind(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    fn settled(ledger: &mut Ledger, phase: u64) -> Vec<(String, u64)> {
        let dealt = ledger.settle(UNIT, phase);
        let dealt = dealt
            .into_iter()
            .map(|(kind, units)| (kind.to_string(), units));
        dealt.collect()
    }

    #[test]
    fn what_no_thread_explains_is_that_of_others() {
        let mut ledger = Ledger::default();
        ledger.used_by_all(10 * UNIT);
        ledger.used_by(&kind("worker"), 6 * UNIT);
        assert_eq!(ledger.end_look(0), 4 * UNIT);
        let expected = [(OTHER.to_owned(), 4), ("worker".to_owned(), 6)];
        assert_eq!(settled(&mut ledger, 0), expected);
        assert_eq!(settled(&mut ledger, 0), []);
    }

    #[test]
    fn threads_that_are_read_after_their_process_count_once() {
        let mut ledger = Ledger::default();
        ledger.used_by_all(10 * UNIT);
        ledger.used_by(&kind("worker"), 11 * UNIT);
        assert_eq!(ledger.end_look(0), 0);
        // The process's clock comes up to it; then a thread ends unseen.
        ledger.used_by_all(4 * UNIT);
        assert_eq!(ledger.end_look(0), 3 * UNIT);
    }

    #[test]
    fn what_is_below_the_precision_waits() {
        let mut ledger = Ledger::default();
        ledger.used_by_all(UNIT);
        assert_eq!(ledger.end_look(UNIT), 0);
        ledger.used_by(&kind("worker"), UNIT);
        assert_eq!(ledger.end_look(0), 0);
        assert_eq!(settled(&mut ledger, 0), [("worker".to_owned(), 1)]);
    }

    #[test]
    fn kinds_beyond_the_bound_are_others() {
        let mut ledger = Ledger::default();
        for number in 0..MAX_KINDS + 5 {
            ledger.used_by(&kind(&format!("kind {number}")), UNIT);
        }
        let dealt = settled(&mut ledger, 0);
        assert_eq!(dealt.len(), MAX_KINDS + 1);
        assert_eq!(dealt[0], (OTHER.to_owned(), 5));
    }

    proptest! {
        #[test]
        fn the_sum_is_kept_and_each_kind_gets_its_share(
            rounds in proptest::collection::vec(
                (proptest::collection::vec(0u64..50_000_000, 1..12), any::<u64>()),
                1..8,
            ),
        ) {
            let mut ledger = Ledger::default();
            let (mut used, mut dealt) = (0u64, 0u64);
            for (parts, phase) in rounds {
                let sum: u64 = parts.iter().sum();
                ledger.used_by_all(sum);
                for (number, ns) in parts.iter().enumerate() {
                    ledger.used_by(&kind(&number.to_string()), *ns);
                }
                prop_assert_eq!(ledger.end_look(0), 0);
                used += sum;
                for (kind, units) in ledger.settle(UNIT, phase) {
                    dealt += units;
                    let number: usize = kind.parse().unwrap();
                    // Its share, rounded, and a unit left from before.
                    prop_assert!((units * UNIT).abs_diff(parts[number]) < 2 * UNIT);
                }
                prop_assert!(used - dealt * UNIT < UNIT);
            }
        }
    }
}
