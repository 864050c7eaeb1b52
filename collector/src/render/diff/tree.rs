//! The call tree of a comparison for the terminal.
//!
//! One line per node, callers above callees, those below which most changed
//! first. The bar grows from the middle, to the right for more and to the left
//! for less, in parts of the largest change. Work that moved from one callee to
//! another keeps its line, though the caller's own change is zero. Lines are
//! indented where calls fork, as in [`crate::render::tree`].

use std::cmp::Reverse;

use anstyle::Style as Ansi;

use super::{
    BOLD, DIM, MIN_CHANGE, MIN_CHANGE_PER_MILLE, head, is_empty, relative, share, signed, tint,
    whole,
};
use crate::diff::{Change, DiffAnswer};
use crate::render::lines::{
    LONE_REST, Line, MAX_DEPTH, MAX_LINES, PIPE_COLUMNS, Subject, rest_words, walk,
};
use crate::render::top::function_and_place;
use crate::render::{RenderContext, Style, text};
use crate::top::name_of;

/// A change with its sign.
const DELTA: usize = 10;
/// A change in parts of the base.
const PERCENT: usize = 7;

/// Draws one comparison.
struct Drawing<'a> {
    answer: &'a DiffAnswer,
    style: &'a Style,
    totals: Vec<Change>,
    selves: Vec<Change>,
    changed: Vec<u128>,
    children: Vec<Vec<u32>>,
    whole: u128,
    /// The largest change of a total, which has the longest bar.
    widest: u128,
    /// What must have changed at and below a node with a line.
    least: u128,
    /// Cells of each half of a bar.
    half: usize,
}

/// `part` of `whole` in `cells`, rounded up, so that no change is invisible.
fn filled(part: u128, whole: u128, cells: usize) -> usize {
    let limit = u128::try_from(cells).unwrap_or(0);
    // Both halve until the product fits; the ratio stays.
    let (mut part, mut whole) = (part.min(whole), whole.max(1));
    while whole > u128::MAX >> 24 {
        part = part.div_ceil(2);
        whole >>= 1;
    }
    let filled = part.saturating_mul(limit).div_ceil(whole).min(limit);
    usize::try_from(filled).unwrap_or(cells)
}

impl<'a> Drawing<'a> {
    fn new(answer: &'a DiffAnswer, style: &'a Style) -> Self {
        let tree = &answer.tree;
        let totals = tree.totals();
        let changed = tree.changed();
        let whole = whole(answer);
        let mut sorted = changed.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let least = (whole / 1000)
            .saturating_mul(MIN_CHANGE_PER_MILLE)
            .max(sorted.get(MAX_LINES).copied().unwrap_or(0))
            .max(1);
        let mut children = tree.new_side().children();
        for list in &mut children {
            list.sort_by_cached_key(|&child| {
                let child = usize::try_from(child).unwrap_or(usize::MAX);
                let name = tree.new_side().frame_of(child).map(name_of);
                (Reverse(changed.get(child).copied()), name)
            });
        }
        let sizes = totals.iter().map(|change| change.delta().unsigned_abs());
        let widest = sizes.max().unwrap_or(0);
        let columns = style.columns().unwrap_or(PIPE_COLUMNS);
        Self {
            answer,
            style,
            selves: tree.selves(),
            widest,
            totals,
            changed,
            children,
            whole,
            least,
            half: (columns.saturating_sub(44) / 5).clamp(4, 16),
        }
    }

    fn cell(&self, more: bool) -> &'static str {
        match (self.style.color, more) {
            (true, _) => "█",
            (false, true) => "+",
            (false, false) => "-",
        }
    }

    /// The line that explains the bars; a narrow terminal has none.
    fn legend(&self) -> String {
        let explained = "Bars:  -- less  ++ more than the base";
        let columns = self.style.columns().unwrap_or(usize::MAX);
        if columns < text::width(explained) {
            return String::new();
        }
        let whole = i128::try_from(self.whole.max(1)).unwrap_or(i128::MAX);
        let less = (tint(whole.saturating_neg(), 1), self.cell(false).repeat(2));
        let more = (tint(whole, 1), self.cell(true).repeat(2));
        format!(
            "{}{} less  {} more than the base\n",
            self.style.paint(DIM, "Bars:  "),
            self.style.paint(less.0, &less.1),
            self.style.paint(more.0, &more.1)
        )
    }

    fn bar(&self, delta: i128) -> String {
        let cells = filled(delta.unsigned_abs(), self.widest, self.half);
        let empty = " ".repeat(self.half - cells);
        let full = self.cell(delta > 0).repeat(cells);
        let full = self.style.paint(tint(delta, self.whole), &full);
        let middle = self.style.paint(DIM, "│");
        let side = " ".repeat(self.half);
        match delta > 0 {
            true => format!("{side}{middle}{full}{empty}"),
            false => format!("{empty}{full}{middle}{side}"),
        }
    }

    fn numbers(&self, entry: &Line<Change>) -> String {
        let columns = DELTA + 1 + PERCENT + 2;
        if entry.above == Some(entry.value) {
            return " ".repeat(columns);
        }
        let delta = entry.value.delta();
        let text = format!(
            "{:>DELTA$} {:>PERCENT$}",
            signed(self.answer, delta),
            relative(entry.value)
        );
        format!("{}  ", self.style.paint(tint(delta, self.whole), &text))
    }

    fn line(&self, entry: &Line<Change>) -> String {
        let left = DELTA + 1 + PERCENT + 2 + self.half * 2 + 1 + 2;
        let columns = self.style.columns();
        let room = columns.map(|columns| columns.saturating_sub(left));
        // Guides give way before names do.
        let guide = match room {
            Some(room) => text::cut(&entry.lead, room / 2).into_owned(),
            None => entry.lead.clone(),
        };
        let room = room.map(|room| room.saturating_sub(text::width(&guide)));
        let label = self.label(entry.subject, room);
        let numbers = self.numbers(entry);
        let bar = self.bar(entry.value.delta());
        let guide = self.style.paint(DIM, &guide);
        let line = format!("{numbers}{bar}  {guide}{label}");
        format!("{}\n", line.trim_end())
    }

    fn label(&self, subject: Subject, room: Option<usize>) -> String {
        let fit = |words: &str| text::cut(words, room.unwrap_or(usize::MAX)).into_owned();
        let node = match subject {
            Subject::Rest(count) => return self.style.paint(DIM, &fit(&rest_words(count))),
            Subject::Node(node) => node,
        };
        let own = self.selves.get(node).copied().unwrap_or_default();
        let own = share(own.delta().unsigned_abs(), self.whole);
        let ansi = if own >= 0.05 { BOLD } else { Ansi::new() };
        match self.answer.tree.new_side().frame_of(node) {
            None => self.style.paint(ansi, &fit("all")),
            Some(frame) => {
                let name = name_of(frame);
                function_and_place((&name, &frame.file, frame.line), ansi, room, self.style)
            }
        }
    }

    /// What is directly below `node`: its lines, and the rest as one.
    fn below(&self, entry: &Line<Change>, node: usize) -> Vec<(Subject, Change)> {
        let mut lines = Vec::new();
        let (mut count, mut rest, mut rest_changed) = (0_usize, Change::default(), 0_u128);
        for &child in self.children.get(node).into_iter().flatten() {
            let child = usize::try_from(child).unwrap_or(usize::MAX);
            let change = self.totals.get(child).copied().unwrap_or_default();
            let changed = self.changed.get(child).copied().unwrap_or(0);
            if changed >= self.least && entry.depth < MAX_DEPTH {
                lines.push((Subject::Node(child), change));
            } else {
                count += 1;
                rest.base = rest.base.saturating_add(change.base);
                rest.new = rest.new.saturating_add(change.new);
                rest_changed = rest_changed.saturating_add(changed);
            }
        }
        if count > 0
            && rest_changed >= self.least
            && (!lines.is_empty() || rest_changed.saturating_mul(LONE_REST.into()) >= self.whole)
        {
            lines.push((Subject::Rest(count), rest));
        }
        lines
    }

    fn draw(&self, out: &mut String) {
        let root = self.totals.first().copied().unwrap_or_default();
        let below = |line: &Line<Change>, node| self.below(line, node);
        walk(root, below, |line| out.push_str(&self.line(line)));
    }
}

/// Draws the tree; two sides without values say "no samples".
pub fn render(answer: &DiffAnswer, context: &RenderContext, style: &Style) -> String {
    let mut out = head(answer, context, style);
    let drawing = Drawing::new(answer, style);
    if is_empty(&answer.tree) {
        out.push_str(&style.line(Ansi::new(), "no samples"));
        return out;
    }
    if drawing.changed.first().copied().unwrap_or(0) < drawing.least {
        let says = format!("nothing changed by {MIN_CHANGE} of the larger total");
        out.push_str(&style.line(Ansi::new(), &says));
        return out;
    }
    out.push_str(&drawing.legend());
    out.push('\n');
    drawing.draw(&mut out);
    out
}
