//! The programs and libraries that processes have mapped.
//!
//! Promises: each file is opened and mapped once however many processes use
//! it, and stays open, so that samples can be symbolized after the process is
//! gone. A file that cannot be opened still has a name. Only regular files are
//! opened.
//!
//! Leaves to others: what the code at an offset is called.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use object::read::elf::{FileHeader, ProgramHeader};
use object::{Object, ObjectSection, ObjectSymbol};
use rustc_hash::FxHashMap;

use super::gopclntab::GoTable;
use super::maps::{Mapped, Mapping};
use crate::sys::map::MappedFile;

/// Rounds for which a file nobody uses is kept open.
const KEPT_ROUNDS: u64 = 6;
/// Most bytes of the vDSO; it has a few pages.
const MAX_VDSO_BYTES: u64 = 1 << 20;
/// Most build id bytes; common ones have 8 to 32.
const MAX_BUILD_ID_BYTES: usize = 64;

/// Names a file as long as it is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BinaryId(u32);

/// A file's bytes.
#[derive(Clone, Debug)]
pub(crate) struct Image(Arc<ImageBytes>);

#[derive(Debug)]
enum ImageBytes {
    Mapped(MappedFile),
    Owned(Vec<u8>),
}

impl AsRef<[u8]> for Image {
    fn as_ref(&self) -> &[u8] {
        match &*self.0 {
            ImageBytes::Mapped(file) => file.as_ref(),
            ImageBytes::Owned(bytes) => bytes,
        }
    }
}

/// One part of a file that is loaded into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    offset: u64,
    size: u64,
    address: u64,
    executable: bool,
}

/// A program or library.
#[derive(Debug)]
pub(crate) struct Binary {
    id: BinaryId,
    name: String,
    content: Option<Content>,
}

#[derive(Debug)]
struct Content {
    /// Keeps the file reachable by a path; the vDSO has none.
    file: Option<File>,
    image: Image,
    segments: Vec<Segment>,
    build_id: String,
    go_table: OnceLock<Option<GoTable>>,
    debug_directories: Vec<PathBuf>,
}

impl Binary {
    /// What it is called in this process.
    pub(crate) fn id(&self) -> BinaryId {
        self.id
    }

    /// Last part of its path.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its build id in hexadecimal; empty if it has none.
    pub(crate) fn build_id(&self) -> &str {
        self.content
            .as_ref()
            .map_or("", |content| &content.build_id)
    }

    /// A path that leads to it as long as it is kept, even when it was deleted
    /// or the process that had it is gone.
    pub(crate) fn readable_path(&self) -> Option<PathBuf> {
        let file = self.content.as_ref()?.file.as_ref()?;
        Some(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())))
    }

    /// Where separate debug data of it may lie.
    pub(crate) fn debug_directories(&self) -> &[PathBuf] {
        self.content
            .as_ref()
            .map_or(&[], |content| &content.debug_directories)
    }

    /// Its bytes, if it could be opened.
    pub(crate) fn image(&self) -> Option<&Image> {
        Some(&self.content.as_ref()?.image)
    }

    /// The address its symbol table has for the byte at `offset`, if that is
    /// loaded into memory.
    pub(crate) fn address_of(&self, offset: u64) -> Option<u64> {
        address_in(&self.content.as_ref()?.segments, offset)
    }

    /// The address its symbol table has for the first byte of an executable
    /// mapping of the file that begins at `offset`. A mapping begins at a page,
    /// the segment it shows often does not, and what lies before the segment
    /// in that page belongs to another one.
    pub(crate) fn address_of_mapping(&self, offset: u64) -> Option<u64> {
        address_of_mapping(&self.content.as_ref()?.segments, offset)
    }

    /// Go's function table, if it is a Go program.
    pub(crate) fn go_table(&self) -> Option<&GoTable> {
        let content = self.content.as_ref()?;
        let table = content.go_table.get_or_init(|| {
            GoTable::parse(content.image.clone()).unwrap_or_else(|error| {
                tracing::debug!(module = self.name, %error, "cannot read the Go function table");
                None
            })
        });
        table.as_ref()
    }

    /// The dynamic symbol at `offset` of a file that exists in memory only.
    pub(crate) fn own_symbol(&self, offset: u64) -> Option<String> {
        let content = self.content.as_ref()?;
        if content.file.is_some() {
            return None;
        }
        let address = self.address_of(offset)?;
        let object = object::File::parse(content.image.as_ref()).ok()?;
        let symbol = object.dynamic_symbols().find(|symbol| {
            address >= symbol.address() && address - symbol.address() < symbol.size()
        })?;
        Some(symbol.name().ok()?.to_owned())
    }
}

fn address_in(segments: &[Segment], offset: u64) -> Option<u64> {
    segments.iter().find_map(|segment| {
        let within = offset.checked_sub(segment.offset)?;
        (within < segment.size).then(|| segment.address.wrapping_add(within))
    })
}

fn address_of_mapping(segments: &[Segment], offset: u64) -> Option<u64> {
    const PAGE: u64 = 4096;
    let shown = segments.iter().find(|segment| {
        segment.executable
            && offset >= segment.offset & !(PAGE - 1)
            && offset < segment.offset.saturating_add(segment.size)
    })?;
    Some(
        shown
            .address
            .wrapping_sub(shown.offset)
            .wrapping_add(offset),
    )
}

/// What tells files apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    File {
        device: u64,
        inode: u64,
        size: u64,
        modified: (i64, i64),
    },
    Vdso,
    Unreadable(String),
}

/// Every file some process has mapped.
#[derive(Debug, Default)]
pub(crate) struct Binaries {
    known: FxHashMap<Key, Known>,
    by_id: FxHashMap<BinaryId, Arc<Binary>>,
    next_id: u32,
    round: u64,
}

#[derive(Debug)]
struct Known {
    binary: Arc<Binary>,
    used_in_round: u64,
}

impl Binaries {
    /// Returns the file that `mapping` of process `pid` shows, or nothing for
    /// memory that shows no file.
    pub(crate) fn of_mapping(&mut self, pid: i32, mapping: &Mapping) -> Option<Arc<Binary>> {
        let (key, file, name) = match &mapping.what {
            Mapped::File { path, deleted } => match open_mapped(pid, path, *deleted, mapping.inode)
            {
                Ok((file, key)) => (key, Some(file), last_part(path)),
                Err(error) => {
                    tracing::debug!(pid, path, %error, "cannot open a mapped file");
                    (Key::Unreadable(path.clone()), None, last_part(path))
                }
            },
            Mapped::Vdso => (Key::Vdso, None, "[vdso]".to_owned()),
            Mapped::Other(_) => return None,
        };
        let round = self.round;
        if let Some(known) = self.known.get_mut(&key) {
            known.used_in_round = round;
            return Some(Arc::clone(&known.binary));
        }
        let content = match (&key, file) {
            (Key::Vdso, _) => Content::of_vdso(),
            (_, Some(file)) => Content::of_file(file, pid),
            (_, None) => None,
        };
        let id = BinaryId(self.next_id);
        self.next_id = self.next_id.checked_add(1)?;
        let binary = Arc::new(Binary { id, name, content });
        self.by_id.insert(id, Arc::clone(&binary));
        let known = Known {
            binary: Arc::clone(&binary),
            used_in_round: round,
        };
        self.known.insert(key, known);
        Some(binary)
    }

    /// The file called `id`.
    pub(crate) fn get(&self, id: BinaryId) -> Option<Arc<Binary>> {
        self.by_id.get(&id).map(Arc::clone)
    }

    /// Closes files that nobody used for a while. Returns whether there were
    /// any.
    pub(crate) fn end_round(&mut self) -> bool {
        let Self {
            known,
            by_id,
            round,
            ..
        } = self;
        *round += 1;
        let before = known.len();
        known.retain(|_, entry| {
            // One count here, one in `by_id`.
            let in_use = Arc::strong_count(&entry.binary) > 2;
            if in_use {
                entry.used_in_round = *round;
            }
            let keep = *round - entry.used_in_round <= KEPT_ROUNDS;
            if !keep {
                by_id.remove(&entry.binary.id);
            }
            keep
        });
        known.len() < before
    }
}

impl Content {
    fn of_file(file: File, pid: i32) -> Option<Self> {
        let image = Image(Arc::new(ImageBytes::Mapped(MappedFile::new(&file).ok()?)));
        let debug_directories = vec![
            PathBuf::from(format!("/proc/{pid}/root/usr/lib/debug")),
            PathBuf::from("/usr/lib/debug"),
        ];
        Some(Self {
            file: Some(file),
            segments: segments(image.as_ref()),
            build_id: build_id(image.as_ref()),
            image,
            go_table: OnceLock::new(),
            debug_directories,
        })
    }

    /// The vDSO is the same in every 64-bit process: our own serves for all.
    fn of_vdso() -> Option<Self> {
        let bytes = read_vdso()?;
        let image = Image(Arc::new(ImageBytes::Owned(bytes)));
        Some(Self {
            file: None,
            segments: segments(image.as_ref()),
            build_id: build_id(image.as_ref()),
            image,
            go_table: OnceLock::new(),
            debug_directories: Vec::new(),
        })
    }
}

fn read_vdso() -> Option<Vec<u8>> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let mapping = super::maps::parse(&maps)
        .into_iter()
        .find(|mapping| mapping.what == Mapped::Vdso)?;
    let size = mapping.end.checked_sub(mapping.start)?;
    let mut memory = File::open("/proc/self/mem").ok()?;
    memory.seek(SeekFrom::Start(mapping.start)).ok()?;
    let mut bytes = Vec::new();
    memory
        .take(size.min(MAX_VDSO_BYTES))
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

fn open_mapped(pid: i32, path: &str, deleted: bool, inode: u64) -> io::Result<(File, Key)> {
    if !deleted {
        return open_regular(&format!("/proc/{pid}/root{path}"));
    }
    // The program itself can be opened after it was replaced; libraries not.
    let (file, key) = open_regular(&format!("/proc/{pid}/exe"))?;
    if file.metadata()?.ino() != inode {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    Ok((file, key))
}

fn open_regular(path: &str) -> io::Result<(File, Key)> {
    // Not blocking: a path of the target may have become a pipe.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let key = Key::File {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    };
    Ok((file, key))
}

/// Maps the regular file at `path`.
///
/// # Errors
///
/// If it is something else, or cannot be read.
pub(crate) fn map_regular(path: &str) -> io::Result<MappedFile> {
    let (file, _) = open_regular(path)?;
    MappedFile::new(&file)
}

fn last_part(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

type Elf64 = object::elf::FileHeader64<object::Endianness>;

fn segments(bytes: &[u8]) -> Vec<Segment> {
    let read = || -> object::read::Result<Vec<Segment>> {
        let header = Elf64::parse(bytes)?;
        let endian = header.endian()?;
        let loaded = header
            .program_headers(endian, bytes)?
            .iter()
            .filter(|segment| segment.p_type(endian) == object::elf::PT_LOAD)
            .map(|segment| Segment {
                offset: segment.p_offset(endian),
                size: segment.p_filesz(endian),
                address: segment.p_vaddr(endian),
                executable: segment.p_flags(endian) & object::elf::PF_X != 0,
            });
        Ok(loaded.collect())
    };
    read().unwrap_or_default()
}

fn build_id(bytes: &[u8]) -> String {
    let id = object::File::parse(bytes)
        .ok()
        .and_then(|object| object.build_id().ok().flatten().map(<[u8]>::to_vec))
        .unwrap_or_default();
    id.iter()
        .take(MAX_BUILD_ID_BYTES)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Whether a program keeps frame pointers in all of its own code: Go's and
/// Node's do.
pub(crate) fn keeps_frame_pointers(pid: i32) -> io::Result<bool> {
    let image = map_regular(&format!("/proc/{pid}/exe"))?;
    let name = std::fs::read_link(format!("/proc/{pid}/exe"))?;
    if name
        .file_name()
        .is_some_and(|name| name == "node" || name == "nodejs")
    {
        return Ok(true);
    }
    let Ok(object) = object::File::parse(image.as_ref()) else {
        return Ok(false);
    };
    Ok(object.sections().any(|section| {
        matches!(
            section.name(),
            Ok(".gopclntab" | ".go.buildinfo" | ".data.rel.ro.gopclntab")
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offsets_become_the_addresses_of_the_symbol_table() {
        let segments = [
            Segment {
                offset: 0,
                size: 0x500,
                address: 0x40_0000,
                executable: false,
            },
            Segment {
                offset: 0x1000,
                size: 0x800,
                address: 0x40_2000,
                executable: true,
            },
        ];
        for (offset, expected) in [
            (0x10, Some(0x40_0010)),
            (0x500, None),
            (0x1000, Some(0x40_2000)),
            (0x17ff, Some(0x40_27ff)),
            (0x1800, None),
        ] {
            assert_eq!(address_in(&segments, offset), expected);
        }
    }

    #[test]
    fn a_mapping_shows_the_code_that_begins_within_its_first_page() {
        // As lld lays out a Rust program.
        let segments = [
            Segment {
                offset: 0,
                size: 0x99988,
                address: 0,
                executable: false,
            },
            Segment {
                offset: 0x99990,
                size: 0x20_0000,
                address: 0x9_a990,
                executable: true,
            },
        ];
        for (offset, expected) in [
            (0x9_9000, Some(0x9_a000)),
            (0x9_8000, None),
            (0x29_9990, None),
        ] {
            assert_eq!(
                address_of_mapping(&segments, offset),
                expected,
                "{offset:#x}"
            );
        }
    }

    #[test]
    fn the_vdso_is_known_by_its_symbols() {
        let content = Content::of_vdso().expect("a vDSO");
        let object = object::File::parse(content.image.as_ref()).unwrap();
        let names: Vec<_> = object
            .dynamic_symbols()
            .filter_map(|symbol| symbol.name().ok())
            .collect();
        assert!(
            names.iter().any(|name| name.contains("clock_gettime")),
            "{names:?}"
        );
    }

    #[test]
    fn bytes_that_are_no_program_have_no_segments() {
        for bytes in [&b""[..], b"\x7fELF", &[0xff; 100]] {
            assert_eq!(segments(bytes), Vec::new());
            assert_eq!(build_id(bytes), "");
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        assert!(open_regular("/dev/zero").is_err());
        assert!(open_regular("/").is_err());
        assert!(open_regular("/proc/self/exe").is_ok());
    }

    /// The beginning of this program: its headers and notes.
    fn own_beginning() -> Vec<u8> {
        let mut own = vec![0; 4096];
        let mut file = File::open("/proc/self/exe").unwrap();
        file.read_exact(&mut own).unwrap();
        own
    }

    proptest! {
        #[test]
        fn damaged_headers_and_notes_are_survived(
            damage in prop::collection::vec((0_usize..4096, any::<u8>()), 0..40),
            length in 0_usize..4096,
            offset: u64,
        ) {
            let mut bytes = own_beginning();
            for (at, byte) in damage {
                bytes[at] = byte;
            }
            bytes.truncate(length);
            let segments = segments(&bytes);
            address_in(&segments, offset);
            address_of_mapping(&segments, offset);
            prop_assert!(build_id(&bytes).len() <= 2 * MAX_BUILD_ID_BYTES);
        }

        #[test]
        fn noise_behind_the_magic_is_survived(noise in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut bytes = b"\x7fELF\x02\x01\x01\0".to_vec();
            bytes.extend(noise);
            segments(&bytes);
            build_id(&bytes);
        }
    }
}
