//! What Prometheus' own tool says of `/metrics`.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::server::Server;

#[tokio::test]
async fn promtool_finds_nothing_to_mend() {
    let server = Server::start().await;
    server.push("logger").await;
    server.total("logger").await;
    let text = server.get("/metrics", &[]).await.text();
    for part in [
        "tepui_ingest_ack_seconds_count 1",
        "tepui_store_commit_seconds_count 1",
        "tepui_queries_total{query=\"profile\"} 1",
        "tepui_trees ",
        "tepui_tree_nodes ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("cannot run promtool ({error}); type: deploy/setup.sh && export PATH=$PATH:~/.cache/tepui-tools/bin")
        });
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    server.stop().await;
}
