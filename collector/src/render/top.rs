//! The table of functions for a terminal or a pipe, in the columns of
//! `go tool pprof -top` and, for CPU time, cores.
//!
//! Functions with little cum are left out by the same limit as there, and
//! counted in the head. `cores` is cum divided by the observed time. The exact
//! rows are in [`crate::top`] and in the JSON format.

use anstyle::{Ansi256Color, AnsiColor, Style as Ansi};

use super::{RenderContext, Style, text};
use crate::answer::ProfileAnswer;
use crate::top::{self, TopRow};

/// Least cum of a function that is shown, in thousandths of the total.
const MIN_CUM_PER_MILLE: u128 = 5;
/// Narrowest column of functions; a narrower terminal wraps lines.
const MIN_FUNCTION_COLUMNS: usize = 16;

const DIM: Ansi = Ansi::new().dimmed();
const BOLD: Ansi = Ansi::new().bold();

/// The colour of a share: the more, the hotter; readable on dark and on light.
pub(super) fn heat(value: i128, total: i128) -> Ansi {
    let color = match text::ratio(value, total).abs() {
        share if share >= 0.5 => 196,
        share if share >= 0.2 => 202,
        share if share >= 0.05 => 172,
        _ => return Ansi::new(),
    };
    Ansi::new().fg_color(Some(Ansi256Color(color).into()))
}

/// Lines above a table or tree: what it is, of when, and what it rests on.
pub(super) fn head(answer: &ProfileAnswer, context: &RenderContext, style: &Style) -> String {
    let total = answer.tree.total();
    let mut amount = text::show(&answer.profile_type, total);
    if let Some(cores) = text::cores(answer, total) {
        amount = format!("{amount}, {cores:.2} cores");
    }
    let mut head = String::new();
    if !context.title.is_empty() {
        head.push_str(&style.line(BOLD, &context.title));
    }
    if let Some(subtitle) = &context.subtitle {
        head.push_str(&style.line(Ansi::new(), subtitle));
    }
    head.push_str(&style.field("Type:  ", &text::type_label(answer)));
    head.push_str(&style.field("Time:  ", &text::range(&answer.window)));
    head.push_str(&style.field("Total: ", &amount));
    let mut label = "Data:  ";
    for line in text::coverage_lines(&answer.coverage) {
        head.push_str(&style.field(label, &line));
        label = "Note:  ";
    }
    head
}

/// The row's values as text, each with a column of its own.
struct Cells {
    flat: String,
    flat_percent: String,
    sum_percent: String,
    cum: String,
    cum_percent: String,
    cores: Option<String>,
}

impl Cells {
    fn titles(cores: bool) -> Self {
        Self {
            flat: "flat".to_owned(),
            flat_percent: "flat%".to_owned(),
            sum_percent: "sum%".to_owned(),
            cum: "cum".to_owned(),
            cum_percent: "cum%".to_owned(),
            cores: cores.then(|| "cores".to_owned()),
        }
    }

    /// The cells side by side, the flat and cum parts in these colours.
    fn line(&self, style: &Style, flat: Ansi, cum: Ansi) -> String {
        let flat_part = format!("{:>9} {:>7}", self.flat, self.flat_percent);
        let sum_part = format!(" {:>7} ", self.sum_percent);
        let cum_part = format!("{:>9} {:>7}", self.cum, self.cum_percent);
        let mut line = style.paint(flat, &flat_part);
        line.push_str(&style.paint(DIM, &sum_part));
        line.push_str(&style.paint(cum, &cum_part));
        if let Some(cores) = &self.cores {
            line.push_str(&style.paint(cum, &format!(" {cores:>6}")));
        }
        line
    }

    /// Columns that the cells take.
    fn columns(cores: bool) -> usize {
        9 + 1 + 7 + 9 + 9 + 1 + 7 + if cores { 7 } else { 0 }
    }
}

/// `function  file:line` within `columns`, the place dimmed or left out.
pub(super) fn function_and_place(
    (function, file, line): (&str, &str, u32),
    function_ansi: Ansi,
    columns: Option<usize>,
    style: &Style,
) -> String {
    let columns = columns.unwrap_or(usize::MAX);
    let function = text::function(function, columns);
    let mut out = style.paint(function_ansi, &function);
    let left = columns.saturating_sub(text::width(&function) + 2);
    if let Some(place) = text::place(file, line, left) {
        out.push_str("  ");
        out.push_str(&style.paint(DIM, &place));
    }
    out
}

/// The sentence on what the table shows.
fn shown(answer: &ProfileAnswer, rows: &[TopRow], all: usize) -> String {
    let total = answer.tree.total();
    let flat = rows
        .iter()
        .fold(0_i128, |sum, row| sum.saturating_add(row.flat));
    let mut text = format!(
        "Showing {} of {all} functions, {} of the total",
        rows.len(),
        text::percent(flat, total, 2)
    );
    if rows.len() < all {
        let least = text::percent(i128::try_from(MIN_CUM_PER_MILLE).unwrap_or(0), 1000, 1);
        text.push_str(&format!("; not those with cum below {least}"));
    }
    text
}

/// Writes the table; an answer without values says "no samples".
pub fn render(answer: &ProfileAnswer, context: &RenderContext, style: &Style) -> String {
    let mut out = head(answer, context, style);
    let total = answer.tree.total();
    let all = top::top(&answer.tree);
    let rows: Vec<TopRow> = all
        .iter()
        .filter(|row| {
            row.cum.unsigned_abs().saturating_mul(1000)
                >= total.unsigned_abs().saturating_mul(MIN_CUM_PER_MILLE)
        })
        .cloned()
        .collect();
    if rows.is_empty() {
        out.push_str(&style.line(Ansi::new(), "no samples"));
        return out;
    }
    out.push_str(&style.line(DIM, &shown(answer, &rows, all.len())));
    out.push('\n');
    let has_cores = text::cores(answer, total).is_some();
    let columns = style.columns().map(|columns| {
        (columns.saturating_sub(Cells::columns(has_cores) + 2)).max(MIN_FUNCTION_COLUMNS)
    });
    let title = Ansi::new()
        .bold()
        .fg_color(Some(AnsiColor::BrightBlack.into()));
    let titles = Cells::titles(has_cores).line(
        &Style {
            color: false,
            ..*style
        },
        DIM,
        DIM,
    );
    out.push_str(&style.paint(title, &format!("{titles}  function")));
    out.push('\n');
    let mut sum = 0_i128;
    for row in &rows {
        sum = sum.saturating_add(row.flat);
        let cells = Cells {
            flat: text::show(&answer.profile_type, row.flat),
            flat_percent: text::percent(row.flat, total, 2),
            sum_percent: text::percent(sum, total, 2),
            cum: text::show(&answer.profile_type, row.cum),
            cum_percent: text::percent(row.cum, total, 2),
            cores: text::cores(answer, row.cum).map(|cores| format!("{cores:.2}")),
        };
        let flat = if row.flat == 0 {
            DIM
        } else {
            heat(row.flat, total)
        };
        out.push_str(&cells.line(style, flat, Ansi::new()));
        out.push_str("  ");
        let name = if text::ratio(row.flat, total).abs() >= 0.05 {
            BOLD
        } else {
            Ansi::new()
        };
        let place = (&*row.function, &*row.file, row.line);
        out.push_str(&function_and_place(place, name, columns, style));
        out.push('\n');
    }
    out
}
