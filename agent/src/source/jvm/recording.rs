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
use super::folder::{Folder, Mark, Standing, read_up_to};
use super::followed::aside;
use super::jfr::{self, Asked, Chunk, HEADER_BYTES, Header, JfrError, Room};

/// What names of recordings begin with; the mark of their agent follows.
const NAME: &str = "tepui-agent-";
/// Most that a recording keeps in the target's folder for temporary files.
const MAX_KEPT: &str = "32m";
/// Most recordings of ended agents that are stopped at a time.
const MAX_LEFTOVERS: usize = 64;
/// Longest version that is shown.
const MAX_VERSION_CHARS: usize = 40;
/// Most chunks of one file that are looked at, and most bytes of those that are read:
/// more than [`MAX_KEPT`], which the recorder exceeds by a chunk.
const MAX_CHUNKS: usize = 64;
const MAX_READ_BYTES: u64 = 64 << 20;
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
    asked: Asked,
}

/// What was recorded since the last time.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Chunks, in order.
    pub(super) chunks: Vec<Chunk>,
    /// Chunks that could not be read.
    pub(super) damaged: Vec<JfrError>,
    /// The room that is left.
    pub(super) room: Room,
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

/// What is asked for of events of which a release has two kinds.
fn asked(major: u32) -> Asked {
    Asked {
        cpu_time: sampling(major) == Sampling::CpuTime,
        allocation_samples: major >= 16,
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
        if asked(major).allocation_samples {
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
            let Some(mark) = name.strip_prefix(NAME).and_then(Mark::parse) else {
                return false;
            };
            // What looks like one of ours and is not is nobody's to stop.
            let is_whole = *name == format!("{NAME}{mark}");
            is_whole && (mark == Mark::own() || mark.standing() == Standing::Ended)
        })
        .take(MAX_LEFTOVERS)
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
    let version = version(&answer).unwrap_or("of unknown version").chars();
    let version: String = version
        .filter(|c| !c.is_control())
        .take(MAX_VERSION_CHARS)
        .collect();
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
        let folder = Folder::create(machine.tmp()).map_err(tmp)?;
        machine.tmp().remove_leftovers(&folder).map_err(tmp)?;
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
        let recording = Self {
            name: format!("{NAME}{}", Mark::own()),
            machine,
            folder,
            read_until: None,
            version,
            sampling: sampling(major),
            asked: asked(major),
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

    /// Takes what was recorded since the last time, as far as there is `room`.
    pub(super) async fn take(&mut self, room: Room) -> Result<Taken, JvmError> {
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
        let (read_until, asked) = (self.read_until, self.asked);
        let read = aside(pid, move || read_chunks(file, read_until, asked, room)).await?;
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

/// Reads the chunks of a file behind the one that began at `read_until`; all of
/// them where there is none. Whether one is later does not say its start: a clock
/// that is set back must not make everything old.
fn read_chunks(
    mut file: File,
    read_until: Option<UnixNanos>,
    asked: Asked,
    room: Room,
) -> io::Result<(Taken, Option<UnixNanos>)> {
    let mut taken = Taken {
        room,
        ..Taken::default()
    };
    let length = file.metadata()?.len();
    let header_bytes = u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX);
    let mut found: Vec<(u64, Header)> = Vec::new();
    let mut at = 0;
    while at < length && found.len() < MAX_CHUNKS {
        file.seek(SeekFrom::Start(at))?;
        match Header::read(&read_up_to(&mut file, header_bytes)?) {
            Ok(header) => found.push((at, header)),
            Err(error) => {
                // Without it the next chunk cannot be found.
                taken.damaged.push(error);
                break;
            }
        }
        at = at.saturating_add(found.last().map_or(u64::MAX, |(_, header)| header.bytes));
    }
    let known = read_until.and_then(|until| {
        let mut starts = found.iter();
        starts.rposition(|(_, header)| header.start == until)
    });
    let unread = found.get(known.map_or(0, |known| known + 1)..);
    let mut left = MAX_READ_BYTES;
    for (at, header) in unread.unwrap_or_default() {
        let bytes = header.bytes;
        let Some(rest) = left.checked_sub(bytes) else {
            taken.damaged.push(JfrError::TooLarge { bytes });
            continue;
        };
        left = rest;
        file.seek(SeekFrom::Start(*at))?;
        let bytes = read_up_to(&mut file, bytes)?;
        match jfr::read(&bytes, asked, &mut taken.room) {
            Ok(chunk) => taken.chunks.push(chunk),
            Err(error) => taken.damaged.push(error),
        }
    }
    let read_until = found.last().map(|(_, header)| header.start).or(read_until);
    Ok((taken, read_until))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use std::io::Write as _;

    #[test]
    fn each_chunk_is_read_once_also_when_the_clock_was_set_back() {
        const REAL: &[u8] =
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/jdk17.jfr"));
        let begun_at = |start: i64| {
            let mut chunk = REAL.to_vec();
            chunk[32..40].copy_from_slice(&start.to_be_bytes());
            chunk
        };
        let read = |starts: &[i64], until: Option<UnixNanos>| {
            let mut file = tempfile::tempfile().unwrap();
            for start in starts {
                file.write_all(&begun_at(*start)).unwrap();
            }
            let (taken, until) = read_chunks(file, until, asked(17), Room::default()).unwrap();
            assert!(taken.damaged.is_empty());
            (taken.chunks.len(), until)
        };
        let at = |start| Some(UnixNanos::new(start));
        assert_eq!(read(&[100], None), (1, at(100)));
        assert_eq!(read(&[100, 200], at(100)), (1, at(200)));
        assert_eq!(read(&[100, 200, 300], at(100)), (2, at(300)));
        assert_eq!(read(&[200], at(200)), (0, at(200)));
        assert_eq!(read(&[200, 50], at(200)), (1, at(50)), "set back");
        assert_eq!(read(&[50, 60], at(50)), (1, at(60)));
        assert_eq!(read(&[70], at(60)), (1, at(70)), "the last is not kept");
        assert_eq!(read(&[], at(70)), (0, at(70)));
    }

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
        let own = Mark::own().to_string();
        let here = own.rsplit('-').next().unwrap();
        let answer = format!(
            "Recording 1: name=mine maxage=1s (running)\nRecording 2: \
             name={NAME}8388608-12345-{here} (running)\nRecording 3: \
             name=\"{NAME}8388609-1-{here}\" (running)\nRecording 4: name={NAME}{own} \
             (running)\nRecording 5: name={NAME}8388609-1-7 (running)\nRecording 6: \
             name={NAME}8388609-1-{here}-x (running)\nRecording 7: name={NAME}1-2 (running)\n"
        );
        assert_eq!(
            leftovers(&answer),
            [
                format!("{NAME}8388608-12345-{here}"),
                format!("{NAME}8388609-1-{here}"),
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
