//! What a reader can ask: one function, chosen samples, groups, selections.

use std::time::Duration;

use collector::query::{MAX_QUERIES, MAX_WAITING};
use proto::profile::{Column, Profile};
use proto::value_type::Temporality;
use proto::window::{Clock, SystemClock};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::cli::run;
use crate::compare::of_version;
use crate::push::{Answer, Pusher, profile};
use crate::server::Server;

#[tokio::test]
async fn callers_and_callees_of_a_function_are_shown() {
    let server = Server::start().await;
    server.push("logger").await;
    let path = "/api/v1/sandwich?service=logger&since=1h";
    for (function, functions, flat, cum) in [
        ("main.startSink", &["main.startSink"][..], 0, 900_000_000),
        ("selectgo", &["runtime.selectgo"], 900_000_000, 900_000_000),
        (
            "main.*",
            &["main.main", "main.startSink", "main.work"],
            100_000_000,
            1_000_000_000,
        ),
    ] {
        let reply = server
            .get(&format!("{path}&function={function}"), &[])
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let json = reply.json();
        assert_eq!(json["functions"], serde_json::json!(functions));
        assert_eq!(
            (&json["flat"], &json["cum"], &json["total"]),
            (&flat.into(), &cum.into(), &1_000_000_000.into()),
            "{function}"
        );
    }
    let text = server
        .get(&format!("{path}&function=main.startSink&format=text"), &[])
        .await;
    assert_eq!(text.header("content-type"), "text/plain; charset=utf-8");
    for part in ["Callers", "main.main", "Callees", "runtime.selectgo"] {
        assert!(text.text().contains(part), "{part}: {}", text.text());
    }
    for (query, status, parts) in [
        (
            "function=startSnk",
            404,
            ["startSnk", "near it are: main.startSink"],
        ),
        ("function=zzz", 404, ["zzz", "table of functions"]),
        ("function=sink(", 404, ["sink(", "regex parse error"]),
        (
            "function=x&until=1m&since=2d&type=cpu",
            404,
            ["no sample", "range"],
        ),
        ("", 400, ["function=NAME", "needed"]),
        ("function=x&format=svg", 400, ["json or text", "svg"]),
        ("function=x&focus=(", 400, ["focus", "regular expression"]),
    ] {
        let reply = server
            .get(&format!("/api/v1/sandwich?service=logger&{query}"), &[])
            .await;
        assert_eq!(reply.status, status, "{query}: {}", reply.text());
        for part in parts {
            assert!(reply.text().contains(part), "{query}: {}", reply.text());
        }
    }
    let page = server.get("/service?name=logger", &[]).await.text();
    assert!(page.contains("/api/v1/sandwich?service=logger"), "{page}");
    server.stop().await;
}

#[tokio::test]
async fn query_peeks_at_a_function() {
    let server = Server::start().await;
    server.push("logger").await;
    let url = server.url();
    let file = server.folder().join("peek.json").display().to_string();
    for (arguments, code, parts) in [
        (
            vec!["--peek", "runtime.selectgo"],
            0,
            ["Callers", "main.startSink"],
        ),
        (
            vec!["--callers", "selectgo", "--format", "json"],
            0,
            ["\"regex\":\"selectgo\"", "\"callees\""],
        ),
        (vec!["--peek", "main.work", "-o", &file], 0, ["", ""]),
        (
            vec!["--peek", "selctgo"],
            1,
            ["near it are", "runtime.selectgo"],
        ),
        (
            vec!["--peek", "work", "--format", "svg"],
            2,
            ["--peek", "svg"],
        ),
    ] {
        let connection = ["query", "--service", "logger", "--server", &url];
        let ended = run(&[&connection[..], &arguments].concat()).await;
        assert_eq!(ended.code, code, "{arguments:?}: {ended:?}");
        for part in parts {
            assert!(ended.both().contains(part), "{arguments:?}: {ended:?}");
        }
    }
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.contains("\"name\":\"main.work\""), "{written}");
    server.stop().await;
}

#[tokio::test]
async fn hidden_frames_are_their_callers() {
    let server = Server::start().await;
    server.push("logger").await;
    let expected = "main.main;main.startSink 900000000\nmain.main;main.work 100000000\n";
    let reply = server
        .get(
            "/api/v1/profile?service=logger&format=folded&hide=%5Eruntime",
            &[],
        )
        .await;
    assert_eq!(reply.text(), expected);
    let all = server
        .get("/api/v1/profile?service=logger&format=folded&hide=.", &[])
        .await;
    assert_eq!(all.text(), "[no stack] 1000000000\n");
    let wrong = server
        .get("/api/v1/profile?service=logger&hide=(", &[])
        .await;
    assert_eq!(wrong.status, 400, "{}", wrong.text());
    assert!(wrong.text().contains("hide"), "{}", wrong.text());
    let url = server.url();
    let connection = [
        "--server",
        &url,
        "--service",
        "logger",
        "--format",
        "folded",
    ];
    for (arguments, expected) in [
        (
            vec!["query", "--hide", "^runtime", "--focus", "selectgo"],
            "main.main;main.startSink 900000000\n",
        ),
        (
            vec![
                "diff",
                "--before",
                "1h",
                "--hide",
                "^runtime",
                "--ignore",
                "work",
                "--absolute",
            ],
            "main.main;main.startSink 0 900000000\n",
        ),
        (
            vec!["diff", "--before", "1h", "--focus", "work", "--absolute"],
            "main.main;main.work 0 100000000\n",
        ),
    ] {
        let ended = run(&[&arguments[..], &connection].concat()).await;
        assert_eq!(ended.both(), expected, "{arguments:?}");
    }
    let diff = "/api/v1/diff?service=logger&before=1h&absolute=true&format=folded&focus=work&hide=main%5C.main";
    let reply = server.get(diff, &[]).await;
    assert_eq!(reply.text(), "main.work 0 100000000\n");
    let page = server.get("/service?name=logger&hide=runtime", &[]).await;
    assert!(page.text().contains("hide=runtime"), "{}", page.text());
    server.stop().await;
}

/// Pushes a window of each version: a works, b works and spins, c hardly works.
async fn push_versions(server: &Server) {
    let instance = [3; 16];
    let mut pusher = Pusher::connect(&server.url(), instance).await.unwrap();
    let start = SystemClock.now().saturating_sub(Duration::from_secs(30));
    let work: &[&str] = &["main.main", "main.work"];
    let spin: &[&str] = &["main.main", "main.spin"];
    let windows = [
        ("a", profile("api", start, &[(work, 20)])),
        ("b", profile("api", start, &[(work, 20), (spin, 50)])),
        ("c", profile("api", start, &[(work, 10)])),
    ];
    let windows = windows.map(|(version, window)| of_version(&window, version));
    pusher.send(instance, 1, &windows).await;
    assert!(matches!(pusher.answer().await.unwrap(), Answer::Ack(_)));
}

#[tokio::test]
async fn each_value_of_a_label_has_its_profile() {
    let server = Server::start().await;
    push_versions(&server).await;
    let path = "/api/v1/profile?service=api&since=1h&group_by=version";
    for (query, expected) in [
        (
            "",
            serde_json::json!([
                ["b", 0, 700_000_000, "main.spin", 500_000_000],
                ["a", 0, 200_000_000, "main.work", 200_000_000],
                ["c", 0, 100_000_000, "main.work", 100_000_000],
            ]),
        ),
        (
            "&max_groups=1",
            serde_json::json!([
                ["b", 0, 700_000_000, "main.spin", 500_000_000],
                [null, 2, 300_000_000, "main.work", 300_000_000],
            ]),
        ),
        (
            "&max_groups=1&ignore=spin",
            serde_json::json!([
                ["a", 0, 200_000_000, "main.work", 200_000_000],
                [null, 2, 300_000_000, "main.work", 300_000_000],
            ]),
        ),
        (
            "&select=%7Bversion%3D~%22a%7Cc%22%7D&hide=work",
            serde_json::json!([
                ["a", 0, 200_000_000, "main.main", 200_000_000],
                ["c", 0, 100_000_000, "main.main", 100_000_000],
            ]),
        ),
    ] {
        let reply = server.get(&format!("{path}{query}"), &[]).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let groups = reply.json()["groups"].clone();
        let fields = ["value", "rest_values", "total", "top_function", "top_flat"];
        let found: Vec<Vec<serde_json::Value>> = groups
            .as_array()
            .unwrap()
            .iter()
            .map(|group| fields.map(|field| group[field].clone()).to_vec())
            .collect();
        assert_eq!(serde_json::json!(found), expected, "{query}");
    }
    for (query, part) in [
        ("group_by=version&format=svg", "svg"),
        ("group_by=version&max_groups=1000", "1000"),
        ("max_groups=3", "group_by"),
        ("group_by=version&service=nobody", "duplicate"),
    ] {
        let path = format!("/api/v1/profile?service=api&{query}");
        let reply = server.get(&path, &[]).await;
        assert_eq!(reply.status, 400, "{query}: {}", reply.text());
        assert!(reply.text().contains(part), "{query}: {}", reply.text());
    }
    let none = server
        .get(
            "/api/v1/profile?service=api&since=2d&until=1d&group_by=version",
            &[],
        )
        .await;
    assert_eq!(none.json()["groups"], serde_json::json!([]));
    let url = server.url();
    for (arguments, code, parts) in [
        (vec!["--format", "top"], 0, ["in 3 groups", "main.spin"]),
        (
            vec!["--max-groups", "2"],
            0,
            ["version: b, 70.00%", "other (1 value)"],
        ),
        (
            vec!["--format", "json"],
            0,
            ["\"label\":\"version\"", "\"value\":\"c\""],
        ),
        (
            vec!["--format", "pprof", "-o", "x.pb.gz"],
            2,
            ["pprof", "top, tree, json"],
        ),
        (vec!["--max-groups", "0"], 2, ["--max-groups", "1..=100"]),
    ] {
        let query = [
            "query",
            "--service",
            "api",
            "--server",
            &url,
            "--group-by",
            "version",
        ];
        let ended = run(&[&query[..], &arguments].concat()).await;
        assert_eq!(ended.code, code, "{arguments:?}: {ended:?}");
        for part in parts {
            assert!(ended.both().contains(part), "{part}: {ended:?}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn labels_and_types_are_those_of_the_range() {
    let server = Server::start().await;
    push_versions(&server).await;
    let file = server.folder().join("old.folded");
    std::fs::write(&file, "main;work 70\n").unwrap();
    let url = server.url();
    let imported = run(&[
        "import",
        "--server",
        &url,
        "--service",
        "api",
        "--label",
        "version=0.1",
        "--label",
        "era=old",
        "--type",
        "memory:alloc_space:bytes:space:bytes",
        "--start",
        "2019-03-04T05:06:07Z",
        file.to_str().unwrap(),
    ])
    .await;
    assert_eq!(imported.code, 0, "{}", imported.both());
    for (path, expected) in [
        (
            "labels?service=api",
            r#"{"names":["era","pod","service","version"]}"#,
        ),
        (
            "labels?service=api&since=1h",
            r#"{"names":["pod","service","version"]}"#,
        ),
        (
            "labels?service=api&name=version",
            r#"{"values":["0.1","a","b","c"]}"#,
        ),
        (
            "labels?service=api&name=version&since=1h",
            r#"{"values":["a","b","c"]}"#,
        ),
        (
            "labels?service=api&name=version&since=2019-03-04&until=2019-03-05",
            r#"{"values":["0.1"]}"#,
        ),
        (
            "labels?service=api&name=version&select=%7Bversion%3D~%22a%7C0.1%22%7D&since=1h",
            r#"{"values":["a"]}"#,
        ),
        (
            "types?service=api&since=1h",
            r#"{"types":["process_cpu:cpu:nanoseconds:cpu:nanoseconds"]}"#,
        ),
        (
            "types?service=api&select=%7Bversion%3D%22z%22%7D",
            r#"{"types":[]}"#,
        ),
        (
            "series?service=api&since=2019-03-03&until=2019-03-04",
            r#"{"series":[]}"#,
        ),
    ] {
        let reply = server.get(&format!("/api/v1/{path}"), &[]).await;
        assert_eq!(reply.text(), expected, "{path}");
    }
    let all = server.get("/api/v1/types?service=api", &[]).await;
    assert_eq!(all.json()["types"].as_array().unwrap().len(), 2);
    for (path, status, part) in [
        (
            "profile?service=api&since=1h&type=wall",
            404,
            "it has: cpu\"",
        ),
        (
            "profile?service=api&since=2d&until=1d&type=wall",
            404,
            "no windows there",
        ),
        ("labels?service=api&since=x", 400, "since"),
        ("types?service=nobody", 404, "nobody"),
    ] {
        let reply = server.get(&format!("/api/v1/{path}"), &[]).await;
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        assert!(reply.text().contains(part), "{path}: {}", reply.text());
    }
    for (arguments, stdout) in [
        (vec!["--name", "version", "--since", "1h"], "a\nb\nc\n"),
        (
            vec!["--since", "1h", "--types"],
            "process_cpu:cpu:nanoseconds:cpu:nanoseconds\n",
        ),
    ] {
        let labels = ["labels", "--service", "api", "--server", &url];
        let ended = run(&[&labels[..], &arguments].concat()).await;
        assert_eq!(ended.both(), stdout, "{arguments:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_takes_more_memory_than_there_is_is_refused() {
    let server = Server::start_with(|config, _| config.store.max_memory_bytes = 64 << 20).await;
    let names: Vec<String> = (0..26_000).map(|at| format!("f{at}")).collect();
    let stacks = names.iter().map(|name| ["main.main", name, name]);
    let stacks: Vec<[&str; 3]> = stacks.collect();
    let samples: Vec<(&[&str], i64)> = stacks.iter().map(|stack| (&stack[..], 1)).collect();
    let instance = [4; 16];
    let mut pusher = Pusher::connect(&server.url(), instance).await.unwrap();
    let start = SystemClock.now().saturating_sub(Duration::from_secs(30));
    pusher
        .send(instance, 1, &[profile("wide", start, &samples)])
        .await;
    assert!(matches!(pusher.answer().await.unwrap(), Answer::Ack(_)));
    let small = server.get("/api/v1/profile?service=wide", &[]).await;
    assert_eq!(small.status, 200, "{}", small.text());
    let path = "/api/v1/sandwich?service=wide&function=main.main";
    let large = server.get(path, &[]).await;
    assert_eq!(large.status, 429);
    let error = &large.json()["error"];
    assert_eq!(error["kind"], "exhausted");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("store.max_memory_bytes"), "{message}");
    let url = server.url();
    let query = [
        "query",
        "--service",
        "wide",
        "--server",
        &url,
        "--peek",
        "main.main",
    ];
    let ended = run(&query).await;
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.both().contains("store.max_memory_bytes"), "{ended:?}");
    let metrics = server.get("/metrics", &[]).await.text();
    let counted = "tepui_query_failures_total{kind=\"exhausted\"} 2\n";
    assert!(metrics.contains(counted), "{metrics}");
    server.stop().await;
}

#[tokio::test]
async fn clients_that_go_away_leave_their_places() {
    let server = Server::start().await;
    server.push("logger").await;
    let request =
        "GET /api/v1/profile?service=logger&format=svg HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // More than may run and wait together, each gone before it is answered.
    for _ in 0..2 * MAX_WAITING {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    for _ in 0..MAX_QUERIES + 1 {
        let reply = server.get("/api/v1/profile?service=logger", &[]).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    server.stop().await;
}

#[tokio::test]
async fn gauges_are_averages_in_every_answer() {
    let server = Server::start().await;
    let instance = [6; 16];
    let mut pusher = Pusher::connect(&server.url(), instance).await.unwrap();
    let kept: &[&str] = &["main.main", "main.newQueue"];
    let windows = [("a", 40, 3_000), ("a", 30, 5_000), ("b", 30, 1_000)];
    let now = SystemClock.now();
    let windows = windows.map(|(version, ago, bytes)| {
        let start = now.saturating_sub(Duration::from_secs(ago));
        let cpu = of_version(&profile("heap", start, &[(kept, bytes)]), version);
        let columns = cpu.columns().iter().map(|column| Column {
            profile_type: "memory:inuse_space:bytes:space:bytes".parse().unwrap(),
            temporality: Temporality::Gauge,
            weight: 1,
            ..column.clone()
        });
        let (labels, window) = (cpu.labels().clone(), cpu.window());
        let (stacks, columns) = (cpu.stacks().to_vec(), columns.collect());
        Profile::new(labels, window, stacks, columns, *cpu.facts()).unwrap()
    });
    pusher.send(instance, 1, &windows).await;
    assert!(matches!(pusher.answer().await.unwrap(), Answer::Ack(_)));
    let select = "service=heap&type=inuse_space";
    // a had 3000 and 5000 bytes for ten seconds each, b 1000 for ten seconds.
    let groups = server
        .get(&format!("/api/v1/profile?{select}&group_by=version"), &[])
        .await
        .json();
    for (at, value, total) in [(0, "a", 4_000), (1, "b", 1_000)] {
        let group = &groups["groups"][at];
        assert_eq!(group["value"], value);
        assert_eq!(
            (&group["total"], &group["top_flat"]),
            (&total.into(), &total.into())
        );
    }
    let peek = server
        .get(
            &format!("/api/v1/sandwich?{select}&function=main.newQueue"),
            &[],
        )
        .await
        .json();
    let both = 9_000 * 10 / 20;
    assert_eq!((&peek["cum"], &peek["total"]), (&both.into(), &both.into()));
    assert_eq!(peek["callers"]["total"][0], both);
    let diff = server
        .get(
            &format!(
                "/api/v1/diff?{select}&format=folded&base=%7Bversion%3D%22b%22%7D&new=%7Bversion%3D%22a%22%7D"
            ),
            &[],
        )
        .await;
    assert_eq!(diff.text(), "main.main;main.newQueue 1000 4000\n");
    server.stop().await;
}
