//! The store on an embedded RocksDB.
//!
//! Column families: `dictionary` and `state` for ever, `w10/<day>` and
//! `feature/<day>` per day, dropped whole. Windows and the dictionary rows they
//! need go in one synced write batch.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::labels::LabelSet;
use proto::profile::Facts;
use proto::window::{UnixNanos, Window};
use rocksdb::{
    BlockBasedOptions, BoundColumnFamily, Cache, ColumnFamilyDescriptor, DBCompressionType,
    DBWithThreadMode, MultiThreaded, Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::keys::{self, DAY_S};
use super::rows;
use super::segment::RangeSum;
use super::tree::ServiceTree;
use super::{
    Catalog, Change, Epoch, KeyValue, PtypeId, SeriesId, ServiceId, StateStore, Store, StoreError,
    SumRequest, Usage, WindowKey, WriteGroup,
};

type Db = DBWithThreadMode<MultiThreaded>;
type Family<'a> = Arc<BoundColumnFamily<'a>>;

const DICTIONARY: &str = "dictionary";
const STATE: &str = "state";
/// Bytes of a block; windows of one series lie side by side in it.
const BLOCK_BYTES: usize = 32 << 10;
/// Bytes of a write buffer of a day's windows.
const WRITE_BUFFER_BYTES: usize = 16 << 20;
/// Bytes of all write buffers together.
const ALL_WRITE_BUFFER_BYTES: usize = 64 << 20;
/// Bytes of the log after which the oldest buffers are flushed.
const LOG_BYTES: u64 = 256 << 20;

/// A store in one folder.
pub struct RocksStore {
    db: Db,
    path: PathBuf,
    cache: Cache,
    /// Names of the families of days; held while one is made or dropped.
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

fn is_of_a_day(name: &str) -> bool {
    keys::day_of_family(name).is_some()
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

/// Whole seconds of a window: the first that starts in it and the first after.
fn seconds(window: Window) -> (u64, u64) {
    let ceil = |time: UnixNanos| {
        u64::try_from(time.get().max(0))
            .unwrap_or(0)
            .div_ceil(1_000_000_000)
    };
    (ceil(window.start()), ceil(window.end()))
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
        options.set_db_write_buffer_size(ALL_WRITE_BUFFER_BYTES);
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
            families: Mutex::new(names.into_iter().filter(|name| is_of_a_day(name)).collect()),
        };
        store.check_format()?;
        Ok(store)
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let key = rows::format_key();
        let dictionary = self.family(DICTIONARY)?;
        match self.db.get_cf(&dictionary, &key).map_err(read_error)? {
            None => self
                .db
                .put_cf_opt(&dictionary, &key, rows::FORMAT.to_be_bytes(), &synced())
                .map_err(write_error),
            Some(value) => {
                let found = <[u8; 4]>::try_from(value.as_slice())
                    .map(u32::from_be_bytes)
                    .map_err(|_| StoreError::damaged(&key, "not a format version"))?;
                if found > rows::FORMAT {
                    return Err(StoreError::NewerFormat {
                        path: self.path.clone(),
                        found,
                        known: rows::FORMAT,
                    });
                }
                Ok(())
            }
        }
    }

    /// A family that is there from the start.
    fn family(&self, name: &'static str) -> Result<Family<'_>, StoreError> {
        self.db
            .cf_handle(name)
            .ok_or_else(|| StoreError::Read(format!("column family {name:?} is missing").into()))
    }

    fn days(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The family called `name`, made when it is missing.
    fn family_or_new(&self, name: &str) -> Result<Family<'_>, StoreError> {
        if let Some(family) = self.db.cf_handle(name) {
            return Ok(family);
        }
        let mut days = self.days();
        if self.db.cf_handle(name).is_none() {
            self.db
                .create_cf(name, &family_options(&self.cache))
                .map_err(write_error)?;
            days.insert(name.to_owned());
        }
        self.db.cf_handle(name).ok_or_else(|| {
            StoreError::Write(format!("column family {name:?} was dropped meanwhile").into())
        })
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

    /// Calls `visit` with every window of (ptype, service) that starts in
    /// `window` and whose series `series` admits.
    fn windows(
        &self,
        request: &SumRequest<'_>,
        mut visit: impl FnMut(&WindowKey, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (from, until) = seconds(request.window);
        if from >= until {
            return Ok(());
        }
        for day in self.days_between(from, until, "w10/") {
            let Some(family) = self.db.cf_handle(&keys::fine_family(day)) else {
                continue;
            };
            let day_start = day.saturating_mul(DAY_S);
            let first = keys::hour(from.max(day_start));
            let last = keys::hour((until - 1).min(day_start + DAY_S - 1));
            for hour in first..=last {
                let prefix = keys::hour_prefix(request.ptype, request.service, hour);
                let mut visit_row = |key: &[u8], value: &[u8]| {
                    let key = keys::decode(day, key)
                        .ok_or_else(|| StoreError::damaged(key, "not a window's key"))?;
                    if (from..until).contains(&key.start_s) {
                        visit(&key, value)?;
                    }
                    Ok(())
                };
                match request.series {
                    None => self.prefixed(&family, &prefix, &mut visit_row)?,
                    Some(series) => {
                        for id in series {
                            let prefix = [&prefix[..], &id.0.to_be_bytes()].concat();
                            self.prefixed(&family, &prefix, &mut visit_row)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Days with a family of `tier` among those that `[from, until)` touches.
    fn days_between(&self, from: u64, until: u64, tier: &str) -> Vec<u64> {
        let range = keys::day(from)..=keys::day(until.saturating_sub(1));
        let mut days: Vec<u64> = self
            .days()
            .iter()
            .filter(|name| name.starts_with(tier))
            .filter_map(|name| keys::day_of_family(name))
            .filter(|day| range.contains(day))
            .collect();
        days.sort_unstable();
        days
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
            let family = self.family_or_new(&keys::fine_family(keys::day(key.start_s)))?;
            batch.put_cf(&family, keys::encode(key), value);
        }
        self.db.write_opt(batch, &synced()).map_err(write_error)
    }

    fn window(&self, key: &WindowKey) -> Result<Option<Vec<u8>>, StoreError> {
        let name = keys::fine_family(keys::day(key.start_s));
        match self.db.cf_handle(&name) {
            None => Ok(None),
            Some(family) => self
                .db
                .get_cf(&family, keys::encode(key))
                .map_err(read_error),
        }
    }

    fn sum(&self, request: &SumRequest<'_>) -> Result<RangeSum, StoreError> {
        let mut sum = RangeSum::default();
        self.windows(request, |key, value| {
            sum.add(key.series, key.start_s, value)
                .map_err(|problem| StoreError::damaged(&keys::encode(key), problem))
        })?;
        sum.finish();
        Ok(sum)
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
        self.windows(&request, |key, value| {
            let (span_ns, facts) = rows::read_facts(value)
                .ok_or_else(|| StoreError::damaged(&keys::encode(key), "unreadable facts"))?;
            visit(key, span_ns, &facts);
            Ok(())
        })
    }

    fn active_series(
        &self,
        ptype: PtypeId,
        service: ServiceId,
        window: Window,
    ) -> Result<Vec<SeriesId>, StoreError> {
        let request = SumRequest {
            ptype,
            service,
            series: None,
            window,
        };
        let mut series = Vec::new();
        self.windows(&request, |key, _| {
            if series.last() != Some(&key.series) {
                series.push(key.series);
            }
            Ok(())
        })?;
        series.sort_unstable();
        series.dedup();
        Ok(series)
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

    fn drop_before(&self, time: UnixNanos) -> Result<usize, StoreError> {
        let first_kept = u64::try_from(time.seconds()).map_or(0, keys::day);
        let mut families = self.days();
        let mut dropped = BTreeSet::new();
        for name in families.clone() {
            if let Some(day) = keys::day_of_family(&name)
                && day < first_kept
            {
                self.db.drop_cf(&name).map_err(write_error)?;
                families.remove(&name);
                dropped.insert(day);
            }
        }
        Ok(dropped.len())
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
        for day in self.days_between(from, until, "feature/") {
            if let Some(family) = self.db.cf_handle(&keys::feature_family(day)) {
                self.prefixed(&family, prefix, |key, value| {
                    out.push((key.to_vec(), value.to_vec()));
                    Ok(())
                })?;
            }
        }
        Ok(out)
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
        let days = self.days().clone();
        let fixed = [DICTIONARY, STATE].map(str::to_owned);
        for name in days.into_iter().chain(fixed) {
            if let Some(family) = self.db.cf_handle(&name) {
                usage.disk_bytes += property(&family, "rocksdb.total-sst-files-size");
                usage.memory_bytes += property(&family, "rocksdb.cur-size-all-mem-tables");
                usage.days += usize::from(name.starts_with("w10/"));
            }
        }
        usage
    }
}
