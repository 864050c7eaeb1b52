//! What a process used, as the kernel counts it, and which core it runs on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::thread::CpuSet;

/// Bytes of the blocks that `stat` counts (`st_blocks`, POSIX).
const BLOCK_BYTES: u64 = 512;

/// What a process used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all its threads, ended ones included.
    pub cpu: Duration,
    /// Resident memory now.
    pub rss_bytes: u64,
    /// The most it ever was.
    pub peak_rss_bytes: u64,
}

/// Reads what process `pid` used, from `/proc` (proc(5)).
///
/// # Errors
///
/// When there is no such process.
pub fn usage(pid: u32) -> anyhow::Result<Usage> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    let (rss_bytes, peak_rss_bytes) = memory(&read("status")?);
    Ok(Usage {
        cpu: own_time(&read("stat")?).context("/proc/PID/stat is not as proc(5) says")?,
        rss_bytes,
        peak_rss_bytes,
    })
}

/// CPU time of this process's children that ended and were waited for.
///
/// # Errors
///
/// When `/proc` cannot be read.
pub fn children_time() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").context("cannot read /proc/self/stat")?;
    ticks(&stat, 15).context("/proc/self/stat is not as proc(5) says")
}

/// `utime` and `stime`, fields 14 and 15.
fn own_time(stat: &str) -> Option<Duration> {
    ticks(stat, 13)
}

/// The sum of the two fields after the first `skipped`, as a time.
fn ticks(stat: &str, skipped: usize) -> Option<Duration> {
    // The second field is the name in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(skipped - 2);
    let sum = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_nanos(
        sum.saturating_mul(1_000_000_000 / per_second),
    ))
}

/// `VmRSS` and `VmHWM` in bytes.
fn memory(status: &str) -> (u64, u64) {
    let field = |name: &str| -> u64 {
        status
            .lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .strip_suffix(" kB")?
                    .trim()
                    .parse::<u64>()
                    .ok()
            })
            .map_or(0, |kib| kib * 1024)
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Bytes that `folder` takes on disk, as `du` counts them. A file that goes
/// away meanwhile counts nothing.
pub fn disk_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let entries = entries.flatten().map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => disk_bytes(&entry.path()),
        Ok(found) => found.blocks() * BLOCK_BYTES,
        Err(_gone) => 0,
    });
    entries.sum()
}

/// How many cores this process may run on.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Core of a measured server, when there are two.
pub const SERVER_CORE: usize = 0;
/// Core of the generator, when there are two.
pub const GENERATOR_CORE: usize = 1;

/// Puts this process on its core, before it has other threads, and returns the
/// core that is left for the server; nothing when there is only one.
///
/// # Errors
///
/// When a core is not this process's to use.
pub fn take_generator_core() -> anyhow::Result<Option<usize>> {
    if cores() < 2 {
        return Ok(None);
    }
    pin(GENERATOR_CORE)?;
    Ok(Some(SERVER_CORE))
}

/// Ends process `pid` as `kill -9` does.
///
/// # Errors
///
/// When there is no such process.
pub fn kill(pid: u32) -> anyhow::Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let pid = pid.context("that is no process id")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)
        .context("cannot kill the process")
}

/// Keeps this thread, and the threads it will start, on core number `core`.
/// Call it before there are others.
///
/// # Errors
///
/// When the core is not this process's to use.
pub fn pin(core: usize) -> anyhow::Result<()> {
    if core >= CpuSet::MAX_CPU {
        bail!("there is no core {core}");
    }
    let mut set = CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set)
        .with_context(|| format!("cannot stay on core {core}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_moves_no_field() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 250 50 7 3 20 0";
        let stat = format!("42 (a) (b c) {fields}");
        let per_second = rustix::param::clock_ticks_per_second();
        let second = |ticks: u64| Duration::from_nanos(ticks * (1_000_000_000 / per_second));
        assert_eq!(own_time(&stat), Some(second(300)));
        assert_eq!(ticks(&stat, 15), Some(second(10)));
        assert_eq!(own_time("42 (x) S 1"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(memory(status), (1 << 20, 2 << 20));
        assert_eq!(memory(""), (0, 0));
    }

    #[test]
    fn this_process_uses_memory() {
        let used = usage(std::process::id()).unwrap();
        assert!(used.rss_bytes > 0 && used.peak_rss_bytes >= used.rss_bytes);
    }

    #[test]
    fn folders_count_with_what_is_below() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("below")).unwrap();
        fs::write(folder.path().join("below/file"), vec![7; 100_000]).unwrap();
        assert!(disk_bytes(folder.path()) >= 100_000);
        assert_eq!(disk_bytes(&folder.path().join("absent")), 0);
    }
}
