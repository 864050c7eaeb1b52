//! The differential flame graph, drawn by inferno. Deterministic.
//!
//! As Brendan Gregg defined it
//! (<https://www.brendangregg.com/blog/2014-11-09/differential-flame-graphs.html>):
//! frames are as wide as on one side, and coloured by the change of the
//! function's own value, not of what it calls: red is more, blue is less, white
//! is none, and the deepest colour is the largest change, drawn or not. A frame's
//! tooltip ends with its change in percent of the drawn total.
//!
//! What the drawn side does not have has no width; the subtitle says how much
//! that is. [`Widths::Base`] draws it the other way round.

use inferno::flamegraph::color::{BackgroundColor, BasicPalette};

use crate::diff::{Change, DiffAnswer, Ratio, scaled};
use crate::render::folded::walk_nodes;
use crate::render::svg::{MAX_NODES, MAX_TOTAL, Picture, draw, empty, safe_name, unit};
use crate::render::{RenderContext, RenderError, text};
use crate::top::name_of;

/// Which side frames are as wide as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Widths {
    /// As on the new side: shows what is new, and not what is gone.
    #[default]
    New,
    /// As in the base: shows what is gone, and not what is new.
    Base,
}

impl Widths {
    fn of(self, change: Change) -> i128 {
        match self {
            Self::New => change.new,
            Self::Base => change.base,
        }
    }

    fn other(self, change: Change) -> i128 {
        match self {
            Self::New => change.base,
            Self::Base => change.new,
        }
    }

    const fn other_name(self) -> &'static str {
        match self {
            Self::New => "base",
            Self::Base => "new side",
        }
    }
}

/// Lines `root;child;leaf other shown`, depth first, in units of `ratio`.
///
/// Widths and changes are rounded apart, so that a function that did not change
/// stays white.
fn lines(answer: &DiffAnswer, widths: Widths, ratio: Ratio) -> Vec<String> {
    let tree = &answer.tree;
    let selves = tree.selves();
    let wide: Vec<i128> = selves.iter().map(|c| widths.of(*c).max(0)).collect();
    let more: Vec<i128> = selves
        .iter()
        .map(|c| widths.other(*c).max(0).saturating_sub(widths.of(*c).max(0)))
        .collect();
    let wide = scaled(tree.new_side(), &wide, ratio);
    let more = scaled(tree.new_side(), &more, ratio);
    let names: Vec<String> = tree
        .new_side()
        .frames()
        .iter()
        .map(|frame| safe_name(&name_of(frame)))
        .collect();
    let mut lines = Vec::new();
    walk_nodes(tree.new_side(), &names, |path, node| {
        let shown = wide.get(node).copied().unwrap_or(0).max(0);
        let more = more.get(node).copied().unwrap_or(0);
        // A frame takes its colour from the line that opens it: one without
        // width must open its frame when it changed.
        if shown > 0 || more != 0 {
            let other = shown.saturating_add(more).clamp(0, MAX_TOTAL);
            lines.push(format!("{path} {other} {shown}"));
        }
    });
    lines
}

/// Value of the other side in nodes that the drawn side does not have.
fn not_drawn(answer: &DiffAnswer, widths: Widths) -> i128 {
    let both = answer.tree.selves().into_iter().zip(answer.tree.totals());
    both.filter(|(_, total)| widths.of(*total) <= 0)
        .fold(0, |sum: i128, (own, _)| {
            sum.saturating_add(widths.other(own).max(0))
        })
}

/// Of when the sides are and how to read the colours.
fn subtitle(answer: &DiffAnswer, context: &RenderContext, widths: Widths) -> String {
    let range = |side: &crate::diff::DiffSide| text::range(&side.window);
    let mut parts = Vec::new();
    parts.extend(context.subtitle.clone());
    parts.push(format!("{} → {}", range(&answer.base), range(&answer.new)));
    parts.push(format!("scale {}", super::scale_text(answer)));
    parts.push("red more, blue less in the function itself".to_owned());
    let missing = not_drawn(answer, widths);
    if missing > 0 {
        let shown = text::show(&answer.profile_type, missing);
        parts.push(format!(
            "not drawn: {shown} of the {} only",
            widths.other_name()
        ));
    }
    parts.join(" · ")
}

/// Draws `answer`; when the drawn side has no positive value the picture says
/// "no samples".
///
/// # Errors
///
/// [`RenderError::Svg`] if inferno fails, which no answer is known to cause.
pub fn render(
    answer: &DiffAnswer,
    context: &RenderContext,
    widths: Widths,
) -> Result<Vec<u8>, RenderError> {
    let answer = &answer.with_tree(answer.tree.prune(MAX_NODES).0);
    let shown = answer.tree.selves().into_iter();
    let shown = shown.fold(0_i128, |sum, own| sum.saturating_add(widths.of(own).max(0)));
    let (count_name, size) = unit(&answer.profile_type, shown);
    // Inferno adds up counts of 64 bits and multiplies changes by 150.
    let group = shown / size / MAX_TOTAL + 1;
    let size = size.saturating_mul(group);
    let ratio = Ratio::new(1, size.unsigned_abs()).unwrap_or(Ratio::ONE);
    let subtitle = subtitle(answer, context, widths);
    let lines = lines(answer, widths, ratio);
    if shown == 0 || lines.is_empty() {
        return Ok(empty(&context.title, &subtitle).into_bytes());
    }
    let grouped = format!("× {group} {count_name}");
    let picture = Picture {
        title: &context.title,
        subtitle: &subtitle,
        count_name: if group > 1 { &grouped } else { count_name },
        // Not to be used: inferno does not multiply the changes by it.
        factor: 1.0,
        palette: BasicPalette::Hot,
        background: Some(BackgroundColor::Grey),
        negate_differentials: widths == Widths::Base,
    };
    draw(lines, &picture)
}
