//! Dropping a day that is past its retention.

use std::time::Duration;

use tokio::time::Instant;

use super::Measured;
use super::lab::{DAY_S, Lab, NOW};
use crate::fleet::Advance;
use crate::http::Http;
use crate::quantile::millis;

/// What the collector tells of its longest drop, in seconds.
const METRIC: &str = "tepui_store_drop_seconds_max";
/// A collector looks for old days about once a minute.
const LONGEST: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const TARGET: Duration = Duration::from_millis(100);

/// The value of the first metric that begins with `name`.
pub(super) fn metric(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

pub(super) async fn measure(lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    let month = lab.month().await?;
    let mut http = Http::connect(&month.server.url()).await?;
    let first = http.get("/metrics").await?.ok()?;
    let told = |body: &[u8]| metric(&String::from_utf8_lossy(body), METRIC);
    if told(&first.body).is_none() {
        measured.miss("drop", "the collector does not tell how long a drop took");
        return Ok(measured);
    }
    let before = month.server.disk_bytes();
    // Retention is a day longer than the history.
    let later = NOW.saturating_add(Duration::from_secs(2 * DAY_S));
    month.server.advance(later).await?;
    let began = Instant::now();
    while began.elapsed() < LONGEST {
        tokio::time::sleep(LOOK_EVERY).await;
        let body = http.get("/metrics").await?.ok()?.body;
        if let Some(seconds) = told(&body)
            && seconds > 0.0
        {
            let took = Duration::from_secs_f64(seconds);
            let freed = before.saturating_sub(month.server.disk_bytes());
            measured.add(
                format!("{} ms, {} MiB given back", millis(took), freed >> 20),
                took <= TARGET,
            );
            return Ok(measured);
        }
    }
    measured.miss("drop", "no day was dropped");
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_read_with_and_without_labels() {
        let text = "# HELP a_max x\na_max{tier=\"fine\"} 0.25\nb 7\n";
        assert_eq!(metric(text, "a_max"), Some(0.25));
        assert_eq!(metric(text, "b"), Some(7.0));
        assert_eq!(metric(text, "c"), None);
    }
}
