//! pprof profiles: a checked view of foreign bytes, and a builder.
//!
//! Follows the published `profile.proto` of `perftools.profiles`. In the view
//! every index is valid and every sample has one value per sample type.

use std::sync::Arc;

use prost::Message;
use rustc_hash::FxHashMap;

use crate::codec::{self, CodecError};
use crate::pb::pprof as pb;
use crate::stack::{Frame, FrameKind, Stack};
use crate::value_type::{ValueType, ValueTypeError};

/// Largest unpacked profile that is read, in bytes.
pub const MAX_PROFILE_BYTES: usize = 64 << 20;
/// Deepest stack that is kept; deeper ones lose their root.
const MAX_FRAMES: usize = 1024;

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

/// Resolves the indices of one profile.
struct Reader<'a> {
    profile: &'a pb::Profile,
    strings: Vec<Arc<str>>,
    functions: FxHashMap<u64, &'a pb::Function>,
    mappings: FxHashMap<u64, &'a pb::Mapping>,
    locations: FxHashMap<u64, &'a pb::Location>,
    frames: FxHashMap<u64, Vec<Frame>>,
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
            functions: profile.function.iter().map(|f| (f.id, f)).collect(),
            mappings: profile.mapping.iter().map(|m| (m.id, m)).collect(),
            locations: profile.location.iter().map(|l| (l.id, l)).collect(),
            frames: FxHashMap::default(),
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
                *self
                    .mappings
                    .get(&id)
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

    /// Resolves location `id` into its frames, innermost first.
    fn resolve(&self, id: u64) -> Result<Vec<Frame>, PprofError> {
        let location = self
            .locations
            .get(&id)
            .ok_or_else(|| Self::dangling("location", id))?;
        if location.line.is_empty() {
            return Ok(vec![self.unsymbolized(location)?]);
        }
        let mut frames = Vec::new();
        for line in location.line.iter().take(MAX_FRAMES) {
            let function = self
                .functions
                .get(&line.function_id)
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

    fn stack(&mut self, sample: &pb::Sample) -> Result<Stack, PprofError> {
        let mut stack: Vec<Frame> = Vec::new();
        for &id in &sample.location_id {
            if !self.frames.contains_key(&id) {
                let frames = self.resolve(id)?;
                self.frames.insert(id, frames);
            }
            if stack.len() < MAX_FRAMES {
                stack.extend(self.frames.get(&id).into_iter().flatten().cloned());
            }
        }
        if stack.len() > MAX_FRAMES {
            stack.truncate(MAX_FRAMES);
        }
        if stack.len() == MAX_FRAMES {
            stack.push(Frame::named(FrameKind::Synthetic, "[truncated]"));
        }
        Ok(Arc::from(stack))
    }

    fn read(mut self) -> Result<Pprof, PprofError> {
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
        let mut samples = Vec::new();
        let mut numeric_labels: u64 = 0;
        for sample in &profile.sample {
            if sample.value.len() != sample_types.len() {
                return Err(PprofError::UnevenSample {
                    values: sample.value.len(),
                    types: sample_types.len(),
                });
            }
            let mut labels = Vec::new();
            for label in &sample.label {
                if label.str == 0 {
                    numeric_labels = numeric_labels.saturating_add(1);
                } else {
                    labels.push((self.string(label.key)?, self.string(label.str)?));
                }
            }
            samples.push(PprofSample {
                stack: self.stack(sample)?,
                values: sample.value.clone(),
                labels,
            });
        }
        Ok(Pprof {
            sample_types,
            period_type,
            period: profile.period,
            time_ns: profile.time_nanos,
            duration_ns: profile.duration_nanos,
            samples,
            numeric_labels,
        })
    }
}

impl Pprof {
    /// Reads a profile, gzipped or not, whose symbolized frames are of `kind`.
    ///
    /// # Errors
    ///
    /// [`PprofError`] if the bytes unpack to more than [`MAX_PROFILE_BYTES`],
    /// are no profile, or name something that the profile does not hold.
    pub fn parse(bytes: &[u8], kind: FrameKind) -> Result<Self, PprofError> {
        let unpacked;
        let raw = if codec::is_gzip(bytes) {
            unpacked = codec::gunzip(bytes, MAX_PROFILE_BYTES).map_err(PprofError::Unpack)?;
            &unpacked
        } else if bytes.len() > MAX_PROFILE_BYTES {
            return Err(PprofError::Unpack(CodecError::TooLarge {
                cap: MAX_PROFILE_BYTES,
            }));
        } else {
            bytes
        };
        let profile = pb::Profile::decode(raw).map_err(PprofError::Decode)?;
        Reader::new(&profile, kind).read()
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
