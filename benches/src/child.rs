//! The collector as a child process with a clock of its own, so that what it
//! uses can be told apart from what the generator uses.
//!
//! The child is `bench-collector`, beside this program. It is told on its
//! standard input what time it is and answers on its standard output; it ends
//! when its input does, so it never outlives this process.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use proto::window::UnixNanos;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout};

use crate::fatal::Place;
use crate::fleet::Advance;
use crate::process::{self, Usage};

/// How long a start or a stop may take.
const STEP_TIME: Duration = Duration::from_secs(120);
/// How long the answer to a line may take, while the child's core is busy.
const LINE_TIME: Duration = Duration::from_secs(30);
/// How often [`Server::settle`] looks, and how long in a row it must be quiet.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const QUIET_LOOKS: u32 = 8;
/// Number of the signal that no process can catch (signal(7)).
const SIGKILL: i32 = 9;
/// CPU time between two looks that still counts as quiet.
const QUIET_CPU: Duration = Duration::from_millis(20);

/// How a collector is started.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Folder of its data.
    pub data: PathBuf,
    /// Its clock.
    pub now: UnixNanos,
    /// Settings as `key=value`, such as `store.retention=40d`.
    pub settings: Vec<String>,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Core to stay on, if it is to.
    pub core: Option<usize>,
    /// Where it ends by SIGKILL, if it is to.
    pub kill_at: Option<Place>,
}

/// A collector was ended by SIGKILL before it listened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KilledAtStart;

impl fmt::Display for KilledAtStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bench-collector was killed before it listened")
    }
}

impl std::error::Error for KilledAtStart {}

/// A collector that runs.
#[derive(Debug)]
pub struct Server {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// Lines that were sent and not answered.
    unanswered: u32,
    pid: u32,
    address: String,
    data: PathBuf,
    started_in: Duration,
}

/// The program beside this one.
fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let folder = own.parent().context("this program is in no folder")?;
    // Tests run from a folder below.
    let places = [Some(folder), folder.parent()];
    let mut places = places
        .into_iter()
        .flatten()
        .map(|place| place.join("bench-collector"));
    places.find(|path| path.is_file()).context(
        "bench-collector is not beside this program; build it with: cargo build -p benches --bins",
    )
}

impl Server {
    /// Starts a collector and waits until it listens.
    ///
    /// # Errors
    ///
    /// When it cannot be started or refuses its settings.
    pub async fn start(config: &ServerConfig) -> anyhow::Result<Self> {
        Self::start_and(config, |_pid| {}).await
    }

    /// As [`Server::start`], and tells `begun` the process as soon as there is
    /// one.
    ///
    /// # Errors
    ///
    /// As [`Server::start`]; [`KilledAtStart`] when it was killed meanwhile.
    pub async fn start_and(config: &ServerConfig, begun: impl FnOnce(u32)) -> anyhow::Result<Self> {
        let began = Instant::now();
        let mut command = Command::new(program()?);
        command
            .arg("--data")
            .arg(&config.data)
            .arg("--clock")
            .arg(config.now.get().to_string())
            .arg("--listen")
            .arg(format!("127.0.0.1:{}", config.port))
            .args(&config.settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(core) = config.core {
            command.arg("--core").arg(core.to_string());
        }
        if let Some(place) = config.kill_at {
            command.arg("--kill-at").arg(place.to_string());
        }
        let mut child = command.spawn().context("cannot start bench-collector")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("bench-collector has no standard input or output");
        };
        let mut server = Self {
            pid: child.id().context("bench-collector ended at once")?,
            child,
            input,
            output: BufReader::new(output).lines(),
            unanswered: 0,
            address: String::new(),
            data: config.data.clone(),
            started_in: Duration::ZERO,
        };
        begun(server.pid);
        let line = match server.line(STEP_TIME).await {
            Ok(line) => line,
            Err(_ended) if server.is_killed_within(STEP_TIME).await? => bail!(KilledAtStart),
            Err(error) => return Err(error),
        };
        server.address = line
            .strip_prefix("listening ")
            .with_context(|| format!("bench-collector said {line:?}"))?
            .to_owned();
        server.started_in = began.elapsed();
        Ok(server)
    }

    async fn line(&mut self, within: Duration) -> anyhow::Result<String> {
        let read = timeout(within, self.output.next_line()).await;
        let line = read.context("bench-collector does not answer")??;
        line.context("bench-collector ended; what it said is above")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        let port = self.address.rsplit(':').next();
        port.and_then(|port| port.parse().ok()).unwrap_or(0)
    }

    /// From the start of the process until it listened.
    pub fn started_in(&self) -> Duration {
        self.started_in
    }

    /// Folder of its data.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What it used so far.
    ///
    /// # Errors
    ///
    /// When it ended.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        process::usage(self.pid)
    }

    /// Bytes of its data on disk.
    pub fn disk_bytes(&self) -> u64 {
        process::disk_bytes(&self.data)
    }

    /// Sends a line and waits for its answer.
    ///
    /// # Errors
    ///
    /// When the child ended or does not know the line.
    pub async fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        while self.unanswered > 0 {
            self.line(LINE_TIME).await?;
            self.unanswered -= 1;
        }
        self.input.write_all(format!("{line}\n").as_bytes()).await?;
        let answer = self.line(STEP_TIME).await?;
        match answer.strip_prefix("error ") {
            Some(reason) => bail!("bench-collector refused {line:?}: {reason}"),
            None => Ok(answer),
        }
    }

    /// Waits until compaction and rollup have nothing left to do, at most
    /// `longest`. Says whether they came to rest.
    ///
    /// # Errors
    ///
    /// When the child ended.
    pub async fn settle(&mut self, longest: Duration) -> anyhow::Result<bool> {
        let began = Instant::now();
        let mut quiet = 0;
        let mut before = self.usage()?.cpu;
        while began.elapsed() < longest {
            tokio::time::sleep(LOOK_EVERY).await;
            let cpu = self.usage()?.cpu;
            quiet = if cpu.saturating_sub(before) <= QUIET_CPU {
                quiet + 1
            } else {
                0
            };
            before = cpu;
            if quiet >= QUIET_LOOKS {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until it ends, at most `longest`; whether SIGKILL ended it.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub async fn is_killed_within(&mut self, longest: Duration) -> anyhow::Result<bool> {
        match timeout(longest, self.child.wait()).await {
            Ok(ended) => Ok(ended?.signal() == Some(SIGKILL)),
            Err(_elapsed) => Ok(false),
        }
    }

    /// Stops it in order.
    ///
    /// # Errors
    ///
    /// When it does not stop, or with a failure.
    pub async fn stop(self) -> anyhow::Result<()> {
        let Self {
            mut child, input, ..
        } = self;
        drop(input);
        let ended = timeout(STEP_TIME, child.wait()).await;
        let status = ended.context("bench-collector does not stop")??;
        if !status.success() {
            bail!("bench-collector ended with {status}");
        }
        Ok(())
    }

    /// Ends it as `kill -9` does and waits until it is gone.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .await
            .context("cannot kill bench-collector")
    }
}

impl Advance for Server {
    /// Returns once the time before this one was taken over, so the child is
    /// never more than one step behind and nobody waits for it.
    async fn advance(&mut self, now: UnixNanos) -> anyhow::Result<()> {
        while self.unanswered > 0 {
            self.line(LINE_TIME).await?;
            self.unanswered -= 1;
        }
        let line = format!("clock {}\n", now.get());
        self.input.write_all(line.as_bytes()).await?;
        self.unanswered += 1;
        Ok(())
    }
}
