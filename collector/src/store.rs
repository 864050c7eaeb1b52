//! Keeps profiles by time and labels. Only this folder knows the engine.
//!
//! A service has a calling context tree; a window is a sparse vector of
//! (stack id, value) over it. The [`Store`] trait is small so that another
//! engine can take its place: write a group, sum vectors over a range, read
//! the dictionary, list series, drop what is old.

use std::fmt;
use std::path::PathBuf;

use proto::labels::LabelSet;
use proto::profile::Facts;
use proto::status::Kind;
use proto::value_type::{ProfileType, Temporality};
use proto::window::{UnixNanos, Window};

mod bytes;
pub mod keys;
pub mod rocks;
pub mod rows;
pub mod segment;
pub mod tree;
pub mod trees;

#[cfg(test)]
mod suite;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A service of a namespace of a tenant.
    ServiceId(u32)
);
id!(
    /// A series of a service; 0 is the whole service.
    SeriesId(u32)
);
id!(
    /// A profile type with its temporality; 0 is the facts of a window.
    PtypeId(u16)
);
id!(
    /// An agent instance that wrote windows.
    WriterId(u32)
);
id!(
    /// A version of a service's tree.
    Epoch(u16)
);

impl PtypeId {
    /// Rows of this type hold the facts of a window.
    pub const FACTS: Self = Self(0);
}

/// Names a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Who it belongs to; taken from the connection.
    pub tenant: String,
    /// Its namespace, or `""`.
    pub namespace: String,
    /// Its name.
    pub service: String,
}

/// A profile type as stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoredType {
    /// What the values count.
    pub profile_type: ProfileType,
    /// How they behave over time.
    pub temporality: Temporality,
}

/// Where a window of the finest tier lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WindowKey {
    /// What its values count.
    pub ptype: PtypeId,
    /// The service.
    pub service: ServiceId,
    /// Start of the window in whole seconds since 1970.
    pub start_s: u64,
    /// The series.
    pub series: SeriesId,
    /// Who wrote it.
    pub writer: WriterId,
}

/// What one group of batches writes, all or nothing.
#[derive(Debug, Default)]
pub struct WriteGroup {
    /// Rows of the dictionary: (key, value), see [`rows`].
    pub dictionary: Vec<KeyValue>,
    /// Keys of dictionary rows that go.
    pub forget: Vec<Vec<u8>>,
    /// Windows, see [`segment`].
    pub windows: Vec<(WindowKey, Vec<u8>)>,
}

/// Asks for the sum of the vectors of a selection.
#[derive(Clone, Debug)]
pub struct SumRequest<'a> {
    /// What to sum.
    pub ptype: PtypeId,
    /// Of which service.
    pub service: ServiceId,
    /// Of which series, sorted; `None` means all.
    pub series: Option<&'a [SeriesId]>,
    /// Windows that start in this time.
    pub window: Window,
}

/// Everything a store holds beside windows and trees.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Services by id.
    pub services: Vec<(ServiceId, ServiceKey)>,
    /// Profile types by id.
    pub types: Vec<(PtypeId, StoredType)>,
    /// Writers by instance.
    pub writers: Vec<([u8; 16], rows::WriterRow)>,
}

/// A key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);
/// A key with its new value; `None` removes it.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// Keeps profiles. Calls block; use them from a thread that may.
pub trait Store: StateStore {
    /// Writes `group` at once and syncs it.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; nothing of the group was written then.
    fn write(&self, group: &WriteGroup) -> Result<(), StoreError>;

    /// The value of one window, if there is one.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`] when the engine fails.
    fn window(&self, key: &WindowKey) -> Result<Option<Vec<u8>>, StoreError>;

    /// Adds up the vectors of a selection, apart by (epoch, period, weight).
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the engine fails or a stored value is damaged.
    fn sum(&self, request: &SumRequest<'_>) -> Result<segment::RangeSum, StoreError>;

    /// Calls `visit` with key, length in nanoseconds and facts of every window
    /// of a selection; the request's type is not looked at.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the engine fails or a row is damaged.
    fn facts(
        &self,
        request: &SumRequest<'_>,
        visit: &mut dyn FnMut(&WindowKey, u64, &Facts),
    ) -> Result<(), StoreError>;

    /// Series that have a window of `ptype` in `window`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`] when the engine fails.
    fn active_series(
        &self,
        ptype: PtypeId,
        service: ServiceId,
        window: Window,
    ) -> Result<Vec<SeriesId>, StoreError>;

    /// Services, types and writers.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the engine fails or a row is damaged.
    fn catalog(&self) -> Result<Catalog, StoreError>;

    /// Every series of a service.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the engine fails or a row is damaged.
    fn series(&self, service: ServiceId) -> Result<Vec<(SeriesId, LabelSet)>, StoreError>;

    /// The tree of a service, as far as it is durable.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the engine fails or a row is damaged.
    fn tree(&self, service: ServiceId) -> Result<tree::ServiceTree, StoreError>;

    /// Drops every day of windows and feature rows that ended before `time`.
    /// Returns how many days were dropped.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`] when the engine fails.
    fn drop_before(&self, time: UnixNanos) -> Result<usize, StoreError>;

    /// Writes feature rows, keyed by (service, step, series); a row written
    /// again replaces itself. Not synced: rows can be computed again.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`] when the engine fails.
    fn write_features(&self, step: UnixNanos, rows: &[KeyValue]) -> Result<(), StoreError>;

    /// Feature rows whose key begins with `prefix`, of the days `window`
    /// touches, by key within a day.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`] when the engine fails.
    fn features(&self, window: Window, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError>;

    /// What the store occupies.
    fn usage(&self) -> Usage;
}

/// What a store occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk, as the engine counts them.
    pub disk_bytes: u64,
    /// Bytes of caches and write buffers.
    pub memory_bytes: u64,
    /// Days that have windows.
    pub days: usize,
}

/// A small durable map for the state of alerts and hooks.
pub trait StateStore: Send + Sync + fmt::Debug {
    /// Entries whose key begins with `prefix`, by key.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`] when the engine fails.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError>;

    /// Sets (or with `None` removes) entries, all or nothing, synced.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`] when the engine fails; nothing was changed then.
    fn write(&self, changes: Vec<Change>) -> Result<(), StoreError>;
}

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder cannot be opened as a database.
    #[error(
        "cannot open the database in {path:?}; is another collector using it, or is the folder not writable?"
    )]
    Open {
        /// The folder.
        path: PathBuf,
        /// What the engine said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database was written by a newer version.
    #[error(
        "database {path:?} has format {found}, this collector knows up to {known}: use a newer collector"
    )]
    NewerFormat {
        /// The folder.
        path: PathBuf,
        /// Format of the database.
        found: u32,
        /// Newest format known here.
        known: u32,
    },
    /// A write failed; nothing of it is stored.
    #[error("cannot write to the database")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A read failed.
    #[error("cannot read from the database")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A stored row does not make sense.
    #[error("database row {key} is damaged: {problem}")]
    Damaged {
        /// Key in hexadecimal.
        key: String,
        /// What is wrong.
        problem: &'static str,
    },
}

impl StoreError {
    /// What kind of failure it is for a caller.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Write(_) | Self::Read(_) => Kind::Unavailable,
            Self::Open { .. } | Self::NewerFormat { .. } | Self::Damaged { .. } => Kind::Internal,
        }
    }

    /// A damaged row under `key`.
    pub(crate) fn damaged(key: &[u8], problem: &'static str) -> Self {
        use fmt::Write as _;
        let mut hex = String::new();
        for byte in key {
            // Writing to a String does not fail.
            let _infallible = write!(hex, "{byte:02x}");
        }
        Self::Damaged { key: hex, problem }
    }
}
