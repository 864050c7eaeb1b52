//! The store on an embedded RocksDB.
//!
//! Column families: `dictionary` and `state` for ever; windows, rows, feature
//! rows and activity in families of a stretch of time each, dropped whole.
//! Windows and the dictionary rows they need go in one synced write batch.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::labels::LabelSet;
use proto::profile::Facts;
use proto::window::{UnixNanos, Window};
use rocksdb::{
    BlockBasedOptions, BoundColumnFamily, Cache, ColumnFamilyDescriptor, DBCompressionType,
    DBWithThreadMode, MultiThreaded, Options, ReadOptions, WriteBatch, WriteBufferManager,
    WriteOptions,
};

use super::keys::{self, RowKey};
use super::rows;
use super::segment::RangeSum;
use super::tier::{HOUR_S, Tier, seconds};
use super::tree::ServiceTree;
use super::{
    Active, Catalog, Change, Epoch, Kept, KeyValue, PtypeId, SeriesId, ServiceId, StateStore,
    Store, StoreError, SumRequest, Usage, ValueVisitor, WindowKey, WriteGroup, WriterId,
};

type Db = DBWithThreadMode<MultiThreaded>;
type Family<'a> = Arc<BoundColumnFamily<'a>>;

const DICTIONARY: &str = "dictionary";
const STATE: &str = "state";
/// Bytes of a block; windows of one series lie side by side in it.
const BLOCK_BYTES: usize = 32 << 10;
/// Bytes of a write buffer of a day's windows.
const WRITE_BUFFER_BYTES: usize = 16 << 20;
/// Bytes of the log after which the oldest buffers are flushed.
const LOG_BYTES: u64 = 256 << 20;

/// A store in one folder.
pub struct RocksStore {
    db: Db,
    path: PathBuf,
    cache: Cache,
    /// Names of the families that are dropped one day; held while one is made or dropped.
    families: Mutex<BTreeSet<String>>,
}

impl std::fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn write_error(source: rocksdb::Error) -> StoreError {
    StoreError::Write(Box::new(source))
}

fn read_error(source: rocksdb::Error) -> StoreError {
    StoreError::Read(Box::new(source))
}

fn family_options(cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(BLOCK_BYTES);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(10.0, false);
    table.set_format_version(5);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options
}

fn is_dropped_one_day(name: &str) -> bool {
    keys::span_of_family(name).is_some()
}

/// What the names of the families of `kept` begin with.
fn family_prefix(kept: Kept) -> &'static str {
    match kept {
        Kept::Rows(tier) => tier.family_name(),
        Kept::Features => "feature",
        Kept::Active => "active",
    }
}

/// The first key after every key that begins with `prefix`; `None` at the end.
fn after(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

impl RocksStore {
    /// Opens the database in `path`, making it when there is none, with a block
    /// cache of `cache_bytes`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Open`] when another process holds it or the folder cannot
    /// be written, [`StoreError::NewerFormat`] for a newer database.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        Self::open_with(path, cache_bytes, cache_bytes / 2)
    }

    /// As [`RocksStore::open`], with write buffers of at most `buffer_bytes` within
    /// the cache.
    ///
    /// # Errors
    ///
    /// As [`RocksStore::open`].
    pub fn open_with(
        path: &Path,
        cache_bytes: usize,
        buffer_bytes: usize,
    ) -> Result<Self, StoreError> {
        let open_error = |source: rocksdb::Error| StoreError::Open {
            path: path.to_owned(),
            source: Box::new(source),
        };
        std::fs::create_dir_all(path).map_err(|source| StoreError::Open {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let cache = Cache::new_lru_cache(cache_bytes);
        let mut options = family_options(&cache);
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_background_jobs(2);
        let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            buffer_bytes,
            false,
            cache.clone(),
        );
        options.set_write_buffer_manager(&buffers);
        options.set_max_total_wal_size(LOG_BYTES);
        options.set_keep_log_file_num(4);
        let mut names: Vec<String> = match path.join("CURRENT").exists() {
            true => Db::list_cf(&options, path).map_err(open_error)?,
            false => Vec::new(),
        };
        for name in [DICTIONARY, STATE] {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        let families = names
            .iter()
            .map(|name| ColumnFamilyDescriptor::new(name, family_options(&cache)));
        let db = Db::open_cf_descriptors(&options, path, families).map_err(open_error)?;
        let store = Self {
            db,
            path: path.to_owned(),
            cache,
            families: Mutex::new(
                names
                    .into_iter()
                    .filter(|name| is_dropped_one_day(name))
                    .collect(),
            ),
        };
        store.check_format()?;
        Ok(store)
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let key = rows::format_key();
        let dictionary = self.family(DICTIONARY)?;
        match self.db.get_cf(&dictionary, &key).map_err(read_error)? {
            None => self.write_format(rows::FORMAT),
            Some(value) => {
                let mut found = <[u8; 4]>::try_from(value.as_slice())
                    .map(u32::from_be_bytes)
                    .map_err(|_| StoreError::damaged(&key, "not a format version"))?;
                if found > rows::FORMAT {
                    return Err(StoreError::NewerFormat {
                        path: self.path.clone(),
                        found,
                        known: rows::FORMAT,
                    });
                }
                while found < rows::FORMAT {
                    found = self.migrate(found)?;
                }
                Ok(())
            }
        }
    }

    pub(super) fn write_format(&self, format: u32) -> Result<(), StoreError> {
        let dictionary = self.family(DICTIONARY)?;
        self.db
            .put_cf_opt(
                &dictionary,
                rows::format_key(),
                format.to_be_bytes(),
                &synced(),
            )
            .map_err(write_error)
    }

    /// Writes `batch` at once and syncs it.
    pub(super) fn write_batch(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.db.write_opt(batch, &synced()).map_err(write_error)
    }

    /// Adds the row of a series that was active.
    pub(super) fn put_active(
        &self,
        batch: &mut WriteBatch,
        active: &Active,
    ) -> Result<(), StoreError> {
        let family = self.family_or_new(&keys::active_family(active.day_s))?;
        let key = keys::active(active.service, active.ptype, active.day_s, active.series);
        batch.put_cf(&family, key, []);
        Ok(())
    }

    /// Calls `visit` with every key of the family called `name`.
    pub(super) fn visit_family(
        &self,
        name: &str,
        mut visit: impl FnMut(&[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match self.db.cf_handle(name) {
            Some(family) => self.entries(&family, &[], None, |key, _| visit(key)),
            None => Ok(()),
        }
    }

    /// A family that is there from the start.
    fn family(&self, name: &'static str) -> Result<Family<'_>, StoreError> {
        self.db
            .cf_handle(name)
            .ok_or_else(|| StoreError::Read(format!("column family {name:?} is missing").into()))
    }

    fn kept_families(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The family called `name`, made when it is missing.
    fn family_or_new(&self, name: &str) -> Result<Family<'_>, StoreError> {
        if let Some(family) = self.db.cf_handle(name) {
            return Ok(family);
        }
        let mut families = self.kept_families();
        if self.db.cf_handle(name).is_none() {
            self.db
                .create_cf(name, &family_options(&self.cache))
                .map_err(write_error)?;
            families.insert(name.to_owned());
        }
        self.db.cf_handle(name).ok_or_else(|| {
            StoreError::Write(format!("column family {name:?} was dropped meanwhile").into())
        })
    }

    fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.db.cf_handle(family) {
            None => Ok(None),
            Some(family) => self.db.get_cf(&family, key).map_err(read_error),
        }
    }

    /// Calls `visit` with every entry of `family` from `from` until `until`.
    fn entries(
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

    fn prefixed(
        &self,
        family: &Family<'_>,
        prefix: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.entries(family, prefix, after(prefix), visit)
    }

    /// Calls `visit` with every window or row of a selection.
    fn rows_of(
        &self,
        request: &SumRequest<'_>,
        mut visit: impl FnMut(&WindowKey, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (from, until) = seconds(request.window);
        if from >= until {
            return Ok(());
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
        Ok(())
    }

    /// Families of `kept` that `[from, until)` touches: their first second and
    /// their name, in order of time.
    pub(super) fn families_between(&self, kept: Kept, from: u64, until: u64) -> Vec<(u64, String)> {
        let prefix = family_prefix(kept);
        let mut found: Vec<(u64, String)> = self
            .kept_families()
            .iter()
            .filter(|name| name.split_once('/').is_some_and(|(tier, _)| tier == prefix))
            .filter_map(|name| Some((keys::span_of_family(name)?, name)))
            .filter(|((start, end), _)| *start < until && from < *end)
            .map(|((start, _), name)| (start, name.clone()))
            .collect();
        found.sort_unstable();
        found
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

    /// Imported windows that start in `[from, until)`: there are few.
    fn imports(
        &mut self,
        from: u64,
        until: u64,
        series: Option<&[SeriesId]>,
    ) -> Result<(), StoreError> {
        let prefix = keys::service_prefix(self.ptype, self.service);
        self.iterator.seek(prefix);
        while let Some(bytes) = self.iterator.key()
            && bytes.starts_with(&prefix)
        {
            let key = keys::decode_import(bytes)
                .ok_or_else(|| StoreError::damaged(bytes, "not an imported window's key"))?;
            let is_meant = series.is_none_or(|list| list.binary_search(&key.series).is_ok());
            if is_meant && (from..until).contains(&key.start_s) {
                self.take(&key)?;
            } else {
                self.iterator.next();
            }
        }
        Ok(())
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

fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

impl StateStore for RocksStore {
    fn scan(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let mut out = Vec::new();
        self.prefixed(&self.family(STATE)?, prefix, |key, value| {
            out.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(out)
    }

    fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
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
}

impl Store for RocksStore {
    fn write(&self, group: &WriteGroup) -> Result<(), StoreError> {
        let dictionary = self.family(DICTIONARY)?;
        let mut batch = WriteBatch::default();
        for (key, value) in &group.dictionary {
            batch.put_cf(&dictionary, key, value);
        }
        for key in &group.forget {
            batch.delete_cf(&dictionary, key);
        }
        for (key, value) in &group.windows {
            let family = self.family_or_new(&keys::family(key.tier, key.start_s))?;
            batch.put_cf(&family, keys::encode_window(key), value);
        }
        for (key, value) in &group.rows {
            let family = self.family_or_new(&keys::family(key.tier, key.start_s))?;
            batch.put_cf(&family, keys::encode_row(key), value);
        }
        for active in &group.active {
            self.put_active(&mut batch, active)?;
        }
        let mut options = WriteOptions::default();
        options.set_sync(!group.may_be_lost);
        self.db.write_opt(batch, &options).map_err(write_error)
    }

    fn window(&self, key: &WindowKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(
            &keys::family(key.tier, key.start_s),
            &keys::encode_window(key),
        )
    }

    fn row(&self, key: &RowKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(&keys::family(key.tier, key.start_s), &keys::encode_row(key))
    }

    fn sum(&self, request: &SumRequest<'_>, sum: &mut RangeSum) -> Result<(), StoreError> {
        self.rows_of(request, |key, value| {
            if sum.is_cancelled() {
                return Err(StoreError::Cancelled);
            }
            sum.add(key.series, key.start_s, value)
                .map_err(|problem| StoreError::damaged(&keys::encode(key), problem))
        })
    }

    fn facts(
        &self,
        request: &SumRequest<'_>,
        visit: &mut dyn FnMut(&WindowKey, u64, &Facts),
    ) -> Result<(), StoreError> {
        let request = SumRequest {
            ptype: PtypeId::FACTS,
            ..request.clone()
        };
        self.rows_of(&request, |key, value| {
            let (span_ns, facts) = rows::read_facts(value)
                .ok_or_else(|| StoreError::damaged(&keys::encode(key), "unreadable facts"))?;
            visit(key, span_ns, &facts);
            Ok(())
        })
    }

    fn values(
        &self,
        request: &SumRequest<'_>,
        visit: &mut ValueVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.rows_of(request, |key, value| {
            visit(key, value).map_err(|problem| StoreError::damaged(&keys::encode(key), problem))
        })
    }

    fn keys(
        &self,
        request: &SumRequest<'_>,
        visit: &mut dyn FnMut(&WindowKey),
    ) -> Result<(), StoreError> {
        self.rows_of(request, |key, _| {
            visit(key);
            Ok(())
        })
    }

    fn active_series(
        &self,
        ptype: PtypeId,
        service: ServiceId,
        window: Window,
    ) -> Result<Vec<SeriesId>, StoreError> {
        let (from, until) = seconds(window);
        let mut series = Vec::new();
        if from >= until {
            return Ok(series);
        }
        let from = Tier::Day.bucket(from);
        for (start, name) in self.families_between(Kept::Active, from, until) {
            let Some(family) = self.db.cf_handle(&name) else {
                continue;
            };
            let first = from.max(start);
            let last = until.min(start.saturating_add(keys::ACTIVE_FAMILY_S)) - 1;
            let end = after(&keys::active_prefix(service, ptype, last));
            self.entries(
                &family,
                &keys::active_prefix(service, ptype, first),
                end,
                |key, _| {
                    let id = keys::series_of_active(key)
                        .ok_or_else(|| StoreError::damaged(key, "not an activity's key"))?;
                    if series.last() != Some(&id) {
                        series.push(id);
                    }
                    Ok(())
                },
            )?;
        }
        series.sort_unstable();
        series.dedup();
        Ok(series)
    }

    fn groups(&self, service: ServiceId) -> Result<Vec<rows::Group>, StoreError> {
        let mut out = Vec::new();
        let prefix = rows::group_prefix(service);
        self.prefixed(&self.family(DICTIONARY)?, &prefix, |key, value| {
            let row = rows::read_group(key, value)
                .ok_or_else(|| StoreError::damaged(key, "unreadable"))?;
            out.push(row);
            Ok(())
        })?;
        Ok(out)
    }

    fn catalog(&self) -> Result<Catalog, StoreError> {
        let dictionary = self.family(DICTIONARY)?;
        let mut catalog = Catalog::default();
        let damaged = |key: &[u8]| StoreError::damaged(key, "unreadable");
        self.prefixed(&dictionary, &[rows::SERVICE_ROW], |key, value| {
            let row = rows::read_service(key, value).ok_or_else(|| damaged(key))?;
            catalog.services.push(row);
            Ok(())
        })?;
        self.prefixed(&dictionary, &[rows::TYPE_ROW], |key, value| {
            let row = rows::read_profile_type(key, value).ok_or_else(|| damaged(key))?;
            catalog.types.push(row);
            Ok(())
        })?;
        self.prefixed(&dictionary, &[rows::WRITER_ROW], |key, value| {
            let row = rows::read_writer(key, value).ok_or_else(|| damaged(key))?;
            catalog.writers.push(row);
            Ok(())
        })?;
        self.prefixed(&dictionary, &[rows::ROLLED_ROW], |key, value| {
            let row = rows::read_tier_row(key, value).ok_or_else(|| damaged(key))?;
            catalog.rolled.push(row);
            Ok(())
        })?;
        self.prefixed(&dictionary, &[rows::DROPPED_ROW], |key, value| {
            let row = rows::read_tier_row(key, value).ok_or_else(|| damaged(key))?;
            catalog.dropped.push(row);
            Ok(())
        })?;
        self.prefixed(&dictionary, &[rows::LATE_ROW], |key, _| {
            let row = rows::read_late(key).ok_or_else(|| damaged(key))?;
            catalog.late.push(row);
            Ok(())
        })?;
        Ok(catalog)
    }

    fn series(&self, service: ServiceId) -> Result<Vec<(SeriesId, LabelSet)>, StoreError> {
        let mut out = Vec::new();
        let prefix = rows::series_prefix(service);
        self.prefixed(&self.family(DICTIONARY)?, &prefix, |key, value| {
            let row = rows::read_series(key, value)
                .ok_or_else(|| StoreError::damaged(key, "unreadable"))?;
            out.push(row);
            Ok(())
        })?;
        Ok(out)
    }

    fn tree(&self, service: ServiceId) -> Result<ServiceTree, StoreError> {
        let dictionary = self.family(DICTIONARY)?;
        let epoch = Epoch(0);
        let mut tree = ServiceTree::new(service, epoch);
        for row in [
            rows::STRING_ROW,
            rows::FRAME_ROW,
            rows::NODE_ROW,
            rows::STACK_ROW,
        ] {
            let prefix = rows::run_prefix(row, service, epoch);
            self.prefixed(&dictionary, &prefix, |key, value| {
                tree.load_run(key, value)
                    .map_err(|problem| StoreError::damaged(key, problem))
            })?;
        }
        Ok(tree)
    }

    fn drop_before(&self, kept: Kept, time: UnixNanos) -> Result<usize, StoreError> {
        let first_kept = u64::try_from(time.seconds()).unwrap_or(0);
        let mut families = self.kept_families();
        let prefix = family_prefix(kept);
        let old: Vec<String> = families
            .iter()
            .filter(|name| name.split_once('/').is_some_and(|(tier, _)| tier == prefix))
            .filter(|name| keys::span_of_family(name).is_some_and(|(_, end)| end <= first_kept))
            .cloned()
            .collect();
        for name in &old {
            self.db.drop_cf(name).map_err(write_error)?;
            families.remove(name);
        }
        Ok(old.len())
    }

    fn stretches(&self, kept: Kept) -> Vec<(u64, u64)> {
        self.families_between(kept, 0, u64::MAX)
            .iter()
            .filter_map(|(_, name)| keys::span_of_family(name))
            .collect()
    }

    fn write_features(&self, step: UnixNanos, rows: &[KeyValue]) -> Result<(), StoreError> {
        let day = u64::try_from(step.seconds()).map_or(0, keys::day);
        let family = self.family_or_new(&keys::feature_family(day))?;
        let mut batch = WriteBatch::default();
        for (key, value) in rows {
            batch.put_cf(&family, key, value);
        }
        self.db.write(batch).map_err(write_error)
    }

    fn features(&self, window: Window, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let (from, until) = seconds(window);
        let mut out = Vec::new();
        for (_, name) in self.families_between(Kept::Features, from, until) {
            if let Some(family) = self.db.cf_handle(&name) {
                self.prefixed(&family, prefix, |key, value| {
                    out.push((key.to_vec(), value.to_vec()));
                    Ok(())
                })?;
            }
        }
        Ok(out)
    }

    fn compact(&self) -> Result<(), StoreError> {
        let kept = self.kept_families().clone();
        let fixed = [DICTIONARY, STATE].map(str::to_owned);
        for name in kept.into_iter().chain(fixed) {
            if let Some(family) = self.db.cf_handle(&name) {
                self.db.flush_cf(&family).map_err(write_error)?;
                self.db
                    .compact_range_cf(&family, None::<&[u8]>, None::<&[u8]>);
            }
        }
        Ok(())
    }

    fn usage(&self) -> Usage {
        let property = |family: &Family<'_>, name: &str| {
            let value = self.db.property_int_value_cf(family, name);
            value.ok().flatten().unwrap_or(0)
        };
        let mut usage = Usage {
            memory_bytes: u64::try_from(self.cache.get_usage()).unwrap_or(u64::MAX),
            ..Usage::default()
        };
        let kept = self.kept_families().clone();
        usage.families = kept.len();
        let fixed = [DICTIONARY, STATE].map(str::to_owned);
        for name in kept.into_iter().chain(fixed) {
            if let Some(family) = self.db.cf_handle(&name) {
                usage.disk_bytes += property(&family, "rocksdb.total-sst-files-size");
                usage.memory_bytes += property(&family, "rocksdb.cur-size-all-mem-tables");
            }
        }
        usage
    }
}
