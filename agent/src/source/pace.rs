//! When to look: at a fixed rate, more rarely where looks cost more than they
//! may or nothing runs. Pure.

use std::time::{Duration, Instant};

/// Time without any use of CPU after which looks become rarer.
const IDLE_AFTER: Duration = Duration::from_secs(1);
/// Time between two looks then.
const IDLE_INTERVAL: Duration = Duration::from_millis(125);

/// How long to wait from look to look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    shortest: Duration,
    max_cost_permille: u32,
    /// How many times rarer looks are than these allow.
    divisor: u32,
    /// CPU time that a look at all processes costs, smoothed.
    cost: Option<Duration>,
    /// The last look, and the last one that found CPU used.
    looked: Instant,
    active: Instant,
    /// What was planned from that look to the next.
    planned: Duration,
}

impl Pace {
    /// Looks not more often than every `shortest`, and so that they take at
    /// most `max_cost_permille` thousandths of a core.
    pub(super) fn new(shortest: Duration, max_cost_permille: u32, now: Instant) -> Self {
        Self {
            shortest,
            max_cost_permille: max_cost_permille.max(1),
            divisor: 1,
            cost: None,
            looked: now,
            active: now,
            planned: shortest,
        }
    }

    /// From now on looks not more often than every `shortest`.
    pub(super) fn set_shortest(&mut self, shortest: Duration) {
        self.shortest = shortest;
    }

    /// From now on looks `divisor` times more rarely.
    pub(super) fn set_divisor(&mut self, divisor: u32) {
        self.divisor = divisor.max(1);
    }

    /// A look begins. Returns how many milliseconds it stands for, so that what
    /// is seen while looks are rare counts no less. Coming late adds nothing.
    pub(super) fn begin(&mut self, now: Instant) -> u64 {
        self.looked = now;
        u64::try_from(self.planned.as_millis()).unwrap_or(1).max(1)
    }

    /// A look ended that found CPU used, at this cost.
    pub(super) fn learn(&mut self, cost: Duration) {
        self.active = self.looked;
        self.cost = Some(match self.cost {
            None => cost,
            Some(before) => (before * 15 + cost) / 16,
        });
    }

    /// Plans the next look; returns how long after this one.
    pub(super) fn plan(&mut self) -> Duration {
        self.planned = self.interval();
        self.planned
    }

    fn interval(&self) -> Duration {
        let cost = self.cost.unwrap_or_default().saturating_mul(1000);
        let affordable = self.shortest.max(cost / self.max_cost_permille);
        let affordable = affordable.saturating_mul(self.divisor);
        match self.looked.saturating_duration_since(self.active) < IDLE_AFTER {
            true => affordable,
            false => affordable.max(IDLE_INTERVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_rarer_when_they_cost_more_than_they_may() {
        let start = Instant::now();
        let shortest = Duration::from_millis(20);
        let mut pace = Pace::new(shortest, 10, start);
        assert_eq!(pace.interval(), shortest);
        pace.learn(Duration::from_micros(100));
        assert_eq!(pace.interval(), shortest);
        for _ in 0..200 {
            pace.learn(Duration::from_millis(1));
        }
        let interval = pace.interval();
        assert!(interval > Duration::from_millis(95) && interval <= Duration::from_millis(100));
        for _ in 0..200 {
            pace.learn(Duration::ZERO);
        }
        assert_eq!(pace.interval(), shortest);
        pace.set_divisor(4);
        assert_eq!(pace.plan(), shortest * 4);
        assert_eq!(pace.begin(start), 80);
        pace.set_divisor(0);
        assert_eq!(pace.interval(), shortest);
    }

    #[test]
    fn an_idle_target_is_looked_at_rarely_and_its_looks_stand_for_more() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::new(Duration::from_millis(20), 7, start);
        assert_eq!(pace.begin(at(20)), 20);
        pace.learn(Duration::ZERO);
        assert_eq!(pace.plan(), Duration::from_millis(20));
        // Late.
        assert_eq!(pace.begin(at(1000)), 20);
        assert_eq!(pace.plan(), Duration::from_millis(20));
        assert_eq!(pace.begin(at(1020)), 20);
        assert_eq!(pace.plan(), IDLE_INTERVAL);
        assert_eq!(pace.begin(at(1145)), 125);
        pace.learn(Duration::ZERO);
        assert_eq!(pace.plan(), Duration::from_millis(20));
        assert_eq!(pace.begin(at(1165)), 20);
    }
}
