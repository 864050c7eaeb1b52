//! Keeps profiles by time and labels. Only this folder knows the engine.
//!
//! A service has a calling context tree; a window is a sparse vector of
//! (stack id, value) over it. The [`Store`] trait is small so that another
//! engine can take its place: write a group, sum vectors over a range, read
//! the dictionary, list series, drop what is old.

use std::fmt;
use std::path::{Path, PathBuf};

use proto::labels::LabelSet;
use proto::profile::Facts;
use proto::status::Kind;
use proto::value_type::{ProfileType, Temporality};
use proto::window::{UnixNanos, Window};

pub use self::keys::RowKey;
use self::tier::Tier;

mod bytes;
pub mod exact;
pub mod keys;
pub mod memory;
mod migrate;
pub mod rocks;
pub mod rows;
pub mod segment;
pub mod tier;
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
    /// A series of a service; 0 is the whole service, ids from 2^31 are groups
    /// of series.
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

/// One version of a service's tree. Ids of stacks are of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeId {
    /// The service.
    pub service: ServiceId,
    /// The version.
    pub epoch: Epoch,
}

impl SeriesId {
    /// The whole service.
    pub const WHOLE: Self = Self(0);
    /// The least id of a group of series.
    pub const FIRST_GROUP: Self = Self(1 << 31);

    /// Whether it is a group of series.
    pub fn is_group(self) -> bool {
        self >= Self::FIRST_GROUP
    }
}

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

/// Where a window lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WindowKey {
    /// [`Tier::Window`], or [`Tier::Import`] for one that came from a file.
    pub tier: Tier,
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

/// A series had a window of a type on a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Active {
    /// The service.
    pub service: ServiceId,
    /// The type.
    pub ptype: PtypeId,
    /// Start of the day in seconds since 1970.
    pub day_s: u64,
    /// The series.
    pub series: SeriesId,
}

/// What is written together, all or nothing.
#[derive(Debug, Default)]
pub struct WriteGroup {
    /// Rows of the dictionary: (key, value), see [`rows`].
    pub dictionary: Vec<KeyValue>,
    /// Keys of dictionary rows that go.
    pub forget: Vec<Vec<u8>>,
    /// Windows, see [`segment`].
    pub windows: Vec<(WindowKey, Vec<u8>)>,
    /// Rows that sum windows, see [`segment`].
    pub rows: Vec<(RowKey, Vec<u8>)>,
    /// Which series were active.
    pub active: Vec<Active>,
    /// It can be computed again, so it need not be synced before `write` returns.
    pub may_be_lost: bool,
}

impl WriteGroup {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.dictionary.is_empty()
            && self.forget.is_empty()
            && self.windows.is_empty()
            && self.rows.is_empty()
            && self.active.is_empty()
    }
}

/// Asks for the vectors of a selection, of one tier.
#[derive(Clone, Debug)]
pub struct SumRequest<'a> {
    /// Which rows to look at.
    pub tier: Tier,
    /// What to sum.
    pub ptype: PtypeId,
    /// Of which service.
    pub service: ServiceId,
    /// Of which series or groups, sorted. `None` means all: every window of
    /// [`Tier::Window`], the rows of the whole service of the coarser tiers.
    pub series: Option<&'a [SeriesId]>,
    /// Windows and rows that start in this time.
    pub window: Window,
}

/// Something that the store keeps for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kept {
    /// Windows and the rows that sum them.
    Rows(Tier),
    /// Feature rows.
    Features,
    /// Which series were active.
    Active,
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
    /// Per tier: the second before which everything was summed up.
    pub rolled: Vec<(Tier, u64)>,
    /// Per tier: the second before which rows were dropped.
    pub dropped: Vec<(Tier, u64)>,
    /// Rows of services that are kept shorter than those of others.
    pub given_up: Vec<rows::GivenUp>,
    /// Windows that came after their minute had been summed up.
    pub late: Vec<rows::Late>,
    /// No id of a service from this one on was ever given out, as far as deleted
    /// services tell.
    pub next_service: Option<ServiceId>,
}

/// Is given key and stored value of a window or row, and says what is wrong with
/// the value.
pub type ValueVisitor<'a> = dyn FnMut(&WindowKey, &[u8]) -> Result<(), &'static str> + 'a;
/// A key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);
/// A key with its new value; `None` removes it.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// Keeps profiles. Calls block; use them from a thread that may.
pub trait Store: StateStore {
    /// Writes `group` at once and syncs it, unless it may be lost.
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

    /// The value of one row, if there is one.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`] when the engine fails.
    fn row(&self, key: &RowKey) -> Result<Option<Vec<u8>>, StoreError>;

    /// Adds the vectors of a selection to `sum`, apart by (epoch, period,
    /// weight). Stops with [`StoreError::Cancelled`] when `sum` says so.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the engine fails or a stored value is damaged.
    fn sum(&self, request: &SumRequest<'_>, sum: &mut segment::RangeSum) -> Result<(), StoreError>;

    /// Calls `visit` with key, length in nanoseconds and facts of every window
    /// or row of a selection; the request's type is not looked at.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the engine fails or a row is damaged.
    fn facts(
        &self,
        request: &SumRequest<'_>,
        visit: &mut dyn FnMut(&WindowKey, u64, &Facts),
    ) -> Result<(), StoreError>;

    /// Calls `visit` with the key and the stored value of every window or row of
    /// a selection; [`segment::visit`] reads it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the engine fails, a key is damaged, or `visit` says
    /// that a value is.
    fn values(
        &self,
        request: &SumRequest<'_>,
        visit: &mut ValueVisitor<'_>,
    ) -> Result<(), StoreError>;

    /// Calls `visit` with the key of every window or row of a selection.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the engine fails or a key is damaged.
    fn keys(
        &self,
        request: &SumRequest<'_>,
        visit: &mut dyn FnMut(&WindowKey),
    ) -> Result<(), StoreError>;

    /// Series that have a window of `ptype` on a day that `window` touches,
    /// sorted.
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

    /// A tree of a service, as far as it is durable; an empty one when there is
    /// none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the engine fails or a row is damaged.
    fn tree(&self, tree: TreeId) -> Result<tree::ServiceTree, StoreError>;

    /// The epochs of a service of which something is written down, oldest first.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the engine fails or a row is damaged.
    fn epochs(&self, service: ServiceId) -> Result<Vec<rows::EpochRow>, StoreError>;

    /// Removes a tree that no vector refers to any more.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`] when the engine fails; all of it is there then.
    fn forget_tree(&self, tree: TreeId) -> Result<(), StoreError>;

    /// Groups of series of a service: id, label name and value.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the engine fails or a row is damaged.
    fn groups(&self, service: ServiceId) -> Result<Vec<rows::Group>, StoreError>;

    /// Drops what `kept` says of every stretch of time that ended before `time`.
    /// Returns how many stretches were dropped.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`] when the engine fails.
    fn drop_before(&self, kept: Kept, time: UnixNanos) -> Result<usize, StoreError>;

    /// The stretches of time, in seconds since 1970, of which `kept` has
    /// something; sorted.
    fn stretches(&self, kept: Kept) -> Vec<(u64, u64)>;

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

    /// Writes out and merges everything the engine holds, so that what it
    /// occupies is what it will.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`] when the engine fails.
    fn compact(&self) -> Result<(), StoreError>;

    /// Removes what `kept` says of one service, of every stretch of time that ended
    /// after `from` and not after `until`. It need not be synced.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the engine fails.
    fn drop_of(
        &self,
        kept: Kept,
        service: ServiceId,
        from: UnixNanos,
        until: UnixNanos,
    ) -> Result<(), StoreError>;

    /// Marks a service as one that is being deleted, durably. From then on it is
    /// not in the catalog, reading of it fails with [`StoreError::Deleted`], what
    /// is written of it is left out, and its id is never given out again.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`] when the engine fails; the service is as it was then.
    fn doom(&self, service: ServiceId, name: &ServiceKey) -> Result<(), StoreError>;

    /// Services that were doomed and not erased.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the engine fails or a row is damaged.
    fn doomed(&self) -> Result<Vec<(ServiceId, ServiceKey)>, StoreError>;

    /// Removes everything of a doomed service, all or nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the engine fails; it stays doomed then.
    fn erase(&self, service: ServiceId) -> Result<(), StoreError>;

    /// Puts a copy of everything that is stored at this moment into `folder`,
    /// which must not be there; the store goes on meanwhile.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`] when the engine fails; `folder` is not there then.
    fn backup(&self, folder: &Path) -> Result<(), StoreError>;

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
    /// Stretches of time that are dropped whole.
    pub families: usize,
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
    /// The service is being deleted, or was.
    #[error("the service was deleted meanwhile")]
    Deleted,
    /// The reader went away or the time was over.
    #[error("the query was cancelled")]
    Cancelled,
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
            Self::Write(_) | Self::Read(_) | Self::Cancelled => Kind::Unavailable,
            Self::Deleted => Kind::NotFound,
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
