//! Shipping, against a collector made of a script, over loopback.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::VecDeque;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::embed::{EmbedConfig, embed};
use agent::ship::{CapabilityLine, HelloInfo, MAX_IN_FLIGHT, ShipConfig, ShipError, run_shipper};
use agent::spool::Spool;
use prost::Message;
use proto::codec::unzstd;
use proto::dictionary::Decoder;
use proto::labels::LabelSet;
use proto::limits::MAX_BODY_BYTES;
use proto::pb::tepui as pb;
use proto::pb::tepui::RefusalCode;
use proto::pb::tepui::ingest_server::{Ingest, IngestServer};
use proto::pb::tepui::push_request::Body as Sent;
use proto::pb::tepui::push_response::Body as Answer;
use proto::profile::{Column, Facts, Profile};
use proto::stack::{Frame, FrameKind, Stack};
use proto::value_type::{ProfileType, Temporality};
use proto::window::{Clock, UnixNanos, Window};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

const ONE: [u8; 16] = [1; 16];
const TWO: [u8; 16] = [2; 16];

/// What the collector does with a batch.
#[derive(Clone, Debug)]
enum Reply {
    Ack,
    /// Acknowledges all but the first window.
    AckButFirst(RefusalCode),
    Refuse(RefusalCode, u64),
    Silence,
    HangUp,
}

/// What the collector saw.
#[derive(Debug)]
enum Event {
    Hello {
        hello: pb::Hello,
        authorization: Option<String>,
    },
    Batch(Seen),
    Heartbeat(pb::Heartbeat),
    Closed,
}

#[derive(Debug)]
struct Seen {
    stream: usize,
    id: (u8, u64),
    reset: bool,
    strings: usize,
    profiles: Vec<Profile>,
}

#[derive(Debug)]
struct Collector {
    limits: pb::Limits,
    /// Replies to the first batches; [`Reply::Ack`] after them.
    script: Mutex<VecDeque<Reply>>,
    streams: AtomicUsize,
    events: mpsc::Sender<Event>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<pb::PushResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Ingest for Handle {
    type PushStream = Answers;

    async fn push(
        &self,
        request: Request<Streaming<pb::PushRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let collector = Arc::clone(&self.0);
        let authorization = request
            .metadata()
            .get("authorization")
            .map(|value| value.to_str().unwrap().to_owned());
        let (answers, receiver) = mpsc::channel(64);
        #[expect(clippy::disallowed_methods, reason = "ends with its stream")]
        tokio::spawn(collector.serve(request.into_inner(), authorization, answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[derive(Debug)]
struct Handle(Arc<Collector>);

impl Collector {
    async fn serve(
        self: Arc<Self>,
        mut requests: Streaming<pb::PushRequest>,
        authorization: Option<String>,
        answers: mpsc::Sender<Result<pb::PushResponse, Status>>,
    ) {
        let stream = self.streams.fetch_add(1, Ordering::SeqCst);
        let mut decoder = Decoder::new();
        while let Some(Ok(message)) = requests.next().await {
            let answer = match message.body.unwrap() {
                Sent::Hello(hello) => {
                    let event = Event::Hello {
                        hello,
                        authorization: authorization.clone(),
                    };
                    self.events.send(event).await.unwrap();
                    Answer::Hello(pb::HelloAck {
                        limits: Some(self.limits),
                        ..pb::HelloAck::default()
                    })
                }
                Sent::Heartbeat(beat) => {
                    self.events.send(Event::Heartbeat(beat)).await.unwrap();
                    continue;
                }
                Sent::Batch(batch) => {
                    let seen = decode(&mut decoder, stream, &batch);
                    self.events.send(Event::Batch(seen)).await.unwrap();
                    let reply = self.script.lock().unwrap().pop_front();
                    match answer(reply.unwrap_or(Reply::Ack), batch) {
                        Some(Ok(answer)) => answer,
                        Some(Err(status)) => {
                            answers.send(Err(status)).await.unwrap();
                            return;
                        }
                        None => continue,
                    }
                }
            };
            let response = pb::PushResponse { body: Some(answer) };
            if answers.send(Ok(response)).await.is_err() {
                break;
            }
        }
        let _nobody_listens = self.events.send(Event::Closed).await;
    }
}

fn answer(reply: Reply, batch: pb::Batch) -> Option<Result<Answer, Status>> {
    let (instance, sequence) = (batch.instance, batch.sequence);
    let ack = pb::Ack {
        instance: instance.clone(),
        sequence,
        ..pb::Ack::default()
    };
    match reply {
        Reply::Ack => Some(Ok(Answer::Ack(ack))),
        Reply::AckButFirst(code) => {
            let refused = vec![pb::WindowRefusal {
                window: 0,
                code: code.into(),
                message: "no".to_owned(),
            }];
            Some(Ok(Answer::Ack(pb::Ack { refused, ..ack })))
        }
        Reply::Refuse(code, retry_after_millis) => Some(Ok(Answer::Refusal(pb::Refusal {
            instance,
            sequence,
            code: code.into(),
            message: "no".to_owned(),
            retry_after_millis,
        }))),
        Reply::Silence => None,
        Reply::HangUp => Some(Err(Status::unavailable("killed"))),
    }
}

/// Reads a batch with the stream's dictionary; a dangling id fails the test.
fn decode(decoder: &mut Decoder, stream: usize, batch: &pb::Batch) -> Seen {
    let bytes = unzstd(&batch.body_zstd, MAX_BODY_BYTES).unwrap();
    let body = pb::BatchBody::decode(bytes.as_slice()).unwrap();
    let reset = body.reset;
    let strings = body.dictionary.as_ref().map_or(0, |d| d.strings.len());
    let windows = decoder.apply(body).unwrap();
    Seen {
        stream,
        id: (batch.instance[0], batch.sequence),
        reset,
        strings,
        profiles: windows
            .into_iter()
            .map(|window| decoder.profile(window.unwrap()).unwrap())
            .collect(),
    }
}

#[derive(Debug)]
struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> UnixNanos {
        UnixNanos::new(1_700_000_000_000_000_000)
    }
}

fn profile(second: i64) -> Profile {
    let stack: Stack = ["leaf", "main"]
        .iter()
        .map(|name| Frame::named(FrameKind::Native, name))
        .collect();
    let column = Column {
        profile_type: ProfileType::cpu(),
        temporality: Temporality::Delta,
        period: 10,
        weight: 10,
        values: vec![second],
    };
    Profile::new(
        LabelSet::new([("service", "s")]).unwrap(),
        Window::from_start(UnixNanos::new(second), 1_000_000_000).unwrap(),
        vec![stack],
        vec![column],
        Facts::default(),
    )
    .unwrap()
}

fn open(dir: &Path, instance: [u8; 16]) -> Arc<Spool> {
    Arc::new(Spool::open(dir, 64 << 20, instance).unwrap())
}

/// A collector that serves, a spool, and perhaps a shipper between them.
struct Bench {
    dir: tempfile::TempDir,
    spool: Arc<Spool>,
    url: String,
    events: mpsc::Receiver<Event>,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
    server: JoinSet<()>,
}

impl Bench {
    async fn start(limits: pb::Limits, script: &[Reply]) -> Self {
        Self::start_after(limits, script, 0).await
    }

    /// The collector drops so many connections before it serves.
    async fn start_after(limits: pb::Limits, script: &[Reply], dropped: usize) -> Self {
        let (sender, events) = mpsc::channel(1000);
        let collector = Handle(Arc::new(Collector {
            limits,
            script: Mutex::new(script.iter().cloned().collect()),
            streams: AtomicUsize::new(0),
            events: sender,
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move {
            for _ in 0..dropped {
                drop(listener.accept().await.unwrap());
            }
            tonic::transport::Server::builder()
                .add_service(
                    IngestServer::new(collector)
                        .max_decoding_message_size(proto::limits::MAX_MESSAGE_BYTES),
                )
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path(), ONE);
        Self {
            dir,
            spool,
            url,
            events,
            shutdown: CancellationToken::new(),
            tasks: JoinSet::new(),
            server,
        }
    }

    fn config(&self) -> ShipConfig {
        ShipConfig {
            url: self.url.clone(),
            token: Some("secret".to_owned()),
            ca_file: None,
            hello: HelloInfo {
                labels: LabelSet::new([("service", "s")]).unwrap(),
                capabilities: vec![CapabilityLine {
                    name: "perf_event_open".to_owned(),
                    available: true,
                    detail: "fine".to_owned(),
                }],
            },
        }
    }

    fn ship(&mut self) {
        self.tasks.spawn(run_shipper(
            Arc::clone(&self.spool),
            self.config(),
            Arc::new(FixedClock),
            self.shutdown.clone(),
        ));
    }

    /// Spools one batch per second given.
    fn append(&self, seconds: impl IntoIterator<Item = i64>) {
        for second in seconds {
            self.spool.append(&[profile(second)]).unwrap();
        }
    }

    async fn event(&mut self) -> Event {
        tokio::time::timeout(Duration::from_secs(120), self.events.recv())
            .await
            .expect("the shipper does nothing")
            .unwrap()
    }

    async fn hello(&mut self) {
        match self.event().await {
            Event::Hello { .. } => {}
            other => panic!("not a hello: {other:?}"),
        }
    }

    /// The next batch, past the ends and beginnings of streams.
    async fn batch(&mut self) -> Seen {
        loop {
            match self.event().await {
                Event::Batch(seen) => return seen,
                Event::Heartbeat(beat) => panic!("not a batch: {beat:?}"),
                Event::Hello { .. } | Event::Closed => {}
            }
        }
    }

    async fn batches(&mut self, count: usize) -> Vec<(u8, u64)> {
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(self.batch().await.id);
        }
        ids
    }

    /// Stops the shipper, which drains the spool before it ends.
    async fn stop(&mut self) {
        self.shutdown.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

#[tokio::test]
async fn acknowledged_batches_leave_the_spool_and_names_go_once() {
    let mut bench = Bench::start(pb::Limits::default(), &[]).await;
    bench.append([5, 6]);
    bench.ship();
    match bench.event().await {
        Event::Hello {
            hello,
            authorization,
        } => {
            assert_eq!(authorization.as_deref(), Some("Bearer secret"));
            assert_eq!(hello.protocol_version, 2);
            assert_eq!(hello.instance, ONE);
            assert_eq!(hello.send_time_unix_nanos, FixedClock.now().get());
            assert_eq!(hello.capabilities[0].name, "perf_event_open");
            assert_eq!(hello.labels.unwrap().labels[0].value, "s");
        }
        other => panic!("not a hello: {other:?}"),
    }
    let first = bench.batch().await;
    assert_eq!((first.id, first.reset, first.strings), ((1, 1), true, 2));
    assert_eq!(first.profiles, [profile(5)]);
    let second = bench.batch().await;
    assert_eq!(
        (second.id, second.reset, second.strings),
        ((1, 2), false, 0)
    );
    assert_eq!(second.profiles, [profile(6)]);
    // The shipper sleeps now; a new batch wakes it on the same stream.
    bench.append([7]);
    let third = bench.batch().await;
    assert_eq!((third.id, third.stream, third.reset), ((1, 3), 0, false));
    bench.stop().await;
    assert_eq!(bench.spool.stats().batches, 0);
    assert_eq!(bench.spool.stats().dropped_windows, 0);
    assert!(matches!(bench.event().await, Event::Closed));
}

#[tokio::test]
async fn a_smaller_dictionary_of_the_collector_gets_whole_batches() {
    let limits = pb::Limits {
        max_dictionary_entries: 1000,
        ..pb::Limits::default()
    };
    let mut bench = Bench::start(limits, &[]).await;
    bench.append([5, 6]);
    bench.ship();
    for _ in 0..2 {
        let seen = bench.batch().await;
        assert_eq!((seen.reset, seen.strings), (true, 2));
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_batch_beyond_the_limits_is_dropped_and_counted_without_sending() {
    let limits = pb::Limits {
        max_windows: 1,
        ..pb::Limits::default()
    };
    let mut bench = Bench::start(limits, &[]).await;
    bench.spool.append(&[profile(1), profile(2)]).unwrap();
    bench.append([3]);
    bench.ship();
    assert_eq!(bench.batch().await.id, (1, 2));
    bench.stop().await;
    assert_eq!(bench.spool.stats().dropped_batches, 1);
    assert_eq!(bench.spool.stats().dropped_windows, 2);
}

#[tokio::test]
async fn refused_windows_are_counted_and_not_sent_again() {
    let script = [Reply::AckButFirst(RefusalCode::SeriesLimit)];
    let mut bench = Bench::start(pb::Limits::default(), &script).await;
    bench.spool.append(&[profile(1), profile(2)]).unwrap();
    bench.append([3]);
    bench.ship();
    assert_eq!(bench.batches(2).await, [(1, 1), (1, 2)]);
    bench.stop().await;
    assert_eq!(bench.spool.stats().dropped_windows, 1);
    assert_eq!(bench.spool.stats().dropped_batches, 0);
    assert_eq!(bench.spool.stats().batches, 0);
}

#[tokio::test]
async fn a_batch_refused_for_good_is_dropped_and_the_rest_goes_on() {
    for code in [
        RefusalCode::Malformed,
        RefusalCode::ClockAhead,
        RefusalCode::TooOld,
        RefusalCode::SeriesLimit,
        RefusalCode::TooLarge,
    ] {
        let mut bench = Bench::start(pb::Limits::default(), &[Reply::Refuse(code, 0)]).await;
        bench.append([1]);
        bench.ship();
        assert_eq!(bench.batch().await.id, (1, 1));
        // Sent after the refusal arrived or before it: its names must be
        // known either way.
        bench.append([2]);
        assert_eq!(bench.batch().await.id, (1, 2), "{code:?}");
        bench.stop().await;
        assert_eq!(bench.spool.stats().dropped_batches, 1, "{code:?}");
        assert_eq!(bench.spool.stats().batches, 0, "{code:?}");
    }
}

#[tokio::test]
async fn a_batch_that_only_followed_a_refused_one_is_sent_again() {
    let script = [
        Reply::Refuse(RefusalCode::Malformed, 0),
        Reply::Refuse(RefusalCode::Malformed, 0),
    ];
    let mut bench = Bench::start(pb::Limits::default(), &script).await;
    bench.append([1, 2]);
    bench.ship();
    let ids = bench.batches(3).await;
    bench.stop().await;
    assert_eq!(&ids[..2], [(1, 1), (1, 2)]);
    // The second was in flight when the first was refused, or it was sent
    // after, with all its names, and was refused for itself.
    let dropped = bench.spool.stats().dropped_batches;
    assert_eq!((ids[2], dropped), ((1, 2), 1));
}

#[tokio::test]
async fn a_batch_refused_for_now_is_sent_again_under_its_identity() {
    for (code, hint) in [
        (RefusalCode::Overloaded, 20),
        (RefusalCode::Unavailable, 0),
        (RefusalCode::Unspecified, 20),
    ] {
        let mut bench = Bench::start(pb::Limits::default(), &[Reply::Refuse(code, hint)]).await;
        bench.append([1]);
        bench.ship();
        let first = bench.batch().await;
        let again = bench.batch().await;
        assert_eq!((first.id, again.id), ((1, 1), (1, 1)), "{code:?}");
        assert_eq!(first.profiles, again.profiles);
        assert!(again.reset, "{code:?}");
        bench.stop().await;
        assert_eq!(bench.spool.stats().batches, 0, "{code:?}");
        assert_eq!(bench.spool.stats().dropped_batches, 0, "{code:?}");
    }
}

#[tokio::test]
async fn a_voided_dictionary_opens_a_new_stream_with_all_names() {
    let script = [Reply::Ack, Reply::Refuse(RefusalCode::DictionaryReset, 0)];
    let mut bench = Bench::start(pb::Limits::default(), &script).await;
    bench.append([1]);
    bench.ship();
    assert_eq!(bench.batch().await.id, (1, 1));
    bench.append([2]);
    let voided = bench.batch().await;
    assert_eq!((voided.id, voided.stream, voided.strings), ((1, 2), 0, 0));
    let again = bench.batch().await;
    assert_eq!((again.id, again.stream, again.strings), ((1, 2), 1, 2));
    assert_eq!(again.profiles, [profile(2)]);
    bench.stop().await;
    assert_eq!(bench.spool.stats().batches, 0);
}

#[tokio::test]
async fn a_collector_that_comes_late_gets_everything() {
    let mut bench = Bench::start_after(pb::Limits::default(), &[], 2).await;
    bench.append([1, 2]);
    bench.ship();
    assert_eq!(bench.batches(2).await, [(1, 1), (1, 2)]);
    bench.stop().await;
    assert_eq!(bench.spool.stats().batches, 0);
}

#[tokio::test]
async fn a_collector_killed_before_its_ack_gets_the_batch_again() {
    let script = [Reply::HangUp];
    let mut bench = Bench::start(pb::Limits::default(), &script).await;
    bench.append([1]);
    bench.ship();
    let first = bench.batch().await;
    let again = bench.batch().await;
    assert_eq!((first.id, first.stream), ((1, 1), 0));
    assert_eq!((again.id, again.stream), ((1, 1), 1));
    assert_eq!(first.profiles, again.profiles);
    bench.stop().await;
    assert_eq!(bench.spool.stats().batches, 0);
}

#[tokio::test]
async fn an_agent_killed_before_the_ack_sends_under_the_old_identity() {
    let script = vec![Reply::Silence; 2];
    let mut bench = Bench::start(pb::Limits::default(), &script).await;
    bench.append([1, 2]);
    bench.ship();
    assert_eq!(bench.batches(2).await, [(1, 1), (1, 2)]);
    bench.tasks.shutdown().await;
    // The old spool must be gone for its folder to be free; a read that was
    // under way may hold it a little longer.
    while Arc::strong_count(&bench.spool) > 1 {
        tokio::task::yield_now().await;
    }
    let dir = bench.dir.path().to_owned();
    let elsewhere = tempfile::tempdir().unwrap();
    bench.spool = open(elsewhere.path(), TWO);
    bench.spool = open(&dir, TWO);
    bench.append([3]);
    bench.ship();
    assert_eq!(bench.batches(3).await, [(1, 1), (1, 2), (2, 1)]);
    bench.stop().await;
    assert_eq!(bench.spool.stats().batches, 0);
}

#[tokio::test]
async fn few_batches_are_in_flight_and_heartbeats_go_on() {
    let script = vec![Reply::Silence; 100];
    let mut bench = Bench::start(pb::Limits::default(), &script).await;
    bench.append(0..20);
    bench.ship();
    bench.hello().await;
    for sequence in 1..=MAX_IN_FLIGHT {
        let seen = bench.batch().await;
        assert_eq!(seen.id, (1, u64::try_from(sequence).unwrap()));
    }
    tokio::time::pause();
    match bench.event().await {
        Event::Heartbeat(beat) => {
            assert_eq!((beat.spooled_windows, beat.dropped_windows), (20, 0));
        }
        other => panic!("not a heartbeat: {other:?}"),
    }
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_silent_collector() {
    let script = vec![Reply::Silence; 100];
    let mut bench = Bench::start(pb::Limits::default(), &script).await;
    bench.append([1]);
    bench.ship();
    assert_eq!(bench.batch().await.id, (1, 1));
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    bench.stop().await;
    assert!(before.elapsed() < Duration::from_secs(6));
    assert_eq!(bench.spool.stats().batches, 1);
}

#[tokio::test]
async fn shutdown_ends_without_any_collector() {
    let mut bench = Bench::start(pb::Limits::default(), &[]).await;
    bench.server.shutdown().await;
    bench.append([1]);
    bench.ship();
    tokio::time::pause();
    bench.stop().await;
    assert_eq!(bench.spool.stats().batches, 1);
}

#[test]
fn unusable_settings_are_found_before_connecting() {
    let config = |url: &str, token: Option<&str>| ShipConfig {
        url: url.to_owned(),
        token: token.map(str::to_owned),
        ca_file: Some("/nowhere/ca.pem".into()),
        hello: HelloInfo::default(),
    };
    for url in ["", "127.0.0.1:4040", "ftp://x", "http://", "http://a b"] {
        assert!(
            matches!(config(url, None).check(), Err(ShipError::Url { .. })),
            "{url:?}"
        );
    }
    assert!(matches!(
        config("http://x:1", Some("a\nb")).check(),
        Err(ShipError::Token)
    ));
    assert!(matches!(
        config("https://x:1", None).check(),
        Err(ShipError::CaFile { .. })
    ));
    config("http://x:1", Some("t")).check().unwrap();
    let shown = format!("{:?}", config("http://x:1", Some("hush")));
    assert!(!shown.contains("hush"), "{shown}");
}

#[inline(never)]
fn spin_in_embed_test(stop: &AtomicBool) -> u64 {
    let mut sum = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        for n in 0..10_000_u64 {
            sum = sum
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(std::hint::black_box(n));
        }
    }
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedding_program_sees_its_busy_function() {
    let mut bench = Bench::start(pb::Limits::default(), &[]).await;
    let config = EmbedConfig {
        collector: bench.url.clone(),
        labels: vec![("version".to_owned(), "1.8".to_owned())],
        window: Duration::from_secs(1),
        spool_dir: Some(bench.dir.path().join("embed")),
        rate_hz: 199,
        ..EmbedConfig::new("me")
    };
    let stop = Arc::new(AtomicBool::new(false));
    let busy = Arc::clone(&stop);
    let spinner = std::thread::spawn(move || spin_in_embed_test(&busy));
    let profiling = embed(config.clone()).unwrap();
    assert!(embed(config).is_err(), "one sampler at a time");
    let mut windows = Vec::new();
    while windows.len() < 3 {
        windows.extend(bench.batch().await.profiles);
    }
    stop.store(true, Ordering::Relaxed);
    spinner.join().unwrap();
    // The last window is flushed by dropping.
    tokio::task::spawn_blocking(move || drop(profiling))
        .await
        .unwrap();
    windows.extend(bench.batch().await.profiles);

    let full = &windows[1];
    assert_eq!(
        full.labels().to_string(),
        r#"{service="me", version="1.8"}"#
    );
    let column = &full.columns()[0];
    assert_eq!(column.profile_type, ProfileType::cpu());
    assert_eq!((column.period, column.weight), (5_025_000, 5_025_000));
    let mut spinning = 0;
    for (stack, value) in full.stacks().iter().zip(&column.values) {
        let named = |frame: &&Frame| frame.function.contains("spin_in_embed_test");
        // What it calls is inlined and shown above it.
        if let Some(frame) = stack.iter().find(named) {
            assert!(frame.file.ends_with("ship.rs"), "{frame:?}");
            assert!(frame.line > 0, "{frame:?}");
            assert!(stack.len() > 3, "{stack:?}");
            spinning += value;
        }
    }
    let all: i64 = column.values.iter().sum();
    assert!(spinning * 10 > all * 8, "{spinning} of {all}: {full:?}");
    let facts = full.facts();
    assert!(facts.cpu_ns > 300_000_000, "{facts:?}");
    assert!(facts.rss_bytes > 0 && facts.threads_count > 2, "{facts:?}");
    assert!((700..=1300).contains(&facts.coverage_permille), "{facts:?}");
    for pair in windows.windows(2) {
        assert_eq!(pair[0].window().end(), pair[1].window().start());
    }
}
