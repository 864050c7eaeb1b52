//! The answer as JSON, for programs. An interface: the golden test pins it.
//!
//! `frames` lists what ran where. `nodes` is the call tree in columns of equal
//! length: node 0 is the root, a `parent` is smaller than its child, `frame` is
//! an index into `frames` or null at the root. `functions` has the rows of
//! `go tool pprof -top` in columns, in its order. Values are integers in `unit`
//! and may pass 2^53, so a reader that keeps numbers as doubles rounds them;
//! gauges are averages. Times are given as RFC 3339 and as nanoseconds since
//! 1970. Fields may be added under the same `schema`; none changes its meaning.

use std::sync::Arc;

use proto::stack::{Frame, FrameKind};
use proto::value_type::Temporality;
use serde::Serialize;

use super::text;
use super::{Format, RenderError};
use crate::answer::{Coverage, ProfileAnswer};
use crate::top;

/// Number of this shape; another shape gets another number.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
pub(super) struct Document<'a> {
    schema: u32,
    profile_type: String,
    unit: &'a str,
    aggregation: &'static str,
    period: i64,
    start: String,
    end: String,
    start_unix_ns: i64,
    end_unix_ns: i64,
    total: i128,
    coverage: CoverageObject<'a>,
    frames: Vec<FrameObject<'a>>,
    nodes: Nodes,
    functions: Functions,
}

#[derive(Serialize)]
pub(super) struct CoverageObject<'a> {
    windows: u64,
    series: u64,
    samples: u64,
    lost_samples: u64,
    pruned_nodes: u64,
    observed_ns: u128,
    notes: &'a [String],
}

#[derive(Serialize)]
pub(super) struct FrameObject<'a> {
    function: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    system_name: &'a str,
    file: &'a str,
    line: u32,
    start_line: u32,
    kind: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    build_id: &'a str,
}

#[derive(Serialize)]
struct Nodes {
    parent: Vec<u32>,
    frame: Vec<Option<u32>>,
    #[serde(rename = "self")]
    self_value: Vec<i128>,
    total: Vec<i128>,
}

#[derive(Serialize)]
struct Functions {
    function: Vec<Arc<str>>,
    file: Vec<Arc<str>>,
    line: Vec<u32>,
    flat: Vec<i128>,
    cum: Vec<i128>,
}

/// The name of a frame kind in this interface.
const fn kind_name(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Native => "native",
        FrameKind::Go => "go",
        FrameKind::Kernel => "kernel",
        FrameKind::Python => "python",
        FrameKind::Ruby => "ruby",
        FrameKind::Jvm => "jvm",
        FrameKind::Node => "node",
        FrameKind::Unsymbolized => "unsymbolized",
        FrameKind::Synthetic => "synthetic",
    }
}

pub(super) fn frame_object(frame: &Frame) -> FrameObject<'_> {
    FrameObject {
        function: &frame.function,
        system_name: &frame.system_name,
        file: &frame.file,
        line: frame.line,
        start_line: frame.start_line,
        kind: kind_name(frame.kind),
        build_id: &frame.build_id,
    }
}

pub(super) fn coverage_object(coverage: &Coverage) -> CoverageObject<'_> {
    CoverageObject {
        windows: coverage.windows,
        series: coverage.series,
        samples: coverage.samples,
        lost_samples: coverage.lost_samples,
        pruned_nodes: coverage.pruned_nodes,
        observed_ns: coverage.observed.as_nanos(),
        notes: &coverage.notes,
    }
}

/// How values over time became one, in this interface.
pub(super) const fn aggregation(temporality: Temporality) -> &'static str {
    match temporality {
        Temporality::Delta => "sum",
        Temporality::Gauge => "average",
    }
}

/// `document` as one line.
pub(super) fn line(document: &impl Serialize) -> Result<Vec<u8>, RenderError> {
    let mut bytes = serde_json::to_vec(document).map_err(|source| RenderError::Json {
        format: Format::Json,
        source,
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// `answer` in the shape of this interface.
pub(super) fn document(answer: &ProfileAnswer) -> Document<'_> {
    let tree = &answer.tree;
    let coverage = &answer.coverage;
    let rows = top::top(tree);
    Document {
        schema: SCHEMA,
        profile_type: answer.profile_type.to_string(),
        unit: answer.profile_type.sample().unit(),
        aggregation: aggregation(answer.temporality),
        period: answer.period,
        start: text::rfc3339(answer.window.start()),
        end: text::rfc3339(answer.window.end()),
        start_unix_ns: answer.window.start().get(),
        end_unix_ns: answer.window.end().get(),
        total: tree.total(),
        coverage: coverage_object(coverage),
        frames: tree.frames().iter().map(frame_object).collect(),
        nodes: Nodes {
            parent: tree.nodes().iter().map(|node| node.parent).collect(),
            frame: tree.nodes().iter().map(|node| node.frame).collect(),
            self_value: tree.nodes().iter().map(|node| node.self_value).collect(),
            total: tree.totals(),
        },
        functions: Functions {
            function: rows.iter().map(|row| Arc::clone(&row.function)).collect(),
            file: rows.iter().map(|row| Arc::clone(&row.file)).collect(),
            line: rows.iter().map(|row| row.line).collect(),
            flat: rows.iter().map(|row| row.flat).collect(),
            cum: rows.iter().map(|row| row.cum).collect(),
        },
    }
}

/// Writes `answer` as one line of JSON.
///
/// # Errors
///
/// [`RenderError::Json`] if the writer fails, which no answer is known to cause.
pub fn render(answer: &ProfileAnswer) -> Result<Vec<u8>, RenderError> {
    line(&document(answer))
}
