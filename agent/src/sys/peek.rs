//! Asks whether the memory of another process may be read.
#![expect(
    unsafe_code,
    reason = "reading memory of others has no safe wrapper in any library"
)]

use std::io;

/// An address that nothing is ever mapped at (`vm.mmap_min_addr`).
const NOWHERE: usize = 8;

/// Asks whether the memory of process `pid` may be read; reads nothing.
///
/// Opening `/proc/PID/mem` asks for more: that file is its owner's, whatever
/// capabilities of tracing others have.
///
/// # Errors
///
/// `PermissionDenied` if it may not, `NotFound` if there is no such process.
pub(crate) fn may_read_memory(pid: i32) -> io::Result<()> {
    let mut byte = 0u8;
    let here = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let there = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(NOWHERE),
        iov_len: 1,
    };
    // SAFETY: `here` names one byte that outlives the call; the kernel checks
    // what is read of the other process.
    let read = unsafe { libc::process_vm_readv(pid, &raw const here, 1, &raw const there, 1, 0) };
    if read >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Permitted, and nothing is there.
        Some(libc::EFAULT) => Ok(()),
        Some(libc::ESRCH) => Err(io::ErrorKind::NotFound.into()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_gone_has_no_memory() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        may_read_memory(pid).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let error = may_read_memory(pid).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
