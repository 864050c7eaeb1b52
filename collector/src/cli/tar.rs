//! Archives of files, as `tar` reads them: POSIX
//! [ustar](https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13_06).

use proto::window::UnixNanos;

/// Bytes of a block; files are filled up to whole ones.
const BLOCK_BYTES: usize = 512;
/// Largest file that a header can tell: eleven octal digits.
const MAX_FILE_BYTES: u64 = (1 << 33) - 1;
const MODE: u64 = 0o644;

/// Why a file cannot stand in an archive.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum TarError {
    /// Its name or folder is too long.
    #[error("the name {0:?} is too long for an archive")]
    Name(String),
    /// It is too large.
    #[error("a file of {0} bytes is too large for an archive")]
    Size(u64),
}

/// The bytes that stand before a file `folder/name` of `length` bytes.
///
/// # Errors
///
/// [`TarError`] if a field of the header cannot hold it.
pub(super) fn header(
    folder: &str,
    name: &str,
    length: usize,
    modified: UnixNanos,
) -> Result<[u8; BLOCK_BYTES], TarError> {
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    if length > MAX_FILE_BYTES {
        return Err(TarError::Size(length));
    }
    let seconds = u64::try_from(modified.seconds()).unwrap_or(0);
    let number = |value: u64| format!("{value:011o}\0").into_bytes();
    let small = |value: u64| format!("{value:07o}\0").into_bytes();
    let mut fields: [(usize, Vec<u8>); 14] = [
        (100, name.as_bytes().to_vec()),
        (8, small(MODE)),
        (8, small(0)),
        (8, small(0)),
        (12, number(length)),
        (12, number(seconds.min(MAX_FILE_BYTES))),
        // The sum of the header is made with blanks in its own place.
        (8, vec![b' '; 8]),
        (1, b"0".to_vec()),
        (100, Vec::new()),
        (8, b"ustar\x0000".to_vec()),
        (64, Vec::new()),
        (16, Vec::new()),
        (155, folder.as_bytes().to_vec()),
        (12, Vec::new()),
    ];
    let sum: u64 = fields
        .iter()
        .flat_map(|(_, bytes)| bytes)
        .map(|byte| u64::from(*byte))
        .sum();
    if let Some((_, place)) = fields.get_mut(6) {
        *place = format!("{sum:06o}\0 ").into_bytes();
    }
    let mut header = [0; BLOCK_BYTES];
    let mut rest = &mut header[..];
    for (width, bytes) in fields {
        let (field, after) = rest
            .split_at_mut_checked(width)
            .expect("the widths add up to a block");
        field
            .get_mut(..bytes.len())
            .ok_or_else(|| TarError::Name(format!("{folder}/{name}")))?
            .copy_from_slice(&bytes);
        rest = after;
    }
    Ok(header)
}

/// What fills a file of `length` bytes up to whole blocks.
pub(super) fn padding(length: usize) -> &'static [u8] {
    const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    let missing = length.next_multiple_of(BLOCK_BYTES) - length;
    ZEROS.get(..missing).unwrap_or_default()
}

/// What stands at the end of an archive.
pub(super) const END: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn tar_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let long = "f".repeat(155);
        let files = [
            ("prod/logger", "2026-01-31T08:00:00Z_7.pb.gz", 0),
            ("x", "one", 511),
            ("x", "two", 512),
            (&long, "three", 1_537),
        ];
        let mut archive = Vec::new();
        for (place, name, length) in files {
            let time = UnixNanos::new(1_780_000_000_000_000_000);
            archive.extend(header(place, name, length, time).unwrap());
            archive.extend(vec![7; length]);
            archive.extend(padding(length));
        }
        archive.extend(END);
        std::fs::write(&path, &archive).unwrap();
        let output = Command::new("tar")
            .args(["--extract", "--directory"])
            .arg(folder.path())
            .arg("--file")
            .arg(&path)
            .output()
            .expect("cannot run tar; type: apt-get install -y tar");
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        for (place, name, length) in files {
            let file = folder.path().join(place).join(name);
            assert_eq!(std::fs::read(file).unwrap(), vec![7; length], "{name}");
        }
    }

    #[test]
    fn what_a_header_cannot_hold_is_refused() {
        let time = UnixNanos::default();
        for (folder, name) in [(156, 1), (1, 101)] {
            let (folder, name) = ("a".repeat(folder), "b".repeat(name));
            let refused = header(&folder, &name, 1, time).unwrap_err();
            assert!(matches!(refused, TarError::Name(_)), "{refused}");
        }
        let large = usize::try_from(MAX_FILE_BYTES).unwrap() + 1;
        let refused = header("a", "b", large, time).unwrap_err();
        assert_eq!(refused, TarError::Size(MAX_FILE_BYTES + 1));
    }
}
