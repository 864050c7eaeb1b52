//! Sleeps until a descriptor has something to say.
#![expect(unsafe_code, reason = "poll takes a pointer to an array")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// What `poll` says of one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Nothing yet.
    Quiet,
    /// There is something to read.
    Readable,
    /// Its other end is gone: it will say so for ever and must not be waited
    /// for again.
    Gone,
}

/// Waits until one of `descriptors` is not quiet, for at most `timeout`.
///
/// Returns one answer per descriptor, in order; all are quiet after the
/// timeout and after a signal. The timeout is rounded up to a millisecond.
///
/// # Errors
///
/// What `poll` says, apart from an interruption by a signal.
pub(crate) fn wait_readable(
    descriptors: &[BorrowedFd<'_>],
    timeout: Duration,
) -> io::Result<Vec<Readiness>> {
    let mut entries: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|descriptor| libc::pollfd {
            fd: descriptor.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let count = libc::nfds_t::try_from(entries.len()).map_err(io::Error::other)?;
    let millis = i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    // SAFETY: `entries` is an array of `count` entries that lives until the
    // call returns.
    let status = unsafe { libc::poll(entries.as_mut_ptr(), count, millis) };
    if status < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok(vec![Readiness::Quiet; descriptors.len()]);
    }
    Ok(entries
        .iter()
        .map(|entry| readiness(entry.revents))
        .collect())
}

fn readiness(events: libc::c_short) -> Readiness {
    if events & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0 {
        Readiness::Gone
    } else if events & libc::POLLIN != 0 {
        Readiness::Readable
    } else {
        Readiness::Quiet
    }
}
