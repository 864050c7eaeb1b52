//! A campaign of sudden ends: a collector is killed again and again, at every
//! kind of place, while agents send, and in the end it must hold exactly what it
//! acknowledged, in every tier.
//!
//! The ledger is in the process of the agents and knows acknowledgements alone.
//! After each end the collector is started again and the agents send what was
//! not acknowledged under its old identity. Time is told: each round is hours
//! later than the one before, so that hours and days are summed and dropped
//! while the collector dies.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use collector::store::rocks::RocksStore;
use collector::store::tier::{DAY_S, HOUR_S, MINUTE_S, Tier};
use collector::store::{RowKey, SeriesId, Store as _};
use proto::value_type::ProfileType;
use proto::window::{UnixNanos, Window};
use tokio::task::JoinSet;

use crate::child::{KilledAtStart, Server, ServerConfig};
use crate::compare::{self, Selections};
use crate::corpus::{Corpus, WINDOW_NS};
use crate::fatal::{Call, Moment, Place};
use crate::fleet::{Advance as _, Fleet, Grain, Manners, OwnClock, Sending, Service};
use crate::ledger::Ledger;
use crate::process;
use crate::program::Shape;
use crate::random::Random;

/// The service that is there all the time.
const SERVICE: &str = "kill";
const PODS: u32 = 6;
const STACKS: usize = 2_000;
/// Agents of the same pods that send what is hours and days old.
const STRAGGLERS: u32 = 3;
/// Pods of the service that is new in each round.
const NEWCOMERS: u32 = 2;
/// From one round to the next, and when a day is to be dropped.
const STEP: Duration = Duration::from_secs(6 * HOUR_S);
const LONG_STEP: Duration = Duration::from_secs(30 * HOUR_S);
/// Within it: after the midnight before which all goes at its end.
const CALM_STEP: Duration = Duration::from_secs(8 * HOUR_S);
/// What is sent in a round.
const SPAN: Duration = Duration::from_secs(400);
const SHORT_SPAN: Duration = Duration::from_secs(60);
/// How old the windows of stragglers are: summed already, and dropped already.
const LATE: Duration = Duration::from_secs(3 * HOUR_S);
const OLD: Duration = Duration::from_secs(90 * HOUR_S);
/// How long windows and hours are kept.
const KEPT: Duration = Duration::from_secs(DAY_S);
const KEPT_HOURS: Duration = Duration::from_secs(30 * DAY_S);
const SETTINGS: [&str; 4] = [
    "store.retention=1d",
    "store.retention_hours=30d",
    "store.retention_days=720d",
    // Feature rows are looked for four times as often as a step is long.
    "detect.step=10s",
];
/// How long a place may take to be reached once everything was sent: retention
/// looks every 20 s.
const REACHED_WITHIN: Duration = Duration::from_secs(25);
/// Kills from outside come this long after a load, a start or a flush began.
const LOAD_MICROS: usize = 600_000;
const START_MICROS: usize = 120_000;
const FLUSH_MICROS: usize = 30_000;
/// Within a call: about the time of a sync.
const CALL_MICROS: usize = 3_000;
/// Rounds between two comparisons.
const COMPARE_EVERY: u32 = 20;
const SETTLE: Duration = Duration::from_secs(60);
const CACHE_BYTES: usize = 8 << 20;
/// Batches of four windows, as many in flight as agents have.
const SENDING: Sending = Sending {
    batch: 4,
    in_flight: 8,
    manners: Manners::Polite,
};

/// How a collector ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    /// At one of the first calls of this kind, so many of them.
    At(Call, usize),
    /// From outside, within a load, a start, a flush.
    InLoad,
    AtStart,
    InFlush,
}

/// Rounds take them in turn.
const BLOWS: [Blow; 16] = [
    Blow::At(Call::Windows, 12),
    Blow::At(Call::Rows, 6),
    Blow::InLoad,
    Blow::At(Call::Features, 2),
    Blow::At(Call::Old, 1),
    Blow::AtStart,
    Blow::At(Call::Drop, 2),
    Blow::At(Call::Windows, 4),
    Blow::InFlush,
    Blow::At(Call::Catalog, 3),
    Blow::At(Call::Rows, 10),
    Blow::At(Call::Tree, 2),
    Blow::At(Call::Dropping, 2),
    Blow::At(Call::Keys, 4),
    Blow::At(Call::Compact, 1),
    Blow::InLoad,
];

/// The fewest kills with one of each kind.
pub const ONE_OF_EACH: u32 = 16;

impl Blow {
    const fn name(self) -> &'static str {
        match self {
            Self::At(call, _) => call.name(),
            Self::InLoad => "in load",
            Self::AtStart => "at start",
            Self::InFlush => "in flush",
        }
    }

    /// Collectors that must come to rest before it: one that sums up a day, so
    /// that it can go, and one under which it goes.
    const fn calm_before(self) -> u32 {
        match self {
            Self::At(Call::Drop | Call::Dropping, _) => 1,
            Self::At(Call::Old, _) => 2,
            _ => 0,
        }
    }
}

/// What a campaign did and found to be right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tale {
    /// Sudden ends.
    pub kills: u32,
    /// By kind of place: how often it was aimed at, and how often reached.
    pub places: BTreeMap<&'static str, (u32, u32)>,
    /// Acknowledged samples, all of them there and none twice.
    pub samples: u64,
    /// By tier: ranges whose answers were equal to the ledger stack by stack.
    pub ranges: BTreeMap<Tier, u64>,
    /// Batches that were sent again and were there already.
    pub duplicates: u64,
}

impl Tale {
    /// Kinds of places that were aimed at and never reached.
    pub fn missed(&self) -> Vec<&'static str> {
        let missed = self.places.iter().filter(|(_, (_, reached))| *reached == 0);
        missed.map(|(name, _)| *name).collect()
    }
}

impl fmt::Display for Tale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} kills (", self.kills)?;
        for (number, (place, (aimed, reached))) in self.places.iter().enumerate() {
            let before = if number > 0 { ", " } else { "" };
            write!(f, "{before}{place} {reached} of {aimed}")?;
        }
        write!(
            f,
            "), {} batches sent again that were there, {} acked samples: 0 lost, 0 double; ranges equal by",
            self.duplicates, self.samples
        )?;
        for (number, (tier, ranges)) in self.ranges.iter().enumerate() {
            let before = if number > 0 { "," } else { "" };
            write!(f, "{before} {tier} {ranges}")?;
        }
        Ok(())
    }
}

/// Agents and their collector.
#[derive(Debug)]
struct Campaign {
    config: ServerConfig,
    start: UnixNanos,
    now: UnixNanos,
    random: Random,
    fleet: Fleet,
    stragglers: Fleet,
    newcomers: Vec<Fleet>,
    tale: Tale,
}

/// Kills a collector `kills` times, whose data is in the empty folder of
/// `config`, and compares.
///
/// # Errors
///
/// When something acknowledged is missing, there twice, or not in each tier,
/// and when a collector ends or refuses where it must not.
pub async fn run(mut config: ServerConfig, kills: u32, seed: u64) -> anyhow::Result<Tale> {
    config.settings.extend(SETTINGS.map(str::to_owned));
    let shape = Shape::MEDIUM.with_stacks(STACKS);
    let service = |pods| Service::new(SERVICE, Corpus::new(shape, seed), pods);
    let start = config.now;
    let mut campaign = Campaign {
        start,
        now: start,
        random: Random::new(seed),
        fleet: Fleet::new(&[service(PODS)], start)?,
        stragglers: Fleet::new(&[service(STRAGGLERS)], start)?,
        newcomers: Vec::new(),
        tale: Tale::default(),
        config,
    };
    campaign.begin().await?;
    for (number, blow) in (0..kills).zip(BLOWS.into_iter().cycle()) {
        let round = campaign.round(number, blow).await;
        round.with_context(|| format!("round {number}, {}", blow.name()))?;
        if (number + 1) % COMPARE_EVERY == 0 {
            let compared = campaign.compare().await;
            compared.with_context(|| format!("after {} kills", campaign.tale.kills))?;
        }
    }
    campaign.compare().await?;
    campaign.end().await?;
    Ok(campaign.tale)
}

fn micros(random: &mut Random, most: usize) -> Duration {
    Duration::from_micros(u64::try_from(random.below(most)).unwrap_or(0))
}

/// Kills process `pid` after a while.
fn kill_later(pid: u32, after: Duration) -> JoinSet<anyhow::Result<()>> {
    let mut killer = JoinSet::new();
    killer.spawn(async move {
        tokio::time::sleep(after).await;
        process::kill(pid)
    });
    killer
}

impl Campaign {
    /// Starts a collector that does not end by itself.
    async fn server(&mut self) -> anyhow::Result<Server> {
        self.config.now = self.now;
        self.config.kill_at = None;
        Server::start(&self.config).await
    }

    /// Some days without an end, so that every kind of place can be reached:
    /// there is something to sum, to drop, and to add to what was dropped.
    async fn begin(&mut self) -> anyhow::Result<()> {
        let mut server = self.server().await?;
        while self.now < self.start.saturating_add(OLD) {
            self.load(&mut server).await?;
            self.now = self.now.saturating_add(LONG_STEP);
            server.advance(self.now).await?;
        }
        self.load(&mut server).await?;
        server.settle(SETTLE).await?;
        server.stop().await
    }

    /// One round: a start, a load, an end.
    async fn round(&mut self, number: u32, blow: Blow) -> anyhow::Result<()> {
        let before = self.now;
        for _ in 0..blow.calm_before() {
            self.now = before.saturating_add(CALM_STEP);
            let mut server = self.server().await?;
            server.settle(SETTLE).await?;
            server.kill().await?;
        }
        self.now = before.saturating_add(match blow.calm_before() {
            0 => STEP,
            _ => LONG_STEP,
        });
        self.config.now = self.now;
        self.config.kill_at = match blow {
            Blow::At(call, most) => Some(self.place(call, most, number)),
            Blow::InLoad | Blow::AtStart | Blow::InFlush => None,
        };
        let mut killer = JoinSet::new();
        let after = micros(&mut self.random, START_MICROS);
        let started = Server::start_and(&self.config, |pid| {
            if blow == Blow::AtStart {
                killer = kill_later(pid, after);
            }
        });
        let reached = match started.await {
            Ok(server) => self.until_end(server, blow).await?,
            Err(error) if error.is::<KilledAtStart>() => true,
            Err(error) => return Err(error),
        };
        // It may have been slower than the start.
        killer.abort_all();
        self.tale.kills += 1;
        let (aimed, met) = self.tale.places.entry(blow.name()).or_default();
        *aimed += 1;
        *met += u32::from(reached);
        Ok(())
    }

    fn place(&mut self, call: Call, most: usize, number: u32) -> Place {
        let nth = u32::try_from(self.random.below(most)).unwrap_or(0) + 1;
        // Another moment each time its turn comes.
        let moment = match (number / ONE_OF_EACH + number) % 3 {
            0 => Moment::Before,
            1 => Moment::During(micros(&mut self.random, CALL_MICROS)),
            _ => Moment::After,
        };
        Place {
            call,
            number: nth,
            moment,
        }
    }

    /// Sends until the collector has ended; whether it did as it was meant to.
    async fn until_end(&mut self, mut server: Server, blow: Blow) -> anyhow::Result<bool> {
        let mut killer = JoinSet::new();
        if blow == Blow::InLoad {
            let after = micros(&mut self.random, LOAD_MICROS);
            killer = kill_later(server.pid(), after);
        }
        let whole = self.load(&mut server).await;
        if blow == Blow::InFlush {
            let after = micros(&mut self.random, FLUSH_MICROS);
            killer = kill_later(server.pid(), after);
        }
        // It need not answer: that is what all of this is about.
        let _ended = match blow {
            Blow::InFlush | Blow::At(Call::Compact, _) => server.ask("compact").await.map(drop),
            _ => {
                let later = self.now.saturating_add(2 * SPAN);
                server.advance(later).await
            }
        };
        let reached = server.is_killed_within(REACHED_WITHIN).await?;
        killer.abort_all();
        if !reached {
            // What was sent without an end must have been taken.
            whole?;
            server.kill().await?;
        }
        for fleet in self.fleets() {
            fleet.disconnect();
        }
        Ok(reached)
    }

    fn fleets(&mut self) -> impl Iterator<Item = &mut Fleet> {
        let always = [&mut self.fleet, &mut self.stragglers];
        always.into_iter().chain(&mut self.newcomers)
    }

    /// Sends what is owed and what is new, by all agents at once.
    async fn load(&mut self, server: &mut Server) -> anyhow::Result<()> {
        let url = server.url();
        let number = self.newcomers.len();
        let name = format!("{SERVICE}-{number}");
        let corpus = Corpus::new(Shape::LEAN, u64::try_from(number)?);
        let newcomers = Fleet::new(&[Service::new(name, corpus, NEWCOMERS)], self.now)?;
        self.newcomers.push(newcomers);
        let now = self.now;
        // Returns once the time that was told before is the collector's.
        server.advance(now).await?;
        let span = |from: UnixNanos, length| Window::new(from, from.saturating_add(length));
        let fresh = span(now, SPAN)?;
        let short = span(now, SHORT_SPAN)?;
        let late = span(now.saturating_sub(LATE), SHORT_SPAN)?;
        let old = span(now.saturating_sub(OLD), SHORT_SPAN)?;
        let is_known = old.start() >= self.start;
        let Self {
            fleet,
            stragglers,
            newcomers,
            ..
        } = self;
        let sent = fleet.replay(&url, fresh, Grain::FINE, SENDING, server);
        let straggle = async {
            let clock = &mut OwnClock;
            if is_known {
                stragglers
                    .replay(&url, old, Grain::FINE, SENDING, clock)
                    .await?;
            }
            stragglers
                .replay(&url, late, Grain::FINE, SENDING, clock)
                .await
        };
        let arrive = async {
            for fleet in newcomers.iter_mut().filter(|fleet| fleet.owed() > 0) {
                fleet.resend(&url, SENDING).await?;
            }
            match newcomers.last_mut() {
                Some(fleet) => {
                    let clock = &mut OwnClock;
                    fleet.replay(&url, short, Grain::FINE, SENDING, clock).await
                }
                None => bail!("there is a newcomer in each round"),
            }
        };
        let (sent, straggled, arrived) = tokio::join!(sent, straggle, arrive);
        for counts in [sent?, straggled?, arrived?] {
            self.tale.duplicates += counts.duplicates;
            if !counts.refused_windows.is_empty() {
                bail!("windows were refused: {counts}");
            }
        }
        Ok(())
    }

    /// Has everything acknowledged and compares every range that windows,
    /// minutes, hours and days stand for.
    async fn compare(&mut self) -> anyhow::Result<()> {
        let mut server = self.server().await?;
        let url = server.url();
        let mut duplicates = 0;
        for fleet in self.fleets().filter(|fleet| fleet.owed() > 0) {
            duplicates += fleet.resend(&url, SENDING).await?.duplicates;
        }
        self.tale.duplicates += duplicates;
        server.advance(self.now.saturating_add(2 * SPAN)).await?;
        self.ranges(&server).await?;
        // Once more when what was late is summed too.
        server.settle(SETTLE).await?;
        self.ranges(&server).await?;
        server.stop().await
    }

    fn ledger(&mut self) -> Ledger {
        let mut all = Ledger::new();
        for fleet in self.fleets() {
            all.join(fleet.ledger());
        }
        all
    }

    async fn ranges(&mut self, server: &Server) -> anyhow::Result<()> {
        let ledger = self.ledger();
        // The collector was told a later time, and drops by that.
        let latest = self.now.saturating_add(2 * SPAN);
        let kept = latest.saturating_sub(KEPT);
        let kept_hours = latest.saturating_sub(KEPT_HOURS);
        for (tier, length_s, from, selections) in [
            (
                Tier::Window,
                WINDOW_NS / 1_000_000_000,
                kept,
                Selections::InTurn,
            ),
            (Tier::Minute, MINUTE_S, kept, Selections::Each),
            (Tier::Hour, HOUR_S, kept_hours, Selections::InTurn),
            (Tier::Day, DAY_S, self.start, Selections::InTurn),
        ] {
            let length = Duration::from_secs(length_s);
            let equal = compare::stretches(&server.url(), &ledger, length, from, selections).await;
            let equal = equal.with_context(|| format!("ranges of the tier {tier}"))?;
            *self.tale.ranges.entry(tier).or_default() += equal;
        }
        let end = self.now.saturating_add(2 * STEP);
        let all = Window::new(self.start.saturating_sub(KEPT), end)?;
        self.tale.samples = compare::all(&server.url(), &ledger, all).await?;
        Ok(())
    }

    /// Lets the last day end, and sees that there is a row for all that was
    /// acknowledged: nothing above was answered from windows by mistake.
    async fn end(&mut self) -> anyhow::Result<()> {
        self.now = self.now.saturating_add(LONG_STEP);
        let mut server = self.server().await?;
        server.settle(SETTLE).await?;
        self.ranges(&server).await?;
        server.stop().await?;
        let (ledger, data) = (self.ledger(), self.config.data.clone());
        tokio::task::spawn_blocking(move || rows_are_there(&data, &ledger)).await?
    }
}

/// Looks for the row of each hour and day of each service with a window.
fn rows_are_there(data: &Path, ledger: &Ledger) -> anyhow::Result<()> {
    let store = RocksStore::open(data, CACHE_BYTES)?;
    let catalog = store.catalog()?;
    let types = catalog.types.iter();
    let mut types = types.filter(|(_, known)| known.profile_type == ProfileType::cpu());
    let (ptype, _) = types.next().context("the store knows no CPU profile")?;
    for name in ledger.services() {
        let services = catalog.services.iter();
        let mut services = services.filter(|(_, key)| key.service == name);
        let (service, _) = services
            .next()
            .with_context(|| format!("the store does not know {name}"))?;
        for tier in [Tier::Hour, Tier::Day] {
            let second = |rows: &[(Tier, u64)]| {
                let row = rows.iter().find(|(known, _)| *known == tier);
                row.map_or(0, |(_, second)| *second)
            };
            let kept = second(&catalog.dropped)..second(&catalog.rolled);
            let length = i64::try_from(tier.length_s())?;
            for start_s in ledger.stretches(name, length) {
                let start_s = u64::try_from(start_s)?;
                let key = RowKey {
                    tier,
                    ptype: *ptype,
                    service: *service,
                    series: SeriesId::WHOLE,
                    start_s,
                };
                if kept.contains(&start_s) && store.row(&key)?.is_none() {
                    bail!("{name} has no row of the {tier} that starts at second {start_s}");
                }
                if start_s >= kept.end {
                    bail!("the {tier} that starts at second {start_s} was never summed");
                }
            }
        }
    }
    Ok(())
}
