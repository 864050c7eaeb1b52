//! Tepui's agent: samples a target beside it and ships windows of profiles to
//! a collector.
//!
//! The life of a window: [`observe`] follows the [`target`] and lets a
//! [`source`] sample it; [`assemble`] makes profiles with labels and facts of
//! what was seen; [`spool`] keeps them on disk until [`ship`] has them
//! acknowledged. [`run`] starts and stops all of it, [`record`] writes one
//! profile to a file, [`doctor`] says what can be sampled here and what is
//! missing.
//!
//! A Rust program profiles itself with [`embed::embed`].
//!
//! The target comes first: every queue on its side drops and counts.

#![deny(unsafe_code)]

pub mod assemble;
pub mod config;
pub mod delta;
pub mod doctor;
pub mod embed;
pub mod govern;
pub mod observe;
pub mod record;
pub mod run;
pub mod ship;
pub mod source;
pub mod spool;
pub mod symbolize;
mod sys;
pub mod target;
pub mod unwind;

/// Log filter for people: everything worth telling, without the crates that
/// tell of each sampling.
pub const QUIET_LOG: &str = "info,pprof=warn,py_spy=off,remoteprocess=off";

pub use embed::{EmbedConfig, EmbedError, Profiling, embed};
