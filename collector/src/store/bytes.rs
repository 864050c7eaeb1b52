//! Variable-length numbers and bounded reading, shared by every stored row.

use proto::varint::{self, GOES_ON, signed};

/// Appends `value` in groups of seven bits, lowest first.
#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, value: u128) {
    match u64::try_from(value) {
        // Nearly every stored number is one.
        Ok(short) => put_short(out, short),
        Err(_) => put_long_varint(out, value),
    }
}

/// As [`put_varint`], of 64 bits.
#[inline]
pub(super) fn put_short(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

#[cold]
fn put_long_varint(out: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Appends a signed number so that small ones of either sign stay short.
#[inline]
pub(super) fn put_zigzag(out: &mut Vec<u8>, value: i128) {
    match i64::try_from(value) {
        Ok(short) => put_short(out, ((short << 1) ^ (short >> 63)).cast_unsigned()),
        Err(_) => put_varint(out, ((value << 1) ^ (value >> 127)).cast_unsigned()),
    }
}

/// Appends a length and the bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, len(bytes.len()));
    out.extend_from_slice(bytes);
}

/// A length as a number to store.
pub(super) fn len(length: usize) -> u128 {
    u128::try_from(length).unwrap_or(u128::MAX)
}

/// Those of sixteen bytes.
const ALL_GO_ON: u128 = 0x8080_8080_8080_8080_8080_8080_8080_8080;
/// Those of sixteen bytes that are eight numbers of two.
const EVERY_OTHER_GOES_ON: u128 = ALL_GO_ON & 0x00ff_00ff_00ff_00ff_00ff_00ff_00ff_00ff;

/// Reads stored bytes from front to back; `None` means that they are damaged.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// A number that is known to fit 32 bits, such as a step between ids.
    #[inline]
    pub(super) fn small(&mut self) -> Option<u32> {
        u32::try_from(self.short()?).ok()
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Option<u128> {
        match self.short() {
            Some(value) => Some(u128::from(value)),
            None => self.long_varint(),
        }
    }

    /// A number of at most 56 bits; nothing is read when it is longer or cut
    /// short. Nearly every stored number is one.
    #[inline]
    fn short(&mut self) -> Option<u64> {
        varint::short(&mut self.0)
    }

    /// The next eight numbers, when each is a byte long or each is two; otherwise
    /// nothing is read. Most numbers are as long as those beside them.
    #[inline]
    pub(super) fn eight(&mut self) -> Option<[u16; 8]> {
        let (&ones, rest) = self.0.split_first_chunk::<8>()?;
        if u64::from_le_bytes(ones) & GOES_ON == 0 {
            self.0 = rest;
            return Some(ones.map(u16::from));
        }
        let (&twos, rest) = self.0.split_first_chunk::<16>()?;
        if u128::from_le_bytes(twos) & ALL_GO_ON != EVERY_OTHER_GOES_ON {
            return None;
        }
        self.0 = rest;
        let mut numbers = [0; 8];
        for (number, [low, high]) in numbers.iter_mut().zip(twos.as_chunks::<2>().0) {
            *number = u16::from(low & 0x7f) | (u16::from(*high) << 7);
        }
        Some(numbers)
    }

    /// Calls `visit` with each of `ids` and its number, as [`Reader::zigzag`] reads it.
    /// `None` when one is damaged.
    #[inline]
    pub(super) fn zigzags(&mut self, ids: &[u32], mut visit: impl FnMut(u32, i128)) -> Option<()> {
        let (eights, rest) = ids.as_chunks::<8>();
        for ids in eights {
            match self.eight() {
                Some(numbers) => {
                    for (id, number) in ids.iter().zip(numbers) {
                        visit(*id, i128::from(signed(u64::from(number))));
                    }
                }
                None => self.single_zigzags(ids, &mut visit)?,
            }
        }
        self.single_zigzags(rest, &mut visit)
    }

    /// As [`Reader::zigzags`], one after the other.
    #[inline]
    fn single_zigzags(&mut self, ids: &[u32], visit: &mut impl FnMut(u32, i128)) -> Option<()> {
        for &id in ids {
            match self.short() {
                Some(number) => visit(id, i128::from(signed(number))),
                None => visit(id, self.zigzag()?),
            }
        }
        Some(())
    }

    fn long_varint(&mut self) -> Option<u128> {
        let mut value = 0_u128;
        for shift in (0u32..).step_by(7) {
            let byte = self.byte()?;
            let bits = u128::from(byte & 0x7f);
            let moved = bits.checked_shl(shift)?;
            if moved >> shift != bits {
                return None;
            }
            value |= moved;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    #[inline]
    pub(super) fn zigzag(&mut self) -> Option<i128> {
        if let Some(value) = self.short() {
            return Some(i128::from(signed(value)));
        }
        let value = self.varint()?;
        Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    pub(super) fn number<T: TryFrom<u128>>(&mut self) -> Option<T> {
        T::try_from(self.varint()?).ok()
    }

    /// A length of things that take at least one byte each, so that no length
    /// beyond the bytes at hand is believed.
    pub(super) fn length(&mut self) -> Option<usize> {
        let length: usize = self.number()?;
        (length <= self.0.len()).then_some(length)
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_round_trip(value: u128, signed: i128) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_zigzag(&mut out, signed);
            let mut reader = Reader(&out);
            prop_assert_eq!(reader.varint(), Some(value));
            prop_assert_eq!(reader.zigzag(), Some(signed));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn small_numbers_read_as_long_ones_do(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value.into());
            prop_assert_eq!(Reader(&out).small(), u32::try_from(value).ok());
        }

        #[test]
        fn many_numbers_read_as_one_after_the_other(
            values in proptest::collection::vec(prop_oneof![
                6 => -64_i128..64,
                6 => -8_192_i128..8_192,
                2 => (any::<i64>(), 0_u32..64).prop_map(|(value, shift)| i128::from(value >> shift)),
                1 => any::<i128>(),
            ], 0..60),
            cut in 0_usize..4,
        ) {
            let mut out = Vec::new();
            values.iter().for_each(|value| put_zigzag(&mut out, *value));
            let ids: Vec<u32> = (7..).take(values.len()).collect();
            let mut found = Vec::new();
            let mut reader = Reader(&out);
            prop_assert_eq!(reader.zigzags(&ids, |id, value| found.push((id, value))), Some(()));
            prop_assert!(reader.is_empty());
            prop_assert_eq!(found, ids.iter().copied().zip(values.iter().copied()).collect::<Vec<_>>());
            out.truncate(out.len().saturating_sub(cut));
            let whole = Reader(&out).zigzags(&ids, |_, _| {});
            prop_assert_eq!(whole.is_some(), cut == 0 || values.is_empty());
        }

        #[test]
        fn eight_numbers_read_as_one_after_the_other(
            values in prop_oneof![
                proptest::collection::vec(0_u64..0x80, 0..12),
                proptest::collection::vec(0x80_u64..0x4000, 0..12),
                proptest::collection::vec(0x70_u64..0x90, 0..12),
                proptest::collection::vec(0x3000_u64..0x5000, 0..12),
            ],
        ) {
            let mut out = Vec::new();
            values.iter().for_each(|value| put_varint(&mut out, u128::from(*value)));
            let mut reader = Reader(&out);
            let eight = reader.eight();
            let expected = values.get(..8).filter(|eight| {
                eight.iter().all(|value| *value < 0x80)
                    || eight.iter().all(|value| (0x80..0x4000).contains(value))
            });
            let rest = if expected.is_some() { &values[8..] } else { &values[..] };
            let eight = eight.map(|eight| eight.map(u64::from));
            prop_assert_eq!(eight.as_ref().map(|eight| &eight[..]), expected);
            for value in rest {
                prop_assert_eq!(reader.varint(), Some(u128::from(*value)));
            }
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let mut reader = Reader(&bytes);
            while reader.zigzag().is_some() && reader.bytes().is_some() {}
        }
    }

    #[test]
    fn small_numbers_are_short() {
        for (value, bytes) in [
            (0, 1),
            (-1, 1),
            (63, 1),
            (64, 2),
            (i128::MAX, 19),
            (i128::MIN, 19),
        ] {
            let mut out = Vec::new();
            put_zigzag(&mut out, value);
            assert_eq!(out.len(), bytes, "{value}");
        }
    }
}
