//! A collector for measuring: it believes the time it is told.
//!
//! Reads lines: `clock NANOSECONDS` sets the clock, once no minute waits that was over
//! a while before: time that is told passes no faster than a collector can follow,
//! as real time does. `compact` waits for the engine to merge what it has. Each is answered with a line. Ends in order
//! when its standard input does.

#![forbid(unsafe_code)]

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use benches::fatal::{FatalStore, Place};
use benches::process;
use clap::Parser;
use collector::config::{Config, ENV_PREFIX, Overrides};
use collector::serve::Backlog;
use collector::store::Store;
use proto::window::{Clock, UnixNanos};
use tokio_util::sync::CancellationToken;

/// Seconds that a minute may wait after it began before the time stands still: its own
/// length, the wait for stragglers, and as much again.
const MOST_BEHIND_S: u64 = 150;
/// How often it is looked whether it waits.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Longest that the time stands still.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a collector whose clock is set by lines on standard input.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder of the store.
    #[arg(long)]
    data: PathBuf,
    /// Configuration file.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// The time at the start, in nanoseconds since 1970.
    #[arg(long)]
    clock: i64,
    /// Stay on this core.
    #[arg(long)]
    core: Option<usize>,
    /// Where to end by SIGKILL: CALL:NUMBER:MOMENT, such as windows:3:before.
    #[arg(long)]
    kill_at: Option<Place>,
    /// Settings, such as store.retention=40d.
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// The time as it was told.
#[derive(Debug)]
struct ToldClock(AtomicI64);

impl Clock for ToldClock {
    fn now(&self) -> UnixNanos {
        UnixNanos::new(self.0.load(Ordering::Relaxed))
    }
}

/// A setting as the environment variable that stands for it.
fn variable(setting: &str) -> anyhow::Result<(String, String)> {
    let (key, value) = setting
        .split_once('=')
        .with_context(|| format!("{setting:?} is not KEY=VALUE"))?;
    let name = format!("{ENV_PREFIX}__{}", key.to_uppercase().replace('.', "__"));
    Ok((name, value.to_owned()))
}

fn config(arguments: &Arguments) -> anyhow::Result<Config> {
    // The collector's own profile would be counted with what is measured.
    let first = std::iter::once("self_profile.enabled=false");
    let settings = first.chain(arguments.settings.iter().map(String::as_str));
    let environment = settings.map(variable).collect::<anyhow::Result<Vec<_>>>()?;
    let overrides = Overrides {
        listen: Some(arguments.listen.clone()),
        data: Some(arguments.data.clone()),
        ..Overrides::default()
    };
    Ok(Config::load(
        arguments.config.as_deref(),
        environment,
        overrides,
    )?)
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Waits until the collector is not far behind its clock any more, or seems to be stuck.
fn follow(clock: &ToldClock, backlog: &Backlog) {
    let began = Instant::now();
    let present = u64::try_from(clock.now().seconds()).unwrap_or(0);
    while backlog
        .earliest()
        .is_some_and(|first| first.saturating_add(MOST_BEHIND_S) < present)
        && began.elapsed() < PATIENCE
    {
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The answer to `line`.
fn answer(line: &str, clock: &ToldClock, backlog: &Backlog, store: &dyn Store) -> String {
    match line.split_once(' ') {
        Some(("clock", time)) => match time.trim().parse() {
            Ok(now) => {
                follow(clock, backlog);
                // Time never goes back: an earlier one is a mistake of the caller.
                clock.0.fetch_max(now, Ordering::Relaxed);
                "clock".to_owned()
            }
            Err(_) => format!("error {time:?} is no time"),
        },
        None if line == "compact" => match store.compact() {
            Ok(()) => "compact".to_owned(),
            Err(failure) => format!("error {failure}"),
        },
        _ => "error unknown line".to_owned(),
    }
}

/// Answers every line until there are no more.
fn listen(clock: &ToldClock, backlog: &Backlog, store: &dyn Store) -> anyhow::Result<()> {
    for line in std::io::stdin().lock().lines() {
        say(&answer(&line?, clock, backlog, store))?;
    }
    Ok(())
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let clock = Arc::new(ToldClock(AtomicI64::new(arguments.clock)));
    let config = config(&arguments)?;
    let shutdown = CancellationToken::new();
    let told: Arc<dyn Clock> = Arc::<ToldClock>::clone(&clock);
    let around = |store| match arguments.kill_at {
        Some(place) => Arc::new(FatalStore::new(store, place)),
        None => store,
    };
    let running = collector::serve::start_on(config, told, shutdown.clone(), around).await?;
    say(&format!("listening {}", running.address()))?;
    // A thread of its own, so that the time is taken over however busy the
    // others are.
    let (store, backlog) = (running.store(), running.backlog());
    let reader = std::thread::spawn(move || {
        let answered = listen(&clock, &backlog, &*store);
        drop(store);
        shutdown.cancel();
        answered
    });
    running.finish().await?;
    match reader.join() {
        Ok(answered) => answered,
        Err(_panicked) => Err(anyhow::anyhow!("the reader of standard input failed")),
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(core) = arguments.core {
        process::pin(core)?;
    }
    tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::builder()
                .with_default_directive(tracing_subscriber::filter::LevelFilter::ERROR.into())
                .from_env_lossy(),
        )
        .init();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(run(arguments))
}
