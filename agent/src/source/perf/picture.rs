//! From counted places to stacks of named frames.
//!
//! A stack whose root is missing gets a synthetic root, [`TRUNCATED`].

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::limits::MAX_STACK_FRAMES;
use proto::stack::{Frame, FrameKind, Stack};
use rustc_hash::FxHashMap;

use super::processes::Processes;
use super::tally::Tally;
use crate::source::TRUNCATED;
use crate::symbolize::binary::BinaryId;
use crate::symbolize::{Frames, Symbolizer};
use crate::unwind::{End, Place};

/// Name of the frame of a sample within the kernel that no user code asked
/// for.
const KERNEL: &str = "[kernel]";

/// Functions that nothing calls: where programs, threads and goroutines begin,
/// and where Go changes to another stack.
const ROOTS: [&str; 20] = [
    "__clone",
    "__clone3",
    "__libc_start_call_main",
    "__libc_start_main",
    "_start",
    "clone",
    "clone3",
    "main",
    "runtime.asmcgocall",
    "runtime.goexit",
    "runtime.mcall",
    "runtime.morestack",
    "runtime.mstart",
    "runtime.mstart0",
    "runtime.mstart1",
    "runtime.rt0_go",
    "runtime.sigtramp",
    "runtime.systemstack",
    "runtime.systemstack_switch",
    "start_thread",
];

/// What V8 puts before a name in a perf map.
const V8_KINDS: [&str; 13] = [
    "Builtin",
    "BytecodeHandler",
    "Eval",
    "Function",
    "Handler",
    "InterpretedFunction",
    "JS",
    "JSToWasm",
    "LazyCompile",
    "RegExp",
    "Script",
    "Stub",
    "Wasm",
];

/// Returns every stack of `tally` with its count, largest first.
pub(super) fn stacks(
    tally: &Tally,
    processes: &mut Processes,
    symbolizer: &mut Symbolizer,
) -> (Vec<Stack>, Vec<i64>) {
    let named = name_places(tally.places(), processes, symbolizer);
    // Places of equal frames are one: their stacks add up.
    let mut ids: FxHashMap<&Frames, usize> = FxHashMap::default();
    let id_of_place: Vec<usize> = named
        .iter()
        .map(|frames| {
            let next = ids.len();
            *ids.entry(frames).or_insert(next)
        })
        .collect();
    let mut frames_of_id: Vec<&Frames> = vec![];
    let mut by_id: Vec<_> = ids.into_iter().collect();
    by_id.sort_unstable_by_key(|(_, id)| *id);
    frames_of_id.extend(by_id.into_iter().map(|(frames, _)| frames));

    let mut counts: FxHashMap<(Vec<usize>, bool), u64> = FxHashMap::default();
    for (sampled, count) in tally.stacks() {
        let ids: Vec<usize> = sampled
            .places
            .iter()
            .filter_map(|place| usize::try_from(*place).ok())
            .filter_map(|place| id_of_place.get(place).copied())
            .collect();
        let root = ids.last().and_then(|id| frames_of_id.get(*id)?.last());
        let cut = match sampled.end {
            End::Bottom => false,
            End::Unsure => !root.is_some_and(is_root),
            End::Cut => true,
        };
        *counts.entry((ids, cut)).or_default() += count;
    }
    let mut counted: Vec<_> = counts.into_iter().collect();
    counted.sort_unstable_by(|(a, more), (b, most)| most.cmp(more).then_with(|| a.cmp(b)));
    counted
        .into_iter()
        .map(|((ids, cut), count)| {
            let frames = ids.iter().filter_map(|id| frames_of_id.get(*id));
            let stack = whole_stack(frames.flat_map(|frames| frames.iter()), cut);
            (stack, i64::try_from(count).unwrap_or(i64::MAX))
        })
        .unzip()
}

fn whole_stack<'a>(frames: impl Iterator<Item = &'a Frame>, cut: bool) -> Stack {
    let most = MAX_STACK_FRAMES - 1;
    let mut stack: Vec<Frame> = frames.take(most + 1).cloned().collect();
    let too_deep = stack.len() > most;
    stack.truncate(most);
    if cut || too_deep {
        stack.push(Frame::named(FrameKind::Synthetic, TRUNCATED));
    }
    stack.into()
}

fn is_root(frame: &Frame) -> bool {
    let name: &str = &frame.function;
    let name = name.strip_suffix(".abi0").unwrap_or(name);
    ROOTS.binary_search(&name).is_ok()
}

/// The frames of each place, in the order of the places.
fn name_places(
    places: &[Place],
    processes: &mut Processes,
    symbolizer: &mut Symbolizer,
) -> Vec<Frames> {
    let unknown: Frames = Arc::from([Frame::named(FrameKind::Synthetic, "[unmapped]")]);
    let mut named = vec![Arc::clone(&unknown); places.len()];
    let mut by_binary: BTreeMap<BinaryId, (Vec<usize>, Vec<u64>)> = BTreeMap::new();
    let mut by_process: BTreeMap<i32, Vec<(usize, u64)>> = BTreeMap::new();
    let mut in_kernel = Vec::new();
    for (index, place) in places.iter().enumerate() {
        match place {
            Place::Code { binary, offset } => {
                let (indices, offsets) = by_binary.entry(*binary).or_default();
                indices.push(index);
                offsets.push(*offset);
            }
            Place::Memory { pid, address } => {
                by_process.entry(*pid).or_default().push((index, *address));
            }
            Place::Kernel => in_kernel.push(index),
        }
    }
    let mut set = |index: usize, frames: Frames| {
        if let Some(place) = named.get_mut(index) {
            *place = frames;
        }
    };
    for index in in_kernel {
        set(
            index,
            Arc::from([Frame::named(FrameKind::Synthetic, KERNEL)]),
        );
    }
    for (id, (indices, offsets)) in by_binary {
        let Some(binary) = processes.binaries.get(id) else {
            continue;
        };
        let frames = symbolizer.frames(&binary, &offsets);
        for (index, frames) in indices.into_iter().zip(frames) {
            set(index, frames);
        }
    }
    for (pid, addresses) in by_process {
        let Some(process) = processes.known(pid) else {
            continue;
        };
        process.perf_map.refresh(pid);
        for (index, address) in addresses {
            let frame = match process.perf_map.name_at(address) {
                Some(name) => compiled_frame(name),
                None => Frame::named(FrameKind::Synthetic, &process.space.name_of_memory(address)),
            };
            set(index, Arc::from([frame]));
        }
    }
    named
}

/// The frame of a name in a perf map. V8 writes `KIND:MARK function file:line:column`
/// for JavaScript, where the place is that of the function's beginning.
fn compiled_frame(name: &str) -> Frame {
    let Some((_, rest)) = name
        .split_once(':')
        .filter(|(kind, _)| V8_KINDS.binary_search(kind).is_ok())
    else {
        return Frame::named(FrameKind::Native, name);
    };
    let rest = rest.trim_start_matches(['~', '*', '^', '+', '\'', '-']);
    let placed = rest.rsplit_once(' ').and_then(|(function, place)| {
        let (file, line) = file_and_line(place)?;
        Some((function, file, line))
    });
    let Some((function, file, line)) = placed else {
        return Frame::named(FrameKind::Node, if rest.is_empty() { name } else { rest });
    };
    let function = match function.trim() {
        "" => "(anonymous)",
        function => function,
    };
    Frame {
        file: Arc::from(file),
        start_line: line,
        ..Frame::named(FrameKind::Node, function)
    }
}

/// Splits `file:line:column`.
fn file_and_line(place: &str) -> Option<(&str, u32)> {
    let (rest, column) = place.rsplit_once(':')?;
    let _column: u32 = column.parse().ok()?;
    let (file, line) = rest.rsplit_once(':')?;
    Some((file, line.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_in_order_so_that_they_can_be_searched() {
        assert!(ROOTS.is_sorted());
        assert!(V8_KINDS.is_sorted());
    }

    #[test]
    fn roots_are_known_by_name() {
        for (name, expected) in [
            ("main", true),
            ("runtime.goexit", true),
            ("runtime.goexit.abi0", true),
            ("main.main", false),
            ("", false),
        ] {
            let frame = Frame::named(FrameKind::Go, name);
            assert_eq!(is_root(&frame), expected, "{name}");
        }
    }

    #[test]
    fn names_of_v8_are_taken_apart() {
        for (name, kind, function, file, line) in [
            (
                "JS:*spin /app/a b.js:12:5",
                FrameKind::Node,
                "spin /app/a",
                "b.js",
                12,
            ),
            (
                "LazyCompile:~work file:///app/w.mjs:3:1",
                FrameKind::Node,
                "work",
                "file:///app/w.mjs",
                3,
            ),
            (
                "JS:~ /app/w.js:1:1",
                FrameKind::Node,
                "(anonymous)",
                "/app/w.js",
                1,
            ),
            (
                "Builtin:CEntry_Return1",
                FrameKind::Node,
                "CEntry_Return1",
                "",
                0,
            ),
            ("RegExp:", FrameKind::Node, "RegExp:", "", 0),
            (
                "Lcom/acme/Work;::run",
                FrameKind::Native,
                "Lcom/acme/Work;::run",
                "",
                0,
            ),
        ] {
            let frame = compiled_frame(name);
            let got = (frame.kind, &*frame.function, &*frame.file, frame.start_line);
            assert_eq!(got, (kind, function, file, line), "{name}");
        }
    }

    #[test]
    fn a_stack_without_root_or_too_deep_says_so() {
        let frame = Frame::named(FrameKind::Native, "f");
        for (depth, cut, expected_len, expected_root) in [
            (2, false, 2, "f"),
            (2, true, 3, TRUNCATED),
            (MAX_STACK_FRAMES - 1, false, MAX_STACK_FRAMES - 1, "f"),
            (MAX_STACK_FRAMES, false, MAX_STACK_FRAMES, TRUNCATED),
            (5000, false, MAX_STACK_FRAMES, TRUNCATED),
        ] {
            let stack = whole_stack(std::iter::repeat_n(&frame, depth), cut);
            assert_eq!(stack.len(), expected_len);
            assert_eq!(&*stack.last().unwrap().function, expected_root);
        }
    }
}
