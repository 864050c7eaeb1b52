//! Finds the module's description (`moduledata` of Go's runtime), which says where code and inline trees begin.
//!
//! Its first word points to the function table, and its slices repeat what the table's header says, so it is found and
//! checked without symbols. Its layout shifts between versions of Go, so the place of the inline trees is checked
//! against the trees themselves. Without a description there are names, files and lines, but no inlined frames.

use std::ops::Range;

use super::bytes::u32_at;
use super::image::Image;
use super::{GoTableError, Layout, Lookup, Version};

/// Words of `moduledata` that are read; the ones needed lie within, in all versions known.
const WORDS: usize = 48;
/// Places that hold a pointer to the table and are tried.
const MAX_CANDIDATES: usize = 64;
/// Functions that are searched for inline trees to check against, and trees that are checked.
const MAX_FUNCTIONS: usize = 4096;
const MAX_TREES: usize = 16;

/// Bytes that Go's own linker puts behind the last function at most.
const MAX_TEXT_PADDING: u64 = 64;

/// Word numbers in `moduledata`, the same since Go 1.16.
const NAMES: usize = 1;
const VALUES: usize = 10;
const FUNCTIONS: usize = 13;
const INDEX: usize = 16;
const INDEX_LENGTH: usize = 17;
const MIN_PC: usize = 20;
const MAX_PC: usize = 21;
const TEXT: usize = 22;

/// Sets `text_start` and `funcdata` of a layout whose table is at the address `header`.
pub(super) fn complete(
    layout: &mut Layout,
    image: &Image<'_>,
    header: u64,
    bytes: &[u8],
) -> Result<(), GoTableError> {
    if let Some(module) = find(layout, image, header, bytes) {
        layout.text_start = module[TEXT];
        layout.funcdata = funcdata(layout, image, &module, bytes);
    } else {
        // Since Go 1.26 the header has no address of the code.
        let (_, [.., in_header]) = image.loaded_words::<4>(header).unwrap_or_default();
        let text_start = Some(in_header).filter(|&start| start != 0);
        let text_start = text_start
            .or_else(|| image.symbol(&[b"runtime.text"]))
            .or_else(|| text_section(layout, image, bytes));
        layout.text_start = text_start.ok_or(GoTableError::Damaged {
            what: "the start of the code is unknown",
        })?;
    }
    if layout.funcdata.is_none() {
        let symbol = image.symbol(&[b"go:func.*", b"go.func.*"]);
        let range = symbol.and_then(|address| image.file_range(address));
        layout.funcdata = range.filter(|range| trees_fit(layout, range, bytes) == Some(true));
    }
    Ok(())
}

/// The start of the section of code, if it holds Go's code and nothing else: the linker of C puts its own in front.
fn text_section(layout: &Layout, image: &Image<'_>, bytes: &[u8]) -> Option<u64> {
    let (address, size) = image.text_section()?;
    let lookup = Lookup {
        bytes,
        layout,
        steps: 0,
    };
    let end = lookup.function(layout.function_count.checked_sub(1)?)?.end;
    let behind = size.checked_sub(u64::from(end))?;
    (behind <= MAX_TEXT_PADDING).then_some(address)
}

fn find(layout: &Layout, image: &Image<'_>, header: u64, bytes: &[u8]) -> Option<[u64; WORDS]> {
    image
        .pointers_to(header)
        .take(MAX_CANDIDATES)
        .find_map(|address| {
            let (stored, loaded) = image.loaded_words(address)?;
            [loaded, stored]
                .into_iter()
                .find(|words| describes(words, layout, header, bytes) == Some(true))
        })
}

/// Whether the words agree with the table's header and index.
fn describes(words: &[u64; WORDS], layout: &Layout, header: u64, bytes: &[u8]) -> Option<bool> {
    let lookup = Lookup {
        bytes,
        layout,
        steps: 0,
    };
    // The table's parts follow its header in the file as they do in memory.
    let start = layout.functions.start;
    let functions = words[FUNCTIONS];
    let first = lookup.function(0)?.entry;
    let end = lookup.function(layout.function_count.checked_sub(1)?)?.end;
    let distance = |part: &Range<usize>| u64::try_from(start.checked_sub(part.start)?).ok();
    let text = words[TEXT];
    Some(
        words[0] == header
            && words[INDEX] == functions
            && words[INDEX_LENGTH] == u64::try_from(layout.function_count.checked_add(1)?).ok()?
            && functions.checked_sub(words[NAMES]) == distance(&layout.names)
            && functions.checked_sub(words[VALUES]) == distance(&layout.values)
            && text.checked_add(u64::from(first)) == Some(words[MIN_PC])
            && text.checked_add(u64::from(end)) == Some(words[MAX_PC]),
    )
}

/// Where `go:func.*` lies, by the word of `moduledata` that fits the inline trees.
fn funcdata(
    layout: &Layout,
    image: &Image<'_>,
    module: &[u64; WORDS],
    bytes: &[u8],
) -> Option<Range<usize>> {
    // `gofunc`; Go 1.20 put two words for coverage counters before it.
    let expected = match layout.version {
        Version::Go118 => 38,
        Version::Go120 => 40,
    };
    let range_at = |word: usize| image.file_range(*module.get(word)?);
    let ranges = std::iter::once(expected)
        .chain(TEXT..WORDS)
        .filter_map(range_at);
    let mut fitting = ranges.filter(|range| trees_fit(layout, range, bytes) == Some(true));
    fitting.next()
}

/// Whether the first inline trees make sense if funcdata lies in `range`; `None` if the table is damaged.
fn trees_fit(layout: &Layout, range: &Range<usize>, bytes: &[u8]) -> Option<bool> {
    let lookup = Lookup {
        bytes,
        layout,
        steps: 0,
    };
    let names = lookup.part(&layout.names);
    let at = layout.version.inlined_call();
    let mut checked = 0;
    for index in 0..layout.function_count.min(MAX_FUNCTIONS) {
        let function = lookup.function(index)?;
        let Some(offset) = lookup.inline_tree_at(&function) else {
            continue;
        };
        let Some(tree) = lookup.inline_tree(offset, range) else {
            return Some(false);
        };
        let (Some(name), Some(parent_pc)) = (u32_at(tree, at.name), u32_at(tree, at.parent_pc))
        else {
            return Some(false);
        };
        let name = usize::try_from(name).ok()?;
        // A name starts where another ended.
        let is_name = name == 0 || names.get(name.checked_sub(1)?) == Some(&0);
        if !is_name
            || name >= names.len()
            || parent_pc >= function.end.checked_sub(function.entry)?
        {
            return Some(false);
        }
        checked += 1;
        if checked == MAX_TREES {
            break;
        }
    }
    Some(true)
}
