//! Reads what the Java Flight Recorder writes: chunks of events that describe
//! themselves. Only the events of [`Kind`] are read.
//!
//! Bytes are hostile: lengths are checked against what is there, nesting and
//! the number of values are bounded, and a pooled value is read only when an
//! event refers to it. A chunk that does not hold together gives an error and
//! nothing else. Crate `jfrs` 0.2.5 was tried first: it sizes buffers by
//! lengths that it has not checked and follows nested values without a bound.
//!
//! The format has no specification; this follows `jdk.jfr.internal.consumer`
//! (`ChunkHeader`, `MetadataReader`, `ChunkParser`) of JDK 17 and 25, versions
//! 2.0 and 2.1 of the format.

use std::sync::Arc;

use proto::stack::Stack;
use proto::window::UnixNanos;

mod bytes;
mod metadata;
mod pools;

use bytes::Bytes;
use metadata::{Met, Metadata};
use pools::{Content, Pools};

/// Bytes of a chunk's header.
pub(super) const HEADER_BYTES: usize = 68;
/// Largest chunk that is read; the recorder begins another one at 12 MB.
pub(super) const MAX_CHUNK_BYTES: u64 = 32 << 20;
/// Most frames of all different stacks of a window; real ones have up to some
/// hundred thousand.
const MAX_FRAMES: usize = 1 << 18;
/// Most bytes of names of a window.
const MAX_NAME_BYTES: usize = 8 << 20;
/// Most events of a window.
const MAX_EVENTS: usize = 256 * 1024;
/// What a chunk begins with.
const MAGIC: [u8; 4] = *b"FLR\0";
/// Bit of the header's last number: numbers are compressed.
const COMPRESSED: u32 = 1;
/// Types of the events that describe the others.
const METADATA: u64 = 0;
const CHECKPOINT: u64 = 1;

/// Why a chunk is not read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum JfrError {
    /// It does not begin as one.
    #[error("no chunk of a flight recording")]
    NotAChunk,
    /// It is of a version that is not known.
    #[error("flight recordings of version {major}.{minor} are not known")]
    Version {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
    /// It is larger than any real one.
    #[error("a chunk of {bytes} bytes is not read")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// It does not hold together.
    #[error("damaged at byte {offset}: {what}")]
    Damaged {
        /// What was met.
        what: &'static str,
        /// Where.
        offset: usize,
    },
}

/// What a chunk's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Size of the chunk, with the header.
    pub(super) bytes: u64,
    /// When it began.
    pub(super) start: UnixNanos,
    metadata_at: usize,
    start_ticks: i64,
    ticks_per_second: i64,
}

/// Something that happened in the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// When it ended.
    pub(super) at: UnixNanos,
    /// What it was.
    pub(super) kind: Kind,
    /// Where it was; nothing if that is not known.
    pub(super) stack: Option<Stack>,
}

/// The events that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `jdk.ExecutionSample`: a thread was found running Java code.
    Execution,
    /// `jdk.CPUTimeSample`: a thread used up this much CPU time.
    CpuTime {
        /// In nanoseconds.
        period_ns: u64,
    },
    /// `jdk.CPUTimeSamplesLost`.
    CpuTimeLost {
        /// How many.
        count: u64,
    },
    /// `jdk.ObjectAllocationSample` and, before JDK 16, the events of
    /// allocations outside of buffers and of new buffers.
    Allocation {
        /// What it stands for.
        bytes: u64,
    },
    /// `jdk.JavaMonitorEnter`: a thread waited to enter `synchronized`.
    MonitorEnter {
        /// How long.
        wait_ns: u64,
        /// Class of the lock.
        class: Arc<str>,
    },
    /// `jdk.ThreadPark`: a thread was parked, by a lock or a queue for example.
    Park {
        /// How long.
        wait_ns: u64,
        /// Class of what it waited for; empty where that was not said.
        class: Arc<str>,
    },
}

/// Room for what is made of chunks: many small entries may refer to one large
/// text or one deep stack, so that the size of the file bounds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Frames of all different stacks.
    frames: usize,
    /// Bytes of the names of methods and classes.
    name_bytes: usize,
    /// Events.
    events: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            frames: MAX_FRAMES,
            name_bytes: MAX_NAME_BYTES,
            events: MAX_EVENTS,
        }
    }
}

/// Everything read of one chunk.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// The events, in the order of the file.
    pub(super) events: Vec<Event>,
    /// Events beyond [`MAX_EVENTS`] of its window.
    pub(super) dropped: u64,
}

/// What type an event is of, while it is read.
/// Which of the events that stand for the same a recording asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// CPU samples are taken by CPU time, not at ticks.
    pub(super) cpu_time: bool,
    /// Allocations are sampled, not those that begin or bypass a buffer.
    pub(super) allocation_samples: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Execution,
    CpuTime,
    CpuTimeLost,
    Allocation,
    MonitorEnter,
    Park,
}

impl Wanted {
    /// What an event called `name` is wanted as. Another recording of the machine may
    /// have asked for events that stand for the same as ours do.
    fn of(name: &str, asked: Asked) -> Option<Self> {
        Some(match name {
            "jdk.ExecutionSample" if !asked.cpu_time => Self::Execution,
            "jdk.CPUTimeSample" if asked.cpu_time => Self::CpuTime,
            "jdk.CPUTimeSamplesLost" if asked.cpu_time => Self::CpuTimeLost,
            "jdk.ObjectAllocationSample" if asked.allocation_samples => Self::Allocation,
            "jdk.ObjectAllocationInNewTLAB" | "jdk.ObjectAllocationOutsideTLAB"
                if !asked.allocation_samples =>
            {
                Self::Allocation
            }
            "jdk.JavaMonitorEnter" => Self::MonitorEnter,
            "jdk.ThreadPark" => Self::Park,
            _ => return None,
        })
    }
}

/// Fields of an event that matter here; 0 where it has none.
#[derive(Clone, Copy, Debug, Default)]
struct Fields {
    start: u64,
    duration: u64,
    stack: u64,
    state: u64,
    period: u64,
    lost: u64,
    weight: u64,
    buffer: u64,
    size: u64,
    class: u64,
}

fn big_endian<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

impl Header {
    /// Reads the first [`HEADER_BYTES`] of a chunk.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, JfrError> {
        let long = |at| big_endian(bytes, at).map(i64::from_be_bytes);
        let short = |at| big_endian(bytes, at).map(u16::from_be_bytes);
        if !bytes.starts_with(&MAGIC) {
            return Err(JfrError::NotAChunk);
        }
        let (Some(major), Some(minor)) = (short(4), short(6)) else {
            return Err(JfrError::NotAChunk);
        };
        if major != 2 {
            return Err(JfrError::Version { major, minor });
        }
        let fields = (long(8), long(24), long(32), long(48), long(56));
        let (Some(size), Some(metadata), Some(start), Some(ticks), Some(frequency)) = fields else {
            return Err(JfrError::NotAChunk);
        };
        let damaged = |what, offset| JfrError::Damaged { what, offset };
        let size = u64::try_from(size).map_err(|_| damaged("a negative size", 8))?;
        if size > MAX_CHUNK_BYTES {
            return Err(JfrError::TooLarge { bytes: size });
        }
        let least = u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX);
        if size < least {
            return Err(damaged("a chunk smaller than its header", 8));
        }
        let features = big_endian(bytes, 64).map_or(0, u32::from_be_bytes);
        if features & COMPRESSED == 0 {
            return Err(damaged("numbers that are not compressed", 64));
        }
        Ok(Self {
            bytes: size,
            start: UnixNanos::new(start),
            metadata_at: usize::try_from(metadata)
                .map_err(|_| damaged("a negative place of the metadata", 24))?,
            start_ticks: ticks,
            ticks_per_second: frequency.max(1),
        })
    }

    fn nanos(&self, ticks: i128) -> i128 {
        ticks * 1_000_000_000 / i128::from(self.ticks_per_second)
    }

    /// A length of time in nanoseconds.
    fn length(&self, ticks: u64) -> u64 {
        // Negative ones come of clocks that went back.
        let ticks = i64::from_ne_bytes(ticks.to_ne_bytes()).max(0);
        u64::try_from(self.nanos(i128::from(ticks))).unwrap_or(u64::MAX)
    }

    /// A moment.
    fn time(&self, ticks: u64) -> UnixNanos {
        let ticks = i64::from_ne_bytes(ticks.to_ne_bytes());
        let since = self.nanos(i128::from(ticks) - i128::from(self.start_ticks));
        let at = i128::from(self.start.get()) + since;
        let bounded = at.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
        UnixNanos::new(i64::try_from(bounded).unwrap_or(0))
    }
}

/// The next event: its type, its bytes up to its end from the start of the
/// chunk, and where its body begins.
struct Next<'a> {
    kind: u64,
    body: Bytes<'a>,
    end: usize,
}

fn next(bytes: &[u8], at: usize) -> Result<Next<'_>, JfrError> {
    let mut from = Bytes::new(bytes, at);
    let size = usize::try_from(from.number()?).unwrap_or(usize::MAX);
    let end = at.saturating_add(size);
    let whole = bytes
        .get(..end)
        .filter(|_| end > from.at())
        .ok_or_else(|| from.damaged("an event beyond the end"))?;
    let mut body = Bytes::new(whole, from.at());
    let kind = body.number()?;
    Ok(Next { kind, body, end })
}

/// Reads what was `asked` for of a whole chunk; what is made of it takes up `room`.
pub(super) fn read(bytes: &[u8], asked: Asked, room: &mut Room) -> Result<Chunk, JfrError> {
    let header = Header::read(bytes)?;
    let bytes = usize::try_from(header.bytes)
        .ok()
        .and_then(|size| bytes.get(..size))
        .ok_or(JfrError::Damaged {
            what: "a chunk that is cut short",
            offset: bytes.len(),
        })?;
    let mut described = next(bytes, header.metadata_at)?;
    if described.kind != METADATA {
        return Err(described.body.damaged("no metadata where they should be"));
    }
    let metadata = Metadata::read(&mut described.body, bytes.len())?;
    let mut pools = Pools::new(room);
    let mut at = HEADER_BYTES;
    while at < bytes.len() {
        let mut found = next(bytes, at)?;
        if found.kind == CHECKPOINT {
            pools.note(&mut found.body, &metadata)?;
        }
        at = found.end;
    }
    let content = Content {
        bytes,
        metadata: &metadata,
    };
    let mut chunk = Chunk::default();
    let mut at = HEADER_BYTES;
    while at < bytes.len() {
        let mut found = next(bytes, at)?;
        at = found.end;
        if found.kind == CHECKPOINT || found.kind == METADATA {
            continue;
        }
        let wanted = |name| Wanted::of(name, asked);
        let Some(wanted) = metadata.name(found.kind).and_then(wanted) else {
            continue;
        };
        if pools.take_event().is_none() {
            chunk.dropped += 1;
            continue;
        }
        let fields = fields(&mut found, &metadata)?;
        chunk
            .events
            .extend(event(wanted, fields, &header, content, &mut pools)?);
    }
    Ok(chunk)
}

fn fields(found: &mut Next<'_>, metadata: &Metadata) -> Result<Fields, JfrError> {
    let mut fields = Fields::default();
    metadata.value(&mut found.body, found.kind, &mut |met| {
        let Met::Number(name, value) = met else {
            return;
        };
        match name {
            "startTime" => fields.start = value,
            "duration" => fields.duration = value,
            "stackTrace" => fields.stack = value,
            "state" => fields.state = value,
            "samplingPeriod" => fields.period = value,
            "lostSamples" => fields.lost = value,
            "weight" => fields.weight = value,
            "tlabSize" => fields.buffer = value,
            "allocationSize" => fields.size = value,
            "monitorClass" | "parkedClass" => fields.class = value,
            _ => {}
        }
    })?;
    Ok(fields)
}

fn event(
    wanted: Wanted,
    fields: Fields,
    header: &Header,
    content: Content<'_>,
    pools: &mut Pools<'_>,
) -> Result<Option<Event>, JfrError> {
    let wait_ns = header.length(fields.duration);
    let lock = |pools: &mut Pools<'_>| match fields.class {
        0 => Ok(Arc::from("")),
        class => pools.class_name(content, class),
    };
    let kind = match wanted {
        Wanted::Execution => {
            if !pools.is_runnable(content, fields.state)? {
                return Ok(None);
            }
            Kind::Execution
        }
        Wanted::CpuTime => Kind::CpuTime {
            period_ns: header.length(fields.period),
        },
        Wanted::CpuTimeLost => Kind::CpuTimeLost { count: fields.lost },
        // A new buffer stands for what is put into it, a sample for what was
        // allocated since the last.
        Wanted::Allocation => Kind::Allocation {
            bytes: match (fields.weight, fields.buffer) {
                (0, 0) => fields.size,
                (0, buffer) => buffer,
                (weight, _) => weight,
            },
        },
        Wanted::MonitorEnter => Kind::MonitorEnter {
            wait_ns,
            class: lock(pools)?,
        },
        Wanted::Park => Kind::Park {
            wait_ns,
            class: lock(pools)?,
        },
    };
    Ok(Some(Event {
        at: header.time(fields.start.saturating_add(fields.duration)),
        kind,
        stack: match fields.stack {
            0 => None,
            key => pools.stack(content, key)?,
        },
    }))
}

#[cfg(test)]
mod tests;
