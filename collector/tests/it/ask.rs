//! What a reader can ask: one function, chosen samples, groups, selections.

use crate::cli::run;
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
