//! What the rows share: settings, and two databases that are filled when the
//! first row asks for them: hours of fine windows, and a month of history.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use proto::window::{UnixNanos, Window};
use tokio::time::Instant;

use crate::child::{Server, ServerConfig};
use crate::compare;
use crate::corpus::Corpus;
use crate::fleet::{Counts, Fleet, Grain, Manners, Sending, Service};
use crate::program::Shape;

/// The virtual now of every query: 2026-03-18T13:37:00Z, so that no range is
/// aligned with a day or an hour.
pub(super) const NOW: UnixNanos = UnixNanos::new((20_530 * 86_400 + 49_020) * 1_000_000_000);
/// Name of the service that most rows are about.
pub(super) const SERVICE: &str = "bench";
/// History younger than this is made of fine windows, older of minutes.
const FINE_HISTORY: Duration = Duration::from_secs(2 * DAY_S);
/// How long compaction may go on after a load.
pub(super) const SETTLE: Duration = Duration::from_secs(120);
/// Kept longer than any history here.
const RETENTION: &str = "store.retention=31d";
const SEED: u64 = 20_000;
pub(super) const HOUR_S: u64 = 3_600;
pub(super) const DAY_S: u64 = 86_400;

/// Sizes of the measurement; smaller ones are for trying out and never `ok`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Folder for databases; emptied by the rows that fill one.
    pub folder: PathBuf,
    /// Where plots are written.
    pub plots: PathBuf,
    /// Core for the collector.
    pub core: Option<usize>,
    /// Further settings of the collector, `key=value`.
    pub collector: Vec<String>,
    /// When no further row is begun.
    pub deadline: Instant,
    /// Pods of the service.
    pub pods: u32,
    /// Stacks of the service.
    pub stacks: usize,
    /// Hours of the ingest row.
    pub hours: u32,
    /// Days of history.
    pub days: u32,
    /// Queries of each range.
    pub queries: usize,
    /// Windows of one batch where history is replayed.
    pub batch: u32,
    /// Services of the row with many.
    pub services: u32,
    /// Kills of the row about them.
    pub kills: u32,
    /// Length of the overload.
    pub overload: Duration,
}

impl Settings {
    /// Returns the settings of the full measurement.
    pub fn full(folder: PathBuf, plots: PathBuf, core: Option<usize>, deadline: Instant) -> Self {
        Self {
            folder,
            plots,
            core,
            collector: Vec::new(),
            deadline,
            pods: 100,
            stacks: 20_000,
            hours: 4,
            days: 30,
            queries: 1_000,
            batch: 10,
            services: 1_000,
            kills: 200,
            overload: Duration::from_secs(900),
        }
    }

    /// Whether some size is below that of the full measurement.
    pub fn is_reduced(&self) -> bool {
        let full = Self::full(PathBuf::new(), PathBuf::new(), None, self.deadline);
        self.pods < full.pods
            || self.stacks < full.stacks
            || self.hours < full.hours
            || self.days < full.days
            || self.queries < full.queries
            || self.services < full.services
            || self.kills < full.kills
            || self.overload < full.overload
    }
}

/// A collector with hours of fine windows.
#[derive(Debug)]
pub(super) struct Hours {
    pub(super) server: Server,
    pub(super) fleet: Fleet,
    pub(super) service: Arc<Service>,
    /// What filling it took.
    pub(super) counts: Counts,
    /// CPU time of the collector for it, compaction included.
    pub(super) cpu: Duration,
    /// Whether compaction came to rest within [`SETTLE`].
    pub(super) is_settled: bool,
    /// Where its windows end.
    pub(super) end: UnixNanos,
}

/// A collector with a month of history.
#[derive(Debug)]
pub(super) struct Month {
    pub(super) server: Server,
}

/// Settings, and what was filled so far.
#[derive(Debug)]
pub struct Lab {
    settings: Settings,
    hours: Option<Hours>,
    month: Option<Month>,
    /// Why the month could not be filled: nobody tries that twice.
    no_month: Option<String>,
}

impl Lab {
    /// Returns a lab that has filled nothing.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            hours: None,
            month: None,
            no_month: None,
        }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Time until no further row is begun.
    pub fn time_left(&self) -> Duration {
        self.settings
            .deadline
            .saturating_duration_since(Instant::now())
    }

    /// How history is replayed.
    pub(super) fn sending(&self) -> Sending {
        Sending {
            batch: self.settings.batch,
            in_flight: 4,
            manners: Manners::Polite,
        }
    }

    /// The service of most rows.
    pub(super) fn service(&self, pods: u32) -> Arc<Service> {
        let shape = Shape::FAT.with_stacks(self.settings.stacks);
        Service::new(SERVICE, Corpus::new(shape, SEED), pods)
    }

    /// How a collector on the database called `name` is started.
    pub(super) fn server_config(&self, name: &str, now: UnixNanos) -> ServerConfig {
        let mut settings = vec![RETENTION.to_owned()];
        settings.extend(self.settings.collector.iter().cloned());
        ServerConfig {
            data: self.settings.folder.join(name),
            now,
            settings,
            port: 0,
            core: self.settings.core,
            kill_at: None,
        }
    }

    /// Starts a collector on an empty database called `name`.
    pub(super) async fn fresh(&self, name: &str, now: UnixNanos) -> anyhow::Result<Server> {
        let config = self.server_config(name, now);
        empty(&config.data)?;
        Server::start(&config).await
    }

    /// The collector with hours of windows, filled now if it is not yet.
    pub(super) async fn hours(&mut self) -> anyhow::Result<&mut Hours> {
        let filled = match self.hours.take() {
            Some(filled) => filled,
            None => self.fill_hours().await?,
        };
        Ok(self.hours.insert(filled))
    }

    async fn fill_hours(&self) -> anyhow::Result<Hours> {
        let length = Duration::from_secs(HOUR_S) * self.settings.hours;
        let span = Window::new(NOW.saturating_sub(length), NOW)?;
        let service = self.service(self.settings.pods);
        let mut server = self.fresh("hours", span.start()).await?;
        let mut fleet = Fleet::new(std::slice::from_ref(&service), span.start())?;
        let before = server.usage()?.cpu;
        let url = server.url();
        let counts = fleet
            .replay(&url, span, Grain::FINE, self.sending(), &mut server)
            .await?;
        let is_settled = server.settle(SETTLE).await?;
        Ok(Hours {
            cpu: server.usage()?.cpu.saturating_sub(before),
            server,
            fleet,
            service,
            counts,
            is_settled,
            end: NOW,
        })
    }

    /// The collector with a month of history, filled now if it is not yet. The
    /// other one is stopped: both would share a core.
    pub(super) async fn month(&mut self) -> anyhow::Result<&mut Month> {
        let filled = match self.month.take() {
            Some(filled) => filled,
            None => {
                if let Some(reason) = &self.no_month {
                    bail!("no month of history: {reason}");
                }
                self.no_month = Some("it was given up".to_owned());
                self.stop_hours().await?;
                match self.fill_month().await {
                    Ok(filled) => filled,
                    Err(error) => {
                        self.no_month = Some(format!("{error:#}"));
                        return Err(error);
                    }
                }
            }
        };
        Ok(self.month.insert(filled))
    }

    /// Stops the collector with hours of windows, if it runs.
    pub(super) async fn stop_hours(&mut self) -> anyhow::Result<()> {
        match self.hours.take() {
            Some(hours) => hours.server.stop().await,
            None => Ok(()),
        }
    }

    /// Whether a month of history was filled.
    pub(super) fn has_month(&self) -> bool {
        self.month.is_some()
    }

    /// Takes the collector with a month of history away, to be stopped.
    pub(super) async fn take_month(&mut self) -> anyhow::Result<Month> {
        self.month().await?;
        self.month.take().context("the month was filled just now")
    }

    /// Gives it back, started again.
    pub(super) fn put_month(&mut self, server: Server) {
        self.month = Some(Month { server });
    }

    async fn fill_month(&self) -> anyhow::Result<Month> {
        let start = NOW.saturating_sub(Duration::from_secs(DAY_S) * self.settings.days);
        let fine = NOW.saturating_sub(FINE_HISTORY).max(start);
        let service = self.service(self.settings.pods);
        let mut server = self.fresh("month", start).await?;
        let mut fleet = Fleet::new(std::slice::from_ref(&service), start)?;
        let url = server.url();
        let sending = self.sending();
        if let Ok(old) = Window::new(start, fine) {
            fleet
                .replay(&url, old, Grain::MINUTE, sending, &mut server)
                .await?;
        }
        let young = Window::new(fine, NOW)?;
        fleet
            .replay(&url, young, Grain::FINE, sending, &mut server)
            .await?;
        server.settle(SETTLE).await?;
        // Times of wrong answers are worth nothing.
        let all = Window::new(start, NOW)?;
        let agreed = compare::all(&url, fleet.ledger(), all).await?;
        if agreed == 0 {
            bail!("the month is empty");
        }
        Ok(Month { server })
    }
}

/// Makes `folder` an empty one.
pub(super) fn empty(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", folder.display()));
        }
        Ok(()) | Err(_) => {}
    }
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// The path of a merged flame graph as JSON over the last `since`.
pub(super) fn flame_path(service: &str, since: &str, selector: &str) -> String {
    let select = match selector {
        "" => String::new(),
        selector => format!("&select={}", crate::http::escaped(selector)),
    };
    format!("/api/v1/profile?service={service}&since={since}&format=json{select}")
}

/// The ranges of the query rows, without those longer than the history.
pub(super) fn ranges(settings: &Settings) -> impl Iterator<Item = &'static str> {
    let longest = u64::from(settings.days) * DAY_S;
    [
        ("1h", HOUR_S),
        ("24h", DAY_S),
        ("7d", 7 * DAY_S),
        ("30d", 30 * DAY_S),
    ]
    .into_iter()
    .filter(move |(_, length)| *length <= longest)
    .map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_is_aligned_with_nothing_longer_than_a_minute() {
        assert_eq!(NOW.seconds() % 86_400, 13 * 3_600 + 37 * 60);
    }

    #[test]
    fn smaller_sizes_count_as_reduced() {
        let now = Instant::now();
        let mut settings = Settings::full(PathBuf::new(), PathBuf::new(), None, now);
        assert!(!settings.is_reduced());
        settings.pods = 99;
        assert!(settings.is_reduced());
    }

    #[test]
    fn a_selector_is_escaped_in_a_path() {
        assert_eq!(
            flame_path("a", "7d", r#"{pod="b"}"#),
            "/api/v1/profile?service=a&since=7d&format=json&select=%7Bpod%3D%22b%22%7D"
        );
    }
}
