//! Plain pprof over HTTP, as `curl --data-binary @cpu.pb.gz` sends it.

use std::path::Path;

use proto::codec;
use proto::pprof::Pprof;
use proto::stack::FrameKind;

use crate::server::Server;

/// A profile that Go's own tools wrote: 93 samples of 10 ms.
fn go_profile() -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/import");
    std::fs::read(folder.join("go-cpu.pb.gz")).unwrap()
}

const WHOLE_NS: i128 = 930_000_000;

#[tokio::test]
async fn a_profile_is_stored_with_labels_of_the_query_and_read_back_by_pprof() {
    let server = Server::start().await;
    let path = "/api/v1/ingest?service=prod/shop&label.version=1.8&label.pod=a-1&from=30s";
    let stored = server.post(path, &[], &go_profile()).await;
    assert_eq!(stored.status, 200, "{}", stored.text());
    let told = stored.json();
    assert_eq!(told["service"], "shop");
    assert_eq!(told["seconds"], 1.086_778_427);
    assert_eq!(told["duplicate"], false);
    assert_eq!(told["left_out"], "3 labels of samples dropped");
    assert_eq!(
        told["types"],
        serde_json::json!(["process_cpu:cpu:nanoseconds:cpu:nanoseconds"])
    );
    let select = "%7Bversion%3D%221.8%22,pod%3D%22a-1%22%7D";
    let path = format!("/api/v1/profile?service=prod/shop&since=1h&select={select}&format=pprof");
    let read = server.get(&path, &[]).await;
    assert_eq!(read.status, 200, "{}", read.text());
    let read = Pprof::parse(&read.body, FrameKind::Go).unwrap();
    let values = read.samples.iter().flat_map(|sample| &sample.values);
    assert_eq!(i128::from(values.sum::<i64>()), WHOLE_NS);
    let functions = read.samples.iter().flat_map(|sample| sample.stack.iter());
    let mut functions = functions.map(|frame| &*frame.function);
    assert!(functions.any(|name| name == "example.com/demo.checksum"));
    server.stop().await;
}

#[tokio::test]
async fn a_profile_with_an_id_counts_once() {
    let server = Server::start().await;
    let profile = codec::gunzip(&go_profile(), 1 << 20).unwrap();
    for (id, is_duplicate, times) in [
        ("&id=build-7", false, 1),
        ("&id=build-7", true, 1),
        ("&id=pusher/1", false, 2),
        ("&id=pusher/2", false, 3),
        ("&id=pusher/1", true, 3),
        ("", false, 4),
        ("", false, 5),
    ] {
        let path = format!("/api/v1/ingest?service=shop&from=20s{id}");
        let stored = server.post(&path, &[], &profile).await;
        assert_eq!(stored.status, 200, "{}", stored.text());
        assert_eq!(stored.json()["duplicate"], is_duplicate, "{id}");
        assert_eq!(server.total("shop").await, times * WHOLE_NS, "{id}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_refused_profile_may_come_again_under_its_id() {
    let server = Server::start().await;
    let profile = go_profile();
    let path = "/api/v1/ingest?service=shop&id=job-7";
    let ahead = format!("{path}&from=2200-01-01");
    assert_eq!(server.post(&ahead, &[], &profile).await.status, 400);
    let again = server
        .post(&format!("{path}&from=20s"), &[], &profile)
        .await;
    assert_eq!(again.json()["duplicate"], false);
    assert_eq!(server.total("shop").await, WHOLE_NS);
    server.stop().await;
}

#[tokio::test]
async fn pages_of_other_sites_push_nothing() {
    let server = Server::start().await;
    for (headers, status) in [
        (&["sec-fetch-site: cross-site"][..], 403),
        (&["sec-fetch-site: same-site"], 403),
        (&["origin: https://a.example"], 403),
        (&["sec-fetch-site: same-origin"], 200),
        (&[], 200),
    ] {
        let path = "/api/v1/ingest?service=shop&from=20s";
        let reply = server.post(path, headers, &go_profile()).await;
        assert_eq!(reply.status, status, "{headers:?}: {}", reply.text());
    }
    assert_eq!(server.total("shop").await, 2 * WHOLE_NS);
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_profile_is_refused_with_the_reason() {
    let server = Server::start().await;
    let profile = go_profile();
    let bomb = codec::gzip(&[0x12, 0x00].repeat(2 << 20));
    let large = vec![7; (8 << 20) + 1];
    for (query, body, status, reason) in [
        ("", &profile[..], 400, "service=NAME"),
        ("service=a&version=1", &profile, 400, "label.NAME"),
        ("service=a&label.pod=", b"", 400, "--data-binary"),
        ("service=a", b"main;work 7\n", 400, "pprof"),
        ("service=a", &bomb, 400, "memory"),
        ("service=a", &large, 400, "collector import"),
        ("service=a&from=30d", &profile, 400, "days ago"),
        ("service=a&from=2200-01-01", &profile, 400, "ahead"),
        ("service=a&until=2001-01-01", &profile, 400, "empty"),
    ] {
        let path = format!("/api/v1/ingest?{query}");
        let reply = server.post(&path, &[], body).await;
        let text = reply.text();
        assert_eq!(reply.status, status, "{query}: {text}");
        assert!(text.contains(reason), "{query}: {text}");
    }
    let services = server.get("/api/v1/services?since=1h", &[]).await.json();
    assert_eq!(services, serde_json::json!({ "services": [] }));
    server.stop().await;
}
