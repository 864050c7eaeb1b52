//! From when a batch is due until its acknowledgement, at 500 windows a second
//! whatever the answers do.

use std::time::Duration;

use super::Measured;
use super::lab::{Hours, Lab};
use crate::fleet::{Counts, Sending};
use crate::quantile::Quantiles;

const RATE: f64 = 500.0;
/// Streams have named most of their stacks by then.
const WARM_UP: Duration = Duration::from_secs(30);
const START: Duration = Duration::from_secs(5);
const LENGTH: Duration = Duration::from_secs(60);
const P50: Duration = Duration::from_millis(5);
const P99: Duration = Duration::from_millis(25);

pub(super) async fn measure(lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    let hours = lab.hours().await?;
    // All streams begin at one moment, as when a collector starts again.
    let start = time(hours, [Duration::ZERO, START]).await?;
    let counts = time(hours, [WARM_UP, LENGTH]).await?;
    let is_refused = counts.is_refused();
    let times = Quantiles::of(counts.ack_times);
    measured.add(
        format!(
            "{times} over {} windows, one a batch; the first {} s of 100 streams that begin at once: {}",
            times.count,
            START.as_secs(),
            Quantiles::of(start.ack_times),
        ),
        times.count > 0 && times.p50 <= P50 && times.p99 <= P99 && !is_refused,
    );
    Ok(measured)
}

/// Sends at the rate, timed after a while.
async fn time(hours: &mut Hours, [warm_up, length]: [Duration; 2]) -> anyhow::Result<Counts> {
    let url = hours.server.url();
    let counts = hours
        .fleet
        .steady(
            &url,
            hours.end,
            RATE,
            [warm_up, length],
            Sending::default(),
            &mut hours.server,
        )
        .await?;
    // Every pod sent as many windows as there were turns, and one more.
    let turns = RATE * (warm_up + length).as_secs_f64() / f64::from(hours.service.pods.max(1));
    hours.end = hours
        .end
        .saturating_add(Duration::from_secs_f64((turns.ceil() + 2.0) * 10.0));
    Ok(counts)
}
