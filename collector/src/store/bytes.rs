//! Variable-length numbers and bounded reading, shared by every stored row.

/// Appends `value` in groups of seven bits, lowest first.
#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, value: u128) {
    match u64::try_from(value) {
        // Nearly every stored number is one.
        Ok(short @ 0..0x80) => out.push(short.to_le_bytes()[0]),
        Ok(_) | Err(_) => put_long_varint(out, value),
    }
}

fn put_long_varint(out: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

fn low_byte(value: u128) -> u8 {
    value.to_le_bytes()[0]
}

/// Appends a signed number so that small ones of either sign stay short.
pub(super) fn put_zigzag(out: &mut Vec<u8>, value: i128) {
    put_varint(out, ((value << 1) ^ (value >> 127)).cast_unsigned());
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

/// Bytes that are looked at together.
const WORD_BYTES: usize = 8;
/// Set in each byte of a number but its last.
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// The signed number that zigzag coding made `value` of.
#[inline]
pub(super) fn signed(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

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
    /// short. Nearly every stored number is one, and most of those are a byte.
    #[inline]
    fn short(&mut self) -> Option<u64> {
        match *self.0 {
            [first @ 0..0x80, ref rest @ ..] => {
                self.0 = rest;
                Some(u64::from(first))
            }
            [first, second @ 0..0x80, ref rest @ ..] => {
                self.0 = rest;
                Some(u64::from(first & 0x7f) | u64::from(second) << 7)
            }
            _ => self.bytes_of_short(),
        }
    }

    fn bytes_of_short(&mut self) -> Option<u64> {
        let mut value: u64 = 0;
        for (shift, &byte) in (0_u32..56).step_by(7).zip(self.0) {
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                let read = usize::try_from(shift / 7 + 1).ok()?;
                self.0 = self.0.get(read..)?;
                return Some(value);
            }
        }
        None
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

    /// At most `count` bytes at hand that are a number each, as most are; none when the
    /// next number is longer.
    #[inline]
    pub(super) fn single_bytes(&mut self, count: usize) -> &'a [u8] {
        let near = self.0.get(..count).unwrap_or(self.0);
        let words = near.chunks_exact(WORD_BYTES);
        let is_single = |word: &&[u8]| {
            let word = <[u8; WORD_BYTES]>::try_from(*word).unwrap_or([u8::MAX; WORD_BYTES]);
            u64::from_le_bytes(word) & HIGH_BITS == 0
        };
        let sure = words.take_while(is_single).count() * WORD_BYTES;
        let rest = near.get(sure..).unwrap_or_default().iter();
        let length = sure
            + rest
                .take_while(|&&byte| byte < 0x80)
                .take(WORD_BYTES)
                .count();
        let (run, rest) = self.0.split_at_checked(length).unwrap_or((&[], self.0));
        self.0 = rest;
        run
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
