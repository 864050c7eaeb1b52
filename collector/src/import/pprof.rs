//! pprof files: `profile.proto`, through the checked view of [`proto::pprof`].
//!
//! Sample types become columns as the agent makes them of Go's endpoint: CPU is
//! counted in samples that are worth one period each where that is exact, and
//! what lives at one moment is a gauge. Labels of samples are dropped and
//! counted. All frames that have a name are of one kind of code, the one that
//! most source files of the profile are written in.

use std::collections::HashMap;
use std::time::Duration;

use prost::Message;
use proto::codec::CodecError;
use proto::limits::MAX_COLUMNS;
use proto::pb::pprof as pb;
use proto::pprof::{MAX_PROFILE_BYTES, Pprof, PprofError};
use proto::profile::Column;
use proto::stack::FrameKind;
use proto::value_type::{ProfileType, Temporality, ValueType, ValueTypeError};
use proto::window::UnixNanos;

use super::known::{kind_of_file, type_called};
use super::tally::{ColumnId, Scale, Tally};
use super::{Imported, LeftOut, Limits};

/// Most frames of all samples together. A location may stand for many inlined
/// calls and be named by many samples, so a small file can unfold into more
/// than memory holds.
const MAX_FRAMES: u64 = 8 << 20;
/// The profile's name when no sample type is a known one.
const UNKNOWN_PROFILE: &str = "pprof";

/// Why a file is no usable pprof profile.
#[derive(Debug, thiserror::Error)]
pub enum PprofFileError {
    /// It is no profile, is damaged, or is too large.
    #[error("the profile is damaged or is none; write it anew")]
    Profile(#[source] PprofError),
    /// Its stacks unfold to more than is held in memory.
    #[error("its stacks have {frames} frames, more than {MAX_FRAMES}; record a shorter time")]
    TooManyFrames {
        /// Frames of all samples.
        frames: u64,
    },
    /// It has no sample type, or more than a window can hold.
    #[error("it has {count} sample types; 1 to {MAX_COLUMNS} can be imported")]
    Types {
        /// Its number of sample types.
        count: usize,
    },
    /// Two sample types are the same.
    #[error("it has sample type {sample_type} twice")]
    TwiceTheSame {
        /// The type.
        sample_type: ValueType,
    },
    /// A sample type cannot be named.
    #[error("it has an unusable sample type")]
    ValueType(#[source] ValueTypeError),
}

/// What is known of a profile before its stacks are unfolded.
#[derive(Debug, PartialEq, Eq)]
struct Outline {
    frames: u64,
    kind: FrameKind,
}

impl Outline {
    fn of(bytes: &[u8]) -> Result<Self, PprofError> {
        if bytes.len() > MAX_PROFILE_BYTES {
            return Err(PprofError::Unpack(CodecError::TooLarge {
                cap: MAX_PROFILE_BYTES,
            }));
        }
        let profile = pb::Profile::decode(bytes).map_err(PprofError::Decode)?;
        Ok(Self {
            frames: frames_of(&profile),
            kind: language_of(&profile),
        })
    }
}

/// Frames of all samples, with inlined ones.
fn frames_of(profile: &pb::Profile) -> u64 {
    let lines: HashMap<u64, u64> = profile
        .location
        .iter()
        .map(|location| {
            let lines = u64::try_from(location.line.len()).unwrap_or(u64::MAX);
            (location.id, lines.max(1))
        })
        .collect();
    let ids = profile.sample.iter().flat_map(|sample| &sample.location_id);
    ids.fold(0_u64, |sum, id| {
        sum.saturating_add(lines.get(id).copied().unwrap_or(1))
    })
}

/// The kind of code that most functions are written in.
fn language_of(profile: &pb::Profile) -> FrameKind {
    let mut counts: HashMap<FrameKind, u64> = HashMap::new();
    for function in &profile.function {
        let file = usize::try_from(function.filename)
            .ok()
            .and_then(|index| profile.string_table.get(index));
        if let Some(kind) = file.and_then(|file| kind_of_file(file)) {
            let count = counts.entry(kind).or_default();
            *count = count.saturating_add(1);
        }
    }
    let most = counts
        .into_iter()
        .max_by_key(|(kind, count)| (*count, *kind));
    most.map_or(FrameKind::Native, |(kind, _)| kind)
}

/// Reads a profile.
///
/// # Errors
///
/// [`PprofFileError`] if it is none, is damaged, or has types that cannot be
/// columns.
pub(super) fn read(bytes: &[u8], limits: &Limits) -> Result<Imported, PprofFileError> {
    let outline = Outline::of(bytes).map_err(PprofFileError::Profile)?;
    if outline.frames > MAX_FRAMES {
        return Err(PprofFileError::TooManyFrames {
            frames: outline.frames,
        });
    }
    let profile = Pprof::parse(bytes, outline.kind).map_err(PprofFileError::Profile)?;
    let mut tally = Tally::new(limits);
    let columns = add_columns(&mut tally, &profile)?;
    for sample in &profile.samples {
        if sample.values.iter().all(|value| *value == 0) {
            continue;
        }
        for frame in sample.stack.iter() {
            let id = tally.frame(frame.clone());
            tally.push(id);
        }
        let stack = tally.finish_stack();
        for (&column, &value) in columns.iter().zip(&sample.values) {
            tally.count(column, stack, value);
        }
    }
    let (stacks, mut columns, left_out) = tally.finish();
    drop_repeated_samples(&mut columns);
    Ok(Imported {
        start: (profile.time_ns > 0).then(|| UnixNanos::new(profile.time_ns)),
        duration: duration(profile.duration_ns),
        stacks,
        columns,
        left_out: LeftOut {
            sample_labels: labels_of(&profile),
            ..left_out
        },
    })
}

fn duration(duration_ns: i64) -> Option<Duration> {
    u64::try_from(duration_ns)
        .ok()
        .filter(|length| *length > 0)
        .map(Duration::from_nanos)
}

fn labels_of(profile: &Pprof) -> u64 {
    profile
        .samples
        .iter()
        .fold(profile.numeric_labels, |sum, sample| {
            sum.saturating_add(u64::try_from(sample.labels.len()).unwrap_or(u64::MAX))
        })
}

/// Adds one column per sample type, in their order.
fn add_columns(tally: &mut Tally<'_>, profile: &Pprof) -> Result<Vec<ColumnId>, PprofFileError> {
    let types = &profile.sample_types;
    if types.is_empty() || types.len() > MAX_COLUMNS {
        return Err(PprofFileError::Types { count: types.len() });
    }
    let name = profile_name(profile);
    let mut columns = Vec::with_capacity(types.len());
    for sample in types {
        let period = profile.period_type.as_ref().unwrap_or(sample);
        let profile_type = ProfileType::new(&name, sample.clone(), period.clone())
            .map_err(PprofFileError::ValueType)?;
        if tally.types().any(|other| *other == profile_type) {
            return Err(PprofFileError::TwiceTheSame {
                sample_type: sample.clone(),
            });
        }
        let temporality = type_called(sample.kind()).map_or(Temporality::Delta, |(_, t)| t);
        let is_sampled = profile.period > 0 && profile.period_type.as_ref() == Some(sample);
        let scale = match is_sampled {
            true => Scale::Multiples(profile.period),
            false => Scale::Fixed {
                period: profile.period,
                weight: 1,
            },
        };
        columns.push(tally.column(profile_type, temporality, scale));
    }
    Ok(columns)
}

/// The name that the agent gives to such a profile.
fn profile_name(profile: &Pprof) -> String {
    if profile
        .sample_types
        .iter()
        .any(|t| t.kind() == "contentions")
    {
        return contention_name(profile).to_owned();
    }
    let kinds = profile.sample_types.iter().chain(&profile.period_type);
    let mut known = kinds.filter_map(|kind| type_called(kind.kind()));
    known
        .next()
        .map_or(UNKNOWN_PROFILE.to_owned(), |(known, _)| {
            known.name().to_owned()
        })
}

/// Go's mutex and block profiles have the same types. The first tells where a
/// lock was given back, the second where something was waited for.
fn contention_name(profile: &Pprof) -> &'static str {
    let is_unlock = profile.samples.iter().any(|sample| {
        let leaf = sample.stack.first();
        leaf.is_some_and(|leaf| leaf.function.contains("nlock"))
    });
    if is_unlock { "mutex" } else { "block" }
}

/// Leaves the column `samples` out when it holds the very numbers that the
/// column of CPU is counted in.
fn drop_repeated_samples(columns: &mut Vec<Column>) {
    let counted = columns
        .iter()
        .find(|column| column.profile_type.sample().kind() == "cpu" && column.weight > 1)
        .map(|column| column.values.clone());
    columns.retain(|column| {
        column.profile_type.sample().kind() != "samples" || counted.as_ref() != Some(&column.values)
    });
}
