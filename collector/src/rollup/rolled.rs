//! What was summed up so far: shared by the writer, which brings windows, the
//! rollup, which sums them, and queries, which read the sums.
//!
//! A window whose minute is still open is *marked* in memory; one that comes
//! later is *late*: a row beside it in the same write says so, until the sums
//! it belongs to were computed again. Queries do not read a sum that lacks a
//! late window.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use proto::window::UnixNanos;
use rustc_hash::FxHashMap;

use crate::store::rows::Late;
use crate::store::tier::{MINUTE_S, Tier};
use crate::store::{Catalog, Kept, PtypeId, SeriesId, ServiceId, Store, StoreError};

/// Most marks that are held; beyond it, minutes are looked up in the store.
const MAX_MARKS: usize = 2 << 20;

/// Most late windows (by minute, type and series) that wait to be summed;
/// further ones are refused with a retry hint.
const MAX_LATE: usize = 512 << 10;

/// What got a window in a minute: series by service and type.
pub type Marks = BTreeMap<(ServiceId, PtypeId), BTreeSet<SeriesId>>;

/// The sums that a store has.
#[derive(Debug)]
pub struct Rolled {
    /// Held shared while windows are written, and alone while a minute closes,
    /// so that each window is either summed or known to be late.
    gate: RwLock<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Windows that start before this second are late.
    closed: u64,
    /// Per tier: before this second every sum was written.
    until: FxHashMap<Tier, u64>,
    gone: Gone,
    marks: BTreeMap<u64, Marks>,
    marked: usize,
    /// Minutes of which marks were left out.
    unmarked: BTreeSet<u64>,
    /// With the number of the write that brought it last.
    late: FxHashMap<ServiceId, BTreeMap<Late, u64>>,
    late_count: usize,
    writes: u64,
}

/// Before which second there are no rows.
#[derive(Clone, Debug, Default)]
pub struct Gone {
    /// Per tier: every row was dropped.
    all: FxHashMap<Tier, u64>,
    /// Of services that are kept shorter than others: they were given up.
    of_services: Arc<FxHashMap<(ServiceId, Tier), u64>>,
}

impl Gone {
    /// Before which second a service has no rows of `tier`.
    pub fn before(&self, service: ServiceId, tier: Tier) -> u64 {
        let given_up = self.of_services.get(&(service, tier));
        given_up.copied().unwrap_or(0).max(self.of_all(tier))
    }

    fn of_all(&self, tier: Tier) -> u64 {
        self.all.get(&tier).copied().unwrap_or(0)
    }
}

/// What a query may read of a service.
#[derive(Clone, Debug, Default)]
pub struct View {
    until: FxHashMap<Tier, u64>,
    dropped: FxHashMap<Tier, u64>,
    late_minutes: BTreeSet<u64>,
}

impl View {
    /// Before which second `tier` is summed up.
    pub fn until(&self, tier: Tier) -> u64 {
        self.until.get(&tier).copied().unwrap_or(0)
    }

    /// Whether the row of a bucket holds all of it: it was summed up, is kept,
    /// and no window came late.
    pub fn is_whole(&self, tier: Tier, bucket_s: u64) -> bool {
        let end = bucket_s.saturating_add(tier.length_s());
        end <= self.until.get(&tier).copied().unwrap_or(0)
            && !self.is_dropped(tier, bucket_s)
            && self.late_minutes.range(bucket_s..end).next().is_none()
    }

    /// Whether rows of `tier` that start at `start_s` are gone.
    pub fn is_dropped(&self, tier: Tier, start_s: u64) -> bool {
        start_s < self.dropped.get(&tier).copied().unwrap_or(0)
    }
}

/// What one minute got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MinuteMarks {
    /// These series.
    Known(Marks),
    /// Too many to remember: the store knows.
    Unknown,
}

impl State {
    /// The earliest minute with marks, or of which marks were left out.
    fn earliest(&self) -> Option<u64> {
        let marked = self.marks.keys().next().copied();
        let unmarked = self.unmarked.first().copied();
        marked.into_iter().chain(unmarked).min()
    }
}

impl Rolled {
    /// Reads what `store` says; in a store without sums they begin at its first
    /// window, or now.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails or a row is damaged.
    pub fn open(store: &dyn Store, now: UnixNanos) -> Result<Self, StoreError> {
        let windows = store.stretches(Kept::Rows(Tier::Window));
        let now_s = u64::try_from(now.seconds()).unwrap_or(0);
        let first_s = windows.first().map_or(now_s, |(from, _)| *from);
        Ok(Self::new(&store.catalog()?, first_s))
    }

    /// Returns what `catalog` says; a store without sums begins them at
    /// `first_s`.
    pub fn new(catalog: &Catalog, first_s: u64) -> Self {
        let mut state = State::default();
        for tier in [Tier::Minute, Tier::Hour, Tier::Day] {
            state.until.insert(tier, tier.bucket(first_s));
        }
        state.until.extend(catalog.rolled.iter().copied());
        // Minutes without a window are not written down; the hours that were
        // summed after them are.
        let mut coarser = 0;
        for tier in [Tier::Day, Tier::Hour, Tier::Minute] {
            let until = state.until.entry(tier).or_default();
            *until = coarser.max(*until);
            coarser = *until;
        }
        state.closed = state.until.get(&Tier::Minute).copied().unwrap_or(0);
        state.gone.all.extend(catalog.dropped.iter().copied());
        let given_up = catalog.given_up.iter();
        let given_up = given_up.map(|row| ((row.service, row.tier), row.before_s));
        state.gone.of_services = Arc::new(given_up.collect());
        for late in &catalog.late {
            let of_service = state.late.entry(late.service).or_default();
            of_service.insert(*late, 0);
            state.late_count += 1;
        }
        Self {
            gate: RwLock::new(()),
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held from before a window is judged until it is written.
    pub fn writing(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing is being written and keeps it so.
    pub fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before which second windows are late.
    pub fn closed(&self) -> u64 {
        self.state().closed
    }

    /// Windows before `until_s` are late from now on; call it `alone`.
    pub fn close(&self, until_s: u64) {
        let mut state = self.state();
        state.closed = state.closed.max(until_s);
    }

    /// Before which second `tier` is summed up.
    pub fn until(&self, tier: Tier) -> u64 {
        self.state().until.get(&tier).copied().unwrap_or(0)
    }

    /// Everything of `tier` before `until_s` is summed up and written.
    pub fn advance(&self, tier: Tier, until_s: u64) {
        self.state().until.insert(tier, until_s);
    }

    /// Before which second rows of `tier` are gone.
    pub fn dropped(&self, tier: Tier) -> u64 {
        self.state().gone.of_all(tier)
    }

    /// Before which second there are no rows, of all services.
    pub fn gone(&self) -> Gone {
        self.state().gone.clone()
    }

    /// Rows of `tier` of some services, each before its second, are given up;
    /// call it `alone`.
    pub fn give_up(&self, tier: Tier, services: &[(ServiceId, u64)]) {
        let mut state = self.state();
        let of_services = Arc::make_mut(&mut state.gone.of_services);
        of_services.extend(
            services
                .iter()
                .map(|(id, before_s)| ((*id, tier), *before_s)),
        );
    }

    /// Rows of `tier` before `until_s` go; call it `alone`.
    pub fn drop_before(&self, tier: Tier, until_s: u64) {
        self.state().gone.all.insert(tier, until_s);
    }

    /// Windows were written: (service, type, series, start in seconds), and
    /// those of them that are late.
    pub fn mark(
        &self,
        windows: impl IntoIterator<Item = (ServiceId, PtypeId, SeriesId, u64)>,
        late: impl IntoIterator<Item = Late>,
    ) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.writes += 1;
        for late in late {
            let of_service = state.late.entry(late.service).or_default();
            let is_new = of_service.insert(late, state.writes).is_none();
            state.late_count += usize::from(is_new);
        }
        for (service, ptype, series, start_s) in windows {
            let minute = Tier::Minute.bucket(start_s);
            if state.marked >= MAX_MARKS {
                state.unmarked.insert(minute);
                continue;
            }
            let minute = state.marks.entry(minute).or_default();
            let fresh = minute.entry((service, ptype)).or_default().insert(series);
            state.marked += usize::from(fresh);
        }
    }

    /// Start of the earliest minute that got a window and is not summed up, in seconds
    /// since 1970.
    pub fn earliest(&self) -> Option<u64> {
        self.state().earliest()
    }

    /// The next minute before `until_s` that got a window, with its marks,
    /// which are forgotten.
    pub fn take(&self, until_s: u64) -> Option<(u64, MinuteMarks)> {
        let mut guard = self.state();
        let state = &mut *guard;
        let first = state.earliest()?;
        if first.saturating_add(MINUTE_S) > until_s {
            return None;
        }
        let marks = state.marks.remove(&first).unwrap_or_default();
        let held: usize = marks.values().map(BTreeSet::len).sum();
        state.marked = state.marked.saturating_sub(held);
        Some(match state.unmarked.remove(&first) {
            true => (first, MinuteMarks::Unknown),
            false => (first, MinuteMarks::Known(marks)),
        })
    }

    /// The marks of a minute that could not be summed come back.
    pub fn put_back(&self, minute: u64, marks: MinuteMarks) {
        let mut state = self.state();
        match marks {
            MinuteMarks::Unknown => {
                state.unmarked.insert(minute);
            }
            MinuteMarks::Known(marks) => {
                let held: usize = marks.values().map(BTreeSet::len).sum();
                state.marked = state.marked.saturating_add(held);
                state.marks.insert(minute, marks);
            }
        }
    }

    /// Every late window, with the number of the write that brought it.
    pub fn late(&self) -> BTreeMap<Late, u64> {
        let state = self.state();
        let all = state.late.values().flatten();
        all.map(|(late, write)| (*late, *write)).collect()
    }

    /// Whether some window before `until_s` is late.
    pub fn has_late_before(&self, until_s: u64) -> bool {
        let state = self.state();
        let mut late = state.late.values().flat_map(BTreeMap::keys);
        late.any(|late| late.minute_s < until_s)
    }

    /// Whether some window of a service before `until_s` is late.
    pub fn has_late_of(&self, service: ServiceId, until_s: u64) -> bool {
        let state = self.state();
        let late = state.late.get(&service).and_then(|late| late.keys().next());
        late.is_some_and(|first| first.minute_s < until_s)
    }

    /// Whether so many windows are late that further ones must wait.
    pub fn is_full(&self) -> bool {
        self.state().late_count >= MAX_LATE
    }

    /// Those of `late` that no later write brought again.
    pub fn still(&self, late: &BTreeMap<Late, u64>) -> Vec<Late> {
        let state = self.state();
        let is_same = |(late, write): &(&Late, &u64)| {
            let held = state.late.get(&late.service);
            held.and_then(|held| held.get(late)) == Some(*write)
        };
        late.iter().filter(is_same).map(|(late, _)| *late).collect()
    }

    /// The sums that `late` belong to are written; call it `alone`.
    pub fn forget_late(&self, late: &[Late]) {
        let state = &mut *self.state();
        for late in late {
            if let Some(held) = state.late.get_mut(&late.service) {
                state.late_count -= usize::from(held.remove(late).is_some());
                if held.is_empty() {
                    state.late.remove(&late.service);
                }
            }
        }
    }

    /// Forgets the windows of a service that was deleted; call it `alone`.
    pub fn forget(&self, service: ServiceId) {
        let state = &mut *self.state();
        for marks in state.marks.values_mut() {
            marks.retain(|(marked, _), series| {
                let is_kept = *marked != service;
                if !is_kept {
                    state.marked = state.marked.saturating_sub(series.len());
                }
                is_kept
            });
        }
        if state.gone.of_services.keys().any(|(id, _)| *id == service) {
            let of_services = Arc::make_mut(&mut state.gone.of_services);
            of_services.retain(|(id, _), _| *id != service);
        }
        let late = state.late.remove(&service);
        state.late_count -= late.map_or(0, |late| late.len());
    }

    /// What a query may read of `service` now.
    pub fn view(&self, service: ServiceId) -> View {
        let state = self.state();
        let late = state.late.get(&service).into_iter().flatten();
        View {
            until: state.until.clone(),
            dropped: Tier::ALL
                .into_iter()
                .map(|tier| (tier, state.gone.before(service, tier)))
                .collect(),
            late_minutes: late.map(|(late, _)| late.minute_s).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late(minute_s: u64) -> Late {
        Late {
            minute_s,
            service: ServiceId(1),
            ptype: PtypeId(1),
            series: SeriesId(1),
        }
    }

    #[test]
    fn a_minute_is_taken_once_it_is_over_and_earliest_first() {
        let rolled = Rolled::new(&Catalog::default(), 0);
        let mark = |series, start_s| {
            let window = (ServiceId(1), PtypeId(1), SeriesId(series), start_s);
            rolled.mark([window], []);
        };
        mark(1, 125);
        mark(1, 61);
        mark(2, 119);
        assert_eq!(rolled.take(119), None);
        let (minute, marks) = rolled.take(120).unwrap();
        let of_type = [(
            (ServiceId(1), PtypeId(1)),
            [SeriesId(1), SeriesId(2)].into(),
        )];
        assert_eq!((minute, &marks), (60, &MinuteMarks::Known(of_type.into())));
        rolled.put_back(minute, marks.clone());
        assert_eq!(rolled.take(120), Some((60, marks)));
        assert_eq!(rolled.take(179), None);
        assert_eq!(rolled.take(180).unwrap().0, 120);
    }

    #[test]
    fn a_service_that_is_forgotten_has_no_marks_and_is_not_late() {
        let rolled = Rolled::new(&Catalog::default(), 0);
        let window = |service, start_s| (ServiceId(service), PtypeId(1), SeriesId(1), start_s);
        let other = Late {
            service: ServiceId(2),
            ..late(0)
        };
        rolled.mark(
            [window(1, 5), window(2, 5), window(1, 70)],
            [late(0), other],
        );
        rolled.forget(ServiceId(1));
        let of_other = [((ServiceId(2), PtypeId(1)), [SeriesId(1)].into())];
        assert_eq!(
            rolled.take(60),
            Some((0, MinuteMarks::Known(of_other.into())))
        );
        assert_eq!(rolled.late().into_keys().collect::<Vec<_>>(), [other]);
        rolled.forget_late(&[other]);
        assert!(!rolled.has_late_before(u64::MAX));
    }

    #[test]
    fn marks_beyond_the_bound_are_looked_up() {
        let rolled = Rolled::new(&Catalog::default(), 0);
        let window = |n| (ServiceId(1), PtypeId(1), SeriesId(n), 5);
        rolled.mark((0..).map(window).take(MAX_MARKS + 1), []);
        assert_eq!(rolled.take(60), Some((0, MinuteMarks::Unknown)));
        rolled.mark([window(1)], []);
        assert!(matches!(rolled.take(60), Some((0, MinuteMarks::Known(_)))));
    }

    #[test]
    fn a_sum_that_lacks_a_late_window_is_not_whole() {
        let rolled = Rolled::new(&Catalog::default(), 0);
        rolled.advance(Tier::Minute, 7_200);
        rolled.advance(Tier::Hour, 3_600);
        let whole = |tier, bucket| rolled.view(ServiceId(1)).is_whole(tier, bucket);
        assert!(whole(Tier::Minute, 7_140) && !whole(Tier::Minute, 7_200));
        assert!(whole(Tier::Hour, 0) && !whole(Tier::Hour, 3_600));
        rolled.mark([], [late(600)]);
        assert!(!whole(Tier::Minute, 600) && whole(Tier::Minute, 660));
        assert!(!whole(Tier::Hour, 0));
        assert!(rolled.view(ServiceId(2)).is_whole(Tier::Hour, 0));
        let seen = rolled.late();
        rolled.mark([], [late(600)]);
        assert_eq!(rolled.still(&seen), [], "it came again meanwhile");
        let seen = rolled.late();
        assert_eq!(rolled.still(&seen), [late(600)]);
        rolled.forget_late(&[late(600)]);
        assert!(whole(Tier::Hour, 0));
        rolled.drop_before(Tier::Minute, 600);
        assert!(!whole(Tier::Minute, 540) && whole(Tier::Minute, 600));
    }
}
