//! Draws from a fixed distribution in constant time: Walker's alias method, as
//! Vose builds it (IEEE Transactions on Software Engineering 17(9), 1991).

/// Bits of a draw that choose a column, and bits that choose within it.
const BITS: u32 = 24;
const MASK: u64 = (1 << BITS) - 1;

/// One column: below the threshold it stands for its own outcome, else for its
/// alias.
#[derive(Clone, Copy, Debug)]
struct Column {
    threshold: u32,
    own: u32,
    alias: u32,
}

/// A distribution over `0..len`.
#[derive(Clone, Debug)]
pub(crate) struct Alias {
    columns: Box<[Column]>,
}

impl Alias {
    /// Returns the distribution in which the outcome of rank `n`, counted from
    /// 1, is drawn in proportion to `1 / n^exponent` (Zipf's law), for `length`
    /// ranks. Rank `n` is outcome `(n - 1) * stride` modulo `length`.
    ///
    /// At least one and at most 2^24 outcomes are made; `stride` has no factor
    /// in common with `length`.
    pub(crate) fn zipf(length: usize, exponent: f64, stride: u64) -> Self {
        let length = length.clamp(1, 1 << BITS);
        let ranks = (1_u32..).take(length);
        let mut shares: Vec<f64> = ranks.map(|n| f64::from(n).powf(-exponent)).collect();
        let sum: f64 = shares.iter().sum();
        let count = u32::try_from(length).unwrap_or(u32::MAX);
        for share in &mut shares {
            *share *= f64::from(count) / sum;
        }
        let outcome = |rank: usize| {
            let place = u64::try_from(rank).unwrap_or(0) * stride % u64::from(count);
            u32::try_from(place).unwrap_or(0)
        };
        let mut columns: Vec<Column> = (0..length)
            .map(|rank| Column {
                threshold: 1 << BITS,
                own: outcome(rank),
                alias: outcome(rank),
            })
            .collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..length).partition(|&rank| shares[rank] < 1.0);
        while let (Some(low), Some(&high)) = (small.pop(), large.last()) {
            columns[low].threshold = fixed(shares[low]);
            columns[low].alias = outcome(high);
            shares[high] -= 1.0 - shares[low];
            if shares[high] < 1.0 {
                large.pop();
                small.push(high);
            }
        }
        Self {
            columns: columns.into_boxed_slice(),
        }
    }

    /// The outcome that the upper 48 bits of `bits` choose.
    #[inline]
    pub(crate) fn pick(&self, bits: u64) -> u32 {
        // At most 2^24 columns times less than 2^24, so neither wraps.
        let length = u64::try_from(self.columns.len()).unwrap_or(0);
        let at = usize::try_from(((bits >> 40) * length) >> BITS).unwrap_or(0);
        let Column {
            threshold,
            own,
            alias,
        } = self.columns[at];
        // A choice of values, not of ways: which one is as good as random.
        let is_own = (bits >> 16) & MASK < u64::from(threshold);
        std::hint::select_unpredictable(is_own, own, alias)
    }
}

/// A share in `[0, 1)` in 2^-24ths.
fn fixed(share: f64) -> u32 {
    let scaled = (share * f64::from(1_u32 << BITS)).round();
    // Bisection over the exact integers spares a lossy cast.
    let (mut low, mut high) = (0_u32, 1 << BITS);
    while low < high {
        let middle = low + (high - low) / 2;
        if f64::from(middle) < scaled {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn outcomes_come_as_often_as_zipf_says() {
        let (length, draws) = (50_usize, 2_000_000_u32);
        let alias = Alias::zipf(length, 1.05, 7);
        let mut counts = vec![0_u32; length];
        let mut random = Random::new(5);
        for _ in 0..draws {
            counts[usize::try_from(alias.pick(random.next_u64())).unwrap()] += 1;
        }
        let sum: f64 = (1_u32..=50).map(|n| f64::from(n).powf(-1.05)).sum();
        for rank in 1_u32..=50 {
            let outcome = (rank - 1) * 7 % 50;
            let count = counts[usize::try_from(outcome).unwrap()];
            let expected = f64::from(rank).powf(-1.05) / sum * f64::from(draws);
            let off = (f64::from(count) - expected).abs() / expected;
            assert!(off < 0.05, "rank {rank}: {count} instead of {expected}");
        }
    }

    #[test]
    fn one_outcome_is_always_drawn() {
        let alias = Alias::zipf(1, 1.05, 7);
        assert_eq!(alias.pick(u64::MAX), 0);
        assert_eq!(alias.pick(0), 0);
    }
}
