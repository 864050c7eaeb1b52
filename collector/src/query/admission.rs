//! Who may run now: few at once, within the memory of queries, and not for a
//! reader that went away.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::QueryError;
use crate::memory::{Budget, NoShare, Share};
use crate::store::segment::Waiter;
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

    /// Memory for nothing, which may grow.
    pub(super) fn nothing(&self) -> Share {
        self.memory.nothing()
    }

    /// Memory for `work` over `tree`.
    ///
    /// # Errors
    ///
    /// [`NoShare`] if that is more than there is, or others keep it.
    pub(super) fn share(&self, tree: &SharedTree, work: Work) -> Result<Share, NoShare> {
        // The tree is let go before anything is waited for, or the writer could
        // not go on meanwhile.
        let bytes = work.bytes(&trees::read(tree));
        self.memory.take(bytes, PATIENCE)
    }

    /// Memory for a copy of all stacks of `trees` as one tree, and `work` over it.
    ///
    /// # Errors
    ///
    /// As [`Admission::share`].
    pub(super) fn share_copy(&self, trees: &[SharedTree], work: Work) -> Result<Share, NoShare> {
        let bytes = trees.iter().fold(0_usize, |sum, tree| {
            let tree = trees::read(tree);
            sum.saturating_add(work.bytes(&tree))
                .saturating_add(tree.bytes())
        });
        self.memory.take(bytes, PATIENCE)
    }

    /// One who waits for a sum until `gone` is set.
    pub(super) fn waiting(&self, gone: &Arc<AtomicBool>) -> Arc<Waiting> {
        Arc::new(Waiting {
            gone: Arc::clone(gone),
            beside: Mutex::new(Beside {
                share: self.memory.nothing(),
                taken: 0,
                refusal: None,
            }),
        })
    }
}

/// What an answer needs while it is made, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    of_node: usize,
    of_stack: usize,
    /// Nodes that are built at most.
    built: usize,
}

/// What a node that is built takes: its place, its frame, and what is made of it.
const BUILT_BYTES: usize = 150;

impl Work {
    /// An answer whose nodes are not counted yet: of each node of the tree its size, its place and what
    /// is above it; of each stack its sum as stored and in units, in vectors that grow
    /// to twice their length, and its node.
    pub(super) const PLAIN: Self = Self {
        of_node: 12,
        of_stack: 40,
        built: 0,
    };
    /// More for one without some frames: another tree, how its nodes are found, and
    /// values by node.
    pub(super) const HIDING: Self = Self {
        of_node: 72,
        of_stack: 0,
        built: 0,
    };
    /// More for one in which every node is built, between callers and callees.
    pub(super) const EVERY_NODE: Self = Self {
        of_node: 240,
        of_stack: 0,
        built: 0,
    };

    /// This, with up to `nodes` nodes that are built.
    pub(super) fn building(self, nodes: usize) -> Self {
        Self {
            built: self.built.saturating_add(nodes),
            ..self
        }
    }

    /// This and `other` at one time.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            of_node: self.of_node + other.of_node,
            of_stack: self.of_stack + other.of_stack,
            built: self.built.saturating_add(other.built),
        }
    }

    fn bytes(self, tree: &ServiceTree) -> usize {
        let nodes = tree.node_count().saturating_mul(self.of_node);
        let built = tree
            .node_count()
            .min(self.built)
            .saturating_mul(BUILT_BYTES);
        let nodes = nodes.saturating_add(built);
        nodes.saturating_add(tree.stack_count().saturating_mul(self.of_stack))
    }
}

/// One who waits for a sum, with the memory for what it holds beside one vector.
#[derive(Debug)]
pub(super) struct Waiting {
    gone: Arc<AtomicBool>,
    beside: Mutex<Beside>,
}

#[derive(Debug)]
struct Beside {
    share: Share,
    taken: usize,
    refusal: Option<NoShare>,
}

impl Waiting {
    fn beside(&self) -> MutexGuard<'_, Beside> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why there was no memory to go on, if that is so.
    pub(super) fn refusal(&self) -> Option<NoShare> {
        self.beside().refusal
    }
}

impl Waiter for Waiting {
    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed) || self.refusal().is_some()
    }

    fn holds_more(&self, bytes: usize) {
        let mut beside = self.beside();
        let Some(more) = bytes.checked_sub(beside.taken).filter(|more| *more > 0) else {
            return;
        };
        // Not waited for: whoever has it may wait for what this query holds.
        match beside.share.grow(more) {
            Ok(()) => beside.taken = bytes,
            Err(refusal) => beside.refusal = Some(refusal),
        }
    }
}

/// A place among the queries that run, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    _present: Present,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::segment::{RangeSum, Segment, SegmentKind, Value};
    use crate::store::{Epoch, SeriesId, ServiceId};
    use proto::stack::{Frame, FrameKind};

    /// A window with a stack of each kind: of so many epochs.
    fn window(epochs: u16, stack: u32) -> Vec<u8> {
        let segments = (0..epochs).map(|epoch| Segment {
            kind: SegmentKind {
                epoch: Epoch(epoch),
                period: 1,
                weight: 1,
            },
            observed_ns: 1,
            windows: 1,
            entries: vec![(stack, 1)],
        });
        let value = Value {
            span_ns: 1,
            segments: segments.collect(),
        };
        value.encode()
    }

    #[test]
    fn vectors_beside_the_longest_take_memory_until_the_sum_is_gone() {
        let admission = Admission::new(Budget::new(100_000));
        let gone = Arc::new(AtomicBool::new(false));
        let waiting = admission.waiting(&gone);
        let waiter: Arc<dyn Waiter> = Arc::<Waiting>::clone(&waiting);
        let mut sum = RangeSum {
            waiter: Some(waiter),
            ..RangeSum::default()
        };
        let take = |bytes| admission.memory.take(bytes, Duration::ZERO);
        // One vector is part of the work that was taken memory for.
        sum.add(SeriesId(1), 0, &window(1, 999)).unwrap();
        assert!(take(100_000).is_ok());
        sum.add(SeriesId(1), 0, &window(3, 999)).unwrap();
        assert!(!sum.is_cancelled());
        assert_eq!(take(90_000).unwrap_err(), NoShare::Busy);
        assert!(take(100_000 - 2 * 8_000).is_ok());
        let other = take(80_000).unwrap();
        sum.add(SeriesId(1), 0, &window(4, 999)).unwrap();
        assert!(sum.is_cancelled());
        assert_eq!(waiting.refusal(), Some(NoShare::Busy));
        drop((sum, waiting, other));
        assert!(take(100_000).is_ok());
    }

    #[test]
    fn nodes_that_are_built_are_counted_as_far_as_there_are_any() {
        let mut tree = ServiceTree::new(ServiceId(1), Epoch(0));
        let frame = Frame::named(FrameKind::Go, "main");
        tree.intern([&frame].into_iter());
        let plain = Work::PLAIN.bytes(&tree);
        for (asked, built) in [(1, 1), (2, 2), (usize::MAX, 2)] {
            let bytes = Work::PLAIN.building(asked).bytes(&tree);
            assert_eq!(bytes - plain, built * BUILT_BYTES, "root and main");
        }
    }

    #[test]
    fn a_sum_is_for_nothing_once_its_reader_is_gone() {
        let admission = Admission::new(Budget::new(1));
        let caller = Gone::default();
        let waiting = admission.waiting(&caller.0);
        assert!(!waiting.is_gone());
        drop(caller);
        assert!(waiting.is_gone());
        assert_eq!(waiting.refusal(), None);
    }
}
