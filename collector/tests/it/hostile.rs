//! Bytes from a broken or hostile agent: a clear answer, nothing lost, no panic.

use std::time::Duration;

use prost::Message;
use proto::dictionary::Encoder;
use proto::limits;
use proto::pb::tepui as pb;
use proto::pb::tepui::RefusalCode;
use proto::window::{Clock, SystemClock, UnixNanos};

use crate::push::{Answer, Pusher, profile};
use crate::server::Server;

const INSTANCE: [u8; 16] = [9; 16];

/// The refused windows of a batch, or why all of it is refused.
type Verdict = Result<Vec<RefusalCode>, RefusalCode>;

/// The encoded body of one good window.
fn body(change: impl FnOnce(&mut pb::BatchBody)) -> Vec<u8> {
    let start = SystemClock.now();
    let mut body = Encoder::new()
        .encode(&[profile("hostile", start, &[(&["main", "work"], 5)])])
        .unwrap();
    change(&mut body);
    body.encode_to_vec()
}

fn label(name: &str, value: &str) -> pb::Label {
    pb::Label {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

/// What the collector answers to a body: the code of the whole batch, or those
/// of its windows; `Ok(vec![])` is a plain ack.
async fn answer(server: &Server, sequence: u64, body: &[u8]) -> Verdict {
    let mut pusher = Pusher::connect(&server.url(), INSTANCE).await.unwrap();
    pusher.send_body(INSTANCE.to_vec(), sequence, body).await;
    match pusher.answer().await.unwrap() {
        Answer::Ack(ack) => Ok(ack
            .refused
            .iter()
            .map(|refused| RefusalCode::try_from(refused.code).unwrap())
            .collect()),
        Answer::Refusal(refusal) => {
            assert!(!refusal.message.is_empty(), "a refusal says why");
            Err(RefusalCode::try_from(refusal.code).unwrap())
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_bad_batch_is_refused_with_its_code() {
    use RefusalCode::{ClockAhead, Malformed, TooLarge, TooOld};
    let server = Server::start().await;
    let good = body(|_| {});
    let at = |ahead: i64| {
        move |body: &mut pb::BatchBody| {
            body.windows[0].start_unix_nanos += ahead * 1_000_000_000;
        }
    };
    let zeros = vec![0; limits::MAX_BODY_BYTES + 1];
    let cases: Vec<(&str, Vec<u8>, Verdict)> = vec![
        ("truncated", good[..good.len() - 3].to_vec(), Err(Malformed)),
        ("no protobuf", b"\xff\xff\xff\xff".to_vec(), Err(Malformed)),
        ("a bomb", zeros, Err(TooLarge)),
        (
            "stack out of range",
            body(|b| b.windows[0].stacks[0] = 99),
            Ok(vec![Malformed]),
        ),
        (
            "frame out of range",
            body(|b| b.dictionary.as_mut().unwrap().stacks[0].frames[0] = 99),
            Err(Malformed),
        ),
        (
            "string out of range",
            body(|b| b.dictionary.as_mut().unwrap().frames[0].function = 99),
            Err(Malformed),
        ),
        (
            "label set out of range",
            body(|b| b.windows[0].label_set = 99),
            Ok(vec![Malformed]),
        ),
        (
            "unknown frame kind",
            body(|b| b.dictionary.as_mut().unwrap().frames[0].kind = 99),
            Err(Malformed),
        ),
        (
            "unknown temporality",
            body(|b| b.windows[0].columns[0].temporality = 99),
            Ok(vec![Malformed]),
        ),
        (
            "uneven column",
            body(|b| b.windows[0].columns[0].values.push(1)),
            Ok(vec![Malformed]),
        ),
        (
            "weight zero",
            body(|b| b.windows[0].columns[0].weight = 0),
            Ok(vec![Malformed]),
        ),
        (
            "bad type",
            body(|b| b.windows[0].columns[0].name = "a:b".into()),
            Ok(vec![Malformed]),
        ),
        (
            "no service",
            body(|b| b.label_sets[0].labels.retain(|l| l.name != "service")),
            Ok(vec![Malformed]),
        ),
        (
            "long label",
            body(|b| b.label_sets[0].labels.push(label("x", &"v".repeat(3000)))),
            Ok(vec![Malformed]),
        ),
        (
            "31 labels",
            body(|b| {
                b.label_sets[0]
                    .labels
                    .extend((0..31).map(|n| label(&format!("l{n}"), "v")))
            }),
            Ok(vec![Malformed]),
        ),
        (
            "empty window",
            body(|b| b.windows[0].duration_nanos = 0),
            Ok(vec![Malformed]),
        ),
        (
            "endless window",
            body(|b| b.windows[0].duration_nanos = u64::MAX),
            Ok(vec![Malformed]),
        ),
        (
            "before 1970",
            body(|b| b.windows[0].start_unix_nanos = -5),
            Ok(vec![Malformed]),
        ),
        ("clock ahead", body(at(600)), Ok(vec![ClockAhead])),
        ("clock behind", body(at(-30 * 86_400)), Ok(vec![TooOld])),
    ];
    for (sequence, (what, bytes, expected)) in (1..).zip(&cases) {
        assert_eq!(&answer(&server, sequence, bytes).await, expected, "{what}");
    }
    let after = u64::try_from(cases.len()).unwrap() + 1;
    assert_eq!(
        answer(&server, after, &good).await,
        Ok(vec![]),
        "a good batch still counts"
    );
    assert_eq!(server.total("hostile").await, 5 * 10_000_000);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_window_does_not_take_its_neighbours_along() {
    let server = Server::start().await;
    let now = SystemClock.now();
    let profiles = [
        profile("mixed", now, &[(&["main", "a"], 1)]),
        profile(
            "mixed",
            now.saturating_add(Duration::from_secs(600)),
            &[(&["main", "b"], 2)],
        ),
        profile(
            "mixed",
            now.saturating_sub(Duration::from_secs(20)),
            &[(&["main", "c"], 4)],
        ),
    ];
    let bytes = Encoder::new().encode(&profiles).unwrap().encode_to_vec();
    assert_eq!(
        answer(&server, 1, &bytes).await,
        Ok(vec![RefusalCode::ClockAhead])
    );
    assert_eq!(server.total("mixed").await, 5 * 10_000_000);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dictionary_entries_of_a_refused_window_still_count() {
    let server = Server::start().await;
    let mut pusher = Pusher::connect(&server.url(), INSTANCE).await.unwrap();
    let now = SystemClock.now();
    let stack: &[&str] = &["main", "later"];
    let ahead = now.saturating_add(Duration::from_secs(600));
    pusher
        .send(INSTANCE, 1, &[profile("order", ahead, &[(stack, 1)])])
        .await;
    pusher
        .send(INSTANCE, 2, &[profile("order", now, &[(stack, 3)])])
        .await;
    for expected in [1, 0] {
        match pusher.answer().await.unwrap() {
            Answer::Ack(ack) => assert_eq!(ack.refused.len(), expected),
            Answer::Refusal(refusal) => panic!("{refusal:?}"),
        }
    }
    assert_eq!(server.total("order").await, 3 * 10_000_000);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_sent_twice_counts_once() {
    let server = Server::start().await;
    let now = SystemClock.now();
    for round in 0..3 {
        let mut pusher = Pusher::connect(&server.url(), INSTANCE).await.unwrap();
        for sequence in [1, 2, 1] {
            let start = UnixNanos::new(now.get() + i64::try_from(sequence).unwrap());
            let names: &[&str] = if sequence == 1 { &["one"] } else { &["two"] };
            pusher
                .send(
                    INSTANCE,
                    sequence,
                    &[profile("twice", start, &[(names, 1)])],
                )
                .await;
            match pusher.answer().await.unwrap() {
                Answer::Ack(ack) => assert!(ack.refused.is_empty(), "round {round}"),
                Answer::Refusal(refusal) => panic!("{refusal:?}"),
            }
        }
    }
    assert_eq!(server.total("twice").await, 2 * 10_000_000);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_the_protocol_ends_with_the_reason() {
    let server = Server::start().await;
    let wrong_version = pb::Hello {
        protocol_version: limits::PROTOCOL_VERSION + 1,
        instance: vec![1; 16],
        ..pb::Hello::default()
    };
    let short_instance = pb::Hello {
        protocol_version: limits::PROTOCOL_VERSION,
        instance: vec![1; 3],
        ..pb::Hello::default()
    };
    let named = format!("protocol version {}", wrong_version.protocol_version);
    for (hello, reason) in [
        (wrong_version, named.as_str()),
        (short_instance, "16 bytes"),
    ] {
        let status = Pusher::hello(&server.url(), hello).await.err().unwrap();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(reason), "{status}");
    }
    // A message beyond the cap never reaches the collector's memory whole.
    let mut pusher = Pusher::connect(&server.url(), INSTANCE).await.unwrap();
    let huge = vec![1; limits::MAX_MESSAGE_BYTES + 1];
    pusher.send_packed(INSTANCE.to_vec(), 1, huge).await;
    assert!(pusher.answer().await.is_err());
    assert_eq!(answer(&server, 1, &body(|_| {})).await, Ok(vec![]));
    server.stop().await;
}
