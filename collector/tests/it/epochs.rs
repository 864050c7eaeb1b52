//! A call tree that is followed by another: answers hold the stacks of both.

use std::path::Path;
use std::time::Duration;

use proto::window::{Clock, SystemClock};

use crate::push::{Answer, Pusher, profile};
use crate::server::Server;

/// Nanoseconds of one sample of the tests.
const SAMPLE_NS: i64 = 10_000_000;
const INSTANCE: [u8; 16] = [9; 16];

async fn start(data: &Path, rules: &[&str]) -> Server {
    let rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
    Server::start_with(|config, _| {
        config.data = data.to_owned();
        config.store.symbol_rules = rules;
    })
    .await
}

/// Pushes a window of the same stacks, with names as the program has them.
async fn push(server: &Server, sequence: u64, seconds_ago: u64) {
    let generic: &[&str] = &["main.main", "main.each[go.shape.int]"];
    let plain: &[&str] = &["main.main", "main.work"];
    let start = SystemClock
        .now()
        .saturating_sub(Duration::from_secs(seconds_ago));
    let mut pusher = Pusher::connect(&server.url(), INSTANCE).await.unwrap();
    let window = profile("api", start, &[(generic, 3), (plain, 5)]);
    pusher.send(INSTANCE, sequence, &[window]).await;
    assert!(matches!(pusher.answer().await.unwrap(), Answer::Ack(_)));
}

async fn folded(server: &Server, range: &str) -> Vec<(String, i64)> {
    let path = format!("/api/v1/profile?service=api&{range}&format=folded");
    let reply = server.get(&path, &[]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let text = reply.text();
    let lines = text.lines().map(|line| line.rsplit_once(' ').unwrap());
    lines
        .map(|(stack, value)| (stack.to_owned(), value.parse::<i64>().unwrap() / SAMPLE_NS))
        .collect()
}

fn of(stacks: &[(&str, i64)]) -> Vec<(String, i64)> {
    let stacks = stacks.iter();
    stacks.map(|(stack, n)| ((*stack).to_owned(), *n)).collect()
}

#[tokio::test]
async fn other_rules_of_names_begin_a_tree_and_answers_hold_both() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = start(&data, &["go_generics"]).await;
    push(&server, 1, 300).await;
    let folded_name = of(&[("main.main;main.each[...]", 3), ("main.main;main.work", 5)]);
    assert_eq!(folded(&server, "since=1h").await, folded_name);
    server.stop().await;

    let server = start(&data, &[]).await;
    // Nothing new came: the old tree answers.
    assert_eq!(folded(&server, "since=1h").await, folded_name);
    push(&server, 2, 30).await;
    let both = of(&[
        ("main.main;main.each[...]", 3),
        ("main.main;main.each[go.shape.int]", 3),
        ("main.main;main.work", 10),
    ]);
    assert_eq!(folded(&server, "since=1h").await, both);
    // Each by itself, though their stacks have the same numbers.
    let new = of(&[
        ("main.main;main.each[go.shape.int]", 3),
        ("main.main;main.work", 5),
    ]);
    assert_eq!(folded(&server, "since=2m").await, new);
    assert_eq!(folded(&server, "since=1h&until=2m").await, folded_name);
    // The older half in the base, the newer one in the other.
    let path = "/api/v1/diff?service=api&since=2m&before=4m&format=folded";
    let diff = server.get(path, &[]).await.text();
    let n = 3 * SAMPLE_NS;
    assert!(
        diff.contains(&format!("main.main;main.each[...] {n} 0")),
        "{diff}"
    );
    assert!(
        diff.contains(&format!("main.main;main.each[go.shape.int] 0 {n}")),
        "{diff}"
    );
    server.stop().await;

    let server = start(&data, &[]).await;
    push(&server, 3, 20).await;
    assert_eq!(folded(&server, "since=1h").await.len(), 3, "no third tree");
    server.stop().await;
}
