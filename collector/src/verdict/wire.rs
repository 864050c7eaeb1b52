//! A verdict as a message.

use proto::pb::tepui as pb;
use proto::window::{UnixNanos, Window};

use super::{By, Change, Estimate, Shift, Side, Verdict};
use crate::answer::AnswerError;

fn estimate_to_wire(estimate: Estimate) -> pb::Estimate {
    pb::Estimate {
        value: estimate.value,
        low: estimate.low,
        high: estimate.high,
    }
}

fn estimate_from_wire(wire: Option<pb::Estimate>) -> Result<Estimate, AnswerError> {
    let wire = wire.ok_or(AnswerError::Damaged("an estimate is missing"))?;
    let is_number = [wire.value, wire.low, wire.high]
        .iter()
        .all(|n| !n.is_nan());
    if !is_number {
        return Err(AnswerError::Damaged("an estimate is no number"));
    }
    Ok(Estimate {
        value: wire.value,
        low: wire.low,
        high: wire.high,
    })
}

fn side_to_wire(side: &Side) -> pb::VerdictSide {
    pb::VerdictSide {
        start_unix_nanos: side.window.start().get(),
        end_unix_nanos: side.window.end().get(),
        selector: side.selector.clone(),
        pods: side.pods,
        units: side.units,
        samples: side.samples,
        cores: side.cores,
    }
}

fn side_from_wire(wire: Option<pb::VerdictSide>) -> Result<Side, AnswerError> {
    let wire = wire.ok_or(AnswerError::Damaged("a side is missing"))?;
    Ok(Side {
        window: Window::new(
            UnixNanos::new(wire.start_unix_nanos),
            UnixNanos::new(wire.end_unix_nanos),
        )?,
        selector: wire.selector,
        pods: wire.pods,
        units: wire.units,
        samples: wire.samples,
        cores: wire.cores,
    })
}

fn shift_to_wire(shift: &Shift) -> pb::Shift {
    let change = match shift.change {
        Change::Regression => pb::Change::Regression,
        Change::Improvement => pb::Change::Improvement,
        Change::Moved => pb::Change::Moved,
    };
    pb::Shift {
        function: shift.function.to_string(),
        change: change.into(),
        is_inclusive: shift.by == By::Cum,
        before: shift.before,
        after: shift.after,
        gain: Some(estimate_to_wire(shift.gain)),
        ratio: Some(estimate_to_wire(shift.ratio)),
        false_discovery: shift.false_discovery,
    }
}

fn shift_from_wire(wire: pb::Shift) -> Result<Shift, AnswerError> {
    let change = match pb::Change::try_from(wire.change) {
        Ok(pb::Change::Regression) => Change::Regression,
        Ok(pb::Change::Improvement) => Change::Improvement,
        Ok(pb::Change::Moved) => Change::Moved,
        Ok(pb::Change::Unspecified) | Err(_) => {
            return Err(AnswerError::Damaged("a change is unknown"));
        }
    };
    Ok(Shift {
        function: wire.function.into(),
        change,
        by: if wire.is_inclusive { By::Cum } else { By::Flat },
        before: wire.before,
        after: wire.after,
        gain: estimate_from_wire(wire.gain)?,
        ratio: estimate_from_wire(wire.ratio)?,
        false_discovery: wire.false_discovery,
    })
}

impl Verdict {
    /// The verdict as a message.
    pub fn to_wire(&self) -> pb::VerdictResponse {
        pb::VerdictResponse {
            base: Some(side_to_wire(&self.base)),
            new: Some(side_to_wire(&self.new)),
            tested: self.tested,
            shifts: self.shifts.iter().map(shift_to_wire).collect(),
            notes: self.notes.clone(),
        }
    }

    /// Reads a verdict from a message.
    ///
    /// # Errors
    ///
    /// [`AnswerError`] if the message does not make sense.
    pub fn from_wire(wire: pb::VerdictResponse) -> Result<Self, AnswerError> {
        let shifts = wire.shifts.into_iter().map(shift_from_wire);
        Ok(Self {
            base: side_from_wire(wire.base)?,
            new: side_from_wire(wire.new)?,
            tested: wire.tested,
            shifts: shifts.collect::<Result<_, _>>()?,
            notes: wire.notes,
        })
    }
}
