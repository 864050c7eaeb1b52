//! Adds up the samples of a file by stack, within [`Limits`].
//!
//! Every format goes through here, so caps and counts are the same for all.

use std::mem;

use proto::profile::Column;
use proto::stack::{FrameKind, FrameRef, Stack};
use proto::value_type::{ProfileType, Temporality};

use super::words::{Candidate, Collecting, FrameId, FunctionId};
use super::{Assumed, Dense, LeftOut, Limits, start_of};

/// Name of the stack that holds what is beyond a limit, as in `agent::delta`.
const OTHER: &str = "[other stacks]";
/// Name of the frame in the place of a root that was cut off.
const TRUNCATED: &str = "[truncated]";
/// What a frame costs beside its texts, as in [`proto::dictionary`].
const FRAME_COST: usize = 64;
/// What a text or stack costs beside its content, as in [`proto::dictionary`].
const ENTRY_COST: usize = 32;
/// What a stack costs per frame, as in [`proto::dictionary`].
const STEP_COST: usize = 4;

/// A stack of this tally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StackId(usize);

/// A column of this tally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ColumnId(usize);

/// How values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// As they come, each worth `weight`.
    Fixed {
        /// Distance between two samples.
        period: i64,
        /// Unit value of one count.
        weight: u64,
    },
    /// As numbers of this period, greater than zero, if all are multiples of
    /// it; else as they come.
    Multiples(i64),
    /// As numbers of samples, if all samples have one and the same value, which
    /// is the period then; else as they come.
    Equal(Option<i64>),
}

impl Scale {
    /// As they come, at an unknown distance.
    pub(super) const PLAIN: Self = Self::Fixed {
        period: 0,
        weight: 1,
    };

    /// As counts of what the caller of an import says.
    pub(super) fn counts(assumed: &Assumed) -> Self {
        Self::Fixed {
            // A count that is worth one unit says nothing of a distance.
            period: match assumed.weight {
                0 | 1 => 0,
                weight => i64::try_from(weight).unwrap_or(i64::MAX),
            },
            weight: assumed.weight,
        }
    }

    /// The scale after a sample of `value`.
    fn after(self, value: i64) -> Self {
        match self {
            Self::Multiples(period) if value.checked_rem(period) != Some(0) => {
                Self::Fixed { period, weight: 1 }
            }
            Self::Equal(None) if value > 0 => Self::Equal(Some(value)),
            Self::Equal(Some(period)) if period == value => self,
            Self::Equal(_) => Self::PLAIN,
            Self::Fixed { .. } | Self::Multiples(_) => self,
        }
    }
}

/// A column that is being added up.
#[derive(Debug)]
struct Sums {
    profile_type: ProfileType,
    temporality: Temporality,
    scale: Scale,
    values: Vec<i64>,
}

impl Sums {
    fn add(&mut self, stack: StackId, value: i64) {
        if self.values.len() <= stack.0 {
            self.values.resize(stack.0.saturating_add(1), 0);
        }
        if let Some(sum) = self.values.get_mut(stack.0) {
            *sum = sum.saturating_add(value);
        }
        self.scale = self.scale.after(value);
    }

    fn finish(mut self, stacks: usize) -> Column {
        self.values.resize(stacks, 0);
        let (period, weight) = match self.scale {
            Scale::Fixed { period, weight } => (period, weight),
            Scale::Equal(None) => (0, 1),
            Scale::Multiples(period) | Scale::Equal(Some(period)) => {
                for value in &mut self.values {
                    *value = value.checked_div(period).unwrap_or(0);
                }
                (period, u64::try_from(period).unwrap_or(1))
            }
        };
        Column {
            profile_type: self.profile_type,
            temporality: self.temporality,
            period,
            weight,
            values: self.values,
        }
    }
}

/// Stacks and columns of one recording.
#[derive(Debug)]
pub(super) struct Tally<'l> {
    limits: &'l Limits,
    /// Stacks are numbered in the order of their first samples.
    words: Collecting,
    columns: Vec<Sums>,
    /// The stack that is being pushed.
    path: Vec<FrameId>,
    is_truncated: bool,
    other: Option<StackId>,
    spent_bytes: usize,
    left_out: LeftOut,
}

impl<'l> Tally<'l> {
    /// Returns a tally without stacks.
    pub(super) fn new(limits: &'l Limits) -> Self {
        Self {
            limits,
            words: Collecting::default(),
            columns: Vec::new(),
            path: Vec::new(),
            is_truncated: false,
            other: None,
            spent_bytes: 0,
            left_out: LeftOut::default(),
        }
    }

    /// Makes room for about so many functions, frames and stacks, which the caller
    /// has in memory.
    pub(super) fn expect(&mut self, functions: usize, frames: usize, stacks: usize) {
        let most = self.limits.dictionary_bytes / ENTRY_COST;
        let stacks = stacks.min(self.limits.stacks);
        let rows = [functions, frames, stacks].map(|count| count.min(most));
        self.words.reserve(rows);
    }

    /// Most frames of a stack that are kept.
    pub(super) fn depth(&self) -> usize {
        self.limits.depth
    }

    /// Adds a column without values.
    pub(super) fn column(
        &mut self,
        profile_type: ProfileType,
        temporality: Temporality,
        scale: Scale,
    ) -> ColumnId {
        self.columns.push(Sums {
            profile_type,
            temporality,
            scale,
            values: Vec::new(),
        });
        ColumnId(self.columns.len().saturating_sub(1))
    }

    /// Types of the columns so far.
    pub(super) fn types(&self) -> impl Iterator<Item = &ProfileType> {
        self.columns.iter().map(|column| &column.profile_type)
    }

    /// The id of `frame`, whose texts are cut where they are too long.
    pub(super) fn frame(&mut self, frame: FrameRef<'_>) -> FrameId {
        let texts = [
            frame.function,
            frame.system_name,
            frame.file,
            frame.build_id,
        ];
        match self.function(frame.kind, frame.start_line, texts) {
            Some(function) => self.frame_of(function, frame.line, frame.file_offset),
            None => FrameId::NONE,
        }
    }

    /// The function with these texts: name, name in the binary, file and build id.
    /// They are cut where they are too long. `None` when there is no room for it.
    pub(super) fn function(
        &mut self,
        kind: FrameKind,
        start_line: u32,
        texts: [&str; 4],
    ) -> Option<FunctionId> {
        let function = Candidate::new(kind, start_line, texts.map(|text| self.cut_text(text)));
        match self.words.find_function(&function) {
            None if self.is_full() => None,
            None => Some(self.admit_function(&function)),
            known => known,
        }
    }

    /// The id of the frame at `line` of `function`, or at an offset in its module.
    pub(super) fn frame_of(
        &mut self,
        function: FunctionId,
        line: u32,
        file_offset: u64,
    ) -> FrameId {
        let key = self.words.frame_key(function, line, file_offset);
        match self.words.find_frame(key) {
            Some(known) => known,
            None if self.is_full() => FrameId::NONE,
            None => {
                self.spend(FRAME_COST);
                self.words.add_frame(key, function, line, file_offset)
            }
        }
    }

    /// Puts `frame` on the stack that is being built, below the frame it was
    /// called from: the leaf comes first.
    pub(super) fn push(&mut self, frame: FrameId) {
        if self.path.len() < self.limits.depth {
            self.path.push(frame);
        } else {
            self.is_truncated = true;
        }
    }

    /// Whether the stack that is being built takes no more frames.
    pub(super) fn is_cut(&self) -> bool {
        self.is_truncated
    }

    /// Ends the stack that is being built; without a push it is the empty one.
    pub(super) fn finish_stack(&mut self) -> StackId {
        let mut path = mem::take(&mut self.path);
        if mem::take(&mut self.is_truncated) {
            self.left_out.truncated_samples = self.left_out.truncated_samples.saturating_add(1);
            path.push(self.synthetic(TRUNCATED));
        }
        let id = self.stack_at(&path);
        // Kept, so that the next stack needs no memory of its own.
        path.clear();
        self.path = path;
        id
    }

    /// Adds `value` of one sample; zero changes nothing.
    pub(super) fn count(&mut self, column: ColumnId, stack: StackId, value: i64) {
        if value != 0
            && let Some(sums) = self.columns.get_mut(column.0)
        {
            sums.add(stack, value);
        }
    }

    /// What is changed or not kept so far.
    pub(super) fn left_out(&mut self) -> &mut LeftOut {
        &mut self.left_out
    }

    /// Whether there is no stack.
    pub(super) fn is_empty(&self) -> bool {
        self.words.stack_count() == 0
    }

    /// The stacks in the order of their first samples, the columns in the order
    /// in which they were added, and what is missing.
    pub(super) fn finish(self) -> (Vec<Stack>, Vec<Column>, LeftOut) {
        let dense = self.finish_dense();
        (dense.words.stacks(), dense.columns, dense.left_out)
    }

    /// The same with each frame once.
    pub(super) fn finish_dense(self) -> Dense {
        let count = self.words.stack_count();
        let columns = self.columns.into_iter();
        Dense {
            start: None,
            duration: None,
            words: self.words.finish(),
            columns: columns.map(|column| column.finish(count)).collect(),
            left_out: self.left_out,
        }
    }

    fn is_full(&self) -> bool {
        self.spent_bytes >= self.limits.dictionary_bytes
    }

    fn spend(&mut self, bytes: usize) {
        self.spent_bytes = self.spent_bytes.saturating_add(bytes);
    }

    fn stack_at(&mut self, path: &[FrameId]) -> StackId {
        let is_whole = !path.contains(&FrameId::NONE);
        if is_whole {
            let key = self.words.stack_key(path);
            if let Some(known) = self.words.find_stack(key) {
                return StackId(known);
            }
            if self.words.stack_count() < self.limits.stacks && !self.is_full() {
                return self.admit_stack(path);
            }
        }
        self.left_out.pooled_samples = self.left_out.pooled_samples.saturating_add(1);
        if let Some(id) = self.other {
            return id;
        }
        let frame = self.synthetic(OTHER);
        let id = self.admit_stack(&[frame]);
        self.other = Some(id);
        id
    }

    /// Adds a stack that is not known.
    fn admit_stack(&mut self, path: &[FrameId]) -> StackId {
        self.spend(path.len().saturating_mul(STEP_COST) + ENTRY_COST);
        let key = self.words.stack_key(path);
        StackId(self.words.add_stack(key, path))
    }

    /// The id of a frame of ours, for which there is always room.
    fn synthetic(&mut self, name: &str) -> FrameId {
        let function = Candidate::new(FrameKind::Synthetic, 0, [name, "", "", ""]);
        let function = match self.words.find_function(&function) {
            Some(known) => known,
            None => self.admit_function(&function),
        };
        let key = self.words.frame_key(function, 0, 0);
        match self.words.find_frame(key) {
            Some(known) => known,
            None => {
                self.spend(FRAME_COST);
                self.words.add_frame(key, function, 0, 0)
            }
        }
    }

    fn admit_function(&mut self, function: &Candidate<'_>) -> FunctionId {
        let mut spent = 0_usize;
        let id = self.words.add_function(function, |length| {
            spent = spent.saturating_add(length).saturating_add(ENTRY_COST);
        });
        self.spend(spent);
        id
    }

    fn cut_text<'t>(&mut self, text: &'t str) -> &'t str {
        if text.len() <= self.limits.name_bytes {
            return text;
        }
        self.left_out.cut_texts = self.left_out.cut_texts.saturating_add(1);
        start_of(text, self.limits.name_bytes)
    }
}
