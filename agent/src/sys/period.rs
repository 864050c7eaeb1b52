//! Changes how often an open perf event samples.
#![expect(
    unsafe_code,
    reason = "the library's wrapper takes the pointer as a number"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use perf_event_open_sys::ioctls;

/// Lets `event` take a sample each `period_ns` from now on. What was counted
/// towards its next sample is forgotten; events that others inherited from it
/// go on as before, those that are inherited later follow it.
///
/// # Errors
///
/// `EINVAL` for a period of zero, or of more than 2^63.
pub(crate) fn set_period(event: BorrowedFd<'_>, period_ns: u64) -> io::Result<()> {
    let place: *const u64 = &raw const period_ns;
    // SAFETY: the descriptor is open while borrowed, and the kernel reads one
    // number at `place`, which lives until the call returns.
    let status = unsafe { ioctls::PERIOD(event.as_raw_fd(), place.expose_provenance() as u64) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
