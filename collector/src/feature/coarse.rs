//! Rows of ten minutes and of hours, added up from finer ones: what detectors of slow
//! changes read. Pure.

use std::collections::BTreeMap;

use proto::window::Window;

use super::{FunctionCount, ServiceRow, largest};

/// How long a step of a coarse row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Grain {
    /// Ten minutes, added up from the rows of steps.
    TenMinutes,
    /// An hour, added up from rows of ten minutes.
    Hour,
}

impl Grain {
    /// Every grain, finest first.
    pub const ALL: [Self; 2] = [Self::TenMinutes, Self::Hour];

    /// Length in seconds.
    pub const fn length_s(self) -> u64 {
        match self {
            Self::TenMinutes => 600,
            Self::Hour => 3_600,
        }
    }

    /// Start of the step that `start_s` lies in, in seconds since 1970.
    pub const fn floor_s(self, start_s: u64) -> u64 {
        start_s - start_s % self.length_s()
    }
}

/// One row over `step` of rows that lie in it, of all versions; `None` without rows. A
/// function that a row does not list counts as zero there.
pub fn added_up(step: Window, rows: &[ServiceRow]) -> Option<ServiceRow> {
    let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    // Versions of one time run side by side: their time is one.
    let mut observed: BTreeMap<i64, u64> = BTreeMap::new();
    let mut samples = 0_u64;
    let mut flat_of_others = 0_u64;
    for row in rows {
        let time = observed.entry(row.step.start().get()).or_default();
        *time = (*time).max(row.observed_ns);
        samples = samples.saturating_add(row.samples);
        flat_of_others = flat_of_others.saturating_add(row.other_flat);
        for count in &row.functions {
            let sum = counts.entry(&count.function).or_default();
            *sum = (
                sum.0.saturating_add(count.flat),
                sum.1.saturating_add(count.cum),
            );
        }
    }
    let first = rows.first()?;
    let counts = counts.into_iter();
    let counts = counts.map(|(function, (flat, cum))| FunctionCount {
        function,
        flat,
        cum,
    });
    let (functions, rest) = largest(counts.collect());
    Some(ServiceRow {
        step,
        version: first.version.clone(),
        period_ns: rows.iter().map(|row| row.period_ns).max().unwrap_or(0),
        observed_ns: observed.into_values().fold(0, u64::saturating_add),
        samples,
        functions,
        other_flat: flat_of_others.saturating_add(rest),
    })
}

#[cfg(test)]
mod tests {
    use proto::window::UnixNanos;

    use super::*;

    fn row(start_s: i64, version: &str, functions: &[(&str, u64, u64)]) -> ServiceRow {
        let start = UnixNanos::new(start_s * 1_000_000_000);
        ServiceRow {
            step: Window::from_start(start, 60_000_000_000).unwrap(),
            version: version.to_owned(),
            period_ns: 10_000_000,
            observed_ns: 60_000_000_000,
            samples: functions.iter().map(|(_, flat, _)| flat).sum::<u64>() + 1,
            functions: functions
                .iter()
                .map(|(function, flat, cum)| FunctionCount {
                    function: (*function).to_owned(),
                    flat: *flat,
                    cum: *cum,
                })
                .collect(),
            other_flat: 1,
        }
    }

    #[test]
    fn rows_add_up_and_versions_share_their_time() {
        let rows = [
            row(0, "1", &[("a", 10, 30), ("b", 20, 20)]),
            row(0, "2", &[("a", 1, 3), ("c", 2, 2)]),
            row(60, "2", &[("a", 100, 100)]),
        ];
        let step = Window::from_start(UnixNanos::new(0), 600_000_000_000).unwrap();
        let sum = added_up(step, &rows).unwrap();
        assert_eq!((sum.step, sum.samples, sum.other_flat), (step, 136, 3));
        assert_eq!(sum.observed_ns, 120_000_000_000);
        let functions: Vec<(&str, u64, u64)> = sum
            .functions
            .iter()
            .map(|f| (f.function.as_str(), f.flat, f.cum))
            .collect();
        assert_eq!(functions, [("a", 111, 133), ("b", 20, 20), ("c", 2, 2)]);
        assert_eq!(added_up(step, &[]), None);
        assert_eq!(Grain::Hour.floor_s(7_199), 3_600);
    }
}
