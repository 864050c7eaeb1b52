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
mod hooks;
mod hostile;
mod http;
mod ingest;
mod measured;
mod metrics;
mod push;
mod receiver;
mod restart;
mod server;
mod shift;
mod spin;
