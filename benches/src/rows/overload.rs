//! Ten times what the collector takes, while many ask for all of its history.

use std::time::Duration;

use proto::window::Window;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Measured;
use super::lab::{DAY_S, Lab, NOW, SERVICE, SETTLE, flame_path};
use crate::child::Server;
use crate::compare;
use crate::corpus::Corpus;
use crate::fleet::{Fleet, Grain, Manners, Sending, Service};
use crate::http::Http;
use crate::program::Shape;

const PODS: u32 = 200;
const ASKERS: usize = 200;
const NAME: &str = "overload";
/// How long the rate that is taken is measured.
const CALIBRATION: Duration = Duration::from_secs(600);
const RSS_TARGET: u64 = 512 << 20;
const REFUSED: &str = "tepui_ingest_refused_batches_total";
const REFUSAL_PAUSE: Duration = Duration::from_millis(100);

/// What one asker got: answers, refusals, and failures of the connection.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    answered: u64,
    refused: u64,
    failed: u64,
}

/// Asks again and again until `end`.
async fn ask(url: String, path: String, end: Instant) -> Asked {
    let mut asked = Asked::default();
    let mut http = None;
    while Instant::now() < end {
        let connected = match http.take() {
            Some(connected) => Ok(connected),
            None => Http::connect(&url).await,
        };
        let reply = match connected {
            Ok(mut connected) => {
                let reply = connected.get(&path).await;
                http = Some(connected);
                reply
            }
            Err(error) => Err(error),
        };
        match reply {
            Ok(reply) if reply.status == 200 => asked.answered += 1,
            Ok(_) => {
                asked.refused += 1;
                tokio::time::sleep(REFUSAL_PAUSE).await;
            }
            Err(_) => {
                asked.failed += 1;
                http = None;
                tokio::time::sleep(REFUSAL_PAUSE).await;
            }
        }
    }
    asked
}

/// The sum of all metrics that begin with `name`.
fn sum(text: &str, name: &str) -> u64 {
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

pub(super) async fn measure(lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    let length = lab.settings().overload;
    // Started anew, so that its peak memory is of this row alone.
    lab.take_month().await?.server.stop().await?;
    let now = NOW.saturating_add(Duration::from_secs(DAY_S));
    let mut server = Server::start(&lab.server_config("month", now)).await?;
    let url = server.url();
    let service = Service::new(NAME, Corpus::new(Shape::MEDIUM, 9), PODS);
    let mut fleet = Fleet::new(&[service], now)?;
    let sending = Sending {
        batch: lab.settings().batch,
        in_flight: 8,
        manners: Manners::Polite,
    };
    let span = Window::new(now, now.saturating_add(CALIBRATION))?;
    let taken = fleet
        .replay(&url, span, Grain::FINE, sending, &mut server)
        .await?;
    let windows = f64::from(u32::try_from(taken.windows).unwrap_or(u32::MAX));
    let rate = 10.0 * windows / taken.wall.as_secs_f64().max(1e-3);

    let end = Instant::now() + length;
    let mut askers = JoinSet::new();
    for _ in 0..ASKERS {
        let path = flame_path(SERVICE, "30d", "");
        askers.spawn(ask(url.clone(), path, end));
    }
    let rude = Sending {
        manners: Manners::Rude,
        in_flight: 16,
        ..sending
    };
    let counts = fleet
        .overload(&url, span.end(), rate, length, rude, &mut server)
        .await;
    let mut asked = Asked::default();
    while let Some(one) = askers.join_next().await {
        let one = one?;
        asked.answered += one.answered;
        asked.refused += one.refused;
        asked.failed += one.failed;
    }
    let counts = counts?;
    let used = server.usage()?;
    measured.add(
        format!(
            "{rate:.0} windows/s offered for {} s: RSS {} MiB",
            length.as_secs(),
            used.peak_rss_bytes >> 20
        ),
        used.peak_rss_bytes <= RSS_TARGET,
    );
    let told = Http::connect(&url).await?.get("/metrics").await?.ok()?;
    let told = sum(&String::from_utf8_lossy(&told.body), REFUSED);
    let seen: u64 = counts
        .refused_batches
        .values()
        .chain(taken.refused_batches.values())
        .sum();
    measured.add(
        format!(
            "{} of {seen} refusals counted by the collector, {} windows held back by streams",
            told, counts.held_back_windows
        ),
        told == seen,
    );
    measured.add(
        format!(
            "queries {} answered, {} refused, {} failed",
            asked.answered, asked.refused, asked.failed
        ),
        asked.answered > 0 && asked.failed == 0,
    );
    server.settle(SETTLE).await?;
    let everything = Window::new(now, now.saturating_add(Duration::from_secs(365 * DAY_S)))?;
    match compare::all(&url, fleet.ledger(), everything).await {
        Ok(samples) => measured.add(format!("{samples} acked samples present"), samples > 0),
        Err(error) => measured.add(format!("{error:#}"), false),
    }
    lab.put_month(server);
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_all_labels_are_added() {
        let text = format!(
            "# TYPE {REFUSED} counter\n{REFUSED}{{reason=\"a\"}} 3\n{REFUSED}{{reason=\"b\"}} 4\nother 9\n"
        );
        assert_eq!(sum(&text, REFUSED), 7);
    }
}
