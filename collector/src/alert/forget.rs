//! What becomes of the alerts of a service that is deleted.

use proto::window::UnixNanos;

use super::{
    AlertState, Alerts, Change, Service, StoreError, Transition, alert_key, history_key, machine,
    shift_key, text,
};
use crate::detect::Severity;
use crate::store::ServiceKey;

impl Alerts {
    /// Forgets every alert of a service and what is remembered of it; returns how
    /// many alerts there were. A hook that was told of one is told that it
    /// resolved.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if that cannot be kept; nothing is forgotten then.
    pub fn forget(&self, name: &ServiceKey, now: UnixNanos) -> Result<usize, StoreError> {
        let service: Service = (
            name.tenant.clone(),
            name.namespace.clone(),
            name.service.clone(),
        );
        let mut state = self.lock();
        let mut changes: Vec<Change> = Vec::new();
        let mut told = Vec::new();
        let mut gone = Vec::new();
        for record in state.records.values() {
            let of = (&record.tenant, &record.namespace, &record.service);
            if of != (&service.0, &service.1, &service.2) {
                continue;
            }
            gone.push(record.id.clone());
            changes.push((alert_key(&record.id), None));
            let transition = machine::transition(Some(record.state), AlertState::Resolved);
            if self.settings.has_hook
                && record.severity() > Severity::Info
                && transition == Some(Transition::Resolved)
            {
                let mut over = record.clone();
                over.state = AlertState::Resolved;
                over.closed_ns = Some(now.get());
                let alert = text::view(&over, &self.settings.public_url);
                told.push(self.queue.entry(&alert, true, &self.settings.public_url));
            }
        }
        if state.histories.contains_key(&service) {
            changes.push((history_key(&service), None));
        }
        if state.shifts.contains_key(&service) {
            changes.push((shift_key(&service), None));
        }
        if changes.is_empty() {
            return Ok(0);
        }
        changes.extend(told.iter().map(|entry| entry.change()));
        self.store.write(changes)?;
        self.queue.push(told);
        for id in &gone {
            state.records.remove(id);
        }
        state.histories.remove(&service);
        state.shifts.remove(&service);
        self.count_firing(&state);
        Ok(gone.len())
    }
}
