use super::*;
use crate::feature::{self, SeriesRow};
use proto::labels::LabelSet;
use proto::profile::Facts;
use proto::window::{UnixNanos, Window};

const S: u64 = 1_000_000_000;
const GO_119: &str = include_str!("../shapes/go119.folded");
const GO_126: &str = include_str!("../shapes/go126.folded");

/// The folded stacks of one shape of a file.
fn stacks(file: &'static str, shape: &str) -> Vec<(Vec<Frame>, i128)> {
    let section = file.split("\n== ").find_map(|section| {
        let (name, lines) = section.split_once('\n')?;
        (name == shape).then_some(lines)
    });
    let lines = section.unwrap().lines();
    lines
        .map(|line| {
            let (stack, samples) = line.rsplit_once(' ').unwrap();
            let frames = stack
                .split(';')
                .map(|function| Frame::named(FrameKind::Go, function));
            (frames.collect(), samples.parse().unwrap())
        })
        .collect()
}

fn tree(stacks: &[(Vec<Frame>, i128)]) -> CallTree {
    let mut tree = CallTree::new();
    for (frames, samples) in stacks {
        tree.add(frames.iter(), *samples);
    }
    tree
}

fn row(tree: &CallTree, rate_hz: u64, observed_ns: u64, length_ns: u64, limit: u32) -> SeriesRow {
    let labels = LabelSet::new([("pod", "a"), ("version", "1.8")]).unwrap();
    let start = UnixNanos::new(1_700_000_040 * 1_000_000_000);
    let profile = StepProfile {
        step: Window::from_start(start, length_ns).unwrap(),
        tenant: "anonymous",
        namespace: "prod",
        service: "logger",
        labels: &labels,
        tree,
        period_ns: 1_000_000_000 / rate_hz,
        observed_ns,
        facts: Facts {
            cpu_limit_millicores: limit,
            ..Facts::default()
        },
    };
    feature::series_row(
        &profile,
        &Catalogue::built_in().unwrap(),
        &SpinSettings::default(),
    )
}

#[test]
fn explore() {
    for (v, file) in [("119", GO_119), ("126", GO_126)] {
        for shape in [
            "select2", "select1", "sendfull", "len", "time", "timer", "trylock", "closed",
            "atomic", "gosched", "mutex", "pipeline", "pipebuf", "sha", "gzip", "alloc", "healthy",
            "light", "busyspin",
        ] {
            let t = tree(&stacks(file, shape));
            let loose = SpinSettings {
                min_cores: 0.15,
                min_wait: 0.0,
                max_progress: 1.0,
                max_leaf_eff: 1000.0,
                ..SpinSettings::default()
            };
            let labels = LabelSet::default();
            let profile = StepProfile {
                step: Window::from_start(UnixNanos::new(0), 8 * S).unwrap(),
                tenant: "",
                namespace: "",
                service: "",
                labels: &labels,
                tree: &t,
                period_ns: S / 100,
                observed_ns: 8 * S,
                facts: Facts::default(),
            };
            let c = Catalogue::built_in().unwrap();
            let show = |row: &SeriesRow| {
                for c in &row.candidates {
                    println!(
                        "   {:?} {:.2} eff {:.1} wait {:.2} prog {:?} path {:?}",
                        c.identity,
                        c.cores,
                        c.leaf_eff,
                        c.wait_share,
                        c.progress_share.map(|p| (p * 1000.0).round() / 1000.0),
                        c.path
                            .iter()
                            .map(|f| f.function.as_str())
                            .collect::<Vec<_>>()
                    );
                }
            };
            println!("{v} {shape} {:.2}", t.total() as f64 / 800.0);
            show(&feature::series_row(&profile, &c, &loose));
            println!("  strict");
            show(&feature::series_row(
                &profile,
                &c,
                &SpinSettings {
                    min_cores: 0.4,
                    ..SpinSettings::default()
                },
            ));
        }
    }
}
