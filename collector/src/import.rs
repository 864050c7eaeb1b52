//! Reads profiles that other tools wrote, for `collector import`.
//!
//! One file per format; all give [`Imported`]: stacks and columns, to which a
//! caller adds labels and a window. Pure: no I/O, no clock.
//!
//! Files are hostile. [`Limits`] bounds what is unpacked and what is kept: a
//! stack beyond a limit is added to one synthetic stack, so every total stays
//! right, and [`LeftOut`] counts what was changed. No bytes make a reader
//! panic.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use proto::codec::{self, CodecError};
use proto::limits::MAX_STRING_BYTES;
use proto::profile::{Column, Facts};
use proto::stack::Stack;
use proto::value_type::ProfileType;
use proto::window::UnixNanos;

mod folded;
mod known;
mod perf_script;
mod pprof;
mod speedscope;
mod tally;
mod words;

pub use folded::FoldedError;
pub use perf_script::PerfScriptError;
pub use pprof::PprofFileError;
pub use speedscope::SpeedscopeError;
pub use words::{Key, Words};

/// How a foreign file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `profile.proto`, gzipped or not.
    Pprof,
    /// `root;child;leaf 42`, one line per stack.
    Folded,
    /// Text that `perf script` prints.
    PerfScript,
    /// JSON of speedscope.app.
    Speedscope,
}

/// The text names no format that is read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no format is called {text:?}; use one of {}", known_formats())]
pub struct UnknownFormat {
    text: String,
}

fn known_formats() -> String {
    Format::ALL.map(Format::name).join(", ")
}

/// How much of a file is read and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest file after unpacking, in bytes. A pprof file is held to
    /// [`proto::pprof::MAX_PROFILE_BYTES`] as well.
    pub file_bytes: usize,
    /// Most memory that the messages of a pprof file may take.
    pub decoded_bytes: usize,
    /// Most different stacks.
    pub stacks: usize,
    /// Most frames of one stack; deeper ones lose their root.
    pub depth: usize,
    /// Longest text of a frame in bytes; longer ones are cut.
    pub name_bytes: usize,
    /// Most bytes of all stacks and their texts together, counted as
    /// [`proto::dictionary`] counts them.
    pub dictionary_bytes: usize,
}

impl Default for Limits {
    /// What one import may hold so that it fits into the dictionary of one
    /// stream, with room for labels.
    fn default() -> Self {
        Self {
            file_bytes: 256 << 20,
            decoded_bytes: 512 << 20,
            stacks: 64 * 1024,
            depth: 1024,
            name_bytes: MAX_STRING_BYTES,
            dictionary_bytes: 10 << 20,
        }
    }
}

/// What the numbers of a file count when it does not say so itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assumed {
    profile_type: ProfileType,
    weight: u64,
}

impl Assumed {
    /// Numbers are samples of CPU, taken `rate_hz` times a second.
    pub fn cpu_samples(rate_hz: NonZeroU32) -> Self {
        Self {
            profile_type: ProfileType::cpu(),
            // A rate beyond one per nanosecond is as good as one.
            weight: (1_000_000_000 / u64::from(rate_hz.get())).max(1),
        }
    }

    /// Numbers are values of `profile_type` in its unit.
    pub fn values(profile_type: ProfileType) -> Self {
        Self {
            profile_type,
            weight: 1,
        }
    }
}

/// What of a file was changed or not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Labels of single samples, which are not kept.
    pub sample_labels: u64,
    /// Lines that were not understood.
    pub lines: u64,
    /// Samples whose stack is beyond a limit; they are kept under one
    /// synthetic stack.
    pub pooled_samples: u64,
    /// Samples whose stack was deeper than is kept.
    pub truncated_samples: u64,
    /// Texts that were cut.
    pub cut_texts: u64,
}

impl LeftOut {
    /// What it says, for a person; nothing if nothing was left out.
    pub fn describe(&self) -> Option<String> {
        let parts: Vec<String> = [
            (self.sample_labels, "labels of samples dropped"),
            (self.lines, "lines not understood"),
            (self.pooled_samples, "samples beyond the limit of stacks"),
            (
                self.truncated_samples,
                "samples with a stack cut at its root",
            ),
            (self.cut_texts, "names cut"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// What a file holds of one recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// When the recording began, if the file says so.
    pub start: Option<UnixNanos>,
    /// How long it took, greater than zero, if the file says so.
    pub duration: Option<Duration>,
    /// One stack per sample, leaf first, each once. An empty one stands for
    /// samples without a stack.
    pub stacks: Vec<Stack>,
    /// Columns of different types, each with one value per stack.
    pub columns: Vec<Column>,
    /// What was not kept.
    pub left_out: LeftOut,
}

/// What one pprof file holds, with each frame once.
#[derive(Clone, Debug)]
pub struct Dense {
    /// When it was begun, if the file says so.
    pub start: Option<UnixNanos>,
    /// How long it took, if the file says so.
    pub duration: Option<Duration>,
    /// The stacks and their frames.
    pub words: Words,
    /// One value per stack.
    pub columns: Vec<Column>,
    /// What was not kept.
    pub left_out: LeftOut,
}

impl From<Dense> for Imported {
    fn from(dense: Dense) -> Self {
        Self {
            start: dense.start,
            duration: dense.duration,
            stacks: dense.words.stacks(),
            columns: dense.columns,
            left_out: dense.left_out,
        }
    }
}

impl Imported {
    /// What is known of the time beside the stacks.
    pub fn facts(&self) -> Facts {
        Facts {
            dropped_labels: self.left_out.sample_labels,
            ..Facts::default()
        }
    }
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// There is nothing in it.
    #[error("the file is empty")]
    Empty,
    /// It cannot be unpacked, or holds too much.
    #[error("cannot unpack the file")]
    Unpack(#[source] CodecError),
    /// It is larger than [`Limits::file_bytes`].
    #[error(
        "the file has {bytes} bytes, more than the {limit} that are read; record a shorter time, or fold its stacks first"
    )]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// It is of a format that is known and not read.
    #[error("the file is {what}, which is not read; {advice}")]
    Foreign {
        /// What it is.
        what: &'static str,
        /// How to make something of it that is read.
        advice: &'static str,
    },
    /// Nothing in it looks like a format that is read.
    #[error(
        "the file does not look like a profile that is read; if it is one, name its format with --format: {}",
        known_formats()
    )]
    Unknown,
    /// It is no usable pprof profile.
    #[error("cannot read the file as pprof")]
    Pprof(#[source] PprofFileError),
    /// It holds no usable folded stacks.
    #[error("cannot read the file as folded stacks")]
    Folded(#[source] FoldedError),
    /// It is no usable output of `perf script`.
    #[error("cannot read the file as output of perf script")]
    PerfScript(#[source] PerfScriptError),
    /// It is no usable speedscope file.
    #[error("cannot read the file as speedscope JSON")]
    Speedscope(#[source] SpeedscopeError),
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 4] = [
        Self::Pprof,
        Self::Folded,
        Self::PerfScript,
        Self::Speedscope,
    ];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pprof => "pprof",
            Self::Folded => "folded",
            Self::PerfScript => "perf-script",
            Self::Speedscope => "speedscope",
        }
    }

    /// Tells the format of unpacked `bytes` by how they begin.
    ///
    /// # Errors
    ///
    /// [`ImportError::Foreign`] for a format that is recognized and not read,
    /// [`ImportError::Unknown`] if they look like none.
    pub fn detect(bytes: &[u8]) -> Result<Self, ImportError> {
        for (magic, what, advice) in FOREIGN {
            if bytes.starts_with(magic) {
                return Err(ImportError::Foreign { what, advice });
            }
        }
        let head = bytes.get(..HEAD_BYTES).unwrap_or(bytes);
        // The first field of a profile names types by small numbers, which are
        // control characters.
        if !is_text(head) {
            return Ok(Self::Pprof);
        }
        let head = head.trim_ascii_start();
        if head.starts_with(b"[") && head.get(1..).is_some_and(begins_json) {
            return Err(ImportError::Foreign {
                what: "a JSON list, as Chrome's traces are",
                advice: "open it in speedscope.app and export it from there",
            });
        }
        if head.starts_with(b"{") && head.get(1..).is_some_and(begins_json) {
            return Ok(Self::Speedscope);
        }
        // The first line may be longer than what was looked at so far.
        let first = lines(bytes).find(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        match first {
            Some((_, line)) if perf_script::is_event(&line) => Ok(Self::PerfScript),
            Some((_, line)) if folded::is_stack(&line) => Ok(Self::Folded),
            _ => Err(ImportError::Unknown),
        }
    }
}

/// How far into a file its format is looked for.
const HEAD_BYTES: usize = 64 * 1024;

/// How formats that are not read begin, what they are and what to do.
const FOREIGN: [(&[u8], &str, &str); 5] = [
    (
        b"PERFILE2",
        "perf's own recording",
        "print it first: perf script -i FILE > FILE.txt",
    ),
    (
        b"FLR\0",
        "a recording of Java's Flight Recorder",
        "convert it to folded stacks or pprof first",
    ),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (
        b"\x28\xb5\x2f\xfd",
        "packed with zstd",
        "unpack it first: zstd -d",
    ),
    (b"\xfd7zXZ\0", "packed with xz", "unpack it first: xz -d"),
];

fn is_text(bytes: &[u8]) -> bool {
    !bytes
        .iter()
        .any(|byte| byte.is_ascii_control() && !b"\t\n\r".contains(byte))
}

/// Whether JSON may go on like this after its first bracket.
fn begins_json(rest: &[u8]) -> bool {
    let rest = rest.trim_ascii_start();
    rest.is_empty() || rest.starts_with(b"\"") || rest.starts_with(b"{")
}

/// Lines with their numbers, counted from 1, without the space at their ends.
/// Bytes that are no UTF-8 become `U+FFFD`.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, Cow<'_, str>)> {
    bytes
        .split(|byte| *byte == b'\n')
        .map(|line| String::from_utf8_lossy(line.trim_ascii_end()))
        .enumerate()
        .map(|(index, line)| (index.saturating_add(1), line))
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| UnknownFormat {
                text: excerpt(text),
            })
    }
}

/// The start of `text`, at most `bytes` of it.
fn start_of(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let mut ends = (0..=bytes).rev();
    ends.find_map(|end| text.get(..end)).unwrap_or("")
}

/// The start of `text`, short enough for a message.
fn excerpt(text: &str) -> String {
    start_of(text, 64).to_owned()
}

/// Reads a profile of another tool, gzipped or not, in `format` or in the one
/// that it looks like.
///
/// Most files give one [`Imported`]. A speedscope file gives one per kind of
/// number it holds, because its profiles share no samples. `assumed` says what
/// numbers without a type count.
///
/// # Errors
///
/// [`ImportError`] if the bytes are of no format that is read, are damaged, or
/// pass a limit that cannot be kept by leaving something out.
pub fn read(
    bytes: &[u8],
    format: Option<Format>,
    assumed: &Assumed,
    limits: &Limits,
) -> Result<Vec<Imported>, ImportError> {
    let bytes = unpack(bytes, limits)?;
    let format = match format {
        Some(format) => format,
        None => Format::detect(&bytes)?,
    };
    match format {
        Format::Pprof => pprof::read(&bytes, limits)
            .map(|dense| vec![dense.into()])
            .map_err(ImportError::Pprof),
        Format::Folded => folded::read(&bytes, assumed, limits)
            .map(|imported| vec![imported])
            .map_err(ImportError::Folded),
        Format::PerfScript => perf_script::read(&bytes, assumed, limits)
            .map(|imported| vec![imported])
            .map_err(ImportError::PerfScript),
        Format::Speedscope => {
            speedscope::read(&bytes, assumed, limits).map_err(ImportError::Speedscope)
        }
    }
}

/// Reads a pprof profile, gzipped or not, without unfolding its stacks.
///
/// # Errors
///
/// [`PprofFileError`] if it is none, is damaged, or passes a limit that cannot be
/// kept by leaving something out.
pub fn read_pprof(bytes: &[u8], limits: &Limits) -> Result<Dense, PprofFileError> {
    pprof::read(bytes, limits)
}

fn unpack<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Cow<'a, [u8]>, ImportError> {
    let limit = limits.file_bytes;
    let unpacked = if codec::is_gzip(bytes) {
        Cow::Owned(codec::gunzip(bytes, limit).map_err(ImportError::Unpack)?)
    } else if bytes.len() > limit {
        return Err(ImportError::TooLarge {
            bytes: bytes.len(),
            limit,
        });
    } else {
        Cow::Borrowed(bytes)
    };
    match unpacked.is_empty() {
        true => Err(ImportError::Empty),
        false => Ok(unpacked),
    }
}

#[cfg(test)]
mod tests;
