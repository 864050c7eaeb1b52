//! A function becomes dearer, or none does, in a service that was watched for two weeks.

use std::collections::BTreeMap;
use std::convert::Infallible;

use collector::detect::Severity;
use collector::detect::shift::baseline::Baseline;
use collector::detect::shift::{ShiftSettings, ShiftState};
use collector::feature::ServiceRow;
use collector::feature::coarse::{Grain, added_up};
use proto::window::{UnixNanos, Window};

use super::service::{DAY_S, Nuisance, Service, TEN_MINUTES_S, name};
use crate::rows::Measured;

/// A Thursday: the first of January 1970 and some whole weeks.
const EPOCH_S: u64 = 2_800 * 7 * DAY_S;
/// Days before anything is judged.
const LEARNED_DAYS: u64 = 12;
/// Days without a change, of each service.
const QUIET_DAYS: u64 = 14;
/// Functions with about 5 % and 1 % of the CPU time.
const FIVE_PERCENT: usize = 2;
const ONE_PERCENT: usize = 15;
/// Time that services of a scenario are thinned by, so that their changes begin at other
/// times of the day.
const APART_S: u64 = 5 * 3_600 + 600;

/// A service with its detector.
struct Watched {
    service: Service,
    hours: BTreeMap<u64, ServiceRow>,
    /// Rows of the hour at hand.
    open: Vec<ServiceRow>,
    state: ShiftState,
    settings: ShiftSettings,
    /// The hour of the baseline at hand.
    baseline: (u64, Option<Baseline>),
    /// Changes that were told: when, and of which function.
    told: Vec<(u64, String, Severity)>,
}

impl Watched {
    fn new(service: Service, settings: ShiftSettings) -> Self {
        Self {
            service,
            hours: BTreeMap::new(),
            open: Vec::new(),
            state: ShiftState::default(),
            settings,
            baseline: (0, None),
            told: Vec::new(),
        }
    }

    /// Ten minutes go by; they are judged from `judged_from_s` on.
    fn step(&mut self, start_s: u64, judged_from_s: u64, factor: impl Fn(usize) -> f64) {
        let row = self.service.ten_minutes(start_s, factor);
        self.open.push(row.clone());
        let end_s = start_s + TEN_MINUTES_S;
        let hour_s = Grain::Hour.floor_s(start_s);
        let is_judged = start_s >= judged_from_s;
        if is_judged && self.baseline.0 != hour_s {
            let hours = &self.hours;
            let found = Baseline::find(hour_s, |at| {
                Ok::<_, Infallible>(hours.get(&at).cloned().into_iter().collect())
            });
            let Ok(baseline) = found;
            self.baseline = (hour_s, baseline);
        }
        let hour = end_s
            .is_multiple_of(3_600)
            .then(|| self.close(hour_s))
            .flatten();
        if !is_judged {
            return;
        }
        let before: Vec<String> = self.names();
        let baseline = self.baseline.1.as_ref();
        if let Some(hour) = &hour {
            self.state.step(Grain::Hour, hour, baseline, &self.settings);
        }
        self.state
            .step(Grain::TenMinutes, &row, baseline, &self.settings);
        for shift in self.state.active() {
            if !before.contains(&shift.function) {
                let severity = shift.kind.severity();
                self.told.push((end_s, shift.function.clone(), severity));
            }
        }
    }

    fn close(&mut self, hour_s: u64) -> Option<ServiceRow> {
        let start = UnixNanos::new(i64::try_from(hour_s * 1_000_000_000).unwrap_or(0));
        let step = Window::from_start(start, 3_600_000_000_000).ok()?;
        let row = added_up(step, &std::mem::take(&mut self.open))?;
        self.hours.insert(hour_s, row.clone());
        Some(row)
    }

    fn names(&self) -> Vec<String> {
        let active = self.state.active().iter();
        active.map(|shift| shift.function.clone()).collect()
    }

    /// Alerts that a person is told, from `from_s` on.
    fn alerts(&self, from_s: u64) -> impl Iterator<Item = &(u64, String, Severity)> {
        let told = self.told.iter();
        told.filter(move |(at, _, severity)| *at > from_s && *severity > Severity::Info)
    }
}

/// What came of services in which one function became dearer.
struct Found {
    services: u32,
    /// Seconds until it was told, where it was.
    delays: Vec<u64>,
    /// Services in which another function was named first.
    wrong: u32,
}

impl Found {
    fn within(&self, limit_s: u64) -> f64 {
        let found = self
            .delays
            .iter()
            .filter(|delay| **delay <= limit_s)
            .count();
        f64::from(u32::try_from(found).unwrap_or(0)) / f64::from(self.services.max(1))
    }

    fn text(&self, what: &str, limit_s: u64) -> String {
        let mut delays = self.delays.clone();
        delays.sort_unstable();
        let at = |part: usize| {
            delays.get((delays.len() * part / 100).min(delays.len().saturating_sub(1)))
        };
        let hours = |delay: Option<&u64>| match delay {
            Some(delay) => format!(
                "{:.1} h",
                f64::from(u32::try_from(*delay).unwrap_or(0)) / 3_600.0
            ),
            None => "-".to_owned(),
        };
        format!(
            "{what}: {:.0} % of {} within {:.1} h, median {}, p95 {}, another named first in {}",
            100.0 * self.within(limit_s),
            self.services,
            f64::from(u32::try_from(limit_s).unwrap_or(0)) / 3_600.0,
            hours(at(50)),
            hours(at(95)),
            self.wrong
        )
    }
}

/// One function becomes `factor` times as dear, in each of `repeats` services.
fn dearer(
    (pods, mix): (u32, f64),
    function: usize,
    factor: f64,
    settings: ShiftSettings,
    horizon_s: u64,
    (seed, repeats): (u64, u32),
) -> Found {
    let mut found = Found {
        services: repeats,
        delays: Vec::new(),
        wrong: 0,
    };
    for repeat in 0..repeats {
        let service = Service::new(seed + u64::from(repeat), pods, mix, Nuisance::None);
        let mut watched = Watched::new(service, settings);
        let judged_from = EPOCH_S + LEARNED_DAYS * DAY_S;
        // Changes begin at all times of the day, and within ten minutes.
        let onset = judged_from + DAY_S + (u64::from(repeat) * APART_S) % (5 * DAY_S);
        let onset = onset + u64::from(repeat) * 97 % TEN_MINUTES_S;
        let mut at = EPOCH_S;
        while at < onset + horizon_s {
            // How much of the ten minutes it is on.
            let on_s = (at + TEN_MINUTES_S)
                .saturating_sub(onset)
                .min(TEN_MINUTES_S);
            let part = f64::from(u32::try_from(on_s).unwrap_or(0)) / 600.0;
            watched.step(at, judged_from, |of| match of == function {
                true => 1.0 + (factor - 1.0) * part,
                false => 1.0,
            });
            at += TEN_MINUTES_S;
        }
        let wanted = name(function);
        let mut alerts = watched.alerts(onset);
        let first = alerts.next();
        let right = watched.alerts(onset).find(|(_, named, _)| *named == wanted);
        found.wrong += u32::from(first.is_some_and(|(_, named, _)| *named != wanted));
        found.delays.extend(right.map(|(told, ..)| told - onset));
    }
    found
}

/// A function half as dear again.
pub fn fast(seed: u64, repeats: u32, settings: ShiftSettings) -> Measured {
    let mut measured = Measured::nothing();
    for pods in [1, 10, 100] {
        let of = (seed, repeats);
        let found = dearer((pods, 0.03), FIVE_PERCENT, 1.5, settings, 6 * 3_600, of);
        let text = found.text(&format!("{pods} pods"), 1_800);
        measured.add(text, found.within(1_800) >= 0.95);
    }
    measured
}

/// A function a fifth or a tenth dearer.
pub fn steps(seed: u64, repeats: u32, settings: ShiftSettings) -> Measured {
    let mut measured = Measured::nothing();
    for (factor, limit_s) in [(1.2, 4 * 3_600), (1.1, 8 * 3_600)] {
        let of = (seed, repeats);
        let found = dearer((10, 0.03), FIVE_PERCENT, factor, settings, DAY_S, of);
        let text = found.text(&format!("+{:.0} %", 100.0 * (factor - 1.0)), limit_s);
        measured.add(text, found.within(limit_s) >= 0.95);
    }
    measured
}

/// The smallest change of a large service.
pub fn smallest(seed: u64, repeats: u32) -> Measured {
    let mut measured = Measured::nothing();
    let settings = ShiftSettings::default().sensitive();
    let found = dearer(
        (100, 0.01),
        ONE_PERCENT,
        1.05,
        settings,
        2 * DAY_S,
        (seed, repeats),
    );
    let text = found.text("+5 % of a 1 % function, functions = \"high\"", 8 * 3_600);
    measured.add(text, found.within(8 * 3_600) >= 0.95);
    measured
}

/// Alerts without a cause.
pub fn false_alerts(seed: u64, repeats: u32, settings: ShiftSettings) -> Measured {
    let mut measured = Measured::nothing();
    let scenarios = [
        ("base", 0.03, Nuisance::None, 0.03),
        ("cron", 0.03, Nuisance::Cron, 0.03),
        ("heavy tails", 0.03, Nuisance::HeavyTails, 0.03),
        ("10 % mix", 0.10, Nuisance::None, 0.03),
        ("bursts", 0.03, Nuisance::Bursts, 0.1),
        ("3 %/day drift", 0.03, Nuisance::Drift(0.03), 0.1),
    ];
    for (place, (what, mix, nuisance, limit)) in (0..).zip(scenarios) {
        let mut alerts = 0;
        for repeat in 0..repeats {
            let seed = seed + 1_000 * (place + 1) + u64::from(repeat);
            // One, ten and a hundred pods in turn.
            let pods = 10_u32.pow(repeat % 3);
            let service = Service::new(seed, pods, mix, nuisance);
            let mut watched = Watched::new(service, settings);
            let judged_from = EPOCH_S + LEARNED_DAYS * DAY_S;
            let mut at = EPOCH_S;
            while at < judged_from + QUIET_DAYS * DAY_S {
                watched.step(at, judged_from, |_| 1.0);
                at += TEN_MINUTES_S;
            }
            alerts += watched.alerts(0).count();
        }
        let days = f64::from(repeats) * 14.0;
        let rate = f64::from(u32::try_from(alerts).unwrap_or(u32::MAX)) / days;
        measured.add(
            format!("{what} {rate:.3} ({alerts} in {days:.0} service-days)"),
            rate <= limit,
        );
    }
    measured
}
