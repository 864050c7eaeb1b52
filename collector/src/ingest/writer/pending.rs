//! What a group has prepared and not written yet.

use std::collections::{BTreeMap, BTreeSet};

use proto::labels::LabelSet;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::ingest::coarse::Coarse;
use crate::rollup::rolled::Rolled;
use crate::store::rows::{self, EpochRow, Late, WriterRow};
use crate::store::tier::Tier;
use crate::store::trees::{self, SharedTree};
use crate::store::{
    Active, PtypeId, SeriesId, ServiceId, ServiceKey, StoredType, TreeId, WindowKey, WriteGroup,
};

/// What a group has prepared and not written yet.
pub(super) struct Pending {
    pub(super) group: WriteGroup,
    pub(super) window_index: FxHashMap<WindowKey, usize>,
    pub(super) writers: FxHashMap<[u8; 16], WriterRow>,
    pub(super) services: FxHashMap<ServiceKey, ServiceId>,
    pub(super) types: FxHashMap<StoredType, PtypeId>,
    pub(super) series: FxHashMap<ServiceId, FxHashMap<LabelSet, SeriesId>>,
    pub(super) trees: BTreeMap<TreeId, SharedTree>,
    /// Trees that stacks of this group are added to.
    pub(super) current: BTreeMap<ServiceId, TreeId>,
    /// Epochs that begin with this group, and those before them.
    pub(super) begun: Vec<(ServiceId, EpochRow)>,
    /// Windows of the batch that is being prepared; they join the group when all
    /// of it could be.
    pub(super) staged: BTreeMap<WindowKey, Vec<u8>>,
    pub(super) coarse: Coarse,
    pub(super) touched: Vec<(ServiceId, SeriesId, u64)>,
    /// Windows before this second are late.
    pub(super) closed: u64,
    /// Accepted windows whose minute is open, and late ones.
    pub(super) marks: Vec<(ServiceId, PtypeId, SeriesId, u64)>,
    pub(super) late: BTreeSet<Late>,
    pub(super) active: FxHashSet<Active>,
    pub(super) starts: FxHashMap<ServiceId, u64>,
    pub(super) windows: u64,
}

impl Pending {
    pub(super) fn new(rolled: &Rolled) -> Self {
        Self {
            group: WriteGroup::default(),
            window_index: FxHashMap::default(),
            writers: FxHashMap::default(),
            services: FxHashMap::default(),
            types: FxHashMap::default(),
            series: FxHashMap::default(),
            trees: BTreeMap::new(),
            current: BTreeMap::new(),
            begun: Vec::new(),
            staged: BTreeMap::new(),
            coarse: Coarse::new(rolled),
            touched: Vec::new(),
            closed: rolled.closed(),
            marks: Vec::new(),
            late: BTreeSet::new(),
            active: FxHashSet::default(),
            starts: FxHashMap::default(),
            windows: 0,
        }
    }

    /// Bytes of the trees that this group may add to.
    pub(super) fn tree_bytes(&self) -> usize {
        let trees = self.trees.values();
        trees.map(|tree| trees::read(tree).bytes()).sum()
    }

    /// What is written under `key` by this group so far.
    pub(super) fn written(&self, key: &WindowKey) -> Option<&[u8]> {
        let staged = self.staged.get(key);
        staged.map(Vec::as_slice).or_else(|| {
            let index = *self.window_index.get(key)?;
            self.group
                .windows
                .get(index)
                .map(|(_, value)| value.as_slice())
        })
    }

    /// The batch could be prepared whole.
    pub(super) fn accept_staged(&mut self, known: &FxHashSet<Active>) {
        for (key, value) in std::mem::take(&mut self.staged) {
            self.note(&key, known);
            if self.coarse.takes(&key) {
                self.coarse.accept(&key, &value);
                continue;
            }
            let end = self.group.windows.len();
            let index = *self.window_index.entry(key).or_insert(end);
            match self.group.windows.get_mut(index) {
                Some((_, place)) => *place = value,
                None => self.group.windows.push((key, value)),
            }
        }
    }
}

impl Pending {
    /// A window is accepted: its sums are to be made, or made again, and its
    /// series was active.
    pub(super) fn note(&mut self, key: &WindowKey, known: &FxHashSet<Active>) {
        if key.tier == Tier::Import || self.coarse.takes(key) {
            // It has no sums, or they are changed in this very write.
        } else if key.start_s < self.closed {
            let late = Late {
                minute_s: Tier::Minute.bucket(key.start_s),
                service: key.service,
                ptype: key.ptype,
                series: key.series,
            };
            if self.late.insert(late) {
                self.group.dictionary.push(rows::late(&late));
            }
        } else {
            self.marks
                .push((key.service, key.ptype, key.series, key.start_s));
        }
        let active = Active {
            service: key.service,
            ptype: key.ptype,
            day_s: Tier::Day.bucket(key.start_s),
            series: key.series,
        };
        self.note_active(active, known);
    }

    pub(super) fn note_active(&mut self, active: Active, known: &FxHashSet<Active>) {
        if !known.contains(&active) && self.active.insert(active) {
            self.group.active.push(active);
        }
    }
}
