//! Trees of services in memory: a cache over the dictionary with a byte budget.
//!
//! The one writer adds to trees; readers read them at the same time. A tree is
//! dropped from memory, least recently used first, when the budget is passed
//! and nobody holds it and all of it is durable: also to make room for one that is
//! read, so that only trees that are in use at one moment can pass it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustc_hash::{FxHashMap, FxHashSet};

use super::rows::EpochRow;
use super::tree::ServiceTree;
use super::{ServiceId, Store, StoreError, TreeId};

/// A tree that is shared between the writer and readers.
pub type SharedTree = Arc<RwLock<ServiceTree>>;

#[derive(Debug)]
struct Held {
    tree: SharedTree,
    used: u64,
    bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    held: FxHashMap<TreeId, Held>,
    /// What new stacks of services are added to, where that was asked.
    current: FxHashMap<ServiceId, EpochRow>,
    /// Trees that were full when they were dropped.
    full: FxHashSet<TreeId>,
    turn: u64,
}

/// The trees in memory.
#[derive(Debug)]
pub struct Trees {
    store: Arc<dyn Store>,
    budget_bytes: usize,
    max_nodes: usize,
    state: Mutex<State>,
}

/// Reads a tree; a panic of another thread while it held the lock does not
/// matter, since tables only ever grow by whole entries.
pub fn read(tree: &SharedTree) -> std::sync::RwLockReadGuard<'_, ServiceTree> {
    tree.read().unwrap_or_else(PoisonError::into_inner)
}

/// Changes a tree; see [`read`] for a poisoned lock.
pub fn write(tree: &SharedTree) -> std::sync::RwLockWriteGuard<'_, ServiceTree> {
    tree.write().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Drops trees that nobody holds and that are durable, least recently used
    /// first, until they take at most `budget_bytes`.
    fn evict(&mut self, budget_bytes: usize) {
        let mut total: usize = self.held.values().map(|held| held.bytes).sum();
        if total <= budget_bytes {
            return;
        }
        let held = self.held.iter();
        let mut oldest: Vec<(u64, TreeId)> = held.map(|(id, held)| (held.used, *id)).collect();
        oldest.sort_unstable();
        for (_, id) in oldest {
            if total <= budget_bytes {
                break;
            }
            let idle = self.held.get(&id).is_some_and(|held| {
                Arc::strong_count(&held.tree) == 1 && read(&held.tree).is_durable()
            });
            if idle && let Some(held) = self.held.remove(&id) {
                total -= held.bytes;
                if read(&held.tree).is_full() {
                    self.full.insert(id);
                }
            }
        }
    }
}

impl Trees {
    /// Returns an empty cache over `store` of about `budget_bytes`.
    pub fn new(store: Arc<dyn Store>, budget_bytes: usize) -> Self {
        Self {
            store,
            budget_bytes,
            max_nodes: usize::MAX,
            state: Mutex::default(),
        }
    }

    /// With at most about `max_nodes` nodes in each tree, see
    /// [`ServiceTree::limited`].
    #[must_use]
    pub fn limited(self, max_nodes: usize) -> Self {
        Self { max_nodes, ..self }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epoch of `service` that new stacks are added to.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails or the dictionary is damaged.
    pub fn current(&self, service: ServiceId) -> Result<EpochRow, StoreError> {
        if let Some(row) = self.state().current.get(&service) {
            return Ok(*row);
        }
        let row = self.store.epochs(service)?.pop().unwrap_or(EpochRow::FIRST);
        Ok(*self.state().current.entry(service).or_insert(row))
    }

    /// From now on new stacks are added to another epoch. The writer writes it
    /// down with the first of them, and returns to the one before when that fails.
    pub fn set_current(&self, service: ServiceId, row: EpochRow) {
        self.state().current.insert(service, row);
    }

    /// The tree that new stacks of `service` are added to.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails or the dictionary is damaged.
    pub fn get(&self, service: ServiceId) -> Result<SharedTree, StoreError> {
        let epoch = self.current(service)?.epoch;
        self.at(TreeId { service, epoch })
    }

    /// Whether a tree takes nothing more, as far as was seen since the start.
    pub fn is_full(&self, id: TreeId) -> bool {
        let state = self.state();
        let held = state.held.get(&id).map(|held| Arc::clone(&held.tree));
        let was_full = state.full.contains(&id);
        drop(state);
        was_full || held.is_some_and(|tree| read(&tree).is_full())
    }

    /// A tree of `service`, read from the store when it is not in memory.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails or the dictionary is damaged.
    pub fn at(&self, id: TreeId) -> Result<SharedTree, StoreError> {
        // The lock is held while a tree is read, or two readers could make two
        // trees of one service and the writer add to the one that is dropped.
        let mut state = self.state();
        state.turn += 1;
        let turn = state.turn;
        if let Some(held) = state.held.get_mut(&id) {
            held.used = turn;
            return Ok(Arc::clone(&held.tree));
        }
        let tree = self.store.tree(id)?.limited(self.max_nodes);
        let bytes = tree.bytes();
        state.evict(self.budget_bytes.saturating_sub(bytes));
        let tree = Arc::new(RwLock::new(tree));
        state.held.insert(
            id,
            Held {
                tree: Arc::clone(&tree),
                used: turn,
                bytes,
            },
        );
        Ok(tree)
    }

    /// Bytes that the trees may take.
    pub fn budget_bytes(&self) -> usize {
        self.budget_bytes
    }

    /// Measures every tree anew and drops the least recently used ones until
    /// the budget holds. Called by the writer between groups.
    pub fn shrink(&self) {
        let mut state = self.state();
        for held in state.held.values_mut() {
            // A tree that is being changed is measured at the next call.
            if let Ok(tree) = held.tree.try_read() {
                held.bytes = tree.bytes();
            }
        }
        state.evict(self.budget_bytes);
    }

    /// Drops the trees of a service that was deleted; who holds one may go on.
    pub fn forget(&self, service: ServiceId) {
        let mut state = self.state();
        state.held.retain(|id, _| id.service != service);
        state.full.retain(|id| id.service != service);
        state.current.remove(&service);
    }

    /// Removes the trees of `service` to which no stack was added since `until_s`,
    /// from the store too. Returns how many there were.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails.
    pub fn remove_before(&self, service: ServiceId, until_s: u64) -> Result<usize, StoreError> {
        let epochs = self.store.epochs(service)?;
        let mut removed = 0;
        for (row, next) in epochs.iter().zip(epochs.iter().skip(1)) {
            if next.since_s > until_s {
                break;
            }
            let id = TreeId {
                service,
                epoch: row.epoch,
            };
            self.store.forget_tree(id)?;
            let mut state = self.state();
            state.held.remove(&id);
            state.full.remove(&id);
            removed += 1;
        }
        Ok(removed)
    }

    /// Nodes of the trees in memory; one that is being changed is left out.
    pub fn node_count(&self) -> usize {
        let state = self.state();
        let trees = state
            .held
            .values()
            .filter_map(|held| held.tree.try_read().ok());
        trees.map(|tree| tree.node_count()).sum()
    }

    /// Bytes of the trees in memory, as last measured, and how many there are.
    pub fn usage(&self) -> (usize, usize) {
        let state = self.state();
        (
            state.held.values().map(|held| held.bytes).sum(),
            state.held.len(),
        )
    }
}
