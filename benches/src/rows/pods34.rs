//! The flame graph of a third of the pods, picked by a regular expression so
//! that no group that was added up beforehand serves it.

use std::time::Duration;

use super::lab::{DAY_S, Lab, NOW, SERVICE, flame_path};
use super::{Measured, RANGE_TIME, add_times};
use crate::http::{Http, escaped};

const UNALIGNED: Duration = Duration::from_millis(150);
const WHOLE_DAYS: Duration = Duration::from_millis(60);

/// Every third pod, beginning with the first: 34 of 100.
fn selector(pods: u32) -> String {
    let numbers: Vec<String> = (0..pods).step_by(3).map(|pod| pod.to_string()).collect();
    format!("{{pod=~\"{SERVICE}-({})\"}}", numbers.join("|"))
}

/// Midnights around the seven whole days before now, in RFC 3339.
fn whole_days() -> (String, String) {
    let midnight = NOW.floor(Duration::from_secs(DAY_S));
    let text = |days: u64| {
        let time = midnight.saturating_sub(Duration::from_secs(days * DAY_S));
        let since = Duration::from_secs(u64::try_from(time.seconds()).unwrap_or(0));
        humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
    };
    (text(7), text(0))
}

pub(super) async fn measure(lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    let settings = lab.settings().clone();
    let month = lab.month().await?;
    let mut http = Http::connect(&month.server.url()).await?;
    let selector = selector(settings.pods);
    let (since, until) = whole_days();
    let aligned = format!(
        "{}&until={}",
        flame_path(SERVICE, &escaped(&since), &selector),
        escaped(&until)
    );
    for (name, path, target) in [
        ("7d", flame_path(SERVICE, "7d", &selector), UNALIGNED),
        ("7 whole days", aligned, WHOLE_DAYS),
    ] {
        let times = http
            .measure(settings.queries, RANGE_TIME, |_| path.clone())
            .await?;
        add_times(&mut measured, name, times, settings.queries, target, None);
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_four_of_a_hundred_pods_are_picked() {
        let picked: proto::labels::Selector = selector(100).parse().unwrap();
        let count = (0..100)
            .filter(|pod| picked.accepts(&crate::corpus::Corpus::labels(SERVICE, *pod)))
            .count();
        assert_eq!(count, 34);
    }

    #[test]
    fn whole_days_end_at_midnight() {
        let (since, until) = whole_days();
        assert_eq!(
            (since.as_str(), until.as_str()),
            ("2026-03-11T00:00:00Z", "2026-03-18T00:00:00Z")
        );
    }
}
