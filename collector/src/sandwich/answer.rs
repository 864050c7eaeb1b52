//! What a question for one function answers, and its message.

use std::sync::Arc;

use proto::pb::tepui as pb;

use super::{Sandwich, Subject};
use crate::answer::{AnswerError, ProfileAnswer, narrow, tree_from_wire, tree_to_wire};
use crate::flatten::pattern;

/// A function between its callers and its callees, and what that rests on.
#[derive(Clone, Debug)]
pub struct SandwichAnswer {
    /// What it rests on; the tree is a root with the value of all samples.
    pub whole: ProfileAnswer,
    /// What was looked for.
    pub subject: Subject,
    /// What was found, in the unit of the profile type.
    pub sandwich: Sandwich,
}

impl SandwichAnswer {
    /// The answer as a message. Values beyond 64 bits become the nearest that
    /// fits.
    pub fn to_wire(&self) -> pb::SandwichResponse {
        let found = &self.sandwich;
        pb::SandwichResponse {
            whole: Some(self.whole.to_wire()),
            subject: self.subject.text().to_owned(),
            is_pattern: matches!(self.subject, Subject::Matching(_)),
            functions: found.functions.iter().map(ToString::to_string).collect(),
            flat: narrow(found.flat),
            cum: narrow(found.cum),
            cut_callers: found.cut_callers,
            callers: Some(tree_to_wire(&found.callers)),
            callees: Some(tree_to_wire(&found.callees)),
        }
    }

    /// Reads an answer from a message.
    ///
    /// # Errors
    ///
    /// [`AnswerError`] if the message does not make sense.
    pub fn from_wire(wire: pb::SandwichResponse) -> Result<Self, AnswerError> {
        let subject = match wire.is_pattern {
            false => Subject::Named(wire.subject),
            true => match pattern(&wire.subject) {
                Ok(Some(pattern)) => Subject::Matching(pattern),
                Ok(None) | Err(_) => return Err(AnswerError::Damaged("its pattern is none")),
            },
        };
        let whole = ProfileAnswer::from_wire(wire.whole.unwrap_or_default())?;
        let sandwich = Sandwich {
            functions: wire.functions.into_iter().map(Arc::from).collect(),
            flat: wire.flat.into(),
            cum: wire.cum.into(),
            total: whole.tree.total(),
            cut_callers: wire.cut_callers,
            callers: tree_from_wire(&wire.callers.unwrap_or_default())?,
            callees: tree_from_wire(&wire.callees.unwrap_or_default())?,
        };
        Ok(Self {
            whole,
            subject,
            sandwich,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Coverage;
    use crate::sandwich::{Wanted, sandwich};
    use crate::tree::CallTree;
    use proto::stack::{Frame, FrameKind};
    use proto::value_type::{ProfileType, Temporality};
    use proto::window::{UnixNanos, Window};

    fn answer(function: &str) -> SandwichAnswer {
        let [main, lock, spin] = ["main", "lock", "spin"].map(|f| Frame::named(FrameKind::Go, f));
        let mut tree = CallTree::new();
        tree.add([&main, &lock, &spin].into_iter(), 5);
        tree.add([&main].into_iter(), 3);
        let subject = Wanted::new(function).subject(&tree);
        let mut whole = CallTree::new();
        whole.add_self(0, tree.total());
        SandwichAnswer {
            whole: ProfileAnswer {
                profile_type: ProfileType::cpu(),
                temporality: Temporality::Delta,
                period: 5,
                window: Window::new(UnixNanos::new(1), UnixNanos::new(9)).unwrap(),
                tree: whole,
                coverage: Coverage::default(),
            },
            sandwich: sandwich(&tree, &subject),
            subject,
        }
    }

    #[test]
    fn an_answer_survives_the_wire() {
        for function in ["lock", "l.ck"] {
            let sent = answer(function);
            let read = SandwichAnswer::from_wire(sent.to_wire()).unwrap();
            assert_eq!(format!("{:?}", read.subject), format!("{:?}", sent.subject));
            assert_eq!(read.sandwich.functions, sent.sandwich.functions);
            let values = |s: &Sandwich| (s.flat, s.cum, s.total, s.cut_callers);
            assert_eq!(values(&read.sandwich), values(&sent.sandwich));
            assert_eq!(values(&read.sandwich), (0, 5, 8, 0));
            let (one, other) = (&read.sandwich, &sent.sandwich);
            assert_eq!(one.callers.nodes(), other.callers.nodes());
            assert_eq!(one.callees.nodes(), other.callees.nodes());
        }
    }

    #[test]
    fn damaged_answers_are_refused() {
        let cases: [fn(&mut pb::SandwichResponse); 3] = [
            |wire| wire.whole = None,
            |wire| {
                wire.callers = Some(pb::CallTree {
                    parents: vec![0],
                    ..pb::CallTree::default()
                })
            },
            |wire| (wire.is_pattern, wire.subject) = (true, "(".to_owned()),
        ];
        for change in cases {
            let mut wire = answer("lock").to_wire();
            change(&mut wire);
            assert!(SandwichAnswer::from_wire(wire).is_err());
        }
    }
}
