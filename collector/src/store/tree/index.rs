//! Where the entries of a tree's tables are, by what they are.
//!
//! A table of ids is compared with the tables themselves, so that an entry takes
//! the bytes of its id and one more. Only a path has its hash beside it: of
//! stacks that agents name most are known, and one look must do.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use super::{at, id};
use crate::store::rows::FrameRow;

/// 128 bits that stand for a path of frames. Never stored. Two paths of a tree have
/// the same ones with a probability of 2^-128, which is taken for never.
type PathHash = [u32; 4];

/// Keys beside two for each stack of a tree; beyond them all are forgotten.
const MORE_KEYS: usize = 1_024;

#[derive(Clone, Copy, Debug)]
struct Path {
    hash: PathHash,
    stack: u32,
}

/// Ids of the first entries of each table, by what they are. More come with the
/// `add_` functions, and only then.
#[derive(Clone, Debug)]
pub(super) struct Index {
    strings: HashTable<u32>,
    frames: HashTable<u32>,
    nodes: HashTable<u32>,
    paths: HashTable<Path>,
    /// Stacks by keys that others made.
    keyed: HashTable<Path>,
    /// Makes hashes of texts and paths unforeseeable.
    seed: u64,
}

/// Frames of the path to node `leaf`, root first.
pub(super) fn path_to(nodes: &[(u32, u32)], leaf: u32) -> Vec<u32> {
    let mut path = Vec::new();
    let mut node = leaf;
    while node != 0
        && let Some(&(parent, frame)) = at(nodes, node)
    {
        path.push(frame);
        node = parent;
    }
    path.reverse();
    path
}

fn text_hash(seed: u64, text: &str) -> u64 {
    xxh3_64_with_seed(text.as_bytes(), seed)
}

fn fx<T: Hash>(entry: &T) -> u64 {
    FxBuildHasher.hash_one(entry)
}

fn path_hash(seed: u64, root_first: &[u32]) -> PathHash {
    let bytes: Vec<u8> = root_first.iter().flat_map(|id| id.to_le_bytes()).collect();
    quarters(xxh3_128_with_seed(&bytes, seed))
}

/// In words that need no more than four bytes' alignment.
fn quarters(hash: u128) -> PathHash {
    [0, 32, 64, 96].map(|shift| {
        let quarter = (hash >> shift) & u128::from(u32::MAX);
        u32::try_from(quarter).unwrap_or_default()
    })
}

/// The half of a path's hash by which it is looked for.
fn short([low, high, ..]: PathHash) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// Adds the entries of `table` that `ids` lacks.
fn add<T>(ids: &mut HashTable<u32>, first: usize, table: &[T], hash: impl Fn(&T) -> u64) {
    let held = ids.len() + first;
    let fresh = table.get(held..).unwrap_or_default();
    if fresh.is_empty() {
        return;
    }
    let rehash = |&id: &u32| at(table, id).map_or(0, &hash);
    ids.reserve(fresh.len(), rehash);
    for (number, entry) in (id(held)..).zip(fresh) {
        ids.insert_unique(hash(entry), number, rehash);
    }
}

/// Removes the entries of `table` from number `kept` on.
fn forget<T>(ids: &mut HashTable<u32>, table: &[T], kept: usize, hash: impl Fn(&T) -> u64) {
    for (number, entry) in (id(kept)..).zip(table.get(kept..).unwrap_or_default()) {
        if let Ok(found) = ids.find_entry(hash(entry), |&held| held == number) {
            found.remove();
        }
    }
}

impl Index {
    /// Returns an index of nothing.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            strings: HashTable::new(),
            frames: HashTable::new(),
            nodes: HashTable::new(),
            paths: HashTable::new(),
            keyed: HashTable::new(),
            seed,
        }
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.strings.allocation_size()
            + self.frames.allocation_size()
            + self.nodes.allocation_size()
            + self.paths.allocation_size()
            + self.keyed.allocation_size()
    }

    /// The id of a text that was added.
    pub(super) fn string(&self, strings: &[Arc<str>], text: &str) -> Option<u32> {
        let is_it = |&id: &u32| at(strings, id).is_some_and(|held| **held == *text);
        self.strings
            .find(text_hash(self.seed, text), is_it)
            .copied()
    }

    /// The id of a frame that was added.
    pub(super) fn frame(&self, frames: &[FrameRow], row: &FrameRow) -> Option<u32> {
        let is_it = |&id: &u32| at(frames, id) == Some(row);
        self.frames.find(fx(row), is_it).copied()
    }

    /// The id of a node that was added, by its parent and frame.
    pub(super) fn node(&self, nodes: &[(u32, u32)], node: (u32, u32)) -> Option<u32> {
        let is_it = |&id: &u32| at(nodes, id) == Some(&node);
        self.nodes.find(fx(&node), is_it).copied()
    }

    /// The stack of a path of frames, root first, that was added.
    pub(super) fn stack(&self, root_first: &[u32]) -> Option<u32> {
        let hash = path_hash(self.seed, root_first);
        let found = self.paths.find(short(hash), |path| path.hash == hash);
        found.map(|path| path.stack)
    }

    /// The stack that was added with this key.
    pub(super) fn keyed(&self, key: u128) -> Option<u32> {
        let hash = quarters(key);
        let found = self.keyed.find(short(hash), |path| path.hash == hash);
        found.map(|path| path.stack)
    }

    /// Adds a key of `stack` that was not added yet, in a tree of so many `stacks`.
    pub(super) fn add_key(&mut self, key: u128, stack: u32, stacks: usize) {
        if self.keyed.len() >= stacks.saturating_mul(2).saturating_add(MORE_KEYS) {
            self.forget_keys();
        }
        let hash = quarters(key);
        self.keyed
            .insert_unique(short(hash), Path { hash, stack }, |path| short(path.hash));
    }

    pub(super) fn forget_keys(&mut self) {
        self.keyed = HashTable::new();
    }

    pub(super) fn add_strings(&mut self, strings: &[Arc<str>]) {
        let seed = self.seed;
        add(&mut self.strings, 0, strings, |text| text_hash(seed, text));
    }

    pub(super) fn add_frames(&mut self, frames: &[FrameRow]) {
        add(&mut self.frames, 0, frames, fx);
    }

    /// The root is no node that could be looked for.
    pub(super) fn add_nodes(&mut self, nodes: &[(u32, u32)]) {
        add(&mut self.nodes, 1, nodes, fx);
    }

    /// Adds the paths of `stacks`, which are leaves among `nodes`.
    pub(super) fn add_paths(&mut self, nodes: &[(u32, u32)], stacks: &[u32]) {
        let held = self.paths.len();
        let fresh = stacks.get(held..).unwrap_or_default();
        if fresh.is_empty() {
            return;
        }
        self.paths.reserve(fresh.len(), |path| short(path.hash));
        for (stack, &leaf) in (id(held)..).zip(fresh) {
            let hash = path_hash(self.seed, &path_to(nodes, leaf));
            let path = Path { hash, stack };
            self.paths
                .insert_unique(short(hash), path, |path| short(path.hash));
        }
    }

    /// Forgets what the tables hold beyond these lengths: of strings, frames, nodes
    /// and stacks. The tables are still as they were.
    pub(super) fn forget_after(
        &mut self,
        kept: [usize; 4],
        strings: &[Arc<str>],
        frames: &[FrameRow],
        nodes: &[(u32, u32)],
        stacks: &[u32],
    ) {
        let seed = self.seed;
        let [kept_strings, kept_frames, kept_nodes, kept_stacks] = kept;
        forget(&mut self.strings, strings, kept_strings, |text| {
            text_hash(seed, text)
        });
        forget(&mut self.frames, frames, kept_frames, fx);
        forget(&mut self.nodes, nodes, kept_nodes, fx);
        let stacks = stacks.get(kept_stacks..).unwrap_or_default();
        for (stack, &leaf) in (id(kept_stacks)..).zip(stacks) {
            let hash = path_hash(seed, &path_to(nodes, leaf));
            let found = self
                .paths
                .find_entry(short(hash), |path| path.stack == stack);
            if let Ok(found) = found {
                found.remove();
            }
        }
    }
}
