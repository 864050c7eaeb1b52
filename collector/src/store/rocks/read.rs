//! Reading: entries of a family by key, windows and rows of a selection.

use rocksdb::ReadOptions;

use std::sync::{PoisonError, RwLockReadGuard};

use super::recent::Recent;
use super::{Db, Family, RocksStore, after, read_error};
use crate::store::keys::{self, RowKey};
use crate::store::tier::{HOUR_S, Tier, seconds};
use crate::store::{
    Kept, PtypeId, SeriesId, ServiceId, StoreError, SumRequest, WindowKey, WriterId,
};

impl RocksStore {
    pub(super) fn recent(&self) -> RwLockReadGuard<'_, Recent> {
        self.recent.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.db.cf_handle(family) {
            None => Ok(None),
            Some(family) => self.db.get_cf(&family, key).map_err(read_error),
        }
    }

    /// Calls `visit` with every entry of `family` from `from` until `until`.
    pub(super) fn entries(
        &self,
        family: &Family<'_>,
        from: &[u8],
        until: Option<Vec<u8>>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        if let Some(until) = until {
            options.set_iterate_upper_bound(until);
        }
        let mut iterator = self.db.raw_iterator_cf_opt(family, options);
        iterator.seek(from);
        while let (Some(key), Some(value)) = (iterator.key(), iterator.value()) {
            visit(key, value)?;
            iterator.next();
        }
        iterator.status().map_err(read_error)
    }

    pub(super) fn prefixed(
        &self,
        family: &Family<'_>,
        prefix: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.entries(family, prefix, after(prefix), visit)
    }

    /// The second before which some window of a type of a service may be stored; at
    /// and after it there is none.
    pub(super) fn stored_until(
        &self,
        ptype: PtypeId,
        service: ServiceId,
    ) -> Result<u64, StoreError> {
        let prefix = keys::service_prefix(ptype, service);
        let families = self.families_between(Kept::Rows(Tier::Window), 0, u64::MAX);
        for (start_s, name) in families.into_iter().rev() {
            let Some(family) = self.db.cf_handle(&name) else {
                continue;
            };
            let mut iterator = self.db.raw_iterator_cf_opt(&family, ReadOptions::default());
            match after(&prefix) {
                Some(end) => iterator.seek_for_prev(end),
                None => iterator.seek_to_last(),
            }
            if let Some(key) = iterator.key()
                && key.starts_with(&prefix)
            {
                let hour = key.get(prefix.len()).copied().unwrap_or(u8::MAX);
                let end = (u64::from(hour) + 1).saturating_mul(HOUR_S);
                return Ok(start_s.saturating_add(end));
            }
            iterator.status().map_err(read_error)?;
        }
        Ok(0)
    }

    /// Calls `visit` with every window or row of a selection.
    pub(super) fn rows_of(
        &self,
        request: &SumRequest<'_>,
        mut visit: impl FnMut(&WindowKey, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (from, until) = seconds(request.window);
        if from >= until {
            return Ok(());
        }
        let recent = match request.tier {
            Tier::Window => {
                let subject = (request.ptype, request.service);
                self.recent().minutes(subject, from, until)
            }
            _ => None,
        };
        // Nothing is locked while they are visited.
        if let Some(minutes) = recent {
            for minute in minutes {
                minute.visit(request, (from, until), &mut visit)?;
            }
            return self.check_not_deleted(request.service);
        }
        let whole = [SeriesId::WHOLE];
        let series = match (request.tier, request.series) {
            (Tier::Window | Tier::Import, all_or_some) => all_or_some,
            (_, None) => Some(&whole[..]),
            (_, some) => some,
        };
        let families = match request.tier {
            Tier::Import => vec![(0, keys::family(Tier::Import, 0))],
            tier => self.families_between(Kept::Rows(tier), from, until),
        };
        for (start_s, name) in families {
            let Some(family) = self.db.cf_handle(&name) else {
                continue;
            };
            let mut scan = Scan {
                iterator: self.db.raw_iterator_cf_opt(&family, ReadOptions::default()),
                ptype: request.ptype,
                service: request.service,
                visit: &mut visit,
            };
            let end = start_s.saturating_add(request.tier.family_s());
            let (from, until) = (from.max(start_s), until.min(end));
            match request.tier {
                Tier::Import => scan.imports(from, until, series)?,
                Tier::Window | Tier::Minute => scan.hours(from, until, series)?,
                Tier::Hour | Tier::Day => {
                    for id in series.unwrap_or_default() {
                        scan.buckets(request.tier, from, until, *id)?;
                    }
                }
            }
            scan.iterator.status().map_err(read_error)?;
        }
        // Last: what was seen may lack what is being deleted.
        self.check_not_deleted(request.service)
    }
}

/// Goes through the rows of one family.
struct Scan<'a, 'v, V> {
    iterator: rocksdb::DBRawIteratorWithThreadMode<'a, Db>,
    ptype: PtypeId,
    service: ServiceId,
    visit: &'v mut V,
}

impl<V: FnMut(&WindowKey, &[u8]) -> Result<(), StoreError>> Scan<'_, '_, V> {
    /// Windows or minutes that start in `[from, until)`, all within one day.
    fn hours(
        &mut self,
        from: u64,
        until: u64,
        series: Option<&[SeriesId]>,
    ) -> Result<(), StoreError> {
        let mut start = from;
        while start < until {
            let end = until.min(Tier::Hour.bucket(start).saturating_add(HOUR_S));
            match series {
                None => self.all_of_hour(start, end)?,
                Some(list) => {
                    for id in list {
                        self.seek(start, *id);
                        while let Some(key) = self.key(start)?
                            && key.series == *id
                            && key.start_s < end
                        {
                            self.take(&key)?;
                        }
                    }
                }
            }
            start = end;
        }
        Ok(())
    }

    /// Windows of every series that start in `[start, end)`, within one hour.
    /// What lies between is skipped, not read.
    fn all_of_hour(&mut self, start: u64, end: u64) -> Result<(), StoreError> {
        self.seek(start, SeriesId(0));
        while let Some(key) = self.key(start)? {
            if key.start_s < start {
                self.seek(start, key.series);
            } else if key.start_s < end {
                self.take(&key)?;
            } else if let Some(next) = key.series.0.checked_add(1) {
                self.seek(start, SeriesId(next));
            } else {
                break;
            }
        }
        Ok(())
    }

    fn seek(&mut self, start_s: u64, series: SeriesId) {
        self.iterator.seek(keys::encode(&WindowKey {
            tier: Tier::Window,
            ptype: self.ptype,
            service: self.service,
            start_s,
            series,
            writer: WriterId(0),
        }));
    }

    /// The key at hand, if it is of this type and service and of the hour of
    /// `start_s`.
    fn key(&self, start_s: u64) -> Result<Option<WindowKey>, StoreError> {
        let prefix = keys::hour_prefix(self.ptype, self.service, keys::hour(start_s));
        match self.iterator.key() {
            Some(key) if key.starts_with(&prefix) => keys::decode(keys::day(start_s), key)
                .map(Some)
                .ok_or_else(|| StoreError::damaged(key, "not a window's key")),
            _ => Ok(None),
        }
    }

    fn take(&mut self, key: &WindowKey) -> Result<(), StoreError> {
        if let Some(value) = self.iterator.value() {
            (self.visit)(key, value)?;
        }
        self.iterator.next();
        Ok(())
    }

    /// Imported windows that start in `[from, until)`. What lies between is skipped,
    /// not read.
    fn imports(
        &mut self,
        from: u64,
        until: u64,
        series: Option<&[SeriesId]>,
    ) -> Result<(), StoreError> {
        let prefix = keys::service_prefix(self.ptype, self.service);
        // The series that is meant from `at` on.
        let next = |at: SeriesId| match series {
            None => Some(at),
            Some(list) => list.get(list.partition_point(|id| *id < at)).copied(),
        };
        let mut wanted = next(SeriesId(0));
        while let Some(series) = wanted {
            self.seek_import(from, series);
            wanted = None;
            while let Some(bytes) = self.iterator.key()
                && bytes.starts_with(&prefix)
            {
                let key = keys::decode_import(bytes)
                    .ok_or_else(|| StoreError::damaged(bytes, "not an imported window's key"))?;
                if key.series != series || key.start_s >= until {
                    let after = key.series.0.checked_add(u32::from(key.series == series));
                    wanted = after.and_then(|after| next(SeriesId(after)));
                    break;
                }
                self.take(&key)?;
            }
        }
        Ok(())
    }

    fn seek_import(&mut self, start_s: u64, series: SeriesId) {
        self.iterator.seek(keys::encode_window(&WindowKey {
            tier: Tier::Import,
            ptype: self.ptype,
            service: self.service,
            start_s,
            series,
            writer: WriterId(0),
        }));
    }

    /// Hours or days of one series that start in `[from, until)`.
    fn buckets(
        &mut self,
        tier: Tier,
        from: u64,
        until: u64,
        series: SeriesId,
    ) -> Result<(), StoreError> {
        let length = tier.length_s();
        let row = |start_s| RowKey {
            tier,
            ptype: self.ptype,
            service: self.service,
            series,
            start_s,
        };
        let prefix = keys::row_prefix(self.ptype, self.service, series);
        let first = keys::encode_row(&row(from.div_ceil(length).saturating_mul(length)));
        self.iterator.seek(first);
        while let Some(bytes) = self.iterator.key()
            && bytes.starts_with(&prefix)
        {
            let bucket = bytes
                .get(prefix.len()..)
                .and_then(|bytes| bytes.try_into().ok())
                .map(u32::from_be_bytes)
                .ok_or_else(|| StoreError::damaged(bytes, "not a row's key"))?;
            let start_s = u64::from(bucket).saturating_mul(length);
            if start_s >= until {
                break;
            }
            self.take(&WindowKey {
                tier,
                ptype: self.ptype,
                service: self.service,
                start_s,
                series,
                writer: WriterId(0),
            })?;
        }
        Ok(())
    }
}
