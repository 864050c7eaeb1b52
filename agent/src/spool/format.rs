//! A batch and the bytes of its file.
//!
//! The format is pinned by golden bytes; a reader that meets another version
//! takes the file for damaged.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use proto::limits::{INSTANCE_BYTES, MAX_BATCH_BYTES, MAX_WINDOWS};
use xxhash_rust::xxh3::Xxh3;

/// First bytes of every batch file.
const MAGIC: [u8; 4] = *b"TSPB";
/// Version of the batch file's format.
const VERSION: u8 = 1;
/// Bytes of a batch file before its checksum.
pub(super) const HEADER_BYTES: usize = 4 + 1 + 4 + 8 + INSTANCE_BYTES;
/// Bytes of a batch file before its body.
const PREFIX_BYTES: usize = HEADER_BYTES + 8;
/// Largest batch file.
pub(super) const MAX_FILE_BYTES: u64 = (PREFIX_BYTES + MAX_BATCH_BYTES) as u64;
/// Identity of a batch; the collector counts each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId {
    /// Instance that appended it.
    pub instance: [u8; INSTANCE_BYTES],
    /// Counts up from 1 within an instance.
    pub sequence: u64,
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Hex(&self.instance), self.sequence)
    }
}

/// A batch as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpooledBatch {
    /// Its identity.
    pub id: BatchId,
    /// How many windows it holds.
    pub windows: u32,
    /// zstd frame of a self-contained `tepui.v1.BatchBody`.
    pub body: Vec<u8>,
}

/// Shows bytes in hexadecimal.
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The hash of a batch file: its header, then its body.
fn checksum(header: &[u8], body: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(header);
    hash.update(body);
    hash.digest()
}

/// The bytes of a batch's file.
pub(super) fn encode_file(batch: &SpooledBatch) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX_BYTES + batch.body.len());
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&batch.windows.to_be_bytes());
    out.extend_from_slice(&batch.id.sequence.to_be_bytes());
    out.extend_from_slice(&batch.id.instance);
    let sum = checksum(&out, &batch.body);
    out.extend_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(&batch.body);
    out
}

/// Identity and number of windows that a batch file's first bytes tell.
pub(super) fn decode_header(header: &[u8; HEADER_BYTES]) -> Option<(BatchId, u32)> {
    let (magic, rest) = header.split_first_chunk::<4>()?;
    let (version, rest) = rest.split_first()?;
    let (windows, rest) = rest.split_first_chunk::<4>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let instance = rest.first_chunk::<INSTANCE_BYTES>()?;
    let windows = u32::from_be_bytes(*windows);
    let known = *magic == MAGIC
        && *version == VERSION
        && usize::try_from(windows).is_ok_and(|windows| windows <= MAX_WINDOWS);
    known.then_some((
        BatchId {
            instance: *instance,
            sequence: u64::from_be_bytes(*sequence),
        },
        windows,
    ))
}

/// The batch that a file holds, if it is whole.
fn decode_file(bytes: &[u8]) -> Option<SpooledBatch> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let (sum, body) = rest.split_first_chunk::<8>()?;
    let (id, windows) = decode_header(header)?;
    (u64::from_be_bytes(*sum) == checksum(header, body)).then(|| SpooledBatch {
        id,
        windows,
        body: body.to_vec(),
    })
}

/// The batch in a file; none if it is damaged or another's.
pub(super) fn read_batch(path: &Path, id: &BatchId) -> io::Result<Option<SpooledBatch>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Err(failure) if failure.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?,
    };
    Ok(decode_file(&bytes).filter(|batch| batch.id == *id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn the_file_format_is_pinned() {
        let batch = SpooledBatch {
            id: BatchId {
                instance: *b"instance-of-1234",
                sequence: 258,
            },
            windows: 3,
            body: b"body".to_vec(),
        };
        let bytes = encode_file(&batch);
        assert_eq!(decode_file(&bytes), Some(batch));
        expect!["5453504201000000030000000000000102696e7374616e63652d6f662d3132333487c86827253e06f4626f6479"].assert_eq(&Hex(&bytes).to_string());
    }

    proptest::proptest! {
        #[test]
        fn no_file_panics(bytes: Vec<u8>, cut in 0_usize..80) {
            let _whatever = decode_file(&bytes);
            let batch = SpooledBatch {
                id: BatchId { instance: [1; 16], sequence: 1 },
                windows: 1,
                body: bytes,
            };
            let whole = encode_file(&batch);
            proptest::prop_assert_eq!(decode_file(&whole), Some(batch));
            let part = whole.get(..whole.len().saturating_sub(cut + 1)).unwrap_or(&[]);
            proptest::prop_assert_eq!(decode_file(part), None);
        }
    }
}
