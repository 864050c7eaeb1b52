//! The measurements of `bench-anomaly`: whether the detectors find what they are for, how
//! soon, and how often they cry for nothing. The detectors are the collector's own.
//!
//! [`spin`] draws minutes of programs that were measured. [`change`] simulates what a
//! service spends on its functions (`service`) and lets one become dearer, or none;
//! [`deploy`] compares two versions;
//! [`leak`] draws what pods hold in memory; [`cost`] counts what looking costs. Every figure is
//! of the seeds that it is told.

pub mod change;
pub mod cost;
pub mod deploy;
pub mod leak;
mod service;
pub mod spin;

use collector::detect::leak::LeakSettings;
use collector::detect::shift::ShiftSettings;

use crate::rows::Measured;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// A loop that burns a core for nothing.
    Spin,
    /// A plateau that cannot be proven waste.
    Plateau,
    /// A function half as dear again.
    Fast,
    /// A function a fifth or a tenth dearer.
    Steps,
    /// The smallest change of a large service.
    Smallest,
    /// Alerts without a cause.
    False,
    /// Memory that grows.
    Leak,
    /// One version against the next.
    Deploy,
    /// Alerts that must arrive.
    Hooks,
    /// What it costs.
    Cost,
}

impl Row {
    /// Every row in the order of the table.
    pub const ALL: [Self; 10] = [
        Self::Spin,
        Self::Plateau,
        Self::Fast,
        Self::Steps,
        Self::Smallest,
        Self::False,
        Self::Leak,
        Self::Deploy,
        Self::Hooks,
        Self::Cost,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Plateau => "plateau",
            Self::Leak => "leak",
            Self::Hooks => "hooks",
            Self::Fast => "fast",
            Self::Steps => "steps",
            Self::Smallest => "smallest",
            Self::False => "false",
            Self::Deploy => "deploy",
            Self::Cost => "cost",
        }
    }

    /// What it must reach.
    pub const fn target(self) -> &'static str {
        match self {
            Self::Spin => {
                "recall >= 99 %, p95 <= 6 min, 0 false in >= 300 pod-days, right function first; live >= 95 %"
            }
            Self::Plateau => "recall >= 95 % in 30 min, labelled so",
            Self::Leak => {
                "1 %/h within 12 h, 0.5 %/h within 60 h; false <= 0.02 per pod-day, warming caches included"
            }
            Self::Hooks => "each alert arrives, in order, none lost over 100 kills",
            Self::Fast => "+50 % of a 5 % function: >= 95 % within 30 min",
            Self::Steps => {
                "+20 % / +10 % of a 5 % function, 10 pods, 3 % mix noise: >= 95 % within 4 / 8 h"
            }
            Self::Smallest => "0.05 % of the service, 100 pods, 1 % mix noise: >= 95 % within 8 h",
            Self::False => {
                "300 functions: <= 0.03 per service-day (base, cron, heavy tails, 10 % mix noise); <= 0.1 (bursts, 3 %/day drift)"
            }
            Self::Deploy => {
                "+5 % of the service named after 10 min on 10 pods; <= 5 % false over 200 deploys without a change"
            }
            Self::Cost => "1000 services on <= 2 % of a core",
        }
    }

    /// The row of `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|row| row.name() == name)
    }

    /// Measures it with `repeats` services for each figure, from `seed` on; `settings`
    /// are those of changes of functions.
    ///
    /// # Errors
    ///
    /// When it cannot be measured.
    pub fn measure(
        self,
        seed: u64,
        repeats: u32,
        settings: ShiftSettings,
    ) -> anyhow::Result<Measured> {
        Ok(match self {
            Self::Spin => spin::measure(seed, repeats)?,
            // No detector is there yet.
            Self::Plateau => Measured::nothing(),
            Self::Leak => leak::measure(seed, repeats, &LeakSettings::default()),
            // Not of this program: the collector's tests measure it with real receivers.
            Self::Hooks => Measured::nothing(),
            Self::Fast => change::fast(seed, repeats, settings),
            Self::Steps => change::steps(seed, repeats, settings),
            Self::Smallest => change::smallest(seed, repeats),
            Self::False => change::false_alerts(seed, repeats, settings),
            Self::Deploy => deploy::measure(seed),
            Self::Cost => cost::measure(seed)?,
        })
    }
}
