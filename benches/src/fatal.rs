//! A store that ends its own process by SIGKILL at a chosen call, so that every
//! place between two writes can be the last one of a collector.
//!
//! It delegates everything to the real store. Retention drops several families
//! in one call; where that is the chosen place they are dropped one by one, so
//! that the end can come between two of them. What the trait does not show, the
//! opening of the engine among it, is reached by kills from outside.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use collector::store::segment::RangeSum;
use collector::store::tier::instant;
use collector::store::tree::ServiceTree;
use collector::store::{
    Catalog, Change, Kept, KeyValue, PtypeId, RowKey, SeriesId, ServiceId, ServiceKey, StateStore,
    Store, StoreError, SumRequest, TreeId, Usage, ValueVisitor, WindowKey, WriteGroup, rows,
};
use proto::labels::LabelSet;
use proto::profile::Facts;
use proto::window::{UnixNanos, Window};

use crate::process;

/// A kind of call on a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Windows with their dictionary and dedupe rows, synced.
    Windows,
    /// The same with some whose tier was dropped, added to coarser rows.
    Old,
    /// Sums, or that no window is late any more.
    Rows,
    /// That rows are about to be dropped.
    Dropping,
    /// Feature rows.
    Features,
    /// One family that goes.
    Drop,
    /// What is read when a collector starts.
    Catalog,
    /// Keys of windows that were not summed yet, read after a start.
    Keys,
    /// A service's tree, read when it is needed first.
    Tree,
    /// Flush and compaction of everything.
    Compact,
}

impl Call {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Windows,
        Self::Old,
        Self::Rows,
        Self::Dropping,
        Self::Features,
        Self::Drop,
        Self::Catalog,
        Self::Keys,
        Self::Tree,
        Self::Compact,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Windows => "windows",
            Self::Old => "old",
            Self::Rows => "rows",
            Self::Dropping => "dropping",
            Self::Features => "features",
            Self::Drop => "drop",
            Self::Catalog => "catalog",
            Self::Keys => "keys",
            Self::Tree => "tree",
            Self::Compact => "compact",
        }
    }

    /// What kind of write `group` is.
    fn of(group: &WriteGroup) -> Self {
        if group.may_be_lost {
            Self::Rows
        } else if !group.rows.is_empty() {
            Self::Old
        } else if !group.windows.is_empty() {
            Self::Windows
        } else {
            Self::Dropping
        }
    }
}

/// When within a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Nothing of it was done.
    Before,
    /// This long after it began, whatever it does then.
    During(Duration),
    /// All of it was done and nobody knows.
    After,
}

/// Where a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The kind of call.
    pub call: Call,
    /// Which one of the process's calls of this kind, counted from 1.
    pub number: u32,
    /// When within it.
    pub moment: Moment,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.call.name(), self.number)?;
        match self.moment {
            Moment::Before => f.write_str("before"),
            Moment::During(after) => write!(f, "{}us", after.as_micros()),
            Moment::After => f.write_str("after"),
        }
    }
}

/// A text that names no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPlace(String);

impl fmt::Display for UnknownPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no place; it must read CALL:NUMBER:MOMENT with a call of {} and before, after or a time such as 300us",
            self.0,
            Call::ALL.map(Call::name).join(", ")
        )
    }
}

impl std::error::Error for UnknownPlace {}

impl FromStr for Place {
    type Err = UnknownPlace;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let place = || {
            let mut parts = text.split(':');
            let (call, number, moment) = (parts.next()?, parts.next()?, parts.next()?);
            let moment = match moment {
                "before" => Moment::Before,
                "after" => Moment::After,
                time => {
                    let micros = time.strip_suffix("us")?.parse().ok()?;
                    Moment::During(Duration::from_micros(micros))
                }
            };
            let place = Self {
                call: Call::ALL.into_iter().find(|known| known.name() == call)?,
                number: number.parse().ok().filter(|number| *number > 0)?,
                moment,
            };
            parts.next().is_none().then_some(place)
        };
        place().ok_or_else(|| UnknownPlace(text.to_owned()))
    }
}

/// Ends this process as `kill -9` does.
fn die() -> ! {
    match process::kill(std::process::id()) {
        // The kernel ends every thread; this one waits for it.
        Ok(()) => loop {
            std::thread::park();
        },
        Err(_refused) => std::process::abort(),
    }
}

/// A store that ends its process at a [`Place`].
#[derive(Debug)]
pub struct FatalStore {
    store: Arc<dyn Store>,
    place: Place,
    calls: AtomicU32,
}

impl FatalStore {
    /// Returns `store` with an end at `place`.
    pub fn new(store: Arc<dyn Store>, place: Place) -> Self {
        Self {
            store,
            place,
            calls: AtomicU32::new(0),
        }
    }

    /// Does `work`, a call of this kind.
    fn around<T>(&self, call: Call, work: impl FnOnce() -> T) -> T {
        let is_meant = call == self.place.call
            && self.calls.fetch_add(1, Ordering::SeqCst) + 1 == self.place.number;
        if !is_meant {
            return work();
        }
        match self.place.moment {
            Moment::Before => die(),
            Moment::During(after) => {
                std::thread::spawn(move || {
                    std::thread::sleep(after);
                    die()
                });
                work()
            }
            Moment::After => {
                work();
                die()
            }
        }
    }
}

impl StateStore for FatalStore {
    fn scan(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        self.store.scan(prefix)
    }

    fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        StateStore::write(&*self.store, changes)
    }
}

impl Store for FatalStore {
    fn write(&self, group: &WriteGroup) -> Result<(), StoreError> {
        self.around(Call::of(group), || Store::write(&*self.store, group))
    }

    fn window(&self, key: &WindowKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.window(key)
    }

    fn row(&self, key: &RowKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.row(key)
    }

    fn sum(&self, request: &SumRequest<'_>, sum: &mut RangeSum) -> Result<(), StoreError> {
        self.store.sum(request, sum)
    }

    fn facts(
        &self,
        request: &SumRequest<'_>,
        visit: &mut dyn FnMut(&WindowKey, u64, &Facts),
    ) -> Result<(), StoreError> {
        self.store.facts(request, visit)
    }

    fn values(
        &self,
        request: &SumRequest<'_>,
        visit: &mut ValueVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.store.values(request, visit)
    }

    fn keys(
        &self,
        request: &SumRequest<'_>,
        visit: &mut dyn FnMut(&WindowKey),
    ) -> Result<(), StoreError> {
        self.around(Call::Keys, || self.store.keys(request, visit))
    }

    fn active_series(
        &self,
        ptype: PtypeId,
        service: ServiceId,
        window: Window,
    ) -> Result<Vec<SeriesId>, StoreError> {
        self.store.active_series(ptype, service, window)
    }

    fn catalog(&self) -> Result<Catalog, StoreError> {
        self.around(Call::Catalog, || self.store.catalog())
    }

    fn series(&self, service: ServiceId) -> Result<Vec<(SeriesId, LabelSet)>, StoreError> {
        self.store.series(service)
    }

    fn tree(&self, tree: TreeId) -> Result<ServiceTree, StoreError> {
        self.around(Call::Tree, || self.store.tree(tree))
    }

    fn epochs(&self, service: ServiceId) -> Result<Vec<rows::EpochRow>, StoreError> {
        self.store.epochs(service)
    }

    fn forget_tree(&self, tree: TreeId) -> Result<(), StoreError> {
        self.store.forget_tree(tree)
    }

    fn groups(&self, service: ServiceId) -> Result<Vec<rows::Group>, StoreError> {
        self.store.groups(service)
    }

    fn drop_before(&self, kept: Kept, time: UnixNanos) -> Result<usize, StoreError> {
        if self.place.call != Call::Drop {
            return self.store.drop_before(kept, time);
        }
        let mut dropped = 0;
        for (_, end_s) in self.store.stretches(kept) {
            let end = instant(end_s);
            if end <= time {
                dropped += self.around(Call::Drop, || self.store.drop_before(kept, end))?;
            }
        }
        Ok(dropped)
    }

    fn stretches(&self, kept: Kept) -> Vec<(u64, u64)> {
        self.store.stretches(kept)
    }

    fn write_features(&self, step: UnixNanos, rows: &[KeyValue]) -> Result<(), StoreError> {
        self.around(Call::Features, || self.store.write_features(step, rows))
    }

    fn features(&self, window: Window, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        self.store.features(window, prefix)
    }

    fn compact(&self) -> Result<(), StoreError> {
        self.around(Call::Compact, || self.store.compact())
    }

    fn usage(&self) -> Usage {
        self.store.usage()
    }

    fn drop_of(
        &self,
        kept: Kept,
        service: ServiceId,
        from: UnixNanos,
        until: UnixNanos,
    ) -> Result<(), StoreError> {
        self.store.drop_of(kept, service, from, until)
    }

    fn doom(&self, service: ServiceId, name: &ServiceKey) -> Result<(), StoreError> {
        self.store.doom(service, name)
    }

    fn doomed(&self) -> Result<Vec<(ServiceId, ServiceKey)>, StoreError> {
        self.store.doomed()
    }

    fn erase(&self, service: ServiceId) -> Result<(), StoreError> {
        self.store.erase(service)
    }

    fn backup(&self, folder: &Path) -> Result<(), StoreError> {
        self.store.backup(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        for call in Call::ALL {
            for moment in [
                Moment::Before,
                Moment::During(Duration::from_micros(1_500)),
                Moment::After,
            ] {
                let place = Place {
                    call,
                    number: 3,
                    moment,
                };
                assert_eq!(place.to_string().parse(), Ok(place));
            }
        }
    }

    #[test]
    fn what_names_no_place_is_refused() {
        for text in [
            "",
            "windows",
            "windows:0:before",
            "windows:1",
            "windows:1:soon",
            "w:1:after",
            "rows:1:after:x",
            "rows:1:-1us",
        ] {
            let refused = text.parse::<Place>();
            assert_eq!(refused, Err(UnknownPlace(text.to_owned())), "{text}");
        }
    }
}
