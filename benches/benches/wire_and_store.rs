//! What a window costs on its way: the wire's dictionary both ways, plain
//! pprof for comparison, and adding stored vectors.

#![allow(missing_docs, reason = "criterion's macros")]

use benches::recorded::{RECORDED, Recorded};
use benches::{Corpus, PERIOD_NS, Random, Shape};
use collector::import::{Limits, read_pprof};
use collector::store::segment::{RangeSum, Segment, SegmentKind, Value};
use collector::store::{Epoch, SeriesId};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use proto::dictionary::{Decoder, Encoder};
use proto::pb::tepui::BatchBody;
use proto::pprof::{Pprof, PprofBuilder, PprofHead};
use proto::profile::Profile;
use proto::stack::FrameKind;
use proto::value_type::ProfileType;
use proto::window::UnixNanos;

const WINDOWS: usize = 100;

fn windows(shape: Shape) -> Vec<Profile> {
    let corpus = Corpus::new(shape, 1);
    let mut random = Random::new(2);
    let start = UnixNanos::new(1_700_000_000_000_000_000);
    (0..WINDOWS)
        .map(|pod| corpus.window(pod, start, 990, &mut random))
        .collect()
}

fn pprof(profile: &Profile) -> Vec<u8> {
    let cpu = ProfileType::cpu();
    let mut builder = PprofBuilder::new(&PprofHead {
        sample_types: vec![cpu.sample().clone()],
        period_type: cpu.period().clone(),
        period: i64::try_from(PERIOD_NS).unwrap_or(i64::MAX),
        time_ns: 0,
        duration_ns: 0,
        comments: Vec::new(),
    });
    for (stack, value) in profile.stacks().iter().zip(&profile.columns()[0].values) {
        builder.add(stack.iter(), vec![*value]);
    }
    builder.finish()
}

fn wire(c: &mut Criterion) {
    for (name, shape) in [("lean", Shape::LEAN), ("fat", Shape::FAT)] {
        let windows = windows(shape);
        let mut group = c.benchmark_group(format!("wire/{name}"));
        group.throughput(Throughput::Elements(1));
        // A stream that knows every stack already, as it does after minutes.
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        for window in &windows {
            let body = encoder
                .encode(std::slice::from_ref(window))
                .expect("within the caps");
            decoder.apply(body).expect("a body of our encoder");
        }
        let bodies: Vec<Vec<u8>> = windows
            .iter()
            .map(|w| {
                encoder
                    .encode(std::slice::from_ref(w))
                    .expect("within the caps")
            })
            .map(|body| body.encode_to_vec())
            .collect();
        let mut turn = 0;
        group.bench_function("dictionary decode", |b| {
            b.iter(|| {
                turn = (turn + 1) % WINDOWS;
                let body = BatchBody::decode(&*bodies[turn]).expect("our own bytes");
                decoder.apply(body).expect("a body of our encoder")
            });
        });
        let packed: Vec<Vec<u8>> = windows.iter().map(pprof).collect();
        group.bench_function("pprof decode", |b| {
            b.iter(|| {
                turn = (turn + 1) % WINDOWS;
                Pprof::parse(&packed[turn], FrameKind::Go).expect("our own bytes")
            });
        });
        group.finish();
    }
}

/// Reading the profiles of real programs as the collector does.
fn recorded(c: &mut Criterion) {
    let mut group = c.benchmark_group("pprof");
    group.throughput(Throughput::Elements(1));
    for Recorded { name, bytes } in RECORDED {
        group.bench_function(name, |b| {
            b.iter(|| read_pprof(bytes, &Limits::default()).expect("read by a test"));
        });
    }
    group.finish();
}

fn sum(c: &mut Criterion) {
    let mut random = Random::new(3);
    let values: Vec<Vec<u8>> = (0..WINDOWS)
        .map(|_| {
            let mut ids: Vec<u32> = (0..530)
                .map(|_| u32::try_from(random.below(20_000)).unwrap_or(0))
                .collect();
            ids.sort_unstable();
            ids.dedup();
            let kind = SegmentKind {
                epoch: Epoch(0),
                period: 1,
                weight: PERIOD_NS,
            };
            let entries = ids.into_iter().map(|id| (id, 2)).collect();
            let segment = Segment {
                kind,
                observed_ns: 1,
                windows: 1,
                entries,
            };
            Value {
                span_ns: 1,
                segments: vec![segment],
            }
            .encode()
        })
        .collect();
    let mut group = c.benchmark_group("store");
    group.throughput(Throughput::Elements(1));
    let mut total = RangeSum::default();
    let mut turn = 0;
    group.bench_function("add a stored window", |b| {
        b.iter(|| {
            turn = (turn + 1) % WINDOWS;
            total
                .add(SeriesId(1), 0, &values[turn])
                .expect("our own bytes");
        });
    });
    group.finish();
}

criterion_group!(benches, wire, recorded, sum);
criterion_main!(benches);
