//! Simulated agents: each has a `Push` stream of its own, as a real one, over
//! a few HTTP/2 connections, and sends windows of a corpus.
//!
//! Three ways to drive them: [`Fleet::replay`] as fast as the collector takes
//! them, [`Fleet::steady`] at a fixed rate whatever the answers
//! do, and [`Fleet::overload`] at a rate that cannot be taken. Everything runs
//! in the caller's runtime, one thread of it being enough; every queue is
//! bounded. What is acknowledged enters the fleet's [`Ledger`]; what is not stays owed and is
//! sent again, under its identity, by the next run.

mod agent;
mod counts;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use proto::limits::MAX_MESSAGE_BYTES;
use proto::pb::tepui::ingest_client::IngestClient;
use proto::window::{UnixNanos, Window};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::corpus::{Corpus, WINDOW_NS, WINDOW_SAMPLES};
use crate::ledger::Ledger;
use crate::loopback;
use crate::wire::Lexicon;
use agent::{Agent, Order, Shared, Workbench};
pub use counts::Counts;

/// Streams of one HTTP/2 connection, well below what collectors allow.
const STREAMS_PER_CONNECTION: usize = 100;
/// How long connecting may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How far ahead of the server's clock windows are sent, as far as collectors take them.
const AHEAD: Duration = Duration::from_secs(120);
/// How often an overloading driver offers.
const OFFER_EVERY: Duration = Duration::from_millis(5);

/// A service and its pods.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// What its pods run.
    pub corpus: Corpus,
    /// The words of `corpus`.
    lexicon: Lexicon,
    /// How many pods there are.
    pub pods: u32,
}

impl Service {
    /// Returns `pods` pods that run `corpus`.
    pub fn new(name: impl Into<String>, corpus: Corpus, pods: u32) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            lexicon: Lexicon::new(&corpus),
            corpus,
            pods,
        })
    }
}

/// How long a window is and how many samples it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grain {
    /// Length in nanoseconds.
    pub length_ns: u64,
    /// Samples of each window.
    pub samples: u32,
}

impl Grain {
    /// What agents send: ten seconds.
    pub const FINE: Self = Self {
        length_ns: WINDOW_NS,
        samples: WINDOW_SAMPLES,
    };
    /// What old history is made of: a minute with as many samples.
    pub const MINUTE: Self = Self {
        length_ns: 6 * WINDOW_NS,
        samples: 6 * WINDOW_SAMPLES,
    };

    /// Its length.
    pub const fn length(self) -> Duration {
        Duration::from_nanos(self.length_ns)
    }
}

/// What agents do with refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// As real agents: wait as long as the hint says, open a new stream, send
    /// again.
    Polite,
    /// Count, forget and go on.
    Rude,
}

/// How a fleet sends.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// Windows of one batch.
    pub batch: u32,
    /// Batches of one stream without an answer.
    pub in_flight: usize,
    /// What is done with refusals.
    pub manners: Manners,
}

impl Default for Sending {
    /// As real agents.
    fn default() -> Self {
        Self {
            batch: 1,
            in_flight: 8,
            manners: Manners::Polite,
        }
    }
}

/// Windows of one batch of a replay, so that the next one may be sent before it is
/// answered.
fn most_at_a_time(grain: Grain) -> u32 {
    let windows = (AHEAD + grain.length()).as_nanos() / (2 * grain.length()).as_nanos().max(1);
    u32::try_from(windows).unwrap_or(u32::MAX).max(1)
}

/// A server's clock that follows the windows.
pub trait Advance {
    /// Sets the clock to `now`.
    fn advance(&mut self, now: UnixNanos) -> impl Future<Output = anyhow::Result<()>>;
}

/// A clock that nobody can set.
#[derive(Clone, Copy, Debug)]
pub struct OwnClock;

impl Advance for OwnClock {
    async fn advance(&mut self, _now: UnixNanos) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Agents of some services, and what they got acknowledged.
#[derive(Debug)]
pub struct Fleet {
    agents: Vec<Agent>,
    workbench: Arc<Mutex<Workbench>>,
    ledger: Ledger,
}

/// The agents at work.
struct Running {
    tasks: JoinSet<(Agent, anyhow::Result<()>)>,
    orders: Vec<mpsc::Sender<Order>>,
    began: Instant,
}

impl Fleet {
    /// Returns the fleet of `services`, its targets started at `started`; each
    /// agent has an instance id of its own.
    ///
    /// # Errors
    ///
    /// When zstd has no memory.
    pub fn new(services: &[Arc<Service>], started: UnixNanos) -> anyhow::Result<Self> {
        // As random as an agent's own, so that no run is taken for another.
        let state = RandomState::new();
        let word = |service: usize, pod: u32, half: u8| {
            let mut hasher = state.build_hasher();
            hasher.write_usize(service);
            hasher.write_u32(pod);
            hasher.write_u8(half);
            hasher.finish().to_le_bytes()
        };
        let mut agents = Vec::new();
        for (number, service) in services.iter().enumerate() {
            for pod in 0..service.pods {
                let mut instance = [0; 16];
                instance[..8].copy_from_slice(&word(number, pod, 0));
                instance[8..].copy_from_slice(&word(number, pod, 1));
                agents.push(Agent::new(Arc::clone(service), pod, instance, started));
            }
        }
        Ok(Self {
            agents,
            workbench: Arc::new(Mutex::new(Workbench::new()?)),
            ledger: Ledger::new(),
        })
    }

    /// Everything that was acknowledged so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// How many agents there are.
    pub fn len(&self) -> usize {
        self.agents.len()
    }

    /// Whether there is no agent.
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty()
    }

    /// How many batches wait for an acknowledgement.
    pub fn owed(&self) -> usize {
        self.agents.iter().map(Agent::owed).sum()
    }

    /// Sends what is owed, under its old identity, and nothing else.
    ///
    /// # Errors
    ///
    /// When a stream ends for good.
    pub async fn resend(&mut self, url: &str, sending: Sending) -> anyhow::Result<Counts> {
        let running = self.start(url, sending, 1).await?;
        self.finish(running).await
    }

    /// Drops every stream, as when the collector went away.
    pub fn disconnect(&mut self) {
        for agent in &mut self.agents {
            agent.disconnect();
        }
    }

    /// Has every agent send all windows of `span`, as fast as the collector at
    /// `url` takes them. Its clock stands where the oldest batch begins that some agent
    /// still owes, and agents are at most two minutes ahead of it: no window is late, as
    /// none is of agents that send what they have.
    ///
    /// # Errors
    ///
    /// When a stream ends for good or the clock cannot be set. What was
    /// acknowledged is noted even then.
    pub async fn replay(
        &mut self,
        url: &str,
        span: Window,
        grain: Grain,
        sending: Sending,
        clock: &mut impl Advance,
    ) -> anyhow::Result<Counts> {
        let replayed = self.replay_for(url, span, grain, sending, clock, Duration::MAX);
        Ok(replayed.await?.0)
    }

    /// As [`Fleet::replay`], but nothing more is begun after `longest`. Returns where
    /// the windows end, too.
    ///
    /// # Errors
    ///
    /// As [`Fleet::replay`].
    pub async fn replay_for(
        &mut self,
        url: &str,
        span: Window,
        grain: Grain,
        sending: Sending,
        clock: &mut impl Advance,
        longest: Duration,
    ) -> anyhow::Result<(Counts, UnixNanos)> {
        let mut running = self.start(url, sending, 1).await?;
        let batch = sending.batch.clamp(1, most_at_a_time(grain));
        let mut at = span.start();
        // Of each batch that was ordered: where it starts, and what is dropped once
        // every agent is done with it.
        let mut ordered: VecDeque<(UnixNanos, mpsc::Receiver<Infallible>)> = VecDeque::new();
        // What the clock was told last, and before: that it has taken over.
        let (mut told, mut before) = (at, at);
        // Told twice, it was taken over once.
        let mut outcome = match clock.advance(at).await {
            Ok(()) => clock.advance(at).await,
            failed => failed,
        };
        'time: while outcome.is_ok() && at < span.end() && running.began.elapsed() < longest {
            let left = span.end().since(at).as_nanos() / grain.length().as_nanos().max(1);
            let windows = batch.min(u32::try_from(left).unwrap_or(u32::MAX)).max(1);
            let last = at.saturating_add(grain.length() * (windows - 1));
            while last > before.saturating_add(AHEAD)
                && let Some((_, done)) = ordered.front_mut()
            {
                done.recv().await;
                ordered.pop_front();
                before = told;
                told = ordered.front().map_or(at, |(start, _)| *start);
                outcome = clock.advance(told).await;
                if outcome.is_err() {
                    break 'time;
                }
            }
            let (under_way, done) = mpsc::channel(1);
            ordered.push_back((at, done));
            for agent in &running.orders {
                let order = Order::new(at, grain, windows, Instant::now());
                let order = order.with(under_way.clone());
                if agent.send(order).await.is_err() {
                    break 'time;
                }
                // Or thousands of agents would make their batches before any
                // connection is looked after.
                tokio::task::yield_now().await;
            }
            at = at.saturating_add(grain.length() * windows);
        }
        drop(ordered);
        running.orders.clear();
        let counts = self.finish(running).await;
        let told = match outcome {
            Ok(()) => clock.advance(at).await,
            failed => failed,
        };
        told.and(counts).map(|counts| (counts, at))
    }

    /// Sends `rate` windows a second for `warm_up` and then for `length`, of which
    /// answers are timed, in batches of `sending.batch`, from agents in turn, windows of each agent following on
    /// one another from `from`. The schedule never waits for answers, and an
    /// answer's time counts from when its batch was due.
    ///
    /// # Errors
    ///
    /// As [`Fleet::replay`].
    pub async fn steady(
        &mut self,
        url: &str,
        from: UnixNanos,
        rate: f64,
        [warm_up, length]: [Duration; 2],
        sending: Sending,
        clock: &mut impl Advance,
    ) -> anyhow::Result<Counts> {
        let grain = Grain::FINE;
        let running = self.start(url, sending, 64).await?;
        let stride = grain.length() * sending.batch.max(1);
        let gap = Duration::from_secs_f64(f64::from(sending.batch.max(1)) / rate.max(1e-3));
        let mut at = from;
        let mut due = running.began;
        let mut outcome = Ok(());
        'time: while due < running.began + warm_up + length {
            outcome = clock.advance(at.saturating_add(2 * stride)).await;
            if outcome.is_err() {
                break;
            }
            for agent in &running.orders {
                tokio::time::sleep_until(due).await;
                let is_timed = due >= running.began + warm_up;
                let order = Order::new(at, grain, sending.batch, due).timed(is_timed);
                if agent.send(order).await.is_err() {
                    break 'time;
                }
                due += gap;
            }
            at = at.saturating_add(stride);
        }
        let counts = self.finish(running).await;
        outcome.and(counts)
    }

    /// Offers `rate` windows a second for `length`. A batch that a stream has
    /// no room for is counted as held back; refusals are counted by code and
    /// nothing is sent twice. Meant for [`Manners::Rude`].
    ///
    /// # Errors
    ///
    /// As [`Fleet::replay`].
    pub async fn overload(
        &mut self,
        url: &str,
        from: UnixNanos,
        rate: f64,
        length: Duration,
        sending: Sending,
        clock: &mut impl Advance,
    ) -> anyhow::Result<Counts> {
        let grain = Grain::FINE;
        let running = self.start(url, sending, 4).await?;
        let stride = grain.length() * sending.batch.max(1);
        let mut next = vec![from; running.orders.len()];
        let mut latest = from;
        let (mut offered, mut held_back) = (0_u64, 0_u64);
        let mut turn = 0;
        let mut outcome = Ok(());
        while running.began.elapsed() < length {
            outcome = clock.advance(latest.saturating_add(2 * stride)).await;
            if outcome.is_err() {
                break;
            }
            let wanted = running.began.elapsed().as_secs_f64() * rate;
            // At most one round of all agents at a time: what is beyond is due
            // still and comes with the next.
            for _ in 0..running.orders.len() {
                if f64::from(u32::try_from(offered).unwrap_or(u32::MAX)) >= wanted {
                    break;
                }
                offered += u64::from(sending.batch);
                let order = Order::new(next[turn], grain, sending.batch, Instant::now());
                match running.orders[turn].try_send(order) {
                    Ok(()) => {
                        next[turn] = next[turn].saturating_add(stride);
                        latest = latest.max(next[turn]);
                    }
                    Err(_full_or_gone) => held_back += u64::from(sending.batch),
                }
                turn = (turn + 1) % running.orders.len();
            }
            tokio::time::sleep(OFFER_EVERY).await;
        }
        let counts = self.finish(running).await;
        outcome.and(counts).map(|mut counts| {
            counts.offered_windows = offered;
            counts.held_back_windows = held_back;
            counts
        })
    }

    /// Opens connections and puts every agent to work.
    async fn start(
        &mut self,
        url: &str,
        sending: Sending,
        queue: usize,
    ) -> anyhow::Result<Running> {
        loopback::check(url)?;
        let connections = self.agents.len().div_ceil(STREAMS_PER_CONNECTION);
        let mut channels: Vec<Channel> = Vec::with_capacity(connections);
        for _ in 0..connections {
            let endpoint = Endpoint::from_shared(url.to_owned())?
                .connect_timeout(CONNECT_TIME)
                .tcp_nodelay(true);
            let connected = endpoint.connect().await;
            channels.push(connected.with_context(|| format!("cannot connect to {url}"))?);
        }
        let mut tasks = JoinSet::new();
        let mut orders = Vec::with_capacity(self.agents.len());
        for (number, mut agent) in self.agents.drain(..).enumerate() {
            let channel = channels[number / STREAMS_PER_CONNECTION].clone();
            let client = IngestClient::new(channel)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
                .max_decoding_message_size(MAX_MESSAGE_BYTES);
            let shared = Shared {
                client,
                sending,
                workbench: Arc::clone(&self.workbench),
            };
            let (sender, receiver) = mpsc::channel(queue);
            orders.push(sender);
            tasks.spawn(async move {
                let ended = agent.run(shared, receiver).await;
                // What it owes waits for the next run.
                agent.release();
                (agent, ended)
            });
        }
        Ok(Running {
            tasks,
            orders,
            began: Instant::now(),
        })
    }

    /// Waits until every answer is there, and collects the agents.
    async fn finish(&mut self, mut running: Running) -> anyhow::Result<Counts> {
        running.orders.clear();
        let mut counts = Counts::default();
        let mut failure = None;
        while let Some(ended) = running.tasks.join_next().await {
            let (mut agent, ended) = ended.map_err(|_| anyhow!("a simulated agent failed"))?;
            if let Err(error) = ended {
                failure.get_or_insert(error);
            }
            counts.merge(agent.take_counts());
            let acked = agent.take_acked();
            let (service, pod) = agent.who();
            self.ledger.extend(service, pod, acked);
            self.agents.push(agent);
        }
        counts.wall = running.began.elapsed();
        self.agents.sort_by(|a, b| a.who().cmp(&b.who()));
        match failure {
            Some(error) => Err(error),
            None => Ok(counts),
        }
    }
}
