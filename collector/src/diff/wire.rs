//! A comparison as a message.

use proto::pb::tepui as pb;
use proto::window::{UnixNanos, Window};

use super::{DiffAnswer, DiffSide, DiffTree, Ratio, Reading};
use crate::answer::{
    AnswerError, Coverage, narrow, temporality_from_wire, temporality_to_wire, tree_from_wire,
    tree_to_wire,
};

/// A reading as it is sent.
pub fn reading_to_wire(reading: Reading) -> pb::DiffReading {
    match reading {
        Reading::PerTime => pb::DiffReading::PerTime,
        Reading::Absolute => pb::DiffReading::Absolute,
        Reading::Share => pb::DiffReading::Share,
    }
}

/// The reading that was sent; the default when none was.
///
/// # Errors
///
/// [`AnswerError::Damaged`] if it is none.
pub fn reading_from_wire(number: i32) -> Result<Reading, AnswerError> {
    match pb::DiffReading::try_from(number) {
        Ok(pb::DiffReading::Unspecified) => Ok(Reading::default()),
        Ok(pb::DiffReading::PerTime) => Ok(Reading::PerTime),
        Ok(pb::DiffReading::Absolute) => Ok(Reading::Absolute),
        Ok(pb::DiffReading::Share) => Ok(Reading::Share),
        Err(_) => Err(AnswerError::Damaged("its reading is unknown")),
    }
}

fn side_to_wire(side: &DiffSide) -> pb::DiffSide {
    pb::DiffSide {
        start_unix_nanos: side.window.start().get(),
        end_unix_nanos: side.window.end().get(),
        period: side.period,
        total: narrow(side.total),
        coverage: Some(side.coverage.to_wire()),
    }
}

fn side_from_wire(wire: Option<pb::DiffSide>) -> Result<DiffSide, AnswerError> {
    let wire = wire.ok_or(AnswerError::Damaged("a side is missing"))?;
    Ok(DiffSide {
        window: Window::new(
            UnixNanos::new(wire.start_unix_nanos),
            UnixNanos::new(wire.end_unix_nanos),
        )?,
        period: wire.period,
        total: wire.total.into(),
        coverage: Coverage::from_wire(wire.coverage.unwrap_or_default()),
    })
}

impl DiffAnswer {
    /// The comparison as a message. Values beyond 64 bits become the nearest
    /// that fits, with a note.
    pub fn to_wire(&self) -> pb::DiffResponse {
        let base_nodes = self.tree.base_side().nodes();
        let new_nodes = self.tree.new_side().nodes();
        let mut notes = self.notes.clone();
        let mut values = base_nodes.iter().chain(new_nodes);
        if values.any(|node| i64::try_from(node.self_value).is_err()) {
            notes.push("values beyond 64 bits are shown as the largest that fits".to_owned());
        }
        pb::DiffResponse {
            profile_type: self.profile_type.to_string(),
            temporality: temporality_to_wire(self.temporality).into(),
            reading: reading_to_wire(self.reading).into(),
            scale: self.scale.to_string(),
            base: Some(side_to_wire(&self.base)),
            new: Some(side_to_wire(&self.new)),
            tree: Some(tree_to_wire(self.tree.new_side())),
            base_self_values: base_nodes
                .iter()
                .map(|node| narrow(node.self_value))
                .collect(),
            pruned_nodes: self.pruned_nodes,
            notes,
        }
    }

    /// Reads a comparison from a message.
    ///
    /// # Errors
    ///
    /// [`AnswerError`] if the message does not make sense.
    pub fn from_wire(wire: pb::DiffResponse) -> Result<Self, AnswerError> {
        let mut tree = wire.tree.unwrap_or_default();
        let new = tree_from_wire(&tree)?;
        // The same nodes in the same order, so that indices are the same.
        tree.self_values = wire.base_self_values;
        let base = tree_from_wire(&tree)?;
        Ok(Self {
            profile_type: wire.profile_type.parse()?,
            temporality: temporality_from_wire(wire.temporality)?,
            reading: reading_from_wire(wire.reading)?,
            scale: Ratio::parse(&wire.scale).ok_or(AnswerError::Damaged("its scale is none"))?,
            base: side_from_wire(wire.base)?,
            new: side_from_wire(wire.new)?,
            tree: DiffTree::of_sides(base, new),
            pruned_nodes: wire.pruned_nodes,
            notes: wire.notes,
        })
    }
}
