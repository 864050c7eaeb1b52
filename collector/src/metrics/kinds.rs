//! Kinds of metrics. Counting is one relaxed atomic addition, or two for a
//! histogram.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that grows and shrinks.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `count`.
    pub fn add(&self, count: i64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes `count` away.
    pub fn sub(&self, count: i64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    /// Sets the number.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The longest time of something so far.
#[derive(Debug, Default)]
pub struct Longest(AtomicU64);

impl Longest {
    /// Something took so long.
    pub fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_max(nanos, Ordering::Relaxed);
    }

    /// The longest time; zero when there was none.
    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Upper bounds of the buckets of [`Times`], as they are shown and in
/// nanoseconds: from a write that the disk takes at once to a sender's patience.
pub(super) const BOUNDS: [(&str, u64); 12] = [
    ("0.001", 1_000_000),
    ("0.0025", 2_500_000),
    ("0.005", 5_000_000),
    ("0.01", 10_000_000),
    ("0.025", 25_000_000),
    ("0.05", 50_000_000),
    ("0.1", 100_000_000),
    ("0.25", 250_000_000),
    ("0.5", 500_000_000),
    ("1", 1_000_000_000),
    ("2.5", 2_500_000_000),
    ("10", 10_000_000_000),
];

/// How often something took how long.
#[derive(Debug, Default)]
pub struct Times {
    /// Per bound: times up to it and above the one before; at last, longer ones.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_ns: AtomicU64,
}

impl Times {
    /// Something took so long.
    pub fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let place = BOUNDS.iter().position(|(_, bound)| nanos <= *bound);
        if let Some(bucket) = self.buckets.get(place.unwrap_or(BOUNDS.len())) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_ns.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Per bound how many took at most that long, then how many there were.
    pub(super) fn cumulative(&self) -> [u64; BOUNDS.len() + 1] {
        let mut sum = 0_u64;
        std::array::from_fn(|place| {
            let bucket = self.buckets.get(place);
            sum = sum.saturating_add(bucket.map_or(0, |count| count.load(Ordering::Relaxed)));
            sum
        })
    }

    /// All of it together.
    pub(super) fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed))
    }
}

/// One counter per value of a closed label.
#[derive(Debug)]
pub(super) struct Family<const N: usize>(pub(super) [Counter; N]);

impl<const N: usize> Default for Family<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl<const N: usize> Family<N> {
    pub(super) fn sum(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum: u64, counter| sum.saturating_add(counter.get()))
    }

    /// The counter of `key`; a key outside of `keys` counts as the first.
    pub(super) fn of<K: PartialEq>(&self, keys: &[(K, &'static str); N], key: &K) -> &Counter {
        let place = keys.iter().position(|(known, _)| known == key).unwrap_or(0);
        self.0.get(place).unwrap_or(&UNKNOWN)
    }
}

/// Takes what no counter of a family stands for; never shown.
static UNKNOWN: Counter = Counter(AtomicU64::new(0));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_in_the_first_bucket_that_holds_it() {
        let times = Times::default();
        for nanos in [0, 1_000_000, 1_000_001, 10_000_000_000, 10_000_000_001] {
            times.observe(Duration::from_nanos(nanos));
        }
        let counts = times.cumulative();
        assert_eq!((counts[0], counts[1], counts[11], counts[12]), (2, 3, 4, 5));
        assert_eq!(times.sum(), Duration::from_nanos(20_002_000_002));
        let longest = Longest::default();
        for millis in [3, 9, 5] {
            longest.observe(Duration::from_millis(millis));
        }
        assert_eq!(longest.get(), Duration::from_millis(9));
    }
}
