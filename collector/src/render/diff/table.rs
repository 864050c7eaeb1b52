//! The table of functions of a comparison, largest change of flat first.
//!
//! Base, new, their change and the change in parts of the base, for flat and,
//! where there is room, for cum; otherwise the change of cum alone. Functions
//! whose flat and cum changed by less than the tree's limit are left out and
//! counted in the head. The exact rows are in the JSON format.

use anstyle::{AnsiColor, Style as Ansi};

use super::{
    BOLD, DIM, MIN_CHANGE, cores, head, is_empty, is_large, relative, signed, tint, whole,
};
use crate::diff::{Change, DiffAnswer, DiffRow};
use crate::render::top::function_and_place;
use crate::render::{RenderContext, Style, text};

/// Columns from which on cum is shown in full.
const WIDE: usize = 130;
/// Narrowest column of functions; a narrower terminal wraps lines.
const MIN_FUNCTION_COLUMNS: usize = 16;

const VALUE: usize = 9;
const DELTA: usize = 10;
const PERCENT: usize = 7;
const CORES: usize = 7;

/// What a row shows beside flat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// The change of cum.
    Narrow,
    /// All of cum.
    Wide,
    /// All of cum, and its change in cores.
    WithCores,
}

impl Shape {
    fn of(answer: &DiffAnswer, style: &Style) -> Self {
        let wide = style.columns().is_none_or(|columns| columns >= WIDE);
        match (wide, cores(answer, 0)) {
            (false, _) => Self::Narrow,
            (true, None) => Self::Wide,
            (true, Some(_)) => Self::WithCores,
        }
    }

    /// Title and width of each column.
    fn titles(self) -> Vec<(&'static str, usize)> {
        let mut titles = vec![
            ("flat base", VALUE),
            ("flat new", VALUE),
            ("delta", DELTA),
            ("delta%", PERCENT),
        ];
        match self {
            Self::Narrow => titles.push(("cum delta", DELTA)),
            Self::Wide | Self::WithCores => titles.extend([
                ("cum base", VALUE),
                ("cum new", VALUE),
                ("delta", DELTA),
                ("delta%", PERCENT),
            ]),
        }
        if self == Self::WithCores {
            titles.push(("cores", CORES));
        }
        titles
    }

    /// Columns of the terminal before the function's.
    fn columns(self) -> usize {
        let widths = self.titles().into_iter().map(|(_, width)| width + 1);
        widths.sum::<usize>() + 1
    }

    /// Text and colour of each column.
    fn cells(self, answer: &DiffAnswer, row: &DiffRow, whole: u128) -> Vec<(String, Ansi)> {
        let show = |value| (text::show(&answer.profile_type, value), Ansi::new());
        let delta = |change: Change| {
            let delta = change.delta();
            (signed(answer, delta), tint(delta, whole))
        };
        let part = |change: Change| (relative(change), tint(change.delta(), whole));
        let mut cells = vec![
            show(row.flat.base),
            show(row.flat.new),
            delta(row.flat),
            part(row.flat),
        ];
        match self {
            Self::Narrow => cells.push(delta(row.cum)),
            Self::Wide | Self::WithCores => cells.extend([
                show(row.cum.base),
                show(row.cum.new),
                delta(row.cum),
                part(row.cum),
            ]),
        }
        if self == Self::WithCores {
            let cores = cores(answer, row.cum.delta()).unwrap_or(0.0);
            cells.push((format!("{cores:+.2}"), tint(row.cum.delta(), whole)));
        }
        cells
    }

    /// One line of cells, each on the right of its column.
    fn line(self, cells: &[(String, Ansi)], style: &Style) -> String {
        let mut line = String::new();
        for ((text, ansi), (_, width)) in cells.iter().zip(self.titles()) {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&style.paint(*ansi, &format!("{text:>width$}")));
        }
        line
    }
}

fn title_line(shape: Shape, style: &Style) -> String {
    let plain = Style {
        color: false,
        ..*style
    };
    let titles = shape.titles().into_iter();
    let cells: Vec<_> = titles
        .map(|(title, _)| (title.to_owned(), Ansi::new()))
        .collect();
    let ansi = Ansi::new()
        .bold()
        .fg_color(Some(AnsiColor::BrightBlack.into()));
    let line = format!("{}  function", shape.line(&cells, &plain));
    format!("{}\n", style.paint(ansi, &line))
}

fn shown(rows: usize, all: usize) -> String {
    let mut text = format!("Showing {rows} of {all} functions by the change of flat");
    if rows < all {
        text.push_str(&format!("; not changes below {MIN_CHANGE}"));
    }
    text
}

/// Writes the table; two sides without values say "no samples".
pub fn render(answer: &DiffAnswer, context: &RenderContext, style: &Style) -> String {
    let mut out = head(answer, context, style);
    let whole = whole(answer);
    let all = answer.tree.functions();
    let changed = |change: Change| is_large(change.delta().unsigned_abs(), whole);
    let rows: Vec<&DiffRow> = all
        .iter()
        .filter(|row| changed(row.flat) || changed(row.cum))
        .collect();
    if rows.is_empty() {
        let says = match is_empty(&answer.tree) {
            true => "no samples".to_owned(),
            false => format!("no function changed by {MIN_CHANGE} of the larger total"),
        };
        out.push_str(&style.line(Ansi::new(), &says));
        return out;
    }
    out.push_str(&style.line(DIM, &shown(rows.len(), all.len())));
    out.push('\n');
    let shape = Shape::of(answer, style);
    let columns = style
        .columns()
        .map(|columns| (columns.saturating_sub(shape.columns())).max(MIN_FUNCTION_COLUMNS));
    out.push_str(&title_line(shape, style));
    for row in rows {
        out.push_str(&shape.line(&shape.cells(answer, row, whole), style));
        out.push_str("  ");
        let flat = super::share(row.flat.delta().unsigned_abs(), whole);
        let name = if flat >= 0.05 { BOLD } else { Ansi::new() };
        let place = (&*row.function, &*row.file, row.line);
        out.push_str(&function_and_place(place, name, columns, style));
        out.push('\n');
    }
    out
}
