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

mod format;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use prost::Message;
use proto::codec::{self, CodecError};
use proto::dictionary::{DictionaryError, Encoder};
use proto::limits::{INSTANCE_BYTES, MAX_BATCH_BYTES, MAX_BODY_BYTES, MAX_WINDOWS};
use proto::profile::Profile;
use tokio::sync::Notify;
use tracing::{error, warn};

pub use format::{BatchId, SpooledBatch};
use format::{HEADER_BYTES, Hex, MAX_FILE_BYTES, decode_header, encode_file, read_batch};

/// What a file takes on disk is a multiple of this.
const BLOCK_BYTES: u64 = 4096;
/// Name of lock files.
const LOCK: &str = "lock";
/// Suffix of batch files.
const SUFFIX: &str = ".batch";
/// Suffix of batch files that are being written.
const UNFINISHED: &str = ".tmp";

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

/// Position of a batch in the order of sending.
type Position = (u64, u64);

#[derive(Clone, Copy, Debug)]
struct Entry {
    windows: u32,
    disk_bytes: u64,
}

/// One instance's subfolder.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    instance: [u8; INSTANCE_BYTES],
    /// Held while the folder is ours; gone when the folder was emptied.
    lock: Option<File>,
}

#[derive(Debug, Default)]
struct State {
    /// By generation. Emptied ones stay, so that their ids keep their place.
    folders: BTreeMap<u64, Folder>,
    entries: BTreeMap<Position, Entry>,
    last_sequence: u64,
    stats: SpoolStats,
}

/// A bounded queue of batches on disk; see the module.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    max_bytes: u64,
    generation: u64,
    instance: [u8; INSTANCE_BYTES],
    state: Mutex<State>,
    appended: Notify,
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn on_disk(file_bytes: u64) -> u64 {
    file_bytes
        .max(1)
        .checked_next_multiple_of(BLOCK_BYTES)
        .unwrap_or(u64::MAX)
}

fn file_name(sequence: u64) -> String {
    format!("{sequence:016x}{SUFFIX}")
}

/// Generation and instance that a subfolder's name tells.
fn parse_folder_name(name: &str) -> Option<(u64, [u8; INSTANCE_BYTES])> {
    let (generation, instance) = name.split_once('-')?;
    if instance.len() != INSTANCE_BYTES * 2 || !instance.is_ascii() {
        return None;
    }
    let mut bytes = [0; INSTANCE_BYTES];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(instance.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some((u64::from_str_radix(generation, 16).ok()?, bytes))
}

fn open_lock(dir: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(dir.join(LOCK))
}

/// Removes a file that may be gone already.
fn remove_file(path: &Path) {
    match fs::remove_file(path) {
        Err(failure) if failure.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), error = %failure, "cannot remove a spool file");
        }
        _ => {}
    }
}

impl Folder {
    /// Removes the subfolder when nothing but its lock is left in it.
    fn dissolve(&mut self) {
        remove_file(&self.path.join(LOCK));
        if let Err(failure) = fs::remove_dir(&self.path) {
            warn!(path = %self.path.display(), error = %failure, "cannot remove an emptied spool folder");
        }
        self.lock = None;
    }

    fn file(&self, sequence: u64) -> PathBuf {
        self.path.join(file_name(sequence))
    }
}

impl State {
    fn insert(&mut self, position: Position, entry: Entry) {
        self.entries.insert(position, entry);
        self.stats.batches += 1;
        self.stats.windows += u64::from(entry.windows);
        self.stats.bytes += entry.disk_bytes;
    }

    /// Takes a batch out of the index and off the disk.
    fn take(&mut self, position: Position, own_generation: u64) -> Option<Entry> {
        let entry = self.entries.remove(&position)?;
        self.stats.batches -= 1;
        self.stats.windows -= u64::from(entry.windows);
        self.stats.bytes -= entry.disk_bytes;
        let (generation, sequence) = position;
        let emptied = generation != own_generation
            && self
                .entries
                .range((generation, 0)..=(generation, u64::MAX))
                .next()
                .is_none();
        if let Some(folder) = self.folders.get_mut(&generation) {
            remove_file(&folder.file(sequence));
            if emptied {
                folder.dissolve();
            }
        }
        Some(entry)
    }

    fn drop_batch(&mut self, position: Position, own_generation: u64) {
        if let Some(entry) = self.take(position, own_generation) {
            self.stats.dropped_batches += 1;
            self.stats.dropped_windows += u64::from(entry.windows);
        }
    }

    fn position_of(&self, id: &BatchId) -> Option<Position> {
        self.folders
            .iter()
            .rev()
            .find(|(_, folder)| folder.instance == id.instance)
            .map(|(generation, _)| (*generation, id.sequence))
    }

    /// Indexes what another instance left in `folder`.
    fn adopt(&mut self, generation: u64, mut folder: Folder) -> io::Result<()> {
        let mut entries = Vec::new();
        for file in fs::read_dir(&folder.path)? {
            let path = file?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if name.ends_with(UNFINISHED) {
                remove_file(&path);
            } else if let Some(sequence) = name
                .strip_suffix(SUFFIX)
                .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            {
                let id = BatchId {
                    instance: folder.instance,
                    sequence,
                };
                if let Some(entry) = read_entry(&path, &id) {
                    entries.push((sequence, entry));
                } else {
                    warn!(path = %path.display(), "dropping a damaged batch of an earlier agent");
                    self.stats.dropped_batches += 1;
                    remove_file(&path);
                }
            }
        }
        if entries.is_empty() {
            folder.dissolve();
        }
        self.folders.insert(generation, folder);
        for (sequence, entry) in entries {
            self.insert((generation, sequence), entry);
        }
        Ok(())
    }
}

/// Reads a batch file's header; none if it is not the file of batch `id`.
fn read_entry(path: &Path, id: &BatchId) -> Option<Entry> {
    let mut file = File::open(path).ok()?;
    let file_bytes = file.metadata().ok()?.len();
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header).ok()?;
    let (found, windows) = decode_header(&header)?;
    (found == *id && file_bytes <= MAX_FILE_BYTES).then_some(Entry {
        windows,
        disk_bytes: on_disk(file_bytes),
    })
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
        let mut state = State::default();
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
            state.adopt(number, folder).map_err(unusable)?;
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
        state.folders.insert(generation, own);
        let spool = Self {
            dir: dir.to_owned(),
            max_bytes,
            generation,
            instance,
            state: Mutex::new(state),
            appended: Notify::new(),
        };
        spool.make_room(&mut spool.state());
        Ok(spool)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut state = self.state();
        let sequence = state.last_sequence.saturating_add(1);
        let batch = SpooledBatch {
            id: BatchId {
                instance: self.instance,
                sequence,
            },
            windows: u32::try_from(windows).unwrap_or(u32::MAX),
            body,
        };
        let bytes = encode_file(&batch);
        let path = state.folders.get(&self.generation).map_or_else(
            || self.dir.join(file_name(sequence)),
            |own| own.file(sequence),
        );
        let unfinished = path.with_extension(UNFINISHED.trim_start_matches('.'));
        if let Err(source) =
            fs::write(&unfinished, &bytes).and_then(|()| fs::rename(&unfinished, &path))
        {
            remove_file(&unfinished);
            state.stats.dropped_windows += windows;
            return Err(SpoolError::Write { path, source });
        }
        state.last_sequence = sequence;
        let entry = Entry {
            windows: batch.windows,
            disk_bytes: on_disk(count(bytes.len())),
        };
        state.insert((self.generation, sequence), entry);
        self.make_room(&mut state);
        drop(state);
        self.appended.notify_one();
        Ok(())
    }

    fn make_room(&self, state: &mut State) {
        let before = state.stats.dropped_windows;
        while state.stats.bytes > self.max_bytes
            && let Some((&oldest, _)) = state.entries.first_key_value()
        {
            state.drop_batch(oldest, self.generation);
        }
        let windows = state.stats.dropped_windows - before;
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
        let mut state = self.state();
        let mut start = after
            .and_then(|id| state.position_of(id))
            .map_or((0, 0), |(generation, sequence)| {
                (generation, sequence.saturating_add(1))
            });
        loop {
            let (&position, _) = state.entries.range(start..).next()?;
            let (generation, sequence) = position;
            let folder = state.folders.get(&generation)?;
            let path = folder.file(sequence);
            let id = BatchId {
                instance: folder.instance,
                sequence,
            };
            match read_batch(&path, &id) {
                Ok(Some(batch)) => return Some(batch),
                Ok(None) => {
                    error!(path = %path.display(), "damaged batch in the spool dropped");
                    state.drop_batch(position, self.generation);
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
        let mut state = self.state();
        if let Some(position) = state.position_of(id) {
            state.take(position, self.generation);
        }
    }

    /// Removes a batch that the collector will never take, and counts it.
    pub fn discard(&self, id: &BatchId) {
        let mut state = self.state();
        if let Some(position) = state.position_of(id) {
            state.drop_batch(position, self.generation);
        }
    }

    /// Counts windows lost outside of the spool's own doing.
    pub fn count_dropped_windows(&self, windows: u64) {
        self.state().stats.dropped_windows += windows;
    }

    /// What it holds and what it has lost.
    pub fn stats(&self) -> SpoolStats {
        self.state().stats
    }

    /// Waits until something was appended since the last wait; for one waiter.
    pub async fn wait(&self) {
        self.appended.notified().await;
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let generation = self.generation;
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let own = state.entries.range((generation, 0)..).next();
        if own.is_none()
            && let Some(folder) = state.folders.get_mut(&generation)
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
mod tests {
    use super::*;
    use proto::labels::LabelSet;
    use proto::profile::{Column, Facts};
    use proto::stack::{Frame, FrameKind, Stack};
    use proto::value_type::{ProfileType, Temporality};
    use proto::window::{UnixNanos, Window};

    const ROOM: u64 = 1 << 20;
    const ONE: [u8; 16] = [1; 16];
    const TWO: [u8; 16] = [2; 16];
    const THREE: [u8; 16] = [3; 16];

    fn profile(second: i64, frames: &[String]) -> Profile {
        let start = UnixNanos::new(second * 1_000_000_000);
        let stack: Stack = frames
            .iter()
            .map(|name| Frame::named(FrameKind::Native, name))
            .collect();
        let column = Column {
            profile_type: ProfileType::cpu(),
            temporality: Temporality::Delta,
            period: 10,
            weight: 10,
            values: vec![7],
        };
        Profile::new(
            LabelSet::new([("service", "s")]).unwrap(),
            Window::from_start(start, 1_000_000_000).unwrap(),
            vec![stack],
            vec![column],
            Facts::default(),
        )
        .unwrap()
    }

    fn small(second: i64) -> Profile {
        profile(second, &["leaf".to_owned(), "main".to_owned()])
    }

    fn sequences(spool: &Spool) -> Vec<(u8, u64)> {
        let mut found: Vec<(u8, u64)> = Vec::new();
        let mut after = None;
        while let Some(batch) = spool.next(after.as_ref()) {
            after = Some(batch.id);
            found.push((batch.id.instance[0], batch.id.sequence));
        }
        found
    }

    fn batch_file(dir: &Path, instance: u8, sequence: u64) -> PathBuf {
        let folder = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.to_string_lossy().ends_with(&format!("{instance:02x}")))
            .unwrap();
        folder.join(file_name(sequence))
    }

    #[test]
    fn batches_keep_their_identity_and_order_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let first = Spool::open(dir.path(), ROOM, ONE).unwrap();
        first.append(&[small(0), small(1)]).unwrap();
        first.append(&[small(2)]).unwrap();
        let bodies = [first.next(None).unwrap(), {
            let id = first.next(None).unwrap().id;
            first.next(Some(&id)).unwrap()
        }];
        drop(first);

        let second = Spool::open(dir.path(), ROOM, TWO).unwrap();
        second.append(&[small(3)]).unwrap();
        assert_eq!(sequences(&second), [(1, 1), (1, 2), (2, 1)]);
        assert_eq!(second.next(None).unwrap(), bodies[0]);
        assert_eq!(second.next(Some(&bodies[0].id)).unwrap(), bodies[1]);
        assert_eq!(second.stats().windows, 4);

        // Batch 1 was acknowledged; nobody sees it again, and an emptied
        // folder keeps its place in the order.
        second.remove(&bodies[0].id);
        second.remove(&bodies[1].id);
        assert_eq!(second.next(Some(&bodies[1].id)).unwrap().id.instance, TWO);
        drop(second);
        let third = Spool::open(dir.path(), ROOM, THREE).unwrap();
        assert_eq!(sequences(&third), [(2, 1)]);
        assert_eq!(third.stats().dropped_batches, 0);
    }

    #[test]
    fn the_oldest_go_first_and_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), 3 * BLOCK_BYTES, ONE).unwrap();
        for second in 0..5 {
            spool.append(&[small(second), small(second + 100)]).unwrap();
        }
        assert_eq!(sequences(&spool), [(1, 3), (1, 4), (1, 5)]);
        let expected = SpoolStats {
            batches: 3,
            windows: 6,
            bytes: 3 * BLOCK_BYTES,
            dropped_batches: 2,
            dropped_windows: 4,
        };
        assert_eq!(spool.stats(), expected);
        drop(spool);
        // A smaller bound holds from the start, and for older instances first.
        let spool = Spool::open(dir.path(), 2 * BLOCK_BYTES, TWO).unwrap();
        spool.append(&[small(9)]).unwrap();
        assert_eq!(sequences(&spool), [(1, 5), (2, 1)]);
        assert_eq!(spool.stats().dropped_windows, 4);
    }

    #[test]
    fn an_empty_spool_leaves_no_folder() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), ROOM, ONE).unwrap();
        spool.append(&[]).unwrap();
        spool.append(&[small(0)]).unwrap();
        let id = spool.next(None).unwrap().id;
        spool.remove(&id);
        spool.remove(&id);
        drop(spool);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "only the lock: {left:?}");
    }

    #[test]
    fn two_agents_do_not_take_from_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let one = Spool::open(dir.path(), ROOM, ONE).unwrap();
        one.append(&[small(0)]).unwrap();
        let two = Spool::open(dir.path(), ROOM, TWO).unwrap();
        two.append(&[small(1)]).unwrap();
        assert_eq!(sequences(&one), [(1, 1)]);
        assert_eq!(sequences(&two), [(2, 1)]);
        assert!(matches!(
            Spool::open(dir.path(), ROOM, ONE),
            Err(SpoolError::InstanceUsed { .. })
        ));
        drop(one);
        let three = Spool::open(dir.path(), ROOM, THREE).unwrap();
        assert_eq!(sequences(&three), [(1, 1)]);
    }

    #[test]
    fn damaged_files_are_dropped_and_counted() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage, bool); 6] = [
            ("empty", |file| fs::write(file, b"").unwrap(), true),
            (
                "cut in the header",
                |file| {
                    let bytes = fs::read(file).unwrap();
                    fs::write(file, &bytes[..20]).unwrap();
                },
                true,
            ),
            (
                "newer version",
                |file| {
                    let mut bytes = fs::read(file).unwrap();
                    bytes[4] = 9;
                    fs::write(file, &bytes).unwrap();
                },
                true,
            ),
            (
                "another batch's file",
                |file| {
                    let mut bytes = fs::read(file).unwrap();
                    bytes[16] = 77;
                    fs::write(file, &bytes).unwrap();
                },
                true,
            ),
            (
                "cut in the body",
                |file| {
                    let bytes = fs::read(file).unwrap();
                    fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
                },
                false,
            ),
            (
                "flipped bit",
                |file| {
                    let mut bytes = fs::read(file).unwrap();
                    *bytes.last_mut().unwrap() ^= 1;
                    fs::write(file, &bytes).unwrap();
                },
                false,
            ),
        ];
        for (what, damage, seen_at_open) in damages {
            let dir = tempfile::tempdir().unwrap();
            let one = Spool::open(dir.path(), ROOM, ONE).unwrap();
            for second in 0..3 {
                one.append(&[small(second)]).unwrap();
            }
            drop(one);
            let file = batch_file(dir.path(), 1, 2);
            damage(&file);
            fs::write(file.with_extension("tmp"), b"unfinished").unwrap();
            let two = Spool::open(dir.path(), ROOM, TWO).unwrap();
            assert_eq!(two.stats().dropped_batches == 1, seen_at_open, "{what}");
            assert_eq!(sequences(&two), [(1, 1), (1, 3)], "{what}");
            assert_eq!(two.stats().dropped_batches, 1, "{what}");
            assert_eq!(two.stats().batches, 2, "{what}");
            assert!(!file.exists(), "{what}");
            assert!(!file.with_extension("tmp").exists(), "{what}");
        }
    }

    #[test]
    fn an_unusable_folder_is_named_with_the_setting() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let failure = Spool::open(&file.join("spool"), ROOM, ONE).unwrap_err();
        assert!(matches!(failure, SpoolError::Folder { .. }));
        assert!(failure.to_string().contains("file/spool"));
        assert!(
            failure
                .to_string()
                .contains("set spool.directory (--spool DIR)")
        );
    }

    #[test]
    fn a_failed_write_is_counted_and_takes_no_sequence() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), ROOM, ONE).unwrap();
        let in_the_way = batch_file(dir.path(), 1, 1);
        fs::create_dir_all(in_the_way.join("x")).unwrap();
        assert!(matches!(
            spool.append(&[small(0)]),
            Err(SpoolError::Write { .. })
        ));
        assert_eq!(spool.stats().dropped_windows, 1);
        fs::remove_dir_all(&in_the_way).unwrap();
        spool.append(&[small(1)]).unwrap();
        assert_eq!(sequences(&spool), [(1, 1)]);
    }

    #[test]
    fn what_is_too_large_for_a_batch_becomes_several() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), 256 << 20, ONE).unwrap();
        let many: Vec<Profile> = (0..1500).map(small).collect();
        spool.append(&many).unwrap();
        assert_eq!(spool.stats().batches, 2);
        assert_eq!(spool.stats().windows, 1500);

        // Names of 10 KB: 900 fill over half of a dictionary, 2000 more than all.
        let frames = |tag: &str, names: usize| -> Vec<String> {
            (0..names).map(|n| format!("{tag}{n:>10000}")).collect()
        };
        let heavy: Vec<Profile> = (0..2)
            .map(|n| profile(n, &frames(&format!("p{n}"), 900)))
            .collect();
        spool.append(&heavy).unwrap();
        assert_eq!(spool.stats().batches, 4);
        let parts: Vec<Stack> = (0..4)
            .map(|n| {
                frames(&format!("q{n}"), 900)
                    .iter()
                    .map(|name| Frame::named(FrameKind::Native, name))
                    .collect()
            })
            .collect();
        let one = small(0);
        let mut column = one.columns()[0].clone();
        column.values = vec![1; parts.len()];
        let impossible = Profile::new(
            one.labels().clone(),
            one.window(),
            parts,
            vec![column],
            Facts::default(),
        )
        .unwrap();
        assert!(matches!(
            spool.append(&[small(1), impossible, small(2)]),
            Err(SpoolError::TooLarge(_))
        ));
        assert_eq!(spool.stats().dropped_windows, 1);
        assert_eq!(spool.stats().windows, 1504);
    }

    #[tokio::test]
    async fn an_append_wakes_the_waiter_also_when_it_came_first() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), ROOM, ONE).unwrap();
        spool.append(&[small(0)]).unwrap();
        spool.wait().await;
        tokio::join!(spool.wait(), async {
            spool.append(&[small(1)]).unwrap();
        });
    }

    proptest::proptest! {
        #[test]
        fn no_folder_name_panics(name in "\\PC{0,40}|[0-9a-f]{1,8}-[0-9a-fg+]{32}") {
            let _whatever = parse_folder_name(&name);
        }
    }
}
