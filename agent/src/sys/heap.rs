//! Gives memory that was freed back to the system.
#![expect(
    unsafe_code,
    reason = "the allocator's own call has no safe wrapper in any library"
)]

/// Gives freed memory back to the system where the C library can do that.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
