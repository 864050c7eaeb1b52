//! Entries of a profile's tables, and what memory they may take.

use std::collections::HashMap;

use super::fields::Fields;
use super::{PprofError, WireError};

/// Memory of an entry's place when ids do not count up.
const PLACE_BYTES: usize = 64;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mapping {
    pub(super) id: u64,
    pub(super) memory_start: u64,
    pub(super) file_offset: u64,
    pub(super) filename: i64,
    pub(super) build_id: i64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Function {
    pub(super) id: u64,
    pub(super) name: i64,
    pub(super) system_name: i64,
    pub(super) filename: i64,
    pub(super) start_line: i64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Location {
    pub(super) id: u64,
    pub(super) mapping_id: u64,
    pub(super) address: u64,
    /// Its lines among those of the profile.
    pub(super) lines: (usize, usize),
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Line {
    pub(super) function_id: u64,
    pub(super) line: i64,
}

/// Indices of a value type's texts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawValueType {
    pub(super) kind: i64,
    pub(super) unit: i64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Label {
    pub(super) key: i64,
    pub(super) text: i64,
}

/// Entries, found by their ids.
#[derive(Debug)]
pub(super) struct Table<T> {
    pub(super) entries: Vec<T>,
    places: Places,
}

/// Where the entry of an id is. Nearly every writer counts ids up from 1.
#[derive(Debug)]
enum Places {
    Counted,
    /// With a random key: ids are foreign.
    Scattered(HashMap<u64, usize>),
}

impl<T> Table<T> {
    pub(super) fn new(
        entries: Vec<T>,
        id: fn(&T) -> u64,
        room: &mut Room,
    ) -> Result<Self, PprofError> {
        let ids = entries.iter().map(id);
        let places = match ids.clone().zip(1_u64..).all(|(id, number)| id == number) {
            true => Places::Counted,
            false => {
                room.take(entries.len().saturating_mul(PLACE_BYTES))?;
                Places::Scattered(ids.zip(0_usize..).collect())
            }
        };
        Ok(Self { entries, places })
    }

    #[inline]
    pub(super) fn place(&self, id: u64) -> Option<usize> {
        match &self.places {
            Places::Counted => {
                let place = usize::try_from(id.checked_sub(1)?).ok()?;
                (place < self.entries.len()).then_some(place)
            }
            Places::Scattered(places) => places.get(&id).copied(),
        }
    }

    pub(super) fn get(&self, id: u64) -> Option<&T> {
        self.entries.get(self.place(id)?)
    }
}

/// What memory is left for entries.
pub(super) struct Room {
    left: usize,
    limit: usize,
}

impl Room {
    /// Returns room for `limit` bytes.
    pub(super) fn of(limit: usize) -> Self {
        Self { left: limit, limit }
    }

    #[inline]
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), PprofError> {
        let left = self.left.checked_sub(bytes);
        let limit = self.limit;
        self.left = left.ok_or(PprofError::TooManyMessages { limit })?;
        Ok(())
    }

    /// Adds an entry to `table`. Growing tables take twice what they hold.
    #[inline]
    pub(super) fn push<T>(&mut self, table: &mut Vec<T>, entry: T) -> Result<(), PprofError> {
        self.take(2 * size_of::<T>())?;
        table.push(entry);
        Ok(())
    }
}

impl RawValueType {
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let mut fields = Fields::of(bytes);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => self.kind = field.signed("value type")?,
                2 => self.unit = field.signed("value type")?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Mapping {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, WireError> {
        let mut mapping = Self::default();
        let mut fields = Fields::of(bytes);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => mapping.id = field.number("mapping")?,
                2 => mapping.memory_start = field.number("mapping")?,
                4 => mapping.file_offset = field.number("mapping")?,
                5 => mapping.filename = field.signed("mapping")?,
                6 => mapping.build_id = field.signed("mapping")?,
                _ => {}
            }
        }
        Ok(mapping)
    }
}

impl Function {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, WireError> {
        let mut function = Self::default();
        let mut fields = Fields::of(bytes);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => function.id = field.number("function")?,
                2 => function.name = field.signed("function")?,
                3 => function.system_name = field.signed("function")?,
                4 => function.filename = field.signed("function")?,
                5 => function.start_line = field.signed("function")?,
                _ => {}
            }
        }
        Ok(function)
    }
}

impl Line {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, WireError> {
        let mut line = Self::default();
        let mut fields = Fields::of(bytes);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => line.function_id = field.number("line")?,
                2 => line.line = field.signed("line")?,
                _ => {}
            }
        }
        Ok(line)
    }
}

impl Location {
    /// Reads a location, and adds its lines to `lines`.
    pub(super) fn read(
        bytes: &[u8],
        lines: &mut Vec<Line>,
        room: &mut Room,
    ) -> Result<Self, PprofError> {
        let mut location = Self::default();
        let first = lines.len();
        let mut fields = Fields::of(bytes);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => location.id = field.number("location")?,
                2 => location.mapping_id = field.number("location")?,
                3 => location.address = field.number("location")?,
                4 => room.push(lines, Line::read(field.bytes("location")?)?)?,
                _ => {}
            }
        }
        location.lines = (first, lines.len());
        Ok(location)
    }
}

impl Label {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, WireError> {
        let mut label = Self::default();
        let mut fields = Fields::of(bytes);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => label.key = field.signed("label")?,
                2 => label.text = field.signed("label")?,
                _ => {}
            }
        }
        Ok(label)
    }
}

/// The text at `index`.
pub(super) fn string<'a>(strings: &[&'a str], index: i64) -> Result<&'a str, PprofError> {
    let place = usize::try_from(index).ok();
    let text = place.and_then(|place| strings.get(place));
    text.copied().ok_or(PprofError::Dangling {
        what: "string",
        id: index,
    })
}

pub(super) fn dangling(what: &'static str, id: u64) -> PprofError {
    PprofError::Dangling {
        what,
        id: i64::try_from(id).unwrap_or(i64::MAX),
    }
}
