//! Measures Tepui: seeded profiles shaped like those of real programs, a load
//! generator that drives a real collector over gRPC, and what both cost.
//!
//! [`corpus`] draws windows, [`wire`] puts them into the words of a stream,
//! [`fleet`] sends them from many simulated agents, [`child`] runs the
//! collector as a process of its own with a clock that it is told, [`http`] and
//! [`compare`] ask it. [`kills`] ends it suddenly, by way of [`fatal`], and sees
//! that nothing is lost. [`rows`] holds the measurements of `bench-store`, one
//! file each; [`anomaly`] those of `bench-anomaly`; [`pyroscope`] drives any server of that protocol with the same
//! windows. The same seed gives the same profiles on every machine.
//!
//! Everything here is part of programs that a person runs, so failures are
//! `anyhow` errors with the whole story.

#![forbid(unsafe_code)]

mod alias;
pub mod anomaly;
pub mod child;
pub mod compare;
pub mod corpus;
pub mod fatal;
pub mod fleet;
pub mod http;
pub mod kills;
pub mod ledger;
mod loopback;
pub mod plot;
pub mod pprof_files;
pub mod process;
mod program;
pub mod pyroscope;
pub mod quantile;
mod random;
pub mod recorded;
pub mod rows;
pub mod wire;

pub use corpus::{Corpus, PERIOD_NS, WINDOW_NS};
pub use program::{Program, Shape};
pub use random::Random;
