//! Many services at once, each with a program of its own, and the first
//! question about one of them after a restart.

use std::sync::Arc;
use std::time::Duration;

use proto::window::Window;

use super::Measured;
use super::lab::{Lab, NOW, SETTLE, flame_path};
use crate::child::Server;
use crate::corpus::Corpus;
use crate::fleet::{Fleet, Grain, Service};
use crate::http::Http;
use crate::program::Shape;
use crate::quantile::{Quantiles, millis};

const PODS: u32 = 10;
const STACKS: usize = 2_000;
/// Most history that is pushed.
const SPAN: Duration = Duration::from_secs(7_200);
/// Nothing more is begun after this long. Streams stay open for all of it, as those
/// of agents do.
const PUSH_TIME: Duration = Duration::from_secs(240);
/// Services that are asked about once after the restart.
const ASKED: u32 = 50;
const RSS_TARGET: u64 = 512 << 20;
const COLD_TARGET: Duration = Duration::from_millis(200);
const RATE_TARGET: f64 = 10_000.0;

fn name(number: u32) -> String {
    format!("service-{number:04}")
}

fn services(count: u32) -> Vec<Arc<Service>> {
    let shape = Shape::MEDIUM.with_stacks(STACKS);
    let numbers = 0..count;
    numbers
        .map(|number| Service::new(name(number), Corpus::new(shape, u64::from(number)), PODS))
        .collect()
}

pub(super) async fn measure(lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    lab.stop_hours().await?;
    let count = lab.settings().services;
    let start = NOW.saturating_sub(SPAN);
    let mut server = lab.fresh("services", start).await?;
    let mut fleet = Fleet::new(&services(count), start)?;
    let before = server.usage()?.cpu;
    let (url, span) = (server.url(), Window::new(start, NOW)?);
    let replayed = fleet.replay_for(
        &url,
        span,
        Grain::FINE,
        lab.sending(),
        &mut server,
        PUSH_TIME,
    );
    let (counts, at) = replayed.await?;
    let windows = counts.windows;
    server.settle(SETTLE).await?;
    let used = server.usage()?;
    let cpu = used.cpu.saturating_sub(before).as_secs_f64().max(1e-3);
    let per_core = f64::from(u32::try_from(windows).unwrap_or(u32::MAX)) / cpu;
    measured.add(
        format!("{} services: RSS {} MiB", count, used.peak_rss_bytes >> 20),
        used.peak_rss_bytes <= RSS_TARGET,
    );
    measured.add(
        format!(
            "{per_core:.0} windows/s per core ({windows} windows, streams {} for {} agents)",
            counts.streams,
            fleet.len()
        ),
        per_core >= RATE_TARGET,
    );
    server.stop().await?;
    let server = Server::start(&lab.server_config("services", at)).await?;
    let mut http = Http::connect(&server.url()).await?;
    let mut times = Vec::new();
    let asked = ASKED.min(count);
    for turn in 0..asked {
        let service = name(turn * (count / asked));
        let reply = http.get(&flame_path(&service, "1h", "")).await?.ok()?;
        times.push(reply.took);
    }
    let times = Quantiles::of(times);
    measured.add(
        format!(
            "cold query p50 {} max {} ms",
            millis(times.p50),
            millis(times.max)
        ),
        times.max <= COLD_TARGET,
    );
    server.stop().await?;
    Ok(measured)
}
