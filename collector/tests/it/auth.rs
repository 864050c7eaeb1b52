//! Tokens and TLS, on the port.

use std::path::Path;

use collector::config::Config;
use proto::pb::tepui::admin_client::AdminClient;
use proto::pb::tepui::ingest_client::IngestClient;
use proto::pb::tepui::query_client::QueryClient;
use proto::pb::tepui::{BackupRequest, ServicesRequest};
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::cli::run;
use crate::server::Server;

const AGENT: &str = "agent-token-0123456";
const READER: &str = "reader-token-012345";
const ADMIN: &str = "admin-token-0123456";

fn with_tokens(config: &mut Config, folder: &Path) {
    let path = folder.join("tokens");
    let text = format!("# test\nagent one {AGENT}\nreader one {READER}\nadmin two {ADMIN}\n");
    std::fs::write(&path, text).unwrap();
    config.auth.token_file = path;
}

#[tokio::test]
async fn profiles_are_taken_from_those_who_may_push() {
    let server = Server::start_with(with_tokens).await;
    for (token, status) in [
        (READER, 403),
        (AGENT, 400),
        (ADMIN, 400),
        ("no-such-token-01", 401),
    ] {
        let header = format!("Authorization: Bearer {token}");
        let path = "/api/v1/ingest?service=a";
        let reply = server.post(path, &[&header], b"").await;
        assert_eq!(reply.status, status, "{token}: {}", reply.text());
    }
    server.stop().await;
}

#[tokio::test]
async fn http_asks_for_a_token_with_the_right_role() {
    let server = Server::start_with(with_tokens).await;
    let bearer = |token: &str| Some(format!("Authorization: Bearer {token}"));
    // "any:reader-token-012345" in base64.
    let basic = Some("Authorization: Basic YW55OnJlYWRlci10b2tlbi0wMTIzNDU=".to_owned());
    for (path, header, status) in [
        ("/ready", None, 200),
        ("/", None, 401),
        ("/metrics", None, 401),
        ("/api/v1/services", None, 401),
        ("/nothing", None, 401),
        ("/api/v1/services", bearer("wrong-token-0123456"), 401),
        ("/api/v1/services", bearer(AGENT), 403),
        ("/api/v1/services", bearer(READER), 200),
        ("/api/v1/services", bearer(ADMIN), 200),
        ("/api/v1/services", basic.clone(), 200),
        ("/", basic, 200),
    ] {
        let headers: Vec<&str> = header.iter().map(String::as_str).collect();
        let reply = server.get(path, &headers).await;
        assert_eq!(reply.status, status, "{path} {header:?}: {}", reply.text());
        let challenges = reply.headers("www-authenticate");
        assert_eq!(challenges.contains(&"Bearer"), status == 401, "{path}");
        // Programs get no challenge that would make a browser ask.
        let asks_browser = challenges.iter().any(|text| text.starts_with("Basic"));
        assert_eq!(
            asks_browser,
            status == 401 && !path.starts_with("/api/"),
            "{path}"
        );
        if status == 401 || status == 403 {
            assert!(
                reply.json()["error"]["message"]
                    .as_str()
                    .unwrap()
                    .contains("token")
            );
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn grpc_asks_for_a_token_with_the_right_role() {
    let server = Server::start_with(with_tokens).await;
    let channel = Channel::from_shared(server.url())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let (nobody, denied) = (Some(Code::Unauthenticated), Some(Code::PermissionDenied));
    // An administrator gets as far as to be told that the name is none.
    let let_in = Some(Code::InvalidArgument);
    for (token, query, push, administer) in [
        (None, nobody, nobody, nobody),
        (Some("wrong-token-0123456"), nobody, nobody, nobody),
        (Some(AGENT), denied, None, denied),
        (Some(READER), None, denied, denied),
        (Some(ADMIN), None, None, let_in),
    ] {
        let with_token = |mut request: Request<()>| {
            if let Some(token) = token {
                let value = format!("Bearer {token}").parse().unwrap();
                request.metadata_mut().insert("authorization", value);
            }
            Ok(request)
        };
        let mut queries = QueryClient::with_interceptor(channel.clone(), with_token);
        let services = ServicesRequest {
            start_unix_nanos: 1,
            end_unix_nanos: 2,
        };
        let answer = queries.services(services).await;
        assert_eq!(answer.err().map(|status| status.code()), query, "{token:?}");
        let mut pushes = IngestClient::with_interceptor(channel.clone(), with_token);
        // A stream that ends before its hello is let in all the same.
        let refused = match pushes.push(tokio_stream::empty()).await {
            Ok(_) => None,
            Err(status) => Some(status.code())
                .filter(|code| matches!(code, Code::Unauthenticated | Code::PermissionDenied)),
        };
        assert_eq!(refused, push, "{token:?}");
        let mut admin = AdminClient::with_interceptor(channel.clone(), with_token);
        let made = admin.backup(BackupRequest::default()).await;
        assert_eq!(made.err().map(|s| s.code()), administer, "{token:?}");
    }
    let mut health = HealthClient::new(channel);
    let state = health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(state.into_inner().status, 1);
    server.stop().await;
}

#[tokio::test]
async fn the_port_speaks_tls_with_http_and_grpc() {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let server = Server::start_with(|config, folder| {
        with_tokens(config, folder);
        let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        std::fs::write(&cert, signed.cert.pem()).unwrap();
        std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
        std::fs::write(folder.join("reader"), format!("{READER}\n")).unwrap();
        config.tls.cert_file = cert;
        config.tls.key_file = key;
    })
    .await;
    let file = |name: &str| server.folder().join(name).display().to_string();
    let (ca, token) = (file("cert.pem"), file("reader"));
    let https = format!("https://localhost:{}", server.address.port());
    let plain = server.url();
    for (arguments, code, part) in [
        (
            vec!["--server", &https, "--ca-file", &ca, "--token-file", &token],
            0,
            "no services",
        ),
        (
            vec!["--server", &https, "--ca-file", &ca],
            1,
            "--token-file",
        ),
        (
            vec!["--server", &https, "--token-file", &token],
            1,
            "cannot reach a collector",
        ),
        (
            vec!["--server", &plain, "--token-file", &token],
            1,
            "cannot",
        ),
    ] {
        let arguments = [vec!["services"], arguments].concat();
        let ended = run(&arguments).await;
        assert_eq!(ended.code, code, "{arguments:?}: {ended:?}");
        assert!(ended.both().contains(part), "{arguments:?}: {ended:?}");
    }
    server.stop().await;
}
