//! Subfolders of a spool: each belongs to one instance, which holds its lock.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use proto::limits::INSTANCE_BYTES;
use tracing::warn;

/// Name of lock files.
pub(super) const LOCK: &str = "lock";
/// Suffix of batch files.
pub(super) const SUFFIX: &str = ".batch";
/// Suffix of batch files that are being written.
pub(super) const UNFINISHED: &str = ".tmp";

/// One instance's subfolder.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) instance: [u8; INSTANCE_BYTES],
    /// Held while the folder is ours; gone when the folder was emptied.
    pub(super) lock: Option<File>,
}

pub(super) fn file_name(sequence: u64) -> String {
    format!("{sequence:016x}{SUFFIX}")
}

/// Generation and instance that a subfolder's name tells.
pub(super) fn parse_folder_name(name: &str) -> Option<(u64, [u8; INSTANCE_BYTES])> {
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

pub(super) fn open_lock(dir: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(dir.join(LOCK))
}

/// Removes a file that may be gone already.
pub(super) fn remove_file(path: &Path) {
    match fs::remove_file(path) {
        Err(failure) if failure.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), error = %failure, "cannot remove a spool file");
        }
        _ => {}
    }
}

impl Folder {
    /// Removes the subfolder when nothing but its lock is left in it.
    pub(super) fn dissolve(&mut self) {
        remove_file(&self.path.join(LOCK));
        if let Err(failure) = fs::remove_dir(&self.path) {
            warn!(path = %self.path.display(), error = %failure, "cannot remove an emptied spool folder");
        }
        self.lock = None;
    }

    pub(super) fn file(&self, sequence: u64) -> PathBuf {
        self.path.join(file_name(sequence))
    }
}
