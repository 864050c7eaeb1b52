//! Reads the fields of protobuf messages where they lie
//! (<https://protobuf.dev/programming-guides/encoding>).
//!
//! Groups, which no `profile.proto` has, are not read.

use std::str::Utf8Error;

use crate::varint;

/// Bytes of the longest number.
const MAX_NUMBER_BYTES: usize = 10;

/// Why bytes are no message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// They end within a field.
    #[error("a field breaks off")]
    Short,
    /// A number has more than 64 bits.
    #[error("a number has more than 64 bits")]
    LongNumber,
    /// Something has no number that a field could have.
    #[error("a field is called {tag}, which none can be")]
    Tag {
        /// Its number and type in one.
        tag: u64,
    },
    /// A field is encoded as another kind of value.
    #[error("field {number} of a {message} is of another type")]
    Type {
        /// The message.
        message: &'static str,
        /// The field's number.
        number: u32,
    },
    /// A text is none.
    #[error("a text is not UTF-8")]
    Text(#[source] Utf8Error),
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// A number of variable length.
    Number(u64),
    /// A text, a message or packed numbers.
    Bytes(&'a [u8]),
    /// Four or eight bytes, which nothing in a profile is.
    Fixed,
}

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) number: u32,
    pub(super) content: Content<'a>,
}

/// Reads the number of variable length that `bytes` begin with.
#[inline(always)]
fn number(bytes: &mut &[u8]) -> Result<u64, WireError> {
    match *bytes {
        [first, rest @ ..] if *first < 0x80 => {
            *bytes = rest;
            Ok(u64::from(*first))
        }
        [first, second, rest @ ..] if *second < 0x80 => {
            *bytes = rest;
            Ok(u64::from(*first & 0x7f) | u64::from(*second) << 7)
        }
        _ => long_number(bytes),
    }
}

#[inline(never)]
fn long_number(bytes: &mut &[u8]) -> Result<u64, WireError> {
    varint::long(bytes).ok_or_else(|| {
        let mut first = bytes.iter().take(MAX_NUMBER_BYTES);
        match bytes.len() < MAX_NUMBER_BYTES && first.all(|byte| *byte >= 0x80) {
            true => WireError::Short,
            false => WireError::LongNumber,
        }
    })
}

/// The fields of a message, in the order of its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Returns the fields of the message that is `bytes`.
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next field; `None` at the end.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Result<Option<Field<'a>>, WireError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = number(&mut self.0)?;
        let content = match tag & 7 {
            0 => Content::Number(number(&mut self.0)?),
            1 => self.fixed(8)?,
            2 => {
                let length = number(&mut self.0)?;
                let length = usize::try_from(length).map_err(|_| WireError::Short)?;
                Content::Bytes(self.take(length)?)
            }
            5 => self.fixed(4)?,
            _ => return Err(WireError::Tag { tag }),
        };
        match u32::try_from(tag >> 3) {
            Ok(number) if number > 0 => Ok(Some(Field { number, content })),
            _ => Err(WireError::Tag { tag }),
        }
    }

    #[inline(always)]
    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn fixed(&mut self, length: usize) -> Result<Content<'a>, WireError> {
        self.take(length)?;
        Ok(Content::Fixed)
    }
}

impl<'a> Field<'a> {
    #[cold]
    fn mistyped(self, message: &'static str) -> WireError {
        WireError::Type {
            message,
            number: self.number,
        }
    }

    /// The number that this field of `message` holds.
    #[inline(always)]
    pub(super) fn number(self, message: &'static str) -> Result<u64, WireError> {
        match self.content {
            Content::Number(number) => Ok(number),
            Content::Bytes(_) | Content::Fixed => Err(self.mistyped(message)),
        }
    }

    /// The same with a sign.
    #[inline(always)]
    pub(super) fn signed(self, message: &'static str) -> Result<i64, WireError> {
        self.number(message).map(u64::cast_signed)
    }

    /// The bytes that this field of `message` holds.
    #[inline(always)]
    pub(super) fn bytes(self, message: &'static str) -> Result<&'a [u8], WireError> {
        match self.content {
            Content::Bytes(bytes) => Ok(bytes),
            Content::Number(_) | Content::Fixed => Err(self.mistyped(message)),
        }
    }

    /// The text that this field of `message` holds.
    pub(super) fn text(self, message: &'static str) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes(message)?).map_err(WireError::Text)
    }

    /// Gives `visit` each of the numbers that this field of `message` holds, packed
    /// or one.
    #[inline]
    pub(super) fn each_number<E: From<WireError>>(
        self,
        message: &'static str,
        mut visit: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.content {
            Content::Number(number) => visit(number),
            Content::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    visit(number(&mut bytes)?)?;
                }
                Ok(())
            }
            Content::Fixed => Err(self.mistyped(message).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::encoding::{decode_varint, encode_varint};

    #[test]
    fn what_is_no_message_is_an_error() {
        for (bytes, expected) in [
            (&[0x08][..], WireError::Short),
            (&[0x08, 0x80], WireError::Short),
            (&[0x0a, 2, 0], WireError::Short),
            (&[0x09, 0, 0, 0, 0, 0, 0, 0], WireError::Short),
            (&[0x0d, 0, 0, 0], WireError::Short),
            (&[0x00, 0], WireError::Tag { tag: 0 }),
            (&[0x0b], WireError::Tag { tag: 0x0b }),
            (&[0x0c], WireError::Tag { tag: 0x0c }),
            (&[0x0f], WireError::Tag { tag: 0x0f }),
            (
                &[
                    0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,
                ],
                WireError::LongNumber,
            ),
        ] {
            assert_eq!(Fields::of(bytes).next(), Err(expected), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn numbers_are_read_as_prost_reads_them(bytes: Vec<u8>, value: u64, shift in 0_u32..64) {
            let (mut own, mut other) = (&bytes[..], &bytes[..]);
            let (read, expected) = (number(&mut own), decode_varint(&mut other));
            prop_assert_eq!(read.as_ref().ok(), expected.as_ref().ok());
            if read.is_ok() {
                prop_assert_eq!(own, other);
            }
            let mut written = Vec::new();
            encode_varint(value >> shift, &mut written);
            prop_assert_eq!(number(&mut &written[..]), Ok(value >> shift));
        }
    }
}
