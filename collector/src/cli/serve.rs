//! `collector serve`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use proto::status::chain;
use proto::window::Clock;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::CliError;
use crate::config::{Config, Overrides};
use crate::listen::ListenError;
use crate::serve::ServeError;

/// What log lines look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

/// Flags of `serve`; they win over environment and file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  collector serve
      on 127.0.0.1:4040 with the store in ./tepui-data
  collector serve --config /etc/tepui/collector.toml
  collector serve --listen 0.0.0.0:4040 --token-file tokens
      for other machines; a line of the file reads ROLE TENANT TOKEN,
      with the role agent, reader or admin
  collector serve --hook-url http://127.0.0.1:9000/alerts
      sends every alert there, in the shape of Alertmanager's webhook

Every setting is in collector.example.toml. Logs go to stderr; RUST_LOG=debug shows more.")]
pub struct Args {
    /// TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port to listen on [default: 127.0.0.1:4040]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Folder of the store [default: tepui-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where alerts are sent; more receivers are set in the file, see [[hook.receivers]]
    #[arg(long, value_name = "URL")]
    hook_url: Option<String>,
    /// Time covered by one row of features, such as 10s [default: 1m]
    #[arg(long, value_name = "LENGTH", value_parser = humantime::parse_duration)]
    detect_step: Option<Duration>,
    /// How long a finding lasts before it fires, such as 5m; not shorter than --detect-step [default: 5m]
    #[arg(long, value_name = "LENGTH", value_parser = humantime::parse_duration)]
    detect_for: Option<Duration>,
    /// File of bearer tokens
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Serve other machines without asking who they are
    #[arg(long)]
    allow_unauthenticated: bool,
    /// What links in alerts begin with
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// What log lines look like
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
}

/// Runs a collector until SIGTERM or Ctrl-C; a second signal ends it at once.
///
/// # Errors
///
/// [`CliError::Config`] before any port opens, [`CliError::Failed`] after.
pub async fn run(args: Args, clock: Arc<dyn Clock>) -> Result<(), CliError> {
    let overrides = Overrides {
        listen: args.listen,
        data: args.data,
        public_url: args.public_url,
        token_file: args.token_file,
        allow_unauthenticated: args.allow_unauthenticated,
        hook_url: args.hook_url,
        detect_step: args.detect_step,
        detect_for: args.detect_for,
    };
    // A variable that is not UTF-8 cannot be one of ours.
    let environment = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    let config = Config::load(args.config.as_deref(), environment, overrides)
        .map_err(|error| CliError::Config(chain(&error)))?;
    log_to_stderr(args.log_format);
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| CliError::Failed(format!("cannot wait for SIGTERM: {error}")))?;
    let mut serving = std::pin::pin!(crate::serve::run(config, clock, shutdown.clone()));
    loop {
        let asked = tokio::select! {
            served = &mut serving => return served.map_err(|error| failure(&error)),
            _ = terminate.recv() => "SIGTERM",
            _ = tokio::signal::ctrl_c() => "SIGINT",
        };
        if shutdown.is_cancelled() {
            return Err(CliError::Failed(
                "ended before it was done: a second signal came".to_owned(),
            ));
        }
        tracing::info!(signal = asked, "stopping");
        shutdown.cancel();
    }
}

/// What is wrong with files that the configuration names is its own fault.
fn failure(error: &ServeError) -> CliError {
    let text = chain(error);
    match error {
        ServeError::Config(_)
        | ServeError::Tokens(_)
        | ServeError::Receiver(_)
        | ServeError::Listen(ListenError::Pem { .. } | ListenError::Tls { .. }) => {
            CliError::Config(text)
        }
        _ => CliError::Failed(text),
    }
}

fn log_to_stderr(format: LogFormat) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(agent::QUIET_LOG));
    // A log that cannot be written, on a full disk say, must end nobody.
    let builder = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => {
            use std::io::IsTerminal;
            builder
                .with_ansi(std::io::stderr().is_terminal())
                .try_init()
        }
        LogFormat::Json => builder.json().try_init(),
    };
    if let Err(error) = started {
        // A host program has its own log already.
        tracing::debug!(error, "the log was started before");
    }
}
