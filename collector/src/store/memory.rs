//! A state store that forgets: for what is only tried.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{Change, KeyValue, StateStore, StoreError};

/// Entries in memory.
#[derive(Debug, Default)]
pub struct MemoryState(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl StateStore for MemoryState {
    fn scan(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = map.iter().filter(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }
}
