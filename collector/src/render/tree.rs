//! A flame graph for the terminal, lying on its side.
//!
//! One line per node, callers above callees, the heaviest first. The bar has
//! the node's width and place in the flame graph: its bright part (plain text:
//! `█`) is spent in the function itself, its pale part (`░`) in what it calls.
//! Lines are indented only where calls fork (`├─`, `└─`); a chain of single
//! calls goes straight down, and repeats no equal numbers.

use anstyle::{Ansi256Color, Style as Ansi};
use proto::stack::Frame;

use super::lines::{
    LONE_REST, Line, MAX_DEPTH, MAX_LINES, PIPE_COLUMNS, Subject, rest_words, walk,
};
use super::top::{function_and_place, head};
use super::{RenderContext, Style, text};
use crate::answer::ProfileAnswer;
use crate::prune;
use crate::top::name_of;
use crate::tree::CallTree;

/// Least total of a node with a line of its own, in thousandths of the whole.
pub(super) const MIN_TOTAL_PER_MILLE: i128 = 5;
/// `100.0%`, a value and the gaps between them and the bar.
const NUMBERS_COLUMNS: usize = 6 + 1 + 8 + 2;

const DIM: Ansi = Ansi::new().dimmed();

/// Where a bar begins and ends, in the values' unit.
#[derive(Clone, Copy)]
struct Span {
    start: i128,
    total: i128,
    self_value: i128,
}

/// What a drawing calls its parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    /// The root.
    pub(super) root: &'static str,
    /// The bright part of a bar.
    pub(super) own: &'static str,
    /// The pale part of a bar.
    pub(super) below: &'static str,
}

/// Words of a flame graph.
const FLAME_GRAPH: Words = Words {
    root: "all",
    own: "the function itself",
    below: "what it calls",
};

/// Draws one answer.
struct Drawing<'a> {
    answer: &'a ProfileAnswer,
    style: &'a Style,
    words: Words,
    tree: CallTree,
    totals: Vec<i128>,
    children: Vec<Vec<u32>>,
    whole: i128,
    least: i128,
    bar_columns: usize,
}

/// `value` of `whole` in `columns` cells, rounded, within them.
pub(super) fn cells(value: i128, whole: i128, columns: usize) -> usize {
    let limit = i128::try_from(columns).unwrap_or(0);
    // Both halve until the product fits; the ratio stays.
    let (mut value, mut whole) = (value.max(0), whole.max(1));
    while whole > i128::MAX >> 24 {
        value >>= 1;
        whole >>= 1;
    }
    let rounded = (value.min(whole) * limit + whole / 2) / whole;
    usize::try_from(rounded.clamp(0, limit)).unwrap_or(columns)
}

impl<'a> Drawing<'a> {
    fn new(answer: &'a ProfileAnswer, words: Words, style: &'a Style) -> Self {
        let tree = prune::fold_lines(&answer.tree);
        let totals = tree.totals();
        let whole = totals.first().copied().unwrap_or(0);
        let mut sorted = totals.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let least = (whole / 1000)
            .saturating_mul(MIN_TOTAL_PER_MILLE)
            .max(sorted.get(MAX_LINES).copied().unwrap_or(0))
            .max(1);
        let mut children = tree.children();
        for list in &mut children {
            list.sort_by_key(|&child| {
                let child = usize::try_from(child).unwrap_or(usize::MAX);
                let name = tree.frame_of(child).map(name_of);
                (std::cmp::Reverse(totals.get(child).copied()), name)
            });
        }
        let columns = style.columns().unwrap_or(PIPE_COLUMNS);
        Self {
            answer,
            style,
            words,
            tree,
            totals,
            children,
            whole,
            least,
            bar_columns: (columns.saturating_sub(44) / 2).clamp(8, 50),
        }
    }

    /// The colour of a bar: its bright part and its pale part.
    fn colors(&self, subject: Subject, total: i128) -> (Ansi, Ansi) {
        let fg = |color: u8| Ansi::new().fg_color(Some(Ansi256Color(color).into()));
        let (bright, pale) = match (subject, self.answer.profile_type.sample().unit()) {
            (Subject::Rest(_), _) => (244, 244),
            (Subject::Node(_), "bytes") => match text::ratio(total, self.whole) {
                share if share >= 0.5 => (34, 71),
                share if share >= 0.1 => (40, 114),
                _ => (77, 151),
            },
            (Subject::Node(_), _) => match text::ratio(total, self.whole) {
                share if share >= 0.5 => (196, 173),
                share if share >= 0.1 => (202, 179),
                _ => (214, 180),
            },
        };
        (fg(bright), fg(pale))
    }

    /// What the pale part of a bar is drawn with.
    fn pale_cell(&self) -> &'static str {
        if self.style.color { "█" } else { "░" }
    }

    /// The line that explains the bars.
    fn legend(&self) -> String {
        let (bright, pale) = self.colors(Subject::Node(0), self.whole);
        let Words { own, below, .. } = self.words;
        let needed = text::width(&format!("Bars:  ██ {own}  ██ {below}"));
        if self.style.columns().is_some_and(|columns| columns < needed) {
            return String::new();
        }
        let bright = self.style.paint(bright, "██");
        let pale = self.style.paint(pale, &self.pale_cell().repeat(2));
        let label = self.style.paint(DIM, "Bars:  ");
        format!("{label}{bright} {own}  {pale} {below}\n")
    }

    fn bar(&self, subject: Subject, span: Span) -> String {
        let at = |value: i128| cells(value, self.whole, self.bar_columns);
        let start = at(span.start).min(self.bar_columns.saturating_sub(1));
        let end = at(span.start.saturating_add(span.total)).max(start + 1);
        // What the function itself spends is at the right end, under no callee.
        let own = if span.self_value <= 0 {
            0
        } else if span.self_value >= span.total {
            end - start
        } else {
            let called = span.total.saturating_sub(span.self_value);
            end - at(span.start.saturating_add(called)).clamp(start, end)
        };
        let pale = end - start - own;
        let (bright_ansi, pale_ansi) = self.colors(subject, span.total);
        let pale_cell = self.pale_cell();
        let mut bar = " ".repeat(start);
        bar.push_str(&self.style.paint(pale_ansi, &pale_cell.repeat(pale)));
        bar.push_str(&self.style.paint(bright_ansi, &"█".repeat(own)));
        bar.push_str(&" ".repeat(self.bar_columns.saturating_sub(end)));
        bar
    }

    fn numbers(&self, line: &Line<Span>) -> String {
        let total = line.value.total;
        if line.above.is_some_and(|above| above.total == total) {
            return " ".repeat(NUMBERS_COLUMNS);
        }
        let percent = text::percent(total, self.whole, 1);
        let value = text::show(&self.answer.profile_type, total);
        let percent = self.style.paint(
            super::top::heat(total, self.whole),
            &format!("{percent:>6}"),
        );
        let value = self.style.paint(DIM, &format!("{value:>8}"));
        format!("{percent} {value}  ")
    }

    fn line(&self, entry: &Line<Span>) -> String {
        let left = NUMBERS_COLUMNS + self.bar_columns + 2;
        let room = self
            .style
            .columns()
            .map(|columns| columns.saturating_sub(left));
        // Guides give way before names do.
        let guide = match room {
            Some(room) => text::cut(&entry.lead, room / 2).into_owned(),
            None => entry.lead.clone(),
        };
        let room = room.map(|room| room.saturating_sub(text::width(&guide)));
        let label = match entry.subject {
            Subject::Rest(count) => {
                let words = rest_words(count);
                let words = text::cut(&words, room.unwrap_or(usize::MAX));
                self.style.paint(DIM, &words)
            }
            Subject::Node(node) => {
                let own = text::ratio(entry.value.self_value, self.whole);
                let ansi = if own >= 0.05 {
                    Ansi::new().bold()
                } else {
                    Ansi::new()
                };
                self.label(node, ansi, room)
            }
        };
        let numbers = self.numbers(entry);
        let bar = self.bar(entry.subject, entry.value);
        let guide = self.style.paint(DIM, &guide);
        let line = format!("{numbers}{bar}  {guide}{label}");
        format!("{}\n", line.trim_end())
    }

    fn label(&self, node: usize, ansi: Ansi, room: Option<usize>) -> String {
        match self.tree.frame_of(node) {
            None => {
                let root = text::cut(self.words.root, room.unwrap_or(usize::MAX));
                self.style.paint(ansi, &root)
            }
            Some(frame) => {
                let Frame { file, line, .. } = frame;
                let name = name_of(frame);
                function_and_place((&name, file, *line), ansi, room, self.style)
            }
        }
    }

    /// What is directly below `node`, first line first.
    fn below(&self, entry: &Line<Span>, node: usize) -> Vec<(Subject, Span)> {
        let mut start = entry.value.start;
        let mut lines: Vec<(Subject, Span)> = Vec::new();
        let mut rest = (0_usize, 0_i128, None::<i128>);
        for &child in self.children.get(node).into_iter().flatten() {
            let child = usize::try_from(child).unwrap_or(usize::MAX);
            let total = self.totals.get(child).copied().unwrap_or(0);
            let self_value = self
                .tree
                .nodes()
                .get(child)
                .map_or(0, |node| node.self_value);
            if total >= self.least && entry.depth < MAX_DEPTH {
                lines.push((
                    Subject::Node(child),
                    Span {
                        start,
                        total,
                        self_value,
                    },
                ));
            } else {
                let (count, sum, first) = rest;
                rest = (count + 1, sum.saturating_add(total), first.or(Some(start)));
            }
            start = start.saturating_add(total.max(0));
        }
        if let (count, total, Some(start)) = rest
            && total >= self.least
            && (!lines.is_empty() || total.saturating_mul(LONE_REST.into()) >= self.whole)
        {
            lines.push((
                Subject::Rest(count),
                Span {
                    start,
                    total,
                    self_value: 0,
                },
            ));
        }
        lines
    }

    fn draw(&self, out: &mut String) {
        let root = Span {
            start: 0,
            total: self.whole,
            self_value: 0,
        };
        let below = |line: &Line<Span>, node| self.below(line, node);
        walk(root, below, |line| out.push_str(&self.line(line)));
    }
}

/// Draws the tree; an answer whose total is not positive says "no samples".
pub fn render(answer: &ProfileAnswer, context: &RenderContext, style: &Style) -> String {
    let mut out = head(answer, context, style);
    out.push_str(&draw(answer, FLAME_GRAPH, style));
    out
}

/// The drawing without a head, in these words.
pub(super) fn draw(answer: &ProfileAnswer, words: Words, style: &Style) -> String {
    let drawing = Drawing::new(answer, words, style);
    if drawing.whole <= 0 {
        return style.line(Ansi::new(), "no samples");
    }
    let mut out = drawing.legend();
    out.push('\n');
    drawing.draw(&mut out);
    out
}
