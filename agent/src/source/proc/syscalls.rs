//! Names of the system calls that a thread may be found in, by their numbers on
//! this machine. Those that never wait are not all there.

/// Name of system call `number`.
pub(super) fn name(number: i64) -> Option<&'static str> {
    NAMES
        .iter()
        .find(|(known, _)| *known == number)
        .map(|(_, name)| *name)
}

macro_rules! named {
    ($($(#[$condition:meta])* $constant:ident $name:literal,)*) => {
        &[$($(#[$condition])* (number(libc::$constant), $name),)*]
    };
}

/// The numbers are `long` in C, which has 64 bits wherever the agent runs.
#[allow(clippy::unnecessary_cast, reason = "the type differs between machines")]
const fn number(constant: libc::c_long) -> i64 {
    constant as i64
}

/// Those found most often come first.
const NAMES: &[(i64, &str)] = named! {
    SYS_futex "futex",
    #[cfg(target_arch = "x86_64")]
    SYS_epoll_wait "epoll_wait",
    SYS_epoll_pwait "epoll_pwait",
    SYS_epoll_pwait2 "epoll_pwait2",
    #[cfg(target_arch = "x86_64")]
    SYS_poll "poll",
    SYS_ppoll "ppoll",
    #[cfg(target_arch = "x86_64")]
    SYS_select "select",
    SYS_pselect6 "pselect6",
    SYS_nanosleep "nanosleep",
    SYS_clock_nanosleep "clock_nanosleep",
    SYS_restart_syscall "restart_syscall",
    SYS_read "read",
    SYS_write "write",
    SYS_readv "readv",
    SYS_writev "writev",
    SYS_pread64 "pread64",
    SYS_pwrite64 "pwrite64",
    SYS_preadv "preadv",
    SYS_pwritev "pwritev",
    SYS_preadv2 "preadv2",
    SYS_pwritev2 "pwritev2",
    SYS_recvfrom "recvfrom",
    SYS_recvmsg "recvmsg",
    SYS_recvmmsg "recvmmsg",
    SYS_sendto "sendto",
    SYS_sendmsg "sendmsg",
    SYS_sendmmsg "sendmmsg",
    SYS_accept "accept",
    SYS_accept4 "accept4",
    SYS_connect "connect",
    SYS_fsync "fsync",
    SYS_fdatasync "fdatasync",
    SYS_sync_file_range "sync_file_range",
    SYS_sync "sync",
    SYS_syncfs "syncfs",
    SYS_msync "msync",
    SYS_wait4 "wait4",
    SYS_waitid "waitid",
    #[cfg(target_arch = "x86_64")]
    SYS_pause "pause",
    SYS_rt_sigsuspend "rt_sigsuspend",
    SYS_rt_sigtimedwait "rt_sigtimedwait",
    SYS_io_uring_enter "io_uring_enter",
    SYS_io_getevents "io_getevents",
    SYS_io_submit "io_submit",
    SYS_io_destroy "io_destroy",
    SYS_futex_waitv "futex_waitv",
    #[cfg(target_arch = "x86_64")]
    SYS_open "open",
    SYS_openat "openat",
    SYS_openat2 "openat2",
    SYS_close "close",
    #[cfg(target_arch = "x86_64")]
    SYS_stat "stat",
    #[cfg(target_arch = "x86_64")]
    SYS_lstat "lstat",
    SYS_fstat "fstat",
    SYS_newfstatat "newfstatat",
    SYS_statx "statx",
    SYS_getdents64 "getdents64",
    SYS_ftruncate "ftruncate",
    SYS_fallocate "fallocate",
    #[cfg(target_arch = "x86_64")]
    SYS_rename "rename",
    SYS_renameat2 "renameat2",
    #[cfg(target_arch = "x86_64")]
    SYS_unlink "unlink",
    SYS_unlinkat "unlinkat",
    SYS_flock "flock",
    SYS_fcntl "fcntl",
    SYS_ioctl "ioctl",
    SYS_splice "splice",
    SYS_tee "tee",
    SYS_vmsplice "vmsplice",
    SYS_sendfile "sendfile",
    SYS_copy_file_range "copy_file_range",
    SYS_mmap "mmap",
    SYS_munmap "munmap",
    SYS_mprotect "mprotect",
    SYS_mremap "mremap",
    SYS_madvise "madvise",
    SYS_membarrier "membarrier",
    SYS_userfaultfd "userfaultfd",
    SYS_sched_yield "sched_yield",
    SYS_semop "semop",
    SYS_semtimedop "semtimedop",
    SYS_msgsnd "msgsnd",
    SYS_msgrcv "msgrcv",
    SYS_mq_timedsend "mq_timedsend",
    SYS_mq_timedreceive "mq_timedreceive",
    #[cfg(target_arch = "x86_64")]
    SYS_fork "fork",
    #[cfg(target_arch = "x86_64")]
    SYS_vfork "vfork",
    SYS_clone "clone",
    SYS_clone3 "clone3",
    SYS_execve "execve",
    SYS_exit "exit",
    SYS_exit_group "exit_group",
    SYS_ptrace "ptrace",
    SYS_process_vm_readv "process_vm_readv",
    SYS_getrandom "getrandom",
    SYS_finit_module "finit_module",
    SYS_perf_event_open "perf_event_open",
    SYS_bpf "bpf",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_one_name() {
        for (index, (number, call)) in NAMES.iter().enumerate() {
            assert_eq!(name(*number), Some(*call));
            assert!(!NAMES[..index].iter().any(|(_, other)| other == call));
        }
        assert_eq!(name(libc::SYS_futex), Some("futex"));
        assert_eq!(name(-1), None);
        assert_eq!(name(i64::MAX), None);
    }
}
