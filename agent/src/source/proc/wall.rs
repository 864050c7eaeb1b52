//! What threads wait for: each is looked at some times a second, and what it
//! was found doing stands for the time since the look before.
//!
//! The target is not stopped. States need no permission; the system call that a
//! thread waits in is told only to who may trace it and read its files: to the
//! same user, or with `SYS_PTRACE` and `DAC_READ_SEARCH`.
//!
//! While no thread of a process has run, none can have begun to wait for
//! something else, so an idle process costs one system call per look. Of a
//! process with many threads each look is at some of them, in an order that is
//! drawn anew once all had their turn, and each stands for its part of all.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::profile::Column;
use proto::stack::{Frame, FrameKind, Stack};
use proto::value_type::{ProfileType, Temporality};
use proto::window::Window;
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_64;

use super::cpu::synthetic;
use super::files::{self, Buffer, Files, Kept};
use super::ledger::OTHER;
use super::parse::{self, State, Syscall};
use super::syscalls;
use crate::source::pace::Pace;
use crate::source::random::Random;
use crate::source::{Collected, CpuSampler, PROC, SampleGroup, SamplerError};
use crate::sys::clock::CpuClock;
use crate::target::process;

/// Time between two listings of a process's threads.
const LIST_EVERY: Duration = Duration::from_secs(1);
/// A thread's name is read again at the 1st, 2nd, 4th … listing, and every time
/// after this many.
const MAX_LISTS_BETWEEN_NAMES: u32 = 64;
/// Most different stacks of a window.
const MAX_STACKS: usize = 4096;
/// Where an ELF file says that its addresses have 64 bits, and how.
const ELF_CLASS_AT: usize = 4;
const ELF_CLASS_64: u8 = 2;

/// How to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallOptions {
    /// Looks per second.
    pub looks_hz: u32,
    /// Threads of a process that are looked at each time.
    pub max_threads: usize,
    /// Most CPU time that looks may take, in thousandths of a core; beyond it
    /// they become rarer.
    pub max_cost_permille: u32,
}

impl Default for WallOptions {
    fn default() -> Self {
        Self {
            looks_hz: 10,
            max_threads: 100,
            max_cost_permille: 5,
        }
    }
}

/// What a thread waits in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Site {
    Unknown,
    /// The system call of this number.
    Syscall(i64),
    /// This function of the kernel.
    Kernel(Arc<str>),
}

/// What a thread was found doing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Doing {
    state: State,
    site: Site,
}

impl Doing {
    const fn only(state: State) -> Self {
        Self {
            state,
            site: Site::Unknown,
        }
    }

    fn frames(&self) -> Vec<Frame> {
        let site = match &self.site {
            Site::Unknown => None,
            Site::Syscall(number) => Some(match syscalls::name(*number) {
                Some(name) => synthetic(name),
                None => synthetic(&format!("syscall {number}")),
            }),
            Site::Kernel(function) => Some(Frame::named(FrameKind::Kernel, function)),
        };
        let state = synthetic(self.state.frame());
        site.into_iter().chain([state]).collect()
    }
}

/// What a sample is counted under.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    process: Arc<str>,
    kind: Arc<str>,
    doing: Doing,
}

#[derive(Debug)]
struct Thread {
    tid: i32,
    kind: Arc<str>,
    syscall: Kept,
    stat: Kept,
    /// What it did, and what that was told by.
    doing: Option<Doing>,
    told_by: u64,
    /// The process's round in which it did.
    round: u64,
    /// Listings it was in, at which its name is read again, and what it did
    /// when it was read.
    lists: u32,
    name_at: u32,
    named_while: u64,
}

impl Thread {
    /// What it does, if it cannot have run since that was read.
    fn known(&self, round: u64) -> Option<&Doing> {
        self.doing
            .as_ref()
            .filter(|doing| self.round == round && doing.state != State::Running)
    }

    /// Whether its name is to be read. It may be given one right after it was
    /// started; later it would have to run to change it.
    fn is_name_due(&self) -> bool {
        let may_have_run = self.told_by == 0 || self.told_by != self.named_while;
        self.lists >= self.name_at && (self.lists < 2 || may_have_run)
    }
}

/// From what the states of threads are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// `syscall`, and the rest when that changed.
    Syscall,
    /// `stat`, because the former may not be read.
    Stat,
}

#[derive(Debug)]
struct Process {
    name: Arc<str>,
    clock: CpuClock,
    used: Option<Duration>,
    /// Goes up whenever the process has used CPU.
    round: u64,
    reads: Reads,
    /// Whether numbers of system calls mean what they do to us.
    has_our_calls: bool,
    threads: Vec<Thread>,
    /// The order of looks at threads, and whose turn it is.
    order: Vec<usize>,
    turn: usize,
    listed: Option<(Instant, u64)>,
    looked: Instant,
}

/// Looks at the threads of a set of processes.
#[derive(Debug)]
pub struct WallSampler {
    options: WallOptions,
    processes: FxHashMap<i32, Process>,
    files: Files,
    random: Random,
    sums: FxHashMap<Key, u64>,
    samples: u64,
    pace: Pace,
    divisor: u32,
    next_look: Instant,
    began: Option<Instant>,
}

impl WallSampler {
    /// Returns a sampler of no process.
    pub fn new(options: WallOptions) -> Self {
        let now = Instant::now();
        let shortest = Duration::from_secs(1) / options.looks_hz.max(1);
        Self {
            options,
            processes: FxHashMap::default(),
            files: Files::new(),
            random: Random::new(),
            sums: FxHashMap::default(),
            samples: 0,
            pace: Pace::new(shortest, options.max_cost_permille, now),
            divisor: 1,
            next_look: now,
            began: Some(now),
        }
    }

    /// Whether there is a process to look at.
    pub fn has_processes(&self) -> bool {
        !self.processes.is_empty()
    }

    /// When to look next.
    pub fn next_look(&self) -> Instant {
        self.next_look
    }

    /// Looks at all processes, if it is time to.
    pub fn look(&mut self, now: Instant) {
        if now >= self.next_look {
            self.look_now(now);
        }
    }

    fn look_now(&mut self, now: Instant) {
        self.pace.begin(now);
        let thread = CpuClock::of_this_thread();
        let before = thread.read().unwrap_or_default();
        for (pid, process) in &mut self.processes {
            let round = Round {
                pid: *pid,
                now,
                max_threads: self.options.max_threads.max(1),
                files: &self.files,
            };
            let found = process.look(&round, &mut self.random);
            self.samples = self.samples.saturating_add(found.samples);
            for (kind, doing, weight_ns) in found.seen {
                add(&mut self.sums, &process.name, kind, doing, weight_ns);
            }
        }
        let after = thread.read().unwrap_or_default();
        self.pace.learn(after.saturating_sub(before));
        let interval = self.pace.plan();
        // Looks must not keep step with what the target does.
        let jitter = u32::try_from(self.random.below(1000)).unwrap_or(0);
        self.next_look = now + interval * 3 / 4 + interval * jitter / 2000;
    }
}

fn add(
    sums: &mut FxHashMap<Key, u64>,
    process: &Arc<str>,
    kind: Arc<str>,
    doing: Doing,
    weight_ns: u64,
) {
    let mut key = Key {
        process: Arc::clone(process),
        kind,
        doing,
    };
    if sums.len() >= MAX_STACKS && !sums.contains_key(&key) {
        key.kind = Arc::from(OTHER);
        key.doing.site = Site::Unknown;
    }
    let sum = sums.entry(key).or_default();
    *sum = sum.saturating_add(weight_ns);
}

/// One look at one process.
struct Round<'a> {
    pid: i32,
    now: Instant,
    max_threads: usize,
    files: &'a Files,
}

/// What a look found.
#[derive(Debug, Default)]
struct Found {
    seen: Vec<(Arc<str>, Doing, u64)>,
    samples: u64,
}

fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

/// The part of `ns` that each of `looked` threads stands for, of `all`.
fn weight_ns(ns: u64, all: usize, looked: usize) -> u64 {
    let wide = |count: usize| u128::try_from(count).unwrap_or(u128::MAX);
    let scaled = u128::from(ns).saturating_mul(wide(all));
    let each = scaled.checked_div(wide(looked)).unwrap_or(0);
    u64::try_from(each).unwrap_or(u64::MAX)
}

fn read_kind(pid: i32, tid: i32, buffer: &mut Buffer) -> Option<Arc<str>> {
    let read = buffer.read_once(&format!("/proc/{pid}/task/{tid}/comm"));
    read.ok().map(|bytes| Arc::from(parse::comm(bytes)))
}

/// Whether process `pid` makes system calls by the numbers that we do: not if
/// its program is of 32 bits.
fn has_our_calls(pid: i32) -> bool {
    let mut buffer = Buffer::new();
    match buffer.read_once(&format!("/proc/{pid}/exe")) {
        Ok(header) => header.get(ELF_CLASS_AT) == Some(&ELF_CLASS_64),
        // Where that may not be read, neither may system calls.
        Err(_) => true,
    }
}

impl Process {
    fn new(pid: i32, now: Instant) -> io::Result<Self> {
        let clock = CpuClock::of_process(pid)?;
        Ok(Self {
            name: Arc::from(process::name(pid)),
            clock,
            used: None,
            round: 0,
            reads: Reads::Syscall,
            has_our_calls: has_our_calls(pid),
            threads: Vec::new(),
            order: Vec::new(),
            turn: 0,
            listed: None,
            looked: now,
        })
    }

    fn look(&mut self, round: &Round<'_>, random: &mut Random) -> Found {
        let Ok(used) = self.clock.read() else {
            return Found::default();
        };
        let since = nanos(round.now.saturating_duration_since(self.looked));
        self.looked = round.now;
        if self.used != Some(used) {
            self.used = Some(used);
            self.round += 1;
        }
        // Nobody starts a thread without running.
        let is_listed = self.listed.is_some_and(|(at, in_round)| {
            in_round == self.round || round.now.saturating_duration_since(at) < LIST_EVERY
        });
        if !is_listed && self.list(round, random).is_err() {
            return Found::default();
        }
        let all = self.threads.len();
        let now_round = self.round;
        if self.threads.iter().all(|t| t.known(now_round).is_some()) {
            let known = self.threads.iter().filter_map(|thread| {
                let doing = thread.known(now_round)?.clone();
                Some((Arc::clone(&thread.kind), doing, since))
            });
            let seen: Vec<_> = known.collect();
            let samples = u64::try_from(seen.len()).unwrap_or(u64::MAX);
            return Found { seen, samples };
        }
        let looked = all.min(round.max_threads);
        let weight = weight_ns(since, all, looked);
        let mut buffer = Buffer::new();
        let mut found = Found::default();
        for _ in 0..looked {
            let Some(index) = self.next_turn(random) else {
                break;
            };
            if let Some(doing) = self.read(round, index, &mut buffer)
                && let Some(thread) = self.threads.get(index)
            {
                found.samples += 1;
                found.seen.push((Arc::clone(&thread.kind), doing, weight));
            }
        }
        found
    }

    fn next_turn(&mut self, random: &mut Random) -> Option<usize> {
        if self.turn >= self.order.len() {
            self.turn = 0;
            random.shuffle(&mut self.order);
        }
        let index = self.order.get(self.turn).copied();
        self.turn += 1;
        index
    }

    /// Takes in threads that began and forgets those that ended.
    fn list(&mut self, round: &Round<'_>, random: &mut Random) -> io::Result<()> {
        let listed = files::threads(round.pid)?;
        let known = std::mem::take(&mut self.threads);
        let mut known: FxHashMap<i32, Thread> = known.into_iter().map(|t| (t.tid, t)).collect();
        let mut buffer = Buffer::new();
        for tid in listed {
            let known = known.remove(&tid);
            let mut thread = known.unwrap_or_else(|| Thread {
                tid,
                kind: Arc::from(OTHER),
                syscall: Kept::default(),
                stat: Kept::default(),
                doing: None,
                told_by: 0,
                round: 0,
                lists: 0,
                name_at: 0,
                named_while: 0,
            });
            if thread.is_name_due() {
                thread.named_while = thread.told_by;
                thread.name_at += thread.lists.clamp(1, MAX_LISTS_BETWEEN_NAMES);
                if let Some(kind) = read_kind(round.pid, tid, &mut buffer) {
                    // A program that becomes another one has another name.
                    if tid == round.pid && kind != thread.kind {
                        self.name = Arc::from(process::name(tid));
                    }
                    thread.kind = kind;
                }
            }
            thread.lists += 1;
            self.threads.push(thread);
        }
        if self.order.len() != self.threads.len() {
            self.order = (0..self.threads.len()).collect();
            random.shuffle(&mut self.order);
            self.turn = 0;
        }
        self.listed = Some((round.now, self.round));
        // It may be another program by now, or another user's.
        self.reads = Reads::Syscall;
        Ok(())
    }

    /// What the thread at `index` does; nothing if it is gone.
    fn read(&mut self, round: &Round<'_>, index: usize, buffer: &mut Buffer) -> Option<Doing> {
        let Self {
            threads,
            reads,
            round: now_round,
            has_our_calls,
            ..
        } = self;
        let thread = threads.get_mut(index)?;
        if let Some(doing) = thread.known(*now_round) {
            return Some(doing.clone());
        }
        let (pid, tid) = (round.pid, thread.tid);
        let path = |file: &str| format!("/proc/{pid}/task/{tid}/{file}");
        if *reads == Reads::Syscall {
            let read = buffer.read_kept(|| path("syscall"), &mut thread.syscall, round.files);
            match read {
                Ok(bytes) => {
                    let told_by = xxh3_64(bytes);
                    let is_same = thread.told_by == told_by;
                    if !is_same {
                        let call = parse::syscall(bytes)?;
                        let found = doing(call, *has_our_calls, path, buffer)?;
                        // One that went on while it was read tells nothing of
                        // the next that reads the same.
                        let is_whole = call == Syscall::Running || found.state != State::Running;
                        thread.told_by = if is_whole { told_by } else { 0 };
                        thread.doing = Some(found);
                    }
                    thread.round = *now_round;
                    return thread.doing.clone();
                }
                Err(error) if is_refusal(&error) => *reads = Reads::Stat,
                Err(_) => return None,
            }
        }
        let read = buffer.read_kept(|| path("stat"), &mut thread.stat, round.files);
        let read = read.ok()?;
        let found = Doing::only(parse::stat(read)?.state);
        thread.doing = Some(found.clone());
        thread.round = *now_round;
        (found.state != State::Dead).then_some(found)
    }
}

fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// What a thread does that `syscall` says this of.
fn doing(
    call: Syscall,
    has_our_calls: bool,
    path: impl Fn(&str) -> String,
    buffer: &mut Buffer,
) -> Option<Doing> {
    let number = match call {
        Syscall::Running => return Some(Doing::only(State::Running)),
        Syscall::Within(number) => Some(number).filter(|_| has_our_calls),
        Syscall::Outside => None,
    };
    let state = parse::stat(buffer.read_once(&path("stat")).ok()?)?.state;
    let site = match (state, number) {
        (State::Dead, _) => return None,
        // It went on meanwhile.
        (State::Running, _) => Site::Unknown,
        (_, Some(number)) => Site::Syscall(number),
        (_, None) => {
            let read = buffer.read_once(&path("wchan")).unwrap_or_default();
            parse::wchan(read).map_or(Site::Unknown, |name| Site::Kernel(Arc::from(name)))
        }
    };
    Some(Doing { state, site })
}

impl CpuSampler for WallSampler {
    fn add_process(&mut self, pid: i32) -> Result<(), SamplerError> {
        self.processes.remove(&pid);
        let process = Process::new(pid, Instant::now())?;
        self.processes.insert(pid, process);
        Ok(())
    }

    fn remove_process(&mut self, pid: i32) {
        self.processes.remove(&pid);
    }

    fn poll(&mut self, timeout: Duration) -> Result<(), SamplerError> {
        let deadline = Instant::now() + timeout;
        loop {
            let now = Instant::now();
            self.look(now);
            if now >= deadline {
                return Ok(());
            }
            let until = deadline.min(self.next_look);
            std::thread::sleep(until.saturating_duration_since(now));
        }
    }

    fn collect(&mut self, window: Window) -> Collected {
        // What passed since the last look is of this window, too.
        if !self.processes.is_empty() {
            self.look_now(Instant::now());
        }
        let mut sums: Vec<(Key, u64)> = self.sums.drain().filter(|(_, ns)| *ns > 0).collect();
        sums.sort_unstable_by(|(a, more), (b, most)| most.cmp(more).then_with(|| a.cmp(b)));
        let (stacks, values): (Vec<Stack>, Vec<i64>) = sums
            .into_iter()
            .map(|(key, ns)| {
                let mut frames = key.doing.frames();
                frames.extend([synthetic(&key.kind), synthetic(&key.process)]);
                (Stack::from(frames), i64::try_from(ns).unwrap_or(i64::MAX))
            })
            .unzip();
        let column = Column {
            profile_type: ProfileType::wall(),
            temporality: Temporality::Delta,
            period: i64::from(self.divisor) * 1_000_000_000
                / i64::from(self.options.looks_hz.max(1)),
            // Looks stand for times of their own.
            weight: 1,
            values,
        };
        Collected {
            window,
            observed_ns: self.began.take().map_or(0, |began| nanos(began.elapsed())),
            lost_samples: 0,
            dropped_labels: 0,
            samples_count: std::mem::take(&mut self.samples),
            groups: vec![SampleGroup {
                labels: Vec::new(),
                stacks,
                columns: vec![column],
            }],
        }
    }

    fn has_targets(&self) -> bool {
        self.processes
            .values()
            .any(|process| process.clock.read().is_ok())
    }

    fn misses_some(&self) -> bool {
        false
    }

    fn source(&self) -> &'static str {
        PROC
    }

    fn set_divisor(&mut self, divisor: u32) {
        self.divisor = divisor.max(1);
        self.pace.set_divisor(self.divisor);
    }

    fn forget(&mut self) {}
}

/// What may be read of the threads of process `pid`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readable {
    /// Why states may not; nothing if they may.
    pub states_refusal: Option<String>,
    /// Why system calls may not; nothing if they may.
    pub syscalls_refusal: Option<String>,
}

/// Asks what may be read of process `pid`.
pub fn probe(pid: i32) -> Readable {
    let mut buffer = Buffer::new();
    let mut refusal = |file: &str| {
        let read = buffer.read_once(&format!("/proc/{pid}/task/{pid}/{file}"));
        read.err().map(|error| error.to_string())
    };
    Readable {
        states_refusal: refusal("stat"),
        syscalls_refusal: refusal("syscall"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_look_stands_for_its_part_of_all_threads() {
        for (ns, all, looked, expected) in [
            (100, 4, 4, 100),
            (100, 1000, 100, 1000),
            (100, 3, 2, 150),
            (100, 0, 0, 0),
            (u64::MAX, 2, 1, u64::MAX),
        ] {
            assert_eq!(weight_ns(ns, all, looked), expected);
        }
    }

    #[test]
    fn a_doing_has_its_state_below_its_call() {
        let name = |doing: &Doing| {
            let frames = doing.frames();
            let names = frames.iter().map(|frame| frame.function.to_string());
            names.collect::<Vec<_>>().join(" < ")
        };
        let sleeping = |site| Doing {
            state: State::Sleeping,
            site,
        };
        for (doing, expected) in [
            (Doing::only(State::Running), "[running]"),
            (
                sleeping(Site::Syscall(libc::SYS_futex)),
                "futex < [sleeping]",
            ),
            (
                sleeping(Site::Syscall(99_999)),
                "syscall 99999 < [sleeping]",
            ),
            (
                sleeping(Site::Kernel(Arc::from("pipe_read"))),
                "pipe_read < [sleeping]",
            ),
        ] {
            assert_eq!(name(&doing), expected);
        }
    }

    #[test]
    fn stacks_beyond_the_bound_are_those_of_others() {
        let mut sums = FxHashMap::default();
        let process = Arc::from("p");
        for number in 0..MAX_STACKS + 7 {
            let kind = Arc::from(number.to_string());
            add(&mut sums, &process, kind, Doing::only(State::Sleeping), 1);
        }
        assert_eq!(sums.len(), MAX_STACKS + 1);
        assert_eq!(sums.values().sum::<u64>(), 4096 + 7);
    }

    #[test]
    fn a_process_that_is_gone_is_said_so_and_ends_nothing() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let mut sampler = WallSampler::new(WallOptions::default());
        sampler.add_process(pid).unwrap();
        assert!(sampler.has_targets());
        assert_eq!(probe(pid), Readable::default());
        child.kill().unwrap();
        child.wait().unwrap();
        sampler.look(sampler.next_look());
        assert!(!sampler.has_targets());
        assert!(sampler.add_process(pid).is_err());
        assert!(probe(pid).states_refusal.is_some());
    }

    proptest! {
        #[test]
        fn each_thread_has_its_turn_once_in_a_round(count in 1usize..300, seed in any::<u64>()) {
            let mut random = Random::from_seed(seed);
            let mut order: Vec<usize> = (0..count).collect();
            random.shuffle(&mut order);
            order.sort_unstable();
            prop_assert!(order.into_iter().eq(0..count));
        }
    }
}
