//! Sends the spool to the collector over one long-lived `Push` stream.
//!
//! Promises: a batch leaves the spool only when the collector has acknowledged
//! it or has refused it for good; it is sent under the identity it was spooled
//! with, however often that takes; at most [`MAX_IN_FLIGHT`] batches are held
//! in memory; every turn of every loop waits on something or uses up a batch.
//! The dictionary of a stream lives in `session`; this module holds what
//! lasts longer than one stream: connecting, backing off, stopping.
//!
//! Shutdown order: the token is cancelled, sending goes on until the spool is
//! empty or [`DRAIN_TIME`] has passed, then the stream is closed.

mod session;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::labels::LabelSet;
use proto::limits::{MAX_BATCH_BYTES, MAX_MESSAGE_BYTES};
use proto::pb::tepui as pb;
use proto::pb::tepui::ingest_client::IngestClient;
use proto::status::chain;
use proto::window::Clock;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tracing::{error, info, warn};

use crate::spool::Spool;
use session::{End, Session};

/// Most batches that are sent and not yet answered.
pub const MAX_IN_FLIGHT: usize = 8;
/// How long a stopping agent goes on sending.
pub const DRAIN_TIME: Duration = Duration::from_secs(5);
/// How long connecting may take, and how long the answer to a Hello.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Shortest pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Longest pause that the collector may ask for.
const LONGEST_HINT: Duration = Duration::from_secs(600);
/// How often a connection without traffic is checked.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Where and as whom to ship.
#[derive(Clone)]
pub struct ShipConfig {
    /// The collector, such as `http://127.0.0.1:4040`.
    pub url: String,
    /// Bearer token, if the collector asks for one.
    pub token: Option<String>,
    /// PEM file of the authorities to trust for `https`; the system's
    /// otherwise. Read anew at each connection.
    pub ca_file: Option<PathBuf>,
    /// What the Hello tells.
    pub hello: HelloInfo,
}

impl fmt::Debug for ShipConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShipConfig")
            .field("url", &self.url)
            .field("token", &self.token.as_ref().map(|_| "hidden"))
            .field("ca_file", &self.ca_file)
            .field("hello", &self.hello)
            .finish()
    }
}

/// What an agent tells about itself.
#[derive(Clone, Debug, Default)]
pub struct HelloInfo {
    /// Labels of the target.
    pub labels: LabelSet,
    /// What can be sampled here.
    pub capabilities: Vec<CapabilityLine>,
}

/// One thing an agent would like to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapabilityLine {
    /// For example `perf_event_open`.
    pub name: String,
    /// Whether it can.
    pub available: bool,
    /// What was seen, and how to change it.
    pub detail: String,
}

/// Why nothing can be shipped.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// The URL is none of `http://host:port` and `https://host:port`.
    #[error("collector url {url:?} must read http://HOST:PORT or https://HOST:PORT")]
    Url {
        /// The URL.
        url: String,
    },
    /// The token cannot stand in a header.
    #[error("collector token holds characters that no header can carry")]
    Token,
    /// The authorities cannot be read.
    #[error("cannot read the authorities in {}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// TLS cannot be set up with these authorities.
    #[error("cannot set up TLS for {url}")]
    Tls {
        /// The URL.
        url: String,
        /// What the library said.
        #[source]
        source: tonic::transport::Error,
    },
    /// Nobody answers.
    #[error("cannot connect to the collector at {url}")]
    Connect {
        /// The URL.
        url: String,
        /// What the library said.
        #[source]
        source: tonic::transport::Error,
    },
}

impl ShipConfig {
    /// Checks all that can be checked without a connection.
    ///
    /// # Errors
    ///
    /// [`ShipError`] with what to change.
    pub fn check(&self) -> Result<(), ShipError> {
        self.authorization()?;
        self.endpoint().map(drop)
    }

    fn authorization(&self) -> Result<Option<MetadataValue<Ascii>>, ShipError> {
        self.token
            .as_ref()
            .map(|token| {
                let mut value = MetadataValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| ShipError::Token)?;
                value.set_sensitive(true);
                Ok(value)
            })
            .transpose()
    }

    fn endpoint(&self) -> Result<Endpoint, ShipError> {
        let bad_url = || ShipError::Url {
            url: self.url.clone(),
        };
        let endpoint = Endpoint::from_shared(self.url.clone()).map_err(|_| bad_url())?;
        let is_tls = match endpoint.uri().scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad_url()),
        };
        if endpoint.uri().host().is_none_or(str::is_empty) {
            return Err(bad_url());
        }
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIME)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        if !is_tls {
            return Ok(endpoint);
        }
        let tls = match &self.ca_file {
            Some(path) => {
                let pem = std::fs::read(path).map_err(|source| ShipError::CaFile {
                    path: path.clone(),
                    source,
                })?;
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
            }
            None => ClientTlsConfig::new().with_native_roots(),
        };
        endpoint.tls_config(tls).map_err(|source| ShipError::Tls {
            url: self.url.clone(),
            source,
        })
    }

    async fn connect(&self) -> Result<IngestClient<Channel>, ShipError> {
        let channel = self
            .endpoint()?
            .connect()
            .await
            .map_err(|source| ShipError::Connect {
                url: self.url.clone(),
                source,
            })?;
        Ok(IngestClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }

    fn hello(&self, instance: [u8; 16], clock: &dyn Clock) -> pb::Hello {
        pb::Hello {
            import: false,
            protocol_version: proto::limits::PROTOCOL_VERSION,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: instance.to_vec(),
            labels: Some(proto::dictionary::label_set_to_wire(&self.hello.labels)),
            capabilities: self
                .hello
                .capabilities
                .iter()
                .map(|line| pb::Capability {
                    name: line.name.clone(),
                    available: line.available,
                    detail: line.detail.clone(),
                })
                .collect(),
            send_time_unix_nanos: clock.now().get(),
        }
    }
}

// A batch must fit a message.
const _: () = assert!(MAX_BATCH_BYTES < MAX_MESSAGE_BYTES);

/// Pauses that double from [`FIRST_PAUSE`] to [`LONGEST_PAUSE`].
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next pause: between half and all of the doubled one, so that agents
    /// that lost one collector do not come back together.
    fn pause(&mut self) -> Duration {
        let full = FIRST_PAUSE
            .saturating_mul(2_u32.saturating_pow(self.failures.min(16)))
            .min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        let half = full / 2;
        half + half.mul_f64(random_fraction())
    }
}

/// Between one and two times a hint, since others were told the same at the same time.
fn spread(hint: Duration) -> Duration {
    hint.min(LONGEST_HINT).mul_f64(1.0 + random_fraction())
}

/// Between 0 and 1; a half when the system has no randomness.
fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_or(0.5, |()| {
        f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
    })
}

/// Ships `spool` until `shutdown` is cancelled and the spool is empty or
/// [`DRAIN_TIME`] has passed. The spool must have no other sender.
///
/// Failures are logged and retried with growing pauses, for ever: also a wrong
/// URL or token, which [`ShipConfig::check`] finds before.
pub async fn run_shipper(
    spool: Arc<Spool>,
    config: ShipConfig,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) {
    let out_of_time = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_TIME).await;
    };
    let stats = tokio::select! {
        () = ship(&spool, &config, &*clock, &shutdown) => return,
        () = out_of_time => spool.stats(),
    };
    if stats.windows > 0 {
        warn!(
            windows = stats.windows,
            "windows left in the spool for the next start"
        );
    }
}

async fn ship(
    spool: &Arc<Spool>,
    config: &ShipConfig,
    clock: &dyn Clock,
    shutdown: &CancellationToken,
) {
    let mut backoff = Backoff::default();
    let mut client = None;
    loop {
        if shutdown.is_cancelled() && spool.stats().batches == 0 {
            return;
        }
        let (end, acked) = match stream(&mut client, spool, config, clock, shutdown).await {
            Ok(mut session) => {
                let end = session.run().await;
                (end, session.acked_count() > 0)
            }
            Err(end) => (end, false),
        };
        if acked {
            backoff = Backoff::default();
        }
        let pause = match end {
            End::Drained => return,
            End::Reset(hint) => {
                info!("collector asked for a new dictionary");
                let pause = if acked {
                    Duration::ZERO
                } else {
                    backoff.pause()
                };
                pause.max(hint.map_or(Duration::ZERO, spread))
            }
            End::Later(hint) => hint.clamp(FIRST_PAUSE, LONGEST_HINT),
            End::Failed => {
                client = None;
                backoff.pause()
            }
        };
        if shutdown.is_cancelled() {
            tokio::time::sleep(pause.min(FIRST_PAUSE)).await;
        } else {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }
}

/// Opens a stream, over the connection there is or over a new one.
async fn stream<'a>(
    client: &mut Option<IngestClient<Channel>>,
    spool: &'a Arc<Spool>,
    config: &ShipConfig,
    clock: &'a dyn Clock,
    shutdown: &'a CancellationToken,
) -> Result<Session<'a>, End> {
    let failed = |failure: &ShipError| {
        warn!(url = config.url, error = %chain(failure), "collector not reached, retrying");
        End::Failed
    };
    let open = match client {
        Some(open) => open,
        None => client.insert(config.connect().await.map_err(|failure| failed(&failure))?),
    };
    let authorization = config.authorization().map_err(|failure| {
        error!(error = %failure, "nothing can be shipped");
        End::Failed
    })?;
    let hello = config.hello(spool.instance(), clock);
    Session::open(open, authorization, hello, spool, clock, shutdown).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_kept_spread_and_bounded() {
        for hint in [Duration::ZERO, Duration::from_secs(10)] {
            for _ in 0..100 {
                let wait = spread(hint);
                assert!((hint..=hint * 2).contains(&wait), "{hint:?} {wait:?}");
            }
        }
        assert!(spread(Duration::MAX) <= LONGEST_HINT * 2);
    }
}
