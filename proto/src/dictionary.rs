//! Windows on the wire: each frame and stack goes once per stream, and later
//! windows name stacks by number. Strings go with the frames that name them, once
//! per batch, so that no end of a stream keeps them.
//!
//! [`Encoder`] belongs to the sending end of a stream, [`Decoder`] to the
//! receiving end. Ids of frames and stacks count up from 0 in stream order, those
//! of strings in the order of the batch. A batch body that begins with `reset` and is decoded by a fresh decoder is
//! self-contained; that is how the spool keeps them.

mod body;
mod decoder;
mod encoder;
mod wire;

use std::sync::Arc;

pub use self::body::decode_body;
pub use self::decoder::Decoder;
pub use self::encoder::Encoder;
pub use self::wire::label_set_to_wire;
use crate::labels::{LabelError, LabelSet};
use crate::profile::{Column, Facts, ProfileError};
use crate::value_type::ValueTypeError;
use crate::window::{Window, WindowError};

/// What a frame costs beside its strings, in bytes.
const FRAME_COST: usize = 64;
/// What a string or stack costs beside its content, in bytes.
const ENTRY_COST: usize = 32;

fn string_cost(text: &str) -> usize {
    text.len() + ENTRY_COST
}

/// An error if `size` passes `limit`.
fn check_size(what: &'static str, size: usize, limit: usize) -> Result<(), DictionaryError> {
    match size > limit {
        true => Err(DictionaryError::TooLarge { what, size, limit }),
        false => Ok(()),
    }
}

fn stack_cost(frames: usize) -> usize {
    frames * 4 + ENTRY_COST
}

/// Why a batch breaks the protocol. The dictionary of the stream is unusable
/// after it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DictionaryError {
    /// An id was not sent before.
    #[error("dictionary has no {what} {id}")]
    Dangling {
        /// `string`, `frame` or `stack`.
        what: &'static str,
        /// The id.
        id: u32,
    },
    /// A cap of [`crate::limits`] is passed.
    #[error("{what} of {size} is more than the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// An enum holds a number that this version does not know.
    #[error("unknown {what} {number}")]
    UnknownEnum {
        /// The enum.
        what: &'static str,
        /// The number.
        number: i32,
    },
}

/// Why one window of a batch is refused; the others stand.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireWindowError {
    /// Its labels are not allowed.
    #[error("window has unusable labels")]
    Labels(#[source] LabelError),
    /// Its time is not a window.
    #[error("window has an impossible time")]
    Window(#[source] WindowError),
    /// A column's type is not usable.
    #[error("window has an unusable value type")]
    ValueType(#[source] ValueTypeError),
    /// Its columns do not fit its stacks.
    #[error("window has unusable columns")]
    Columns(#[source] ProfileError),
    /// It names a stack or label set that was not sent, or passes a cap.
    #[error("window names something unknown or too large")]
    Dictionary(#[source] DictionaryError),
    /// It does not say which service it is of.
    #[error("window has no label \"service\"")]
    NoService,
}

/// A window as it came over the wire: stacks are ids of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireWindow {
    /// Labels of the series, with a service.
    pub labels: Arc<LabelSet>,
    /// The time it covers.
    pub window: Window,
    /// One valid stack id per sample.
    pub stacks: Vec<u32>,
    /// One column per value type, each with one value per sample.
    pub columns: Vec<Column>,
    /// What else is known of the window.
    pub facts: Facts,
}

fn id_of(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
