//! What a collector said it holds: every acknowledged window of a fleet, to be
//! compared with answers afterwards.
//!
//! A window is known by its samples and by the sum of its stacks' fingerprints,
//! each times its samples, modulo 2^64. Such sums add, so any range of any
//! pods can be checked against one answer.

use std::collections::{BTreeMap, BTreeSet};

use proto::window::{UnixNanos, Window};

/// One acknowledged window of one series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it starts.
    pub start: UnixNanos,
    /// How many samples it has.
    pub samples: u32,
    /// Its stacks' fingerprints, each times its samples.
    pub hash: u64,
}

/// Windows added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many windows.
    pub windows: u64,
    /// Their samples.
    pub samples: u64,
    /// Sum of their hashes, modulo 2^64.
    pub hash: u64,
}

impl Sum {
    /// Adds one window.
    pub const fn add(&mut self, entry: &Entry) {
        self.windows += 1;
        self.samples += entry.samples as u64;
        self.hash = self.hash.wrapping_add(entry.hash);
    }
}

/// Acknowledged windows by service and pod.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    services: BTreeMap<String, BTreeMap<u32, Vec<Entry>>>,
}

impl Ledger {
    /// Returns a ledger without windows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes windows of `pod` of `service`.
    pub fn extend(&mut self, service: &str, pod: u32, entries: impl IntoIterator<Item = Entry>) {
        let pods = match self.services.get_mut(service) {
            Some(pods) => pods,
            None => self.services.entry(service.to_owned()).or_default(),
        };
        pods.entry(pod).or_default().extend(entries);
    }

    /// Adds everything that `other` holds.
    pub fn join(&mut self, other: &Self) {
        for (service, pods) in &other.services {
            for (pod, entries) in pods {
                self.extend(service, *pod, entries.iter().copied());
            }
        }
    }

    /// Starts of the stretches of `length_s` seconds, aligned with 1970, in
    /// which a window of `service` starts; in seconds, sorted.
    pub fn stretches(&self, service: &str, length_s: i64) -> BTreeSet<i64> {
        let pods = self.services.get(service).into_iter().flatten();
        let entries = pods.flat_map(|(_, entries)| entries);
        let length_s = length_s.max(1);
        entries
            .map(|entry| entry.start.seconds().div_euclid(length_s) * length_s)
            .collect()
    }

    /// The services with a window.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        let has_window =
            |pods: &BTreeMap<u32, Vec<Entry>>| pods.values().any(|pod| !pod.is_empty());
        let services = self.services.iter();
        services
            .filter(move |(_, pods)| has_window(pods))
            .map(|(name, _)| name.as_str())
    }

    /// The sum of the windows of `service` that start within `range`, of the
    /// pods that `wanted` picks.
    pub fn sum(&self, service: &str, range: Window, wanted: impl Fn(u32) -> bool) -> Sum {
        let mut sum = Sum::default();
        let pods = self.services.get(service).into_iter().flatten();
        for (_, entries) in pods.filter(|(pod, _)| wanted(**pod)) {
            for entry in entries.iter().filter(|entry| range.contains(entry.start)) {
                sum.add(entry);
            }
        }
        sum
    }

    /// The sum of everything.
    pub fn total(&self) -> Sum {
        let mut sum = Sum::default();
        for entry in self.services.values().flat_map(BTreeMap::values).flatten() {
            sum.add(entry);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_of_the_pods_and_the_range_that_are_asked_for() {
        let entry = |start: i64, samples: u32| Entry {
            start: UnixNanos::new(start),
            samples,
            hash: u64::MAX - u64::from(samples),
        };
        let mut ledger = Ledger::new();
        ledger.extend("a", 0, [entry(0, 1), entry(10, 2)]);
        ledger.extend("a", 1, [entry(10, 4)]);
        ledger.extend("b", 0, [entry(10, 8)]);
        ledger.extend("c", 0, []);
        let range = Window::new(UnixNanos::new(10), UnixNanos::new(20)).unwrap();
        let all = ledger.sum("a", range, |_| true);
        assert_eq!((all.windows, all.samples), (2, 6));
        assert_eq!(all.hash, (u64::MAX - 2).wrapping_add(u64::MAX - 4));
        assert_eq!(ledger.sum("a", range, |pod| pod == 1).samples, 4);
        assert_eq!(ledger.sum("c", range, |_| true), Sum::default());
        assert_eq!(ledger.total().samples, 15);
        assert_eq!(ledger.services().collect::<Vec<_>>(), ["a", "b"]);
        let mut twice = ledger.clone();
        twice.join(&ledger);
        assert_eq!(twice.total().samples, 30);
    }

    #[test]
    fn stretches_are_aligned_and_hold_a_window() {
        let mut ledger = Ledger::new();
        for start_s in [59, 60, 61, 200] {
            let entry = Entry {
                start: UnixNanos::new(start_s * 1_000_000_000 + 5),
                samples: 1,
                hash: 0,
            };
            ledger.extend("a", 0, [entry]);
        }
        let stretches: Vec<i64> = ledger.stretches("a", 60).into_iter().collect();
        assert_eq!(stretches, [0, 60, 180]);
        assert_eq!(ledger.stretches("b", 60).len(), 0);
    }
}
