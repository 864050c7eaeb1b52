//! Memory that grows, and memory that only looks so: pods over days, in rows of ten
//! minutes, through the collector's own rules.
//!
//! A pod holds 500 MiB. 15 % of it follow the load by day (weekends have six tenths of
//! it), and how much they do differs by a tenth from day to day. On top of that noise of
//! 1.5 % that wanders (AR(1), half of it is forgotten in an hour), of which a row has
//! the floor of ten minutes.

use collector::detect::leak::LeakSettings;
use collector::detect::past::{HOURS, Past, TENS};
use collector::detect::{Level, leak};
use collector::feature::pods::{PodTotals, PodsRow, added_up};
use proto::window::{UnixNanos, Window};

use super::service::{DAY_S, TEN_MINUTES_S, normal};
use crate::Random;
use crate::rows::Measured;

/// A Thursday; see `change`.
const EPOCH_S: u64 = 2_800 * 7 * DAY_S;
const HOUR_S: u64 = 3_600;
const BYTES: f64 = 500.0 * 1_048_576.0;
const BY_DAY: f64 = 0.15;
const DAYS_DIFFER: f64 = 0.1;
const NOISE: f64 = 0.015;
/// How much of the noise is left after ten minutes.
const REMAINS: f64 = 0.890_9;
/// Hours that a pod is watched before its memory begins to grow.
const QUIET_H: u64 = 120;
/// Days of a pod in which nothing leaks.
const QUIET_DAYS: u64 = 14;

/// What a pod holds besides, as a part of what it held, by hours since its start.
#[derive(Clone, Copy, Debug)]
enum More {
    Nothing,
    /// So much an hour, from an hour on.
    Leak {
        an_hour: f64,
        from_h: f64,
    },
    /// So much once, at an hour.
    Step {
        part: f64,
        at_h: f64,
    },
    /// A cache that doubles what the pod holds, warms from an hour on, and has the part
    /// 1 - 1/e of it after so many hours.
    Cache {
        hours: f64,
        from_h: f64,
    },
}

impl More {
    fn at(self, hour: f64) -> f64 {
        match self {
            Self::Nothing => 0.0,
            Self::Leak { an_hour, from_h } => an_hour * (hour - from_h).max(0.0),
            Self::Step { part, at_h } => {
                if hour >= at_h {
                    part
                } else {
                    0.0
                }
            }
            Self::Cache { hours, from_h } => 1.0 - (-(hour - from_h).max(0.0) / hours).exp(),
        }
    }
}

/// A pod under simulation, with its rows.
struct Pod {
    random: Random,
    more: More,
    /// When it started, in seconds since 1970.
    started_s: u64,
    wander: f64,
    /// How much memory follows the load today.
    by_day: f64,
    tens: Vec<PodsRow>,
    hours: Vec<PodsRow>,
}

impl Pod {
    fn new(seed: u64, more: More) -> Self {
        let mut random = Random::of(&[seed, 0x1ea4]);
        // Pods start at any hour of the week.
        let hours = random.next_u64() % (7 * 24);
        Self {
            wander: normal(&mut random),
            random,
            more,
            started_s: EPOCH_S + hours * HOUR_S,
            by_day: BY_DAY,
            tens: Vec::new(),
            hours: Vec::new(),
        }
    }

    /// Ten minutes, `number` times ten minutes after the start; returns whether a leak is
    /// begun to be told.
    fn step(&mut self, number: u64, settings: &LeakSettings) -> bool {
        let start_s = self.started_s + number * TEN_MINUTES_S;
        if start_s.is_multiple_of(DAY_S) {
            self.by_day = BY_DAY * (1.0 + DAYS_DIFFER * normal(&mut self.random));
        }
        let row = self.row(start_s, number);
        self.tens.push(row.clone());
        let end_s = start_s + TEN_MINUTES_S;
        if end_s.is_multiple_of(HOUR_S) {
            let of_hour = self.tens.get(self.tens.len().saturating_sub(6)..);
            let step = window(end_s - HOUR_S, HOUR_S);
            self.hours.extend(added_up(step, of_hour.unwrap_or(&[])));
        }
        if self.tens.len() > TENS {
            self.tens.remove(0);
        }
        if self.hours.len() > HOURS {
            self.hours.remove(0);
        }
        let past = Past::new(&row, &self.tens, &self.hours);
        let found = leak::judge(&past, settings);
        found
            .iter()
            .any(|(_, finding)| finding.level == Level::Enter)
    }

    fn row(&mut self, start_s: u64, number: u64) -> PodsRow {
        let hour = real(start_s % DAY_S) / 3_600.0;
        let is_weekend = matches!((start_s / DAY_S) % 7, 2 | 3);
        let turn = (std::f64::consts::TAU * (hour - 9.0) / 24.0).sin();
        let load = (1.0 + turn) * if is_weekend { 0.6 } else { 1.0 };
        let step = (1.0 - REMAINS * REMAINS).sqrt();
        self.wander = REMAINS * self.wander + step * normal(&mut self.random);
        let more = self.more.at(real(number) / 6.0);
        let held = BYTES * (1.0 + self.by_day * load + more) * (NOISE * self.wander).exp();
        PodsRow {
            step: window(start_s, TEN_MINUTES_S),
            pods: vec![PodTotals {
                series: 1,
                pod: "p".to_owned(),
                version: "1".to_owned(),
                started_ns: i64::try_from(self.started_s * 1_000_000_000).unwrap_or(0),
                seen_ns: TEN_MINUTES_S * 1_000_000_000,
                cpu_ns: 0,
                sampled_ns: 0,
                rss_bytes: to_bytes(held),
                threads_count: 20,
            }],
        }
    }
}

fn window(start_s: u64, length_s: u64) -> Window {
    let start = UnixNanos::new(i64::try_from(start_s * 1_000_000_000).unwrap_or(0));
    Window::from_start(start, length_s * 1_000_000_000).expect("its length is not zero")
}

fn real(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "some gigabytes, not negative"
)]
fn to_bytes(value: f64) -> u64 {
    value as u64
}

/// Hours until a leak is told, of the pods in which it is.
fn delays(
    more: More,
    (from_h, horizon_h): (u64, u64),
    (seed, repeats): (u64, u32),
    settings: &LeakSettings,
) -> Vec<u64> {
    let mut found = Vec::new();
    for repeat in 0..u64::from(repeats) {
        let mut pod = Pod::new(Random::of(&[seed, repeat]).next_u64(), more);
        for number in 0..(from_h + horizon_h) * 6 {
            let is_told = pod.step(number, settings);
            if is_told && number >= from_h * 6 {
                // The row is over ten minutes later.
                found.push((number + 1 - from_h * 6).div_ceil(6));
                break;
            }
        }
    }
    found.sort_unstable();
    found
}

/// Leaks of several speeds, and what only looks like one.
pub fn measure(seed: u64, repeats: u32, settings: &LeakSettings) -> Measured {
    let mut measured = Measured::nothing();
    let leak = |an_hour, from_h: u64| More::Leak {
        an_hour,
        from_h: real(from_h),
    };
    for (place, (what, an_hour, from_h, limit_h)) in (0_u64..).zip([
        ("1 %/h in a running pod", 0.01, QUIET_H, 12),
        ("0.5 %/h in a running pod", 0.005, QUIET_H, 60),
        ("0.5 %/h since the start", 0.005, 0, 60),
    ]) {
        let of = (Random::of(&[seed, place]).next_u64(), repeats);
        let found = delays(leak(an_hour, from_h), (from_h, 2 * limit_h), of, settings);
        let in_time = found.iter().filter(|delay| **delay <= limit_h).count();
        let part =
            |count: usize| real(u64::try_from(count).unwrap_or(0)) / f64::from(repeats.max(1));
        measured.add(
            format!(
                "{what}: {:.0} % of {repeats} within {limit_h} h, median {} h, {:.0} % within {} h",
                100.0 * part(in_time),
                found.get(found.len() / 2).copied().unwrap_or(0),
                100.0 * part(found.len()),
                2 * limit_h,
            ),
            part(in_time) >= 0.95,
        );
    }
    let warm = |hours, from_h: u64| More::Cache {
        hours,
        from_h: real(from_h),
    };
    for (place, (what, more)) in (100_u64..).zip([
        ("nothing grows", More::Nothing),
        (
            "a step of a fifth",
            More::Step {
                part: 0.2,
                at_h: real(QUIET_H) + 0.5,
            },
        ),
        ("a cache that warms in 4 h after the start", warm(4.0, 0)),
        ("in 24 h", warm(24.0, 0)),
        ("in 48 h", warm(48.0, 0)),
        ("in 4 h, later", warm(4.0, QUIET_H)),
        ("in 24 h, later", warm(24.0, QUIET_H)),
    ]) {
        let (mut told, mut days) = (0_u32, 0_u32);
        for repeat in 0..u64::from(repeats) {
            let mut pod = Pod::new(Random::of(&[seed, place, repeat]).next_u64(), more);
            let mut last = None;
            for number in 0..QUIET_DAYS * 144 {
                if pod.step(number, settings) {
                    // Told again when it was over for half an hour.
                    told += u32::from(last.is_none_or(|last| number > last + 3));
                    last = Some(number);
                }
            }
            days += 14;
        }
        let rate = f64::from(told) / f64::from(days.max(1));
        measured.add(
            format!("{what}: {rate:.3} false per pod-day ({told} in {days})"),
            rate <= 0.02,
        );
    }
    measured
}
