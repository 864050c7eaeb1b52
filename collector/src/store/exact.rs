//! Exact sums by a dense id: eight bytes each, however large single ones become.

use std::collections::BTreeMap;

/// Sums that are absorbed at once.
const ABSORBED: usize = 64;

/// Bytes of a sum that 64 bits do not hold, with its share of the map.
const BEYOND_BYTES: usize = 48;

/// Sums by a dense id, such as that of a stack; each is 0 until something is added.
///
/// Sums are exact in 128 bits and held at the limit beyond. Nearly all fit 64 bits; of
/// those that do not, a part is kept apart.
#[derive(Clone, Debug, Default)]
pub struct ExactSums {
    /// Per id: its sum, without what is in `beyond`.
    short: Vec<i64>,
    /// What 64 bits did not hold, by id; mostly nothing.
    beyond: BTreeMap<u32, i128>,
}

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

impl ExactSums {
    /// The number of ids that have room: of those below, each has a sum.
    pub fn len(&self) -> usize {
        self.short.len()
    }

    /// Whether no id has room.
    pub fn is_empty(&self) -> bool {
        self.short.is_empty()
    }

    /// About how many bytes the sums take.
    pub fn bytes(&self) -> usize {
        let short = self.short.capacity().saturating_mul(size_of::<i64>());
        short.saturating_add(self.beyond.len().saturating_mul(BEYOND_BYTES))
    }

    /// Makes room for the ids below `length`.
    pub fn reach(&mut self, length: usize) {
        if self.short.len() < length {
            self.short.resize(length, 0);
        }
    }

    /// Adds `value` to the sum of `id`.
    #[inline]
    pub fn add(&mut self, id: u32, value: i128) {
        if let Some(slot) = self.short.get_mut(index(id))
            && let Ok(value) = i64::try_from(value)
            && let Some(sum) = slot.checked_add(value)
        {
            *slot = sum;
        } else {
            self.add_rare(id, value);
        }
    }

    /// As [`ExactSums::add`], of an id without room or beyond 64 bits.
    #[cold]
    fn add_rare(&mut self, id: u32, value: i128) {
        self.reach(index(id).saturating_add(1));
        let sum = self.get(id).saturating_add(value);
        let (short, beyond) = match i64::try_from(sum) {
            Ok(short) => (short, 0),
            Err(_) => (0, sum),
        };
        if let Some(slot) = self.short.get_mut(index(id)) {
            *slot = short;
        }
        match beyond {
            0 => self.beyond.remove(&id),
            beyond => self.beyond.insert(id, beyond),
        };
    }

    /// The sum of `id`.
    pub fn get(&self, id: u32) -> i128 {
        let short = self.short.get(index(id)).copied().unwrap_or(0);
        self.whole(id, short)
    }

    /// The sum of `id`, whose short part is `short`.
    #[inline]
    fn whole(&self, id: u32, short: i64) -> i128 {
        let short = i128::from(short);
        match self.beyond.is_empty() {
            true => short,
            false => short.saturating_add(self.beyond.get(&id).copied().unwrap_or(0)),
        }
    }

    /// The sum of each id, from 0 on.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = i128> + '_ {
        (0_u32..)
            .zip(&self.short)
            .map(|(id, &short)| self.whole(id, short))
    }

    /// The ids whose sum is not 0, and that, by id.
    #[inline]
    pub fn held(&self) -> impl Iterator<Item = (u32, i128)> + '_ {
        (0_u32..).zip(self.iter()).filter(|(_, sum)| *sum != 0)
    }

    /// Calls `visit` with each id whose sum is not 0, and that, by id.
    #[inline]
    pub fn each_held(&self, mut visit: impl FnMut(u32, i128)) {
        if !self.beyond.is_empty() {
            return self.held().for_each(|(id, sum)| visit(id, sum));
        }
        for (id, &short) in (0_u32..).zip(&self.short) {
            if short != 0 {
                visit(id, short.into());
            }
        }
    }

    /// All sums added up.
    pub fn total(&self) -> i128 {
        self.iter().fold(0, i128::saturating_add)
    }

    /// Adds `factor` times each sum of `other` to that of the same id.
    pub fn absorb(&mut self, other: &Self, factor: i128) {
        self.reach(other.len());
        if factor != 1 {
            for (id, value) in other.held() {
                self.add(id, times(value, factor));
            }
            return;
        }
        for (chunk, theirs) in other.short.chunks(ABSORBED).enumerate() {
            let first = chunk.saturating_mul(ABSORBED);
            let end = first.saturating_add(theirs.len());
            let mine = self.short.get_mut(first..end).unwrap_or_default();
            if !add_each(mine, theirs) {
                let ids = u32::try_from(first).unwrap_or(u32::MAX)..;
                ids.zip(theirs)
                    .for_each(|(id, value)| self.add(id, (*value).into()));
            }
        }
        for (id, value) in &other.beyond {
            self.add(*id, *value);
        }
    }
}

/// Adds each of `theirs` to that of `mine`, unless 64 bits do not hold one of the sums:
/// nothing is added then.
#[inline]
fn add_each(mine: &mut [i64], theirs: &[i64]) -> bool {
    let mut sums = [0_i64; ABSORBED];
    // Negative once a sum has another sign than both that were added.
    let mut passed = 0_i64;
    for (sum, (mine, theirs)) in sums.iter_mut().zip(mine.iter().zip(theirs)) {
        *sum = mine.wrapping_add(*theirs);
        passed |= (*mine ^ *sum) & (*theirs ^ *sum);
    }
    if passed < 0 {
        return false;
    }
    for (mine, sum) in mine.iter_mut().zip(sums) {
        *mine = sum;
    }
    true
}

/// The product, held at the limit of 128 bits.
#[inline]
fn times(value: i128, factor: i128) -> i128 {
    match (i64::try_from(value), i64::try_from(factor)) {
        // Two of 64 bits never pass the limit, which takes long to find out.
        (Ok(value), Ok(factor)) => i128::from(value).wrapping_mul(factor.into()),
        _ => value.saturating_mul(factor),
    }
}

impl PartialEq for ExactSums {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ExactSums {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Small numbers, those beside the limits of 64 bits, and far longer ones, of
    /// either sign.
    fn value() -> impl Strategy<Value = i128> {
        let long = 1_i128 << 118;
        prop_oneof![
            -100_i128..100,
            any::<i64>().prop_map(i128::from),
            (-3_i128..=3).prop_map(|by| i128::from(i64::MAX) + by),
            (-3_i128..=3).prop_map(|by| i128::from(i64::MIN) + by),
            -long..long,
        ]
    }

    fn added(values: &[(u32, i128)]) -> ExactSums {
        let mut sums = ExactSums::default();
        values.iter().for_each(|(id, value)| sums.add(*id, *value));
        sums
    }

    proptest! {
        #[test]
        fn sums_are_those_of_long_numbers(
            values in proptest::collection::vec((0_u32..8, value()), 0..60),
        ) {
            let mut naive: BTreeMap<u32, i128> = BTreeMap::new();
            let mut sums = ExactSums::default();
            for (id, value) in values {
                *naive.entry(id).or_default() += value;
                sums.add(id, value);
                prop_assert_eq!(sums.get(id), naive[&id]);
            }
            let whole: i128 = naive.values().sum();
            prop_assert_eq!(sums.total(), whole);
            prop_assert_eq!(sums.iter().sum::<i128>(), whole);
            let held: Vec<(u32, i128)> = sums.held().collect();
            naive.retain(|_, sum| *sum != 0);
            prop_assert_eq!(held, naive.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn equal_sums_are_equal_however_they_came_about(
            values in proptest::collection::vec((0_u32..4, value()), 0..30),
        ) {
            let forward = added(&values);
            let backward: Vec<_> = values.iter().rev().copied().collect();
            let mut backward = added(&backward);
            backward.reach(forward.len());
            prop_assert_eq!(&forward, &backward);
            backward.add(0, 1);
            prop_assert_ne!(&forward, &backward);
        }

        #[test]
        fn absorbing_is_adding_each_times_the_factor(
            a in proptest::collection::vec((0_u32..8, value()), 0..30),
            b in proptest::collection::vec((0_u32..8, value()), 0..30),
            factor in 0_i128..5,
        ) {
            let mut absorbed = added(&a);
            absorbed.absorb(&added(&b), factor);
            let all: Vec<_> = a.iter().copied()
                .chain(b.iter().map(|(id, value)| (*id, value * factor)))
                .collect();
            let mut expected = added(&all);
            expected.reach(absorbed.len());
            absorbed.reach(expected.len());
            prop_assert_eq!(absorbed, expected);
        }
    }

    #[test]
    fn sums_are_held_at_the_limit() {
        let mut sums = ExactSums::default();
        for value in [i128::MAX, 5, i128::MAX] {
            sums.add(1, value);
        }
        sums.add(0, i128::MIN);
        sums.add(0, -1);
        assert_eq!(sums.iter().collect::<Vec<_>>(), [i128::MIN, i128::MAX]);
        assert_eq!(sums.get(9), 0);
    }
}
