//! Profiles beside each other, over time, and from files.

use std::time::Duration;

use proto::labels::LabelSet;
use proto::profile::Profile;
use proto::window::{Clock, SystemClock, UnixNanos};

use crate::cli::run;
use crate::push::{Answer, Pusher, profile};
use crate::server::Server;

/// Nanoseconds of one sample of the tests.
const SAMPLE_NS: i64 = 10_000_000;

fn ago(seconds: u64) -> UnixNanos {
    SystemClock
        .now()
        .saturating_sub(Duration::from_secs(seconds))
}

/// `profile` with label `version` added.
pub(crate) fn of_version(profile: &Profile, version: &str) -> Profile {
    let labels = profile.labels().iter().chain([("version", version)]);
    Profile::new(
        LabelSet::new(labels).unwrap(),
        profile.window(),
        profile.stacks().to_vec(),
        profile.columns().to_vec(),
        *profile.facts(),
    )
    .unwrap()
}

/// Version a works for 100 samples, b for 100 and spins for 50 more.
async fn push_versions(server: &Server) {
    let instance = [3; 16];
    let mut pusher = Pusher::connect(&server.url(), instance).await.unwrap();
    let work: &[&str] = &["main.main", "main.work"];
    let spin: &[&str] = &["main.main", "main.spin"];
    let a = profile("api", ago(30), &[(work, 100)]);
    let b = profile("api", ago(30), &[(work, 100), (spin, 50)]);
    let both = [of_version(&a, "a"), of_version(&b, "b")];
    pusher.send(instance, 1, &both).await;
    assert!(matches!(pusher.answer().await.unwrap(), Answer::Ack(_)));
}

#[tokio::test]
async fn versions_are_compared() {
    let server = Server::start().await;
    push_versions(&server).await;
    let select = "base=%7Bversion%3D%22a%22%7D&new=%7Bversion%3D%22b%22%7D";
    let path = format!("/api/v1/diff?service=api&since=1h&{select}");
    let folded = server.get(&format!("{path}&format=folded"), &[]).await;
    assert_eq!(folded.status, 200, "{}", folded.text());
    let (work, spin) = (100 * SAMPLE_NS, 50 * SAMPLE_NS);
    assert_eq!(
        folded.text(),
        format!("main.main;main.spin 0 {spin}\nmain.main;main.work {work} {work}\n")
    );
    let json = server.get(&path, &[]).await;
    assert_eq!(json.header("content-type"), "application/json");
    assert!(json.text().contains("main.spin"), "{}", json.text());
    for (query, part) in [
        ("service=api&before=soon", "before"),
        ("service=nobody", "nobody"),
        ("service=api&format=speedscope", "speedscope"),
    ] {
        let reply = server.get(&format!("/api/v1/diff?{query}"), &[]).await;
        assert!(
            matches!(reply.status, 400 | 404),
            "{query}: {}",
            reply.text()
        );
        assert!(reply.text().contains(part), "{query}: {}", reply.text());
    }
    let url = server.url();
    let shown = run(&[
        "diff",
        "--server",
        &url,
        "--service",
        "api",
        "--base",
        "{version=\"a\"}",
        "--new",
        "{version=\"b\"}",
        "--format",
        "top",
    ])
    .await;
    assert_eq!(shown.code, 0, "{}", shown.both());
    assert!(shown.both().contains("main.spin"), "{}", shown.both());
    server.stop().await;
}

#[tokio::test]
async fn a_comparison_says_what_it_lacks_and_how_it_compares() {
    let server = Server::start().await;
    push_versions(&server).await;
    let url = server.url();
    let versions = ["--base", "{version=\"a\"}", "--new", "{version=\"b\"}"];
    let unknown = ["--base", "{version=\"a\"}", "--new", "{version=\"z\"}"];
    for (arguments, code, parts) in [
        (
            [&versions[..], &["--share"]].concat(),
            0,
            ["same total", "main.spin"],
        ),
        (
            [&versions[..], &["--absolute", "--format", "top"]].concat(),
            0,
            ["none: values as measured", "+500ms"],
        ),
        (
            [&versions[..], &["--max-nodes", "3"]].concat(),
            0,
            ["folded into \"other\", on both sides", "other"],
        ),
        (
            unknown.to_vec(),
            0,
            ["no windows of series {version=\"z\"}", "collector labels"],
        ),
        (
            vec!["--base-since", "2d", "--base-until", "1d"],
            0,
            ["base: no windows in this range", "main.work"],
        ),
        (
            vec!["--base-service", "nobody"],
            1,
            ["\"nobody\"", "known are: api"],
        ),
        (
            vec!["--before", "1h", "--type", "wall"],
            1,
            ["\"wall\"", "cpu"],
        ),
    ] {
        let diff = ["diff", "--server", &url, "--service", "api"];
        let ended = run(&[&diff[..], &arguments].concat()).await;
        assert_eq!(ended.code, code, "{arguments:?}: {}", ended.both());
        for part in parts {
            assert!(ended.both().contains(part), "{part}: {}", ended.both());
        }
    }
    for (query, status, part) in [
        ("share=true", 200, "\"reading\":\"share\""),
        ("absolute=true", 200, "\"reading\":\"absolute\""),
        (
            "base_since=2d&base_until=1d",
            200,
            "\"reading\":\"per_time\"",
        ),
        (
            "base_service=api&base=%7Bversion%3D%22a%22%7D",
            200,
            "main.spin",
        ),
        ("share=true&absolute=true", 400, "not both"),
        ("before=1h&base_since=2d", 400, "base_since"),
        ("before=100000d", 400, "1970"),
        ("base_service=nobody", 404, "nobody"),
    ] {
        let path = format!("/api/v1/diff?service=api&since=1h&{query}");
        let reply = server.get(&path, &[]).await;
        assert_eq!(reply.status, status, "{query}: {}", reply.text());
        assert!(reply.text().contains(part), "{query}: {}", reply.text());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_value_is_charted_by_label() {
    let server = Server::start().await;
    push_versions(&server).await;
    let path = "/api/v1/timeline?service=api&since=10m&step=10m&group_by=version";
    let reply = server.get(path, &[]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let json = reply.json();
    let text = json.to_string();
    assert!(text.contains("\"a\"") && text.contains("\"b\""), "{text}");
    // One second of CPU in ten seconds, and one and a half.
    assert!(text.contains("0.1") && text.contains("0.15"), "{text}");
    let many = server
        .get("/api/v1/timeline?service=api&since=30d&step=1s", &[])
        .await;
    assert_eq!(many.status, 400, "{}", many.text());
    let series = server.get("/api/v1/series?service=api", &[]).await;
    assert_eq!(series.json()["series"].as_array().unwrap().len(), 2);
    assert_eq!(series.json()["series"][1]["id"], 2);
    for (range, expected) in [("since=10m", 2), ("since=20m&until=15m", 0)] {
        let path = format!("/api/v1/series?service=api&{range}");
        let found = server.get(&path, &[]).await.json();
        let found = found["series"].as_array().map(Vec::len);
        assert_eq!(found, Some(expected), "{range}");
    }
    let url = server.url();
    let shown = run(&[
        "timeline",
        "--server",
        &url,
        "--service",
        "api",
        "--group-by",
        "version",
        "--format",
        "json",
    ])
    .await;
    assert_eq!(shown.code, 0, "{}", shown.both());
    assert!(shown.both().contains("\"b\""), "{}", shown.both());
    server.stop().await;
}

#[tokio::test]
async fn a_file_of_any_age_is_stored_and_found_again() {
    let server = Server::start().await;
    let file = server.folder().join("old.folded");
    std::fs::write(&file, "main;work 70\nmain;rest 30\n").unwrap();
    let url = server.url();
    let file = file.to_str().unwrap();
    let imported = run(&[
        "import",
        "--server",
        &url,
        "--service",
        "old",
        "--label",
        "version=0.1",
        "--start",
        "2019-03-04T05:06:07Z",
        "--rate",
        "100",
        file,
    ])
    .await;
    assert_eq!(imported.code, 0, "{}", imported.both());
    let shown = run(&[
        "query",
        "--server",
        &url,
        "--service",
        "old",
        "--since",
        "2019-03-04T05:06:00Z",
        "--until",
        "2019-03-04T05:07:00Z",
        "--format",
        "folded",
    ])
    .await;
    assert_eq!(shown.code, 0, "{}", shown.both());
    let expected = format!(
        "main;rest {}\nmain;work {}\n",
        30 * SAMPLE_NS,
        70 * SAMPLE_NS
    );
    assert_eq!(shown.both(), expected);
    let refused = run(&["import", "--server", &url, "--service", "old", "/dev/null"]).await;
    assert_ne!(refused.code, 0, "{}", refused.both());
    server.stop().await;
}

#[tokio::test]
async fn a_full_disk_refuses_windows_and_answers_readers() {
    // More than any file system has free.
    let server = Server::start_with(|config, _| config.store.max_disk_bytes = 1 << 30).await;
    server.push("logger").await;
    let filler = server.folder().join("data").join("filler");
    let file = std::fs::File::create(&filler).unwrap();
    file.set_len(2 << 30).unwrap();
    let instance = [5; 16];
    let spin: &[&str] = &["main.main", "main.spin"];
    let mut sequence = 0;
    let mut wait_for = async |wanted: fn(&Answer) -> bool| {
        for _ in 0..120 {
            let mut pusher = Pusher::connect(&server.url(), instance).await.unwrap();
            sequence += 1;
            let window = profile("logger", ago(20), &[(spin, 1)]);
            pusher.send(instance, sequence, &[window]).await;
            let answer = pusher.answer().await.unwrap();
            if wanted(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("the answer that was waited for never came");
    };
    let refused = wait_for(|answer| matches!(answer, Answer::Refusal(_))).await;
    let Answer::Refusal(refusal) = refused else {
        unreachable!()
    };
    assert!(refusal.message.contains("disk is full"), "{refusal:?}");
    assert!(refusal.retry_after_millis > 0);
    assert!(server.total("logger").await > 0, "reads go on");
    std::fs::remove_file(&filler).unwrap();
    wait_for(|answer| matches!(answer, Answer::Ack(_))).await;
    server.stop().await;
}
