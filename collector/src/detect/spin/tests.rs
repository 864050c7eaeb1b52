use super::*;
use crate::feature;
use proptest::prelude::*;
use proto::labels::LabelSet;
use proto::profile::Facts;
use proto::window::{UnixNanos, Window};

const SECOND: u64 = 1_000_000_000;
const GO_1_19: &str = include_str!("../shapes/go119.folded");
const GO_1_26: &str = include_str!("../shapes/go126.folded");

type Stacks = Vec<(Vec<Frame>, i128)>;

/// How a step was sampled.
#[derive(Clone, Copy)]
struct Sampled {
    rate_hz: u64,
    length_s: u64,
    observed_s: u64,
    limit_millicores: u32,
}

const MINUTE: Sampled = Sampled {
    rate_hz: 99,
    length_s: 60,
    observed_s: 60,
    limit_millicores: 0,
};

/// One program of a file of measured programs.
fn program(file: &str, name: &str) -> Stacks {
    let section = file.split("\n== ").find_map(|section| {
        let (found, lines) = section.split_once('\n')?;
        (found == name).then_some(lines)
    });
    let lines = section.unwrap().lines();
    let stack = |line: &str| {
        let (stack, samples) = line.rsplit_once(' ').unwrap();
        let frame = |function| Frame::named(FrameKind::Go, function);
        (
            stack.split(';').map(frame).collect(),
            samples.parse().unwrap(),
        )
    };
    lines.map(stack).collect()
}

fn below(stacks: Stacks, function: &str) -> Stacks {
    let is_below = |(stack, _): &(Vec<Frame>, i128)| stack.iter().any(|f| &*f.function == function);
    stacks.into_iter().filter(is_below).collect()
}

/// The same stacks with as many samples as so many cores give.
fn at(cores: f64, stacks: Stacks, sampled: Sampled) -> Stacks {
    let samples = cores * real(sampled.rate_hz) * real(sampled.observed_s);
    #[expect(clippy::cast_possible_truncation, reason = "a count of a test")]
    let samples = samples.round() as i128;
    let all: i128 = stacks.iter().map(|(_, samples)| samples).sum();
    // What rounding takes from one stack goes to the next.
    let mut carry = 0;
    let scaled = stacks.into_iter().map(|(stack, value)| {
        let exact = value * samples + carry;
        carry = exact % all;
        (stack, exact / all)
    });
    scaled.collect()
}

/// Stacks of one kind from folded text without samples.
fn stack(kind: FrameKind, folded: &str) -> Vec<Frame> {
    let frame = |function| Frame::named(kind, function);
    folded.split(';').map(frame).collect()
}

fn tree(stacks: &Stacks) -> CallTree {
    let mut tree = CallTree::new();
    for (frames, samples) in stacks {
        tree.add(frames.iter(), *samples);
    }
    tree
}

fn row(stacks: &Stacks, sampled: Sampled) -> SeriesRow {
    let start = UnixNanos::new(1_700_000_040_000_000_000);
    let profile = StepProfile {
        step: Window::from_start(start, sampled.length_s * SECOND).unwrap(),
        tenant: "anonymous",
        namespace: "prod",
        service: "logger",
        labels: &LabelSet::default(),
        samples: count(tree(stacks).total()),
        tree: &tree(stacks),
        period_ns: SECOND / sampled.rate_hz,
        observed_ns: sampled.observed_s * SECOND,
        facts: Facts {
            cpu_limit_millicores: sampled.limit_millicores,
            throttled_ns: 15 * SECOND,
            ..Facts::default()
        },
    };
    let catalogue = Catalogue::built_in().unwrap();
    feature::series_row(&profile, &catalogue, &SpinSettings::default())
}

fn judge(stacks: &Stacks, sampled: Sampled) -> Vec<Finding> {
    SpinDetector::default().judge(&row(stacks, sampled))
}

/// The function that each finding blames.
fn blamed(findings: &[Finding]) -> Vec<&str> {
    let mut functions = Vec::new();
    for finding in findings {
        functions.push(finding.identity.last().map_or("", String::as_str));
    }
    functions
}

#[test]
fn measured_programs_are_judged_rightly() {
    // Each program's subject is taken at one core, as it runs undisturbed;
    // the light load measured beside it keeps its share.
    for (name, in_1_19, in_1_26) in [
        ("select2", Some("main.startSink2"), Some("main.startSink2")),
        ("select1", Some("main.startSink1"), Some("main.startSink1")),
        ("sendfull", Some("main.sendSpin"), Some("main.sendSpin")),
        ("time", Some("main.timeSpin"), Some("main.timeSpin")),
        ("timer", Some("main.timerSpin"), Some("main.timerSpin")),
        (
            "trylock",
            Some("main.tryLockSpin"),
            Some("main.tryLockSpin"),
        ),
        ("closed", Some("main.closedSpin"), Some("main.closedSpin")),
        // A loop around `len(channel)` is inlined before Go 1.26.
        ("len", None, Some("main.lenSpin")),
        // The scheduler of 1.26 has more small functions: too many leaves at its
        // root, and too little below any one of them to begin an alert.
        ("gosched", Some("runtime.mcall"), None),
        // Nothing in the names of these shows that it is waste.
        ("atomic", None, None),
        ("mutex", None, None),
        // Work.
        ("pipeline", None, None),
        ("pipebuf", None, None),
        ("sha", None, None),
        ("gzip", None, None),
        ("alloc", None, None),
        ("healthy", None, None),
        ("light", None, None),
    ] {
        for (file, expected) in [(GO_1_19, in_1_19), (GO_1_26, in_1_26)] {
            let stacks = at(1.25, program(file, name), MINUTE);
            let mut found = judge(&stacks, MINUTE);
            found.retain(|finding| finding.level == Level::Enter);
            let expected: Vec<&str> = expected.into_iter().collect();
            assert_eq!(blamed(&found), expected, "{name}: {found:#?}");
        }
    }
}

#[test]
fn a_spin_beside_five_cores_of_work_is_found() {
    for file in [GO_1_19, GO_1_26] {
        let spin = below(program(file, "select2"), "main.startSink2");
        let mut stacks = at(1.0, spin, MINUTE);
        for work in ["sha", "gzip", "alloc", "healthy", "pipebuf"] {
            stacks.extend(at(1.0, program(file, work), MINUTE));
        }
        let found = judge(&stacks, MINUTE);
        assert_eq!(blamed(&found), ["main.startSink2"]);
        let spin = &found[0];
        assert!((spin.cores - 1.0).abs() < 0.01, "{}", spin.cores);
        assert!(spin.wait_share > 0.9 && spin.leaf_eff < 10.0);
        assert!(spin.progress_share.unwrap() < 0.03);
        let path: Vec<&str> = spin.path.iter().map(|f| f.function.as_str()).collect();
        assert_eq!(path, ["main.startSink2", "runtime.selectgo"]);
        assert_eq!(spin.top_leaves[0].0, "runtime.selectgo");
        assert!((spin.throttled_share - 0.25).abs() < 1e-9);
    }
}

#[test]
fn floors_scale_with_rate_time_and_limit() {
    let with = |rate_hz, length_s, observed_s, limit_millicores| Sampled {
        rate_hz,
        length_s,
        observed_s,
        limit_millicores,
    };
    let spin = || below(program(GO_1_26, "select2"), "main.startSink2");
    for (sampled, cores, level) in [
        (with(99, 60, 60, 0), 0.94, Some(Level::Enter)),
        (with(99, 60, 60, 0), 0.51, Some(Level::Enter)),
        (with(99, 60, 60, 0), 0.49, Some(Level::Hold)),
        (with(99, 60, 60, 0), 0.31, Some(Level::Hold)),
        (with(99, 60, 60, 0), 0.29, None),
        (with(19, 60, 60, 0), 0.94, Some(Level::Enter)),
        (with(99, 10, 10, 0), 0.94, Some(Level::Enter)),
        (with(19, 10, 10, 0), 0.94, Some(Level::Enter)),
        // Ten seconds of each minute.
        (with(100, 60, 10, 0), 0.94, Some(Level::Enter)),
        // More than one core changes nothing, half a core halves the floor.
        (with(99, 60, 60, 4000), 0.49, Some(Level::Hold)),
        (with(99, 60, 60, 500), 0.26, Some(Level::Enter)),
        (with(99, 60, 60, 500), 0.16, Some(Level::Hold)),
        (with(99, 60, 60, 500), 0.14, None),
        // Nine samples prove nothing.
        (with(19, 10, 10, 50), 0.047, None),
    ] {
        let found = judge(&at(cores, spin(), sampled), sampled);
        let levels: Vec<Level> = found.iter().map(|finding| finding.level).collect();
        let expected: Vec<Level> = level.into_iter().collect();
        assert_eq!(levels, expected, "{cores} cores at {} Hz", sampled.rate_hz);
    }
}

#[test]
fn a_spin_that_shares_half_a_core_with_work_is_found() {
    let sampled = Sampled {
        limit_millicores: 500,
        ..MINUTE
    };
    let work = || program(GO_1_19, "healthy");
    assert!(judge(&at(0.5, work(), sampled), sampled).is_empty());
    let spin = below(program(GO_1_19, "select2"), "main.startSink2");
    let stacks = [at(0.27, spin, sampled), at(0.23, work(), sampled)].concat();
    assert_eq!(blamed(&judge(&stacks, sampled)), ["main.startSink2"]);
}

/// `main.startSink` in `runtime.selectgo`, called at `line`.
fn sink(line: u32) -> Vec<Frame> {
    vec![
        Frame::named(FrameKind::Go, "main.main").at("main.go", 10),
        Frame::named(FrameKind::Go, "main.startSink").at("sink.go", line),
        Frame::named(FrameKind::Go, "runtime.selectgo").at("select.go", 200 + line),
    ]
}

#[test]
fn lines_of_a_function_are_one_place() {
    let stacks = vec![(sink(26), 2_000), (sink(30), 2_500), (sink(33), 1_500)];
    let found = judge(&stacks, MINUTE);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].identity, ["main.main", "main.startSink"]);
    assert_eq!(found[0].samples, 6_000);
    let path: Vec<(&str, u32)> = found[0]
        .path
        .iter()
        .map(|frame| (frame.file.as_str(), frame.line))
        .collect();
    assert_eq!(path, [("main.go", 10), ("sink.go", 30), ("select.go", 230)]);
}

#[test]
fn two_loops_are_two_findings_and_two_threads_of_one_loop_are_one() {
    let go = |folded| stack(FrameKind::Go, folded);
    let loops = vec![
        (go("main.main;main.first;runtime.selectgo"), 5_000),
        (go("main.main;main.second;runtime.chanrecv"), 4_000),
    ];
    assert_eq!(
        blamed(&judge(&loops, MINUTE)),
        ["main.first", "main.second"]
    );
    let threads = vec![
        (
            go("main.main;main.first;runtime.selectgo;runtime.sellock"),
            5_000,
        ),
        (
            go("main.main;main.first;runtime.selectgo;runtime.selunlock"),
            5_000,
        ),
    ];
    let found = judge(&threads, MINUTE);
    assert_eq!(blamed(&found), ["main.first"]);
    assert!((found[0].cores - 1.68).abs() < 0.01);
}

#[test]
fn one_loop_has_one_identity_whichever_source_and_build_saw_it() {
    use FrameKind::{Go, Native};
    let check = |kind, one: &str, other: &str, identity: &[&str]| {
        for folded in [one, other] {
            let found = judge(&vec![(stack(kind, folded), 5_900)], MINUTE);
            assert_eq!(found.len(), 1, "{folded}");
            assert_eq!(found[0].identity, identity, "{folded}");
        }
    };
    check(
        Go,
        "runtime.goexit.abi0;main.startSink;runtime.selectgo",
        "main.startSink;runtime.selectgo;runtime.sellock;runtime.lock2",
        &["main.startSink"],
    );
    check(
        Native,
        "_start;main;std::rt::lang_start;app::poll::h0123456789abcdef;std::thread::yield_now;sched_yield",
        "_start;main;app::poll::hfedcba9876543210;sched_yield@@GLIBC_2.2.5",
        &["main", "app::poll"],
    );
}

#[test]
fn native_loops_are_judged_by_what_they_call() {
    let native = |folded: &str| stack(FrameKind::Native, folded);
    let kernel = |folded: &str, inside: &str| {
        let inside = inside
            .split(';')
            .map(|f| Frame::named(FrameKind::Kernel, f));
        native(folded).into_iter().chain(inside).collect::<Vec<_>>()
    };
    let try_recv = "start_thread;app::drain;std::sync::mpsc::Receiver<T>::try_recv";
    for (name, stacks, expected) in [
        (
            "sched_yield, most of it in the kernel",
            (0..40)
                .map(|n| (kernel("main;spin;sched_yield", &format!("entry;f{n}")), 150))
                .collect(),
            Some("spin"),
        ),
        (
            "epoll_wait without a timeout",
            vec![(native("main;serve;epoll_wait;__syscall_cancel_arch"), 5_900)],
            Some("serve"),
        ),
        (
            "read and write, through the same door",
            vec![
                (native("main;copy;read;__syscall_cancel_arch"), 3_000),
                (native("main;copy;write;__syscall_cancel_arch"), 3_000),
            ],
            None,
        ),
        (
            "try_recv of an empty channel",
            vec![(native(try_recv), 5_900)],
            Some("app::drain"),
        ),
        (
            "try_recv of a channel that gives",
            vec![
                (native(try_recv), 5_000),
                (native(&format!("{try_recv};core::ptr::read")), 900),
            ],
            None,
        ),
        (
            "a clock that is asked again and again",
            vec![(
                native("main;until;clock_gettime;__vdso_clock_gettime"),
                5_900,
            )],
            Some("until"),
        ),
        ("arithmetic", vec![(native("main;hash"), 5_900)], None),
    ] {
        let found = judge(&stacks, MINUTE);
        let expected: Vec<&str> = expected.into_iter().collect();
        assert_eq!(blamed(&found), expected, "{name}");
    }
}

#[test]
fn a_scheduler_is_blamed_when_no_frame_belongs_to_the_program() {
    let go = |folded| stack(FrameKind::Go, folded);
    let gosched = "runtime.mcall;runtime.gosched_m;runtime.goschedImpl;runtime.schedule";
    assert_eq!(
        blamed(&judge(&vec![(go(gosched), 5_000)], MINUTE)),
        ["runtime.mcall"]
    );
    // Goroutines that go to sleep and wake up are no spin.
    let parked = "runtime.mcall;runtime.park_m;runtime.schedule;runtime.findRunnable";
    assert!(judge(&vec![(go(parked), 5_000)], MINUTE).is_empty());
}

#[test]
fn impossible_input_is_no_finding_and_no_panic() {
    let spin = vec![(sink(1), 5_900)];
    assert!(judge(&Vec::new(), MINUTE).is_empty());
    assert!(judge(&vec![(sink(1), -5_900)], MINUTE).is_empty());
    let most = vec![(sink(1), i128::MAX), (sink(2), i128::MAX)];
    assert_eq!(judge(&most, MINUTE).len(), 1);
    let labels = LabelSet::default();
    for (period_ns, observed_ns) in [(0, 0), (0, SECOND), (u64::MAX, u64::MAX)] {
        let profile = StepProfile {
            step: Window::from_start(UnixNanos::new(0), SECOND).unwrap(),
            tenant: "",
            namespace: "",
            service: "",
            labels: &labels,
            samples: count(tree(&spin).total()),
            tree: &tree(&spin),
            period_ns,
            observed_ns,
            facts: Facts::default(),
        };
        let catalogue = Catalogue::built_in().unwrap();
        let row = feature::series_row(&profile, &catalogue, &SpinSettings::default());
        assert!(row.cores.is_finite());
    }
}

#[test]
fn a_very_deep_stack_is_cut_in_the_middle() {
    let mut deep = vec![Frame::named(FrameKind::Go, "main.main")];
    deep.resize(20_000, Frame::named(FrameKind::Go, "main.again"));
    deep.push(Frame::named(FrameKind::Go, "runtime.selectgo"));
    let found = judge(&vec![(deep, 5_900)], MINUTE);
    let path = &found[0].path;
    assert_eq!(path.len(), MAX_PATH);
    assert_eq!(path[0].function, "main.main");
    assert_eq!(path[MAX_PATH - 1].function, "runtime.selectgo");
}

proptest! {
    #[test]
    fn findings_share_no_sample(
        stacks in prop::collection::vec((prop::collection::vec(0_usize..8, 1..7), 0_i128..3_000), 0..40)
    ) {
        const FUNCTIONS: [&str; 8] = [
            "main.a", "main.b", "main.c", "runtime.selectgo",
            "runtime.sellock", "runtime.send", "runtime.mcall", "runtime.asyncPreempt",
        ];
        let stacks: Stacks = stacks
            .into_iter()
            .map(|(stack, samples)| {
                let frame = |function| Frame::named(FrameKind::Go, FUNCTIONS[function]);
                (stack.into_iter().map(frame).collect(), samples)
            })
            .collect();
        let row = row(&stacks, MINUTE);
        let held: u64 = row.candidates.iter().map(|candidate| candidate.samples).sum();
        prop_assert!(held <= row.samples);
        prop_assert!(row.candidates.len() <= MAX_CANDIDATES);
        for candidate in &row.candidates {
            prop_assert!(!candidate.identity.is_empty() && !candidate.path.is_empty());
            prop_assert!((0.6..=1.0).contains(&candidate.wait_share));
        }
        // The order in which stacks arrive changes nothing that is judged.
        let mut reversed = stacks;
        reversed.reverse();
        let again = SpinDetector::default().judge(&self::row(&reversed, MINUTE));
        let sum = |found: &[Finding]| found.iter().map(|f| f.samples).sum::<u64>();
        prop_assert_eq!(sum(&again), sum(&SpinDetector::default().judge(&row)));
    }
}
