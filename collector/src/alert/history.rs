//! What is known of a service from before: its versions, and what each path
//! cost. Pure.
//!
//! Costs are kept in slots of [`SLOT`] over [`REACH`], for the alert that a
//! path would have, whether or not it ever gets one.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proto::window::{UnixNanos, Window};
use serde::{Deserialize, Serialize};

/// How far back a baseline reaches, and its grain.
const REACH: Duration = Duration::from_secs(6 * 3600);
const SLOT: Duration = Duration::from_secs(30 * 60);
/// Most paths of a service that are remembered; further ones have no baseline.
const MAX_PATHS: usize = 64;

/// A service's past.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct History {
    /// End of the last step that was added.
    last_ns: i64,
    /// Latest version, and the last other one.
    version: String,
    previous: String,
    slots: VecDeque<Slot>,
}

/// Sums over a part of the past.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Slot {
    start_ns: i64,
    /// Steps of the service.
    steps: u32,
    /// Sum over its steps of the cores of each path.
    cores: BTreeMap<String, f64>,
}

impl History {
    /// Adds a step: the version that ran and the cores of each path. A step
    /// that is not after the last one is left out.
    pub(super) fn add(&mut self, step: Window, versions: &[&str], cores: &BTreeMap<String, f64>) {
        if step.end().get() <= self.last_ns {
            return;
        }
        self.last_ns = step.end().get();
        for version in versions.iter().filter(|version| !version.is_empty()) {
            if self.version != **version {
                self.previous = std::mem::replace(&mut self.version, (*version).to_owned());
            }
        }
        let start_ns = step.start().floor(SLOT).get();
        if self
            .slots
            .back()
            .is_none_or(|slot| slot.start_ns != start_ns)
        {
            self.slots.push_back(Slot {
                start_ns,
                ..Slot::default()
            });
        }
        let horizon = step.start().saturating_sub(REACH).floor(SLOT).get();
        while self
            .slots
            .front()
            .is_some_and(|slot| slot.start_ns < horizon)
        {
            self.slots.pop_front();
        }
        let Some(slot) = self.slots.back_mut() else {
            return;
        };
        slot.steps = slot.steps.saturating_add(1);
        for (id, cores) in cores {
            if slot.cores.len() < MAX_PATHS || slot.cores.contains_key(id) {
                *slot.cores.entry(id.clone()).or_default() += cores;
            }
        }
    }

    /// Mean cores of a path before `time`; `None` if the service was not seen
    /// in that time.
    pub(super) fn baseline(&self, id: &str, time: UnixNanos) -> Option<f64> {
        let from = time.saturating_sub(REACH).floor(SLOT).get();
        let (mut steps, mut cores) = (0_u32, 0.0);
        for slot in &self.slots {
            if slot.start_ns >= from && slot.start_ns < time.get() {
                steps = steps.saturating_add(slot.steps);
                cores += slot.cores.get(id).copied().unwrap_or(0.0);
            }
        }
        (steps > 0).then(|| cores / f64::from(steps))
    }

    /// The latest version, or `""`.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// The last version other than `version`, or `""`.
    pub(super) fn version_before(&self, version: &str) -> &str {
        match self.version == version {
            true => &self.previous,
            false => &self.version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(minute: i64) -> Window {
        let start = UnixNanos::new(minute * 60_000_000_000);
        Window::from_start(start, 60_000_000_000).unwrap()
    }

    #[test]
    fn a_baseline_is_the_mean_over_the_steps_of_the_last_hours() {
        let mut history = History::default();
        assert_eq!(history.baseline("a", step(1).start()), None);
        for minute in 0..600 {
            let cores = if minute < 60 { 8.0 } else { 0.5 };
            let cores = BTreeMap::from([("a".to_owned(), cores)]);
            history.add(step(minute), &[], &cores);
            // Seen again after a restart.
            history.add(step(minute), &[], &cores);
        }
        let at = step(600).start();
        assert_eq!(history.baseline("a", at), Some(0.5));
        assert_eq!(history.baseline("never seen", at), Some(0.0));
        assert!(history.slots.len() <= 13, "{}", history.slots.len());
        assert_eq!(history.baseline("a", step(6000).start()), None);
    }

    #[test]
    fn the_version_before_is_the_last_other_one() {
        let mut history = History::default();
        for (minute, version) in [(1, "1"), (2, ""), (3, "2"), (4, "2")] {
            history.add(step(minute), &[version], &BTreeMap::new());
        }
        assert_eq!(history.version_before("2"), "1");
        assert_eq!(history.version_before("3"), "2");
        assert_eq!(History::default().version_before("1"), "");
    }

    #[test]
    fn paths_are_bounded() {
        let mut history = History::default();
        let many = (0..500).map(|n| (n.to_string(), 1.0)).collect();
        history.add(step(1), &[], &many);
        assert_eq!(history.slots[0].cores.len(), MAX_PATHS);
    }
}
