//! CPU time of a set of processes, from the kernel's accounting, without
//! counting any of it twice.
//!
//! A process' own time is followed while it lives. What a child used between
//! the last look and its end, and children that were never seen, show up in
//! the parent's "children" time when the parent collects them; of that, the
//! part already followed is a debt that is paid off first.

use rustc_hash::FxHashMap;

use super::process::Reading;

/// Scans after which a debt that was not called in is dropped: the parent
/// ignores its children's ends.
const DEBT_SCANS: u32 = 2;

#[derive(Clone, Copy, Debug)]
struct Seen {
    parent: i32,
    own_ticks: u64,
    children_ticks: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Debt {
    ticks: u64,
    age_scans: u32,
}

/// Adds up the CPU time of processes that come and go.
#[derive(Debug, Default)]
pub(super) struct CpuAccount {
    seen: FxHashMap<i32, Seen>,
    debts: FxHashMap<i32, Debt>,
    ticks: u64,
}

impl CpuAccount {
    /// Begins to follow `pid`. What it used before counts only if it was
    /// `born` since the last scan.
    pub(super) fn enter(&mut self, pid: i32, reading: &Reading, born: bool) {
        if born {
            self.ticks = self.ticks.saturating_add(reading.own_ticks);
        }
        self.seen.insert(pid, Seen::from(reading));
    }

    /// Stops following `pid`, which is gone.
    pub(super) fn leave(&mut self, pid: i32) {
        self.debts.remove(&pid);
        let Some(last) = self.seen.remove(&pid) else {
            return;
        };
        if self.seen.contains_key(&last.parent) {
            let debt = self.debts.entry(last.parent).or_default();
            debt.ticks = debt
                .ticks
                .saturating_add(last.own_ticks)
                .saturating_add(last.children_ticks);
            debt.age_scans = 0;
        }
    }

    /// Counts what `pid` used since the last look. All processes that are gone
    /// must have left before.
    pub(super) fn look(&mut self, pid: i32, reading: &Reading) {
        let Some(last) = self.seen.insert(pid, Seen::from(reading)) else {
            return;
        };
        let own = reading.own_ticks.saturating_sub(last.own_ticks);
        let collected = reading.children_ticks.saturating_sub(last.children_ticks);
        let known = self.debts.get_mut(&pid).map_or(0, |debt| {
            let paid = debt.ticks.min(collected);
            debt.ticks -= paid;
            paid
        });
        self.ticks = self
            .ticks
            .saturating_add(own)
            .saturating_add(collected - known);
    }

    /// Ends a scan.
    pub(super) fn end_scan(&mut self) {
        self.debts.retain(|_, debt| {
            debt.age_scans += 1;
            debt.ticks > 0 && debt.age_scans <= DEBT_SCANS
        });
    }

    /// Returns the ticks counted since the last call.
    pub(super) fn take(&mut self) -> u64 {
        std::mem::take(&mut self.ticks)
    }
}

impl From<&Reading> for Seen {
    fn from(reading: &Reading) -> Self {
        Self {
            parent: reading.parent,
            own_ticks: reading.own_ticks,
            children_ticks: reading.children_ticks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(parent: i32, own_ticks: u64, children_ticks: u64) -> Reading {
        Reading {
            parent,
            short_name: String::new(),
            is_zombie: false,
            is_kernel: false,
            start_ticks: 0,
            own_ticks,
            children_ticks,
            threads_count: 1,
            rss_pages: 1,
        }
    }

    #[test]
    fn what_was_used_before_the_first_look_does_not_count() {
        let mut account = CpuAccount::default();
        account.enter(1, &reading(0, 100, 50), false);
        account.look(1, &reading(0, 107, 50));
        assert_eq!(account.take(), 7);
        assert_eq!(account.take(), 0);
    }

    #[test]
    fn an_ended_child_counts_once() {
        let mut account = CpuAccount::default();
        account.enter(1, &reading(0, 0, 0), false);
        account.end_scan();
        account.enter(2, &reading(1, 4, 0), true);
        account.look(1, &reading(0, 1, 0));
        account.end_scan();
        // The child ran 6 ticks more and ended; its parent collected all 10.
        account.leave(2);
        account.look(1, &reading(0, 1, 10));
        account.end_scan();
        assert_eq!(account.take(), 1 + 10);
    }

    #[test]
    fn a_child_collected_a_scan_late_counts_once() {
        let mut account = CpuAccount::default();
        account.enter(1, &reading(0, 0, 0), false);
        account.enter(2, &reading(1, 10, 0), true);
        account.leave(2);
        account.look(1, &reading(0, 0, 0));
        account.end_scan();
        account.look(1, &reading(0, 0, 10));
        account.end_scan();
        assert_eq!(account.take(), 10);
    }

    #[test]
    fn children_never_seen_count_when_they_are_collected() {
        let mut account = CpuAccount::default();
        account.enter(1, &reading(0, 0, 0), false);
        account.look(1, &reading(0, 2, 30));
        assert_eq!(account.take(), 32);
    }

    #[test]
    fn a_debt_never_called_in_is_dropped() {
        let mut account = CpuAccount::default();
        account.enter(1, &reading(0, 0, 0), false);
        account.enter(2, &reading(1, 10, 0), true);
        account.leave(2);
        for _ in 0..=DEBT_SCANS {
            account.look(1, &reading(0, 0, 0));
            account.end_scan();
        }
        account.look(1, &reading(0, 0, 5));
        assert_eq!(account.take(), 10 + 5);
    }
}
