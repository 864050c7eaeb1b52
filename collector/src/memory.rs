//! How the memory ceiling is shared out, and who must wait for a share.
//!
//! The ceiling holds for everything that grows with data: blocks and write
//! buffers of the engine, trees, dictionaries of streams, windows that wait,
//! and queries. What a part cannot have is refused with a reason and a retry
//! hint; nothing is killed.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::rocks::Memory;

/// What each part may take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// The store.
    pub store: Memory,
    /// Trees of services.
    pub trees: usize,
    /// Streams and their dictionaries.
    pub dictionaries: usize,
    /// Batches that arrive, and are not unpacked yet.
    pub arriving: usize,
    /// Windows that wait for the writer.
    pub waiting: usize,
    /// Queries that run.
    pub queries: usize,
}

impl Shares {
    /// Shares out about three quarters of `ceiling` bytes. The rest is left for what
    /// does not grow with data and for the allocator, which keeps about an eighth
    /// beyond what is used.
    pub fn of(ceiling: u64) -> Self {
        let part = usize::try_from(ceiling / 20).unwrap_or(usize::MAX / 20);
        Self {
            store: Memory {
                blocks: part * 3,
                write_buffers: part * 2,
                recent: part / 4,
            },
            trees: part * 2,
            dictionaries: part * 7,
            arriving: part / 2,
            waiting: part / 2,
            queries: part * 2,
        }
    }
}

/// Memory that queries share; those that find too little wait.
#[derive(Debug)]
pub struct Budget {
    whole: usize,
    free: Mutex<usize>,
    freed: Condvar,
}

/// A share of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

/// Why a query may not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoShare {
    /// It would not fit even alone.
    #[error(
        "the answer would take {needs} bytes of memory and queries may take {whole}; \
         raise store.max_memory_bytes, or ask for one service"
    )]
    TooLarge {
        /// What it needs.
        needs: usize,
        /// What there is.
        whole: usize,
    },
    /// Others have it.
    #[error("other queries take all the memory that queries may; ask again in some seconds")]
    Busy,
}

impl Budget {
    /// Returns a budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self {
            whole: bytes,
            free: Mutex::new(bytes),
            freed: Condvar::new(),
        }
    }

    /// A share of nothing, which may grow.
    pub fn nothing(self: &Arc<Self>) -> Share {
        Share {
            budget: Arc::clone(self),
            bytes: 0,
        }
    }

    /// Takes `bytes`, waiting for them at most `patience`.
    ///
    /// # Errors
    ///
    /// [`NoShare`] if that is more than there is, or others keep it.
    pub fn take(self: &Arc<Self>, bytes: usize, patience: Duration) -> Result<Share, NoShare> {
        if bytes > self.whole {
            return Err(NoShare::TooLarge {
                needs: bytes,
                whole: self.whole,
            });
        }
        let until = Instant::now() + patience;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free < bytes {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NoShare::Busy);
            }
            (free, _) = self
                .freed
                .wait_timeout(free, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *free -= bytes;
        Ok(Share {
            budget: Arc::clone(self),
            bytes,
        })
    }
}

impl Share {
    /// Takes so many bytes more, without waiting for them.
    ///
    /// # Errors
    ///
    /// [`NoShare`] if that is more than there is, or others keep it.
    pub fn grow(&mut self, bytes: usize) -> Result<(), NoShare> {
        let needs = self.bytes.saturating_add(bytes);
        if needs > self.budget.whole {
            return Err(NoShare::TooLarge {
                needs,
                whole: self.budget.whole,
            });
        }
        let free = self.budget.free.lock();
        let mut free = free.unwrap_or_else(PoisonError::into_inner);
        *free = free.checked_sub(bytes).ok_or(NoShare::Busy)?;
        self.bytes = needs;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let free = self.budget.free.lock();
        *free.unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_stay_below_the_ceiling() {
        for ceiling in [64 << 20, 512 << 20, 1 << 40] {
            let shares = Shares::of(ceiling);
            let sum = shares.store.blocks
                + shares.store.recent
                + shares.trees
                + shares.dictionaries
                + shares.arriving
                + shares.waiting
                + shares.queries;
            assert!(u64::try_from(sum).unwrap() < ceiling);
            assert!(shares.store.write_buffers < shares.store.blocks);
        }
    }

    #[test]
    fn who_finds_too_little_waits_until_another_is_done() {
        let budget = Arc::new(Budget::new(100));
        let none = Duration::ZERO;
        let first = budget.take(70, none).unwrap();
        assert_eq!(budget.take(40, none).unwrap_err(), NoShare::Busy);
        let too_large = NoShare::TooLarge {
            needs: 101,
            whole: 100,
        };
        assert_eq!(budget.take(101, none).unwrap_err(), too_large);
        let waiting = {
            let budget = Arc::clone(&budget);
            std::thread::spawn(move || budget.take(40, Duration::from_secs(60)).is_ok())
        };
        drop(first);
        assert!(waiting.join().unwrap());
        let mut first = budget.take(50, none).unwrap();
        let second = budget.take(20, none).unwrap();
        assert_eq!(first.grow(31), Err(NoShare::Busy));
        assert_eq!(first.grow(51), Err(too_large));
        assert_eq!(first.grow(30), Ok(()));
        assert_eq!(budget.take(1, none).unwrap_err(), NoShare::Busy);
        drop((first, second));
        assert!(budget.take(100, none).is_ok(), "all of it came back");
    }
}
