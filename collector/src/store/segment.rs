//! Values of windows: sparse vectors over a service's stacks.
//!
//! ```text
//! value   := version u8, span varint (ns), segment+
//! segment := epoch, period (zigzag), weight, observed (ns), windows,
//!            n, n ids (each the distance to the one before), n values (zigzag)
//! ```
//! All numbers are varints of up to 128 bits. Ids rise strictly. The value of a
//! stack in the unit of its type is `value x weight`; a gauge is stored times
//! the seconds it stands for. Segments with equal (epoch, period, weight) add.

use std::collections::BTreeMap;

use super::bytes::{Reader, len, put_varint, put_zigzag};
use super::{Epoch, SeriesId};

/// Version of the value format.
pub const VERSION: u8 = 1;
/// Largest stack id that is believed; a tree has far fewer.
const MAX_STACK_ID: u32 = 1 << 28;

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
        let mut out = vec![VERSION];
        put_varint(&mut out, self.span_ns.into());
        for segment in &self.segments {
            put_varint(&mut out, segment.kind.epoch.0.into());
            put_zigzag(&mut out, segment.kind.period.into());
            put_varint(&mut out, segment.kind.weight.into());
            put_varint(&mut out, segment.observed_ns.into());
            put_varint(&mut out, segment.windows.into());
            put_varint(&mut out, len(segment.entries.len()));
            let mut before = 0;
            for &(id, _) in &segment.entries {
                put_varint(&mut out, id.saturating_sub(before).into());
                before = id;
            }
            for &(_, value) in &segment.entries {
                put_zigzag(&mut out, value);
            }
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
        let span_ns = read(bytes, |head, ids, values| {
            let entries = ids
                .iter()
                .copied()
                .map(|id| values.zigzag().map(|value| (id, value)))
                .collect::<Option<Vec<_>>>()
                .ok_or("cut short within its values")?;
            segments.push(Segment {
                kind: head.kind,
                observed_ns: head.observed_ns,
                windows: head.windows,
                entries,
            });
            Ok(())
        })?;
        Ok(Self { span_ns, segments })
    }

    /// Adds another value of the same key.
    pub fn add(&mut self, other: &Self) {
        self.span_ns = self.span_ns.max(other.span_ns);
        for segment in &other.segments {
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
struct Head {
    kind: SegmentKind,
    observed_ns: u64,
    windows: u64,
}

/// Reads a value segment by segment: `visit` gets each head, its ids, and a
/// reader that stands at its values and must be moved past them.
fn read<'a>(
    bytes: &'a [u8],
    mut visit: impl FnMut(Head, &[u32], &mut Reader<'a>) -> Result<(), &'static str>,
) -> Result<u64, &'static str> {
    let mut reader = Reader(bytes);
    match reader.byte() {
        Some(VERSION) => {}
        Some(_) => return Err("of a newer version"),
        None => return Err("empty"),
    }
    let span_ns = reader.number().ok_or("without a span")?;
    let mut ids: Vec<u32> = Vec::new();
    while !reader.is_empty() {
        let head = head(&mut reader).ok_or("cut short within a segment's head")?;
        let count = reader.length().ok_or("longer than its bytes")?;
        ids.clear();
        let mut id: u32 = 0;
        for index in 0..count {
            let step: u32 = reader.number().ok_or("cut short within its ids")?;
            if step == 0 && index > 0 {
                return Err("with ids that do not rise");
            }
            id = id
                .checked_add(step)
                .filter(|&id| id <= MAX_STACK_ID)
                .ok_or("with an impossible id")?;
            ids.push(id);
        }
        visit(head, &ids, &mut reader)?;
    }
    Ok(span_ns)
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

/// Vectors of a selection, added up.
#[derive(Clone, Debug, Default)]
pub struct RangeSum {
    /// One per kind, dense: index is the stack id.
    pub sums: BTreeMap<SegmentKind, Vec<i128>>,
    /// Windows that were added.
    pub windows: u64,
    /// Series that had a window, sorted.
    pub series: Vec<SeriesId>,
    /// Observed time, summed over windows.
    pub observed_ns: u64,
    /// Stretches of seconds `[from, until)` during which something was
    /// observed; sorted and apart once [`RangeSum::finish`] ran.
    pub seconds: Vec<(u64, u64)>,
}

impl RangeSum {
    /// Adds the stored value of a window of `series` that starts at `start_s`.
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
        let (mut windows, mut observed) = (0_u64, 0_u64);
        read(bytes, |head, ids, values| {
            windows = windows.saturating_add(head.windows);
            observed = observed.saturating_add(head.observed_ns);
            let sum = sums.entry(head.kind).or_default();
            let length = ids
                .last()
                .and_then(|&id| usize::try_from(id).ok())
                .map_or(0, |id| id.saturating_add(1));
            if sum.len() < length {
                sum.resize(length, 0);
            }
            for &id in ids {
                let value = values.zigzag().ok_or("cut short within its values")?;
                if let Some(slot) = usize::try_from(id).ok().and_then(|id| sum.get_mut(id)) {
                    *slot = slot.saturating_add(value);
                }
            }
            Ok(())
        })?;
        self.windows = self.windows.saturating_add(windows);
        self.observed_ns = self.observed_ns.saturating_add(observed);
        let until = start_s.saturating_add(observed.div_ceil(1_000_000_000));
        match self.seconds.last_mut() {
            // Windows of one series come in order: most join the last stretch.
            Some((from, end)) if *from <= start_s && start_s <= *end => *end = until.max(*end),
            _ => self.seconds.push((start_s, until)),
        }
        if self.series.last() != Some(&series) {
            self.series.push(series);
        }
        Ok(())
    }

    /// Adds what was summed of another part of the selection over the same tree.
    pub fn absorb(&mut self, other: Self) {
        for (kind, values) in other.sums {
            let sum = self.sums.entry(kind).or_default();
            if sum.len() < values.len() {
                sum.resize(values.len(), 0);
            }
            for (slot, value) in sum.iter_mut().zip(values) {
                *slot = slot.saturating_add(value);
            }
        }
        self.windows = self.windows.saturating_add(other.windows);
        self.observed_ns = self.observed_ns.saturating_add(other.observed_ns);
        self.series.extend(other.series);
        self.seconds.extend(other.seconds);
        self.finish();
    }

    /// Sorts and joins the stretches of time and the series.
    pub fn finish(&mut self) {
        self.series.sort_unstable();
        self.series.dedup();
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
    fn seconds_of_overlapping_series_count_once() {
        let value = |observed_ns| {
            Value {
                span_ns: 1,
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
        assert_eq!((sum.windows, sum.series.len()), (4, 2));
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
            let after: i128 = sum.sums.values().flatten().sum();
            prop_assert_eq!(before, after);
        }

        #[test]
        fn no_bytes_panic(mut bytes: Vec<u8>) {
            bytes.insert(0, VERSION);
            let _value = Value::decode(&bytes);
            let _sum = RangeSum::default().add(SeriesId(1), 0, &bytes);
        }
    }
}
