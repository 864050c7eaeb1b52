//! What batches lie in the folders of a spool, in the order of sending.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use tracing::warn;

use super::SpoolStats;
use super::folder::{Folder, SUFFIX, UNFINISHED, remove_file};
use super::format::{BatchId, HEADER_BYTES, MAX_FILE_BYTES, decode_header};

/// What a file takes on disk is a multiple of this.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// Position of a batch in the order of sending.
pub(super) type Position = (u64, u64);

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) windows: u32,
    pub(super) disk_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    /// By generation. Emptied ones stay, so that their ids keep their place.
    pub(super) folders: BTreeMap<u64, Folder>,
    pub(super) entries: BTreeMap<Position, Entry>,
    pub(super) last_sequence: u64,
    pub(super) stats: SpoolStats,
}

pub(super) fn on_disk(file_bytes: u64) -> u64 {
    file_bytes
        .max(1)
        .checked_next_multiple_of(BLOCK_BYTES)
        .unwrap_or(u64::MAX)
}

impl Index {
    pub(super) fn insert(&mut self, position: Position, entry: Entry) {
        self.entries.insert(position, entry);
        self.stats.batches += 1;
        self.stats.windows += u64::from(entry.windows);
        self.stats.bytes += entry.disk_bytes;
    }

    /// Takes a batch out of the index and off the disk.
    pub(super) fn take(&mut self, position: Position, own_generation: u64) -> Option<Entry> {
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

    pub(super) fn drop_batch(&mut self, position: Position, own_generation: u64) {
        if let Some(entry) = self.take(position, own_generation) {
            self.stats.dropped_batches += 1;
            self.stats.dropped_windows += u64::from(entry.windows);
        }
    }

    pub(super) fn position_of(&self, id: &BatchId) -> Option<Position> {
        self.folders
            .iter()
            .rev()
            .find(|(_, folder)| folder.instance == id.instance)
            .map(|(generation, _)| (*generation, id.sequence))
    }

    /// Indexes what another instance left in `folder`.
    pub(super) fn adopt(&mut self, generation: u64, mut folder: Folder) -> io::Result<()> {
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
