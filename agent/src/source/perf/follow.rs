//! Opens and closes the events of one process's threads.
//!
//! A process has an event for each thread and CPU, which what it starts
//! inherits. Where those would be too many a thread has one event for all CPUs
//! and a ring of its own, and only some threads have one ([`super::subset`]).

use std::io;

use perf_event::Counter;
use rustc_hash::{FxHashMap, FxHashSet};

use super::events::{self, CpuRings, Request, Ring};
use super::processes::{Opened, Processes};
use super::record::Capture;
use super::subset::{self, MAX_READ, MAX_THREADS};
use super::worth::Worth;
use super::{PerfError, failure};
use crate::source::random::Random;
use crate::sys::period::set_period;
use crate::sys::redirect;

/// Most threads that begin between two draws and are sampled until the next.
const MAX_NEWCOMERS: usize = 28;

/// An event of a thread on a CPU; closing it ends it.
struct Followed {
    id: u64,
    counter: Counter,
}

/// An event of a thread on all CPUs, with a ring of its own.
struct Alone {
    id: u64,
    ring: Ring,
}

/// How a process is followed.
pub(super) struct Target {
    pid: i32,
    capture: Capture,
    followed: Vec<Followed>,
    alone: FxHashMap<i32, Alone>,
    /// Threads that have events.
    tids: FxHashSet<i32>,
    /// Whether its threads have events of their own, which nothing inherits.
    is_alone: bool,
    /// How many of them there will be.
    alone_count: usize,
    /// CPU time that each thread had used at the last draw; empty where there
    /// was none.
    drawn_at: FxHashMap<i32, u64>,
}

/// What it takes to open events.
pub(super) struct Opener<'a> {
    pub(super) rings: &'a CpuRings,
    pub(super) processes: &'a mut Processes,
    pub(super) random: &'a mut Random,
    pub(super) period_ns: u64,
    pub(super) max_events: usize,
    /// Whether samples within system calls are asked for.
    pub(super) with_kernel: &'a mut bool,
}

/// How opening an event for a thread went.
enum Outcome {
    Opened,
    /// The thread has ended.
    Gone,
    /// There is no room for more descriptors or rings: what is open goes on.
    Full,
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM))
}

/// CPU time that a thread has used; nothing if it is gone.
fn used_ns(pid: i32, tid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

impl Target {
    /// Returns one without events.
    pub(super) fn new(pid: i32, capture: Capture) -> Self {
        Self {
            pid,
            capture,
            followed: Vec::new(),
            alone: FxHashMap::default(),
            tids: FxHashSet::default(),
            is_alone: false,
            alone_count: 0,
            drawn_at: FxHashMap::default(),
        }
    }

    /// Whether any thread has an event.
    pub(super) fn is_followed(&self) -> bool {
        !self.tids.is_empty()
    }

    /// Whether what it starts has to be looked for.
    pub(super) fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// Identifiers of all its events.
    pub(super) fn ids(&self) -> FxHashSet<u64> {
        let followed = self.followed.iter().map(|followed| followed.id);
        followed
            .chain(self.alone.values().map(|alone| alone.id))
            .collect()
    }

    /// Rings of its own.
    pub(super) fn rings(&mut self) -> impl Iterator<Item = &mut Ring> {
        self.alone.values_mut().map(|alone| &mut alone.ring)
    }

    /// Closes events of threads that have ended; returns which they were.
    pub(super) fn close_ended(&mut self) -> FxHashSet<u64> {
        let mut closed = FxHashSet::default();
        self.alone.retain(|tid, alone| {
            if !alone.ring.waits {
                closed.insert(alone.id);
                self.tids.remove(tid);
            }
            alone.ring.waits
        });
        closed
    }

    /// Opens events for threads that have none and were not left out. Returns
    /// how many were new.
    pub(super) fn follow_new_threads(
        &mut self,
        opener: &mut Opener<'_>,
    ) -> Result<usize, PerfError> {
        let listed = self.threads()?;
        let is_new = |tid: &i32| !self.tids.contains(tid) && !self.drawn_at.contains_key(tid);
        let fresh: Vec<i32> = listed.into_iter().filter(is_new).collect();
        let threads = self.tids.len().saturating_add(fresh.len());
        self.is_alone |= threads.saturating_mul(opener.rings.cpus.len()) > opener.max_events;
        self.alone_count = threads.min(MAX_THREADS + MAX_NEWCOMERS);
        if self.is_alone && self.drawn_at.is_empty() && threads > MAX_THREADS {
            return self.redraw(opener);
        }
        let mut opened = 0;
        for tid in fresh {
            if self.is_alone && self.alone.len() >= MAX_THREADS + MAX_NEWCOMERS {
                break;
            }
            match self.open(tid, Worth::new(opener.period_ns), opener)? {
                Outcome::Opened => opened += 1,
                Outcome::Gone => {}
                Outcome::Full => break,
            }
        }
        Ok(opened)
    }

    /// Draws anew which threads are sampled, where not all are. Returns how
    /// many have new events.
    pub(super) fn redraw(&mut self, opener: &mut Opener<'_>) -> Result<usize, PerfError> {
        let listed = self.threads()?;
        let is_drawn = !self.drawn_at.is_empty();
        if !self.is_alone || (!is_drawn && listed.len() <= MAX_THREADS) {
            return Ok(0);
        }
        let can_read = listed.len() <= MAX_READ;
        let before = std::mem::take(&mut self.drawn_at);
        let mut used = Vec::with_capacity(listed.len());
        for tid in listed {
            let now = match can_read {
                true => used_ns(self.pid, tid),
                false => None,
            };
            self.drawn_at.insert(tid, now.unwrap_or(0));
            let since = before.get(&tid).copied().or(is_drawn.then_some(0));
            let since = now.zip(since).map(|(now, since)| now.saturating_sub(since));
            used.push((tid, since));
        }
        let drawn = subset::draw(&used, opener.random);
        let mut closed = FxHashSet::default();
        self.alone.retain(|tid, alone| {
            let share = drawn.get(tid);
            match share {
                Some(share) => opener.processes.changed_share(alone.id, *share),
                None => {
                    opener.processes.counted(alone.id, alone.ring.counted_ns());
                    closed.insert(alone.id);
                    self.tids.remove(tid);
                }
            }
            share.is_some()
        });
        opener.processes.closed(&closed);
        let mut opened = 0;
        for (tid, share) in drawn {
            if self.tids.contains(&tid) {
                continue;
            }
            let worth = Worth::with_share(opener.period_ns, share);
            match self.open(tid, worth, opener)? {
                Outcome::Opened => opened += 1,
                Outcome::Gone => {}
                Outcome::Full => break,
            }
        }
        Ok(opened)
    }

    /// Changes the period of all its events.
    pub(super) fn set_period(&mut self, period_ns: u64, processes: &mut Processes) {
        let followed = self.followed.iter();
        let followed = followed.map(|event| (event.id, redirect::descriptor(&event.counter)));
        let alone = self.alone.values();
        let alone = alone.map(|event| (event.id, event.ring.descriptor()));
        for (id, descriptor) in followed.chain(alone) {
            match set_period(descriptor, period_ns) {
                Ok(()) => processes.changed_period(id, period_ns),
                Err(error) => tracing::debug!(pid = self.pid, %error, "period not changed"),
            }
        }
    }

    fn threads(&self) -> Result<Vec<i32>, PerfError> {
        events::threads(self.pid).map_err(|source| failure(self.pid, "list threads of", source))
    }

    fn open(
        &mut self,
        tid: i32,
        worth: Worth,
        opener: &mut Opener<'_>,
    ) -> Result<Outcome, PerfError> {
        let (period_ns, capture) = (opener.period_ns, self.capture);
        let request = |with_kernel| Request {
            tid,
            period_ns,
            capture,
            with_kernel,
        };
        let mut outcome = self.open_as(request(*opener.with_kernel), worth, opener);
        if *opener.with_kernel && outcome.as_ref().is_err_and(is_refusal) {
            outcome = self.open_as(request(false), worth, opener);
            // So it is for all of them.
            *opener.with_kernel = outcome.is_err();
        }
        let error = match outcome {
            Ok(()) => {
                self.tids.insert(tid);
                return Ok(Outcome::Opened);
            }
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::ESRCH) => Ok(Outcome::Gone),
            Some(libc::EMFILE | libc::ENFILE | libc::EPERM | libc::ENOMEM | libc::EAGAIN)
                if !self.tids.is_empty() =>
            {
                tracing::warn!(
                    pid = self.pid,
                    sampled = self.tids.len(),
                    %error,
                    "no room for more perf events: some threads are not sampled"
                );
                Ok(Outcome::Full)
            }
            _ => Err(failure(self.pid, "sample", error)),
        }
    }

    fn open_as(
        &mut self,
        request: Request,
        worth: Worth,
        opener: &mut Opener<'_>,
    ) -> io::Result<()> {
        let event = Opened {
            tid: request.tid,
            capture: request.capture,
            worth,
        };
        if self.is_alone {
            let (id, ring) = request.open_alone(self.alone_count)?;
            opener.processes.opened(id, event);
            self.alone.insert(request.tid, Alone { id, ring });
            return Ok(());
        }
        let mut opened = Vec::with_capacity(opener.rings.cpus.len());
        for (cpu, ring) in opener.rings.cpus.iter().zip(&opener.rings.rings) {
            let counter = request.open_on_cpu(*cpu, ring)?;
            let id = counter.id();
            opened.push(Followed { id, counter });
        }
        for followed in opened {
            opener.processes.opened(followed.id, event);
            self.followed.push(followed);
        }
        Ok(())
    }
}
