//! A function between its callers and its callees, as text and JSON. Pure.
//!
//! Text: the head of the whole answer, what the function has of it, then two
//! drawings as in [`crate::render::tree`], of which 100 % is the function's
//! cum. Callers are read downwards from the function to those that call it.
//!
//! JSON is an interface: the golden test pins it. `callers` and `callees` are
//! call trees by function, in columns as in [`crate::render::json`]; the
//! children of their roots are the matching functions. `flat`, `cum` and `total`
//! are integers in `unit`. Fields may be added under the same `schema`; none
//! changes its meaning.

use std::sync::Arc;

use anstyle::Style as Ansi;
use serde::Serialize;

use super::json::{CoverageObject, FrameObject, aggregation, coverage_object, frame_object, line};
use super::top::head;
use super::tree::{Words, draw};
use super::{RenderContext, RenderError, Style, text};
use crate::answer::ProfileAnswer;
use crate::prune;
use crate::sandwich::{Sandwich, Subject};
use crate::tree::CallTree;

/// Number of the JSON shape; another shape gets another number.
const SCHEMA: u32 = 1;
/// Matching functions that are named one by one in the text.
const MAX_NAMES: usize = 5;

const BOLD: Ansi = Ansi::new().bold();

const CALLERS: Words = Words {
    root: "callers of",
    own: "where stacks begin",
    below: "what calls it",
};
const CALLEES: Words = Words {
    root: "callees of",
    own: "the function itself",
    below: "what it calls",
};

/// `answer` with another tree, and all else the same.
fn with_tree(answer: &ProfileAnswer, tree: &CallTree) -> ProfileAnswer {
    ProfileAnswer {
        profile_type: answer.profile_type.clone(),
        temporality: answer.temporality,
        period: answer.period,
        window: answer.window,
        tree: tree.clone(),
        coverage: answer.coverage.clone(),
    }
}

/// What the function has of the whole.
fn amounts(answer: &ProfileAnswer, sandwich: &Sandwich) -> String {
    let part = |value| {
        let shown = text::show(&answer.profile_type, value);
        format!("{shown} ({})", text::percent(value, sandwich.total, 2))
    };
    let mut amounts = format!("flat {}, cum {}", part(sandwich.flat), part(sandwich.cum));
    if let Some(cores) = text::cores(answer, sandwich.cum) {
        amounts.push_str(&format!(", {cores:.2} cores"));
    }
    amounts
}

/// The names that matched, when that is not what was asked for.
fn matched(sandwich: &Sandwich) -> String {
    let names: Vec<&str> = sandwich
        .functions
        .iter()
        .take(MAX_NAMES)
        .map(|name| &**name)
        .collect();
    let more = sandwich.functions.len().saturating_sub(names.len());
    match more {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// Writes both drawings; a function in no sample is said not to be there.
///
/// `answer` is the whole that `sandwich` was made of; its own tree is not drawn.
pub fn render(
    answer: &ProfileAnswer,
    sandwich: &Sandwich,
    subject: &Subject,
    context: &RenderContext,
    style: &Style,
) -> String {
    let mut out = head(answer, context, style);
    out.push_str(&style.field("Function: ", subject.text()));
    if sandwich.functions.is_empty() {
        out.push_str(&style.line(Ansi::new(), "no sample has such a function"));
        return out;
    }
    if matches!(subject, Subject::Matching(_)) {
        out.push_str(&style.field("Matches:  ", &matched(sandwich)));
    }
    out.push_str(&style.field("Value:    ", &amounts(answer, sandwich)));
    if sandwich.cut_callers > 0 {
        let says = format!("callers of {} places are \"other\"", sandwich.cut_callers);
        out.push_str(&style.field("Note:     ", &says));
    }
    let parts = [
        ("Callers", CALLERS, &sandwich.callers),
        ("Callees", CALLEES, &sandwich.callees),
    ];
    for (title, words, tree) in parts {
        out.push('\n');
        out.push_str(&style.line(BOLD, title));
        let part = with_tree(answer, tree);
        out.push_str(&draw(&part, words, style));
    }
    out
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    profile_type: String,
    unit: &'a str,
    aggregation: &'static str,
    start: String,
    end: String,
    start_unix_ns: i64,
    end_unix_ns: i64,
    coverage: CoverageObject<'a>,
    subject: SubjectObject<'a>,
    functions: &'a [Arc<str>],
    flat: i128,
    cum: i128,
    total: i128,
    cut_callers: u64,
    callers: TreeObject<'a>,
    callees: TreeObject<'a>,
}

/// What was asked for.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum SubjectObject<'a> {
    Name(&'a str),
    Regex(&'a str),
}

#[derive(Serialize)]
struct TreeObject<'a> {
    frames: Vec<FrameObject<'a>>,
    parent: Vec<u32>,
    frame: Vec<Option<u32>>,
    #[serde(rename = "self")]
    own: Vec<i128>,
    total: Vec<i128>,
}

fn tree_object(tree: &CallTree) -> TreeObject<'_> {
    TreeObject {
        frames: tree.frames().iter().map(frame_object).collect(),
        parent: tree.nodes().iter().map(|node| node.parent).collect(),
        frame: tree.nodes().iter().map(|node| node.frame).collect(),
        own: tree.nodes().iter().map(|node| node.self_value).collect(),
        total: tree.totals(),
    }
}

/// Writes `sandwich`, which was made of `answer`, as one line of JSON.
///
/// # Errors
///
/// [`RenderError::Json`] if the writer fails, which no answer is known to cause.
pub fn json(
    answer: &ProfileAnswer,
    sandwich: &Sandwich,
    subject: &Subject,
) -> Result<Vec<u8>, RenderError> {
    let callers = prune::fold_lines(&sandwich.callers);
    let callees = prune::fold_lines(&sandwich.callees);
    line(&Document {
        schema: SCHEMA,
        profile_type: answer.profile_type.to_string(),
        unit: answer.profile_type.sample().unit(),
        aggregation: aggregation(answer.temporality),
        start: text::rfc3339(answer.window.start()),
        end: text::rfc3339(answer.window.end()),
        start_unix_ns: answer.window.start().get(),
        end_unix_ns: answer.window.end().get(),
        coverage: coverage_object(&answer.coverage),
        subject: match subject {
            Subject::Named(name) => SubjectObject::Name(name),
            Subject::Matching(pattern) => SubjectObject::Regex(pattern.as_str()),
        },
        functions: &sandwich.functions,
        flat: sandwich.flat,
        cum: sandwich.cum,
        total: sandwich.total,
        cut_callers: sandwich.cut_callers,
        callers: tree_object(&callers),
        callees: tree_object(&callees),
    })
}
