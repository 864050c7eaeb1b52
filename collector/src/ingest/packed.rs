//! Tables of small numbers in few bits: what the streams of a whole fleet know.

/// Bits of a word.
const WORD: u32 = u64::BITS;

/// A table of numbers below `u32::MAX`, some of them not known. Each takes as many
/// bits as the largest one needs.
#[derive(Clone, Debug, Default)]
pub(super) struct PackedIds {
    words: Vec<u64>,
    /// Bits of each place. A place holds its number plus one; 0 is not known.
    bits: u32,
    len: usize,
}

/// The word of bit `bit`, and its place therein.
#[inline]
fn place(bit: usize) -> (usize, u32) {
    let within = bit % (u64::BITS as usize);
    (
        bit / (u64::BITS as usize),
        u32::try_from(within).unwrap_or_default(),
    )
}

impl PackedIds {
    /// About how many bytes it takes beside itself.
    pub(super) fn bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }

    /// Grows to `len` places; fresh ones are not known.
    pub(super) fn grow(&mut self, len: usize) {
        self.len = self.len.max(len);
        self.allot();
    }

    /// Makes words for all places, an eighth more than are needed.
    fn allot(&mut self) {
        let bits = self.len.saturating_mul(self.bits as usize);
        let words = bits.div_ceil(WORD as usize);
        if words > self.words.capacity() {
            self.words
                .reserve_exact(words + words / 8 - self.words.len());
        }
        if words > self.words.len() {
            self.words.resize(words, 0);
        }
    }

    /// The number at `index`, if it is known.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<u32> {
        if index >= self.len || self.bits == 0 {
            return None;
        }
        let (word, shift) = place(index * self.bits as usize);
        let low = *self.words.get(word)?;
        // Without asking whether the number goes on there: that follows no pattern.
        let high = self.words.get(word + 1).copied().unwrap_or(0);
        let both = u128::from(low) | (u128::from(high) << WORD);
        let held = (both >> shift) & u128::from(u64::MAX >> (WORD - self.bits));
        u32::try_from(held).ok()?.checked_sub(1)
    }

    /// Puts `number` at `index`, which must be a place of the table.
    pub(super) fn set(&mut self, index: usize, number: u32) {
        let held = u64::from(number) + 1;
        let needed = WORD - held.leading_zeros();
        if needed > self.bits {
            self.widen(needed);
        }
        if index < self.len {
            self.put(index, held);
        }
    }

    fn put(&mut self, index: usize, held: u64) {
        let mask = u64::MAX >> (WORD - self.bits);
        let (word, shift) = place(index * self.bits as usize);
        if let Some(low) = self.words.get_mut(word) {
            *low = *low & !(mask << shift) | (held << shift);
        }
        if shift + self.bits > WORD
            && let Some(high) = self.words.get_mut(word + 1)
        {
            let kept = WORD - shift;
            *high = *high & !(mask >> kept) | (held >> kept);
        }
    }

    fn widen(&mut self, bits: u32) {
        let mut wider = Self {
            words: Vec::new(),
            bits,
            len: self.len,
        };
        wider.allot();
        for index in 0..self.len {
            if let Some(number) = self.get(index) {
                wider.put(index, u64::from(number) + 1);
            }
        }
        *self = wider;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_numbers_take_few_bits() {
        let mut ids = PackedIds::default();
        ids.grow(2_000);
        assert_eq!((ids.bytes(), ids.get(7)), (0, None));
        for index in 0..2_000 {
            ids.set(index, u32::try_from(index).unwrap());
        }
        // Eleven bits each, and an eighth.
        assert!(
            ids.bytes() <= 2_000 * 11 / 8 * 9 / 8 + 16,
            "{}",
            ids.bytes()
        );
        assert_eq!((ids.get(1_999), ids.get(2_000)), (Some(1_999), None));
    }

    proptest! {
        #[test]
        fn a_table_holds_what_was_put_there(
            puts in proptest::collection::vec((0..100_usize, 0..32_u32, any::<u32>()), 0..200)
        ) {
            let mut ids = PackedIds::default();
            let mut expected: Vec<Option<u32>> = Vec::new();
            for (index, shift, number) in puts {
                let number = (number >> shift).min(u32::MAX - 1);
                ids.grow(index + 1);
                expected.resize(expected.len().max(index + 1), None);
                ids.set(index, number);
                expected[index] = Some(number);
                let held: Vec<Option<u32>> = (0..expected.len()).map(|at| ids.get(at)).collect();
                prop_assert_eq!(&held, &expected);
            }
            prop_assert_eq!(ids.get(expected.len()), None);
        }
    }
}
