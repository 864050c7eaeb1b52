//! What is known of the processes being sampled, and what their samples become.
//!
//! Promises: a thread is counted once although several events may follow it;
//! samples of a process that is gone by the time they are read are unwound
//! with what was known of it. Leaves to others: opening events
//! ([`super::events`]) and names ([`super::picture`]).

use std::time::{Duration, Instant};

use rustc_hash::{FxHashMap, FxHashSet};

use super::record::{self, Capture, Record, Sample, Stack};
use super::tally::Tally;
use super::worth::{Share, Worth, in_periods};
use crate::source::random::Random;
use crate::symbolize::binary::Binaries;
use crate::symbolize::perf_map::PerfMap;
use crate::unwind::{AddressSpace, End, MAX_ADDRESSES, Place, UnwindCache};

/// Shortest time between two looks at what a process has mapped.
const REFRESH_EVERY: Duration = Duration::from_millis(200);
/// Most processes of which something is kept.
const MAX_PROCESSES: usize = 4096;
/// Most threads without an event of their own whose event is remembered.
const MAX_ADOPTED: usize = 64 * 1024;

/// Addresses from here on are the kernel's.
const FIRST_KERNEL_ADDRESS: u64 = 1 << 63;

fn is_user(address: u64) -> bool {
    address < FIRST_KERNEL_ADDRESS
}

/// An event that is open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    pub(super) tid: i32,
    pub(super) capture: Capture,
    pub(super) worth: Worth,
}

/// One process as far as its samples need it.
pub(super) struct Process {
    pub(super) space: AddressSpace,
    pub(super) perf_map: PerfMap,
    stale: bool,
    refreshed: Option<Instant>,
    exited: bool,
    sampled: bool,
}

impl Process {
    fn new(space: AddressSpace) -> Self {
        Self {
            space,
            perf_map: PerfMap::default(),
            stale: true,
            refreshed: None,
            exited: false,
            sampled: false,
        }
    }

    fn make_current(&mut self, pid: i32, ip: u64, binaries: &mut Binaries, now: Instant) {
        let due = self.stale || !self.space.knows(ip);
        let rested = self
            .refreshed
            .is_none_or(|last| now.saturating_duration_since(last) >= REFRESH_EVERY);
        if due && rested {
            self.refreshed = Some(now);
            self.stale = false;
            if let Err(error) = self.space.refresh(binaries) {
                tracing::debug!(pid, %error, "cannot read what a process has mapped");
            }
        }
    }
}

/// Everything that records tell.
pub(super) struct Processes {
    /// CPU time that what is counted is counted in.
    period_ns: u64,
    /// CPU time of events that were closed and for which no sample stood; the
    /// next ones do, each for as much as for itself.
    rest_ns: u64,
    random: Random,
    events: FxHashMap<u64, Opened>,
    /// Threads with events of their own, and how many.
    own: FxHashMap<i32, usize>,
    /// The one event that counts for a thread without its own, per CPU.
    adopted: FxHashMap<(i32, u32), u64>,
    known: FxHashMap<i32, Process>,
    /// Processes that inherited their events, and from which.
    inherited: FxHashMap<i32, i32>,
    /// Processes that are no longer wanted but inherited an event.
    ignored: FxHashSet<i32>,
    executed: Vec<i32>,
    pub(super) binaries: Binaries,
    cache: UnwindCache,
    tally: Tally,
    lost: u64,
    addresses: Vec<u64>,
    chain_limit: usize,
}

impl Processes {
    /// Stacks followed by the kernel end at `chain_limit` calls; what is
    /// counted is counted in periods of `period_ns`.
    pub(super) fn new(chain_limit: usize, period_ns: u64) -> Self {
        Self {
            period_ns,
            rest_ns: 0,
            random: Random::new(),
            events: FxHashMap::default(),
            own: FxHashMap::default(),
            adopted: FxHashMap::default(),
            known: FxHashMap::default(),
            inherited: FxHashMap::default(),
            ignored: FxHashSet::default(),
            executed: Vec::new(),
            binaries: Binaries::default(),
            cache: UnwindCache::default(),
            tally: Tally::default(),
            lost: 0,
            addresses: Vec::new(),
            chain_limit,
        }
    }

    /// From now on counts in periods of `period_ns`. Nothing may be counted
    /// that was not taken.
    pub(super) fn count_in(&mut self, period_ns: u64) {
        self.period_ns = period_ns;
    }

    /// Event `id` has this period from now on.
    pub(super) fn changed_period(&mut self, id: u64, period_ns: u64) {
        if let Some(event) = self.events.get_mut(&id) {
            event.worth.set_period(period_ns);
        }
    }

    /// Event `id`, which is about to be closed, counted `counted_ns` in all.
    pub(super) fn counted(&mut self, id: u64, counted_ns: u64) {
        if let Some(event) = self.events.get(&id) {
            self.rest_ns = self.rest_ns.saturating_add(event.worth.rest(counted_ns));
        }
    }

    /// Event `id` stands for this share of threads from now on.
    pub(super) fn changed_share(&mut self, id: u64, share: Share) {
        if let Some(event) = self.events.get_mut(&id) {
            event.worth.set_share(share);
        }
    }

    /// An event was opened.
    pub(super) fn opened(&mut self, id: u64, event: Opened) {
        self.events.insert(id, event);
        *self.own.entry(event.tid).or_default() += 1;
    }

    /// The events `ids` were closed.
    pub(super) fn closed(&mut self, ids: &FxHashSet<u64>) {
        if ids.is_empty() {
            return;
        }
        for id in ids {
            if let Some(event) = self.events.remove(id)
                && let Some(count) = self.own.get_mut(&event.tid)
            {
                *count -= 1;
                if *count == 0 {
                    self.own.remove(&event.tid);
                }
            }
        }
        self.adopted.retain(|_, event| !ids.contains(event));
    }

    /// Process `pid` is wanted.
    pub(super) fn want(&mut self, pid: i32) {
        self.ignored.remove(&pid);
    }

    /// Process `pid` is not wanted any more.
    pub(super) fn ignore(&mut self, pid: i32) {
        if self.inherited.contains_key(&pid) && self.ignored.len() < MAX_PROCESSES {
            self.ignored.insert(pid);
        }
    }

    /// The process whose events `pid` inherited.
    pub(super) fn inherited_from(&self, pid: i32) -> Option<i32> {
        self.inherited.get(&pid).copied()
    }

    /// Whether `pid` inherited its events from `ancestor`, or from one that
    /// did.
    pub(super) fn descends(&self, pid: i32, ancestor: i32) -> bool {
        let parents = std::iter::successors(self.inherited_from(pid), |parent| {
            self.inherited_from(*parent)
        });
        // Ids are used again: a chain of them may lead back to itself.
        parents.take(MAX_PROCESSES).any(|parent| parent == ancestor)
    }

    /// `pid` has events of its own now, or its parent's are gone.
    pub(super) fn stands_alone(&mut self, pid: i32) {
        self.inherited.remove(&pid);
    }

    /// Processes that began to run another program since the last call.
    pub(super) fn take_executed(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.executed)
    }

    /// How event `id` captures, if it is open.
    fn capture_of(&self, id: u64) -> Option<Capture> {
        self.events.get(&id).map(|event| event.capture)
    }

    /// Reads what process `pid` has mapped, so that it is known even when the
    /// process ends soon.
    pub(super) fn prepare(&mut self, pid: i32, now: Instant) {
        if let Some(process) = self.process(pid) {
            process.stale = true;
        }
        let Self {
            known, binaries, ..
        } = self;
        if let Some(process) = known.get_mut(&pid) {
            process.make_current(pid, 0, binaries, now);
        }
    }

    fn process(&mut self, pid: i32) -> Option<&mut Process> {
        if !self.known.contains_key(&pid) {
            if self.known.len() >= MAX_PROCESSES {
                self.known.retain(|_, process| !process.exited);
            }
            if self.known.len() >= MAX_PROCESSES {
                return None;
            }
        }
        let process = self
            .known
            .entry(pid)
            .or_insert_with(|| Process::new(AddressSpace::empty(pid)));
        Some(process)
    }

    /// Takes in one record of a ring.
    pub(super) fn take(&mut self, kind: u32, misc: u16, body: &[u8], now: Instant) {
        match record::parse(kind, misc, body, |id| self.capture_of(id)) {
            Ok(Record::Sample(sample)) => self.sample(&sample, now),
            Ok(Record::Mapped { pid }) => {
                if let Some(process) = self.known.get_mut(&pid) {
                    process.stale = true;
                }
            }
            Ok(Record::Executed { pid }) => self.executed(pid),
            Ok(Record::Forked { pid, parent }) => self.forked(pid, parent),
            Ok(Record::Exited { pid, tid }) => self.exited(pid, tid),
            Ok(Record::Lost { count }) => self.lost = self.lost.saturating_add(count),
            Ok(Record::Other) => {}
            Err(record::ShortRecord) => self.lost = self.lost.saturating_add(1),
        }
    }

    fn executed(&mut self, pid: i32) {
        self.known.remove(&pid);
        if self.executed.len() < MAX_PROCESSES {
            self.executed.push(pid);
        }
    }

    fn forked(&mut self, pid: i32, parent: i32) {
        if pid == parent || pid <= 0 {
            return;
        }
        if self.inherited.len() < MAX_PROCESSES {
            self.inherited.insert(pid, parent);
        }
        // A child that is gone before it is looked at is like its parent.
        if let Some(parent) = self.known.get(&parent)
            && self.known.len() < MAX_PROCESSES
        {
            let space = parent.space.forked(pid);
            self.known.insert(pid, Process::new(space));
        }
    }

    fn exited(&mut self, pid: i32, tid: i32) {
        self.own.remove(&tid);
        if pid == tid {
            self.inherited.remove(&pid);
            self.ignored.remove(&pid);
            if let Some(process) = self.known.get_mut(&pid) {
                process.exited = true;
            }
        }
    }

    /// Whether this is the event that counts for the sample's thread.
    fn counts(&mut self, sample: &Sample<'_>) -> bool {
        let opened_on = self.events.get(&sample.event).map(|event| event.tid);
        if opened_on == Some(sample.tid) {
            return true;
        }
        if self.own.contains_key(&sample.tid) || self.ignored.contains(&sample.pid) {
            return false;
        }
        if self.adopted.len() >= MAX_ADOPTED {
            self.adopted.clear();
        }
        let chosen = self
            .adopted
            .entry((sample.tid, sample.cpu))
            .or_insert(sample.event);
        *chosen == sample.event
    }

    /// How many periods a sample stands for.
    fn worth(&mut self, sample: &Sample<'_>) -> u64 {
        let Some(event) = self.events.get_mut(&sample.event) else {
            return 0;
        };
        let ns = match sample.stream == sample.event {
            true => event.worth.take(),
            false => event.worth.of_inherited(sample.period_ns),
        };
        let more = self.rest_ns.min(ns);
        self.rest_ns -= more;
        let ns = ns.saturating_add(more);
        in_periods(ns, self.period_ns, &mut self.random)
    }

    fn sample(&mut self, sample: &Sample<'_>, now: Instant) {
        if !self.counts(sample) {
            return;
        }
        let periods = self.worth(sample);
        // Others stand for it: it need not be unwound.
        if periods == 0 {
            return;
        }
        if sample.pid <= 0 || self.process(sample.pid).is_none() {
            self.lost = self.lost.saturating_add(periods);
            return;
        }
        let Self {
            known,
            binaries,
            cache,
            tally,
            addresses,
            chain_limit,
            ..
        } = self;
        let Some(process) = known.get_mut(&sample.pid) else {
            return;
        };
        process.sampled = true;
        addresses.clear();
        if let Stack::Chain(chain) = sample.stack {
            record::user_chain(chain, addresses);
        }
        // In a system call the instruction is the kernel's.
        let ip = match sample.stack {
            Stack::Dump { registers, .. } => Some(registers.ip()),
            Stack::Chain(_) => addresses.first().copied(),
            Stack::None => None,
        };
        let ip = ip.into_iter().chain([sample.ip]).find(|ip| is_user(*ip));
        let Some(ip) = ip else {
            tally.add(std::iter::once(Place::Kernel), End::Bottom, periods);
            return;
        };
        process.make_current(sample.pid, ip, binaries, now);
        let end = match sample.stack {
            Stack::Chain(_) => {
                addresses.truncate(MAX_ADDRESSES);
                if addresses.len() >= *chain_limit {
                    End::Cut
                } else {
                    End::Unsure
                }
            }
            Stack::Dump { registers, bytes } => {
                process.space.unwind(cache, registers, bytes, addresses)
            }
            Stack::None => End::Cut,
        };
        addresses.retain(|address| is_user(*address));
        if addresses.is_empty() {
            addresses.push(ip);
        }
        let places = addresses
            .iter()
            .map(|address| process.space.place(*address));
        tally.add(places, end, periods);
    }

    /// Returns what was counted since the last call and how many samples were
    /// lost.
    pub(super) fn take_tally(&mut self) -> (Tally, u64) {
        let tally = std::mem::take(&mut self.tally);
        let lost = std::mem::take(&mut self.lost).saturating_add(tally.overflowed);
        (tally, lost)
    }

    /// What is known of process `pid`.
    pub(super) fn known(&mut self, pid: i32) -> Option<&mut Process> {
        self.known.get_mut(&pid)
    }

    /// Forgets processes that ended and files that nobody has mapped. Returns
    /// whether files were closed.
    pub(super) fn end_round(&mut self) -> bool {
        self.known
            .retain(|_, process| !process.exited || std::mem::take(&mut process.sampled));
        self.adopted.clear();
        self.binaries.end_round()
    }
}
