//! `make bench-anomaly`: one line for each row of the table of the detectors' targets:
//! name, measured, target, and whether it is reached. `--row NAME,NAME` runs some.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::time::Instant;

use anyhow::Context as _;
use benches::anomaly::Row;
use benches::rows::Measured;
use clap::Parser;
use collector::detect::shift::ShiftSettings;

/// Measures the detectors against their targets.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these rows, such as fast,false.
    #[arg(long, value_delimiter = ',')]
    row: Vec<String>,
    /// Where the simulated services begin. Thresholds were chosen with seeds below 1000.
    #[arg(long, default_value_t = 20_261_201)]
    seed: u64,
    /// Services of each figure.
    #[arg(long, default_value_t = 40)]
    repeats: u32,
    /// Settings of changes of functions to try, such as threshold=10.
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

impl Arguments {
    fn settings(&self) -> anyhow::Result<ShiftSettings> {
        let mut settings = ShiftSettings::default();
        for text in &self.settings {
            let (key, value) = text.split_once('=').context("a setting is KEY=VALUE")?;
            let place = match key {
                "slack" => &mut settings.slack,
                "most_errors" => &mut settings.most_errors,
                "threshold" => &mut settings.threshold,
                "min_ratio" => &mut settings.min_ratio,
                "min_gain" => &mut settings.min_gain,
                "fast_errors" => &mut settings.fast_errors,
                "fast_ratio" => &mut settings.fast_ratio,
                "fast_gain" => &mut settings.fast_gain,
                other => anyhow::bail!("there is no setting {other:?} to try"),
            };
            *place = value.parse()?;
        }
        Ok(settings)
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    for name in &arguments.row {
        let known = || Row::ALL.map(Row::name).join(", ");
        Row::named(name).with_context(|| format!("there is no row {name:?}, only {}", known()))?;
    }
    let settings = arguments.settings()?;
    let began = Instant::now();
    for row in Row::ALL {
        let is_meant = arguments.row.is_empty() || arguments.row.iter().any(|n| n == row.name());
        let measured = match is_meant {
            true => row.measure(arguments.seed, arguments.repeats, settings)?,
            false => Measured::nothing(),
        };
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "{} | {measured} | {} | {}",
            row.name(),
            row.target(),
            measured.verdict()
        )?;
        out.flush()?;
    }
    drop(writeln!(
        std::io::stderr(),
        "{:.0} s in all",
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}
