//! Native sampling of real programs, built here by their compilers.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent::source::Collected;
use agent::source::perf::{PerfError, PerfOptions, PerfSampler, probe};
use proto::profile::Column;
use proto::stack::{Frame, FrameKind, Stack};
use proto::value_type::{ProfileType, Temporality};
use proto::window::{UnixNanos, Window};

/// Longest wait for samples on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that is stopped at the end of its test.
struct Target(Child);

impl Target {
    fn start(program: &Path) -> Self {
        let child = Command::new(program)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("start the program");
        Self(child)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Programs of one test.
struct Workshop(tempfile::TempDir);

impl Workshop {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Compiles `source` of `tests/programs` to a program called `name`.
    fn build(&self, name: &str, compiler: &str, arguments: &[&str], source: &str) -> PathBuf {
        let output = self.0.path().join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/programs")
            .join(source);
        let result = Command::new(compiler)
            .args(arguments)
            .arg("-o")
            .arg(&output)
            .arg(&source)
            .env("GOCACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/go-cache"))
            .env("GOFLAGS", "")
            .env_remove("RUSTFLAGS")
            .output()
            .unwrap_or_else(|error| {
                panic!(
                    "{compiler}: {error}; type: apt-get install -y g++ gcc golang-go (rustc comes \
                     with this repository's tool chain)"
                )
            });
        assert!(
            result.status.success(),
            "{compiler}: {}",
            String::from_utf8_lossy(&result.stderr)
        );
        output
    }
}

fn open(pids: &[i32]) -> PerfSampler {
    PerfSampler::open(pids, PerfOptions::default()).unwrap_or_else(|error| {
        panic!("{error}: these tests need perf events of the same user's processes")
    })
}

fn window() -> Window {
    Window::from_start(UnixNanos::new(0), 10_000_000_000).unwrap()
}

/// Samples until there are at least `wanted`.
fn sample(sampler: &mut PerfSampler, wanted: u64) -> Collected {
    let deadline = Instant::now() + PATIENCE;
    let mut all = sampler.collect(window());
    while all.samples_count < wanted {
        assert!(
            Instant::now() < deadline,
            "only {} of {wanted} samples in {PATIENCE:?}",
            all.samples_count
        );
        sampler.poll(Duration::from_millis(500)).unwrap();
        let more = sampler.collect(window());
        all.samples_count += more.samples_count;
        all.lost_samples += more.lost_samples;
        all.groups.extend(more.groups);
    }
    all
}

/// Every stack with its count.
fn counted(collected: &Collected) -> Vec<(&Stack, i64)> {
    collected
        .groups
        .iter()
        .flat_map(|group| {
            group
                .stacks
                .iter()
                .zip(group.columns[0].values.iter().copied())
        })
        .collect()
}

fn share(collected: &Collected, holds: impl Fn(&Stack) -> bool) -> f64 {
    let stacks = counted(collected);
    let total: i64 = stacks.iter().map(|(_, count)| count).sum();
    let held: i64 = stacks
        .iter()
        .filter(|(stack, _)| holds(stack))
        .map(|(_, count)| count)
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "a few thousand samples")]
    let share = held as f64 / total.max(1) as f64;
    share
}

fn has(stack: &Stack, name: &str) -> bool {
    stack.iter().any(|frame| frame.function.contains(name))
}

fn root(stack: &Stack) -> &Frame {
    stack.last().expect("a stack has a frame")
}

fn folded(collected: &Collected) -> String {
    let mut text = String::new();
    for (stack, count) in counted(collected) {
        let names: Vec<_> = stack.iter().rev().map(|frame| &*frame.function).collect();
        text.push_str(&format!("{} {count}\n", names.join(";")));
    }
    text
}

/// Where programs and threads begin.
const BEGINNINGS: [&str; 8] = [
    "__clone",
    "__clone3",
    "__libc_start_call_main",
    "__libc_start_main",
    "_start",
    "clone",
    "clone3",
    "start_thread",
];

/// Whether a native stack reaches `main` or the start of its thread, and ends
/// where programs and threads begin.
fn is_complete(stack: &Stack) -> bool {
    let begins = |name: &str| {
        let name = name.split('@').next().unwrap_or(name);
        BEGINNINGS.contains(&name)
    };
    stack
        .iter()
        .any(|frame| &*frame.function == "main" || begins(&frame.function))
        && begins(&root(stack).function)
}

/// The function of the file `source` that ran most often, itself or in what it
/// called of other files.
fn hottest(collected: &Collected, source: &str) -> Frame {
    let mut counts: BTreeMap<&str, (i64, &Frame)> = BTreeMap::new();
    for (stack, count) in counted(collected) {
        if let Some(own) = stack.iter().find(|frame| frame.file.ends_with(source)) {
            counts.entry(&own.function).or_insert((0, own)).0 += count;
        }
    }
    let most = counts.into_values().max_by_key(|(count, _)| *count);
    most.expect("there are samples").1.clone()
}

fn check_complete(program: &Path, source: &str, expected: &[&str]) {
    let target = Target::start(program);
    let mut sampler = open(&[target.pid()]);
    let collected = sample(&mut sampler, 300);
    let complete = share(&collected, is_complete);
    assert!(complete >= 0.99, "{complete}\n{}", folded(&collected));
    for name in expected {
        let found = share(&collected, |stack| has(stack, name));
        assert!(found > 0.0, "no {name} in\n{}", folded(&collected));
    }
    let hottest = hottest(&collected, source);
    assert!(hottest.function.contains(expected[0]), "{hottest:?}");
    assert!(hottest.line > 0, "{hottest:?}");
}

#[test]
fn cpp_without_frame_pointers_is_unwound_to_its_beginning() {
    let workshop = Workshop::new();
    let arguments = ["-O2", "-g", "-fomit-frame-pointer", "-pthread"];
    let program = workshop.build("deep", "g++", &arguments, "deep.cpp");
    let expected = [
        "leaf",
        "recurse(unsigned int)",
        "compare",
        "sort_with_c",
        "sort_copies",
        "memcpy",
        "fill_map",
    ];
    check_complete(&program, "deep.cpp", &expected);
}

#[test]
fn rust_without_frame_pointers_is_unwound_to_its_beginning() {
    let workshop = Workshop::new();
    let arguments = ["-O", "-C", "debuginfo=1", "--edition=2021"];
    let program = workshop.build("plain", "rustc", &arguments, "plain.rs");
    check_complete(
        &program,
        "plain.rs",
        &["plain::crunch", "plain::sort_words", "plain::descend"],
    );

    // Frames have lines, inlined calls stand before their callers.
    let target = Target::start(&program);
    let mut sampler = open(&[target.pid()]);
    let collected = sample(&mut sampler, 200);
    let crunch = counted(&collected)
        .into_iter()
        .find(|(stack, _)| has(stack, "plain::crunch"))
        .expect("a stack in crunch")
        .0;
    let place = crunch
        .iter()
        .find(|frame| &*frame.function == "plain::crunch")
        .unwrap();
    assert!(place.file.ends_with("plain.rs"), "{place}");
    assert!((7..=9).contains(&place.line), "{place}");
    let caller = crunch
        .iter()
        .find(|frame| &*frame.function == "plain::descend")
        .unwrap();
    assert!(
        (12..=13).contains(&caller.line),
        "the line of the call: {caller}"
    );
}

#[test]
fn the_column_counts_samples_of_the_period() {
    let workshop = Workshop::new();
    let program = workshop.build("deep", "g++", &["-O2", "-pthread"], "deep.cpp");
    let target = Target::start(&program);
    let mut sampler = open(&[target.pid()]);
    assert!(sampler.has_targets());
    sampler.poll(Duration::from_secs(5)).unwrap();
    let first = sampler.collect(window());
    assert!(
        first.observed_ns > 0,
        "sampling began within the first window"
    );
    let collected = sample(&mut sampler, 50);
    assert_eq!(collected.observed_ns, 0);
    let period = 1_000_000_000_i64 / 99;
    for group in &collected.groups {
        let [column] = &group.columns[..] else {
            panic!("one column");
        };
        let Column {
            profile_type,
            temporality,
            period: got,
            weight,
            values,
        } = column;
        assert_eq!(profile_type, &ProfileType::cpu());
        assert_eq!(*temporality, Temporality::Delta);
        assert_eq!((*got, *weight), (period, period.unsigned_abs()));
        assert_eq!(values.len(), group.stacks.len());
        assert!(values.iter().all(|count| *count > 0));
    }
    let total: i64 = counted(&collected).iter().map(|(_, count)| count).sum();
    assert_eq!(total.unsigned_abs(), collected.samples_count);
}

#[test]
fn stripped_go_has_functions_files_and_lines() {
    let workshop = Workshop::new();
    let arguments = ["build", "-trimpath", "-ldflags=-s -w"];
    let program = workshop.build("spin", "go", &arguments, "spin.go");
    let target = Target::start(&program);
    let mut sampler = open(&[target.pid()]);
    let collected = sample(&mut sampler, 150);
    let spins = share(&collected, |stack| {
        let names: Vec<&str> = stack.iter().map(|frame| &*frame.function).collect();
        let sink = names.iter().position(|name| *name == "main.startSink");
        let select = names.iter().position(|name| *name == "runtime.selectgo");
        matches!((select, sink), (Some(select), Some(sink)) if select < sink)
    });
    assert!(spins > 0.5, "{spins}\n{}", folded(&collected));
    let complete = share(&collected, |stack| root(stack).kind == FrameKind::Go);
    assert!(complete >= 0.97, "{complete}\n{}", folded(&collected));
    for (stack, _) in counted(&collected) {
        for frame in stack
            .iter()
            .filter(|frame| &*frame.function == "main.startSink")
        {
            assert!(frame.file.ends_with("spin.go"), "{frame}");
            assert!((5..=12).contains(&frame.line), "{frame}");
            assert_eq!(frame.kind, FrameKind::Go);
        }
        for frame in stack
            .iter()
            .filter(|frame| &*frame.function == "runtime.selectgo")
        {
            assert!(frame.file.ends_with("runtime/select.go"), "{frame}");
            assert!(frame.line > 0, "{frame}");
        }
    }
}

#[test]
fn code_without_symbols_is_named_by_module_offset_and_build_id() {
    let workshop = Workshop::new();
    let arguments = ["-O2", "-s", "-Wl,--build-id=sha1", "-pthread"];
    let program = workshop.build("bare", "g++", &arguments, "deep.cpp");
    let target = Target::start(&program);
    let mut sampler = open(&[target.pid()]);
    let collected = sample(&mut sampler, 100);
    let (lost, taken) = (collected.lost_samples, collected.samples_count);
    assert!(lost * 10 <= taken, "{lost} lost, {taken} taken");
    let bare: Vec<_> = counted(&collected)
        .into_iter()
        .flat_map(|(stack, _)| stack.iter())
        .filter(|frame| frame.kind == FrameKind::Unsymbolized)
        .filter(|frame| frame.function.starts_with("bare+0x"))
        .collect();
    assert!(!bare.is_empty(), "{}", folded(&collected));
    for frame in bare {
        assert_eq!(frame.build_id.len(), 40, "{frame:?}");
        assert_eq!(*frame.function, format!("bare+{:#x}", frame.file_offset));
    }
    let whole = share(&collected, |stack| root(stack).kind != FrameKind::Synthetic);
    assert!(whole >= 0.99, "{whole}");
}

#[test]
fn short_threads_are_followed_from_their_beginning() {
    let workshop = Workshop::new();
    let program = workshop.build("churn", "g++", &["-O1", "-pthread"], "churn.cpp");
    let target = Target::start(&program);
    let mut sampler = open(&[target.pid()]);
    let collected = sample(&mut sampler, 150);
    let followed = share(&collected, |stack| has(stack, "short_work"));
    assert!(followed >= 0.9, "{followed}\n{}", folded(&collected));
}

#[test]
fn a_child_is_followed_counted_once_and_outlives_its_parent() {
    let workshop = Workshop::new();
    let program = workshop.build("family", "cc", &["-O1"], "family.c");
    let mut child = Command::new(&program)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let mut parent = Target(child);
    let mut sampler = open(&[parent.pid()]);
    let signalled = Command::new("kill")
        .args(["-USR1", &parent.pid().to_string()])
        .status()
        .unwrap();
    assert!(signalled.success());
    let collected = sample(&mut sampler, 60);
    assert!(share(&collected, |stack| has(stack, "child_work")) > 0.9);

    // Announced as a target of its own, it is not counted twice.
    let children = format!("/proc/{0}/task/{0}/children", parent.pid());
    let pid: i32 = std::fs::read_to_string(children)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let _grandchild = Stopper(pid);
    sampler.add_process(pid).unwrap();
    let per_cpu_second = rate(&mut sampler, pid);
    assert!((50.0..130.0).contains(&per_cpu_second), "{per_cpu_second}");

    // Without its parent it goes on, still once.
    parent.kill();
    sampler.remove_process(parent.pid());
    assert!(sampler.has_targets());
    let per_cpu_second = rate(&mut sampler, pid);
    assert!((50.0..130.0).contains(&per_cpu_second), "{per_cpu_second}");
}

/// Stops a process that is not our child.
struct Stopper(i32);

impl Drop for Stopper {
    fn drop(&mut self) {
        drop(
            Command::new("kill")
                .args(["-KILL", &self.0.to_string()])
                .status(),
        );
    }
}

#[test]
fn time_within_system_calls_counts_for_their_caller() {
    let workshop = Workshop::new();
    let program = workshop.build("calls", "cc", &["-O1"], "calls.c");
    let target = Target::start(&program);
    let mut sampler = open(&[target.pid()]);
    if !may_sample_the_kernel() {
        sample(&mut sampler, 1);
        return;
    }
    let per_cpu_second = rate(&mut sampler, target.pid());
    assert!((50.0..130.0).contains(&per_cpu_second), "{per_cpu_second}");
    let collected = sample(&mut sampler, 50);
    let called = share(&collected, |stack| has(stack, "read_zeros"));
    assert!(called > 0.95, "{called}\n{}", folded(&collected));
}

/// Whether the kernel lets this process sample it: by its setting, or by one
/// of the capabilities PERFMON and SYS_ADMIN.
fn may_sample_the_kernel() -> bool {
    let paranoid = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .unwrap();
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
    paranoid.trim().parse::<i32>().unwrap() <= 1 || effective & (1 << 38 | 1 << 21) != 0
}

/// Samples per second of CPU time of process `pid`.
fn rate(sampler: &mut PerfSampler, pid: i32) -> f64 {
    sampler.collect(window());
    let before = cpu_seconds(pid);
    let collected = sample(sampler, 100);
    #[expect(clippy::cast_precision_loss, reason = "a few hundred samples")]
    let samples = collected.samples_count as f64;
    samples / (cpu_seconds(pid) - before)
}

fn cpu_seconds(pid: i32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    let nanos: f64 = text.split_whitespace().next().unwrap().parse().unwrap();
    nanos / 1e9
}

#[test]
fn what_ended_before_the_window_still_has_names() {
    let workshop = Workshop::new();
    let program = workshop.build("ends", "cc", &["-O1", "-g"], "ends.c");
    let mut target = Target::start(&program);
    let mut sampler = open(&[target.pid()]);
    target.0.wait().unwrap();
    let collected = sampler.collect(window());
    assert!(collected.samples_count > 5, "{}", collected.samples_count);
    let named = share(&collected, |stack| has(stack, "last_work"));
    assert!(named > 0.9, "{named}\n{}", folded(&collected));
    assert!(!sampler.has_targets());
}

#[test]
fn waiting_for_a_dead_target_costs_nothing() {
    let workshop = Workshop::new();
    let program = workshop.build("deep", "g++", &["-O2", "-pthread"], "deep.cpp");
    let mut target = Target::start(&program);
    let mut sampler = open(&[target.pid()]);
    sample(&mut sampler, 10);
    target.kill();
    assert!(!sampler.has_targets());
    check_waits(&mut sampler);
    sampler.remove_process(target.pid());
    check_waits(&mut sampler);
}

/// Waits for one second, of which our thread may run a tenth.
fn check_waits(sampler: &mut PerfSampler) {
    // What was in the rings at its end is taken in first.
    sampler.poll(Duration::from_millis(10)).unwrap();
    let cpu_before = own_cpu();
    let before = Instant::now();
    let deadline = before + Duration::from_secs(1);
    let mut calls = 0;
    while Instant::now() < deadline {
        sampler.poll(Duration::from_millis(250)).unwrap();
        calls += 1;
    }
    let busy = (own_cpu() - cpu_before) / before.elapsed().as_secs_f64();
    assert!(busy < 0.1, "{busy} of the time");
    assert!(calls <= 8, "{calls} calls returned early");
}

/// CPU time of this thread in seconds.
fn own_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanos: f64 = text.split_whitespace().next().unwrap().parse().unwrap();
    nanos / 1e9
}

#[test]
fn several_samplers_share_the_locked_memory_of_their_user() {
    let workshop = Workshop::new();
    let program = workshop.build("deep", "g++", &["-O2", "-pthread"], "deep.cpp");
    let target = Target::start(&program);
    let mut samplers: Vec<PerfSampler> = (0..3).map(|_| open(&[target.pid()])).collect();
    for sampler in &mut samplers {
        let collected = sample(sampler, 50);
        let complete = share(&collected, |stack| root(stack).kind != FrameKind::Synthetic);
        assert!(complete >= 0.95, "{complete}\n{}", folded(&collected));
    }
}

#[test]
fn a_process_that_is_gone_is_told_apart() {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    child.wait().unwrap();
    assert!(matches!(
        probe(pid),
        Err(PerfError::TargetGone { pid: gone }) if gone == pid
    ));
    assert!(matches!(
        PerfSampler::open(&[pid], PerfOptions::default()),
        Err(PerfError::TargetGone { .. })
    ));
}
