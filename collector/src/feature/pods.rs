//! What each series of a service took over ten minutes or an hour: CPU time, memory,
//! threads. Added up from finer rows, so it may be computed again when one of them
//! changes. Pure.

use std::collections::BTreeMap;

use proto::window::Window;

use super::SeriesRow;

/// Most series of a [`PodsRow`]; of more those with the smallest hashes are kept, so
/// that they are the same from row to row.
pub const MAX_SERIES: usize = 500;

/// The series of a service over `step`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodsRow {
    /// The step.
    pub step: Window,
    /// At most [`MAX_SERIES`], by hash, each once.
    pub pods: Vec<PodTotals>,
}

/// What one series took. Zero means unknown or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodTotals {
    /// Hash of the series' labels.
    pub series: u64,
    /// Its pod, or `""`.
    pub pod: String,
    /// Version that runs in it, or `""`.
    pub version: String,
    /// When the target started, nanoseconds since 1970; of several starts the last.
    pub started_ns: i64,
    /// Length of the steps in which it was seen.
    pub seen_ns: u64,
    /// CPU time as the kernel counted it.
    pub cpu_ns: u64,
    /// CPU time that its samples stand for.
    pub sampled_ns: u64,
    /// The least resident memory since the last start.
    pub rss_bytes: u64,
    /// The least number of threads since the last start.
    pub threads_count: u32,
}

impl PodTotals {
    /// What one step of a series shows.
    fn of(row: &SeriesRow) -> Self {
        let seen_ns = u64::try_from(row.step.duration().as_nanos()).unwrap_or(u64::MAX);
        Self {
            series: row.series,
            pod: row.pod.clone(),
            version: row.version.clone(),
            started_ns: row.facts.target_start.get(),
            seen_ns,
            cpu_ns: row.facts.cpu_ns,
            sampled_ns: sampled(row, seen_ns),
            rss_bytes: row.facts.rss_bytes,
            threads_count: row.facts.threads_count,
        }
    }

    /// Adds what it took at another time.
    fn absorb(&mut self, other: &Self) {
        self.seen_ns = self.seen_ns.saturating_add(other.seen_ns);
        self.cpu_ns = self.cpu_ns.saturating_add(other.cpu_ns);
        self.sampled_ns = self.sampled_ns.saturating_add(other.sampled_ns);
        match other.started_ns.cmp(&self.started_ns) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => {
                self.rss_bytes = least(self.rss_bytes, other.rss_bytes);
                self.threads_count = least(self.threads_count, other.threads_count);
            }
            // What it held before it was started again is gone.
            std::cmp::Ordering::Greater => {
                self.started_ns = other.started_ns;
                self.rss_bytes = other.rss_bytes;
                self.threads_count = other.threads_count;
            }
        }
    }

    /// Mean CPU time in cores, of samples.
    pub fn cores(&self) -> f64 {
        super::cores(1, self.sampled_ns, self.seen_ns)
    }

    /// Mean CPU time in cores, as the kernel counted it.
    pub fn kernel_cores(&self) -> f64 {
        super::cores(1, self.cpu_ns, self.seen_ns)
    }
}

/// The smaller of two numbers of which zero is unknown.
fn least<T: Ord + Default>(one: T, other: T) -> T {
    match (one == T::default(), other == T::default()) {
        (true, _) => other,
        (_, true) => one,
        (false, false) => one.min(other),
    }
}

/// CPU time of a step, scaled from the part of it that was observed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "not negative; beyond 2^64 nanoseconds it saturates"
)]
fn sampled(row: &SeriesRow, seen_ns: u64) -> u64 {
    (row.cores * super::real(seen_ns)).max(0.0) as u64
}

/// The row over `step` of rows of series that lie in it; `None` without rows.
pub fn of_series(step: Window, rows: &[SeriesRow]) -> Option<PodsRow> {
    together(step, rows.iter().map(PodTotals::of))
}

/// The row over `step` of finer rows that lie in it; `None` without rows.
pub fn added_up(step: Window, rows: &[PodsRow]) -> Option<PodsRow> {
    let all = rows.iter().flat_map(|row| row.pods.iter().cloned());
    together(step, all)
}

fn together(step: Window, all: impl Iterator<Item = PodTotals>) -> Option<PodsRow> {
    let mut pods: BTreeMap<u64, PodTotals> = BTreeMap::new();
    for totals in all {
        match pods.get_mut(&totals.series) {
            Some(known) => known.absorb(&totals),
            None => {
                pods.insert(totals.series, totals);
                if pods.len() > MAX_SERIES {
                    pods.pop_last();
                }
            }
        }
    }
    let pods: Vec<PodTotals> = pods.into_values().collect();
    (!pods.is_empty()).then_some(PodsRow { step, pods })
}

#[cfg(test)]
mod tests {
    use proto::profile::Facts;
    use proto::window::UnixNanos;

    use super::*;

    fn row(series: u64, minute: i64, started: i64, rss_bytes: u64, threads: u32) -> SeriesRow {
        let start = UnixNanos::new(minute * 60_000_000_000);
        SeriesRow {
            step: Window::from_start(start, 60_000_000_000).unwrap(),
            tenant: String::new(),
            namespace: String::new(),
            service: "shop".to_owned(),
            series,
            pod: format!("p-{series}"),
            version: "1".to_owned(),
            period_ns: 10_000_000,
            observed_ns: 60_000_000_000,
            samples: 3_000,
            cores: 0.5,
            facts: Facts {
                cpu_ns: 60_000_000_000,
                rss_bytes,
                threads_count: threads,
                target_start: UnixNanos::new(started),
                ..Facts::default()
            },
            candidates: Vec::new(),
        }
    }

    fn ten_minutes() -> Window {
        Window::from_start(UnixNanos::new(0), 600_000_000_000).unwrap()
    }

    #[test]
    fn amounts_add_and_of_memory_the_floor_is_kept() {
        let rows = [
            row(1, 0, 5, 300, 9),
            row(1, 1, 5, 200, 0),
            row(1, 2, 5, 0, 8),
        ];
        let found = of_series(ten_minutes(), &rows).unwrap();
        let pod = &found.pods[0];
        assert_eq!((pod.rss_bytes, pod.threads_count), (200, 8));
        assert!((pod.cores() - 0.5).abs() < 1e-9, "{pod:?}");
        assert!((pod.kernel_cores() - 1.0).abs() < 1e-9, "{pod:?}");
        assert_eq!(of_series(ten_minutes(), &[]), None);
    }

    #[test]
    fn what_was_held_before_a_restart_is_gone_in_any_order() {
        let mut rows = [
            row(1, 0, 5, 100, 3),
            row(1, 1, 70, 300, 9),
            row(1, 2, 70, 400, 9),
        ];
        let forward = of_series(ten_minutes(), &rows).unwrap();
        rows.reverse();
        assert_eq!(of_series(ten_minutes(), &rows).unwrap(), forward);
        let pod = &forward.pods[0];
        assert_eq!(
            (pod.started_ns, pod.rss_bytes, pod.threads_count),
            (70, 300, 9)
        );
    }

    #[test]
    fn hostile_numbers_saturate_and_series_are_bounded_the_same_way_each_time() {
        let mut huge = row(7, 0, i64::MAX, u64::MAX, u32::MAX);
        huge.facts.cpu_ns = u64::MAX;
        huge.cores = 1e300;
        let found = of_series(ten_minutes(), &[huge.clone(), huge]).unwrap();
        assert_eq!(found.pods[0].sampled_ns, u64::MAX);
        assert!(found.pods[0].kernel_cores().is_finite());
        let many: Vec<SeriesRow> = (0..3_000).map(|s| row(s, 0, 1, 1, 1)).collect();
        let forward = of_series(ten_minutes(), &many).unwrap();
        let reversed: Vec<SeriesRow> = many.into_iter().rev().collect();
        assert_eq!(forward.pods.len(), MAX_SERIES);
        assert_eq!(of_series(ten_minutes(), &reversed).unwrap(), forward);
    }
}
