//! Whether the endpoint gives the target's CPU profiles, so that the last resort
//! from outside ([`crate::source::proc`]) leaves CPU to it.
//!
//! All of it: the endpoint is asked for a part of the time only. Beside what
//! other processes used all the time its profiles would count for too little.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A claim that the endpoint makes and a sampler asks for.
#[derive(Clone, Debug, Default)]
pub struct Claim(Arc<AtomicBool>);

impl Claim {
    /// The endpoint gives CPU profiles from now on.
    pub fn make(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// It gives none.
    pub fn give_up(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether CPU is left to the endpoint.
    pub fn holds(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
