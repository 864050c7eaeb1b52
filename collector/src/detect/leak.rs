//! Memory or threads that a process takes and never gives back; see [`growth`].
//!
//! One alert for a service and kind: it names the pods that show it, and the numbers of
//! the one that grows fastest.

use proto::window::UnixNanos;

use super::growth::{self, Growth, GrowthSettings, Pace};
use super::past::{Held, Past, PodPast};
use super::{Finding, FindingKind, Level, Measure, Quantity};

/// When memory or threads leak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeakSettings {
    /// Of resident memory, in bytes.
    pub memory: GrowthSettings,
    /// Of threads.
    pub threads: GrowthSettings,
}

/// What leaks in the series of `past`, by their places.
pub fn judge(past: &Past, settings: &LeakSettings) -> Vec<(usize, Finding)> {
    let memory = |held: &Held| held.rss_bytes;
    let threads = |held: &Held| held.threads;
    let mut found = of_kind(
        past,
        (FindingKind::MemoryLeak, Quantity::MemoryBytes),
        &settings.memory,
        memory,
    );
    found.extend(of_kind(
        past,
        (FindingKind::ThreadLeak, Quantity::Threads),
        &settings.threads,
        threads,
    ));
    found
}

fn of_kind(
    past: &Past,
    (kind, quantity): (FindingKind, Quantity),
    settings: &GrowthSettings,
    amount: impl Fn(&Held) -> Option<f64>,
) -> Vec<(usize, Finding)> {
    let slots = |slots: &[Option<Held>]| -> Vec<Option<f64>> {
        slots.iter().map(|held| amount(held.as_ref()?)).collect()
    };
    let growing: Vec<(usize, &PodPast, Growth)> = past
        .pods
        .iter()
        .enumerate()
        .filter_map(|(place, pod)| {
            let (hours, tens) = (slots(&pod.hours), slots(&pod.tens));
            let grown = growth::judge(&hours, &tens, past.until_h, settings);
            Some((place, pod, grown?))
        })
        .collect();
    let is_sure = |growth: &Growth| growth.pace != Pace::GoesOn;
    let worst = growing.iter().max_by(|(_, _, a), (_, _, b)| {
        let by_pace = is_sure(a).cmp(&is_sure(b));
        by_pace.then_with(|| a.per_hour.total_cmp(&b.per_hour))
    });
    let Some((_, pod, worst)) = worst else {
        return Vec::new();
    };
    let measure = Measure {
        quantity,
        now: worst.now,
        before: worst.before,
        per_hour: Some(worst.per_hour),
        since_ns: since(past, worst).get(),
        pod: pod.now.pod.clone(),
        of: u32::try_from(past.pods.len()).unwrap_or(u32::MAX),
    };
    growing
        .iter()
        .map(|(place, _, growth)| {
            let level = match is_sure(growth) {
                true => Level::Enter,
                false => Level::Hold,
            };
            let finding = Finding::of_measure(kind, level, past.step, &[], measure.clone());
            (*place, finding)
        })
        .collect()
}

/// Since when it grows, as far as it was looked at.
fn since(past: &Past, growth: &Growth) -> UnixNanos {
    let length = std::time::Duration::from_secs_f64(growth.hours * 3_600.0);
    past.step.end().saturating_sub(length)
}

#[cfg(test)]
mod tests;
