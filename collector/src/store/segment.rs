//! Values of windows and of rows that sum them: sparse vectors over a
//! service's stacks.
//!
//! ```text
//! window  := 1 u8, span varint (ns), segment+
//! row     := 2 u8, n, n stretches (gap, length in seconds), segment+
//! segment := epoch, period (zigzag), weight, observed (ns), windows,
//!            n, n ids (each the distance to the one before), n values (zigzag)
//! ```
//! All numbers are varints of up to 128 bits. Ids rise strictly. The value of a
//! stack in the unit of its type is `value x weight`; a gauge is stored times
//! the seconds it stands for. Segments with equal (epoch, period, weight) add.
//!
//! A row says during which seconds some of its windows observed the target, as
//! stretches from the start of the row's bucket; a sum over rows knows the time
//! that a selection was seen as exactly as one over windows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::bytes::{Reader, len, put_short, put_varint, put_zigzag};
use super::exact::ExactSums;
use super::{Epoch, SeriesId};

/// Version of the value of a window.
pub const WINDOW_VERSION: u8 = 1;
/// Version of the value of a row that sums windows.
const ROW_VERSION: u8 = 2;
const NANOS: u64 = 1_000_000_000;
/// Largest stack id that is believed; a tree has far fewer.
const MAX_STACK_ID: u32 = 1 << 28;

/// Most kinds that are kept apart; what comes beyond them is added in the unit
/// of its type, so that only sample counts are lost.
const MAX_KINDS: usize = 32;

/// What must be equal for two segments to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentKind {
    /// Version of the tree that the stack ids are of.
    pub epoch: Epoch,
    /// Distance between samples in the period's unit.
    pub period: i64,
    /// Unit value of one stored count.
    pub weight: u64,
}

impl SegmentKind {
    /// The kind of values in the unit of their type.
    fn in_units(self) -> Self {
        Self {
            epoch: self.epoch,
            period: 0,
            weight: 1,
        }
    }
}

/// One sparse vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// What it may be added to.
    pub kind: SegmentKind,
    /// Time during which it was sampled, summed over its windows.
    pub observed_ns: u64,
    /// Windows it sums.
    pub windows: u64,
    /// (stack id, value), by id.
    pub entries: Vec<(u32, i128)>,
}

impl Segment {
    /// The same values in the unit of their type.
    fn in_units(&self) -> Self {
        let weight = i128::from(self.kind.weight);
        let entries = self.entries.iter();
        Self {
            kind: self.kind.in_units(),
            entries: entries
                .map(|(id, value)| (*id, value.saturating_mul(weight)))
                .collect(),
            ..*self
        }
    }
}

/// What is stored under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Length of the window.
    pub span_ns: u64,
    /// Its vectors, no two of one kind.
    pub segments: Vec<Segment>,
}

impl Value {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![WINDOW_VERSION];
        put_varint(&mut out, self.span_ns.into());
        for segment in &self.segments {
            let head = Head {
                kind: segment.kind,
                observed_ns: segment.observed_ns,
                windows: segment.windows,
            };
            put_segment(&mut out, &head, &segment.entries);
        }
        out
    }

    /// Reads a stored value; the error says what is wrong with it.
    ///
    /// # Errors
    ///
    /// A phrase for a person if the bytes are no value of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut segments = Vec::new();
        let seen = read(bytes, |head, ids, values| {
            let mut entries = Vec::with_capacity(ids.len());
            each_value(ids, values, |id, value| entries.push((id, value)))?;
            segments.push(Segment {
                kind: head.kind,
                observed_ns: head.observed_ns,
                windows: head.windows,
                entries,
            });
            Ok(())
        })?;
        match seen {
            Seen::Span(span_ns) => Ok(Self { span_ns, segments }),
            Seen::Stretches(_) => Err("a row, not a window"),
        }
    }

    /// Adds another value of the same key.
    pub fn add(&mut self, other: &Self) {
        self.span_ns = self.span_ns.max(other.span_ns);
        for segment in &other.segments {
            let is_known = self.segments.iter().any(|s| s.kind == segment.kind);
            let in_units;
            let segment = if is_known || self.segments.len() < MAX_KINDS {
                segment
            } else {
                in_units = segment.in_units();
                &in_units
            };
            match self.segments.iter_mut().find(|s| s.kind == segment.kind) {
                Some(mine) => {
                    mine.observed_ns = mine.observed_ns.saturating_add(segment.observed_ns);
                    mine.windows = mine.windows.saturating_add(segment.windows);
                    let mut sums: BTreeMap<u32, i128> = mine.entries.iter().copied().collect();
                    for &(id, value) in &segment.entries {
                        let sum = sums.entry(id).or_default();
                        *sum = sum.saturating_add(value);
                    }
                    mine.entries = sums.into_iter().collect();
                }
                None => self.segments.push(segment.clone()),
            }
        }
    }
}

/// A segment without its vector.
#[derive(Clone, Copy)]
struct Head {
    kind: SegmentKind,
    observed_ns: u64,
    windows: u64,
}

/// What a value says of the time it covers.
enum Seen {
    /// Length of a window in nanoseconds.
    Span(u64),
    /// Stretches of seconds `[from, until)` after the start of a row's bucket.
    Stretches(Vec<(u64, u64)>),
}

fn put_segment(out: &mut Vec<u8>, head: &Head, entries: &[(u32, i128)]) {
    put_varint(out, head.kind.epoch.0.into());
    put_zigzag(out, head.kind.period.into());
    put_varint(out, head.kind.weight.into());
    put_varint(out, head.observed_ns.into());
    put_varint(out, head.windows.into());
    put_varint(out, len(entries.len()));
    // Most are a byte or two, of each run.
    out.reserve(entries.len().saturating_mul(3));
    let mut before = 0;
    for &(id, _) in entries {
        put_short(out, id.saturating_sub(before).into());
        before = id;
    }
    for &(_, value) in entries {
        put_zigzag(out, value);
    }
}

fn stretches(reader: &mut Reader<'_>) -> Option<Vec<(u64, u64)>> {
    let count = reader.length()?;
    let mut stretches = Vec::with_capacity(count);
    let mut end: u64 = 0;
    for _ in 0..count {
        let from = end.checked_add(reader.number()?)?;
        end = from.checked_add(reader.number()?)?;
        stretches.push((from, end));
    }
    Some(stretches)
}

/// Reads a value segment by segment: `visit` gets each head, its ids, and a
/// reader that stands at its values and must be moved past them.
fn read<'a>(
    bytes: &'a [u8],
    mut visit: impl FnMut(Head, &[u32], &mut Reader<'a>) -> Result<(), &'static str>,
) -> Result<Seen, &'static str> {
    let mut reader = Reader(bytes);
    let seen = match reader.byte() {
        Some(WINDOW_VERSION) => Seen::Span(reader.number().ok_or("without a span")?),
        Some(ROW_VERSION) => {
            Seen::Stretches(stretches(&mut reader).ok_or("cut short within its stretches")?)
        }
        Some(_) => return Err("of a newer version"),
        None => return Err("empty"),
    };
    let mut ids: Vec<u32> = Vec::new();
    while !reader.is_empty() {
        let head = head(&mut reader).ok_or("cut short within a segment's head")?;
        let count = reader.length().ok_or("longer than its bytes")?;
        read_ids(&mut reader, count, &mut ids)?;
        visit(head, &ids, &mut reader)?;
    }
    Ok(seen)
}

/// Puts the next `count` ids of stacks into `ids`.
fn read_ids(reader: &mut Reader<'_>, count: usize, ids: &mut Vec<u32>) -> Result<(), &'static str> {
    const SHORT: &str = "cut short within its ids";
    ids.clear();
    if count == 0 {
        return Ok(());
    }
    // No more than the bytes at hand, see `Reader::length`.
    ids.reserve(count);
    let mut id = reader.small().ok_or(SHORT)?;
    ids.push(id);
    let mut rises = true;
    while ids.len() < count && id <= MAX_STACK_ID {
        let left = count - ids.len();
        if left >= 8
            && let Some(steps) = reader.eight()
        {
            let below = steps.map(|step| {
                rises &= step > 0;
                id = id.wrapping_add(step.into());
                id
            });
            ids.extend_from_slice(&below);
            continue;
        }
        for _ in 0..left.min(8) {
            let step = reader.small().ok_or(SHORT)?;
            rises &= step > 0;
            id = id.saturating_add(step);
            ids.push(id);
        }
    }
    match rises {
        false => Err("with ids that do not rise"),
        true if id > MAX_STACK_ID => Err("with an impossible id"),
        true => Ok(()),
    }
}

/// Calls `visit` with each of `ids` and its value, which `values` stands at.
#[inline]
fn each_value(
    ids: &[u32],
    values: &mut Reader<'_>,
    visit: impl FnMut(u32, i128),
) -> Result<(), &'static str> {
    let read = values.zigzags(ids, visit);
    read.ok_or("cut short within its values")
}

fn head(reader: &mut Reader<'_>) -> Option<Head> {
    Some(Head {
        kind: SegmentKind {
            epoch: Epoch(reader.number()?),
            period: reader.zigzag()?.try_into().ok()?,
            weight: reader.number()?,
        },
        observed_ns: reader.number()?,
        windows: reader.number()?,
    })
}

/// Calls `visit` with kind, stack id and value of every entry of a stored value,
/// and returns the time during which it was observed, in nanoseconds.
///
/// # Errors
///
/// A phrase for a person if the bytes are no value of a known version.
pub fn visit(
    bytes: &[u8],
    mut visit: impl FnMut(SegmentKind, u32, i128),
) -> Result<u64, &'static str> {
    let mut observed_ns: u64 = 0;
    read(bytes, |head, ids, values| {
        observed_ns = observed_ns.saturating_add(head.observed_ns);
        each_value(ids, values, |id, value| visit(head.kind, id, value))
    })?;
    Ok(observed_ns)
}

/// Vectors of one kind, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Observed time, summed over windows.
    pub observed_ns: u64,
    /// Windows that were added.
    pub windows: u64,
    /// By stack id.
    pub values: ExactSums,
}

impl Sum {
    fn absorb(&mut self, other: &Self, factor: i128) {
        self.observed_ns = self.observed_ns.saturating_add(other.observed_ns);
        self.windows = self.windows.saturating_add(other.windows);
        self.values.absorb(&other.values, factor);
    }
}

/// The whole seconds that a window observed, as a gauge is kept times them; what was
/// observed at all counts for one.
pub(crate) fn seconds_of(observed_ns: u64) -> u64 {
    let rounded = observed_ns.saturating_add(NANOS / 2) / NANOS;
    rounded.max(u64::from(observed_ns > 0))
}

/// Where values of `kind` are added, and what they are multiplied by there.
fn kind_of(sums: &BTreeMap<SegmentKind, Sum>, kind: SegmentKind) -> (SegmentKind, i128) {
    match sums.len() < MAX_KINDS || sums.contains_key(&kind) {
        true => (kind, 1),
        false => (kind.in_units(), i128::from(kind.weight)),
    }
}

/// Who waits for a sum.
pub trait Waiter: fmt::Debug + Send + Sync {
    /// Whether the sum is for nothing: nobody waits any more, or it is too large.
    fn is_gone(&self) -> bool;

    /// The vectors beside the longest one take so many bytes now. Most sums have one
    /// vector; others have one per epoch, period and weight.
    fn holds_more(&self, bytes: usize);
}

/// Vectors of a selection, added up.
#[derive(Clone, Debug, Default)]
pub struct RangeSum {
    /// One per kind.
    pub sums: BTreeMap<SegmentKind, Sum>,
    /// Series that had a window, where series were looked at.
    pub series: BTreeSet<SeriesId>,
    /// Stretches of seconds `[from, until)` during which something was
    /// observed; sorted and apart once [`RangeSum::finish`] ran.
    pub seconds: Vec<(u64, u64)>,
    /// Who waits for it, where that may change.
    pub waiter: Option<Arc<dyn Waiter>>,
}

impl RangeSum {
    /// Whether nobody waits for the sum any more.
    pub fn is_cancelled(&self) -> bool {
        self.waiter.as_ref().is_some_and(|waiter| waiter.is_gone())
    }

    /// Adds the stored value of a window of `series` that starts at `start_s`,
    /// or of a row whose bucket does.
    ///
    /// # Errors
    ///
    /// A phrase for a person if the bytes are no value of a known version.
    pub fn add(
        &mut self,
        series: SeriesId,
        start_s: u64,
        bytes: &[u8],
    ) -> Result<(), &'static str> {
        let sums = &mut self.sums;
        let mut observed = 0_u64;
        let seen = read(bytes, |head, ids, values| {
            observed = observed.saturating_add(head.observed_ns);
            let (kind, factor) = kind_of(sums, head.kind);
            let sum = sums.entry(kind).or_default();
            sum.observed_ns = sum.observed_ns.saturating_add(head.observed_ns);
            sum.windows = sum.windows.saturating_add(head.windows);
            let last = ids.last().and_then(|&id| usize::try_from(id).ok());
            let sums = &mut sum.values;
            sums.reach(last.map_or(0, |id| id.saturating_add(1)));
            match factor {
                1 => each_value(ids, values, |id, value| sums.add(id, value)),
                factor => each_value(ids, values, |id, value| {
                    sums.add(id, value.saturating_mul(factor));
                }),
            }
        })?;
        match seen {
            Seen::Span(span_ns) => {
                // Several windows under one key observed it at the same time.
                let seen_ns = observed.min(span_ns);
                let until = start_s.saturating_add(seconds_of(seen_ns));
                self.cover(start_s, until);
            }
            Seen::Stretches(stretches) => {
                for (from, until) in stretches {
                    self.cover(start_s.saturating_add(from), start_s.saturating_add(until));
                }
            }
        }
        if self.series.last() != Some(&series) {
            self.series.insert(series);
        }
        if let Some(waiter) = &self.waiter
            && self.sums.len() > 1
        {
            let bytes = self.sums.values().map(|sum| sum.values.bytes());
            let (all, longest) = bytes.fold((0_usize, 0), |(all, longest), bytes| {
                (all.saturating_add(bytes), bytes.max(longest))
            });
            waiter.holds_more(all.saturating_sub(longest));
        }
        Ok(())
    }

    fn cover(&mut self, start_s: u64, until: u64) {
        match self.seconds.last_mut() {
            // Windows of one series come in order: most join the last stretch.
            Some((from, end)) if *from <= start_s && start_s <= *end => *end = until.max(*end),
            _ => self.seconds.push((start_s, until)),
        }
    }

    /// Adds what was summed of another part of the selection over the same tree.
    pub fn absorb(&mut self, other: &Self) {
        for (kind, sum) in &other.sums {
            let (kind, factor) = kind_of(&self.sums, *kind);
            self.sums.entry(kind).or_default().absorb(sum, factor);
        }
        self.series.extend(&other.series);
        self.seconds.extend_from_slice(&other.seconds);
    }

    /// Sorts and joins the stretches of time.
    pub fn finish(&mut self) {
        self.seconds.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::new();
        for &(from, until) in &self.seconds {
            match joined.last_mut() {
                Some((_, end)) if from <= *end => *end = until.max(*end),
                _ => joined.push((from, until)),
            }
        }
        self.seconds = joined;
    }

    /// The stored row of the bucket that starts at `bucket_s`; `None` when
    /// nothing was added. [`RangeSum::finish`] must have run.
    pub fn encode_row(&self, bucket_s: u64) -> Option<Vec<u8>> {
        if self.sums.is_empty() {
            return None;
        }
        let mut out = vec![ROW_VERSION];
        put_varint(&mut out, len(self.seconds.len()));
        let mut end = bucket_s;
        for &(from, until) in &self.seconds {
            put_varint(&mut out, from.saturating_sub(end).into());
            put_varint(&mut out, until.saturating_sub(from).into());
            end = until;
        }
        let mut entries: Vec<(u32, i128)> = Vec::new();
        for (kind, sum) in &self.sums {
            entries.clear();
            sum.values.each_held(|id, value| entries.push((id, value)));
            let head = Head {
                kind: *kind,
                observed_ns: sum.observed_ns,
                windows: sum.windows,
            };
            put_segment(&mut out, &head, &entries);
        }
        Some(out)
    }

    /// Windows that were added.
    pub fn windows(&self) -> u64 {
        let sums = self.sums.values();
        sums.fold(0, |all: u64, sum| all.saturating_add(sum.windows))
    }

    /// Observed time, summed over windows.
    pub fn observed_ns(&self) -> u64 {
        let sums = self.sums.values();
        sums.fold(0, |all: u64, sum| all.saturating_add(sum.observed_ns))
    }

    /// Seconds during which something was observed.
    pub fn covered_s(&self) -> u64 {
        self.seconds.iter().fold(0, |sum: u64, (from, until)| {
            sum.saturating_add(until.saturating_sub(*from))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kind(weight: u64) -> SegmentKind {
        SegmentKind {
            epoch: Epoch(0),
            period: 10,
            weight,
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let entries =
            proptest::collection::btree_map(0u32..64, any::<i64>().prop_map(i128::from), 0..20);
        let segment =
            (0u64..3, any::<u32>(), entries).prop_map(|(weight, observed, entries)| Segment {
                kind: kind(weight),
                observed_ns: observed.into(),
                windows: 1,
                entries: entries.into_iter().collect(),
            });
        (any::<u64>(), proptest::collection::vec(segment, 0..3)).prop_map(|(span_ns, segments)| {
            let mut value = Value {
                span_ns,
                segments: Vec::new(),
            };
            value.add(&Value { span_ns, segments });
            value
        })
    }

    /// What a value says, apart from the order of its segments.
    fn content(value: &Value) -> BTreeMap<SegmentKind, (u64, Vec<(u32, i128)>)> {
        value
            .segments
            .iter()
            .map(|s| (s.kind, (s.observed_ns, s.entries.clone())))
            .collect()
    }

    #[test]
    fn golden_bytes() {
        let value = Value {
            span_ns: 10_000_000_000,
            segments: vec![Segment {
                kind: kind(10),
                observed_ns: 5,
                windows: 1,
                entries: vec![(0, 1), (3, -2), (200, 1000)],
            }],
        };
        assert_eq!(
            value.encode(),
            [
                1, 0x80, 0xc8, 0xaf, 0xa0, 0x25, // version, span
                0, 20, 10, 5, 1, // epoch, period, weight, observed, windows
                3, 0, 3, 0xc5, 0x01, // ids 0, +3, +197
                2, 3, 0xd0, 0x0f, // values 1, -2, 1000
            ]
        );
    }

    #[test]
    fn damaged_values_are_told() {
        for (bytes, problem) in [
            (&[][..], "empty"),
            (&[9], "of a newer version"),
            (&[1], "without a span"),
            (&[1, 0, 0, 20], "cut short within a segment's head"),
            (&[1, 0, 0, 20, 10, 5, 1, 200, 1], "longer than its bytes"),
            (
                &[1, 0, 0, 20, 10, 5, 1, 2, 1, 0, 0, 0],
                "with ids that do not rise",
            ),
            (
                &[1, 0, 0, 20, 10, 5, 1, 2, 1, 1, 2],
                "cut short within its values",
            ),
        ] {
            assert_eq!(Value::decode(bytes), Err(problem), "{bytes:?}");
        }
    }

    #[test]
    fn a_window_covers_the_nearest_whole_seconds() {
        for (observed_ns, seconds) in [
            (0, 0),
            (1, 1),
            (9_999_999_999, 10),
            (10_000_582_312, 10),
            (10_500_000_000, 11),
        ] {
            assert_eq!(seconds_of(observed_ns), seconds, "{observed_ns}");
        }
    }

    #[test]
    fn seconds_of_overlapping_series_count_once() {
        let value = |observed_ns| {
            Value {
                span_ns: observed_ns,
                segments: vec![Segment {
                    kind: kind(1),
                    observed_ns,
                    windows: 1,
                    entries: vec![(0, 1)],
                }],
            }
            .encode()
        };
        let mut sum = RangeSum::default();
        for (series, start) in [(1, 0), (1, 60), (2, 30), (2, 300)] {
            sum.add(SeriesId(series), start, &value(60_000_000_000))
                .unwrap();
        }
        sum.finish();
        assert_eq!(sum.seconds, [(0, 120), (300, 360)]);
        assert_eq!(sum.covered_s(), 180);
        assert_eq!((sum.windows(), sum.series.len()), (4, 2));
    }

    proptest! {
        #[test]
        fn values_round_trip(value in value()) {
            prop_assert_eq!(Value::decode(&value.encode()), Ok(value));
        }

        #[test]
        fn adding_commutes_and_associates(a in value(), b in value(), c in value()) {
            let sum = |x: &Value, y: &Value| { let mut x = x.clone(); x.add(y); x };
            prop_assert_eq!(content(&sum(&a, &b)), content(&sum(&b, &a)));
            prop_assert_eq!(content(&sum(&sum(&a, &b), &c)), content(&sum(&a, &sum(&b, &c))));
        }

        #[test]
        fn a_range_sum_keeps_the_total(values in proptest::collection::vec(value(), 0..6)) {
            let mut sum = RangeSum::default();
            for (index, value) in values.iter().enumerate() {
                sum.add(SeriesId(1), index as u64 * 10, &value.encode()).unwrap();
            }
            let before: i128 = values.iter().flat_map(|v| &v.segments).flat_map(|s| &s.entries).map(|e| e.1).sum();
            let after: i128 = sum.sums.values().map(|sum| sum.values.total()).sum();
            prop_assert_eq!(before, after);
        }

        #[test]
        fn kinds_beyond_the_bound_add_up_in_units(weights in proptest::collection::vec(1u64..1_000, 1..100)) {
            let mut sum = RangeSum::default();
            let mut all = Value { span_ns: 1, segments: Vec::new() };
            let mut expected = 0;
            for weight in &weights {
                let segment = Segment { kind: kind(*weight), observed_ns: 1, windows: 1, entries: vec![(3, 2)] };
                let value = Value { span_ns: 1, segments: vec![segment] };
                sum.add(SeriesId(1), 0, &value.encode()).unwrap();
                all.add(&value);
                expected += 2 * i128::from(*weight);
            }
            prop_assert!(sum.sums.len() <= MAX_KINDS + 1 && all.segments.len() <= MAX_KINDS + 1);
            let total: i128 = sum.sums.iter().map(|(kind, sum)| sum.values.get(3) * i128::from(kind.weight)).sum();
            prop_assert_eq!(total, expected);
            let total: i128 = all.segments.iter().map(|s| s.entries[0].1 * i128::from(s.kind.weight)).sum();
            prop_assert_eq!(total, expected);
            prop_assert_eq!(sum.windows(), weights.len() as u64);
        }

        #[test]
        fn a_row_says_what_its_windows_said(
            windows in proptest::collection::vec((0u64..3_600, value()), 1..8),
        ) {
            let bucket = 7_200;
            let mut windows_sum = RangeSum::default();
            for (offset, value) in &windows {
                let mut value = value.clone();
                for segment in &mut value.segments {
                    segment.observed_ns %= 60_000_000_000;
                }
                windows_sum.add(SeriesId(1), bucket + offset, &value.encode()).unwrap();
            }
            windows_sum.finish();
            let mut row_sum = RangeSum::default();
            if let Some(row) = windows_sum.encode_row(bucket) {
                row_sum.add(SeriesId(1), bucket, &row).unwrap();
            }
            row_sum.finish();
            type Content = Vec<(SegmentKind, u64, u64, Vec<(u32, i128)>)>;
            let content = |sum: &RangeSum| -> Content {
                sum.sums.iter().map(|(kind, sum)| {
                    (*kind, sum.observed_ns, sum.windows, sum.values.held().collect())
                }).collect()
            };
            prop_assert_eq!(content(&row_sum), content(&windows_sum));
            if !windows_sum.sums.is_empty() {
                prop_assert_eq!(row_sum.seconds, windows_sum.seconds);
            }
        }

        #[test]
        fn no_bytes_panic(mut bytes: Vec<u8>, version in 0u8..4) {
            bytes.insert(0, version);
            let _value = Value::decode(&bytes);
            let _sum = RangeSum::default().add(SeriesId(1), 0, &bytes);
        }
    }
}
