//! Why the kernel refuses perf events, and the line that changes it.

use std::io;

const CAP_PERFMON: u32 = 38;
const CAP_SYS_ADMIN: u32 = 21;

/// What decides whether one process may sample another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Circumstances {
    /// `kernel.perf_event_paranoid`, if it can be read.
    paranoid: Option<i32>,
    /// Whether we have `PERFMON` or `SYS_ADMIN`.
    privileged: bool,
    /// Whether a seccomp filter holds us.
    filtered: bool,
    own_uid: Option<u32>,
    target_uid: Option<u32>,
}

impl Circumstances {
    /// Looks at the machine, ourselves and process `pid`.
    pub(super) fn of(pid: i32) -> Self {
        let own = status("self");
        let capabilities = own
            .as_deref()
            .and_then(|text| field(text, "CapEff:"))
            .and_then(|text| u64::from_str_radix(text, 16).ok())
            .unwrap_or(0);
        let has = |capability: u32| capabilities >> capability & 1 == 1;
        Self {
            paranoid: std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid")
                .ok()
                .and_then(|text| text.trim().parse().ok()),
            privileged: has(CAP_PERFMON) || has(CAP_SYS_ADMIN),
            filtered: own.as_deref().and_then(|text| field(text, "Seccomp:")) == Some("2"),
            own_uid: own.as_deref().and_then(uid),
            target_uid: status(&pid.to_string()).as_deref().and_then(uid),
        }
    }

    /// What to do about a refusal with `error`.
    pub(super) fn advice(&self, error: &io::Error) -> String {
        let refused = error.raw_os_error();
        if refused == Some(libc::ENOSYS) {
            return "this kernel has no perf events (CONFIG_PERF_EVENTS): use the source \
                    `endpoint`"
                .to_owned();
        }
        if refused == Some(libc::EPERM) && self.filtered && !self.privileged {
            return "a seccomp filter refuses perf_event_open: add the capability PERFMON \
                    (`securityContext.capabilities.add: [PERFMON]`) or run with \
                    `seccompProfile.type: Unconfined`"
                .to_owned();
        }
        if let Some(paranoid) = self.paranoid
            && paranoid > 2
            && !self.privileged
        {
            return format!(
                "kernel.perf_event_paranoid is {paranoid}: type \
                 `sysctl -w kernel.perf_event_paranoid=2` on the machine, or add the capability \
                 PERFMON"
            );
        }
        if let (Some(own), Some(target)) = (self.own_uid, self.target_uid)
            && own != target
        {
            return format!(
                "the agent runs as uid {own}, the target as uid {target}: run the agent with \
                 `runAsUser: {target}`, or add the capabilities PERFMON and SYS_PTRACE"
            );
        }
        "the target has capabilities that the agent lacks, or is not dumpable: add the capability \
         SYS_PTRACE, or drop those of the target"
            .to_owned()
    }
}

fn status(process: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{process}/status")).ok()
}

/// The first word after `name` in a status file.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace()
        .next()
}

fn uid(text: &str) -> Option<u32> {
    field(text, "Uid:")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_fits_the_circumstances() {
        let plain = Circumstances {
            paranoid: Some(2),
            own_uid: Some(1000),
            target_uid: Some(1000),
            ..Circumstances::default()
        };
        let with = |change: fn(&mut Circumstances)| {
            let mut changed = plain;
            change(&mut changed);
            changed
        };
        for (circumstances, errno, expected) in [
            (plain, libc::ENOSYS, "CONFIG_PERF_EVENTS"),
            (with(|c| c.filtered = true), libc::EPERM, "seccompProfile"),
            (
                with(|c| c.paranoid = Some(4)),
                libc::EACCES,
                "sysctl -w kernel.perf_event_paranoid=2",
            ),
            (
                with(|c| {
                    c.paranoid = Some(4);
                    c.privileged = true;
                    c.target_uid = Some(7);
                }),
                libc::EACCES,
                "runAsUser: 7",
            ),
            (plain, libc::EACCES, "SYS_PTRACE"),
        ] {
            let advice = circumstances.advice(&io::Error::from_raw_os_error(errno));
            assert!(advice.contains(expected), "{advice}");
        }
    }

    #[test]
    fn our_own_circumstances_can_be_read() {
        let own = Circumstances::of(i32::try_from(std::process::id()).unwrap());
        assert_eq!(own.own_uid, own.target_uid);
        assert!(own.own_uid.is_some());
    }
}
