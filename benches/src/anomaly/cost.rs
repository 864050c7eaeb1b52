//! What looking at services costs the collector.

use anyhow::Context as _;
use collector::detect::shift::baseline::Baseline;
use collector::detect::shift::{ShiftSettings, ShiftState};
use collector::feature::ServiceRow;
use collector::feature::coarse::Grain;

use super::service::{Nuisance, Service, TEN_MINUTES_S};
use crate::process;
use crate::rows::Measured;

/// Rows that a look reads: of a baseline of seven days, of ten minutes, of an hour.
const BASELINE_ROWS: u64 = 21;
const FINE_ROWS: u64 = 10 + 6 + 1;
/// Looks that are timed.
const LOOKS: u32 = 1_000;

/// CPU time of this process in seconds.
fn cpu_s() -> anyhow::Result<f64> {
    Ok(process::usage(std::process::id())?.cpu.as_secs_f64())
}

/// Looks at one service again and again: decodes what a look decodes, finds what is
/// expected, and judges ten minutes, and an hour each sixth time.
///
/// # Errors
///
/// When a row cannot be read back.
pub fn measure(seed: u64) -> anyhow::Result<Measured> {
    let mut service = Service::new(seed, 10, 0.03, Nuisance::None);
    let rows: Vec<ServiceRow> = (0..u64::from(LOOKS))
        .map(|look| service.ten_minutes(1_000_000_800 + look * TEN_MINUTES_S, |_| 1.0))
        .collect();
    let bytes: Vec<Vec<u8>> = rows.iter().map(ServiceRow::encode).collect();
    let mut state = ShiftState::default();
    let began = cpu_s()?;
    for look in 0..LOOKS {
        let mut read = Vec::new();
        for back in 0..BASELINE_ROWS + FINE_ROWS {
            let place = (u64::from(look) + back) % u64::from(LOOKS);
            let place = usize::try_from(place).unwrap_or(0);
            let bytes = bytes.get(place).context("no such row")?;
            read.push(ServiceRow::decode(bytes)?);
        }
        let hours = usize::try_from(BASELINE_ROWS).unwrap_or(0);
        let reach = collector::detect::shift::baseline::Reach::Days;
        let baseline = Baseline::new(read.get(..hours).unwrap_or(&[]), reach);
        let row = rows.get(usize::try_from(look).unwrap_or(0));
        let row = row.context("no such row")?;
        let settings = ShiftSettings::default();
        if look % 6 == 5 {
            state.step(Grain::Hour, row, baseline.as_ref(), &settings);
        }
        state.step(Grain::TenMinutes, row, baseline.as_ref(), &settings);
    }
    let each_s = (cpu_s()? - began) / f64::from(LOOKS);
    let share = each_s * 1_000.0 / f64::from(u32::try_from(TEN_MINUTES_S).unwrap_or(1));
    let mut measured = Measured::nothing();
    measured.add(
        format!(
            "changes of functions: {:.2} ms of CPU time a service each ten minutes, {:.2} % of a core for 1000 services (reading the rows from disk apart)",
            each_s * 1e3,
            share * 100.0
        ),
        share <= 0.02,
    );
    Ok(measured)
}
