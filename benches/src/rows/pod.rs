//! The flame graph of one pod; each query asks for another one.

use std::time::Duration;

use super::lab::{Lab, SERVICE, flame_path, ranges};
use super::{Measured, RANGE_TIME, add_times};
use crate::corpus::pod_name;
use crate::http::Http;

const P50: Duration = Duration::from_millis(15);
/// Steps through the pods so that neighbours do not follow on one another;
/// prime, so that all get a turn.
const STRIDE: usize = 37;

/// The pod that query number `number` asks for.
pub(super) fn turn(number: usize, pods: u32) -> u32 {
    let pods = usize::try_from(pods).unwrap_or(1).max(1);
    u32::try_from(number.wrapping_mul(STRIDE) % pods).unwrap_or(0)
}

pub(super) async fn measure(lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    let settings = lab.settings().clone();
    let month = lab.month().await?;
    let mut http = Http::connect(&month.server.url()).await?;
    for range in ranges(&settings) {
        let path = |number: usize| {
            let pod = pod_name(SERVICE, turn(number, settings.pods));
            flame_path(SERVICE, range, &format!("{{pod=\"{pod}\"}}"))
        };
        let times = http.measure(settings.queries, RANGE_TIME, path).await?;
        add_times(&mut measured, range, times, settings.queries, P50, None);
    }
    Ok(measured)
}
