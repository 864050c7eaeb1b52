//! Tepui's collector: takes profiles from agents, keeps them by time and
//! labels, serves merged flame graphs, and raises alerts.
//!
//! A window comes in through [`ingest`], lies in [`store`], is looked at by
//! [`watch`] when its step is over, and is read through [`query`]. [`serve`]
//! wires the parts; `ARCHITECTURE.md` tells the whole story.

#![forbid(unsafe_code)]

pub mod admin;
pub mod agents;
pub mod alert;
pub mod answer;
pub mod auth;
pub mod backup;
pub mod cli;
pub mod config;
pub mod deletion;
pub mod detect;
pub mod diff;
pub mod directory;
pub mod dirty;
pub mod export;
pub mod feature;
pub mod flatten;
pub mod groups;
pub mod grpc;
pub mod hook;
pub mod http;
pub mod import;
pub mod ingest;
pub mod listen;
pub mod memory;
pub mod metrics;
pub mod near;
pub mod normalize;
pub mod prune;
pub mod query;
pub mod render;
pub mod retention;
pub mod rollup;
pub mod sandwich;
pub mod serve;
pub mod shapes;
pub mod statistics;
pub mod status;
pub mod store;
pub mod time_range;
pub mod timeline;
pub mod top;
pub mod tree;
pub mod verdict;
pub mod watch;
pub mod web;

/// Batches are unpacked on one thread and freed on another, windows of all sizes
/// live for seconds: the allocator of the C library spends much time on it and
/// gives little memory back. The engine's memory comes from it too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
