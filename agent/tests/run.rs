//! The `agent` command as a person runs it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use agent::spool::Spool;
use proto::pprof::Pprof;
use proto::stack::FrameKind;

/// Nothing listens on port 1, so every window stays in the spool.
const NOWHERE: &str = "http://127.0.0.1:1";

fn agent() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
    command.stdin(Stdio::null());
    command
}

struct Busy(Child);

impl Busy {
    fn start() -> Self {
        let script = ["-c", "while :; do :; done"];
        Self(Command::new("/bin/sh").args(script).spawn().unwrap())
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn spooled_windows(folder: &Path) -> u64 {
    let spool = Spool::open(folder, 64 << 20, [7; 16]).unwrap();
    spool.stats().windows
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_wrong_configuration_ends_with_64_and_names_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, "[cpu]\nrate = 1\n").unwrap();
    let output = agent()
        .args(["run", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output).contains("rate"), "{}", text(&output));

    let output = agent()
        .args(["doctor"])
        .env("TEPUI__AGENT__CPU__RATE_HZ", "0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output).contains("cpu.rate_hz"), "{}", text(&output));
}

#[test]
fn the_command_s_exit_code_is_the_agent_s() {
    let folder = tempfile::tempdir().unwrap();
    let output = agent()
        .args([
            "run",
            "--collector",
            NOWHERE,
            "--endpoint",
            "off",
            "--spool",
        ])
        .arg(folder.path())
        .args([
            "--",
            "/bin/sh",
            "-c",
            "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; exit 7",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
}

#[test]
fn a_signal_reaches_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready");
    let script = format!(
        "trap 'exit 9' TERM; : > {}; while :; do sleep 0.05; done",
        ready.display()
    );
    let mut running = agent()
        .args([
            "run",
            "--collector",
            NOWHERE,
            "--endpoint",
            "off",
            "--spool",
        ])
        .arg(folder.path().join("spool"))
        .args(["--", "/bin/sh", "-c", &script])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !ready.exists() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    let sent = Command::new("kill")
        .args(["-TERM", &running.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    assert_eq!(running.wait().unwrap().code(), Some(9));
}

#[test]
fn the_last_window_is_in_the_spool_after_sigterm() {
    let busy = Busy::start();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let spool = folder.path().join("spool");
    let mut running = agent()
        .args([
            "run",
            "--pid",
            &busy.pid(),
            "--collector",
            NOWHERE,
            "--endpoint",
            "off",
            "--spool",
        ])
        .arg(&spool)
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let has_begun = || {
        std::fs::read_to_string(&log)
            .unwrap()
            .contains("sampling cpu")
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !has_begun() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    let log_text = std::fs::read_to_string(&log).unwrap();
    let sent = Command::new("kill")
        .args(["-TERM", &running.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    assert_eq!(running.wait().unwrap().code(), Some(0));
    assert!(spooled_windows(&spool) >= 1, "{log_text}");
}

#[test]
fn a_recording_shows_where_the_time_went() {
    let busy = Busy::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cpu.pb.gz");
    let output = agent()
        .args([
            "record",
            "--source",
            "perf",
            "--duration",
            "2s",
            "--pid",
            &busy.pid(),
            "-o",
        ])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let profile = Pprof::parse(&std::fs::read(&file).unwrap(), FrameKind::Native).unwrap();
    let kinds: Vec<_> = profile.sample_types.iter().map(|t| t.kind()).collect();
    assert_eq!(kinds, ["samples", "cpu"]);
    let samples: i64 = profile.samples.iter().map(|s| s.values[0]).sum();
    let nanos: i64 = profile.samples.iter().map(|s| s.values[1]).sum();
    assert!(samples > 20, "{samples} samples");
    assert_eq!(nanos, samples * profile.period);
}

#[test]
fn a_recording_without_a_target_says_so() {
    let output = agent()
        .args([
            "record",
            "--name",
            "no-such-program",
            "--duration",
            "1s",
            "-o",
            "/dev/null",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("no process to record"),
        "{}",
        text(&output)
    );
}

#[test]
fn the_doctor_s_json_is_an_interface() {
    let busy = Busy::start();
    let output = agent()
        .args(["doctor", "--format", "json", "--pid", &busy.pid()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let names: Vec<_> = checks.iter().map(|c| c["name"].as_str().unwrap()).collect();
    let expected = [
        "target",
        "privileges",
        "perf_event_open",
        "kernel_time",
        "python_frames",
        "thread_cpu",
        "wall_states",
        "wall_syscalls",
        "process_files",
        "locked_memory",
        "cgroup_cpu_limit",
        "budget",
        "go_pprof_endpoint",
    ];
    assert_eq!(names, expected);
    for check in checks {
        assert!(
            check["available"].is_boolean()
                && check["detail"].is_string()
                && check["fix"].is_string()
        );
    }
}
