//! Frames and stacks of one profile, each once, in a handful of lists.
//!
//! What is the same is told by [`Key`]s: 128 bits under a seed that is random for
//! each process. Two things have the same ones with a probability of 2^-128, which
//! is taken for never, as in a service's tree. A stack has the same key in every
//! profile, so that a tree which remembers it needs nothing else of the stack.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

use hashbrown::HashTable;
use proto::stack::{Frame, FrameKind, FrameRef, Stack};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Makes keys unforeseeable: files are hostile.
static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0_u8));

/// Stands for a text, function, frame or stack in every profile that this process
/// reads. Never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u128);

impl Key {
    fn of(bytes: &[u8]) -> Self {
        Self(xxh3_128_with_seed(bytes, *SEED))
    }

    /// The key as a number.
    pub fn get(self) -> u128 {
        self.0
    }

    /// The half by which it is looked for.
    fn short(self) -> u64 {
        u64::try_from(self.0 >> u64::BITS).unwrap_or_default()
    }
}

/// A frame of [`Words`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameId(u32);

impl FrameId {
    /// A frame for which there was no room.
    pub(super) const NONE: Self = Self(u32::MAX);
}

/// A function of [`Words`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FunctionId(u32);

/// What a function is beside its texts.
#[derive(Clone, Copy, Debug)]
struct Function {
    kind: FrameKind,
    start_line: u32,
    /// Name, name in the binary, file and build id.
    texts: [u32; 4],
    key: Key,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    function: u32,
    line: u32,
    file_offset: u64,
}

/// Frames and stacks, each once.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// Every text, one after the other, and where each ends.
    text: String,
    text_ends: Vec<usize>,
    functions: Vec<Function>,
    frames: Vec<Row>,
    /// Ids of frames, stack by stack, leaf first, and where each stack ends.
    paths: Vec<u32>,
    path_ends: Vec<usize>,
    stack_keys: Vec<Key>,
}

fn at<T>(table: &[T], id: u32) -> Option<&T> {
    table.get(usize::try_from(id).ok()?)
}

fn id(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Where entry `number` begins and ends in a list of which `ends` says where its
/// entries end.
fn span(ends: &[usize], number: usize) -> Option<(usize, usize)> {
    let end = *ends.get(number)?;
    let before = number.checked_sub(1).and_then(|before| ends.get(before));
    Some((before.copied().unwrap_or(0), end))
}

impl Words {
    /// How many stacks there are.
    pub fn stack_count(&self) -> usize {
        self.stack_keys.len()
    }

    /// How many frames there are.
    pub fn frame_count(&self) -> usize {
        self.frames.len()
    }

    /// Bytes that they take in memory.
    pub fn bytes(&self) -> usize {
        self.text.capacity()
            + self.text_ends.capacity() * size_of::<usize>()
            + self.functions.capacity() * size_of::<Function>()
            + self.frames.capacity() * size_of::<Row>()
            + self.paths.capacity() * size_of::<u32>()
            + self.path_ends.capacity() * size_of::<usize>()
            + self.stack_keys.capacity() * size_of::<Key>()
    }

    /// Frames of stack `stack`, leaf first, for [`Words::frame`].
    pub fn stack(&self, stack: u32) -> Option<&[u32]> {
        let (start, end) = span(&self.path_ends, usize::try_from(stack).ok()?)?;
        self.paths.get(start..end)
    }

    /// What stands for stack `stack`.
    pub fn key(&self, stack: u32) -> Option<Key> {
        at(&self.stack_keys, stack).copied()
    }

    fn text(&self, text: u32) -> Option<&str> {
        let (start, end) = span(&self.text_ends, usize::try_from(text).ok()?)?;
        self.text.get(start..end)
    }

    /// Frame `frame`.
    pub fn frame(&self, frame: u32) -> Option<FrameRef<'_>> {
        let row = at(&self.frames, frame)?;
        let function = at(&self.functions, row.function)?;
        let [name, system_name, file, build_id] = function.texts;
        Some(FrameRef {
            kind: function.kind,
            function: self.text(name)?,
            system_name: self.text(system_name)?,
            file: self.text(file)?,
            start_line: function.start_line,
            line: row.line,
            build_id: self.text(build_id)?,
            file_offset: row.file_offset,
        })
    }

    /// Every stack with its frames, which share their texts.
    pub fn stacks(&self) -> Vec<Stack> {
        let mut texts: HashMap<&str, Arc<str>> = HashMap::new();
        let mut text = |text| Arc::clone(texts.entry(text).or_insert_with(|| Arc::from(text)));
        let frames: Vec<Frame> = (0..id(self.frames.len()))
            .filter_map(|frame| self.frame(frame))
            .map(|frame| Frame {
                kind: frame.kind,
                function: text(frame.function),
                system_name: text(frame.system_name),
                file: text(frame.file),
                start_line: frame.start_line,
                line: frame.line,
                build_id: text(frame.build_id),
                file_offset: frame.file_offset,
            })
            .collect();
        let stacks = (0..id(self.stack_count())).filter_map(|stack| self.stack(stack));
        stacks
            .map(|path| path.iter().filter_map(|id| at(&frames, *id)))
            .map(|path| path.cloned().collect())
            .collect()
    }
}

/// [`Words`] that are being collected, found by their keys.
#[derive(Debug, Default)]
pub(super) struct Collecting {
    words: Words,
    text_keys: Vec<Key>,
    frame_keys: Vec<Key>,
    texts_by_key: HashTable<u32>,
    functions_by_key: HashTable<u32>,
    frames_by_key: HashTable<u32>,
    stacks_by_key: HashTable<u32>,
    /// Keys of the frames of a path.
    path: Vec<u8>,
}

/// A function that may be a new one.
pub(super) struct Candidate<'t> {
    kind: FrameKind,
    start_line: u32,
    texts: [&'t str; 4],
    text_keys: [Key; 4],
    key: Key,
}

impl<'t> Candidate<'t> {
    /// Returns the function with these texts: name, name in the binary, file and
    /// build id.
    pub(super) fn new(kind: FrameKind, start_line: u32, texts: [&'t str; 4]) -> Self {
        let text_keys = texts.map(|text| Key::of(text.as_bytes()));
        let mut bytes = [0; 72];
        let [kind_byte, _, _, _, rest @ ..] = &mut bytes;
        *kind_byte = kind.code();
        let (line, keys) = rest.split_at_mut(4);
        line.copy_from_slice(&start_line.to_le_bytes());
        for (place, key) in keys.chunks_exact_mut(16).zip(text_keys) {
            place.copy_from_slice(&key.0.to_le_bytes());
        }
        Self {
            kind,
            start_line,
            texts,
            text_keys,
            key: Key::of(&bytes),
        }
    }
}

fn find(ids: &HashTable<u32>, keys: &[Key], key: Key) -> Option<u32> {
    let is_it = |&id: &u32| at(keys, id) == Some(&key);
    ids.find(key.short(), is_it).copied()
}

fn insert(ids: &mut HashTable<u32>, keys: &[Key], key: Key, id: u32) {
    let short = |&id: &u32| at(keys, id).map_or(0, |key| key.short());
    ids.insert_unique(key.short(), id, short);
}

impl Collecting {
    /// Makes room for so many functions, frames and stacks.
    pub(super) fn reserve(&mut self, [functions, frames, stacks]: [usize; 3]) {
        // Nothing is there whose hash would be asked for.
        let none = |_: &u32| 0;
        if self.frame_keys.is_empty() && self.words.stack_keys.is_empty() {
            self.texts_by_key.reserve(functions, none);
            self.functions_by_key.reserve(functions, none);
            self.frames_by_key.reserve(frames, none);
            self.stacks_by_key.reserve(stacks, none);
        }
        self.words.functions.reserve(functions);
        self.words.frames.reserve(frames);
        self.frame_keys.reserve(frames);
        self.words.stack_keys.reserve(stacks);
    }

    /// How many stacks there are.
    pub(super) fn stack_count(&self) -> usize {
        self.words.stack_count()
    }

    /// What was collected.
    pub(super) fn finish(self) -> Words {
        self.words
    }

    /// The function that `candidate` is, if it is known.
    pub(super) fn find_function(&self, candidate: &Candidate<'_>) -> Option<FunctionId> {
        let functions = &self.words.functions;
        let is_it =
            |&id: &u32| at(functions, id).is_some_and(|function| function.key == candidate.key);
        let found = self.functions_by_key.find(candidate.key.short(), is_it);
        found.map(|&id| FunctionId(id))
    }

    /// Adds a function, and calls `spend` with the length of each text that is new.
    pub(super) fn add_function(
        &mut self,
        candidate: &Candidate<'_>,
        mut spend: impl FnMut(usize),
    ) -> FunctionId {
        let mut texts = [0; 4];
        let given = candidate.texts.iter().zip(candidate.text_keys);
        for (place, (text, key)) in texts.iter_mut().zip(given) {
            *place = match find(&self.texts_by_key, &self.text_keys, key) {
                Some(known) => known,
                None => {
                    spend(text.len());
                    self.add_text(text, key)
                }
            };
        }
        let functions = &mut self.words.functions;
        let fresh = id(functions.len());
        functions.push(Function {
            kind: candidate.kind,
            start_line: candidate.start_line,
            texts,
            key: candidate.key,
        });
        let short = |&id: &u32| at(functions, id).map_or(0, |function| function.key.short());
        self.functions_by_key
            .insert_unique(candidate.key.short(), fresh, short);
        FunctionId(fresh)
    }

    fn add_text(&mut self, text: &str, key: Key) -> u32 {
        let fresh = id(self.text_keys.len());
        self.words.text.push_str(text);
        self.words.text_ends.push(self.words.text.len());
        self.text_keys.push(key);
        insert(&mut self.texts_by_key, &self.text_keys, key, fresh);
        fresh
    }

    /// The key of a frame at `line` of a function, or at an offset in its module.
    pub(super) fn frame_key(&self, function: FunctionId, line: u32, file_offset: u64) -> Key {
        let function = at(&self.words.functions, function.0);
        let key = function.map_or(0, |function| function.key.0);
        let mut bytes = [0; 28];
        let (head, tail) = bytes.split_at_mut(16);
        head.copy_from_slice(&key.to_le_bytes());
        let (middle, tail) = tail.split_at_mut(4);
        middle.copy_from_slice(&line.to_le_bytes());
        tail.copy_from_slice(&file_offset.to_le_bytes());
        Key::of(&bytes)
    }

    /// The frame with this key, if it is known.
    pub(super) fn find_frame(&self, key: Key) -> Option<FrameId> {
        find(&self.frames_by_key, &self.frame_keys, key).map(FrameId)
    }

    /// Adds a frame with its key.
    pub(super) fn add_frame(
        &mut self,
        key: Key,
        function: FunctionId,
        line: u32,
        file_offset: u64,
    ) -> FrameId {
        let fresh = id(self.frame_keys.len());
        self.words.frames.push(Row {
            function: function.0,
            line,
            file_offset,
        });
        self.frame_keys.push(key);
        insert(&mut self.frames_by_key, &self.frame_keys, key, fresh);
        FrameId(fresh)
    }

    /// The key of a stack of known frames.
    pub(super) fn stack_key(&mut self, leaf_first: &[FrameId]) -> Key {
        self.path.clear();
        for frame in leaf_first {
            let key = at(&self.frame_keys, frame.0).map_or(0, |key| key.0);
            self.path.extend_from_slice(&key.to_le_bytes());
        }
        Key::of(&self.path)
    }

    /// The number of the stack with this key, if it is known.
    pub(super) fn find_stack(&self, key: Key) -> Option<usize> {
        let found = find(&self.stacks_by_key, &self.words.stack_keys, key)?;
        usize::try_from(found).ok()
    }

    /// Adds a stack with its key, and returns its number.
    pub(super) fn add_stack(&mut self, key: Key, leaf_first: &[FrameId]) -> usize {
        let words = &mut self.words;
        let fresh = words.stack_keys.len();
        words.paths.extend(leaf_first.iter().map(|frame| frame.0));
        words.path_ends.push(words.paths.len());
        words.stack_keys.push(key);
        insert(&mut self.stacks_by_key, &words.stack_keys, key, id(fresh));
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(names: &[&[&str]]) -> Words {
        let mut collecting = Collecting::default();
        for stack in names {
            let mut path = Vec::new();
            for name in *stack {
                let function = Candidate::new(FrameKind::Go, 1, [name, "", "a.go", ""]);
                let function = match collecting.find_function(&function) {
                    Some(known) => known,
                    None => collecting.add_function(&function, |_| {}),
                };
                let key = collecting.frame_key(function, 7, 0);
                let known = collecting.find_frame(key);
                path.push(known.unwrap_or_else(|| collecting.add_frame(key, function, 7, 0)));
            }
            let key = collecting.stack_key(&path);
            if collecting.find_stack(key).is_none() {
                collecting.add_stack(key, &path);
            }
        }
        collecting.finish()
    }

    #[test]
    fn everything_is_there_once_and_has_one_key_in_every_profile() {
        let words = collected(&[&["a", "b"], &["b", "a"], &[], &["a", "b"]]);
        assert_eq!((words.stack_count(), words.frame_count()), (3, 2));
        let frame = |name| Frame {
            start_line: 1,
            ..Frame::named(FrameKind::Go, name).at("a.go", 7)
        };
        let (a, b) = (frame("a"), frame("b"));
        let stacks = words.stacks();
        assert_eq!(&*stacks[0], [a.clone(), b.clone()]);
        assert_eq!(&*stacks[1], [b, a]);
        assert_eq!(&*stacks[2], []);
        let other = collected(&[&["x"], &["b", "a"]]);
        assert_eq!(other.key(1), words.key(1));
        assert_ne!(words.key(0), words.key(1));
        assert_eq!(
            (words.key(3), words.stack(3), words.frame(2)),
            (None, None, None)
        );
    }
}
