//! What lies where in a process: `/proc/PID/maps`, executable parts only.
//!
//! Format: `man 5 proc_pid_maps`. Lines that cannot be read are left out.

use std::fs::File;
use std::io::{self, Read};

/// Most bytes read of a process's list of mappings.
const MAX_MAPS_BYTES: u64 = 32 << 20;
/// Most executable mappings of one process.
const MAX_MAPPINGS: usize = 16 * 1024;

/// What a mapping shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mapped {
    /// A file.
    File {
        /// Its path as the process sees it.
        path: String,
        /// Whether that path leads to it no longer.
        deleted: bool,
    },
    /// The kernel's code for processes.
    Vdso,
    /// Memory without a file, such as that of a just-in-time compiler, with
    /// the name it has, if any.
    Other(String),
}

/// One executable part of a process's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// First address.
    pub(crate) start: u64,
    /// First address after it.
    pub(crate) end: u64,
    /// Offset in the file of its first byte.
    pub(crate) offset: u64,
    /// Inode of the file; 0 without a file.
    pub(crate) inode: u64,
    /// What it shows.
    pub(crate) what: Mapped,
}

/// Reads the executable mappings of process `pid`, in order of addresses.
///
/// # Errors
///
/// If the process is gone or not ours to read.
pub(crate) fn read(pid: i32) -> io::Result<Vec<Mapping>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/maps"))?
        .take(MAX_MAPS_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(parse(&String::from_utf8_lossy(&bytes)))
}

/// Returns the executable mappings of `text`, in order of addresses.
pub(crate) fn parse(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = text.lines().filter_map(line).take(MAX_MAPPINGS).collect();
    mappings.sort_by_key(|mapping| mapping.start);
    mappings
}

fn line(text: &str) -> Option<Mapping> {
    let (range, rest) = text.split_once(' ')?;
    let (permissions, rest) = rest.split_once(' ')?;
    if !permissions.contains('x') {
        return None;
    }
    let (offset, rest) = rest.split_once(' ')?;
    let (_device, rest) = rest.split_once(' ')?;
    let (inode, path) = rest.split_once(' ').unwrap_or((rest, ""));
    let (start, end) = range.split_once('-')?;
    let mapping = Mapping {
        start: hex(start)?,
        end: hex(end)?,
        offset: hex(offset)?,
        inode: inode.parse().ok()?,
        what: mapped(path.trim_start()),
    };
    (mapping.start < mapping.end).then_some(mapping)
}

fn mapped(path: &str) -> Mapped {
    const DELETED: &str = " (deleted)";
    // Such files exist in memory only: a just-in-time compiler's, or shared.
    let unnamed = [
        "/memfd:",
        "/dev/zero",
        "/dev/shm/",
        "/SYSV",
        "/anon_hugepage",
    ]
    .iter()
    .any(|start| path.starts_with(start));
    if unnamed || !path.starts_with('/') {
        return match path {
            "[vdso]" => Mapped::Vdso,
            _ => Mapped::Other(path.to_owned()),
        };
    }
    match path.strip_suffix(DELETED) {
        Some(before) => Mapped::File {
            path: before.to_owned(),
            deleted: true,
        },
        None => Mapped::File {
            path: path.to_owned(),
            deleted: false,
        },
    }
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kind_of_line_is_told_apart() {
        let text = "\
55d0c0000000-55d0c0001000 r--p 00000000 fe:00 42                         /usr/bin/a b
55d0c0001000-55d0c0002000 r-xp 00001000 fe:00 42                         /usr/bin/a b
7f0000000000-7f0000001000 r-xp 00000000 fe:00 43                         /lib/x.so (deleted)
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]
7f1000000000-7f1000001000 rwxp 00000000 00:00 0
7f2000000000-7f2000001000 rwxp 00000000 00:00 0                          [anon:v8]
7f3000000000-7f3000001000 r-xp 00000000 00:01 7                          /memfd:jit (deleted)
nonsense
7f4000001000-7f4000001000 r-xp 00000000 00:00 0
";
        let what: Vec<_> = parse(text)
            .into_iter()
            .map(|m| (m.offset, m.what))
            .collect();
        let file = |path: &str, deleted| Mapped::File {
            path: path.to_owned(),
            deleted,
        };
        let other = |name: &str| Mapped::Other(name.to_owned());
        assert_eq!(
            what,
            [
                (0x1000, file("/usr/bin/a b", false)),
                (0, file("/lib/x.so", true)),
                (0, other("")),
                (0, other("[anon:v8]")),
                (0, other("/memfd:jit (deleted)")),
                (0, Mapped::Vdso),
            ]
        );
    }

    #[test]
    fn our_own_mappings_hold_our_own_code() {
        let mappings = read(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(mappings.iter().any(|m| m.what == Mapped::Vdso));
        assert!(mappings.is_sorted_by_key(|m| m.start));
    }

    proptest! {
        #[test]
        fn no_lines_are_too_much(
            lines in prop::collection::vec(
                prop_oneof![
                    "\\PC{0,60}",
                    "[0-9a-f]{0,18}-[0-9a-f]{0,18} [rwxp-]{0,4} [0-9a-f]{0,18} [0-9:]{0,5} [0-9]{0,22} {0,9}[/\\[\\]a-z() ]{0,20}",
                ],
                0..20,
            ),
        ) {
            let mappings = parse(&lines.join("\n"));
            prop_assert!(mappings.iter().all(|mapping| mapping.start < mapping.end));
            prop_assert!(mappings.is_sorted_by_key(|mapping| mapping.start));
        }
    }
}
