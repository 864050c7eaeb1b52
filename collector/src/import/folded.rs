//! Folded stacks: `root;child;leaf 42`, one line per stack, root first.
//!
//! As `stackcollapse-*.pl` and `inferno-collapse-*` write them
//! (<https://github.com/brendangregg/FlameGraph>). Names may hold spaces; the
//! count stands behind the last one. Blank lines and lines that begin with `#`
//! are skipped. What names tell beside the function is taken off them:
//! `_[k]` the kernel, `_[j]` compiled at run time, `_[i]` inlined (of the kind
//! of its caller), `_[0]` and `_[1]` as async-profiler marks Java,
//! `name (file.py:12)` as py-spy writes places.

use std::num::IntErrorKind;

use proto::stack::{Frame, FrameKind};
use proto::value_type::Temporality;

use super::known::{kind_of_compiled, placed_frame};
use super::tally::{Scale, Tally};
use super::{Assumed, Imported, Limits, excerpt, lines};

/// Length of an annotation such as `_[k]`.
const MARK_BYTES: usize = 4;

/// Why text holds no usable folded stacks.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FoldedError {
    /// A line does not end in a number.
    #[error("line {line} has no count: it must read \"root;child;leaf 42\", not {text:?}")]
    NoCount {
        /// Its number, from 1.
        line: usize,
        /// How it begins.
        text: String,
    },
    /// A count has a fraction.
    #[error(
        "line {line} counts {count:?}, which is no whole number; fold in samples, or in a smaller unit"
    )]
    Fraction {
        /// The line's number, from 1.
        line: usize,
        /// The count as written.
        count: String,
    },
    /// A count has more than 64 bits.
    #[error("line {line} counts {count:?}, more than 64 bits hold; fold in a larger unit")]
    TooLarge {
        /// The line's number, from 1.
        line: usize,
        /// The start of the count.
        count: String,
    },
    /// A line has a count and no names.
    #[error("line {line} has no stack: it must read \"root;child;leaf 42\"")]
    NoStack {
        /// The line's number, from 1.
        line: usize,
    },
    /// There is no line with a stack.
    #[error("it holds no stacks; lines must read \"root;child;leaf 42\"")]
    Empty,
}

/// Whether `line` reads like a stack with a count, be it a fraction.
pub(super) fn is_stack(line: &str) -> bool {
    line.rsplit_once(char::is_whitespace)
        .is_some_and(|(_, count)| count.parse::<i128>().is_ok() || is_fraction(count))
}

fn is_fraction(count: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    count
        .trim_start_matches('-')
        .split_once('.')
        .is_some_and(|(whole, rest)| digits(whole) && digits(rest))
}

/// Reads folded stacks, which count what `assumed` says.
///
/// # Errors
///
/// [`FoldedError`] at the first line that is none.
pub(super) fn read(
    bytes: &[u8],
    assumed: &Assumed,
    limits: &Limits,
) -> Result<Imported, FoldedError> {
    let mut tally = Tally::new(limits);
    let column = tally.column(
        assumed.profile_type.clone(),
        Temporality::Delta,
        Scale::counts(assumed),
    );
    for (number, line) in lines(bytes) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (names, count) = split(number, &line)?;
        push_stack(&mut tally, names);
        let stack = tally.finish_stack();
        tally.count(column, stack, count);
    }
    if tally.is_empty() {
        return Err(FoldedError::Empty);
    }
    let (stacks, columns, left_out) = tally.finish();
    Ok(Imported {
        start: None,
        duration: None,
        stacks,
        columns,
        left_out,
    })
}

/// Splits line `number` into its names and its count.
fn split(number: usize, line: &str) -> Result<(&str, i64), FoldedError> {
    let no_count = || FoldedError::NoCount {
        line: number,
        text: excerpt(line),
    };
    let (names, count) = line.rsplit_once(char::is_whitespace).ok_or_else(no_count)?;
    let value = count.parse::<i64>().map_err(|error| match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => FoldedError::TooLarge {
            line: number,
            count: excerpt(count),
        },
        _ if is_fraction(count) => FoldedError::Fraction {
            line: number,
            count: excerpt(count),
        },
        _ => no_count(),
    })?;
    if names.split(';').all(|name| name.trim().is_empty()) {
        return Err(FoldedError::NoStack { line: number });
    }
    Ok((names, value))
}

/// Pushes the frames of `names`, which begin with the root. Empty names are
/// left out: some tools end a stack with `;`.
fn push_stack(tally: &mut Tally<'_>, names: &str) {
    // One more than is kept, so that the tally sees that there is more.
    let kept = tally.depth().saturating_add(1);
    let mut leaf_first: Vec<&str> = names
        .rsplit(';')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .take(kept)
        .collect();
    leaf_first.reverse();
    let mut caller = FrameKind::Native;
    let mut ids = Vec::with_capacity(leaf_first.len());
    for name in leaf_first {
        let frame = frame(name, caller);
        if frame.kind != FrameKind::Synthetic {
            caller = frame.kind;
        }
        ids.push(tally.frame(frame.borrowed()));
    }
    for id in ids.into_iter().rev() {
        tally.push(id);
    }
}

/// The frame that `name` stands for, called from code of kind `caller`.
fn frame(name: &str, caller: FrameKind) -> Frame {
    let (name, kind) = annotated(name, caller);
    let (function, file, line) = placed(name).unwrap_or((name, "", 0));
    placed_frame(function, file, line, kind)
}

/// Takes the annotations off a name and tells the kind of code from them.
fn annotated(name: &str, caller: FrameKind) -> (&str, FrameKind) {
    let cut = name.len().checked_sub(MARK_BYTES).filter(|at| *at > 0);
    let Some((bare, mark)) = cut.and_then(|at| name.split_at_checked(at)) else {
        return (name, FrameKind::Native);
    };
    match mark {
        "_[k]" => (bare, FrameKind::Kernel),
        "_[j]" => (bare, kind_of_compiled(bare)),
        "_[i]" => (bare, caller),
        "_[0]" | "_[1]" => (bare, FrameKind::Jvm),
        _ => (name, FrameKind::Native),
    }
}

/// Splits `function (file:line)`.
fn placed(name: &str) -> Option<(&str, &str, u32)> {
    let (function, place) = name.strip_suffix(')')?.rsplit_once(" (")?;
    let (file, line) = place.rsplit_once(':')?;
    Some((function, file, line.parse().ok()?))
}
