//! What of a speedscope file is read, after its schema. Fields that are not
//! listed are skipped.

use std::{fmt, iter};

use proto::stack::{Frame, FrameKind};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

use crate::import::known::placed_frame;

#[derive(Deserialize)]
pub(super) struct File {
    pub(super) shared: Shared,
    pub(super) profiles: Vec<Profile>,
}

#[derive(Deserialize)]
pub(super) struct Shared {
    pub(super) frames: Vec<SharedFrame>,
}

#[derive(Deserialize)]
pub(super) struct SharedFrame {
    name: String,
    file: Option<String>,
    line: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Profile {
    #[serde(rename = "type")]
    pub(super) kind: Kind,
    #[serde(default)]
    pub(super) name: String,
    pub(super) unit: Unit,
    pub(super) start_value: f64,
    pub(super) end_value: f64,
    #[serde(default)]
    pub(super) samples: Samples,
    #[serde(default)]
    pub(super) weights: Vec<f64>,
    #[serde(default)]
    pub(super) events: Vec<Event>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Sampled,
    Evented,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Unit {
    None,
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Seconds,
    Bytes,
}

#[derive(Deserialize)]
pub(super) struct Event {
    #[serde(rename = "type")]
    pub(super) change: Change,
    pub(super) at: f64,
    pub(super) frame: usize,
}

#[derive(Clone, Copy, Deserialize)]
pub(super) enum Change {
    #[serde(rename = "O")]
    Open,
    #[serde(rename = "C")]
    Close,
}

/// Stacks of frame indices, root first, in one run: a list per stack would
/// take many times the memory of the file.
#[derive(Default)]
pub(super) struct Samples {
    frames: Vec<u32>,
    /// Where each stack ends in `frames`.
    ends: Vec<usize>,
}

impl Samples {
    /// How many stacks there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The stacks, root first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u32]> {
        let starts = iter::once(0).chain(self.ends.iter().copied());
        let ranges = starts.zip(&self.ends);
        ranges.map(|(start, &end)| self.frames.get(start..end).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Samples {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(SamplesVisitor(Self::default()))
    }
}

struct SamplesVisitor(Samples);

impl<'de> Visitor<'de> for SamplesVisitor {
    type Value = Samples;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of stacks")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut stacks: A) -> Result<Samples, A::Error> {
        let mut samples = self.0;
        while stacks.next_element_seed(StackInto(&mut samples))?.is_some() {}
        Ok(samples)
    }
}

/// Adds one stack to the samples.
struct StackInto<'s>(&'s mut Samples);

impl<'de> DeserializeSeed<'de> for StackInto<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for StackInto<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of frame numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut frames: A) -> Result<(), A::Error> {
        while let Some(frame) = frames.next_element::<u64>()? {
            let frame =
                u32::try_from(frame).map_err(|_| A::Error::custom("frame number too large"))?;
            self.0.frames.push(frame);
        }
        self.0.ends.push(self.0.frames.len());
        Ok(())
    }
}

impl Unit {
    /// The word in the file.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Nanoseconds => "nanoseconds",
            Self::Microseconds => "microseconds",
            Self::Milliseconds => "milliseconds",
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
        }
    }

    /// Nanoseconds of one, if it is a time.
    pub(super) const fn nanoseconds(self) -> Option<f64> {
        match self {
            Self::None | Self::Bytes => None,
            Self::Nanoseconds => Some(1.0),
            Self::Microseconds => Some(1e3),
            Self::Milliseconds => Some(1e6),
            Self::Seconds => Some(1e9),
        }
    }

    /// The unit that values are kept in.
    pub(super) const fn kept(self) -> &'static str {
        match self {
            Self::None => "count",
            Self::Bytes => "bytes",
            Self::Nanoseconds | Self::Microseconds | Self::Milliseconds | Self::Seconds => {
                "nanoseconds"
            }
        }
    }

    /// `value` in the unit that is kept; times are rounded to nanoseconds.
    pub(super) fn whole(self, value: f64) -> Option<i64> {
        match self.nanoseconds() {
            Some(factor) => whole((value * factor).round()),
            None => whole(value),
        }
    }
}

impl SharedFrame {
    /// The frame, of the kind that its file tells.
    pub(super) fn frame(&self) -> Frame {
        let line = self.line.and_then(whole);
        let line = line.and_then(|line| u32::try_from(line).ok());
        let file = self.file.as_deref().unwrap_or("");
        placed_frame(&self.name, file, line.unwrap_or(0), FrameKind::Native)
    }
}

/// `value` as an integer, if it is one that 64 bits hold.
fn whole(value: f64) -> Option<i64> {
    // The largest power of two below which every whole number fits.
    const END: f64 = 9_223_372_036_854_775_808.0;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "whole and within the range of 64 bits"
    )]
    let whole = (value.fract() == 0.0 && value.abs() < END).then_some(value as i64);
    whole
}
