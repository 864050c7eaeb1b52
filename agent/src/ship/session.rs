//! One `Push` stream: Hello, then batches in the words of the stream's
//! dictionary, their answers, and heartbeats.
//!
//! The stream's encoder is emptied after every refusal of a whole batch, since
//! the collector may not have read the entries that came with it. Batches that
//! were sent after a refused one may then look malformed without being so, and
//! are sent again over a new stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use proto::codec;
use proto::dictionary::{Decoder, Encoder};
use proto::limits::{
    MAX_BATCH_BYTES, MAX_BODY_BYTES, MAX_DICTIONARY_BYTES, MAX_DICTIONARY_ENTRIES, MAX_WINDOWS,
};
use proto::pb::tepui as pb;
use proto::pb::tepui::ingest_client::IngestClient;
use proto::pb::tepui::push_request::Body as Sent;
use proto::pb::tepui::push_response::Body as Answer;
use proto::profile::Profile;
use proto::window::Clock;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Streaming};
use tracing::{debug, error, info, warn};

use super::{CONNECT_TIME, MAX_IN_FLIGHT};
use crate::spool::{BatchId, Spool, SpooledBatch};

/// How often the collector hears from an agent without profiles.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How long the oldest batch in flight may stay without an answer.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// How long the collector may take to end a stream that we closed.
const CLOSE_TIME: Duration = Duration::from_secs(1);
/// Pause when the collector asks for one and does not say how long.
const DEFAULT_HINT: Duration = Duration::from_secs(1);

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Shutdown, and the spool is empty.
    Drained,
    /// The collector voided the dictionary, and may have said when to come again.
    Reset(Option<Duration>),
    /// The collector has no room for so long.
    Later(Duration),
    /// The stream broke.
    Failed,
}

/// What the collector takes at most.
#[derive(Clone, Copy, Debug)]
struct Limits {
    batch_bytes: usize,
    body_bytes: usize,
    windows: usize,
    /// Its dictionary is smaller than ours may grow, so each batch is sent
    /// with all it needs.
    self_contained: bool,
}

/// A batch that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    id: BatchId,
    windows: u32,
    sent: Instant,
    /// An earlier batch of this stream was refused after this one was sent.
    in_doubt: bool,
}

/// What became of a batch on its way to the wire.
enum Packed {
    Body(Vec<u8>),
    /// It can never be sent, for this reason.
    Unusable(&'static str),
}

#[derive(Debug)]
pub(super) struct Session<'a> {
    spool: &'a Arc<Spool>,
    clock: &'a dyn Clock,
    shutdown: &'a CancellationToken,
    requests: mpsc::Sender<pb::PushRequest>,
    responses: Streaming<pb::PushResponse>,
    limits: Limits,
    encoder: Encoder,
    in_flight: VecDeque<InFlight>,
    last_read: Option<BatchId>,
    acked: u64,
    heartbeat: Interval,
    /// Set when no more is to be sent, with how the stream will end.
    ending: Option<End>,
}

/// Runs disk and CPU work off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Some(done),
        Err(failure) => {
            error!(error = %failure, "work on the spool was lost");
            None
        }
    }
}

fn at_most(told: u64, ours: usize) -> usize {
    match usize::try_from(told) {
        Ok(0) | Err(_) => ours,
        Ok(told) => told.min(ours),
    }
}

impl Limits {
    /// The smaller of what `told` says and what we keep anyway.
    fn new(told: pb::Limits) -> Self {
        let entries = at_most(told.max_dictionary_entries.into(), MAX_DICTIONARY_ENTRIES);
        let bytes = at_most(told.max_dictionary_bytes, MAX_DICTIONARY_BYTES);
        Self {
            batch_bytes: at_most(told.max_batch_bytes, MAX_BATCH_BYTES),
            body_bytes: at_most(told.max_body_bytes, MAX_BODY_BYTES),
            windows: at_most(told.max_windows.into(), MAX_WINDOWS),
            self_contained: entries < MAX_DICTIONARY_ENTRIES || bytes < MAX_DICTIONARY_BYTES,
        }
    }
}

/// The profiles of a spooled body.
fn unpack(body: &[u8]) -> Option<Vec<Profile>> {
    let bytes = codec::unzstd(body, MAX_BODY_BYTES).ok()?;
    let body = pb::BatchBody::decode(bytes.as_slice()).ok()?;
    let mut decoder = Decoder::new();
    decoder
        .apply(body)
        .ok()?
        .into_iter()
        .map(|window| decoder.profile(window.ok()?).ok())
        .collect()
}

/// Puts a spooled body into the words of the stream.
fn pack(encoder: &mut Encoder, batch: &SpooledBatch, limits: Limits) -> Packed {
    let Some(profiles) = unpack(&batch.body) else {
        return Packed::Unusable("its body is damaged");
    };
    if profiles.len() > limits.windows {
        return Packed::Unusable("it has more windows than the collector takes");
    }
    let Ok(body) = encoder.encode(&profiles) else {
        return Packed::Unusable("its dictionary is too large");
    };
    let bytes = body.encode_to_vec();
    match codec::zstd(&bytes) {
        Ok(packed) if bytes.len() <= limits.body_bytes && packed.len() <= limits.batch_bytes => {
            Packed::Body(packed)
        }
        // The encoder has counted entries that will not be sent.
        Ok(_) | Err(_) => {
            *encoder = Encoder::new();
            Packed::Unusable("it is larger than the collector takes")
        }
    }
}

fn request(body: Sent) -> pb::PushRequest {
    pb::PushRequest { body: Some(body) }
}

impl<'a> Session<'a> {
    /// Opens the stream, says Hello and takes the answer.
    pub(super) async fn open(
        client: &mut IngestClient<Channel>,
        authorization: Option<MetadataValue<Ascii>>,
        hello: pb::Hello,
        spool: &'a Arc<Spool>,
        clock: &'a dyn Clock,
        shutdown: &'a CancellationToken,
    ) -> Result<Self, End> {
        // Never full: a batch needs a place in flight, heartbeats give way.
        let (requests, receiver) = mpsc::channel(MAX_IN_FLIGHT + 2);
        if requests.try_send(request(Sent::Hello(hello))).is_err() {
            return Err(End::Failed);
        }
        let mut push = Request::new(ReceiverStream::new(receiver));
        if let Some(authorization) = authorization {
            push.metadata_mut().insert("authorization", authorization);
        }
        let greet = async {
            let mut responses = client.push(push).await?.into_inner();
            let answer = responses.message().await?;
            Ok::<_, tonic::Status>((responses, answer))
        };
        let (responses, answer) = match tokio::time::timeout(CONNECT_TIME, greet).await {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(status)) => {
                error!(code = %status.code(), message = status.message(), "collector refused the stream");
                return Err(End::Failed);
            }
            Err(_) => {
                warn!("collector does not answer");
                return Err(End::Failed);
            }
        };
        let hello = match answer.and_then(|response| response.body) {
            Some(Answer::Hello(hello)) => hello,
            Some(Answer::Refusal(refusal)) => {
                error!(
                    code = refusal.code().as_str_name(),
                    message = refusal.message,
                    "collector refused this agent"
                );
                return Err(End::Failed);
            }
            Some(Answer::Ack(_)) | None => {
                error!("collector does not speak the push protocol");
                return Err(End::Failed);
            }
        };
        info!(
            collector_version = hello.collector_version,
            "connected to the collector"
        );
        let mut heartbeat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            spool,
            clock,
            shutdown,
            requests,
            responses,
            limits: Limits::new(hello.limits.unwrap_or_default()),
            encoder: Encoder::new(),
            in_flight: VecDeque::new(),
            last_read: None,
            acked: 0,
            heartbeat,
            ending: None,
        })
    }

    /// How many batches this stream got acknowledged.
    pub(super) fn acked_count(&self) -> u64 {
        self.acked
    }

    /// Sends until the stream ends.
    pub(super) async fn run(&mut self) -> End {
        loop {
            let is_empty = match self.fill().await {
                Ok(is_empty) => is_empty,
                Err(end) => return end,
            };
            if self.in_flight.is_empty() {
                if let Some(end) = self.ending {
                    return self.close(end).await;
                }
                if is_empty && self.shutdown.is_cancelled() {
                    return self.close(End::Drained).await;
                }
            }
            let overdue = self
                .in_flight
                .front()
                .map(|oldest| oldest.sent + ANSWER_TIME);
            tokio::select! {
                response = self.responses.message() => {
                    let answered = match response {
                        Ok(Some(response)) => self.answered(response).await,
                        Ok(None) => {
                            info!("collector closed the stream");
                            Err(End::Failed)
                        }
                        Err(status) => {
                            warn!(code = %status.code(), message = status.message(), "stream broke");
                            Err(End::Failed)
                        }
                    };
                    if let Err(end) = answered {
                        return end;
                    }
                }
                () = self.spool.wait(), if is_empty => {}
                () = self.shutdown.cancelled(), if !self.shutdown.is_cancelled() => {}
                _ = self.heartbeat.tick() => self.beat(),
                () = sleep_until(overdue) => {
                    warn!("collector stopped answering");
                    return End::Failed;
                }
            }
        }
    }

    /// Sends while there is room in flight; true when the spool has no more.
    async fn fill(&mut self) -> Result<bool, End> {
        while self.ending.is_none() && self.in_flight.len() < MAX_IN_FLIGHT {
            let spool = Arc::clone(self.spool);
            let after = self.last_read;
            let limits = self.limits;
            let mut encoder = std::mem::take(&mut self.encoder);
            let read = blocking(move || {
                let packed = spool.next(after.as_ref()).map(|batch| {
                    if limits.self_contained {
                        encoder = Encoder::new();
                    }
                    (batch.id, batch.windows, pack(&mut encoder, &batch, limits))
                });
                (encoder, packed)
            });
            let (encoder, packed) = read.await.ok_or(End::Failed)?;
            self.encoder = encoder;
            let Some((id, windows, packed)) = packed else {
                // What could not be read for a moment was passed over: once
                // nothing is in flight, the next look begins at the oldest.
                if self.in_flight.is_empty() {
                    self.last_read = None;
                }
                return Ok(true);
            };
            self.last_read = Some(id);
            match packed {
                Packed::Body(body_zstd) => {
                    let batch = pb::Batch {
                        instance: id.instance.to_vec(),
                        sequence: id.sequence,
                        body_zstd,
                    };
                    self.requests
                        .send(request(Sent::Batch(batch)))
                        .await
                        .map_err(|_| End::Failed)?;
                    self.in_flight.push_back(InFlight {
                        id,
                        windows,
                        sent: Instant::now(),
                        in_doubt: false,
                    });
                }
                Packed::Unusable(reason) => {
                    error!(batch = %id, windows, reason, "batch dropped");
                    self.discard(id).await?;
                }
            }
        }
        Ok(false)
    }

    async fn discard(&self, id: BatchId) -> Result<(), End> {
        let spool = Arc::clone(self.spool);
        blocking(move || spool.discard(&id))
            .await
            .ok_or(End::Failed)
    }

    /// Takes the batch that an answer names out of flight.
    fn settle(&mut self, instance: &[u8], sequence: u64) -> Option<InFlight> {
        let index = self
            .in_flight
            .iter()
            .position(|batch| batch.id.instance == *instance && batch.id.sequence == sequence)?;
        self.in_flight.remove(index)
    }

    async fn answered(&mut self, response: pb::PushResponse) -> Result<(), End> {
        match response.body {
            Some(Answer::Ack(ack)) => self.acknowledged(ack).await,
            Some(Answer::Refusal(refusal)) => self.refused(refusal).await,
            Some(Answer::Hello(_)) | None => {
                debug!("collector sent something unknown");
                Ok(())
            }
        }
    }

    async fn acknowledged(&mut self, ack: pb::Ack) -> Result<(), End> {
        let Some(batch) = self.settle(&ack.instance, ack.sequence) else {
            debug!(sequence = ack.sequence, "answer to a batch not in flight");
            return Ok(());
        };
        self.acked += 1;
        for window in &ack.refused {
            warn!(
                batch = %batch.id,
                window = window.window,
                code = window.code().as_str_name(),
                message = window.message,
                "collector refused a window"
            );
        }
        let refused = u32::try_from(ack.refused.len())
            .unwrap_or(u32::MAX)
            .min(batch.windows);
        let spool = Arc::clone(self.spool);
        blocking(move || {
            spool.count_dropped_windows(refused.into());
            spool.remove(&batch.id);
        })
        .await
        .ok_or(End::Failed)
    }

    async fn refused(&mut self, refusal: pb::Refusal) -> Result<(), End> {
        let code = refusal.code();
        if code == pb::RefusalCode::DictionaryReset {
            let wait = (refusal.retry_after_millis > 0)
                .then(|| Duration::from_millis(refusal.retry_after_millis));
            return Err(End::Reset(wait));
        }
        let Some(batch) = self.settle(&refusal.instance, refusal.sequence) else {
            error!(
                code = code.as_str_name(),
                message = refusal.message,
                "collector refused the stream"
            );
            return Err(End::Failed);
        };
        let hint = match (refusal.retry_after_millis, code) {
            (0, pb::RefusalCode::Overloaded | pb::RefusalCode::Unavailable) => Some(DEFAULT_HINT),
            // It may be malformed only for want of an entry that the collector
            // did not read.
            (0, pb::RefusalCode::Malformed) if batch.in_doubt => Some(Duration::ZERO),
            (0, _) => None,
            (millis, _) => Some(Duration::from_millis(millis)),
        };
        self.encoder = Encoder::new();
        for later in &mut self.in_flight {
            later.in_doubt = true;
        }
        if let Some(hint) = hint {
            warn!(
                batch = %batch.id,
                code = code.as_str_name(),
                message = refusal.message,
                "batch not taken now, sending it again later"
            );
            // Answers to what is in flight are still taken.
            self.ending = Some(match self.ending {
                Some(End::Later(earlier)) => End::Later(earlier.max(hint)),
                _ => End::Later(hint),
            });
            return Ok(());
        }
        error!(
            batch = %batch.id,
            windows = batch.windows,
            code = code.as_str_name(),
            message = refusal.message,
            "batch refused and dropped"
        );
        self.discard(batch.id).await
    }

    fn beat(&self) {
        let stats = self.spool.stats();
        let beat = pb::Heartbeat {
            send_time_unix_nanos: self.clock.now().get(),
            spooled_windows: stats.windows,
            dropped_windows: stats.dropped_windows,
        };
        if self
            .requests
            .try_send(request(Sent::Heartbeat(beat)))
            .is_err()
        {
            debug!("heartbeat left out, batches are waiting");
        }
    }

    /// Ends our half of the stream and lets the collector end its own.
    async fn close(&mut self, end: End) -> End {
        let (closed, _) = mpsc::channel(1);
        self.requests = closed;
        let rest = async { while let Ok(Some(_)) = self.responses.message().await {} };
        if tokio::time::timeout(CLOSE_TIME, rest).await.is_err() {
            debug!("collector did not end the stream");
        }
        end
    }
}

/// Sleeps until `deadline`; for ever without one.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
