//! Counts a batch once, however often it is sent. Pure.

use crate::store::WriterId;
use crate::store::rows::WriterRow;

/// Sequences behind the highest that are remembered one by one.
const REMEMBERED: u64 = 64;

/// What a sequence number means to what was accepted before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen before.
    Fresh,
    /// Accepted before.
    Duplicate,
    /// Too far behind to know.
    Unknown,
}

/// Returns the row of an instance that has sent nothing.
pub fn first(writer: WriterId) -> WriterRow {
    WriterRow {
        writer,
        sequence: 0,
        seen: 0,
        last_s: 0,
    }
}

/// Judges `sequence` by what `row` remembers.
pub fn judge(row: &WriterRow, sequence: u64) -> Verdict {
    if sequence > row.sequence {
        return Verdict::Fresh;
    }
    match row.sequence.checked_sub(sequence) {
        Some(behind) if behind < REMEMBERED => {
            if row.seen >> behind & 1 == 1 {
                Verdict::Duplicate
            } else {
                Verdict::Fresh
            }
        }
        _ => Verdict::Unknown,
    }
}

/// Returns `row` with `sequence` accepted at `now_s`.
pub fn accept(row: &WriterRow, sequence: u64, now_s: u64) -> WriterRow {
    let mut next = *row;
    next.last_s = now_s;
    if sequence > row.sequence {
        let ahead = sequence - row.sequence;
        let shifted = u32::try_from(ahead)
            .ok()
            .and_then(|ahead| row.seen.checked_shl(ahead))
            .unwrap_or(0);
        next.sequence = sequence;
        next.seen = shifted | 1;
    } else if let Some(bit) = u32::try_from(row.sequence - sequence)
        .ok()
        .and_then(|behind| 1_u64.checked_shl(behind))
    {
        next.seen |= bit;
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn far_behind_is_unknown() {
        let row = accept(&first(WriterId(1)), 100, 0);
        for (sequence, verdict) in [
            (101, Verdict::Fresh),
            (100, Verdict::Duplicate),
            (99, Verdict::Fresh),
            (37, Verdict::Fresh),
            (36, Verdict::Unknown),
            (0, Verdict::Unknown),
        ] {
            assert_eq!(judge(&row, sequence), verdict, "{sequence}");
        }
        let far = accept(&row, u64::MAX, 0);
        assert_eq!(judge(&far, u64::MAX), Verdict::Duplicate);
        assert_eq!(judge(&far, 101), Verdict::Unknown);
    }

    proptest! {
        #[test]
        fn within_the_memory_it_is_a_set(sequences in proptest::collection::vec(1u64..60, 0..100)) {
            let mut row = first(WriterId(1));
            let mut set = BTreeSet::new();
            for sequence in sequences {
                let expected = if set.insert(sequence) { Verdict::Fresh } else { Verdict::Duplicate };
                prop_assert_eq!(judge(&row, sequence), expected);
                row = accept(&row, sequence, 0);
            }
        }
    }
}
