//! A simulated service: what it spends on each of its functions in ten minutes.
//!
//! Three hundred functions, the largest with 16 % of the CPU time (Zipf), thirty of them
//! to a package that calls them. Load follows the day and is lower on weekends; every
//! seventh function has a day of its own. The mix of work wanders by a random walk that
//! comes back (AR(1), half of it is forgotten in an hour), samples are drawn by Poisson.

use collector::feature::{FunctionCount, ServiceRow, StepProfile, service_row};
use collector::tree::CallTree;
use proto::labels::LabelSet;
use proto::profile::Facts;
use proto::window::{UnixNanos, Window};

use crate::Random;

/// Functions of a service.
pub(super) const FUNCTIONS: usize = 300;
/// Functions of a package.
const PACKAGE: usize = 10;
/// Samples a second of CPU time.
const HZ: f64 = 99.0;
pub(super) const TEN_MINUTES_S: u64 = 600;
pub(super) const DAY_S: u64 = 86_400;
/// CPU time of a pod in cores, on average.
const CORES: f64 = 0.5;
/// How much of the mix is left after ten minutes: half after an hour.
const REMAINS: f64 = 0.890_9;
/// How much pods differ in what they spend on a function.
const POD_NOISE: f64 = 0.05;

/// What disturbs a service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Nuisance {
    None,
    /// A function takes three times as much for an hour each day.
    Cron,
    /// The mix has heavy tails (Student's t of 3 degrees).
    HeavyTails,
    /// Functions take three times as much at random, for an hour, once a day.
    Bursts,
    /// A function takes so much more each day.
    Drift(f64),
}

/// A service under simulation.
pub(super) struct Service {
    random: Random,
    pods: u32,
    mix: f64,
    nuisance: Nuisance,
    shares: Vec<f64>,
    names: Vec<String>,
    packages: Vec<String>,
    wander: Vec<f64>,
    /// Until when a function bursts.
    burst: Vec<u64>,
}

/// The name of a function.
pub(super) fn name(function: usize) -> String {
    format!("shop/part{}.work{function}", function / PACKAGE)
}

impl Service {
    pub(super) fn new(seed: u64, pods: u32, mix: f64, nuisance: Nuisance) -> Self {
        let mut random = Random::of(&[seed, 0x5e71]);
        let weights = (1..=FUNCTIONS).map(|rank| 1.0 / real(rank));
        let sum: f64 = weights.clone().sum();
        // What the pods have in common; the rest of it does not change.
        let of_pods = POD_NOISE / f64::from(pods).sqrt();
        let shares = weights
            .map(|weight| weight / sum * (of_pods * normal(&mut random)).exp())
            .collect();
        let wander = (0..FUNCTIONS).map(|_| normal(&mut random)).collect();
        Self {
            random,
            pods,
            mix,
            nuisance,
            shares,
            names: (0..FUNCTIONS).map(name).collect(),
            packages: (0..FUNCTIONS / PACKAGE)
                .map(|package| format!("shop/part{package}.Handle"))
                .collect(),
            wander,
            burst: vec![0; FUNCTIONS],
        }
    }

    /// The row of the ten minutes from `start_s` on. `factor` says how dear a function is.
    pub(super) fn ten_minutes(
        &mut self,
        start_s: u64,
        factor: impl Fn(usize) -> f64,
    ) -> ServiceRow {
        let samples = self.counts(start_s, factor);
        let mut counts = Vec::with_capacity(FUNCTIONS + self.packages.len() + 1);
        let (mut total, mut below) = (0, vec![0; self.packages.len()]);
        for ((function, name), samples) in self.names.iter().enumerate().zip(&samples) {
            total += samples;
            if let Some(below) = below.get_mut(function / PACKAGE) {
                *below += samples;
            }
            counts.push(FunctionCount {
                function: name.as_str(),
                flat: *samples,
                cum: *samples,
            });
        }
        for (package, cum) in self.packages.iter().zip(below) {
            counts.push(FunctionCount {
                function: package.as_str(),
                flat: 0,
                cum,
            });
        }
        counts.push(FunctionCount {
            function: "main.main",
            flat: 0,
            cum: total,
        });
        counts.retain(|count| count.cum > 0);
        let start = UnixNanos::new(i64::try_from(start_s * 1_000_000_000).unwrap_or(0));
        let labels = LabelSet::default();
        let tree = CallTree::new();
        let profile = StepProfile {
            step: Window::from_start(start, TEN_MINUTES_S * 1_000_000_000)
                .expect("ten minutes are a window"),
            tenant: "anonymous",
            namespace: "",
            service: "shop",
            labels: &labels,
            samples: total,
            tree: &tree,
            period_ns: 10_101_010,
            observed_ns: TEN_MINUTES_S * 1_000_000_000,
            facts: Facts::default(),
        };
        service_row(&profile, counts)
    }

    /// Samples of each function.
    fn counts(&mut self, start_s: u64, factor: impl Fn(usize) -> f64) -> Vec<u64> {
        let hour = real_u64(start_s % DAY_S) / 3_600.0;
        let turn = |shift: f64| (std::f64::consts::TAU * (hour - shift) / 24.0).sin();
        let is_weekend = matches!((start_s / DAY_S) % 7, 2 | 3);
        let load = (1.0 + 0.5 * turn(9.0)) * if is_weekend { 0.6 } else { 1.0 };
        let seconds = real_u64(TEN_MINUTES_S);
        let samples = CORES * f64::from(self.pods) * HZ * seconds * load;
        let step = (1.0 - REMAINS * REMAINS).sqrt();
        let days = real_u64(start_s % (1_000 * DAY_S)) / real_u64(DAY_S);
        let mut counts = Vec::with_capacity(FUNCTIONS);
        for function in 0..FUNCTIONS {
            let noise = match self.nuisance {
                Nuisance::HeavyTails => student3(&mut self.random),
                _ => normal(&mut self.random),
            };
            let Some(wander) = self.wander.get_mut(function) else {
                continue;
            };
            *wander = REMAINS * *wander + step * noise;
            let own_day = match function % 7 {
                3 => 1.0 + 0.3 * turn(real(function % 24)),
                _ => 1.0,
            };
            let nuisance = match self.nuisance {
                Nuisance::Cron if function == 20 && (3.0..4.0).contains(&hour) => 3.0,
                Nuisance::Drift(a_day) if function == 6 => (1.0 + a_day).powf(days),
                Nuisance::Bursts => {
                    // Once a day, of the forty largest functions one.
                    if function < 40
                        && self.random.unit() < 1.0 / (40.0 * 144.0)
                        && let Some(until) = self.burst.get_mut(function)
                    {
                        *until = start_s + 3_600;
                    }
                    match self.burst.get(function) {
                        Some(until) if start_s < *until => 3.0,
                        _ => 1.0,
                    }
                }
                _ => 1.0,
            };
            let share = self.shares.get(function).copied().unwrap_or(0.0);
            let mean = samples
                * share
                * own_day
                * nuisance
                * (self.mix * *wander).exp()
                * factor(function);
            counts.push(poisson(&mut self.random, mean));
        }
        counts
    }
}

/// A count as a real number.
fn real(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn real_u64(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// A number of mean 0 and variance 1.
pub(super) fn normal(random: &mut Random) -> f64 {
    let (u, v) = (random.unit().max(1e-12), random.unit());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Student's t of 3 degrees of freedom, with variance 1.
fn student3(random: &mut Random) -> f64 {
    let square: f64 = (0..3).map(|_| normal(random).powi(2)).sum();
    normal(random) / (square / 3.0).sqrt() / 3_f64.sqrt()
}

/// A number of samples where `mean` are expected.
pub(super) fn poisson(random: &mut Random, mean: f64) -> u64 {
    if mean > 50.0 {
        let drawn = (mean + mean.sqrt() * normal(random)).round().max(0.0);
        return to_count(drawn);
    }
    let (limit, mut product, mut count) = ((-mean).exp(), random.unit(), 0);
    while product > limit {
        count += 1;
        product *= random.unit();
    }
    count
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rounded number of samples, not negative and far below 2^53"
)]
fn to_count(value: f64) -> u64 {
    value as u64
}
