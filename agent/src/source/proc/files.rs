//! Reading the files of threads: some stay open, which makes a read five times
//! cheaper; the rest are opened each time.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Most files that one sampler keeps open.
const MAX_OPEN: usize = 512;
/// Of the files that this process may have open, the part that a sampler keeps.
const SHARE: u64 = 8;
/// Most threads of a process that are told apart.
const MAX_THREADS: usize = 16 * 1024;
/// Longest part of a file that is read. Of `stat` that is as far as the times:
/// a name of 64 bytes and fifteen fields of up to 20.
pub(super) const READ_BYTES: usize = 512;

/// How many files a sampler may keep open.
#[derive(Debug)]
pub(super) struct Files {
    /// Each file that is open holds one of these.
    count: Arc<()>,
    most: usize,
}

/// A file of a thread; the thread may end at any time.
#[derive(Debug, Default)]
pub(super) struct Kept(Option<(File, Arc<()>)>);

/// What was read.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: [u8; READ_BYTES],
}

impl Files {
    /// Returns what this process may afford.
    pub(super) fn new() -> Self {
        use rustix::process::{Resource, getrlimit};
        crate::source::perf::raise_descriptor_limit();
        let limit = getrlimit(Resource::Nofile).current;
        let share = limit.map_or(MAX_OPEN, |limit| {
            usize::try_from(limit / SHARE).unwrap_or(MAX_OPEN)
        });
        Self::at_most(share.min(MAX_OPEN))
    }

    fn at_most(most: usize) -> Self {
        Self {
            count: Arc::new(()),
            most,
        }
    }

    /// Files that are kept open.
    fn open_count(&self) -> usize {
        Arc::strong_count(&self.count).saturating_sub(1)
    }
}

impl Buffer {
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; READ_BYTES],
        }
    }

    fn filled(&self, length: usize) -> &[u8] {
        self.bytes.get(..length).unwrap_or_default()
    }

    /// Reads the beginning of the file at `path`.
    ///
    /// # Errors
    ///
    /// If it is not there, may not be read, or its thread is gone.
    pub(super) fn read_once(&mut self, path: &str) -> io::Result<&[u8]> {
        let length = File::open(path)?.read(&mut self.bytes)?;
        Ok(self.filled(length))
    }

    /// Reads the beginning of the file at `path`, which `kept` holds open as
    /// long as `files` allows.
    ///
    /// # Errors
    ///
    /// If it is not there, may not be read, or its thread is gone.
    pub(super) fn read_kept(
        &mut self,
        path: impl FnOnce() -> String,
        kept: &mut Kept,
        files: &Files,
    ) -> io::Result<&[u8]> {
        if kept.0.is_none() {
            let file = File::open(path())?;
            if files.open_count() >= files.most {
                let length = file.read_at(&mut self.bytes, 0)?;
                return Ok(self.filled(length));
            }
            kept.0 = Some((file, Arc::clone(&files.count)));
        }
        let Some((file, _)) = &kept.0 else {
            return Ok(&[]);
        };
        let length = file.read_at(&mut self.bytes, 0)?;
        Ok(self.filled(length))
    }
}

/// Ids of the threads of process `pid`, at most [`MAX_THREADS`].
///
/// # Errors
///
/// If the process is gone.
pub(super) fn threads(pid: i32) -> io::Result<Vec<i32>> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))?.take(MAX_THREADS) {
        // One that ends meanwhile ends no listing.
        let Ok(entry) = entry else {
            break;
        };
        let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
        ids.extend(id.filter(|id: &i32| *id > 0));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    #[test]
    fn no_more_files_stay_open_than_may() {
        let files = Files::at_most(2);
        let mut buffer = Buffer::new();
        let path = || format!("/proc/{}/stat", own());
        let mut kept: Vec<Kept> = (0..4).map(|_| Kept::default()).collect();
        for round in 0..3 {
            for file in &mut kept {
                let read = buffer.read_kept(path, file, &files).unwrap();
                assert!(read.starts_with(own().to_string().as_bytes()), "{round}");
            }
            assert_eq!(files.open_count(), 2);
        }
        kept.truncate(1);
        assert_eq!(files.open_count(), 1);
        assert!(Files::new().most > 0);
    }

    #[test]
    fn a_process_that_dies_between_reads_is_an_error() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let path = || format!("/proc/{pid}/task/{pid}/schedstat");
        let files = Files::at_most(1);
        let (mut open, mut closed) = (Kept::default(), Kept::default());
        let mut buffer = Buffer::new();
        assert_eq!(threads(pid).unwrap(), [pid]);
        assert!(buffer.read_kept(path, &mut open, &files).is_ok());
        assert!(buffer.read_kept(path, &mut closed, &files).is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(buffer.read_kept(path, &mut open, &files).is_err());
        assert!(buffer.read_kept(path, &mut closed, &files).is_err());
        assert!(threads(pid).is_err());
    }
}
