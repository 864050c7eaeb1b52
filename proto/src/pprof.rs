//! pprof profiles: a checked view of foreign bytes, and a builder.
//!
//! Follows the published `profile.proto` of `perftools.profiles`. In the view
//! every index is valid and every sample has one value per sample type.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use rustc_hash::FxHashMap;

use crate::codec::{self, CodecError};
use crate::pb::pprof as pb;
use crate::stack::{Frame, FrameKind, Stack};
use crate::value_type::{ValueType, ValueTypeError};

/// Largest unpacked profile that is read, in bytes, unless told otherwise.
pub const MAX_PROFILE_BYTES: usize = 64 << 20;
/// Deepest stack that is kept; deeper ones lose their root.
const MAX_FRAMES: usize = 1024;
/// Most frames of all stacks of a [`Pprof`] together. A location may stand for
/// many inlined calls and be named by many samples, so a small file can unfold
/// into more than memory holds.
pub const MAX_UNFOLDED_FRAMES: usize = 2 << 20;

/// Why bytes are no profile.
#[derive(Debug, thiserror::Error)]
pub enum PprofError {
    /// The bytes cannot be unpacked.
    #[error("cannot unpack a pprof profile")]
    Unpack(#[source] CodecError),
    /// The bytes are no `profile.proto` message.
    #[error("bytes are no pprof profile")]
    Decode(#[source] prost::DecodeError),
    /// Something in the profile points at nothing.
    #[error("pprof profile names {what} {id}, which it does not hold")]
    Dangling {
        /// What was named, for example `string`.
        what: &'static str,
        /// Its id or index.
        id: i64,
    },
    /// A sample has another number of values than there are sample types.
    #[error("pprof sample has {values} values for {types} sample types")]
    UnevenSample {
        /// Values of the sample.
        values: usize,
        /// Sample types of the profile.
        types: usize,
    },
    /// Its messages take more memory than they may.
    #[error("pprof profile takes more than {limit} bytes of memory; record a shorter time")]
    TooManyMessages {
        /// The limit in bytes.
        limit: usize,
    },
    /// Its stacks unfold to more than is held in memory.
    #[error(
        "stacks of the pprof profile have more than {MAX_UNFOLDED_FRAMES} frames; record a shorter time"
    )]
    TooManyFrames,
    /// A sample type's text is not usable.
    #[error("pprof profile has an unusable value type")]
    ValueType(#[source] ValueTypeError),
}

/// One sample: a stack, one value per sample type, and its string labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PprofSample {
    /// Leaf first.
    pub stack: Stack,
    /// One per sample type; may be negative.
    pub values: Vec<i64>,
    /// String labels, in the order of the profile.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
}

/// A checked pprof profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pprof {
    /// What each value of a sample counts.
    pub sample_types: Vec<ValueType>,
    /// What lies between samples, when the profile says so.
    pub period_type: Option<ValueType>,
    /// Distance between samples in the period's unit.
    pub period: i64,
    /// When it was taken, in nanoseconds since 1970; 0 when unknown.
    pub time_ns: i64,
    /// How long it was taken, in nanoseconds; 0 when unknown.
    pub duration_ns: i64,
    /// The samples.
    pub samples: Vec<PprofSample>,
    /// Numeric sample labels, which are not kept.
    pub numeric_labels: u64,
}

/// How much of a foreign profile is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PprofLimits {
    /// Most bytes after unpacking.
    pub unpacked_bytes: usize,
    /// Most bytes of memory that the messages of the profile may take. A message
    /// of two bytes takes a hundred, so this is looked at before they are made.
    pub decoded_bytes: usize,
}

impl Default for PprofLimits {
    /// What one reader with memory of its own takes.
    fn default() -> Self {
        Self {
            unpacked_bytes: MAX_PROFILE_BYTES,
            decoded_bytes: 8 * MAX_PROFILE_BYTES,
        }
    }
}

/// A checked pprof profile as it is written: samples name locations, and what a
/// location stands for is there once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PprofTable {
    /// What each value of a sample counts.
    pub sample_types: Vec<ValueType>,
    /// What lies between samples, when the profile says so.
    pub period_type: Option<ValueType>,
    /// Distance between samples in the period's unit.
    pub period: i64,
    /// When it was taken, in nanoseconds since 1970; 0 when unknown.
    pub time_ns: i64,
    /// How long it was taken, in nanoseconds; 0 when unknown.
    pub duration_ns: i64,
    /// Frames of each location, innermost first; never empty for one that a
    /// sample names.
    pub locations: Vec<Vec<Frame>>,
    /// The samples.
    pub samples: Vec<TableSample>,
    /// Numeric sample labels, which are not kept.
    pub numeric_labels: u64,
}

/// One sample of a [`PprofTable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSample {
    /// Valid indices of [`PprofTable::locations`], leaf first.
    pub locations: Vec<usize>,
    /// One per sample type; may be negative.
    pub values: Vec<i64>,
    /// String labels, in the order of the profile.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
}

/// Where the entry of an id is. Nearly every writer counts ids up from 1.
enum Places {
    Counted(usize),
    /// With a random key: ids are foreign.
    Scattered(HashMap<u64, usize>),
}

impl Places {
    fn of(ids: impl ExactSizeIterator<Item = u64> + Clone) -> Self {
        let length = ids.len();
        if ids.clone().zip(1_u64..).all(|(id, number)| id == number) {
            Self::Counted(length)
        } else {
            Self::Scattered(ids.zip(0_usize..).collect())
        }
    }

    fn get(&self, id: u64) -> Option<usize> {
        match self {
            Self::Counted(length) => {
                let place = usize::try_from(id.checked_sub(1)?).ok()?;
                (place < *length).then_some(place)
            }
            Self::Scattered(places) => places.get(&id).copied(),
        }
    }
}

/// Memory of one decoded message, with the room that growing lists leave free.
const MESSAGE_BYTES: usize = 128;
/// Memory of a decoded text beside its content.
const TEXT_BYTES: usize = 48;

/// About how much memory the profile in `raw` takes once it is decoded, from its
/// fields alone (<https://protobuf.dev/programming-guides/encoding>).
fn decoded_bytes(raw: &[u8]) -> usize {
    let mut sum = 0_usize;
    let mut add = |bytes: usize| sum = sum.saturating_add(bytes);
    each_field(raw, |number, content| match (number, content) {
        // Texts, and numbers of comments.
        (6, Some(text)) => add(text.len().saturating_add(TEXT_BYTES)),
        (13, Some(numbers)) => add(numbers.len().saturating_mul(8)),
        // Samples with lists of numbers and labels, locations with lines.
        (2 | 4, Some(message)) => {
            add(MESSAGE_BYTES);
            each_field(message, |inner, content| match (number, inner, content) {
                (2, 1 | 2, Some(numbers)) => {
                    let ends = numbers.iter().filter(|byte| **byte < 0x80);
                    add(ends.count().saturating_mul(8));
                }
                (_, _, Some(_)) => add(MESSAGE_BYTES),
                (_, _, None) => add(8),
            });
        }
        (_, Some(_)) => add(MESSAGE_BYTES),
        (_, None) => add(8),
    });
    sum
}

/// Calls `visit` with the number of each field of a message, and with its content
/// when it has a length. Ends where the bytes are no message. What is in a group
/// counts as if it were beside it.
fn each_field<'a>(mut bytes: &'a [u8], mut visit: impl FnMut(u32, Option<&'a [u8]>)) {
    while !bytes.is_empty() {
        let Ok((number, wire)) = decode_key(&mut bytes) else {
            return;
        };
        let length = match wire {
            WireType::Varint => match decode_varint(&mut bytes) {
                Ok(_) => {
                    visit(number, None);
                    continue;
                }
                Err(_) => return,
            },
            WireType::StartGroup | WireType::EndGroup => continue,
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => match decode_varint(&mut bytes).map(usize::try_from) {
                Ok(Ok(length)) => length,
                _ => return,
            },
        };
        let Some((content, rest)) = bytes.split_at_checked(length) else {
            return;
        };
        visit(
            number,
            (wire == WireType::LengthDelimited).then_some(content),
        );
        bytes = rest;
    }
}

/// Resolves the indices of one profile.
struct Reader<'a> {
    profile: &'a pb::Profile,
    strings: Vec<Arc<str>>,
    functions: Places,
    mappings: Places,
    kind: FrameKind,
}

impl<'a> Reader<'a> {
    fn new(profile: &'a pb::Profile, kind: FrameKind) -> Self {
        Self {
            profile,
            strings: profile
                .string_table
                .iter()
                .map(|text| Arc::from(text.as_str()))
                .collect(),
            functions: Places::of(profile.function.iter().map(|f| f.id)),
            mappings: Places::of(profile.mapping.iter().map(|m| m.id)),
            kind,
        }
    }

    fn string(&self, index: i64) -> Result<Arc<str>, PprofError> {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.strings.get(index))
            .map(Arc::clone)
            .ok_or(PprofError::Dangling {
                what: "string",
                id: index,
            })
    }

    fn value_type(&self, value_type: &pb::ValueType) -> Result<ValueType, PprofError> {
        let kind = self.string(value_type.r#type)?;
        let unit = self.string(value_type.unit)?;
        ValueType::new(&kind, if unit.is_empty() { "count" } else { &unit })
            .map_err(PprofError::ValueType)
    }

    fn dangling(what: &'static str, id: u64) -> PprofError {
        PprofError::Dangling {
            what,
            id: i64::try_from(id).unwrap_or(i64::MAX),
        }
    }

    /// The frame of a location that has no line.
    fn unsymbolized(&self, location: &pb::Location) -> Result<Frame, PprofError> {
        let mapping = match location.mapping_id {
            0 => None,
            id => Some(
                self.mappings
                    .get(id)
                    .and_then(|place| self.profile.mapping.get(place))
                    .ok_or_else(|| Self::dangling("mapping", id))?,
            ),
        };
        let Some(mapping) = mapping else {
            return Ok(Frame {
                file_offset: location.address,
                ..Frame::named(
                    FrameKind::Unsymbolized,
                    &format!("0x{:x}", location.address),
                )
            });
        };
        let path = self.string(mapping.filename)?;
        let module = path.rsplit('/').next().unwrap_or("");
        let offset = location
            .address
            .wrapping_sub(mapping.memory_start)
            .wrapping_add(mapping.file_offset);
        Ok(Frame {
            build_id: self.string(mapping.build_id)?,
            file_offset: offset,
            ..Frame::named(FrameKind::Unsymbolized, &format!("{module}+0x{offset:x}"))
        })
    }

    /// The frames of a location, innermost first.
    fn frames(&self, location: &pb::Location) -> Result<Vec<Frame>, PprofError> {
        if location.line.is_empty() {
            return Ok(vec![self.unsymbolized(location)?]);
        }
        let mut frames = Vec::new();
        for line in location.line.iter().take(MAX_FRAMES) {
            let function = self
                .functions
                .get(line.function_id)
                .and_then(|place| self.profile.function.get(place))
                .ok_or_else(|| Self::dangling("function", line.function_id))?;
            let name = self.string(function.name)?;
            let system_name = self.string(function.system_name)?;
            frames.push(Frame {
                system_name: if system_name == name {
                    Arc::from("")
                } else {
                    system_name
                },
                file: self.string(function.filename)?,
                start_line: u32::try_from(function.start_line).unwrap_or(0),
                line: u32::try_from(line.line).unwrap_or(0),
                function: name,
                ..Frame::named(self.kind, "")
            });
        }
        Ok(frames)
    }

    fn read(self, samples: Vec<pb::Sample>) -> Result<PprofTable, PprofError> {
        let profile = self.profile;
        let sample_types = profile
            .sample_type
            .iter()
            .map(|value_type| self.value_type(value_type))
            .collect::<Result<Vec<_>, _>>()?;
        let period_type = match &profile.period_type {
            Some(value_type) => Some(self.value_type(value_type)?),
            None => None,
        };
        let places = Places::of(profile.location.iter().map(|location| location.id));
        let mut table = PprofTable {
            sample_types,
            period_type,
            period: profile.period,
            time_ns: profile.time_nanos,
            duration_ns: profile.duration_nanos,
            locations: vec![Vec::new(); profile.location.len()],
            samples: Vec::with_capacity(samples.len()),
            numeric_labels: 0,
        };
        for sample in samples {
            if sample.value.len() != table.sample_types.len() {
                return Err(PprofError::UnevenSample {
                    values: sample.value.len(),
                    types: table.sample_types.len(),
                });
            }
            let mut labels = Vec::new();
            for label in &sample.label {
                if label.str == 0 {
                    table.numeric_labels = table.numeric_labels.saturating_add(1);
                } else {
                    labels.push((self.string(label.key)?, self.string(label.str)?));
                }
            }
            let mut locations = Vec::with_capacity(sample.location_id.len());
            for id in sample.location_id {
                let place = places.get(id);
                let (Some(place), Some((location, frames))) = (
                    place,
                    place.and_then(|place| {
                        let location = profile.location.get(place)?;
                        Some((location, table.locations.get_mut(place)?))
                    }),
                ) else {
                    return Err(Self::dangling("location", id));
                };
                if frames.is_empty() {
                    *frames = self.frames(location)?;
                }
                locations.push(place);
            }
            table.samples.push(TableSample {
                locations,
                values: sample.value,
                labels,
            });
        }
        Ok(table)
    }
}

impl PprofTable {
    /// Reads a profile, gzipped or not. `kind_of` is given the source file of
    /// each function and says what kind of code symbolized frames are.
    ///
    /// # Errors
    ///
    /// [`PprofError`] if the profile is larger than `limits`, is none, or names
    /// something that it does not hold.
    pub fn parse(
        bytes: &[u8],
        limits: PprofLimits,
        kind_of: impl FnOnce(&mut dyn Iterator<Item = &str>) -> FrameKind,
    ) -> Result<Self, PprofError> {
        let unpacked;
        let raw = if codec::is_gzip(bytes) {
            let cap = limits.unpacked_bytes;
            unpacked = codec::gunzip(bytes, cap).map_err(PprofError::Unpack)?;
            &unpacked
        } else if bytes.len() > limits.unpacked_bytes {
            return Err(PprofError::Unpack(CodecError::TooLarge {
                cap: limits.unpacked_bytes,
            }));
        } else {
            bytes
        };
        if decoded_bytes(raw) > limits.decoded_bytes {
            return Err(PprofError::TooManyMessages {
                limit: limits.decoded_bytes,
            });
        }
        let mut profile = pb::Profile::decode(raw).map_err(PprofError::Decode)?;
        let samples = std::mem::take(&mut profile.sample);
        let kind = kind_of(&mut profile.function.iter().filter_map(|function| {
            let file = usize::try_from(function.filename).ok()?;
            profile.string_table.get(file).map(String::as_str)
        }));
        Reader::new(&profile, kind).read(samples)
    }

    /// Frames of location `place`, innermost first; none for an unknown one.
    pub fn frames(&self, place: usize) -> &[Frame] {
        self.locations.get(place).map_or(&[], Vec::as_slice)
    }

    /// The stack of a sample, of which `room` frames may be spent.
    fn stack(&self, sample: &TableSample, room: &mut usize) -> Result<Stack, PprofError> {
        let mut stack: Vec<Frame> = Vec::new();
        for &place in &sample.locations {
            if stack.len() >= MAX_FRAMES {
                break;
            }
            stack.extend_from_slice(self.frames(place));
        }
        stack.truncate(MAX_FRAMES);
        if stack.len() == MAX_FRAMES {
            stack.push(Frame::named(FrameKind::Synthetic, "[truncated]"));
        }
        *room = room
            .checked_sub(stack.len())
            .ok_or(PprofError::TooManyFrames)?;
        Ok(Arc::from(stack))
    }
}

impl Pprof {
    /// Reads a profile, gzipped or not, whose symbolized frames are of `kind`.
    ///
    /// # Errors
    ///
    /// [`PprofError`] if the bytes unpack to more than [`MAX_PROFILE_BYTES`],
    /// are no profile, name something that the profile does not hold, or have
    /// more than [`MAX_UNFOLDED_FRAMES`] in all stacks together.
    pub fn parse(bytes: &[u8], kind: FrameKind) -> Result<Self, PprofError> {
        let mut table = PprofTable::parse(bytes, PprofLimits::default(), |_files| kind)?;
        let mut room = MAX_UNFOLDED_FRAMES;
        let mut samples = Vec::with_capacity(table.samples.len());
        for sample in std::mem::take(&mut table.samples) {
            samples.push(PprofSample {
                stack: table.stack(&sample, &mut room)?,
                values: sample.values,
                labels: sample.labels,
            });
        }
        Ok(Self {
            sample_types: table.sample_types,
            period_type: table.period_type,
            period: table.period,
            time_ns: table.time_ns,
            duration_ns: table.duration_ns,
            samples,
            numeric_labels: table.numeric_labels,
        })
    }
}

/// What a built profile says of itself.
#[derive(Clone, Debug)]
pub struct PprofHead {
    /// What each value of a sample counts.
    pub sample_types: Vec<ValueType>,
    /// What lies between samples.
    pub period_type: ValueType,
    /// Distance between samples in the period's unit.
    pub period: i64,
    /// Start, in nanoseconds since 1970.
    pub time_ns: i64,
    /// Length in nanoseconds.
    pub duration_ns: i64,
    /// Lines for a person, shown by `pprof -comments`.
    pub comments: Vec<String>,
}

/// Builds a pprof profile. Each frame becomes one location, so stacks keep
/// their inlined frames; every mapping says that it needs no symbols.
#[derive(Debug)]
pub struct PprofBuilder {
    profile: pb::Profile,
    strings: FxHashMap<Arc<str>, i64>,
    functions: FxHashMap<FunctionKey, u64>,
    locations: FxHashMap<Frame, u64>,
    mappings: FxHashMap<Arc<str>, u64>,
}

/// Name, system name, file and start line of a function.
type FunctionKey = (Arc<str>, Arc<str>, Arc<str>, u32);

/// An id from a length: pprof's ids begin with 1.
fn next_id(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX).saturating_add(1)
}

impl PprofBuilder {
    /// Returns a builder of a profile without samples.
    pub fn new(head: &PprofHead) -> Self {
        let mut builder = Self {
            profile: pb::Profile::default(),
            strings: FxHashMap::default(),
            functions: FxHashMap::default(),
            locations: FxHashMap::default(),
            mappings: FxHashMap::default(),
        };
        // Index 0 of the string table is the empty text.
        builder.string(&Arc::from(""));
        builder.profile.sample_type = head
            .sample_types
            .iter()
            .map(|value_type| builder.value_type(value_type))
            .collect();
        builder.profile.period_type = Some(builder.value_type(&head.period_type));
        builder.profile.period = head.period;
        builder.profile.time_nanos = head.time_ns;
        builder.profile.duration_nanos = head.duration_ns;
        builder.profile.comment = head
            .comments
            .iter()
            .map(|comment| builder.string(&Arc::from(comment.as_str())))
            .collect();
        // `go tool pprof` takes the first mapping for the main program.
        builder.mapping(&Arc::from(""));
        builder
    }

    fn string(&mut self, text: &Arc<str>) -> i64 {
        if let Some(&index) = self.strings.get(text) {
            return index;
        }
        let index = i64::try_from(self.profile.string_table.len()).unwrap_or(i64::MAX);
        self.profile.string_table.push(text.to_string());
        self.strings.insert(Arc::clone(text), index);
        index
    }

    fn value_type(&mut self, value_type: &ValueType) -> pb::ValueType {
        pb::ValueType {
            r#type: self.string(&Arc::from(value_type.kind())),
            unit: self.string(&Arc::from(value_type.unit())),
        }
    }

    fn mapping(&mut self, build_id: &Arc<str>) -> u64 {
        if let Some(&id) = self.mappings.get(build_id) {
            return id;
        }
        let id = next_id(self.profile.mapping.len());
        let mapping = pb::Mapping {
            id,
            build_id: self.string(build_id),
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
            ..pb::Mapping::default()
        };
        self.profile.mapping.push(mapping);
        self.mappings.insert(Arc::clone(build_id), id);
        id
    }

    fn function(&mut self, frame: &Frame) -> u64 {
        let key = (
            Arc::clone(&frame.function),
            Arc::clone(&frame.system_name),
            Arc::clone(&frame.file),
            frame.start_line,
        );
        if let Some(&id) = self.functions.get(&key) {
            return id;
        }
        let id = next_id(self.profile.function.len());
        let name = self.string(&frame.function);
        let function = pb::Function {
            id,
            name,
            // Left empty when there is none: `go tool pprof` shortens a system
            // name that equals the name, and would merge what it shortened.
            system_name: self.string(&frame.system_name),
            filename: self.string(&frame.file),
            start_line: i64::from(frame.start_line),
        };
        self.profile.function.push(function);
        self.functions.insert(key, id);
        id
    }

    fn location(&mut self, frame: &Frame) -> u64 {
        if let Some(&id) = self.locations.get(frame) {
            return id;
        }
        let id = next_id(self.profile.location.len());
        let location = pb::Location {
            id,
            mapping_id: self.mapping(&frame.build_id),
            // An address of its own, or `pprof -addresses` would merge them.
            address: id,
            line: vec![pb::Line {
                function_id: self.function(frame),
                line: i64::from(frame.line),
                column: 0,
            }],
            is_folded: false,
        };
        self.profile.location.push(location);
        self.locations.insert(frame.clone(), id);
        id
    }

    /// Adds a sample of `stack` (leaf first) with one value per sample type.
    pub fn add<'f>(&mut self, stack: impl IntoIterator<Item = &'f Frame>, values: Vec<i64>) {
        self.add_labelled(stack, values, &[]);
    }

    /// As [`PprofBuilder::add`], of a sample with these string labels.
    pub fn add_labelled<'f>(
        &mut self,
        stack: impl IntoIterator<Item = &'f Frame>,
        values: Vec<i64>,
        labels: &[(&str, &str)],
    ) {
        let label = labels
            .iter()
            .map(|(key, value)| pb::Label {
                key: self.string(&Arc::from(*key)),
                str: self.string(&Arc::from(*value)),
                ..pb::Label::default()
            })
            .collect();
        let location_id = stack
            .into_iter()
            .map(|frame| self.location(frame))
            .collect();
        self.profile.sample.push(pb::Sample {
            location_id,
            value: values,
            label,
        });
    }

    /// The gzipped profile.
    pub fn finish(self) -> Vec<u8> {
        codec::gzip(&self.profile.encode_to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> PprofHead {
        PprofHead {
            sample_types: vec![ValueType::new("cpu", "nanoseconds").unwrap()],
            period_type: ValueType::new("cpu", "nanoseconds").unwrap(),
            period: 10_000_000,
            time_ns: 1,
            duration_ns: 2,
            comments: Vec::new(),
        }
    }

    fn raw(change: impl FnOnce(&mut pb::Profile)) -> Vec<u8> {
        let mut builder = PprofBuilder::new(&head());
        builder.add(&[Frame::named(FrameKind::Go, "main.main")], vec![7]);
        let mut profile =
            pb::Profile::decode(&codec::gunzip(&builder.finish(), 1 << 20).unwrap()[..]).unwrap();
        change(&mut profile);
        profile.encode_to_vec()
    }

    #[test]
    fn what_is_built_is_read_back() {
        let leaf = Frame::named(FrameKind::Go, "runtime.selectgo").at("select.go", 121);
        let root = Frame {
            start_line: 3,
            build_id: Arc::from(""),
            ..Frame::named(FrameKind::Go, "main.startSink").at("sink.go", 40)
        };
        let mut builder = PprofBuilder::new(&head());
        builder.add([&leaf, &root], vec![5]);
        builder.add([&root], vec![-2]);
        let read = Pprof::parse(&builder.finish(), FrameKind::Go).unwrap();
        assert_eq!(read.period, 10_000_000);
        assert_eq!(read.sample_types, head().sample_types);
        assert_eq!(&read.samples[0].stack[..], &[leaf, root.clone()]);
        assert_eq!(read.samples[1].values, [-2]);
        assert_eq!(&read.samples[1].stack[..], &[root]);
    }

    #[test]
    fn labels_of_a_sample_are_read_back() {
        let leaf = Frame::named(FrameKind::Go, "main.main");
        let mut builder = PprofBuilder::new(&head());
        builder.add_labelled([&leaf], vec![-5], &[("pprof::base", "true"), ("a", "")]);
        let read = Pprof::parse(&builder.finish(), FrameKind::Go).unwrap();
        // A label without a text is a numeric one to every reader.
        assert_eq!(
            read.samples[0].labels,
            [("pprof::base".into(), "true".into())]
        );
        assert_eq!(read.numeric_labels, 1);
    }

    #[test]
    fn dangling_indices_are_errors() {
        type Change = fn(&mut pb::Profile);
        let cases: [(&str, Change); 5] = [
            ("string", |p| p.function[0].name = 99),
            ("string", |p| p.sample_type[0].unit = -1),
            ("location", |p| p.sample[0].location_id[0] = 9),
            ("function", |p| p.location[0].line[0].function_id = 9),
            ("mapping", |p| {
                p.location[0].line.clear();
                p.location[0].mapping_id = 9;
            }),
        ];
        for (what, change) in cases {
            match Pprof::parse(&raw(change), FrameKind::Go) {
                Err(PprofError::Dangling { what: found, .. }) => assert_eq!(found, what),
                other => panic!("{what}: {other:?}"),
            }
        }
        assert!(matches!(
            Pprof::parse(&raw(|p| p.sample[0].value.push(1)), FrameKind::Go),
            Err(PprofError::UnevenSample { .. })
        ));
    }

    #[test]
    fn ids_need_not_count_up() {
        let bytes = raw(|p| {
            p.location[0].id = 900;
            p.function[0].id = u64::MAX;
            p.location[0].line[0].function_id = u64::MAX;
            p.sample[0].location_id = vec![900];
        });
        let read = Pprof::parse(&bytes, FrameKind::Go).unwrap();
        assert_eq!(&*read.samples[0].stack[0].function, "main.main");
    }

    #[test]
    fn a_small_file_that_decodes_or_unfolds_beyond_memory_is_refused() {
        let limits = PprofLimits {
            decoded_bytes: 1 << 20,
            ..PprofLimits::default()
        };
        let parse = |bytes: &[u8]| PprofTable::parse(bytes, limits, |_| FrameKind::Go);
        assert!(parse(&raw(|_| {})).is_ok());
        type Change = fn(&mut pb::Profile);
        let many: [Change; 6] = [
            |p| p.sample = vec![pb::Sample::default(); 10_000],
            |p| p.sample[0].label = vec![pb::Label::default(); 10_000],
            |p| p.sample[0].location_id = vec![1; 200_000],
            |p| p.location[0].line = vec![pb::Line::default(); 10_000],
            |p| p.string_table.resize(30_000, String::new()),
            |p| p.comment = vec![0; 200_000],
        ];
        for (number, change) in many.into_iter().enumerate() {
            let refused = matches!(parse(&raw(change)), Err(PprofError::TooManyMessages { .. }));
            assert!(refused, "{number}");
        }
        let unfolding = raw(|p| {
            p.location[0].line = vec![p.location[0].line[0]; 1_000];
            p.sample = vec![p.sample[0].clone(); 3_000];
        });
        assert!(unfolding.len() < 64 * 1024);
        let refused = Pprof::parse(&unfolding, FrameKind::Go);
        assert!(matches!(refused, Err(PprofError::TooManyFrames)));
    }

    #[test]
    fn a_table_asks_which_files_there_are() {
        let mut seen = Vec::new();
        let bytes = raw(|p| {
            p.string_table.push("a.py".to_owned());
            p.function[0].filename = 4;
        });
        let table = PprofTable::parse(&bytes, PprofLimits::default(), |files| {
            seen.extend(files.map(str::to_owned));
            FrameKind::Python
        });
        let table = table.unwrap();
        assert_eq!(seen, ["a.py"]);
        assert_eq!(table.samples[0].locations, [0]);
        assert_eq!(table.frames(0)[0].kind, FrameKind::Python);
        assert_eq!(table.frames(1), []);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _read = Pprof::parse(&bytes, FrameKind::Go);
        }

        #[test]
        fn no_damage_panics(at in 0usize..400, byte: u8) {
            let mut bytes = raw(|_| {});
            let length = bytes.len();
            bytes[at % length] = byte;
            let _read = Pprof::parse(&bytes, FrameKind::Go);
        }
    }
}
