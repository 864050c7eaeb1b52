//! A service is deleted whole, whatever comes in meanwhile, and others stay as
//! they were.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use collector::store::rocks::RocksStore;
use collector::store::tier::Tier;
use collector::store::{
    Epoch, PtypeId, ServiceId, ServiceKey, Store, StoreError, SumRequest, TreeId,
};
use proto::labels::LabelSet;
use proto::pb::tepui::RefusalCode;
use proto::profile::{Facts, Profile};
use proto::window::{Clock, SystemClock, UnixNanos, Window};
use tokio::task::JoinSet;

use crate::cli::run;
use crate::push::{Answer, Pusher, profile};
use crate::server::{Server, start_in};

const INSTANCE: [u8; 16] = [5; 16];

/// Folded stacks of `service` from `since` on; nothing when it is not known.
async fn folded(url: &str, service: &str, since: UnixNanos) -> String {
    let since = collector::time_range::rfc3339(since);
    let ended = run(&[
        "query",
        "--server",
        url,
        "--service",
        service,
        "--since",
        &since,
        "--format",
        "folded",
    ])
    .await;
    assert!(
        ended.code == 0 || ended.stderr.contains("no service"),
        "{ended:?}"
    );
    ended.stdout
}

fn in_namespace(profile: &Profile, namespace: &str) -> Profile {
    let service = profile.labels().service();
    let labels = [("service", service), ("namespace", namespace)];
    Profile::new(
        LabelSet::new(labels).unwrap(),
        profile.window(),
        profile.stacks().to_vec(),
        profile.columns().to_vec(),
        Facts::default(),
    )
    .unwrap()
}

async fn acked(pusher: &mut Pusher, sequence: u64, profiles: &[Profile]) {
    pusher.send(INSTANCE, sequence, profiles).await;
    match pusher.answer().await.unwrap() {
        Answer::Ack(ack) => assert!(ack.refused.is_empty(), "{ack:?}"),
        Answer::Refusal(refusal) => panic!("{refusal:?}"),
    }
}

#[tokio::test]
async fn one_service_goes_whole_and_comes_anew() {
    let server = Server::start().await;
    let url = server.url();
    let since = SystemClock.now().saturating_sub(Duration::from_secs(60));
    let start = SystemClock.now().saturating_sub(Duration::from_secs(20));
    let of = |service: &str, leaf: &str, count| {
        let stack: &[&str] = &["main", "shared", leaf];
        profile(service, start, &[(stack, count)])
    };
    let mut pusher = Pusher::connect(&url, INSTANCE).await.unwrap();
    let same = in_namespace(&of("gone", "other", 3), "prod");
    acked(
        &mut pusher,
        1,
        &[of("gone", "a", 1), of("kept", "a", 2), same],
    )
    .await;
    let kept = folded(&url, "kept", since).await;
    assert_eq!(kept, "main;shared;a 20000000\n");

    for (arguments, code, part) in [
        (vec!["--service", "gone"], 2, "add --yes"),
        (
            vec!["--service", "gon", "--yes"],
            1,
            "known are: gone, kept",
        ),
        (vec!["--service", "gone", "--yes"], 1, "/gone, prod/gone"),
    ] {
        let arguments = [vec!["delete", "--server", &url], arguments].concat();
        let ended = run(&arguments).await;
        assert_eq!((ended.code, &*ended.stdout), (code, ""), "{ended:?}");
        assert!(ended.stderr.contains(part), "{arguments:?}: {ended:?}");
    }
    assert_eq!(
        folded(&url, "/gone", since).await,
        "main;shared;a 10000000\n"
    );
    let ended = run(&["delete", "--service", "/gone", "--yes", "--server", &url]).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.stderr, "deleted gone with 1 series and 0 alerts\n");

    assert_eq!(folded(&url, "/gone", since).await, "");
    assert_eq!(folded(&url, "kept", since).await, kept);
    let other = folded(&url, "prod/gone", since).await;
    assert_eq!(other, "main;shared;other 30000000\n");
    // The stream named the shared frames once, and they may be nowhere now.
    pusher.send(INSTANCE, 2, &[of("kept", "b", 4)]).await;
    match pusher.answer().await.unwrap() {
        Answer::Refusal(refusal) => {
            assert_eq!(refusal.code(), RefusalCode::DictionaryReset);
            assert!(refusal.retry_after_millis > 0, "{refusal:?}");
        }
        Answer::Ack(ack) => panic!("{ack:?}"),
    }
    let mut pusher = Pusher::connect(&url, INSTANCE).await.unwrap();
    acked(&mut pusher, 2, &[of("kept", "b", 4), of("gone", "anew", 5)]).await;
    assert_eq!(
        folded(&url, "/gone", since).await,
        "main;shared;anew 50000000\n"
    );
    assert_eq!(
        folded(&url, "kept", since).await,
        "main;shared;a 20000000\nmain;shared;b 40000000\n"
    );
    server.stop().await;
}

/// Sends batches of both services, again over a new stream where told to, until
/// `stop`; returns how many were acknowledged.
async fn agent(url: String, instance: [u8; 16], stop: Arc<AtomicBool>) -> u64 {
    let mut pusher = Pusher::connect(&url, instance).await.unwrap();
    let mut sequence = 1;
    while !stop.load(Ordering::SeqCst) {
        let leaf = format!("leaf_{}_{sequence}", instance[0]);
        let stack: &[&str] = &["main", "shared", &leaf];
        let start = SystemClock.now();
        let both = ["kept", "gone"].map(|service| profile(service, start, &[(stack, 1)]));
        pusher.send(instance, sequence, &both).await;
        match pusher.answer().await.unwrap() {
            Answer::Ack(ack) => {
                assert!(ack.refused.is_empty(), "{ack:?}");
                sequence += 1;
            }
            Answer::Refusal(refusal) => {
                assert_eq!(refusal.code(), RefusalCode::DictionaryReset);
                pusher = Pusher::connect(&url, instance).await.unwrap();
            }
        }
    }
    sequence - 1
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_meanwhile_is_of_the_new_service_or_gone_and_others_count_once() {
    let server = Server::start().await;
    let url = server.url();
    let since = SystemClock.now().saturating_sub(Duration::from_secs(60));
    let stop = Arc::new(AtomicBool::new(false));
    let mut agents = JoinSet::new();
    for n in 1..=3 {
        agents.spawn(agent(url.clone(), [n; 16], Arc::clone(&stop)));
    }
    let mut deleted = 0;
    while deleted < 5 {
        let ended = run(&["delete", "--service", "gone", "--yes", "--server", &url]).await;
        deleted += i32::from(ended.code == 0);
        assert!(
            ended.code == 0 || ended.stderr.contains("no service"),
            "{ended:?}"
        );
        // Nothing of it dangles: what is there has names.
        let now = folded(&url, "gone", since).await;
        assert!(
            now.lines()
                .all(|line| line.starts_with("main;shared;leaf_")),
            "{now}"
        );
    }
    stop.store(true, Ordering::SeqCst);
    let mut expected = 0;
    while let Some(count) = agents.join_next().await {
        expected += count.unwrap();
    }
    let kept = folded(&url, "kept", since).await;
    let lines = kept.lines();
    assert!(
        lines.clone().all(|line| line.ends_with(" 10000000")),
        "{kept}"
    );
    assert_eq!(u64::try_from(lines.count()).unwrap(), expected);
    server.stop().await;
}

#[tokio::test]
async fn a_start_finishes_what_a_kill_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let since = SystemClock.now().saturating_sub(Duration::from_secs(60));
    let start = SystemClock.now().saturating_sub(Duration::from_secs(20));
    let stack: &[&str] = &["main", "work"];
    let mut kept = String::new();
    for round in 0..2 {
        let (url, stop) = start_in(&data).await;
        let mut pusher = Pusher::connect(&url, INSTANCE).await.unwrap();
        match round {
            0 => {
                let both = ["kept", "gone"].map(|name| profile(name, start, &[(stack, 7)]));
                acked(&mut pusher, 1, &both).await;
                kept = folded(&url, "kept", since).await;
            }
            _ => {
                assert_eq!(folded(&url, "gone", since).await, "");
                assert_eq!(folded(&url, "kept", since).await, kept);
                acked(&mut pusher, 2, &[profile("gone", start, &[(stack, 1)])]).await;
                assert_eq!(folded(&url, "gone", since).await, "main;work 10000000\n");
            }
        }
        drop(pusher);
        stop.await;
        let store = RocksStore::open(&data, 8 << 20).unwrap();
        let name = ServiceKey {
            tenant: "anonymous".to_owned(),
            namespace: String::new(),
            service: "gone".to_owned(),
        };
        match round {
            // As a kill leaves it that comes right after the first step.
            0 => store.doom(ServiceId(2), &name).unwrap(),
            _ => {
                assert_eq!(store.doomed().unwrap(), []);
                let services = store.catalog().unwrap().services;
                assert_eq!(services.last(), Some(&(ServiceId(3), name)));
                assert_eq!(windows(&store, ServiceId(2)), 0);
                assert_eq!(windows(&store, ServiceId(3)), 1);
                let tree = TreeId {
                    service: ServiceId(2),
                    epoch: Epoch(0),
                };
                assert_eq!(store.tree(tree).unwrap().stack_count(), 0);
                assert_eq!(store.series(ServiceId(2)).unwrap(), []);
            }
        }
    }
}

fn windows(store: &RocksStore, service: ServiceId) -> usize {
    let mut count = 0;
    let all = Window::new(UnixNanos::new(0), SystemClock.now()).unwrap();
    let request = SumRequest {
        tier: Tier::Window,
        ptype: PtypeId(1),
        service,
        series: None,
        window: all,
    };
    let seen: Result<(), StoreError> = store.keys(&request, &mut |_| count += 1);
    seen.unwrap();
    count
}
