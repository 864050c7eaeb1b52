//! A backup of a running collector, restored, answers as the collector did.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::window::{Clock, SystemClock, UnixNanos};
use tokio::task::JoinSet;

use crate::cli::run;
use crate::push::{Answer, Pusher, profile};
use crate::restart::{INSTANCE, connect, free_port, start};

/// Folded stacks of `service` from `since` on, as the program prints them.
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
    assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
    ended.stdout
}

/// Pushes batches `sequences` of `service`, each with a stack of its own, and
/// counts what is acknowledged.
async fn push(
    pusher: &mut Pusher,
    service: &str,
    sequences: std::ops::Range<u64>,
    acked: &AtomicU64,
) {
    for sequence in sequences {
        let leaf = format!("leaf_{sequence}");
        let stack: &[&str] = &["main", "work", &leaf];
        let start = SystemClock.now();
        let count = i64::try_from(sequence).unwrap();
        pusher
            .send(
                INSTANCE,
                sequence,
                &[profile(service, start, &[(stack, count)])],
            )
            .await;
        match pusher.answer().await.unwrap() {
            Answer::Ack(_) => acked.fetch_add(1, Ordering::SeqCst),
            Answer::Refusal(refusal) => panic!("{refusal:?}"),
        };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_answers_as_the_collector_did() {
    let folder = tempfile::tempdir().unwrap();
    let (data, restored) = (folder.path().join("data"), folder.path().join("restored"));
    let since = SystemClock.now().saturating_sub(Duration::from_secs(60));
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    let first = start(&data, port);
    let mut pusher = connect(&url).await;
    push(&mut pusher, "still", 1..40, &AtomicU64::new(0)).await;
    let before = folded(&url, "still", since).await;
    assert_eq!(before.lines().count(), 39, "{before}");

    let acked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&acked);
    let mut goes_on = JoinSet::new();
    goes_on.spawn(async move {
        push(&mut pusher, "busy", 40..400, &counted).await;
    });
    while acked.load(Ordering::SeqCst) < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let acked_before = acked.load(Ordering::SeqCst);
    let made = run(&["backup", "monday", "--server", &url]).await;
    assert_eq!((made.code, &*made.stderr), (0, ""), "{made:?}");
    let backup = made.stdout.trim_end();
    let expected = folder.path().join("data-backups/monday");
    assert_eq!(backup, expected.canonicalize().unwrap().to_str().unwrap());
    for (name, part) in [("monday", "is there already"), ("../x", "cannot name")] {
        let refused = run(&["backup", name, "--server", &url]).await;
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.stderr.contains(part), "{refused:?}");
    }
    goes_on.join_next().await.unwrap().unwrap();
    let all = folded(&url, "busy", since).await;
    drop(first);

    let to = restored.to_str().unwrap();
    let ended = run(&["restore", backup, "--data", to]).await;
    assert_eq!((ended.code, &*ended.stdout), (0, ""), "{ended:?}");
    assert!(ended.stderr.contains("collector serve --data"), "{ended:?}");
    let again = run(&["restore", backup, "--data", to]).await;
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.stderr.contains("not empty"), "{again:?}");

    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    let _second = start(&restored, port);
    let mut pusher = connect(&url).await;
    assert_eq!(folded(&url, "still", since).await, before);
    // Of what came meanwhile: whole batches, the first ones, and all that were
    // acknowledged before.
    let busy = folded(&url, "busy", since).await;
    let copied = u64::try_from(busy.lines().count()).unwrap();
    assert!((acked_before..=360).contains(&copied), "{copied}");
    for sequence in 40..40 + copied {
        let line = format!("main;work;leaf_{sequence} {}\n", sequence * 10_000_000);
        assert!(busy.contains(&line) && all.contains(&line), "{line}");
    }
    // It takes what the first one acknowledged later as new, once.
    push(&mut pusher, "busy", 40 + copied..401, &AtomicU64::new(0)).await;
    assert_eq!(
        folded(&url, "busy", since).await.lines().count(),
        361,
        "{copied} were in the backup"
    );
}
