//! What `/proc` tells of real programs, to anyone.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use agent::source::perf::PerfOptions;
use agent::source::proc::{OTHER, ThreadCpu, ThreadCpuOptions, Told, WallOptions, WallSampler};
use agent::source::python::PythonOptions;
use agent::source::route::{Allowed, Claims, RouteOptions, Router};
use agent::source::{Collected, CpuSampler};
use agent::spool::Spool;
use prost::Message;
use proto::codec::unzstd;
use proto::dictionary::Decoder;
use proto::limits::MAX_BODY_BYTES;
use proto::pb::tepui::BatchBody;
use proto::pprof::Pprof;
use proto::stack::{FrameKind, Stack};
use proto::value_type::ProfileType;
use proto::window::{UnixNanos, Window};

/// Longest wait for CPU time on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// A user without rights.
const NOBODY: u32 = 65534;
/// Looks so often and so costly that a test has enough of them soon.
const EAGER: WallOptions = WallOptions {
    looks_hz: 100,
    max_threads: 100,
    max_cost_permille: 1000,
};

/// Programs of one test, which every user may run.
struct Workshop(tempfile::TempDir);

impl Workshop {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let readable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), readable).unwrap();
        Self(folder)
    }

    fn threads(&self) -> PathBuf {
        let program = self.0.path().join("threads");
        if !program.exists() {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/threads.c");
            let built = Command::new("cc")
                .args(["-O1", "-pthread", "-o"])
                .arg(&program)
                .arg(source)
                .status()
                .expect("type: apt-get install -y gcc");
            assert!(built.success());
        }
        program
    }

    fn start(&self, arguments: &[&str]) -> Target {
        Target::start(Command::new(self.threads()).args(arguments))
    }

    /// A copy of the agent, run without any right.
    fn powerless_agent(&self) -> Command {
        let program = self.0.path().join("agent");
        if !program.exists() {
            std::fs::copy(env!("CARGO_BIN_EXE_agent"), &program).unwrap();
        }
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .args(["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"])
            .arg(program)
            .stdin(Stdio::null());
        command
    }
}

/// A program that is stopped at the end of its test.
struct Target(Child, BufReader<ChildStdout>);

impl Target {
    /// Starts `command` and waits until it says that it is ready.
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        let mut target = Self(child, BufReader::new(stdout));
        target.1.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{command:?}");
        target
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// CPU time by the kernel's accounting of the whole process, in seconds.
    fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        ticks / 100.0
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn window() -> Window {
    Window::from_start(UnixNanos::new(0), 10_000_000_000).unwrap()
}

const ONLY_PROC: Allowed = Allowed {
    python: false,
    jvm: false,
    perf: false,
    proc: true,
};

fn router(pid: i32, claims: Claims) -> Router {
    let options = RouteOptions {
        allowed: ONLY_PROC,
        perf: PerfOptions::default(),
        python: PythonOptions::default(),
        proc: ThreadCpuOptions::default(),
    };
    Router::open(&[pid], options, claims).unwrap()
}

/// Names of a stack, root first.
fn folded(stack: &Stack) -> String {
    let names: Vec<&str> = stack.iter().rev().map(|frame| &*frame.function).collect();
    names.join(";")
}

/// Seconds by stack.
#[derive(Debug, Default)]
struct Seen(BTreeMap<String, f64>);

impl Seen {
    #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
    fn add(&mut self, collected: &Collected) {
        for group in &collected.groups {
            let [column] = &group.columns[..] else {
                panic!("one column");
            };
            let mut before = i64::MAX;
            for (stack, value) in group.stacks.iter().zip(&column.values) {
                assert!(*value <= before, "the hottest is first");
                before = *value;
                let seconds = (value * i64::try_from(column.weight).unwrap()) as f64 / 1e9;
                *self.0.entry(folded(stack)).or_default() += seconds;
            }
        }
    }

    fn total(&self) -> f64 {
        self.0.values().sum()
    }

    fn of(&self, part: &str) -> f64 {
        let held = self.0.iter().filter(|(stack, _)| stack.contains(part));
        held.map(|(_, seconds)| seconds).sum()
    }

    fn share(&self, part: &str) -> f64 {
        self.of(part) / self.total().max(f64::MIN_POSITIVE)
    }
}

/// What was seen while a target used CPU, and how much that was at least and
/// at most: the test may be held up between any two calls.
struct Accounted {
    seen: Seen,
    least: f64,
    most: f64,
}

impl Accounted {
    /// The kernel's sum is in hundredths of a second, ours in 99ths.
    fn assert_total(&self) {
        let total = self.seen.total();
        let range = self.least - 0.03..=self.most + 0.03;
        assert!(range.contains(&total), "{total} of {range:?}");
    }
}

/// Polls until `target` has used so much CPU time more.
fn account(sampler: &mut dyn CpuSampler, target: &Target, seconds: f64) -> Accounted {
    let deadline = Instant::now() + PATIENCE;
    let before_start = target.cpu_seconds();
    drop(sampler.collect(window()));
    let after_start = target.cpu_seconds();
    while target.cpu_seconds() < after_start + seconds {
        assert!(Instant::now() < deadline, "too little CPU in {PATIENCE:?}");
        sampler.poll(Duration::from_millis(250)).unwrap();
    }
    let before_end = target.cpu_seconds();
    let collected = sampler.collect(window());
    let after_end = target.cpu_seconds();
    let mut seen = Seen::default();
    seen.add(&collected);
    Accounted {
        seen,
        least: before_end - after_start,
        most: after_end - before_start,
    }
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.contains("Uid:\t0\t0\t0\t0")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn agent() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
    command.stdin(Stdio::null());
    command
}

/// Lets `agent` record process `pid`; returns what it said and the profile.
fn record(agent: &mut Command, pid: i32, file: &Path, more: &[&str]) -> (String, Pprof) {
    let output = agent
        .args(["record", "--duration", "4s", "--pid", &pid.to_string()])
        .args(["--endpoint", "off"])
        .args(more)
        .arg("-o")
        .arg(file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let bytes = std::fs::read(file).unwrap();
    let profile = Pprof::parse(&bytes, FrameKind::Synthetic).unwrap();
    (text(&output), profile)
}

fn seen_in(profile: &Pprof) -> Seen {
    let mut seen = Seen::default();
    let mut before = i64::MAX;
    for sample in &profile.samples {
        let ns = sample.values[1];
        assert!(ns <= before, "the hottest is first");
        before = ns;
        #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
        let seconds = ns as f64 / 1e9;
        *seen.0.entry(folded(&sample.stack)).or_default() += seconds;
    }
    seen
}

fn assert_shares(seen: &Seen) {
    for (kind, expected) in [("hot-N", 0.7), ("cold-N", 0.3)] {
        let share = seen.share(&format!("threads;{kind}"));
        assert!((share - expected).abs() <= 0.03, "{kind} {share} {seen:?}");
    }
    for waiting in ["sleeper-N", "reader", "poller"] {
        assert!(seen.share(waiting) <= 0.005, "{waiting} {seen:?}");
    }
}

#[test]
fn kinds_of_threads_have_their_share_of_the_cpu_time() {
    let workshop = Workshop::new();
    let target = workshop.start(&["steady"]);
    let mut router = router(target.pid(), Claims::default());
    assert_eq!(router.source(), "proc");
    assert!(router.has_targets() && router.misses_some());
    let accounted = account(&mut router, &target, 3.0);
    accounted.assert_total();
    let seen = &accounted.seen;
    assert_shares(seen);
    assert!(seen.share(OTHER) <= 0.005, "{seen:?}");
}

#[test]
fn threads_that_come_and_go_make_up_the_process_s_total() {
    let workshop = Workshop::new();
    let target = workshop.start(&["churn"]);
    let mut router = router(target.pid(), Claims::default());
    let accounted = account(&mut router, &target, 2.0);
    accounted.assert_total();
    let seen = &accounted.seen;
    assert!(seen.share(OTHER) >= 0.5, "{seen:?}");
}

#[test]
fn what_the_endpoint_gives_is_left_to_it() {
    let workshop = Workshop::new();
    let target = workshop.start(&["steady"]);
    let claims = Claims::default();
    let mut router = router(target.pid(), claims.clone());
    assert!(!router.leaves_all());
    claims.claim_for_endpoint();
    assert!(router.leaves_all() && router.misses_some());
    let accounted = account(&mut router, &target, 0.2);
    assert_eq!(accounted.seen.total(), 0.0, "{:?}", accounted.seen);
    claims.give_up_for_endpoint();
    account(&mut router, &target, 0.5).assert_total();
}

#[test]
fn a_program_that_ends_leaves_what_it_used() {
    let workshop = Workshop::new();
    let mut target = workshop.start(&["steady"]);
    let mut router = router(target.pid(), Claims::default());
    let before = target.cpu_seconds();
    while target.cpu_seconds() < before + 0.3 {
        router.poll(Duration::from_millis(10)).unwrap();
    }
    router.poll(Duration::from_millis(1100)).unwrap();
    target.0.kill().unwrap();
    target.0.wait().unwrap();
    router.poll(Duration::from_millis(10)).unwrap();
    assert!(!router.has_targets());
    router.remove_process(target.pid());
    let mut seen = Seen::default();
    seen.add(&router.collect(window()));
    assert!(seen.total() >= 0.25, "{seen:?}");
}

#[test]
fn an_agent_without_rights_still_knows_the_threads() {
    if !is_root() {
        return;
    }
    let workshop = Workshop::new();
    let target = workshop.start(&["steady"]);
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let file = folder.path().join("cpu.pb.gz");
    let (log, profile) = record(&mut workshop.powerless_agent(), target.pid(), &file, &[]);
    assert!(log.contains("source=\"proc\""), "{log}");
    assert_eq!(log.matches("no functions").count(), 1, "{log}");
    assert_shares(&seen_in(&profile));

    let (_, profile) = record(
        &mut workshop.powerless_agent(),
        target.pid(),
        &file,
        &["--wall"],
    );
    let seen = seen_in(&profile);
    let sleeping = seen.of("threads;sleeper-N;[sleeping]");
    assert!(sleeping >= 0.95 * seen.of("sleeper-N"), "{seen:?}");
    assert!(seen.share("nanosleep") == 0.0, "{seen:?}");
}

#[test]
fn the_doctor_says_what_is_known_and_what_is_not() {
    if !is_root() {
        return;
    }
    let workshop = Workshop::new();
    let doctor = |pid: i32| {
        let output = workshop
            .powerless_agent()
            .args(["doctor", "--format", "json", "--pid", &pid.to_string()])
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap().clone();
        let named = |name: &str| checks.iter().find(|check| check["name"] == name).cloned();
        ["thread_cpu", "wall_states", "wall_syscalls"].map(|name| named(name).unwrap())
    };
    let foreign = workshop.start(&["steady"]);
    let [cpu, states, syscalls] = doctor(foreign.pid());
    for check in [&cpu, &states] {
        assert_eq!(check["available"], true, "{check}");
    }
    assert_eq!(syscalls["available"], false, "{syscalls}");
    let fix = syscalls["fix"].as_str().unwrap();
    assert!(fix.contains("runAsUser: 0"), "{syscalls}");
    let own = Target::start(
        Command::new(workshop.threads())
            .arg("steady")
            .uid(NOBODY)
            .gid(NOBODY),
    );
    for check in doctor(own.pid()) {
        assert_eq!(check["available"], true, "{check}");
    }
}

/// Looks at `target` for `seconds`.
fn look(sampler: &mut WallSampler, target: &Target, seconds: f64) -> (Seen, f64) {
    sampler.add_process(target.pid()).unwrap();
    let begun = Instant::now();
    while begun.elapsed().as_secs_f64() < seconds {
        sampler.poll(Duration::from_millis(100)).unwrap();
    }
    let passed = begun.elapsed().as_secs_f64();
    let collected = sampler.collect(window());
    assert!(collected.samples_count > 0);
    let columns = collected.groups.iter().flat_map(|group| &group.columns);
    for column in columns {
        assert_eq!(column.profile_type, ProfileType::wall());
    }
    let mut seen = Seen::default();
    seen.add(&collected);
    (seen, passed)
}

#[test]
fn threads_that_wait_are_seen_waiting_for_all_the_time() {
    let workshop = Workshop::new();
    let target = workshop.start(&["steady"]);
    let mut sampler = WallSampler::new(EAGER);
    let (seen, passed) = look(&mut sampler, &target, 3.0);
    for (stack, threads) in [
        ("threads;sleeper-N;[sleeping];clock_nanosleep", 2.0),
        ("threads;reader;[sleeping];read", 1.0),
        ("threads;poller;[sleeping];p", 1.0),
        ("threads;hot-N", 2.0),
        ("threads;cold-N", 2.0),
        ("threads;", 9.0),
    ] {
        let ratio = seen.of(stack) / (threads * passed);
        assert!((ratio - 1.0).abs() <= 0.05, "{stack} {ratio} {seen:?}");
    }
    // One of the four workers runs at any moment, the others wait for it. On a busy
    // machine the one that is woken waits for a CPU, which counts as running too.
    let running = seen.of("[running]") / passed;
    assert!((0.8..=2.0).contains(&running), "{running} {seen:?}");
    assert!(seen.of("hot-N;[running]") > seen.of("cold-N;[running]"));
    assert!(seen.of("cold-N;[sleeping];futex") > passed, "{seen:?}");
}

#[test]
fn a_part_of_many_threads_stands_for_all_of_them() {
    let workshop = Workshop::new();
    let target = workshop.start(&["many", "600"]);
    let files_before = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut sampler = WallSampler::new(EAGER);
    let (seen, passed) = look(&mut sampler, &target, 3.0);
    // 600, the busy one, and the first one, which sleeps as well.
    let ratio = seen.total() / (602.0 * passed);
    assert!((ratio - 1.0).abs() <= 0.02, "{ratio}");
    let busy = seen.of("threads;busy;[running]") / passed;
    // It is looked at in every seventh look, so in 40 or so.
    assert!((0.5..=1.5).contains(&busy), "{busy}");
    let asleep = seen.of("threads;sleeper-N;[sleeping];clock_nanosleep") / (600.0 * passed);
    assert!((asleep - 1.0).abs() <= 0.03, "{asleep}");

    let mut cpu = ThreadCpu::new(ThreadCpuOptions::default());
    cpu.add_process(target.pid(), "threads").unwrap();
    let files = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(files <= files_before + 2 * 512 + 100, "{files}");
    drop(cpu.collect(window(), Told::Here));
}

/// CPU time of this thread, in seconds.
fn own_cpu_seconds() -> f64 {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let ns: f64 = schedstat.split(' ').next().unwrap().parse().unwrap();
    ns / 1e9
}

/// Permille of a core that looks at a program with so many threads take over
/// `seconds`: the accounting of CPU, and samples of waiting.
fn cost_permille(workshop: &Workshop, threads: &str, seconds: f64) -> (f64, f64) {
    let target = workshop.start(&["many", threads]);
    let mut costs = [0.0; 2];
    let mut wall = WallSampler::new(WallOptions::default());
    wall.add_process(target.pid()).unwrap();
    let mut router = router(target.pid(), Claims::default());
    let samplers: [&mut dyn CpuSampler; 2] = [&mut router, &mut wall];
    for (sampler, cost) in samplers.into_iter().zip(&mut costs) {
        let (begun, before) = (Instant::now(), own_cpu_seconds());
        while begun.elapsed().as_secs_f64() < seconds {
            sampler.poll(Duration::from_millis(250)).unwrap();
        }
        drop(sampler.collect(window()));
        *cost = 1000.0 * (own_cpu_seconds() - before) / begun.elapsed().as_secs_f64();
    }
    let [cpu, wall] = costs;
    (cpu, wall)
}

#[test]
fn looks_at_a_thousand_threads_stay_within_their_share_of_a_core() {
    for threads in ["50", "1000"] {
        let (cpu, wall) = cost_permille(&Workshop::new(), threads, 5.0);
        // At first all threads are opened and named, whatever that costs.
        assert!(
            cpu <= 8.0 && wall <= 12.0,
            "{threads} threads: {cpu} {wall}"
        );
    }
}

#[test]
fn a_recording_of_waiting_opens_as_a_profile_of_its_own_type() {
    let workshop = Workshop::new();
    let target = workshop.start(&["steady"]);
    let file = workshop.0.path().join("wall.pb.gz");
    let (log, profile) = record(&mut agent(), target.pid(), &file, &["--wall"]);
    assert!(log.contains("source=\"proc\""), "{log}");
    let types: Vec<_> = profile
        .sample_types
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(types, ["samples:count", "wall:nanoseconds"]);
    let seen = seen_in(&profile);
    let ratio = seen.total() / (9.0 * 4.0);
    assert!((ratio - 1.0).abs() <= 0.1, "{ratio} {seen:?}");
}

/// Profile types in the spool, each once.
fn spooled_types(folder: &Path) -> BTreeSet<String> {
    let spool = Spool::open(folder, 64 << 20, [7; 16]).unwrap();
    let mut types = BTreeSet::new();
    let mut next = spool.next(None);
    while let Some(batch) = next {
        let bytes = unzstd(&batch.body, MAX_BODY_BYTES).unwrap();
        let body = BatchBody::decode(bytes.as_slice()).unwrap();
        let mut decoder = Decoder::new();
        for window in decoder.apply(body).unwrap() {
            let profile = decoder.profile(window.unwrap()).unwrap();
            let columns = profile.columns().iter();
            types.extend(columns.map(|column| column.profile_type.to_string()));
        }
        next = spool.next(Some(&batch.id));
    }
    types
}

#[test]
fn a_run_ships_cpu_and_what_threads_wait_for_if_told_to() {
    let workshop = Workshop::new();
    let spool = workshop.0.path().join("spool");
    let (cpu, wall) = (
        ProfileType::cpu().to_string(),
        ProfileType::wall().to_string(),
    );
    for (source, expected) in [("off", vec![cpu.clone()]), ("proc", vec![cpu, wall])] {
        // Nothing listens on port 1, so every window stays in the spool.
        let output = agent()
            .args(["run", "--collector", "http://127.0.0.1:1", "--endpoint"])
            .args(["off", "--source", "proc", "--spool"])
            .arg(&spool)
            .args(["--", "/bin/sh", "-c"])
            .arg("i=0; while [ $i -lt 2000000 ]; do i=$((i+1)); done")
            .env("TEPUI__AGENT__WINDOW__LENGTH", "1s")
            .env("TEPUI__AGENT__WALL__SOURCE", source)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let types: Vec<String> = spooled_types(&spool).into_iter().collect();
        assert_eq!(types, expected, "{}", text(&output));
        std::fs::remove_dir_all(&spool).unwrap();
    }
}
