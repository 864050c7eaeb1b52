//! Spins and real work, minute by minute: shapes of programs that were measured, drawn
//! anew each minute, through the collector's own search and alerts.
//!
//! The shapes are those that the catalogue of wait primitives was written with, so this
//! row is in-sample; the demonstration and the tests run live programs beside it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use collector::alert::{AlertFilter, AlertState, Alerts, Settings};
use collector::detect::catalogue::Catalogue;
use collector::detect::shift::ShiftSettings;
use collector::detect::spin::{SpinDetector, SpinSettings, may_spin, waits};
use collector::feature::{SeriesRow, StepProfile, series_row};
use collector::store::memory::MemoryState;
use collector::tree::CallTree;
use proto::labels::LabelSet;
use proto::profile::Facts;
use proto::stack::{Frame, FrameKind};
use proto::window::{UnixNanos, Window};

use super::service::{normal, poisson};
use crate::Random;
use crate::rows::Measured;

const SHAPES: [&str; 2] = [
    include_str!("../../../collector/src/detect/shapes/go119.folded"),
    include_str!("../../../collector/src/detect/shapes/go126.folded"),
];
/// Programs that spin, each beside a load of 0.2 cores.
const SPINS: [&str; 8] = [
    "select2", "select1", "sendfull", "len", "time", "timer", "trylock", "closed",
];
/// Programs that work.
const WORK: [&str; 7] = [
    "pipeline", "pipebuf", "sha", "gzip", "alloc", "healthy", "light",
];
/// Days of a pod of each program that works.
const POD_DAYS: u64 = 25;
const MINUTE: Duration = Duration::from_secs(60);
const HZ: f64 = 99.0;
/// How much the share of a stack differs from minute to minute.
const MIX: f64 = 0.1;
/// Longest that a spin is waited for.
const HORIZON: u64 = 30;
const LIMIT: u64 = 6;

/// A program as it was measured: stacks root first, with their shares.
struct Program {
    stacks: Vec<(Vec<Frame>, f64)>,
    /// Whether the leaf of each waits.
    waits: Vec<bool>,
    /// The function of the program that most samples are below.
    heaviest: String,
}

fn program(file: &str, name: &str, catalogue: &Catalogue) -> anyhow::Result<Program> {
    let section = file.split("\n== ").find_map(|section| {
        let (found, lines) = section.split_once('\n')?;
        (found == name).then_some(lines)
    });
    let section = section.with_context(|| format!("no program {name}"))?;
    let mut stacks = Vec::new();
    for line in section.lines().filter(|line| !line.is_empty()) {
        let (stack, samples) = line.rsplit_once(' ').context("a line without samples")?;
        let frames = stack.split(';').map(|f| Frame::named(FrameKind::Go, f));
        stacks.push((frames.collect::<Vec<_>>(), samples.parse::<f64>()?));
    }
    let all: f64 = stacks.iter().map(|(_, samples)| samples).sum();
    let mut below: std::collections::BTreeMap<String, f64> = std::collections::BTreeMap::new();
    for (stack, samples) in &mut stacks {
        *samples /= all;
        let mut own = stack.iter().filter(|f| f.function.starts_with("main."));
        let deepest = own.next_back().map(|frame| frame.function.to_string());
        *below.entry(deepest.unwrap_or_default()).or_default() += *samples;
    }
    let heaviest = below.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let waits = stacks
        .iter()
        .map(|(stack, _)| waits(stack.iter().rev().map(|frame| catalogue.role(frame))));
    Ok(Program {
        waits: waits.collect(),
        heaviest: heaviest.map(|(name, _)| name).unwrap_or_default(),
        stacks,
    })
}

impl Program {
    /// What of it is below its heaviest function alone: the loop, without the load that
    /// ran beside it when it was measured.
    fn alone(mut self) -> Self {
        let is_of: Vec<bool> = self
            .stacks
            .iter()
            .map(|(stack, _)| stack.iter().any(|f| *f.function == *self.heaviest))
            .collect();
        let mut kept = is_of.iter();
        self.stacks.retain(|_| kept.next() == Some(&true));
        let mut kept = is_of.iter();
        self.waits.retain(|_| kept.next() == Some(&true));
        let all: f64 = self.stacks.iter().map(|(_, share)| share).sum();
        for (_, share) in &mut self.stacks {
            *share /= all;
        }
        self
    }
}

/// Parts that run beside each other in one pod.
struct Scenario<'a> {
    parts: Vec<(&'a Program, f64)>,
    limit_millicores: u32,
}

/// A pod whose minutes are judged.
struct Pod<'a> {
    scenario: &'a Scenario<'a>,
    alerts: Alerts,
    catalogue: &'a Catalogue,
    settings: SpinSettings,
    random: Random,
    minute: i64,
}

impl<'a> Pod<'a> {
    fn new(
        scenario: &'a Scenario<'a>,
        catalogue: &'a Catalogue,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let settings = Settings {
            step: MINUTE,
            hold: 5 * MINUTE,
            keep: 5 * MINUTE,
            public_url: String::new(),
            hooks: Arc::default(),
            shift: ShiftSettings::default(),
            thresholds: collector::detect::Thresholds::default(),
        };
        let spin = SpinDetector::default();
        let store = Arc::<MemoryState>::default();
        Ok(Self {
            scenario,
            alerts: Alerts::open(store, settings, vec![Box::new(spin)], Arc::default())?,
            catalogue,
            settings: spin.settings,
            random: Random::new(seed),
            minute: 0,
        })
    }

    /// One more minute; the load of its parts is `load`.
    fn step(&mut self, load: f64) -> anyhow::Result<()> {
        let row = self.row(load)?;
        let now = row.step.end().saturating_add(Duration::from_secs(20));
        self.alerts.observe(&[row], now)?;
        self.minute += 1;
        Ok(())
    }

    fn row(&mut self, load: f64) -> anyhow::Result<SeriesRow> {
        let mut drawn = Vec::new();
        let (mut samples, mut waiting) = (0, 0);
        for (program, cores) in &self.scenario.parts {
            let all = cores * load * HZ * MINUTE.as_secs_f64();
            for ((stack, share), waits) in program.stacks.iter().zip(&program.waits) {
                let mix = (MIX * normal(&mut self.random)).exp();
                let count = poisson(&mut self.random, all * share * mix);
                samples += count;
                waiting += if *waits { count } else { 0 };
                drawn.push((stack, count));
            }
        }
        let start = UnixNanos::new(1_780_000_020_000_000_000)
            .saturating_add(MINUTE * u32::try_from(self.minute)?);
        let step = Window::from_start(start, 60_000_000_000)?;
        let labels = LabelSet::new([("service", "logger"), ("pod", "p")])?;
        let mut tree = CallTree::new();
        let facts = Facts {
            cpu_limit_millicores: self.scenario.limit_millicores,
            ..Facts::default()
        };
        let profile = |tree| StepProfile {
            step,
            tenant: "anonymous",
            namespace: "",
            service: "logger",
            labels: &labels,
            samples,
            tree,
            period_ns: 10_101_010,
            observed_ns: 60_000_000_000,
            facts,
        };
        // As the collector does: a tree is only built where a spin may be in it.
        let nothing = CallTree::new();
        if may_spin(waiting, &profile(&nothing), &self.settings) {
            for (stack, count) in drawn {
                tree.add(stack.iter(), i128::from(count));
            }
        }
        Ok(series_row(&profile(&tree), self.catalogue, &self.settings))
    }

    /// What fired: the function that is blamed.
    fn fired(&self) -> Vec<String> {
        let all = self.alerts.list("anonymous", &AlertFilter::default());
        let fired = all
            .into_iter()
            .filter(|alert| alert.state == AlertState::Firing);
        fired.map(|alert| alert.anchor).collect()
    }
}

/// Spins in several surroundings, and pod-days of work.
///
/// # Errors
///
/// When a shape cannot be read.
pub fn measure(seed: u64, repeats: u32) -> anyhow::Result<Measured> {
    let catalogue = Catalogue::built_in()?;
    let mut measured = Measured::nothing();
    let (mut spins, mut in_time, mut right) = (0_u32, 0_u32, 0_u32);
    let mut delays = Vec::new();
    for (version, file) in (0_u64..).zip(SHAPES) {
        let healthy = program(file, "healthy", &catalogue)?;
        for name in SPINS {
            let spin = program(file, name, &catalogue)?.alone();
            let scenarios = [
                // Alone, beside five busy cores, on a busy node, and under half a core.
                Scenario {
                    parts: vec![(&spin, 1.0), (&healthy, 0.2)],
                    limit_millicores: 0,
                },
                Scenario {
                    parts: vec![(&spin, 1.0), (&healthy, 5.0)],
                    limit_millicores: 0,
                },
                Scenario {
                    parts: vec![(&spin, 0.85), (&healthy, 0.2)],
                    limit_millicores: 0,
                },
                Scenario {
                    parts: vec![(&spin, 0.3), (&healthy, 0.2)],
                    limit_millicores: 500,
                },
            ];
            for (place, scenario) in (0_u64..).zip(&scenarios) {
                for repeat in 0..u64::from(repeats / 4) {
                    let seed = Random::of(&[seed, version, place, repeat]).next_u64();
                    let mut pod = Pod::new(scenario, &catalogue, seed)?;
                    spins += 1;
                    for minute in 1..=HORIZON {
                        pod.step(1.0)?;
                        let fired = pod.fired();
                        if let Some(first) = fired.first() {
                            // It is looked at twenty seconds after its minute.
                            delays.push(minute);
                            in_time += u32::from(minute <= LIMIT);
                            right += u32::from(*first == spin.heaviest);
                            break;
                        }
                    }
                }
            }
        }
    }
    delays.sort_unstable();
    let part = |count: u32, of: u32| f64::from(count) / f64::from(of.max(1));
    let p95 = delays
        .get(delays.len() * 95 / 100)
        .or(delays.last())
        .copied();
    let found = u32::try_from(delays.len()).unwrap_or(0);
    measured.add(
        format!(
            "{:.1} % of {spins} spins found, {:.1} % within {LIMIT} min, p95 {} min, right function first in {:.1} %",
            100.0 * part(found, spins),
            100.0 * part(in_time, spins),
            p95.unwrap_or(0),
            100.0 * part(right, found)
        ),
        part(found, spins) >= 0.99 && p95.is_some_and(|p95| p95 <= LIMIT) && right == found,
    );
    let (mut days, mut wrong) = (0, 0);
    for (version, file) in (0_u64..).zip(SHAPES) {
        for (place, name) in (0_u64..).zip(WORK) {
            let work = program(file, name, &catalogue)?;
            let scenario = Scenario {
                parts: vec![(&work, 1.2)],
                limit_millicores: 0,
            };
            for day in 0..POD_DAYS {
                let seed = Random::of(&[seed, 77, version, place, day]).next_u64();
                let mut pod = Pod::new(&scenario, &catalogue, seed)?;
                let mut was_firing = false;
                for minute in 0..1_440_u32 {
                    let hour = f64::from(minute) / 60.0;
                    let load = 1.0 + 0.5 * (std::f64::consts::TAU * hour / 24.0).sin();
                    pod.step(load)?;
                    let is_firing = !pod.fired().is_empty();
                    wrong += u32::from(is_firing && !was_firing);
                    was_firing = is_firing;
                }
                days += 1;
            }
        }
    }
    measured.add(
        format!("{wrong} false in {days} pod-days of work"),
        wrong == 0,
    );
    measured.miss(
        "live programs not used for the catalogue",
        "there is no such part yet",
    );
    Ok(measured)
}
