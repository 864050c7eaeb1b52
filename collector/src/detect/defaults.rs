//! Every default of the detectors that judge numbers, in one place.

use std::collections::BTreeSet;
use std::time::Duration;

use super::FindingKind;
use super::gc::{CollectionSettings, Collectors};
use super::growth::GrowthSettings;
use super::leak::LeakSettings;
use super::sibling::SiblingSettings;
use super::silent::SilentSettings;

/// When numbers are findings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// Of memory and threads.
    pub leak: LeakSettings,
    /// Of pods beside others.
    pub sibling: SiblingSettings,
    /// Of pods of which nothing comes.
    pub silent: SilentSettings,
    /// Of collecting garbage.
    pub collection: CollectionSettings,
    /// What collects garbage.
    pub collectors: Collectors,
    /// Kinds that are not looked for, whatever judges them.
    pub off: BTreeSet<FindingKind>,
}

impl Thresholds {
    /// Whether a kind is looked for.
    pub fn wants(&self, kind: FindingKind) -> bool {
        !self.off.contains(&kind)
    }
}

impl Default for LeakSettings {
    fn default() -> Self {
        // Chosen with the simulated pods of `bench-anomaly --row leak`.
        let memory = GrowthSettings {
            least: 16.0 * 1_048_576.0,
            fast_rise: 0.25,
            fast_trend: 4.5,
            fast_persistence: 0.85,
            middle_rise: 0.06,
            middle_trend: 5.0,
            middle_persistence: 0.8,
            middle_unusual: 1.5,
            slow_rise: 0.025,
            slow_persistence: 0.8,
            leave_rise: 0.02,
        };
        Self {
            memory,
            // Threads are counted exactly, and pools grow by steps.
            threads: GrowthSettings {
                least: 100.0,
                fast_rise: 0.5,
                middle_rise: 0.25,
                slow_rise: 0.05,
                ..memory
            },
        }
    }
}

impl Default for SiblingSettings {
    fn default() -> Self {
        Self {
            min_pods: 3,
            deviations: 4.0,
            cores: 0.2,
            leave_share: 0.6,
            rows: 2,
            uptime: Duration::from_secs(15 * 60),
        }
    }
}

impl Default for SilentSettings {
    fn default() -> Self {
        Self {
            cores: 0.1,
            shown: 0.1,
            leave_share: 0.6,
            seen: Duration::from_secs(8 * 60),
        }
    }
}

impl Default for CollectionSettings {
    fn default() -> Self {
        Self {
            share: 0.2,
            ratio: 1.5,
            unsure_share: 0.4,
            leave_share: 0.8,
            samples: 200,
        }
    }
}
