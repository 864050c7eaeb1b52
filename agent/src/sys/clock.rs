//! How much CPU time a process, or this thread, has used so far.
//!
//! One system call and exact to the nanosecond, where `/proc/PID/stat` takes
//! three and counts in hundredths of a second; no permission is needed for
//! either (`man 3 clock_getcpuclockid`).
#![expect(
    unsafe_code,
    reason = "clocks of other processes have no safe wrapper in any library"
)]

use std::io;
use std::time::Duration;

/// A clock that runs while something is on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// The clock of process `pid`, all its threads together, also ended ones.
    ///
    /// # Errors
    ///
    /// If there is no such process.
    pub(crate) fn of_process(pid: i32) -> io::Result<Self> {
        let mut id: libc::clockid_t = 0;
        // SAFETY: `id` is valid for the write and outlives the call.
        match unsafe { libc::clock_getcpuclockid(pid, &raw mut id) } {
            0 => Ok(Self(id)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// The clock of the thread that reads it.
    pub(crate) const fn of_this_thread() -> Self {
        Self(libc::CLOCK_THREAD_CPUTIME_ID)
    }

    /// Reads the clock.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub(crate) fn read(self) -> io::Result<Duration> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `time` is valid for the write and outlives the call.
        if unsafe { libc::clock_gettime(self.0, &raw mut time) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let seconds = u64::try_from(time.tv_sec).map_err(io::Error::other)?;
        let nanos = u32::try_from(time.tv_nsec).map_err(io::Error::other)?;
        Ok(Duration::new(seconds, nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_run_while_something_is_computed() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (process, thread) = (
            CpuClock::of_process(own).unwrap(),
            CpuClock::of_this_thread(),
        );
        let before = (process.read().unwrap(), thread.read().unwrap());
        let mut sum = 0u64;
        while thread.read().unwrap() < before.1 + Duration::from_millis(20) {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        assert!(process.read().unwrap() >= before.0 + Duration::from_millis(20));
    }

    #[test]
    fn a_process_that_is_gone_has_no_clock() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let clock = CpuClock::of_process(i32::try_from(child.id()).unwrap()).unwrap();
        child.wait().unwrap();
        assert!(clock.read().is_err());
    }
}
