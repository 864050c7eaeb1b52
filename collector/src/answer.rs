//! What a profile query answers: the merged tree and what it rests on.

use std::time::Duration;

use proto::pb::tepui as pb;
use proto::value_type::{ProfileType, Temporality, ValueTypeError};
use proto::window::{UnixNanos, Window, WindowError};

use crate::tree::CallTree;

mod wire;

pub(crate) use wire::{narrow, tree_from_wire, tree_to_wire};

/// The merged call tree of a selection.
#[derive(Clone, Debug)]
pub struct ProfileAnswer {
    /// What the values count.
    pub profile_type: ProfileType,
    /// How the values behave over time; gauges are averages here.
    pub temporality: Temporality,
    /// Distance between samples in the period's unit; 0 when mixed.
    pub period: i64,
    /// The range that was asked for.
    pub window: Window,
    /// Values in the profile type's unit.
    pub tree: CallTree,
    /// What the answer rests on and lacks.
    pub coverage: Coverage,
}

/// What an answer rests on, and what it lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Windows that were merged.
    pub windows: u64,
    /// Series that had a window.
    pub series: u64,
    /// Stored sample counts, before weights.
    pub samples: u64,
    /// Samples that kernel or agent reported lost.
    pub lost_samples: u64,
    /// Nodes folded into `other`.
    pub pruned_nodes: u64,
    /// Time in the range during which some series was observed.
    pub observed: Duration,
    /// In words, for a person.
    pub notes: Vec<String>,
}

/// Why a wire answer is none.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// An index points nowhere, or lists differ in length.
    #[error("the collector's answer is damaged: {0}")]
    Damaged(&'static str),
    /// The profile type is not usable.
    #[error("the collector's answer has an unusable profile type")]
    ProfileType(#[from] ValueTypeError),
    /// The range is not a window.
    #[error("the collector's answer has an impossible range")]
    Window(#[from] WindowError),
}

/// A temporality as it is sent.
pub fn temporality_to_wire(temporality: Temporality) -> pb::Temporality {
    match temporality {
        Temporality::Delta => pb::Temporality::Delta,
        Temporality::Gauge => pb::Temporality::Gauge,
    }
}

/// The temporality that a collector sent.
///
/// # Errors
///
/// [`AnswerError::Damaged`] if it is none.
pub fn temporality_from_wire(number: i32) -> Result<Temporality, AnswerError> {
    match pb::Temporality::try_from(number) {
        Ok(pb::Temporality::Delta) => Ok(Temporality::Delta),
        Ok(pb::Temporality::Gauge) => Ok(Temporality::Gauge),
        Ok(pb::Temporality::Unspecified) | Err(_) => {
            Err(AnswerError::Damaged("its temporality is unknown"))
        }
    }
}

impl Coverage {
    /// What an answer rests on, as a message.
    pub(crate) fn to_wire(&self) -> pb::Coverage {
        pb::Coverage {
            windows: self.windows,
            series: self.series,
            samples: self.samples,
            lost_samples: self.lost_samples,
            pruned_nodes: self.pruned_nodes,
            observed_nanos: u64::try_from(self.observed.as_nanos()).unwrap_or(u64::MAX),
            notes: self.notes.clone(),
        }
    }

    /// What an answer rests on, from a message.
    pub(crate) fn from_wire(wire: pb::Coverage) -> Self {
        Self {
            windows: wire.windows,
            series: wire.series,
            samples: wire.samples,
            lost_samples: wire.lost_samples,
            pruned_nodes: wire.pruned_nodes,
            observed: Duration::from_nanos(wire.observed_nanos),
            notes: wire.notes,
        }
    }
}

impl ProfileAnswer {
    /// The answer as a message. Values beyond 64 bits become the nearest that
    /// fits, with a note.
    pub fn to_wire(&self) -> pb::ProfileResponse {
        let tree = tree_to_wire(&self.tree);
        let mut notes = self.coverage.notes.clone();
        if self
            .tree
            .nodes()
            .iter()
            .any(|n| i64::try_from(n.self_value).is_err())
        {
            notes.push("values beyond 64 bits are shown as the largest that fits".to_owned());
        }
        let value_type = |value_type: &proto::value_type::ValueType| pb::ValueType {
            kind: value_type.kind().to_owned(),
            unit: value_type.unit().to_owned(),
        };
        pb::ProfileResponse {
            profile_type: self.profile_type.to_string(),
            sample_type: Some(value_type(self.profile_type.sample())),
            period_type: Some(value_type(self.profile_type.period())),
            period: self.period,
            temporality: temporality_to_wire(self.temporality).into(),
            start_unix_nanos: self.window.start().get(),
            end_unix_nanos: self.window.end().get(),
            strings: tree.strings,
            frames: tree.frames,
            parents: tree.parents,
            node_frames: tree.node_frames,
            self_values: tree.self_values,
            coverage: Some(pb::Coverage {
                notes,
                ..self.coverage.to_wire()
            }),
        }
    }

    /// Reads an answer from a message.
    ///
    /// # Errors
    ///
    /// [`AnswerError`] if the message does not make sense.
    pub fn from_wire(wire: pb::ProfileResponse) -> Result<Self, AnswerError> {
        let tree = tree_from_wire(&pb::CallTree {
            strings: wire.strings,
            frames: wire.frames,
            parents: wire.parents,
            node_frames: wire.node_frames,
            self_values: wire.self_values,
        })?;
        Ok(Self {
            profile_type: wire.profile_type.parse()?,
            temporality: temporality_from_wire(wire.temporality)?,
            period: wire.period,
            window: Window::new(
                UnixNanos::new(wire.start_unix_nanos),
                UnixNanos::new(wire.end_unix_nanos),
            )?,
            tree,
            coverage: Coverage::from_wire(wire.coverage.unwrap_or_default()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::stack::{Frame, FrameKind};

    #[test]
    fn an_answer_survives_the_wire() {
        let mut tree = CallTree::new();
        let main = Frame::named(FrameKind::Go, "main.main").at("main.go", 3);
        let leaf = Frame::named(FrameKind::Native, "memcpy");
        tree.add([&main, &leaf].into_iter(), 7);
        tree.add([&main].into_iter(), -2);
        let answer = ProfileAnswer {
            profile_type: ProfileType::cpu(),
            temporality: Temporality::Gauge,
            period: 5,
            window: Window::new(UnixNanos::new(1), UnixNanos::new(9)).unwrap(),
            tree,
            coverage: Coverage {
                windows: 3,
                notes: vec!["n".into()],
                ..Coverage::default()
            },
        };
        let read = ProfileAnswer::from_wire(answer.to_wire()).unwrap();
        assert_eq!(read.tree.nodes(), answer.tree.nodes());
        assert_eq!(read.tree.frames(), answer.tree.frames());
        assert_eq!(read.coverage, answer.coverage);
        assert_eq!(read.temporality, answer.temporality);
    }

    #[test]
    fn damaged_answers_are_refused() {
        let empty = ProfileAnswer {
            profile_type: ProfileType::cpu(),
            temporality: Temporality::Delta,
            period: 5,
            window: Window::new(UnixNanos::new(1), UnixNanos::new(9)).unwrap(),
            tree: CallTree::new(),
            coverage: Coverage::default(),
        };
        let cases: [fn(&mut pb::ProfileResponse); 5] = [
            |wire| wire.parents.push(0),
            |wire| wire.temporality = 9,
            |wire| wire.profile_type.clear(),
            |wire| wire.end_unix_nanos = 0,
            |wire| {
                wire.parents.push(5);
                wire.node_frames.push(1);
                wire.self_values.push(1);
            },
        ];
        for change in cases {
            let mut wire = empty.to_wire();
            change(&mut wire);
            assert!(ProfileAnswer::from_wire(wire).is_err());
        }
    }
}
