//! Compression with a cap on what comes out.

use std::cell::RefCell;
use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

/// zstd level of everything Tepui compresses; higher ones cost much and gain
/// little on batches of a few kilobytes.
const ZSTD_LEVEL: i32 = 3;

/// Why bytes could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes unpack to more than is allowed.
    #[error("packed bytes hold more than {cap} bytes")]
    TooLarge {
        /// The cap in bytes.
        cap: usize,
    },
    /// The bytes are not of the format.
    #[error("cannot unpack {format} bytes")]
    Corrupt {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// What the decoder said.
        #[source]
        source: io::Error,
    },
}

/// Least room for what comes next, in bytes.
const CHUNK_BYTES: usize = 32 << 10;

/// Reads all of `reader`, about `expected` bytes and at most `cap`. It is given all
/// the room there is at once: decoders are faster with much.
fn read_capped(
    mut reader: impl Read,
    expected: usize,
    cap: usize,
    format: &'static str,
) -> Result<Vec<u8>, CodecError> {
    // One more, by which it shows that there is too much.
    let most = cap.saturating_add(1);
    let mut out = vec![0; expected.min(most)];
    let mut length = 0_usize;
    loop {
        if length == out.len() {
            if length > cap {
                return Err(CodecError::TooLarge { cap });
            }
            let more = length.max(CHUNK_BYTES).saturating_add(length);
            out.resize(more.min(most), 0);
        }
        let room = out.get_mut(length..).unwrap_or_default();
        match reader.read(room) {
            Ok(0) => break,
            Ok(read) => length = length.saturating_add(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(CodecError::Corrupt { format, source }),
        }
    }
    if length > cap {
        return Err(CodecError::TooLarge { cap });
    }
    out.truncate(length);
    Ok(out)
}

/// Unpacks gzip, all members, to at most `cap` bytes.
///
/// # Errors
///
/// [`CodecError::TooLarge`] past the cap, [`CodecError::Corrupt`] otherwise.
pub fn gunzip(bytes: &[u8], cap: usize) -> Result<Vec<u8>, CodecError> {
    let reader = flate2::bufread::MultiGzDecoder::new(bytes);
    read_capped(reader, gunzip_len(bytes), cap, "gzip")
}

/// The length that gzip says it unpacks to, as far as it can be believed: texts
/// seldom shrink to less than a tenth.
fn gunzip_len(bytes: &[u8]) -> usize {
    let told = bytes.last_chunk::<4>().copied().unwrap_or_default();
    let told = usize::try_from(u32::from_le_bytes(told)).unwrap_or(usize::MAX);
    // One more, so that the end is seen without growing.
    told.min(bytes.len().saturating_mul(10)).saturating_add(1)
}

/// Packs `bytes` as gzip.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .expect("writing to a Vec does not fail")
}

/// Whether `bytes` begin as gzip does.
pub fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// A frame that says at most this length is unpacked in one step.
const AT_ONCE: u64 = 1 << 20;

/// Unpacks zstd to at most `cap` bytes.
///
/// # Errors
///
/// [`CodecError::TooLarge`] past the cap, [`CodecError::Corrupt`] otherwise.
pub fn unzstd(bytes: &[u8], cap: usize) -> Result<Vec<u8>, CodecError> {
    if let Some(length) = unzstd_len(bytes)
        && length <= AT_ONCE
        && let Ok(length) = usize::try_from(length)
        && length <= cap
    {
        // A frame that says a wrong length is an error of this call.
        let unpacked = DECOMPRESSOR.with_borrow_mut(|decompressor| match decompressor {
            Some(decompressor) => decompressor.decompress(bytes, length),
            none => none
                .insert(zstd::bulk::Decompressor::new()?)
                .decompress(bytes, length),
        });
        return unpacked.map_err(|source| CodecError::Corrupt {
            format: "zstd",
            source,
        });
    }
    let mut decoder =
        zstd::stream::read::Decoder::with_buffer(bytes).map_err(|source| CodecError::Corrupt {
            format: "zstd",
            source,
        })?;
    // What comes after it would be more than it says of itself.
    decoder = decoder.single_frame();
    // A window of 8 MiB is more than any batch of ours asks for.
    decoder
        .window_log_max(23)
        .map_err(|source| CodecError::Corrupt {
            format: "zstd",
            source,
        })?;
    read_capped(decoder, 0, cap, "zstd")
}

thread_local! {
    /// Making one takes as long as unpacking a small frame.
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        const { RefCell::new(None) };
}

/// The length that a zstd frame says it unpacks to; `None` if it does not say.
pub fn unzstd_len(bytes: &[u8]) -> Option<u64> {
    zstd::zstd_safe::get_frame_content_size(bytes)
        .ok()
        .flatten()
}

/// Packs `bytes` as one zstd frame, which says its length.
///
/// # Errors
///
/// [`CodecError::Corrupt`] when the encoder cannot get memory.
pub fn zstd(bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
    zstd::bulk::compress(bytes, ZSTD_LEVEL).map_err(|source| CodecError::Corrupt {
        format: "zstd",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bombs_stop_at_the_cap() {
        let zeros = vec![0; 4 << 20];
        let packed = gzip(&zeros);
        assert!(packed.len() < 8192);
        assert!(matches!(
            gunzip(&packed, 1 << 20),
            Err(CodecError::TooLarge { .. })
        ));
        assert!(matches!(
            unzstd(&zstd(&zeros).unwrap(), 1 << 20),
            Err(CodecError::TooLarge { .. })
        ));
        assert_eq!(gunzip(&packed, zeros.len()).unwrap(), zeros);
    }

    #[test]
    fn a_frame_does_not_hide_behind_another() {
        let said = vec![7; 1 + usize::try_from(AT_ONCE).unwrap()];
        let hidden = zstd(&vec![0; 64 << 20]).unwrap();
        let both = [zstd(&said).unwrap(), hidden].concat();
        assert_eq!(unzstd_len(&both), Some(AT_ONCE + 1));
        assert_eq!(unzstd(&both, 128 << 20).unwrap(), said);
    }

    #[test]
    fn truncated_bytes_are_corrupt() {
        let packed = gzip(b"hello hello hello");
        assert!(matches!(
            gunzip(&packed[..packed.len() - 9], 100),
            Err(CodecError::Corrupt { .. })
        ));
        let packed = zstd(b"hello hello hello").unwrap();
        assert!(matches!(
            unzstd(&packed[..packed.len() - 3], 100),
            Err(CodecError::Corrupt { .. })
        ));
    }

    proptest! {
        #[test]
        fn unpacking_undoes_packing(bytes: Vec<u8>) {
            prop_assert_eq!(gunzip(&gzip(&bytes), bytes.len()).unwrap(), bytes.clone());
            prop_assert_eq!(unzstd(&zstd(&bytes).unwrap(), bytes.len()).unwrap(), bytes);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _gunzip = gunzip(&bytes, 1000);
            let _unzstd = unzstd(&bytes, 1000);
        }
    }
}
