//! Bytes on disk per window after compaction, beside the same windows as
//! files.

use std::time::Duration;

use proto::window::{UnixNanos, Window};

use super::Measured;
use super::lab::{HOUR_S, Lab, SETTLE};
use crate::pprof_files;
use crate::pyroscope::slots;

/// Windows that are also written as files.
const FILES: usize = 1_000;
const FILES_TIME: Duration = Duration::from_secs(120);

pub(super) async fn measure(lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    let settings = lab.settings().clone();
    let hours = lab.hours().await?;
    hours.server.settle(SETTLE).await?;
    // A collector that cannot be told is measured as it came to rest.
    let compacted = match hours.server.ask("compact").await {
        Ok(_) => "compacted",
        Err(_) => "at rest, compaction not forced",
    };
    let disk_bytes = hours.server.disk_bytes();
    let windows = hours.fleet.ledger().total().windows;
    let per_window = ratio(disk_bytes, windows);
    measured.add(
        format!("{per_window:.0} bytes per window ({windows} windows, {compacted})"),
        disk_bytes > 0 && windows > 0 && per_window <= 1_000.0,
    );
    let start = super::lab::NOW.saturating_sub(Duration::from_secs(HOUR_S) * settings.hours);
    let span = Window::new(start, UnixNanos::new(super::lab::NOW.get()))?;
    let files = slots(&hours.service, span).take(FILES);
    let corpus = &hours.service.corpus;
    let sizes = pprof_files::sizes(corpus, &hours.service.name, files, FILES_TIME)?;
    let gzip = ratio(sizes.gzip_bytes, sizes.windows);
    measured.add(
        format!(
            "1/{:.0} of gzip pprof ({gzip:.0} bytes)",
            gzip / per_window.max(1e-9)
        ),
        per_window * 15.0 <= gzip,
    );
    let floor = ratio(sizes.floor_bytes, sizes.windows);
    measured.add(
        format!(
            "zstd -3 --long floor {:.2} times as large ({floor:.0} bytes, {} windows)",
            floor / per_window.max(1e-9),
            sizes.windows
        ),
        per_window * 4.0 <= floor,
    );
    Ok(measured)
}

fn ratio(bytes: u64, windows: u64) -> f64 {
    let bytes = Duration::from_nanos(bytes).as_secs_f64() * 1e9;
    bytes / f64::from(u32::try_from(windows.max(1)).unwrap_or(u32::MAX))
}
