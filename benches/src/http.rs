//! Timed questions over HTTP/1.1, one connection kept open, whole answers read.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::loopback;
use crate::quantile::Quantiles;

/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(120);

/// A connection to a server on this machine.
#[derive(Debug)]
pub struct Http {
    authority: String,
    sender: SendRequest<Full<Bytes>>,
    /// Moves the connection's bytes; ended with it.
    connection: JoinSet<()>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
    /// From sending the request until the last byte of the body.
    pub took: Duration,
}

impl Reply {
    /// Itself, if the server did what was asked.
    ///
    /// # Errors
    ///
    /// With the server's own words otherwise.
    pub fn ok(self) -> anyhow::Result<Self> {
        if self.status == 200 {
            return Ok(self);
        }
        let text: String = String::from_utf8_lossy(&self.body)
            .chars()
            .take(300)
            .collect();
        bail!("the server answered {}: {text}", self.status)
    }
}

async fn connect(authority: &str) -> anyhow::Result<(SendRequest<Full<Bytes>>, JoinSet<()>)> {
    let stream = TcpStream::connect(authority)
        .await
        .with_context(|| format!("cannot connect to {authority}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut task = JoinSet::new();
    task.spawn(async move {
        // How it ended shows in the request under way.
        let _ended = connection.await;
    });
    Ok((sender, task))
}

impl Http {
    /// Connects to the server at `url`.
    ///
    /// # Errors
    ///
    /// When it cannot be reached or is not on this machine.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = loopback::check(url)?;
        let host = uri.host().context("the URL has no host")?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        let (sender, connection) = connect(&authority).await?;
        Ok(Self {
            authority,
            sender,
            connection,
        })
    }

    /// Gets `path`, query included.
    ///
    /// # Errors
    ///
    /// When the connection breaks; a refusal of the server is an answer.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Reply> {
        self.send(Method::GET, path, None).await
    }

    /// Posts `body` of `content_type` to `path`.
    ///
    /// # Errors
    ///
    /// As [`Http::get`].
    pub async fn post(
        &mut self,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<Reply> {
        self.send(Method::POST, path, Some((content_type, body)))
            .await
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> anyhow::Result<Reply> {
        if self.sender.ready().await.is_err() {
            (self.sender, self.connection) = connect(&self.authority).await?;
        }
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.authority);
        if let Some((content_type, _)) = &body {
            request = request.header(CONTENT_TYPE, *content_type);
        }
        let request = request.body(Full::new(body.map(|(_, body)| body).unwrap_or_default()))?;
        let began = Instant::now();
        let answer = async {
            let response = self.sender.send_request(request).await?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>((status, body))
        };
        let (status, body) = timeout(ANSWER_TIME, answer)
            .await
            .with_context(|| format!("no answer to {path}"))?
            .with_context(|| format!("cannot read the answer to {path}"))?;
        Ok(Reply {
            status,
            body,
            took: began.elapsed(),
        })
    }

    /// Gets the path that `path` names for each of `0..count` in turn, for at
    /// most `longest`, and returns how long they took.
    ///
    /// # Errors
    ///
    /// When one is not answered with 200.
    pub async fn measure(
        &mut self,
        count: usize,
        longest: Duration,
        path: impl Fn(usize) -> String,
    ) -> anyhow::Result<Quantiles> {
        let began = Instant::now();
        let mut times = Vec::with_capacity(count);
        for number in 0..count {
            if began.elapsed() > longest {
                break;
            }
            let path = path(number);
            let reply = self.get(&path).await?;
            let reply = reply.ok().with_context(|| format!("asked for {path}"))?;
            times.push(reply.took);
        }
        Ok(Quantiles::of(times))
    }
}

/// `text` as the value of a query parameter (RFC 3986, 2.3).
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[test]
    fn parameters_keep_only_what_needs_no_escape() {
        assert_eq!(escaped(r#"{pod=~"a|b"}"#), "%7Bpod%3D~%22a%7Cb%22%7D");
        assert_eq!(escaped("7d-_.~"), "7d-_.~");
    }

    #[tokio::test]
    async fn a_connection_is_kept_and_whole_answers_are_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 4096];
            for status in ["200 OK", "404 Not Found"] {
                assert!(stream.read(&mut bytes).await.unwrap() > 0);
                let body = "x".repeat(100_000);
                let length = body.len();
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let mut http = Http::connect(&url).await.unwrap();
        let first = http.get("/a").await.unwrap().ok().unwrap();
        assert_eq!(first.body.len(), 100_000);
        let second = http.get("/b").await.unwrap();
        assert_eq!(second.status, 404);
        assert!(second.ok().is_err());
        tasks.join_next().await.unwrap().unwrap();
    }
}
