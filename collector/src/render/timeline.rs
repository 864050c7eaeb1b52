//! A timeline as text and JSON. Pure: no I/O, no clock.
//!
//! Text: one line per group, a cell per step from zero to the line's own
//! largest value, then smallest, largest and latest point with their unit. Where
//! nothing was observed the cell is [`GAP`], never a low bar. When there are
//! more steps than columns, a cell stands for several and shows the largest of
//! those that are known.
//!
//! JSON is an interface: the golden test pins it. Point `i` of a series is of
//! the step that begins `i × step_s` seconds after `first_step`, in `unit`;
//! null where nothing was observed. Fields may be added under the same `schema`;
//! none changes its meaning.

use std::collections::BTreeMap;

use anstyle::Style as Ansi;
use proto::window::UnixNanos;
use serde::Serialize;

use super::lines::PIPE_COLUMNS;
use super::{RenderContext, RenderError, Style, json, text};
use crate::timeline::{Measure, Series, Timeline};

/// What a step without a value is drawn as.
pub const GAP: char = '·';

/// Eighths of a cell, from nothing or almost nothing to the whole.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Number of the JSON shape; another shape gets another number.
const SCHEMA: u32 = 1;
/// Widest column of groups.
const MAX_GROUP: usize = 32;
/// Least cells of a chart; a narrower terminal wraps lines.
const MIN_CELLS: usize = 8;
/// Columns of one of the numbers: its gap and its text.
const NUMBER: usize = 2 + 9;

const DIM: Ansi = Ansi::new().dimmed();
const BOLD: Ansi = Ansi::new().bold();

/// A point with its unit.
fn amount(timeline: &Timeline, point: Option<f64>) -> String {
    let Some(point) = point else {
        return "-".to_owned();
    };
    match timeline.measure {
        Measure::Cores => format!("{point:.2}"),
        Measure::PerSecond => format!("{}/s", text::show_float(&timeline.profile_type, point)),
        Measure::Average => text::show_float(&timeline.profile_type, point),
    }
}

/// What a group is called: its label's values.
fn group_name(series: &Series) -> String {
    if series.group.is_empty() {
        return "all".to_owned();
    }
    let names: Vec<&str> = series
        .group
        .iter()
        .map(|value| match value.as_str() {
            "" => "(none)",
            value => value,
        })
        .collect();
    text::printable(&names.join(", ")).into_owned()
}

/// The bar of `value` of `most`, both not negative.
fn bar(value: f64, most: f64) -> char {
    let share = if most > 0.0 { value / most } else { 0.0 };
    let steps = [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875];
    let at = steps.iter().filter(|step| share > **step).count();
    BARS.get(at).copied().unwrap_or(GAP)
}

/// The cells of a line, each for `per_cell` steps.
fn cells(series: &Series, per_cell: usize) -> String {
    let most = series.max().unwrap_or(0.0);
    series
        .points
        .chunks(per_cell.max(1))
        .map(
            |steps| match steps.iter().flatten().copied().reduce(f64::max) {
                None => GAP,
                Some(value) => bar(value, most),
            },
        )
        .collect()
}

/// Widths of a chart.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Columns of the groups' names.
    group: usize,
    /// Steps per cell.
    per_cell: usize,
    /// Cells of a line.
    cells: usize,
}

impl Layout {
    fn of(timeline: &Timeline, style: &Style) -> Self {
        let columns = style.columns().unwrap_or(PIPE_COLUMNS);
        let title = text::width(&title(timeline));
        let names = timeline.series.iter().map(group_name);
        let group = names
            .map(|name| text::width(&name))
            .fold(title, usize::max)
            .min(MAX_GROUP.min(columns / 4));
        let room = columns
            .saturating_sub(group + 2 + NUMBER * 3)
            .max(MIN_CELLS);
        let steps = timeline.steps.count();
        let per_cell = steps.div_ceil(room).max(1);
        Self {
            group,
            per_cell,
            cells: steps.div_ceil(per_cell),
        }
    }
}

/// Above the groups.
fn title(timeline: &Timeline) -> String {
    text::printable(&timeline.group_by.join(", ")).into_owned()
}

/// `text` cut and filled to `columns`.
fn padded(text: &str, columns: usize) -> String {
    let cut = text::cut(text, columns);
    let fill = columns.saturating_sub(text::width(&cut));
    format!("{cut}{}", " ".repeat(fill))
}

/// When the chart begins and ends, under its first and last cell.
fn axis(timeline: &Timeline, layout: &Layout) -> String {
    let window = timeline.steps.window();
    let format = match window.duration().as_secs() {
        0..=86_400 => "%H:%M",
        _ => "%m-%d",
    };
    let stamp = |time: UnixNanos| {
        jiff::Timestamp::from_nanosecond(i128::from(time.get()))
            .map_or_else(|_| String::new(), |time| time.strftime(format).to_string())
    };
    let (start, end) = (stamp(window.start()), stamp(window.end()));
    let between = layout.cells.checked_sub(start.len() + end.len());
    match between {
        Some(between) if between > 0 => format!("{start}{}{end}", " ".repeat(between)),
        _ => String::new(),
    }
}

/// What a cell of the chart is.
fn legend(timeline: &Timeline, layout: &Layout) -> String {
    let step = text::length(timeline.steps.step());
    let cell = match layout.per_cell {
        1 => format!("{step} per cell"),
        steps => format!("{steps} × {step} per cell, the largest"),
    };
    format!("{cell}; bars from 0 to each line's max; {GAP} unknown")
}

fn line(timeline: &Timeline, series: &Series, layout: &Layout) -> String {
    let mut line = padded(&group_name(series), layout.group);
    line.push_str("  ");
    line.push_str(&cells(series, layout.per_cell));
    for point in [series.min(), series.max(), series.last()] {
        line.push_str(&format!("  {:>9}", amount(timeline, point)));
    }
    line.push('\n');
    line
}

/// Writes the chart; a timeline without a point says "no data".
pub fn render(timeline: &Timeline, context: &RenderContext, style: &Style) -> String {
    let mut out = String::new();
    if !context.title.is_empty() {
        out.push_str(&style.line(BOLD, &context.title));
    }
    if let Some(subtitle) = &context.subtitle {
        out.push_str(&style.line(Ansi::new(), subtitle));
    }
    let unit = timeline.unit();
    let kind = timeline.profile_type.sample().kind();
    out.push_str(&style.field("Type:  ", &format!("{kind} in {unit}")));
    out.push_str(&style.field("Time:  ", &text::range(&timeline.steps.window())));
    if timeline.series.iter().all(|series| series.max().is_none()) {
        out.push_str(&style.line(Ansi::new(), "no data"));
        return out;
    }
    let layout = Layout::of(timeline, style);
    out.push_str(&style.field("Chart: ", &legend(timeline, &layout)));
    out.push('\n');
    let head = format!(
        "{}  {}{:>NUMBER$}{:>NUMBER$}{:>NUMBER$}",
        padded(&title(timeline), layout.group),
        padded(&axis(timeline, &layout), layout.cells),
        "min",
        "max",
        "last"
    );
    out.push_str(&style.paint(DIM, &head));
    out.push('\n');
    for series in &timeline.series {
        out.push_str(&line(timeline, series, &layout));
    }
    out
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    profile_type: String,
    measure: &'static str,
    unit: String,
    start: String,
    end: String,
    start_unix_ns: i64,
    end_unix_ns: i64,
    first_step: String,
    first_step_unix_ns: i64,
    step_s: u64,
    steps: usize,
    series: Vec<SeriesObject<'a>>,
}

#[derive(Serialize)]
struct SeriesObject<'a> {
    labels: BTreeMap<&'a str, &'a str>,
    points: &'a [Option<f64>],
}

/// The name of a measure in this interface.
const fn measure_name(measure: Measure) -> &'static str {
    match measure {
        Measure::Cores => "cores",
        Measure::PerSecond => "per_second",
        Measure::Average => "average",
    }
}

/// Writes `timeline` as one line of JSON.
///
/// # Errors
///
/// [`RenderError::Json`] if the writer fails, which no timeline is known to
/// cause.
pub fn json(timeline: &Timeline) -> Result<Vec<u8>, RenderError> {
    let steps = &timeline.steps;
    let window = steps.window();
    let names = timeline.group_by.iter().map(String::as_str);
    json::line(&Document {
        schema: SCHEMA,
        profile_type: timeline.profile_type.to_string(),
        measure: measure_name(timeline.measure),
        unit: timeline.unit(),
        start: text::rfc3339(window.start()),
        end: text::rfc3339(window.end()),
        start_unix_ns: window.start().get(),
        end_unix_ns: window.end().get(),
        first_step: text::rfc3339(steps.first()),
        first_step_unix_ns: steps.first().get(),
        step_s: steps.step().as_secs(),
        steps: steps.count(),
        series: timeline
            .series
            .iter()
            .map(|series| SeriesObject {
                labels: names
                    .clone()
                    .zip(series.group.iter().map(String::as_str))
                    .collect(),
                points: &series.points,
            })
            .collect(),
    })
}
