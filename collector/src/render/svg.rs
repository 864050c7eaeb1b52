//! The interactive flame graph, drawn by inferno. Deterministic.
//!
//! Colours are chosen by function name, memory colours for types in bytes.
//! Nodes are drawn in the order of the tree, not of their text, so a function
//! never falls apart because a sibling's name sorts between. Values that are
//! not positive have no width and are left out.

use inferno::flamegraph::color::{BackgroundColor, BasicPalette, Palette};
use inferno::flamegraph::{self, Options};
use proto::value_type::ProfileType;

use super::folded::{folded_name, walk};
use super::{RenderContext, RenderError, text};
use crate::answer::ProfileAnswer;
use crate::prune;
use crate::top::name_of;
use crate::tree::CallTree;

/// Nodes narrower than this share of the whole are left out, in percent.
const MIN_WIDTH_PERCENT: f64 = 0.05;
/// Nodes of the largest picture; the lightest others are drawn as `other`.
pub(super) const MAX_NODES: usize = 10_000;
/// Largest total given to inferno: its arithmetic is exact up to here.
pub(super) const MAX_TOTAL: i128 = 1 << 53;
/// Below this many units a smaller unit is shown.
const MIN_UNITS: i128 = 10_000;

/// `name` so that inferno's line format cannot misread it: a number after a
/// space would be a value, and a `# ` at the start a comment.
pub(super) fn safe_name(name: &str) -> String {
    let name = folded_name(name);
    let name = name.trim();
    match name.rsplit_once(' ') {
        _ if name.is_empty() => crate::top::UNNAMED.to_owned(),
        Some((head, tail)) if tail.chars().all(|c| c.is_ascii_digit() || c == '.') => {
            format!("{head}\u{a0}{tail}")
        }
        _ => match name.strip_prefix("# ") {
            Some(rest) => format!("#\u{a0}{rest}"),
            None => name.to_owned(),
        },
    }
}

/// Positive values of `tree`, depth first, as `root;child;leaf value` with
/// values divided by `divisor`.
fn lines(tree: &CallTree, divisor: i128) -> Vec<String> {
    let names: Vec<String> = tree
        .frames()
        .iter()
        .map(|frame| safe_name(&name_of(frame)))
        .collect();
    let mut lines = Vec::new();
    walk(tree, &names, |path, value| {
        let value = value / divisor;
        if value > 0 {
            lines.push(format!("{path} {value}"));
        }
    });
    lines
}

/// What counts are called, and the value of one.
pub(super) fn unit(profile_type: &ProfileType, total: i128) -> (&'static str, i128) {
    let units: &[(&'static str, i128)] = match profile_type.sample().unit() {
        "nanoseconds" => &[("ms", 1_000_000), ("µs", 1_000), ("ns", 1)],
        "bytes" => &[("MB", 1 << 20), ("kB", 1 << 10), ("bytes", 1)],
        _ => &[("", 1)],
    };
    units
        .iter()
        .copied()
        .find(|(_, size)| total / size >= MIN_UNITS)
        .or_else(|| units.last().copied())
        .filter(|(name, _)| !name.is_empty())
        .unwrap_or(("samples", 1))
}

fn escape(text: &str) -> String {
    text::printable(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Of when the picture is, after what the caller has to say.
fn subtitle(answer: &ProfileAnswer, context: &RenderContext) -> String {
    let range = text::range(&answer.window);
    match &context.subtitle {
        Some(said) => format!("{said} · {range}"),
        None => range,
    }
}

/// A picture that says that there is nothing to draw.
pub(super) fn empty(title: &str, subtitle: &str) -> String {
    format!(
        concat!(
            r#"<?xml version="1.0" encoding="UTF-8" standalone="no"?>"#,
            "\n",
            r#"<svg version="1.1" width="1200" height="120" viewBox="0 0 1200 120" "#,
            r#"xmlns="http://www.w3.org/2000/svg" font-family="monospace" text-anchor="middle">"#,
            "\n",
            r##"<rect width="100%" height="100%" fill="#f8f8f8"/>"##,
            "\n",
            r#"<text x="600" y="32" font-size="17">{title}</text>"#,
            "\n",
            r##"<text x="600" y="54" font-size="12" fill="#a0a0a0">{subtitle}</text>"##,
            "\n",
            r#"<text x="600" y="90" font-size="14">no samples</text>"#,
            "\n</svg>\n"
        ),
        title = escape(title),
        subtitle = escape(subtitle),
    )
}

/// What is drawn around and over the frames.
#[derive(Debug)]
pub(super) struct Picture<'a> {
    /// Above everything.
    pub(super) title: &'a str,
    /// Below the title.
    pub(super) subtitle: &'a str,
    /// What the counts of the lines are called.
    pub(super) count_name: &'a str,
    /// What a count is multiplied by when it is shown.
    pub(super) factor: f64,
    /// Colours of frames whose line has one count.
    pub(super) palette: BasicPalette,
    /// Behind the frames; `None` is what goes with the colours.
    pub(super) background: Option<BackgroundColor>,
    /// Of lines with two counts: whether red is where the second is smaller.
    pub(super) negate_differentials: bool,
}

/// Draws `lines`, which are depth first with a node before those below it.
///
/// # Errors
///
/// [`RenderError::Svg`] if inferno fails, as it does when all counts are zero.
pub(super) fn draw(mut lines: Vec<String>, picture: &Picture<'_>) -> Result<Vec<u8>, RenderError> {
    // Inferno reverses the lines of a flame chart and, unlike those of a flame
    // graph, neither sorts them nor insists on their order.
    lines.reverse();
    let mut options = Options::default();
    options.title = text::printable(picture.title).into_owned();
    options.subtitle = Some(text::printable(picture.subtitle).into_owned());
    options.colors = Palette::Basic(picture.palette);
    options.bgcolors = picture.background;
    options.negate_differentials = picture.negate_differentials;
    options.deterministic = true;
    options.flame_chart = true;
    options.count_name = picture.count_name.to_owned();
    options.factor = picture.factor;
    options.min_width = MIN_WIDTH_PERCENT;
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)
        .map_err(RenderError::Svg)?;
    Ok(svg)
}

/// Draws `answer`; an answer without a positive value says "no samples".
///
/// # Errors
///
/// [`RenderError::Svg`] if inferno fails, which no answer is known to cause.
pub fn render(answer: &ProfileAnswer, context: &RenderContext) -> Result<Vec<u8>, RenderError> {
    let (tree, _) = prune::prune(&prune::fold_lines(&answer.tree), MAX_NODES);
    let positive = |sum: i128, value: i128| sum.saturating_add(value.max(0));
    let total = tree
        .nodes()
        .iter()
        .fold(0, |sum, node| positive(sum, node.self_value));
    let divisor = total / MAX_TOTAL + 1;
    let lines = lines(&tree, divisor);
    let subtitle = subtitle(answer, context);
    if lines.is_empty() {
        return Ok(empty(&context.title, &subtitle).into_bytes());
    }
    let (count_name, size) = unit(&answer.profile_type, total);
    let picture = Picture {
        title: &context.title,
        subtitle: &subtitle,
        count_name,
        factor: text::ratio(divisor, size),
        palette: match answer.profile_type.sample().unit() {
            "bytes" => BasicPalette::Mem,
            _ => BasicPalette::Hot,
        },
        background: None,
        negate_differentials: false,
    };
    draw(lines, &picture)
}
