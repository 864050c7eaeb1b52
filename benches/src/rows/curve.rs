//! Query time against range and pods, and ingest against pods and services,
//! as plots. Nobody can judge a curve but a reader, so the row gives the
//! factors and is `ok` when they stay below the design's.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use proto::window::Window;

use super::Measured;
use super::lab::{DAY_S, HOUR_S, Lab, NOW, SERVICE, SETTLE, flame_path};
use super::pod::turn;
use crate::corpus::{Corpus, pod_name};
use crate::fleet::{Fleet, Grain, Service};
use crate::http::Http;
use crate::plot::{Axis, Curve, Plot, Scale};
use crate::program::Shape;

const QUERIES: usize = 50;
const POINT_TIME: Duration = Duration::from_secs(30);
const RANGES_H: [u32; 8] = [1, 3, 12, 24, 72, 168, 336, 720];
const PODS: [u32; 5] = [1, 3, 10, 34, 100];
/// Pods of one service, then services of ten pods.
const INGEST_PODS: [u32; 4] = [10, 30, 100, 300];
const INGEST_SERVICES: [u32; 4] = [1, 3, 10, 30];
/// Windows of each ingest point for each pod of the full measurement, about.
const INGEST_WINDOWS: u32 = 400;
/// A longer range may cost this much more than an hour.
const RANGE_FACTOR: f64 = 4.0;
/// Ingest may vary this much with pods and services.
const INGEST_FACTOR: f64 = 2.0;

type Points = Vec<(f64, f64)>;

fn axis(title: &str, scale: Scale) -> Axis {
    Axis {
        title: title.to_owned(),
        scale,
    }
}

fn curve(name: &str, points: &Points) -> Curve {
    Curve {
        name: name.to_owned(),
        points: points.clone(),
    }
}

/// The largest value over the smallest.
fn factor(points: &Points) -> f64 {
    let values = || points.iter().map(|point| point.1);
    let low = values().fold(f64::INFINITY, f64::min);
    values().fold(0.0, f64::max) / low.max(1e-9)
}

pub(super) async fn measure(lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    let plots = lab.settings().plots.clone();
    std::fs::create_dir_all(&plots).with_context(|| format!("cannot make {}", plots.display()))?;
    let write = |name: &str, plot: &Plot| {
        let path = plots.join(name);
        std::fs::write(&path, plot.svg())
            .with_context(|| format!("cannot write {}", path.display()))
    };
    let (service, pod) = by_range(lab).await?;
    let plot = Plot {
        title: "Merged flame graph against its range".to_owned(),
        x: axis("hours", Scale::Logarithmic),
        y: axis("p50, milliseconds", Scale::Logarithmic),
        curves: vec![curve("service", &service), curve("one pod", &pod)],
    };
    write("query-range.svg", &plot)?;
    let grown = factor(&service);
    measured.add(
        format!("service by range: factor {grown:.1}"),
        grown <= RANGE_FACTOR,
    );

    let pods = by_pods(lab).await?;
    let plot = Plot {
        title: "Flame graph of 24 h against pods".to_owned(),
        x: axis("pods", Scale::Logarithmic),
        y: axis("p50, milliseconds", Scale::Logarithmic),
        curves: vec![curve("24 h", &pods)],
    };
    write("query-pods.svg", &plot)?;
    // Linear in the pods at most.
    if let (Some((_, one)), Some((count, all))) = (pods.first(), pods.last()) {
        let times = all / one.max(1e-9);
        measured.add(
            format!("{count} pods cost {times:.1} times one"),
            times <= *count,
        );
    }

    let (by_pods, by_services) = ingest(lab).await?;
    let plot = Plot {
        title: "Ingest against pods and services".to_owned(),
        x: axis(
            "pods of one service, or services of ten pods",
            Scale::Logarithmic,
        ),
        y: axis("windows/s per core", Scale::Linear),
        curves: vec![curve("pods", &by_pods), curve("services", &by_services)],
    };
    write("ingest.svg", &plot)?;
    for (name, points) in [("pods", &by_pods), ("services", &by_services)] {
        let spread = factor(points);
        measured.add(
            format!("ingest by {name}: factor {spread:.1}"),
            spread <= INGEST_FACTOR,
        );
    }
    Ok(measured)
}

async fn by_range(lab: &mut Lab) -> anyhow::Result<(Points, Points)> {
    let settings = lab.settings().clone();
    let month = lab.month().await?;
    let mut http = Http::connect(&month.server.url()).await?;
    let (mut service, mut pod) = (Points::new(), Points::new());
    for hours in RANGES_H
        .into_iter()
        .filter(|hours| *hours <= settings.days * 24)
    {
        let since = format!("{hours}h");
        let path = flame_path(SERVICE, &since, "");
        let times = http.measure(QUERIES, POINT_TIME, |_| path.clone()).await?;
        service.push((hours.into(), times.p50.as_secs_f64() * 1e3));
        let path = |number: usize| {
            let name = pod_name(SERVICE, turn(number, settings.pods));
            flame_path(SERVICE, &since, &format!("{{pod=\"{name}\"}}"))
        };
        let times = http.measure(QUERIES, POINT_TIME, path).await?;
        pod.push((hours.into(), times.p50.as_secs_f64() * 1e3));
    }
    Ok((service, pod))
}

async fn by_pods(lab: &mut Lab) -> anyhow::Result<Points> {
    let pods = lab.settings().pods;
    let month = lab.month().await?;
    let mut http = Http::connect(&month.server.url()).await?;
    let mut points = Points::new();
    for count in PODS.into_iter().filter(|count| *count <= pods) {
        let names: Vec<String> = (0..count).map(|pod| pod.to_string()).collect();
        let selector = format!("{{pod=~\"{SERVICE}-({})\"}}", names.join("|"));
        let path = flame_path(SERVICE, "24h", &selector);
        let times = http.measure(QUERIES, POINT_TIME, |_| path.clone()).await?;
        points.push((count.into(), times.p50.as_secs_f64() * 1e3));
    }
    Ok(points)
}

async fn ingest(lab: &mut Lab) -> anyhow::Result<(Points, Points)> {
    // Stopped, so that the core is free; started again by who needs it.
    lab.take_month().await?.server.stop().await?;
    let mut by_pods = Points::new();
    for pods in INGEST_PODS {
        let service = lab.service(pods);
        by_pods.push((pods.into(), ingest_point(lab, vec![service]).await?));
    }
    let mut by_services = Points::new();
    for count in INGEST_SERVICES {
        let shape = Shape::MEDIUM.with_stacks(2_000);
        let services = (0..count).map(|number| {
            let corpus = Corpus::new(shape, u64::from(number));
            Service::new(format!("service-{number}"), corpus, 10)
        });
        by_services.push((count.into(), ingest_point(lab, services.collect()).await?));
    }
    let server = crate::child::Server::start(&lab.server_config("month", NOW)).await?;
    lab.put_month(server);
    Ok((by_pods, by_services))
}

/// Windows per second and core.
async fn ingest_point(lab: &Lab, services: Vec<Arc<Service>>) -> anyhow::Result<f64> {
    let agents: u32 = services.iter().map(|service| service.pods).sum();
    let windows = INGEST_WINDOWS.saturating_mul(lab.settings().pods);
    let steps = (windows / agents.max(1)).max(20);
    let length = (Grain::FINE.length() * steps).min(Duration::from_secs(20 * DAY_S));
    let start = NOW.saturating_sub(length.max(Duration::from_secs(HOUR_S)));
    let mut server = lab.fresh("curve", start).await?;
    let mut fleet = Fleet::new(&services, start)?;
    let before = server.usage()?.cpu;
    let url = server.url();
    let span = Window::new(start, start.saturating_add(length))?;
    let counts = fleet
        .replay(&url, span, Grain::FINE, lab.sending(), &mut server)
        .await?;
    server.settle(SETTLE).await?;
    let cpu = server.usage()?.cpu.saturating_sub(before);
    server.stop().await?;
    let windows = f64::from(u32::try_from(counts.windows).unwrap_or(u32::MAX));
    Ok(windows / cpu.as_secs_f64().max(1e-3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_is_of_the_extremes() {
        assert_eq!(factor(&vec![(1.0, 2.0), (2.0, 6.0), (3.0, 3.0)]), 3.0);
    }
}
