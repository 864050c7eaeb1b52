//! The answer as a gzipped pprof profile, as `go tool pprof` opens it.
//!
//! Every frame keeps function, file, line, start line and build id. The one
//! sample type is the one that was asked for. pprof's values have 64 bits: a
//! larger one is held at the largest, and a comment says so. The profile's
//! duration is the observed time, so that pprof's percentage of it is cores.

use proto::pprof::{PprofBuilder, PprofHead};
use proto::value_type::Temporality;

use super::text;
use crate::answer::ProfileAnswer;

/// `value`, held at the limits of 64 bits.
pub(crate) fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn comments(answer: &ProfileAnswer) -> Vec<String> {
    let mut comments = vec![text::range(&answer.window)];
    if answer.temporality == Temporality::Gauge {
        comments.push("values are averages over the observed time".to_owned());
    }
    comments.extend(text::coverage_lines(&answer.coverage));
    let too_large = answer
        .tree
        .nodes()
        .iter()
        .filter(|node| i64::try_from(node.self_value).is_err())
        .count();
    if too_large > 0 {
        comments.push(format!(
            "{too_large} values do not fit in 64 bits and are held at the limit"
        ));
    }
    comments
}

/// Writes `answer` as gzipped `profile.proto`.
pub fn render(answer: &ProfileAnswer) -> Vec<u8> {
    let observed = answer.coverage.observed;
    let duration = if observed.is_zero() {
        answer.window.duration()
    } else {
        observed
    };
    let mut builder = PprofBuilder::new(&PprofHead {
        sample_types: vec![answer.profile_type.sample().clone()],
        period_type: answer.profile_type.period().clone(),
        period: answer.period,
        time_ns: answer.window.start().get(),
        duration_ns: i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX),
        comments: comments(answer),
    });
    let tree = &answer.tree;
    for (at, node) in tree.nodes().iter().enumerate() {
        if node.self_value == 0 {
            continue;
        }
        let mut stack = Vec::new();
        let mut here = at;
        while let Some(frame) = tree.frame_of(here) {
            stack.push(frame);
            here = tree
                .nodes()
                .get(here)
                .and_then(|node| usize::try_from(node.parent).ok())
                .unwrap_or(0);
        }
        builder.add(stack, vec![saturate(node.self_value)]);
    }
    builder.finish()
}
