//! Drives any server of the Pyroscope push and querier API with the same
//! windows, over the Connect protocol
//! (<https://connectrpc.com/docs/protocol>, unary calls, `application/proto`).
//!
//! The messages below were written from the published field numbers of
//! `push.v1`, `querier.v1` and `types.v1`; only the fields that are used.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use prost::Message;
use proto::window::{UnixNanos, Window};
use tokio::time::Instant;

use crate::corpus::{Corpus, Slot, WINDOW_SAMPLES};
use crate::fleet::{Grain, Service};
use crate::http::Http;
use crate::pprof_files;
use crate::process::{self, Usage};
use crate::quantile::Quantiles;

const PUSH: &str = "/push.v1.PusherService/Push";
const MERGE: &str = "/querier.v1.QuerierService/SelectMergeStacktraces";
const CONTENT_TYPE: &str = "application/proto";
/// What a merged flame graph is asked for.
const CPU: &str = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";

/// `types.v1.LabelPair`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LabelPair {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// `push.v1.RawSample`: one pprof file.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RawSample {
    /// The file, gzipped or not.
    #[prost(bytes = "bytes", tag = "1")]
    pub raw_profile: Bytes,
    /// Its id, a UUID; may be empty.
    #[prost(string, tag = "2")]
    pub id: String,
}

/// `push.v1.RawProfileSeries`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RawProfileSeries {
    /// Labels, `__name__` and `service_name` among them.
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<LabelPair>,
    /// The files.
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<RawSample>,
}

/// `push.v1.PushRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PushRequest {
    /// What is pushed.
    #[prost(message, repeated, tag = "1")]
    pub series: Vec<RawProfileSeries>,
}

/// `querier.v1.SelectMergeStacktracesRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SelectMergeStacktracesRequest {
    /// Five-part profile type.
    #[prost(string, tag = "1")]
    pub profile_type_id: String,
    /// A selector of series.
    #[prost(string, tag = "2")]
    pub label_selector: String,
    /// Start, in milliseconds since 1970.
    #[prost(int64, tag = "3")]
    pub start: i64,
    /// End, in milliseconds since 1970.
    #[prost(int64, tag = "4")]
    pub end: i64,
    /// Most nodes.
    #[prost(int64, optional, tag = "5")]
    pub max_nodes: Option<i64>,
}

/// `querier.v1.FlameGraph`, without its levels.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FlameGraph {
    /// Function names.
    #[prost(string, repeated, tag = "1")]
    pub names: Vec<String>,
    /// Value of the whole graph.
    #[prost(int64, tag = "3")]
    pub total: i64,
}

/// `querier.v1.SelectMergeStacktracesResponse`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SelectMergeStacktracesResponse {
    /// The graph; nothing when there is no data.
    #[prost(message, optional, tag = "1")]
    pub flamegraph: Option<FlameGraph>,
}

/// A server to be measured.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Where it is, on this machine.
    pub url: String,
    /// Its process, to read what it used.
    pub pid: Option<u32>,
    /// Folder of its data, to read what it takes.
    pub folder: Option<PathBuf>,
}

/// What pushing and asking cost a server.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// Windows it took.
    pub windows: u64,
    /// How long pushing took.
    pub push_wall: Duration,
    /// CPU time while windows were pushed.
    pub push_cpu: Option<Duration>,
    /// Answers to the merged flame graph of all that was pushed.
    pub queries: Quantiles,
    /// CPU time while it was asked.
    pub query_cpu: Option<Duration>,
    /// Value of the merged flame graph.
    pub total: i128,
    /// Its most resident memory.
    pub peak_rss_bytes: Option<u64>,
    /// What its data takes on disk afterwards.
    pub disk_bytes: Option<u64>,
}

impl Subject {
    /// What the server used so far, when its process is known.
    ///
    /// # Errors
    ///
    /// When there is no such process.
    pub fn usage(&self) -> anyhow::Result<Option<Usage>> {
        self.pid.map(process::usage).transpose()
    }
}

/// The windows of `span` in the order of time.
pub fn slots(service: &Service, span: Window) -> impl Iterator<Item = Slot> {
    let count = span.duration().as_nanos() / Grain::FINE.length().as_nanos();
    let steps = 0..u32::try_from(count).unwrap_or(u32::MAX);
    let pods = service.pods;
    steps.flat_map(move |step| {
        let start = span.start().saturating_add(Grain::FINE.length() * step);
        (0..pods).map(move |pod| Slot {
            pod,
            start,
            samples: WINDOW_SAMPLES,
        })
    })
}

/// A request that pushes one window.
pub fn request(service: &Service, slot: Slot) -> PushRequest {
    let own = [
        ("__name__", "process_cpu"),
        ("service_name", service.name.as_str()),
    ];
    let labels = Corpus::labels(&service.name, slot.pod);
    let others = labels.iter().filter(|(name, _)| *name != "service");
    let pair = |(name, value): (&str, &str)| LabelPair {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let file = pprof_files::window(&service.corpus, &service.name, slot, Grain::FINE);
    PushRequest {
        series: vec![RawProfileSeries {
            labels: own.into_iter().chain(others).map(pair).collect(),
            samples: vec![RawSample {
                raw_profile: Bytes::from(file),
                id: String::new(),
            }],
        }],
    }
}

/// Pushes the windows of `span` one by one, and asks for all of them `queries`
/// times. Stops pushing after `longest`, the queries after as long again.
///
/// # Errors
///
/// When the server cannot be reached or refuses.
pub async fn measure(
    subject: &Subject,
    service: &Service,
    span: Window,
    queries: usize,
    longest: Duration,
) -> anyhow::Result<Cost> {
    let mut http = Http::connect(&subject.url).await?;
    let before = subject.usage()?;
    let mut cost = Cost::default();
    let began = Instant::now();
    for slot in slots(service, span) {
        if began.elapsed() > longest {
            break;
        }
        // Making the file is the generator's work and not on this clock.
        let body = Bytes::from(request(service, slot).encode_to_vec());
        let reply = http.post(PUSH, CONTENT_TYPE, body).await?;
        cost.push_wall += reply.ok().context("pushing a window")?.took;
        cost.windows += 1;
    }
    let pushed = subject.usage()?;
    cost.push_cpu = spent(before, pushed);
    let millis = |time: UnixNanos| time.get() / 1_000_000;
    let question = SelectMergeStacktracesRequest {
        profile_type_id: CPU.to_owned(),
        label_selector: format!("{{service_name=\"{}\"}}", service.name),
        start: millis(span.start()),
        end: millis(span.end()),
        max_nodes: None,
    };
    let body = Bytes::from(question.encode_to_vec());
    let began = Instant::now();
    let mut times = Vec::new();
    for _ in 0..queries {
        if began.elapsed() > longest {
            break;
        }
        let reply = http.post(MERGE, CONTENT_TYPE, body.clone()).await?;
        let reply = reply.ok().context("asking for a flame graph")?;
        let answer = SelectMergeStacktracesResponse::decode(reply.body)?;
        cost.total = answer.flamegraph.map_or(0, |graph| graph.total.into());
        times.push(reply.took);
    }
    cost.queries = Quantiles::of(times);
    let after = subject.usage()?;
    cost.query_cpu = spent(pushed, after);
    cost.peak_rss_bytes = after.map(|used| used.peak_rss_bytes);
    cost.disk_bytes = subject.folder.as_deref().map(process::disk_bytes);
    Ok(cost)
}

/// CPU time between two looks.
pub fn spent(before: Option<Usage>, after: Option<Usage>) -> Option<Duration> {
    Some(after?.cpu.saturating_sub(before?.cpu))
}

/// The costs of several servers side by side, a line for each figure.
pub fn table(columns: &[(&str, &Cost)]) -> String {
    let seconds = |time: Option<Duration>| {
        time.map_or_else(
            || "not known".to_owned(),
            |time| format!("{:.2} s", time.as_secs_f64()),
        )
    };
    let bytes = |bytes: Option<u64>| {
        bytes.map_or_else(
            || "not known".to_owned(),
            |bytes| format!("{} KiB", bytes / 1024),
        )
    };
    type Figure<'a> = (&'a str, Box<dyn Fn(&Cost) -> String + 'a>);
    let figures: Vec<Figure<'_>> = vec![
        ("windows", Box::new(|cost| cost.windows.to_string())),
        ("push, wall", Box::new(|cost| seconds(Some(cost.push_wall)))),
        (
            "push, CPU of the server",
            Box::new(|cost| seconds(cost.push_cpu)),
        ),
        (
            "merged flame graph",
            Box::new(|cost| cost.queries.to_string()),
        ),
        (
            "queries, CPU of the server",
            Box::new(|cost| seconds(cost.query_cpu)),
        ),
        (
            "total of the flame graph",
            Box::new(|cost| cost.total.to_string()),
        ),
        ("peak memory", Box::new(|cost| bytes(cost.peak_rss_bytes))),
        ("on disk", Box::new(|cost| bytes(cost.disk_bytes))),
    ];
    let mut lines = vec![line("", columns.iter().map(|(name, _)| (*name).to_owned()))];
    for (name, figure) in &figures {
        lines.push(line(name, columns.iter().map(|(_, cost)| figure(cost))));
    }
    lines.join("\n")
}

fn line(name: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: String = cells.map(|cell| format!(" {cell:>26}")).collect();
    format!("{name:<28}{cells}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Shape;

    #[test]
    fn a_request_has_the_published_field_numbers() {
        let request = PushRequest {
            series: vec![RawProfileSeries {
                labels: vec![LabelPair {
                    name: "a".to_owned(),
                    value: "b".to_owned(),
                }],
                samples: vec![RawSample {
                    raw_profile: Bytes::from_static(&[7]),
                    id: "i".to_owned(),
                }],
            }],
        };
        let expected = [
            0x0a, 16, // series
            0x0a, 6, 0x0a, 1, b'a', 0x12, 1, b'b', // labels
            0x12, 6, 0x0a, 1, 7, 0x12, 1, b'i', // samples
        ];
        assert_eq!(request.encode_to_vec(), expected);
        let question = SelectMergeStacktracesRequest {
            profile_type_id: "t".to_owned(),
            label_selector: "s".to_owned(),
            start: 1,
            end: 2,
            max_nodes: Some(3),
        };
        let expected = [0x0a, 1, b't', 0x12, 1, b's', 0x18, 1, 0x20, 2, 0x28, 3];
        assert_eq!(question.encode_to_vec(), expected);
    }

    #[test]
    fn every_pod_has_a_window_at_every_step() {
        let service = Service::new("bench", Corpus::new(Shape::LEAN, 1), 3);
        let start = UnixNanos::new(1_700_000_000_000_000_000);
        let span = Window::from_start(start, 30_000_000_000).unwrap();
        let all: Vec<Slot> = slots(&service, span).collect();
        assert_eq!(all.len(), 9);
        assert_eq!((all[0].start, all[0].pod), (start, 0));
        assert_eq!(
            (all[8].start.get(), all[8].pod),
            (start.get() + 20_000_000_000, 2)
        );
        let request = request(&service, all[4]);
        let labels = &request.series[0].labels;
        assert!(
            labels
                .iter()
                .any(|l| l.name == "service_name" && l.value == "bench")
        );
        assert!(
            labels
                .iter()
                .any(|l| l.name == "pod" && l.value == "bench-1")
        );
    }

    #[test]
    fn columns_stand_side_by_side() {
        let cost = Cost {
            windows: 7,
            ..Cost::default()
        };
        let text = table(&[("one", &cost), ("other", &cost)]);
        let first: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(first, ["windows", "7", "7"]);
    }
}
