//! The merged call tree that queries answer with. Pure: no I/O, no clock.
//!
//! A node is a frame under a parent; a parent's index is smaller than its
//! children's, so one reverse pass over the nodes adds selves up to totals.

use std::sync::Arc;

use proto::stack::Frame;
use rustc_hash::FxHashMap;

/// One node: a frame under a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallNode {
    /// Index of the parent; the root is its own.
    pub parent: u32,
    /// Index into the tree's frames; `None` only at the root.
    pub frame: Option<u32>,
    /// Value of samples that end here, in the profile type's unit.
    pub self_value: i128,
}

/// A call tree with values; node 0 is the root.
///
/// What is appended is found again only when it is looked for: most trees are
/// built once, from another tree, and only read.
#[derive(Clone, Debug)]
pub struct CallTree {
    /// Shared by the trees that have the same ones.
    frames: Arc<Vec<Frame>>,
    nodes: Vec<CallNode>,
    /// The first so many frames, see [`CallTree::intern`].
    frame_ids: FxHashMap<Frame, u32>,
    known_frames: usize,
    /// The first so many nodes, see [`CallTree::child_of`].
    child_ids: FxHashMap<(u32, u32), u32>,
    known_nodes: usize,
}

impl Default for CallTree {
    fn default() -> Self {
        Self::new()
    }
}

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

fn id(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl CallTree {
    /// Returns a tree that has only a root.
    pub fn new() -> Self {
        Self {
            frames: Arc::default(),
            nodes: vec![CallNode {
                parent: 0,
                frame: None,
                self_value: 0,
            }],
            frame_ids: FxHashMap::default(),
            known_frames: 0,
            child_ids: FxHashMap::default(),
            known_nodes: 1,
        }
    }

    /// Every frame that some node has.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The nodes; a parent comes before its children.
    pub fn nodes(&self) -> &[CallNode] {
        &self.nodes
    }

    /// The frame of node `node`; `None` for the root and for an unknown node.
    pub fn frame_of(&self, node: usize) -> Option<&Frame> {
        let frame = self.nodes.get(node)?.frame?;
        self.frames.get(index(frame))
    }

    /// This tree with other values: those of `selves` for its nodes, in their order,
    /// and 0 for the nodes beyond them.
    #[must_use]
    pub fn with_selves(&self, selves: impl IntoIterator<Item = i128>) -> Self {
        let mut selves = selves.into_iter();
        let nodes = self.nodes.iter().map(|node| CallNode {
            self_value: selves.next().unwrap_or(0),
            ..*node
        });
        Self {
            frames: Arc::clone(&self.frames),
            nodes: nodes.collect(),
            ..Self::new()
        }
    }

    /// Whether `other` is this tree but for its values: its nodes have the same
    /// indices.
    pub fn is_alike(&self, other: &Self) -> bool {
        let mut both = self.nodes.iter().zip(&other.nodes);
        (Arc::ptr_eq(&self.frames, &other.frames) || self.frames == other.frames)
            && self.nodes.len() == other.nodes.len()
            && both.all(|(a, b)| (a.parent, a.frame) == (b.parent, b.frame))
    }

    /// The id of `frame` among the tree's frames, added when it is new.
    pub fn intern(&mut self, frame: &Frame) -> u32 {
        for (at, known) in self.frames.iter().enumerate().skip(self.known_frames) {
            self.frame_ids.insert(known.clone(), id(at));
        }
        self.known_frames = self.frames.len();
        match self.frame_ids.get(frame) {
            Some(&known) => known,
            None => self.append_frame(frame.clone()),
        }
    }

    /// Adds a frame that the tree does not have.
    pub fn append_frame(&mut self, frame: Frame) -> u32 {
        let frames = Arc::make_mut(&mut self.frames);
        frames.push(frame);
        id(frames.len() - 1)
    }

    /// The child of `parent` that runs frame `frame` of [`CallTree::intern`],
    /// added when it is new.
    pub fn child_of(&mut self, parent: u32, frame: u32) -> u32 {
        for (at, node) in self.nodes.iter().enumerate().skip(self.known_nodes) {
            if let Some(frame) = node.frame {
                self.child_ids.insert((node.parent, frame), id(at));
            }
        }
        self.known_nodes = self.nodes.len();
        match self.child_ids.get(&(parent, frame)) {
            Some(&known) => known,
            None => self.append_child(parent, frame),
        }
    }

    /// Adds a child that `parent` does not have.
    pub fn append_child(&mut self, parent: u32, frame: u32) -> u32 {
        self.nodes.push(CallNode {
            parent,
            frame: Some(frame),
            self_value: 0,
        });
        id(self.nodes.len() - 1)
    }

    /// The child of `parent` that runs `frame`, added when it is new.
    pub fn child(&mut self, parent: usize, frame: &Frame) -> usize {
        let frame = self.intern(frame);
        index(self.child_of(id(parent), frame))
    }

    /// Adds `value` to node `node`'s own value.
    pub fn add_self(&mut self, node: usize, value: i128) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.self_value = node.self_value.saturating_add(value);
        }
    }

    /// Adds a sample: the frames of its stack, root first, and its value.
    pub fn add<'f>(&mut self, stack_root_first: impl Iterator<Item = &'f Frame>, value: i128) {
        let mut node = 0;
        for frame in stack_root_first {
            node = self.child(node, frame);
        }
        self.add_self(node, value);
    }

    /// Divides every value by `divisor`, rounding towards zero; a zero divisor
    /// changes nothing.
    pub fn divide(&mut self, divisor: i128) {
        for node in &mut self.nodes {
            node.self_value = node
                .self_value
                .checked_div(divisor)
                .unwrap_or(node.self_value);
        }
    }

    /// Per node: its own value and that of everything below it.
    pub fn totals(&self) -> Vec<i128> {
        let mut totals: Vec<i128> = self.nodes.iter().map(|node| node.self_value).collect();
        for (child, node) in self.nodes.iter().enumerate().skip(1).rev() {
            let value = totals.get(child).copied().unwrap_or(0);
            if let Some(parent) = totals.get_mut(index(node.parent)) {
                *parent = parent.saturating_add(value);
            }
        }
        totals
    }

    /// The value of the whole tree.
    pub fn total(&self) -> i128 {
        self.nodes
            .iter()
            .fold(0, |sum: i128, node| sum.saturating_add(node.self_value))
    }

    /// Per node: its children, in order of their index.
    pub fn children(&self) -> Vec<Vec<u32>> {
        let mut children = vec![Vec::new(); self.nodes.len()];
        for (child, node) in self.nodes.iter().enumerate().skip(1) {
            if let Some(list) = children.get_mut(index(node.parent)) {
                list.push(id(child));
            }
        }
        children
    }
}

/// Takes frames over from one tree to others, without looking at their texts again.
#[derive(Debug)]
pub(crate) struct Taken<'t> {
    from: &'t CallTree,
    /// Per frame of `from`: its id in the other tree.
    ids: Vec<Option<u32>>,
}

impl<'t> Taken<'t> {
    /// Nothing yet of `from`.
    pub(crate) fn from(from: &'t CallTree) -> Self {
        Self {
            from,
            ids: vec![None; from.frames.len()],
        }
    }

    /// The id in `to` of frame `frame`, which `to` has only from here; appended when it
    /// is new. `None` if there is no such frame.
    pub(crate) fn id(&mut self, to: &mut CallTree, frame: u32) -> Option<u32> {
        let known = self.ids.get_mut(index(frame))?;
        if known.is_none() {
            let frame = self.from.frames.get(index(frame))?;
            *known = Some(to.append_frame(frame.clone()));
        }
        *known
    }
}
