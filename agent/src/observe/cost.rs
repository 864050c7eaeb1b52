//! What the agent itself costs, as the kernel accounts for it.

use std::time::Duration;

use crate::govern::Spent;
use crate::sys::clock::CpuClock;

/// Measures this process from call to call.
#[derive(Debug)]
pub(super) struct OwnCost {
    /// Nothing where the kernel does not tell.
    clock: Option<CpuClock>,
    used: Duration,
    page_bytes: u64,
}

impl OwnCost {
    /// Begins to measure.
    pub(super) fn new() -> Self {
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let clock = CpuClock::of_process(own).ok();
        Self {
            used: read(clock),
            clock,
            page_bytes: procfs::page_size(),
        }
    }

    /// What was spent since the last call, `watched` ago.
    pub(super) fn take(&mut self, watched: Duration, throttled: Duration) -> Spent {
        let now = read(self.clock);
        let cpu = now.saturating_sub(self.used);
        self.used = now;
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        Spent {
            watched,
            cpu,
            rss_bytes: resident_pages(&statm).saturating_mul(self.page_bytes),
            throttled,
        }
    }
}

fn read(clock: Option<CpuClock>) -> Duration {
    clock
        .and_then(|clock| clock.read().ok())
        .unwrap_or_default()
}

/// The second number of `/proc/PID/statm`; 0 if it is not there.
fn resident_pages(statm: &str) -> u64 {
    let pages = statm.split_whitespace().nth(1);
    pages.and_then(|pages| pages.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_is_measured() {
        let mut cost = OwnCost::new();
        let clock = CpuClock::of_this_thread();
        let begun = clock.read().unwrap();
        let mut sum = 0u64;
        while clock.read().unwrap() < begun + Duration::from_millis(20) {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        let (watched, throttled) = (Duration::from_secs(1), Duration::from_millis(3));
        let spent = cost.take(watched, throttled);
        assert!(spent.cpu >= Duration::from_millis(20), "{spent:?}");
        assert!(spent.rss_bytes > 100 << 10, "{spent:?}");
        assert_eq!((spent.watched, spent.throttled), (watched, throttled));
        for (statm, expected) in [("10 7 3 1 0 2 0\n", 7), ("10", 0), ("x y", 0), ("", 0)] {
            assert_eq!(resident_pages(statm), expected, "{statm:?}");
        }
    }
}
