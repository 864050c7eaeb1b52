//! Parts of windows, from their wire form and to it.

use super::{DictionaryError, WireWindowError};
use crate::labels::LabelSet;
use crate::pb::tepui as pb;
use crate::profile::{Column, Facts};
use crate::value_type::{ProfileType, Temporality, ValueType};
use crate::window::UnixNanos;

/// The wire form of a label set.
pub fn label_set_to_wire(labels: &LabelSet) -> pb::LabelSet {
    pb::LabelSet {
        labels: labels
            .iter()
            .map(|(name, value)| pb::Label {
                name: name.to_owned(),
                value: value.to_owned(),
            })
            .collect(),
    }
}

fn value_type_to_wire(value_type: &ValueType) -> pb::ValueType {
    pb::ValueType {
        kind: value_type.kind().to_owned(),
        unit: value_type.unit().to_owned(),
    }
}

pub(super) fn column_to_wire(column: &Column) -> pb::Column {
    pb::Column {
        name: column.profile_type.name().to_owned(),
        sample_type: Some(value_type_to_wire(column.profile_type.sample())),
        period_type: Some(value_type_to_wire(column.profile_type.period())),
        period: column.period,
        temporality: match column.temporality {
            Temporality::Delta => pb::Temporality::Delta,
            Temporality::Gauge => pb::Temporality::Gauge,
        }
        .into(),
        weight: column.weight,
        values: column.values.clone(),
    }
}

fn value_type_from_wire(value_type: Option<pb::ValueType>) -> Result<ValueType, WireWindowError> {
    let value_type = value_type.unwrap_or_default();
    ValueType::new(&value_type.kind, &value_type.unit).map_err(WireWindowError::ValueType)
}

pub(super) fn column_from_wire(column: pb::Column) -> Result<Column, WireWindowError> {
    let temporality = match pb::Temporality::try_from(column.temporality) {
        Ok(pb::Temporality::Delta) => Temporality::Delta,
        Ok(pb::Temporality::Gauge) => Temporality::Gauge,
        Ok(pb::Temporality::Unspecified) | Err(_) => {
            return Err(WireWindowError::Dictionary(DictionaryError::UnknownEnum {
                what: "temporality",
                number: column.temporality,
            }));
        }
    };
    let sample = value_type_from_wire(column.sample_type)?;
    let period = value_type_from_wire(column.period_type)?;
    Ok(Column {
        profile_type: ProfileType::new(&column.name, sample, period)
            .map_err(WireWindowError::ValueType)?,
        temporality,
        period: column.period,
        weight: column.weight,
        values: column.values,
    })
}

pub(super) fn facts_to_wire(facts: &Facts) -> pb::Facts {
    pb::Facts {
        cpu_nanos: facts.cpu_ns,
        rss_bytes: facts.rss_bytes,
        threads: facts.threads_count,
        processes: facts.processes_count,
        target_start_unix_nanos: facts.target_start.get(),
        cpu_limit_millicores: facts.cpu_limit_millicores,
        throttled_nanos: facts.throttled_ns,
        coverage_permille: facts.coverage_permille,
        lost_samples: facts.lost_samples,
        dropped_labels: facts.dropped_labels,
        observed_nanos: facts.observed_ns,
    }
}

pub(super) fn facts_from_wire(facts: &pb::Facts) -> Facts {
    Facts {
        cpu_ns: facts.cpu_nanos,
        rss_bytes: facts.rss_bytes,
        threads_count: facts.threads,
        processes_count: facts.processes,
        target_start: UnixNanos::new(facts.target_start_unix_nanos),
        cpu_limit_millicores: facts.cpu_limit_millicores,
        throttled_ns: facts.throttled_nanos,
        coverage_permille: facts.coverage_permille,
        lost_samples: facts.lost_samples,
        dropped_labels: facts.dropped_labels,
        observed_ns: facts.observed_nanos,
    }
}
