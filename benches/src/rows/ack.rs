//! From when a batch is due until its acknowledgement, at 500 windows a second
//! whatever the answers do.

use std::time::Duration;

use super::Measured;
use super::lab::Lab;
use crate::fleet::Sending;
use crate::quantile::Quantiles;

const RATE: f64 = 500.0;
const WARM_UP: Duration = Duration::from_secs(5);
const LENGTH: Duration = Duration::from_secs(60);
const P50: Duration = Duration::from_millis(5);
const P99: Duration = Duration::from_millis(25);

pub(super) async fn measure(lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    let hours = lab.hours().await?;
    let url = hours.server.url();
    for length in [WARM_UP, LENGTH] {
        let counts = hours
            .fleet
            .steady(
                &url,
                hours.end,
                RATE,
                length,
                Sending::default(),
                &mut hours.server,
            )
            .await?;
        // Every pod sent as many windows as there were turns, and one more.
        let turns = RATE * length.as_secs_f64() / f64::from(hours.service.pods.max(1));
        hours.end = hours
            .end
            .saturating_add(Duration::from_secs_f64((turns.ceil() + 2.0) * 10.0));
        if length == LENGTH {
            let is_refused = counts.is_refused();
            let windows = counts.windows;
            let times = Quantiles::of(counts.ack_times);
            measured.add(
                format!("{times} over {windows} windows, one a batch"),
                times.count > 0 && times.p50 <= P50 && times.p99 <= P99 && !is_refused,
            );
        }
    }
    Ok(measured)
}
