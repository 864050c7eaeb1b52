//! Bodies of batches, read from their bytes. Nearly all of a body are packed numbers,
//! which are read here; everything else, and whatever is irregular, is left to the
//! generated code, which says what is wrong.

use prost::DecodeError;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key};

use crate::pb::tepui as pb;
use crate::varint;

/// `BatchBody.windows`.
const WINDOWS: u32 = 4;
/// `Window.stacks`.
const STACKS: u32 = 4;
/// `Window.columns`.
const COLUMNS: u32 = 5;
/// `Column.values`.
const VALUES: u32 = 7;

/// Reads the body of a batch, as `BatchBody::decode` does.
///
/// # Errors
///
/// [`DecodeError`] if the bytes are no `tepui.v1.BatchBody`.
pub fn decode_body(mut bytes: &[u8]) -> Result<pb::BatchBody, DecodeError> {
    let mut body = pb::BatchBody::default();
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes)?;
        let mut rest = bytes;
        if (tag, wire_type) == (WINDOWS, WireType::LengthDelimited)
            && let Some(window) = part(&mut rest).and_then(window)
        {
            body.windows.push(window);
            bytes = rest;
        } else {
            body.merge_field(tag, wire_type, &mut bytes, DecodeContext::default())?;
        }
    }
    Ok(body)
}

/// Takes the bytes of a field, after its key.
fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint::long(bytes)?).ok()?;
    let (part, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(part)
}

/// A window; `None` if something of it is irregular.
fn window(mut bytes: &[u8]) -> Option<pb::Window> {
    let mut window = pb::Window::default();
    while !bytes.is_empty() {
        match decode_key(&mut bytes).ok()? {
            (STACKS, WireType::LengthDelimited) => {
                let number = |number| u32::try_from(number).ok();
                numbers(part(&mut bytes)?, &mut window.stacks, number)?;
            }
            (COLUMNS, WireType::LengthDelimited) => {
                window.columns.push(column(part(&mut bytes)?)?);
            }
            (tag, wire_type) => {
                let context = DecodeContext::default();
                let merged = window.merge_field(tag, wire_type, &mut bytes, context);
                merged.ok()?;
            }
        }
    }
    Some(window)
}

fn column(mut bytes: &[u8]) -> Option<pb::Column> {
    let mut column = pb::Column::default();
    while !bytes.is_empty() {
        match decode_key(&mut bytes).ok()? {
            (VALUES, WireType::LengthDelimited) => {
                let number = |number| Some(varint::signed(number));
                numbers(part(&mut bytes)?, &mut column.values, number)?;
            }
            (tag, wire_type) => {
                let context = DecodeContext::default();
                let merged = column.merge_field(tag, wire_type, &mut bytes, context);
                merged.ok()?;
            }
        }
    }
    Some(column)
}

/// Adds packed numbers to `out`.
fn numbers<T>(mut bytes: &[u8], out: &mut Vec<T>, of: impl Fn(u64) -> Option<T>) -> Option<()> {
    // Each has one byte that ends it.
    out.reserve(bytes.iter().filter(|byte| **byte < 0x80).count());
    while !bytes.is_empty() {
        out.push(of(varint::long(&mut bytes)?)?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn arbitrary_window() -> impl Strategy<Value = pb::Window> {
        let column = (any::<String>(), any::<i64>(), vec(any::<i64>(), 0..20)).prop_map(
            |(name, period, values)| pb::Column {
                name,
                sample_type: Some(pb::ValueType::default()),
                period,
                values,
                ..pb::Column::default()
            },
        );
        let facts = any::<u64>().prop_map(|cpu_nanos| pb::Facts {
            cpu_nanos,
            ..pb::Facts::default()
        });
        (
            any::<i64>(),
            any::<u32>(),
            vec(any::<u32>(), 0..20),
            vec(column, 0..3),
            proptest::option::of(facts),
        )
            .prop_map(|(start, label_set, stacks, columns, facts)| pb::Window {
                start_unix_nanos: start,
                label_set,
                sample_label_sets: stacks.clone(),
                stacks,
                columns,
                facts,
                ..pb::Window::default()
            })
    }

    fn body() -> impl Strategy<Value = pb::BatchBody> {
        let strings = vec(any::<String>(), 0..3);
        (any::<bool>(), strings, vec(arbitrary_window(), 0..4)).prop_map(
            |(reset, strings, windows)| pb::BatchBody {
                reset,
                dictionary: Some(pb::Dictionary {
                    strings,
                    ..pb::Dictionary::default()
                }),
                label_sets: vec![pb::LabelSet::default()],
                windows,
            },
        )
    }

    proptest! {
        #[test]
        fn a_body_is_read_as_the_generated_code_reads_it(body in body()) {
            prop_assert_eq!(decode_body(&body.encode_to_vec()).unwrap(), body);
        }

        #[test]
        fn so_are_damaged_ones(
            body in body(),
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = body.encode_to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len()) + 1);
            let (ours, theirs) = (decode_body(&bytes), pb::BatchBody::decode(&*bytes));
            prop_assert_eq!(ours.is_ok(), theirs.is_ok());
            if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
