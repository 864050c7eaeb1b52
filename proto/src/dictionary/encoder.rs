//! The sending end of a stream.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::wire::{column_to_wire, facts_to_wire, label_set_to_wire};
use super::{DictionaryError, FRAME_COST, id_of, stack_cost, string_cost};
use crate::labels::LabelSet;
use crate::limits::{
    MAX_DICTIONARY_BYTES, MAX_DICTIONARY_ENTRIES, MAX_STACK_FRAMES, MAX_STRING_BYTES, MAX_WINDOWS,
};
use crate::pb::tepui as pb;
use crate::profile::Profile;
use crate::stack::{Frame, FrameKind, Stack};

/// The sending end of a stream's dictionary.
#[derive(Debug, Default)]
pub struct Encoder {
    /// Strings of the batch that is being encoded.
    strings: FxHashMap<Arc<str>, u32>,
    frames: FxHashMap<Frame, u32>,
    stacks: FxHashMap<Stack, u32>,
    pub(super) bytes: usize,
    started: bool,
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
        self.strings.clear();
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
