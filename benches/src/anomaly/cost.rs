//! What looking at services costs the collector.

use anyhow::Context as _;
use collector::detect::past::{HOURS, Past};
use collector::detect::shift::baseline::Baseline;
use collector::detect::shift::{ShiftSettings, ShiftState};
use collector::detect::{Thresholds, leak, sibling, silent};
use collector::feature::ServiceRow;
use collector::feature::coarse::Grain;
use collector::feature::pods::{PodTotals, PodsRow};
use proto::window::{UnixNanos, Window};

use super::service::{Nuisance, Service, TEN_MINUTES_S};
use crate::process;
use crate::rows::Measured;

/// Rows that a look reads: of a baseline of seven days, of ten minutes, of an hour.
const BASELINE_ROWS: u64 = 21;
const FINE_ROWS: u64 = 10 + 6 + 1;
/// Looks that are timed.
const LOOKS: u32 = 1_000;

/// Pods of a service of which numbers are judged.
const PODS: u64 = 10;

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
    let each_s = of_pods()?;
    let share = each_s * 1_000.0 / f64::from(u32::try_from(TEN_MINUTES_S).unwrap_or(1));
    measured.add(
        format!(
            "numbers of {PODS} pods: {:.2} ms a service, {:.2} %",
            each_s * 1e3,
            share * 100.0
        ),
        share <= 0.02,
    );
    Ok(measured)
}

/// Looks at the pods of one service again and again: decodes the hours and the ten
/// minutes that a look reads, and judges all of it.
fn of_pods() -> anyhow::Result<f64> {
    let row = |start_s: u64, length_s: u64| -> anyhow::Result<PodsRow> {
        let start = UnixNanos::new(i64::try_from(start_s * 1_000_000_000)?);
        let pod = |series: u64| PodTotals {
            series: series.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            pod: format!("shop-6d5f7c9b8-{series:05}"),
            version: "1.8.3".to_owned(),
            started_ns: 1_700_000_000_000_000_000,
            seen_ns: length_s * 1_000_000_000,
            cpu_ns: length_s * 500_000_000,
            sampled_ns: length_s * 500_000_000,
            rss_bytes: (500 << 20) + start_s * series % 9_999_991,
            threads_count: 20,
        };
        Ok(PodsRow {
            step: Window::from_start(start, length_s * 1_000_000_000)?,
            pods: (1..=PODS).map(pod).collect(),
        })
    };
    let end_s = 1_800_000_000 / 3_600 * 3_600;
    let rows = |count: usize, length_s: u64| -> anyhow::Result<Vec<Vec<u8>>> {
        let ago = 1..=u64::try_from(count)?;
        ago.map(|ago| Ok(row(end_s - ago * length_s, length_s)?.encode()))
            .collect()
    };
    let (tens, hours) = (rows(36, TEN_MINUTES_S)?, rows(HOURS, 3_600)?);
    let settings = Thresholds::default();
    let began = cpu_s()?;
    for _ in 0..LOOKS / 10 {
        let read = |rows: &[Vec<u8>]| -> anyhow::Result<Vec<PodsRow>> {
            rows.iter().map(|row| Ok(PodsRow::decode(row)?)).collect()
        };
        let (tens, hours) = (read(&tens)?, read(&hours)?);
        let past = Past::new(tens.first().context("no row")?, &tens, &hours);
        let found = leak::judge(&past, &settings.leak).len()
            + sibling::judge(&past, &settings.sibling).len()
            + silent::judge(&past, &settings.silent).len();
        anyhow::ensure!(found == 0, "{found} findings where nothing happens");
    }
    Ok((cpu_s()? - began) / f64::from(LOOKS / 10))
}
