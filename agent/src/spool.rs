//! Batches on disk that wait for the collector.
//!
//! A batch gets its identity, (instance, sequence), when it is appended and
//! keeps it until it is acknowledged, also across restarts: [`Spool::open`]
//! adopts what earlier agents left in the same folder. Each body is
//! self-contained, so any batch can be read without the ones before it.
//!
//! Promises: what was appended survives the death of the process; the disk it
//! takes stays under a bound, the oldest batches going first and counted; a
//! damaged file is dropped and counted and never stops the others. Files are
//! renamed into place but not synced: a loss of power can lose the last
//! seconds. Several agents may share the folder: each holds the lock of its
//! own subfolder, and only subfolders without a living owner are adopted. The
//! bound is per agent.
//!
//! Layout: `DIR/lock`, taken while opening, and `DIR/GENERATION-INSTANCE/` with
//! `lock` and one `SEQUENCE.batch` per batch. Generations count up, so that
//! older instances sort first without trusting a clock. A batch file is, big
//! endian: `TSPB`, version (u8), windows (u32), sequence (u64), instance (16
//! bytes), XXH3-64 of all the rest of the file (u64), body (zstd of
//! `tepui.v1.BatchBody`).

mod folder;
mod format;
mod index;

use std::fs::{self, DirBuilder, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use prost::Message;
use proto::codec::{self, CodecError};
use proto::dictionary::{DictionaryError, Encoder};
use proto::limits::{INSTANCE_BYTES, MAX_BATCH_BYTES, MAX_BODY_BYTES, MAX_WINDOWS};
use proto::profile::Profile;
use tokio::sync::Notify;
use tracing::{error, warn};

use self::folder::{Folder, UNFINISHED, file_name, open_lock, parse_folder_name, remove_file};
use self::index::{Entry, Index, on_disk};
pub use format::{BatchId, SpooledBatch};
use format::{Hex, encode_file, read_batch};

/// What a spool holds and what it has lost since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolStats {
    /// Batches waiting.
    pub batches: u64,
    /// Windows waiting.
    pub windows: u64,
    /// Disk taken, in bytes.
    pub bytes: u64,
    /// Batches lost: pushed out, damaged or refused for good.
    pub dropped_batches: u64,
    /// Windows of those, as far as known, and windows that could not be
    /// written or were refused alone.
    pub dropped_windows: u64,
}

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The folder cannot be made, listed, locked or written.
    #[error(
        "cannot use {} as the spool: set spool.directory (--spool DIR) to a folder that this user can write",
        dir.display()
    )]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The folder already holds batches of this very instance, so that
    /// sequences would be used twice.
    #[error("spool {} already has a folder of instance {instance}: draw a new instance at each start", dir.display())]
    InstanceUsed {
        /// The folder.
        dir: PathBuf,
        /// The instance in hexadecimal.
        instance: String,
    },
    /// A batch could not be written; its windows are counted as dropped.
    #[error("cannot write batch {} to the spool", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// One window alone is larger than a batch may be; it is counted as dropped.
    #[error("window is too large for a batch")]
    TooLarge(#[source] DictionaryError),
    /// A batch could not be packed; its windows are counted as dropped.
    #[error("cannot pack a batch")]
    Pack(#[source] CodecError),
}

/// A bounded queue of batches on disk; see the module.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    max_bytes: u64,
    generation: u64,
    instance: [u8; INSTANCE_BYTES],
    index: Mutex<Index>,
    appended: Notify,
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

impl Spool {
    /// Opens the spool in `dir`, making the folder if need be, for the agent
    /// `instance`, which must be new at each start. Batches of agents that are
    /// gone are adopted. At most `max_bytes` of disk are used.
    ///
    /// # Errors
    ///
    /// [`SpoolError::Folder`] if the folder cannot be used,
    /// [`SpoolError::InstanceUsed`] if the instance is not new.
    pub fn open(
        dir: &Path,
        max_bytes: u64,
        instance: [u8; INSTANCE_BYTES],
    ) -> Result<Self, SpoolError> {
        let unusable = |source| SpoolError::Folder {
            dir: dir.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(unusable)?;
        let opening = open_lock(dir).map_err(unusable)?;
        opening.lock().map_err(unusable)?;
        let mut index = Index::default();
        let mut generation = 0;
        for file in fs::read_dir(dir).map_err(unusable)? {
            let path = file.map_err(unusable)?.path();
            let Some((number, owner)) = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(parse_folder_name)
            else {
                continue;
            };
            if owner == instance {
                return Err(SpoolError::InstanceUsed {
                    dir: dir.to_owned(),
                    instance: Hex(&instance).to_string(),
                });
            }
            generation = generation.max(number);
            let lock = match open_lock(&path) {
                // Its owner emptied and removed it just now.
                Err(failure) if failure.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(unusable)?,
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(failure)) => return Err(unusable(failure)),
            }
            let folder = Folder {
                path,
                instance: owner,
                lock: Some(lock),
            };
            index.adopt(number, folder).map_err(unusable)?;
        }
        let generation = generation.saturating_add(1);
        let path = dir.join(format!("{generation:08x}-{}", Hex(&instance)));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(unusable)?;
        let lock = open_lock(&path).map_err(unusable)?;
        lock.try_lock().map_err(io::Error::from).map_err(unusable)?;
        let own = Folder {
            path,
            instance,
            lock: Some(lock),
        };
        index.folders.insert(generation, own);
        let spool = Self {
            dir: dir.to_owned(),
            max_bytes,
            generation,
            instance,
            index: Mutex::new(index),
            appended: Notify::new(),
        };
        spool.make_room(&mut spool.index());
        Ok(spool)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder it was opened in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The instance it was opened for.
    pub fn instance(&self) -> [u8; INSTANCE_BYTES] {
        self.instance
    }

    /// Appends `profiles`, as one batch or, past a cap of a batch, as several.
    /// When this passes the bound the oldest batches are dropped and counted.
    ///
    /// # Errors
    ///
    /// [`SpoolError`] if some of the profiles could not be kept. They are
    /// counted as dropped; those in batches of their own are kept.
    pub fn append(&self, profiles: &[Profile]) -> Result<(), SpoolError> {
        if profiles.is_empty() {
            return Ok(());
        }
        let encoded = if profiles.len() > MAX_WINDOWS {
            Err(DictionaryError::TooLarge {
                what: "number of windows",
                size: profiles.len(),
                limit: MAX_WINDOWS,
            })
        } else {
            Encoder::new().encode(profiles)
        };
        let packed = encoded.and_then(|body| {
            let bytes = body.encode_to_vec();
            within("batch body in bytes", bytes.len(), MAX_BODY_BYTES)?;
            let packed = codec::zstd(&bytes);
            if let Ok(packed) = &packed {
                within("packed batch body in bytes", packed.len(), MAX_BATCH_BYTES)?;
            }
            Ok(packed)
        });
        match packed {
            Ok(Ok(body)) => self.write(count(profiles.len()), body),
            Ok(Err(failure)) => {
                self.count_dropped_windows(count(profiles.len()));
                Err(SpoolError::Pack(failure))
            }
            Err(_) if profiles.len() > 1 => {
                let (first, second) = profiles.split_at(profiles.len() / 2);
                let first = self.append(first);
                self.append(second).and(first)
            }
            Err(failure) => {
                self.count_dropped_windows(1);
                Err(SpoolError::TooLarge(failure))
            }
        }
    }

    fn write(&self, windows: u64, body: Vec<u8>) -> Result<(), SpoolError> {
        let mut index = self.index();
        let sequence = index.last_sequence.saturating_add(1);
        let batch = SpooledBatch {
            id: BatchId {
                instance: self.instance,
                sequence,
            },
            windows: u32::try_from(windows).unwrap_or(u32::MAX),
            body,
        };
        let bytes = encode_file(&batch);
        let path = index.folders.get(&self.generation).map_or_else(
            || self.dir.join(file_name(sequence)),
            |own| own.file(sequence),
        );
        let unfinished = path.with_extension(UNFINISHED.trim_start_matches('.'));
        if let Err(source) =
            fs::write(&unfinished, &bytes).and_then(|()| fs::rename(&unfinished, &path))
        {
            remove_file(&unfinished);
            index.stats.dropped_windows += windows;
            return Err(SpoolError::Write { path, source });
        }
        index.last_sequence = sequence;
        let entry = Entry {
            windows: batch.windows,
            disk_bytes: on_disk(count(bytes.len())),
        };
        index.insert((self.generation, sequence), entry);
        self.make_room(&mut index);
        drop(index);
        self.appended.notify_one();
        Ok(())
    }

    fn make_room(&self, index: &mut Index) {
        let before = index.stats.dropped_windows;
        while index.stats.bytes > self.max_bytes
            && let Some((&oldest, _)) = index.entries.first_key_value()
        {
            index.drop_batch(oldest, self.generation);
        }
        let windows = index.stats.dropped_windows - before;
        if windows > 0 {
            error!(
                windows,
                max_bytes = self.max_bytes,
                "spool full, oldest windows dropped"
            );
        }
    }

    /// The oldest batch, or the oldest one after `after`; instances in the
    /// order of their starts. A damaged one is dropped, counted and passed over;
    /// one that cannot be read now is passed over.
    ///
    /// Reads a file; not for an `async` thread.
    pub fn next(&self, after: Option<&BatchId>) -> Option<SpooledBatch> {
        let mut index = self.index();
        let mut start = after
            .and_then(|id| index.position_of(id))
            .map_or((0, 0), |(generation, sequence)| {
                (generation, sequence.saturating_add(1))
            });
        loop {
            let (&position, _) = index.entries.range(start..).next()?;
            let (generation, sequence) = position;
            let folder = index.folders.get(&generation)?;
            let path = folder.file(sequence);
            let id = BatchId {
                instance: folder.instance,
                sequence,
            };
            match read_batch(&path, &id) {
                Ok(Some(batch)) => return Some(batch),
                Ok(None) => {
                    error!(path = %path.display(), "damaged batch in the spool dropped");
                    index.drop_batch(position, self.generation);
                }
                // It may pass, as when files run out: kept for a later stream.
                Err(failure) => {
                    warn!(path = %path.display(), error = %failure, "cannot read a batch of the spool");
                }
            }
            start = (generation, sequence.saturating_add(1));
        }
    }

    /// Removes a batch that the collector has. An unknown one is no matter.
    pub fn remove(&self, id: &BatchId) {
        let mut index = self.index();
        if let Some(position) = index.position_of(id) {
            index.take(position, self.generation);
        }
    }

    /// Removes a batch that the collector will never take, and counts it.
    pub fn discard(&self, id: &BatchId) {
        let mut index = self.index();
        if let Some(position) = index.position_of(id) {
            index.drop_batch(position, self.generation);
        }
    }

    /// Counts windows lost outside of the spool's own doing.
    pub fn count_dropped_windows(&self, windows: u64) {
        self.index().stats.dropped_windows += windows;
    }

    /// What it holds and what it has lost.
    pub fn stats(&self) -> SpoolStats {
        self.index().stats
    }

    /// Waits until something was appended since the last wait; for one waiter.
    pub async fn wait(&self) {
        self.appended.notified().await;
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let generation = self.generation;
        let index = self.index.get_mut().unwrap_or_else(PoisonError::into_inner);
        let own = index.entries.range((generation, 0)..).next();
        if own.is_none()
            && let Some(folder) = index.folders.get_mut(&generation)
        {
            folder.dissolve();
        }
    }
}

fn within(what: &'static str, size: usize, limit: usize) -> Result<(), DictionaryError> {
    if size > limit {
        return Err(DictionaryError::TooLarge { what, size, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
