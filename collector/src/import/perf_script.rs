//! Text that `perf script` prints: one header per event, then its stack, leaf
//! first, then a blank line; without call chains all on one line.
//!
//! ```text
//! COMM PID[/TID] [CPU] SECONDS: PERIOD EVENT:
//!         ADDRESS SYMBOL+0xOFFSET (MODULE)
//! ```
//!
//! Follows `tools/perf/builtin-script.c` of Linux and perf-script(1). Each event
//! becomes a column, weighted by its period where that is printed; processes
//! and threads are added up. Times are those of the machine's uptime, so a file
//! has a duration and no start.
//!
//! Names follow what the agent does: a frame without a symbol has no address,
//! because perf prints it as of the process in some versions and as of the file
//! in others.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use proto::limits::MAX_COLUMNS;
use proto::stack::{Frame, FrameKind};
use proto::value_type::{ProfileType, Temporality, ValueType, ValueTypeError};
use regex::Regex;

use super::known::{kind_of_compiled, placed_frame};
use super::tally::{ColumnId, Scale, Tally};
use super::{Assumed, Imported, Limits, excerpt, lines};

/// Longest line that is looked at, in bytes.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// The profile's name of every event but the first clock.
const PROFILE: &str = "perf";
/// The name of a symbol or module that perf does not know.
const UNKNOWN: &str = "[unknown]";

/// `comm pid[/tid] [cpu] seconds.fraction: period event: rest`; the command may
/// hold spaces and numbers, so the time is what decides.
static HEADER: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = concat!(
        r"^\s*(?:.*?\s)?-?\d+(?:/-?\d+)?\s+(?:\[\d+\]\s+)?",
        r"(?<seconds>\d{1,10})\.(?<fraction>\d{1,9}):\s+",
        r"(?:(?<period>\d+)\s+)?(?<event>\S+):(?:\s+(?<rest>.*))?$",
    );
    Regex::new(pattern).expect("the pattern is a constant that a test uses")
});

/// Why text is no usable output of `perf script`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PerfScriptError {
    /// No line is the header of an event.
    #[error(
        "it holds no events with a time; print it with: perf script -F comm,pid,tid,time,period,event,ip,sym,dso"
    )]
    Empty,
    /// There are more events than a window can hold.
    #[error(
        "line {line} has event {event:?}, one more than the {MAX_COLUMNS} that can be imported; record fewer at once"
    )]
    TooManyEvents {
        /// The line's number, from 1.
        line: usize,
        /// The event.
        event: String,
    },
    /// One event has periods on some lines only.
    #[error(
        "line {line} prints event {event:?} in another way than lines before it; print all with the same -F"
    )]
    Mixed {
        /// The line's number, from 1.
        line: usize,
        /// The event.
        event: String,
    },
    /// An event's name cannot name a type.
    #[error("line {line} has an event with an unusable name")]
    EventName {
        /// The line's number, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: ValueTypeError,
    },
}

/// The header of an event.
#[derive(Debug, PartialEq, Eq)]
struct Header<'a> {
    time: Duration,
    period: Option<i64>,
    event: &'a str,
    rest: &'a str,
}

impl<'a> Header<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let parts = HEADER.captures(line)?;
        let text = |name: &str| parts.name(name).map_or("", |found| found.as_str());
        let fraction = format!("{:0<9}", text("fraction"));
        Some(Self {
            time: Duration::new(text("seconds").parse().ok()?, fraction.parse().ok()?),
            // More than 64 bits say no more than the largest number.
            period: parts
                .name("period")
                .map(|digits| digits.as_str().parse().unwrap_or(i64::MAX)),
            event: parts.name("event").map_or("", |found| found.as_str()),
            rest: parts.name("rest").map_or("", |found| found.as_str()),
        })
    }
}

/// Whether `line` is the header of an event, or of another record of perf.
pub(super) fn is_event(line: &str) -> bool {
    is_record(line) || (line.len() <= MAX_LINE_BYTES && Header::parse(line).is_some())
}

/// Whether `line` tells of a process and not of a sample, as with
/// `--show-task-events`.
fn is_record(line: &str) -> bool {
    line.contains(": PERF_RECORD_")
}

/// The parts of a line of a stack.
#[derive(Debug, PartialEq, Eq)]
struct StackLine<'a> {
    address: u64,
    symbol: &'a str,
    /// Empty when not printed.
    module: &'a str,
}

impl<'a> StackLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (address, rest) = line.trim_start().split_once(char::is_whitespace)?;
        let address = u64::from_str_radix(address, 16).ok()?;
        let (symbol, module) = split_module(rest.trim()).unwrap_or((rest, ""));
        Some(Self {
            address,
            symbol: without_offset(symbol.trim()),
            module,
        })
    }

    fn frame(&self) -> Frame {
        if self.symbol.is_empty() || self.symbol == UNKNOWN {
            return Frame::named(FrameKind::Synthetic, &stand_in(self.module));
        }
        let kind = if self.is_kernel() {
            FrameKind::Kernel
        } else if is_compiled(self.module) {
            kind_of_compiled(self.symbol)
        } else {
            FrameKind::Native
        };
        Frame::named(kind, without_hash(self.symbol))
    }

    fn is_kernel(&self) -> bool {
        match self.module {
            // The upper half of the address space is the kernel's.
            "" | "inlined" => self.address > u64::MAX / 2,
            module => is_kernel_module(module),
        }
    }
}

/// Splits `symbol (module)`, where both may hold brackets: `f(int) (/a (deleted))`.
fn split_module(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_suffix(')')?;
    let mut depth = 1_usize;
    for (at, byte) in inner.bytes().enumerate().rev() {
        match byte {
            b')' => depth = depth.saturating_add(1),
            b'(' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            let (symbol, module) = (inner.get(..at)?, inner.get(at..)?.strip_prefix('(')?);
            // Without a space these are the arguments of a C++ function.
            let is_module = symbol.is_empty() || symbol.ends_with(char::is_whitespace);
            return is_module.then_some((symbol, module));
        }
    }
    None
}

/// `symbol` without `+0xOFFSET`.
fn without_offset(symbol: &str) -> &str {
    match symbol.rsplit_once("+0x") {
        Some((name, offset)) if is_hex(offset) => name,
        _ => symbol,
    }
}

/// `symbol` without the hash that old Rust symbols end in.
fn without_hash(symbol: &str) -> &str {
    match symbol.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 && is_hex(hash) => name,
        _ => symbol,
    }
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What stands for code without a symbol in `module`.
fn stand_in(module: &str) -> String {
    match module {
        "" | UNKNOWN => UNKNOWN.to_owned(),
        module if module.starts_with("[kernel.") => "[kernel]".to_owned(),
        module => format!("[{}]", file_name(module).trim_matches(['[', ']'])),
    }
}

fn is_kernel_module(module: &str) -> bool {
    let of_programs = ["[vdso]", "[vsyscall]", "[heap]", "[stack]", "[anon]"];
    let name = file_name(module);
    (module.starts_with('[') && module != UNKNOWN && !of_programs.contains(&module))
        || name.starts_with("vmlinux")
        || name.starts_with("bpf_prog_")
        || name.ends_with(".ko")
        || name.contains(".ko.")
}

/// Whether `module` is a map or file in which a runtime describes what it
/// compiled.
fn is_compiled(module: &str) -> bool {
    let name = file_name(module);
    (name.starts_with("perf-") && name.ends_with(".map"))
        || (name.starts_with("jitted-") && name.ends_with(".so"))
}

/// An event seen so far.
#[derive(Clone, Copy, Debug)]
struct Event {
    column: ColumnId,
    has_period: bool,
}

/// A sample whose stack is being read.
#[derive(Debug)]
struct Sample {
    column: ColumnId,
    value: i64,
    /// The last frame, until it is known whether a line with its place follows.
    frame: Option<Frame>,
}

/// Reads line by line.
struct Reader<'l> {
    assumed: &'l Assumed,
    tally: Tally<'l>,
    events: HashMap<String, Event>,
    sample: Option<Sample>,
    times: Option<(Duration, Duration)>,
}

/// Reads what `perf script` printed. A clock whose period is not printed counts
/// what `assumed` says; other such events count one per sample.
///
/// # Errors
///
/// [`PerfScriptError`] if there is no event, or one that cannot be a column.
pub(super) fn read(
    bytes: &[u8],
    assumed: &Assumed,
    limits: &Limits,
) -> Result<Imported, PerfScriptError> {
    let mut reader = Reader {
        assumed,
        tally: Tally::new(limits),
        events: HashMap::new(),
        sample: None,
        times: None,
    };
    for (number, line) in lines(bytes) {
        reader.line(number, &line)?;
    }
    reader.end_sample();
    reader.finish()
}

impl Reader<'_> {
    fn line(&mut self, number: usize, line: &str) -> Result<(), PerfScriptError> {
        if line.starts_with('#') {
            return Ok(());
        }
        if line.is_empty() || is_record(line) {
            self.end_sample();
            return Ok(());
        }
        // Lines of stacks begin with a tab, except when a tool has changed them.
        let is_long = line.len() > MAX_LINE_BYTES;
        if !is_long
            && !line.starts_with('\t')
            && let Some(header) = Header::parse(line)
        {
            return self.begin_sample(number, &header);
        }
        if is_long || !self.stack_line(line) {
            let left_out = self.tally.left_out();
            left_out.lines = left_out.lines.saturating_add(1);
        }
        Ok(())
    }

    /// Takes a line that belongs to the sample before it; says whether it does.
    fn stack_line(&mut self, line: &str) -> bool {
        let Some(sample) = &mut self.sample else {
            return false;
        };
        if !line.starts_with(char::is_whitespace) {
            return false;
        }
        if let Some(parsed) = StackLine::parse(line) {
            let above = sample.frame.replace(parsed.frame());
            push(&mut self.tally, above);
            return true;
        }
        // With `-F +srcline` the place stands below its frame, two spaces in.
        let Some(place) = line.strip_prefix("  ").filter(|p| !p.starts_with(' ')) else {
            return false;
        };
        if let Some((file, line)) = source_place(place)
            && let Some(frame) = &mut sample.frame
        {
            *frame = placed_frame(&frame.function, file, line, frame.kind);
        }
        true
    }

    fn begin_sample(&mut self, number: usize, header: &Header<'_>) -> Result<(), PerfScriptError> {
        self.end_sample();
        let event = self.event(number, header)?;
        self.times = Some(match self.times {
            Some((first, last)) => (first.min(header.time), last.max(header.time)),
            None => (header.time, header.time),
        });
        // Without call chains the leaf stands in the header. Tracepoints print
        // their arguments there, which name no module.
        let leaf = StackLine::parse(header.rest).filter(|leaf| !leaf.module.is_empty());
        let is_whole = leaf.is_some();
        self.sample = Some(Sample {
            column: event.column,
            value: header.period.unwrap_or(1),
            frame: leaf.map(|leaf| leaf.frame()),
        });
        if is_whole {
            self.end_sample();
        }
        Ok(())
    }

    fn end_sample(&mut self) {
        if let Some(sample) = self.sample.take() {
            push(&mut self.tally, sample.frame);
            let stack = self.tally.finish_stack();
            self.tally.count(sample.column, stack, sample.value);
        }
    }

    fn event(&mut self, number: usize, header: &Header<'_>) -> Result<Event, PerfScriptError> {
        let has_period = header.period.is_some();
        if let Some(event) = self.events.get(header.event) {
            return match event.has_period == has_period {
                true => Ok(*event),
                false => Err(PerfScriptError::Mixed {
                    line: number,
                    event: excerpt(header.event),
                }),
            };
        }
        if self.events.len() >= MAX_COLUMNS {
            return Err(PerfScriptError::TooManyEvents {
                line: number,
                event: excerpt(header.event),
            });
        }
        let column = self
            .new_column(header.event, has_period)
            .map_err(|source| PerfScriptError::EventName {
                line: number,
                source,
            })?;
        let event = Event { column, has_period };
        self.events.insert(header.event.to_owned(), event);
        Ok(event)
    }

    /// Adds the column of an event that was not seen before.
    fn new_column(&mut self, event: &str, has_period: bool) -> Result<ColumnId, ValueTypeError> {
        let (clock_type, scale) = match has_period {
            true => (ProfileType::cpu(), Scale::Equal(None)),
            false => (
                self.assumed.profile_type.clone(),
                Scale::counts(self.assumed),
            ),
        };
        let (first_choice, scale) = match is_clock(event) {
            true => (Some(clock_type), scale),
            false => (None, Scale::Equal(None)),
        };
        let name = type_name(base_name(event));
        let numbered = (2..).map(|number| event_type(&format!("{name}#{number}"), event));
        let profile_type = first_choice
            .into_iter()
            .map(Ok)
            .chain([&name, &type_name(event)].map(|name| event_type(name, event)))
            .chain(numbered)
            .find(|wanted| match wanted {
                Ok(wanted) => self.tally.types().all(|other| other != wanted),
                Err(_) => true,
            })
            .expect("numbers do not run out")?;
        Ok(self.tally.column(profile_type, Temporality::Delta, scale))
    }

    fn finish(self) -> Result<Imported, PerfScriptError> {
        let Some((first, last)) = self.times else {
            return Err(PerfScriptError::Empty);
        };
        let (stacks, columns, left_out) = self.tally.finish();
        Ok(Imported {
            start: None,
            duration: Some(last.saturating_sub(first)).filter(|length| !length.is_zero()),
            stacks,
            columns,
            left_out,
        })
    }
}

fn push(tally: &mut Tally<'_>, frame: Option<Frame>) {
    if let Some(frame) = frame {
        let id = tally.frame(frame.borrowed());
        tally.push(id);
    }
}

/// Splits `file:line`; perf writes `??:0` and an address where it knows none.
fn source_place(place: &str) -> Option<(&str, u32)> {
    let (file, line) = place.trim().rsplit_once(':')?;
    let line = line.parse().ok().filter(|line| *line > 0)?;
    Some((file, line)).filter(|(file, _)| !file.starts_with('?'))
}

/// An event's name without the modifiers behind it, such as `:ppp`.
fn base_name(event: &str) -> &str {
    match event.rsplit_once(':') {
        Some((base, mods)) if mods.chars().all(|c| "ukhGHpPISDWeb".contains(c)) => base,
        _ => event,
    }
}

/// Whether an event counts nanoseconds on a CPU.
fn is_clock(event: &str) -> bool {
    matches!(base_name(event), "cpu-clock" | "task-clock")
}

/// `event` as a part of a profile type, which holds no colon; tracefs writes
/// `sched/sched_switch` as well.
fn type_name(event: &str) -> String {
    event.replace(':', "/")
}

fn event_type(name: &str, event: &str) -> Result<ProfileType, ValueTypeError> {
    let unit = if is_clock(event) {
        "nanoseconds"
    } else {
        "count"
    };
    let counted = ValueType::new(name, unit)?;
    ProfileType::new(PROFILE, counted.clone(), counted)
}
