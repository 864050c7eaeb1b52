//! The one port: accepts connections, speaks TLS when told to, and serves
//! gRPC, HTTP API and page from one router over HTTP/1.1 and HTTP/2.
//!
//! At most [`MAX_CONNECTIONS`] are open; further ones wait in the kernel's
//! queue. A peer that sends nothing is dropped: there is a deadline for the TLS
//! handshake, for telling HTTP/1.1 from HTTP/2, and for a request's head; an
//! HTTP/2 peer must answer pings.
//!
//! Shutdown: stop accepting, tell every connection to finish, wait
//! [`DRAIN`] at most, end the rest.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::metrics::Metrics;

/// Connections that are open at once.
pub const MAX_CONNECTIONS: usize = 4_096;
/// How long connections may take to finish when the collector stops.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How long a peer may take for each step before its first request is read.
const OPENING: Duration = Duration::from_secs(10);
/// Pause after the kernel refused a connection, for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const PING_EVERY: Duration = Duration::from_secs(30);
const MAX_STREAMS: u32 = 256;
const MAX_HEADER_BYTES: u32 = 64 << 10;
/// What a peer may send on a stream before it is read. Not adapted to the way: ten
/// thousand streams may wait at once, and what they sent is memory.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 10;
/// What it may send on all streams of a connection: no stream waits for another.
const CONNECTION_WINDOW_BYTES: u32 = MAX_STREAMS * STREAM_WINDOW_BYTES;
/// What an HTTP/2 connection begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Why the port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; is another program, or another collector, using it?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel does not tell which port it opened.
    #[error("cannot tell the port that was opened")]
    Address(#[source] io::Error),
    /// A PEM file cannot be read.
    #[error("cannot read a {what} from {}", path.display())]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key cannot be used.
    #[error("certificate {} and its key cannot be used", path.display())]
    Tls {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// Opens the port.
///
/// # Errors
///
/// [`ListenError::Bind`] if the address is taken or not this machine's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError::Bind { address, source })
}

/// The address that was opened, with its port.
///
/// # Errors
///
/// [`ListenError::Address`] if the kernel does not tell.
pub fn address(listener: &TcpListener) -> Result<SocketAddr, ListenError> {
    listener.local_addr().map_err(ListenError::Address)
}

/// Reads certificate and key.
///
/// # Errors
///
/// [`ListenError`] if a file cannot be read, holds none, or the two do not
/// belong together.
pub fn tls(cert_file: &Path, key_file: &Path) -> Result<TlsAcceptor, ListenError> {
    let pem = |what, path: &Path| {
        let path = path.to_owned();
        move |source| ListenError::Pem { what, path, source }
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert_file)
        .and_then(Iterator::collect)
        .map_err(pem("certificate", cert_file))?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(pem("private key", key_file))?;
    let unusable = |source| ListenError::Tls {
        path: cert_file.to_owned(),
        source,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves `router` on `listener` until `shutdown`, then drains.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => {
                note_panic(ended);
                continue;
            }
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => {
                note_panic(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let work = connection(stream, tls.clone(), router.clone(), graceful.watcher());
                let counted = Open::new(&metrics);
                connections.spawn(async move {
                    let _held_until_closed = (place, counted);
                    work.await;
                    debug!(%peer, "connection closed");
                });
            }
            Err(error) => {
                warn!(%error, "connection not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        warn!(
            open = connections.len(),
            "connections ended before they were done"
        );
    }
    connections.shutdown().await;
}

fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}

/// Counts a connection while it is open.
struct Open(Arc<Metrics>);

impl Open {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.connections.add(1);
        Self(Arc::clone(metrics))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.sub(1);
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, router: Router, watcher: Watcher) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "no TCP_NODELAY");
    }
    match tls {
        None => http(stream, router, watcher).await,
        Some(tls) => match timeout(OPENING, tls.accept(stream)).await {
            Ok(Ok(stream)) => http(stream, router, watcher).await,
            Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
            Err(_elapsed) => debug!("TLS handshake took too long"),
        },
    }
}

async fn http<S>(stream: S, router: Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(OPENING);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(TokioIo::new(Opening::new(stream)), service);
    if let Err(error) = watcher.watch(connection).await {
        debug!(error, "connection failed");
    }
}

/// A stream whose peer must show within [`OPENING`] which HTTP it speaks.
///
/// The server reads up to [`PREFACE`]'s length before it can tell; that wait
/// has no deadline of its own.
struct Opening<S> {
    inner: S,
    /// `None` once the version is known.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Bytes of the preface that came.
    seen: usize,
}

impl<S> Opening<S> {
    fn new(inner: S) -> Self {
        Self {
            inner,
            deadline: Some(Box::pin(sleep(OPENING))),
            seen: 0,
        }
    }

    fn note(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if PREFACE.get(self.seen) != Some(byte) {
                self.deadline = None;
                return;
            }
            self.seen += 1;
        }
        if self.seen == PREFACE.len() {
            self.deadline = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buf.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(cx, buf);
        match (&poll, &mut self.deadline) {
            (_, None) => {}
            (Poll::Pending, Some(deadline)) => {
                if deadline.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            (Poll::Ready(_), Some(_)) => {
                self.note(buf.filled().get(filled..).unwrap_or_default());
            }
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    async fn check(sent: &[&[u8]], times_out: bool) {
        let (mut client, server) = duplex(1_024);
        let mut server = Opening::new(server);
        let mut buffer = [0; 64];
        for bytes in sent {
            client.write_all(bytes).await.unwrap();
            assert_eq!(server.read(&mut buffer).await.unwrap(), bytes.len());
        }
        let read = timeout(OPENING * 10, server.read(&mut buffer)).await;
        let ended = matches!(&read, Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut);
        assert_eq!(ended, times_out, "{sent:?}: {read:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_show_its_version_is_dropped() {
        check(&[], true).await;
        check(&[b"PRI"], true).await;
        check(&[b"PRI", b" * HTTP/2.0\r\n"], true).await;
        check(&[b"PRI", b" * HTTP/2.0\r\n\r\nSM\r\n\r\n"], false).await;
        check(&[b"G"], false).await;
        check(&[b"PR", b"OPFIND"], false).await;
    }

    #[test]
    fn files_without_a_certificate_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let cert = folder.path().join("cert.pem");
        let missing = folder.path().join("missing.pem");
        std::fs::write(&cert, "no pem").unwrap();
        for path in [&missing, &cert] {
            let shown = tls(path, &missing).err().unwrap().to_string();
            assert!(shown.contains(".pem"), "{shown}");
        }
    }
}
