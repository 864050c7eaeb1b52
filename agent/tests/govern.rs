//! What the agent does to stay within its budget, with real programs.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent::source::Collected;
use agent::source::perf::{PerfOptions, PerfSampler};
use agent::spool::Spool;
use prost::Message;
use proto::codec::unzstd;
use proto::dictionary::Decoder;
use proto::limits::MAX_BODY_BYTES;
use proto::pb::tepui::BatchBody;
use proto::profile::Profile;
use proto::value_type::ProfileType;
use proto::window::{UnixNanos, Window};

/// Longest wait on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// Part by which sums may differ from the kernel's.
const TOLERANCE: f64 = 0.05;

/// A program that is stopped at the end of its test.
struct Target(Child);

impl Target {
    /// Starts `crowd BUSY SLEEPERS`, and returns when all its threads are there.
    fn crowd(folder: &Path, busy: u32, sleepers: u32) -> Self {
        let mut child = Command::new(crowd(folder))
            .args([busy.to_string(), sleepers.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn signal(&self, name: &str) {
        signal(self.0.id(), name);
    }

    /// CPU time of all its threads, also ended ones, in seconds.
    fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        let ticks = rest.split(' ').skip(11).take(2);
        let ticks: f64 = ticks.map(|ticks| ticks.parse::<f64>().unwrap()).sum();
        ticks / 100.0
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(sent.unwrap().success());
}

fn crowd(folder: &Path) -> PathBuf {
    let program = folder.join("crowd");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/crowd.c");
    let built = Command::new("cc")
        .args(["-O1", "-fomit-frame-pointer", "-pthread", "-o"])
        .arg(&program)
        .arg(source)
        .status()
        .expect("type: apt-get install -y gcc");
    assert!(built.success());
    program
}

fn window() -> Window {
    Window::from_start(UnixNanos::new(0), 10_000_000_000).unwrap()
}

/// CPU time that samples stand for, in seconds. Those that the kernel had to
/// drop, because others were before the sampler for long, are counted.
fn seconds(collected: &Collected) -> f64 {
    let columns = collected.groups.iter().flat_map(|group| &group.columns);
    let nanos = columns.map(|column| {
        let sum: i64 = column.values.iter().sum();
        (u64::try_from(sum).unwrap() + collected.lost_samples) * column.weight
    });
    #[expect(clippy::cast_precision_loss, reason = "some hundred seconds")]
    let nanos = nanos.sum::<u64>() as f64;
    nanos / 1e9
}

/// A sampler of a target, and the CPU time that this had used at the last
/// border of windows.
struct Sampling<'a> {
    sampler: PerfSampler,
    target: &'a Target,
    border: f64,
}

impl<'a> Sampling<'a> {
    fn open(target: &'a Target, options: PerfOptions) -> Self {
        Self {
            sampler: PerfSampler::open(&[target.pid()], options).unwrap(),
            target,
            border: target.cpu_seconds(),
        }
    }

    /// Samples until the target used so much more CPU time; returns what that
    /// was, and the window.
    fn window(&mut self, cpu_seconds: f64) -> (f64, Collected) {
        let deadline = Instant::now() + PATIENCE;
        while self.target.cpu_seconds() < self.border + cpu_seconds {
            assert!(Instant::now() < deadline, "the target does not run");
            self.sampler.poll(Duration::from_millis(50)).unwrap();
        }
        // What runs while a window is collected is of the next one.
        let border = self.target.cpu_seconds();
        let collected = self.sampler.collect(window());
        let used = border - self.border;
        self.border = border;
        (used, collected)
    }
}

#[track_caller]
fn check_total(sampled: f64, used: f64, tolerance: f64, what: &str) {
    let ratio = sampled / used;
    assert!(
        (ratio - 1.0).abs() <= tolerance,
        "{what}: samples stand for {sampled} of {used} seconds"
    );
}

#[test]
fn totals_hold_at_every_rate_and_while_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::crowd(folder.path(), 24, 0);
    let options = PerfOptions {
        rate_hz: 199,
        ..PerfOptions::default()
    };
    let mut sampling = Sampling::open(&target, options);
    sampling.window(0.0);
    let (mut sampled, mut used) = (0.0, 0.0);
    // Threads that began before the sampler and so have events of their own.
    for divisor in [1, 4, 8, 2, 1] {
        sampling.sampler.set_divisor(divisor);
        let (cpu, collected) = sampling.window(8.0);
        let period = i64::from(divisor) * (1_000_000_000 / 199);
        let column = &collected.groups[0].columns[0];
        assert_eq!(column.period, period);
        assert_eq!(column.weight, u64::try_from(period).unwrap());
        let samples = collected.samples_count;
        assert!(
            samples < 199 * 12 / u64::from(divisor),
            "{samples} / {divisor}"
        );
        sampled += seconds(&collected);
        used += cpu;
    }
    check_total(sampled, used, TOLERANCE, "all rates");
}

#[test]
fn threads_that_inherited_a_rate_are_counted_at_the_one_of_the_window() {
    let folder = tempfile::tempdir().unwrap();
    let program = crowd(folder.path());
    // It becomes another program only when the sampler is there.
    let script = format!("read line; exec {} 8 0", program.display());
    let mut child = Command::new("/bin/sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (go, said) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let target = Target(child);
    let options = PerfOptions {
        rate_hz: 199,
        ..PerfOptions::default()
    };
    let mut sampling = Sampling::open(&target, options);
    drop(go);
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    sampling.sampler.poll(Duration::ZERO).unwrap();
    sampling.window(0.0);
    let (mut sampled, mut used) = (0.0, 0.0);
    for divisor in [1, 4, 1] {
        sampling.sampler.set_divisor(divisor);
        let (cpu, collected) = sampling.window(6.0);
        let samples = collected.samples_count;
        assert!(
            samples < 199 * 9 / u64::from(divisor),
            "{samples} / {divisor}"
        );
        sampled += seconds(&collected);
        used += cpu;
    }
    check_total(sampled, used, TOLERANCE, "inherited");
}

#[test]
fn of_very_many_threads_some_stand_for_all() {
    let folder = tempfile::tempdir().unwrap();
    for (busy, sleepers) in [(4, 400), (150, 0)] {
        let target = Target::crowd(folder.path(), busy, sleepers);
        let options = PerfOptions {
            // As on a host where each thread would need too many descriptors.
            max_events: 100,
            ..PerfOptions::default()
        };
        let mut sampling = Sampling::open(&target, options);
        let events = descriptors_of_perf();
        assert!(events <= 160, "{events} events");
        // The first draw knows nothing of who works.
        sampling.window(4.0);
        let (mut sampled, mut used) = (0.0, 0.0);
        for _ in 0..4 {
            let (cpu, collected) = sampling.window(8.0);
            sampled += seconds(&collected);
            used += cpu;
        }
        let ratio = sampled / used;
        // Of 150 busy threads 100 are drawn, each time others.
        let tolerance = if busy > 100 { 0.1 } else { TOLERANCE };
        assert!(
            (ratio - 1.0).abs() <= tolerance,
            "{busy} busy: {sampled} of {used}"
        );
    }
}

/// Descriptors of perf events that this process has open.
fn descriptors_of_perf() -> usize {
    let listed = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = listed.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links
        .filter(|link| link.to_string_lossy().contains("perf_event"))
        .count()
}

/// An agent that lets windows wait in its spool.
struct Agent {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    spool: PathBuf,
}

impl Agent {
    fn start(folder: &Path, target: &Target, settings: &[(&str, &str)]) -> Self {
        let spool = folder.join("spool");
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command
            // Nothing listens on port 1, so every window stays in the spool.
            .args([
                "run",
                "--collector",
                "http://127.0.0.1:1",
                "--source",
                "perf",
            ])
            .args(["--endpoint", "off", "--log-format", "json", "--pid"])
            .arg(target.pid().to_string())
            .arg("--spool")
            .arg(&spool)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        for (key, value) in settings {
            command.env(format!("TEPUI__AGENT__{key}"), value);
        }
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log, spool }
    }

    /// Waits until it says that the rate is divided as `holds` wants; returns by
    /// how much, and why.
    fn wait_for_divisor(&mut self, holds: impl Fn(u64) -> bool) -> (u64, String) {
        let deadline = Instant::now() + PATIENCE;
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.log.read_line(&mut line).unwrap();
            assert!(
                read > 0 && Instant::now() < deadline,
                "the rate is not changed"
            );
            let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
            let fields = &entry["fields"];
            if let Some(divisor) = fields["divisor"].as_u64()
                && holds(divisor)
            {
                return (divisor, fields["reason"].as_str().unwrap().to_owned());
            }
        }
    }

    /// Ends it and returns its CPU profiles.
    fn finish(&mut self) -> Vec<Profile> {
        signal(self.child.id(), "-TERM");
        assert!(self.child.wait().unwrap().success());
        let spool = Spool::open(&self.spool, 64 << 20, [7; 16]).unwrap();
        let mut profiles = Vec::new();
        let mut next = spool.next(None);
        while let Some(batch) = next {
            let bytes = unzstd(&batch.body, MAX_BODY_BYTES).unwrap();
            let body = BatchBody::decode(bytes.as_slice()).unwrap();
            let mut decoder = Decoder::new();
            for window in decoder.apply(body).unwrap() {
                profiles.push(decoder.profile(window.unwrap()).unwrap());
            }
            next = spool.next(Some(&batch.id));
        }
        profiles.retain(|p| p.columns()[0].profile_type == ProfileType::cpu());
        profiles
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn an_agent_that_costs_too_much_samples_less_and_later_as_before() {
    let folder = tempfile::tempdir().unwrap();
    // Each event is half a period short in the end.
    let target = Target::crowd(folder.path(), 32, 0);
    let settings = [
        ("WINDOW__LENGTH", "2s"),
        ("CPU__RATE_HZ", "1000"),
        ("BUDGET__CPU_MILLICORES", "8"),
    ];
    let mut agent = Agent::start(folder.path(), &target, &settings);
    let (lowered, reason) = agent.wait_for_divisor(|divisor| divisor > 1);
    assert!(reason.contains("cpu time is above its budget"), "{reason}");
    // Some windows at the rate that fits.
    let until = target.cpu_seconds() + 40.0;
    while target.cpu_seconds() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    target.signal("-USR1");
    let (_, reason) = agent.wait_for_divisor(|divisor| divisor == 1);
    assert!(reason.contains("room"), "{reason}");
    let profiles = agent.finish();
    let periods: Vec<i64> = profiles.iter().map(|p| p.columns()[0].period).collect();
    let lowest = i64::try_from(lowered).unwrap() * 1_000_000;
    assert_eq!(periods[0], 1_000_000, "{periods:?}");
    assert!(periods.contains(&lowest), "{lowered} {periods:?}");
    // What an agent loses while other threads are before it is counted. In its
    // first windows it was not there from the beginning.
    let is_begun = |p: &&Profile| p.facts().observed_ns < 1_500_000_000;
    let (mut sampled, mut used) = (0, 0);
    for profile in profiles.iter().skip_while(is_begun) {
        let column = &profile.columns()[0];
        let counted: u64 = column.values.iter().sum::<i64>().unsigned_abs();
        sampled += (counted + profile.facts().lost_samples) * column.weight;
        used += profile.facts().cpu_ns;
    }
    #[expect(clippy::cast_precision_loss, reason = "some hundred seconds")]
    let (sampled, used) = (sampled as f64 / 1e9, used as f64 / 1e9);
    // At a thousand samples a second the kernel skips some on a busy machine.
    check_total(sampled, used, 2.0 * TOLERANCE, "the agent's windows");
}
