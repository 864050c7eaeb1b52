//! The merged flame graph of a service over HTTP, with its JSON.

use std::time::Duration;

use super::lab::{Lab, SERVICE, flame_path, ranges};
use super::{Measured, RANGE_TIME, add_times};
use crate::http::Http;

const P99: Duration = Duration::from_millis(50);

pub(super) async fn measure(lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    let settings = lab.settings().clone();
    let month = lab.month().await?;
    let mut http = Http::connect(&month.server.url()).await?;
    for range in ranges(&settings) {
        let path = flame_path(SERVICE, range, "");
        let times = http
            .measure(settings.queries, RANGE_TIME, |_| path.clone())
            .await?;
        let p50 = Duration::from_millis(if range == "7d" { 30 } else { 15 });
        add_times(
            &mut measured,
            range,
            times,
            settings.queries,
            p50,
            Some(P99),
        );
    }
    Ok(measured)
}
