//! API and pages.

use proto::pprof::Pprof;
use proto::stack::FrameKind;

use crate::server::Server;

const HOSTILE: &str = "<script>alert(1)</script>\"'&";
const HOSTILE_ENCODED: &str = "%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%27%26";

#[tokio::test]
async fn every_format_is_named_and_typed() {
    let server = Server::start().await;
    server.push("logger").await;
    for (format, content_type, name, part) in [
        (
            "top",
            "text/plain; charset=utf-8",
            "txt",
            "runtime.selectgo",
        ),
        ("tree", "text/plain; charset=utf-8", "txt", "main.startSink"),
        (
            "folded",
            "text/plain; charset=utf-8",
            "folded",
            "main.main;main.startSink;runtime.selectgo 900000000\n",
        ),
        ("svg", "image/svg+xml", "svg", "<svg"),
        ("json", "application/json", "json", "\"runtime.selectgo\""),
        (
            "speedscope",
            "application/json",
            "speedscope.json",
            "speedscope",
        ),
    ] {
        let path = format!("/api/v1/profile?service=logger&since=1h&format={format}");
        let reply = server.get(&path, &[]).await;
        assert_eq!(reply.status, 200, "{format}: {}", reply.text());
        assert_eq!(reply.header("content-type"), content_type, "{format}");
        let disposition = reply.header("content-disposition");
        assert!(
            disposition.contains("filename=\"logger-cpu-"),
            "{disposition}"
        );
        assert!(
            disposition.ends_with(&format!(".{name}\"")),
            "{disposition}"
        );
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        assert!(reply.text().contains(part), "{format}: {}", reply.text());
    }
    let pprof = server
        .get("/api/v1/profile?service=logger&format=pprof", &[])
        .await;
    assert!(
        pprof
            .header("content-disposition")
            .starts_with("attachment")
    );
    assert_eq!(pprof.header("content-encoding"), "");
    assert!(Pprof::parse(&pprof.body, FrameKind::Go).is_ok());
    server.stop().await;
}

#[tokio::test]
async fn the_flame_graph_may_run_its_own_script_and_pages_may_run_none() {
    let server = Server::start().await;
    server.push("logger").await;
    let svg = server
        .get("/api/v1/profile?service=logger&format=svg", &[])
        .await;
    let policy = svg.header("content-security-policy");
    assert!(
        policy.contains("default-src 'none'; script-src 'unsafe-inline'"),
        "{policy}"
    );
    for path in ["/", "/service?name=logger", "/top?name=logger", "/alerts"] {
        let page = server.get(path, &[]).await;
        assert_eq!(page.status, 200, "{path}: {}", page.text());
        let policy = page.header("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && !policy.contains("script"),
            "{policy}"
        );
        assert!(
            page.header("content-type").starts_with("text/html"),
            "{path}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn lists_are_json() {
    let server = Server::start().await;
    server.push("logger").await;
    let services = server.get("/api/v1/services?since=1h", &[]).await.json();
    let service = &services["services"][0];
    assert_eq!(service["name"], "logger");
    assert_eq!(service["namespace"], "");
    assert_eq!(service["series"], 1);
    assert_eq!(service["firing_alerts"], 0);
    let labels = server
        .get("/api/v1/labels?service=logger", &[])
        .await
        .json();
    assert_eq!(labels["names"], serde_json::json!(["pod", "service"]));
    let pods = server
        .get("/api/v1/labels?service=logger&name=pod", &[])
        .await
        .json();
    assert_eq!(pods["values"], serde_json::json!(["p-1"]));
    let anomalies = server.get("/api/v1/anomalies", &[]).await.json();
    assert_eq!(anomalies, serde_json::json!({ "anomalies": [] }));
    let status = server.get("/api/v1/status", &[]).await.json();
    assert_eq!(status["ready"], true);
    assert_eq!(status["ingest"]["batches"], 1);
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_answered_says_why() {
    let server = Server::start().await;
    server.push("logger").await;
    let profile = "/api/v1/profile?service=logger";
    for (path, status, kind, part) in [
        ("/api/v1/profile".to_owned(), 400, "invalid", "service=NAME"),
        (
            "/api/v1/profile?service=loger".to_owned(),
            404,
            "not_found",
            "logger",
        ),
        (format!("{profile}&since=x"), 400, "invalid", "90m"),
        (
            format!("{profile}&since=1m&until=1h"),
            400,
            "invalid",
            "empty",
        ),
        (format!("{profile}&seconds=30"), 400, "invalid", "since=30s"),
        (format!("{profile}&servce=x"), 400, "invalid", "servce"),
        (
            format!("{profile}&select=%7B"),
            400,
            "invalid",
            "label name",
        ),
        (format!("{profile}&focus=("), 400, "invalid", "focus"),
        (format!("{profile}&ignore=("), 400, "invalid", "ignore"),
        (
            format!("{profile}&format=png"),
            400,
            "invalid",
            "speedscope",
        ),
        (format!("{profile}&type=wall"), 404, "not_found", "cpu"),
        (
            format!("{profile}&max_nodes=99999999"),
            400,
            "invalid",
            "max_nodes",
        ),
        (
            "/api/v1/anomalies?state=loud".to_owned(),
            400,
            "invalid",
            "loud",
        ),
        (
            "/api/v1/anomalies?id=none".to_owned(),
            404,
            "not_found",
            "none",
        ),
        (
            "/api/v1/labels?service=nobody".to_owned(),
            404,
            "not_found",
            "logger",
        ),
        ("/api/v2".to_owned(), 404, "not_found", "/api/v1/"),
    ] {
        let reply = server.get(&path, &[]).await;
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        let error = &reply.json()["error"];
        assert_eq!(error["kind"], kind, "{path}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(part), "{path}: {message}");
    }
    server.stop().await;
}

#[tokio::test]
async fn go_tool_pprof_is_told_why_in_its_own_way() {
    let server = Server::start().await;
    let path = "/api/v1/profile?service=logger&format=pprof";
    for (agent, plain) in [
        ("User-Agent: Go-http-client/1.1", true),
        ("User-Agent: curl/8", false),
    ] {
        let reply = server.get(path, &[agent]).await;
        assert_eq!(reply.status, 404);
        assert_eq!(reply.header("x-go-pprof") == "1", plain, "{agent}");
        assert_eq!(
            reply.header("content-type").starts_with("text/plain"),
            plain
        );
        assert!(reply.text().contains("logger"), "{}", reply.text());
    }
    let own = server.get("/debug/pprof/profile?seconds=90", &[]).await;
    assert_eq!(own.status, 307);
    assert_eq!(
        own.header("location"),
        "/api/v1/profile?service=collector&since=90s&format=pprof"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_hostile_name_stays_text() {
    let server = Server::start().await;
    server.push(HOSTILE).await;
    for path in [
        "/".to_owned(),
        format!("/service?name={HOSTILE_ENCODED}"),
        format!("/service?name={HOSTILE_ENCODED}&type={HOSTILE_ENCODED}"),
        format!("/top?name={HOSTILE_ENCODED}"),
        format!("/top?name={HOSTILE_ENCODED}&focus=%3Cscript%3E"),
        format!("/service?name=a&since={HOSTILE_ENCODED}"),
        format!("/alerts?service={HOSTILE_ENCODED}"),
        format!("/api/v1/profile?service={HOSTILE_ENCODED}&format=svg"),
    ] {
        let reply = server.get(&path, &[]).await;
        let text = reply.text();
        assert!(!text.contains("<script>alert"), "{path}: {text}");
        assert!(!text.contains("\"'&\""), "{path}: {text}");
        let disposition = reply.header("content-disposition");
        assert!(!disposition.contains(['<', '\'']), "{disposition}");
    }
    let home = server.get("/", &[]).await.text();
    assert!(home.contains("&lt;script&gt;alert(1)"), "{home}");
    server.stop().await;
}

#[tokio::test]
async fn probes_and_scrapes_are_answered() {
    let server = Server::start().await;
    server.push("logger").await;
    let ready = server.get("/ready", &[]).await;
    assert_eq!((ready.status, ready.text().as_str()), (200, "ready\n"));
    let metrics = server.get("/metrics", &[]).await;
    let content_type = metrics.header("content-type");
    assert!(
        content_type.starts_with("text/plain; version=0.0.4"),
        "{content_type}"
    );
    assert!(metrics.text().contains("\ntepui_ingest_batches_total 1\n"));
    let style = server.get("/style.css", &[]).await;
    assert_eq!(style.header("content-type"), "text/css; charset=utf-8");
    server.stop().await;
}
