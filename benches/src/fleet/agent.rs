//! One simulated agent. It keeps the rules of a real one's stream: entries of
//! its dictionary in order, a batch's identity for good, a bounded number in
//! flight, a new stream after a refusal that is to be retried.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use prost::Message;
use proto::dictionary::label_set_to_wire;
use proto::limits::{MAX_BATCH_BYTES, PROTOCOL_VERSION};
use proto::pb::tepui as pb;
use proto::pb::tepui::ingest_client::IngestClient;
use proto::pb::tepui::push_request::Body as Sent;
use proto::pb::tepui::push_response::Body as Answer;
use proto::window::UnixNanos;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{Counts, Grain, Manners, Sending, Service};
use crate::corpus::{Corpus, Slot, Tally};
use crate::ledger::Entry;
use crate::wire::{Head, StreamWords, WordLimits};

/// zstd level of a batch, as agents pack it.
const ZSTD_LEVEL: i32 = 3;
/// How long a collector may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// Attempts at a stream in a row before the agent gives up.
const MAX_ATTEMPTS: u32 = 3;
/// Pause between them, and the least before a batch is sent again.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause a collector may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// One batch that is to be sent.
#[derive(Debug)]
pub(super) struct Order {
    start: UnixNanos,
    grain: Grain,
    windows: u32,
    due: Instant,
    /// Whether the time of its acknowledgement counts.
    is_timed: bool,
    /// Dropped once nothing more is done for it.
    under_way: Option<mpsc::Sender<Infallible>>,
}

impl Order {
    pub(super) const fn new(start: UnixNanos, grain: Grain, windows: u32, due: Instant) -> Self {
        Self {
            start,
            grain,
            windows,
            due,
            is_timed: true,
            under_way: None,
        }
    }

    pub(super) fn timed(self, is_timed: bool) -> Self {
        Self { is_timed, ..self }
    }

    /// With what is to be dropped once nothing more is done for it.
    pub(super) fn with(self, under_way: mpsc::Sender<Infallible>) -> Self {
        let under_way = Some(under_way);
        Self { under_way, ..self }
    }

    fn slots(&self, pod: u32) -> Vec<Slot> {
        (0..self.windows)
            .map(|number| Slot {
                pod,
                start: self.start.saturating_add(self.grain.length() * number),
                samples: self.grain.samples,
            })
            .collect()
    }
}

/// Memory that all agents use in turn.
pub(super) struct Workbench {
    tally: Tally,
    bytes: Vec<u8>,
    packer: zstd::bulk::Compressor<'static>,
}

impl std::fmt::Debug for Workbench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workbench").finish_non_exhaustive()
    }
}

impl Workbench {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            tally: Tally::new(),
            bytes: Vec::new(),
            packer: zstd::bulk::Compressor::new(ZSTD_LEVEL).context("zstd has no memory")?,
        })
    }
}

/// What agents of one run share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) client: IngestClient<Channel>,
    pub(super) sending: Sending,
    pub(super) workbench: Arc<Mutex<Workbench>>,
}

/// A batch without a final answer.
#[derive(Debug)]
struct Owed {
    sequence: u64,
    order: Order,
    entries: Vec<Entry>,
    /// It was refused on the present stream, and waits for the next.
    is_refused: bool,
}

#[derive(Debug)]
struct Link {
    requests: mpsc::Sender<pb::PushRequest>,
    responses: Streaming<pb::PushResponse>,
    words: StreamWords,
    limits: WordLimits,
}

#[derive(Debug)]
pub(super) struct Agent {
    service: Arc<Service>,
    pod: u32,
    instance: [u8; 16],
    head: Head,
    sequence: u64,
    owed: VecDeque<Owed>,
    link: Option<Link>,
    /// A new stream is needed, after this long, once all is answered.
    pause: Option<Duration>,
    attempts: u32,
    acked: Vec<Entry>,
    counts: Counts,
}

fn request(body: Sent) -> pb::PushRequest {
    pb::PushRequest { body: Some(body) }
}

impl Agent {
    pub(super) fn new(
        service: Arc<Service>,
        pod: u32,
        instance: [u8; 16],
        started: UnixNanos,
    ) -> Self {
        let head = Head {
            labels: label_set_to_wire(&Corpus::labels(&service.name, pod)),
            duration_ns: 0,
            target_start_ns: started.get(),
        };
        Self {
            service,
            pod,
            instance,
            head,
            sequence: 0,
            owed: VecDeque::new(),
            link: None,
            pause: None,
            attempts: 0,
            acked: Vec::new(),
            counts: Counts::default(),
        }
    }

    pub(super) fn who(&self) -> (&str, u32) {
        (&self.service.name, self.pod)
    }

    pub(super) fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    pub(super) fn take_acked(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.acked)
    }

    pub(super) fn owed(&self) -> usize {
        self.owed.len()
    }

    /// What it still owes is under way no longer.
    pub(super) fn release(&mut self) {
        for owed in &mut self.owed {
            owed.order.under_way = None;
        }
    }

    pub(super) fn disconnect(&mut self) {
        self.link = None;
        self.pause = None;
        self.attempts = 0;
    }

    /// Sends what is ordered until there are no more orders and nothing is
    /// owed.
    pub(super) async fn run(
        &mut self,
        shared: Shared,
        mut orders: mpsc::Receiver<Order>,
    ) -> anyhow::Result<()> {
        // A stream of an earlier run belongs to an earlier connection.
        self.disconnect();
        let mut is_open = true;
        while is_open || !self.owed.is_empty() {
            self.mend(&shared).await?;
            // Mending may have forgotten what was owed.
            if !is_open && self.owed.is_empty() {
                break;
            }
            let Some(link) = &mut self.link else { continue };
            let has_room =
                is_open && self.pause.is_none() && self.owed.len() < shared.sending.in_flight;
            tokio::select! {
                biased;
                answer = link.responses.message() => match answer {
                    Ok(Some(answer)) => self.answered(answer, shared.sending.manners)?,
                    Ok(None) => self.lost(anyhow!("the collector ended a stream"))?,
                    Err(status) => self.lost(status.into())?,
                },
                order = orders.recv(), if has_room => match order {
                    Some(order) => self.ship(&shared, order).await?,
                    None => is_open = false,
                },
                () = tokio::time::sleep(ANSWER_TIME), if !self.owed.is_empty() => {
                    bail!("the collector stopped answering");
                }
            }
        }
        Ok(())
    }

    /// Sees to it that there is a stream, and that it carries what is owed.
    async fn mend(&mut self, shared: &Shared) -> anyhow::Result<()> {
        if let Some(pause) = self.pause
            && self.owed.iter().all(|owed| owed.is_refused)
        {
            tokio::time::sleep(pause).await;
            self.link = None;
        }
        if self.link.is_some() {
            return Ok(());
        }
        self.pause = None;
        if self.attempts > 0 {
            tokio::time::sleep(PAUSE * self.attempts).await;
        }
        match self.open(shared).await {
            Ok(link) => {
                self.link = Some(link);
                self.counts.streams += 1;
            }
            Err(error) => return self.lost(error),
        }
        if shared.sending.manners == Manners::Rude {
            self.owed.clear();
        }
        for at in 0..self.owed.len() {
            self.send(shared, at).await?;
        }
        Ok(())
    }

    /// The stream broke for this reason; too often in a row is for good.
    fn lost(&mut self, reason: anyhow::Error) -> anyhow::Result<()> {
        self.link = None;
        self.attempts += 1;
        match self.attempts {
            attempts if attempts > MAX_ATTEMPTS => Err(reason),
            _ => Ok(()),
        }
    }

    async fn open(&self, shared: &Shared) -> anyhow::Result<Link> {
        let (requests, receiver) = mpsc::channel(shared.sending.in_flight + 2);
        let hello = pb::Hello {
            protocol_version: PROTOCOL_VERSION,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.to_vec(),
            labels: Some(self.head.labels.clone()),
            ..pb::Hello::default()
        };
        requests.send(request(Sent::Hello(hello))).await?;
        let mut client = shared.client.clone();
        let greet = async {
            let mut responses = client
                .push(ReceiverStream::new(receiver))
                .await?
                .into_inner();
            let answer = responses.message().await?;
            Ok::<_, tonic::Status>((responses, answer))
        };
        let (responses, answer) = tokio::time::timeout(ANSWER_TIME, greet)
            .await
            .map_err(|_| anyhow!("the collector does not answer Hello"))?
            .context("the collector refused a stream")?;
        let Some(Answer::Hello(hello)) = answer.and_then(|answer| answer.body) else {
            bail!("the collector did not answer Hello with its own");
        };
        Ok(Link {
            requests,
            responses,
            words: StreamWords::new(),
            limits: WordLimits::told(hello.limits.as_ref()),
        })
    }

    async fn ship(&mut self, shared: &Shared, order: Order) -> anyhow::Result<()> {
        self.sequence += 1;
        self.owed.push_back(Owed {
            sequence: self.sequence,
            order,
            entries: Vec::new(),
            is_refused: false,
        });
        self.send(shared, self.owed.len() - 1).await
    }

    /// Puts owed batch number `at` on the stream.
    async fn send(&mut self, shared: &Shared, at: usize) -> anyhow::Result<()> {
        let (Some(link), Some(owed)) = (&mut self.link, self.owed.get_mut(at)) else {
            return Ok(());
        };
        self.head.duration_ns = owed.order.grain.length_ns;
        let body_zstd = {
            let mut bench = shared
                .workbench
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let bench = &mut *bench;
            let (body, entries) = link.words.body(
                &self.service.corpus,
                &self.service.lexicon,
                &self.head,
                &owed.order.slots(self.pod),
                link.limits,
                &mut bench.tally,
            );
            owed.entries = entries;
            owed.is_refused = false;
            bench.bytes.clear();
            body.encode(&mut bench.bytes)?;
            bench.packer.compress(&bench.bytes)?
        };
        if body_zstd.len() > MAX_BATCH_BYTES {
            bail!(
                "a batch of {} bytes is larger than any collector takes",
                body_zstd.len()
            );
        }
        self.counts.sent_bytes += u64::try_from(body_zstd.len()).unwrap_or(0);
        let batch = pb::Batch {
            instance: self.instance.to_vec(),
            sequence: owed.sequence,
            body_zstd,
        };
        // A stream that ended shows in the next answer.
        let _ended = link.requests.send(request(Sent::Batch(batch))).await;
        Ok(())
    }

    fn answered(&mut self, answer: pb::PushResponse, manners: Manners) -> anyhow::Result<()> {
        match answer.body {
            Some(Answer::Ack(ack)) => {
                self.acknowledged(&ack);
                Ok(())
            }
            Some(Answer::Refusal(refusal)) => self.refused(&refusal, manners),
            Some(Answer::Hello(_)) | None => bail!("the collector sent something unknown"),
        }
    }

    fn position(&self, sequence: u64) -> Option<usize> {
        self.owed.iter().position(|owed| owed.sequence == sequence)
    }

    fn acknowledged(&mut self, ack: &pb::Ack) {
        self.attempts = 0;
        let Some(owed) = self
            .position(ack.sequence)
            .and_then(|at| self.owed.remove(at))
        else {
            return;
        };
        if owed.order.is_timed {
            self.counts.ack_times.push(owed.order.due.elapsed());
        }
        self.counts.batches += 1;
        self.counts.duplicates += u64::from(ack.duplicate);
        for refused in &ack.refused {
            let code = refused.code().as_str_name();
            *self.counts.refused_windows.entry(code).or_default() += 1;
        }
        let is_kept = |window: u32| ack.refused.iter().all(|refused| refused.window != window);
        let before = self.acked.len();
        let kept = (0_u32..)
            .zip(owed.entries)
            .filter(|(window, _)| is_kept(*window));
        self.acked.extend(kept.map(|(_, entry)| entry));
        self.counts.windows += u64::try_from(self.acked.len() - before).unwrap_or(0);
    }

    fn refused(&mut self, refusal: &pb::Refusal, manners: Manners) -> anyhow::Result<()> {
        use pb::RefusalCode as Code;
        let code = refusal.code();
        *self
            .counts
            .refused_batches
            .entry(code.as_str_name())
            .or_default() += 1;
        let hint = Duration::from_millis(refusal.retry_after_millis).clamp(PAUSE, LONGEST_PAUSE);
        if code == Code::DictionaryReset {
            // The last word of its stream: nothing more is answered there.
            for owed in &mut self.owed {
                owed.is_refused = true;
            }
            self.pause = Some(hint);
            return Ok(());
        }
        let Some(at) = self.position(refusal.sequence) else {
            bail!(
                "the collector refused a stream: {} {}",
                code.as_str_name(),
                refusal.message
            );
        };
        let may_retry = match code {
            Code::Overloaded | Code::Unavailable => true,
            _ => refusal.retry_after_millis > 0,
        };
        match (manners, may_retry) {
            (Manners::Polite, true) => {
                if let Some(owed) = self.owed.get_mut(at) {
                    owed.is_refused = true;
                }
                self.pause = Some(self.pause.map_or(hint, |pause| pause.max(hint)));
            }
            (Manners::Polite, false) => {
                bail!(
                    "the collector refused a batch: {} {}",
                    code.as_str_name(),
                    refusal.message
                );
            }
            (Manners::Rude, _) => {
                self.owed.remove(at);
            }
        }
        Ok(())
    }
}
