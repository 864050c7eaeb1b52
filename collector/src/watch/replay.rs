//! What would have been told: judges rows that are stored as if they came now.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::window::{UnixNanos, Window};

use super::{coarse, pods};
use crate::alert::Alerts;
use crate::feature::coarse::Grain;
use crate::feature::{SeriesRow, codec};
use crate::store::tier::{instant, range, seconds};
use crate::store::{ServiceId, ServiceKey, Store, StoreError};

/// How long after its end a row is looked at when it comes in time.
const LOOKED_AT: Duration = Duration::from_secs(20);

/// Lets `alerts` judge the rows of a service in `window` again. What they rest on is read
/// from before it, too. Stops when `gone` is set.
///
/// # Errors
///
/// [`StoreError`] when the store fails or a row is damaged.
pub fn replay(
    store: &dyn Store,
    alerts: &Alerts,
    (service, key): (ServiceId, &ServiceKey),
    window: Window,
    gone: &AtomicBool,
) -> Result<(), StoreError> {
    let (from_s, until_s) = seconds(window);
    let step_s = alerts.step_length().as_secs().max(1);
    let ten_minutes = Grain::TenMinutes.length_s();
    let mut at = from_s.next_multiple_of(step_s);
    let mut coarse_at = Grain::TenMinutes.floor_s(from_s);
    while at < until_s {
        if gone.load(Ordering::Relaxed) {
            return Err(StoreError::Cancelled);
        }
        let end_s = at.saturating_add(step_s);
        let now = looked_at(end_s);
        alerts.observe(&series_rows(store, service, at)?, now)?;
        while coarse_at.saturating_add(ten_minutes) <= end_s {
            let row = coarse::rows(store, service, coarse_at, codec::TEN_MINUTES_ROW)?.pop();
            if let Some(row) = row {
                coarse::judge(store, alerts, (service, key), &row, now)?;
            }
            let ten = (coarse_at, coarse_at.saturating_add(ten_minutes));
            if let Some(row) = pods::rows(store, service, codec::TEN_MINUTES_PODS, ten)?.pop() {
                // Who was connected then is not known.
                pods::judge(store, alerts, (service, key), &row, &[], now)?;
            }
            coarse_at = coarse_at.saturating_add(ten_minutes);
        }
        alerts.tick(now)?;
        at = end_s;
    }
    Ok(())
}

fn looked_at(end_s: u64) -> UnixNanos {
    instant(end_s).saturating_add(LOOKED_AT)
}

/// Rows of the series of a service for the step that begins at `start_s`.
pub(super) fn series_rows(
    store: &dyn Store,
    service: ServiceId,
    start_s: u64,
) -> Result<Vec<SeriesRow>, StoreError> {
    let Some(second) = range(start_s, start_s.saturating_add(1)) else {
        return Ok(Vec::new());
    };
    let prefix = codec::step_prefix(codec::SERIES_ROW, service.0, instant(start_s));
    let found = store.features(second, &prefix)?;
    let rows = found.into_iter().map(|(key, value)| {
        SeriesRow::decode(&value)
            .map_err(|_| StoreError::damaged(&key, "no feature row of a known format"))
    });
    rows.collect()
}
