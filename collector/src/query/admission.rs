//! Who may run now: few at once, within the memory of queries, and not for a
//! reader that went away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::QueryError;
use crate::memory::{Budget, NoShare, Share};
use crate::store::tree::ServiceTree;
use crate::store::trees::{self, SharedTree};

/// Queries that are summed at once; others wait.
pub const MAX_QUERIES: usize = 4;
/// Queries that run or wait; further ones are refused.
pub const MAX_WAITING: usize = 256;
/// How long a query waits for its turn and for memory.
const PATIENCE: Duration = Duration::from_secs(30);

/// The places and the memory of queries.
#[derive(Debug)]
pub(super) struct Admission {
    permits: Arc<Semaphore>,
    /// Queries that run or wait.
    present: Arc<AtomicUsize>,
    memory: Arc<Budget>,
}

impl Admission {
    /// Returns places for queries that share `memory`.
    pub(super) fn new(memory: Budget) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_QUERIES)),
            present: Arc::default(),
            memory: Arc::new(memory),
        }
    }

    /// Waits for a place.
    ///
    /// # Errors
    ///
    /// [`QueryError::Busy`] if too many wait, or none becomes free in time.
    pub(super) async fn enter(&self) -> Result<Place, QueryError> {
        let present = Present::count(&self.present)?;
        let permits = Arc::clone(&self.permits);
        let permit = tokio::time::timeout(PATIENCE, permits.acquire_owned())
            .await
            .map_err(|_elapsed| QueryError::Busy)?
            .map_err(|_| QueryError::Ended)?;
        Ok(Place {
            _permit: permit,
            _present: present,
        })
    }

    /// Memory for `answers` answers over `tree`.
    ///
    /// # Errors
    ///
    /// [`NoShare`] if that is more than there is, or others keep it.
    pub(super) fn share(&self, tree: &SharedTree, answers: usize) -> Result<Share, NoShare> {
        // The tree is let go before anything is waited for, or the writer could
        // not go on meanwhile.
        let bytes = cost(&trees::read(tree)).saturating_mul(answers);
        self.memory.take(bytes, PATIENCE)
    }

    /// Memory for a copy of all stacks of `trees` as one tree, and `answers` answers
    /// over it.
    ///
    /// # Errors
    ///
    /// As [`Admission::share`].
    pub(super) fn share_copy(
        &self,
        trees: &[SharedTree],
        answers: usize,
    ) -> Result<Share, NoShare> {
        let bytes = trees.iter().fold(0_usize, |sum, tree| {
            let tree = trees::read(tree);
            let of_tree = cost(&tree).saturating_mul(answers);
            sum.saturating_add(of_tree).saturating_add(tree.bytes())
        });
        self.memory.take(bytes, PATIENCE)
    }
}

/// A place among the queries that run, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    _present: Present,
}

/// About how many bytes an answer over `tree` takes while it is made.
fn cost(tree: &ServiceTree) -> usize {
    // Values and totals by node and by stack, in 128 bits, and their sizes.
    tree.node_count()
        .saturating_mul(64)
        .saturating_add(tree.stack_count().saturating_mul(64))
}

/// Counts a query that runs or waits.
#[derive(Debug)]
struct Present(Arc<AtomicUsize>);

impl Present {
    fn count(queries: &Arc<AtomicUsize>) -> Result<Self, QueryError> {
        let before = queries.fetch_add(1, Ordering::Relaxed);
        let present = Self(Arc::clone(queries));
        match before < MAX_WAITING {
            true => Ok(present),
            false => Err(QueryError::Busy),
        }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Says that a reader is gone, once it is dropped.
#[derive(Default)]
pub(super) struct Gone(pub(super) Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
