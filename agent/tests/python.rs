//! Sampling of real Python programs.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use agent::source::perf::PerfOptions;
use agent::source::proc::ThreadCpuOptions;
use agent::source::python::{PythonError, PythonOptions, PythonSampler, probe};
use agent::source::route::{Allowed, Claims, RouteOptions, Router};
use agent::source::{Collected, CpuSampler};
use proto::pprof::Pprof;
use proto::stack::{FrameKind, Stack};
use proto::value_type::{ProfileType, Temporality};
use proto::window::{UnixNanos, Window};

/// Longest wait for samples on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(600);
/// A user without rights.
const NOBODY: u32 = 65534;

/// Looks so often and so costly that a test has enough of them soon.
const EAGER: PythonOptions = PythonOptions {
    looks_hz: 250,
    rate_hz: 99,
    max_cost_permille: 1000,
};

/// The interpreter; the one of the system, which every user may run.
fn python() -> &'static str {
    match Path::new("/usr/bin/python3").exists() {
        true => "/usr/bin/python3",
        false => "python3",
    }
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/programs")
        .join(name)
}

fn script(name: &str) -> String {
    // Other users may not get to where this repository is.
    std::fs::read_to_string(program(name)).unwrap()
}

/// A program that is stopped at the end of its test, with what it started. What
/// it says is read by nobody, but must have somewhere to go.
struct Target(Child, BufReader<ChildStdout>);

impl Target {
    /// Starts `command` and waits until it says that it is ready.
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{command:?}: {error}; type: apt-get install -y python3 util-linux gcc")
            });
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        let mut target = Self(child, BufReader::new(stdout));
        target.1.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{command:?}");
        target
    }

    fn python(name: &str) -> Self {
        Self::start(Command::new(python()).arg(program(name)))
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let mut kill = Command::new("kill");
        drop(
            kill.args(["-KILL", "--", &group])
                .stderr(Stdio::null())
                .status(),
        );
        drop(self.0.wait());
    }
}

fn window() -> Window {
    Window::from_start(UnixNanos::new(0), 10_000_000_000).unwrap()
}

/// Samples of several windows, by stack.
#[derive(Default)]
struct Seen {
    stacks: BTreeMap<Stack, i64>,
    lost: u64,
}

impl Seen {
    fn add(&mut self, collected: Collected) {
        self.lost += collected.lost_samples;
        for group in collected.groups {
            for (stack, value) in group.stacks.into_iter().zip(&group.columns[0].values) {
                *self.stacks.entry(stack).or_default() += value;
            }
        }
    }

    fn total(&self) -> i64 {
        self.stacks.values().sum()
    }

    #[expect(clippy::cast_precision_loss, reason = "a few thousand samples")]
    fn share(&self, holds: impl Fn(&Stack) -> bool) -> f64 {
        let held = self.stacks.iter().filter(|(stack, _)| holds(stack));
        let held: i64 = held.map(|(_, value)| value).sum();
        held as f64 / self.total().max(1) as f64
    }

    fn folded(&self) -> String {
        let lines = self.stacks.iter().map(|(stack, value)| {
            let frames: Vec<String> = stack.iter().rev().map(ToString::to_string).collect();
            format!("{} {value}\n", frames.join(";"))
        });
        lines.collect()
    }
}

fn has(stack: &Stack, name: &str) -> bool {
    stack.iter().any(|frame| &*frame.function == name)
}

/// Looks until `wanted` looks were made.
fn look(sampler: &mut PythonSampler, wanted: u64) -> Seen {
    let deadline = Instant::now() + PATIENCE;
    let before = sampler.looks_count();
    while sampler.looks_count() < before + wanted {
        assert!(Instant::now() < deadline, "too few looks in {PATIENCE:?}");
        let until = sampler.next_look();
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        sampler.look(Instant::now());
    }
    let mut seen = Seen::default();
    seen.add(sampler.collect(window()));
    seen
}

/// Polls until there are `wanted` samples.
fn sample(router: &mut Router, wanted: i64) -> Seen {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Seen::default();
    while seen.total() < wanted {
        assert!(
            Instant::now() < deadline,
            "{} of {wanted} samples in {PATIENCE:?}",
            seen.total()
        );
        router.poll(Duration::from_millis(250)).unwrap();
        seen.add(router.collect(window()));
    }
    seen
}

const ALL: Allowed = Allowed {
    python: true,
    jvm: true,
    perf: true,
    proc: true,
};

fn route(pids: &[i32], allowed: Allowed) -> Router {
    let options = RouteOptions {
        allowed,
        perf: PerfOptions::default(),
        python: EAGER,
        proc: ThreadCpuOptions::default(),
    };
    Router::open(pids, options, Claims::default()).unwrap()
}

/// CPU time of a process by the kernel's accounting, in seconds.
fn cpu_seconds(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.contains("Uid:\t0\t0\t0\t0")
}

fn agent() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
    command.stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Records `pid` with the command of the agent and returns what it said and
/// the profile.
fn record(pid: i32, more: &[&str]) -> (String, Pprof) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cpu.pb.gz");
    let output = agent()
        .args(["record", "--duration", "3s", "--pid", &pid.to_string()])
        .args(more)
        .arg("-o")
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let bytes = std::fs::read(&file).unwrap();
    let profile = Pprof::parse(&bytes, FrameKind::Native).unwrap();
    (text(&output), profile)
}

/// Nanoseconds of the samples with a frame of this name, and of all.
fn nanos(profile: &Pprof, name: &str) -> (i64, i64) {
    let of = |holds: &dyn Fn(&Stack) -> bool| {
        let held = profile.samples.iter().filter(|sample| holds(&sample.stack));
        held.map(|sample| sample.values[1]).sum()
    };
    (of(&|stack| has(stack, name)), of(&|_| true))
}

#[test]
fn functions_have_their_share_and_waiting_threads_none() {
    let target = Target::python("shares.py");
    let mut sampler = PythonSampler::new(EAGER);
    sampler.add_process(target.pid()).unwrap();
    let seen = look(&mut sampler, 3000);
    let hot = seen.share(|stack| &*stack[0].function == "hot");
    let cold = seen.share(|stack| &*stack[0].function == "cold");
    assert!((hot - 0.7).abs() <= 0.03, "{hot}\n{}", seen.folded());
    assert!((cold - 0.3).abs() <= 0.03, "{cold}\n{}", seen.folded());
    for waiting in ["sleeper", "locker"] {
        let share = seen.share(|stack| has(stack, waiting));
        assert!(share <= 0.001, "{waiting} {share}\n{}", seen.folded());
    }
    // A look may fall between two calls: the caller goes on while its stack is
    // read, and is seen in the line after.
    let is_whole = |stack: &Stack| {
        let [hot, caller, .., root] = &stack[..] else {
            return false;
        };
        hot.kind == FrameKind::Python
            && hot.file.ends_with("tests/programs/shares.py")
            && (7..=9).contains(&hot.line)
            && (&*caller.function, caller.line) == ("descend", 33)
            && &*root.function == "<module>"
            && stack.len() == 1 + 26 + 1
    };
    let whole = seen.share(|stack| has(stack, "hot") && is_whole(stack));
    assert!(whole >= 0.98 * hot, "{whole} {hot}\n{}", seen.folded());
}

#[test]
fn the_values_are_the_cpu_time_that_the_kernel_accounts_for() {
    let target = Target::python("shares.py");
    let mut sampler = PythonSampler::new(EAGER);
    let before = cpu_seconds(target.pid());
    sampler.add_process(target.pid()).unwrap();
    while cpu_seconds(target.pid()) < before + 2.0 {
        std::thread::sleep(Duration::from_millis(5));
        sampler.look(Instant::now());
    }
    let collected = sampler.collect(window());
    let accounted = cpu_seconds(target.pid()) - before;
    let [group] = &collected.groups[..] else {
        panic!("one group");
    };
    let [column] = &group.columns[..] else {
        panic!("one column");
    };
    let period: i64 = 1_000_000_000 / 99;
    assert_eq!(column.profile_type, ProfileType::cpu());
    assert_eq!(column.temporality, Temporality::Delta);
    assert_eq!(
        (column.period, column.weight),
        (period, period.unsigned_abs())
    );
    let units: i64 = column.values.iter().sum();
    assert_eq!(units.unsigned_abs(), collected.samples_count);
    #[expect(clippy::cast_precision_loss, reason = "a few hundred samples")]
    let seconds = (units * period) as f64 / 1e9;
    let ratio = seconds / accounted;
    assert!((0.95..=1.02).contains(&ratio), "{seconds} of {accounted}");
    assert!(collected.observed_ns > 0, "it began within this window");
    assert_eq!(sampler.collect(window()).observed_ns, 0);
}

#[test]
fn an_idle_program_is_not_looked_into() {
    let target = Target::python("idle.py");
    let mut sampler = PythonSampler::new(PythonOptions::default());
    sampler.add_process(target.pid()).unwrap();
    // It may still be on its way to sleep.
    let mut looks = 0;
    for _ in 0..100 {
        sampler.look(sampler.next_look());
        looks = sampler.looks_count();
    }
    assert!(looks <= 3, "{looks} looks");
    assert!(sampler.has_targets());
}

#[test]
fn forked_workers_are_sampled_with_their_parent() {
    let target = Target::python("workers.py");
    let (log, profile) = record(target.pid(), &[]);
    assert!(log.contains("source=\"python\""), "{log}");
    let (first, all) = nanos(&profile, "first_worker");
    let (second, _) = nanos(&profile, "second_worker");
    assert!(first > 0 && second > 0, "{first} {second} {all}");
    // Neither the parent, which waits, nor native frames.
    assert_eq!(first + second, all);
}

#[test]
fn python_is_sampled_beside_other_programs_and_counted_once() {
    let busy = "python3=$1; shift; \"$python3\" \"$1\" & while :; do :; done";
    let target = Target::start(
        Command::new("/bin/sh")
            .args(["-c", busy, "sh", python()])
            .arg(program("shares.py")),
    );
    let child = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", target.pid()));
    let child: i32 = child.unwrap().trim().parse().unwrap();
    // The shell first, so that its child inherits what samples it.
    let mut router = route(&[target.pid()], ALL);
    assert_eq!(router.source(), "perf");
    router.add_process(child).unwrap();
    assert_eq!(router.source(), "perf and python");
    router.collect(window());
    let before = (cpu_seconds(target.pid()), cpu_seconds(child));
    let seen = sample(&mut router, 600);
    let shell = cpu_seconds(target.pid()) - before.0;
    let interpreter = cpu_seconds(child) - before.1;
    let python = seen.share(|stack| has(stack, "descend"));
    let expected = interpreter / (interpreter + shell);
    assert!((python - expected).abs() < 0.1, "{python} {expected}");
    let native = seen.share(|stack| stack[0].kind != FrameKind::Python);
    assert!((native + python - 1.0).abs() < 0.01, "{}", seen.folded());
}

#[test]
fn a_shell_that_becomes_python_is_followed() {
    // It waits for a file, so that the shell is what is found first.
    let folder = tempfile::tempdir().unwrap();
    let flag = folder.path().join("go");
    let wait = "echo ready; while ! [ -e \"$3\" ]; do :; done; exec \"$1\" \"$2\"";
    let target = Target::start(
        Command::new("/bin/sh")
            .args(["-c", wait, "sh", python()])
            .arg(program("shares.py"))
            .arg(&flag),
    );
    let mut router = route(&[target.pid()], ALL);
    assert_eq!(router.source(), "perf");
    std::fs::write(&flag, "").unwrap();
    let deadline = Instant::now() + PATIENCE;
    while router.source() != "perf and python" {
        assert!(Instant::now() < deadline);
        router.poll(Duration::from_millis(250)).unwrap();
    }
    router.collect(window());
    let seen = sample(&mut router, 50);
    let python = seen.share(|stack| has(stack, "descend"));
    assert!(python > 0.9, "{}", seen.folded());
}

#[test]
fn python_that_holds_a_java_machine_counts_once() {
    let target = Target::python("shares.py");
    let claims = Claims::default();
    let options = RouteOptions {
        allowed: ALL,
        perf: PerfOptions::default(),
        python: EAGER,
        proc: ThreadCpuOptions::default(),
    };
    // The flight recorder could tell its CPU, too.
    claims.offer(target.pid(), UnixNanos::new(0));
    let mut router = Router::open(&[target.pid()], options, claims.clone()).unwrap();
    let seen = sample(&mut router, 20);
    assert!(seen.share(|stack| has(stack, "descend")) > 0.9);
    assert!(!claims.is_granted(target.pid()));
}

#[test]
fn what_is_no_python_is_left_to_perf() {
    let target =
        Target::start(Command::new("/bin/sh").args(["-c", "echo ready; while :; do :; done"]));
    let mut router = route(&[target.pid()], ALL);
    assert_eq!(router.source(), "perf");
    let seen = sample(&mut router, 20);
    assert_eq!(seen.share(|stack| stack[0].kind == FrameKind::Python), 0.0);
    let options = RouteOptions {
        allowed: Allowed {
            jvm: false,
            perf: false,
            proc: false,
            ..ALL
        },
        perf: PerfOptions::default(),
        python: EAGER,
        proc: ThreadCpuOptions::default(),
    };
    let refused = Router::open(&[target.pid()], options, Claims::default()).unwrap_err();
    assert!(refused.to_string().contains("does not run CPython"));

    // A person who wants perf events has them.
    let python = Target::python("shares.py");
    let only_perf = Allowed {
        python: false,
        jvm: false,
        proc: false,
        ..ALL
    };
    let mut router = route(&[python.pid()], only_perf);
    assert_eq!(router.source(), "perf");
    let seen = sample(&mut router, 20);
    assert_eq!(seen.share(|stack| stack[0].kind == FrameKind::Python), 0.0);
}

#[test]
fn an_interpreter_that_makes_no_sense_is_left_to_perf_and_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let pretender = folder.path().join("pretender");
    let built = Command::new("cc")
        .args(["-O1", "-rdynamic", "-o"])
        .arg(&pretender)
        .arg(program("pretender.c"))
        .status()
        .expect("type: apt-get install -y gcc");
    assert!(built.success());
    let target = Target::start(&mut Command::new(&pretender));
    let (log, profile) = record(target.pid(), &[]);
    assert!(log.contains("source=\"perf\""), "{log}");
    assert_eq!(log.matches("no python frames").count(), 1, "{log}");
    let (_, all) = nanos(&profile, "main");
    assert!(all > 0);
}

#[test]
fn a_program_in_another_mount_namespace_is_sampled() {
    if !is_root() {
        return;
    }
    // The interpreter is where nothing is for us.
    let folder = tempfile::tempdir().unwrap();
    let hide = "mount -t tmpfs none \"$1\" && mkdir \"$1/app\" && mount --bind /usr \"$1/app\" \
                && exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$1/app/bin/python3\" \
                -c \"$2\"";
    let target = Target::start(
        Command::new("unshare")
            .args(["--mount", "sh", "-c", hide, "sh"])
            .arg(folder.path())
            .arg(script("shares.py")),
    );
    let exe = std::fs::read_link(format!("/proc/{}/exe", target.pid())).unwrap();
    assert!(exe.starts_with(folder.path()) && !exe.exists(), "{exe:?}");
    let mut router = route(&[target.pid()], ALL);
    assert_eq!(router.source(), "python");
    let seen = sample(&mut router, 100);
    let hot = seen.share(|stack| &*stack[0].function == "hot");
    assert!(hot > 0.4, "{}", seen.folded());
}

#[test]
fn another_user_s_program_is_refused_with_the_line_that_changes_it() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let readable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), readable).unwrap();
    let program = folder.path().join("agent");
    std::fs::copy(env!("CARGO_BIN_EXE_agent"), &program).unwrap();
    let doctor = |pid: i32| {
        let output = Command::new(&program)
            .args(["doctor", "--format", "json", "--pid", &pid.to_string()])
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap().clone();
        let check = checks.iter().find(|check| check["name"] == "python_frames");
        check.unwrap().clone()
    };
    let own = Target::start(
        Command::new(python())
            .args(["-c", &script("shares.py")])
            .uid(NOBODY)
            .gid(NOBODY),
    );
    let check = doctor(own.pid());
    assert_eq!(check["available"], true, "{check}");
    let detail = check["detail"].as_str().unwrap();
    assert!(detail.contains("CPython 3."), "{detail}");

    let foreign = Target::python("shares.py");
    let check = doctor(foreign.pid());
    assert_eq!(check["available"], false, "{check}");
    let fix = check["fix"].as_str().unwrap();
    assert!(fix.contains("runAsUser: 0"), "{check}");
}

#[test]
fn a_program_that_ends_leaves_what_was_seen() {
    let mut target = Target::python("shares.py");
    assert!(probe(target.pid()).unwrap().starts_with("3."));
    let mut sampler = PythonSampler::new(EAGER);
    sampler.add_process(target.pid()).unwrap();
    let seen = look(&mut sampler, 50);
    assert!(seen.total() > 0);
    let wanted = sampler.looks_count() + 50;
    while sampler.looks_count() < wanted {
        sampler.look(sampler.next_look());
    }
    target.0.kill().unwrap();
    target.0.wait().unwrap();
    assert!(!sampler.has_targets());
    sampler.look(sampler.next_look());
    sampler.remove_process(target.pid());
    let mut seen = Seen::default();
    seen.add(sampler.collect(window()));
    assert!(
        seen.share(|stack| has(stack, "descend")) > 0.9,
        "{}",
        seen.folded()
    );
    assert!(matches!(
        probe(target.pid()),
        Err(PythonError::TargetGone { .. })
    ));
}
