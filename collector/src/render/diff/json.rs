//! A comparison as JSON, for programs. An interface: the golden test pins it.
//!
//! `nodes` is the call tree by function in columns of equal length, as in
//! [`crate::render::json`], with each node's own value and total on both sides;
//! `functions` has the rows of the table, in its order, all of them. `delta`
//! columns are new minus base. The base's values in both are those of the base
//! times `base_scale`; `total` under `base` and `new` is as measured. `reading`
//! is `absolute`, `per_time` or `share`. Values are integers in `unit` and may
//! pass 2^53; those beyond 128 bits are held at the limit. Fields may be added
//! under the same `schema`; none changes its meaning.

use serde::Serialize;

use crate::diff::{Change, DiffAnswer, DiffSide, Reading};
use crate::render::json::{
    CoverageObject, FrameObject, aggregation, coverage_object, frame_object, line,
};
use crate::render::{RenderError, text};

/// Number of this shape; another shape gets another number.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    profile_type: String,
    unit: &'a str,
    aggregation: &'static str,
    reading: &'static str,
    base_scale: f64,
    base: SideObject<'a>,
    new: SideObject<'a>,
    pruned_nodes: u64,
    notes: &'a [String],
    frames: Vec<FrameObject<'a>>,
    nodes: Nodes,
    functions: Functions<'a>,
}

#[derive(Serialize)]
struct SideObject<'a> {
    start: String,
    end: String,
    start_unix_ns: i64,
    end_unix_ns: i64,
    period: i64,
    total: i128,
    coverage: CoverageObject<'a>,
}

/// A column of changes.
#[derive(Serialize)]
struct Column {
    base: Vec<i128>,
    new: Vec<i128>,
    delta: Vec<i128>,
}

#[derive(Serialize)]
struct Nodes {
    parent: Vec<u32>,
    frame: Vec<Option<u32>>,
    #[serde(rename = "self")]
    own: Column,
    total: Column,
}

#[derive(Serialize)]
struct Functions<'a> {
    function: Vec<&'a str>,
    file: Vec<&'a str>,
    line: Vec<u32>,
    flat: Column,
    cum: Column,
}

/// The name of a reading in this interface.
const fn reading_name(reading: Reading) -> &'static str {
    match reading {
        Reading::Absolute => "absolute",
        Reading::PerTime => "per_time",
        Reading::Share => "share",
    }
}

fn column(changes: impl Iterator<Item = Change> + Clone) -> Column {
    Column {
        base: changes.clone().map(|change| change.base).collect(),
        new: changes.clone().map(|change| change.new).collect(),
        delta: changes.map(Change::delta).collect(),
    }
}

fn side_object(side: &DiffSide) -> SideObject<'_> {
    SideObject {
        start: text::rfc3339(side.window.start()),
        end: text::rfc3339(side.window.end()),
        start_unix_ns: side.window.start().get(),
        end_unix_ns: side.window.end().get(),
        period: side.period,
        total: side.total,
        coverage: coverage_object(&side.coverage),
    }
}

/// Writes `answer`, whose tree is by function, as one line of JSON.
///
/// # Errors
///
/// [`RenderError::Json`] if the writer fails, which no answer is known to cause.
pub fn render(answer: &DiffAnswer) -> Result<Vec<u8>, RenderError> {
    let tree = answer.tree.new_side();
    let rows = answer.tree.functions();
    line(&Document {
        schema: SCHEMA,
        profile_type: answer.profile_type.to_string(),
        unit: answer.profile_type.sample().unit(),
        aggregation: aggregation(answer.temporality),
        reading: reading_name(answer.reading),
        base_scale: answer.scale.approximate(),
        base: side_object(&answer.base),
        new: side_object(&answer.new),
        pruned_nodes: answer.pruned_nodes,
        notes: &answer.notes,
        frames: tree.frames().iter().map(frame_object).collect(),
        nodes: Nodes {
            parent: tree.nodes().iter().map(|node| node.parent).collect(),
            frame: tree.nodes().iter().map(|node| node.frame).collect(),
            own: column(answer.tree.selves().into_iter()),
            total: column(answer.tree.totals().into_iter()),
        },
        functions: Functions {
            function: rows.iter().map(|row| &*row.function).collect(),
            file: rows.iter().map(|row| &*row.file).collect(),
            line: rows.iter().map(|row| row.line).collect(),
            flat: column(rows.iter().map(|row| row.flat)),
            cum: column(rows.iter().map(|row| row.cum)),
        },
    })
}
