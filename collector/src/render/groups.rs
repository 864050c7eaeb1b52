//! Merged profiles by the value of a label, as table, terminal trees and JSON.
//! Pure.
//!
//! The table has one line per group: its value, its share of all groups
//! together, the function with the largest flat value and that one's share of
//! the group. `cores` is the value over the time the group was observed. Groups
//! of a gauge are averages over the time each was observed.
//!
//! JSON is an interface: the golden test pins it. `profile` has the shape of
//! [`crate::render::json`]. `value` is empty for series without the label and
//! null for the group of all further values, of which there are `rest_values`.
//! Fields may be added under the same `schema`; none changes its meaning.

use anstyle::Style as Ansi;
use serde::Serialize;

use super::json::{Document, document, line};
use super::top::heat;
use super::{Format, RenderContext, RenderError, Style, named, text, tree};
use crate::answer::ProfileAnswer;
use crate::groups::{Group, GroupsAnswer, Member};

/// Number of the JSON shape; another shape gets another number.
const SCHEMA: u32 = 1;
/// Widest column of values.
const MAX_VALUE: usize = 40;

const DIM: Ansi = Ansi::new().dimmed();
const BOLD: Ansi = Ansi::new().bold();

/// How groups are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupsFormat {
    /// A line per group.
    Top,
    /// A flame graph for the terminal per group.
    Tree,
    /// All of it, for programs.
    Json,
}

/// A format that groups are not written in.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("groups cannot be written as {format}; use one of top, tree, json")]
pub struct NoGroupsFormat {
    format: Format,
}

impl TryFrom<Format> for GroupsFormat {
    type Error = NoGroupsFormat;

    fn try_from(format: Format) -> Result<Self, Self::Error> {
        match format {
            Format::Top => Ok(Self::Top),
            Format::Tree => Ok(Self::Tree),
            Format::Json => Ok(Self::Json),
            Format::Folded | Format::Svg | Format::Pprof | Format::Speedscope => {
                Err(NoGroupsFormat { format })
            }
        }
    }
}

impl From<GroupsFormat> for Format {
    fn from(format: GroupsFormat) -> Self {
        match format {
            GroupsFormat::Top => Self::Top,
            GroupsFormat::Tree => Self::Tree,
            GroupsFormat::Json => Self::Json,
        }
    }
}

/// Writes `answer` in `format`.
///
/// # Errors
///
/// [`RenderError::Json`] if the writer fails, which no answer is known to cause.
pub fn render(
    answer: &GroupsAnswer,
    format: GroupsFormat,
    context: &RenderContext,
    style: &Style,
) -> Result<Vec<u8>, RenderError> {
    match format {
        GroupsFormat::Top => Ok(table(answer, context, style).into_bytes()),
        GroupsFormat::Tree => Ok(trees(answer, context, style).into_bytes()),
        GroupsFormat::Json => json(answer),
    }
}

/// What a group is called, with how many values it stands for.
fn name(member: &Member) -> String {
    let name = text::printable(member.name()).into_owned();
    match member {
        Member::Value(_) => name,
        Member::Rest(1) => format!("{name} (1 value)"),
        Member::Rest(values) => format!("{name} ({values} values)"),
    }
}

/// Title, subtitle and, without groups, that there is nothing.
fn head(answer: &GroupsAnswer, context: &RenderContext, style: &Style) -> String {
    let mut head = String::new();
    let title = match context.title.is_empty() {
        true => format!("by {}", answer.label),
        false => format!("{} by {}", context.title, answer.label),
    };
    head.push_str(&style.line(BOLD, &title));
    if let Some(subtitle) = &context.subtitle {
        head.push_str(&style.line(Ansi::new(), subtitle));
    }
    if answer.groups.is_empty() {
        head.push_str(&style.line(Ansi::new(), "no samples"));
    }
    head
}

/// One line of the table; texts stand in their columns as they are.
struct Row {
    value: String,
    share: String,
    cores: Option<String>,
    name: String,
    function_share: String,
    function: String,
}

impl Row {
    fn of(group: &Group, whole: i128) -> Self {
        let total = group.answer.tree.total();
        let (function, flat) = match &group.top {
            Some((function, flat)) => (function.to_string(), text::percent(*flat, total, 1)),
            None => (String::new(), String::new()),
        };
        Self {
            value: text::show(&group.answer.profile_type, total),
            share: text::percent(total, whole, 2),
            cores: text::cores(&group.answer, total).map(|cores| format!("{cores:.2}")),
            name: name(&group.member),
            function_share: flat,
            function,
        }
    }

    /// Everything left of the top function, the numbers in `ansi`.
    fn left(&self, columns: usize, ansi: Ansi, style: &Style) -> String {
        let mut numbers = format!("{:>9} {:>7}", self.value, self.share);
        if let Some(cores) = &self.cores {
            numbers.push_str(&format!(" {cores:>7}"));
        }
        let name = text::cut(&self.name, columns);
        let fill = " ".repeat(columns.saturating_sub(text::width(&name)));
        let numbers = style.paint(ansi, &numbers);
        format!("{numbers}  {name}{fill}  {:>6}", self.function_share)
    }
}

/// A line per group.
fn table(answer: &GroupsAnswer, context: &RenderContext, style: &Style) -> String {
    let mut out = head(answer, context, style);
    let Some(first) = answer.groups.first().map(|group| &group.answer) else {
        return out;
    };
    let whole = answer.total();
    let amount = text::show(&first.profile_type, whole);
    out.push_str(&style.field("Type:  ", &text::type_label(first)));
    out.push_str(&style.field("Time:  ", &text::range(&first.window)));
    let groups = match answer.groups.len() {
        1 => "1 group".to_owned(),
        groups => format!("{groups} groups"),
    };
    out.push_str(&style.field("Total: ", &format!("{amount} in {groups}")));
    for group in &answer.groups {
        for note in &group.answer.coverage.notes {
            let note = format!("{}: {note}", name(&group.member));
            out.push_str(&style.field("Note:  ", &note));
        }
    }
    out.push('\n');
    let rows: Vec<Row> = answer.groups.iter().map(|g| Row::of(g, whole)).collect();
    let label = text::printable(&answer.label).into_owned();
    let names = rows.iter().map(|row| text::width(&row.name));
    let columns = names.fold(text::width(&label), usize::max).min(MAX_VALUE);
    let titles = Row {
        value: "value".to_owned(),
        share: "share".to_owned(),
        cores: rows
            .first()
            .and_then(|row| row.cores.as_ref())
            .map(|_| "cores".to_owned()),
        name: label,
        function_share: "flat%".to_owned(),
        function: String::new(),
    };
    let plain = Style {
        color: false,
        ..*style
    };
    let titles = titles.left(columns, Ansi::new(), &plain);
    out.push_str(&style.paint(DIM, &format!("{titles}  top function")));
    out.push('\n');
    let room = style
        .columns()
        .map(|all| all.saturating_sub(text::width(&titles) + 2).max(16));
    for (row, group) in rows.iter().zip(&answer.groups) {
        let ansi = heat(group.answer.tree.total(), whole);
        let function = text::function(&row.function, room.unwrap_or(usize::MAX));
        let line = format!("{}  {function}", row.left(columns, ansi, style));
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A flame graph per group.
fn trees(answer: &GroupsAnswer, context: &RenderContext, style: &Style) -> String {
    let mut out = head(answer, context, style);
    let whole = answer.total();
    for group in &answer.groups {
        let share = text::percent(group.answer.tree.total(), whole, 2);
        let value = name(&group.member);
        let context = RenderContext {
            title: format!("{}: {value}, {share} of all", answer.label),
            subtitle: None,
        };
        out.push('\n');
        out.push_str(&tree::render(&named(&group.answer), &context, style));
    }
    out
}

#[derive(Serialize)]
struct All<'a> {
    schema: u32,
    label: &'a str,
    total: i128,
    groups: Vec<GroupObject<'a>>,
}

#[derive(Serialize)]
struct GroupObject<'a> {
    value: Option<&'a str>,
    rest_values: u64,
    total: i128,
    top_function: Option<&'a str>,
    top_flat: i128,
    profile: Document<'a>,
}

fn object<'a>(group: &'a Group, profile: &'a ProfileAnswer) -> GroupObject<'a> {
    let (value, rest_values) = match &group.member {
        Member::Value(value) => (Some(value.as_str()), 0),
        Member::Rest(values) => (None, *values),
    };
    let top = group.top.as_ref();
    GroupObject {
        value,
        rest_values,
        total: group.answer.tree.total(),
        top_function: top.map(|(function, _)| &**function),
        top_flat: top.map_or(0, |(_, flat)| *flat),
        profile: document(profile),
    }
}

/// Writes `answer` as one line of JSON.
fn json(answer: &GroupsAnswer) -> Result<Vec<u8>, RenderError> {
    let answers: Vec<_> = answer.groups.iter().map(|g| named(&g.answer)).collect();
    let groups = answer.groups.iter().zip(answers.iter().map(|a| &**a));
    line(&All {
        schema: SCHEMA,
        label: &answer.label,
        total: answer.total(),
        groups: groups
            .map(|(group, profile)| object(group, profile))
            .collect(),
    })
}
