//! The JVM source against a real Java virtual machine.
//!
//! `TEPUI_JAVA` names another `java` than that of the path.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use agent::source::jvm::{Cpu, Followed, JvmError, Plan, is_jvm, look, probe};
use agent::source::perf::PerfOptions;
use agent::source::proc::ThreadCpuOptions;
use agent::source::python::PythonOptions;
use agent::source::route::{Allowed, Claims, RouteOptions, Router};
use agent::source::{Collected, CpuSampler};
use agent::spool::Spool;
use proto::codec::unzstd;
use proto::dictionary::{Decoder, decode_body};
use proto::limits::MAX_BODY_BYTES;
use proto::pprof::Pprof;
use proto::profile::Profile;
use proto::stack::{FrameKind, Stack};
use proto::window::{Clock, SystemClock, UnixNanos, Window};

/// Longest wait for anything on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Nothing listens on port 1, so every window stays in the spool.
const NOWHERE: &str = "http://127.0.0.1:1";
const PLAN: Plan = Plan {
    with_cpu: true,
    window: Duration::from_secs(10),
    rate_hz: 99,
    ends_after: None,
};

fn java() -> String {
    std::env::var("TEPUI_JAVA").unwrap_or_else(|_| "java".to_owned())
}

/// Compiles the program once per run of the tests.
fn classes() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("jvm-classes");
        std::fs::create_dir_all(&folder).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/Work.java");
        let result = Command::new("javac")
            .args(["--release", "17", "-d"])
            .args([&folder, &source])
            .output();
        match result {
            Ok(done) if done.status.success() => folder,
            Ok(done) => panic!("javac: {}", String::from_utf8_lossy(&done.stderr)),
            Err(error) => {
                panic!("javac: {error}; type: apt-get install -y default-jdk-headless")
            }
        }
    });
    built.clone()
}

/// A Java program that is ended with its test.
struct Target {
    child: Child,
    pid: i32,
    /// The last line it wrote.
    said: Arc<Mutex<String>>,
}

impl Target {
    fn start(parts: &[&str]) -> Self {
        Self::run(Command::new(java()), &[], parts)
    }

    /// Starts it in a mount namespace with a `/tmp` of its own.
    fn apart(parts: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        if !is_root() {
            command.args(["--user", "--map-current-user"]);
        }
        command.args(["--mount", "--propagation", "private", "--", "/bin/sh", "-c"]);
        // The classes may lie below /tmp.
        command.arg("cp -r \"$2\" /dev/shm/tepui-$$ && mount -t tmpfs none /tmp && mv /dev/shm/tepui-$$ /tmp/classes && shift 2 && exec \"$0\" -cp /tmp/classes \"$@\"");
        command.arg(java());
        Self::run(command, &[], parts)
    }

    /// Its `/tmp`, which stays open when it has ended.
    fn tmp(&self) -> std::fs::File {
        std::fs::File::open(format!("/proc/{}/root/tmp", self.pid)).unwrap()
    }

    /// Starts it by `command`, which may be another program that becomes it.
    fn run(mut command: Command, flags: &[&str], parts: &[&str]) -> Self {
        let mut child = command
            .args(flags)
            .arg("-cp")
            .arg(classes())
            .arg("Work")
            .args(parts)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start java; type: apt-get install -y default-jdk-headless");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // It has loaded its own code by then.
        assert!(lines.any(|line| line.unwrap() == "ready"), "it ended");
        let said = Arc::new(Mutex::new(String::new()));
        let place = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *place.lock().unwrap() = line;
            }
        });
        let pid = i32::try_from(child.id()).unwrap();
        Self { child, pid, said }
    }

    /// CPU time of `hot` and `cold` so far.
    fn shares(&self) -> Option<[f64; 2]> {
        let said = self.said.lock().unwrap().clone();
        let (hot, cold) = said.split_once(' ')?;
        Some([hot.parse().ok()?, cold.parse().ok()?])
    }

    fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        let after_name = stat.rsplit_once(") ").unwrap().1;
        let fields: Vec<f64> = after_name
            .split(' ')
            .map(|field| field.parse().unwrap_or(0.0))
            .collect();
        (fields[11] + fields[12]) / 100.0
    }

    fn wait_for_cpu(&self, seconds: f64) {
        let (begun, before) = (Instant::now(), self.cpu_seconds());
        while self.cpu_seconds() < before + seconds {
            assert!(begun.elapsed() < PATIENCE, "too little cpu in {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

async fn follow(target: &Target) -> Followed {
    let now = SystemClock.now();
    Followed::start(target.pid, PLAN, now).await.unwrap()
}

/// Values of the column `at` of the yields named `name`, by stack.
fn values(collected: &[Collected], profile_type: &str) -> Vec<(Stack, i64)> {
    let groups = collected.iter().flat_map(|collected| &collected.groups);
    groups
        .flat_map(|group| {
            let columns = group.columns.iter();
            columns
                .filter(|column| column.profile_type.to_string() == profile_type)
                .flat_map(|column| {
                    group
                        .stacks
                        .iter()
                        .cloned()
                        .zip(column.values.iter().copied())
                })
        })
        .collect()
}

const CPU: &str = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";

/// Sums by the function that ran itself, largest first.
fn flat(values: &[(Stack, i64)]) -> Vec<(String, i64)> {
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    for (stack, value) in values {
        *sums.entry(stack[0].function.to_string()).or_default() += value;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, sum)| std::cmp::Reverse(*sum));
    sums
}

/// What the agent, or anybody on its behalf, may leave in `tmp` of the target.
fn left_behind(tmp: &Path, agent: u32, target: i32) -> Vec<String> {
    let ours = [
        format!(".tepui-agent-{agent}-"),
        format!(".attach_pid{target}"),
    ];
    let names = std::fs::read_dir(tmp).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names
        .filter(|name| ours.iter().any(|our| name.starts_with(our.as_str())))
        .collect()
}

fn recordings(pid: i32) -> String {
    let check = Command::new("jcmd")
        .args([&pid.to_string(), "JFR.check"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&check.stdout).into_owned()
}

#[test]
fn the_hottest_method_comes_first_with_its_share_and_all_cpu_is_told() {
    let target = Target::start(&["spin"]);
    runtime().block_on(async {
        let mut followed = follow(&target).await;
        // The compilers' beginning is not what is measured.
        target.wait_for_cpu(2.0);
        taken(&mut followed).await.unwrap();
        let (spent, cpu) = (target.shares().unwrap(), target.cpu_seconds());
        target.wait_for_cpu(12.0);
        let collected = taken(&mut followed).await.unwrap();
        let used = target.cpu_seconds() - cpu;
        let after = target.shares().unwrap();
        followed.stop().await.unwrap();

        let cpu = values(&collected, CPU);
        let flat = flat(&cpu);
        assert_eq!(flat[0].0, "Work.hot", "{flat:?}");
        assert_eq!(flat[1].0, "Work.cold", "{flat:?}");
        let (hot, cold) = (as_seconds(flat[0].1), as_seconds(flat[1].1));
        let expected = (after[0] - spent[0]) / (after[0] - spent[0] + after[1] - spent[1]);
        let found = hot / (hot + cold);
        assert!(
            (found - expected).abs() < 0.03,
            "{found} of what was {expected}: {flat:?}"
        );
        let told: i64 = cpu.iter().map(|(_, ns)| ns).sum();
        let told = as_seconds(told);
        assert!((told - used).abs() < 0.1 * used, "{told} s of {used} s");
        assert!(hot + cold > 0.8 * used, "{flat:?} of {used} s");

        let (stack, _) = cpu
            .iter()
            .find(|(stack, _)| &*stack[0].function == "Work.hot")
            .unwrap();
        assert!(
            stack.iter().all(|frame| frame.kind == FrameKind::Jvm),
            "{stack:?}"
        );
        assert_eq!(&*stack[1].function, "Work.spin");
        assert_eq!(&*stack.last().unwrap().function, "java.lang.Thread.run");
        assert!((12..=15).contains(&stack[0].line), "{}", stack[0].line);
    });
}

#[expect(clippy::cast_precision_loss, reason = "a few seconds")]
fn as_seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}

#[test]
fn allocations_and_locks_are_told_with_those_who_cause_them() {
    let target = Target::start(&["allocate", "contend"]);
    runtime().block_on(async {
        let mut followed = follow(&target).await;
        let mut collected = Vec::new();
        let begun = Instant::now();
        let is_enough = |collected: &[Collected]| {
            values(collected, "memory:alloc_space:bytes:space:bytes").len() > 1
                && values(collected, "mutex:delay:nanoseconds:contentions:count")
                    .iter()
                    .any(|(stack, _)| stack.iter().any(|f| &*f.function == "Work.enter"))
                && values(collected, "block:delay:nanoseconds:contentions:count")
                    .iter()
                    .any(|(stack, _)| stack.iter().any(|f| &*f.function == "Work.park"))
                && begun.elapsed() > Duration::from_secs(5)
        };
        while !is_enough(&collected) {
            assert!(begun.elapsed() < PATIENCE, "{collected:?}");
            tokio::time::sleep(Duration::from_secs(1)).await;
            collected.extend(taken(&mut followed).await.unwrap());
        }
        followed.stop().await.unwrap();

        let allocated = values(&collected, "memory:alloc_space:bytes:space:bytes");
        let flat = flat(&allocated);
        assert_eq!(flat[0].0, "Work.allocateMuch", "{flat:?}");

        let waits = values(&collected, "mutex:delay:nanoseconds:contentions:count");
        let entered: Vec<_> = waits
            .iter()
            .filter(|(stack, _)| &*stack[1].function == "Work.enter")
            .collect();
        let counts = values(&collected, "mutex:contentions:count:contentions:count");
        let count: i64 = counts.iter().map(|(_, count)| count).sum();
        let (stack, _) = entered[0];
        assert_eq!(&*stack[0].function, "[lock java.lang.Object]");
        assert_eq!(stack[0].kind, FrameKind::Synthetic);
        let delay: i64 = entered.iter().map(|(_, ns)| ns).sum();
        // It is held for 50 ms at a time.
        let each = as_seconds(delay) / as_seconds(count * 1_000_000_000);
        assert!((0.01..0.2).contains(&each), "{delay} ns in {count} waits");
    });
}

#[test]
fn nothing_is_left_after_a_recording_and_after_an_agent_that_was_killed() {
    let target = Target::start(&["contend"]);
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        Command::new(env!("CARGO_BIN_EXE_agent"))
            .args(["run", "--collector", NOWHERE, "--endpoint", "off", "--pid"])
            .args([&target.pid.to_string(), "--spool"])
            .arg(folder.path())
            .env("TEPUI__AGENT__WINDOW__LENGTH", "1s")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let wait = |agent: &mut Child| {
        let mut log = BufReader::new(agent.stderr.take().unwrap()).lines();
        let line = log.find(|line| line.as_ref().unwrap().contains("virtual machine"));
        let line = line.unwrap().unwrap();
        assert!(line.contains("is recorded"), "{line}");
        std::thread::spawn(move || log.map_while(Result::ok).for_each(drop));
    };
    let mut killed = start();
    wait(&mut killed);
    let first = format!("tepui-agent-{}-", killed.id());
    assert!(recordings(target.pid).contains(&first));
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(recordings(target.pid).contains(&first), "it goes on");

    let mut second = start();
    wait(&mut second);
    let running = recordings(target.pid);
    assert!(!running.contains(&first), "{running}");
    assert!(running.contains(&format!("tepui-agent-{}-", second.id())));
    assert_eq!(
        left_behind(Path::new("/tmp"), killed.id(), target.pid),
        Vec::<String>::new()
    );
    // Windows of its own, as many as it takes.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let ended = Command::new("kill")
        .args(["-TERM", &second.id().to_string()])
        .status()
        .unwrap();
    assert!(ended.success());
    assert!(second.wait().unwrap().success());
    let running = recordings(target.pid);
    assert!(!running.contains("tepui"), "{running}");
    assert_eq!(
        left_behind(Path::new("/tmp"), second.id(), target.pid),
        Vec::<String>::new()
    );
    let spool = Spool::open(folder.path(), 64 << 20, [7; 16]).unwrap();
    assert!(spool.stats().windows > 3, "{:?}", spool.stats());
}

/// What a machine recorded until now, with its CPU.
async fn taken(followed: &mut Followed) -> Result<Vec<Collected>, JvmError> {
    let mut taken = Vec::new();
    let fetched = followed.take(SystemClock.now(), Cpu::Told, &mut taken);
    fetched.await.map(|()| taken)
}

/// CPU profiles in a spool, in order.
fn cpu_profiles(folder: &Path) -> Vec<Profile> {
    let spool = Spool::open(folder, 64 << 20, [7; 16]).unwrap();
    let mut profiles = Vec::new();
    let mut last = None;
    while let Some(batch) = spool.next(last.as_ref()) {
        last = Some(batch.id);
        let is_cpu = |profile: &Profile| {
            let mut columns = profile.columns().iter();
            columns.any(|column| column.profile_type.to_string() == CPU)
        };
        let bytes = unzstd(&batch.body, MAX_BODY_BYTES).unwrap();
        let mut decoder = Decoder::new();
        let windows = decoder.apply(decode_body(&bytes).unwrap()).unwrap();
        let all = windows
            .into_iter()
            .map(|window| decoder.profile(window.unwrap()).unwrap());
        profiles.extend(all.filter(is_cpu));
    }
    profiles.sort_by_key(|profile| profile.window().start());
    profiles
}

#[test]
fn a_run_tells_all_cpu_of_a_machine_once_and_of_what_runs_beside_it() {
    // Both are the target: a machine, and a shell that perf events sample.
    // The shell's loop ends soon after the machine, which has its first id.
    let mut command = Command::new("/bin/sh");
    command.args([
        "-c",
        "while kill -0 $$; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; done & \
         exec \"$0\" \"$@\"",
    ]);
    command.arg(java());
    let target = Target::run(command, &[], &["spin"]);
    let folder = tempfile::tempdir().unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_agent"))
        .args(["run", "--collector", NOWHERE, "--endpoint", "off", "--pid"])
        .args([&target.pid.to_string(), "--spool"])
        .arg(folder.path())
        .env("TEPUI__AGENT__WINDOW__LENGTH", "2s")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It ends at the border of a window, as near as can be.
    let now = SystemClock.now();
    let border = now.floor(Duration::from_secs(2));
    std::thread::sleep(Duration::from_secs(24) - now.since(border));
    let pid = run.id().to_string();
    let ended = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(ended.unwrap().success());
    assert!(run.wait().unwrap().success());

    let profiles = cpu_profiles(folder.path());
    let starts: Vec<_> = profiles.iter().map(|p| p.window().start()).collect();
    let mut once = starts.clone();
    once.dedup();
    assert_eq!(starts, once, "one profile for each window");
    let sum = |profile: &Profile, wanted: &dyn Fn(&Stack) -> bool| -> f64 {
        let column = &profile.columns()[0];
        let weight = i64::try_from(column.weight).unwrap();
        let rows = profile.stacks().iter().zip(&column.values);
        let of = rows.filter(|(stack, _)| wanted(stack));
        of.map(|(_, value)| as_seconds(*value * weight)).sum()
    };
    let is_java = |stack: &Stack| stack.iter().any(|frame| &*frame.function == "Work.spin");
    let recorded = profiles.iter().position(|p| sum(p, &is_java) > 0.0);
    // The last one is cut short.
    let recorded = &profiles[recorded.expect("java was recorded")..profiles.len() - 1];
    assert!(recorded.len() > 4, "{} windows", recorded.len());
    let (mut java, mut all, mut kernel) = (0.0, 0.0, 0.0);
    for profile in recorded {
        java += sum(profile, &is_java);
        all += sum(profile, &|_| true);
        kernel += as_seconds(i64::try_from(profile.facts().cpu_ns).unwrap());
    }
    assert!(
        (all - kernel).abs() < 0.15 * kernel,
        "{all} s told, {kernel} s used"
    );
    assert!(
        java > 0.2 * kernel && java < 0.8 * kernel,
        "{java} of {kernel}"
    );
}

#[test]
fn a_machine_that_dies_or_stands_still_costs_no_more_than_its_own_data() {
    use std::os::fd::AsRawFd as _;
    let mut target = Target::apart(&["spin"]);
    let tmp = target.tmp();
    let left = |tmp: &std::fs::File, pid| {
        let path = format!("/proc/self/fd/{}", tmp.as_raw_fd());
        left_behind(Path::new(&path), std::process::id(), pid)
    };
    runtime().block_on(async {
        let mut followed = follow(&target).await;
        assert_eq!(left(&tmp, target.pid).len(), 1, "it is in use");
        target.child.kill().unwrap();
        target.child.wait().unwrap();
        let begun = Instant::now();
        let error = taken(&mut followed).await.unwrap_err();
        assert!(
            matches!(error, JvmError::Gone { .. } | JvmError::DeafToQuit { .. }),
            "{error:?}"
        );
        followed.stop().await.unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(5));
    });
    assert_eq!(left(&tmp, target.pid), Vec::<String>::new());

    // One that is stopped answers when it goes on.
    let target = Target::apart(&["contend"]);
    let tmp = target.tmp();
    let signal = |name: &str| {
        let pid = target.pid.to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    };
    runtime().block_on(async {
        let mut followed = follow(&target).await;
        signal("-STOP");
        let waited = Duration::from_secs(2);
        let taken = tokio::time::timeout(waited, taken(&mut followed));
        assert!(taken.await.is_err(), "a stopped machine answered");
        signal("-CONT");
        followed.stop().await.unwrap();
    });
    assert!(!recordings(target.pid).contains("tepui"));
    assert_eq!(left(&tmp, target.pid), Vec::<String>::new());
}

fn agent(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_agent"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

#[test]
fn one_profile_is_recorded_and_the_doctor_says_that_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(java());
    command.current_dir(folder.path());
    let target = Target::run(command, &[], &["spin"]);
    let pid = target.pid.to_string();
    let file = folder.path().join("cpu.pb.gz");
    let path = file.to_str().unwrap();
    let has_hot = || {
        agent(&["record", "--pid", &pid, "--duration", "3s", "-o", path]);
        let profile = Pprof::parse(&std::fs::read(&file).unwrap(), FrameKind::Jvm).unwrap();
        profile.samples.iter().any(|sample| {
            let names: Vec<&str> = sample.stack.iter().map(|frame| &*frame.function).collect();
            names.contains(&"Work.hot") && names.contains(&"Work.spin")
        })
    };
    // A machine that gets no CPU has no samples.
    let begun = Instant::now();
    while !has_hot() {
        assert!(begun.elapsed() < PATIENCE, "no sample in Work.hot");
    }
    assert!(!recordings(target.pid).contains("tepui"));
    let files = std::fs::read_dir(folder.path()).unwrap();
    assert_eq!(files.count(), 1, "only what was asked for");

    let report = agent(&["doctor", "--pid", &pid, "--endpoint", "off"]).stdout;
    let report = String::from_utf8_lossy(&report);
    let line = report
        .lines()
        .find(|line| line.contains("jvm_flight_recorder"));
    assert!(line.unwrap().starts_with("yes"), "{report}");
    assert!(line.unwrap().contains("JDK "), "{report}");
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("Uid:"))
        .unwrap();
    line.split_whitespace().nth(2) == Some("0")
}

#[test]
fn a_machine_of_another_user_is_told_clearly_and_left_alone() {
    // Only root can start one.
    if !is_root() {
        return;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "4242", "--regid", "4243", "--clear-groups"]);
    command.arg(java());
    // What was built may be unreadable for others.
    let folder = tempfile::tempdir().unwrap();
    let class_path = folder.path().join("classes");
    copy_readable(&classes(), &class_path, folder.path());
    let mut child = command
        .arg("-cp")
        .arg(&class_path)
        .args(["Work", "spin"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    while line != "ready\n" {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "it ended");
    }
    let pid = i32::try_from(child.id()).unwrap();
    let target = Target {
        child,
        pid,
        said: Arc::default(),
    };
    assert!(is_jvm(pid));
    let error = look(pid).unwrap_err();
    assert!(
        matches!(
            error,
            JvmError::OtherUser {
                uid: 4242,
                gid: 4243,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.fix().contains("runAsUser: 4242"), "{}", error.fix());
    let report = agent(&["doctor", "--pid", &pid.to_string(), "--endpoint", "off"]).stdout;
    let report = String::from_utf8_lossy(&report);
    assert!(report.contains("no   jvm_flight_recorder"), "{report}");
    assert!(report.contains("runAsUser: 4242"), "{report}");
    drop(target);
}

fn copy_readable(from: &Path, to: &Path, parent: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    for folder in [parent, to] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_machine_in_another_mount_namespace_is_recorded_too() {
    let target = Target::apart(&["spin"]);
    assert!(!Path::new(&format!("/tmp/.java_pid{}", target.pid)).exists());
    runtime().block_on(async {
        let version = probe(target.pid).await.unwrap();
        assert!(
            version.starts_with(|c: char| c.is_ascii_digit()),
            "{version}"
        );
        let mut followed = follow(&target).await;
        target.wait_for_cpu(1.0);
        let collected = taken(&mut followed).await.unwrap();
        assert!(collected[0].is_cpu());
        assert_eq!(flat(&values(&collected, CPU))[0].0, "Work.hot");
        followed.stop().await.unwrap();
    });
    let own = std::process::id();
    let tmp = PathBuf::from(format!("/proc/{}/root/tmp", target.pid));
    assert_eq!(left_behind(&tmp, own, target.pid), Vec::<String>::new());
    assert!(tmp.join(format!(".java_pid{}", target.pid)).exists());
}

#[test]
fn flags_that_concern_attaching_are_kept_to() {
    let mut closed = Target::run(
        Command::new(java()),
        &["-XX:+DisableAttachMechanism"],
        &["contend"],
    );
    let error = runtime().block_on(probe(closed.pid)).unwrap_err();
    assert!(matches!(error, JvmError::Disabled { .. }), "{error:?}");
    assert!(!error.fix().is_empty());
    assert_eq!(closed.child.try_wait().unwrap(), None);

    // SIGQUIT would end this one; it listens from its start.
    let mut quiet = Target::run(Command::new(java()), &["-Xrs"], &["contend"]);
    runtime().block_on(probe(quiet.pid)).unwrap();
    assert_eq!(quiet.child.try_wait().unwrap(), None);
}

const ALL: Allowed = Allowed {
    python: true,
    jvm: true,
    perf: true,
    proc: true,
};

fn router(pid: i32, allowed: Allowed, claims: &Claims) -> Router {
    let options = RouteOptions {
        allowed,
        perf: PerfOptions::default(),
        python: PythonOptions::default(),
        proc: ThreadCpuOptions::default(),
    };
    Router::open(&[pid], options, claims.clone()).unwrap()
}

fn window(start: i64) -> Window {
    Window::new(UnixNanos::new(start), UnixNanos::new(start + 10)).unwrap()
}

fn poll_for(router: &mut Router, length: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < length {
        router.poll(Duration::from_millis(50)).unwrap();
    }
}

fn samples(router: &mut Router, start: i64) -> u64 {
    poll_for(router, Duration::from_millis(500));
    router.collect(window(start)).samples_count
}

/// A shell that uses CPU and is ended with its test.
struct Spinner(Child);

impl Spinner {
    fn start() -> Self {
        let mut command = Command::new("/bin/sh");
        Self(command.args(["-c", "while :; do :; done"]).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_machine_is_perfs_until_it_is_granted_and_again_when_it_is_lost() {
    let spinner = Spinner::start();
    let pid = spinner.pid();
    let claims = Claims::default();
    let mut router = router(pid, ALL, &claims);
    claims.offer(pid, UnixNanos::new(20));
    assert!(samples(&mut router, 0) > 0);
    assert!(!claims.is_granted(pid), "its border is the next one");
    assert!(samples(&mut router, 10) > 0);
    assert!(claims.tells(pid, UnixNanos::new(20)));
    assert_eq!(samples(&mut router, 20), 0, "nothing counts twice");
    assert!(router.has_targets() && !router.misses_some());
    assert_eq!(router.source(), "perf and jvm");

    claims.refuse(pid);
    let begun = Instant::now();
    while samples(&mut router, 30) == 0 {
        assert!(begun.elapsed() < PATIENCE, "it is nobody's");
    }
    // A sampler that is opened anew knows what was granted.
    claims.offer(pid, UnixNanos::new(0));
    router.collect(window(40));
    drop(router);
    let mut again = self::router(pid, ALL, &claims);
    assert_eq!(again.source(), "jvm");
    assert_eq!(samples(&mut again, 50), 0);
    again.remove_process(pid);
    assert!(!claims.is_granted(pid) && !again.has_targets());
}

#[test]
fn where_perf_may_not_sample_threads_are_accounted_for_until_a_machine_is_granted() {
    let without_perf = Allowed {
        python: false,
        perf: false,
        ..ALL
    };
    let spinner = Spinner::start();
    let pid = spinner.pid();
    let claims = Claims::default();
    let mut router = router(pid, without_perf, &claims);
    assert_eq!(router.source(), "proc");
    claims.offer(pid, UnixNanos::new(20));
    assert!(samples(&mut router, 0) > 0);
    assert!(samples(&mut router, 10) > 0, "until the border");
    assert!(claims.tells(pid, UnixNanos::new(20)));
    assert_eq!(samples(&mut router, 20), 0, "nothing counts twice");
    assert!(router.has_targets() && !router.misses_some());
    assert_eq!(router.source(), "jvm and proc");

    // The endpoint silences the accounting of threads, no recorder.
    claims.claim_for_endpoint();
    assert!(!router.leaves_all());
    claims.refuse(pid);
    poll_for(&mut router, Duration::from_millis(1500));
    assert!(router.leaves_all() && router.misses_some());
    assert_eq!(samples(&mut router, 30), 0);
    claims.give_up_for_endpoint();
    assert!(!router.leaves_all() && samples(&mut router, 40) > 0);
}

#[test]
fn a_machine_that_is_waited_for_is_not_accounted_for_by_thread() {
    let target = Target::start(&["spin"]);
    let claims = Claims::default();
    let without_perf = Allowed {
        python: false,
        perf: false,
        ..ALL
    };
    let mut router = router(target.pid, without_perf, &claims);
    assert_eq!(router.source(), "jvm");
    assert!(router.has_targets() && !router.misses_some());
    assert_eq!(samples(&mut router, 0), 0);
    // What nobody samples is not idle.
    assert!(!router.leaves_all());
    claims.claim_for_endpoint();
    assert!(router.leaves_all());
    claims.give_up_for_endpoint();
    claims.refuse(target.pid);
    poll_for(&mut router, Duration::from_millis(1500));
    assert!(router.has_targets() && router.misses_some());
    assert!(samples(&mut router, 10) > 0);
    assert_eq!(router.source(), "jvm and proc");
}

#[test]
fn a_machine_that_perf_cannot_sample_is_waited_for() {
    let target = Target::start(&["contend"]);
    let claims = Claims::default();
    let only_jvm = Allowed {
        python: false,
        perf: false,
        proc: false,
        ..ALL
    };
    let mut router = router(target.pid, only_jvm, &claims);
    assert!(router.has_targets() && !router.misses_some());
    assert_eq!(router.source(), "jvm");
    claims.refuse(target.pid);
    poll_for(&mut router, Duration::from_millis(1500));
    assert!(!router.has_targets() && router.misses_some());
    let options = RouteOptions {
        allowed: only_jvm,
        perf: PerfOptions::default(),
        python: PythonOptions::default(),
        proc: ThreadCpuOptions::default(),
    };
    let own = i32::try_from(std::process::id()).unwrap();
    let refused = Router::open(&[own], options, claims).unwrap_err();
    assert!(refused.to_string().contains("no Java virtual machine"));
}
