//! Memory that leaks, and pods that fall silent: through the store and the watch.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use proto::limits::PROTOCOL_VERSION;
use proto::pb::tepui as pb;
use proto::profile::{Facts, Profile};
use proto::window::{Clock, SystemClock, UnixNanos};
use serde_json::Value;

use crate::cli::run;
use crate::push::{Answer, Pusher, profile};
use crate::server::Server;
use crate::shift::Told;

const INSTANCE: [u8; 16] = [9; 16];
const TEN_MINUTES_S: u64 = 600;

/// A clock at the last whole hour.
fn clock() -> (Arc<Told>, UnixNanos) {
    let hour = SystemClock.now().floor(Duration::from_secs(3_600));
    (Arc::new(Told(AtomicI64::new(hour.get()))), hour)
}

/// A window of `service` that uses half a core, with these facts.
fn window(service: &str, start: UnixNanos, facts: Facts) -> Profile {
    let plain = profile(service, start, &[(&["main.main", "main.work"], 500)]);
    Profile::new(
        plain.labels().clone(),
        plain.window(),
        plain.stacks().to_vec(),
        plain.columns().to_vec(),
        facts,
    )
    .unwrap()
}

async fn push(pusher: &mut Pusher, sequence: u64, profiles: &[Profile]) {
    pusher.send(INSTANCE, sequence, profiles).await;
    match pusher.answer().await.unwrap() {
        Answer::Ack(ack) => assert!(ack.refused.is_empty(), "{ack:?}"),
        Answer::Refusal(refusal) => panic!("{refusal:?}"),
    }
}

/// The only alert in `state`, waited for so many tenths of a second.
async fn alert(server: &Server, state: &str, tenths: u32) -> Option<Value> {
    for _ in 0..tenths {
        let reply = server
            .get(&format!("/api/v1/anomalies?state={state}"), &[])
            .await;
        let found = reply.json()["anomalies"].as_array().unwrap().clone();
        if let [alert] = found.as_slice() {
            return Some(alert.clone());
        }
        assert!(found.is_empty(), "{found:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

/// What a process that was started at `started` holds `minutes` after that: for a day as
/// much as ever, then a fifth more each hour.
fn facts(started: UnixNanos, minutes: u64) -> Facts {
    let wobble = minutes / 10 * 7 % 5;
    let grown = minutes.saturating_sub(24 * 60);
    Facts {
        cpu_ns: 5_000_000_000,
        rss_bytes: (1_000 + wobble + grown * 200 / 60) << 19,
        threads_count: 20,
        target_start: started,
        ..Facts::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_grows_is_told_and_told_again_by_a_replay() {
    let (clock, begin) = clock();
    let told: Arc<dyn Clock> = Arc::<Told>::clone(&clock);
    let server = Server::start_at(told, |config, _| {
        config.detect.step = Duration::from_secs(TEN_MINUTES_S);
        config.detect.hold = Duration::from_secs(TEN_MINUTES_S);
    })
    .await;
    let mut pusher = Pusher::connect(&server.url(), INSTANCE).await.unwrap();
    let at = |number: u64| begin.saturating_add(Duration::from_secs(number * TEN_MINUTES_S));
    let (mut next, mut sequence) = (0, 0);
    let mut go_on = async |until: u64| {
        let now = at(until).saturating_add(Duration::from_secs(20));
        clock.0.store(now.get(), Ordering::SeqCst);
        while next < until {
            sequence += 1;
            let batch: Vec<Profile> = (next..until.min(next + 50))
                .map(|number| window("shop", at(number), facts(begin, number * 10)))
                .collect();
            next += 50;
            push(&mut pusher, sequence, &batch).await;
        }
        next = until;
    };
    // A day, and an hour of growth, in which nothing is told.
    let mut until = 25 * 6;
    go_on(until).await;
    assert_eq!(alert(&server, "firing", 20).await, None);
    let mut found = None;
    while found.is_none() {
        assert!(until < 30 * 6, "not told within five hours");
        until += 1;
        go_on(until).await;
        found = alert(&server, "firing", 80).await;
    }
    let alert = found.unwrap();
    assert_eq!(
        (&alert["kind"], &alert["severity"]),
        (&"memory_leak".into(), &"warning".into())
    );
    assert_eq!(alert["measure"]["quantity"], "memory_bytes");
    let measure = |name: &str| alert["measure"][name].as_f64().unwrap();
    assert!(measure("now") > 1.25 * measure("before"), "{alert}");
    let hourly = measure("per_hour") / f64::from(200 << 19);
    assert!((0.6..1.4).contains(&hourly), "{alert}");
    assert_eq!(alert["pods"][0], "p-1");
    assert!(alert["wait_share"].is_null(), "{alert}");
    let (url, id) = (server.url(), alert["id"].as_str().unwrap().to_owned());
    let shown = run(&["anomalies", "show", "--server", &url, &id]).await;
    assert!(
        shown.both().contains("Memory of p-1 grew from"),
        "{}",
        shown.both()
    );
    let times = [begin, at(until)].map(collector::time_range::rfc3339);
    let [since, until] = &times;
    let again = ["anomalies", "replay", "--server", &url, "--service", "shop"];
    let range = ["--since", since, "--until", until];
    let replayed = run(&[&again[..], &range].concat()).await;
    assert_eq!(replayed.code, 0, "{}", replayed.both());
    assert!(
        replayed.both().contains("memory_leak  shop"),
        "{}",
        replayed.both()
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_agent_is_connected_and_sends_nothing_is_told_until_something_comes() {
    let (clock, begin) = clock();
    let told: Arc<dyn Clock> = Arc::<Told>::clone(&clock);
    let server = Server::start_at(told, |config, _| {
        config.detect.step = Duration::from_secs(10);
    })
    .await;
    let label = |name: &str, value: &str| pb::Label {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let hello = pb::Hello {
        protocol_version: PROTOCOL_VERSION,
        agent_version: "test".to_owned(),
        instance: INSTANCE.to_vec(),
        labels: Some(pb::LabelSet {
            labels: vec![label("pod", "p-1"), label("service", "shop")],
        }),
        ..pb::Hello::default()
    };
    let mut pusher = Pusher::hello(&server.url(), hello).await.unwrap();
    let at = |second: u64| begin.saturating_add(Duration::from_secs(second));
    let set = |second: u64| clock.0.store(at(second).get(), Ordering::SeqCst);
    let ten_minutes = |from: u64| -> Vec<Profile> {
        (0..60)
            .map(|number| window("shop", at(from + number * 10), facts(begin, 0)))
            .collect()
    };
    set(620);
    push(&mut pusher, 1, &ten_minutes(0)).await;
    assert_eq!(alert(&server, "firing", 40).await, None);
    // Ten minutes without a window, at the end of which the agent is heard. What is
    // acknowledged after a heartbeat was read after it.
    set(1_205);
    pusher.heartbeat().await;
    push(
        &mut pusher,
        2,
        &[window("other", at(1_190), Facts::default())],
    )
    .await;
    set(1_220);
    let fired = alert(&server, "firing", 200)
        .await
        .expect("silence is told");
    assert_eq!(fired["kind"], "silent");
    assert_eq!(fired["measure"]["pod"], "p-1");
    assert_eq!(fired["since"], collector::time_range::rfc3339(at(600)));
    set(1_820);
    push(&mut pusher, 3, &ten_minutes(1_200)).await;
    let resolved = alert(&server, "resolved", 200).await.expect("it is over");
    assert_eq!(resolved["id"], fired["id"]);
    server.stop().await;
}
