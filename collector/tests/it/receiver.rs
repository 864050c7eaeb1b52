//! A receiver of alerts that misbehaves on purpose.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How long something may take that must happen.
const PATIENCE: Duration = Duration::from_secs(300);

/// What becomes of a request.
#[derive(Clone, Debug)]
pub(crate) enum Manner {
    /// It is answered with this status, and with this header if it is not empty.
    Answer(&'static str, &'static str),
    /// Its connection ends without an answer.
    Close,
    /// It never gets an answer.
    Hang,
}

/// The answer of a receiver that does as it should.
pub(crate) const TAKE: Manner = Manner::Answer("200 OK", "");

/// A request that was taken: answered with a success.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    head: String,
    pub(crate) body: String,
}

impl Taken {
    /// The value of header `name`, which is in lower case, or `""`.
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map_or("", |(_, value)| value)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// Listens until it is dropped. Requests are looked at one after another, in the
/// order in which they came.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    taken: mpsc::Receiver<Taken>,
    _serving: JoinSet<()>,
}

impl Receiver {
    /// On a free port; does with the first request what `manners` says first, and
    /// with those that come later what it says last.
    pub(crate) async fn start(manners: &[Manner]) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), manners).await
    }

    /// On this port.
    pub(crate) async fn start_at(address: SocketAddr, manners: &[Manner]) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, taken) = mpsc::channel(16_384);
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, manners.to_vec(), sender));
        Self {
            address,
            taken,
            _serving: serving,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/alerts", self.address)
    }

    /// The next request that was taken.
    pub(crate) async fn next(&mut self) -> Taken {
        tokio::time::timeout(PATIENCE, self.taken.recv())
            .await
            .expect("something is told")
            .unwrap()
    }

    /// What was taken by now.
    pub(crate) fn all(&mut self) -> Vec<Taken> {
        std::iter::from_fn(|| self.taken.try_recv().ok()).collect()
    }
}

async fn serve(listener: TcpListener, manners: Vec<Manner>, sender: mpsc::Sender<Taken>) {
    let mut manners = manners.into_iter().peekable();
    let mut last = TAKE;
    let mut hanging = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let Some(request) = read(&mut stream).await else {
            continue;
        };
        last = manners.next().unwrap_or(last);
        match last {
            Manner::Answer(status, header) => {
                let line = match header {
                    "" => String::new(),
                    header => format!("{header}\r\n"),
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\n{line}Content-Length: 0\r\nConnection: close\r\n\r\n"
                );
                if status.starts_with('2') {
                    sender.send(request).await.unwrap();
                }
                // Who asked may be gone.
                let _gone = stream.write_all(answer.as_bytes()).await;
            }
            Manner::Close => {}
            Manner::Hang => hanging.push(stream),
        }
    }
}

/// A whole request; `None` if its sender was gone before.
async fn read(stream: &mut TcpStream) -> Option<Taken> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 8_192];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let lower = head.to_lowercase();
        let length = lower
            .lines()
            .find_map(|l| l.strip_prefix("content-length: "));
        if body.len() >= length.unwrap().parse().unwrap() {
            return Some(Taken {
                head: head.to_owned(),
                body: body.to_owned(),
            });
        }
    }
}
