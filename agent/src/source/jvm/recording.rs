//! One flight recording of one machine, of our own name and settings.
//!
//! The machine keeps it running and writes what happened since the last time
//! into a file when asked; the file is read and removed at once. The recording
//! keeps little on the target's disk ([`Settings::max_age`],
//! [`MAX_KEPT`]), also when the agent is ended without a chance to stop it: the
//! next agent finds it by its name and stops it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::time::Duration;

use proto::window::UnixNanos;
use tracing::debug;

use super::attach::{Machine, first_line, verb};
use super::error::JvmError;
use super::folder::{Folder, Mark, read_up_to};
use super::followed::aside;
use super::jfr::{self, Chunk, HEADER_BYTES, Header, JfrError};

/// What names of recordings begin with; the mark of their agent follows.
const NAME: &str = "tepui-agent-";
/// Most that a recording keeps in the target's folder for temporary files.
const MAX_KEPT: &str = "32m";
/// Most chunks of one file that are looked at.
const MAX_CHUNKS: usize = 64;
/// Frames of a stack that the recorder keeps, at least. Its own default of 64
/// cuts the roots off those of common servers.
const STACK_DEPTH: u32 = 256;
/// Allocations sampled per second, as in the recorder's own `default.jfc`.
const ALLOCATIONS_PER_SECOND: u32 = 150;
/// Shortest wait for `synchronized` that is told, in milliseconds.
const MONITOR_THRESHOLD_MS: u32 = 10;
/// Shortest time parked that is told, as in `default.jfc`: idle threads of
/// pools park all the time.
const PARK_THRESHOLD_MS: u32 = 20;
/// Names within our folder.
const SETTINGS_FILE: &str = "settings.jfc";
const DUMP_FILE: &str = "dump.jfr";
const END_FILE: &str = "end.jfr";

/// What to record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Time between two samples of CPU; none without it.
    pub(super) period: Option<Duration>,
    /// Whether to record allocations and locks.
    pub(super) with_others: bool,
    /// How long the machine keeps what it wrote.
    pub(super) max_age: Duration,
    /// Time after which it stops by itself.
    pub(super) ends_after: Option<Duration>,
}

/// How the machine samples CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sampling {
    /// By looking at some threads at each tick.
    Ticks,
    /// By CPU time of each thread, from JDK 25 on.
    CpuTime,
}

/// A running recording.
#[derive(Debug)]
pub(super) struct Recording {
    machine: Machine,
    folder: Folder,
    name: String,
    /// Start of the last chunk that was read.
    read_until: Option<UnixNanos>,
    /// Its version, for example `17.0.15`.
    pub(super) version: String,
    /// How it samples CPU.
    pub(super) sampling: Sampling,
}

/// What was recorded since the last time.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Chunks, in order.
    pub(super) chunks: Vec<Chunk>,
    /// Chunks that could not be read.
    pub(super) damaged: Vec<JfrError>,
}

/// The version of a machine: the number after `JDK` in the answer to
/// `VM.version`.
fn version(answer: &str) -> Option<&str> {
    answer
        .lines()
        .find_map(|line| line.strip_prefix("JDK "))
        .map(str::trim)
}

/// The number that counts releases: 8 of `8.0.362`, `1.8.0_362`, 17 of
/// `17.0.15`.
fn major(version: &str) -> u32 {
    let version = version.strip_prefix("1.").unwrap_or(version);
    let digits = version.split(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

fn sampling(major: u32) -> Sampling {
    match major {
        0..=24 => Sampling::Ticks,
        25.. => Sampling::CpuTime,
    }
}

/// The settings file. Events that a machine does not know it leaves out.
fn settings_file(settings: Settings, major: u32) -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<configuration version=\"2.0\" \
         label=\"Tepui\" description=\"CPU, allocations and locks\" provider=\"Tepui\">\n",
    );
    let mut event = |name: &str, settings: &[(&str, String)]| {
        let mut lines = format!("  <event name=\"jdk.{name}\">\n");
        let enabled = [("enabled", "true".to_owned())];
        for (key, value) in enabled.iter().chain(settings) {
            // Writing to a text cannot fail.
            let _written = writeln!(lines, "    <setting name=\"{key}\">{value}</setting>");
        }
        lines.push_str("  </event>\n");
        text.push_str(&lines);
    };
    let stack = || ("stackTrace", "true".to_owned());
    if let Some(period) = settings.period {
        let period = format!("{} ms", period.as_millis());
        match sampling(major) {
            Sampling::Ticks => event("ExecutionSample", &[("period", period)]),
            Sampling::CpuTime => {
                event("CPUTimeSample", &[stack(), ("throttle", period)]);
                event("CPUTimeSamplesLost", &[]);
            }
        }
    }
    if settings.with_others {
        if major >= 16 {
            let throttle = format!("{ALLOCATIONS_PER_SECOND}/s");
            event("ObjectAllocationSample", &[stack(), ("throttle", throttle)]);
        } else {
            event("ObjectAllocationInNewTLAB", &[stack()]);
            event("ObjectAllocationOutsideTLAB", &[stack()]);
        }
        for (name, threshold) in [
            ("JavaMonitorEnter", MONITOR_THRESHOLD_MS),
            ("ThreadPark", PARK_THRESHOLD_MS),
        ] {
            let threshold = format!("{threshold} ms");
            event(name, &[stack(), ("threshold", threshold)]);
        }
    }
    text.push_str("</configuration>\n");
    text
}

/// Names of recordings in the answer to `JFR.check` that agents began which run
/// no longer, or this one before it lost the machine.
fn leftovers(answer: &str) -> Vec<String> {
    let names = answer
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("name="));
    names
        .map(|name| name.trim_matches('"'))
        .filter(|name| {
            let mark = name.strip_prefix(NAME).and_then(Mark::parse);
            mark.is_some_and(|mark| mark == Mark::own() || !mark.is_of_running_agent())
        })
        .map(str::to_owned)
        .collect()
}

/// The depth in the answer to `JFR.configure`.
fn stack_depth(answer: &str) -> Option<u32> {
    let line = answer
        .lines()
        .find_map(|line| line.trim().strip_prefix("Stack depth:"))?;
    line.trim().parse().ok()
}

/// Asks `machine` whether it has a flight recorder, and returns its version.
pub(super) async fn probe(machine: &Machine) -> Result<String, JvmError> {
    let answer = machine.command("VM.version").await?;
    let version = version(&answer).unwrap_or("of unknown version").to_owned();
    match machine.command("help JFR.start").await {
        Ok(help) if help.contains("JFR.start") => Ok(version),
        Ok(_) | Err(JvmError::Refused { .. }) => Err(JvmError::NoRecorder {
            pid: machine.pid(),
            version,
        }),
        Err(other) => Err(other),
    }
}

impl Recording {
    /// Begins to record; recordings and files of agents that were ended are
    /// removed first.
    pub(super) async fn start(pid: i32, settings: Settings) -> Result<Self, JvmError> {
        let machine = aside(pid, move || Machine::of(pid)).await??;
        let version = probe(&machine).await?;
        let major = major(&version);
        let tmp = |source| JvmError::Tmp { pid, source };
        machine.tmp().remove_leftovers().map_err(tmp)?;
        // Before the recorder is in use: later it cannot be changed.
        let configured = machine.command("JFR.configure").await?;
        if stack_depth(&configured).is_none_or(|depth| depth < STACK_DEPTH) {
            let deeper = format!("JFR.configure stackdepth={STACK_DEPTH}");
            if let Err(error) = machine.command(&deeper).await {
                debug!(pid, %error, "stack depth of the flight recorder not changed");
            }
        }
        for name in leftovers(&machine.command("JFR.check").await?) {
            machine.command(&format!("JFR.stop name={name}")).await?;
        }
        let folder = Folder::create(machine.tmp()).map_err(tmp)?;
        let recording = Self {
            name: format!("{NAME}{}", Mark::own()),
            machine,
            folder,
            read_until: None,
            version,
            sampling: sampling(major),
        };
        recording
            .folder
            .write(SETTINGS_FILE, &settings_file(settings, major))
            .map_err(tmp)?;
        let mut start = format!(
            "JFR.start name={} settings={} disk=true dumponexit=false maxage={}s maxsize={MAX_KEPT}",
            recording.name,
            recording.folder.path_of(SETTINGS_FILE),
            settings.max_age.as_secs().max(1),
        );
        if let Some(length) = settings.ends_after {
            // Without a name the machine would write into its own folder.
            start.push_str(&format!(
                " duration={}s filename={}",
                length.as_secs().max(1),
                recording.folder.path_of(END_FILE)
            ));
        }
        let started = recording.expect(&start, "Started recording").await;
        recording.folder.remove(SETTINGS_FILE).map_err(tmp)?;
        started?;
        Ok(recording)
    }

    /// The process.
    pub(super) fn pid(&self) -> i32 {
        self.machine.pid()
    }

    /// Gives a command that must be answered by a text that holds `wanted`:
    /// refusals, too, may come as success.
    async fn expect(&self, command: &str, wanted: &str) -> Result<(), JvmError> {
        let answer = self.machine.command(command).await?;
        if answer.contains(wanted) {
            return Ok(());
        }
        Err(JvmError::Refused {
            pid: self.pid(),
            command: verb(command),
            answer: first_line(&answer),
        })
    }

    /// Takes what was recorded since the last time.
    pub(super) async fn take(&mut self) -> Result<Taken, JvmError> {
        let pid = self.pid();
        let path = self.folder.path_of(DUMP_FILE);
        let dump = format!("JFR.dump name={} filename={path}", self.name);
        let dumped = self.expect(&dump, "Dumped recording").await;
        let opened = dumped.and_then(|()| {
            let opened = self.folder.open(DUMP_FILE);
            opened.map_err(|source| JvmError::Tmp { pid, source })
        });
        // What is open stays readable.
        let removed = self.folder.remove(DUMP_FILE);
        let file = opened?;
        removed.map_err(|source| JvmError::Tmp { pid, source })?;
        let read_until = self.read_until;
        let read = aside(pid, move || read_chunks(file, read_until)).await?;
        let (taken, read_until) = read.map_err(|source| JvmError::Tmp { pid, source })?;
        self.read_until = read_until;
        Ok(taken)
    }

    /// Stops recording and removes everything.
    pub(super) async fn stop(self) -> Result<(), JvmError> {
        let stop = format!("JFR.stop name={}", self.name);
        self.expect(&stop, "Stopped recording").await
    }
}

/// Reads the chunks of a file that begin after `read_until`.
fn read_chunks(
    mut file: File,
    read_until: Option<UnixNanos>,
) -> io::Result<(Taken, Option<UnixNanos>)> {
    let mut taken = Taken::default();
    let mut read_until = read_until;
    let length = file.metadata()?.len();
    let mut at = 0;
    let header_bytes = u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX);
    while at < length && taken.chunks.len() + taken.damaged.len() < MAX_CHUNKS {
        file.seek(SeekFrom::Start(at))?;
        let header = match Header::read(&read_up_to(&mut file, header_bytes)?) {
            Ok(header) => header,
            Err(error) => {
                // Without it the next chunk cannot be found.
                taken.damaged.push(error);
                break;
            }
        };
        if read_until.is_none_or(|until| header.start > until) {
            read_until = Some(header.start);
            file.seek(SeekFrom::Start(at))?;
            match jfr::read(&read_up_to(&mut file, header.bytes)?) {
                Ok(chunk) => taken.chunks.push(chunk),
                Err(error) => taken.damaged.push(error),
            }
        }
        at = at.saturating_add(header.bytes);
    }
    Ok((taken, read_until))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn versions_are_read_as_each_release_writes_them() {
        for (answer, expected, number) in [
            (
                "OpenJDK 64-Bit Server VM version 17.0.15+6\nJDK 17.0.15\n",
                Some("17.0.15"),
                17,
            ),
            ("x\nJDK 8.0_362\n", Some("8.0_362"), 8),
            ("x\nJDK 1.8.0_362\n", Some("1.8.0_362"), 8),
            ("x\nJDK 25\n", Some("25"), 25),
            ("x\n", None, 0),
        ] {
            assert_eq!(version(answer), expected);
            assert_eq!(major(expected.unwrap_or("")), number);
        }
    }

    #[test]
    fn each_release_gets_the_events_it_knows() {
        let settings = Settings {
            period: Some(Duration::from_millis(10)),
            with_others: true,
            max_age: Duration::from_secs(10),
            ends_after: None,
        };
        let names = |settings, major| {
            let text = settings_file(settings, major);
            let names = text.lines().filter_map(|line| {
                line.trim()
                    .strip_prefix("<event name=\"jdk.")?
                    .strip_suffix("\">")
            });
            names.collect::<Vec<_>>().join(" ")
        };
        for (major, expected) in [
            (
                11,
                "ExecutionSample ObjectAllocationInNewTLAB ObjectAllocationOutsideTLAB JavaMonitorEnter ThreadPark",
            ),
            (
                17,
                "ExecutionSample ObjectAllocationSample JavaMonitorEnter ThreadPark",
            ),
            (
                25,
                "CPUTimeSample CPUTimeSamplesLost ObjectAllocationSample JavaMonitorEnter ThreadPark",
            ),
        ] {
            assert_eq!(names(settings, major), expected);
        }
        let only_cpu = Settings {
            with_others: false,
            ..settings
        };
        expect![[r#"
            <?xml version="1.0" encoding="UTF-8"?>
            <configuration version="2.0" label="Tepui" description="CPU, allocations and locks" provider="Tepui">
              <event name="jdk.ExecutionSample">
                <setting name="enabled">true</setting>
                <setting name="period">10 ms</setting>
              </event>
            </configuration>
        "#]]
        .assert_eq(&settings_file(only_cpu, 17));
    }

    #[test]
    fn recordings_of_ended_agents_are_told_by_their_name() {
        let own = Mark::own();
        let answer = format!(
            "Recording 1: name=mine maxage=1s (running)\nRecording 2: \
             name={NAME}8388608-12345 (running)\nRecording 3: name=\"{NAME}8388609-1\" \
             (running)\nRecording 4: name={NAME}{own} (running)\n"
        );
        assert_eq!(
            leftovers(&answer),
            [
                "tepui-agent-8388608-12345".to_owned(),
                "tepui-agent-8388609-1".to_owned(),
                format!("{NAME}{own}"),
            ]
        );
    }

    #[test]
    fn the_depth_of_stacks_is_read() {
        assert_eq!(stack_depth("Dump path: /x\n\nStack depth: 64\n"), Some(64));
        assert_eq!(stack_depth(""), None);
    }
}
