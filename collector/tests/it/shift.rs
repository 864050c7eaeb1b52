//! Functions that became dearer: told while it lasts, and judged between versions.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use proto::labels::LabelSet;
use proto::profile::Profile;
use proto::window::{Clock, SystemClock, UnixNanos};

use crate::cli::run;
use crate::push::{Answer, Pusher, profile};
use crate::server::Server;

/// A clock that says what it is told.
#[derive(Debug)]
pub(crate) struct Told(pub(crate) AtomicI64);

impl Clock for Told {
    fn now(&self) -> UnixNanos {
        UnixNanos::new(self.0.load(Ordering::SeqCst))
    }
}

/// Length of a window.
const WINDOW_S: u64 = 10;
const FUNCTIONS: [(&str, i64); 8] = [
    ("shop/a.parse", 300),
    ("shop/a.check", 150),
    ("shop/b.store", 120),
    ("shop/b.index", 110),
    ("shop/c.render", 100),
    ("shop/c.escape", 90),
    ("runtime.gc", 70),
    ("runtime.mallocgc", 60),
];

/// The window number `number` from `start` on, in which `dearer` takes twice as much.
fn window(start: UnixNanos, number: u64, dearer: &str) -> Profile {
    let at = start.saturating_add(Duration::from_secs(number * WINDOW_S));
    let stacks: Vec<[&str; 2]> = FUNCTIONS
        .map(|(function, _)| ["main.main", function])
        .into();
    let samples: Vec<(&[&str], i64)> = (1_u64..)
        .zip(FUNCTIONS)
        .zip(&stacks)
        .map(|((place, (function, count)), stack)| {
            // Differs from window to window, in each function in its own way.
            let wobble = i64::try_from((number * 7 + place * 3) % 5).unwrap() - 2;
            let count = count + wobble;
            let factor = if function == dearer { 2 } else { 1 };
            (&stack[..], count * factor)
        })
        .collect();
    profile("shop", at, &samples)
}

async fn push(pusher: &mut Pusher, sequence: u64, profiles: &[Profile]) {
    pusher.send([5; 16], sequence, profiles).await;
    match pusher.answer().await.unwrap() {
        Answer::Ack(ack) => assert!(ack.refused.is_empty(), "{ack:?}"),
        Answer::Refusal(refusal) => panic!("{refusal:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dearer_function_is_told_and_its_end_too() {
    let hour_ns = 3_600_000_000_000;
    let begin = UnixNanos::new(SystemClock.now().get() / hour_ns * hour_ns);
    let at = |windows: u64| begin.saturating_add(Duration::from_secs(windows * WINDOW_S));
    let clock = Arc::new(Told(AtomicI64::new(begin.get())));
    let told: Arc<dyn Clock> = Arc::<Told>::clone(&clock);
    let server = Server::start_at(told, |config, _| {
        config.detect.step = Duration::from_secs(WINDOW_S);
    })
    .await;
    let mut pusher = Pusher::connect(&server.url(), [5; 16]).await.unwrap();
    // Five hours as ever, in batches of ten minutes.
    let learned = 5 * 360;
    let mut next = 0;
    let mut sequence = 0;
    let mut go_on = async |until: u64, dearer: &str| {
        clock
            .0
            .store(at(until).get() + 20_000_000_000, Ordering::SeqCst);
        while next < until {
            sequence += 1;
            let batch: Vec<Profile> = (next..next + 60)
                .map(|number| window(begin, number, dearer))
                .collect();
            push(&mut pusher, sequence, &batch).await;
            next += 60;
        }
    };
    go_on(learned, "").await;
    let alerts = async |state: &str| {
        let reply = server
            .get(&format!("/api/v1/anomalies?state={state}"), &[])
            .await;
        reply.json()["anomalies"].as_array().unwrap().clone()
    };
    // Each ten minutes are looked at within some seconds.
    let mut until = learned;
    let mut fired = Vec::new();
    while fired.is_empty() {
        assert!(until < learned + 12 * 60, "not told within two hours");
        until += 60;
        go_on(until, "shop/b.store").await;
        for _ in 0..60 {
            fired = alerts("firing").await;
            if !fired.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert_eq!(fired.len(), 1, "{fired:?}");
    let alert = &fired[0];
    let text = |key: &str| alert[key].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (text("kind").as_str(), text("severity").as_str()),
        ("regression", "warning")
    );
    assert_eq!(text("anchor"), "shop/b.store");
    assert_eq!(text("since"), collector::time_range::rfc3339(at(learned)));
    let ratio = alert["shift"]["ratio"][0].as_f64().unwrap();
    assert!((ratio - 2.0).abs() < 0.1, "{alert}");
    assert!(alert["wait_share"].is_null(), "{alert}");
    assert!(
        text("summary").contains("times as much for the same work"),
        "{alert}"
    );
    let shown = run(&["anomalies", "--server", &server.url()]).await;
    assert!(shown.both().contains("shop/b.store"), "{}", shown.both());

    // Judged again from what is stored, it is told again.
    let (url, since) = (server.url(), collector::time_range::rfc3339(begin));
    let range = [
        "--since",
        &since,
        "--until",
        &collector::time_range::rfc3339(at(until)),
    ];
    let again = ["anomalies", "replay", "--server", &url, "--service", "shop"];
    let replayed = run(&[&again[..], &range].concat()).await;
    assert_eq!(replayed.code, 0, "{}", replayed.both());
    assert!(
        replayed.both().contains("regression  shop"),
        "{}",
        replayed.both()
    );
    let off = run(&[&again[..], &range, &["--functions", "off"]].concat()).await;
    assert_eq!(off.both(), "no alerts\n");

    // Mended: it is over after some rows without it.
    let mut resolved = Vec::new();
    let mended = until;
    while resolved.is_empty() {
        assert!(until < mended + 12 * 60, "not over within two hours");
        until += 60;
        go_on(until, "").await;
        for _ in 0..60 {
            resolved = alerts("resolved").await;
            if !resolved.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert_eq!(resolved[0]["id"], alert["id"]);
    let late = run(&["anomalies", "ack", "--server", &url, &text("id")]).await;
    assert_eq!(late.code, 1, "{}", late.both());
    assert!(
        late.both().contains("pending, firing or stale"),
        "{}",
        late.both()
    );
    server.stop().await;
}

/// `profile` as pod `pod` of version `version`.
fn of_pod(profile: &Profile, pod: &str, version: &str) -> Profile {
    let labels = LabelSet::new([("service", "shop"), ("pod", pod), ("version", version)]);
    Profile::new(
        labels.unwrap(),
        profile.window(),
        profile.stacks().to_vec(),
        profile.columns().to_vec(),
        *profile.facts(),
    )
    .unwrap()
}

#[tokio::test]
async fn a_deploy_is_judged() {
    let server = Server::start().await;
    let start = SystemClock.now().saturating_sub(Duration::from_secs(900));
    let mut pusher = Pusher::connect(&server.url(), [5; 16]).await.unwrap();
    for (sequence, (version, dearer)) in (1..).zip([("1", ""), ("2", "shop/c.render")]) {
        let pods = (0..5).flat_map(|pod| (0..30).map(move |number| (pod, number)));
        let batch: Vec<Profile> = pods
            .map(|(pod, number)| {
                let whole = window(start, number * 2 + pod % 2, dearer);
                of_pod(&whole, &format!("{version}-{pod}"), version)
            })
            .collect();
        push(&mut pusher, sequence, &batch).await;
    }
    let url = server.url();
    let judge = async |more: &[&str]| {
        let first = ["verdict", "--server", &url, "--service", "shop"];
        run(&[&first[..], more].concat()).await
    };
    let sides = ["--base", "{version=\"1\"}", "--new", "{version=\"2\"}"];
    // It took 10 % of the samples, and takes 10 % more.
    let failed = judge(&sides).await;
    assert_eq!(failed.code, 3, "{}", failed.both());
    let shown = failed.both();
    assert!(
        shown.starts_with("FAIL: shop/c.render takes 10."),
        "{shown}"
    );
    assert!(shown.contains("5 pods"), "{shown}");
    assert!(!shown.contains("main.main"), "{shown}");
    let passed = judge(&[&sides[..], &["--fail-on", "20%", "--format", "markdown"]].concat()).await;
    assert_eq!(passed.code, 0, "{}", passed.both());
    assert!(
        passed.both().contains("| dearer | +10."),
        "{}",
        passed.both()
    );
    let same = ["--base", "{version=\"1\"}", "--new", "{version=\"1\"}"];
    let passed = judge(&same).await;
    assert_eq!(passed.code, 0, "{}", passed.both());
    assert!(
        passed.both().contains("no function became dearer"),
        "{}",
        passed.both()
    );
    let nobody = ["--base", "{version=\"1\"}", "--new", "{version=\"9\"}"];
    let unknown = judge(&[&nobody[..], &["--format", "json"]].concat()).await;
    assert_eq!(unknown.code, 4, "{}", unknown.both());
    assert!(
        unknown.both().contains("the new side has no windows"),
        "{}",
        unknown.both()
    );
    // Few pods: their time is cut into minutes, and that is said.
    let one = ["--base", "{pod=\"1-0\"}", "--new", "{pod=\"2-0\"}"];
    let cut = judge(&one).await;
    assert_eq!(cut.code, 3, "{}", cut.both());
    assert!(cut.both().contains("minutes of one pod"), "{}", cut.both());

    let select = "base=%7Bversion%3D%221%22%7D&new=%7Bversion%3D%222%22%7D";
    let path = format!("/api/v1/verdict?service=shop&since=1h&{select}");
    let reply = server.get(&path, &[]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let json = reply.json();
    assert_eq!(json["outcome"], "fail");
    assert_eq!(json["shifts"][0]["function"], "shop/c.render");
    assert_eq!(json["base"]["pods"], 5);
    for (query, part) in [
        ("fail_on=0", "fail_on"),
        ("format=svg", "json, markdown or text"),
        ("hide=x", "hide"),
    ] {
        let reply = server.get(&format!("{path}&{query}"), &[]).await;
        assert_eq!(reply.status, 400, "{query}: {}", reply.text());
        assert!(reply.text().contains(part), "{query}: {}", reply.text());
    }
    server.stop().await;
}
