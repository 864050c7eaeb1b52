//! What the series of a service took before a row: what detectors of pods judge.

use proto::window::Window;
use rustc_hash::FxHashMap;

use crate::feature::coarse::Grain;
use crate::feature::pods::{PodTotals, PodsRow};
use crate::feature::real;

/// Whole hours before the row that are looked at, and rows of ten minutes up to it.
pub const HOURS: usize = 192;
/// As [`HOURS`], of ten minutes: four hours.
pub const TENS: usize = 24;

/// A row and what came before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Past {
    /// The step of the row.
    pub step: Window,
    /// End of the last hour that was over then, in hours since 1970.
    pub until_h: u64,
    /// The series of the row, as it lists them.
    pub pods: Vec<PodPast>,
}

/// One series and what came before. Slots go from the oldest to the latest; one that is
/// `None` was not seen, or was seen before the target was started again.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPast {
    /// What the row shows.
    pub now: PodTotals,
    /// Rows of ten minutes; the last is the row.
    pub tens: Vec<Option<Held>>,
    /// Hours that were over when the row was.
    pub hours: Vec<Option<Held>>,
}

/// What a series took and held over one slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Held {
    /// CPU time in cores.
    pub cores: f64,
    /// The least resident memory, if it is known.
    pub rss_bytes: Option<f64>,
    /// The least number of threads, if it is known.
    pub threads: Option<f64>,
}

impl Held {
    fn of(totals: &PodTotals) -> Self {
        let known = |value: u64| (value > 0).then(|| real(value));
        Self {
            cores: totals.cores(),
            rss_bytes: known(totals.rss_bytes),
            threads: known(u64::from(totals.threads_count)),
        }
    }
}

impl Past {
    /// `row`, with rows of ten minutes and of hours before it in any order. Those that
    /// are too old or not over yet are left out.
    pub fn new(row: &PodsRow, tens: &[PodsRow], hours: &[PodsRow]) -> Self {
        let mut place: FxHashMap<u64, usize> = FxHashMap::default();
        let mut pods: Vec<PodPast> = Vec::new();
        for now in &row.pods {
            place.insert(now.series, pods.len());
            pods.push(PodPast {
                now: now.clone(),
                tens: vec![None; TENS],
                hours: vec![None; HOURS],
            });
        }
        let end_s = second(row.step.end().get());
        let mut past = Self {
            step: row.step,
            until_h: end_s / Grain::Hour.length_s(),
            pods,
        };
        past.fill(tens, end_s, Grain::TenMinutes, &place, |pod| &mut pod.tens);
        let row = std::slice::from_ref(row);
        past.fill(row, end_s, Grain::TenMinutes, &place, |pod| &mut pod.tens);
        let whole_s = Grain::Hour.floor_s(end_s);
        past.fill(hours, whole_s, Grain::Hour, &place, |pod| &mut pod.hours);
        past
    }

    fn fill(
        &mut self,
        rows: &[PodsRow],
        end_s: u64,
        grain: Grain,
        place: &FxHashMap<u64, usize>,
        slots: impl Fn(&mut PodPast) -> &mut Vec<Option<Held>>,
    ) {
        for row in rows {
            let Some(ago_s) = end_s.checked_sub(second(row.step.end().get())) else {
                continue;
            };
            let Ok(ago) = usize::try_from(ago_s / grain.length_s()) else {
                continue;
            };
            for totals in &row.pods {
                let known = place.get(&totals.series);
                let Some(pod) = known.and_then(|place| self.pods.get_mut(*place)) else {
                    continue;
                };
                if totals.started_ns != pod.now.started_ns {
                    continue;
                }
                let slots = slots(pod);
                let slot = slots.len().checked_sub(ago + 1);
                if let Some(slot) = slot.and_then(|slot| slots.get_mut(slot)) {
                    *slot = Some(Held::of(totals));
                }
            }
        }
    }
}

fn second(nanos: i64) -> u64 {
    u64::try_from(nanos / 1_000_000_000).unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests {
    use proto::window::UnixNanos;

    use super::*;

    /// The row of `length_s` from `start_s` on.
    pub(crate) fn row(start_s: i64, length_s: u64, pods: Vec<PodTotals>) -> PodsRow {
        let start = UnixNanos::new(start_s * 1_000_000_000);
        PodsRow {
            step: Window::from_start(start, length_s * 1_000_000_000).unwrap(),
            pods,
        }
    }

    /// A pod that uses `cores`, in a row of `length_s`.
    pub(crate) fn pod(series: u64, length_s: u64, millicores: u64) -> PodTotals {
        PodTotals {
            series,
            pod: format!("p-{series}"),
            version: "1".to_owned(),
            started_ns: 5,
            seen_ns: length_s * 1_000_000_000,
            cpu_ns: millicores * length_s * 1_000_000,
            sampled_ns: millicores * length_s * 1_000_000,
            rss_bytes: 100 << 20,
            threads_count: 10,
        }
    }

    #[test]
    fn slots_hold_what_was_before_and_nothing_from_before_a_restart() {
        let now = row(36_600, 600, vec![pod(1, 600, 500)]);
        let mut restarted = pod(1, 600, 900);
        restarted.started_ns = 4;
        let tens = [
            row(36_000, 600, vec![pod(1, 600, 400), pod(2, 600, 1)]),
            row(35_400, 600, vec![restarted]),
            // Not over when the row is.
            row(37_200, 600, vec![pod(1, 600, 800)]),
            row(0, 600, vec![pod(1, 600, 700)]),
        ];
        let hours = [
            row(32_400, 3_600, vec![pod(1, 3_600, 300)]),
            row(36_000, 3_600, vec![pod(1, 3_600, 200)]),
        ];
        let past = Past::new(&now, &tens, &hours);
        assert_eq!(past.pods.len(), 1);
        let cores = |slots: &[Option<Held>]| -> Vec<(usize, f64)> {
            let slots = slots.iter().rev().enumerate();
            slots
                .filter_map(|(ago, held)| Some((ago, held.as_ref()?.cores)))
                .collect()
        };
        assert_eq!(cores(&past.pods[0].tens), [(0, 0.5), (1, 0.4)]);
        assert_eq!(cores(&past.pods[0].hours), [(0, 0.3)]);
    }
}
