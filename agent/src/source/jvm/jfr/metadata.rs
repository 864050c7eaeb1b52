//! What a chunk says of its own classes, and reading their values by it.
//!
//! Every value read, and every byte of a text, costs one unit of fuel, of which
//! there is some for each byte of the chunk: values of classes without fields
//! take no bytes, and arrays of them would hold the reader up for ever.

use std::cell::Cell;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::JfrError;
use super::bytes::{Bytes, Text};

/// Deepest nesting of elements; the format has five.
const MAX_ELEMENT_DEPTH: usize = 16;
/// Deepest nesting of values in values; real ones have three.
const MAX_VALUE_DEPTH: usize = 16;
/// Most strings, classes and fields; JDK 25 has 4,000 strings.
const MAX_DESCRIBED: usize = 64 * 1024;
/// Most bytes of all strings; those of JDK 25 take 60,000.
const MAX_STRING_BYTES: usize = 4 << 20;
/// Values for each byte of a chunk: it is read once for the pools, once for the
/// events, and once for what they refer to.
const FUEL_PER_BYTE: usize = 4;

/// Classes of a chunk by their ids.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    classes: FxHashMap<u64, Class>,
    fields_count: usize,
    fuel: Cell<usize>,
}

#[derive(Debug)]
struct Class {
    name: Arc<str>,
    kind: Kind,
    fields: Vec<Field>,
}

/// How values of a class are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Number,
    Fixed(usize),
    Text,
    Fields,
}

#[derive(Debug)]
struct Field {
    name: Arc<str>,
    class: u64,
    is_array: bool,
    is_pooled: bool,
}

/// What is met while a value is read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Met<'a, 'b> {
    /// A field of this name: a number, or the key of a pooled value.
    Number(&'b str, u64),
    /// A text.
    Text(Text<'a>),
    /// The next value of an array; its fields follow.
    Element,
}

fn kind(name: &str) -> Kind {
    match name {
        "boolean" | "byte" => Kind::Fixed(1),
        "float" => Kind::Fixed(4),
        "double" => Kind::Fixed(8),
        "char" | "short" | "int" | "long" => Kind::Number,
        "java.lang.String" => Kind::Text,
        _ => Kind::Fields,
    }
}

/// The strings of the metadata event.
struct Strings(Vec<Arc<str>>);

impl Strings {
    fn get(&self, bytes: &mut Bytes<'_>) -> Result<Arc<str>, JfrError> {
        let index = usize::try_from(bytes.number()?).unwrap_or(usize::MAX);
        let text = self.0.get(index).map(Arc::clone);
        text.ok_or_else(|| bytes.damaged("a string that is not there"))
    }
}

/// Attributes of an element that matter here.
#[derive(Default)]
struct Attributes {
    id: Option<u64>,
    name: Option<Arc<str>>,
    class: Option<u64>,
    is_array: bool,
    is_pooled: bool,
}

impl Metadata {
    /// Reads the body of a metadata event, behind its size and type, of a
    /// chunk of `chunk_bytes`.
    pub(super) fn read(bytes: &mut Bytes<'_>, chunk_bytes: usize) -> Result<Self, JfrError> {
        for _start_duration_id in 0..3 {
            bytes.number()?;
        }
        let count = bytes.count()?;
        if count > MAX_DESCRIBED {
            return Err(bytes.damaged("too many strings"));
        }
        let mut strings = Strings(Vec::new());
        let mut string_bytes: usize = 0;
        for _ in 0..count {
            let text = bytes.text()?.read().unwrap_or_default();
            string_bytes = string_bytes.saturating_add(text.len());
            if string_bytes > MAX_STRING_BYTES {
                return Err(bytes.damaged("strings that are too long"));
            }
            strings.0.push(Arc::from(text));
        }
        let mut metadata = Self {
            fuel: Cell::new(chunk_bytes.saturating_mul(FUEL_PER_BYTE)),
            ..Self::default()
        };
        metadata.element(bytes, &strings, None, 0)?;
        Ok(metadata)
    }

    fn element(
        &mut self,
        bytes: &mut Bytes<'_>,
        strings: &Strings,
        parent: Option<u64>,
        depth: usize,
    ) -> Result<(), JfrError> {
        if depth > MAX_ELEMENT_DEPTH {
            return Err(bytes.damaged("elements nested too deeply"));
        }
        let kind_of_element = strings.get(bytes)?;
        let mut attributes = Attributes::default();
        for _ in 0..bytes.count()? {
            let (key, value) = (strings.get(bytes)?, strings.get(bytes)?);
            match &*key {
                "id" => attributes.id = value.parse().ok(),
                "name" => attributes.name = Some(value),
                "class" => attributes.class = value.parse().ok(),
                "dimension" => attributes.is_array = &*value != "0",
                "constantPool" => attributes.is_pooled = &*value == "true",
                _ => {}
            }
        }
        let mut own = None;
        if self.classes.len() + self.fields_count > MAX_DESCRIBED {
            return Err(bytes.damaged("too many classes and fields"));
        }
        match (&*kind_of_element, attributes) {
            (
                "class",
                Attributes {
                    id: Some(id),
                    name: Some(name),
                    ..
                },
            ) => {
                own = Some(id);
                let class = Class {
                    kind: kind(&name),
                    name,
                    fields: Vec::new(),
                };
                self.classes.insert(id, class);
            }
            (
                "field",
                Attributes {
                    name: Some(name),
                    class: Some(class),
                    is_array,
                    is_pooled,
                    ..
                },
            ) => {
                if let Some(owner) = parent.and_then(|id| self.classes.get_mut(&id)) {
                    self.fields_count += 1;
                    owner.fields.push(Field {
                        name,
                        class,
                        is_array,
                        is_pooled,
                    });
                }
            }
            _ => {}
        }
        for _ in 0..bytes.count()? {
            self.element(bytes, strings, own, depth + 1)?;
        }
        Ok(())
    }

    /// The name of a class.
    pub(super) fn name(&self, class: u64) -> Option<&str> {
        self.classes.get(&class).map(|class| &*class.name)
    }

    /// Pays for `count` values.
    fn spend(&self, count: usize, bytes: &Bytes<'_>) -> Result<(), JfrError> {
        let left = self.fuel.get().checked_sub(count);
        self.fuel
            .set(left.ok_or_else(|| bytes.damaged("more values than bytes"))?);
        Ok(())
    }

    /// Reads a value of `class`, telling `see` of what it holds.
    pub(super) fn value<'a>(
        &self,
        bytes: &mut Bytes<'a>,
        class: u64,
        see: &mut impl FnMut(Met<'a, '_>),
    ) -> Result<(), JfrError> {
        self.one("", bytes, class, 0, see)
    }

    fn one<'a>(
        &self,
        name: &str,
        bytes: &mut Bytes<'a>,
        class: u64,
        depth: usize,
        see: &mut impl FnMut(Met<'a, '_>),
    ) -> Result<(), JfrError> {
        self.spend(1, bytes)?;
        let class = self
            .classes
            .get(&class)
            .filter(|_| depth <= MAX_VALUE_DEPTH)
            .ok_or_else(|| bytes.damaged("a value of an unknown class"))?;
        match class.kind {
            Kind::Number => see(Met::Number(name, bytes.number()?)),
            Kind::Fixed(1) => see(Met::Number(name, u64::from(bytes.byte()?))),
            Kind::Fixed(size) => {
                bytes.take(size)?;
            }
            Kind::Text => {
                let begin = bytes.at();
                let text = bytes.text()?;
                self.spend(bytes.at().saturating_sub(begin), bytes)?;
                see(Met::Text(text));
            }
            Kind::Fields => {
                for field in &class.fields {
                    self.field(field, bytes, depth, see)?;
                }
            }
        }
        Ok(())
    }

    fn field<'a>(
        &self,
        field: &Field,
        bytes: &mut Bytes<'a>,
        depth: usize,
        see: &mut impl FnMut(Met<'a, '_>),
    ) -> Result<(), JfrError> {
        let count = match field.is_array {
            true => bytes.count()?,
            false => 1,
        };
        for _ in 0..count {
            if field.is_array {
                see(Met::Element);
            }
            if field.is_pooled {
                self.spend(1, bytes)?;
                see(Met::Number(&field.name, bytes.number()?));
            } else {
                self.one(&field.name, bytes, field.class, depth + 1, see)?;
            }
        }
        Ok(())
    }
}
