//! A service's calling context tree in memory.
//!
//! Strings, frames, nodes and stacks are append-only tables; an id is an
//! index. A node is a frame under a parent with a smaller id, a stack is its
//! leaf node. What is longer than the durable length was not written yet and
//! can be taken back.
//!
//! Beside the tables there is an index of them, in five bytes or so for each
//! entry, which only those need who add to a tree: it is made when the first of
//! them comes.

mod index;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use self::index::Index;

use proto::stack::{Frame, FrameKind, FrameRef};
use rustc_hash::FxHashMap;

use super::rows::{self, FrameRow, Row};
use super::{Epoch, ServiceId};

/// Node 0 is the root of the tree and has no frame.
const ROOT_FRAME: u32 = u32::MAX;
/// What stands for the callees that a full tree has no room for.
pub const OVERFLOW: &str = "[other]";
/// Bytes of names for each node that a tree may have.
const NAME_BYTES: usize = 64;
/// What a text takes where it lies, beside its bytes: two counts, and what an
/// allocation is rounded up by.
const STRING_BYTES: usize = 24;

/// Lengths of the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lengths {
    strings: usize,
    frames: usize,
    nodes: usize,
    stacks: usize,
}

/// The tree of one service.
#[derive(Clone, Debug)]
pub struct ServiceTree {
    service: ServiceId,
    epoch: Epoch,
    strings: Vec<Arc<str>>,
    frames: Vec<FrameRow>,
    /// (parent, frame) of each node.
    nodes: Vec<(u32, u32)>,
    /// Of each node: whether no node above it runs its function.
    outermost: Vec<bool>,
    /// Leaf node of each stack.
    stacks: Vec<u32>,
    index: Index,
    string_bytes: usize,
    durable: Lengths,
    roll_backs: u64,
    max_nodes: usize,
    /// The text [`OVERFLOW`], once some stack ended in it.
    overflow: Option<u32>,
    overflowed: u64,
}

fn id(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn at<T>(table: &[T], id: u32) -> Option<&T> {
    table.get(usize::try_from(id).ok()?)
}

impl ServiceTree {
    /// Returns the tree of a service of which nothing is stored.
    pub fn new(service: ServiceId, epoch: Epoch) -> Self {
        Self {
            service,
            epoch,
            strings: Vec::new(),
            frames: Vec::new(),
            nodes: vec![(0, ROOT_FRAME)],
            outermost: vec![false],
            stacks: Vec::new(),
            index: Index::new(RandomState::new().hash_one(service.0)),
            string_bytes: 0,
            durable: Lengths {
                nodes: 1,
                ..Lengths::default()
            },
            roll_backs: 0,
            max_nodes: usize::MAX,
            overflow: None,
            overflowed: 0,
        }
    }

    /// From now on nothing is added beyond `max_nodes` nodes, or names of 64 bytes
    /// (`NAME_BYTES`) for each: what a stack has more ends in [`OVERFLOW`] below
    /// the last node that is kept. Such ends may be an eighth more.
    #[must_use]
    pub fn limited(self, max_nodes: usize) -> Self {
        Self { max_nodes, ..self }
    }

    /// Whether it takes no new nodes and frames.
    pub fn is_full(&self) -> bool {
        self.nodes.len() >= self.max_nodes
            || self.string_bytes >= self.max_nodes.saturating_mul(NAME_BYTES)
    }

    /// How many stacks ended in [`OVERFLOW`] since this was asked last.
    pub fn take_overflowed(&mut self) -> u64 {
        std::mem::take(&mut self.overflowed)
    }

    /// Whose it is.
    pub fn service(&self) -> ServiceId {
        self.service
    }

    /// The version of the tree.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How many nodes it has.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// How many stacks it has.
    pub fn stack_count(&self) -> usize {
        self.stacks.len()
    }

    /// About how many bytes it takes in memory.
    pub fn bytes(&self) -> usize {
        self.string_bytes
            + self.strings.len() * STRING_BYTES
            + self.strings.capacity() * size_of::<Arc<str>>()
            + self.frames.capacity() * size_of::<FrameRow>()
            + self.nodes.capacity() * size_of::<(u32, u32)>()
            + self.outermost.capacity()
            + self.stacks.capacity() * size_of::<u32>()
            + self.index.bytes()
    }

    /// How many texts it has.
    pub fn string_count(&self) -> usize {
        self.strings.len()
    }

    /// Text `id`.
    pub fn string(&self, id: u32) -> Option<&str> {
        at(&self.strings, id).map(|text| &**text)
    }

    /// The function that a frame runs, as the id of its name.
    pub fn function(&self, frame: u32) -> Option<u32> {
        at(&self.frames, frame).map(|frame| frame.function)
    }

    /// Per frame: the function that it runs, as the id of its name.
    pub fn functions(&self) -> Vec<u32> {
        self.frames.iter().map(|frame| frame.function).collect()
    }

    /// Per node: whether no node above it runs its function.
    pub fn outermost(&self) -> &[bool] {
        &self.outermost
    }

    /// Whether no node from `above` to the root runs the function of `frame`.
    fn is_outermost(&self, above: u32, frame: u32) -> bool {
        let function = self.function(frame);
        let mut node = above;
        while node != 0
            && let Some(&(parent, held)) = at(&self.nodes, node)
        {
            if self.function(held) == function {
                return false;
            }
            node = parent;
        }
        true
    }

    /// Frames of a stack, leaf first.
    pub fn frames_of(&self, stack: u32) -> impl Iterator<Item = &FrameRow> {
        let mut node = self.leaf(stack).unwrap_or(0);
        std::iter::from_fn(move || {
            if node == 0 {
                return None;
            }
            let (parent, frame) = *at(&self.nodes, node)?;
            node = parent;
            at(&self.frames, frame)
        })
    }

    /// The frames of a stack, root first.
    pub fn path(&self, stack: u32) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut node = self.leaf(stack).unwrap_or(0);
        while node != 0
            && let Some(&(parent, frame)) = at(&self.nodes, node)
        {
            frames.extend(self.frame(frame));
            node = parent;
        }
        frames.reverse();
        frames
    }

    /// How often what was not written was taken back: ids of stacks stand for
    /// the same stacks as long as this stays.
    pub fn roll_backs(&self) -> u64 {
        self.roll_backs
    }

    /// The leaf node of stack `stack`.
    pub fn leaf(&self, stack: u32) -> Option<u32> {
        at(&self.stacks, stack).copied()
    }

    /// The leaf node of each stack.
    pub fn leaves(&self) -> &[u32] {
        &self.stacks
    }

    /// Parent of node `node`; the root is its own.
    pub fn parent(&self, node: u32) -> Option<u32> {
        at(&self.nodes, node).map(|(parent, _)| *parent)
    }

    /// (parent, frame) of each node; the first is the root and has no frame.
    pub fn nodes(&self) -> &[(u32, u32)] {
        &self.nodes
    }

    /// Per frame: whether its function is one that `matches`, which is asked once
    /// for each name.
    pub fn functions_matching(&self, matches: impl Fn(&str) -> bool) -> Vec<bool> {
        let mut asked: FxHashMap<u32, bool> = FxHashMap::default();
        let mut is_match = |function: u32| {
            *asked
                .entry(function)
                .or_insert_with(|| at(&self.strings, function).is_some_and(|name| matches(name)))
        };
        let frames = self.frames.iter();
        frames.map(|frame| is_match(frame.function)).collect()
    }

    /// Frame `frame` with its strings.
    pub fn frame(&self, frame: u32) -> Option<Frame> {
        let row = at(&self.frames, frame)?;
        let text = |id| at(&self.strings, id).map(Arc::clone);
        Some(Frame {
            kind: row.kind,
            function: text(row.function)?,
            system_name: text(row.system_name)?,
            file: text(row.file)?,
            start_line: row.start_line,
            line: row.line,
            build_id: text(row.build_id)?,
            file_offset: row.file_offset,
        })
    }

    fn intern_string(&mut self, text: &str) -> u32 {
        if let Some(known) = self.index.string(&self.strings, text) {
            return known;
        }
        let fresh = self.push_string(Arc::from(text));
        self.index.add_strings(&self.strings);
        fresh
    }

    fn push_string(&mut self, text: Arc<str>) -> u32 {
        let fresh = id(self.strings.len());
        if &*text == OVERFLOW {
            self.overflow = Some(fresh);
        }
        self.string_bytes += text.len();
        self.strings.push(text);
        fresh
    }

    /// The id of `frame`; added when it is new. A full tree gives that of
    /// [`OVERFLOW`] for frames that it does not know.
    pub fn intern_frame(&mut self, frame: FrameRef<'_>) -> u32 {
        match self.is_full() {
            true => self
                .find_frame(frame)
                .unwrap_or_else(|| self.overflow_frame()),
            false => self.add_frame(frame),
        }
    }

    fn overflow_frame(&mut self) -> u32 {
        self.add_frame(FrameRef::named(FrameKind::Synthetic, OVERFLOW))
    }

    fn find_frame(&mut self, frame: FrameRef<'_>) -> Option<u32> {
        self.index.add_strings(&self.strings);
        self.index.add_frames(&self.frames);
        let string = |text: &str| self.index.string(&self.strings, text);
        let row = FrameRow {
            kind: frame.kind,
            function: string(frame.function)?,
            system_name: string(frame.system_name)?,
            file: string(frame.file)?,
            start_line: frame.start_line,
            line: frame.line,
            build_id: string(frame.build_id)?,
            file_offset: frame.file_offset,
        };
        self.index.frame(&self.frames, &row)
    }

    fn add_frame(&mut self, frame: FrameRef<'_>) -> u32 {
        self.index.add_strings(&self.strings);
        self.index.add_frames(&self.frames);
        let row = FrameRow {
            kind: frame.kind,
            function: self.intern_string(frame.function),
            system_name: self.intern_string(frame.system_name),
            file: self.intern_string(frame.file),
            start_line: frame.start_line,
            line: frame.line,
            build_id: self.intern_string(frame.build_id),
            file_offset: frame.file_offset,
        };
        if let Some(known) = self.index.frame(&self.frames, &row) {
            return known;
        }
        let fresh = id(self.frames.len());
        self.frames.push(row);
        self.index.add_frames(&self.frames);
        fresh
    }

    /// The stack id of these frames, root first; added when it is new.
    pub fn intern<'f>(&mut self, root_first: impl Iterator<Item = &'f Frame>) -> u32 {
        let path: Vec<u32> = root_first
            .map(|frame| self.intern_frame(frame.borrowed()))
            .collect();
        self.intern_path(&path)
    }

    /// The stack id of these ids of [`ServiceTree::intern_frame`], root first;
    /// added when it is new.
    pub fn intern_path(&mut self, root_first: &[u32]) -> u32 {
        self.index.add_paths(&self.nodes, &self.stacks);
        // Most stacks are known: one look instead of one for each frame.
        if let Some(stack) = self.index.stack(root_first) {
            if self.is_full() && self.is_overflow(stack) {
                self.overflowed = self.overflowed.saturating_add(1);
            }
            return stack;
        }
        self.index.add_nodes(&self.nodes);
        let leaf = match self.is_full() {
            true => match self.known_nodes(root_first) {
                Ok(leaf) => leaf,
                Err(kept) => return self.overflow_below(kept),
            },
            false => root_first
                .iter()
                .fold(0, |node, &frame| self.child(node, frame)),
        };
        self.add_stack(leaf)
    }

    /// The stack that [`ServiceTree::remember`] was told of under `key`.
    pub fn known(&self, key: u128) -> Option<u32> {
        self.index.keyed(key)
    }

    /// Remembers `stack` under a key that stands for its frames, as they were before
    /// their names were made normal. Not stored, and forgotten now and then: several
    /// keys may stand for one stack, and they must not take more than the tree. A
    /// stack that a full tree cut off is not remembered.
    pub fn remember(&mut self, key: u128, stack: u32) {
        if !self.is_overflow(stack) {
            self.index.add_key(key, stack, self.stacks.len());
        }
    }

    fn add_stack(&mut self, leaf: u32) -> u32 {
        let stack = id(self.stacks.len());
        self.stacks.push(leaf);
        self.index.add_paths(&self.nodes, &self.stacks);
        stack
    }

    /// The node of `frame` below `parent`; added when it is new.
    fn child(&mut self, parent: u32, frame: u32) -> u32 {
        if let Some(known) = self.index.node(&self.nodes, (parent, frame)) {
            return known;
        }
        let fresh = id(self.nodes.len());
        self.outermost.push(self.is_outermost(parent, frame));
        self.nodes.push((parent, frame));
        self.index.add_nodes(&self.nodes);
        fresh
    }

    /// Whether a stack ends in [`OVERFLOW`].
    pub fn is_overflow(&self, stack: u32) -> bool {
        // Nearly every tree has none, and is not looked into.
        self.overflow.is_some() && {
            let leaf = self.leaf(stack).and_then(|leaf| at(&self.nodes, leaf));
            leaf.is_some_and(|&(_, frame)| self.is_overflow_frame(frame))
        }
    }

    /// Whether a frame is [`OVERFLOW`].
    pub fn is_overflow_frame(&self, frame: u32) -> bool {
        self.overflow.is_some() && self.function(frame) == self.overflow
    }

    /// The node of a path, or the last one on it that is there.
    fn known_nodes(&self, root_first: &[u32]) -> Result<u32, u32> {
        root_first.iter().try_fold(0, |node, &frame| {
            self.index.node(&self.nodes, (node, frame)).ok_or(node)
        })
    }

    /// The stack of [`OVERFLOW`] below `kept`, or below the nearest node above it
    /// that has one when there are too many.
    fn overflow_below(&mut self, mut kept: u32) -> u32 {
        self.overflowed = self.overflowed.saturating_add(1);
        let frame = self.overflow_frame();
        if at(&self.nodes, kept).is_some_and(|&(_, own)| own == frame) {
            kept = self.parent(kept).unwrap_or(0);
        }
        let most = self.max_nodes.saturating_add(self.max_nodes / 8);
        if self.nodes.len() >= most {
            while kept != 0 && self.index.node(&self.nodes, (kept, frame)).is_none() {
                kept = self.parent(kept).unwrap_or(0);
            }
        }
        let leaf = self.child(kept, frame);
        let path = index::path_to(&self.nodes, leaf);
        match self.index.stack(&path) {
            Some(stack) => stack,
            None => self.add_stack(leaf),
        }
    }

    /// Whether everything was written.
    pub fn is_durable(&self) -> bool {
        self.durable == self.lengths()
    }

    fn lengths(&self) -> Lengths {
        Lengths {
            strings: self.strings.len(),
            frames: self.frames.len(),
            nodes: self.nodes.len(),
            stacks: self.stacks.len(),
        }
    }

    /// The rows that hold what was not written yet.
    pub fn fresh_rows(&self) -> Vec<Row> {
        let durable = self.durable;
        let mut out = Vec::new();
        let strings = self.strings.get(durable.strings..).unwrap_or(&[]);
        if !strings.is_empty() {
            let texts = strings.iter().map(|text| &**text);
            out.push(rows::strings(
                self.service,
                self.epoch,
                id(durable.strings),
                texts,
            ));
        }
        let frames = self.frames.get(durable.frames..).unwrap_or(&[]);
        if !frames.is_empty() {
            out.push(rows::frames(
                self.service,
                self.epoch,
                id(durable.frames),
                frames,
            ));
        }
        let nodes = self.nodes.get(durable.nodes..).unwrap_or(&[]);
        if !nodes.is_empty() {
            out.push(rows::nodes(
                self.service,
                self.epoch,
                id(durable.nodes),
                nodes,
            ));
        }
        let stacks = self.stacks.get(durable.stacks..).unwrap_or(&[]);
        if !stacks.is_empty() {
            out.push(rows::stacks(
                self.service,
                self.epoch,
                id(durable.stacks),
                stacks,
            ));
        }
        out
    }

    /// Everything was written.
    pub fn mark_durable(&mut self) {
        self.durable = self.lengths();
    }

    /// Takes back what was not written.
    pub fn roll_back(&mut self) {
        self.roll_backs += 1;
        self.index.forget_keys();
        let durable = self.durable;
        self.index.forget_after(
            [
                durable.strings,
                durable.frames,
                durable.nodes,
                durable.stacks,
            ],
            &self.strings,
            &self.frames,
            &self.nodes,
            &self.stacks,
        );
        for text in self.strings.drain(durable.strings..) {
            self.string_bytes -= text.len();
        }
        self.overflow = self.overflow.filter(|&text| text < id(durable.strings));
        self.frames.truncate(durable.frames);
        self.stacks.truncate(durable.stacks);
        self.nodes.truncate(durable.nodes);
        self.outermost.truncate(durable.nodes);
    }

    /// Adds a stored run; the runs of each kind come in order of their ids, and
    /// strings before frames before nodes before stacks. [`ServiceTree::loaded`]
    /// comes after the last.
    pub(super) fn load_run(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let row = key.first().copied().ok_or("without a key")?;
        let first = rows::run_first(key).ok_or("with a short key")?;
        let row = match row {
            rows::LATER_STRING_ROW => rows::STRING_ROW,
            rows::LATER_FRAME_ROW => rows::FRAME_ROW,
            row => row,
        };
        let held = match row {
            rows::STRING_ROW => self.strings.len(),
            rows::FRAME_ROW => self.frames.len(),
            rows::NODE_ROW => self.nodes.len(),
            rows::STACK_ROW => self.stacks.len(),
            _ => return Err("of an unknown kind"),
        };
        if id(held) != first {
            return Err("not where the run before it ends");
        }
        let mut reader = super::bytes::Reader(value);
        while !reader.is_empty() {
            self.load_entry(row, &mut reader)
                .ok_or("with an entry that points nowhere")?;
        }
        self.durable = self.lengths();
        Ok(())
    }

    /// All runs were added.
    pub(super) fn loaded(&mut self) {
        self.mark_outermost();
        self.strings.shrink_to_fit();
        self.frames.shrink_to_fit();
        self.nodes.shrink_to_fit();
        self.stacks.shrink_to_fit();
    }

    /// Tells of every node whether it is outermost. Nodes follow one another down
    /// stacks for the most part, so the way from the root is kept from one to the
    /// next instead of being gone for each.
    fn mark_outermost(&mut self) {
        let mut outermost = Vec::with_capacity(self.nodes.len());
        outermost.push(false);
        let mut way = Way {
            tree: self,
            nodes: Vec::new(),
            runs: vec![0; self.strings.len()],
        };
        for (node, &(parent, _)) in (1_u32..).zip(self.nodes.iter().skip(1)) {
            way.turn_to(parent);
            outermost.push(way.push(node) == 0);
        }
        self.outermost = outermost;
    }

    fn load_entry(&mut self, row: u8, reader: &mut super::bytes::Reader<'_>) -> Option<()> {
        match row {
            rows::STRING_ROW => {
                self.push_string(Arc::from(reader.text()?));
            }
            rows::FRAME_ROW => {
                let frame = rows::read_frame(reader)?;
                for string in [
                    frame.function,
                    frame.system_name,
                    frame.file,
                    frame.build_id,
                ] {
                    at(&self.strings, string)?;
                }
                self.frames.push(frame);
            }
            rows::NODE_ROW => {
                let node = id(self.nodes.len());
                let distance: u32 = reader.number()?;
                let parent = node.checked_sub(distance).filter(|&parent| parent < node)?;
                let frame: u32 = reader.number()?;
                at(&self.frames, frame)?;
                self.nodes.push((parent, frame));
            }
            rows::STACK_ROW => {
                let leaf: u32 = reader.number()?;
                at(&self.nodes, leaf)?;
                self.stacks.push(leaf);
            }
            _ => return None,
        }
        Some(())
    }
}

/// The way from the root to a node.
struct Way<'t> {
    tree: &'t ServiceTree,
    /// Each is larger than the one above it.
    nodes: Vec<u32>,
    /// How often each function is on the way, by the id of its name.
    runs: Vec<u32>,
}

impl Way<'_> {
    fn runs(&mut self, node: u32) -> Option<&mut u32> {
        let &(_, frame) = at(&self.tree.nodes, node)?;
        let function = usize::try_from(self.tree.function(frame)?).ok()?;
        self.runs.get_mut(function)
    }

    /// Goes down to `node`. Returns how often its function is on the way above it.
    fn push(&mut self, node: u32) -> u32 {
        self.nodes.push(node);
        self.runs(node).map_or(0, |runs| {
            *runs += 1;
            *runs - 1
        })
    }

    fn pop(&mut self) {
        if let Some(node) = self.nodes.pop()
            && let Some(runs) = self.runs(node)
        {
            *runs -= 1;
        }
    }

    /// From now on it is the way to `node`.
    fn turn_to(&mut self, node: u32) {
        while self.nodes.last().is_some_and(|&last| last > node) {
            self.pop();
        }
        if self.nodes.last().copied().unwrap_or(0) == node {
            return;
        }
        while !self.nodes.is_empty() {
            self.pop();
        }
        let mut above = node;
        let mut up = Vec::new();
        while above != 0 {
            up.push(above);
            above = self.tree.parent(above).unwrap_or(0);
        }
        for node in up.into_iter().rev() {
            self.push(node);
        }
    }
}

#[cfg(test)]
mod tests;
