//! The collector from outside: over its port and as a program.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail their test; allow-unwrap-in-tests does not reach them"
)]

mod ask;
mod auth;
mod backup;
mod cli;
mod compare;
mod delete;
mod epochs;
mod export;
mod hostile;
mod http;
mod ingest;
mod metrics;
mod push;
mod restart;
mod server;
mod shift;
mod spin;
