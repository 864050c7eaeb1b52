//! The sentence and the headline of an alert about a number.

use proto::window::UnixNanos;

use super::AlertMeasure;
use super::machine::Record;
use crate::detect::{FindingKind, Measure, Quantity};
use crate::time_range::rfc3339;

/// Pods that a sentence names.
const PODS: usize = 5;

pub(super) fn view(measure: &Measure) -> AlertMeasure {
    AlertMeasure {
        quantity: measure.quantity,
        now: measure.now,
        before: measure.before,
        per_hour: measure.per_hour,
        pod: measure.pod.clone(),
    }
}

/// The headline.
pub(super) fn title(record: &Record, measure: &Measure) -> String {
    let service = &record.service;
    let now = amount(measure.quantity, measure.now);
    let of = pod(measure);
    match measure.quantity {
        Quantity::MemoryBytes => format!("{service} leaks memory: {now} in {of}, and growing"),
        Quantity::Threads => format!("{service} leaks threads: {now} in {of}, and growing"),
        Quantity::SiblingCores => format!("{of} of {service} is not like its siblings: {now}"),
        Quantity::UnseenCores => format!("{of} of {service} is sampled no more"),
        Quantity::LastCores => format!("{of} of {service} is silent"),
        Quantity::CpuShare => {
            format!("{service} spends {now} of its CPU time on collecting garbage")
        }
    }
}

/// What a person reads first.
pub(super) fn summary(record: &Record, measure: &Measure, version: &str) -> String {
    let quantity = measure.quantity;
    let amount = |value: f64| amount(quantity, value);
    let (now, before) = (amount(measure.now), amount(measure.before));
    let of = pod(measure);
    let since = rfc3339(UnixNanos::new(record.onset_ns));
    match quantity {
        Quantity::MemoryBytes | Quantity::Threads => {
            let what = match quantity {
                Quantity::Threads => "The number of threads of",
                _ => "Memory of",
            };
            let per_hour = measure.per_hour.unwrap_or(0.0);
            let known = match record.kind == FindingKind::MemoryLeak.name() {
                true => " A cache that fills as steadily looks the same.",
                false => "",
            };
            format!(
                "{what} {of} grew from {before} to {now}, {} an hour{}, and does not slow \
                 down.{known} At least since {since}{version}.{}",
                amount(per_hour),
                doubles(measure),
                shown_by(record, measure),
            )
        }
        Quantity::SiblingCores => format!(
            "{of} uses {now}, the median of the {} pods of its version {before}. At least \
             since {since}{version}.",
            measure.of,
        ),
        Quantity::UnseenCores => format!(
            "{of} used {before} by the kernel's count, of which samples show {now}: sampling \
             does not work there. At least since {since}{version}."
        ),
        Quantity::LastCores => format!(
            "The agent of {of} is connected, and nothing has come of the pod since {since}; it \
             used {before} until then. Its process has ended, or sampling does not work.",
        ),
        Quantity::CpuShare => {
            let function = record.evidence.top_leaves.first();
            let most = function.map_or_else(String::new, |(name, _)| {
                format!(", most of it below {name}")
            });
            let usual = match measure.before > 0.0 {
                true => format!("The day before it was {before}."),
                false => "Nothing is known of the day before.".to_owned(),
            };
            format!(
                "Collecting garbage takes {now} of the CPU time, {:.2} cores{most}. {usual} At \
                 least since {since}{version}. What allocates most is in a profile of type \
                 alloc_space, if there is one.",
                record.evidence.cores,
            )
        }
    }
}

/// When what grows is twice as much.
fn doubles(measure: &Measure) -> String {
    let hours = measure.now / measure.per_hour.unwrap_or(0.0);
    match hours.is_finite() && (0.0..10_000.0).contains(&hours) {
        true => format!(" (twice as much in {hours:.0} h)"),
        false => String::new(),
    }
}

fn pod(measure: &Measure) -> String {
    match measure.pod.as_str() {
        "" => "a process".to_owned(),
        pod => pod.to_owned(),
    }
}

/// How many pods show it, and which.
fn shown_by(record: &Record, measure: &Measure) -> String {
    let pods = &record.evidence.pods;
    if pods.is_empty() {
        return String::new();
    }
    let named = pods.iter().take(PODS).map(String::as_str);
    let named = named.collect::<Vec<_>>().join(", ");
    let more = match pods.len().saturating_sub(PODS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(" In {} of {} pods: {named}{more}.", pods.len(), measure.of)
}

/// `value` as a person reads it.
pub(super) fn amount(quantity: Quantity, value: f64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    match quantity {
        Quantity::Threads => format!("{value:.0} threads"),
        Quantity::CpuShare => format!("{:.0} %", value * 100.0),
        Quantity::SiblingCores | Quantity::UnseenCores | Quantity::LastCores => {
            format!("{value:.2} cores")
        }
        Quantity::MemoryBytes => {
            let mut shown = value;
            let mut unit = "B";
            for next in UNITS {
                if shown < 1_024.0 {
                    break;
                }
                (shown, unit) = (shown / 1_024.0, next);
            }
            match unit {
                "B" => format!("{shown:.0} B"),
                unit => format!("{shown:.1} {unit}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_in_the_unit_that_people_use() {
        for (quantity, value, expected) in [
            (Quantity::MemoryBytes, 512.0, "512 B"),
            (Quantity::MemoryBytes, 1_536.0, "1.5 KiB"),
            (Quantity::MemoryBytes, 640.0 * 1_048_576.0, "640.0 MiB"),
            (Quantity::Threads, 1_200.4, "1200 threads"),
            (Quantity::CpuShare, 0.337, "34 %"),
            (Quantity::LastCores, 0.5, "0.50 cores"),
        ] {
            assert_eq!(amount(quantity, value), expected);
        }
    }
}
