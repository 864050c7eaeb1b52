//! Windows that a collector takes per second of its CPU time: durable, with
//! feature rows, flushes and compaction.

use proto::window::Window;

use super::Measured;
use super::lab::Lab;
use crate::compare;

const STREAM_TARGET: f64 = 20_000.0;

pub(super) async fn measure(lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    let batch = lab.settings().batch;
    let hours = lab.hours().await?;
    let windows = f64::from(u32::try_from(hours.counts.windows).unwrap_or(u32::MAX));
    let per_core = windows / hours.cpu.as_secs_f64().max(1e-3);
    measured.add(
        format!(
            "stream {per_core:.0} windows/s per core ({} windows, {batch} a batch, {:.1} CPU s, {:.1} s wall)",
            hours.counts.windows,
            hours.cpu.as_secs_f64(),
            hours.counts.wall.as_secs_f64()
        ),
        per_core >= STREAM_TARGET,
    );
    if hours.counts.is_refused() || !hours.is_settled {
        measured.add(
            format!("{}; settled: {}", hours.counts, hours.is_settled),
            hours.is_settled,
        );
    }
    let start = hours
        .end
        .saturating_sub(std::time::Duration::from_secs(30 * super::lab::DAY_S));
    let range = Window::new(start, hours.end)?;
    let agreed = compare::all(&hours.server.url(), hours.fleet.ledger(), range).await?;
    measured.add(format!("{agreed} samples agree stack by stack"), agreed > 0);
    plain_pprof(&mut measured);
    Ok(measured)
}

/// Plain pprof files: the collector has no door for them yet. With one, this
/// pushes `pprof_files::window` of each slot and divides as above; the target
/// is 700.
fn plain_pprof(measured: &mut Measured) {
    measured.miss("plain pprof", "the collector takes no pprof files yet");
}
