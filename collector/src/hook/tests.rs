//! Deliveries to a receiver that fails.

use std::collections::BTreeMap;

use proto::window::SystemClock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::alert::AlertState;
use crate::store::KeyValue;

/// A state store that lives as long as the test.
#[derive(Debug, Default)]
struct Memory(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl StateStore for Memory {
    fn scan(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let map = self.0.lock().unwrap();
        let found = map.iter().filter(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let mut map = self.0.lock().unwrap();
        for (key, value) in changes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }
}

fn alert(resolved: bool) -> Alert {
    Alert {
        id: "00ff".to_owned(),
        tenant: "anonymous".to_owned(),
        kind: "spin".to_owned(),
        state: if resolved {
            AlertState::Resolved
        } else {
            AlertState::Firing
        },
        severity: "critical".to_owned(),
        namespace: "prod".to_owned(),
        service: "logger".to_owned(),
        anchor: "main.startSink".to_owned(),
        path: Vec::new(),
        cores: if resolved { 0.5 } else { 0.94 },
        baseline_cores: Some(0.0),
        title: "logger spins in main.startSink: 0.94 cores".to_owned(),
        wait_share: Some(0.99),
        shift: None,
        progress_share: None,
        leaf_eff: 4.0,
        throttled_share: 0.0,
        top_leaves: Vec::new(),
        samples: 10,
        since: "2026-11-24T14:02:00Z".to_owned(),
        last_seen: "2026-11-24T14:12:00Z".to_owned(),
        fired_at: Some("2026-11-24T14:07:15Z".to_owned()),
        resolved_at: resolved.then(|| "2026-11-24T15:00:00Z".to_owned()),
        acknowledged_at: None,
        note: String::new(),
        version: "1.8.3".to_owned(),
        previous_version: "1.8.2".to_owned(),
        pods: vec!["a".to_owned(), "b".to_owned()],
        summary: "main.startSink has used 0.94 cores.".to_owned(),
        links: BTreeMap::from([("flamegraph".to_owned(), "http://c/service".to_owned())]),
    }
}

fn queue(store: &Arc<Memory>) -> Arc<Queue> {
    let shared: Arc<dyn StateStore> = Arc::<Memory>::clone(store);
    Arc::new(Queue::open(shared, Arc::default()).unwrap())
}

fn add(queue: &Queue, store: &Memory, resolved: bool) {
    let entry = queue.entry(&alert(resolved), resolved, "http://c");
    store.write(vec![entry.change()]).unwrap();
    queue.push(vec![entry]);
}

/// Answers each POST with the next of `answers`; returns what came.
async fn receive(listener: TcpListener, answers: &[&str]) -> Vec<String> {
    let mut came = Vec::new();
    for answer in answers {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut text = String::new();
        while !text.ends_with('}') {
            let mut chunk = [0; 8192];
            let read = stream.read(&mut chunk).await.unwrap();
            text.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
        }
        let reply = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(reply.as_bytes()).await.unwrap();
        came.push(text);
    }
    came
}

fn id_of(request: &str) -> &str {
    let line = request
        .lines()
        .find_map(|line| line.strip_prefix("webhook-id: "));
    line.unwrap()
}

/// Delivers what waits to a receiver that answers so, until it has answered.
async fn deliver_to(queue: &Arc<Queue>, answers: &[&str]) -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = HookConfig {
        url: format!("http://{}/", listener.local_addr().unwrap()),
        timeout: Duration::from_secs(5),
    };
    let shutdown = CancellationToken::new();
    let running = run_hook(
        Arc::clone(queue),
        config,
        Arc::new(SystemClock),
        shutdown.clone(),
    );
    let receiving = async {
        let came = receive(listener, answers).await;
        while !queue.is_empty() {
            tokio::task::yield_now().await;
        }
        shutdown.cancel();
        came
    };
    let ((), came) = tokio::join!(running, receiving);
    came
}

#[test]
fn the_json_of_a_hook() {
    for (name, resolved) in [("firing", false), ("resolved", true)] {
        let body: serde_json::Value =
            serde_json::from_str(&payload::body(&alert(resolved), resolved, "http://c")).unwrap();
        let golden = format!("{}/tests/data/hook-{name}.json", env!("CARGO_MANIFEST_DIR"));
        expect_test::expect_file![golden].assert_eq(&serde_json::to_string_pretty(&body).unwrap());
    }
    let labels = |resolved| {
        let body = payload::body(&alert(resolved), resolved, "http://c");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        body["alerts"][0]["labels"].clone()
    };
    assert_eq!(labels(false), labels(true), "labels are the identity");
}

#[tokio::test]
async fn a_receiver_that_fails_is_told_again_under_the_same_id() {
    let store: Arc<Memory> = Arc::default();
    let queue = queue(&store);
    add(&queue, &store, false);
    let came = deliver_to(
        &queue,
        &["500 Oops", "429 Busy\r\nRetry-After: 0", "200 OK"],
    )
    .await;
    assert_eq!(came.len(), 3);
    assert!(came.iter().all(|request| id_of(request) == id_of(&came[0])));
    assert!(store.0.lock().unwrap().is_empty());
    assert_eq!(queue.metrics.deliveries(Delivery::Retried).get(), 2);
    assert_eq!(queue.metrics.deliveries(Delivery::Delivered).get(), 1);
}

#[tokio::test]
async fn a_receiver_that_refuses_is_not_told_again_and_delays_nothing() {
    let store: Arc<Memory> = Arc::default();
    let queue = queue(&store);
    add(&queue, &store, false);
    add(&queue, &store, true);
    let came = deliver_to(&queue, &["400 No", "200 OK"]).await;
    assert_ne!(id_of(&came[0]), id_of(&came[1]));
    assert_eq!(queue.metrics.deliveries(Delivery::Dropped).get(), 1);
}

#[tokio::test]
async fn what_waits_survives_a_restart() {
    let store: Arc<Memory> = Arc::default();
    let before = queue(&store);
    add(&before, &store, false);
    add(&before, &store, true);
    drop(before);
    let after = queue(&store);
    assert_eq!(after.len(), 2);
    add(&after, &store, false);
    let came = deliver_to(&after, &["200 OK", "200 OK", "200 OK"]).await;
    let ids: std::collections::BTreeSet<&str> = came.iter().map(|r| id_of(r)).collect();
    assert_eq!((came.len(), ids.len()), (3, 2), "one id for one transition");
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let store: Arc<Memory> = Arc::default();
    let queue = queue(&store);
    add(&queue, &store, false);
    let began = std::time::Instant::now();
    let came = deliver_to(&queue, &["503 Busy\r\nRetry-After: 2", "200 OK"]).await;
    assert!(
        began.elapsed() >= Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        came[0].split("\r\n\r\n").nth(1),
        came[1].split("\r\n\r\n").nth(1)
    );
}

#[tokio::test]
async fn two_failures_in_a_row_are_both_tried_again() {
    let store: Arc<Memory> = Arc::default();
    let queue = queue(&store);
    add(&queue, &store, false);
    let came = deliver_to(&queue, &["500 x", "500 x", "200 OK"]).await;
    assert!(came.iter().all(|r| id_of(r) == id_of(&came[0])));
    assert_eq!(queue.metrics.deliveries(Delivery::Delivered).get(), 1);
    assert_eq!(queue.metrics.deliveries(Delivery::Retried).get(), 2);
}

#[tokio::test]
async fn a_stop_between_tries_loses_nothing() {
    let store: Arc<Memory> = Arc::default();
    let before = queue(&store);
    add(&before, &store, false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = HookConfig {
        url: format!("http://{}/", listener.local_addr().unwrap()),
        timeout: Duration::from_secs(5),
    };
    let shutdown = CancellationToken::new();
    let running = run_hook(
        Arc::clone(&before),
        config,
        Arc::new(SystemClock),
        shutdown.clone(),
    );
    let receiving = async {
        let came = receive(listener, &["500 x"]).await;
        shutdown.cancel();
        came
    };
    let ((), first) = tokio::join!(running, receiving);
    let after = queue(&store);
    assert_eq!(after.len(), 1);
    let second = deliver_to(&after, &["200 OK"]).await;
    assert_eq!(id_of(&first[0]), id_of(&second[0]));
    assert!(store.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_receiver_that_hangs_is_left_after_the_timeout() {
    let store: Arc<Memory> = Arc::default();
    let queue = queue(&store);
    add(&queue, &store, false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = HookConfig {
        url: format!("http://{}/", listener.local_addr().unwrap()),
        timeout: Duration::from_millis(200),
    };
    let client = client(config.timeout).unwrap();
    let entry = queue.front().unwrap();
    let came = once(&entry, &client, &config.url).await;
    assert!(matches!(came, Try::Again(_, None)), "{came:?}");
}

#[test]
fn firing_never_ends_and_names_are_alertmanagers() {
    for resolved in [false, true] {
        let body: serde_json::Value =
            serde_json::from_str(&payload::body(&alert(resolved), resolved, "http://c")).unwrap();
        let one = &body["alerts"][0];
        for name in [
            "version",
            "groupKey",
            "truncatedAlerts",
            "status",
            "receiver",
            "groupLabels",
            "commonLabels",
            "commonAnnotations",
            "externalURL",
        ] {
            assert!(body.get(name).is_some(), "{name}");
        }
        for name in [
            "status",
            "labels",
            "annotations",
            "startsAt",
            "endsAt",
            "generatorURL",
            "fingerprint",
        ] {
            assert!(one.get(name).is_some(), "{name}");
        }
        let ends = if resolved {
            "2026-11-24T15:00:00Z"
        } else {
            "0001-01-01T00:00:00Z"
        };
        assert_eq!(one["endsAt"], ends);
    }
}
