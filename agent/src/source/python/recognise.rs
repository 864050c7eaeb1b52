//! Whether a process runs CPython. Pure, but for the two doors at the end.
//!
//! A program that contains the interpreter, or is linked with it, has one of
//! its entry points among its dynamic symbols: no process can lack it, not
//! even one that has just begun. A program that loads it later has the library
//! mapped from then on. Neither says that the interpreter is ready.

use std::collections::BTreeSet;
use std::io;

use object::read::elf::{FileHeader, SectionHeader};
use object::{Object, ObjectSymbol};

use crate::symbolize::binary::map_regular;
use crate::symbolize::maps::{self, Mapped, Mapping};

/// Entry points of the interpreter; a program has or wants one of them.
const ENTRY_POINTS: [&[u8]; 5] = [
    b"Py_BytesMain",
    b"Py_Initialize",
    b"Py_InitializeFromConfig",
    b"Py_Main",
    b"Py_RunMain",
];
/// Most dynamic symbols that are looked at.
const MAX_SYMBOLS: usize = 1 << 20;

/// Most symbols of a file that is read whole; CPython has some 20,000.
const MAX_TABLE_SYMBOLS: u64 = 1 << 20;
/// Largest part of memory that is searched; CPython's is below a megabyte.
const MAX_SEARCHED_BYTES: u64 = 64 << 20;

type Elf = object::elf::FileHeader64<object::Endianness>;

/// Whether a program with this content contains CPython or is linked with it.
pub(super) fn is_interpreter(executable: &[u8]) -> bool {
    let Ok(object) = object::File::parse(executable) else {
        return false;
    };
    let mut symbols = object.dynamic_symbols().take(MAX_SYMBOLS);
    symbols.any(|symbol| {
        symbol
            .name_bytes()
            .is_ok_and(|name| ENTRY_POINTS.contains(&name))
    })
}

/// The first of `mappings` that is CPython's library.
pub(super) fn library(mappings: &[Mapping]) -> Option<&str> {
    mappings.iter().find_map(|mapping| match &mapping.what {
        Mapped::File { path, .. } if is_library(path) => Some(path.as_str()),
        Mapped::File { .. } | Mapped::Vdso | Mapped::Other(_) => None,
    })
}

/// Whether a file is called like `libpython3.11.so.1.0`, with or without
/// letters for the kind of build.
fn is_library(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let Some((version, _)) = name
        .strip_prefix("libpython")
        .and_then(|rest| rest.split_once(".so"))
    else {
        return false;
    };
    let Some((major, minor)) = version.split_once('.') else {
        // `libpython3.so` only leads to the one with the whole version.
        return false;
    };
    let minor = minor.trim_end_matches(['d', 'm', 't', 'u']);
    let is_number =
        |text: &str| (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    is_number(major) && is_number(minor)
}

/// Whether a file can be read whole without its own numbers making that take
/// more memory than CPython ever does.
pub(super) fn is_modest(file: &[u8]) -> bool {
    let read = || -> object::read::Result<bool> {
        let header = Elf::parse(file)?;
        let endian = header.endian()?;
        let sections = header.sections(endian, file)?;
        let mut symbols: u64 = 0;
        let mut is_modest = true;
        for section in sections.iter() {
            let bytes = section.sh_size(endian);
            match section.sh_type(endian) {
                object::elf::SHT_SYMTAB | object::elf::SHT_DYNSYM => {
                    let entry = u64::try_from(size_of::<object::elf::Sym64<object::Endianness>>())
                        .unwrap_or(1);
                    symbols = symbols.saturating_add(bytes / entry);
                }
                object::elf::SHT_NOBITS => is_modest &= bytes <= MAX_SEARCHED_BYTES,
                _ if sections.section_name(endian, section) == Ok(b".PyRuntime") => {
                    is_modest &= bytes <= MAX_SEARCHED_BYTES;
                }
                _ => {}
            }
        }
        Ok(is_modest && symbols <= MAX_TABLE_SYMBOLS)
    };
    read().unwrap_or(false)
}

/// Whether process `pid` runs CPython.
///
/// # Errors
///
/// If the process is gone or not ours to read.
pub(super) fn runs_cpython(pid: i32) -> io::Result<bool> {
    if is_interpreter(map_regular(&format!("/proc/{pid}/exe"))?.as_ref()) {
        return Ok(true);
    }
    Ok(library(&maps::read(pid)?).is_some())
}

/// Paths of `mappings` that the reader of interpreters may open: those that are
/// called like CPython's library anywhere. `None` if one of them leads elsewhere
/// or is called so in an odd place, so that it may not be what is checked here.
fn opened(mappings: &[Mapping]) -> Option<BTreeSet<&str>> {
    let mut paths = BTreeSet::new();
    for mapping in mappings {
        let Mapped::File { path, deleted } = &mapping.what else {
            continue;
        };
        if !path.contains("/libpython") || path.ends_with("/libpython3.so") {
            continue;
        }
        if *deleted || !is_library(path) {
            return None;
        }
        paths.insert(path.as_str());
    }
    Some(paths)
}

/// Whether the files of CPython in process `pid` can be read whole.
///
/// # Errors
///
/// If the process is gone or not ours to read.
pub(super) fn has_modest_files(pid: i32) -> io::Result<bool> {
    let mappings = maps::read(pid)?;
    let Some(paths) = opened(&mappings) else {
        return Ok(false);
    };
    for path in paths {
        if !is_modest(map_regular(&format!("/proc/{pid}/root{path}"))?.as_ref()) {
            return Ok(false);
        }
    }
    Ok(is_modest(
        map_regular(&format!("/proc/{pid}/exe"))?.as_ref(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_library_is_known_by_its_name() {
        for (path, expected) in [
            ("/usr/lib/libpython3.11.so.1.0", true),
            ("/tmp/_MEI1/libpython2.7.so", true),
            ("/opt/lib/libpython3.7m.so.1.0", true),
            ("/opt/lib/libpython3.13t.so.1.0", true),
            ("libpython3.9d.so", true),
            ("/usr/lib/libpython3.so", false),
            ("/usr/lib/libpython3.11.a", false),
            ("/usr/lib/libboost_python311.so", false),
            ("/libpython3.11.so/other", false),
            ("/libpython.so", false),
            ("/libpython3.x.so", false),
            ("/libpython3.111.so", false),
            ("", false),
        ] {
            assert_eq!(is_library(path), expected, "{path}");
            let maps = format!("7f00-7f01 r-xp 00000000 08:01 7          {path}\n");
            let found = library(&maps::parse(&maps)).is_some();
            assert_eq!(found, expected && path.starts_with('/'), "{path}");
        }
    }

    #[test]
    fn a_library_that_leads_elsewhere_is_not_opened() {
        let of = |paths: &[&str]| {
            let lines = paths
                .iter()
                .map(|path| format!("7f00-7f01 r-xp 0 08:01 7 {path}\n"));
            let mappings = maps::parse(&lines.collect::<String>());
            opened(&mappings).map(|paths| paths.len())
        };
        let real = "/usr/lib/libpython3.11.so.1.0";
        assert_eq!(of(&[real, real, "/usr/lib/libc.so.6"]), Some(1));
        assert_eq!(of(&[real, "/usr/lib/libpython3.so"]), Some(1));
        assert_eq!(of(&["/opt/libpython3.9.so", real]), Some(2));
        assert_eq!(of(&["/tmp/libpython3.11.so (deleted)"]), None);
        assert_eq!(of(&[real, "/x/libpython3.11.so/y"]), None);
        assert_eq!(of(&[]), Some(0));
    }

    #[test]
    fn a_program_is_known_by_the_interpreter_s_entry_points() {
        let python = Command::new("python3")
            .args(["-c", "import os; print(os.readlink('/proc/self/exe'))"])
            .output()
            .expect("python3 is needed: apt-get install -y python3");
        let path = String::from_utf8(python.stdout).unwrap();
        let python = std::fs::read(path.trim()).unwrap();
        assert!(is_interpreter(&python) && is_modest(&python));
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(!is_interpreter(&own));
        assert!(!is_interpreter(b"#!/usr/bin/python3\n") && !is_modest(b"#!"));
    }

    #[test]
    fn a_part_that_claims_to_be_huge_is_not_read() {
        let shell = std::fs::read("/bin/sh").unwrap();
        assert!(is_modest(&shell));
        let header = Elf::parse(&*shell).unwrap();
        let endian = header.endian().unwrap();
        let sections = header.sections(endian, &*shell).unwrap();
        let (index, _) = sections
            .enumerate()
            .find(|(_, section)| section.sh_type(endian) == object::elf::SHT_NOBITS)
            .expect("a program has memory without content");
        let table = usize::try_from(header.e_shoff(endian)).unwrap();
        // `sh_size` is at byte 32 of the 64 of a section's header.
        let at = table + index.0 * 64 + 32;
        let mut forged = shell.clone();
        forged[at..at + 8].copy_from_slice(&(1u64 << 40).to_le_bytes());
        assert!(!is_modest(&forged));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2000), at in 0usize..3000) {
            let shell = std::fs::read("/bin/sh").unwrap();
            let mut damaged = shell[..at.min(shell.len())].to_vec();
            damaged.extend_from_slice(&bytes);
            for text in [&bytes, &damaged] {
                is_interpreter(text);
                is_modest(text);
            }
        }
    }

    use std::process::Command;
}
