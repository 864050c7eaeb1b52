//! Copies of the database: made while it is written, and checked before one
//! takes the place of a database.

use std::path::Path;

use rocksdb::checkpoint::Checkpoint;

use super::{Access, Memory, RocksStore, write_error};
use crate::store::{StoreError, rows};

impl RocksStore {
    /// Puts a consistent copy of the database into `folder`, which must not be
    /// there. Files are shared with the database where the file system can.
    pub(super) fn checkpoint(&self, folder: &Path) -> Result<(), StoreError> {
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(folder))
            .map_err(write_error)
    }

    /// Whether `path` holds a whole database that this program can open. Nothing
    /// of the database is changed.
    ///
    /// # Errors
    ///
    /// [`StoreError::Open`] when files are missing or damaged,
    /// [`StoreError::NewerFormat`] for a newer database.
    pub fn check(path: &Path) -> Result<(), StoreError> {
        /// Enough to read the index of each file once.
        const MEMORY: Memory = Memory {
            blocks: 8 << 20,
            write_buffers: 8 << 20,
            recent: 0,
        };
        let store = Self::open_database(path, MEMORY, Access::ReadOnly)?;
        match store.known_format()? {
            Some(_) => Ok(()),
            None => Err(StoreError::damaged(&rows::format_key(), "it is missing")),
        }
    }
}
