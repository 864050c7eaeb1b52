//! Names that a just-in-time compiler writes to `/tmp/perf-PID.map`.
//!
//! Format: one `START SIZE name` per line, numbers in hexadecimal
//! (`tools/perf/Documentation/jit-interface.txt` of Linux). Promises: nothing
//! but a regular file below the process's own root is read, and of that no
//! more than [`MAX_MAP_BYTES`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

/// Most bytes read of such a file: a busy Node service writes some megabytes.
const MAX_MAP_BYTES: u64 = 16 << 20;
/// Most names kept of one file.
const MAX_NAMES: usize = 256 * 1024;

/// Names of a process's compiled functions, as last read.
#[derive(Debug, Default)]
pub(crate) struct PerfMap {
    /// In order of addresses; of two with one start the later line comes last.
    names: Vec<Name>,
    text: String,
    version: Option<(u64, u64, i64, i64)>,
}

/// A range of addresses and where its name stands in the text.
#[derive(Clone, Copy, Debug)]
struct Name {
    start: u64,
    end: u64,
    at: (usize, usize),
}

impl PerfMap {
    /// Reads the file of process `pid` if it changed since. A process that has
    /// none, or is gone, keeps the names that are known.
    pub(crate) fn refresh(&mut self, pid: i32) {
        if let Err(error) = self.read(pid) {
            tracing::trace!(pid, %error, "no perf map");
        }
    }

    fn read(&mut self, pid: i32) -> io::Result<()> {
        let (file, version) = open(pid)?;
        if self.version == Some(version) {
            return Ok(());
        }
        let mut bytes = Vec::new();
        file.take(MAX_MAP_BYTES).read_to_end(&mut bytes)?;
        *self = Self::parse(String::from_utf8_lossy(&bytes).into_owned());
        self.version = Some(version);
        Ok(())
    }

    fn parse(text: String) -> Self {
        let mut names = Vec::new();
        let mut at = 0;
        for line in text.split_inclusive('\n').take(MAX_NAMES) {
            names.extend(name(line, at));
            at += line.len();
        }
        names.sort_by_key(|name| name.start);
        Self {
            names,
            text,
            version: None,
        }
    }

    /// The name of the function at `address`.
    pub(crate) fn name_at(&self, address: u64) -> Option<&str> {
        let after = self.names.partition_point(|name| name.start <= address);
        let name = self.names.get(after.checked_sub(1)?)?;
        let (from, to) = name.at;
        (address < name.end).then(|| self.text.get(from..to))?
    }
}

fn name(line: &str, line_at: usize) -> Option<Name> {
    let (start, rest) = line.split_once(' ')?;
    let (size, text) = rest.split_once(' ')?;
    let start = hex(start)?;
    let from = line_at + (line.len() - text.len());
    let trimmed = text.trim_end();
    Some(Name {
        start,
        end: start.checked_add(hex(size)?)?,
        at: (from, from + trimmed.len()),
    })
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

fn open(pid: i32) -> io::Result<(File, (u64, u64, i64, i64))> {
    let inner = pid_inside(pid)?;
    // Not blocking and not through a link: the target chooses what lies there.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(format!("/proc/{pid}/root/tmp/perf-{inner}.map"))?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let version = (
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    );
    Ok((file, version))
}

/// The process's id as it sees itself: its innermost PID namespace.
fn pid_inside(pid: i32) -> io::Result<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let inner = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .and_then(|ids| ids.split_whitespace().next_back())
        .and_then(|id| id.parse().ok());
    Ok(inner.unwrap_or(pid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_cover_their_range_and_the_latest_line_wins() {
        let map = PerfMap::parse(
            "1000 100 LazyCompile:~spin /app/a.js:1\n\
             nonsense\n\
             0x2000 10 old\n\
             2000 20 new name\n\
             ffffffffffffffff 2 too far\n\
             3000 8 last"
                .to_owned(),
        );
        for (address, expected) in [
            (0xfff, None),
            (0x1000, Some("LazyCompile:~spin /app/a.js:1")),
            (0x10ff, Some("LazyCompile:~spin /app/a.js:1")),
            (0x1100, None),
            (0x2018, Some("new name")),
            (0x3007, Some("last")),
            (0x3008, None),
            (u64::MAX, None),
        ] {
            assert_eq!(map.name_at(address), expected, "{address:#x}");
        }
    }

    #[test]
    fn a_process_without_a_file_has_no_names() {
        let mut map = PerfMap::default();
        map.refresh(i32::try_from(std::process::id()).unwrap());
        assert_eq!(map.name_at(0x1000), None);
    }

    proptest! {
        #[test]
        fn no_lines_are_too_much(
            lines in prop::collection::vec(
                prop_oneof!["\\PC{0,40}", "(0x)?[0-9a-f]{0,17} [0-9a-f]{0,17} [\\PC]{0,12}"],
                0..20,
            ),
            addresses in prop::collection::vec(any::<u64>(), 0..20),
        ) {
            let map = PerfMap::parse(lines.join("\n"));
            let starts = map.names.iter().map(|name| name.start);
            for address in starts.chain(addresses) {
                if let Some(name) = map.name_at(address) {
                    prop_assert!(map.text.contains(name));
                }
            }
        }
    }
}
