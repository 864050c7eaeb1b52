//! pprof profiles: a checked view of foreign bytes, and a builder.
//!
//! Follows the published `profile.proto` of `perftools.profiles`. [`PprofTable`]
//! reads a profile where it lies in memory, [`Pprof`] holds one by itself: there
//! every sample has its frames. In both every index is valid and every sample has
//! one value per sample type.

mod builder;
mod entries;
mod fields;
mod profile;
mod table;

use std::borrow::Cow;

pub use self::builder::{PprofBuilder, PprofHead};
pub use self::fields::WireError;
pub use self::profile::{Pprof, PprofSample};
pub use self::table::{PprofFrame, PprofFunction, PprofTable, Sample, Samples};
use crate::codec::{self, CodecError};
use crate::value_type::ValueTypeError;

/// Largest unpacked profile that is read, in bytes, unless told otherwise.
pub const MAX_PROFILE_BYTES: usize = 64 << 20;
/// Deepest stack that is kept; deeper ones lose their root.
pub const MAX_FRAMES: usize = 1024;
/// Most frames of all stacks of a [`Pprof`] together. A location may stand for
/// many inlined calls and be named by many samples, so a small file can unfold
/// into more than memory holds.
pub const MAX_UNFOLDED_FRAMES: usize = 2 << 20;

/// Why bytes are no profile.
#[derive(Debug, thiserror::Error)]
pub enum PprofError {
    /// The bytes cannot be unpacked.
    #[error("cannot unpack a pprof profile")]
    Unpack(#[source] CodecError),
    /// The bytes are no `profile.proto` message.
    #[error("bytes are no pprof profile")]
    Decode(#[from] WireError),
    /// Something in the profile points at nothing.
    #[error("pprof profile names {what} {id}, which it does not hold")]
    Dangling {
        /// What was named, for example `string`.
        what: &'static str,
        /// Its id or index.
        id: i64,
    },
    /// A sample has another number of values than there are sample types.
    #[error("pprof sample has {values} values for {types} sample types")]
    UnevenSample {
        /// Values of the sample.
        values: usize,
        /// Sample types of the profile.
        types: usize,
    },
    /// What it names takes more memory than it may.
    #[error("pprof profile takes more than {limit} bytes of memory; record a shorter time")]
    TooManyMessages {
        /// The limit in bytes.
        limit: usize,
    },
    /// Its stacks unfold to more than is held in memory.
    #[error(
        "stacks of the pprof profile have more than {MAX_UNFOLDED_FRAMES} frames; record a shorter time"
    )]
    TooManyFrames,
    /// A sample type's text is not usable.
    #[error("pprof profile has an unusable value type")]
    ValueType(#[source] ValueTypeError),
}

/// How much of a foreign profile is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PprofLimits {
    /// Most bytes after unpacking.
    pub unpacked_bytes: usize,
    /// Most bytes of memory that what the profile names may take beside its own
    /// bytes. A message of two bytes may take sixty.
    pub decoded_bytes: usize,
}

impl Default for PprofLimits {
    /// What one reader with memory of its own takes.
    fn default() -> Self {
        Self {
            unpacked_bytes: MAX_PROFILE_BYTES,
            decoded_bytes: 8 * MAX_PROFILE_BYTES,
        }
    }
}

/// The bytes of the profile in `bytes`, gzipped or not, if they are no more than
/// `limits` say.
///
/// # Errors
///
/// [`PprofError::Unpack`] if they cannot be unpacked or are too many.
pub fn unpack(bytes: &[u8], limits: PprofLimits) -> Result<Cow<'_, [u8]>, PprofError> {
    let cap = limits.unpacked_bytes;
    if codec::is_gzip(bytes) {
        let unpacked = codec::gunzip(bytes, cap).map_err(PprofError::Unpack)?;
        return Ok(Cow::Owned(unpacked));
    }
    match bytes.len() > cap {
        true => Err(PprofError::Unpack(CodecError::TooLarge { cap })),
        false => Ok(Cow::Borrowed(bytes)),
    }
}

#[cfg(test)]
mod tests;
