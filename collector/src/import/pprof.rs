//! pprof files: `profile.proto`, through the checked view of [`proto::pprof`].
//! What a location stands for is looked up once, however many samples name it.
//!
//! Sample types become columns as the agent makes them of Go's endpoint: CPU is
//! counted in samples that are worth one period each where that is exact, and
//! what lives at one moment is a gauge. Labels of samples are dropped and
//! counted. All frames that have a name are of one kind of code, the one that
//! most source files of the profile are written in.

use std::time::Duration;

use proto::limits::MAX_COLUMNS;
use proto::pprof::{MAX_PROFILE_BYTES, PprofError, PprofFrame, PprofLimits, PprofTable, unpack};
use proto::profile::Column;
use proto::stack::{FrameKind, FrameRef};
use proto::value_type::{ProfileType, Temporality, ValueType, ValueTypeError};
use proto::window::UnixNanos;

use super::known::{kind_of_file, type_called};
use super::tally::{ColumnId, Scale, Tally};
use super::words::{FrameId, FunctionId};
use super::{Dense, Limits};

/// The profile's name when no sample type is a known one.
const UNKNOWN_PROFILE: &str = "pprof";
/// What functions that give back a lock have in their names.
const UNLOCK: &str = "nlock";

/// Why a file is no usable pprof profile.
#[derive(Debug, thiserror::Error)]
pub enum PprofFileError {
    /// It is no profile, is damaged, or is too large.
    #[error("the profile is damaged or is none; write it anew")]
    Profile(#[source] PprofError),
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

/// The kind of code that most source files are written in.
fn language_of<'a>(files: impl Iterator<Item = &'a str>) -> FrameKind {
    let mut counts = FrameKind::ALL.map(|(kind, _)| (0_u64, kind));
    for kind in files.filter_map(kind_of_file) {
        if let Some((count, _)) = counts.iter_mut().find(|(_, other)| *other == kind) {
            *count = count.saturating_add(1);
        }
    }
    let most = counts.into_iter().max();
    most.map_or(FrameKind::Native, |(count, kind)| match count {
        0 => FrameKind::Native,
        _ => kind,
    })
}

/// Reads a profile, gzipped or not.
///
/// # Errors
///
/// [`PprofFileError`] if it is none, is damaged, or has types that cannot be
/// columns.
pub(super) fn read(bytes: &[u8], limits: &Limits) -> Result<Dense, PprofFileError> {
    let sizes = PprofLimits {
        unpacked_bytes: limits.file_bytes.min(MAX_PROFILE_BYTES),
        decoded_bytes: limits.decoded_bytes,
    };
    let raw = unpack(bytes, sizes).map_err(PprofFileError::Profile)?;
    let profile = PprofTable::parse(&raw, sizes).map_err(PprofFileError::Profile)?;
    let mut tally = Tally::new(limits);
    let columns = add_columns(&mut tally, &profile)?;
    let mut known = Known::new(&profile);
    tally.expect(
        profile.function_count(),
        profile.location_count(),
        profile.sample_count(),
    );
    let mut labels = 0_u64;
    let mut samples = profile.samples();
    while let Some(sample) = samples.next().map_err(PprofFileError::Profile)? {
        labels = labels.saturating_add(sample.labels.saturating_add(sample.numeric_labels));
        if sample.values.iter().all(|value| *value == 0) {
            continue;
        }
        for &location in &sample.locations {
            let frames = known.frames(location, &mut tally);
            for &frame in frames.map_err(PprofFileError::Profile)? {
                tally.push(frame);
            }
            // A short list of long locations must not cost as much as they say.
            if tally.is_cut() {
                break;
            }
        }
        let stack = tally.finish_stack();
        for (&column, &value) in columns.iter().zip(&sample.values) {
            tally.count(column, stack, value);
        }
    }
    let mut dense = tally.finish_dense();
    drop_repeated_samples(&mut dense.columns);
    dense.start = (profile.time_ns > 0).then(|| UnixNanos::new(profile.time_ns));
    dense.duration = duration(profile.duration_ns);
    dense.left_out.sample_labels = labels;
    Ok(dense)
}

/// What functions and locations of a profile are in a tally, once a sample has named
/// them.
struct Known<'p, 'a> {
    profile: &'p PprofTable<'a>,
    kind: FrameKind,
    /// `None` within for what there was no room for.
    functions: Vec<Option<Option<FunctionId>>>,
    /// Of each location: its frames among `frames`; an empty span when it was not
    /// named yet.
    locations: Vec<(usize, usize)>,
    frames: Vec<FrameId>,
}

impl<'p, 'a> Known<'p, 'a> {
    fn new(profile: &'p PprofTable<'a>) -> Self {
        Self {
            profile,
            kind: language_of(profile.files()),
            functions: vec![None; profile.function_count()],
            locations: vec![(0, 0); profile.location_count()],
            frames: Vec::new(),
        }
    }

    /// The frames of a location, innermost first.
    fn frames(&mut self, location: usize, tally: &mut Tally<'_>) -> Result<&[FrameId], PprofError> {
        let (mut start, mut end) = self.locations.get(location).copied().unwrap_or_default();
        if start == end {
            start = self.frames.len();
            let profile = self.profile;
            for frame in profile.frames(location) {
                let frame = self.frame(&frame?, tally)?;
                self.frames.push(frame);
            }
            end = self.frames.len();
            if let Some(place) = self.locations.get_mut(location) {
                *place = (start, end);
            }
        }
        Ok(self.frames.get(start..end).unwrap_or_default())
    }

    fn frame(
        &mut self,
        frame: &PprofFrame<'a>,
        tally: &mut Tally<'_>,
    ) -> Result<FrameId, PprofError> {
        match frame {
            PprofFrame::Line { function, line } => {
                let function = self.function(*function, tally)?;
                Ok(function.map_or(FrameId::NONE, |function| tally.frame_of(function, *line, 0)))
            }
            PprofFrame::Address {
                name,
                build_id,
                file_offset,
            } => Ok(tally.frame(FrameRef {
                build_id,
                file_offset: *file_offset,
                ..FrameRef::named(FrameKind::Unsymbolized, name)
            })),
        }
    }

    fn function(
        &mut self,
        number: usize,
        tally: &mut Tally<'_>,
    ) -> Result<Option<FunctionId>, PprofError> {
        if let Some(Some(known)) = self.functions.get(number) {
            return Ok(*known);
        }
        let function = self.profile.function(number)?;
        let texts = [function.name, function.system_name, function.file, ""];
        let id = tally.function(self.kind, function.start_line, texts);
        if let Some(place) = self.functions.get_mut(number) {
            *place = Some(id);
        }
        Ok(id)
    }
}

fn duration(duration_ns: i64) -> Option<Duration> {
    u64::try_from(duration_ns)
        .ok()
        .filter(|length| *length > 0)
        .map(Duration::from_nanos)
}

/// Adds one column per sample type, in their order.
fn add_columns(
    tally: &mut Tally<'_>,
    profile: &PprofTable<'_>,
) -> Result<Vec<ColumnId>, PprofFileError> {
    let types = &profile.sample_types;
    if types.is_empty() || types.len() > MAX_COLUMNS {
        return Err(PprofFileError::Types { count: types.len() });
    }
    let name = profile_name(profile).map_err(PprofFileError::Profile)?;
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
fn profile_name(profile: &PprofTable<'_>) -> Result<String, PprofError> {
    let mut kinds = profile.sample_types.iter();
    if kinds.any(|t| t.kind() == "contentions") {
        return contention_name(profile).map(str::to_owned);
    }
    let kinds = profile.sample_types.iter().chain(&profile.period_type);
    let mut known = kinds.filter_map(|kind| type_called(kind.kind()));
    let known = known.next().map(|(known, _)| known.name().to_owned());
    Ok(known.unwrap_or_else(|| UNKNOWN_PROFILE.to_owned()))
}

/// Go's mutex and block profiles have the same types. The first tells where a
/// lock was given back, the second where something was waited for.
fn contention_name(profile: &PprofTable<'_>) -> Result<&'static str, PprofError> {
    let mut samples = profile.samples();
    let mut is_asked = vec![false; profile.location_count()];
    while let Some(sample) = samples.next()? {
        let Some(&leaf) = sample.locations.first() else {
            continue;
        };
        // Once for each location, however many samples have it.
        let asked = is_asked.get_mut(leaf);
        if asked.is_none_or(|asked| std::mem::replace(asked, true)) {
            continue;
        }
        let Some(leaf) = profile.frames(leaf).next() else {
            continue;
        };
        let is_unlock = match leaf? {
            PprofFrame::Line { function, .. } => profile.function(function)?.name.contains(UNLOCK),
            PprofFrame::Address { name, .. } => name.contains(UNLOCK),
        };
        if is_unlock {
            return Ok("mutex");
        }
    }
    Ok("block")
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
