//! How much CPU a machine used, from the kernel, and for what.
//!
//! Threads of the machine itself (garbage collection, compilation) are told
//! apart by the names that HotSpot gives them; all other time is that of
//! threads that may run Java code.

use std::fs;

use procfs::FromRead;
use procfs::process::Stat;
use rustc_hash::FxHashMap;

/// Looks at a thread's name before it is believed: a thread names itself.
const NAME_LOOKS: u8 = 2;

/// What a thread of the machine itself does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Duty {
    /// Frees memory.
    Collection,
    /// Compiles.
    Compilation,
    /// The rest: safepoints, timers, the flight recorder's sampler.
    Upkeep,
}

impl Duty {
    /// Every duty.
    pub(super) const ALL: [Self; 3] = [Self::Collection, Self::Compilation, Self::Upkeep];

    /// The duty of a thread with this name, of which the kernel keeps 15
    /// bytes; nothing for threads that may run Java code.
    fn of(name: &str) -> Option<Self> {
        let begins = |with: &[&str]| with.iter().any(|prefix| name.starts_with(prefix));
        // `ZWorker#0`, `XDriver`: one capital and a word in camel case.
        let is_z = [
            "ZWorker",
            "ZDriver",
            "ZDirector",
            "ZStat",
            "ZUncommit",
            "ZUnmap",
        ];
        if begins(&[
            "GC Thread#",
            "G1 ",
            "ParGC",
            "Shenandoah",
            "Concurrent Mark",
        ]) || begins(&is_z)
            || begins(&["XWorker", "XDriver", "XDirector", "XStat"])
        {
            return Some(Self::Collection);
        }
        if begins(&["C1 Compiler", "C2 Compiler", "JVMCI", "Sweeper"]) {
            return Some(Self::Compilation);
        }
        begins(&[
            "VM Thread",
            "VM Periodic",
            "JFR Sampler",
            "JFR Thread Samp",
            "JFR CPU",
        ])
        .then_some(Self::Upkeep)
    }
}

/// CPU time in user code and in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) user_ns: u64,
    pub(super) system_ns: u64,
}

impl Used {
    fn less(self, other: Self) -> Self {
        Self {
            user_ns: self.user_ns.saturating_sub(other.user_ns),
            system_ns: self.system_ns.saturating_sub(other.system_ns),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            user_ns: self.user_ns.saturating_add(other.user_ns),
            system_ns: self.system_ns.saturating_add(other.system_ns),
        }
    }

    /// Both together.
    pub(super) fn total_ns(self) -> u64 {
        self.user_ns.saturating_add(self.system_ns)
    }
}

/// What a machine used over a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Threads that may run Java code, also those that ended.
    pub(super) java: Used,
    /// Threads of the machine itself, by [`Duty::ALL`].
    pub(super) duties: [Used; 3],
}

#[derive(Clone, Copy, Debug, Default)]
struct Thread {
    duty: Option<Duty>,
    looks: u8,
    used: Used,
}

/// Follows the CPU time of one process.
#[derive(Debug)]
pub(super) struct Accountant {
    pid: i32,
    tick_ns: u64,
    process: Used,
    threads: FxHashMap<i32, Thread>,
}

fn read(path: &str, tick_ns: u64) -> Option<Used> {
    let stat = Stat::from_file(path).ok()?;
    Some(Used {
        user_ns: stat.utime.saturating_mul(tick_ns),
        system_ns: stat.stime.saturating_mul(tick_ns),
    })
}

impl Accountant {
    /// Begins now.
    pub(super) fn new(pid: i32) -> Self {
        let mut accountant = Self {
            pid,
            tick_ns: 1_000_000_000 / procfs::ticks_per_second().max(1),
            process: Used::default(),
            threads: FxHashMap::default(),
        };
        accountant.take();
        accountant
    }

    /// Returns what was used since the last call.
    pub(super) fn take(&mut self) -> Account {
        let mut account = Account::default();
        let Some(process) = read(&format!("/proc/{}/stat", self.pid), self.tick_ns) else {
            return account;
        };
        let mut own = Used::default();
        let mut listed: FxHashMap<i32, Thread> = FxHashMap::default();
        for tid in self.list() {
            let mut thread = self.threads.get(&tid).copied().unwrap_or_default();
            let folder = format!("/proc/{}/task/{tid}", self.pid);
            if thread.duty.is_none() && thread.looks < NAME_LOOKS {
                thread.looks += 1;
                let name = fs::read_to_string(format!("{folder}/comm")).unwrap_or_default();
                thread.duty = Duty::of(name.trim_end());
                if thread.duty.is_some() && thread.looks > 1 {
                    // What it used before counted as Java's.
                    thread.used = read(&format!("{folder}/stat"), self.tick_ns).unwrap_or_default();
                }
            }
            if let Some(duty) = thread.duty
                && let Some(now) = read(&format!("{folder}/stat"), self.tick_ns)
            {
                let used = now.less(thread.used);
                thread.used = now;
                own = own.plus(used);
                for (place, of) in account.duties.iter_mut().zip(Duty::ALL) {
                    if of == duty {
                        *place = place.plus(used);
                    }
                }
            }
            listed.insert(tid, thread);
        }
        self.threads = listed;
        account.java = process.less(self.process).less(own);
        self.process = process;
        account
    }

    fn list(&self) -> Vec<i32> {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_the_machine_are_told_by_their_names() {
        for (name, expected) in [
            ("GC Thread#0", Some(Duty::Collection)),
            ("G1 Main Marker", Some(Duty::Collection)),
            ("ZDriverMinor", Some(Duty::Collection)),
            ("Shenandoah GC T", Some(Duty::Collection)),
            ("C2 CompilerThre", Some(Duty::Compilation)),
            ("VM Thread", Some(Duty::Upkeep)),
            ("VM Periodic Tas", Some(Duty::Upkeep)),
            ("java", None),
            ("main", None),
            ("Zookeeper", None),
            ("G1000-worker", None),
            ("http-nio-8080-e", None),
            ("Signal Dispatch", None),
        ] {
            assert_eq!(Duty::of(name), expected, "{name}");
        }
    }

    #[test]
    fn the_time_of_a_process_without_such_threads_is_all_javas() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut accountant = Accountant::new(own);
        let begun = std::time::Instant::now();
        let mut sum: u64 = 0;
        let mut used = Account::default();
        while used.java.total_ns() == 0 {
            for n in 0..1_000_000 {
                sum = sum.wrapping_mul(31).wrapping_add(n);
            }
            used = accountant.take();
            assert!(begun.elapsed().as_secs() < 60, "no tick was counted {sum}");
        }
        assert_eq!(used.duties, [Used::default(); 3]);
    }
}
