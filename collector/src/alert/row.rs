//! What alerts take from feature rows and findings: who sent them and what
//! they are about.

use xxhash_rust::xxh3::Xxh3;

use super::Service;
use crate::detect::FindingKind;
use crate::feature::SeriesRow;

/// Names the instance that sent `row`: its pod, so that a new version of a pod
/// continues the old one, or its series where there are no pods.
pub(super) fn instance(row: &SeriesRow) -> String {
    instance_of(&row.pod, row.series)
}

/// As [`instance`], of a series in `pod`.
pub(crate) fn instance_of(pod: &str, series: u64) -> String {
    match pod {
        "" => format!("series {series:016x}"),
        pod => format!("pod {pod}"),
    }
}

/// Names the alert about `functions` of a service: 16 hexadecimal digits; pods are no
/// part of it. Never changes: alerts of different releases must meet.
pub(super) fn identity(service: &Service, kind: FindingKind, functions: &[String]) -> String {
    let mut hash = Xxh3::new();
    let (tenant, namespace, name) = service;
    let of = [tenant, kind.name(), namespace, name];
    for text in of.into_iter().chain(functions.iter().map(String::as_str)) {
        hash.update(text.as_bytes());
        hash.update(&[0xff]);
    }
    format!("{:016x}", hash.digest())
}
