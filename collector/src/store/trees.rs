//! Trees of services in memory: a cache over the dictionary with a byte budget.
//!
//! The one writer adds to trees; readers read them at the same time. A tree is
//! dropped from memory, least recently used first, when the budget is passed
//! and nobody holds it and all of it is durable.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustc_hash::FxHashMap;

use super::tree::ServiceTree;
use super::{ServiceId, Store, StoreError};

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
    held: FxHashMap<ServiceId, Held>,
    turn: u64,
}

/// The trees in memory.
#[derive(Debug)]
pub struct Trees {
    store: Arc<dyn Store>,
    budget_bytes: usize,
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

impl Trees {
    /// Returns an empty cache over `store` of about `budget_bytes`.
    pub fn new(store: Arc<dyn Store>, budget_bytes: usize) -> Self {
        Self {
            store,
            budget_bytes,
            state: Mutex::default(),
        }
    }

    /// The tree of `service`, read from the store when it is not in memory.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails or the dictionary is damaged.
    pub fn get(&self, service: ServiceId) -> Result<SharedTree, StoreError> {
        // The lock is held while a tree is read, or two readers could make two
        // trees of one service and the writer add to the one that is dropped.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.turn += 1;
        let turn = state.turn;
        if let Some(held) = state.held.get_mut(&service) {
            held.used = turn;
            return Ok(Arc::clone(&held.tree));
        }
        let tree = self.store.tree(service)?;
        let bytes = tree.bytes();
        let tree = Arc::new(RwLock::new(tree));
        state.held.insert(
            service,
            Held {
                tree: Arc::clone(&tree),
                used: turn,
                bytes,
            },
        );
        Ok(tree)
    }

    /// Measures every tree anew and drops the least recently used ones until
    /// the budget holds. Called by the writer between groups.
    pub fn shrink(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for held in state.held.values_mut() {
            // A tree that is being changed is measured at the next call.
            if let Ok(tree) = held.tree.try_read() {
                held.bytes = tree.bytes();
            }
        }
        let mut total: usize = state.held.values().map(|held| held.bytes).sum();
        if total <= self.budget_bytes {
            return;
        }
        let mut oldest: Vec<(u64, ServiceId)> = state
            .held
            .iter()
            .map(|(service, held)| (held.used, *service))
            .collect();
        oldest.sort_unstable();
        for (_, service) in oldest {
            if total <= self.budget_bytes {
                break;
            }
            let idle = state.held.get(&service).is_some_and(|held| {
                Arc::strong_count(&held.tree) == 1 && read(&held.tree).is_durable()
            });
            if idle && let Some(held) = state.held.remove(&service) {
                total -= held.bytes;
            }
        }
    }

    /// Drops the tree of a service that was deleted; who holds it may go on.
    pub fn forget(&self, service: ServiceId) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.held.remove(&service);
    }

    /// Nodes of the trees in memory; one that is being changed is left out.
    pub fn node_count(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let trees = state
            .held
            .values()
            .filter_map(|held| held.tree.try_read().ok());
        trees.map(|tree| tree.node_count()).sum()
    }

    /// Bytes of the trees in memory, as last measured, and how many there are.
    pub fn usage(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (
            state.held.values().map(|held| held.bytes).sum(),
            state.held.len(),
        )
    }
}
