//! What a profile query answers: the merged tree and what it rests on.

use std::sync::Arc;
use std::time::Duration;

use proto::pb::tepui as pb;
use proto::stack::{Frame, FrameKind};
use proto::value_type::{ProfileType, Temporality, ValueTypeError};
use proto::window::{UnixNanos, Window, WindowError};
use rustc_hash::FxHashMap;

use crate::tree::CallTree;

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

/// The nearest 64-bit number.
fn narrow(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn index(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

/// Texts of an answer; each is sent once, 0 means the empty text.
#[derive(Default)]
struct Texts {
    ids: FxHashMap<Arc<str>, u32>,
    list: Vec<String>,
}

impl Texts {
    fn id(&mut self, text: &Arc<str>) -> u32 {
        if text.is_empty() {
            return 0;
        }
        if let Some(&id) = self.ids.get(text) {
            return id;
        }
        self.list.push(text.to_string());
        let id = index(self.list.len());
        self.ids.insert(Arc::clone(text), id);
        id
    }
}

impl ProfileAnswer {
    /// The answer as a message. Values beyond 64 bits become the nearest that
    /// fits, with a note.
    pub fn to_wire(&self) -> pb::ProfileResponse {
        let mut texts = Texts::default();
        let frames = self.tree.frames().iter().map(|frame| pb::Frame {
            kind: i32::from(frame.kind.code()),
            function: texts.id(&frame.function),
            system_name: texts.id(&frame.system_name),
            file: texts.id(&frame.file),
            start_line: frame.start_line,
            line: frame.line,
            build_id: texts.id(&frame.build_id),
            file_offset: frame.file_offset,
        });
        let frames = frames.collect();
        let nodes = self.tree.nodes();
        let mut notes = self.coverage.notes.clone();
        if nodes.iter().any(|n| i64::try_from(n.self_value).is_err()) {
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
            strings: texts.list,
            frames,
            parents: nodes.iter().map(|node| node.parent).collect(),
            node_frames: nodes
                .iter()
                .map(|node| node.frame.map_or(0, |frame| frame.saturating_add(1)))
                .collect(),
            self_values: nodes.iter().map(|node| narrow(node.self_value)).collect(),
            coverage: Some(pb::Coverage {
                windows: self.coverage.windows,
                series: self.coverage.series,
                samples: self.coverage.samples,
                lost_samples: self.coverage.lost_samples,
                pruned_nodes: self.coverage.pruned_nodes,
                observed_nanos: u64::try_from(self.coverage.observed.as_nanos())
                    .unwrap_or(u64::MAX),
                notes,
            }),
        }
    }

    /// Reads an answer from a message.
    ///
    /// # Errors
    ///
    /// [`AnswerError`] if the message does not make sense.
    pub fn from_wire(wire: pb::ProfileResponse) -> Result<Self, AnswerError> {
        let texts: Vec<Arc<str>> = std::iter::once(Arc::from(""))
            .chain(wire.strings.iter().map(|text| Arc::from(text.as_str())))
            .collect();
        let text = |id: u32| {
            usize::try_from(id)
                .ok()
                .and_then(|id| texts.get(id))
                .map(Arc::clone)
                .ok_or(AnswerError::Damaged("a text is missing"))
        };
        let frames = wire
            .frames
            .iter()
            .map(|frame| {
                Ok(Frame {
                    kind: u8::try_from(frame.kind)
                        .ok()
                        .and_then(FrameKind::from_code)
                        .ok_or(AnswerError::Damaged("a frame has an unknown kind"))?,
                    function: text(frame.function)?,
                    system_name: text(frame.system_name)?,
                    file: text(frame.file)?,
                    start_line: frame.start_line,
                    line: frame.line,
                    build_id: text(frame.build_id)?,
                    file_offset: frame.file_offset,
                })
            })
            .collect::<Result<Vec<_>, AnswerError>>()?;
        if wire.parents.len() != wire.node_frames.len()
            || wire.parents.len() != wire.self_values.len()
        {
            return Err(AnswerError::Damaged("its lists differ in length"));
        }
        let mut tree = CallTree::new();
        let mut places = Vec::with_capacity(wire.parents.len());
        let nodes = wire.parents.iter().zip(&wire.node_frames);
        for ((&parent, &frame), &value) in nodes.zip(&wire.self_values) {
            let place = match frame.checked_sub(1) {
                None => 0,
                Some(frame) => {
                    let above = usize::try_from(parent)
                        .ok()
                        .and_then(|parent| places.get(parent).copied())
                        .ok_or(AnswerError::Damaged("a node comes before its parent"))?;
                    let frame = usize::try_from(frame)
                        .ok()
                        .and_then(|frame| frames.get(frame))
                        .ok_or(AnswerError::Damaged("a frame is missing"))?;
                    tree.child(above, frame)
                }
            };
            tree.add_self(place, i128::from(value));
            places.push(place);
        }
        let coverage = wire.coverage.unwrap_or_default();
        Ok(Self {
            profile_type: wire.profile_type.parse()?,
            temporality: temporality_from_wire(wire.temporality)?,
            period: wire.period,
            window: Window::new(
                UnixNanos::new(wire.start_unix_nanos),
                UnixNanos::new(wire.end_unix_nanos),
            )?,
            tree,
            coverage: Coverage {
                windows: coverage.windows,
                series: coverage.series,
                samples: coverage.samples,
                lost_samples: coverage.lost_samples,
                pruned_nodes: coverage.pruned_nodes,
                observed: Duration::from_nanos(coverage.observed_nanos),
                notes: coverage.notes,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
