//! The few calls to the system that Rust's rules cannot check.
//!
//! Promises: the functions given out are safe to call with any arguments.
//! Nothing outside of this module's files is `unsafe`.

pub(crate) mod clock;
pub(crate) mod heap;
pub(crate) mod map;
pub(crate) mod peek;
pub(crate) mod period;
pub(crate) mod redirect;
pub(crate) mod wait;
