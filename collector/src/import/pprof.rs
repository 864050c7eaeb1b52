//! pprof files: `profile.proto`, through the checked view of [`proto::pprof`].
//!
//! Sample types become columns as the agent makes them of Go's endpoint: CPU is
//! counted in samples that are worth one period each where that is exact, and
//! what lives at one moment is a gauge. Labels of samples are dropped and
//! counted. All frames that have a name are of one kind of code, the one that
//! most source files of the profile are written in.

use std::collections::HashMap;
use std::time::Duration;

use proto::limits::MAX_COLUMNS;
use proto::pprof::{MAX_PROFILE_BYTES, PprofError, PprofLimits, PprofTable};
use proto::profile::Column;
use proto::stack::FrameKind;
use proto::value_type::{ProfileType, Temporality, ValueType, ValueTypeError};
use proto::window::UnixNanos;

use super::known::{kind_of_file, type_called};
use super::tally::{ColumnId, FrameId, Scale, Tally};
use super::{Dense, Limits};

/// The profile's name when no sample type is a known one.
const UNKNOWN_PROFILE: &str = "pprof";

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
fn language_of(files: &mut dyn Iterator<Item = &str>) -> FrameKind {
    let mut counts: HashMap<FrameKind, u64> = HashMap::new();
    for kind in files.filter_map(kind_of_file) {
        let count = counts.entry(kind).or_default();
        *count = count.saturating_add(1);
    }
    let most = counts
        .into_iter()
        .max_by_key(|(kind, count)| (*count, *kind));
    most.map_or(FrameKind::Native, |(kind, _)| kind)
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
    let profile = PprofTable::parse(bytes, sizes, language_of).map_err(PprofFileError::Profile)?;
    let mut tally = Tally::new(limits);
    let columns = add_columns(&mut tally, &profile)?;
    // What each location is in the tally, once a sample has named it.
    let mut known: Vec<Option<Box<[FrameId]>>> = vec![None; profile.locations.len()];
    for sample in &profile.samples {
        if sample.values.iter().all(|value| *value == 0) {
            continue;
        }
        for &place in &sample.locations {
            if let Some(slot) = known.get_mut(place) {
                let frames = slot.get_or_insert_with(|| {
                    let frames = profile.frames(place).iter();
                    frames.map(|frame| tally.frame(frame.clone())).collect()
                });
                for &frame in &*frames {
                    tally.push(frame);
                }
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
    dense.left_out.sample_labels = labels_of(&profile);
    Ok(dense)
}

fn duration(duration_ns: i64) -> Option<Duration> {
    u64::try_from(duration_ns)
        .ok()
        .filter(|length| *length > 0)
        .map(Duration::from_nanos)
}

fn labels_of(profile: &PprofTable) -> u64 {
    profile
        .samples
        .iter()
        .fold(profile.numeric_labels, |sum, sample| {
            sum.saturating_add(u64::try_from(sample.labels.len()).unwrap_or(u64::MAX))
        })
}

/// Adds one column per sample type, in their order.
fn add_columns(
    tally: &mut Tally<'_>,
    profile: &PprofTable,
) -> Result<Vec<ColumnId>, PprofFileError> {
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
fn profile_name(profile: &PprofTable) -> String {
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
fn contention_name(profile: &PprofTable) -> &'static str {
    let is_unlock = profile.samples.iter().any(|sample| {
        let leaf = sample.locations.first();
        let leaf = leaf.and_then(|place| profile.frames(*place).first());
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
