//! Backups: copies of a running collector's database, and folders of collectors
//! made from them.
//!
//! A caller gives a name and never a path, so that whoever may ask for backups
//! can write nowhere but into the one folder of backups. A copy shares the files
//! of the database by hard links where the file system can; a restored folder
//! shares nothing with its backup.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, TryLockError};

use proto::status::Kind;

use crate::store::rocks::RocksStore;
use crate::store::{Store, StoreError};

/// Longest name of a backup, in bytes.
const MAX_NAME_BYTES: usize = 100;
/// What the engine's own unfinished copies end in.
const UNFINISHED: &str = ".tmp";
/// File without which a folder holds no database.
const CURRENT: &str = "CURRENT";
/// File that only folders have that a collector works in.
const LOCK: &str = "LOCK";

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The name could be a path, or is not plain.
    #[error(
        "{name:?} cannot name a backup: it must be 1 to {MAX_NAME_BYTES} letters, digits, '.', '_' and '-', begin with a letter or digit and not end in {UNFINISHED:?}"
    )]
    Name {
        /// The name, cut.
        name: String,
    },
    /// There is one of this name.
    #[error("{} is there already; take another name, or remove it", folder.display())]
    Exists {
        /// The folder.
        folder: PathBuf,
    },
    /// Another one is being made.
    #[error("another backup is being made; try again when it is done")]
    Busy,
    /// The folder of backups cannot be used.
    #[error("cannot use the folder of backups {}; see store.backup_folder", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store failed.
    #[error("cannot copy the database to {}", folder.display())]
    Store {
        /// Where to.
        folder: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
}

impl BackupError {
    /// What kind of failure it is for a caller.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Name { .. } | Self::Exists { .. } => Kind::Invalid,
            Self::Busy => Kind::Exhausted,
            Self::Folder { .. } => Kind::Internal,
            Self::Store { source, .. } => source.kind(),
        }
    }
}

/// A backup that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Where it is.
    pub folder: PathBuf,
    /// Bytes of its files, shared with the database or not.
    pub bytes: u64,
}

/// Makes backups of a store, one at a time.
#[derive(Debug)]
pub struct Backups {
    store: Arc<dyn Store>,
    folder: PathBuf,
    one: Mutex<()>,
}

impl Backups {
    /// Returns what puts backups of `store` into `folder`.
    pub fn new(store: Arc<dyn Store>, folder: PathBuf) -> Self {
        Self {
            store,
            folder,
            one: Mutex::default(),
        }
    }

    /// Makes a backup called `name`. Blocks.
    ///
    /// # Errors
    ///
    /// [`BackupError`]; there is no folder of this name then unless there was
    /// one before.
    pub fn make(&self, name: &str) -> Result<Backup, BackupError> {
        check_name(name)?;
        let _one = match self.one.try_lock() {
            Ok(one) => one,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(BackupError::Busy),
        };
        let unusable = |source| BackupError::Folder {
            folder: self.folder.clone(),
            source,
        };
        fs::create_dir_all(&self.folder).map_err(unusable)?;
        let folder = self.folder.canonicalize().map_err(unusable)?.join(name);
        if fs::symlink_metadata(&folder).is_ok() {
            return Err(BackupError::Exists { folder });
        }
        if let Err(source) = self.store.backup(&folder) {
            return Err(BackupError::Store { folder, source });
        }
        sync_folder(&self.folder).map_err(unusable)?;
        let files = files(&folder).map_err(unusable)?;
        Ok(Backup {
            bytes: files.iter().map(|(_, bytes)| bytes).sum(),
            folder,
        })
    }
}

fn check_name(name: &str) -> Result<(), BackupError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let begins = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    match begins
        && name.len() <= MAX_NAME_BYTES
        && name.bytes().all(is_plain)
        && !name.ends_with(UNFINISHED)
    {
        true => Ok(()),
        false => Err(BackupError::Name {
            name: name.chars().take(MAX_NAME_BYTES).collect(),
        }),
    }
}

/// Why a backup is not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is no database.
    #[error("{} holds no backup: it has no file {CURRENT}", backup.display())]
    NoBackup {
        /// The folder that was named.
        backup: PathBuf,
    },
    /// It is no copy, and may be changing.
    #[error(
        "{} is a collector's own folder and no backup of it; make one: collector backup NAME", backup.display()
    )]
    NotACopy {
        /// The folder that was named.
        backup: PathBuf,
    },
    /// Something is there.
    #[error(
        "{} is not empty; name another folder, or move what is there away", data.display()
    )]
    NotEmpty {
        /// The folder that was named.
        data: PathBuf,
    },
    /// An earlier restoration was cut short.
    #[error("{} is left over from a restoration that was cut short; remove it and try again", folder.display())]
    LeftOver {
        /// The unfinished folder.
        folder: PathBuf,
    },
    /// A file could not be copied.
    #[error("cannot copy {}", path.display())]
    Copy {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The copy is no database that this program can open.
    #[error("the backup {} cannot be used", backup.display())]
    Unusable {
        /// The folder that was named.
        backup: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
}

/// Makes the folder `data` of a collector from `backup`, and returns its bytes.
/// `data` is there only when all of it is written and could be opened. Blocks.
///
/// # Errors
///
/// [`RestoreError`]; `data` is as it was then.
pub fn restore(backup: &Path, data: &Path) -> Result<u64, RestoreError> {
    if !backup.join(CURRENT).is_file() {
        return Err(RestoreError::NoBackup {
            backup: backup.to_owned(),
        });
    }
    if backup.join(LOCK).exists() {
        return Err(RestoreError::NotACopy {
            backup: backup.to_owned(),
        });
    }
    let is_empty = match fs::read_dir(data) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if !is_empty {
        return Err(RestoreError::NotEmpty {
            data: data.to_owned(),
        });
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Copy { path, source }
    };
    // Without a slash at the end, and with a folder that it lies in.
    let data = std::path::absolute(data).map_err(failed(data))?;
    let data: PathBuf = data.components().collect();
    let parent = data.parent().unwrap_or(&data);
    let mut unfinished = data.clone().into_os_string();
    unfinished.push(".restoring");
    let unfinished = PathBuf::from(unfinished);
    fs::create_dir_all(parent).map_err(failed(parent))?;
    fs::create_dir(&unfinished).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => RestoreError::LeftOver {
            folder: unfinished.clone(),
        },
        _ => failed(&unfinished)(source),
    })?;
    let finished = copy(backup, &unfinished)
        .and_then(|bytes| {
            RocksStore::check(&unfinished).map_err(|source| RestoreError::Unusable {
                backup: backup.to_owned(),
                source,
            })?;
            Ok(bytes)
        })
        .and_then(|bytes| {
            fs::rename(&unfinished, &data).map_err(failed(&data))?;
            sync_folder(parent).map_err(failed(parent))?;
            Ok(bytes)
        });
    if finished.is_err() {
        // What is said is why it failed; a leftover is told by the next try.
        let _left_over = fs::remove_dir_all(&unfinished);
    }
    finished
}

/// Copies and syncs the files of a folder; returns their bytes.
fn copy(from: &Path, to: &Path) -> Result<u64, RestoreError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Copy { path, source }
    };
    let mut copied = 0;
    for (path, _) in files(from).map_err(failed(from))? {
        let name = path.file_name().unwrap_or_default();
        let target = to.join(name);
        copied += fs::copy(&path, &target).map_err(failed(&path))?;
        File::open(&target)
            .and_then(|file| file.sync_all())
            .map_err(failed(&target))?;
    }
    sync_folder(to).map_err(failed(to))?;
    Ok(copied)
}

/// The files of a folder with their sizes; folders within are left out.
fn files(folder: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_file() {
            files.push((entry.path(), meta.len()));
        }
    }
    Ok(files)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rows;
    use crate::store::tier::Tier;
    use crate::store::{PtypeId, SeriesId, ServiceId, WindowKey, WriteGroup, WriterId};

    fn open(folder: &Path) -> Arc<RocksStore> {
        Arc::new(RocksStore::open(folder, 8 << 20).unwrap())
    }

    fn key(start_s: u64) -> WindowKey {
        WindowKey {
            tier: Tier::Window,
            ptype: PtypeId(1),
            service: ServiceId(1),
            start_s,
            series: SeriesId(1),
            writer: WriterId(1),
        }
    }

    fn write(store: &dyn Store, start_s: u64) {
        let group = WriteGroup {
            windows: vec![(key(start_s), vec![1, 2, 3])],
            ..WriteGroup::default()
        };
        Store::write(store, &group).unwrap();
    }

    #[test]
    fn names_are_plain_and_never_paths() {
        for (name, is_good) in [
            ("monday", true),
            ("2026-11-26", true),
            ("v1.8_before", true),
            ("", false),
            (".", false),
            ("..", false),
            ("../x", false),
            ("/tmp/x", false),
            ("a/b", false),
            (".hidden", false),
            ("-rf", false),
            ("a b", false),
            ("a\0", false),
            ("ü", false),
            ("half.tmp", false),
            (&"a".repeat(MAX_NAME_BYTES), true),
            (&"a".repeat(MAX_NAME_BYTES + 1), false),
        ] {
            assert_eq!(check_name(name).is_ok(), is_good, "{name:?}");
        }
    }

    #[test]
    fn a_backup_holds_what_was_written_before_it_and_shares_nothing_when_restored() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let store = open(&at("data"));
        write(&*store, 1_000_000);
        let backups = Backups::new(Arc::<RocksStore>::clone(&store), at("backups"));
        let made = backups.make("one").unwrap();
        assert!(made.bytes > 0 && made.folder.is_absolute(), "{made:?}");
        write(&*store, 1_000_010);
        let again = backups.make("one").unwrap_err();
        assert!(matches!(again, BackupError::Exists { .. }), "{again}");
        for data in ["restored", "again"] {
            // An empty folder is as good as none.
            fs::create_dir(at("again")).unwrap_or_default();
            assert!(restore(&made.folder, &at(data)).unwrap() >= made.bytes);
            let restored = open(&at(data));
            assert!(
                Store::window(&*restored, &key(1_000_000))
                    .unwrap()
                    .is_some()
            );
            assert!(
                Store::window(&*restored, &key(1_000_010))
                    .unwrap()
                    .is_none()
            );
            // The backup stays what it was, whatever is written there.
            write(&*restored, 1_000_020);
            Store::compact(&*restored).unwrap();
        }
        assert!(!at("restored.restoring").exists());
    }

    #[test]
    fn what_is_no_backup_is_not_restored_and_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let store = open(&at("data"));
        write(&*store, 1_000_000);
        let backups = Backups::new(Arc::<RocksStore>::clone(&store), at("backups"));
        let backup = |name: &str| backups.make(name).unwrap().folder;
        let newer = backup("newer");
        {
            let newest = WriteGroup {
                dictionary: vec![(vec![1], (rows::FORMAT + 1).to_be_bytes().to_vec())],
                ..WriteGroup::default()
            };
            Store::write(&*open(&newer), &newest).unwrap();
        }
        fs::remove_file(newer.join(LOCK)).unwrap();
        let holed = backup("holed");
        let (table, _) = files(&holed)
            .unwrap()
            .into_iter()
            .find(|(path, _)| path.extension().is_some_and(|end| end == "sst"))
            .unwrap();
        fs::remove_file(table).unwrap();
        let cut = backup("cut");
        fs::write(cut.join(CURRENT), "MANIFEST-9").unwrap();
        fs::create_dir(at("empty")).unwrap();
        for (from, to, expected) in [
            (at("empty"), "to", "no backup"),
            (at("nowhere"), "to", "no backup"),
            (at("data"), "to", "collector backup NAME"),
            (backup("good"), "data", "not empty"),
            (newer, "to", "use a newer collector"),
            (holed, "to", "cannot open"),
            (cut, "to", "cannot open"),
        ] {
            let shown = proto::status::chain(&restore(&from, &at(to)).unwrap_err());
            assert!(shown.contains(expected), "{}: {shown}", from.display());
            assert!(!at("to").exists(), "{}", from.display());
            assert!(!at("to.restoring").exists(), "{}", from.display());
        }
        fs::create_dir(at("to.restoring")).unwrap();
        let left = restore(&at("backups/good"), &at("to")).unwrap_err();
        assert!(matches!(left, RestoreError::LeftOver { .. }), "{left}");
    }
}
