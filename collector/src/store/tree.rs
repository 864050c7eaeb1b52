//! A service's calling context tree in memory.
//!
//! Strings, frames, nodes and stacks are append-only tables; an id is an
//! index. A node is a frame under a parent with a smaller id, a stack is its
//! leaf node. What is longer than the durable length was not written yet and
//! can be taken back.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use proto::stack::{Frame, FrameKind};
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::rows::{self, FrameRow, Row};
use super::{Epoch, ServiceId};

/// Node 0 is the root of the tree and has no frame.
const ROOT_FRAME: u32 = u32::MAX;
/// What stands for the callees that a full tree has no room for.
pub const OVERFLOW: &str = "[other]";
/// Bytes of names for each node that a tree may have.
const NAME_BYTES: usize = 64;

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
    string_ids: FxHashMap<Arc<str>, u32>,
    frame_ids: FxHashMap<FrameRow, u32>,
    node_ids: FxHashMap<(u32, u32), u32>,
    /// The stack of each hash of a path, see [`ServiceTree::hash_of`].
    path_ids: FxHashMap<PathHash, u32>,
    /// Makes hashes of paths unforeseeable.
    seed: u64,
    string_bytes: usize,
    durable: Lengths,
    roll_backs: u64,
    max_nodes: usize,
    overflowed: u64,
}

fn id(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// 128 bits that stand for a path of frames. Never stored.
type PathHash = (u64, u64);

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
            string_ids: FxHashMap::default(),
            frame_ids: FxHashMap::default(),
            node_ids: FxHashMap::default(),
            path_ids: FxHashMap::default(),
            seed: RandomState::new().hash_one(service.0),
            string_bytes: 0,
            durable: Lengths {
                nodes: 1,
                ..Lengths::default()
            },
            roll_backs: 0,
            max_nodes: usize::MAX,
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
        // Table entries with their share of the hash maps.
        self.string_bytes
            + self.strings.len() * 80
            + self.frames.len() * 96
            + self.nodes.len() * 33
            + self.stacks.len() * 44
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

    fn intern_string(&mut self, text: &Arc<str>) -> u32 {
        if let Some(&known) = self.string_ids.get(text) {
            return known;
        }
        let fresh = id(self.strings.len());
        self.string_bytes += text.len();
        self.strings.push(Arc::clone(text));
        self.string_ids.insert(Arc::clone(text), fresh);
        fresh
    }

    /// The id of `frame`; added when it is new. A full tree gives that of
    /// [`OVERFLOW`] for frames that it does not know.
    pub fn intern_frame(&mut self, frame: &Frame) -> u32 {
        match self.is_full() {
            true => self
                .find_frame(frame)
                .unwrap_or_else(|| self.overflow_frame()),
            false => self.add_frame(frame),
        }
    }

    fn overflow_frame(&mut self) -> u32 {
        self.add_frame(&Frame::named(FrameKind::Synthetic, OVERFLOW))
    }

    fn find_frame(&self, frame: &Frame) -> Option<u32> {
        let string = |text: &Arc<str>| self.string_ids.get(text).copied();
        let row = FrameRow {
            kind: frame.kind,
            function: string(&frame.function)?,
            system_name: string(&frame.system_name)?,
            file: string(&frame.file)?,
            start_line: frame.start_line,
            line: frame.line,
            build_id: string(&frame.build_id)?,
            file_offset: frame.file_offset,
        };
        self.frame_ids.get(&row).copied()
    }

    fn add_frame(&mut self, frame: &Frame) -> u32 {
        let row = FrameRow {
            kind: frame.kind,
            function: self.intern_string(&frame.function),
            system_name: self.intern_string(&frame.system_name),
            file: self.intern_string(&frame.file),
            start_line: frame.start_line,
            line: frame.line,
            build_id: self.intern_string(&frame.build_id),
            file_offset: frame.file_offset,
        };
        if let Some(&known) = self.frame_ids.get(&row) {
            return known;
        }
        let fresh = id(self.frames.len());
        self.frames.push(row);
        self.frame_ids.insert(row, fresh);
        fresh
    }

    /// The stack id of these frames, root first; added when it is new.
    pub fn intern<'f>(&mut self, root_first: impl Iterator<Item = &'f Frame>) -> u32 {
        let path: Vec<u32> = root_first.map(|frame| self.intern_frame(frame)).collect();
        self.intern_path(&path)
    }

    /// The stack id of these ids of [`ServiceTree::intern_frame`], root first;
    /// added when it is new.
    pub fn intern_path(&mut self, root_first: &[u32]) -> u32 {
        let hash = self.hash_of(root_first);
        // Most stacks are known: one look instead of one for each frame.
        if let Some(&stack) = self.path_ids.get(&hash) {
            if self.is_full() && self.is_overflow(stack) {
                self.overflowed = self.overflowed.saturating_add(1);
            }
            return stack;
        }
        let leaf = match self.is_full() {
            true => match self.known_nodes(root_first) {
                Ok(leaf) => leaf,
                Err(kept) => return self.overflow_below(kept),
            },
            false => root_first
                .iter()
                .fold(0, |node, &frame| self.child(node, frame)),
        };
        self.add_stack(leaf, hash)
    }

    fn add_stack(&mut self, leaf: u32, hash: PathHash) -> u32 {
        let stack = id(self.stacks.len());
        self.stacks.push(leaf);
        self.path_ids.insert(hash, stack);
        stack
    }

    /// The node of `frame` below `parent`; added when it is new.
    fn child(&mut self, parent: u32, frame: u32) -> u32 {
        let fresh = id(self.nodes.len());
        let node = *self.node_ids.entry((parent, frame)).or_insert(fresh);
        if node == fresh {
            self.outermost.push(self.is_outermost(parent, frame));
            self.nodes.push((parent, frame));
        }
        node
    }

    /// Whether a stack ends in [`OVERFLOW`].
    pub fn is_overflow(&self, stack: u32) -> bool {
        let leaf = self.leaf(stack).and_then(|leaf| at(&self.nodes, leaf));
        leaf.is_some_and(|&(_, frame)| self.is_overflow_frame(frame))
    }

    /// Whether a frame is [`OVERFLOW`].
    pub fn is_overflow_frame(&self, frame: u32) -> bool {
        let function = self.function(frame);
        function.and_then(|function| self.string(function)) == Some(OVERFLOW)
    }

    /// The node of a path, or the last one on it that is there.
    fn known_nodes(&self, root_first: &[u32]) -> Result<u32, u32> {
        root_first.iter().try_fold(0, |node, &frame| {
            self.node_ids.get(&(node, frame)).copied().ok_or(node)
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
            while kept != 0 && !self.node_ids.contains_key(&(kept, frame)) {
                kept = self.parent(kept).unwrap_or(0);
            }
        }
        let leaf = self.child(kept, frame);
        let hash = self.path_hash(leaf);
        match self.path_ids.get(&hash) {
            Some(&stack) => stack,
            None => self.add_stack(leaf, hash),
        }
    }

    /// Hash of a path of frames, root first. Two paths of a tree have the same one
    /// with a probability of 2^-128, which is taken for never.
    fn hash_of(&self, root_first: &[u32]) -> PathHash {
        let bytes: Vec<u8> = root_first.iter().flat_map(|id| id.to_le_bytes()).collect();
        let hash = xxh3_128_with_seed(&bytes, self.seed);
        let [low, high] = [hash, hash >> 64].map(|half| half & u128::from(u64::MAX));
        (
            u64::try_from(low).unwrap_or_default(),
            u64::try_from(high).unwrap_or_default(),
        )
    }

    /// Hash of the path to node `leaf`.
    fn path_hash(&self, leaf: u32) -> PathHash {
        let mut path = Vec::new();
        let mut node = leaf;
        while node != 0
            && let Some(&(parent, frame)) = at(&self.nodes, node)
        {
            path.push(frame);
            node = parent;
        }
        path.reverse();
        self.hash_of(&path)
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
        let durable = self.durable;
        for text in self.strings.drain(durable.strings..) {
            self.string_bytes -= text.len();
            self.string_ids.remove(&text);
        }
        for row in self.frames.drain(durable.frames..) {
            self.frame_ids.remove(&row);
        }
        let voided: Vec<u32> = self.stacks.get(durable.stacks..).unwrap_or(&[]).to_vec();
        self.stacks.truncate(durable.stacks);
        for leaf in voided {
            self.path_ids.remove(&self.path_hash(leaf));
        }
        for key in self.nodes.drain(durable.nodes..) {
            self.node_ids.remove(&key);
        }
        self.outermost.truncate(durable.nodes);
    }

    /// Adds a stored run; the runs of each kind come in order of their ids, and
    /// strings before frames before nodes before stacks.
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

    fn load_entry(&mut self, row: u8, reader: &mut super::bytes::Reader<'_>) -> Option<()> {
        match row {
            rows::STRING_ROW => {
                let text: Arc<str> = Arc::from(reader.text()?);
                self.string_bytes += text.len();
                self.string_ids
                    .insert(Arc::clone(&text), id(self.strings.len()));
                self.strings.push(text);
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
                self.frame_ids.insert(frame, id(self.frames.len()));
                self.frames.push(frame);
            }
            rows::NODE_ROW => {
                let node = id(self.nodes.len());
                let distance: u32 = reader.number()?;
                let parent = node.checked_sub(distance).filter(|&parent| parent < node)?;
                let frame: u32 = reader.number()?;
                at(&self.frames, frame)?;
                self.node_ids.insert((parent, frame), node);
                self.outermost.push(self.is_outermost(parent, frame));
                self.nodes.push((parent, frame));
            }
            rows::STACK_ROW => {
                let leaf: u32 = reader.number()?;
                at(&self.nodes, leaf)?;
                self.add_stack(leaf, self.path_hash(leaf));
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(names: &[&str]) -> Vec<Frame> {
        names
            .iter()
            .map(|name| Frame::named(FrameKind::Go, name).at("f.go", 3))
            .collect()
    }

    fn names(tree: &ServiceTree, stack: u32) -> Vec<String> {
        let mut out = Vec::new();
        let mut node = tree.leaf(stack).unwrap();
        while node != 0 {
            let (parent, frame) = tree.nodes()[node as usize];
            out.push(tree.frame(frame).unwrap().function.to_string());
            node = parent;
        }
        out.reverse();
        out
    }

    fn reload(tree: &ServiceTree, rows: &[Row]) -> ServiceTree {
        let mut rows = rows.to_vec();
        // Runs are read kind by kind, whatever their numbers.
        let place = |key: &[u8]| match key.first() {
            Some(&rows::LATER_STRING_ROW) => rows::STRING_ROW,
            Some(&rows::LATER_FRAME_ROW) => rows::FRAME_ROW,
            kind => kind.copied().unwrap_or(0),
        };
        rows.sort_by_key(|(key, _)| (place(key), key.clone()));
        let mut again = ServiceTree::new(tree.service, tree.epoch);
        for (key, value) in rows {
            again.load_run(&key, &value).unwrap();
        }
        again
    }

    #[test]
    fn the_same_stack_has_one_id() {
        let mut tree = ServiceTree::new(ServiceId(1), Epoch(0));
        let a = tree.intern(frames(&["main", "a"]).iter());
        let b = tree.intern(frames(&["main", "b"]).iter());
        assert_eq!(tree.intern(frames(&["main", "a"]).iter()), a);
        assert_ne!(a, b);
        assert_eq!(names(&tree, b), ["main", "b"]);
        assert_eq!((tree.node_count(), tree.stack_count()), (4, 2));
        assert_eq!(
            tree.intern(std::iter::empty()),
            2,
            "the empty stack is one too"
        );
    }

    #[test]
    fn what_was_not_written_is_taken_back_whole() {
        let mut tree = ServiceTree::new(ServiceId(1), Epoch(0));
        tree.intern(frames(&["main", "a"]).iter());
        let first = tree.fresh_rows();
        tree.mark_durable();
        let lost = tree.intern(frames(&["main", "lost", "x"]).iter());
        assert!(!tree.is_durable());
        tree.roll_back();
        assert!(tree.is_durable());
        assert!(tree.fresh_rows().is_empty());
        let kept = tree.intern(frames(&["main", "kept"]).iter());
        assert_eq!(kept, lost, "its ids are free again");
        assert_eq!(names(&tree, kept), ["main", "kept"]);
        let rows = [first, tree.fresh_rows()].concat();
        assert_eq!(names(&reload(&tree, &rows), kept), ["main", "kept"]);
    }

    #[test]
    fn damaged_runs_are_refused() {
        let mut tree = ServiceTree::new(ServiceId(1), Epoch(0));
        for (key, value) in [
            (vec![rows::STACK_ROW, 0, 0, 0, 0], vec![7]),
            (vec![rows::NODE_ROW, 0, 0, 0, 1], vec![0, 0]),
            (vec![rows::STRING_ROW, 0, 0, 0, 5], vec![]),
            (vec![99, 0, 0, 0, 0], vec![]),
            (vec![], vec![]),
        ] {
            assert!(tree.load_run(&key, &value).is_err(), "{key:?}");
        }
    }

    #[test]
    fn a_full_tree_ends_new_stacks_below_what_it_keeps() {
        let deep = ["main", "a", "b", "c", "d", "e", "f"];
        let mut tree = ServiceTree::new(ServiceId(1), Epoch(0)).limited(8);
        let kept = tree.intern(frames(&deep).iter());
        assert!(tree.is_full());
        for (path, expected) in [
            (&deep[..], &deep[..]),
            // A node that is there may be a leaf.
            (&["main", "a"], &["main", "a"]),
            (&["main", "a", "new"], &["main", "a", OVERFLOW]),
            (&["main", "a", "other", "deep"], &["main", "a", OVERFLOW]),
            // There is no room for a second one: the nearest is taken, or the root's.
            (&["main", "a", "b", "x"], &["main", "a", OVERFLOW]),
            (&["main", "b"], &[OVERFLOW]),
            (&["x"], &[OVERFLOW]),
            (&[], &[]),
        ] {
            let stack = tree.intern(frames(path).iter());
            assert_eq!(names(&tree, stack), expected, "{path:?}");
            assert_eq!(tree.intern(frames(path).iter()), stack);
        }
        assert_eq!(tree.node_count(), 10);
        assert_eq!(tree.take_overflowed(), 10);
        assert_eq!(tree.take_overflowed(), 0);
        assert_eq!(names(&tree, kept), deep);
        let rows = tree.fresh_rows();
        assert_eq!(reload(&tree, &rows).nodes, tree.nodes);
    }

    #[test]
    fn names_fill_a_tree_too() {
        let mut tree = ServiceTree::new(ServiceId(1), Epoch(0)).limited(100);
        let long = "x".repeat(100 * NAME_BYTES);
        tree.intern(frames(&[long.as_str()]).iter());
        let strings = tree.string_count();
        let stack = tree.intern(frames(&["new", "names"]).iter());
        assert_eq!(names(&tree, stack), [OVERFLOW]);
        assert_eq!(tree.string_count(), strings);
    }

    proptest! {
        #[test]
        fn rows_reload_to_the_same_tree(groups in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec("[a-d]", 0..5), 0..5), 0..5)) {
            let mut tree = ServiceTree::new(ServiceId(1), Epoch(3));
            let mut rows = Vec::new();
            for group in &groups {
                for stack in group {
                    let names: Vec<&str> = stack.iter().map(String::as_str).collect();
                    tree.intern(frames(&names).iter());
                }
                rows.extend(tree.fresh_rows());
                tree.mark_durable();
            }
            let again = reload(&tree, &rows);
            prop_assert_eq!(&again.nodes, &tree.nodes);
            prop_assert_eq!(&again.stacks, &tree.stacks);
            prop_assert_eq!(&again.frames, &tree.frames);
            prop_assert!(again.is_durable());
            prop_assert_eq!(again.bytes(), tree.bytes());
        }
    }
}
