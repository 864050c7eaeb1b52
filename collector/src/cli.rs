//! The command line: one file per verb.
//!
//! `serve` runs a collector, `restore` makes the folder of one. The other verbs
//! are clients: they ask a running one over gRPC and never open its folder. Answers go to stdout, talk and
//! errors to stderr; a terminal gets colours and widths, a pipe plain text.

pub mod anomalies;
pub mod backup;
pub mod client;
pub mod delete;
pub mod diff;
pub mod export;
pub mod import;
pub mod labels;
pub mod output;
mod peek;
pub mod query;
pub mod restore;
pub mod series;
pub mod serve;
pub mod services;
pub mod status;
mod table;
mod tar;
pub mod timeline;
pub mod verdict;

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use proto::status::chain;
use proto::window::{Clock, SystemClock};

/// Tepui's collector: stores profiles, serves merged flame graphs, raises alerts.
#[derive(Debug, Parser)]
#[command(
    name = "collector",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a collector: gRPC, HTTP API and web page on one port
    Serve(serve::Args),
    /// Show the merged profile of a service
    Query(query::Args),
    /// Compare two profiles of a service: what grew, what shrank
    Diff(diff::Args),
    /// Judge a change: which functions became dearer, and how sure that is
    Verdict(verdict::Args),
    /// Show a quantity over time
    Timeline(timeline::Args),
    /// List services with their state
    Services(services::Args),
    /// List label names of a service, the values of one, or its profile types
    Labels(labels::Args),
    /// List the series of a service
    Series(series::Args),
    /// List alerts, follow them, or show one with its evidence
    Anomalies(anomalies::Args),
    /// Store profiles that other tools recorded
    Import(import::Args),
    /// Write the raw windows of a service as an archive of pprof files
    Export(export::Args),
    /// Show the state of the collector and its agents
    Status(status::Args),
    /// Copy everything a running collector holds, on its own machine
    Backup(backup::Args),
    /// Make a collector's folder from a backup
    Restore(restore::Args),
    /// Delete a service with everything that is stored of it
    Delete(delete::Args),
}

/// Why a verb failed; decides the exit code.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line asks for something that cannot be. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The configuration cannot be used. Exit code 64.
    #[error("{0}")]
    Config(String),
    /// The work failed. Exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// Returns the failure of the work, with all its causes.
    pub fn failed(error: &dyn std::error::Error) -> Self {
        Self::Failed(chain(error))
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Failed(_) => ExitCode::from(1),
            Self::Usage(_) => ExitCode::from(2),
            Self::Config(_) => ExitCode::from(crate::config::EXIT_CODE),
        }
    }
}

impl From<crate::time_range::TimeRangeError> for CliError {
    fn from(error: crate::time_range::TimeRangeError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Does what the command line says; the exit code is part of the answer of some verbs.
///
/// # Errors
///
/// [`CliError`] with a message for the user.
pub async fn run(cli: Cli) -> Result<ExitCode, CliError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let now = clock.now();
    let done = match cli.verb {
        Verb::Verdict(args) => return verdict::run(args, now).await,
        Verb::Serve(args) => serve::run(args, clock).await,
        Verb::Query(args) => query::run(args, now).await,
        Verb::Diff(args) => diff::run(args, now).await,
        Verb::Timeline(args) => timeline::run(args, now).await,
        Verb::Import(args) => import::run(args, now).await,
        Verb::Export(args) => export::run(args, now).await,
        Verb::Services(args) => services::run(args, now).await,
        Verb::Labels(args) => labels::run(args, now).await,
        Verb::Series(args) => series::run(args, now).await,
        Verb::Anomalies(args) => anomalies::run(args, clock.as_ref()).await,
        Verb::Status(args) => status::run(args, now).await,
        Verb::Backup(args) => backup::run(args).await,
        Verb::Restore(args) => restore::run(args).await,
        Verb::Delete(args) => delete::run(args).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}
