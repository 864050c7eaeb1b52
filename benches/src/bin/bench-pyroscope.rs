//! The same windows pushed to a collector of this workspace and to any server
//! of the Pyroscope push and querier API, side by side; with what `go tool
//! pprof` and zstd make of the same windows as files.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use benches::child::{Server, ServerConfig};
use benches::corpus::Corpus;
use benches::fleet::{Fleet, Grain, Sending, Service};
use benches::http::Http;
use benches::pyroscope::{self, Cost, Subject};
use benches::quantile::millis;
use benches::{PERIOD_NS, Shape, compare, pprof_files, process};
use clap::Parser;
use proto::window::{Clock as _, SystemClock, Window};

/// Measures a collector beside a server of the Pyroscope API.
#[derive(Debug, Parser)]
struct Arguments {
    /// The other server, on this machine, such as http://127.0.0.1:4041.
    #[arg(long)]
    url: Option<String>,
    /// Its process, to read CPU time and memory.
    #[arg(long)]
    pid: Option<u32>,
    /// Its data folder, to read what it takes on disk.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Pods.
    #[arg(long, default_value_t = 10)]
    pods: u32,
    /// Stacks.
    #[arg(long, default_value_t = 20_000)]
    stacks: usize,
    /// Minutes of windows.
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Queries.
    #[arg(long, default_value_t = 100)]
    queries: usize,
    /// Longest time for pushing, and for asking, in seconds.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

async fn own(
    arguments: &Arguments,
    service: &std::sync::Arc<Service>,
    span: Window,
    core: Option<usize>,
) -> anyhow::Result<Cost> {
    let data = tempfile::tempdir()?;
    let config = ServerConfig {
        data: data.path().to_owned(),
        now: span.start(),
        settings: Vec::new(),
        port: 0,
        core,
        kill_at: None,
    };
    let mut server = Server::start(&config).await?;
    let mut fleet = Fleet::new(std::slice::from_ref(service), span.start())?;
    let url = server.url();
    let before = server.usage()?;
    let counts = fleet
        .replay(&url, span, Grain::FINE, Sending::default(), &mut server)
        .await?;
    server.settle(Duration::from_secs(60)).await?;
    let pushed = server.usage()?;
    compare::all(&url, fleet.ledger(), span).await?;
    let asked = server.usage()?;
    let mut http = Http::connect(&url).await?;
    let path = format!(
        "/api/v1/profile?service={}&since={}m&format=json",
        service.name,
        arguments.minutes + 1
    );
    let longest = Duration::from_secs(arguments.seconds);
    let queries = http
        .measure(arguments.queries, longest, |_| path.clone())
        .await?;
    let after = server.usage()?;
    let cost = Cost {
        windows: counts.windows,
        push_wall: counts.wall,
        push_cpu: pyroscope::spent(Some(before), Some(pushed)),
        queries,
        query_cpu: pyroscope::spent(Some(asked), Some(after)),
        total: i128::from(fleet.ledger().total().samples) * i128::from(PERIOD_NS),
        peak_rss_bytes: Some(after.peak_rss_bytes),
        disk_bytes: Some(server.disk_bytes()),
    };
    server.stop().await?;
    Ok(cost)
}

async fn run(arguments: Arguments, core: Option<usize>) -> anyhow::Result<()> {
    let shape = Shape::FAT.with_stacks(arguments.stacks);
    let service = Service::new("bench", Corpus::new(shape, 20_000), arguments.pods);
    // The other server has the machine's clock and refuses old windows.
    let end = SystemClock.now().floor(Duration::from_secs(10));
    let start = end.saturating_sub(Duration::from_secs(60) * arguments.minutes);
    let span = Window::new(start, end)?;
    let longest = Duration::from_secs(arguments.seconds);
    let own = own(&arguments, &service, span, core).await?;
    let mut columns = vec![("tepui", own)];
    if let Some(url) = &arguments.url {
        let subject = Subject {
            url: url.clone(),
            pid: arguments.pid,
            folder: arguments.folder.clone(),
        };
        let cost = pyroscope::measure(&subject, &service, span, arguments.queries, longest).await?;
        columns.push(("other server", cost));
    }
    let shown: Vec<(&str, &Cost)> = columns.iter().map(|(name, cost)| (*name, cost)).collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n", pyroscope::table(&shown))?;

    let files = || pyroscope::slots(&service, span).take(1_000);
    let sizes = pprof_files::sizes(&service.corpus, &service.name, files(), longest)?;
    writeln!(
        out,
        "as files ({} windows): gzip pprof {} bytes a window, zstd -3 --long {}",
        sizes.windows,
        sizes.gzip_bytes / sizes.windows.max(1),
        sizes.floor_bytes / sizes.windows.max(1)
    )?;
    let folder = tempfile::tempdir()?;
    let began = Instant::now();
    let paths = pprof_files::write(&service.corpus, &service.name, files(), folder.path())?;
    let written = began.elapsed();
    match pprof_files::go_merge(&paths, &folder.path().join("merged.pb.gz")) {
        Ok(merge) => writeln!(
            out,
            "go tool pprof -proto merges {} files in {:.2} CPU s, {:.2} s wall (written in {} ms)",
            paths.len(),
            merge.cpu.as_secs_f64(),
            merge.wall.as_secs_f64(),
            millis(written)
        )?,
        Err(error) => writeln!(out, "go tool pprof: not measured, {error:#}")?,
    }
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
