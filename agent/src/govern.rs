//! Keeps the agent within what it may cost: lowers the sampling rate when it
//! costs too much or the target is short of CPU, and raises it again, slowly.
//!
//! Pure: it is told what was spent over a stretch of time and says by how much
//! the rate is to be divided. [`crate::observe`] measures and obeys, at borders
//! of windows only, so that all samples of a window stand for equally much.
//!
//! - **CPU.** Twice in a row above the budget, or once far above it, and the
//!   rate falls to a half, or to a quarter where that is too little. One
//!   expensive stretch alone changes nothing: names are read once.
//! - **Memory.** Above the budget what can be read again is forgotten; where
//!   that does not help the rate is halved.
//! - **Throttled target.** While the kernel holds up the target's control group
//!   the rate is halved, but not below a quarter: samples of a throttled
//!   service are those that people will ask for.
//! - **Room.** When twice the cost would fit, for some time, the rate is
//!   doubled. Each time that this was too early it takes twice as long.

use std::fmt;
use std::time::Duration;

/// Shortest time that says anything about the cost.
const JUDGE_AFTER: Duration = Duration::from_secs(2);
/// Most that the rate is divided by.
const MAX_DIVISOR: u32 = 16;
/// Most that it is divided by because the target is throttled.
const MAX_DIVISOR_WHILE_THROTTLED: u32 = 4;
/// Lowest rate that is of any use.
const LOWEST_RATE_HZ: u32 = 5;
/// This many times the budget is too much at once.
const FAR_ABOVE: u32 = 4;
/// Part of the time that the target is throttled, in thousandths, above which
/// the rate is lowered, and below which it may be raised.
const THROTTLED_PERMILLE: u128 = 50;
const HARDLY_THROTTLED_PERMILLE: u128 = 10;
/// Part of the budget that the raised rate may be expected to cost, in tenths.
const ROOM_TENTHS: u128 = 8;
/// Judgements in a row that find room before the rate is raised, at first and
/// at most.
const LEAST_PATIENCE: u32 = 6;
const MOST_PATIENCE: u32 = 96;

/// What the agent may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// CPU time of all its threads, in thousandths of a core.
    pub cpu_millicores: u32,
    /// Its resident memory.
    pub memory_bytes: u64,
}

/// What a stretch of time cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Length of the stretch.
    pub watched: Duration,
    /// CPU time of all threads of the agent.
    pub cpu: Duration,
    /// The agent's resident memory at its end.
    pub rss_bytes: u64,
    /// Time that the target's control group was throttled.
    pub throttled: Duration,
}

/// Why the rate changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The agent used more CPU than it may.
    Cpu,
    /// The agent uses more memory than it may, also after it forgot what it
    /// could.
    Memory,
    /// The target's control group is throttled.
    Throttled,
    /// There is room for more samples.
    Room,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "the agent's cpu time is above its budget",
            Self::Memory => "the agent's memory is above its budget",
            Self::Throttled => "the target is throttled",
            Self::Room => "the budget has room",
        })
    }
}

/// What is to be done from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// What the configured rate is to be divided by.
    pub divisor: u32,
    /// Why that changed; nothing when it did not.
    pub changed: Option<Reason>,
    /// Whether to forget what can be read again.
    pub forget: bool,
}

/// Decides; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Governor {
    budget: Budget,
    most: u32,
    divisor: u32,
    /// What came since the last judgement.
    spent: Spent,
    /// Judgements in a row that found too much CPU used.
    above: u32,
    /// Whether the last judgement had memory freed.
    has_forgotten: bool,
    /// Judgements in a row that found room, and how many it takes.
    room: u32,
    patience: u32,
    /// Judgements since the rate was raised; nothing when it was lowered since.
    raised: Option<u32>,
}

impl Governor {
    /// Returns one for samplers that begin at `rate_hz`.
    pub fn new(budget: Budget, rate_hz: u32) -> Self {
        let most = MAX_DIVISOR.min(rate_hz / LOWEST_RATE_HZ).max(1);
        Self {
            budget,
            // Doubling leads there.
            most: 1 << most.ilog2(),
            divisor: 1,
            spent: Spent::default(),
            above: 0,
            has_forgotten: false,
            room: 0,
            patience: LEAST_PATIENCE,
            raised: None,
        }
    }

    /// What the rate is divided by.
    pub fn divisor(&self) -> u32 {
        self.divisor
    }

    /// Takes in what a window cost and says what to do. Short windows are
    /// judged together.
    pub fn judge(&mut self, window: Spent) -> Order {
        self.spent = Spent {
            watched: self.spent.watched.saturating_add(window.watched),
            cpu: self.spent.cpu.saturating_add(window.cpu),
            rss_bytes: window.rss_bytes,
            throttled: self.spent.throttled.saturating_add(window.throttled),
        };
        if self.spent.watched < JUDGE_AFTER {
            return self.order(None, false);
        }
        let spent = std::mem::take(&mut self.spent);
        self.raised = self.raised.map(|judgements| judgements.saturating_add(1));
        let cost = millionths(spent.cpu, spent.watched);
        let throttled = millionths(spent.throttled, spent.watched);
        let budget = u128::from(self.budget.cpu_millicores);
        let is_fat = spent.rss_bytes > self.budget.memory_bytes;
        let had_forgotten = std::mem::replace(&mut self.has_forgotten, is_fat);
        self.above = match cost > budget * 1000 {
            true => self.above.saturating_add(1),
            false => 0,
        };
        let far_above = cost > budget * 1000 * u128::from(FAR_ABOVE);
        let reason = if self.above >= 2 || far_above {
            let factor = if cost > budget * 2000 { 4 } else { 2 };
            self.lower(factor, self.most).then_some(Reason::Cpu)
        } else if is_fat && had_forgotten {
            self.lower(2, self.most).then_some(Reason::Memory)
        } else if throttled >= THROTTLED_PERMILLE * 1000 {
            let most = self.most.min(MAX_DIVISOR_WHILE_THROTTLED);
            self.lower(2, most).then_some(Reason::Throttled)
        } else {
            let has_room = cost * 2 * 10 <= budget * 1000 * ROOM_TENTHS
                && !is_fat
                && throttled <= HARDLY_THROTTLED_PERMILLE * 1000;
            self.raise_if(has_room).then_some(Reason::Room)
        };
        self.order(reason, is_fat)
    }

    fn order(&self, changed: Option<Reason>, forget: bool) -> Order {
        Order {
            divisor: self.divisor,
            changed,
            forget,
        }
    }

    /// Divides the rate by `factor` more, but by no more than `most` in all.
    /// Returns whether that changed it.
    fn lower(&mut self, factor: u32, most: u32) -> bool {
        self.room = 0;
        let lowered = self.divisor.saturating_mul(factor).min(most);
        if lowered <= self.divisor {
            return false;
        }
        self.divisor = lowered;
        self.above = 0;
        if self
            .raised
            .take()
            .is_some_and(|since| since <= self.patience)
        {
            self.patience = self.patience.saturating_mul(2).min(MOST_PATIENCE);
        }
        true
    }

    fn raise_if(&mut self, has_room: bool) -> bool {
        self.room = match has_room && self.divisor > 1 {
            true => self.room.saturating_add(1),
            false => 0,
        };
        if self.room < self.patience {
            // It has held long enough to be trusted again.
            if self.divisor == 1 && self.raised.is_some_and(|since| since > self.patience) {
                self.patience = LEAST_PATIENCE;
                self.raised = None;
            }
            return false;
        }
        self.room = 0;
        self.divisor /= 2;
        self.raised = Some(0);
        true
    }
}

/// Millionths of `whole` that `part` is.
fn millionths(part: Duration, whole: Duration) -> u128 {
    let scaled = part.as_nanos().saturating_mul(1_000_000);
    scaled.checked_div(whole.as_nanos()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUDGET: Budget = Budget {
        cpu_millicores: 10,
        memory_bytes: 40 << 20,
    };
    const RATE_HZ: u32 = 99;

    /// A window of ten seconds that cost so many milliseconds.
    fn cpu(millis: u64) -> Spent {
        Spent {
            watched: Duration::from_secs(10),
            cpu: Duration::from_millis(millis),
            ..Spent::default()
        }
    }

    fn check(windows: &[Spent], expected: &[(u32, Option<Reason>)]) {
        let mut governor = Governor::new(BUDGET, RATE_HZ);
        let orders = windows.iter().map(|window| governor.judge(*window));
        let orders: Vec<_> = orders.map(|order| (order.divisor, order.changed)).collect();
        assert_eq!(orders, expected, "{windows:?}");
    }

    #[test]
    fn what_costs_too_much_twice_is_done_half_as_often() {
        check(
            &[cpu(150), cpu(150), cpu(150), cpu(90)],
            &[(1, None), (2, Some(Reason::Cpu)), (2, None), (2, None)],
        );
        // Much too much.
        check(&[cpu(390), cpu(390)], &[(1, None), (4, Some(Reason::Cpu))]);
        check(&[cpu(500)], &[(4, Some(Reason::Cpu))]);
    }

    #[test]
    fn one_expensive_window_changes_nothing() {
        check(&[cpu(390), cpu(20), cpu(390), cpu(20)], &[(1, None); 4]);
    }

    #[test]
    fn the_rate_is_never_lower_than_is_of_use() {
        for (rate_hz, expected) in [(99, 16), (1000, 16), (40, 8), (19, 2), (5, 1), (1, 1)] {
            let mut governor = Governor::new(BUDGET, rate_hz);
            for _ in 0..20 {
                governor.judge(cpu(5000));
            }
            assert_eq!(governor.divisor(), expected, "{rate_hz} Hz");
        }
    }

    #[test]
    fn room_is_used_slowly_and_more_slowly_when_that_was_too_early() {
        let mut governor = Governor::new(BUDGET, RATE_HZ);
        governor.judge(cpu(500));
        let mut until_raised = |cost: u64| {
            let mut judgements = 0;
            loop {
                judgements += 1;
                assert!(judgements < 1000);
                if let Some(reason) = governor.judge(cpu(cost)).changed {
                    return (judgements, reason, governor.divisor());
                }
            }
        };
        assert_eq!(until_raised(30), (6, Reason::Room, 2));
        assert_eq!(until_raised(150), (2, Reason::Cpu, 4));
        assert_eq!(until_raised(30), (12, Reason::Room, 2));
        assert_eq!(until_raised(30), (12, Reason::Room, 1));
        // After a long while it is trusted again.
        for _ in 0..20 {
            governor.judge(cpu(30));
        }
        assert_eq!(governor.patience, LEAST_PATIENCE);
    }

    #[test]
    fn twice_the_cost_must_fit_before_the_rate_is_raised() {
        let mut governor = Governor::new(BUDGET, RATE_HZ);
        governor.judge(cpu(500));
        for _ in 0..100 {
            assert_eq!(governor.judge(cpu(45)).divisor, 4);
        }
    }

    #[test]
    fn a_throttled_target_is_sampled_less_but_sampled() {
        let throttled = Spent {
            throttled: Duration::from_millis(600),
            ..cpu(1)
        };
        let hardly = Spent {
            throttled: Duration::from_millis(200),
            ..cpu(1)
        };
        let mut windows = vec![throttled; 3];
        windows.extend([hardly; 8]);
        let mut expected = vec![
            (2, Some(Reason::Throttled)),
            (4, Some(Reason::Throttled)),
            (4, None),
        ];
        // Not raised while it is still held up now and then.
        expected.extend([(4, None); 8]);
        check(&windows, &expected);
    }

    #[test]
    fn memory_is_freed_first_and_only_then_is_the_rate_lowered() {
        let fat = Spent {
            rss_bytes: BUDGET.memory_bytes + 1,
            ..cpu(1)
        };
        let mut governor = Governor::new(BUDGET, RATE_HZ);
        let first = governor.judge(fat);
        assert_eq!((first.divisor, first.forget), (1, true));
        let helped = governor.judge(cpu(1));
        assert_eq!((helped.divisor, helped.forget), (1, false));
        governor.judge(fat);
        let second = governor.judge(fat);
        assert_eq!(
            (second.divisor, second.forget, second.changed),
            (2, true, Some(Reason::Memory))
        );
    }

    #[test]
    fn short_windows_are_judged_together() {
        let half = Spent {
            watched: Duration::from_millis(500),
            cpu: Duration::from_millis(100),
            ..Spent::default()
        };
        check(
            &[half; 4],
            &[(1, None), (1, None), (1, None), (4, Some(Reason::Cpu))],
        );
        assert_eq!(millionths(Duration::from_secs(1), Duration::ZERO), 0);
    }

    proptest! {
        #[test]
        fn no_costs_lead_beyond_the_bounds(
            windows in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()), 0..60),
            cpu_millicores in 1_u32..1000,
            rate_hz in 1_u32..1000,
        ) {
            let budget = Budget { cpu_millicores, memory_bytes: 1 << 20 };
            let mut governor = Governor::new(budget, rate_hz);
            for (watched, cpu, rss_bytes, throttled) in windows {
                let before = governor.divisor();
                let order = governor.judge(Spent {
                    watched: Duration::from_micros(watched),
                    cpu: Duration::from_micros(cpu),
                    rss_bytes,
                    throttled: Duration::from_micros(throttled),
                });
                prop_assert!(order.divisor.is_power_of_two());
                prop_assert!(order.divisor == 1 || rate_hz / order.divisor >= LOWEST_RATE_HZ);
                prop_assert!(order.divisor <= MAX_DIVISOR);
                prop_assert_eq!(order.divisor != before, order.changed.is_some());
            }
        }
    }
}
