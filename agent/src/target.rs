//! The target: every matching process and all their children, followed over
//! restarts, and what the kernel says of them.
//!
//! A [`Tracker`] looks at `/proc` when it is told to, by default every
//! [`SCAN_EVERY`]. One look lists the processes and reads `stat` of members
//! and newcomers; others are read again after 1, 2, 4 … up to
//! `MAX_RECHECK_SCANS` looks, because a process may turn into the target by
//! `exec`. A look at 100 processes costs well under a millisecond.

use std::time::Duration;

use proto::window::UnixNanos;
use regex::Regex;
use rustc_hash::{FxHashMap, FxHashSet};

pub(crate) mod cgroup;
pub(crate) mod process;
mod usage;

use cgroup::CgroupCpu;
use process::Reading;
use usage::CpuAccount;

/// Time between two looks at `/proc`.
pub const SCAN_EVERY: Duration = Duration::from_secs(1);
/// Most looks for which a process that did not match is not read again.
const MAX_RECHECK_SCANS: u32 = 32;

/// Which processes are the target.
#[derive(Clone, Debug)]
pub enum Selection {
    /// This one process.
    Pid(i32),
    /// Programs of this name: first argument without folder, or short name.
    Name(String),
    /// Programs whose arguments, joined by blanks, match.
    Command(Regex),
    /// Every process of this PID namespace but kernel threads, pause
    /// containers, the agent, its ancestors and its children.
    Others,
}

/// Why no target can be followed.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// `/proc` cannot be read.
    #[error("cannot read {path}")]
    Proc {
        /// What was read.
        path: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// `/proc/stat` does not say when the machine was started.
    #[error("cannot tell from /proc/stat when the machine was started")]
    BootTime(#[source] procfs::ProcError),
}

/// One process of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id in this PID namespace.
    pub pid: i32,
    /// When it started.
    pub started: UnixNanos,
    /// What a person would call it.
    pub name: String,
}

/// Who came and went between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New members.
    pub added: Vec<i32>,
    /// Members that are gone.
    pub removed: Vec<i32>,
}

/// What the target used since the last time it was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all its processes.
    pub cpu_ns: u64,
    /// Resident memory now, summed over processes.
    pub rss_bytes: u64,
    /// Threads now.
    pub threads_count: u32,
    /// Processes now.
    pub processes_count: u32,
    /// When its oldest process started; the last one's when it is gone.
    pub started: UnixNanos,
    /// CPU limit of its control group; 0 for none.
    pub cpu_limit_millicores: u32,
    /// Time its control group was throttled.
    pub throttled_ns: u64,
}

#[derive(Debug)]
struct Member {
    process: Process,
    reading: Reading,
}

/// A process that is not of the target.
#[derive(Debug)]
struct Stranger {
    parent: i32,
    start_ticks: u64,
    wait_scans: u32,
    due_scan: u64,
}

/// Follows a target.
#[derive(Debug)]
pub struct Tracker {
    selection: Selection,
    own_pid: i32,
    own_program: Option<(u64, u64)>,
    boot: UnixNanos,
    ticks_per_second: u64,
    page_bytes: u64,
    scans: u64,
    members: FxHashMap<i32, Member>,
    strangers: FxHashMap<i32, Stranger>,
    cpu: CpuAccount,
    cgroup: Option<(i32, CgroupCpu)>,
    /// Start of the process that [`Selection::Pid`] means, once seen: its id
    /// may be given to another program later.
    pinned_start: Option<u64>,
    started: UnixNanos,
}

impl Tracker {
    /// Returns a tracker that has not looked yet.
    ///
    /// # Errors
    ///
    /// [`TargetError::BootTime`] if `/proc/stat` cannot be read.
    pub fn new(selection: Selection) -> Result<Self, TargetError> {
        let boot_seconds = procfs::boot_time_secs().map_err(TargetError::BootTime)?;
        let own_pid = i32::try_from(std::process::id()).unwrap_or(0);
        Ok(Self {
            selection,
            own_pid,
            own_program: process::program(&process::exe(own_pid)),
            boot: UnixNanos::new(0).saturating_add(Duration::from_secs(boot_seconds)),
            ticks_per_second: procfs::ticks_per_second().max(1),
            page_bytes: procfs::page_size(),
            scans: 0,
            members: FxHashMap::default(),
            strangers: FxHashMap::default(),
            cpu: CpuAccount::default(),
            cgroup: None,
            pinned_start: None,
            started: UnixNanos::default(),
        })
    }

    /// Looks at `/proc` and returns who came and went.
    ///
    /// # Errors
    ///
    /// [`TargetError::Proc`] if the processes cannot be listed.
    pub fn scan(&mut self) -> Result<Changes, TargetError> {
        let listed = process::list().map_err(|source| TargetError::Proc {
            path: "/proc",
            source,
        })?;
        let is_first = self.scans == 0;
        self.scans += 1;
        let mut changes = Changes::default();
        let mut fresh: FxHashMap<i32, Reading> = FxHashMap::default();
        let mut newborn: FxHashSet<i32> = FxHashSet::default();
        let mut looked: Vec<(i32, Reading)> = Vec::new();
        let mut present: FxHashSet<i32> = FxHashSet::default();
        for pid in listed {
            if self.skips(pid) {
                present.insert(pid);
                continue;
            }
            let Some(reading) = process::read(pid) else {
                continue;
            };
            present.insert(pid);
            match self.members.get(&pid) {
                Some(member) if member.reading.start_ticks == reading.start_ticks => {
                    looked.push((pid, reading));
                    continue;
                }
                Some(_) => self.drop_member(pid, &mut changes),
                None => {}
            }
            let is_known = self
                .strangers
                .get(&pid)
                .is_some_and(|known| known.start_ticks == reading.start_ticks);
            if !is_known && !is_first {
                newborn.insert(pid);
            }
            fresh.insert(pid, reading);
        }
        self.strangers.retain(|pid, _| present.contains(pid));
        let gone: Vec<i32> = self.members.keys().copied().collect();
        for pid in gone.into_iter().filter(|pid| !present.contains(pid)) {
            self.drop_member(pid, &mut changes);
        }
        for (pid, reading) in looked {
            self.look_at_member(pid, reading, &mut changes);
        }
        self.admit(fresh, &newborn, &mut changes);
        self.cpu.end_scan();
        if let Some(oldest) = self.oldest() {
            self.started = oldest.started;
        }
        Ok(changes)
    }

    /// Whether a stranger need not be read in this look.
    fn skips(&self, pid: i32) -> bool {
        self.strangers
            .get(&pid)
            .is_some_and(|stranger| stranger.due_scan > self.scans)
    }

    fn drop_member(&mut self, pid: i32, changes: &mut Changes) {
        if let Some(member) = self.members.remove(&pid) {
            self.cpu.leave(pid);
            // A zombie was reported when it ended.
            if !member.reading.is_zombie {
                changes.removed.push(pid);
            }
        }
    }

    fn look_at_member(&mut self, pid: i32, reading: Reading, changes: &mut Changes) {
        self.cpu.look(pid, &reading);
        let Some(member) = self.members.get_mut(&pid) else {
            return;
        };
        if reading.is_zombie && !member.reading.is_zombie {
            changes.removed.push(pid);
        }
        if reading.short_name != member.reading.short_name {
            // It has become another program by `exec`.
            let arguments = process::command_line(pid);
            member.process.name = process::display_name(&arguments, &reading.short_name);
        }
        member.reading = reading;
    }

    /// Takes in matching newcomers and children of members; the rest are
    /// strangers.
    fn admit(
        &mut self,
        mut fresh: FxHashMap<i32, Reading>,
        newborn: &FxHashSet<i32>,
        changes: &mut Changes,
    ) {
        let excluded = match self.selection {
            Selection::Others => self.family(&fresh),
            Selection::Pid(_) | Selection::Name(_) | Selection::Command(_) => {
                FxHashSet::from_iter([self.own_pid])
            }
        };
        let candidates: Vec<i32> = fresh
            .iter()
            .filter(|(pid, reading)| {
                !reading.is_zombie && !reading.is_kernel && !excluded.contains(pid)
            })
            .map(|(pid, _)| *pid)
            .collect();
        for pid in candidates {
            let arguments = process::command_line(pid);
            let is_match = fresh
                .get(&pid)
                .is_some_and(|reading| self.matches(pid, reading, &arguments));
            if is_match && let Some(reading) = fresh.remove(&pid) {
                self.enter(pid, reading, &arguments, newborn.contains(&pid), changes);
            }
        }
        // Children of children come in one round each.
        loop {
            let read = fresh.iter().map(|(pid, reading)| (*pid, reading.parent));
            let known = self.strangers.iter().map(|(pid, s)| (*pid, s.parent));
            let children: Vec<i32> = read
                .chain(known)
                .filter(|(pid, parent)| {
                    self.members.contains_key(parent)
                        && !self.members.contains_key(pid)
                        && !excluded.contains(pid)
                })
                .map(|(pid, _)| pid)
                .collect();
            let mut entered = false;
            for pid in children {
                self.strangers.remove(&pid);
                let reading = fresh.remove(&pid).or_else(|| process::read(pid));
                if let Some(reading) = reading.filter(|reading| !reading.is_zombie) {
                    let arguments = process::command_line(pid);
                    self.enter(pid, reading, &arguments, newborn.contains(&pid), changes);
                    entered = true;
                }
            }
            if !entered {
                break;
            }
        }
        for (pid, reading) in fresh {
            let wait_scans = match self.strangers.get(&pid) {
                Some(known) if known.start_ticks == reading.start_ticks => {
                    (known.wait_scans * 2).min(MAX_RECHECK_SCANS)
                }
                _ => 1,
            };
            let stranger = Stranger {
                parent: reading.parent,
                start_ticks: reading.start_ticks,
                wait_scans,
                due_scan: self.scans + u64::from(wait_scans),
            };
            self.strangers.insert(pid, stranger);
        }
    }

    fn enter(
        &mut self,
        pid: i32,
        reading: Reading,
        arguments: &[String],
        is_born: bool,
        changes: &mut Changes,
    ) {
        self.strangers.remove(&pid);
        self.cpu.enter(pid, &reading, is_born);
        let ticks = u128::from(reading.start_ticks) * 1_000_000_000;
        let after_boot = ticks / u128::from(self.ticks_per_second);
        let after_boot = Duration::from_nanos(u64::try_from(after_boot).unwrap_or(u64::MAX));
        if matches!(self.selection, Selection::Pid(selected) if selected == pid) {
            self.pinned_start = Some(reading.start_ticks);
        }
        let process = Process {
            pid,
            started: self.boot.saturating_add(after_boot),
            name: process::display_name(arguments, &reading.short_name),
        };
        changes.added.push(pid);
        self.members.insert(pid, Member { process, reading });
    }

    fn matches(&self, pid: i32, reading: &Reading, arguments: &[String]) -> bool {
        match &self.selection {
            Selection::Pid(selected) => {
                pid == *selected
                    && self
                        .pinned_start
                        .is_none_or(|start| start == reading.start_ticks)
            }
            Selection::Name(name) => {
                reading.short_name == *name
                    || process::display_name(arguments, &reading.short_name) == *name
            }
            Selection::Command(regex) => {
                !self.is_own_program(pid) && regex.is_match(&arguments.join(" "))
            }
            Selection::Others => {
                !is_pause(reading, arguments) && !arguments.is_empty() && !self.is_own_program(pid)
            }
        }
    }

    /// Whether `pid` runs the agent's program: another verb of it, whose
    /// arguments may well hold what the target is looked for by.
    fn is_own_program(&self, pid: i32) -> bool {
        self.own_program.is_some() && process::program(&process::exe(pid)) == self.own_program
    }

    /// The agent, its ancestors and its descendants.
    fn family(&self, fresh: &FxHashMap<i32, Reading>) -> FxHashSet<i32> {
        let parent_of = |pid: i32| {
            fresh
                .get(&pid)
                .map(|reading| reading.parent)
                .or_else(|| self.strangers.get(&pid).map(|stranger| stranger.parent))
                .or_else(|| self.members.get(&pid).map(|member| member.reading.parent))
        };
        let mut family = FxHashSet::from_iter([self.own_pid]);
        let mut ancestor = self.own_pid;
        while let Some(parent) = parent_of(ancestor).filter(|parent| *parent > 0) {
            if !family.insert(parent) {
                break;
            }
            ancestor = parent;
        }
        for pid in fresh.keys() {
            let mut line = vec![*pid];
            while let Some(parent) = line.last().and_then(|last| parent_of(*last)) {
                if parent == self.own_pid {
                    family.extend(line);
                    break;
                }
                if line.contains(&parent) {
                    break;
                }
                line.push(parent);
            }
        }
        family
    }

    /// The processes that run now, oldest first.
    pub fn processes(&self) -> Vec<Process> {
        let mut running: Vec<Process> = self
            .running()
            .map(|member| member.process.clone())
            .collect();
        running.sort_by_key(|process| (process.started, process.pid));
        running
    }

    fn running(&self) -> impl Iterator<Item = &Member> {
        self.members
            .values()
            .filter(|member| !member.reading.is_zombie)
    }

    fn oldest(&self) -> Option<&Process> {
        self.running()
            .map(|member| &member.process)
            .min_by_key(|process| (process.started, process.pid))
    }

    /// Whether the one process that was selected by its id has ended, so that
    /// there is nothing left to wait for.
    pub fn is_over(&self) -> bool {
        self.pinned_start.is_some() && self.running().next().is_none()
    }

    /// Returns what the target used since the last call.
    pub fn take_usage(&mut self) -> Usage {
        let (limit, throttled_ns) = self.take_cgroup();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let pages: u64 = self.running().fold(0, |sum, member| {
            sum.saturating_add(member.reading.rss_pages)
        });
        let threads = self.running().fold(0u32, |sum, member| {
            sum.saturating_add(member.reading.threads_count)
        });
        let processes_count = count(self.running().count());
        let cpu_ticks = u128::from(self.cpu.take());
        let cpu_ns = cpu_ticks * 1_000_000_000 / u128::from(self.ticks_per_second);
        Usage {
            cpu_ns: u64::try_from(cpu_ns).unwrap_or(u64::MAX),
            rss_bytes: pages.saturating_mul(self.page_bytes),
            threads_count: threads,
            processes_count,
            started: self.started,
            cpu_limit_millicores: limit,
            throttled_ns,
        }
    }

    fn take_cgroup(&mut self) -> (u32, u64) {
        let Some(pid) = self.oldest().map(|process| process.pid) else {
            return (0, 0);
        };
        let now = cgroup::read(pid);
        let before = self.cgroup.replace((pid, now));
        let throttled_ns = match before {
            Some((before_pid, before)) if before_pid == pid => {
                now.throttled_ns.saturating_sub(before.throttled_ns)
            }
            _ => 0,
        };
        (now.limit_millicores, throttled_ns)
    }
}

/// Whether it is the process that holds a pod's namespaces.
fn is_pause(reading: &Reading, arguments: &[String]) -> bool {
    reading.short_name == "pause" || arguments.first().is_some_and(|first| first == "/pause")
}

#[cfg(test)]
mod tests;
