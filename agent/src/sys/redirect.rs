//! Lets several perf events write into one ring.
#![expect(unsafe_code, reason = "an ioctl without a safe wrapper in any library")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use perf_event_open_sys::ioctls;

/// Makes `event` write its records into the ring of `owner`.
///
/// # Errors
///
/// `EINVAL` if the two are not of the same CPU or the owner has no ring.
pub(crate) fn set_output(event: BorrowedFd<'_>, owner: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open while borrowed, and this ioctl takes
    // the second as a number, not as a pointer.
    let status = unsafe { ioctls::SET_OUTPUT(event.as_raw_fd(), owner.as_raw_fd()) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Borrows the descriptor of `event`, which the library gives as a number.
pub(crate) fn descriptor(event: &perf_event::Counter) -> BorrowedFd<'_> {
    // SAFETY: the counter owns the descriptor and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
