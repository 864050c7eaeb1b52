//! Two ranges against each other, beside one of them alone.

use std::time::Duration;

use super::lab::{Lab, SERVICE, flame_path, ranges};
use super::{Measured, RANGE_TIME};
use crate::http::Http;
use crate::quantile::millis;

/// How a diff is asked for: the same range, a range of its length before it.
fn path(range: &str) -> String {
    format!("/api/v1/diff?service={SERVICE}&since={range}&before={range}&format=json")
}

pub(super) async fn measure(lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    let settings = lab.settings().clone();
    let month = lab.month().await?;
    let mut http = Http::connect(&month.server.url()).await?;
    for range in ranges(&settings).filter(|range| *range != "30d") {
        let asked = path(range);
        let reply = http.get(&asked).await?;
        if reply.status != 200 {
            measured.miss(range, "the collector does not answer /api/v1/diff");
            continue;
        }
        let single = flame_path(SERVICE, range, "");
        let one = http
            .measure(settings.queries, RANGE_TIME, |_| single.clone())
            .await?;
        let diff = http
            .measure(settings.queries, RANGE_TIME, |_| asked.clone())
            .await?;
        let limit = 2 * one.p50 + Duration::from_millis(1);
        measured.add(
            format!(
                "{range} p50 {} ms, one query {} ms",
                millis(diff.p50),
                millis(one.p50)
            ),
            diff.p50 <= limit,
        );
    }
    Ok(measured)
}
