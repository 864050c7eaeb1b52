//! A small pushing client for tests.

use std::time::Duration;

use prost::Message;
use proto::codec;
use proto::dictionary::Encoder;
use proto::labels::LabelSet;
use proto::limits::PROTOCOL_VERSION;
use proto::pb::tepui as pb;
use proto::pb::tepui::ingest_client::IngestClient;
use proto::profile::{Column, Facts, Profile};
use proto::stack::{Frame, FrameKind, Stack};
use proto::value_type::{ProfileType, Temporality};
use proto::window::{UnixNanos, Window};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// Nanoseconds that one sample of [`profile`] stands for.
pub(crate) const PERIOD_NS: u64 = 10_000_000;

/// A stack of these functions, root first.
pub(crate) fn stack(root_first: &[&str]) -> Stack {
    root_first
        .iter()
        .rev()
        .map(|name| Frame::named(FrameKind::Go, name).at("main.go", 7))
        .collect()
}

/// A CPU profile of `service` with these stacks (root first) and counts.
pub(crate) fn profile(service: &str, start: UnixNanos, samples: &[(&[&str], i64)]) -> Profile {
    let labels = LabelSet::new([("service", service), ("pod", "p-1")]).unwrap();
    let column = Column {
        profile_type: ProfileType::cpu(),
        temporality: Temporality::Delta,
        period: i64::try_from(PERIOD_NS).unwrap(),
        weight: PERIOD_NS,
        values: samples.iter().map(|(_, count)| *count).collect(),
    };
    Profile::new(
        labels,
        Window::from_start(start, 10_000_000_000).unwrap(),
        samples.iter().map(|(names, _)| stack(names)).collect(),
        vec![column],
        Facts::default(),
    )
    .unwrap()
}

/// One stream to a collector.
pub(crate) struct Pusher {
    requests: mpsc::Sender<pb::PushRequest>,
    responses: Streaming<pb::PushResponse>,
    encoder: Encoder,
}

/// The answer to one batch.
#[derive(Debug)]
pub(crate) enum Answer {
    Ack(pb::Ack),
    Refusal(pb::Refusal),
}

impl Pusher {
    /// Opens a stream and says hello.
    pub(crate) async fn connect(url: &str, instance: [u8; 16]) -> Result<Self, tonic::Status> {
        let hello = pb::Hello {
            protocol_version: PROTOCOL_VERSION,
            agent_version: "test".to_owned(),
            instance: instance.to_vec(),
            ..pb::Hello::default()
        };
        Self::hello(url, hello).await
    }

    /// Opens a stream with any hello.
    pub(crate) async fn hello(url: &str, hello: pb::Hello) -> Result<Self, tonic::Status> {
        let channel = Channel::from_shared(url.to_owned())
            .unwrap()
            .connect_timeout(Duration::from_secs(5))
            .connect()
            .await
            .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let (requests, receiver) = mpsc::channel(64);
        let first = pb::push_request::Body::Hello(hello);
        requests
            .send(pb::PushRequest { body: Some(first) })
            .await
            .unwrap();
        let mut client = IngestClient::new(channel);
        let mut responses = client
            .push(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        let ack = responses.message().await?;
        let body = ack.and_then(|response| response.body);
        assert!(
            matches!(body, Some(pb::push_response::Body::Hello(_))),
            "{body:?}"
        );
        Ok(Self {
            requests,
            responses,
            encoder: Encoder::new(),
        })
    }

    /// Sends a batch of profiles.
    pub(crate) async fn send(&mut self, instance: [u8; 16], sequence: u64, profiles: &[Profile]) {
        let body = self.encoder.encode(profiles).unwrap();
        self.send_body(instance.to_vec(), sequence, &body.encode_to_vec())
            .await;
    }

    /// Sends any bytes as the body of a batch.
    pub(crate) async fn send_body(&mut self, instance: Vec<u8>, sequence: u64, body: &[u8]) {
        self.send_packed(instance, sequence, codec::zstd(body).unwrap())
            .await;
    }

    /// Sends a batch with these packed bytes.
    pub(crate) async fn send_packed(
        &mut self,
        instance: Vec<u8>,
        sequence: u64,
        body_zstd: Vec<u8>,
    ) {
        let batch = pb::Batch {
            instance,
            sequence,
            body_zstd,
        };
        let body = Some(pb::push_request::Body::Batch(batch));
        // A stream that ended shows in the next answer.
        let _ended = self.requests.send(pb::PushRequest { body }).await;
    }

    /// Says that nothing is waiting.
    pub(crate) async fn heartbeat(&mut self) {
        let body = Some(pb::push_request::Body::Heartbeat(pb::Heartbeat::default()));
        // A stream that ended shows in the next answer.
        let _ended = self.requests.send(pb::PushRequest { body }).await;
    }

    /// The next answer; an error when the stream ends.
    pub(crate) async fn answer(&mut self) -> Result<Answer, tonic::Status> {
        match self.responses.message().await?.and_then(|r| r.body) {
            Some(pb::push_response::Body::Ack(ack)) => Ok(Answer::Ack(ack)),
            Some(pb::push_response::Body::Refusal(refusal)) => Ok(Answer::Refusal(refusal)),
            other => Err(tonic::Status::aborted(format!("stream ended: {other:?}"))),
        }
    }
}
