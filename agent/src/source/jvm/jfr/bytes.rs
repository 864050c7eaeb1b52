//! Checked reading of a chunk's bytes.

use super::JfrError;

/// Most bytes kept of one text; no name is longer.
const MAX_TEXT_BYTES: usize = 1024;

/// A place in a chunk from which to read on.
#[derive(Clone, Debug)]
pub(super) struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

/// A text as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text<'a> {
    /// None.
    Null,
    /// In the pool of texts, under this key.
    Pooled(u64),
    /// UTF-8, as far as it can be trusted.
    Utf8(&'a [u8]),
    /// One byte for each character.
    Latin1(&'a [u8]),
    /// One number for each UTF-16 unit.
    Units(&'a [u8]),
}

impl<'a> Bytes<'a> {
    /// Reads `all` from `at` on.
    pub(super) fn new(all: &'a [u8], at: usize) -> Self {
        Self { all, at }
    }

    /// Where the next byte is.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.all.len().saturating_sub(self.at)
    }

    /// An error at this place.
    pub(super) fn damaged(&self, what: &'static str) -> JfrError {
        JfrError::Damaged {
            what,
            offset: self.at,
        }
    }

    /// Takes the next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], JfrError> {
        let taken = self
            .all
            .get(self.at..)
            .and_then(|rest| rest.get(..count))
            .ok_or_else(|| self.damaged("bytes that are not there"))?;
        self.at = self.at.saturating_add(count);
        Ok(taken)
    }

    /// Takes one byte.
    pub(super) fn byte(&mut self) -> Result<u8, JfrError> {
        let taken = self.take(1)?;
        taken.first().copied().ok_or_else(|| self.damaged("a byte"))
    }

    /// Takes a compressed number: seven bits in each of up to eight bytes, low
    /// bits first, and eight in a ninth.
    pub(super) fn number(&mut self) -> Result<u64, JfrError> {
        let mut value = 0;
        for shift in (0..56).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Ok(value | u64::from(self.byte()?) << 56)
    }

    /// Takes the number of things that follow, each of at least one byte.
    pub(super) fn count(&mut self) -> Result<usize, JfrError> {
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if count > self.left() {
            return Err(self.damaged("a length beyond the end"));
        }
        Ok(count)
    }

    /// Takes a text.
    pub(super) fn text(&mut self) -> Result<Text<'a>, JfrError> {
        Ok(match self.byte()? {
            0 => Text::Null,
            1 => Text::Utf8(&[]),
            2 => Text::Pooled(self.number()?),
            3 => {
                let length = self.count()?;
                Text::Utf8(self.take(length)?)
            }
            4 => {
                let units = self.count()?;
                let begin = self.at;
                for _ in 0..units {
                    self.number()?;
                }
                Text::Units(self.all.get(begin..self.at).unwrap_or_default())
            }
            5 => {
                let length = self.count()?;
                Text::Latin1(self.take(length)?)
            }
            _ => return Err(self.damaged("a text of unknown coding")),
        })
    }
}

impl Text<'_> {
    /// What it says, cut to `MAX_TEXT_BYTES` stored bytes; nothing where
    /// it lies elsewhere or there is none.
    pub(super) fn read(&self) -> Option<String> {
        let cut = |bytes: &[u8]| bytes.get(..MAX_TEXT_BYTES).unwrap_or(bytes).to_vec();
        match self {
            Self::Null | Self::Pooled(_) => None,
            Self::Utf8(bytes) => Some(String::from_utf8_lossy(&cut(bytes)).into_owned()),
            Self::Latin1(bytes) => Some(cut(bytes).into_iter().map(char::from).collect()),
            Self::Units(bytes) => {
                let mut rest = Bytes::new(bytes, 0);
                let mut units = Vec::new();
                while let Ok(unit) = rest.number() {
                    if units.len() >= MAX_TEXT_BYTES {
                        break;
                    }
                    units.push(u16::try_from(unit).unwrap_or(u16::MAX));
                }
                Some(String::from_utf16_lossy(&units))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_up_to_nine_bytes() {
        for (bytes, expected) in [
            (&[0x05][..], 5),
            (&[0x85, 0xb0, 0x03], 55301),
            (&[0xff; 9], u64::MAX),
            (&[0x80, 0x80, 0x80, 0x00], 0),
        ] {
            let mut reader = Bytes::new(bytes, 0);
            assert_eq!(reader.number().unwrap(), expected);
            assert_eq!(reader.left(), 0);
        }
        assert!(Bytes::new(&[0xff; 8], 0).number().is_err());
    }

    #[test]
    fn texts_of_each_coding_are_read() {
        for (bytes, expected) in [
            (&[0][..], None),
            (&[1], Some("")),
            (&[2, 7], None),
            (&[3, 2, 0xc3, 0xa9], Some("\u{e9}")),
            (&[4, 2, 0x41, 0xe9, 0x01], Some("A\u{e9}")),
            (&[5, 2, 0x41, 0xe9], Some("A\u{e9}")),
        ] {
            let text = Bytes::new(bytes, 0).text().unwrap();
            assert_eq!(text.read().as_deref(), expected, "{bytes:?}");
        }
        for bytes in [&[6][..], &[3, 9, 1], &[5], &[]] {
            assert!(Bytes::new(bytes, 0).text().is_err(), "{bytes:?}");
        }
    }
}
