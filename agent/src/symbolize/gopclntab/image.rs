//! The ELF file as its program sees it: segments, sections where there are any, relative relocations.
//!
//! Every search is linear in the file's length, whatever the headers say.

use std::ops::Range;

use object::elf::{self, FileHeader64, Rela64};
use object::endian::LittleEndian;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, Rela, SectionHeader, SectionTable, Sym};

use super::bytes::u64_at;
use super::{GoTableError, Layout, Version};

type Header = FileHeader64<LittleEndian>;
const LE: LittleEndian = LittleEndian;

/// Segments beyond this many are not looked at; real files have about a dozen.
const MAX_SEGMENTS: usize = 64;
/// Sections of Go's linker, the second in PIE before Go 1.26; an external linker merges that into `.data.rel.ro`.
const TABLE_SECTIONS: [&[u8]; 2] = [b".gopclntab", b".data.rel.ro.gopclntab"];
/// Where linkers put the words that `pointers_to` is asked for.
const POINTER_SECTIONS: [&[u8]; 3] = [b".go.module", b".noptrdata", b".data"];
/// A file with sections but none of these is not searched for a table.
const GO_SECTIONS: [&[u8]; 2] = [b".go.buildinfo", b".note.go.buildid"];

/// A mapped part of the file.
#[derive(Debug)]
struct Segment {
    address: u64,
    file: Range<usize>,
}

/// A parsed ELF file.
#[derive(Debug)]
pub(super) struct Image<'a> {
    bytes: &'a [u8],
    /// Data before code, as what is searched for is data.
    segments: Vec<Segment>,
    /// Empty in a file whose section headers were removed.
    sections: SectionTable<'a, Header>,
    relocations: &'a [Rela64<LittleEndian>],
    /// The machine's "base address plus addend".
    relative: u32,
}

impl<'a> Image<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Image<'a>, GoTableError> {
        let unsupported = |kind: String| GoTableError::UnsupportedKind { kind };
        if bytes.starts_with(&elf::ELFMAG)
            && bytes.get(4..6) != Some(&[elf::ELFCLASS64, elf::ELFDATA2LSB])
        {
            return Err(unsupported("32-bit or big-endian".to_owned()));
        }
        let header = Header::parse(bytes).map_err(GoTableError::ReadElf)?;
        let relative = match header.e_machine(LE) {
            elf::EM_X86_64 => elf::R_X86_64_RELATIVE,
            elf::EM_AARCH64 => elf::R_AARCH64_RELATIVE,
            machine => return Err(unsupported(format!("machine {machine}"))),
        };
        let programs = header
            .program_headers(LE, bytes)
            .map_err(GoTableError::ReadElf)?;
        let loads = programs
            .iter()
            .filter(|program| program.p_type(LE) == elf::PT_LOAD)
            .take(MAX_SEGMENTS);
        let segments = loads.filter_map(|load| {
            let (offset, size) = load.file_range(LE);
            let segment = Segment {
                address: load.p_vaddr(LE),
                file: clamp(bytes, offset, size)?,
            };
            Some((load.p_flags(LE) & elf::PF_X != 0, segment))
        });
        let (code, data): (Vec<_>, Vec<_>) = segments.partition(|&(is_code, _)| is_code);
        let segments = data.into_iter().chain(code).map(|(_, segment)| segment);
        let mut image = Image {
            bytes,
            segments: segments.collect(),
            // A file that lost its section headers, or has broken ones, still runs; so it is still read.
            sections: header.sections(LE, bytes).unwrap_or_default(),
            relocations: &[],
            relative,
        };
        let dynamic = programs
            .iter()
            .find_map(|program| program.dynamic(LE, bytes).ok().flatten());
        image.relocations = dynamic
            .and_then(|dynamic| image.rela(dynamic))
            .unwrap_or_default();
        Ok(image)
    }

    fn rela(&self, dynamic: &[elf::Dyn64<LittleEndian>]) -> Option<&'a [Rela64<LittleEndian>]> {
        let value = |tag| {
            dynamic
                .iter()
                .find(|entry| entry.d_tag(LE) == tag)
                .map(|entry| entry.d_val(LE))
        };
        let table = self.file_range(value(elf::DT_RELA)?)?;
        let size = usize::try_from(value(elf::DT_RELASZ)?)
            .ok()?
            .min(table.len());
        let table = self.bytes.get(table)?.get(..size)?;
        let count = table.len().checked_div(size_of::<Rela64<LittleEndian>>())?;
        object::pod::slice_from_bytes(table, count)
            .ok()
            .map(|(relocations, _)| relocations)
    }

    /// The file's bytes from `address` to the end of its segment.
    pub(super) fn file_range(&self, address: u64) -> Option<Range<usize>> {
        self.segments.iter().find_map(|segment| {
            let offset = usize::try_from(address.checked_sub(segment.address)?).ok()?;
            let start = segment.file.start.checked_add(offset)?;
            (start < segment.file.end).then_some(start..segment.file.end)
        })
    }

    /// The address at which the byte `offset` of the file is mapped.
    pub(super) fn address_of(&self, offset: usize) -> Option<u64> {
        let segment = self
            .segments
            .iter()
            .find(|segment| segment.file.contains(&offset))?;
        segment
            .address
            .checked_add(u64::try_from(offset.checked_sub(segment.file.start)?).ok()?)
    }

    /// Where the file keeps the function table, by its section or else by its first bytes.
    pub(super) fn function_table(&self) -> Option<Range<usize>> {
        if let Some(table) = TABLE_SECTIONS.iter().find_map(|name| self.section(name)) {
            return Some(table);
        }
        let is_go =
            self.sections.is_empty() || GO_SECTIONS.iter().any(|name| self.section(name).is_some());
        if !is_go {
            return None;
        }
        let likely = self.section(b".data.rel.ro").into_iter();
        let ranges = likely.chain(self.segments.iter().map(|segment| segment.file.clone()));
        self.words(ranges, is_table_start)
            .find_map(|(offset, segment_end)| {
                let table = offset..segment_end;
                let layout = Layout::read_header(self.bytes, table.clone()).ok()?;
                layout.is_plausible(self.bytes).then_some(table)
            })
    }

    /// Addresses of the aligned words in the data that hold `pointer`, before relocation or by it; likeliest first.
    pub(super) fn pointers_to(&self, pointer: u64) -> impl Iterator<Item = u64> {
        let likely = POINTER_SECTIONS
            .iter()
            .filter_map(|name| self.section(name));
        let ranges = likely.chain(self.segments.iter().map(|segment| segment.file.clone()));
        let stored = self
            .words(ranges, move |word| word == pointer)
            .filter_map(|(offset, _)| self.address_of(offset));
        stored.chain(
            self.relative_relocations()
                .filter(move |&(_, value)| value == pointer)
                .map(|(address, _)| address),
        )
    }

    /// The `N` words at `address`: as the file has them, and as they are once the program is loaded at its own address.
    pub(super) fn loaded_words<const N: usize>(
        &self,
        address: u64,
    ) -> Option<([u64; N], [u64; N])> {
        let stored = self.bytes.get(self.file_range(address)?)?;
        // Words beyond the file's bytes read as zero, as they do in memory.
        let stored: [u64; N] =
            std::array::from_fn(|word| u64_at(stored, word.saturating_mul(8)).unwrap_or(0));
        let mut loaded = stored;
        for (place, value) in self.relative_relocations() {
            let offset = place.checked_sub(address).filter(|offset| offset % 8 == 0);
            let word = offset.and_then(|offset| usize::try_from(offset / 8).ok());
            if let Some(word) = word.and_then(|word| loaded.get_mut(word)) {
                *word = value;
            }
        }
        Some((stored, loaded))
    }

    /// The address of the first symbol with one of the names.
    pub(super) fn symbol(&self, names: &[&[u8]]) -> Option<u64> {
        let symbols = self
            .sections
            .symbols(LE, self.bytes, elf::SHT_SYMTAB)
            .ok()?;
        let wanted = |symbol: &&elf::Sym64<LittleEndian>| {
            symbol
                .name(LE, symbols.strings())
                .is_ok_and(|name| names.contains(&name))
        };
        symbols
            .iter()
            .find(wanted)
            .map(|symbol| symbol.st_value(LE))
    }

    /// Address and size of the section that holds the machine code.
    pub(super) fn text_section(&self) -> Option<(u64, u64)> {
        let (_, section) = self.sections.section_by_name(LE, b".text")?;
        Some((section.sh_addr(LE), section.sh_size(LE)))
    }

    fn section(&self, name: &[u8]) -> Option<Range<usize>> {
        let (_, section) = self.sections.section_by_name(LE, name)?;
        let (offset, size) = section.file_range(LE)?;
        clamp(self.bytes, offset, size)
    }

    /// Places and values of the relocations that only add the base address.
    pub(super) fn relative_relocations(&self) -> impl Iterator<Item = (u64, u64)> {
        let relative = self
            .relocations
            .iter()
            .filter(|entry| entry.r_type(LE, false) == self.relative);
        relative.map(|entry| (entry.r_offset(LE), entry.r_addend(LE).cast_unsigned()))
    }

    /// File offsets of the 8-byte words in `ranges` that are `wanted`, each with the end of its range.
    ///
    /// Overlapping ranges, which only a hostile file has, do not make it read more than three times the file.
    fn words(
        &self,
        ranges: impl Iterator<Item = Range<usize>>,
        wanted: impl Fn(u64) -> bool,
    ) -> impl Iterator<Item = (usize, usize)> {
        let mut budget = self.bytes.len().saturating_mul(3);
        let ranges = ranges.map_while(move |range| {
            budget = budget.checked_sub(range.len())?;
            Some(range)
        });
        let words = ranges.flat_map(|range| {
            // Words are aligned in memory, and a file is mapped by whole pages.
            let start = range.start.checked_next_multiple_of(8).unwrap_or(range.end);
            let content = self.bytes.get(start..range.end).unwrap_or_default();
            let offsets = (start..range.end).step_by(8);
            offsets
                .zip(content.chunks_exact(8))
                .map(move |(offset, word)| (offset, range.end, word))
        });
        words.filter_map(move |(offset, end, word)| {
            wanted(u64_at(word, 0)?).then_some((offset, end))
        })
    }
}

/// Whether the word can be the first of a function table: a known magic, two zero bytes, lengths of instruction and pointer.
fn is_table_start(word: u64) -> bool {
    let [a, b, c, d, 0, 0, 1 | 4, 8] = word.to_le_bytes() else {
        return false;
    };
    Version::from_magic(u32::from_le_bytes([a, b, c, d])).is_some()
}

/// The part of the file that lies within it; `None` if there is none.
fn clamp(bytes: &[u8], offset: u64, size: u64) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = usize::try_from(offset.checked_add(size)?)
        .ok()?
        .min(bytes.len());
    (start < end).then_some(start..end)
}
