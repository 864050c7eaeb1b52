//! A person says that they know of an alert, or that what it tells is what is normal
//! from now on.

use proto::window::UnixNanos;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::{Alert, AlertState, Alerts, Change, Severity, StoreError, alert_key, shift_key, text};
use super::{machine, stored};

/// Longest note that is kept, in bytes.
pub const MAX_NOTE_BYTES: usize = 1_000;

/// What a person said of an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Acknowledged {
    pub(super) at_ns: i64,
    pub(super) note: String,
}

impl Alerts {
    /// Notes that a person knows of the alert `id`. What a function costs now is normal
    /// from `now` on: such an alert resolves, and hooks are told. A spin goes on until
    /// it is gone. Returns the alert as it is then; `None` when there is no such alert
    /// that is pending, firing or stale.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if that cannot be kept; nothing is noted then.
    pub fn acknowledge(
        &self,
        tenant: &str,
        id: &str,
        note: &str,
        now: UnixNanos,
    ) -> Result<Option<Alert>, StoreError> {
        let mut state = self.lock();
        let open = state.records.get(id);
        let Some(before) = open.filter(|record| record.tenant == tenant && record.is_open()) else {
            return Ok(None);
        };
        let mut record = before.clone();
        let mut end = note.len().min(MAX_NOTE_BYTES);
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        record.acknowledged = Some(Acknowledged {
            at_ns: now.get(),
            note: note.get(..end).unwrap_or_default().to_owned(),
        });
        let service = (
            record.tenant.clone(),
            record.namespace.clone(),
            record.service.clone(),
        );
        let mut changes: Vec<Change> = Vec::new();
        let mut shifts = None;
        if let Some(shift) = &record.evidence.shift
            && let Some(known) = state.shifts.get(&service)
        {
            let mut known = known.clone();
            known.accept(&shift.function, now);
            changes.push((shift_key(&service), Some(stored(&known))));
            shifts = Some(known);
            record.state = AlertState::Resolved;
            record.closed_ns = Some(now.get());
        }
        changes.push((alert_key(id), Some(stored(&record))));
        let alert = text::view(&record, &self.settings.public_url);
        let transition = machine::transition(Some(before.state), record.state);
        let mut told = Vec::new();
        if self.settings.has_hook && record.severity() > Severity::Info && transition.is_some() {
            told.push(self.queue.entry(&alert, true, &self.settings.public_url));
        }
        changes.extend(told.iter().map(|entry| entry.change()));
        self.store.write(changes)?;
        self.queue.push(told);
        info!(id, service = record.service, "alert acknowledged");
        state.records.insert(id.to_owned(), record);
        if let Some(shifts) = shifts {
            state.shifts.insert(service, shifts);
        }
        self.count_firing(&state);
        Ok(Some(alert))
    }
}
