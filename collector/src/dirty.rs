//! Steps of time that got a window and were not looked at since: what the
//! writer leaves for [`crate::watch`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::metrics::Metrics;
use crate::store::{SeriesId, ServiceId};

/// Most (step, series) that wait; further ones are dropped and counted in
/// `tepui_feature_rows_dropped_total`.
const MAX_WAITING: usize = 256 * 1024;

/// Steps that got a window and were not looked at since.
#[derive(Debug)]
pub struct Dirty {
    step_s: u64,
    metrics: Arc<Metrics>,
    waiting: Mutex<Waiting>,
    /// Held while steps are looked at.
    looking: Mutex<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    steps: BTreeMap<u64, BTreeSet<(ServiceId, SeriesId)>>,
    count: usize,
}

impl Dirty {
    /// Returns the marks of steps of length `step`, at least a second.
    pub fn new(step: Duration, metrics: Arc<Metrics>) -> Self {
        Self {
            step_s: step.as_secs().max(1),
            metrics,
            waiting: Mutex::default(),
            looking: Mutex::default(),
        }
    }

    /// Length of a step in seconds.
    pub fn step_s(&self) -> u64 {
        self.step_s
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held while steps are looked at, and by those who must wait for it.
    pub fn looking(&self) -> std::sync::MutexGuard<'_, ()> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the marks of a service that was deleted.
    pub fn forget(&self, service: ServiceId) {
        let mut waiting = self.lock();
        let waiting = &mut *waiting;
        for marks in waiting.steps.values_mut() {
            let before = marks.len();
            marks.retain(|(marked, _)| *marked != service);
            waiting.count -= before - marks.len();
        }
    }

    /// Marks the steps of windows: (service, series, start in seconds).
    pub fn mark(&self, windows: impl IntoIterator<Item = (ServiceId, SeriesId, u64)>) {
        let mut waiting = self.lock();
        for (service, series, start_s) in windows {
            if waiting.count >= MAX_WAITING {
                self.metrics.feature_rows_dropped.inc();
                continue;
            }
            let step = start_s - start_s % self.step_s;
            let fresh = waiting
                .steps
                .entry(step)
                .or_default()
                .insert((service, series));
            waiting.count += usize::from(fresh);
        }
    }

    /// Start of the earliest step that waits, in seconds since 1970.
    pub fn earliest(&self) -> Option<u64> {
        self.lock().steps.keys().next().copied()
    }

    /// Takes the marks of the earliest step that ended before `now_s`.
    pub fn take(&self, now_s: u64) -> Option<(u64, BTreeSet<(ServiceId, SeriesId)>)> {
        let mut waiting = self.lock();
        let step = *waiting.steps.keys().next()?;
        if step.saturating_add(self.step_s) > now_s {
            return None;
        }
        let marks = waiting.steps.remove(&step)?;
        waiting.count -= marks.len();
        Some((step, marks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_taken_once_it_is_over_and_earliest_first() {
        let dirty = Dirty::new(Duration::from_secs(60), Arc::default());
        let mark = |series, start_s| dirty.mark([(ServiceId(1), SeriesId(series), start_s)]);
        mark(1, 125);
        mark(1, 61);
        mark(2, 119);
        mark(1, 70);
        assert_eq!((dirty.take(119), dirty.earliest()), (None, Some(60)));
        let (step, marks) = dirty.take(120).unwrap();
        assert_eq!((step, marks.len()), (60, 2));
        assert_eq!(dirty.take(179), None);
        assert_eq!(dirty.take(180).unwrap().0, 120);
        assert_eq!(dirty.take(u64::MAX), None);
    }

    #[test]
    fn a_service_that_is_forgotten_has_no_marks() {
        let dirty = Dirty::new(Duration::from_secs(60), Arc::default());
        dirty.mark([1, 2, 1].map(|service| (ServiceId(service), SeriesId(service), 5)));
        dirty.forget(ServiceId(1));
        let of_other = [(ServiceId(2), SeriesId(2))].into();
        assert_eq!(dirty.take(60), Some((0, of_other)));
    }

    #[test]
    fn marks_beyond_the_bound_are_counted() {
        let metrics: Arc<Metrics> = Arc::default();
        let dirty = Dirty::new(Duration::from_secs(1), Arc::clone(&metrics));
        let many = (0..).map(|n| (ServiceId(1), SeriesId(n), 5));
        dirty.mark(many.take(MAX_WAITING + 3));
        assert_eq!(metrics.feature_rows_dropped.get(), 3);
        assert_eq!(dirty.take(100).unwrap().1.len(), MAX_WAITING);
    }
}
