//! Reads the function table that every Go program carries (`.gopclntab`), which survives `strip` and `-ldflags='-s -w'`.
//!
//! Promises: an address gives the frames the Go runtime itself would report for it, inlined calls included, with names
//! as in Go's own profiles (`main.F[...]`). Setting up looks at the headers and searches the data segments for one
//! pointer; a lookup is a binary search and a few short scans. Nothing is indexed or copied up front. Any bytes are safe
//! to give: every read is checked and every loop has a bound.
//!
//! Knows Go 1.18 and later on little-endian x86_64 and aarch64, plain or PIE, with or without section headers.
//! Leaves to others: turning a process address into a file address, and code that is not Go (cgo).
//!
//! The format has no specification but Go's sources: `src/internal/abi/symtab.go`, `src/runtime/{symtab,symtabinl}.go`
//! and `src/cmd/link/internal/ld/pcln.go`.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use self::bytes::{text, u8_at, u32_at, u64_at, varint};
use self::image::Image;

mod bytes;
mod image;
mod module;

/// `PCDATA_InlTreeIndex` of Go's `internal/abi`.
const PCDATA_INLINE_INDEX: u32 = 2;
/// `FUNCDATA_InlTree` of Go's `internal/abi`.
const FUNCDATA_INLINE_TREE: u32 = 3;
/// Go writes this for "no such funcdata" and "no such file".
const NONE: u32 = u32::MAX;
/// More inlined calls than this at one address means a damaged table.
const MAX_INLINED: usize = 256;
/// Steps through value tables that one lookup may take; a lookup in a sound table takes a few thousand at most.
const MAX_STEPS: u32 = 1 << 22;

/// One function at an address, as written in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoFrame {
    /// Full name with package path; type arguments are shortened to `[...]`, as Go's profiles do.
    pub function: String,
    /// Path as the compiler recorded it; empty if the table has none for this address.
    pub file: String,
    /// Line of the instruction, or of the call for an outer frame; 0 if unknown.
    pub line: u32,
    /// Line of the `func` keyword; 0 if unknown (always before Go 1.20).
    pub start_line: u32,
}

/// Why the function table of a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GoTableError {
    /// The file is not an ELF file, or its headers are damaged.
    #[error("cannot read the headers of the ELF file")]
    ReadElf(#[source] object::Error),
    /// An ELF file of a kind whose tables this reader does not know.
    #[error(
        "unsupported kind of ELF file: {kind}, only little-endian 64-bit x86_64 and aarch64 are read"
    )]
    UnsupportedKind {
        /// What was found instead.
        kind: String,
    },
    /// A Go table of a version this reader does not know.
    #[error(
        "unsupported version of Go's function table: magic {magic:#010x}, Go 1.18 and later are read"
    )]
    UnsupportedVersion {
        /// The table's first word.
        magic: u32,
    },
    /// The table contradicts itself.
    #[error("damaged function table of Go: {what}")]
    Damaged {
        /// The part that is wrong.
        what: &'static str,
    },
}

/// The function table of one Go program or library.
#[derive(Clone)]
pub struct GoTable {
    bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
    layout: Layout,
}

impl fmt::Debug for GoTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GoTable")
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

impl GoTable {
    /// Finds the function table in the bytes of an ELF file, or `None` if the file is not a Go program.
    ///
    /// # Errors
    ///
    /// [`GoTableError::ReadElf`] if `bytes` is not an ELF file, `UnsupportedKind` or `UnsupportedVersion` for one that
    /// is beyond this reader, `Damaged` for a table that contradicts itself.
    pub fn parse(
        bytes: impl AsRef<[u8]> + Send + Sync + 'static,
    ) -> Result<Option<GoTable>, GoTableError> {
        let bytes: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(bytes);
        let layout = Layout::find((*bytes).as_ref())?;
        Ok(layout.map(|layout| GoTable { bytes, layout }))
    }

    /// Returns the functions at `address`, innermost inlined call first and the compiled function last, never empty.
    ///
    /// `address` is a virtual address as in the file's symbol table. For a caller's frame give the return address
    /// minus one. `None` if no Go function covers it.
    pub fn frames(&self, address: u64) -> Option<Vec<GoFrame>> {
        Lookup {
            bytes: (*self.bytes).as_ref(),
            layout: &self.layout,
            steps: MAX_STEPS,
        }
        .frames(address)
    }
}

/// Where the parts of the table lie in the file. Ranges are within the file's length.
#[derive(Clone, Debug)]
struct Layout {
    version: Version,
    /// Address that offsets of code count from.
    text_start: u64,
    /// Smallest instruction length: program counters in value tables count in it.
    quantum: u64,
    function_count: usize,
    names: Range<usize>,
    units: Range<usize>,
    files: Range<usize>,
    values: Range<usize>,
    functions: Range<usize>,
    /// From the start of `go:func.*` to the end of its segment; `None` if it could not be found.
    funcdata: Option<Range<usize>>,
}

/// Layouts of `_func` and `inlinedCall` that differ between versions of Go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// Go 1.18 and 1.19.
    Go118,
    /// Go 1.20 and later.
    Go120,
}

/// Byte offsets in one entry of an inline tree.
struct InlinedCall {
    size: usize,
    name: usize,
    parent_pc: usize,
    start_line: Option<usize>,
}

impl Version {
    fn from_magic(magic: u32) -> Option<Version> {
        match magic {
            0xffff_fff0 => Some(Version::Go118),
            0xffff_fff1 => Some(Version::Go120),
            _ => None,
        }
    }

    /// Size of `_func` without the arrays behind it.
    fn function_size(self) -> usize {
        match self {
            Version::Go118 => 40,
            Version::Go120 => 44,
        }
    }

    fn start_line_at(self) -> Option<usize> {
        match self {
            Version::Go118 => None,
            Version::Go120 => Some(36),
        }
    }

    fn inlined_call(self) -> InlinedCall {
        match self {
            Version::Go118 => InlinedCall {
                size: 20,
                name: 12,
                parent_pc: 16,
                start_line: None,
            },
            Version::Go120 => InlinedCall {
                size: 16,
                name: 4,
                parent_pc: 8,
                start_line: Some(12),
            },
        }
    }
}

impl Layout {
    fn find(bytes: &[u8]) -> Result<Option<Layout>, GoTableError> {
        let image = Image::parse(bytes)?;
        let Some(table) = image.function_table() else {
            return Ok(None);
        };
        let mut layout = Layout::read_header(bytes, table.clone())?;
        let header = image.address_of(table.start).ok_or(GoTableError::Damaged {
            what: "it is not mapped",
        })?;
        module::complete(&mut layout, &image, header, bytes)?;
        Ok(Some(layout))
    }

    /// Reads the table's header (`pcHeader`). `text_start` is as the file has it, 0 if the linker left it out.
    fn read_header(bytes: &[u8], table: Range<usize>) -> Result<Layout, GoTableError> {
        let damaged = |what| GoTableError::Damaged { what };
        let content = bytes.get(table.clone()).ok_or(damaged("it is cut off"))?;
        let magic = u32_at(content, 0).ok_or(damaged("it is cut off"))?;
        let version =
            Version::from_magic(magic).ok_or(GoTableError::UnsupportedVersion { magic })?;
        let quantum = u8_at(content, 6).filter(|quantum| matches!(quantum, 1 | 4));
        let quantum = quantum.ok_or(damaged("the instruction length is neither 1 nor 4"))?;
        if u8_at(content, 7) != Some(8) {
            return Err(damaged("pointers are not 8 bytes long"));
        }
        // Five parts follow each other; each ends where the next begins.
        let mut ends = [0; 6];
        ends[5] = content.len();
        for (end, at) in ends.iter_mut().zip([32, 40, 48, 56, 64]) {
            let offset = u64_at(content, at).and_then(|offset| usize::try_from(offset).ok());
            *end = offset.ok_or(damaged("the header is cut off"))?;
        }
        if !ends.is_sorted() {
            return Err(damaged("its parts are out of order"));
        }
        let [names, units, files, values, functions] = std::array::from_fn(|part| {
            // In bounds: every end is at most the length of `content`, whose range starts at `table.start`.
            table.start.saturating_add(ends[part])..table.start.saturating_add(ends[part + 1])
        });
        let function_count = u64_at(content, 8).and_then(|count| usize::try_from(count).ok());
        let function_count = function_count
            .filter(|&count| count > 0 && count < functions.len() / 8)
            .ok_or(damaged("the number of functions does not fit"))?;
        Ok(Layout {
            version,
            text_start: u64_at(content, 24).ok_or(damaged("the header is cut off"))?,
            quantum: u64::from(quantum),
            function_count,
            names,
            units,
            files,
            values,
            functions,
            funcdata: None,
        })
    }

    /// Whether the first function's record agrees with the index, as it does in every real table.
    fn is_plausible(&self, bytes: &[u8]) -> bool {
        let lookup = Lookup {
            bytes,
            layout: self,
            steps: 0,
        };
        let first = lookup.function(0);
        first.is_some_and(|function| lookup.word(&function, 0) == Some(function.entry))
    }
}

/// One compiled function in the index.
#[derive(Clone, Debug)]
struct Function {
    /// Offset of its code from `text_start`.
    entry: u32,
    /// Offset of the code behind it.
    end: u32,
    /// Offset of its `_func` in the functions' part.
    record: usize,
}

/// A reader at work: the bytes, where things are, and how many steps it may still take.
struct Lookup<'a> {
    bytes: &'a [u8],
    layout: &'a Layout,
    steps: u32,
}

impl<'a> Lookup<'a> {
    fn frames(&mut self, address: u64) -> Option<Vec<GoFrame>> {
        let offset = u32::try_from(address.checked_sub(self.layout.text_start)?).ok()?;
        let function = self.function_at(offset)?;
        let mut frames = Vec::new();
        let mut pc = offset.checked_sub(function.entry)?;
        while frames.len() < MAX_INLINED {
            let Some(call) = self.inlined_call(&function, pc) else {
                break;
            };
            let (file, line) = self.position(&function, pc);
            frames.push(GoFrame {
                function: call.name,
                file,
                line,
                start_line: call.start_line,
            });
            pc = call.parent_pc;
        }
        let name = self.word(&function, 4)?;
        let start_line = self
            .layout
            .version
            .start_line_at()
            .and_then(|at| self.word(&function, at));
        let (file, line) = self.position(&function, pc);
        frames.push(GoFrame {
            function: self.name(name)?,
            file,
            line,
            start_line: line_number(start_line),
        });
        Some(frames)
    }

    fn part(&self, range: &Range<usize>) -> &'a [u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }

    /// The function whose code covers `offset`.
    fn function_at(&self, offset: u32) -> Option<Function> {
        let functions = self.part(&self.layout.functions);
        let (mut low, mut high) = (0, self.layout.function_count);
        while low < high {
            let middle = low.midpoint(high);
            if u32_at(functions, middle.checked_mul(8)?)? <= offset {
                low = middle.checked_add(1)?;
            } else {
                high = middle;
            }
        }
        let function = self.function(low.checked_sub(1)?)?;
        (function.entry..function.end)
            .contains(&offset)
            .then_some(function)
    }

    fn function(&self, index: usize) -> Option<Function> {
        let functions = self.part(&self.layout.functions);
        let at = index.checked_mul(8)?;
        Some(Function {
            entry: u32_at(functions, at)?,
            end: u32_at(functions, at.checked_add(8)?)?,
            record: usize::try_from(u32_at(functions, at.checked_add(4)?)?).ok()?,
        })
    }

    /// The word at byte `at` of the function's `_func`.
    fn word(&self, function: &Function, at: usize) -> Option<u32> {
        u32_at(
            self.part(&self.layout.functions),
            function.record.checked_add(at)?,
        )
    }

    /// The word `index` behind the function's `_func`, where the arrays of pcdata and funcdata are.
    fn extra(&self, function: &Function, index: u32) -> Option<u32> {
        let at = usize::try_from(index).ok()?.checked_mul(4)?;
        self.word(
            function,
            self.layout.version.function_size().checked_add(at)?,
        )
    }

    fn pcdata_count(&self, function: &Function) -> Option<u32> {
        self.word(function, 28)
    }

    /// Where in the funcdata the function's inline tree is, if it has one.
    fn inline_tree_at(&self, function: &Function) -> Option<u32> {
        let record_end = function
            .record
            .checked_add(self.layout.version.function_size())?;
        let count = u8_at(
            self.part(&self.layout.functions),
            record_end.checked_sub(1)?,
        )?;
        if u32::from(count) <= FUNCDATA_INLINE_TREE {
            return None;
        }
        let index = self
            .pcdata_count(function)?
            .checked_add(FUNCDATA_INLINE_TREE)?;
        self.extra(function, index).filter(|&offset| offset != NONE)
    }

    /// Bytes of the inline tree at `offset` and of what lies behind it.
    fn inline_tree(&self, offset: u32, funcdata: &Range<usize>) -> Option<&'a [u8]> {
        self.part(funcdata).get(usize::try_from(offset).ok()?..)
    }

    /// The innermost call that was inlined at `pc`, an offset in `function`.
    fn inlined_call(&mut self, function: &Function, pc: u32) -> Option<Inlined> {
        if self.pcdata_count(function)? <= PCDATA_INLINE_INDEX {
            return None;
        }
        let tree = self.inline_tree(
            self.inline_tree_at(function)?,
            self.layout.funcdata.as_ref()?,
        )?;
        let table = self.extra(function, PCDATA_INLINE_INDEX)?;
        let index = usize::try_from(self.value(table, pc)?).ok()?;
        self.inline_entry(tree, index)
    }

    fn inline_entry(&self, tree: &[u8], index: usize) -> Option<Inlined> {
        let at = self.layout.version.inlined_call();
        let entry = tree.get(index.checked_mul(at.size)?..)?.get(..at.size)?;
        Some(Inlined {
            name: self.name(u32_at(entry, at.name)?)?,
            parent_pc: u32_at(entry, at.parent_pc)?,
            start_line: line_number(at.start_line.and_then(|at| u32_at(entry, at))),
        })
    }

    /// File and line of the instruction at `pc`, an offset in `function`; empty and 0 if the table has none.
    fn position(&mut self, function: &Function, pc: u32) -> (String, u32) {
        self.try_position(function, pc).unwrap_or_default()
    }

    fn try_position(&mut self, function: &Function, pc: u32) -> Option<(String, u32)> {
        let file = u32::try_from(self.value(self.word(function, 20)?, pc)?).ok()?;
        let line = u32::try_from(self.value(self.word(function, 24)?, pc)?).ok()?;
        let unit_file = usize::try_from(self.word(function, 32)?.checked_add(file)?).ok()?;
        let offset = u32_at(self.part(&self.layout.units), unit_file.checked_mul(4)?)?;
        if offset == NONE {
            return None;
        }
        Some((text(self.part(&self.layout.files), offset)?, line))
    }

    /// The value that the table at `table` has for `pc`, an offset in its function (`pcvalue` of Go's runtime).
    fn value(&mut self, table: u32, pc: u32) -> Option<i32> {
        if table == 0 {
            return None;
        }
        let mut rest = self
            .part(&self.layout.values)
            .get(usize::try_from(table).ok()?..)?;
        let (mut value, mut end, mut first) = (-1_i32, 0_u64, true);
        loop {
            self.steps = self.steps.checked_sub(1)?;
            let delta = varint(&mut rest)?;
            if delta == 0 && !first {
                return None;
            }
            value = value.wrapping_add(
                (delta >> 1).cast_signed() ^ (delta & 1).cast_signed().wrapping_neg(),
            );
            end =
                end.checked_add(u64::from(varint(&mut rest)?).checked_mul(self.layout.quantum)?)?;
            if u64::from(pc) < end {
                return Some(value);
            }
            first = false;
        }
    }

    fn name(&self, offset: u32) -> Option<String> {
        text(self.part(&self.layout.names), offset).map(shorten_type_arguments)
    }
}

/// One call that the compiler replaced by the called function's body.
struct Inlined {
    name: String,
    /// An instruction of the surrounding function whose position is the call.
    parent_pc: u32,
    start_line: u32,
}

/// Go keeps lines as `int32`; anything else is unknown.
fn line_number(line: Option<u32>) -> u32 {
    line.filter(|&line| i32::try_from(line).is_ok())
        .unwrap_or(0)
}

/// `main.F[go.shape.int]` becomes `main.F[...]` (`funcNameForPrint` of Go's runtime).
fn shorten_type_arguments(name: String) -> String {
    match (name.split_once('['), name.rsplit_once(']')) {
        (Some((before, arguments)), Some((_, after))) if arguments.len() > after.len() => {
            format!("{before}[...]{after}")
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests;
