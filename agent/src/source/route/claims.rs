//! What sources that work beside the router tell of CPU.
//!
//! The flight recorder tells of a window some time after its end, on a thread
//! of its own, so the router cannot ask it. It offers a process instead, from
//! the border of a window on; the router, which had the process sampled until
//! then, grants the offer when it closes the window before. From then on the
//! process is sampled by nobody else, so nothing counts twice, and a process
//! that has gone to another sampler is never granted.
//!
//! The endpoint claims no process but the target, so that the last resort from
//! outside ([`crate::source::proc`]) leaves CPU to it. All of it: the endpoint
//! is asked for a part of the time only. Beside what other processes used all
//! the time its profiles would count for too little.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::window::UnixNanos;
use rustc_hash::FxHashMap;

/// How it stands with a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// The flight recorder could tell its CPU from this border on.
    Offered { since: UnixNanos },
    /// The flight recorder tells it from this border on.
    Granted { since: UnixNanos },
    /// The flight recorder cannot tell it.
    Refused,
}

#[derive(Debug, Default)]
struct Shared {
    machines: Mutex<FxHashMap<i32, Claim>>,
    /// Whether the endpoint gives the target's CPU profiles.
    endpoint: AtomicBool,
}

/// What the router and sources beside it know of each other; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Claims(Arc<Shared>);

impl Claims {
    fn all(&self) -> MutexGuard<'_, FxHashMap<i32, Claim>> {
        // Each change is one assignment, so a panic leaves nothing half done.
        let machines = self.0.machines.lock();
        machines.unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the endpoint gives CPU profiles from now on.
    pub fn claim_for_endpoint(&self) {
        self.0.endpoint.store(true, Ordering::Relaxed);
    }

    /// Says that the endpoint gives none.
    pub fn give_up_for_endpoint(&self) {
        self.0.endpoint.store(false, Ordering::Relaxed);
    }

    /// Whether the accounting of threads is left out for the endpoint.
    pub(super) fn is_claimed_by_endpoint(&self) -> bool {
        self.0.endpoint.load(Ordering::Relaxed)
    }

    /// Offers to tell the CPU of process `pid` from `since` on.
    pub fn offer(&self, pid: i32, since: UnixNanos) {
        self.all().insert(pid, Claim::Offered { since });
    }

    /// Says that the CPU of process `pid` cannot be told.
    pub fn refuse(&self, pid: i32) {
        self.all().insert(pid, Claim::Refused);
    }

    /// Forgets process `pid`, which is gone.
    pub fn forget(&self, pid: i32) {
        self.all().remove(&pid);
    }

    /// Whether the flight recorder tells the CPU of process `pid` in windows
    /// that begin at `start`.
    pub fn tells(&self, pid: i32, start: UnixNanos) -> bool {
        match self.all().get(&pid) {
            Some(Claim::Granted { since }) => *since <= start,
            Some(Claim::Offered { .. } | Claim::Refused) | None => false,
        }
    }

    /// Says that the flight recorder told a window of process `pid`, and goes on: the
    /// border from which on it does so no longer matters, also for a clock that is set
    /// back before it.
    pub fn keep(&self, pid: i32) {
        if let Some(Claim::Granted { since }) = self.all().get_mut(&pid) {
            *since = UnixNanos::new(i64::MIN);
        }
    }

    /// Whether it does so for any process.
    pub fn tells_any(&self, start: UnixNanos) -> bool {
        let all = self.all();
        all.values().any(|claim| match claim {
            Claim::Granted { since } => *since <= start,
            Claim::Offered { .. } | Claim::Refused => false,
        })
    }

    /// Leaves the CPU of process `pid` to the flight recorder from `border` on,
    /// if it offered that. Returns whether it is left to it.
    pub(super) fn grant(&self, pid: i32, border: UnixNanos) -> bool {
        let mut all = self.all();
        let Some(claim) = all.get_mut(&pid) else {
            return false;
        };
        match claim {
            Claim::Granted { .. } => true,
            Claim::Offered { since } if *since <= border => {
                *claim = Claim::Granted { since: border };
                true
            }
            Claim::Offered { .. } | Claim::Refused => false,
        }
    }

    /// Whether the CPU of process `pid` is left to the flight recorder.
    pub fn is_granted(&self, pid: i32) -> bool {
        matches!(self.all().get(&pid), Some(Claim::Granted { .. }))
    }

    /// Takes back the CPU of process `pid`, which may be granted again later.
    pub(super) fn take_back(&self, pid: i32) {
        let mut all = self.all();
        if let Some(claim) = all.get_mut(&pid)
            && let Claim::Granted { since } = *claim
        {
            *claim = Claim::Offered { since };
        }
    }

    /// Whether it was said that the CPU of process `pid` cannot be told.
    pub(super) fn is_refused(&self, pid: i32) -> bool {
        matches!(self.all().get(&pid), Some(Claim::Refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_granted_from_its_border_on_and_taken_back() {
        let at = UnixNanos::new;
        let claims = Claims::default();
        assert!(!claims.grant(7, at(100)), "nothing was offered");
        claims.offer(7, at(20));
        assert!(!claims.grant(7, at(10)));
        assert!(!claims.tells_any(at(100)));
        assert!(claims.grant(7, at(30)));
        // Another granted until 30.
        assert!(!claims.tells(7, at(20)) && claims.tells(7, at(30)));
        assert!(claims.tells_any(at(30)) && claims.is_granted(7));
        claims.keep(7);
        assert!(claims.tells(7, at(-5)), "the clock was set back");
        claims.take_back(7);
        assert!(!claims.tells(7, at(30)));
        assert!(claims.grant(7, at(40)) && !claims.tells(7, at(30)));
        claims.refuse(7);
        assert!(claims.is_refused(7) && !claims.grant(7, at(50)));
        claims.take_back(7);
        assert!(claims.is_refused(7));
        claims.forget(7);
        assert!(!claims.is_refused(7));
    }
    #[test]
    fn the_endpoint_claims_for_all_who_share_and_takes_no_machine() {
        let claims = Claims::default();
        let shared = claims.clone();
        claims.offer(7, UnixNanos::new(0));
        assert!(!shared.is_claimed_by_endpoint());
        claims.claim_for_endpoint();
        assert!(shared.is_claimed_by_endpoint() && shared.grant(7, UnixNanos::new(0)));
        claims.give_up_for_endpoint();
        assert!(!shared.is_claimed_by_endpoint() && shared.is_granted(7));
    }
}
