//! The receiving end of a stream.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::wire::{column_from_wire, facts_from_wire};
use super::{
    DictionaryError, FRAME_COST, WireWindow, WireWindowError, check_size, id_of, stack_cost,
    string_cost,
};
use crate::labels::{LabelError, LabelSet};
use crate::limits::{
    MAX_COLUMNS, MAX_DICTIONARY_BYTES, MAX_DICTIONARY_ENTRIES, MAX_SAMPLES, MAX_STACK_FRAMES,
    MAX_STRING_BYTES, MAX_WINDOWS,
};
use crate::pb::tepui as pb;
use crate::profile::{Profile, ProfileError, check_columns};
use crate::stack::{Frame, FrameKind};
use crate::window::{UnixNanos, Window};

/// What an entry takes in memory beside what it holds elsewhere, with its share
/// of the map.
const HELD_BYTES: usize = 48;
/// Places of a map that are kept though few are taken.
const KEPT_PLACES: usize = 64;

/// Entries of one kind, numbered from 0 in the order in which they came, as long
/// as they are not forgotten.
#[derive(Debug)]
struct Entries<T> {
    held: FxHashMap<u32, T>,
    count: usize,
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self {
            held: FxHashMap::default(),
            count: 0,
        }
    }
}

impl<T> Entries<T> {
    fn push(&mut self, entry: T) {
        self.held.insert(id_of(self.count), entry);
        self.count += 1;
    }

    fn forget(&mut self, id: u32) -> Option<T> {
        let entry = self.held.remove(&id);
        let (held, places) = (self.held.len(), self.held.capacity());
        if held == 0 {
            self.held = FxHashMap::default();
        } else if places > KEPT_PLACES && held < places / 4 {
            self.held.shrink_to(held.saturating_mul(2));
        }
        entry
    }
}

/// The texts of a frame.
fn texts(frame: &Frame) -> [&Arc<str>; 4] {
    [
        &frame.function,
        &frame.system_name,
        &frame.file,
        &frame.build_id,
    ]
}

fn text_len(frame: &Frame) -> usize {
    texts(frame).into_iter().map(|text| text.len()).sum()
}

/// The receiving end of a stream's dictionary.
///
/// Whoever has put a frame or stack somewhere else by its id lets the decoder
/// forget it; only its number stays taken.
#[derive(Debug, Default)]
pub struct Decoder {
    frames: Entries<Frame>,
    stacks: Entries<Box<[u32]>>,
    /// What the dictionary is counted for, as the sending end counts it.
    pub(super) bytes: usize,
    /// Bytes that `stacks` holds beside its map.
    stack_bytes: usize,
    /// Bytes of the texts of `frames`.
    text_bytes: usize,
}

impl Decoder {
    /// Returns the decoder of a stream that has received nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// About how many bytes it takes, the texts of its frames apart.
    pub fn memory_bytes(&self) -> usize {
        let frames = self.frames.held.capacity() * (HELD_BYTES + size_of::<Frame>());
        let stacks = self.stacks.held.capacity() * HELD_BYTES + self.stack_bytes;
        frames + stacks
    }

    /// Bytes of the texts of its frames; equal ones may be counted twice.
    pub fn text_bytes(&self) -> usize {
        self.text_bytes
    }

    /// How many stacks the dictionary has.
    pub fn stack_count(&self) -> usize {
        self.stacks.count
    }

    /// How many frames the dictionary has.
    pub fn frame_count(&self) -> usize {
        self.frames.count
    }

    /// Frame `id`, unless it was forgotten.
    pub fn frame(&self, id: u32) -> Option<&Frame> {
        self.frames.held.get(&id)
    }

    /// Gives up the memory of frame `id`, which the caller knows by now.
    pub fn forget_frame(&mut self, id: u32) {
        if let Some(frame) = self.frames.forget(id) {
            self.text_bytes = self.text_bytes.saturating_sub(text_len(&frame));
        }
    }

    /// Gives up the memory of stack `id`, which the caller knows by now.
    pub fn forget_stack(&mut self, id: u32) {
        if let Some(frames) = self.stacks.forget(id) {
            self.stack_bytes = self.stack_bytes.saturating_sub(size_of_val(&*frames));
        }
    }

    /// Ids of the frames of stack `id`, leaf first; `None` when it was forgotten or
    /// never came.
    pub fn frame_ids(&self, id: u32) -> Option<&[u32]> {
        self.stacks.held.get(&id).map(|frames| &**frames)
    }

    /// The frames of stack `id`, leaf first; empty for an unknown id.
    pub fn stack(&self, id: u32) -> impl DoubleEndedIterator<Item = &Frame> {
        let frames = self.frame_ids(id).unwrap_or_default();
        frames.iter().filter_map(|&frame| self.frame(frame))
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
            *self = Self::default();
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
        // Before anything is made of them.
        let entries = dictionary.strings.len() + dictionary.frames.len() + dictionary.stacks.len();
        check_size(
            "number of dictionary entries",
            entries,
            MAX_DICTIONARY_ENTRIES,
        )?;
        // Only frames of this very batch name them.
        let strings = Strings::of(dictionary.strings)?;
        self.bytes += strings.cost;
        for frame in &dictionary.frames {
            let frame = strings.frame(frame)?;
            self.push_frame(frame);
        }
        for stack in dictionary.stacks {
            self.add_stack(stack.frames.into_boxed_slice())?;
        }
        self.check_caps(strings.texts.len())
    }

    fn push_frame(&mut self, frame: Frame) {
        self.bytes += FRAME_COST;
        self.text_bytes = self.text_bytes.saturating_add(text_len(&frame));
        self.frames.push(frame);
    }

    fn add_stack(&mut self, frames: Box<[u32]>) -> Result<(), DictionaryError> {
        check_size("stack in frames", frames.len(), MAX_STACK_FRAMES)?;
        let known = id_of(self.frames.count);
        if let Some(&id) = frames.iter().find(|&&id| id >= known) {
            return Err(DictionaryError::Dangling { what: "frame", id });
        }
        self.bytes += stack_cost(frames.len());
        self.stack_bytes += size_of_val(&*frames);
        self.stacks.push(frames);
        Ok(())
    }

    /// An error if it is too large, with the `strings` of the batch.
    fn check_caps(&self, strings: usize) -> Result<(), DictionaryError> {
        let entries = strings + self.frames.count + self.stacks.count;
        check_size(
            "number of dictionary entries",
            entries,
            MAX_DICTIONARY_ENTRIES,
        )?;
        check_size("dictionary in bytes", self.bytes, MAX_DICTIONARY_BYTES)
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
        let known = id_of(self.stacks.count);
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

/// The strings of one batch.
struct Strings {
    texts: Vec<Arc<str>>,
    /// The text that most frames have somewhere.
    empty: Arc<str>,
    /// What they count for.
    cost: usize,
}

impl Strings {
    fn of(strings: Vec<String>) -> Result<Self, DictionaryError> {
        let mut texts = Vec::with_capacity(strings.len());
        let mut cost = 0;
        for text in strings {
            check_size("string in bytes", text.len(), MAX_STRING_BYTES)?;
            cost += string_cost(&text);
            texts.push(Arc::from(text));
        }
        Ok(Self {
            texts,
            empty: Arc::default(),
            cost,
        })
    }

    fn get(&self, id: u32) -> Result<Arc<str>, DictionaryError> {
        let Some(index) = id.checked_sub(1) else {
            return Ok(Arc::clone(&self.empty));
        };
        usize::try_from(index)
            .ok()
            .and_then(|index| self.texts.get(index))
            .map(Arc::clone)
            .ok_or(DictionaryError::Dangling {
                what: "string",
                id: index,
            })
    }

    fn frame(&self, frame: &pb::Frame) -> Result<Frame, DictionaryError> {
        let kind = u8::try_from(frame.kind)
            .ok()
            .and_then(FrameKind::from_code)
            .ok_or(DictionaryError::UnknownEnum {
                what: "frame kind",
                number: frame.kind,
            })?;
        Ok(Frame {
            kind,
            function: self.get(frame.function)?,
            system_name: self.get(frame.system_name)?,
            file: self.get(frame.file)?,
            start_line: frame.start_line,
            line: frame.line,
            build_id: self.get(frame.build_id)?,
            file_offset: frame.file_offset,
        })
    }
}
