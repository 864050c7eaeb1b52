//! Variable-length numbers: groups of seven bits, lowest first, as protocol buffers
//! have them (<https://protobuf.dev/programming-guides/encoding/#varints>) and stored
//! rows too.

/// The bit of each of eight bytes that says that its number goes on.
pub const GOES_ON: u64 = 0x8080_8080_8080_8080;

/// Groups of seven bits, lowest first and one in each byte, as one number.
#[inline]
const fn joined(groups: u64) -> u64 {
    let pairs = (groups & 0x007f_007f_007f_007f) | ((groups & 0x7f00_7f00_7f00_7f00) >> 1);
    let fours = (pairs & 0x0000_3fff_0000_3fff) | ((pairs & 0x3fff_0000_3fff_0000) >> 2);
    (fours & 0x0fff_ffff) | ((fours & 0x0fff_ffff_0000_0000) >> 4)
}

/// Takes a number of at most 56 bits off the front of `bytes`; nothing is taken when
/// it is longer or cut short. Nearly every number is one.
#[inline]
pub fn short(bytes: &mut &[u8]) -> Option<u64> {
    let Some(&eight) = bytes.first_chunk::<8>() else {
        return last_short(bytes);
    };
    // Without a branch for each byte: lengths follow no pattern.
    let number = u64::from_le_bytes(eight);
    let end = (!number & GOES_ON).trailing_zeros();
    let own = u64::MAX >> 63_u32.checked_sub(end)?;
    let read = usize::try_from(end / 8 + 1).ok()?;
    *bytes = bytes.get(read..)?;
    Some(joined(number & own & !GOES_ON))
}

/// As [`short`], where fewer than eight bytes are left.
fn last_short(bytes: &mut &[u8]) -> Option<u64> {
    let mut value: u64 = 0;
    for (shift, &byte) in (0_u32..56).step_by(7).zip(*bytes) {
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            let read = usize::try_from(shift / 7 + 1).ok()?;
            *bytes = bytes.get(read..)?;
            return Some(value);
        }
    }
    None
}

/// Takes a number of at most 64 bits, in at most ten bytes, off the front of `bytes`.
#[inline]
pub fn long(bytes: &mut &[u8]) -> Option<u64> {
    short(bytes).or_else(|| whole_long(bytes))
}

#[cold]
fn whole_long(bytes: &mut &[u8]) -> Option<u64> {
    let mut value: u64 = 0;
    for (shift, &byte) in (0_u32..70).step_by(7).zip(*bytes) {
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            let read = usize::try_from(shift / 7 + 1).ok()?;
            *bytes = bytes.get(read..)?;
            return Some(value);
        }
    }
    None
}

/// The signed number that `value` stands for where small ones of either sign are
/// short ("zigzag").
#[inline]
pub const fn signed(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::encoding::{decode_varint, encode_varint};

    proptest! {
        #[test]
        fn numbers_are_read_as_prost_writes_them(
            value: u64, shift in 0_u32..64, rest in proptest::collection::vec(any::<u8>(), 0..12),
        ) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            encode_varint(value, &mut bytes);
            bytes.extend(&rest);
            let mut reader = bytes.as_slice();
            prop_assert_eq!(long(&mut reader), Some(value));
            prop_assert_eq!(reader, rest);
            let mut reader = bytes.as_slice();
            let is_short = value < 1 << 56;
            prop_assert_eq!(short(&mut reader), is_short.then_some(value));
        }

        #[test]
        fn any_bytes_are_read_as_prost_reads_them(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0x80_u8..], 0..14),
        ) {
            let (mut ours, mut theirs) = (bytes.as_slice(), bytes.as_slice());
            let read = long(&mut ours);
            prop_assert_eq!(read, decode_varint(&mut theirs).ok());
            if read.is_some() {
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
