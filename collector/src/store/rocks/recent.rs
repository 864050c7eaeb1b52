//! The windows of the last minutes as they were written, in memory.
//!
//! What a minute got is read soon after it was written, by those who sum it up and
//! look for findings, and looked for by the writer before every window. The engine
//! would merge logs and buffers for it and seek each series; here it lies together.
//!
//! Only what is *covered* may be read here: it holds every window of the service
//! and type from a second on. For what an earlier run wrote, and for minutes that
//! had to make room, the engine is asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::store::tier::Tier;
use crate::store::{PtypeId, SeriesId, ServiceId, SumRequest, WindowKey, WriterId};

/// Bytes that a window takes beside its value, about.
const ENTRY_BYTES: usize = 96;

/// Bytes that a subject takes in a minute beside its windows, about.
const SUBJECT_BYTES: usize = 512;

/// Windows of one type of one service.
type Subject = (PtypeId, ServiceId);
/// Where a window lies within a minute of its subject.
type Place = (SeriesId, u64, WriterId);

/// The windows of a subject that start in one minute.
#[derive(Clone, Debug, Default)]
pub(super) struct Minute {
    places: BTreeMap<Place, std::ops::Range<usize>>,
    values: Vec<u8>,
}

impl Minute {
    /// Returns how many bytes it takes more.
    fn put(&mut self, place: Place, value: &[u8]) -> usize {
        let (start, room) = (self.values.len(), self.values.capacity());
        self.values.extend_from_slice(value);
        self.places.insert(place, start..self.values.len());
        self.values.capacity() - room + ENTRY_BYTES
    }

    fn get(&self, place: &Place) -> Option<&[u8]> {
        self.values.get(self.places.get(place)?.clone())
    }

    /// Calls `visit` with every window of a selection, by series and time.
    pub(super) fn visit<E>(
        &self,
        request: &SumRequest<'_>,
        (from_s, until_s): (u64, u64),
        mut visit: impl FnMut(&WindowKey, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut give = |(place, range): (&Place, &std::ops::Range<usize>)| {
            let &(series, start_s, writer) = place;
            let key = WindowKey {
                tier: Tier::Window,
                ptype: request.ptype,
                service: request.service,
                start_s,
                series,
                writer,
            };
            let value = self.values.get(range.clone());
            visit(&key, value.unwrap_or_default())
        };
        match request.series {
            None => self
                .places
                .iter()
                .filter(|((_, start_s, _), _)| (from_s..until_s).contains(start_s))
                .try_for_each(give),
            Some(list) => list.iter().try_for_each(|&series| {
                let place = |second| (series, second, WriterId(0));
                let mut found = self.places.range(place(from_s)..place(until_s));
                found.try_for_each(&mut give)
            }),
        }
    }
}

/// The windows of the last minutes.
#[derive(Debug)]
pub(super) struct Recent {
    limit: usize,
    bytes: usize,
    /// Minutes before this second had to make room.
    from_s: u64,
    minutes: BTreeMap<u64, OfMinute>,
    /// Of each subject: from this second on nothing was stored before it came here.
    since: FxHashMap<Subject, u64>,
}

#[derive(Debug, Default)]
struct OfMinute {
    subjects: FxHashMap<Subject, Arc<Minute>>,
    bytes: usize,
}

impl Recent {
    /// Returns what will hold about `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            bytes: 0,
            from_s: 0,
            minutes: BTreeMap::new(),
            since: FxHashMap::default(),
        }
    }

    /// Whether it was told of a subject.
    pub(super) fn knows(&self, subject: Subject) -> bool {
        self.since.contains_key(&subject)
    }

    /// No window of a subject that starts at or after `since_s` was stored so far.
    pub(super) fn begin(&mut self, subject: Subject, since_s: u64) {
        self.since.insert(subject, since_s);
    }

    /// A window was written; of one key the last one stays.
    pub(super) fn put(&mut self, key: &WindowKey, value: &[u8]) {
        let subject = (key.ptype, key.service);
        if key.tier != Tier::Window || key.start_s < self.from_s || !self.knows(subject) {
            return;
        }
        let minute = self.minutes.entry(Tier::Minute.bucket(key.start_s));
        let minute = minute.or_default();
        let subjects = minute.subjects.len();
        let held = minute.subjects.entry(subject).or_default();
        let place = (key.series, key.start_s, key.writer);
        let mut bytes = Arc::make_mut(held).put(place, value);
        bytes += (minute.subjects.len() - subjects) * SUBJECT_BYTES;
        minute.bytes += bytes;
        self.bytes += bytes;
        while self.bytes > self.limit
            && let Some((oldest, gone)) = self.minutes.pop_first()
        {
            self.bytes -= gone.bytes;
            self.from_s = oldest.saturating_add(Tier::Minute.length_s());
        }
    }

    fn covers(&self, subject: Subject, from_s: u64) -> bool {
        let since = self.since.get(&subject);
        since.is_some_and(|since| from_s >= self.from_s.max(*since))
    }

    /// The minutes with the windows of a subject in `[from_s, until_s)`, in order;
    /// `None` when it may not hold all of them.
    pub(super) fn minutes(
        &self,
        subject: Subject,
        from_s: u64,
        until_s: u64,
    ) -> Option<Vec<Arc<Minute>>> {
        self.covers(subject, from_s).then(|| {
            let minutes = self.minutes.range(Tier::Minute.bucket(from_s)..until_s);
            let of_subject = minutes.filter_map(|(_, minute)| minute.subjects.get(&subject));
            of_subject.map(Arc::clone).collect()
        })
    }

    /// The value of a window: the outer `None` when it may not hold it.
    #[expect(clippy::option_option, reason = "not known, and known to be missing")]
    pub(super) fn window(&self, key: &WindowKey) -> Option<Option<Vec<u8>>> {
        let subject = (key.ptype, key.service);
        if key.tier != Tier::Window || !self.covers(subject, key.start_s) {
            return None;
        }
        let minute = self.minutes.get(&Tier::Minute.bucket(key.start_s));
        let held = minute.and_then(|minute| minute.subjects.get(&subject));
        let value = held.and_then(|held| held.get(&(key.series, key.start_s, key.writer)));
        Some(value.map(<[u8]>::to_vec))
    }

    /// Windows in `[from_s, until_s)` are gone: those of `service`, or all.
    pub(super) fn remove(&mut self, service: Option<ServiceId>, from_s: u64, until_s: u64) {
        for (_, minute) in self.minutes.range_mut(from_s..until_s) {
            minute
                .subjects
                .retain(|(_, held), _| service.is_some_and(|service| *held != service));
        }
        // What they took is given back with their minutes, which are the next to go.
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::store::rocks::{Memory, RocksStore};
    use crate::store::tier::{DAY_S, instant, range};
    use crate::store::{Kept, Store, WriteGroup};

    const START_S: u64 = 20_585 * DAY_S - 600;
    const SPAN_S: u64 = 1_200;

    #[derive(Clone, Debug)]
    enum Step {
        /// Windows: second, service, series, value.
        Write(Vec<(u64, u32, u32, u8)>),
        Restart,
        DropFirstDay,
        DropOf(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let window = (0..SPAN_S, 1_u32..3, 1_u32..4, any::<u8>());
        prop_oneof![
            12 => proptest::collection::vec(window, 1..8).prop_map(Step::Write),
            2 => Just(Step::Restart),
            1 => Just(Step::DropFirstDay),
            1 => (1_u32..3).prop_map(Step::DropOf),
        ]
    }

    fn open(folder: &Path, recent: usize) -> RocksStore {
        let memory = Memory {
            blocks: 1 << 20,
            write_buffers: 1 << 19,
            recent,
        };
        RocksStore::open_with(folder, memory).unwrap()
    }

    fn apply(store: &mut Option<RocksStore>, folder: &Path, recent: usize, step: &Step) {
        let held = store.take().unwrap_or_else(|| open(folder, recent));
        let kept = Kept::Rows(Tier::Window);
        let midnight = instant(START_S + 600);
        match step {
            Step::Write(windows) => {
                let windows = windows.iter().map(|&(second, service, series, value)| {
                    let key = WindowKey {
                        tier: Tier::Window,
                        ptype: PtypeId(1),
                        service: ServiceId(service),
                        start_s: START_S + second,
                        series: SeriesId(series),
                        writer: WriterId(u32::from(value % 2)),
                    };
                    (key, vec![value; usize::from(value)])
                });
                let group = WriteGroup {
                    windows: windows.collect(),
                    ..WriteGroup::default()
                };
                Store::write(&held, &group).unwrap();
            }
            Step::Restart => return,
            Step::DropFirstDay => {
                held.drop_before(kept, midnight).unwrap();
            }
            Step::DropOf(service) => {
                let from = instant(START_S - DAY_S);
                held.drop_of(kept, ServiceId(*service), from, midnight)
                    .unwrap();
            }
        }
        *store = Some(held);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// With any room for recent windows the store says what it says with none.
        #[test]
        fn what_is_recent_is_what_is_stored(
            steps in proptest::collection::vec(step(), 1..20),
            room in prop_oneof![0_usize..4_000, Just(1 << 20)],
            from in 0..SPAN_S,
            length in 1..SPAN_S,
            list in proptest::option::of(proptest::sample::subsequence(vec![1, 2, 3], 0..3)),
        ) {
            let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let rooms = [0, room];
            let mut stores = [None, None];
            for step in &steps {
                for ((store, folder), room) in stores.iter_mut().zip(&folders).zip(rooms) {
                    apply(store, folder.path(), room, step);
                }
                let mut seen = Vec::new();
                for ((store, folder), room) in stores.iter_mut().zip(&folders).zip(rooms) {
                    let store = store.get_or_insert_with(|| open(folder.path(), room));
                    let series: Option<Vec<SeriesId>> =
                        list.as_ref().map(|list| list.iter().copied().map(SeriesId).collect());
                    let mut found = BTreeMap::new();
                    for service in 1..3 {
                        let request = SumRequest {
                            tier: Tier::Window,
                            ptype: PtypeId(1),
                            service: ServiceId(service),
                            series: series.as_deref(),
                            window: range(START_S + from, START_S + from + length).unwrap(),
                        };
                        store.values(&request, &mut |key, value| {
                            let one = store.window(key).unwrap();
                            let is_new = found.insert(*key, value.to_vec()).is_none();
                            (is_new && one.as_deref() == Some(value))
                                .then_some(())
                                .ok_or("seen twice, or not under its key")
                        }).unwrap();
                    }
                    seen.push(found);
                }
                prop_assert_eq!(&seen[0], &seen[1]);
            }
        }
    }

    #[test]
    fn what_had_to_make_room_is_not_covered() {
        let subject = (PtypeId(1), ServiceId(1));
        let key = |start_s| WindowKey {
            tier: Tier::Window,
            ptype: subject.0,
            service: subject.1,
            start_s,
            series: SeriesId(1),
            writer: WriterId(1),
        };
        let mut recent = Recent::new(3 * (SUBJECT_BYTES + ENTRY_BYTES + 100));
        recent.put(&key(60), &[0; 100]);
        assert_eq!(recent.window(&key(60)), None, "it was not told since when");
        recent.begin(subject, 60);
        for minute in 1..=4 {
            recent.put(&key(60 * minute), &[0; 100]);
        }
        assert_eq!(recent.window(&key(119)), None);
        assert_eq!(recent.window(&key(121)), Some(None));
        assert_eq!(recent.window(&key(240)), Some(Some(vec![0; 100])));
        assert!(recent.minutes(subject, 119, 400).is_none());
        assert_eq!(recent.minutes(subject, 120, 400).unwrap().len(), 3);
    }
}
