//! The number that a finding is about, where it is about none of a function.

use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Resident memory of a process, in bytes.
    MemoryBytes,
    /// Threads of a process.
    Threads,
    /// CPU time of a pod in cores; before: of the median pod of its version.
    SiblingCores,
    /// CPU time in cores that samples show; before: that the kernel counted.
    UnseenCores,
    /// None, of a pod that is not heard; before: its CPU time in cores when it was.
    LastCores,
    /// A part of a service's CPU time, 0 to 1.
    CpuShare,
}

/// A number now and before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// What it is.
    pub quantity: Quantity,
    /// What it is now.
    pub now: f64,
    /// What it was before, or is elsewhere; see [`Quantity`].
    pub before: f64,
    /// How much it grows an hour, where it grows.
    pub per_hour: Option<f64>,
    /// When it began, as far as that was looked at, nanoseconds since 1970.
    pub since_ns: i64,
    /// The pod that it is of, or `""`.
    pub pod: String,
    /// How many pods it is compared with, itself included; 0 where it is of a service.
    pub of: u32,
}
