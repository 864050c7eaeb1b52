//! Columns of text, as wide as what they hold.

use super::output::printable;
use crate::render::Style;

/// On which side of its column a text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A table under construction.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    columns: [(&'static str, Align); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// Returns an empty table with these columns.
    pub(super) fn new(columns: [(&'static str, Align); N]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows
            .push(cells.map(|cell| printable(&cell).replace('\n', " ")));
    }

    /// The table, a line per row; the head is dim where colours are welcome,
    /// and no line is wider than a terminal.
    pub(super) fn text(&self, style: &Style) -> String {
        let head = self.columns.map(|(name, _)| name.to_owned());
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = self.rows.iter().chain([&head]);
            let width = |cells: &[String; N]| cells.get(column).map_or(0, |c| c.chars().count());
            cells.map(width).max().unwrap_or(0)
        });
        let mut out = String::new();
        let (dim, plain) = match style.color {
            true => ("\u{1b}[2m", "\u{1b}[0m"),
            false => ("", ""),
        };
        out.push_str(dim);
        out.push_str(&self.line(&head, &widths, style));
        out.push_str(plain);
        out.push('\n');
        for row in &self.rows {
            out.push_str(&self.line(row, &widths, style));
            out.push('\n');
        }
        out
    }

    fn line(&self, cells: &[String; N], widths: &[usize; N], style: &Style) -> String {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.iter().zip(widths).zip(&self.columns) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            match align {
                Align::Left => line.push_str(&format!("{cell:<width$}")),
                Align::Right => line.push_str(&format!("{cell:>width$}")),
            }
        }
        let line = line.trim_end();
        match style.width.map(usize::from) {
            Some(width) if line.chars().count() > width => {
                let kept = line.chars().take(width.saturating_sub(1));
                kept.chain(['…']).collect()
            }
            _ => line.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<3> {
        let mut table = Table::new([
            ("NAME", Align::Left),
            ("CPU", Align::Right),
            ("TYPES", Align::Left),
        ]);
        table.row(["größe".to_owned(), "0.5".to_owned(), "cpu, heap".to_owned()]);
        table.row([
            "a\u{1b}[31m\nb".to_owned(),
            "10.25".to_owned(),
            String::new(),
        ]);
        table
    }

    #[test]
    fn columns_line_up_and_nothing_moves_the_cursor() {
        expect_test::expect![[r"
            NAME        CPU  TYPES
            größe       0.5  cpu, heap
            a�[31m b  10.25
        "]]
        .assert_eq(&table().text(&Style::default()));
    }

    #[test]
    fn a_terminal_is_never_too_narrow() {
        for width in [0, 1, 10, 80] {
            let style = Style {
                color: false,
                width: Some(width),
            };
            let text = table().text(&style);
            let most = usize::from(width).max(1);
            assert!(
                text.lines().all(|line| line.chars().count() <= most),
                "{text}"
            );
        }
    }
}
