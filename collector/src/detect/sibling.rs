//! A pod that takes much more CPU time than the others of its version.
//!
//! Asked of two rows of ten minutes, one after the other. A service whose pods were
//! uneven on the day before (one leads the others, say) is uneven by nature: nothing is
//! told of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::past::{Past, PodPast};
use super::{Finding, FindingKind, Level, Measure, Quantity};

/// A deviation of a normal distribution by its median absolute deviation.
const NORMAL: f64 = 1.482_6;
/// The part of the median that pods differ by at least.
const LEAST_SPREAD: f64 = 0.15;
/// Hours of the day before, and the part of them from which a service is uneven.
const DAY: usize = 24;
const UNEVEN: f64 = 0.25;
/// Least part of ten minutes in which a pod was seen.
const LEAST_SEEN: Duration = Duration::from_secs(300);

/// When a pod is not like its siblings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SiblingSettings {
    /// Fewest pods of a version.
    pub min_pods: usize,
    /// Least distance from the median, in deviations.
    pub deviations: f64,
    /// Least distance from the median, in cores.
    pub cores: f64,
    /// The part of both at which an alert that began goes on.
    pub leave_share: f64,
    /// Rows of ten minutes.
    pub rows: usize,
    /// Least time since its start.
    pub uptime: Duration,
}

/// The pods of `past` that are not like their siblings, by their places.
pub fn judge(past: &Past, settings: &SiblingSettings) -> Vec<(usize, Finding)> {
    let mut versions: BTreeMap<&str, Vec<(usize, &PodPast)>> = BTreeMap::new();
    for (place, pod) in past.pods.iter().enumerate() {
        let started = proto::window::UnixNanos::new(pod.now.started_ns);
        let is_old = past.step.end().since(started) >= settings.uptime;
        if is_old && u128::from(pod.now.seen_ns) >= LEAST_SEEN.as_nanos() {
            let siblings = versions.entry(&pod.now.version).or_default();
            siblings.push((place, pod));
        }
    }
    let mut found = Vec::new();
    for siblings in versions.values() {
        if siblings.len() < settings.min_pods {
            continue;
        }
        let rows: Vec<Vec<Option<f64>>> = (0..settings.rows)
            .map(|ago| distances(siblings, ago, settings, |pod| &pod.tens))
            .collect();
        let shown = |pod: usize| -> Option<f64> {
            let mut of_rows = rows.iter().map(|row| row.get(pod).copied().flatten());
            of_rows.try_fold(f64::INFINITY, |least: f64, row| Some(least.min(row?)))
        };
        let mut is_uneven = None;
        for (index, (place, pod)) in siblings.iter().enumerate() {
            let Some(distance) = shown(index).filter(|d| *d >= settings.leave_share) else {
                continue;
            };
            if *is_uneven.get_or_insert_with(|| was_uneven(siblings, settings)) {
                break;
            }
            let level = match distance >= 1.0 {
                true => Level::Enter,
                false => Level::Hold,
            };
            found.push((*place, finding(past, siblings, pod, level, settings)));
        }
    }
    found
}

/// How far the cores of each pod are above what makes them an outlier, 1 meaning just
/// so, `ago` slots before the last; `None` where a pod or most of its siblings were not
/// seen.
fn distances(
    siblings: &[(usize, &PodPast)],
    ago: usize,
    settings: &SiblingSettings,
    slots: impl Fn(&PodPast) -> &Vec<Option<super::past::Held>>,
) -> Vec<Option<f64>> {
    let cores_of = |pod: &PodPast| {
        let slots = slots(pod);
        let held = slots.get(slots.len().checked_sub(ago + 1)?)?.as_ref()?;
        Some(held.cores)
    };
    let cores: Vec<Option<f64>> = siblings.iter().map(|(_, pod)| cores_of(pod)).collect();
    let known: Vec<f64> = cores.iter().copied().flatten().collect();
    if known.len() < settings.min_pods {
        return vec![None; siblings.len()];
    }
    let middle = median(known.clone());
    let spread = median(known.iter().map(|cores| (cores - middle).abs()).collect());
    let deviation = (NORMAL * spread).max(LEAST_SPREAD * middle);
    let least = (settings.deviations * deviation).max(settings.cores);
    cores
        .into_iter()
        .map(|cores| Some((cores? - middle) / least))
        .collect()
}

/// Whether pods stood out in a part of the hours of the day before.
fn was_uneven(siblings: &[(usize, &PodPast)], settings: &SiblingSettings) -> bool {
    let (mut judged, mut uneven) = (0.0, 0.0);
    // The last hour may show what is told now.
    for ago in 1..=DAY {
        let hour = distances(siblings, ago, settings, |pod| &pod.hours);
        if hour.iter().any(Option::is_some) {
            judged += 1.0;
            let stands_out = hour.into_iter().flatten().any(|distance| distance >= 1.0);
            uneven += if stands_out { 1.0 } else { 0.0 };
        }
    }
    judged > 0.0 && uneven / judged >= UNEVEN
}

fn finding(
    past: &Past,
    siblings: &[(usize, &PodPast)],
    pod: &PodPast,
    level: Level,
    settings: &SiblingSettings,
) -> Finding {
    let others = siblings.iter().map(|(_, pod)| pod.now.cores()).collect();
    let rows = u32::try_from(settings.rows.saturating_sub(1)).unwrap_or(0);
    let before = past.step.duration() * rows;
    let measure = Measure {
        quantity: Quantity::SiblingCores,
        now: pod.now.cores(),
        before: median(others),
        per_hour: None,
        since_ns: past.step.start().saturating_sub(before).get(),
        pod: pod.now.pod.clone(),
        of: u32::try_from(siblings.len()).unwrap_or(u32::MAX),
    };
    let name = match pod.now.pod.as_str() {
        "" => format!("series {:016x}", pod.now.series),
        pod => pod.to_owned(),
    };
    let mut finding = Finding::of_measure(
        FindingKind::SiblingOutlier,
        level,
        past.step,
        &[name],
        measure,
    );
    finding.cores = pod.now.cores();
    finding
}

/// The upper median; 0 of nothing.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests;
