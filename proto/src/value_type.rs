//! What numbers in a profile count: value types, profile types and how their
//! values behave over time.
//!
//! The text form of a profile type is the five-part one that Pyroscope and
//! Grafana use: `name:sample_type:sample_unit:period_type:period_unit`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest part of a profile type in bytes.
const MAX_PART_BYTES: usize = 128;

/// What a number counts and its unit, for example `(cpu, nanoseconds)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ValueType {
    kind: String,
    unit: String,
}

/// How values of a type behave over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Temporality {
    /// Covers its window; adds over time and over series.
    Delta,
    /// A picture of one moment; kept as value times the seconds it stands for.
    Gauge,
}

/// Names what a series of profiles measures.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProfileType {
    name: String,
    sample: ValueType,
    period: ValueType,
}

/// Why a text is no value type or profile type.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ValueTypeError {
    /// A part is empty, too long, or holds a `:` or a control character.
    #[error("part {part:?} of a profile type must be 1 to {MAX_PART_BYTES} bytes without ':'")]
    BadPart {
        /// The part as given, cut to a printable length.
        part: String,
    },
    /// The text does not have five parts.
    #[error("profile type {text:?} must be name:sample_type:sample_unit:period_type:period_unit")]
    NotFiveParts {
        /// The text as given, cut to a printable length.
        text: String,
    },
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_PART_BYTES).collect()
}

fn part(text: &str) -> Result<String, ValueTypeError> {
    let bad = text.is_empty()
        || text.len() > MAX_PART_BYTES
        || text.chars().any(|c| c == ':' || c.is_control());
    if bad {
        return Err(ValueTypeError::BadPart { part: cut(text) });
    }
    Ok(text.to_owned())
}

impl ValueType {
    /// Returns the value type of `kind` in `unit`.
    ///
    /// # Errors
    ///
    /// [`ValueTypeError::BadPart`] if either is empty, too long or holds a `:`.
    pub fn new(kind: &str, unit: &str) -> Result<Self, ValueTypeError> {
        Ok(Self {
            kind: part(kind)?,
            unit: part(unit)?,
        })
    }

    /// What is counted, for example `cpu`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The unit, for example `nanoseconds`, `bytes` or `count`.
    pub fn unit(&self) -> &str {
        &self.unit
    }
}

impl ProfileType {
    /// Returns the profile type with these parts.
    ///
    /// # Errors
    ///
    /// [`ValueTypeError::BadPart`] if `name` is empty, too long or holds a `:`.
    pub fn new(name: &str, sample: ValueType, period: ValueType) -> Result<Self, ValueTypeError> {
        Ok(Self {
            name: part(name)?,
            sample,
            period,
        })
    }

    /// CPU time: `process_cpu:cpu:nanoseconds:cpu:nanoseconds`.
    pub fn cpu() -> Self {
        Self::known("process_cpu", ["cpu", "nanoseconds", "cpu", "nanoseconds"])
    }

    /// Time, whether on a CPU or not: `wall:wall:nanoseconds:wall:nanoseconds`.
    pub fn wall() -> Self {
        Self::known("wall", ["wall", "nanoseconds", "wall", "nanoseconds"])
    }

    fn known(name: &str, [kind, unit, period_kind, period_unit]: [&str; 4]) -> Self {
        Self {
            name: name.to_owned(),
            sample: ValueType {
                kind: kind.to_owned(),
                unit: unit.to_owned(),
            },
            period: ValueType {
                kind: period_kind.to_owned(),
                unit: period_unit.to_owned(),
            },
        }
    }

    /// The profile's name, for example `process_cpu` or `memory`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What one value counts.
    pub fn sample(&self) -> &ValueType {
        &self.sample
    }

    /// What lies between two samples.
    pub fn period(&self) -> &ValueType {
        &self.period
    }

    /// Whether `text` means this type: its five-part form, its sample type
    /// (`cpu`, `inuse_space`) or `name:sample_type`.
    pub fn is_called(&self, text: &str) -> bool {
        text == self.sample.kind
            || text
                .split_once(':')
                .is_some_and(|(name, kind)| name == self.name && kind == self.sample.kind)
            || text == self.to_string()
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.unit)
    }
}

impl fmt::Display for ProfileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.name, self.sample, self.period)
    }
}

impl FromStr for ProfileType {
    type Err = ValueTypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(':').collect();
        let [name, kind, unit, period_kind, period_unit] = parts[..] else {
            return Err(ValueTypeError::NotFiveParts { text: cut(text) });
        };
        Self::new(
            name,
            ValueType::new(kind, unit)?,
            ValueType::new(period_kind, period_unit)?,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        for text in [
            "process_cpu:cpu:nanoseconds:cpu:nanoseconds",
            "memory:inuse_space:bytes:space:bytes",
            "goroutine:goroutine:count:goroutine:count",
        ] {
            let parsed: ProfileType = text.parse().unwrap();
            assert_eq!(parsed.to_string(), text);
        }
        assert_eq!(
            ProfileType::cpu().to_string(),
            "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
        );
        assert_eq!(
            ProfileType::wall().to_string(),
            "wall:wall:nanoseconds:wall:nanoseconds"
        );
    }

    #[test]
    fn wrong_texts_are_refused_with_the_reason() {
        for text in ["", "cpu", "a:b:c:d", "a:b:c:d:e:f"] {
            assert!(matches!(
                text.parse::<ProfileType>(),
                Err(ValueTypeError::NotFiveParts { .. })
            ));
        }
        for text in ["a:b:c:d:", ":b:c:d:e", "a:b\n:c:d:e"] {
            assert!(matches!(
                text.parse::<ProfileType>(),
                Err(ValueTypeError::BadPart { .. })
            ));
        }
    }

    #[test]
    fn a_type_answers_to_its_short_names() {
        let cpu = ProfileType::cpu();
        for (text, expected) in [
            ("cpu", true),
            ("process_cpu:cpu", true),
            ("process_cpu:cpu:nanoseconds:cpu:nanoseconds", true),
            ("samples", false),
            ("memory:cpu", false),
        ] {
            assert_eq!(cpu.is_called(text), expected, "{text}");
        }
    }
}
