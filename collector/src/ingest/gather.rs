//! Puts the samples of a window in the order of their stack ids.
//!
//! A window has hundreds of samples in no order, of a tree with many thousands of
//! stacks. Marking each in a bitmap and reading the bitmap from front to back
//! costs a fraction of sorting them.

/// Bits of a word of the bitmap.
const BITS: u32 = u64::BITS;

/// What is kept from window to window, so that nothing is allocated but the
/// result.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// One bit per stack id: whether it is in `sums`.
    marks: Vec<u64>,
    /// Of each marked stack id: its index in `sums`.
    places: Vec<u32>,
    sums: Vec<i128>,
}

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

impl Gather {
    /// (stack id, sum of its values) by id, of pairs in any order; sums that are
    /// zero are left out. Memory is that of the largest id times 33 bits.
    pub(super) fn by_id(&mut self, pairs: impl Iterator<Item = (u32, i128)>) -> Vec<(u32, i128)> {
        let (mut first, mut last) = (usize::MAX, 0);
        for (id, value) in pairs {
            let word = index(id / BITS);
            if word >= self.marks.len() {
                self.marks.resize(word + 1, 0);
                self.places.resize((word + 1) * index(BITS), 0);
            }
            (first, last) = (first.min(word), last.max(word));
            let (Some(mark), Some(place)) =
                (self.marks.get_mut(word), self.places.get_mut(index(id)))
            else {
                continue;
            };
            let bit = 1 << (id % BITS);
            if *mark & bit == 0 {
                *mark |= bit;
                *place = u32::try_from(self.sums.len()).unwrap_or(u32::MAX);
                self.sums.push(value);
            } else if let Some(sum) = self.sums.get_mut(index(*place)) {
                *sum = sum.saturating_add(value);
            }
        }
        let mut out = Vec::with_capacity(self.sums.len());
        for word in first..=last {
            let Some(mark) = self.marks.get_mut(word) else {
                break;
            };
            let mut bits = std::mem::take(mark);
            while bits != 0 {
                let id = u32::try_from(word).unwrap_or(u32::MAX) * BITS + bits.trailing_zeros();
                bits &= bits - 1;
                let place = self.places.get(index(id)).copied();
                let sum = place.and_then(|place| self.sums.get(index(place)));
                if let Some(&sum) = sum
                    && sum != 0
                {
                    out.push((id, sum));
                }
            }
        }
        self.sums.clear();
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_adds_like_a_map_again_and_again(
            windows in proptest::collection::vec(
                proptest::collection::vec((0..300_u32, -3..3_i64), 0..40), 0..6)) {
            let mut gather = Gather::default();
            for pairs in windows {
                let mut sums: BTreeMap<u32, i128> = BTreeMap::new();
                for &(id, value) in &pairs {
                    *sums.entry(id).or_default() += i128::from(value);
                }
                sums.retain(|_, sum| *sum != 0);
                let found = gather.by_id(pairs.into_iter().map(|(id, value)| (id, value.into())));
                prop_assert_eq!(found, sums.into_iter().collect::<Vec<_>>());
            }
        }
    }
}
