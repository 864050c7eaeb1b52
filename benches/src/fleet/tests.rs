//! Fleets against a collector in this process that answers as it is told.

use std::collections::BTreeMap;
use std::pin::Pin;

use prost::Message;
use proto::codec;
use proto::dictionary::Decoder;
use proto::pb::tepui as pb;
use proto::pb::tepui::ingest_server::{Ingest, IngestServer};
use proto::pb::tepui::push_request::Body as Sent;
use proto::pb::tepui::push_response::Body as Answer;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::ledger::{Entry, Sum};
use crate::program::Shape;

const START: UnixNanos = UnixNanos::new(1_700_000_000_000_000_000);

/// What is refused: every so many batches, counted over all streams.
#[derive(Clone, Copy, Debug, Default)]
struct Script {
    overloaded_every: Option<u64>,
    reset_every: Option<u64>,
    end_every: Option<u64>,
}

/// Windows by instance and sequence, as they were first acknowledged.
type Held = BTreeMap<(Vec<u8>, u64), Vec<Entry>>;

#[derive(Clone, Debug)]
struct Fake {
    script: Script,
    corpus: Arc<BTreeMap<Vec<String>, u64>>,
    held: Arc<Mutex<(u64, Held)>>,
}

fn is_turn(every: Option<u64>, count: u64) -> bool {
    every.is_some_and(|every| count % every == 1)
}

impl Fake {
    fn new(corpus: &Corpus, script: Script) -> Self {
        let stacks = (0_u32..).zip(corpus.stacks()).map(|(id, stack)| {
            let names = stack.iter().map(ToString::to_string).collect();
            (names, corpus.fingerprint(id))
        });
        Self {
            script,
            corpus: Arc::new(stacks.collect()),
            held: Arc::default(),
        }
    }

    fn entries(&self, decoder: &mut Decoder, packed: &[u8]) -> Vec<Entry> {
        let bytes = codec::unzstd(packed, 64 << 20).unwrap();
        let body = pb::BatchBody::decode(bytes.as_slice()).unwrap();
        let windows = decoder.apply(body).unwrap();
        let entry = |window: proto::dictionary::WireWindow| {
            let mut entry = Entry {
                start: window.window.start(),
                samples: 0,
                hash: 0,
            };
            for (&stack, &value) in window.stacks.iter().zip(&window.columns[0].values) {
                let names: Vec<String> = decoder.stack(stack).map(ToString::to_string).collect();
                let count = u32::try_from(value).unwrap();
                entry.samples += count;
                let part = self.corpus[&names].wrapping_mul(count.into());
                entry.hash = entry.hash.wrapping_add(part);
            }
            entry
        };
        windows
            .into_iter()
            .map(|window| entry(window.unwrap()))
            .collect()
    }

    /// The answer to a batch; `None` ends the stream.
    fn batch(&self, decoder: &mut Decoder, batch: pb::Batch) -> Option<Answer> {
        let entries = self.entries(decoder, &batch.body_zstd);
        let mut held = self.held.lock().unwrap();
        held.0 += 1;
        let count = held.0;
        let refusal = |code: pb::RefusalCode| {
            Some(Answer::Refusal(pb::Refusal {
                instance: batch.instance.clone(),
                sequence: batch.sequence,
                code: code.into(),
                message: String::new(),
                retry_after_millis: 1,
            }))
        };
        if is_turn(self.script.end_every, count) {
            return None;
        }
        if is_turn(self.script.reset_every, count) {
            return refusal(pb::RefusalCode::DictionaryReset);
        }
        if is_turn(self.script.overloaded_every, count) {
            return refusal(pb::RefusalCode::Overloaded);
        }
        let key = (batch.instance.clone(), batch.sequence);
        let duplicate = held.1.contains_key(&key);
        let first = held.1.entry(key).or_insert_with(|| entries.clone());
        assert_eq!(*first, entries, "what is sent again is the same");
        Some(Answer::Ack(pb::Ack {
            instance: batch.instance,
            sequence: batch.sequence,
            refused: Vec::new(),
            duplicate,
        }))
    }

    fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        let held = self.held.lock().unwrap();
        held.1.values().flatten().for_each(|entry| sum.add(entry));
        sum
    }
}

#[tonic::async_trait]
impl Ingest for Fake {
    type PushStream = Pin<Box<dyn Stream<Item = Result<pb::PushResponse, Status>> + Send>>;

    async fn push(
        &self,
        request: Request<Streaming<pb::PushRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let fake = self.clone();
        let mut decoder = Decoder::new();
        let mut is_void = false;
        let answers = request.into_inner().map_while(move |request| {
            let body = match request.ok()?.body? {
                Sent::Hello(_) => Some(Answer::Hello(pb::HelloAck::default())),
                // Nothing is answered on a stream after its reset.
                _ if is_void => return Some(None),
                Sent::Batch(batch) => Some(fake.batch(&mut decoder, batch)?),
                Sent::Heartbeat(_) => return Some(None),
            };
            if let Some(Answer::Refusal(refusal)) = &body {
                is_void = refusal.code() == pb::RefusalCode::DictionaryReset;
            }
            Some(Some(Ok(pb::PushResponse { body })))
        });
        Ok(Response::new(Box::pin(answers.filter_map(|answer| answer))))
    }
}

/// A fleet of three agents, a collector for it, and where that listens.
async fn scene(script: Script) -> (Fleet, Fake, String, JoinSet<()>) {
    let service = Service::new("bench", Corpus::new(Shape::LEAN, 1), 3);
    let fake = Fake::new(&service.corpus, script);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_service(IngestServer::new(fake.clone()));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let served = server.serve_with_incoming(TcpListenerStream::new(listener));
        served.await.unwrap();
    });
    let fleet = Fleet::new(&[service], START).unwrap();
    (fleet, fake, url, tasks)
}

/// Replays 60 windows of each agent and expects all of them to be there once.
async fn check(script: Script) -> Counts {
    let (mut fleet, fake, url, _server) = scene(script).await;
    let span = Window::from_start(START, 60 * WINDOW_NS).unwrap();
    let sending = Sending {
        batch: 4,
        ..Sending::default()
    };
    let mut clock = OwnClock;
    let counts = fleet.replay(&url, span, Grain::FINE, sending, &mut clock);
    let counts = counts.await.unwrap();
    assert_eq!(counts.windows, 180);
    assert_eq!(fleet.ledger().total(), fake.sum());
    assert_eq!(fleet.ledger().total().samples, 180 * 990);
    counts
}

#[tokio::test]
async fn every_window_is_acknowledged_once() {
    let counts = check(Script::default()).await;
    assert_eq!(
        (counts.batches, counts.streams, counts.duplicates),
        (45, 3, 0)
    );
    assert!(!counts.is_refused());
    assert_eq!(counts.ack_times.len(), 45);
}

#[tokio::test]
async fn what_is_refused_for_now_is_sent_again() {
    let counts = check(Script {
        overloaded_every: Some(9),
        ..Script::default()
    })
    .await;
    assert!(counts.refused_batches["REFUSAL_CODE_OVERLOADED"] > 3);
}

#[tokio::test]
async fn a_reset_or_an_ended_stream_loses_nothing() {
    let counts = check(Script {
        reset_every: Some(17),
        end_every: Some(23),
        ..Script::default()
    })
    .await;
    assert!(counts.refused_batches["REFUSAL_CODE_DICTIONARY_RESET"] > 1);
    assert!(counts.streams > 3);
}

#[tokio::test]
async fn a_steady_rate_does_not_wait_for_answers() {
    let (mut fleet, fake, url, _server) = scene(Script::default()).await;
    let (rate, length) = (300.0, Duration::from_millis(200));
    let sending = Sending::default();
    let mut clock = OwnClock;
    let counts = fleet.steady(
        &url,
        START,
        rate,
        [Duration::ZERO, length],
        sending,
        &mut clock,
    );
    let counts = counts.await.unwrap();
    assert!(counts.windows >= 60, "{counts}");
    assert_eq!(fleet.ledger().total(), fake.sum());
}

#[tokio::test]
async fn rude_agents_count_refusals_and_end() {
    let (mut fleet, fake, url, _server) = scene(Script {
        overloaded_every: Some(2),
        reset_every: Some(11),
        ..Script::default()
    })
    .await;
    let sending = Sending {
        batch: 2,
        in_flight: 4,
        manners: Manners::Rude,
    };
    let (rate, length) = (1e5, Duration::from_millis(200));
    let mut clock = OwnClock;
    let counts = fleet.overload(&url, START, rate, length, sending, &mut clock);
    let counts = counts.await.unwrap();
    assert!(counts.refused_batches["REFUSAL_CODE_OVERLOADED"] > 0);
    assert!(counts.offered_windows > counts.windows);
    // What was under way at a reset was kept or not: never less than acknowledged.
    let (acked, held) = (fleet.ledger().total(), fake.sum());
    assert!(acked.windows > 0 && acked.windows <= held.windows);
}

#[tokio::test]
async fn other_machines_are_not_loaded() {
    let (mut fleet, _fake, _url, _server) = scene(Script::default()).await;
    let span = Window::from_start(START, WINDOW_NS).unwrap();
    let sending = Sending::default();
    let url = "http://192.0.2.1:4040";
    let mut clock = OwnClock;
    let sent = fleet
        .replay(url, span, Grain::FINE, sending, &mut clock)
        .await;
    assert!(sent.unwrap_err().to_string().contains("loopback"));
    assert_eq!(fleet.len(), 3);
}
