//! Which threads of a process run, as the kernel sees it.
//!
//! A thread that waits for a CPU counts as running; the process's CPU clock
//! decides how much running there was.

use std::fs::File;
use std::io::{self, Read};

/// Most threads of a process that are looked at.
const MAX_THREADS: usize = 4096;
/// Enough of `/proc/PID/task/TID/stat` to hold the state: the name before it
/// has at most 64 bytes.
const STAT_BYTES: usize = 256;

/// The threads of a process at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Threads {
    /// Ids of those that run, in this PID namespace.
    pub(super) running: Vec<i32>,
    /// Ids of all of them.
    pub(super) all: Vec<i32>,
}

/// Looks at the threads of process `pid`.
///
/// # Errors
///
/// If the process is gone.
pub(super) fn look(pid: i32) -> io::Result<Threads> {
    let mut threads = Threads::default();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))?.take(MAX_THREADS) {
        let name = entry?.file_name();
        let Some(tid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        threads.all.push(tid);
        if is_running(pid, tid) {
            threads.running.push(tid);
        }
    }
    Ok(threads)
}

fn is_running(pid: i32, tid: i32) -> bool {
    let mut buffer = [0; STAT_BYTES];
    let read = File::open(format!("/proc/{pid}/task/{tid}/stat"))
        .and_then(|mut file| file.read(&mut buffer));
    // A thread that has ended meanwhile does not run.
    let length = read.unwrap_or(0);
    state(buffer.get(..length).unwrap_or_default()) == Some(b'R')
}

/// The state in a thread's `stat`, whose name may hold anything.
fn state(stat: &[u8]) -> Option<u8> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    match stat.get(end + 1..)? {
        [b' ', state, ..] => Some(*state),
        _ => None,
    }
}

/// Ids of threads as their process knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbering {
    /// Those of this PID namespace.
    Ours,
    /// Those of a namespace within this one.
    Theirs,
}

impl Numbering {
    /// That of process `pid`.
    pub(super) fn of(pid: i32) -> Self {
        let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/pid")).ok();
        match (namespace("self"), namespace(&pid.to_string())) {
            (Some(own), Some(theirs)) if own != theirs => Self::Theirs,
            _ => Self::Ours,
        }
    }

    /// What thread `tid` of process `pid` calls itself; 0 if that is unknown.
    pub(super) fn own_id(self, pid: i32, tid: i32) -> i32 {
        match self {
            Self::Ours => tid,
            Self::Theirs => std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status"))
                .ok()
                .and_then(|status| innermost_id(&status))
                .unwrap_or(0),
        }
    }
}

/// The last number of the line `NSpid:`.
fn innermost_id(status: &str) -> Option<i32> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_state_stands_behind_a_name_that_may_hold_anything() {
        for (stat, expected) in [
            (&b"83 (python3) R 1 19"[..], Some(b'R')),
            (b"83 (a) S ) R (b) S 1 19", Some(b'S')),
            (b"83 (\xc3\x28) t 1", Some(b't')),
            (b"83 (cut", None),
            (b"83 (cut)", None),
            (b"83 (cut) ", None),
            (b"83 (odd)S 1", None),
            (b"", None),
        ] {
            assert_eq!(state(stat), expected, "{}", String::from_utf8_lossy(stat));
        }
    }

    #[test]
    fn threads_that_wait_do_not_run() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (send, wait) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get())
                .unwrap();
            wait.recv().unwrap();
        });
        let waits = told.recv().unwrap();
        let runs = rustix::thread::gettid().as_raw_nonzero().get();
        // The other thread may not wait yet, but it does so in the end.
        let threads = std::iter::repeat_with(|| look(own).unwrap())
            .find(|threads| !threads.running.contains(&waits))
            .unwrap();
        assert!(threads.running.contains(&runs) && threads.all.contains(&waits));
        send.send(()).unwrap();
        waiting.join().unwrap();
        assert_eq!(Numbering::of(own), Numbering::Ours);
        assert_eq!(Numbering::Ours.own_id(own, runs), runs);
        assert_eq!(Numbering::Theirs.own_id(own, runs), runs);
    }

    #[test]
    fn the_innermost_id_is_the_last() {
        for (status, expected) in [
            ("Name:\tx\nNSpid:\t4711\t7\nUid:\t0\n", Some(7)),
            ("NSpid:\t4711\n", Some(4711)),
            ("NSpid:\n", None),
            ("NSpid:\tx\n", None),
            ("", None),
        ] {
            assert_eq!(innermost_id(status), expected, "{status:?}");
        }
    }

    proptest! {
        #[test]
        fn no_files_are_too_much(
            stat in prop::collection::vec(prop_oneof![Just(b')'), Just(b' '), any::<u8>()], 0..80),
            status in prop_oneof!["\\PC{0,60}", "NSpid:[\t 0-9]{0,30}\n"],
        ) {
            state(&stat);
            innermost_id(&status);
        }
    }
}
