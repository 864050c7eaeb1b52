//! Two versions on ten pods each, ten minutes long.

use collector::feature::FunctionCount;
use collector::verdict::{Change, Names, Rules, Side, Unit, Verdict};
use proto::window::{UnixNanos, Window};

use super::service::{FUNCTIONS, TEN_MINUTES_S, name, normal, poisson};
use crate::Random;
use crate::rows::Measured;

const PODS: usize = 10;
/// Deploys with and without a change.
const DEPLOYS: u64 = 200;
/// Samples of a pod in ten minutes, at half a core and 99 Hz.
const SAMPLES: f64 = 29_700.0;
/// How much pods differ in what they spend on a function, by 95 of 100 functions; the
/// others differ three times as much.
const POD_NOISE: f64 = 0.05;
/// Function with about 5 % of the CPU time.
const DEARER: usize = 2;
/// What it takes more, as a part of the service's CPU time.
const MORE: f64 = 0.05;

fn pods(random: &mut Random, names: &mut Names, more: f64) -> Vec<Unit> {
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let sum: f64 = (1..=FUNCTIONS).map(|rank| 1.0 / number(rank)).sum();
    let each = (0..PODS).map(|_| {
        let traffic = SAMPLES * (0.7 + 0.6 * random.unit());
        let mut unit = Unit::default();
        let mut total = 0;
        for function in 0..FUNCTIONS {
            let usual = 1.0 / number(function + 1) / sum;
            let share = usual + if function == DEARER { more } else { 0.0 };
            let noise = POD_NOISE * if function % 20 == 7 { 3.0 } else { 1.0 };
            let mean = traffic * share * (noise * normal(random)).exp();
            let flat = poisson(random, mean);
            total += flat;
            let function = name(function);
            let count = FunctionCount {
                function: function.as_str(),
                flat,
                cum: flat,
            };
            unit.add([count].into_iter(), 1.0, names);
        }
        let main = FunctionCount {
            function: "main.main",
            flat: 0,
            cum: total,
        };
        unit.add([main].into_iter(), 1.0, names);
        unit
    });
    each.collect()
}

fn side() -> Side {
    let start = UnixNanos::new(0);
    Side {
        window: Window::from_start(start, TEN_MINUTES_S * 1_000_000_000)
            .expect("ten minutes are a window"),
        selector: String::new(),
        pods: 10,
        units: 10,
        samples: 0.0,
        cores: 0.0,
    }
}

/// Deploys of both kinds.
pub fn measure(seed: u64) -> Measured {
    let mut measured = Measured::nothing();
    let (mut first, mut named, mut covered, mut wrong) = (0, 0, 0, 0);
    for (of, more) in [(1, MORE), (2, 0.0)] {
        for deploy in 0..DEPLOYS {
            let mut random = Random::of(&[seed, of, deploy]);
            let mut names = Names::default();
            let base = pods(&mut random, &mut names, 0.0);
            let new = pods(&mut random, &mut names, more);
            let verdict = Verdict::new(
                (side(), &base),
                (side(), &new),
                Rules::default(),
                Vec::new(),
            );
            let mut dearer = verdict
                .shifts
                .iter()
                .filter(|shift| shift.change == Change::Regression);
            if more > 0.0 {
                let wanted = name(DEARER);
                let right = dearer.clone().find(|shift| *shift.function == *wanted);
                first += u32::from(dearer.next().is_some_and(|s| *s.function == *wanted));
                named += u32::from(right.is_some());
                covered +=
                    u32::from(right.is_some_and(|s| s.gain.low <= MORE && MORE <= s.gain.high));
            } else {
                wrong += u32::from(!verdict.shifts.is_empty());
            }
        }
    }
    let part = |count: u32| 100.0 * f64::from(count) / 200.0;
    measured.add(
        format!(
            "named in {:.1} % of 200 deploys, first in {:.1} %, its gain within the interval in {:.1} %",
            part(named),
            part(first),
            part(covered)
        ),
        part(named) >= 95.0 && part(first) >= 95.0,
    );
    measured.add(
        format!(
            "{:.1} % of 200 without a change name a function",
            part(wrong)
        ),
        part(wrong) <= 5.0,
    );
    measured
}
