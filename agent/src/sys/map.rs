//! Maps files into memory for reading.
//!
//! Leaves to others: whether the file is worth mapping. A file that is cut
//! short while mapped kills its reader; programs and libraries in use are
//! replaced by renaming, so only executable mappings of processes come here.
#![expect(
    unsafe_code,
    reason = "a mapped file can change under the slice that shows it"
)]

use std::fs::File;
use std::io;

/// A file's content at the moment it was mapped.
#[derive(Debug)]
pub(crate) struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps the whole of `file`.
    ///
    /// # Errors
    ///
    /// What `mmap` says; an empty file maps to no bytes.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is private and only read. Every reader of it
        // checks what it reads, so bytes that change meanwhile give wrong
        // symbols at worst.
        unsafe { memmap2::Mmap::map(file) }.map(Self)
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
