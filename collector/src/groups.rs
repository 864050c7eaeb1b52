//! Merged profiles side by side, one per value of a label. Pure.

use std::sync::Arc;

use proto::pb::tepui as pb;

use crate::answer::{AnswerError, ProfileAnswer, narrow};

/// What the group of all other values is called.
pub const REST: &str = "other";

/// One merged profile per value of a label.
#[derive(Clone, Debug)]
pub struct GroupsAnswer {
    /// The label.
    pub label: String,
    /// Those with the largest totals, largest first; then the rest, if any.
    pub groups: Vec<Group>,
}

/// Whose profile it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// Series with this value; empty for those without the label.
    Value(String),
    /// Series with any of this many further values.
    Rest(u64),
}

/// The merged profile of one value.
#[derive(Clone, Debug)]
pub struct Group {
    /// Whose it is.
    pub member: Member,
    /// Its profile.
    pub answer: ProfileAnswer,
    /// The function with the largest flat value and that value, found before
    /// nodes were folded into `other`; `None` without samples.
    pub top: Option<(Arc<str>, i128)>,
}

impl Member {
    /// What it is called: a value, `(none)` without the label, or [`REST`].
    pub fn name(&self) -> &str {
        match self {
            Self::Value(value) if value.is_empty() => "(none)",
            Self::Value(value) => value,
            Self::Rest(_) => REST,
        }
    }
}

impl GroupsAnswer {
    /// The totals of all groups together.
    pub fn total(&self) -> i128 {
        let totals = self.groups.iter().map(|group| group.answer.tree.total());
        totals.fold(0, i128::saturating_add)
    }

    /// The answer as a message. Values beyond 64 bits become the nearest that
    /// fits.
    pub fn to_wire(&self) -> pb::GroupsResponse {
        let group = |group: &Group| {
            let (value, rest_values) = match &group.member {
                Member::Value(value) => (value.clone(), 0),
                Member::Rest(values) => (String::new(), (*values).max(1)),
            };
            let top = group.top.as_ref();
            pb::Group {
                value,
                rest_values,
                profile: Some(group.answer.to_wire()),
                top_function: top.map(|(function, _)| function.to_string()),
                top_flat: top.map_or(0, |(_, flat)| narrow(*flat)),
            }
        };
        pb::GroupsResponse {
            label: self.label.clone(),
            groups: self.groups.iter().map(group).collect(),
        }
    }

    /// Reads an answer from a message.
    ///
    /// # Errors
    ///
    /// [`AnswerError`] if the message does not make sense.
    pub fn from_wire(wire: pb::GroupsResponse) -> Result<Self, AnswerError> {
        let groups = wire.groups.into_iter().map(|group| {
            let flat = i128::from(group.top_flat);
            Ok(Group {
                member: match group.rest_values {
                    0 => Member::Value(group.value),
                    values => Member::Rest(values),
                },
                answer: ProfileAnswer::from_wire(group.profile.unwrap_or_default())?,
                top: group
                    .top_function
                    .map(|function| (Arc::from(function), flat)),
            })
        });
        Ok(Self {
            label: wire.label,
            groups: groups.collect::<Result<_, AnswerError>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Coverage;
    use crate::tree::CallTree;
    use proto::stack::{Frame, FrameKind};
    use proto::value_type::{ProfileType, Temporality};
    use proto::window::{UnixNanos, Window};

    #[test]
    fn groups_survive_the_wire() {
        let mut tree = CallTree::new();
        tree.add([&Frame::named(FrameKind::Go, "main")].into_iter(), 7);
        let group = |member, top| Group {
            member,
            answer: ProfileAnswer {
                profile_type: ProfileType::cpu(),
                temporality: Temporality::Delta,
                period: 5,
                window: Window::new(UnixNanos::new(1), UnixNanos::new(9)).unwrap(),
                tree: tree.clone(),
                coverage: Coverage::default(),
            },
            top,
        };
        let sent = GroupsAnswer {
            label: "version".to_owned(),
            groups: vec![
                group(Member::Value("a".to_owned()), Some((Arc::from("main"), 7))),
                group(Member::Value(String::new()), None),
                group(Member::Rest(3), None),
            ],
        };
        let read = GroupsAnswer::from_wire(sent.to_wire()).unwrap();
        assert_eq!(read.label, sent.label);
        assert_eq!(read.total(), 21);
        let names: Vec<&str> = read
            .groups
            .iter()
            .map(|group| group.member.name())
            .collect();
        assert_eq!(names, ["a", "(none)", "other"]);
        for (read, sent) in read.groups.iter().zip(&sent.groups) {
            assert_eq!((&read.member, &read.top), (&sent.member, &sent.top));
            assert_eq!(read.answer.tree.nodes(), sent.answer.tree.nodes());
        }
        let mut damaged = sent.to_wire();
        damaged.groups[0].profile = None;
        assert!(GroupsAnswer::from_wire(damaged).is_err());
    }
}
