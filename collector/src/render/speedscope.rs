//! Speedscope's file format: one sampled profile with weights.
//!
//! Follows <https://www.speedscope.app/file-format-schema.json>. Weights are
//! whole numbers in the profile type's unit; stacks without a positive value are
//! left out, because the format has no place for them.

use serde::Serialize;

use super::{Format, RenderContext, RenderError, text};
use crate::answer::ProfileAnswer;
use crate::prune;

#[derive(Serialize)]
struct File<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    shared: Shared,
    profiles: [Profile<'a>; 1],
    name: &'a str,
    #[serde(rename = "activeProfileIndex")]
    active_profile_index: u32,
    exporter: &'static str,
}

#[derive(Serialize)]
struct Shared {
    frames: Vec<SharedFrame>,
}

#[derive(Serialize)]
struct SharedFrame {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
struct Profile<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    unit: &'static str,
    #[serde(rename = "startValue")]
    start_value: i128,
    #[serde(rename = "endValue")]
    end_value: i128,
    samples: Vec<Vec<u32>>,
    weights: Vec<i128>,
}

/// Writes `answer` as a speedscope file.
///
/// # Errors
///
/// [`RenderError::Json`] if the writer fails, which no answer is known to cause.
pub fn render(answer: &ProfileAnswer, context: &RenderContext) -> Result<Vec<u8>, RenderError> {
    let tree = prune::fold_lines(&answer.tree);
    // Nodes of a function may sit at several lines; the viewer groups by frame,
    // so each function is listed once, where it is heaviest.
    let functions = crate::top::Functions::of(&tree);
    let rows = crate::top::top(&tree);
    let places: rustc_hash::FxHashMap<_, _> = rows
        .iter()
        .map(|row| (&*row.function, (&*row.file, row.line)))
        .collect();
    let frames = functions
        .names
        .iter()
        .map(|name| {
            let (file, line) = places.get(&**name).copied().unwrap_or(("", 0));
            SharedFrame {
                name: name.to_string(),
                file: (!file.is_empty()).then(|| file.to_owned()),
                line: (line != 0).then_some(line),
            }
        })
        .collect();
    let mut samples = Vec::new();
    let mut weights = Vec::new();
    let mut end_value = 0_i128;
    for (at, node) in tree.nodes().iter().enumerate().skip(1) {
        if node.self_value <= 0 {
            continue;
        }
        let mut stack = Vec::new();
        let mut here = at;
        while let Some(function) = functions.of_node(&tree, here) {
            stack.push(u32::try_from(function).unwrap_or(u32::MAX));
            here = tree
                .nodes()
                .get(here)
                .and_then(|node| usize::try_from(node.parent).ok())
                .unwrap_or(0);
        }
        stack.reverse();
        samples.push(stack);
        weights.push(node.self_value);
        end_value = end_value.saturating_add(node.self_value);
    }
    let label = text::type_label(answer);
    let file = File {
        schema: "https://www.speedscope.app/file-format-schema.json",
        shared: Shared { frames },
        profiles: [Profile {
            kind: "sampled",
            name: &label,
            unit: match answer.profile_type.sample().unit() {
                "nanoseconds" => "nanoseconds",
                "bytes" => "bytes",
                _ => "none",
            },
            start_value: 0,
            end_value,
            samples,
            weights,
        }],
        name: &context.title,
        active_profile_index: 0,
        exporter: "tepui",
    };
    serde_json::to_vec(&file).map_err(|source| RenderError::Json {
        format: Format::Speedscope,
        source,
    })
}
