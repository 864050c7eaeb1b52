//! Writing: a group, all or nothing.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLockWriteGuard};

use proto::window::UnixNanos;
use rocksdb::{WriteBatch, WriteOptions};

use super::recent::Recent;
use super::{DICTIONARY, Family, RocksStore, STATE, write_error};
use crate::store::tier::Tier;
use crate::store::{
    Active, Change, KeyValue, ServiceId, StoreError, WindowKey, WriteGroup, keys, rows,
};

pub(super) fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

/// Families of a group, each looked up once: nearly all windows of a group are of
/// one day.
struct FamiliesAtHand<'a> {
    store: &'a RocksStore,
    found: Vec<(Tier, u64, Family<'a>)>,
}

impl<'a> FamiliesAtHand<'a> {
    fn of(&mut self, tier: Tier, start_s: u64) -> Result<&Family<'a>, StoreError> {
        let number = start_s / tier.family_s();
        let is_meant = |(t, n, _): &(Tier, u64, Family<'a>)| *t == tier && *n == number;
        let place = match self.found.iter().position(is_meant) {
            Some(place) => place,
            None => {
                let family = self.store.family_or_new(&keys::family(tier, start_s))?;
                self.found.push((tier, number, family));
                self.found.len() - 1
            }
        };
        let (_, _, family) = self
            .found
            .get(place)
            .expect("it was found or pushed just now");
        Ok(family)
    }
}

impl RocksStore {
    /// Writes `batch` at once and syncs it.
    pub(in crate::store) fn write_batch(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.db.write_opt(batch, &synced()).map_err(write_error)
    }

    /// Adds the row of a series that was active.
    pub(in crate::store) fn put_active(
        &self,
        batch: &mut WriteBatch,
        active: &Active,
    ) -> Result<(), StoreError> {
        let family = self.family_or_new(&keys::active_family(active.day_s))?;
        let key = keys::active(active.service, active.ptype, active.day_s, active.series);
        batch.put_cf(&family, key, []);
        Ok(())
    }

    /// Writes a group at once, but for what is of deleted services.
    pub(super) fn write_group(&self, group: &WriteGroup) -> Result<(), StoreError> {
        let deleted = self.deleted();
        let is_kept = |service: &ServiceId| !deleted.contains(service);
        let dictionary = self.family(DICTIONARY)?;
        let mut batch = WriteBatch::default();
        for (key, value) in &group.dictionary {
            if rows::service_of(key).is_none_or(|service| is_kept(&service)) {
                batch.put_cf(&dictionary, key, value);
            }
        }
        for key in &group.forget {
            batch.delete_cf(&dictionary, key);
        }
        let windows = group.windows.iter();
        let windows: Vec<_> = windows.filter(|(k, _)| is_kept(&k.service)).collect();
        let mut families = FamiliesAtHand {
            store: self,
            found: Vec::new(),
        };
        for (key, value) in &windows {
            let family = families.of(key.tier, key.start_s)?;
            batch.put_cf(family, keys::encode_window(key), value);
        }
        for (key, value) in group.rows.iter().filter(|(k, _)| is_kept(&k.service)) {
            let family = families.of(key.tier, key.start_s)?;
            batch.put_cf(family, keys::encode_row(key), value);
        }
        for active in group.active.iter().filter(|a| is_kept(&a.service)) {
            self.put_active(&mut batch, active)?;
        }
        self.begin_recent(windows.iter().map(|(key, _)| key))?;
        let mut options = WriteOptions::default();
        options.set_sync(!group.may_be_lost);
        self.db.write_opt(batch, &options).map_err(write_error)?;
        if !windows.is_empty() {
            let mut recent = self.recent_to_change();
            for (key, value) in windows {
                recent.put(key, value);
            }
        }
        Ok(())
    }

    pub(super) fn recent_to_change(&self) -> RwLockWriteGuard<'_, Recent> {
        self.recent.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out what is stored of subjects that are written for the first time.
    fn begin_recent<'k>(
        &self,
        keys: impl Iterator<Item = &'k WindowKey>,
    ) -> Result<(), StoreError> {
        let mut fresh = BTreeSet::new();
        {
            let recent = self.recent();
            let subjects = keys.map(|key| (key.ptype, key.service));
            fresh.extend(subjects.filter(|subject| !recent.knows(*subject)));
        }
        for subject in fresh {
            let since_s = self.stored_until(subject.0, subject.1)?;
            self.recent_to_change().begin(subject, since_s);
        }
        Ok(())
    }

    /// Changes entries of the state, all or nothing.
    pub(super) fn write_state(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let family = self.family(STATE)?;
        let mut batch = WriteBatch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.put_cf(&family, key, value),
                None => batch.delete_cf(&family, key),
            }
        }
        self.db.write_opt(batch, &synced()).map_err(write_error)
    }

    /// Writes feature rows of the step that starts at `step`; they can be
    /// computed again, so they are not synced.
    pub(super) fn put_features(
        &self,
        step: UnixNanos,
        rows: &[KeyValue],
    ) -> Result<(), StoreError> {
        let day = u64::try_from(step.seconds()).map_or(0, keys::day);
        let family = self.family_or_new(&keys::feature_family(day))?;
        let mut batch = WriteBatch::default();
        let deleted = self.deleted();
        for (key, value) in rows {
            let service = keys::service_of_feature(key);
            if service.is_none_or(|service| !deleted.contains(&service)) {
                batch.put_cf(&family, key, value);
            }
        }
        self.db.write(batch).map_err(write_error)
    }
}
