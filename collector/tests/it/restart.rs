//! A collector that is killed keeps every batch it acknowledged, once.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use collector::answer::ProfileAnswer;
use proto::pb::tepui as pb;
use proto::pb::tepui::query_client::QueryClient;
use proto::window::{Clock, SystemClock, UnixNanos};

use crate::push::{Answer, PERIOD_NS, Pusher, profile};

pub(crate) const INSTANCE: [u8; 16] = [7; 16];
const KILLS: usize = 20;

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Ends with the test, also when it fails.
pub(crate) struct Collector(Child);

impl Drop for Collector {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

pub(crate) fn start(data: &Path, port: u16) -> Collector {
    start_with(data, port, None)
}

/// Starts a collector, with a configuration if one is given.
pub(crate) fn start_with(data: &Path, port: u16, config: Option<&Path>) -> Collector {
    let child = Command::new(env!("CARGO_BIN_EXE_collector"))
        .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data"])
        .arg(data)
        .args(config.iter().flat_map(|file| [Path::new("--config"), file]))
        .env("TEPUI__COLLECTOR__SELF_PROFILE__ENABLED", "false")
        .env("RUST_LOG", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Collector(child)
}

#[tokio::test]
async fn a_log_that_cannot_be_written_ends_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    // As when the disk that the log is on is full.
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_collector"))
        .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data"])
        .arg(folder.path())
        .env("TEPUI__COLLECTOR__SELF_PROFILE__ENABLED", "false")
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(full)
        .spawn()
        .unwrap();
    let mut collector = Collector(child);
    let url = format!("http://127.0.0.1:{port}");
    let since = SystemClock.now().saturating_sub(Duration::from_secs(60));
    let mut pusher = connect(&url).await;
    let window = profile("ledger", since, &[(&["main"], 7)]);
    pusher.send(INSTANCE, 1, &[window]).await;
    assert!(matches!(pusher.answer().await, Ok(Answer::Ack(_))));
    let held = held(&url, since.saturating_sub(Duration::from_secs(10))).await;
    let expected = i128::from(PERIOD_NS) * 7;
    assert_eq!(held, BTreeMap::from([("main".to_owned(), expected)]));
    assert!(collector.0.try_wait().unwrap().is_none(), "it still runs");
}

/// Tries until it works; a collector needs a moment to open its database.
pub(crate) async fn connect(url: &str) -> Pusher {
    let mut last = None;
    for _ in 0..600 {
        match Pusher::connect(url, INSTANCE).await {
            Ok(pusher) => return pusher,
            Err(status) => last = Some(status),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no stream within 30 s: {last:?}");
}

/// Root function and counts of batch `sequence`, different for each.
fn content(sequence: u64) -> (String, i64) {
    (
        format!("batch_{sequence}"),
        i64::try_from(sequence % 89 + 1).unwrap(),
    )
}

/// What the collector holds, by root function.
async fn held(url: &str, since: UnixNanos) -> BTreeMap<String, i128> {
    let mut client = QueryClient::connect(url.to_owned()).await.unwrap();
    let request = pb::ProfileRequest {
        service: "ledger".to_owned(),
        start_unix_nanos: since.get(),
        end_unix_nanos: SystemClock
            .now()
            .saturating_add(Duration::from_secs(60))
            .get(),
        max_nodes: 1_000_000,
        ..pb::ProfileRequest::default()
    };
    let response = client.profile(request).await.unwrap().into_inner();
    let answer = ProfileAnswer::from_wire(response).unwrap();
    let totals = answer.tree.totals();
    let mut held = BTreeMap::new();
    for (node, row) in answer.tree.nodes().iter().enumerate().skip(1) {
        if row.parent == 0 {
            let name = answer.tree.frame_of(node).unwrap().function.to_string();
            assert!(held.insert(name, totals[node]).is_none());
        }
    }
    held
}

fn expected(sequence: u64) -> (String, i128) {
    let (name, count) = content(sequence);
    (name, i128::from(count) * i128::from(PERIOD_NS))
}

/// Sends batches from `next` on, some at once, and notes each ack in the ledger.
async fn push(url: &str, ledger: &mut File, next: &mut u64, acked: &mut Vec<u64>, until: u64) {
    let mut pusher = connect(url).await;
    let mut sent = *next;
    loop {
        while sent < *next + 8 && sent < until {
            let (root, count) = content(sent);
            let start = SystemClock.now();
            // Two stacks under one root, so that a half of a batch would show.
            let deep: &[&str] = &[&root, "handle", "work"];
            let flat: &[&str] = &[&root];
            let halves = [(deep, count - count / 2), (flat, count / 2)];
            pusher
                .send(INSTANCE, sent, &[profile("ledger", start, &halves)])
                .await;
            sent += 1;
        }
        if *next >= until {
            return;
        }
        match pusher.answer().await {
            Ok(Answer::Ack(ack)) => {
                assert_eq!(ack.sequence, *next, "answers come in order");
                assert!(ack.refused.is_empty(), "{ack:?}");
                writeln!(ledger, "{}", ack.sequence).unwrap();
                ledger.sync_data().unwrap();
                acked.push(ack.sequence);
                *next += 1;
            }
            Ok(Answer::Refusal(refusal)) => panic!("{refusal:?}"),
            Err(_stream_ended) => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_killed_twenty_times_holds_every_acked_batch_once() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    let began = SystemClock.now();
    let ledger_path = folder.path().join("ledger");
    let mut ledger = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&ledger_path)
        .unwrap();
    let (mut next, mut acked, mut fruitful) = (1, Vec::new(), 0);
    for round in 0..KILLS {
        let mut collector = start(&folder.path().join("data"), port);
        let before = acked.len();
        {
            // Killed in the middle of pushing, at another moment each time.
            let pushing = push(&url, &mut ledger, &mut next, &mut acked, u64::MAX);
            let pause = Duration::from_millis(700 + 37 * (round as u64 % 11));
            let _ended = tokio::time::timeout(pause, pushing).await;
        }
        collector.0.kill().unwrap();
        collector.0.wait().unwrap();
        fruitful += usize::from(acked.len() > before);
    }
    // On a busy machine one may end before the first answer.
    assert!(2 * fruitful > KILLS, "{fruitful} rounds acked something");
    let _collector = start(&folder.path().join("data"), port);
    // What was in flight is sent again until it is acked too.
    let last = next + 20;
    while next < last {
        push(&url, &mut ledger, &mut next, &mut acked, last).await;
    }
    let noted: Vec<u64> = std::fs::read_to_string(&ledger_path)
        .unwrap()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    assert_eq!(noted, acked);
    let expected: BTreeMap<String, i128> = (1..last).map(expected).collect();
    let held = held(&url, began.saturating_sub(Duration::from_secs(60))).await;
    assert_eq!(held.len(), expected.len());
    for (name, value) in &expected {
        assert_eq!(held.get(name), Some(value), "{name}");
    }
}
