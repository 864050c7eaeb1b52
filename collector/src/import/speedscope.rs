//! Speedscope's JSON: profiles of samples with weights, or of events that open
//! and close frames.
//!
//! Follows <https://www.speedscope.app/file-format-schema.json>. The profiles of
//! a file are threads of one program, as py-spy and others write them, so those
//! that count the same are added up. A profile that is called like a known
//! sample type, such as `inuse_space`, counts that; another one counts what the
//! caller of the import says, where that fits its unit.

use std::ops::Range;
use std::time::Duration;

use proto::value_type::{ProfileType, Temporality, ValueType, ValueTypeError};
use proto::window::UnixNanos;

use super::known::type_called;
use super::tally::{ColumnId, Scale, Tally};
use super::words::FrameId;
use super::{Assumed, Imported, Limits, excerpt};

mod schema;

use schema::{Change, File, Kind, Profile, SharedFrame, Unit};

/// The profile's name when nothing tells a better one.
const PROFILE: &str = "speedscope";
/// Times from 2001 to 2100 in nanoseconds since 1970: a profile that begins
/// then says when it was taken; others count from a moment of their own.
const DATES: Range<i64> = 1_000_000_000_000_000_000..4_102_444_800_000_000_000;

/// Why a file is no usable speedscope file.
#[derive(Debug, thiserror::Error)]
pub enum SpeedscopeError {
    /// It is no JSON, or not that of a speedscope file.
    #[error("line {line} is not as speedscope's schema wants it")]
    Json {
        /// The line, from 1.
        line: usize,
        /// What the parser said, with the column.
        #[source]
        source: serde_json::Error,
    },
    /// It has no profile.
    #[error("it holds no profiles")]
    Empty,
    /// A profile has more or less weights than samples.
    #[error("profile {profile:?} has {weights} weights for {samples} samples")]
    Uneven {
        /// The profile's name.
        profile: String,
        /// Its number of samples.
        samples: usize,
        /// Its number of weights.
        weights: usize,
    },
    /// A frame is named that the file does not hold.
    #[error("profile {profile:?} names frame {frame} of {frames}")]
    NoSuchFrame {
        /// The profile's name.
        profile: String,
        /// The index, from 0.
        frame: usize,
        /// How many frames there are.
        frames: usize,
    },
    /// A number cannot be a value: it has a fraction where the unit has none,
    /// or more than 64 bits.
    #[error("profile {profile:?} counts {value} {unit}, which is no whole number of 64 bits")]
    Value {
        /// The profile's name.
        profile: String,
        /// The number.
        value: f64,
        /// Its unit.
        unit: &'static str,
    },
    /// Events are not in the order of time.
    #[error(
        "event {event} of profile {profile:?} lies before the one above it; sort them by \"at\""
    )]
    Backwards {
        /// The profile's name.
        profile: String,
        /// The event's index, from 0.
        event: usize,
    },
    /// An event closes another frame than the one that was opened last.
    #[error(
        "event {event} of profile {profile:?} closes frame {frame}, which is not the innermost"
    )]
    Unbalanced {
        /// The profile's name.
        profile: String,
        /// The event's index, from 0.
        event: usize,
        /// The frame's index, from 0.
        frame: usize,
    },
    /// A type cannot be named.
    #[error("profile {profile:?} has an unusable type")]
    ValueType {
        /// The profile's name.
        profile: String,
        /// What is wrong with it.
        #[source]
        source: ValueTypeError,
    },
}

/// How values of a profile are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Counted {
    profile_type: ProfileType,
    temporality: Temporality,
    scale: Scale,
}

impl Counted {
    fn of(profile: &Profile, assumed: &Assumed) -> Result<Self, ValueTypeError> {
        let unit = profile.unit.kept();
        // An exporter may say more behind the type: "inuse_space (average)".
        let called = profile.name.split(" (").next().unwrap_or("");
        if let Some((profile_type, temporality)) = type_called(called)
            && profile_type.sample().unit() == unit
        {
            return Ok(Self::new(profile_type, temporality, profile));
        }
        if profile.unit == Unit::None {
            return Ok(Self {
                profile_type: assumed.profile_type.clone(),
                temporality: Temporality::Delta,
                scale: Scale::counts(assumed),
            });
        }
        let profile_type = if assumed.profile_type.sample().unit() == unit {
            assumed.profile_type.clone()
        } else {
            let counted = ValueType::new("weight", unit)?;
            ProfileType::new(PROFILE, counted.clone(), counted)?
        };
        Ok(Self::new(profile_type, Temporality::Delta, profile))
    }

    /// Values in their own unit; those of a sampling profiler stand for one
    /// sample each when they are all the same time.
    fn new(profile_type: ProfileType, temporality: Temporality, profile: &Profile) -> Self {
        let is_sampled = profile.kind == Kind::Sampled && profile.unit.nanoseconds().is_some();
        Self {
            profile_type,
            temporality,
            scale: match is_sampled {
                true => Scale::Equal(None),
                false => Scale::PLAIN,
            },
        }
    }
}

/// Profiles that count the same.
struct Group<'l> {
    counted: Counted,
    tally: Tally<'l>,
    column: ColumnId,
    /// Per frame of the file: its id, once it is used.
    ids: Vec<Option<FrameId>>,
    /// First and last moment, in nanoseconds, when the unit is a time.
    span: Option<(i64, i64)>,
}

/// A profile with what it refers to.
struct Context<'a> {
    frames: &'a [SharedFrame],
    profile: &'a Profile,
}

/// Reads a file; profiles that count the same become one.
///
/// # Errors
///
/// [`SpeedscopeError`] if it is none, contradicts itself, or holds numbers that
/// cannot be values.
pub(super) fn read(
    bytes: &[u8],
    assumed: &Assumed,
    limits: &Limits,
) -> Result<Vec<Imported>, SpeedscopeError> {
    let file: File = serde_json::from_slice(bytes).map_err(|source| SpeedscopeError::Json {
        line: source.line(),
        source,
    })?;
    if file.profiles.is_empty() {
        return Err(SpeedscopeError::Empty);
    }
    let mut groups: Vec<Group<'_>> = Vec::new();
    for profile in &file.profiles {
        let counted =
            Counted::of(profile, assumed).map_err(|source| SpeedscopeError::ValueType {
                profile: excerpt(&profile.name),
                source,
            })?;
        let at = groups.iter().position(|group| group.counted == counted);
        let at = at.unwrap_or(groups.len());
        if at == groups.len() {
            groups.push(Group::new(counted, &file.shared.frames, limits));
        }
        let context = Context {
            frames: &file.shared.frames,
            profile,
        };
        if let Some(group) = groups.get_mut(at) {
            group.add(&context)?;
        }
    }
    Ok(groups.into_iter().map(Group::finish).collect())
}

impl Context<'_> {
    fn name(&self) -> String {
        excerpt(&self.profile.name)
    }

    fn value(&self, value: f64) -> Result<i64, SpeedscopeError> {
        let unit = self.profile.unit;
        unit.whole(value).ok_or_else(|| SpeedscopeError::Value {
            profile: self.name(),
            value,
            unit: unit.name(),
        })
    }
}

impl<'l> Group<'l> {
    fn new(counted: Counted, frames: &[SharedFrame], limits: &'l Limits) -> Self {
        let mut tally = Tally::new(limits);
        let column = tally.column(
            counted.profile_type.clone(),
            counted.temporality,
            counted.scale,
        );
        Self {
            counted,
            tally,
            column,
            ids: vec![None; frames.len()],
            span: None,
        }
    }

    fn add(&mut self, context: &Context<'_>) -> Result<(), SpeedscopeError> {
        self.widen(context.profile);
        match context.profile.kind {
            Kind::Sampled => self.add_samples(context),
            Kind::Evented => self.add_events(context),
        }
    }

    fn widen(&mut self, profile: &Profile) {
        if profile.unit.nanoseconds().is_none() {
            return;
        }
        let ends = (
            profile.unit.whole(profile.start_value),
            profile.unit.whole(profile.end_value),
        );
        if let (Some(start), Some(end)) = ends {
            self.span = Some(match self.span {
                Some((first, last)) => (first.min(start), last.max(end)),
                None => (start, end),
            });
        }
    }

    fn add_samples(&mut self, context: &Context<'_>) -> Result<(), SpeedscopeError> {
        let Profile {
            samples, weights, ..
        } = context.profile;
        if samples.len() != weights.len() {
            return Err(SpeedscopeError::Uneven {
                profile: context.name(),
                samples: samples.len(),
                weights: weights.len(),
            });
        }
        for (stack, &weight) in samples.iter().zip(weights) {
            let value = context.value(weight)?;
            for &frame in stack.iter().rev() {
                self.push(context, usize::try_from(frame).unwrap_or(usize::MAX))?;
            }
            self.end_stack(value);
        }
        Ok(())
    }

    /// Gives the time between two events to the frames that are open then. Time
    /// without an open frame counts nothing; frames that are never closed are
    /// open until the end.
    fn add_events(&mut self, context: &Context<'_>) -> Result<(), SpeedscopeError> {
        let profile = context.profile;
        let mut open: Vec<usize> = Vec::new();
        let mut now = profile.start_value;
        for (index, event) in profile.events.iter().enumerate() {
            // Some writers count from 0 whatever the start value says.
            let passed = if index == 0 { 0.0 } else { event.at - now };
            if passed < 0.0 {
                return Err(SpeedscopeError::Backwards {
                    profile: context.name(),
                    event: index,
                });
            }
            self.add_open(context, &open, passed)?;
            now = event.at;
            match event.change {
                Change::Open => open.push(event.frame),
                Change::Close => {
                    if open.pop() != Some(event.frame) {
                        return Err(SpeedscopeError::Unbalanced {
                            profile: context.name(),
                            event: index,
                            frame: event.frame,
                        });
                    }
                }
            }
        }
        self.add_open(context, &open, (profile.end_value - now).max(0.0))
    }

    /// Counts `passed` for the stack of `open` frames, root first.
    fn add_open(
        &mut self,
        context: &Context<'_>,
        open: &[usize],
        passed: f64,
    ) -> Result<(), SpeedscopeError> {
        let value = context.value(passed)?;
        if open.is_empty() || value == 0 {
            return Ok(());
        }
        // One more than is kept, so that the tally sees that there is more.
        let kept = self.tally.depth().saturating_add(1);
        for &frame in open.iter().rev().take(kept) {
            self.push(context, frame)?;
        }
        self.end_stack(value);
        Ok(())
    }

    fn push(&mut self, context: &Context<'_>, index: usize) -> Result<(), SpeedscopeError> {
        let no_such_frame = || SpeedscopeError::NoSuchFrame {
            profile: context.name(),
            frame: index,
            frames: context.frames.len(),
        };
        let shared = context.frames.get(index).ok_or_else(no_such_frame)?;
        let slot = self.ids.get_mut(index).ok_or_else(no_such_frame)?;
        let tally = &mut self.tally;
        let id = *slot.get_or_insert_with(|| tally.frame(shared.frame().borrowed()));
        tally.push(id);
        Ok(())
    }

    fn end_stack(&mut self, value: i64) {
        let stack = self.tally.finish_stack();
        self.tally.count(self.column, stack, value);
    }

    fn finish(self) -> Imported {
        let (stacks, columns, left_out) = self.tally.finish();
        let length = self.span.map(|(start, end)| end.saturating_sub(start));
        let length = length.and_then(|length| u64::try_from(length).ok());
        Imported {
            start: self
                .span
                .filter(|(start, _)| DATES.contains(start))
                .map(|(start, _)| UnixNanos::new(start)),
            duration: length
                .filter(|length| *length > 0)
                .map(Duration::from_nanos),
            stacks,
            columns,
            left_out,
        }
    }
}
