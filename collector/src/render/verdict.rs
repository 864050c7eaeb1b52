//! A verdict as text, Markdown and JSON. Pure: no I/O, no clock.
//!
//! Markdown is meant for the comment of a pull request. JSON is an interface: fields
//! may be added under the same `schema`; none changes its meaning. Parts are of the
//! CPU time of the base, for the same work.

use serde::Serialize;

use super::{Format, RenderError, text};
use crate::time_range::rfc3339;
use crate::verdict::{By, Change, Estimate, Shift, Side, Verdict};

/// Number of the JSON shape; another shape gets another number.
const SCHEMA: u32 = 1;
/// Rows of a table; the JSON has all.
const MAX_ROWS: usize = 30;

/// What a verdict says in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No function became dearer by as much as is asked for.
    Pass,
    /// At least one did.
    Fail,
    /// There is too little to tell.
    Unknown,
}

impl Outcome {
    /// What `verdict` says when a gain of `share` of the base's CPU time fails.
    pub fn of(verdict: &Verdict, share: f64) -> Self {
        if verdict.tested == 0 {
            return Self::Unknown;
        }
        match verdict.regressions(share).next() {
            Some(_) => Self::Fail,
            None => Self::Pass,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Unknown => "unknown",
        }
    }
}

fn percent(part: f64) -> String {
    format!("{:.2} %", part * 100.0)
}

fn signed(part: f64) -> String {
    format!("{:+.2} %", part * 100.0)
}

fn ratio(estimate: Estimate) -> String {
    match estimate.value.is_finite() {
        true => format!(
            "{:.2} ({:.2} to {:.2})",
            estimate.value, estimate.low, estimate.high
        ),
        false => "new".to_owned(),
    }
}

fn function(shift: &Shift) -> String {
    let name = text::printable(&shift.function);
    match shift.by {
        By::Flat => name.into_owned(),
        By::Cum => format!("{name} (with what it calls)"),
    }
}

/// The sentence that comes first; `name` writes the function's name.
fn sentence(verdict: &Verdict, share: f64, name: impl Fn(&str) -> String) -> String {
    match Outcome::of(verdict, share) {
        Outcome::Unknown => "UNKNOWN: there is too little to tell a change from chance".to_owned(),
        Outcome::Fail => {
            let guilty: Vec<&Shift> = verdict.regressions(share).collect();
            let first = guilty.first().map(|shift| {
                format!(
                    "{} takes {} more of the CPU time",
                    name(&function(shift)),
                    percent(shift.gain.value)
                )
            });
            let more = match guilty.len().saturating_sub(1) {
                0 => String::new(),
                more => format!(", and {more} more became dearer"),
            };
            format!("FAIL: {}{more}", first.unwrap_or_default())
        }
        Outcome::Pass => {
            let smaller = verdict.regressions(0.0).count();
            let rest = match smaller {
                0 => "no function became dearer".to_owned(),
                1 => "one function became dearer, by less than that".to_owned(),
                more => format!("{more} functions became dearer, each by less than that"),
            };
            format!("PASS: nothing takes {} more; {rest}", percent(share))
        }
    }
}

fn side(name: &str, side: &Side) -> String {
    let what = match side.selector.as_str() {
        "" | "{}" => "all series",
        selector => selector,
    };
    format!(
        "{name}: {what}, {} to {}, {} pods, {:.2} cores, {:.0} samples",
        rfc3339(side.window.start()),
        rfc3339(side.window.end()),
        side.pods,
        side.cores,
        side.samples
    )
}

fn change(shift: &Shift) -> &'static str {
    match shift.change {
        Change::Regression => "dearer",
        Change::Improvement => "cheaper",
        Change::Moved => "moved",
    }
}

const TITLES: [&str; 6] = [
    "change", "of CPU", "interval", "before", "ratio", "function",
];

fn cells(shift: &Shift) -> [String; 6] {
    [
        change(shift).to_owned(),
        signed(shift.gain.value),
        format!("{} to {}", signed(shift.gain.low), signed(shift.gain.high)),
        percent(shift.before),
        ratio(shift.ratio),
        function(shift),
    ]
}

fn hidden(verdict: &Verdict) -> Option<String> {
    let more = verdict.shifts.len().saturating_sub(MAX_ROWS);
    (more > 0).then(|| format!("{more} more; --format json has all"))
}

/// Lines for people.
pub fn text(verdict: &Verdict, share: f64) -> String {
    let mut lines = vec![sentence(verdict, share, str::to_owned)];
    lines.push(side("base", &verdict.base));
    lines.push(side("new ", &verdict.new));
    lines.push(format!(
        "{} functions looked at; parts are of the base's CPU time, for the same work",
        verdict.tested
    ));
    lines.extend(verdict.notes.iter().map(|note| format!("note: {note}")));
    if !verdict.shifts.is_empty() {
        lines.push(String::new());
        let rows: Vec<[String; 6]> = verdict.shifts.iter().take(MAX_ROWS).map(cells).collect();
        let titles = TITLES.map(str::to_owned);
        let widths: [usize; 6] = std::array::from_fn(|column| {
            let cells = rows.iter().chain([&titles]);
            let width = |row: &[String; 6]| row.get(column).map_or(0, |c| c.chars().count());
            cells.map(width).max().unwrap_or(0)
        });
        for row in [&titles].into_iter().chain(&rows) {
            let mut line = String::new();
            for (place, (cell, width)) in row.iter().zip(widths).enumerate() {
                let gap = if place == 0 { "" } else { "  " };
                match place {
                    0 | 5 => line.push_str(&format!("{gap}{cell:<width$}")),
                    _ => line.push_str(&format!("{gap}{cell:>width$}")),
                }
            }
            lines.push(line.trim_end().to_owned());
        }
    }
    lines.extend(hidden(verdict));
    lines.join("\n") + "\n"
}

/// A text that Markdown shows as it is: names of functions come from anywhere.
fn code(name: &str) -> String {
    format!("`{}`", name.replace('`', "'"))
}

/// A text in a table that Markdown shows as it is.
fn cell(name: &str) -> String {
    code(name).replace('|', "\\|")
}

/// A comment for a pull request.
pub fn markdown(verdict: &Verdict, share: f64) -> String {
    let mut lines = vec![
        format!("**{}**", sentence(verdict, share, code)),
        String::new(),
    ];
    let shown = verdict.shifts.iter().take(MAX_ROWS);
    if !verdict.shifts.is_empty() {
        lines.push(format!("| {} |", TITLES.join(" | ")));
        lines.push("|---|---:|---:|---:|---:|---|".to_owned());
        for shift in shown {
            let [change, gain, interval, before, ratio, function] = cells(shift);
            lines.push(format!(
                "| {change} | {gain} | {interval} | {before} | {ratio} | {} |",
                cell(&function)
            ));
        }
        lines.extend(hidden(verdict));
        lines.push(String::new());
    }
    lines.push("<details><summary>What this rests on</summary>".to_owned());
    lines.push(String::new());
    for line in [side("base", &verdict.base), side("new", &verdict.new)] {
        lines.push(format!("- {}", code(&line)));
    }
    lines.push(format!(
        "- {} functions looked at. Parts are of the base's CPU time, for the same work; intervals of 95 % confidence; at most 5 % false discoveries.",
        verdict.tested
    ));
    lines.extend(
        verdict
            .notes
            .iter()
            .map(|note| format!("- {}", text::printable(note))),
    );
    lines.push("</details>".to_owned());
    lines.join("\n") + "\n"
}

#[derive(Serialize)]
struct JsonVerdict<'a> {
    schema: u32,
    outcome: &'static str,
    fail_on: f64,
    tested: u64,
    base: JsonSide<'a>,
    new: JsonSide<'a>,
    shifts: Vec<JsonShift<'a>>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct JsonSide<'a> {
    start: String,
    end: String,
    selector: &'a str,
    pods: u64,
    units: u64,
    samples: f64,
    cores: f64,
}

#[derive(Serialize)]
struct JsonShift<'a> {
    function: &'a str,
    change: &'static str,
    inclusive: bool,
    before: f64,
    after: f64,
    gain: f64,
    gain_low: f64,
    gain_high: f64,
    /// `null` for a function that is new.
    ratio: Option<f64>,
    ratio_low: Option<f64>,
    ratio_high: Option<f64>,
    false_discovery: f64,
}

fn json_side(side: &Side) -> JsonSide<'_> {
    JsonSide {
        start: rfc3339(side.window.start()),
        end: rfc3339(side.window.end()),
        selector: &side.selector,
        pods: side.pods,
        units: side.units,
        samples: side.samples,
        cores: side.cores,
    }
}

/// The verdict as JSON.
///
/// # Errors
///
/// [`RenderError`] if it cannot be written.
pub fn json(verdict: &Verdict, share: f64) -> Result<Vec<u8>, RenderError> {
    let finite = |number: f64| number.is_finite().then_some(number);
    let document = JsonVerdict {
        schema: SCHEMA,
        outcome: Outcome::of(verdict, share).name(),
        fail_on: share,
        tested: verdict.tested,
        base: json_side(&verdict.base),
        new: json_side(&verdict.new),
        shifts: verdict
            .shifts
            .iter()
            .map(|shift| JsonShift {
                function: &shift.function,
                change: shift.change.name(),
                inclusive: shift.by == By::Cum,
                before: shift.before,
                after: shift.after,
                gain: shift.gain.value,
                gain_low: shift.gain.low,
                gain_high: shift.gain.high,
                ratio: finite(shift.ratio.value),
                ratio_low: finite(shift.ratio.low),
                ratio_high: finite(shift.ratio.high),
                false_discovery: shift.false_discovery,
            })
            .collect(),
        notes: &verdict.notes,
    };
    serde_json::to_vec(&document).map_err(|source| RenderError::Json {
        format: Format::Json,
        source,
    })
}
