//! What `/proc` says of one process, read with as few system calls as do.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use procfs::FromRead;
use procfs::process::Stat;
use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};

/// Flag of a kernel thread in `/proc/PID/stat` (`PF_KTHREAD`, linux/sched.h).
const KERNEL_THREAD: u32 = 0x0020_0000;
/// Longest command line that is kept, in bytes.
const MAX_COMMAND_BYTES: u64 = 32 * 1024;

/// One read of `/proc/PID/stat`.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// Parent's id.
    pub(super) parent: i32,
    /// Short name.
    pub(super) short_name: String,
    /// Ended, but not yet collected by its parent.
    pub(super) is_zombie: bool,
    /// A thread of the kernel.
    pub(super) is_kernel: bool,
    /// Start, in clock ticks since boot.
    pub(super) start_ticks: u64,
    /// CPU time of its own, in clock ticks.
    pub(super) own_ticks: u64,
    /// CPU time of its ended and collected children, in clock ticks.
    pub(super) children_ticks: u64,
    /// Threads.
    pub(super) threads_count: u32,
    /// Resident memory, in pages.
    pub(super) rss_pages: u64,
}

fn unsigned(ticks: i64) -> u64 {
    u64::try_from(ticks).unwrap_or(0)
}

/// Reads process `pid`; nothing if it is gone.
pub(super) fn read(pid: i32) -> Option<Reading> {
    let stat = Stat::from_file(format!("/proc/{pid}/stat")).ok()?;
    Some(Reading {
        parent: stat.ppid,
        is_zombie: matches!(stat.state, 'Z' | 'X' | 'x'),
        is_kernel: stat.flags & KERNEL_THREAD != 0,
        start_ticks: stat.starttime,
        own_ticks: stat.utime.saturating_add(stat.stime),
        children_ticks: unsigned(stat.cutime).saturating_add(unsigned(stat.cstime)),
        threads_count: u32::try_from(stat.num_threads).unwrap_or(0),
        rss_pages: stat.rss,
        short_name: stat.comm,
    })
}

/// The arguments of process `pid`, empty for kernel threads and zombies.
pub(crate) fn command_line(pid: i32) -> Vec<String> {
    let mut bytes = Vec::new();
    // A process may show as much memory there as it likes.
    let read = fs::File::open(format!("/proc/{pid}/cmdline"))
        .and_then(|file| file.take(MAX_COMMAND_BYTES).read_to_end(&mut bytes));
    if read.is_err() {
        return Vec::new();
    }
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes
        .split(|byte| *byte == 0)
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

/// The name a person would call the process by: its first argument without
/// folder, or the short name.
pub(super) fn display_name(arguments: &[String], short_name: &str) -> String {
    arguments
        .first()
        .and_then(|first| first.split_whitespace().next())
        .and_then(|first| first.rsplit('/').next())
        // A login shell is called "-sh", a server may call itself "name:".
        .map(|name| name.trim_start_matches('-').trim_end_matches(':'))
        .filter(|name| !name.is_empty())
        .unwrap_or(short_name)
        .to_owned()
}

/// What a person would call process `pid`; `[gone]` if it is.
pub(crate) fn name(pid: i32) -> String {
    let short_name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let short_name = String::from_utf8_lossy(&short_name);
    match display_name(&command_line(pid), short_name.trim_end()) {
        name if name.is_empty() => "[gone]".to_owned(),
        name => name,
    }
}

/// Ids of all processes of this PID namespace.
pub(super) fn list() -> std::io::Result<Vec<i32>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let id: Option<i32> = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        ids.extend(id.filter(|id| *id > 0));
    }
    Ok(ids)
}

/// Device and inode of a program file, which name it across namespaces.
pub(crate) fn program(exe: &Path) -> Option<(u64, u64)> {
    // What the kernel knows is enough: a file system may not answer.
    let found = statx(
        CWD,
        exe,
        AtFlags::STATX_DONT_SYNC,
        StatxFlags::INO | StatxFlags::TYPE,
    );
    found.ok().map(|found| {
        let device = makedev(found.stx_dev_major, found.stx_dev_minor);
        (device, found.stx_ino)
    })
}

/// Where `/proc` shows the program file of `pid`.
pub(crate) fn exe(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/exe"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_called_by_its_program() {
        let check = |arguments: &[&str], short: &str, expected: &str| {
            let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
            assert_eq!(display_name(&arguments, short), expected);
        };
        check(&["/usr/bin/logger", "-x"], "logger", "logger");
        check(&["-bash"], "bash", "bash");
        check(&["nginx: master process"], "nginx", "nginx");
        check(&[], "kworker", "kworker");
        check(&["/"], "odd", "odd");
    }

    #[test]
    fn the_own_process_is_readable() {
        let own = i32::try_from(std::process::id()).unwrap();
        let reading = read(own).unwrap();
        assert!(!reading.is_zombie && !reading.is_kernel);
        assert!(reading.threads_count >= 1 && reading.rss_pages > 0);
        assert!(list().unwrap().contains(&own));
        assert_eq!(command_line(own), std::env::args().collect::<Vec<_>>());
        assert_eq!(name(own), display_name(&command_line(own), ""));
        assert_eq!(name(-1), "[gone]");
    }
}
