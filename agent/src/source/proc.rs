//! What `/proc` says of a target's threads, to anyone: how much CPU each used,
//! and what it waits for.
//!
//! Promises: no capability is needed, nothing of the target is stopped or
//! changed, and looks that cost more than they may become rarer. Few files stay
//! open, whatever the number of threads.
//!
//! - [`ThreadCpu`] is the last resort for CPU: it knows which thread used how
//!   much, to the nanosecond where the kernel keeps `schedstat`, and nothing of
//!   the functions it ran. Stacks have two frames, the kind of thread and the
//!   process.
//! - [`WallSampler`] samples what all threads do, running or not: below the
//!   same two frames the state, and the system call that a thread waits in
//!   where that may be read.
//!
//! Threads of a kind are shown as one: `worker-12` is `worker-N`.

mod cpu;
mod files;
mod ledger;
mod parse;
mod syscalls;
mod wall;

pub use cpu::{Precision, ThreadCpu, ThreadCpuOptions, Told};
pub use ledger::OTHER;
pub use wall::{Readable, WallOptions, WallSampler, probe};
