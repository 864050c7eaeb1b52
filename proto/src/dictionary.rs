//! Windows on the wire: each string, frame and stack goes once per stream, and
//! later windows name stacks by number.
//!
//! [`Encoder`] belongs to the sending end of a stream, [`Decoder`] to the
//! receiving end. Ids count up from 0 in stream order, per kind. A batch body
//! that begins with `reset` and is decoded by a fresh decoder is
//! self-contained; that is how the spool keeps them.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::labels::{LabelError, LabelSet};
use crate::limits::{
    MAX_COLUMNS, MAX_DICTIONARY_BYTES, MAX_DICTIONARY_ENTRIES, MAX_SAMPLES, MAX_STACK_FRAMES,
    MAX_STRING_BYTES, MAX_WINDOWS,
};
use crate::pb::tepui as pb;
use crate::profile::{Column, Facts, Profile, ProfileError, check_columns};
use crate::stack::{Frame, FrameKind, Stack};
use crate::value_type::{ProfileType, Temporality, ValueType, ValueTypeError};
use crate::window::{UnixNanos, Window, WindowError};

/// What a frame costs beside its strings, in bytes.
const FRAME_COST: usize = 64;
/// What a string or stack costs beside its content, in bytes.
const ENTRY_COST: usize = 32;

/// What a frame or stack costs that was forgotten, in bytes.
const FORGOTTEN_COST: usize = 16;

fn string_cost(text: &str) -> usize {
    text.len() + ENTRY_COST
}

fn stack_cost(frames: usize) -> usize {
    frames * 4 + ENTRY_COST
}

/// Why a batch breaks the protocol. The dictionary of the stream is unusable
/// after it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DictionaryError {
    /// An id was not sent before.
    #[error("dictionary has no {what} {id}")]
    Dangling {
        /// `string`, `frame` or `stack`.
        what: &'static str,
        /// The id.
        id: u32,
    },
    /// A cap of [`crate::limits`] is passed.
    #[error("{what} of {size} is more than the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// An enum holds a number that this version does not know.
    #[error("unknown {what} {number}")]
    UnknownEnum {
        /// The enum.
        what: &'static str,
        /// The number.
        number: i32,
    },
}

/// Why one window of a batch is refused; the others stand.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireWindowError {
    /// Its labels are not allowed.
    #[error("window has unusable labels")]
    Labels(#[source] LabelError),
    /// Its time is not a window.
    #[error("window has an impossible time")]
    Window(#[source] WindowError),
    /// A column's type is not usable.
    #[error("window has an unusable value type")]
    ValueType(#[source] ValueTypeError),
    /// Its columns do not fit its stacks.
    #[error("window has unusable columns")]
    Columns(#[source] ProfileError),
    /// It names a stack or label set that was not sent, or passes a cap.
    #[error("window names something unknown or too large")]
    Dictionary(#[source] DictionaryError),
    /// It does not say which service it is of.
    #[error("window has no label \"service\"")]
    NoService,
}

/// A window as it came over the wire: stacks are ids of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireWindow {
    /// Labels of the series, with a service.
    pub labels: Arc<LabelSet>,
    /// The time it covers.
    pub window: Window,
    /// One valid stack id per sample.
    pub stacks: Vec<u32>,
    /// One column per value type, each with one value per sample.
    pub columns: Vec<Column>,
    /// What else is known of the window.
    pub facts: Facts,
}

/// The sending end of a stream's dictionary.
#[derive(Debug, Default)]
pub struct Encoder {
    strings: FxHashMap<Arc<str>, u32>,
    frames: FxHashMap<Frame, u32>,
    stacks: FxHashMap<Stack, u32>,
    bytes: usize,
    started: bool,
}

fn id_of(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Encoder {
    /// Returns the encoder of a stream that has sent nothing.
    pub fn new() -> Self {
        Self::default()
    }

    fn entries(&self) -> usize {
        self.strings.len() + self.frames.len() + self.stacks.len()
    }

    fn is_full(&self) -> bool {
        self.entries() > MAX_DICTIONARY_ENTRIES || self.bytes > MAX_DICTIONARY_BYTES
    }

    /// Returns the body that ships `profiles`, with the entries the stream
    /// lacks. When the dictionary passes its cap it begins anew.
    ///
    /// # Errors
    ///
    /// [`DictionaryError::TooLarge`] if the profiles alone pass a cap. The
    /// encoder stays usable.
    pub fn encode(&mut self, profiles: &[Profile]) -> Result<pb::BatchBody, DictionaryError> {
        if profiles.len() > MAX_WINDOWS {
            return Err(DictionaryError::TooLarge {
                what: "number of windows",
                size: profiles.len(),
                limit: MAX_WINDOWS,
            });
        }
        let mut body = self.encode_once(profiles);
        if self.is_full() && !body.reset {
            *self = Self::default();
            body = self.encode_once(profiles);
        }
        if self.is_full() {
            let size = self.bytes;
            *self = Self::default();
            return Err(DictionaryError::TooLarge {
                what: "dictionary of one batch in bytes",
                size,
                limit: MAX_DICTIONARY_BYTES,
            });
        }
        Ok(body)
    }

    fn encode_once(&mut self, profiles: &[Profile]) -> pb::BatchBody {
        let mut body = pb::BatchBody {
            reset: !self.started,
            ..pb::BatchBody::default()
        };
        self.started = true;
        let mut dictionary = pb::Dictionary::default();
        let mut label_sets: FxHashMap<&LabelSet, u32> = FxHashMap::default();
        for profile in profiles {
            let next = id_of(label_sets.len());
            let label_set = *label_sets.entry(profile.labels()).or_insert_with(|| {
                body.label_sets.push(label_set_to_wire(profile.labels()));
                next
            });
            body.windows.push(pb::Window {
                start_unix_nanos: profile.window().start().get(),
                duration_nanos: u64::try_from(profile.window().duration().as_nanos())
                    .unwrap_or(u64::MAX),
                label_set,
                stacks: profile
                    .stacks()
                    .iter()
                    .map(|stack| self.stack(stack, &mut dictionary))
                    .collect(),
                columns: profile.columns().iter().map(column_to_wire).collect(),
                sample_label_sets: Vec::new(),
                facts: Some(facts_to_wire(profile.facts())),
            });
        }
        body.dictionary = Some(dictionary);
        body
    }

    /// The id of `text` plus one; 0 for the empty text.
    fn string(&mut self, text: &Arc<str>, fresh: &mut pb::Dictionary) -> u32 {
        if text.is_empty() {
            return 0;
        }
        if let Some(&id) = self.strings.get(text) {
            return id.saturating_add(1);
        }
        let id = id_of(self.strings.len());
        let mut sent: &str = text;
        if sent.len() > MAX_STRING_BYTES {
            let end = (0..=MAX_STRING_BYTES)
                .rev()
                .find(|&at| sent.is_char_boundary(at))
                .unwrap_or(0);
            sent = sent.get(..end).unwrap_or("");
        }
        self.bytes += string_cost(sent);
        fresh.strings.push(sent.to_owned());
        self.strings.insert(Arc::clone(text), id);
        id.saturating_add(1)
    }

    fn frame(&mut self, frame: &Frame, fresh: &mut pb::Dictionary) -> u32 {
        if let Some(&id) = self.frames.get(frame) {
            return id;
        }
        let wire = pb::Frame {
            kind: i32::from(frame.kind.code()),
            function: self.string(&frame.function, fresh),
            system_name: self.string(&frame.system_name, fresh),
            file: self.string(&frame.file, fresh),
            start_line: frame.start_line,
            line: frame.line,
            build_id: self.string(&frame.build_id, fresh),
            file_offset: frame.file_offset,
        };
        let id = id_of(self.frames.len());
        self.bytes += FRAME_COST;
        fresh.frames.push(wire);
        self.frames.insert(frame.clone(), id);
        id
    }

    fn stack(&mut self, stack: &Stack, fresh: &mut pb::Dictionary) -> u32 {
        if let Some(&id) = self.stacks.get(stack) {
            return id;
        }
        let mut frames: Vec<u32> = stack
            .iter()
            .take(MAX_STACK_FRAMES)
            .map(|frame| self.frame(frame, fresh))
            .collect();
        if stack.len() > MAX_STACK_FRAMES {
            frames.pop();
            frames.push(self.frame(&Frame::named(FrameKind::Synthetic, "[truncated]"), fresh));
        }
        let id = id_of(self.stacks.len());
        self.bytes += stack_cost(frames.len());
        fresh.stacks.push(pb::Stack { frames });
        self.stacks.insert(Arc::clone(stack), id);
        id
    }
}

/// The receiving end of a stream's dictionary.
#[derive(Debug, Default)]
pub struct Decoder {
    strings: Vec<Arc<str>>,
    /// `None` once forgotten.
    frames: Vec<Option<Box<Frame>>>,
    stacks: Vec<Box<[u32]>>,
    /// The text that most frames have somewhere.
    empty: Arc<str>,
    bytes: usize,
    resets: u64,
}

impl Decoder {
    /// Returns the decoder of a stream that has received nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes the dictionary is counted for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How often the dictionary was emptied; ids of different counts differ.
    pub fn resets(&self) -> u64 {
        self.resets
    }

    /// How many stacks the dictionary has.
    pub fn stack_count(&self) -> usize {
        self.stacks.len()
    }

    /// How many frames the dictionary has.
    pub fn frame_count(&self) -> usize {
        self.frames.len()
    }

    /// Frame `id`, unless it was forgotten.
    pub fn frame(&self, id: u32) -> Option<&Frame> {
        self.frames.get(usize::try_from(id).ok()?)?.as_deref()
    }

    /// Gives up the memory of frame `id`, which the caller knows by now.
    pub fn forget_frame(&mut self, id: u32) {
        let index = usize::try_from(id).ok();
        if let Some(slot) = index.and_then(|index| self.frames.get_mut(index))
            && slot.take().is_some()
        {
            self.bytes = self.bytes.saturating_sub(FRAME_COST - FORGOTTEN_COST);
        }
    }

    /// Gives up the memory of stack `id`, which the caller knows by now.
    pub fn forget_stack(&mut self, id: u32) {
        let index = usize::try_from(id).ok();
        if let Some(frames) = index.and_then(|index| self.stacks.get_mut(index))
            && !frames.is_empty()
        {
            let held = std::mem::take(frames);
            let cost = stack_cost(held.len()) - FORGOTTEN_COST;
            self.bytes = self.bytes.saturating_sub(cost);
        }
    }

    /// Ids of the frames of stack `id`, leaf first; empty for an unknown id.
    pub fn frame_ids(&self, id: u32) -> &[u32] {
        let index = usize::try_from(id).ok();
        index
            .and_then(|index| self.stacks.get(index))
            .map_or(&[], |frames| frames)
    }

    /// The frames of stack `id`, leaf first; empty for an unknown id.
    pub fn stack(&self, id: u32) -> impl DoubleEndedIterator<Item = &Frame> {
        let frames = usize::try_from(id)
            .ok()
            .and_then(|index| self.stacks.get(index));
        frames
            .into_iter()
            .flat_map(|frames| frames.iter())
            .filter_map(|&frame| self.frame(frame))
    }

    /// Adds the body's dictionary entries and returns its windows, each checked
    /// by itself. The entries stay even when every window is refused.
    ///
    /// # Errors
    ///
    /// [`DictionaryError`] if the dictionary breaks the protocol; the stream
    /// must end, since later ids can mean nothing.
    pub fn apply(
        &mut self,
        body: pb::BatchBody,
    ) -> Result<Vec<Result<WireWindow, WireWindowError>>, DictionaryError> {
        if body.reset {
            *self = Self {
                resets: self.resets.saturating_add(1),
                ..Self::default()
            };
        }
        if let Some(dictionary) = body.dictionary {
            self.add(dictionary)?;
        }
        for (what, size) in [
            ("number of windows", body.windows.len()),
            ("number of label sets", body.label_sets.len()),
        ] {
            if size > MAX_WINDOWS {
                return Err(DictionaryError::TooLarge {
                    what,
                    size,
                    limit: MAX_WINDOWS,
                });
            }
        }
        let label_sets: Vec<Result<Arc<LabelSet>, LabelError>> = body
            .label_sets
            .iter()
            .map(|set| LabelSet::new(set.labels.iter().map(|l| (&l.name, &l.value))).map(Arc::new))
            .collect();
        Ok(body
            .windows
            .into_iter()
            .map(|window| self.window(window, &label_sets))
            .collect())
    }

    fn add(&mut self, dictionary: pb::Dictionary) -> Result<(), DictionaryError> {
        for text in dictionary.strings {
            if text.len() > MAX_STRING_BYTES {
                return Err(DictionaryError::TooLarge {
                    what: "string in bytes",
                    size: text.len(),
                    limit: MAX_STRING_BYTES,
                });
            }
            self.bytes += string_cost(&text);
            self.strings.push(Arc::from(text));
        }
        for frame in dictionary.frames {
            let frame = self.checked_frame(&frame)?;
            self.bytes += FRAME_COST;
            self.frames.push(Some(Box::new(frame)));
        }
        for stack in dictionary.stacks {
            if stack.frames.len() > MAX_STACK_FRAMES {
                return Err(DictionaryError::TooLarge {
                    what: "stack in frames",
                    size: stack.frames.len(),
                    limit: MAX_STACK_FRAMES,
                });
            }
            let known = id_of(self.frames.len());
            if let Some(&id) = stack.frames.iter().find(|&&id| id >= known) {
                return Err(DictionaryError::Dangling { what: "frame", id });
            }
            self.bytes += stack_cost(stack.frames.len());
            self.stacks.push(stack.frames.into_boxed_slice());
        }
        let entries = self.strings.len() + self.frames.len() + self.stacks.len();
        for (what, size, limit) in [
            (
                "number of dictionary entries",
                entries,
                MAX_DICTIONARY_ENTRIES,
            ),
            ("dictionary in bytes", self.bytes, MAX_DICTIONARY_BYTES),
        ] {
            if size > limit {
                return Err(DictionaryError::TooLarge { what, size, limit });
            }
        }
        Ok(())
    }

    fn string(&self, id: u32) -> Result<Arc<str>, DictionaryError> {
        let Some(index) = id.checked_sub(1) else {
            return Ok(Arc::clone(&self.empty));
        };
        usize::try_from(index)
            .ok()
            .and_then(|index| self.strings.get(index))
            .map(Arc::clone)
            .ok_or(DictionaryError::Dangling {
                what: "string",
                id: index,
            })
    }

    fn checked_frame(&self, frame: &pb::Frame) -> Result<Frame, DictionaryError> {
        let kind = u8::try_from(frame.kind)
            .ok()
            .and_then(FrameKind::from_code)
            .ok_or(DictionaryError::UnknownEnum {
                what: "frame kind",
                number: frame.kind,
            })?;
        Ok(Frame {
            kind,
            function: self.string(frame.function)?,
            system_name: self.string(frame.system_name)?,
            file: self.string(frame.file)?,
            start_line: frame.start_line,
            line: frame.line,
            build_id: self.string(frame.build_id)?,
            file_offset: frame.file_offset,
        })
    }

    fn window(
        &self,
        window: pb::Window,
        label_sets: &[Result<Arc<LabelSet>, LabelError>],
    ) -> Result<WireWindow, WireWindowError> {
        let labels = usize::try_from(window.label_set)
            .ok()
            .and_then(|index| label_sets.get(index))
            .ok_or(WireWindowError::Dictionary(DictionaryError::Dangling {
                what: "label set",
                id: window.label_set,
            }))?
            .clone()
            .map_err(WireWindowError::Labels)?;
        if labels.service().is_empty() {
            return Err(WireWindowError::NoService);
        }
        for (what, size, limit) in [
            ("number of samples", window.stacks.len(), MAX_SAMPLES),
            ("number of columns", window.columns.len(), MAX_COLUMNS),
        ] {
            if size > limit {
                return Err(WireWindowError::Dictionary(DictionaryError::TooLarge {
                    what,
                    size,
                    limit,
                }));
            }
        }
        let known = id_of(self.stacks.len());
        if let Some(&id) = window.stacks.iter().find(|&&id| id >= known) {
            return Err(WireWindowError::Dictionary(DictionaryError::Dangling {
                what: "stack",
                id,
            }));
        }
        let columns = window
            .columns
            .into_iter()
            .map(column_from_wire)
            .collect::<Result<Vec<_>, _>>()?;
        check_columns(&columns, window.stacks.len()).map_err(WireWindowError::Columns)?;
        Ok(WireWindow {
            labels,
            window: Window::from_start(
                UnixNanos::new(window.start_unix_nanos),
                window.duration_nanos,
            )
            .map_err(WireWindowError::Window)?,
            stacks: window.stacks,
            columns,
            facts: facts_from_wire(&window.facts.unwrap_or_default()),
        })
    }

    /// The profile that `window`, which came from this decoder, stands for.
    ///
    /// # Errors
    ///
    /// [`ProfileError`] never for a window of this decoder since its last reset.
    pub fn profile(&self, window: WireWindow) -> Result<Profile, ProfileError> {
        let stacks = window
            .stacks
            .iter()
            .map(|&id| self.stack(id).cloned().collect())
            .collect();
        let labels = Arc::unwrap_or_clone(window.labels);
        Profile::new(labels, window.window, stacks, window.columns, window.facts)
    }
}

/// The wire form of a label set.
pub fn label_set_to_wire(labels: &LabelSet) -> pb::LabelSet {
    pb::LabelSet {
        labels: labels
            .iter()
            .map(|(name, value)| pb::Label {
                name: name.to_owned(),
                value: value.to_owned(),
            })
            .collect(),
    }
}

fn value_type_to_wire(value_type: &ValueType) -> pb::ValueType {
    pb::ValueType {
        kind: value_type.kind().to_owned(),
        unit: value_type.unit().to_owned(),
    }
}

fn column_to_wire(column: &Column) -> pb::Column {
    pb::Column {
        name: column.profile_type.name().to_owned(),
        sample_type: Some(value_type_to_wire(column.profile_type.sample())),
        period_type: Some(value_type_to_wire(column.profile_type.period())),
        period: column.period,
        temporality: match column.temporality {
            Temporality::Delta => pb::Temporality::Delta,
            Temporality::Gauge => pb::Temporality::Gauge,
        }
        .into(),
        weight: column.weight,
        values: column.values.clone(),
    }
}

fn value_type_from_wire(value_type: Option<pb::ValueType>) -> Result<ValueType, WireWindowError> {
    let value_type = value_type.unwrap_or_default();
    ValueType::new(&value_type.kind, &value_type.unit).map_err(WireWindowError::ValueType)
}

fn column_from_wire(column: pb::Column) -> Result<Column, WireWindowError> {
    let temporality = match pb::Temporality::try_from(column.temporality) {
        Ok(pb::Temporality::Delta) => Temporality::Delta,
        Ok(pb::Temporality::Gauge) => Temporality::Gauge,
        Ok(pb::Temporality::Unspecified) | Err(_) => {
            return Err(WireWindowError::Dictionary(DictionaryError::UnknownEnum {
                what: "temporality",
                number: column.temporality,
            }));
        }
    };
    let sample = value_type_from_wire(column.sample_type)?;
    let period = value_type_from_wire(column.period_type)?;
    Ok(Column {
        profile_type: ProfileType::new(&column.name, sample, period)
            .map_err(WireWindowError::ValueType)?,
        temporality,
        period: column.period,
        weight: column.weight,
        values: column.values,
    })
}

fn facts_to_wire(facts: &Facts) -> pb::Facts {
    pb::Facts {
        cpu_nanos: facts.cpu_ns,
        rss_bytes: facts.rss_bytes,
        threads: facts.threads_count,
        processes: facts.processes_count,
        target_start_unix_nanos: facts.target_start.get(),
        cpu_limit_millicores: facts.cpu_limit_millicores,
        throttled_nanos: facts.throttled_ns,
        coverage_permille: facts.coverage_permille,
        lost_samples: facts.lost_samples,
        dropped_labels: facts.dropped_labels,
        observed_nanos: facts.observed_ns,
    }
}

fn facts_from_wire(facts: &pb::Facts) -> Facts {
    Facts {
        cpu_ns: facts.cpu_nanos,
        rss_bytes: facts.rss_bytes,
        threads_count: facts.threads,
        processes_count: facts.processes,
        target_start: UnixNanos::new(facts.target_start_unix_nanos),
        cpu_limit_millicores: facts.cpu_limit_millicores,
        throttled_ns: facts.throttled_nanos,
        coverage_permille: facts.coverage_permille,
        lost_samples: facts.lost_samples,
        dropped_labels: facts.dropped_labels,
        observed_ns: facts.observed_nanos,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message;

    fn window(start: i64, length: u64) -> Window {
        Window::from_start(UnixNanos::new(start), length).unwrap()
    }

    fn cpu(values: Vec<i64>) -> Column {
        Column {
            profile_type: ProfileType::cpu(),
            temporality: Temporality::Delta,
            period: 10_000_000,
            weight: 10_000_000,
            values,
        }
    }

    fn stack(names: &[&str]) -> Stack {
        names
            .iter()
            .map(|name| Frame::named(FrameKind::Go, name).at("sink.go", 42))
            .collect()
    }

    fn profile(stacks: Vec<Stack>) -> Profile {
        let values = (1..).take(stacks.len()).collect();
        Profile::new(
            LabelSet::new([("service", "logger"), ("pod", "a-1")]).unwrap(),
            window(1_700_000_000_000_000_000, 10_000_000_000),
            stacks,
            vec![cpu(values)],
            Facts {
                cpu_ns: 30,
                threads_count: 2,
                ..Facts::default()
            },
        )
        .unwrap()
    }

    fn spin() -> Profile {
        profile(vec![
            stack(&["runtime.sellock", "runtime.selectgo", "main.startSink"]),
            stack(&["runtime.selectgo", "main.startSink"]),
        ])
    }

    fn decode(decoder: &mut Decoder, body: pb::BatchBody) -> Vec<Profile> {
        decoder
            .apply(body)
            .unwrap()
            .into_iter()
            .map(|window| decoder.profile(window.unwrap()).unwrap())
            .collect()
    }

    /// Lines of at most 64 hexadecimal digits.
    fn hex(bytes: &[u8]) -> String {
        let lines = bytes.chunks(32).map(|line| {
            line.iter().fold(String::new(), |mut text, byte| {
                text.push_str(&format!("{byte:02x}"));
                text
            })
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_bytes_of_a_stream_are_pinned() {
        let mut encoder = Encoder::new();
        let first = encoder.encode(&[spin()]).unwrap().encode_to_vec();
        expect![[r#"
            080112670a0f72756e74696d652e73656c6c6f636b0a0773696e6b2e676f0a10
            72756e74696d652e73656c656374676f0a0e6d61696e2e737461727453696e6b
            1208080210012002302a1208080210032002302a1208080210042002302a1a05
            0a030001021a040a0201021a1f0a0a0a03706f641203612d310a110a07736572
            7669636512066c6f676765722261088080a8b1e39fe7cb171080c8afa0252202
            00012a450a0b70726f636573735f63707512120a03637075120b6e616e6f7365
            636f6e64731a120a03637075120b6e616e6f7365636f6e64732080ade2042801
            3080ade2043a0202043a04081e1802"#]]
        .assert_eq(&hex(&first));
        // The second batch needs one new stack and nothing else.
        let other = profile(vec![stack(&["main.startSink"])]);
        let second = encoder.encode(&[other]).unwrap().encode_to_vec();
        expect![[r#"
            12051a030a01021a1f0a0a0a03706f641203612d310a110a0773657276696365
            12066c6f67676572225f088080a8b1e39fe7cb171080c8afa0252201022a440a
            0b70726f636573735f63707512120a03637075120b6e616e6f7365636f6e6473
            1a120a03637075120b6e616e6f7365636f6e64732080ade20428013080ade204
            3a01023a04081e1802"#]]
        .assert_eq(&hex(&second));
    }

    #[test]
    fn each_string_frame_and_stack_goes_once_per_stream() {
        let mut encoder = Encoder::new();
        let mut decoder = Decoder::new();
        let entries = |body: &pb::BatchBody| {
            let d = body.dictionary.as_ref().unwrap();
            (body.reset, d.strings.len(), d.frames.len(), d.stacks.len())
        };
        for (profiles, expected) in [
            (vec![spin(), spin()], (true, 4, 3, 2)),
            (vec![spin()], (false, 0, 0, 0)),
            (
                vec![profile(vec![stack(&["main.startSink"])])],
                (false, 0, 0, 1),
            ),
            (
                vec![profile(vec![stack(&["new", "new"])])],
                (false, 1, 1, 1),
            ),
            (vec![profile(vec![])], (false, 0, 0, 0)),
            (vec![], (false, 0, 0, 0)),
        ] {
            let body = encoder.encode(&profiles).unwrap();
            assert_eq!(entries(&body), expected);
            assert_eq!(decode(&mut decoder, body), profiles);
        }
        assert_eq!(decoder.resets(), 1);
        assert_eq!(decoder.stack_count(), 4);
        assert_eq!(encoder.bytes, decoder.bytes(), "both ends count alike");
    }

    #[test]
    fn equal_labels_of_one_batch_are_sent_once() {
        let body = Encoder::new().encode(&[spin(), spin()]).unwrap();
        assert_eq!(body.label_sets.len(), 1);
        assert_eq!(body.windows.len(), 2);
    }

    /// A profile whose dictionary takes about `bytes`.
    fn heavy(tag: &str, bytes: usize) -> Profile {
        let name_bytes = MAX_STRING_BYTES / 2;
        let names: Vec<String> = (0..bytes / name_bytes)
            .map(|n| format!("{tag}{n:>name_bytes$}"))
            .collect();
        let frames = names.chunks(1000).map(|names| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            stack(&names)
        });
        profile(frames.collect())
    }

    #[test]
    fn at_the_byte_cap_the_dictionary_begins_anew() {
        let mut encoder = Encoder::new();
        let mut decoder = Decoder::new();
        let mut resets = Vec::new();
        for n in 0..5 {
            let sent = heavy(&format!("p{n}."), MAX_DICTIONARY_BYTES / 5 * 2);
            let body = encoder.encode(std::slice::from_ref(&sent)).unwrap();
            resets.push(body.reset);
            assert_eq!(decode(&mut decoder, body), [sent]);
            assert!(decoder.bytes() <= MAX_DICTIONARY_BYTES);
        }
        assert_eq!(resets, [true, false, true, false, true]);
        assert_eq!(decoder.resets(), 3);
    }

    #[test]
    fn at_the_entry_cap_the_dictionary_begins_anew() {
        let mut encoder = Encoder::new();
        let mut decoder = Decoder::new();
        // Each takes a string, a frame and a stack.
        let wide = |tag: u32| {
            let stacks = (0..50_000).map(|n| {
                let frame = Frame::named(FrameKind::Native, &format!("{tag}.{n}"));
                Stack::from(vec![frame])
            });
            profile(stacks.collect())
        };
        let mut resets = Vec::new();
        for tag in 0..3 {
            let sent = wide(tag);
            let body = encoder.encode(std::slice::from_ref(&sent)).unwrap();
            resets.push(body.reset);
            assert_eq!(decode(&mut decoder, body), [sent]);
        }
        assert_eq!(resets, [true, true, true]);
    }

    #[test]
    fn a_batch_that_alone_passes_a_cap_is_refused_and_the_encoder_lives_on() {
        let mut encoder = Encoder::new();
        encoder.encode(&[spin()]).unwrap();
        for profiles in [
            vec![heavy("p", MAX_DICTIONARY_BYTES / 5 * 6)],
            vec![spin(); MAX_WINDOWS + 1],
        ] {
            assert!(matches!(
                encoder.encode(&profiles),
                Err(DictionaryError::TooLarge { .. })
            ));
            let body = encoder.encode(&[spin()]).unwrap();
            if body.reset {
                assert_eq!(decode(&mut Decoder::new(), body), [spin()]);
            }
        }
    }

    #[test]
    fn what_is_too_long_is_cut_at_the_sender() {
        let long = "é".repeat(MAX_STRING_BYTES);
        let deep: Vec<&str> = vec!["f"; MAX_STACK_FRAMES + 7];
        let sent = profile(vec![stack(&[&long]), stack(&deep)]);
        let body = Encoder::new().encode(&[sent]).unwrap();
        let received = decode(&mut Decoder::new(), body);
        let [name, deep] = received[0].stacks() else {
            panic!("two stacks were sent");
        };
        assert_eq!(&*name[0].function, "é".repeat(MAX_STRING_BYTES / 2));
        assert_eq!(deep.len(), MAX_STACK_FRAMES);
        assert_eq!(&*deep[MAX_STACK_FRAMES - 1].function, "[truncated]");
        assert_eq!(&*deep[MAX_STACK_FRAMES - 2].function, "f");
    }

    #[test]
    fn a_broken_dictionary_is_an_error_of_the_stream() {
        let dictionary = |frame: pb::Frame, stack: Vec<u32>| pb::Dictionary {
            strings: vec!["a".to_owned()],
            frames: vec![frame],
            stacks: vec![pb::Stack { frames: stack }],
        };
        let native = |function, file| pb::Frame {
            kind: 1,
            function,
            file,
            ..pb::Frame::default()
        };
        let dangling = |what, id| DictionaryError::Dangling { what, id };
        let unknown = |number| DictionaryError::UnknownEnum {
            what: "frame kind",
            number,
        };
        let kind = |kind| pb::Frame {
            kind,
            ..pb::Frame::default()
        };
        for (dictionary, expected) in [
            (dictionary(native(1, 0), vec![0]), None),
            (
                dictionary(native(2, 0), vec![]),
                Some(dangling("string", 1)),
            ),
            (
                dictionary(native(1, u32::MAX), vec![]),
                Some(dangling("string", u32::MAX - 1)),
            ),
            (
                dictionary(native(1, 0), vec![0, 1]),
                Some(dangling("frame", 1)),
            ),
            (
                dictionary(native(1, 0), vec![u32::MAX]),
                Some(dangling("frame", u32::MAX)),
            ),
            (dictionary(kind(0), vec![]), Some(unknown(0))),
            (dictionary(kind(10), vec![]), Some(unknown(10))),
            (dictionary(kind(-1), vec![]), Some(unknown(-1))),
            (dictionary(kind(257), vec![]), Some(unknown(257))),
            (
                dictionary(native(1, 0), vec![0; MAX_STACK_FRAMES + 1]),
                Some(DictionaryError::TooLarge {
                    what: "stack in frames",
                    size: MAX_STACK_FRAMES + 1,
                    limit: MAX_STACK_FRAMES,
                }),
            ),
            (
                pb::Dictionary {
                    strings: vec!["a".repeat(MAX_STRING_BYTES + 1)],
                    ..pb::Dictionary::default()
                },
                Some(DictionaryError::TooLarge {
                    what: "string in bytes",
                    size: MAX_STRING_BYTES + 1,
                    limit: MAX_STRING_BYTES,
                }),
            ),
            (
                pb::Dictionary {
                    strings: vec![String::new(); MAX_DICTIONARY_ENTRIES + 1],
                    ..pb::Dictionary::default()
                },
                Some(DictionaryError::TooLarge {
                    what: "number of dictionary entries",
                    size: MAX_DICTIONARY_ENTRIES + 1,
                    limit: MAX_DICTIONARY_ENTRIES,
                }),
            ),
            (
                pb::Dictionary {
                    strings: vec!["a".repeat(MAX_STRING_BYTES); 1024],
                    ..pb::Dictionary::default()
                },
                Some(DictionaryError::TooLarge {
                    what: "dictionary in bytes",
                    size: 1024 * (MAX_STRING_BYTES + ENTRY_COST),
                    limit: MAX_DICTIONARY_BYTES,
                }),
            ),
        ] {
            let body = pb::BatchBody {
                reset: true,
                dictionary: Some(dictionary),
                ..pb::BatchBody::default()
            };
            assert_eq!(Decoder::new().apply(body).err(), expected);
        }
    }

    #[test]
    fn entries_of_before_a_reset_are_gone() {
        let mut decoder = Decoder::new();
        let mut body = Encoder::new().encode(&[spin()]).unwrap();
        decoder.apply(body.clone()).unwrap();
        body.dictionary = None;
        let window = decoder.apply(body).unwrap().remove(0);
        assert_eq!(
            window,
            Err(WireWindowError::Dictionary(DictionaryError::Dangling {
                what: "stack",
                id: 0
            }))
        );
        assert_eq!((decoder.bytes(), decoder.stack_count()), (0, 0));
        assert_eq!(decoder.stack(0).count(), 0);
    }

    #[test]
    fn a_bad_window_is_refused_and_its_neighbours_stand() {
        type Break = fn(&mut pb::BatchBody);
        let dangling =
            |what, id| WireWindowError::Dictionary(DictionaryError::Dangling { what, id });
        let rows: [(Break, WireWindowError); 12] = [
            (|b| b.windows[1].label_set = 7, dangling("label set", 7)),
            (|b| b.windows[1].stacks[0] = 2, dangling("stack", 2)),
            (
                |b| {
                    b.label_sets.push(pb::LabelSet::default());
                    b.windows[1].label_set = 1;
                },
                WireWindowError::NoService,
            ),
            (
                |b| {
                    let label = pb::Label::default();
                    b.label_sets.push(pb::LabelSet {
                        labels: vec![label],
                    });
                    b.windows[1].label_set = 1;
                },
                WireWindowError::Labels(LabelError::BadName {
                    name: String::new(),
                }),
            ),
            (
                |b| b.windows[1].duration_nanos = 0,
                WireWindowError::Window(WindowError::Empty {
                    start: UnixNanos::new(1_700_000_000_000_000_000),
                    end: UnixNanos::new(1_700_000_000_000_000_000),
                }),
            ),
            (
                |b| b.windows[1].duration_nanos = u64::MAX,
                WireWindowError::Window(WindowError::OutOfRange {
                    start_ns: 1_700_000_000_000_000_000,
                    duration_ns: u64::MAX,
                }),
            ),
            (
                |b| b.windows[1].start_unix_nanos = i64::MIN,
                WireWindowError::Window(WindowError::OutOfRange {
                    start_ns: i64::MIN,
                    duration_ns: 0,
                }),
            ),
            (
                |b| b.windows[1].columns[0].temporality = 9,
                WireWindowError::Dictionary(DictionaryError::UnknownEnum {
                    what: "temporality",
                    number: 9,
                }),
            ),
            (
                |b| b.windows[1].columns[0].values.truncate(1),
                WireWindowError::Columns(ProfileError::UnevenColumn {
                    profile_type: ProfileType::cpu().to_string(),
                    values: 1,
                    stacks: 2,
                }),
            ),
            (
                |b| b.windows[1].columns[0].weight = 0,
                WireWindowError::Columns(ProfileError::ZeroWeight {
                    profile_type: ProfileType::cpu().to_string(),
                }),
            ),
            (
                |b| {
                    let again = b.windows[1].columns[0].clone();
                    b.windows[1].columns.push(again);
                },
                WireWindowError::Columns(ProfileError::TwiceTheSame {
                    profile_type: ProfileType::cpu().to_string(),
                }),
            ),
            (
                |b| {
                    let column = b.windows[1].columns[0].clone();
                    b.windows[1].columns = vec![column; MAX_COLUMNS + 1];
                },
                WireWindowError::Dictionary(DictionaryError::TooLarge {
                    what: "number of columns",
                    size: MAX_COLUMNS + 1,
                    limit: MAX_COLUMNS,
                }),
            ),
        ];
        for (break_it, expected) in rows {
            let mut body = Encoder::new().encode(&[spin(), spin(), spin()]).unwrap();
            break_it(&mut body);
            let mut decoder = Decoder::new();
            let mut windows = decoder.apply(body).unwrap();
            assert_eq!(windows.remove(1), Err(expected));
            for window in windows {
                assert_eq!(decoder.profile(window.unwrap()), Ok(spin()));
            }
        }
    }

    #[test]
    fn too_many_windows_or_samples_are_refused() {
        let mut body = Encoder::new().encode(&[spin()]).unwrap();
        body.windows = vec![pb::Window::default(); MAX_WINDOWS + 1];
        assert!(matches!(
            Decoder::new().apply(body),
            Err(DictionaryError::TooLarge { .. })
        ));
        let mut body = Encoder::new().encode(&[spin()]).unwrap();
        body.windows[0].stacks = vec![0; MAX_SAMPLES + 1];
        assert!(matches!(
            Decoder::new().apply(body).unwrap().remove(0),
            Err(WireWindowError::Dictionary(
                DictionaryError::TooLarge { .. }
            ))
        ));
    }

    fn any_text() -> impl Strategy<Value = Arc<str>> {
        "[a-c]{0,2}|\\PC{0,8}".prop_map(Arc::from)
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let kind = prop::sample::select(FrameKind::ALL.to_vec());
        let texts = (any_text(), any_text(), any_text(), any_text());
        (kind, texts, any::<(u32, u32, u64)>()).prop_map(
            |(
                (kind, _),
                (function, system_name, file, build_id),
                (start_line, line, file_offset),
            )| {
                Frame {
                    kind,
                    function,
                    system_name,
                    file,
                    start_line,
                    line,
                    build_id,
                    file_offset,
                }
            },
        )
    }

    prop_compose! {
        fn any_facts()(
            (cpu_ns, rss_bytes, throttled_ns, lost_samples) in any::<(u64, u64, u64, u64)>(),
            (dropped_labels, observed_ns, start) in any::<(u64, u64, i64)>(),
            (threads_count, processes_count) in any::<(u32, u32)>(),
            (cpu_limit_millicores, coverage_permille) in any::<(u32, u32)>(),
        ) -> Facts {
            Facts {
                cpu_ns,
                rss_bytes,
                threads_count,
                processes_count,
                target_start: UnixNanos::new(start),
                cpu_limit_millicores,
                throttled_ns,
                coverage_permille,
                lost_samples,
                dropped_labels,
                observed_ns,
            }
        }
    }

    prop_compose! {
        fn any_profile()(
            pool in vec(any_frame(), 1..6),
            picks in vec(vec(any::<prop::sample::Index>(), 0..6), 0..6),
            labels in prop::collection::btree_map("[a-z]{1,3}", "[a-z]{0,3}", 0..4),
            start in 0..i64::MAX / 2,
            length in 1..1_u64 << 62,
            facts in any_facts(),
            gauge: bool,
            (period, weight) in (any::<i64>(), 1..u64::MAX),
            (first, second) in (vec(any::<i64>(), 6), vec(any::<i64>(), 6)),
        ) -> Profile {
            let stacks: Vec<Stack> = picks
                .iter()
                .map(|picks| picks.iter().map(|pick| pick.get(&pool).clone()).collect())
                .collect();
            let heap = ValueType::new("inuse_space", "bytes").unwrap();
            let column = |profile_type, temporality, values: &[i64]| Column {
                profile_type,
                temporality,
                period,
                weight,
                values: values[..stacks.len()].to_vec(),
            };
            let columns = vec![
                column(ProfileType::cpu(), Temporality::Delta, &first),
                column(
                    ProfileType::new("memory", heap.clone(), heap).unwrap(),
                    if gauge { Temporality::Gauge } else { Temporality::Delta },
                    &second,
                ),
            ];
            let labels = LabelSet::new(labels).unwrap().with("service", "s").unwrap();
            Profile::new(labels, window(start, length), stacks, columns, facts).unwrap()
        }
    }

    /// A body near enough to a good one to get deep into the checks.
    fn any_body() -> impl Strategy<Value = pb::BatchBody> {
        let id = prop_oneof![4 => 0..3_u32, 1 => any::<u32>()];
        let number = prop_oneof![4 => 0..4_i32, 1 => any::<i32>()];
        let frame = (
            number.clone(),
            id.clone(),
            id.clone(),
            id.clone(),
            id.clone(),
        )
            .prop_map(|(kind, function, system_name, file, build_id)| pb::Frame {
                kind,
                function,
                system_name,
                file,
                build_id,
                ..pb::Frame::default()
            });
        let stack = vec(id.clone(), 0..4).prop_map(|frames| pb::Stack { frames });
        let dictionary = (vec("[a-c]{0,2}", 0..4), vec(frame, 0..4), vec(stack, 0..4)).prop_map(
            |(strings, frames, stacks)| pb::Dictionary {
                strings,
                frames,
                stacks,
            },
        );
        let value_type = prop::option::of(("[a:]{0,2}", "[b:]{0,2}"))
            .prop_map(|parts| parts.map(|(kind, unit)| pb::ValueType { kind, unit }));
        let column = (
            "[a:]{0,2}",
            value_type.clone(),
            value_type,
            number,
            any::<(i64, u64)>(),
            vec(any::<i64>(), 0..3),
        )
            .prop_map(
                |(name, sample_type, period_type, temporality, (period, weight), values)| {
                    pb::Column {
                        name,
                        sample_type,
                        period_type,
                        period,
                        temporality,
                        weight,
                        values,
                    }
                },
            );
        let label =
            ("(service|[a-c]?)", "[a-c]?").prop_map(|(name, value)| pb::Label { name, value });
        let set = vec(label, 0..3).prop_map(|labels| pb::LabelSet { labels });
        let window = (
            any::<(i64, u64)>(),
            id.clone(),
            vec(id, 0..3),
            vec(column, 0..3),
        )
            .prop_map(
                |((start_unix_nanos, duration_nanos), label_set, stacks, columns)| pb::Window {
                    start_unix_nanos,
                    duration_nanos,
                    label_set,
                    stacks,
                    columns,
                    ..pb::Window::default()
                },
            );
        (
            any::<bool>(),
            prop::option::of(dictionary),
            vec(set, 0..3),
            vec(window, 0..4),
        )
            .prop_map(|(reset, dictionary, label_sets, windows)| pb::BatchBody {
                reset,
                dictionary,
                label_sets,
                windows,
            })
    }

    /// Feeds bodies to one decoder; whatever it accepts must be whole.
    fn feed(bodies: Vec<pb::BatchBody>) {
        let mut decoder = Decoder::new();
        for body in bodies {
            for window in decoder.apply(body).into_iter().flatten().flatten() {
                let samples = window.stacks.len();
                let profile = decoder.profile(window).unwrap();
                assert_eq!(profile.stacks().len(), samples);
                assert!(!profile.labels().service().is_empty());
            }
        }
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding_over_a_stream(
            batches in vec(vec(any_profile(), 0..4), 1..4),
        ) {
            let mut encoder = Encoder::new();
            let mut decoder = Decoder::new();
            for batch in batches {
                let bytes = encoder.encode(&batch).unwrap().encode_to_vec();
                let body = pb::BatchBody::decode(bytes.as_slice()).unwrap();
                prop_assert_eq!(decode(&mut decoder, body), batch);
                prop_assert_eq!(encoder.bytes, decoder.bytes());
            }
        }

        #[test]
        fn no_body_panics(bodies in vec(any_body(), 1..4)) {
            feed(bodies);
        }

        #[test]
        fn no_damage_of_a_good_body_panics(
            batch in vec(any_profile(), 1..3),
            at: prop::sample::Index,
            with: u8,
        ) {
            let mut bytes = Encoder::new().encode(&batch).unwrap().encode_to_vec();
            *at.get_mut(&mut bytes) = with;
            feed(pb::BatchBody::decode(bytes.as_slice()).into_iter().collect());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            feed(pb::BatchBody::decode(bytes.as_slice()).into_iter().collect());
        }
    }
}
