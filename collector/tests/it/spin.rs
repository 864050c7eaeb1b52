//! A spin is found, told and kept over a restart, end to end: profiles over
//! gRPC in, a webhook out.

use std::sync::Arc;
use std::time::Duration;

use collector::config::Config;
use collector::serve;
use proto::window::{Clock, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::push::{Answer, Pusher, profile};
use crate::receiver::{Manner, Receiver, TAKE};

const INSTANCE: [u8; 16] = [5; 16];
/// Stacks of real programs, recorded; the file says how.
const RECORDED: &str = include_str!("../../src/detect/shapes/go126.folded");
/// Samples of one core in a window of [`crate::push`].
const CORE: i64 = 1_000;

/// The recorded stacks of a program, scaled to `cores`.
pub(crate) fn recorded(shape: &str, cores: i64) -> Vec<(Vec<&'static str>, i64)> {
    let heading = format!("== {shape}\n");
    let (_, section) = RECORDED.split_once(&heading).unwrap();
    let section = section.split("\n== ").next().unwrap();
    let stacks: Vec<(Vec<&str>, i64)> = section
        .lines()
        .map(|line| {
            let (stack, samples) = line.rsplit_once(' ').unwrap();
            (stack.split(';').collect(), samples.parse().unwrap())
        })
        .collect();
    let total: i64 = stacks.iter().map(|(_, samples)| samples).sum();
    let scale = |samples: i64| samples * cores * CORE / total;
    stacks
        .into_iter()
        .map(|(stack, samples)| (stack, scale(samples)))
        .filter(|(_, samples)| *samples > 0)
        .collect()
}

/// Pushes six windows of ten seconds, the last of which ended twenty seconds
/// ago, with these stacks in each.
async fn push(url: &str, service: &str, sequence: u64, stacks: &[(Vec<&str>, i64)]) {
    let mut pusher = Pusher::connect(url, INSTANCE).await.unwrap();
    let samples: Vec<(&[&str], i64)> = stacks.iter().map(|(s, n)| (s.as_slice(), *n)).collect();
    let aligned = SystemClock.now().floor(Duration::from_secs(10));
    let windows: Vec<_> = (3..9)
        .map(|back| aligned.saturating_sub(Duration::from_secs(10 * back)))
        .map(|start| profile(service, start, &samples))
        .collect();
    pusher.send(INSTANCE, sequence, &windows).await;
    match pusher.answer().await.unwrap() {
        Answer::Ack(ack) => assert!(ack.refused.is_empty(), "{ack:?}"),
        Answer::Refusal(refusal) => panic!("{refusal:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spin_beside_five_cores_of_real_work_is_told_with_its_path_and_work_alone_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let busy = Manner::Answer("503 Busy", "");
    let mut received = Receiver::start(&[busy, TAKE]).await;
    let hook_url = received.url();
    let config = || {
        let mut config = Config {
            listen: "127.0.0.1:0".to_owned(),
            data: folder.path().join("data"),
            ..Config::default()
        };
        config.self_profile.enabled = false;
        config.detect.step = Duration::from_secs(10);
        config.detect.hold = Duration::from_secs(30);
        config.hook.url = hook_url.clone();
        config
    };
    let shutdown = CancellationToken::new();
    let running = serve::start(config(), Arc::new(SystemClock), shutdown.clone())
        .await
        .unwrap();
    let url = format!("http://{}", running.address());
    // A tenth of a second of work more or less does not matter: six cores.
    let mut mixed = recorded("select2", 1);
    mixed.extend(recorded("gzip", 2));
    mixed.extend(recorded("healthy", 3));
    push(&url, "mixed", 1, &mixed).await;
    let mut working = recorded("gzip", 2);
    working.extend(recorded("pipeline", 1));
    working.extend(recorded("healthy", 3));
    push(&url, "working", 2, &working).await;

    let alert = received.next().await.json();
    assert_eq!(alert["version"], "4");
    assert_eq!(alert["status"], "firing");
    let first = &alert["alerts"][0];
    assert_eq!(first["labels"]["service"], "mixed");
    assert_eq!(first["labels"]["alertname"], "TepuiSpin");
    let path = first["annotations"]["path"].as_str().unwrap();
    assert!(
        path.contains("main.startSink2") && path.contains("runtime.selectgo"),
        "{path}"
    );
    assert!(path.contains("main.go:7"), "file and line: {path}");
    let cores: f64 = first["annotations"]["cores"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((0.7..1.1).contains(&cores), "{cores}");
    // Told at least once: until the receiver's answer is noted, a restart would
    // tell it again under the same id.
    let metrics = format!("{}/metrics", url);
    let noted = "tepui_hook_deliveries_total{receiver=\"default\",outcome=\"delivered\"} 1\n";
    while !get(&metrics).await.contains(noted) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    shutdown.cancel();
    running.finish().await.unwrap();

    // The alert is there after a restart, and is not told again.
    let shutdown = CancellationToken::new();
    let running = serve::start(config(), Arc::new(SystemClock), shutdown.clone())
        .await
        .unwrap();
    let url = format!("http://{}/api/v1/anomalies", running.address());
    tokio::time::sleep(Duration::from_secs(4)).await;
    let anomalies = get_json(&url).await;
    let firing = anomalies["anomalies"].as_array().unwrap();
    assert_eq!(firing.len(), 1, "{anomalies}");
    assert_eq!(firing[0]["state"], "firing");
    assert_eq!(firing[0]["service"], "mixed");
    assert!(received.all().is_empty(), "told twice");
    shutdown.cancel();
    running.finish().await.unwrap();
}

async fn get_json(url: &str) -> serde_json::Value {
    serde_json::from_str(&get(url).await).unwrap()
}

/// The body at `url`.
async fn get(url: &str) -> String {
    try_get(url).await.unwrap()
}

/// The body at `url`; `None` if nobody answers.
pub(crate) async fn try_get(url: &str) -> Option<String> {
    let (address, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.ok()?;
    let (_, body) = reply.split_once("\r\n\r\n")?;
    Some(body.to_owned())
}
