//! A profile as it is written, read where it lies: samples name locations, and
//! what a location stands for is there once.
//!
//! Entries of the tables are read at once, and samples when somebody asks, one
//! after the other into the same memory: most of a profile is samples.

use super::entries::{
    Function, Label, Line, Location, Mapping, RawValueType, Room, Table, dangling, string,
};
use super::fields::{Content, Field, Fields};
use super::{MAX_FRAMES, PprofError, PprofLimits};
use crate::limits::MAX_STRING_BYTES;
use crate::value_type::ValueType;

/// Memory of a value type: two short texts.
const VALUE_TYPE_BYTES: usize = 512;

/// A checked pprof profile as it is written, in the bytes that it was read from.
#[derive(Debug)]
pub struct PprofTable<'a> {
    /// What each value of a sample counts.
    pub sample_types: Vec<ValueType>,
    /// What lies between samples, when the profile says so.
    pub period_type: Option<ValueType>,
    /// Distance between samples in the period's unit.
    pub period: i64,
    /// When it was taken, in nanoseconds since 1970; 0 when unknown.
    pub time_ns: i64,
    /// How long it was taken, in nanoseconds; 0 when unknown.
    pub duration_ns: i64,
    strings: Vec<&'a str>,
    mappings: Table<Mapping>,
    functions: Table<Function>,
    locations: Table<Location>,
    lines: Vec<Line>,
    samples: Vec<&'a [u8]>,
}

/// A function of a [`PprofTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PprofFunction<'a> {
    /// Name to show.
    pub name: &'a str,
    /// Name in the binary, when it differs.
    pub system_name: &'a str,
    /// Source file.
    pub file: &'a str,
    /// Line where it begins; 0 when unknown.
    pub start_line: u32,
}

/// What a location stands for: one of the functions whose code is there, or an
/// address without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PprofFrame<'a> {
    /// A line of a function.
    Line {
        /// Its number, for [`PprofTable::function`].
        function: usize,
        /// The line; 0 when unknown.
        line: u32,
    },
    /// Code that has no name.
    Address {
        /// `module+0xoffset`, or the address alone.
        name: String,
        /// Build id of the module; empty when unknown.
        build_id: &'a str,
        /// Offset in the module's file, or the address.
        file_offset: u64,
    },
}

/// One sample of a [`PprofTable`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample<'a> {
    /// Numbers of locations, leaf first, for [`PprofTable::frames`]; no more than
    /// [`MAX_FRAMES`] and one, which tells that there are more.
    pub locations: Vec<usize>,
    /// One per sample type; may be negative.
    pub values: Vec<i64>,
    /// How many labels have a text.
    pub labels: u64,
    /// How many have none: numeric ones, which are not kept.
    pub numeric_labels: u64,
    bytes: &'a [u8],
}

/// The lists of a profile as they are read.
#[derive(Default)]
struct Lists<'a> {
    sample_types: Vec<RawValueType>,
    period_type: Option<RawValueType>,
    period: i64,
    time_ns: i64,
    duration_ns: i64,
    strings: Vec<&'a str>,
    mappings: Vec<Mapping>,
    functions: Vec<Function>,
    locations: Vec<Location>,
    lines: Vec<Line>,
    samples: Vec<&'a [u8]>,
}

impl<'a> Lists<'a> {
    fn read(&mut self, field: Field<'a>, room: &mut Room) -> Result<(), PprofError> {
        const PROFILE: &str = "profile";
        match field.number {
            1 => {
                let mut read = RawValueType::default();
                read.read(field.bytes(PROFILE)?)?;
                room.take(VALUE_TYPE_BYTES)?;
                self.sample_types.push(read);
            }
            2 => room.push(&mut self.samples, field.bytes(PROFILE)?)?,
            3 => room.push(&mut self.mappings, Mapping::read(field.bytes(PROFILE)?)?)?,
            4 => {
                let bytes = field.bytes(PROFILE)?;
                let location = Location::read(bytes, &mut self.lines, room)?;
                room.push(&mut self.locations, location)?;
            }
            5 => room.push(&mut self.functions, Function::read(field.bytes(PROFILE)?)?)?,
            6 => room.push(&mut self.strings, cut(field.text(PROFILE)?))?,
            9 => self.time_ns = field.signed(PROFILE)?,
            10 => self.duration_ns = field.signed(PROFILE)?,
            11 => {
                let read = self.period_type.get_or_insert_default();
                read.read(field.bytes(PROFILE)?)?;
            }
            12 => self.period = field.signed(PROFILE)?,
            _ => {}
        }
        Ok(())
    }
}

/// As much of a text as is kept: many entries may name one, and each looks at it.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_STRING_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

fn value_type(strings: &[&str], raw: RawValueType) -> Result<ValueType, PprofError> {
    let kind = string(strings, raw.kind)?;
    let unit = match string(strings, raw.unit)? {
        "" => "count",
        unit => unit,
    };
    ValueType::new(kind, unit).map_err(PprofError::ValueType)
}

impl<'a> PprofTable<'a> {
    /// Reads the unpacked profile that is `raw`.
    ///
    /// # Errors
    ///
    /// [`PprofError`] if its tables take more memory than `limits` allow, or it is
    /// no profile. What samples and locations name is looked at with them.
    pub fn parse(raw: &'a [u8], limits: PprofLimits) -> Result<Self, PprofError> {
        let mut room = Room::of(limits.decoded_bytes);
        let mut lists = Lists::default();
        let mut fields = Fields::of(raw);
        while let Some(field) = fields.next()? {
            lists.read(field, &mut room)?;
        }
        let of = |raw| value_type(&lists.strings, raw);
        Ok(Self {
            sample_types: lists
                .sample_types
                .iter()
                .map(|raw| of(*raw))
                .collect::<Result<_, _>>()?,
            period_type: lists.period_type.map(of).transpose()?,
            period: lists.period,
            time_ns: lists.time_ns,
            duration_ns: lists.duration_ns,
            strings: lists.strings,
            mappings: Table::new(lists.mappings, |mapping| mapping.id, &mut room)?,
            functions: Table::new(lists.functions, |function| function.id, &mut room)?,
            locations: Table::new(lists.locations, |location| location.id, &mut room)?,
            lines: lists.lines,
            samples: lists.samples,
        })
    }

    /// How many functions it has.
    pub fn function_count(&self) -> usize {
        self.functions.entries.len()
    }

    /// How many locations it has.
    pub fn location_count(&self) -> usize {
        self.locations.entries.len()
    }

    /// How many samples it has.
    pub fn sample_count(&self) -> usize {
        self.samples.len()
    }

    /// The source file of each function whose file there is.
    pub fn files(&self) -> impl Iterator<Item = &'a str> {
        let functions = self.functions.entries.iter();
        functions.filter_map(|function| string(&self.strings, function.filename).ok())
    }

    /// The function of this number.
    ///
    /// # Errors
    ///
    /// [`PprofError::Dangling`] if there is none, or its texts are not there.
    pub fn function(&self, number: usize) -> Result<PprofFunction<'a>, PprofError> {
        let function = self.functions.entries.get(number);
        let function = function.ok_or_else(|| no_number("function", number))?;
        let name = string(&self.strings, function.name)?;
        let system_name = string(&self.strings, function.system_name)?;
        Ok(PprofFunction {
            name,
            system_name: match function.system_name == function.name || system_name == name {
                true => "",
                false => system_name,
            },
            file: string(&self.strings, function.filename)?,
            start_line: u32::try_from(function.start_line).unwrap_or(0),
        })
    }

    /// The frames of the location of this number, innermost first and at least
    /// one; no more than [`MAX_FRAMES`].
    ///
    /// # Errors
    ///
    /// [`PprofError::Dangling`] of a frame that names what is not there.
    pub fn frames(
        &self,
        number: usize,
    ) -> impl Iterator<Item = Result<PprofFrame<'a>, PprofError>> {
        let location = self.locations.entries.get(number);
        let (first, end) = location.map_or((0, 0), |location| location.lines);
        let lines = self.lines.get(first..end).unwrap_or_default();
        let unnamed = lines.is_empty().then(|| {
            let location = location.ok_or_else(|| no_number("location", number))?;
            self.address(location)
        });
        let lines = lines.iter().take(MAX_FRAMES).map(|line| {
            let function = self.functions.place(line.function_id);
            Ok(PprofFrame::Line {
                function: function.ok_or_else(|| dangling("function", line.function_id))?,
                line: u32::try_from(line.line).unwrap_or(0),
            })
        });
        unnamed.into_iter().chain(lines)
    }

    /// The frame of a location that has no line.
    fn address(&self, location: &Location) -> Result<PprofFrame<'a>, PprofError> {
        let address = location.address;
        if location.mapping_id == 0 {
            return Ok(PprofFrame::Address {
                name: format!("0x{address:x}"),
                build_id: "",
                file_offset: address,
            });
        }
        let mapping = self.mappings.get(location.mapping_id);
        let mapping = mapping.ok_or_else(|| dangling("mapping", location.mapping_id))?;
        let path = string(&self.strings, mapping.filename)?;
        let module = path.rsplit('/').next().unwrap_or("");
        let offset = address
            .wrapping_sub(mapping.memory_start)
            .wrapping_add(mapping.file_offset);
        Ok(PprofFrame::Address {
            name: format!("{module}+0x{offset:x}"),
            build_id: string(&self.strings, mapping.build_id)?,
            file_offset: offset,
        })
    }

    /// The samples, one after the other.
    pub fn samples(&self) -> Samples<'_, 'a> {
        Samples {
            table: self,
            rest: self.samples.iter(),
            sample: Sample::default(),
        }
    }

    /// The labels of a sample that have a text, in the order of the profile.
    pub fn labels(&self, sample: &Sample<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut fields = Fields::of(sample.bytes);
        // They were checked when the sample was read.
        std::iter::from_fn(move || {
            while let Ok(Some(field)) = fields.next() {
                if let (3, Content::Bytes(bytes)) = (field.number, field.content) {
                    let label = Label::read(bytes).ok()?;
                    if label.text != 0 {
                        let text = |index| string(&self.strings, index).ok();
                        return Some((text(label.key)?, text(label.text)?));
                    }
                }
            }
            None
        })
    }

    fn read_sample(&self, bytes: &'a [u8], sample: &mut Sample<'a>) -> Result<(), PprofError> {
        const SAMPLE: &str = "sample";
        let Sample {
            locations, values, ..
        } = sample;
        locations.clear();
        values.clear();
        let (mut labels, mut numeric_labels, mut value_count) = (0, 0, 0_usize);
        let types = self.sample_types.len();
        let mut fields = Fields::of(bytes);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => field.each_number(SAMPLE, |id| {
                    let place = self.locations.place(id);
                    let place = place.ok_or_else(|| dangling("location", id))?;
                    if locations.len() <= MAX_FRAMES {
                        locations.push(place);
                    }
                    Ok::<(), PprofError>(())
                })?,
                2 => field.each_number(SAMPLE, |value| {
                    value_count = value_count.saturating_add(1);
                    if value_count <= types {
                        values.push(value.cast_signed());
                    }
                    Ok::<(), PprofError>(())
                })?,
                3 => {
                    let label = Label::read(field.bytes(SAMPLE)?)?;
                    if label.text == 0 {
                        numeric_labels += 1;
                    } else {
                        string(&self.strings, label.key)?;
                        string(&self.strings, label.text)?;
                        labels += 1;
                    }
                }
                _ => {}
            }
        }
        if value_count != types {
            return Err(PprofError::UnevenSample {
                values: value_count,
                types,
            });
        }
        sample.labels = labels;
        sample.numeric_labels = numeric_labels;
        sample.bytes = bytes;
        Ok(())
    }
}

fn no_number(what: &'static str, number: usize) -> PprofError {
    dangling(what, u64::try_from(number).unwrap_or(u64::MAX))
}

/// Reads the samples of a [`PprofTable`], one after the other.
#[derive(Debug)]
pub struct Samples<'t, 'a> {
    table: &'t PprofTable<'a>,
    rest: std::slice::Iter<'t, &'a [u8]>,
    sample: Sample<'a>,
}

impl<'a> Samples<'_, 'a> {
    /// The next sample, as long as nobody asks for the one after it; `None` after
    /// the last.
    ///
    /// # Errors
    ///
    /// [`PprofError`] if it is no sample, has another number of values than there
    /// are sample types, or names what the profile does not hold.
    #[expect(
        clippy::should_implement_trait,
        reason = "what it gives out lives in the reader, as no iterator's item may"
    )]
    pub fn next(&mut self) -> Result<Option<&Sample<'a>>, PprofError> {
        let Some(bytes) = self.rest.next() else {
            return Ok(None);
        };
        self.table.read_sample(bytes, &mut self.sample)?;
        Ok(Some(&self.sample))
    }
}
