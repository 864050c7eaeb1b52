//! Builds pprof profiles.

use std::sync::Arc;

use prost::Message;
use rustc_hash::FxHashMap;

use crate::codec;
use crate::pb::pprof as pb;
use crate::stack::Frame;
use crate::value_type::ValueType;

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
