//! Comparisons as bytes: text for people, files for tools. Pure: no I/O, no clock.
//!
//! A change is new minus base: more is `+` and red, less is `-` and blue. All
//! formats are deterministic. All but [`DiffFormat::Pprof`] compare by function,
//! because lines move between two builds; `go tool pprof` does that by itself.
//!
//! - [`DiffFormat::Top`]: functions by the change of their flat value.
//! - [`DiffFormat::Tree`]: call paths by how much changed at and below them.
//! - [`DiffFormat::Svg`]: a differential flame graph, see [`svg`].
//! - [`DiffFormat::Folded`]: `root;child;leaf base new`, one line per stack, as
//!   `difffolded.pl` writes it (<https://github.com/brendangregg/FlameGraph>).
//! - [`DiffFormat::Pprof`]: new samples, and those of the base with their sign
//!   turned and the label `pprof::base`, as `go tool pprof -diff_base` makes
//!   it: `-top` shows the changes in parts of the base's total.
//! - [`DiffFormat::Json`]: columns for programs, see [`json`].

use std::fmt;

use anstyle::{Ansi256Color, Style as Ansi};
use proto::pprof::{PprofBuilder, PprofHead};
use proto::stack::Frame;
use proto::value_type::Temporality;

use super::folded::{folded_name, walk_nodes};
use super::pprof::saturate;
use super::{Format, RenderContext, RenderError, Style, text};
use crate::diff::{Change, DiffAnswer, DiffSide, DiffTree, Ratio, Reading};
use crate::top::name_of;

pub mod json;
pub mod svg;
pub mod table;
pub mod tree;

pub use svg::Widths;

/// Least change that is shown, in thousandths of the larger total.
const MIN_CHANGE_PER_MILLE: u128 = 5;
/// The same in words.
const MIN_CHANGE: &str = "0.5%";

const DIM: Ansi = Ansi::new().dimmed();
const BOLD: Ansi = Ansi::new().bold();

/// How a comparison is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiffFormat {
    /// Table of functions.
    Top,
    /// Call tree for a terminal.
    Tree,
    /// `root;child;leaf base new`, one line per stack.
    Folded,
    /// Differential flame graph for a browser.
    Svg,
    /// `profile.proto`, gzipped, for `go tool pprof`.
    Pprof,
    /// Columns of the call tree, for programs.
    Json,
}

/// A format that no comparison has.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "a comparison cannot be written as {format}; use one of {}",
    known_formats()
)]
pub struct NoDiffFormat {
    format: Format,
}

fn known_formats() -> String {
    DiffFormat::ALL
        .map(|format| Format::from(format).name())
        .join(", ")
}

impl DiffFormat {
    /// Every format.
    pub const ALL: [Self; 6] = [
        Self::Top,
        Self::Tree,
        Self::Folded,
        Self::Svg,
        Self::Pprof,
        Self::Json,
    ];
}

impl From<DiffFormat> for Format {
    fn from(format: DiffFormat) -> Self {
        match format {
            DiffFormat::Top => Self::Top,
            DiffFormat::Tree => Self::Tree,
            DiffFormat::Folded => Self::Folded,
            DiffFormat::Svg => Self::Svg,
            DiffFormat::Pprof => Self::Pprof,
            DiffFormat::Json => Self::Json,
        }
    }
}

impl TryFrom<Format> for DiffFormat {
    type Error = NoDiffFormat;

    fn try_from(format: Format) -> Result<Self, Self::Error> {
        Self::ALL
            .into_iter()
            .find(|known| Format::from(*known) == format)
            .ok_or(NoDiffFormat { format })
    }
}

impl fmt::Display for DiffFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Format::from(*self).fmt(f)
    }
}

/// Writes `answer` in `format`.
///
/// `style` matters to [`DiffFormat::Top`] and [`DiffFormat::Tree`] only,
/// `widths` to [`DiffFormat::Svg`].
///
/// # Errors
///
/// [`RenderError`] if a writer fails; no answer is known that makes one fail.
pub fn render(
    answer: &DiffAnswer,
    format: DiffFormat,
    context: &RenderContext,
    widths: Widths,
    style: &Style,
) -> Result<Vec<u8>, RenderError> {
    if format == DiffFormat::Pprof {
        return Ok(pprof(answer));
    }
    let answer = &answer.with_tree(answer.tree.fold_lines());
    match format {
        DiffFormat::Top => Ok(table::render(answer, context, style).into_bytes()),
        DiffFormat::Tree => Ok(tree::render(answer, context, style).into_bytes()),
        DiffFormat::Folded => Ok(folded(&answer.tree).into_bytes()),
        DiffFormat::Svg => svg::render(answer, context, widths),
        DiffFormat::Pprof => Ok(pprof(answer)),
        DiffFormat::Json => json::render(answer),
    }
}

/// The larger total of both sides without its sign: what changes are shares of.
fn whole(answer: &DiffAnswer) -> u128 {
    let Change { base, new } = answer.tree.total();
    base.unsigned_abs().max(new.unsigned_abs())
}

/// Whether a change of this size is worth a line.
fn is_large(change: u128, whole: u128) -> bool {
    change > 0 && change.saturating_mul(1000) >= whole.saturating_mul(MIN_CHANGE_PER_MILLE)
}

/// `part` in parts of `whole`, 0 when the whole is.
fn share(part: u128, whole: u128) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}

/// The colour of a change: red is more, blue is less, pale is little; readable
/// on dark and on light.
fn tint(delta: i128, whole: u128) -> Ansi {
    let large = share(delta.unsigned_abs(), whole) >= 0.05;
    let color = match (delta.signum(), large) {
        (1, true) => 196,
        (1, false) => 174,
        (-1, true) => 33,
        (-1, false) => 110,
        _ => return DIM,
    };
    Ansi::new().fg_color(Some(Ansi256Color(color).into()))
}

/// A change in the unit that suits it, with its sign.
fn signed(answer: &DiffAnswer, delta: i128) -> String {
    let text = text::show(&answer.profile_type, delta);
    match delta {
        1.. => format!("+{text}"),
        _ => text,
    }
}

/// A change in parts of the base: `+12.3%`, `×12.5` when it grew tenfold,
/// `new` without a base and `gone` when nothing is left.
fn relative(change: Change) -> String {
    match (change.base, change.new) {
        (0, 0) => "0%".to_owned(),
        (0, _) => "new".to_owned(),
        (_, 0) => "gone".to_owned(),
        (base, new) => {
            let part = change.relative().unwrap_or(0.0);
            match part + 1.0 {
                _ if part == 0.0 => "0%".to_owned(),
                factor if base > 0 && new > 0 && factor >= 10_000.0 => ">×9999".to_owned(),
                factor if base > 0 && new > 0 && factor >= 10.0 => format!("×{factor:.1}"),
                _ if part.abs() >= 100.0 => ">9999%".to_owned(),
                _ => format!("{:+.1}%", part * 100.0),
            }
        }
    }
}

/// What was done to the base so that the sides compare.
fn scale_text(answer: &DiffAnswer) -> String {
    let factor = match answer.scale.approximate() {
        factor if (0.001..1e6).contains(&factor) => format!("{factor:.4}"),
        factor => format!("{factor:.3e}"),
    };
    match (answer.reading, answer.temporality) {
        (Reading::Absolute, _) => "none: values as measured".to_owned(),
        (Reading::PerTime, Temporality::Gauge) => "none: averages over time".to_owned(),
        (Reading::PerTime, Temporality::Delta) if answer.scale == Ratio::ONE => {
            "none: the same observed time".to_owned()
        }
        (Reading::PerTime, Temporality::Delta) => {
            format!("base × {factor}, to the same observed time")
        }
        (Reading::Share, _) => format!("base × {factor}, to the same total"),
    }
}

/// Both totals and the change between them.
fn total_text(answer: &DiffAnswer) -> String {
    let total = answer.tree.total();
    let show = |value| text::show(&answer.profile_type, value);
    let delta = signed(answer, total.delta());
    let mut text = format!(
        "{} → {}, {delta} ({})",
        show(total.base),
        show(total.new),
        relative(total)
    );
    if let Some(cores) = cores(answer, total.delta()) {
        text.push_str(&format!(", {cores:+.2} cores"));
    }
    text
}

/// Cores that a change of CPU time makes; `None` when the type is no CPU time,
/// or the sides do not rest on the new side's observed time.
fn cores(answer: &DiffAnswer, delta: i128) -> Option<f64> {
    let observed = answer.new.coverage.observed;
    let same = answer.base.coverage.observed == observed;
    (answer.reading == Reading::PerTime || (answer.reading == Reading::Absolute && same))
        .then(|| text::cores_in(&answer.profile_type, observed, delta))
        .flatten()
}

/// What to know of the two sides, one line each; `base` and `new` say which.
fn notes(answer: &DiffAnswer) -> Vec<String> {
    let mut notes = Vec::new();
    for (name, side) in [("base", &answer.base), ("new", &answer.new)] {
        let lines = text::coverage_lines(&side.coverage).into_iter().skip(1);
        notes.extend(lines.map(|line| format!("{name}: {line}")));
    }
    if answer.pruned_nodes > 0 {
        let nodes = answer.pruned_nodes;
        notes.push(format!(
            "{nodes} nodes folded into \"other\", on both sides"
        ));
    }
    notes.extend(answer.notes.iter().cloned());
    notes
}

/// Of when a side is, and what it measured.
fn side_text(answer: &DiffAnswer, side: &DiffSide) -> String {
    let total = text::show(&answer.profile_type, side.total);
    format!("{}: {total}", text::range(&side.window))
}

/// Lines above a table or tree: what is compared, of when, and how.
fn head(answer: &DiffAnswer, context: &RenderContext, style: &Style) -> String {
    let mut head = String::new();
    if !context.title.is_empty() {
        head.push_str(&style.line(BOLD, &context.title));
    }
    if let Some(subtitle) = &context.subtitle {
        head.push_str(&style.line(Ansi::new(), subtitle));
    }
    let label = text::label_of(&answer.profile_type, answer.temporality);
    head.push_str(&style.field("Type:  ", &label));
    for (label, side) in [("Base:  ", &answer.base), ("New:   ", &answer.new)] {
        head.push_str(&style.field(label, &side_text(answer, side)));
        let basis = text::coverage_lines(&side.coverage);
        head.push_str(&style.field("       ", basis.first().map_or("", String::as_str)));
    }
    head.push_str(&style.field("Scale: ", &scale_text(answer)));
    head.push_str(&style.field("Total: ", &total_text(answer)));
    for note in notes(answer) {
        head.push_str(&style.field("Note:  ", &note));
    }
    head
}

/// Whether no side has a sample.
fn is_empty(tree: &DiffTree) -> bool {
    let zero = |change: &Change| *change == Change::default();
    tree.selves().iter().all(zero)
}

/// Writes folded stacks with two values, sorted; nothing for no samples.
fn folded(tree: &DiffTree) -> String {
    let names: Vec<String> = tree
        .new_side()
        .frames()
        .iter()
        .map(|frame| folded_name(&name_of(frame)))
        .collect();
    let selves = tree.selves();
    let mut lines = Vec::new();
    walk_nodes(tree.new_side(), &names, |path, node| {
        let Change { base, new } = selves.get(node).copied().unwrap_or_default();
        if base != 0 || new != 0 {
            lines.push(format!("{path} {base} {new}\n"));
        }
    });
    lines.sort_unstable();
    lines.concat()
}

fn comments(answer: &DiffAnswer) -> Vec<String> {
    let mut comments = vec![
        format!("base: {}", side_text(answer, &answer.base)),
        format!("new: {}", side_text(answer, &answer.new)),
        format!("scale: {}", scale_text(answer)),
    ];
    comments.extend(notes(answer));
    let beyond =
        |change: &Change| i64::try_from(change.base).is_err() || i64::try_from(change.new).is_err();
    let too_large = answer.tree.selves().iter().filter(|c| beyond(c)).count();
    if too_large > 0 {
        comments.push(format!(
            "{too_large} values do not fit in 64 bits and are held at the limit"
        ));
    }
    comments
}

/// The frames of node `at`, leaf first.
fn stack_of(tree: &DiffTree, at: usize) -> Vec<&Frame> {
    let tree = tree.new_side();
    let mut stack = Vec::new();
    let mut here = at;
    while let Some(frame) = tree.frame_of(here) {
        stack.push(frame);
        let parent = tree.nodes().get(here).map(|node| node.parent);
        here = parent
            .and_then(|parent| usize::try_from(parent).ok())
            .unwrap_or(0);
    }
    stack
}

/// Writes gzipped `profile.proto`: new samples, and the base's turned round.
fn pprof(answer: &DiffAnswer) -> Vec<u8> {
    let observed = answer.new.coverage.observed;
    let duration = match observed.is_zero() {
        true => answer.new.window.duration(),
        false => observed,
    };
    let mut builder = PprofBuilder::new(&PprofHead {
        sample_types: vec![answer.profile_type.sample().clone()],
        period_type: answer.profile_type.period().clone(),
        period: match answer.base.period == answer.new.period {
            true => answer.new.period,
            false => 0,
        },
        time_ns: answer.new.window.start().get(),
        duration_ns: i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX),
        comments: comments(answer),
    });
    for (at, change) in answer.tree.selves().into_iter().enumerate() {
        if change.new != 0 {
            builder.add(stack_of(&answer.tree, at), vec![saturate(change.new)]);
        }
        if change.base != 0 {
            let turned = saturate(change.base.saturating_neg());
            let labels = [("pprof::base", "true")];
            builder.add_labelled(stack_of(&answer.tree, at), vec![turned], &labels);
        }
    }
    builder.finish()
}
