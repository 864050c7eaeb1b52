//! The store on an embedded RocksDB.
//!
//! Column families: `dictionary` and `state` for ever; windows, rows, feature
//! rows and activity in families of a stretch of time each, dropped whole.
//! Windows and the dictionary rows they need go in one synced write batch.

mod backup;
mod contract;
mod deletion;
mod dropping;
mod read;
mod recent;
mod write;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rocksdb::{
    BlockBasedOptions, BoundColumnFamily, Cache, ColumnFamilyDescriptor, DBCompactionStyle,
    DBCompressionType, DBWithThreadMode, MultiThreaded, Options, WriteBufferManager,
};

use self::recent::Recent;
use self::write::synced;
use super::tier::Tier;
use super::{Kept, ServiceId, StoreError, keys, rows};

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
/// Bytes of a file. What is new belongs behind what a family has, so of large files
/// the last would be written again and again.
const FILE_BYTES: u64 = 16 << 20;
/// Flushed files of a family that are merged together.
const FLUSHED_FILES: i32 = 8;
/// Level of the engine's final compression: stored values are dense already, and a
/// higher one takes twice the time for 3 % of the bytes.
const ZSTD_LEVEL: i32 = 1;
/// The engine's own default.
const WINDOW_BITS: i32 = -14;
/// Bytes of a file that is being written after which they go to the disk.
const SYNC_BYTES: u64 = 1 << 20;

/// How a database is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Made when there is none.
    ReadWrite,
    ReadOnly,
}

/// What the parts of a store may take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Blocks of the engine, its write buffers among them.
    pub blocks: usize,
    /// The part of `blocks` that write buffers may take.
    pub write_buffers: usize,
    /// Windows of the last minutes.
    pub recent: usize,
}

/// A store in one folder.
pub struct RocksStore {
    db: Db,
    path: PathBuf,
    cache: Cache,
    /// Names of the families that are dropped one day; held while one is made or dropped.
    families: Mutex<BTreeSet<String>>,
    /// Services that are being deleted or were since the start; held shared while
    /// something is written.
    deleted: RwLock<BTreeSet<ServiceId>>,
    recent: RwLock<Recent>,
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

fn family_options(name: &str, cache: &Cache) -> Options {
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
    options.set_bottommost_compression_options(WINDOW_BITS, ZSTD_LEVEL, 0, 0, true);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_target_file_size_base(FILE_BYTES);
    options.set_level_zero_file_num_compaction_trigger(FLUSHED_FILES);
    if is_all_over(name) {
        options.set_compaction_style(DBCompactionStyle::Universal);
    }
    options
}

/// Whether what is new belongs all over what a family has, instead of behind it: each
/// hour of a month, and each day of a year, has a row behind those of every series. In
/// levels all of a family would be written again for each part that comes.
fn is_all_over(name: &str) -> bool {
    let tier = name.split_once('/').map(|(tier, _)| tier);
    [Tier::Hour, Tier::Day]
        .map(Tier::family_name)
        .iter()
        .any(|all_over| tier == Some(all_over))
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
        let memory = Memory {
            blocks: cache_bytes,
            write_buffers: cache_bytes / 2,
            recent: cache_bytes / 8,
        };
        Self::open_with(path, memory)
    }

    /// As [`RocksStore::open`], with a share of memory for each part.
    ///
    /// # Errors
    ///
    /// As [`RocksStore::open`].
    pub fn open_with(path: &Path, memory: Memory) -> Result<Self, StoreError> {
        std::fs::create_dir_all(path).map_err(|source| StoreError::Open {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let store = Self::open_database(path, memory, Access::ReadWrite)?;
        store.check_format()?;
        store.remember_doomed()?;
        Ok(store)
    }

    /// Opens the database in `path` as it is.
    fn open_database(path: &Path, memory: Memory, access: Access) -> Result<Self, StoreError> {
        let open_error = |source: rocksdb::Error| StoreError::Open {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let cache = Cache::new_lru_cache(memory.blocks);
        let mut options = family_options(STATE, &cache);
        options.create_if_missing(access == Access::ReadWrite);
        options.create_missing_column_families(access == Access::ReadWrite);
        options.set_max_background_jobs(2);
        // The sync of a log need not wait for all of a large file at once.
        options.set_bytes_per_sync(SYNC_BYTES);
        let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            memory.write_buffers,
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
            .map(|name| ColumnFamilyDescriptor::new(name, family_options(name, &cache)));
        let db = match access {
            Access::ReadWrite => Db::open_cf_descriptors(&options, path, families),
            Access::ReadOnly => Db::open_cf_descriptors_read_only(&options, path, families, false),
        };
        Ok(Self {
            db: db.map_err(open_error)?,
            path: path.to_owned(),
            cache,
            families: Mutex::new(
                names
                    .into_iter()
                    .filter(|name| is_dropped_one_day(name))
                    .collect(),
            ),
            deleted: RwLock::default(),
            recent: RwLock::new(Recent::new(memory.recent)),
        })
    }

    /// The format that is written down, if it is known here.
    fn known_format(&self) -> Result<Option<u32>, StoreError> {
        let key = rows::format_key();
        let Some(value) = self.get(DICTIONARY, &key)? else {
            return Ok(None);
        };
        let found = <[u8; 4]>::try_from(value.as_slice())
            .map(u32::from_be_bytes)
            .map_err(|_| StoreError::damaged(&key, "not a format version"))?;
        match found > rows::FORMAT {
            true => Err(StoreError::NewerFormat {
                path: self.path.clone(),
                found,
                known: rows::FORMAT,
            }),
            false => Ok(Some(found)),
        }
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let Some(mut found) = self.known_format()? else {
            return self.write_format(rows::FORMAT);
        };
        while found < rows::FORMAT {
            found = self.migrate(found)?;
        }
        Ok(())
    }

    /// Writes down that the database has this format.
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
                .create_cf(name, &family_options(name, &self.cache))
                .map_err(write_error)?;
            families.insert(name.to_owned());
        }
        self.db.cf_handle(name).ok_or_else(|| {
            StoreError::Write(format!("column family {name:?} was dropped meanwhile").into())
        })
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
