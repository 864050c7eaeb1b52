//! The gRPC door for agents: `tepui.v1.Ingest.Push`.
//!
//! Each stream is one state machine without tasks of its own: it reads while
//! fewer than `MAX_IN_FLIGHT` batches wait for the writer, and answers in
//! order. When the client goes, all of it is dropped.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::stream;
use proto::codec;
use proto::dictionary::{WireWindow, WireWindowError, decode_body};
use proto::limits;
use proto::pb::tepui as pb;
use proto::pb::tepui::ingest_server::SERVICE_NAME;
use proto::status::{Kind, chain};
use proto::window::Clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{BufferSettings, EncodeBody};
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::server::NamedService;
use tonic_prost::ProstCodec;
use tower_service::Service;
use tracing::{debug, info};

use super::intake::{Intake, stopping};
use super::messages::{Arrived, Arriving, Messages, ReadError};
use super::resolve::{SharedDictionary, lock};
use super::writer::{MAX_INSTANCES, Names, Outcome, Submission};
use crate::agents::Agents;
use crate::auth::Principal;
use crate::metrics::Metrics;

/// Batches of one stream that may wait for the writer.
const MAX_IN_FLIGHT: usize = 16;
/// Bytes up to which a body is unpacked where it arrived.
const SMALL_BODY: u64 = 128 << 10;
/// What an entry of a dictionary takes beside what is in it.
const ENTRY_BYTES: usize = 64;
/// KiB that bodies may take that are unpacked at once; a larger one is unpacked
/// alone.
const UNPACKING_KIB: u32 = 8 << 10;
/// Bytes in memory for each byte of a body at most: a number of one byte becomes one
/// of eight.
const UNPACKED_BYTES: u64 = 8;
/// A stream that says nothing for this long is ended; agents send a heartbeat
/// every 30 s.
const SILENCE: Duration = Duration::from_secs(120);

/// What a stream waits that found no room for its dictionary: others must go
/// first.
const ROOM_RETRY_AFTER: Duration = Duration::from_secs(10);

/// Bytes of answers that a stream makes room for at a time.
const ANSWER_BYTES: usize = 256;
/// The one method of the service.
const PUSH: &str = "/tepui.v1.Ingest/Push";

/// The ingest service, cheap to clone.
#[derive(Clone, Debug)]
pub struct IngestService {
    intake: Intake,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    agents: Arc<Agents>,
    unpacking: Arc<Semaphore>,
    arriving: Arriving,
    shutdown: CancellationToken,
}

impl IngestService {
    /// Returns the service in front of the writer that `intake` leads to. Streams
    /// read nothing more after `shutdown`, answer what waits, and end.
    pub fn new(
        intake: Intake,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        agents: Arc<Agents>,
        shutdown: CancellationToken,
    ) -> Self {
        let unpacking = usize::try_from(UNPACKING_KIB).unwrap_or(1);
        Self {
            arriving: Arriving::new(intake.arriving_bytes()),
            intake,
            clock,
            metrics,
            agents,
            unpacking: Arc::new(Semaphore::new(unpacking)),
            shutdown,
        }
    }
}

/// One stream.
struct Push {
    inbound: Messages,
    intake: Intake,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    agents: Arc<Agents>,
    tenant: Arc<str>,
    dictionary: SharedDictionary,
    waiting: VecDeque<Waiting>,
    /// Whether its windows come from files.
    is_import: bool,
    greeted: Option<[u8; limits::INSTANCE_BYTES]>,
    state: State,
    unpacking: Arc<Semaphore>,
    shutdown: CancellationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing more is read; what waits is answered.
    Closing,
    Ended,
}

/// A batch whose answer is owed.
struct Waiting {
    instance: Vec<u8>,
    sequence: u64,
    arrived: Instant,
    outcome: Owed,
}

enum Owed {
    Now(Outcome),
    Later(oneshot::Receiver<Outcome>),
}

impl Drop for Push {
    fn drop(&mut self) {
        self.metrics.ingest_streams.sub(1);
        if let Some(instance) = &self.greeted {
            self.agents.gone(instance, self.clock.now());
        }
    }
}

fn message(outcome: Outcome, instance: Vec<u8>, sequence: u64) -> pb::PushResponse {
    use pb::push_response::Body;
    let body = match outcome {
        Outcome::Acked { refused, duplicate } => Body::Ack(pb::Ack {
            instance,
            sequence,
            refused: refused
                .into_iter()
                .map(|(window, code, message)| pb::WindowRefusal {
                    window: u32::try_from(window).unwrap_or(u32::MAX),
                    code: code.into(),
                    message,
                })
                .collect(),
            duplicate,
        }),
        Outcome::Refused {
            code,
            message,
            retry_after,
        } => Body::Refusal(pb::Refusal {
            instance,
            sequence,
            code: code.into(),
            message,
            retry_after_millis: retry_after.map_or(0, |wait| {
                u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
            }),
        }),
    };
    pb::PushResponse { body: Some(body) }
}

/// What the next turn of a stream does.
enum Turn {
    Answered(Outcome),
    Read(Result<Option<Arrived>, ReadError>),
    Silent,
}

impl Push {
    /// The next answer of the stream; `None` once it has ended.
    async fn next(&mut self) -> Option<Result<pb::PushResponse, Status>> {
        loop {
            if self.state == State::Ended {
                return None;
            }
            let turn = self.turn().await?;
            match turn {
                Turn::Answered(outcome) => {
                    let owed = self.waiting.pop_front()?;
                    self.metrics.ack_times.observe(owed.arrived.elapsed());
                    // While the writer has it, a later answer counts what it took.
                    if let Ok(mut dictionary) = self.dictionary.try_lock() {
                        dictionary.recount();
                    }
                    self.intake.count(&outcome);
                    if let Outcome::Refused { code, .. } = &outcome
                        && *code == pb::RefusalCode::DictionaryReset
                    {
                        // The last word: nothing on this stream holds any more.
                        self.state = State::Ended;
                        self.metrics.dictionary_resets.inc();
                    }
                    return Some(Ok(message(outcome, owed.instance, owed.sequence)));
                }
                Turn::Read(Ok(Some(arrived))) => match self.read(arrived).await {
                    Ok(None) => {}
                    Ok(Some(response)) => return Some(Ok(response)),
                    Err(status) => {
                        self.state = State::Ended;
                        return Some(Err(status));
                    }
                },
                Turn::Read(Ok(None)) => self.state = State::Closing,
                Turn::Read(Err(ReadError::Broken(status))) => {
                    debug!(error = %status, "stream broke");
                    self.state = State::Closing;
                }
                Turn::Read(Err(ReadError::NoRoom)) => {
                    // What was not read may name what later batches rest on.
                    let message = "other batches take all the room there is for arriving ones";
                    let code = pb::RefusalCode::DictionaryReset;
                    let outcome = self.give_up(code, message.to_owned());
                    self.waiting.push_back(Waiting {
                        instance: self.greeted.unwrap_or_default().to_vec(),
                        sequence: 0,
                        arrived: Instant::now(),
                        outcome,
                    });
                }
                // Parts of a message came meanwhile.
                Turn::Silent if self.inbound.heard().elapsed() < SILENCE => {}
                Turn::Silent => {
                    self.state = State::Ended;
                    let message = "nothing was heard from the agent for two minutes";
                    return Some(Err(Kind::Timeout.status(message)));
                }
            }
        }
    }

    /// Waits for the next outcome or request; `None` when there can be neither.
    async fn turn(&mut self) -> Option<Turn> {
        let may_read = self.state == State::Open && self.waiting.len() < MAX_IN_FLIGHT;
        let has_owed = !self.waiting.is_empty();
        if !may_read && !has_owed {
            return None;
        }
        let owed = async {
            match self.waiting.front_mut().map(|owed| &mut owed.outcome) {
                Some(Owed::Now(outcome)) => outcome.clone(),
                Some(Owed::Later(receiver)) => receiver.await.unwrap_or_else(|_| stopping()),
                None => std::future::pending().await,
            }
        };
        let silent = self.inbound.heard() + SILENCE;
        let inbound = &mut self.inbound;
        Some(tokio::select! {
            biased;
            outcome = owed, if has_owed => Turn::Answered(outcome),
            () = self.shutdown.cancelled(), if may_read => Turn::Read(Ok(None)),
            read = inbound.next(), if may_read => Turn::Read(read),
            () = tokio::time::sleep_until(silent), if may_read && !has_owed => Turn::Silent,
        })
    }

    /// Handles one request; a response is sent at once.
    async fn read(&mut self, arrived: Arrived) -> Result<Option<pb::PushResponse>, Status> {
        use pb::push_request::Body;
        match arrived.request.body {
            Some(Body::Hello(hello)) => self.hello(hello).map(Some),
            Some(Body::Heartbeat(beat)) => {
                if let Some(instance) = &self.greeted {
                    self.agents.heartbeat(instance, &beat, self.clock.now());
                }
                Ok(None)
            }
            Some(Body::Batch(batch)) => {
                if self.greeted.is_none() {
                    return Err(Kind::Invalid.status("the first message of a stream must be Hello"));
                }
                let (instance, sequence) = (batch.instance.clone(), batch.sequence);
                let began = Instant::now();
                let outcome = self.batch(batch, arrived.room).await;
                self.waiting.push_back(Waiting {
                    instance,
                    sequence,
                    arrived: began,
                    outcome,
                });
                Ok(None)
            }
            None => Err(Kind::Invalid.status("push request without a body this collector knows")),
        }
    }

    fn hello(&mut self, hello: pb::Hello) -> Result<pb::PushResponse, Status> {
        if hello.protocol_version != limits::PROTOCOL_VERSION {
            self.metrics
                .refused_batches(pb::RefusalCode::UnsupportedVersion)
                .inc();
            return Err(Kind::Invalid.status(format!(
                "protocol version {} is not spoken here, only {}",
                hello.protocol_version,
                limits::PROTOCOL_VERSION
            )));
        }
        let instance = <[u8; limits::INSTANCE_BYTES]>::try_from(hello.instance.as_slice())
            .map_err(|_| Kind::Invalid.status("instance must be 16 bytes"))?;
        let now = self.clock.now();
        self.greeted = Some(instance);
        self.is_import = hello.import;
        if !hello.import {
            info!(version = hello.agent_version, "agent connected");
            self.agents.hello(&self.tenant, instance, hello, now);
        }
        let narrow = |limit: usize| u64::try_from(limit).unwrap_or(u64::MAX);
        let narrow32 = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
        Ok(pb::PushResponse {
            body: Some(pb::push_response::Body::Hello(pb::HelloAck {
                limits: Some(pb::Limits {
                    max_batch_bytes: narrow(limits::MAX_BATCH_BYTES),
                    max_body_bytes: narrow(limits::MAX_BODY_BYTES),
                    max_windows: narrow32(limits::MAX_WINDOWS),
                    max_dictionary_entries: narrow32(limits::MAX_DICTIONARY_ENTRIES),
                    max_dictionary_bytes: narrow(limits::MAX_DICTIONARY_BYTES),
                    max_labels: narrow32(proto::labels::MAX_LABELS),
                    max_stack_frames: narrow32(limits::MAX_STACK_FRAMES),
                }),
                collector_version: env!("CARGO_PKG_VERSION").to_owned(),
                receive_time_unix_nanos: now.get(),
            })),
        })
    }

    /// Reads a batch and hands it to the writer. Whatever becomes of it, the
    /// entries of its dictionary are applied in the order of the stream; when
    /// they cannot be, the stream takes no further batch.
    async fn batch(&mut self, batch: pb::Batch, arriving: Option<OwnedSemaphorePermit>) -> Owed {
        let instance = <[u8; limits::INSTANCE_BYTES]>::try_from(batch.instance.as_slice());
        let sequence = batch.sequence;
        let place = Arc::clone(&self.unpacking).acquire_many_owned(unpacked_kib(&batch));
        let place = place.await;
        let decoded = if is_small(&batch) {
            unpack(&batch)
        } else {
            match tokio::task::spawn_blocking(move || unpack(&batch)).await {
                Ok(decoded) => decoded,
                Err(_panicked) => {
                    Err((pb::RefusalCode::Malformed, "batch not readable".to_owned()))
                }
            }
        };
        drop(arriving);
        let body = match decoded {
            Ok(body) => body,
            Err((code, message)) => return self.give_up(code, message),
        };
        // While it waits this stream is not read, which its agent feels; the place
        // is kept, so that little that is unpacked waits at a time.
        let room = self.intake.room(body_kib(&body)).await;
        // Its entries count, whatever becomes of its windows.
        let windows = match (instance, self.apply(body)) {
            (Ok(_), Ok(windows)) if sequence > 0 => windows,
            (_, Ok(_)) => {
                let message = "instance must be 16 bytes and sequence at least 1";
                return self.give_up(pb::RefusalCode::Malformed, message.to_owned());
            }
            (_, Err((code, message))) => return self.give_up(code, message),
        };
        let room = match room {
            Ok(room) => room,
            Err(refusal) => return Owed::Now(refusal),
        };
        drop(place);
        let (reply, outcome) = oneshot::channel();
        let submission = Submission {
            tenant: Arc::clone(&self.tenant),
            instance: instance.unwrap_or_default(),
            sequence,
            is_import: self.is_import,
            windows,
            names: Names::Stream(Arc::clone(&self.dictionary)),
            max_instances: MAX_INSTANCES,
            room: Some(room),
            reply,
        };
        match self.intake.send(submission).await {
            Ok(()) => Owed::Later(outcome),
            Err(refusal) => Owed::Now(refusal),
        }
    }

    /// Refuses a batch whose dictionary is lost, and with it the stream.
    fn give_up(&mut self, code: pb::RefusalCode, message: String) -> Owed {
        self.state = State::Closing;
        let retry = (code == pb::RefusalCode::DictionaryReset).then_some(ROOM_RETRY_AFTER);
        Owed::Now(Outcome::refused(code, message, retry))
    }

    /// Adds the entries of a body to the dictionary and returns its windows.
    fn apply(
        &mut self,
        body: pb::BatchBody,
    ) -> Result<Vec<Result<WireWindow, WireWindowError>>, (pb::RefusalCode, String)> {
        let is_new = body.reset;
        if is_new {
            // Batches that wait for the writer keep the dictionary they came with.
            self.dictionary = self.intake.begin();
        }
        let names_more = body
            .dictionary
            .as_ref()
            .is_some_and(|entries| !(entries.frames.is_empty() && entries.stacks.is_empty()));
        if names_more && !self.intake.may_grow(is_new) {
            let message = "dictionaries of all streams take too much memory";
            return Err((pb::RefusalCode::DictionaryReset, message.to_owned()));
        }
        // Counted once this batch is answered: until then it has its room.
        let mut dictionary = lock(&self.dictionary);
        let windows = dictionary.decoder.apply(body);
        windows.map_err(|error| (pb::RefusalCode::Malformed, chain(&error)))
    }
}

/// About what a body takes in memory while it waits, at least 1.
fn body_kib(body: &pb::BatchBody) -> u32 {
    let sum = |bytes: &mut dyn Iterator<Item = usize>| bytes.fold(0, usize::saturating_add);
    let windows = sum(&mut body.windows.iter().map(|window| {
        let values = sum(&mut window.columns.iter().map(|column| column.values.len()));
        window.stacks.len() * 4 + values.saturating_mul(8)
    }));
    let entries = body.dictionary.as_ref().map_or(0, |entries| {
        let strings = sum(&mut entries.strings.iter().map(|text| text.len() + ENTRY_BYTES));
        let stacks = entries.stacks.iter();
        let stacks = sum(&mut stacks.map(|stack| stack.frames.len() * 4 + ENTRY_BYTES));
        let frames = entries.frames.len().saturating_mul(ENTRY_BYTES * 2);
        strings.saturating_add(stacks).saturating_add(frames)
    });
    u32::try_from(windows.saturating_add(entries) / 1024)
        .unwrap_or(u32::MAX)
        .saturating_add(1)
}

/// KiB that a batch takes when it is unpacked, as it says of itself.
fn unpacked_kib(batch: &pb::Batch) -> u32 {
    let told = codec::unzstd_len(&batch.body_zstd);
    let told = told.map(|bytes| bytes.saturating_mul(UNPACKED_BYTES));
    let kib = told.and_then(|bytes| u32::try_from(bytes / 1024).ok());
    kib.map_or(UNPACKING_KIB, |kib| kib.saturating_add(1))
        .min(UNPACKING_KIB)
}

/// Whether a batch says of itself that it is unpacked sooner than handed over.
fn is_small(batch: &pb::Batch) -> bool {
    codec::unzstd_len(&batch.body_zstd).is_some_and(|length| length <= SMALL_BODY)
}

/// Unpacks the body of a batch.
fn unpack(batch: &pb::Batch) -> Result<pb::BatchBody, (pb::RefusalCode, String)> {
    if batch.body_zstd.len() > limits::MAX_BATCH_BYTES {
        let message = format!(
            "batch of {} bytes is larger than {}",
            batch.body_zstd.len(),
            limits::MAX_BATCH_BYTES
        );
        return Err((pb::RefusalCode::TooLarge, message));
    }
    let body = codec::unzstd(&batch.body_zstd, limits::MAX_BODY_BYTES).map_err(|error| {
        let code = match error {
            codec::CodecError::TooLarge { .. } => pb::RefusalCode::TooLarge,
            codec::CodecError::Corrupt { .. } => pb::RefusalCode::Malformed,
        };
        (code, chain(&error))
    })?;
    decode_body(&body).map_err(|error| (pb::RefusalCode::Malformed, chain(&error)))
}

impl IngestService {
    /// Begins the stream of a request and returns its answers.
    fn push(&self, request: http::Request<Body>) -> Result<Body, Status> {
        let principal = request
            .extensions()
            .get::<Principal>()
            .ok_or_else(|| Kind::Unauthenticated.status("no principal"))?;
        let tenant: Arc<str> = Arc::from(principal.tenant.as_str());
        if !self.intake.may_open() {
            self.metrics.refused_streams.inc();
            return Err(Kind::Exhausted.status("streams take too much memory; come again later"));
        }
        self.metrics.ingest_streams.add(1);
        let push = Push {
            inbound: Messages::new(request.into_body(), self.arriving.clone()),
            intake: self.intake.clone(),
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(&self.metrics),
            agents: Arc::clone(&self.agents),
            tenant,
            dictionary: self.intake.begin(),
            waiting: VecDeque::new(),
            greeted: None,
            is_import: false,
            state: State::Open,
            unpacking: Arc::clone(&self.unpacking),
            shutdown: self.shutdown.clone(),
        };
        let answers = stream::unfold(push, |mut push| async move {
            let next = push.next().await?;
            Some((next, push))
        });
        let buffers = BufferSettings::new(ANSWER_BYTES, ANSWER_BYTES);
        let encoder = ProstCodec::<pb::PushResponse, pb::PushRequest>::raw_encoder(buffers);
        let cap = Some(limits::MAX_MESSAGE_BYTES);
        let packing = (
            None,
            tonic::codec::SingleMessageCompressionOverride::default(),
        );
        Ok(Body::new(EncodeBody::new_server(
            encoder, answers, packing.0, packing.1, cap,
        )))
    }
}

impl NamedService for IngestService {
    const NAME: &'static str = SERVICE_NAME;
}

/// As the generated server would, but for what is kept of what was read.
impl Service<http::Request<Body>> for IngestService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answers = match request.uri().path() {
            PUSH => self.push(request),
            _ => Err(Status::unimplemented("there is only Push")),
        };
        ready(Ok(match answers {
            Ok(answers) => {
                let mut response = http::Response::new(answers);
                let headers = response.headers_mut();
                headers.insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
                response
            }
            Err(status) => status.into_http(),
        }))
    }
}
