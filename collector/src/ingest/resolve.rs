//! What the ids of a stream's dictionary are in the trees of services.
//!
//! A frame or stack is looked up once, and then the stream keeps only its id: the
//! tree has the rest. When a second service of the stream uses it, it is read
//! back from the tree of the first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::dictionary::Decoder;

use super::packed::PackedIds;
use super::symbols;
use crate::normalize::Rules;
use crate::store::tree::ServiceTree;
use crate::store::trees::{self, SharedTree};
use crate::store::{ServiceId, StoreError, TreeId};

/// Most services of one stream, and trees of services that were full.
const MAX_TREES: usize = 16;

/// What a stream takes beside its dictionary, in bytes: its state, its place in
/// its connection, and what its sender may have sent already.
const STREAM_BYTES: usize = 8 << 10;

/// What the dictionaries of all streams share.
#[derive(Debug, Default)]
pub struct Dictionaries {
    /// What names are normalised by.
    rules: Rules,
    /// What the dictionaries and their streams take.
    counted: AtomicUsize,
}

impl Dictionaries {
    /// Returns what the dictionaries share whose names are normalised by `rules`.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// The dictionary of a stream that has said nothing.
    pub fn begin(self: &Arc<Self>) -> SharedDictionary {
        let mut dictionary = StreamDictionary::default();
        dictionary.all = Arc::clone(self);
        dictionary.recount();
        Arc::new(Mutex::new(dictionary))
    }

    /// About how many bytes all of them take, also those of streams that have
    /// begun anew while batches that came before still wait. What came with a
    /// batch that waits is counted once it was written.
    pub fn bytes(&self) -> usize {
        self.counted.load(Ordering::Relaxed)
    }
}

/// The receiving end of one stream's dictionary.
#[derive(Debug, Default)]
pub struct StreamDictionary {
    /// Frames and stacks of the stream that no tree has yet.
    pub decoder: Decoder,
    /// Ids of each tree.
    resolved: Vec<Resolved>,
    /// Ids may be void: the stream must begin anew.
    is_void: bool,
    all: Arc<Dictionaries>,
    /// Its share of what `all` counts.
    counted: usize,
}

impl Drop for StreamDictionary {
    fn drop(&mut self) {
        self.all.counted.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

/// A stream's dictionary, shared between its door and the writer.
pub type SharedDictionary = Arc<Mutex<StreamDictionary>>;

/// Locks a stream's dictionary.
pub fn lock(dictionary: &SharedDictionary) -> MutexGuard<'_, StreamDictionary> {
    dictionary.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ids of a service's tree for ids of a stream.
#[derive(Debug)]
struct Resolved {
    tree: TreeId,
    frames: PackedIds,
    stacks: PackedIds,
}

/// Why stacks could not be found or added.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    /// The stream never named it.
    #[error("unknown stack {0}")]
    Unknown(u32),
    /// More services than a stream may have.
    #[error("a stream may bring windows of at most {MAX_TREES} services")]
    TooManyServices,
    /// A tree could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn at(table: &PackedIds, id: u32) -> Option<u32> {
    table.get(usize::try_from(id).ok()?)
}

fn set(table: &mut PackedIds, id: u32, value: u32) {
    if let Ok(index) = usize::try_from(id) {
        table.set(index, value);
    }
}

impl StreamDictionary {
    /// Whether the stream must begin anew.
    pub(super) fn is_void(&self) -> bool {
        self.is_void
    }

    /// Services of whose trees it holds ids.
    pub(super) fn services(&self) -> impl Iterator<Item = ServiceId> {
        self.trees().map(|tree| tree.service)
    }

    /// Trees that it holds ids of.
    pub(super) fn trees(&self) -> impl Iterator<Item = TreeId> {
        self.resolved.iter().map(|resolved| resolved.tree)
    }

    fn of(&self, tree: TreeId) -> Option<&Resolved> {
        self.resolved.iter().find(|resolved| resolved.tree == tree)
    }

    fn of_mut(&mut self, tree: TreeId) -> Option<&mut Resolved> {
        let mut all = self.resolved.iter_mut();
        all.find(|resolved| resolved.tree == tree)
    }

    /// Counts anew what it takes, with its stream, and returns it.
    pub(super) fn recount(&mut self) -> usize {
        let ids = self.resolved.iter();
        let ids = ids.map(|resolved| resolved.frames.bytes() + resolved.stacks.bytes());
        let unresolved = self
            .decoder
            .memory_bytes()
            .saturating_add(self.decoder.text_bytes());
        let bytes = unresolved
            .saturating_add(ids.sum::<usize>())
            .saturating_add(STREAM_BYTES);
        let before = std::mem::replace(&mut self.counted, bytes);
        self.all.counted.fetch_add(bytes, Ordering::Relaxed);
        self.all.counted.fetch_sub(before, Ordering::Relaxed);
        bytes
    }

    /// What the stream was given is not stored after all.
    pub(super) fn make_void(&mut self) {
        self.is_void = true;
    }

    /// Ids in the tree `of` of the stream's stacks `wire`. `tree` gives a
    /// tree; it is asked only when a stack is new to the stream.
    pub(super) fn stacks(
        &mut self,
        of: TreeId,
        wire: &[u32],
        mut tree: impl FnMut(TreeId) -> Result<SharedTree, StoreError>,
    ) -> Result<Vec<u32>, ResolveError> {
        let (frames, stacks) = (self.decoder.frame_count(), self.decoder.stack_count());
        if self.of(of).is_none() {
            if self.resolved.len() >= MAX_TREES {
                return Err(ResolveError::TooManyServices);
            }
            self.resolved.push(Resolved {
                tree: of,
                frames: PackedIds::default(),
                stacks: PackedIds::default(),
            });
        }
        let mut out = Vec::with_capacity(wire.len());
        let mut missing = Vec::new();
        if let Some(resolved) = self.of_mut(of) {
            resolved.frames.grow(frames);
            resolved.stacks.grow(stacks);
            for (place, &id) in wire.iter().enumerate() {
                let known = at(&resolved.stacks, id);
                if known.is_none() {
                    missing.push(place);
                }
                out.push(known.unwrap_or_default());
            }
        }
        let is_new = !missing.is_empty();
        for place in missing {
            if let (Some(found), Some(&id)) = (out.get_mut(place), wire.get(place)) {
                *found = self.stack(of, id, &mut tree)?;
            }
        }
        if is_new {
            self.recount();
        }
        Ok(out)
    }

    /// Adds a stack to the tree `of`, unless that was just done.
    fn stack(
        &mut self,
        of: TreeId,
        id: u32,
        tree: &mut impl FnMut(TreeId) -> Result<SharedTree, StoreError>,
    ) -> Result<u32, ResolveError> {
        let resolved = self.of(of);
        if let Some(stack) = resolved.and_then(|resolved| at(&resolved.stacks, id)) {
            return Ok(stack);
        }
        let shared = tree(of)?;
        let stack = if self.decoder.frame_ids(id).is_some() {
            self.add(of, id, &shared, tree)?
        } else {
            // Forgotten since a service has it whole.
            let frames = self.whole(
                |known| at(&known.stacks, id),
                |other, stack| {
                    other.leaf(stack).filter(|_| !other.is_overflow(stack))?;
                    Some(other.path(stack))
                },
                tree,
            )?;
            let frames = frames.ok_or(ResolveError::Unknown(id))?;
            trees::write(&shared).intern(frames.iter())
        };
        if let Some(resolved) = self.of_mut(of) {
            set(&mut resolved.stacks, id, stack);
        }
        // What a full tree cut off may find room in the tree of another service.
        if !trees::read(&shared).is_overflow(stack) {
            self.decoder.forget_stack(id);
        }
        Ok(stack)
    }

    /// Adds a stack that no service of the stream has yet.
    fn add(
        &mut self,
        of: TreeId,
        id: u32,
        shared: &SharedTree,
        tree: &mut impl FnMut(TreeId) -> Result<SharedTree, StoreError>,
    ) -> Result<u32, ResolveError> {
        let leaf_first = self.decoder.frame_ids(id);
        let mut path = leaf_first.ok_or(ResolveError::Unknown(id))?.to_vec();
        path.reverse();
        for frame in &mut path {
            let resolved = self.of(of);
            *frame = match resolved.and_then(|resolved| at(&resolved.frames, *frame)) {
                Some(known) => known,
                None => self.frame(of, *frame, shared, tree)?,
            };
        }
        Ok(trees::write(shared).intern_path(&path))
    }

    /// What `read` finds in the first tree that holds it under the id that `known`
    /// gives. A full tree may know an id, too, of which it holds only a part.
    fn whole<T>(
        &self,
        known: impl Fn(&Resolved) -> Option<u32>,
        read: impl Fn(&ServiceTree, u32) -> Option<T>,
        tree: &mut impl FnMut(TreeId) -> Result<SharedTree, StoreError>,
    ) -> Result<Option<T>, ResolveError> {
        for resolved in &self.resolved {
            if let Some(id) = known(resolved)
                && let Some(found) = read(&trees::read(&tree(resolved.tree)?), id)
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Adds a frame to the tree `of`.
    fn frame(
        &mut self,
        of: TreeId,
        id: u32,
        shared: &SharedTree,
        tree: &mut impl FnMut(TreeId) -> Result<SharedTree, StoreError>,
    ) -> Result<u32, ResolveError> {
        let interned = if let Some(frame) = self.decoder.frame(id) {
            let normal = symbols::normal(frame.borrowed(), self.all.rules);
            trees::write(shared).intern_frame(normal.frame())
        } else {
            // Forgotten since a service has it whole.
            let frame = self.whole(
                |known| at(&known.frames, id),
                |other, frame| {
                    other
                        .frame(frame)
                        .filter(|_| !other.is_overflow_frame(frame))
                },
                tree,
            )?;
            let frame = frame.ok_or(ResolveError::Unknown(id))?;
            trees::write(shared).intern_frame(frame.borrowed())
        };
        if let Some(resolved) = self.of_mut(of) {
            set(&mut resolved.frames, id, interned);
        }
        if !trees::read(shared).is_overflow_frame(interned) {
            self.decoder.forget_frame(id);
        }
        Ok(interned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Epoch;
    use crate::store::tree::OVERFLOW;
    use proto::dictionary::Encoder;
    use proto::labels::LabelSet;
    use proto::profile::{Facts, Profile};
    use proto::stack::{Frame, FrameKind};
    use proto::window::{UnixNanos, Window};
    use std::sync::RwLock;

    fn profile(stacks: &[&[&str]]) -> Profile {
        let stack = |names: &&[&str]| {
            let leaf_first = names.iter().rev();
            leaf_first
                .map(|name| Frame::named(FrameKind::Go, name))
                .collect()
        };
        Profile::new(
            LabelSet::new([("service", "s")]).unwrap(),
            Window::from_start(UnixNanos::new(0), 1).unwrap(),
            stacks.iter().map(stack).collect(),
            Vec::new(),
            Facts::default(),
        )
        .unwrap()
    }

    fn names(tree: &SharedTree, stack: u32) -> Vec<String> {
        let path = trees::read(tree).path(stack);
        path.iter()
            .map(|frame| frame.function.to_string())
            .collect()
    }

    #[test]
    fn what_a_tree_has_is_forgotten_and_found_again_for_another_service() {
        let mut dictionary = StreamDictionary::default();
        let mut encoder = Encoder::new();
        let trees: Vec<SharedTree> = (0..3)
            .map(|id| Arc::new(RwLock::new(ServiceTree::new(ServiceId(id), Epoch(0)))))
            .collect();
        let tree = |id: TreeId| Ok(Arc::clone(&trees[id.service.0 as usize]));
        let of = |id| TreeId {
            service: ServiceId(id),
            epoch: Epoch(0),
        };
        let body = encoder.encode(&[profile(&[&["main", "a"], &["main", "b"], &[]])]);
        dictionary.decoder.apply(body.unwrap()).unwrap();
        let before = dictionary.decoder.memory_bytes();
        let first = dictionary.stacks(of(1), &[0, 1, 2], tree).unwrap();
        assert_eq!(names(&trees[1], first[0]), ["main", "a"]);
        assert_eq!(names(&trees[1], first[2]), [""; 0]);
        assert!(dictionary.decoder.memory_bytes() < before);
        // A known frame in a new stack, and a known stack, of another service.
        let body = encoder.encode(&[profile(&[&["main", "b", "a"]])]).unwrap();
        dictionary.decoder.apply(body).unwrap();
        let second = dictionary.stacks(of(2), &[3, 1], tree).unwrap();
        assert_eq!(names(&trees[2], second[0]), ["main", "b", "a"]);
        assert_eq!(names(&trees[2], second[1]), ["main", "b"]);
        let unknown = dictionary.stacks(of(2), &[4], tree);
        assert!(matches!(unknown, Err(ResolveError::Unknown(4))));
    }

    #[test]
    fn what_a_full_tree_cut_off_is_read_from_one_that_has_it_whole() {
        let mut dictionary = StreamDictionary::default();
        let mut encoder = Encoder::new();
        let limits = [usize::MAX, 1, usize::MAX, usize::MAX];
        let trees: Vec<SharedTree> = (0..)
            .zip(limits)
            .map(|(id, limit)| {
                let tree = ServiceTree::new(ServiceId(id), Epoch(0)).limited(limit);
                Arc::new(RwLock::new(tree))
            })
            .collect();
        let tree = |id: TreeId| Ok(Arc::clone(&trees[id.service.0 as usize]));
        let of = |id| TreeId {
            service: ServiceId(id),
            epoch: Epoch(0),
        };
        let body = encoder.encode(&[profile(&[&["main"], &["other", "a"]])]);
        dictionary.decoder.apply(body.unwrap()).unwrap();
        let full = dictionary.stacks(of(1), &[0, 1], tree).unwrap();
        assert_eq!(names(&trees[1], full[1]), [OVERFLOW]);
        for id in [2, 3] {
            let stacks = dictionary.stacks(of(id), &[1], tree).unwrap();
            let names = names(&trees[id as usize], stacks[0]);
            assert_eq!(names, ["other", "a"], "{id}");
        }
    }
}
