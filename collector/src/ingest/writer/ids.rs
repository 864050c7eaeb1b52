//! Numbers of services, profile types and series; new ones join the group.

use std::time::Duration;

use proto::dictionary::WireWindow;
use proto::pb::tepui::RefusalCode;
use proto::profile::Column;
use proto::window::{UnixNanos, Window};

use super::pending::Pending;
use super::prepare::{Refuse, refuse};
use super::{CHORE_EVERY, MAX_AHEAD, Submission, Writer};
use crate::store::{PtypeId, SeriesId, ServiceId, ServiceKey, StoreError, StoredType, rows};

/// Live series of one service.
pub const MAX_SERIES: usize = 10_000;
/// How long a series counts as live after its last window.
const LIVE: Duration = Duration::from_secs(86_400);
/// Most services of one collector.
const MAX_SERVICES: usize = 100_000;
/// Most profile types of one collector.
const MAX_TYPES: usize = 1_000;

impl Writer {
    pub(super) fn service(
        &mut self,
        submission: &Submission,
        window: &WireWindow,
        pending: &mut Pending,
    ) -> Result<ServiceId, Refuse> {
        let key = ServiceKey {
            tenant: submission.tenant.to_string(),
            namespace: window.labels.namespace().to_owned(),
            service: window.labels.service().to_owned(),
        };
        if let Some(id) = self.directory.service(&key) {
            return Ok(id);
        }
        if let Some(id) = pending.services.get(&key) {
            return Ok(*id);
        }
        if self.directory.service_count() + pending.services.len() >= MAX_SERVICES {
            return refuse(
                RefusalCode::SeriesLimit,
                format!("this collector has {MAX_SERVICES} services already"),
            );
        }
        let id = ServiceId(self.next_service);
        self.next_service = self.next_service.saturating_add(1);
        pending.group.dictionary.push(rows::service(id, &key));
        pending.services.insert(key, id);
        Ok(id)
    }

    pub(super) fn ptype(
        &mut self,
        column: &Column,
        pending: &mut Pending,
    ) -> Result<PtypeId, Refuse> {
        let stored = StoredType {
            profile_type: column.profile_type.clone(),
            temporality: column.temporality,
        };
        let known = self.directory.type_id(&stored);
        if let Some(id) = known.or_else(|| pending.types.get(&stored).copied()) {
            return Ok(id);
        }
        if usize::from(self.next_type) > MAX_TYPES {
            return refuse(
                RefusalCode::SeriesLimit,
                format!("profile type {} would be one too many", stored.profile_type),
            );
        }
        let id = PtypeId(self.next_type);
        self.next_type = self.next_type.saturating_add(1);
        pending
            .group
            .dictionary
            .push(rows::profile_type(id, &stored));
        pending.types.insert(stored, id);
        Ok(id)
    }

    pub(super) fn series(
        &mut self,
        service: ServiceId,
        window: &WireWindow,
        now: UnixNanos,
        pending: &mut Pending,
    ) -> Result<SeriesId, Refuse> {
        let labels = &*window.labels;
        let (known, count, next) = self.directory.with_series(service, |table| {
            (table.id(labels), table.len(), table.next_id())
        })?;
        if let Some(id) = known {
            return Ok(id);
        }
        let fresh = pending.series.entry(service).or_default();
        if let Some(id) = fresh.get(labels) {
            return Ok(*id);
        }
        let (fresh_count, count) = (fresh.len(), count + fresh.len());
        if count >= MAX_SERIES && self.live_series(service, now)? + fresh_count >= MAX_SERIES {
            return refuse(
                RefusalCode::SeriesLimit,
                format!(
                    "service has {MAX_SERIES} series within a day already; drop a label of many values"
                ),
            );
        }
        let before = u32::try_from(fresh_count).unwrap_or(u32::MAX);
        let id = SeriesId(next.0.saturating_add(before));
        pending
            .group
            .dictionary
            .push(rows::series(service, id, labels));
        let fresh = pending.series.entry(service).or_default();
        fresh.insert(labels.clone(), id);
        Ok(id)
    }

    /// Series of a service that had a window within a day, counted anew at most
    /// once a minute.
    pub(super) fn live_series(
        &mut self,
        service: ServiceId,
        now: UnixNanos,
    ) -> Result<usize, StoreError> {
        if let Some((counted, live)) = self.live.get(&service)
            && now.since(*counted) < CHORE_EVERY
        {
            return Ok(*live);
        }
        let Ok(day) = Window::new(now.saturating_sub(LIVE), now.saturating_add(MAX_AHEAD)) else {
            return Ok(0);
        };
        let live = self
            .store
            .active_series(PtypeId::FACTS, service, day)?
            .len();
        self.live.insert(service, (now, live));
        Ok(live)
    }
}
