//! Sudden ends at random moments of a load, with the ledger in this process;
//! and how soon a large database answers after one.

use std::time::Duration;

use anyhow::Context as _;
use proto::window::Window;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Measured;
use super::lab::{HOUR_S, Lab, NOW, SERVICE, flame_path};
use crate::child::Server;
use crate::compare;
use crate::corpus::Corpus;
use crate::fleet::{Fleet, Grain, Service};
use crate::http::Http;
use crate::process;
use crate::program::Shape;
use crate::quantile::millis;
use crate::random::Random;

const PODS: u32 = 20;
/// Virtual time of one round; it ends long before.
const ROUND: Duration = Duration::from_secs(HOUR_S);
const LAST: Duration = Duration::from_secs(100);
/// Rounds between two comparisons.
const COMPARE_EVERY: u32 = 20;
const FIRST_ANSWER: Duration = Duration::from_secs(2);

pub(super) async fn measure(lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    match rounds(lab).await {
        Ok((kills, samples, broken)) => measured.add(
            format!(
                "{kills} kills at random moments ({broken} during a load), {samples} acked samples: 0 lost, 0 double"
            ),
            kills >= lab.settings().kills,
        ),
        Err(error) => measured.add(format!("{error:#}"), false),
    }
    restart(lab, &mut measured).await?;
    Ok(measured)
}

/// Kills and restarts; returns kills, samples that agreed in the end, and
/// rounds whose load was cut off.
async fn rounds(lab: &Lab) -> anyhow::Result<(u32, u64, u32)> {
    let kills = lab.settings().kills;
    let start = NOW.saturating_sub(ROUND * (kills + 1));
    let service = Service::new("kill", Corpus::new(Shape::MEDIUM, 5), PODS);
    let mut fleet = Fleet::new(&[service], start)?;
    let mut server = lab.fresh("kill", start).await?;
    let mut config = lab.server_config("kill", start);
    config.port = server.port();
    let mut random = Random::new(9);
    let mut broken = 0;
    for round in 0..kills {
        let from = start.saturating_add(ROUND * round);
        let span = Window::new(from, from.saturating_add(ROUND))?;
        let moment = Duration::from_millis(u64::try_from(random.below(700)).unwrap_or(0) + 100);
        let pid = server.pid();
        let mut killer = JoinSet::new();
        killer.spawn(async move {
            tokio::time::sleep(moment).await;
            process::kill(pid)
        });
        let url = server.url();
        let sent = fleet
            .replay(&url, span, Grain::FINE, lab.sending(), &mut server)
            .await;
        broken += u32::from(sent.is_err());
        killer.join_next().await.context("there is a killer")???;
        server.kill().await?;
        fleet.disconnect();
        config.now = span.end();
        server = Server::start(&config).await?;
        if (round + 1) % COMPARE_EVERY == 0 {
            // What is owed is sent again first, so that nothing is in doubt.
            check(&mut fleet, &mut server, lab, config.now, start).await?;
        }
    }
    let samples = check(&mut fleet, &mut server, lab, config.now, start).await?;
    server.stop().await?;
    Ok((kills, samples, broken))
}

/// Sends what is owed and compares everything.
async fn check(
    fleet: &mut Fleet,
    server: &mut Server,
    lab: &Lab,
    now: proto::window::UnixNanos,
    start: proto::window::UnixNanos,
) -> anyhow::Result<u64> {
    let url = server.url();
    // Within the next round: other starts, so no window is sent twice.
    let from = now.saturating_add(Duration::from_secs(5));
    let span = Window::new(from, from.saturating_add(LAST))?;
    fleet
        .replay(&url, span, Grain::FINE, lab.sending(), server)
        .await?;
    let all = Window::new(start, now.saturating_add(2 * ROUND))?;
    compare::all(&url, fleet.ledger(), all).await
}

/// Kills the collector with a month of history and asks it at once.
async fn restart(lab: &mut Lab, measured: &mut Measured) -> anyhow::Result<()> {
    let month = lab.take_month().await?;
    let bytes = month.server.disk_bytes();
    month.server.kill().await?;
    let began = Instant::now();
    let server = Server::start(&lab.server_config("month", NOW)).await?;
    let mut http = Http::connect(&server.url()).await?;
    http.get(&flame_path(SERVICE, "30d", "")).await?.ok()?;
    let took = began.elapsed();
    measured.add(
        format!(
            "first answer after {} ms at {:.1} GB",
            millis(took),
            giga(bytes)
        ),
        took <= FIRST_ANSWER,
    );
    lab.put_month(server);
    Ok(())
}

fn giga(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1_000_000).unwrap_or(u32::MAX)) / 1_000.0
}
