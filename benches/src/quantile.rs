//! Medians and tails of measured times.

use std::fmt;
use std::time::Duration;

/// How long something took, over many times. Nearest rank, so every value was
/// measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// How many times it was measured.
    pub count: usize,
    /// Half took no longer.
    pub p50: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Quantiles {
    /// Returns the quantiles of `times`; all zero for none.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let rank = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).copied().unwrap_or_default()
        };
        Self {
            count: times.len(),
            p50: rank(50),
            p99: rank(99),
            max: times.last().copied().unwrap_or_default(),
        }
    }
}

/// `time` in milliseconds with as many digits as are of use.
pub fn millis(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        ms if ms < 10.0 => format!("{ms:.2}"),
        ms if ms < 100.0 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {} p99 {} ms", millis(self.p50), millis(self.p99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let found = Quantiles::of(times);
        assert_eq!(found.p50, Duration::from_millis(100));
        assert_eq!(found.p99, Duration::from_millis(198));
        assert_eq!(found.max, Duration::from_millis(200));
        assert_eq!(found.to_string(), "p50 100 p99 198 ms");
        assert_eq!(Quantiles::of(Vec::new()), Quantiles::default());
    }
}
