//! Windows that a collector takes per second of its CPU time: durable, with
//! feature rows, flushes and compaction.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use collector::time_range::rfc3339;
use proto::window::{UnixNanos, Window};
use tokio::task::JoinSet;

use super::Measured;
use super::lab::{Lab, NOW, SERVICE, SETTLE};
use crate::child::Server;
use crate::compare;
use crate::corpus::{Corpus, Slot};
use crate::fleet::{Advance as _, Grain, Service};
use crate::http::{Http, escaped};
use crate::ledger::{Entry, Ledger};
use crate::pprof_files;
use crate::pyroscope::slots;
use crate::recorded::{RECORDED, Recorded};

const STREAM_TARGET: f64 = 20_000.0;
const PPROF_TARGET: f64 = 700.0;
/// Virtual time of the pprof files: 60 from each pod.
const PPROF_LENGTH: Duration = Duration::from_secs(600);
/// How often each recorded profile is pushed.
const RECORDED_ROUNDS: u32 = 100;
/// Requests under way at a time.
const CONNECTIONS: usize = 8;
const CONTENT_TYPE: &str = "application/octet-stream";

pub(super) async fn measure(lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    let hours = lab.hours().await?;
    let batch = hours.counts.windows / hours.counts.batches.max(1);
    let windows = f64::from(u32::try_from(hours.counts.windows).unwrap_or(u32::MAX));
    let per_core = windows / hours.cpu.as_secs_f64().max(1e-3);
    measured.add(
        format!(
            "stream {per_core:.0} windows/s per core ({} windows, {batch} a batch, {:.1} CPU s, {:.1} s wall)",
            hours.counts.windows,
            hours.cpu.as_secs_f64(),
            hours.counts.wall.as_secs_f64()
        ),
        per_core >= STREAM_TARGET,
    );
    if hours.counts.is_refused() || !hours.is_settled {
        measured.add(
            format!("{}; settled: {}", hours.counts, hours.is_settled),
            hours.is_settled,
        );
    }
    let start = hours
        .end
        .saturating_sub(Duration::from_secs(30 * super::lab::DAY_S));
    let range = Window::new(start, hours.end)?;
    let agreed = compare::all(&hours.server.url(), hours.fleet.ledger(), range).await?;
    measured.add(format!("{agreed} samples agree stack by stack"), agreed > 0);
    plain_pprof(lab, &mut measured).await?;
    Ok(measured)
}

/// The same windows as gzipped pprof files, each a request of its own.
async fn plain_pprof(lab: &mut Lab, measured: &mut Measured) -> anyhow::Result<()> {
    lab.stop_hours().await?;
    let service = lab.service(lab.settings().pods);
    let span = Window::new(NOW, NOW.saturating_add(PPROF_LENGTH))?;
    let mut server = lab.fresh("pprof", NOW).await?;
    let before = server.usage()?.cpu;
    let mut ledger = Ledger::new();
    let (mut windows, mut at) = (0_u32, span.start());
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Http::connect(&server.url()).await?);
    }
    while at < span.end() {
        let end = at.saturating_add(Grain::FINE.length());
        server.advance(end).await?;
        let step: Vec<Slot> = slots(&service, Window::new(at, end)?).collect();
        let mut pushes = JoinSet::new();
        let share = step.len().div_ceil(CONNECTIONS).max(1);
        for (http, slots) in connections.drain(..).zip(step.chunks(share)) {
            pushes.spawn(push(http, Arc::clone(&service), slots.to_vec()));
        }
        while let Some(pushed) = pushes.join_next().await {
            let (http, entries) = pushed??;
            connections.push(http);
            for (pod, entry) in entries {
                windows += 1;
                ledger.extend(SERVICE, pod, [entry]);
            }
        }
        at = end;
    }
    server.settle(SETTLE).await?;
    let cpu = server.usage()?.cpu.saturating_sub(before).as_secs_f64();
    let per_core = f64::from(windows) / cpu.max(1e-3);
    let agreed = compare::all(&server.url(), &ledger, span).await?;
    measured.add(
        format!(
            "pprof {per_core:.0} windows/s per core ({windows} windows, {cpu:.1} CPU s), {agreed} samples agree"
        ),
        per_core >= PPROF_TARGET,
    );
    recorded(&mut server, span.end(), measured).await?;
    server.stop().await
}

/// Profiles of real programs, one after the other, each a service of its own.
async fn recorded(
    server: &mut Server,
    from: UnixNanos,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    let mut http = Http::connect(&server.url()).await?;
    let before = server.usage()?.cpu;
    let (mut at, mut windows) = (from, 0_u32);
    for round in 1..=RECORDED_ROUNDS {
        server
            .advance(at.saturating_add(Grain::FINE.length()))
            .await?;
        for Recorded { name, bytes } in RECORDED {
            let from = rfc3339(at);
            let path = format!("/api/v1/ingest?service={name}&from={from}&id={name}/{round}");
            let file = Bytes::from_static(bytes);
            let reply = http.post(&path, CONTENT_TYPE, file).await?;
            reply.ok().with_context(|| format!("pushing {name}"))?;
            windows += 1;
        }
        at = at.saturating_add(Grain::FINE.length());
    }
    server.settle(SETTLE).await?;
    let cpu = server.usage()?.cpu.saturating_sub(before).as_secs_f64();
    let per_core = f64::from(windows) / cpu.max(1e-3);
    measured.add(
        format!("recorded pprof {per_core:.0} windows/s per core ({windows} windows)"),
        per_core >= PPROF_TARGET,
    );
    Ok(())
}

/// Sends a window after the other over one connection.
async fn push(
    mut http: Http,
    service: Arc<Service>,
    slots: Vec<Slot>,
) -> anyhow::Result<(Http, Vec<(u32, Entry)>)> {
    let mut entries = Vec::with_capacity(slots.len());
    for slot in slots {
        let labels = Corpus::labels(&service.name, slot.pod);
        let own = labels.iter().filter(|(name, _)| *name != "service");
        let own = own.map(|(name, value)| format!("&label.{name}={}", escaped(value)));
        let path = format!(
            "/api/v1/ingest?service={}{}",
            service.name,
            own.collect::<String>()
        );
        let file = pprof_files::window(&service.corpus, &service.name, slot, Grain::FINE);
        let reply = http.post(&path, CONTENT_TYPE, Bytes::from(file)).await?;
        reply.ok().context("pushing a window")?;
        entries.push((slot.pod, service.corpus.entry(slot)));
    }
    Ok((http, entries))
}
