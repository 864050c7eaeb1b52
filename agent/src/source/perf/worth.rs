//! How much CPU time a sample stands for. Pure.
//!
//! A sample stands for the period of its event. Rates change while events are
//! open, and events that were inherited before go on at their old rate; of a
//! process with very many threads some stand for others, for a window each. What
//! a sample is worth is counted in whole periods of the window, rounded at random
//! so that sums are right.

use crate::source::random::Random;

/// Longest period that a sample is believed to stand for: that of the lowest
/// rate, 1 Hz, with room.
const MAX_PERIOD_NS: u64 = 60_000_000_000;

/// Most periods that an event may have counted without a sample: those that lie
/// in its ring when it is closed, and the one that was begun.
const MAX_REST_PERIODS: u64 = 2;

/// Of how many threads how many are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) all: u32,
    pub(super) sampled: u32,
}

impl Share {
    /// A thread that stands for itself.
    pub(super) const WHOLE: Self = Self { all: 1, sampled: 1 };

    fn times(self, ns: u64) -> u64 {
        let all = u128::from(ns) * u128::from(self.all);
        u64::try_from(all / u128::from(self.sampled.max(1))).unwrap_or(u64::MAX)
    }
}

/// What the samples of one event are worth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Worth {
    period_ns: u64,
    share: Share,
    /// CPU time that was on its way to a sample and was forgotten, as it is to
    /// be expected; the next sample stands for it, too.
    owed_ns: u64,
    /// What its samples stood for so far, of its own thread.
    sampled_ns: u64,
}

impl Worth {
    /// Of an event that samples from the beginning of its thread.
    pub(super) fn new(period_ns: u64) -> Self {
        Self {
            period_ns,
            share: Share::WHOLE,
            owed_ns: 0,
            sampled_ns: 0,
        }
    }

    /// Of one whose thread stands for others, too.
    pub(super) fn with_share(period_ns: u64, share: Share) -> Self {
        Self {
            share,
            ..Self::new(period_ns)
        }
    }

    /// The event stands for as many threads from now on.
    pub(super) fn set_share(&mut self, share: Share) {
        self.share = share;
    }

    /// The event has this period from now on.
    pub(super) fn set_period(&mut self, period_ns: u64) {
        // A thread that ran is half-way between two samples, on average.
        if self.sampled_ns > 0 && period_ns != self.period_ns {
            self.owed_ns = self.owed_ns.saturating_add(self.period_ns / 2);
        }
        self.period_ns = period_ns;
    }

    /// CPU time that a sample of the event itself stands for.
    pub(super) fn take(&mut self) -> u64 {
        let owed = std::mem::take(&mut self.owed_ns);
        let ns = self.period_ns.saturating_add(owed);
        self.sampled_ns = self.sampled_ns.saturating_add(ns);
        self.share.times(ns)
    }

    /// CPU time that no sample stood for, of an event that counted `counted_ns`
    /// of its thread until it was closed.
    pub(super) fn rest(&self, counted_ns: u64) -> u64 {
        let rest = counted_ns.saturating_sub(self.sampled_ns);
        // More than that is what the kernel counts as lost.
        let most = self.period_ns.saturating_mul(MAX_REST_PERIODS);
        self.share.times(rest.min(most))
    }

    /// CPU time that a sample of an inherited event stands for, which says
    /// itself what its period is.
    pub(super) fn of_inherited(&self, period_ns: u64) -> u64 {
        match period_ns {
            0 => self.period_ns,
            period => period.min(MAX_PERIOD_NS),
        }
    }
}

/// Returns `ns` in whole periods of `period_ns`, one more or less at random so
/// that the mean is right.
pub(super) fn in_periods(ns: u64, period_ns: u64, random: &mut Random) -> u64 {
    let up = random.below(period_ns);
    ns.saturating_add(up).checked_div(period_ns).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PERIOD: u64 = 10_101_010;

    #[test]
    fn a_sample_of_the_window_s_own_rate_is_one() {
        let mut random = Random::from_seed(1);
        let mut worth = Worth::new(PERIOD);
        for _ in 0..1000 {
            assert_eq!(in_periods(worth.take(), PERIOD, &mut random), 1);
        }
        assert_eq!(in_periods(PERIOD, 0, &mut random), 0);
    }

    #[test]
    fn what_a_change_of_the_rate_forgets_is_made_up_for() {
        let mut fresh = Worth::new(PERIOD);
        fresh.set_period(4 * PERIOD);
        assert_eq!(fresh.take(), 4 * PERIOD, "it had not run");
        let mut ran = Worth::new(PERIOD);
        ran.take();
        ran.set_period(PERIOD);
        assert_eq!(ran.take(), PERIOD, "nothing changed");
        ran.set_period(4 * PERIOD);
        assert_eq!(ran.take(), 4 * PERIOD + PERIOD / 2);
        assert_eq!(ran.take(), 4 * PERIOD);
        assert_eq!(ran.of_inherited(PERIOD), PERIOD);
        assert_eq!(ran.of_inherited(0), 4 * PERIOD);
        assert_eq!(ran.of_inherited(u64::MAX), MAX_PERIOD_NS);
    }

    #[test]
    fn a_thread_stands_for_those_that_are_not_sampled() {
        let share = Share {
            all: 250,
            sampled: 100,
        };
        let mut worth = Worth::with_share(1000, share);
        assert_eq!(worth.take(), 2500);
        assert_eq!(worth.take(), 2500);
        assert_eq!(worth.rest(2400), 400 * 250 / 100);
        assert_eq!(worth.rest(1999), 0);
        assert_eq!(worth.rest(u64::MAX), 2000 * 250 / 100);
        worth.set_share(Share::WHOLE);
        assert_eq!(worth.take(), 1000);
        worth.set_share(Share { all: 3, sampled: 0 });
        assert_eq!(worth.take(), 3000);
    }

    proptest! {
        #[test]
        fn rounding_keeps_the_sum(ns in 0_u64..5 * PERIOD, seed: u64) {
            let mut random = Random::from_seed(seed);
            let times = 2000;
            let sum: u64 = (0..times).map(|_| in_periods(ns, PERIOD, &mut random)).sum();
            // Six standard deviations of so many roundings.
            prop_assert!((sum * PERIOD).abs_diff(ns * times) <= 140 * PERIOD);
        }
    }
}
