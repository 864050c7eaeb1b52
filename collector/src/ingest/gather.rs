//! Puts the samples of a window in the order of their stack ids.
//!
//! A window has hundreds of samples in no order, of a tree with many thousands of
//! stacks. Marking each in a bitmap and reading the bitmap from front to back
//! costs a fraction of sorting them.

use std::collections::BTreeMap;

/// Bits of a word of the bitmap.
const BITS: u32 = u64::BITS;

/// What is kept from window to window, so that nothing is allocated but the
/// result.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// One bit per stack id: whether a value was added to its sum.
    marks: Vec<u64>,
    /// Per stack id; 0 between two windows.
    sums: Vec<i64>,
}

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

impl Gather {
    /// (stack id, `factor` times the sum of its values) by id, of stacks in any order
    /// with a value each; sums that are zero are left out. Memory is that of the
    /// largest id times 65 bits.
    pub(super) fn by_id(
        &mut self,
        stacks: &[u32],
        values: &[i64],
        factor: u64,
    ) -> Vec<(u32, i128)> {
        let last = stacks.iter().copied().max().map_or(0, index);
        if last >= self.sums.len() {
            let words = last / index(BITS) + 1;
            self.marks.resize(words, 0);
            self.sums.resize(words * index(BITS), 0);
        }
        // What 64 bits do not hold, which no sampler has seen.
        let mut beyond: BTreeMap<u32, i128> = BTreeMap::new();
        for (&id, &value) in stacks.iter().zip(values) {
            let (mark, sum) = (
                self.marks.get_mut(index(id / BITS)),
                self.sums.get_mut(index(id)),
            );
            let (Some(mark), Some(sum)) = (mark, sum) else {
                continue;
            };
            *mark |= 1 << (id % BITS);
            match sum.checked_add(value) {
                Some(more) => *sum = more,
                None => *beyond.entry(id).or_default() += i128::from(value),
            }
        }
        let mut out = Vec::with_capacity(stacks.len());
        let marks = self.marks.iter_mut().take(last / index(BITS) + 1);
        for (word, mark) in (0_u32..).zip(marks) {
            let mut bits = std::mem::take(mark);
            while bits != 0 {
                let id = word * BITS + bits.trailing_zeros();
                bits &= bits - 1;
                let sum = self.sums.get_mut(index(id)).map_or(0, std::mem::take);
                let mut sum = i128::from(sum);
                if !beyond.is_empty() {
                    sum += beyond.get(&id).copied().unwrap_or(0);
                }
                if factor != 1 {
                    sum = sum.saturating_mul(factor.into());
                }
                if sum != 0 {
                    out.push((id, sum));
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = i64> {
        prop_oneof![8 => -3..3_i64, 1 => any::<i64>(), 1 => Just(i64::MAX), 1 => Just(i64::MIN)]
    }

    proptest! {
        #[test]
        fn it_adds_like_a_map_again_and_again(
            windows in proptest::collection::vec(
                proptest::collection::vec((0..300_u32, value()), 0..40), 0..6),
            factor in 1_u64..3) {
            let mut gather = Gather::default();
            for pairs in windows {
                let mut sums: BTreeMap<u32, i128> = BTreeMap::new();
                for &(id, value) in &pairs {
                    *sums.entry(id).or_default() += i128::from(value) * i128::from(factor);
                }
                sums.retain(|_, sum| *sum != 0);
                let (stacks, values): (Vec<u32>, Vec<i64>) = pairs.into_iter().unzip();
                let found = gather.by_id(&stacks, &values, factor);
                prop_assert_eq!(found, sums.into_iter().collect::<Vec<_>>());
            }
        }
    }
}
