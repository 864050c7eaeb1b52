//! The `agent` command: parses arguments, reports errors, sets the exit code.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agent::config::{Config, ConfigError, CpuSource, Overrides, WallConfig, WallSource};
use agent::record::{Recorded, Recording};
use agent::{doctor, record, run};
use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::window::SystemClock;
use tracing_subscriber::EnvFilter;

/// Exit code for a wrong configuration (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;
/// Time allowed for work that a run leaves behind.
const SHUTDOWN_TIME: Duration = Duration::from_secs(1);

#[derive(Debug, Parser)]
#[command(
    version,
    about = "Samples a target process and ships its profiles to a collector"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Samples the target and ships windows of profiles, for ever
    #[command(after_help = "\
Examples:
  agent run --name logger --service logger
  agent run --collector https://collector:4040 --source endpoint
  agent run --service api -- ./api --port 8080")]
    Run(RunArgs),
    /// Records one profile, of CPU or of waiting, to a file that `go tool pprof` opens
    #[command(after_help = "\
Examples:
  agent record --pid 1234 --duration 30s -o cpu.pb.gz
  agent record --name logger -o cpu.pb.gz && go tool pprof -top cpu.pb.gz
  agent record --command 'gunicorn.*wsgi' --source python -o cpu.pb.gz
  agent record --pid 1234 --wall -o wall.pb.gz")]
    Record(RecordArgs),
    /// Tells what can be sampled here, what is missing, and how to fix it
    #[command(after_help = "\
Examples:
  agent doctor --pid 1234
  agent doctor --name logger --format json")]
    Doctor(DoctorArgs),
}

/// Which processes are the target; without any of these every other process
/// of this container (or machine) is.
#[derive(Debug, Args)]
struct TargetArgs {
    /// TOML file; agent.example.toml shows every key
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Process id of the target; without --pid, --name and --command every other process of this
    /// container or machine is the target
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..), conflicts_with_all = ["name", "command"])]
    pid: Option<i32>,
    /// Program name of the target
    #[arg(long, value_name = "NAME", conflicts_with = "command")]
    name: Option<String>,
    /// Regular expression over the target's command line
    #[arg(long, value_name = "RE")]
    command: Option<String>,
    /// Where CPU samples come from
    #[arg(long, value_enum)]
    source: Option<CpuSource>,
    /// Go's endpoint: auto, off, or http://host:port/debug/pprof
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Label `service` of the target's profiles
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Address of the collector
    #[arg(long, value_name = "URL")]
    collector: Option<String>,
    /// Folder in which windows wait for the collector
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
    /// Form of the log on stderr
    #[arg(long, value_enum, default_value_t = Format::Text)]
    log_format: Format,
    /// Command to start and sample instead of a running target
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["pid", "name", "command"])]
    command_line: Vec<OsString>,
}

#[derive(Debug, Args)]
struct RecordArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// How long to sample
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Records what threads wait for instead of CPU
    #[arg(long)]
    wall: bool,
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Form of the report on stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl TargetArgs {
    fn load(self, others: Overrides) -> Result<Config, ConfigError> {
        let overrides = Overrides {
            pid: self.pid,
            name: self.name,
            command: self.command,
            source: self.source,
            endpoint: self.endpoint,
            ..others
        };
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Config::load(self.config.as_deref(), environment, overrides)
    }
}

fn log(format: Format) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(agent::QUIET_LOG));
    // A log that cannot be written, on a full disk say, must end nobody.
    let log = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        Format::Text => log.init(),
        Format::Json => log.json().init(),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

fn run_verb(args: RunArgs) -> anyhow::Result<u8> {
    log(args.log_format);
    let config = args.target.load(Overrides {
        service: args.service,
        collector: args.collector,
        spool: args.spool,
        ..Overrides::default()
    })?;
    let running = run::run(config, &args.command_line, Arc::new(SystemClock));
    let runtime = runtime()?;
    let code = runtime.block_on(running);
    // What hangs on a file of the target is left behind.
    runtime.shutdown_timeout(SHUTDOWN_TIME);
    Ok(code?)
}

fn record_verb(args: RecordArgs) -> anyhow::Result<u8> {
    log(Format::Text);
    let config = args.target.load(Overrides::default())?;
    let length = args.duration.max(Duration::from_secs(1));
    let recording = Recording {
        selection: config.selection()?,
        length,
        output: args.output,
        cpu: config.cpu,
        jvm: config.jvm,
        endpoint: config.endpoint.url,
        wall: WallConfig {
            source: match args.wall {
                true => WallSource::Proc,
                false => WallSource::Off,
            },
            ..config.wall
        },
    };
    // Hidden by itself when stderr is no terminal.
    let total = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("sampling {bar:40} {elapsed} of {msg}") {
        bar.set_style(style);
    }
    bar.set_message(humantime::format_duration(length).to_string());
    let recorded = record::record(&recording, &SystemClock, |passed| {
        bar.set_position(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX));
    });
    bar.finish_and_clear();
    let Recorded {
        samples_count,
        stacks_count,
        lost_samples,
        source,
    } = recorded?;
    let path = recording.output.display();
    tracing::info!(samples_count, stacks_count, lost_samples, source, %path, "recorded");
    Ok(0)
}

fn doctor_verb(args: DoctorArgs) -> anyhow::Result<u8> {
    let config = args.target.load(Overrides::default())?;
    let report = runtime()?.block_on(doctor::examine(&config));
    let text = match args.format {
        Format::Text => report.to_string(),
        Format::Json => {
            let json = serde_json::to_string_pretty(&report).context("cannot write the report")?;
            format!("{json}\n")
        }
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to stdout")?;
    // Without a target nothing was judged: a script must see that.
    Ok(u8::from(report.target_name.is_empty()))
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Run(args) => run_verb(args),
        Verb::Record(args) => record_verb(args),
        Verb::Doctor(args) => doctor_verb(args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            #[expect(
                clippy::print_stderr,
                reason = "the one place that reports a failed run"
            )]
            {
                eprintln!("agent: {error:#}");
            }
            let is_usage = error.chain().any(|cause| cause.is::<ConfigError>());
            ExitCode::from(if is_usage { EXIT_USAGE } else { 1 })
        }
    }
}
