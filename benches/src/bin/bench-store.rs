//! `make bench-store`: one line for each row of the table of the store's
//! targets: name, measured, target, and whether it is reached. `--row NAME,NAME`
//! runs some. What failed, and why, is on standard error.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use benches::process;
use benches::rows::{Lab, Measured, Row, Settings};
use clap::Parser;
use tokio::time::{Instant, timeout};

/// Measures the store against its targets.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these rows, such as flame,pod.
    #[arg(long, value_delimiter = ',')]
    row: Vec<String>,
    /// Folder for the databases, about 30 GB; a folder in it is emptied and
    /// removed afterwards.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Where plots are written.
    #[arg(long, default_value = "benches/curves")]
    plots: PathBuf,
    /// All ends within this many minutes.
    #[arg(long, default_value_t = 74)]
    minutes: u64,
    /// Pods of the service.
    #[arg(long)]
    pods: Option<u32>,
    /// Stacks of the service.
    #[arg(long)]
    stacks: Option<usize>,
    /// Hours of the ingest row.
    #[arg(long)]
    hours: Option<u32>,
    /// Days of history.
    #[arg(long)]
    days: Option<u32>,
    /// Queries of each range.
    #[arg(long)]
    queries: Option<usize>,
    /// Windows of one batch where history is replayed.
    #[arg(long)]
    batch: Option<u32>,
    /// Services of the row with many.
    #[arg(long)]
    services: Option<u32>,
    /// Kills of the row about them.
    #[arg(long)]
    kills: Option<u32>,
    /// Seconds of the overload.
    #[arg(long)]
    overload_seconds: Option<u64>,
    /// Further settings of the collector.
    #[arg(value_name = "KEY=VALUE")]
    collector: Vec<String>,
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

impl Arguments {
    fn settings(&self, folder: PathBuf, core: Option<usize>, deadline: Instant) -> Settings {
        let mut settings = Settings::full(folder, self.plots.clone(), core, deadline);
        settings.collector.clone_from(&self.collector);
        set(&mut settings.pods, self.pods);
        set(&mut settings.stacks, self.stacks);
        set(&mut settings.hours, self.hours);
        set(&mut settings.days, self.days);
        set(&mut settings.queries, self.queries);
        set(&mut settings.batch, self.batch);
        set(&mut settings.services, self.services);
        set(&mut settings.kills, self.kills);
        set(
            &mut settings.overload,
            self.overload_seconds.map(Duration::from_secs),
        );
        settings
    }

    /// The rows that are meant, in the order of the table.
    fn chosen(&self) -> anyhow::Result<Vec<Row>> {
        for name in &self.row {
            let known = || Row::ALL.map(Row::name).join(", ");
            Row::named(name)
                .with_context(|| format!("there is no row {name:?}, only {}", known()))?;
        }
        let is_meant =
            |row: &Row| self.row.is_empty() || self.row.iter().any(|name| name == row.name());
        Ok(Row::ALL.into_iter().filter(is_meant).collect())
    }
}

/// Measures `row`, or tells on standard error why that was not possible.
async fn measure(row: Row, lab: &mut Lab) -> Measured {
    let reason = match timeout(lab.time_left(), row.measure(lab)).await {
        Ok(Ok(measured)) => return measured,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_elapsed) => "the time for all rows is over".to_owned(),
    };
    // Nobody is left to be told when standard error is closed.
    drop(writeln!(std::io::stderr(), "{}: {reason}", row.name()));
    Measured::nothing()
}

async fn run(arguments: Arguments, core: Option<usize>) -> anyhow::Result<()> {
    let chosen = arguments.chosen()?;
    let began = Instant::now();
    let deadline = began + Duration::from_secs(60 * arguments.minutes);
    let mut builder = tempfile::Builder::new();
    builder.prefix("bench-store-");
    let folder = match &arguments.folder {
        Some(folder) => {
            std::fs::create_dir_all(folder)?;
            builder.tempdir_in(folder)
        }
        None => builder.tempdir(),
    };
    let folder = folder.context("cannot make a folder for the databases")?;
    let settings = arguments.settings(folder.path().to_owned(), core, deadline);
    let reduced = settings.is_reduced();
    let mut lab = Lab::new(settings);
    for row in chosen {
        let measured = measure(row, &mut lab).await;
        let verdict = match (measured.verdict(), reduced) {
            ("ok", true) => "FALLS SHORT (reduced sizes)",
            (verdict, _) => verdict,
        };
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "{} | {measured} | {} | {verdict}",
            row.name(),
            row.target()
        )?;
        out.flush()?;
    }
    drop(writeln!(
        std::io::stderr(),
        "{:.0} s in all",
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let core = process::take_generator_core()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(arguments, core))
}
