//! CPU time of threads, from the kernel's accounting.
//!
//! Samples nothing and needs no permission: the difference between two looks at
//! a thread's clock is what it used. Its stack is its process's name and the
//! kind of thread it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::profile::Column;
use proto::stack::{Frame, FrameKind, Stack};
use proto::value_type::{ProfileType, Temporality};
use proto::window::Window;
use rustc_hash::FxHashMap;

use super::files::{self, Buffer, Files, Kept};
use super::ledger::{Ledger, OTHER};
use super::parse;
use crate::source::pace::Pace;
use crate::source::{Collected, SampleGroup};
use crate::sys::clock::CpuClock;

/// Time between two looks at a target whose threads stay, and at one whose
/// threads come and go.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_OFTEN_EVERY: Duration = Duration::from_millis(100);
/// Looks become more frequent while threads that nobody saw used more than this
/// part of the CPU time.
const UNSEEN_PART: u64 = 20;
/// A name is read again at the 1st, 2nd, 4th … use of CPU, and every time after
/// this many: programs name their threads after they start them.
const MAX_USES_BETWEEN_NAMES: u32 = 64;
/// What a window's rounding moves on by, so that its place is spread evenly:
/// 2^64 over the golden ratio.
const PHASE_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// How to account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadCpuOptions {
    /// Samples per second of CPU time that the values are given in. That of
    /// other sources, so that all make one series.
    pub rate_hz: u32,
    /// Most CPU time that looks may take, in thousandths of a core; beyond it
    /// they become rarer.
    pub max_cost_permille: u32,
}

impl Default for ThreadCpuOptions {
    fn default() -> Self {
        Self {
            rate_hz: 99,
            max_cost_permille: 3,
        }
    }
}

/// What becomes of what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is collected here.
    Here,
    /// Another source shows more of it, so it is left out.
    ByOthers,
}

/// What a thread's CPU time is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// `schedstat`.
    Nanoseconds,
    /// `stat`, in ticks of this length; the kernel keeps no `schedstat`.
    Ticks(Duration),
}

impl Precision {
    /// What the kernel offers for process `pid`.
    pub fn of(pid: i32) -> Self {
        let mut buffer = Buffer::new();
        let read = buffer.read_once(&format!("/proc/{pid}/task/{pid}/schedstat"));
        // All zeros mean that it is not kept: nothing began without running.
        match read.ok().and_then(parse::schedstat) {
            Some(ns) if ns > 0 => Self::Nanoseconds,
            _ => {
                let per_second = procfs::ticks_per_second().max(1);
                let ns = 1_000_000_000u64.checked_div(per_second).unwrap_or(0);
                Self::Ticks(Duration::from_nanos(ns))
            }
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Nanoseconds => "schedstat",
            Self::Ticks(_) => "stat",
        }
    }

    fn parse(self, bytes: &[u8]) -> Option<u64> {
        match self {
            Self::Nanoseconds => parse::schedstat(bytes),
            Self::Ticks(length) => {
                let ticks = parse::stat(bytes)?.ticks;
                Some(ticks.saturating_mul(nanos(length)))
            }
        }
    }

    /// What the times of so many threads may lag behind that of their process.
    fn lag_ns(self, threads: usize) -> u64 {
        match self {
            Self::Nanoseconds => 0,
            Self::Ticks(length) => {
                let threads = u64::try_from(threads).unwrap_or(u64::MAX);
                nanos(length).saturating_mul(threads)
            }
        }
    }
}

fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Debug)]
struct Thread {
    file: Kept,
    used_ns: u64,
    kind: Arc<str>,
    /// Looks that found CPU used, and at which its name is read again.
    uses: u32,
    name_at: u32,
    /// The last look at which it was there.
    seen: u64,
}

#[derive(Debug)]
struct Process {
    name: Arc<str>,
    clock: CpuClock,
    used: Duration,
    precision: Precision,
    threads: FxHashMap<i32, Thread>,
    ledger: Ledger,
    looks: u64,
}

/// What a look found used.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    all_ns: u64,
    unseen_ns: u64,
}

/// Accounts for a set of processes.
#[derive(Debug)]
pub struct ThreadCpu {
    options: ThreadCpuOptions,
    processes: FxHashMap<i32, Process>,
    files: Files,
    /// Units of processes that left within this window, by process and kind.
    ended: FxHashMap<(Arc<str>, Arc<str>), u64>,
    phase: u64,
    pace: Pace,
    /// What the rate is divided by.
    divisor: u32,
    interval: Duration,
    next_look: Instant,
    began: Option<Instant>,
}

impl ThreadCpu {
    /// Returns one that accounts for no process.
    pub fn new(options: ThreadCpuOptions) -> Self {
        let now = Instant::now();
        Self {
            options,
            processes: FxHashMap::default(),
            files: Files::new(),
            ended: FxHashMap::default(),
            phase: 0,
            pace: Pace::new(LOOK_EVERY, options.max_cost_permille, now),
            divisor: 1,
            interval: LOOK_EVERY,
            next_look: now,
            began: Some(now),
        }
    }

    /// Accounts for process `pid`, too, called `name`, from now on.
    ///
    /// # Errors
    ///
    /// If it is gone.
    pub fn add_process(&mut self, pid: i32, name: &str) -> std::io::Result<()> {
        self.remove_process(pid, Told::Here);
        let clock = CpuClock::of_process(pid)?;
        let mut process = Process {
            name: Arc::from(name),
            clock,
            used: Duration::ZERO,
            precision: Precision::of(pid),
            threads: FxHashMap::default(),
            ledger: Ledger::default(),
            looks: 0,
        };
        process.read_threads(pid, &self.files)?;
        // What was used before is not this window's. Threads are read before
        // their process here and after it later, so that none of it looks as
        // if nobody had used it.
        process.ledger = Ledger::default();
        process.used = clock.read()?;
        self.processes.insert(pid, process);
        Ok(())
    }

    /// Accounts for process `pid` no longer. What it used stays counted if that
    /// is `told` here.
    pub fn remove_process(&mut self, pid: i32, told: Told) {
        let Some(mut process) = self.processes.remove(&pid) else {
            return;
        };
        if told == Told::Here {
            process.look(pid, &self.files);
            self.settle(&mut process);
        }
    }

    /// Whether process `pid` is accounted for.
    pub fn has(&self, pid: i32) -> bool {
        self.processes.contains_key(&pid)
    }

    /// Whether no process is accounted for.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// When to look next.
    pub fn next_look(&self) -> Instant {
        self.next_look
    }

    /// Looks at the processes that used CPU, if it is time to.
    pub fn look(&mut self, now: Instant) {
        if now >= self.next_look {
            self.look_now(now);
        }
    }

    fn look_now(&mut self, now: Instant) {
        self.pace.begin(now);
        let thread = CpuClock::of_this_thread();
        let before = thread.read().unwrap_or_default();
        let mut used = Used::default();
        for (pid, process) in &mut self.processes {
            let more = process.look(*pid, &self.files);
            used.all_ns = used.all_ns.saturating_add(more.all_ns);
            used.unseen_ns = used.unseen_ns.saturating_add(more.unseen_ns);
        }
        self.interval = match used.unseen_ns > used.all_ns / UNSEEN_PART {
            true => (self.interval / 2).max(LOOK_OFTEN_EVERY),
            false => (self.interval * 2).min(LOOK_EVERY),
        };
        self.pace.set_shortest(self.interval);
        let after = thread.read().unwrap_or_default();
        self.pace.learn(after.saturating_sub(before));
        self.next_look = now + self.pace.plan();
    }

    /// CPU time that a sample stands for.
    fn unit_ns(&self) -> u64 {
        u64::from(self.divisor) * (1_000_000_000 / u64::from(self.options.rate_hz.max(1)))
    }

    /// From now on looks `divisor` times more rarely, and gives values in units
    /// that are as much larger.
    pub fn set_divisor(&mut self, divisor: u32) {
        self.divisor = divisor.max(1);
        self.pace.set_divisor(self.divisor);
    }

    fn settle(&mut self, process: &mut Process) {
        let dealt = process.ledger.settle(self.unit_ns(), self.phase);
        self.phase = self.phase.wrapping_add(PHASE_STEP);
        for (kind, units) in dealt {
            let key = (Arc::clone(&process.name), kind);
            let sum = self.ended.entry(key).or_default();
            *sum = sum.saturating_add(units);
        }
    }

    /// Returns what was used since the last call, as that of `window`: one
    /// column of CPU time, one value per distinct stack, largest first; without
    /// any if all is `told` by others.
    pub fn collect(&mut self, window: Window, told: Told) -> Collected {
        if !self.processes.is_empty() {
            self.look_now(Instant::now());
        }
        let mut processes = std::mem::take(&mut self.processes);
        for process in processes.values_mut() {
            self.settle(process);
        }
        self.processes = processes;
        if told == Told::ByOthers {
            self.ended.clear();
        }
        let mut units: Vec<_> = self.ended.drain().collect();
        units.sort_unstable_by(|(a, more), (b, most)| most.cmp(more).then_with(|| a.cmp(b)));
        let samples = units.iter().fold(0u64, |a, (_, b)| a.saturating_add(*b));
        let (stacks, values): (Vec<Stack>, Vec<i64>) = units
            .into_iter()
            .map(|((process, kind), units)| {
                let frames = [&kind, &process].map(|name| synthetic(name));
                (
                    Stack::from(frames),
                    i64::try_from(units).unwrap_or(i64::MAX),
                )
            })
            .unzip();
        let period_ns = self.unit_ns();
        let column = Column {
            profile_type: ProfileType::cpu(),
            temporality: Temporality::Delta,
            period: i64::try_from(period_ns).unwrap_or(i64::MAX),
            weight: period_ns.max(1),
            values,
        };
        Collected {
            window,
            observed_ns: self.began.take().map_or(0, |began| nanos(began.elapsed())),
            lost_samples: 0,
            dropped_labels: 0,
            samples_count: samples,
            groups: vec![SampleGroup {
                labels: Vec::new(),
                stacks,
                columns: vec![column],
            }],
        }
    }

    /// Whether there is a process that has not ended.
    pub fn has_targets(&self) -> bool {
        self.processes
            .values()
            .any(|process| process.clock.read().is_ok())
    }
}

/// A frame that the profiler makes.
pub(super) fn synthetic(name: &str) -> Frame {
    Frame::named(FrameKind::Synthetic, name)
}

fn read_kind(pid: i32, tid: i32) -> Option<Arc<str>> {
    let mut buffer = Buffer::new();
    let read = buffer.read_once(&format!("/proc/{pid}/task/{tid}/comm"));
    read.ok().map(|bytes| Arc::from(parse::comm(bytes)))
}

impl Process {
    /// Counts what was used since the last look. A process that used nothing
    /// costs one system call.
    fn look(&mut self, pid: i32, files: &Files) -> Used {
        let Ok(now) = self.clock.read() else {
            return Used::default();
        };
        let all_ns = nanos(now.saturating_sub(self.used));
        if all_ns == 0 {
            return Used::default();
        }
        // One that ends now is read no more: what it used last is nobody's.
        let Ok(()) = self.read_threads(pid, files) else {
            return Used::default();
        };
        self.used = now;
        self.ledger.used_by_all(all_ns);
        let lag_ns = self.precision.lag_ns(self.threads.len());
        Used {
            all_ns,
            unseen_ns: self.ledger.end_look(lag_ns),
        }
    }

    fn read_threads(&mut self, pid: i32, files: &Files) -> std::io::Result<()> {
        let listed = files::threads(pid)?;
        self.looks += 1;
        let mut buffer = Buffer::new();
        for tid in listed {
            self.read_thread(pid, tid, files, &mut buffer);
        }
        let looks = self.looks;
        self.threads.retain(|_, thread| thread.seen == looks);
        Ok(())
    }

    fn read_thread(&mut self, pid: i32, tid: i32, files: &Files, buffer: &mut Buffer) {
        let precision = self.precision;
        let path = || format!("/proc/{pid}/task/{tid}/{}", precision.file());
        let mut read = |file: &mut Kept| {
            let bytes = buffer.read_kept(path, file, files).ok()?;
            precision.parse(bytes)
        };
        let known = match self.threads.get_mut(&tid) {
            Some(thread) => read(&mut thread.file).map(|used_ns| (thread, used_ns)),
            None => None,
        };
        // A clock that went back is that of another thread with this id.
        if let Some((thread, used_ns)) = known
            && used_ns >= thread.used_ns
        {
            thread.seen = self.looks;
            let more = used_ns - thread.used_ns;
            if more == 0 {
                return;
            }
            thread.used_ns = used_ns;
            thread.uses += 1;
            if thread.uses >= thread.name_at {
                thread.name_at += thread.uses.min(MAX_USES_BETWEEN_NAMES);
                if let Some(kind) = read_kind(pid, tid) {
                    thread.kind = kind;
                }
            }
            self.ledger.used_by(&thread.kind, more);
            return;
        }
        let mut file = Kept::default();
        let Some(used_ns) = read(&mut file) else {
            return;
        };
        let kind = read_kind(pid, tid).unwrap_or_else(|| Arc::from(OTHER));
        self.ledger.used_by(&kind, used_ns);
        let thread = Thread {
            file,
            used_ns,
            kind,
            uses: 0,
            name_at: 1,
            seen: self.looks,
        };
        self.threads.insert(tid, thread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::window::UnixNanos;

    fn window() -> Window {
        Window::from_start(UnixNanos::new(0), 10_000_000_000).unwrap()
    }

    fn own() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    fn burn(length: Duration) {
        let clock = CpuClock::of_this_thread();
        let until = clock.read().unwrap() + length;
        let mut sum = 0u64;
        while clock.read().unwrap() < until {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
    }

    fn burn_in_thread(name: &str, length: Duration) {
        let thread = std::thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || burn(length)).unwrap();
        thread.join().unwrap();
    }

    /// Units by kind of thread, of a process that only this test is in.
    fn units(collected: &Collected) -> Vec<(String, i64)> {
        let [group] = &collected.groups[..] else {
            panic!("one group");
        };
        let values = group.columns[0].values.iter().copied();
        let names = group.stacks.iter().map(|stack| {
            assert_eq!(&*stack[1].function, "tests");
            stack[0].function.to_string()
        });
        names.zip(values).collect()
    }

    #[test]
    fn both_precisions_say_the_same_of_a_thread() {
        let tick = Duration::from_secs(1) / u32::try_from(procfs::ticks_per_second()).unwrap();
        burn(Duration::from_millis(30));
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        let mut buffer = Buffer::new();
        let mut read = |precision: Precision| {
            let path = format!("/proc/{}/task/{tid}/{}", own(), precision.file());
            precision.parse(buffer.read_once(&path).unwrap()).unwrap()
        };
        let coarse = read(Precision::Ticks(tick));
        match Precision::of(own()) {
            Precision::Nanoseconds => {
                let fine = read(Precision::Nanoseconds);
                assert!(fine.abs_diff(coarse) <= 3 * nanos(tick), "{fine} {coarse}");
                assert!(fine >= 15_000_000, "{fine}");
            }
            ticks @ Precision::Ticks(_) => assert_eq!(ticks, Precision::Ticks(tick)),
        }
    }

    #[test]
    fn threads_that_end_between_looks_are_others() {
        let mut account = ThreadCpu::new(ThreadCpuOptions::default());
        account.add_process(own(), "tests").unwrap();
        account.collect(window(), Told::Here);
        burn_in_thread("gone", Duration::from_millis(300));
        let units = units(&account.collect(window(), Told::Here));
        // Other tests run beside this one.
        assert!(!units.iter().any(|(kind, _)| kind == "gone"), "{units:?}");
        let other = units.iter().find(|(kind, _)| kind == OTHER).unwrap();
        assert!(other.1 >= 15, "{units:?}");
    }

    #[test]
    fn what_others_tell_is_left_out() {
        let mut account = ThreadCpu::new(ThreadCpuOptions::default());
        account.add_process(own(), "tests").unwrap();
        burn(Duration::from_millis(50));
        let collected = account.collect(window(), Told::ByOthers);
        assert_eq!(units(&collected), []);
        burn(Duration::from_millis(50));
        account.remove_process(own(), Told::ByOthers);
        assert_eq!(units(&account.collect(window(), Told::Here)), []);
        assert!(!account.has_targets());
    }

    #[test]
    fn a_process_that_is_gone_is_said_so_and_ends_nothing() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let mut account = ThreadCpu::new(ThreadCpuOptions::default());
        account.add_process(pid, "sleep").unwrap();
        assert!(account.has(pid) && account.has_targets());
        child.kill().unwrap();
        child.wait().unwrap();
        account.look(Instant::now() + LOOK_EVERY);
        assert!(!account.has_targets());
        account.remove_process(pid, Told::Here);
        let collected = account.collect(window(), Told::Here);
        assert!(collected.samples_count <= 1);
        assert!(account.add_process(pid, "sleep").is_err());
    }
}
