//! Rows of ten minutes and of hours: written once their time is over, and judged for
//! functions that became dearer.
//!
//! A row is a function of finer rows, so it may be written again when a late window
//! changed one of those; it is judged once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use proto::status::chain;
use proto::window::UnixNanos;
use tracing::error;

use super::pods::{ByService, Pods};
use crate::agents::Agents;
use crate::alert::Alerts;
use crate::detect::shift::baseline::Baseline;
use crate::directory::Directory;
use crate::feature::coarse::{Grain, added_up};
use crate::feature::{ServiceRow, codec};
use crate::store::tier::{instant, range};
use crate::store::{ServiceId, ServiceKey, Store, StoreError};

/// How far back rows are written again after a start.
const LOOK_BACK_S: u64 = 7 * Grain::TenMinutes.length_s();
const HOUR_S: u64 = Grain::Hour.length_s();
/// Hours that say what collecting garbage usually takes.
const DAY_HOURS: u64 = 24;

/// Writes and judges coarse rows.
#[derive(Debug)]
pub(super) struct Coarse {
    store: Arc<dyn Store>,
    directory: Arc<Directory>,
    alerts: Arc<Alerts>,
    /// Length of the steps of fine rows.
    step_s: u64,
    /// Services with a fine row that is in no coarse one yet, by ten minutes.
    touched: Mutex<BTreeMap<u64, BTreeSet<ServiceId>>>,
    pods: Pods,
}

impl Coarse {
    pub(super) fn new(
        store: Arc<dyn Store>,
        directory: Arc<Directory>,
        alerts: Arc<Alerts>,
        agents: Arc<Agents>,
        step_s: u64,
    ) -> Self {
        let pods = Pods::new(
            Arc::clone(&store),
            Arc::clone(&directory),
            Arc::clone(&alerts),
            agents,
            step_s,
        );
        Self {
            pods,
            store,
            directory,
            alerts,
            step_s,
            touched: Mutex::default(),
        }
    }

    /// A fine row of a service was written.
    pub(super) fn touch(&self, service: ServiceId, start_s: u64) {
        let bucket = Grain::TenMinutes.floor_s(start_s);
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.entry(bucket).or_default().insert(service);
    }

    /// Looks again at what was written shortly before this start.
    pub(super) fn touch_recent(&self, now: UnixNanos) {
        let now_s = u64::try_from(now.seconds()).unwrap_or(0);
        let first = Grain::TenMinutes.floor_s(now_s.saturating_sub(LOOK_BACK_S));
        for service in self.directory.service_ids() {
            let length = usize::try_from(Grain::TenMinutes.length_s()).unwrap_or(usize::MAX);
            for start_s in (first..now_s).step_by(length) {
                self.touch(service, start_s);
            }
        }
    }

    fn take(&self, settled_s: u64) -> Option<(u64, BTreeSet<ServiceId>)> {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = *touched.keys().next()?;
        let is_over = bucket.saturating_add(Grain::TenMinutes.length_s()) <= settled_s;
        is_over.then(|| touched.pop_first()).flatten()
    }

    /// Looks at the ten minutes that are over.
    pub(super) fn turn(&self, settled_s: u64, now: UnixNanos) {
        let mut is_full = false;
        let attending = self.pods.attending(now);
        while !is_full && let Some((bucket, services)) = self.take(settled_s) {
            for service in services {
                match self.look(service, bucket, &attending, now) {
                    Ok(()) | Err(StoreError::Deleted) => {}
                    Err(failure) => {
                        error!(error = chain(&failure), "rows of ten minutes not kept");
                        // What the store does not take now is written at the next turn;
                        // what cannot be read would keep all others from being judged.
                        if matches!(failure, StoreError::Write(_)) {
                            self.touch(service, bucket);
                            is_full = true;
                        }
                    }
                }
            }
        }
        if !is_full {
            self.pods.turn(settled_s, &attending, now);
        }
    }

    fn look(
        &self,
        service: ServiceId,
        bucket: u64,
        attending: &ByService,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let Some(key) = self.directory.service_key(service) else {
            return Ok(());
        };
        self.pods.look((service, &key), bucket, attending, now)?;
        let Some(row) = self.added(service, bucket, Grain::TenMinutes)? else {
            return Ok(());
        };
        // The hour is whole with its last row; until then it lacks some.
        self.added(service, Grain::Hour.floor_s(bucket), Grain::Hour)?;
        judge(&*self.store, &self.alerts, (service, &key), &row, now)
    }

    /// Adds up the row of `grain` that begins at `start_s`, and writes it.
    fn added(
        &self,
        service: ServiceId,
        start_s: u64,
        grain: Grain,
    ) -> Result<Option<ServiceRow>, StoreError> {
        let end_s = start_s.saturating_add(grain.length_s());
        let (kind, length_s) = match grain {
            Grain::TenMinutes => (codec::SERVICE_ROW, self.step_s),
            Grain::Hour => (codec::TEN_MINUTES_ROW, Grain::TenMinutes.length_s()),
        };
        let mut rows = Vec::new();
        // A step that is no part of ten minutes begins where it began.
        let mut at = start_s.next_multiple_of(length_s);
        while at < end_s {
            rows.extend(self::rows(&*self.store, service, at, kind)?);
            at = at.saturating_add(length_s);
        }
        let Some(row) = range(start_s, end_s).and_then(|step| added_up(step, &rows)) else {
            return Ok(None);
        };
        let key = codec::key(codec::kind_of(grain), service.0, row.step.start(), 0);
        self.store
            .write_features(row.step.start(), &[(key.to_vec(), row.encode())])?;
        Ok(Some(row))
    }
}

/// Rows of `kind` of a service that begin at `start_s`, one for each version.
pub(super) fn rows(
    store: &dyn Store,
    service: ServiceId,
    start_s: u64,
    kind: u8,
) -> Result<Vec<ServiceRow>, StoreError> {
    let Some(second) = range(start_s, start_s.saturating_add(1)) else {
        return Ok(Vec::new());
    };
    let prefix = codec::step_prefix(kind, service.0, instant(start_s));
    let found = store.features(second, &prefix)?;
    let rows = found.into_iter().map(|(key, value)| {
        ServiceRow::decode(&value)
            .map_err(|_| StoreError::damaged(&key, "no feature row of a known format"))
    });
    rows.collect()
}

/// Judges the ten minutes of `row`, and the hour before its end.
pub(super) fn judge(
    store: &dyn Store,
    alerts: &Alerts,
    (service, key): (ServiceId, &ServiceKey),
    row: &ServiceRow,
    now: UnixNanos,
) -> Result<(), StoreError> {
    let second = |time: UnixNanos| u64::try_from(time.seconds()).unwrap_or(0);
    let this_hour = Grain::Hour.floor_s(second(row.step.start()));
    let hour_row = |start_s| rows(store, service, start_s, codec::HOUR_ROW);
    // A baseline is read only where it is asked for.
    if alerts.awaits_shifts(key, row.step.end()) {
        let last_hour = Grain::Hour
            .floor_s(second(row.step.end()))
            .saturating_sub(HOUR_S);
        let hour = hour_row(last_hour)?.pop();
        let baseline = Baseline::find(this_hour, hour_row)?;
        alerts.observe_shifts(key, row, hour.as_ref(), baseline.as_ref(), now)?;
    }
    let day = || -> Result<Vec<ServiceRow>, StoreError> {
        let mut hours = Vec::new();
        for back in 1..=DAY_HOURS {
            hours.extend(hour_row(this_hour.saturating_sub(back * HOUR_S))?);
        }
        Ok(hours)
    };
    alerts.observe_collection(key, row, day, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::{AlertFilter, Settings};
    use crate::detect::Thresholds;
    use crate::detect::shift::ShiftSettings;
    use crate::feature::FunctionCount;
    use crate::store::memory::MemoryState;
    use crate::store::rocks::RocksStore;
    use std::time::Duration;

    #[test]
    fn garbage_is_told_also_where_functions_are_not_judged() {
        let folder = tempfile::tempdir().unwrap();
        let store = RocksStore::open(folder.path(), 1 << 20).unwrap();
        let key = ServiceKey {
            tenant: "anonymous".to_owned(),
            namespace: String::new(),
            service: "shop".to_owned(),
        };
        let count = |function: &str, samples| FunctionCount {
            function: function.to_owned(),
            flat: samples,
            cum: samples,
        };
        let start_s = 1_795_910_400;
        let row = ServiceRow {
            step: range(start_s, start_s + 600).unwrap(),
            version: String::new(),
            period_ns: 10_000_000,
            observed_ns: 600_000_000_000,
            samples: 10_000,
            functions: vec![
                count("main.work", 5_500),
                count("runtime.gcBgMarkWorker", 4_500),
            ],
            other_flat: 0,
        };
        for is_enabled in [true, false] {
            let settings = Settings {
                step: Duration::from_secs(60),
                hold: Duration::from_secs(300),
                keep: Duration::from_secs(300),
                public_url: String::new(),
                hooks: Arc::default(),
                shift: ShiftSettings {
                    is_enabled,
                    ..ShiftSettings::default()
                },
                thresholds: Thresholds::default(),
            };
            let state: Arc<dyn crate::store::StateStore> = Arc::new(MemoryState::default());
            let alerts = Alerts::open(state, settings, Vec::new(), Arc::default()).unwrap();
            let now = instant(start_s + 620);
            judge(&store, &alerts, (ServiceId(1), &key), &row, now).unwrap();
            let told = alerts.list("anonymous", &AlertFilter::default());
            let told: Vec<&str> = told.iter().map(|alert| alert.kind.as_str()).collect();
            assert_eq!(told, ["gc_pressure"], "functions judged: {is_enabled}");
        }
    }
}
