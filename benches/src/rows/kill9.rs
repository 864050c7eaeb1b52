//! Sudden ends at every kind of place, with the ledger in this process; and how
//! soon a large database answers after one.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;

use super::Measured;
use super::lab::{HOUR_S, Lab, NOW, SERVICE, empty, flame_path};
use crate::child::Server;
use crate::http::Http;
use crate::kills;
use crate::process;
use crate::quantile::millis;

const NAME: &str = "kill";
const SEED: u64 = 9;
/// Virtual time of all rounds together, at most.
const LENGTH: Duration = Duration::from_secs(100 * 24 * HOUR_S);
const FIRST_ANSWER: Duration = Duration::from_secs(2);

pub(super) async fn measure(lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    lab.stop_hours().await?;
    let config = lab.server_config(NAME, NOW.saturating_sub(LENGTH));
    empty(&config.data)?;
    let wanted = lab.settings().kills;
    match kills::run(config, wanted, SEED).await {
        Ok(tale) => {
            let missed = tale.missed();
            measured.add(tale.to_string(), tale.kills >= wanted && missed.is_empty());
            if !missed.is_empty() {
                measured.add(format!("never reached: {}", missed.join(", ")), false);
            }
        }
        Err(error) => measured.add(format!("{error:#}"), false),
    }
    restart(lab, &mut measured).await?;
    Ok(measured)
}

/// Kills a collector with history and asks it at once: the month where an
/// earlier row filled one, else what the kills left.
async fn restart(lab: &mut Lab, measured: &mut Measured) -> anyhow::Result<()> {
    let is_month = lab.has_month();
    let (name, path) = match is_month {
        true => ("month", flame_path(SERVICE, "30d", "")),
        false => (NAME, flame_path(NAME, "100d", "")),
    };
    let config = lab.server_config(name, NOW);
    let killed = match is_month {
        true => lab.take_month().await?.server,
        false => Server::start(&config).await?,
    };
    killed.kill().await?;
    let bytes = process::disk_bytes(&config.data);
    let began = Instant::now();
    let server = Server::start(&config).await?;
    let mut http = Http::connect(&server.url()).await?;
    let answer = http.get(&path).await?.ok();
    answer.context("the first question after a restart")?;
    let took = began.elapsed();
    measured.add(
        format!(
            "first answer after {} ms at {:.1} GB",
            millis(took),
            giga(bytes)
        ),
        took <= FIRST_ANSWER,
    );
    match is_month {
        true => lab.put_month(server),
        false => server.stop().await?,
    }
    Ok(())
}

fn giga(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1_000_000).unwrap_or(u32::MAX)) / 1_000.0
}
