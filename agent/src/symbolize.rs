//! Names for offsets in programs and libraries.
//!
//! Promises: a Go program is named by its own function table, stripped or not;
//! other code by symbols and line tables, inlined calls included. What has no
//! name becomes `module+0xoffset` with the build id, so that it can be named
//! later. Tables that were read are dropped after each batch; only names are
//! kept, and not more than `MAX_KEPT` of them.
//!
//! Leaves to others: from an address to a file and an offset in it
//! ([`crate::unwind`]).

pub(crate) mod binary;
pub mod gopclntab;
pub(crate) mod maps;
pub(crate) mod perf_map;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Reason, Sym, Symbolized, Symbolizer as Reader};
use proto::stack::{Frame, FrameKind};
use rustc_hash::FxHashMap;

use binary::{Binary, BinaryId};
use gopclntab::GoFrame;

/// Frames of one instruction, innermost first; never empty.
pub(crate) type Frames = Arc<[Frame]>;

/// Most offsets whose frames are kept.
const MAX_KEPT: usize = 64 * 1024;

/// Names offsets and remembers what they are called.
#[derive(Debug, Default)]
pub(crate) struct Symbolizer {
    kept: FxHashMap<(BinaryId, u64), Frames>,
    /// Equal texts are kept once.
    texts: FxHashMap<Box<str>, Arc<str>>,
}

impl Symbolizer {
    /// Returns the frames at each of `offsets` in the file of `binary`. The
    /// offset of a call lies within the call instruction.
    pub(crate) fn frames(&mut self, binary: &Binary, offsets: &[u64]) -> Vec<Frames> {
        let mut fresh: Vec<u64> = offsets
            .iter()
            .copied()
            .filter(|offset| !self.kept.contains_key(&(binary.id(), *offset)))
            .collect();
        fresh.sort_unstable();
        fresh.dedup();
        if self.kept.len().saturating_add(fresh.len()) > MAX_KEPT {
            self.forget();
        }
        let named = self.name(binary, &fresh);
        let found: FxHashMap<u64, Frames> = fresh.into_iter().zip(named).collect();
        let frames = offsets
            .iter()
            .map(|offset| {
                let known = found.get(offset);
                known
                    .or_else(|| self.kept.get(&(binary.id(), *offset)))
                    .map_or_else(|| Arc::from([self.unnamed(binary, *offset)]), Arc::clone)
            })
            .collect();
        let fresh = found.into_iter();
        self.kept
            .extend(fresh.map(|(offset, frames)| ((binary.id(), offset), frames)));
        frames
    }

    /// Forgets every name; they are read again when they are needed.
    pub(crate) fn forget(&mut self) {
        self.kept.clear();
        self.texts.clear();
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let shared: Arc<str> = Arc::from(text);
        self.texts.insert(Box::from(text), Arc::clone(&shared));
        shared
    }

    /// The frames at each of `offsets`, in order.
    fn name(&mut self, binary: &Binary, offsets: &[u64]) -> Vec<Frames> {
        let mut named: Vec<Option<Frames>> = vec![None; offsets.len()];
        if let Some(table) = binary.go_table() {
            for (offset, place) in offsets.iter().zip(&mut named) {
                let found = binary.address_of(*offset).and_then(|at| table.frames(at));
                // The table has names of foreign code, but no lines: a symbol
                // table says more of it.
                *place = found
                    .filter(|frames| frames.iter().any(|frame| !frame.file.is_empty()))
                    .map(|frames| self.go_frames(&frames));
            }
        }
        let missing: Vec<usize> = (0..offsets.len())
            .filter(|at| named.get(*at).is_some_and(Option::is_none))
            .collect();
        if !missing.is_empty() {
            let wanted: Vec<u64> = missing
                .iter()
                .filter_map(|at| offsets.get(*at).copied())
                .collect();
            for (at, frames) in missing.into_iter().zip(self.read(binary, &wanted)) {
                if let Some(place) = named.get_mut(at) {
                    *place = frames;
                }
            }
        }
        named
            .into_iter()
            .zip(offsets)
            .map(|(frames, offset)| match frames {
                Some(frames) => frames,
                None => Arc::from([self.last_resort(binary, *offset)]),
            })
            .collect()
    }

    fn go_frames(&mut self, frames: &[GoFrame]) -> Frames {
        frames
            .iter()
            .map(|frame| Frame {
                function: self.text(&frame.function),
                file: self.text(&frame.file),
                line: frame.line,
                start_line: frame.start_line,
                ..Frame::named(FrameKind::Go, "")
            })
            .collect()
    }

    /// Asks symbol tables and debug information; `None` for what they do not
    /// know.
    fn read(&mut self, binary: &Binary, offsets: &[u64]) -> Vec<Option<Frames>> {
        let unknown = vec![None; offsets.len()];
        let Some(path) = binary.readable_path() else {
            return unknown;
        };
        // A reader of its own for each batch: its tables go with it.
        let reader = Reader::builder()
            .enable_code_info(true)
            .enable_inlined_fns(true)
            .enable_demangling(true)
            .set_debug_dirs(Some(binary.debug_directories()))
            .build();
        let source = Source::Elf(Elf::new(path));
        // The file is the target's to choose and this build checks for
        // overflows: nothing in it may end the agent.
        let guarded = AssertUnwindSafe(|| reader.symbolize(&source, Input::FileOffset(offsets)));
        match catch_unwind(guarded) {
            Ok(Ok(found)) => found.iter().map(|found| self.found(found)).collect(),
            Ok(Err(error)) => {
                tracing::debug!(module = binary.name(), %error, "cannot read symbols");
                unknown
            }
            Err(_panic) => {
                tracing::debug!(module = binary.name(), "symbols end their reader");
                unknown
            }
        }
    }

    fn found(&mut self, found: &Symbolized<'_>) -> Option<Frames> {
        match found {
            Symbolized::Sym(symbol) => Some(self.native_frames(symbol)),
            Symbolized::Unknown(
                Reason::Unmapped
                | Reason::InvalidFileOffset
                | Reason::MissingComponent
                | Reason::MissingSyms
                | Reason::Unsupported
                | Reason::UnknownAddr
                | Reason::IgnoredError
                | _,
            ) => None,
        }
    }

    fn native_frames(&mut self, symbol: &Sym<'_>) -> Frames {
        let mut frames = Vec::with_capacity(symbol.inlined.len() + 1);
        // The symbol is the function that has the code; inlined ones follow
        // from the outermost to the innermost.
        let outer = std::iter::once((&symbol.name, symbol.code_info.as_deref()));
        let inlined = symbol.inlined.iter();
        let inlined = inlined.map(|inlined| (&inlined.name, inlined.code_info.as_ref()));
        for (name, place) in outer.chain(inlined) {
            let (file, line) = match place {
                Some(place) => {
                    let path = match place.dir.as_deref() {
                        Some(directory) => directory.join(Path::new(&place.file)),
                        None => Path::new(&place.file).to_owned(),
                    };
                    (path.display().to_string(), place.line.unwrap_or(0))
                }
                None => (String::new(), 0),
            };
            frames.push(Frame {
                function: self.text(name),
                file: self.text(&file),
                line,
                ..Frame::named(FrameKind::Native, "")
            });
        }
        frames.reverse();
        frames.into()
    }

    /// The name of a file in memory for the offset, or none.
    fn last_resort(&mut self, binary: &Binary, offset: u64) -> Frame {
        match binary.own_symbol(offset) {
            Some(name) => Frame::named(FrameKind::Native, &name),
            None => self.unnamed(binary, offset),
        }
    }

    fn unnamed(&self, binary: &Binary, offset: u64) -> Frame {
        Frame {
            build_id: Arc::from(binary.build_id()),
            file_offset: offset,
            ..Frame::named(
                FrameKind::Unsymbolized,
                &format!("{}+0x{offset:x}", binary.name()),
            )
        }
    }
}
