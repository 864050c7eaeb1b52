//! A collector in this process, for tests.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use collector::answer::ProfileAnswer;
use collector::config::Config;
use collector::serve::{self, Running};
use proto::pb::tepui as pb;
use proto::pb::tepui::query_client::QueryClient;
use proto::window::{Clock, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::push::{Answer, Pusher, profile};

/// A collector on a free port of the loopback, with a folder of its own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    running: Running,
    shutdown: CancellationToken,
    folder: tempfile::TempDir,
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// Every value of header `name`, which is in lower case.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let found = self.headers.iter().filter(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).collect()
    }

    /// The first value of header `name`, or `""`.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers(name).first().copied().unwrap_or("")
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_, _| {}).await
    }

    /// Starts with the defaults changed by `change`; the own profile is off.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config, &Path)) -> Self {
        Self::start_at(Arc::new(SystemClock), change).await
    }

    /// As [`Server::start_with`], at the time of `clock`.
    pub(crate) async fn start_at(
        clock: Arc<dyn Clock>,
        change: impl FnOnce(&mut Config, &Path),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config {
            listen: "127.0.0.1:0".to_owned(),
            data: folder.path().join("data"),
            ..Config::default()
        };
        config.self_profile.enabled = false;
        change(&mut config, folder.path());
        let shutdown = CancellationToken::new();
        let running = serve::start(config, clock, shutdown.clone()).await.unwrap();
        Self {
            address: running.address(),
            running,
            shutdown,
            folder,
        }
    }

    /// Where it listens, without TLS.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A folder of the test's own.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Pushes one window of a spinning `service`: 90 samples of the spin and
    /// 10 of work.
    pub(crate) async fn push(&self, service: &str) {
        let instance = [1; 16];
        let mut pusher = Pusher::connect(&self.url(), instance).await.unwrap();
        let start = SystemClock.now().saturating_sub(Duration::from_secs(20));
        let spin: &[&str] = &["main.main", "main.startSink", "runtime.selectgo"];
        let work: &[&str] = &["main.main", "main.work"];
        let samples = [(spin, 90), (work, 10)];
        pusher
            .send(instance, 1, &[profile(service, start, &samples)])
            .await;
        match pusher.answer().await.unwrap() {
            Answer::Ack(ack) => assert!(ack.refused.is_empty(), "{ack:?}"),
            Answer::Refusal(refusal) => panic!("{refusal:?}"),
        }
    }

    /// Gets `path` with these header lines, over a connection of its own.
    pub(crate) async fn get(&self, path: &str, headers: &[&str]) -> Reply {
        self.send("GET", path, headers, &[]).await
    }

    /// Posts `body` to `path` as `curl --data-binary` does.
    pub(crate) async fn post(&self, path: &str, headers: &[&str], body: &[u8]) -> Reply {
        let length = format!("Content-Length: {}", body.len());
        let form = "Content-Type: application/x-www-form-urlencoded";
        let headers = [&[length.as_str(), form], headers].concat();
        self.send("POST", path, &headers, body).await
    }

    async fn send(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        for header in headers {
            request.push_str(&format!("{header}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        // A server may answer before it has read all.
        let _refused = stream.write_all(body).await;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.unwrap();
        let head_end = reply
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        let head = String::from_utf8(reply[..head_end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_lowercase(), value.trim().to_owned())
        });
        let reply = Reply {
            status: status.parse().unwrap(),
            headers: headers.collect(),
            body: reply[head_end + 4..].to_vec(),
        };
        assert_eq!(
            reply.header("transfer-encoding"),
            "",
            "answers have a length"
        );
        reply
    }

    /// The merged CPU profile of a service over the last hour and a minute ahead.
    pub(crate) async fn profile(&self, service: &str) -> ProfileAnswer {
        let mut client = QueryClient::connect(self.url()).await.unwrap();
        let now = SystemClock.now();
        let request = pb::ProfileRequest {
            service: service.to_owned(),
            start_unix_nanos: now.saturating_sub(Duration::from_secs(3600)).get(),
            end_unix_nanos: now.saturating_add(Duration::from_secs(60)).get(),
            ..pb::ProfileRequest::default()
        };
        let response = client.profile(request).await.unwrap().into_inner();
        ProfileAnswer::from_wire(response).unwrap()
    }

    /// CPU nanoseconds of a service over the same range.
    pub(crate) async fn total(&self, service: &str) -> i128 {
        self.profile(service).await.tree.total()
    }

    /// Stops every part in order.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.running.finish().await.unwrap();
    }
}

/// Starts a collector on the folder `data`; returns its address and what stops it.
pub(crate) async fn start_in(data: &Path) -> (String, impl Future<Output = ()>) {
    let mut config = Config {
        listen: "127.0.0.1:0".to_owned(),
        data: data.to_owned(),
        ..Config::default()
    };
    config.self_profile.enabled = false;
    let shutdown = CancellationToken::new();
    let running = serve::start(config, Arc::new(SystemClock), shutdown.clone())
        .await
        .unwrap();
    let url = format!("http://{}", running.address());
    let stop = async move {
        shutdown.cancel();
        running.finish().await.unwrap();
    };
    (url, stop)
}
