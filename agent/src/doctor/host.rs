//! What the kernel says of this agent and of its target, and the line that
//! changes what it refuses. Judging is pure; the rules are those of `man 2
//! perf_event_open` and `man 2 ptrace` ("Ptrace access mode checking"), and of
//! containerd's seccomp filter, which looks at the bounding set.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// Numbers of capabilities, from linux/capability.h.
pub(super) const CAP_SYS_PTRACE: u32 = 19;
pub(super) const CAP_SYS_ADMIN: u32 = 21;
pub(super) const CAP_PERFMON: u32 = 38;
/// Filter mode of `Seccomp:` in `/proc/PID/status`.
pub(super) const SECCOMP_FILTER: u64 = 2;
/// Highest `perf_event_paranoid` that lets an unprivileged user sample, and
/// sample the kernel.
const MAX_PARANOID: i64 = 2;
const MAX_PARANOID_FOR_KERNEL: i64 = 1;
/// Least locked memory per CPU that a sampler can do with, in KiB.
const MIN_MLOCK_KIB: i64 = 64;

/// What the kernel says of this agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) uid: u64,
    pub(super) capabilities: u64,
    pub(super) bounding: u64,
    pub(super) seccomp: u64,
    pub(super) paranoid: Option<i64>,
    pub(super) mlock_kib: Option<i64>,
    /// `kernel.yama.ptrace_scope`, where there is one.
    pub(super) yama: Option<i64>,
}

/// What decides who may look at a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Guard {
    pub(super) uid: u64,
    /// Permitted ones.
    pub(super) capabilities: u64,
    /// Whether the kernel hides it from its own user: its program has file
    /// capabilities, changed its user, or asked for it.
    pub(super) is_hidden: bool,
}

/// A field of `/proc/PID/status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map_or("", str::trim)
}

fn hexadecimal(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap_or(0)
}

fn effective_uid(status: &str) -> u64 {
    let mut ids = field(status, "Uid").split_whitespace();
    ids.nth(1).and_then(|id| id.parse().ok()).unwrap_or(0)
}

fn kernel_number(name: &str) -> Option<i64> {
    let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
    text.trim().parse().ok()
}

fn has(set: u64, capability: u32) -> bool {
    set >> capability & 1 == 1
}

impl Guard {
    /// Looks at process `pid`.
    pub(super) fn read(pid: i32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let uid = effective_uid(&status);
        // The kernel gives the files of such a process to root.
        let owner = fs::metadata(format!("/proc/{pid}/maps")).map(|file| file.uid());
        Self {
            uid,
            capabilities: hexadecimal(field(&status, "CapPrm")),
            is_hidden: owner.is_ok_and(|owner| u64::from(owner) != uid),
        }
    }
}

impl Host {
    pub(super) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            paranoid: kernel_number("perf_event_paranoid"),
            mlock_kib: kernel_number("perf_event_mlock_kb"),
            yama: kernel_number("yama/ptrace_scope"),
            ..Self::parse(&status)
        }
    }

    pub(super) fn parse(status: &str) -> Self {
        Self {
            uid: effective_uid(status),
            capabilities: hexadecimal(field(status, "CapEff")),
            bounding: hexadecimal(field(status, "CapBnd")),
            seccomp: field(status, "Seccomp").parse().unwrap_or(0),
            paranoid: None,
            mlock_kib: None,
            yama: None,
        }
    }

    pub(super) fn may_trace(&self) -> bool {
        has(self.capabilities, CAP_SYS_PTRACE)
    }

    pub(super) fn may_monitor(&self) -> bool {
        has(self.capabilities, CAP_PERFMON) || has(self.capabilities, CAP_SYS_ADMIN)
    }

    /// Whether containerd's filter lets perf events through.
    fn passes_seccomp(&self) -> bool {
        self.seccomp != SECCOMP_FILTER || has(self.bounding, CAP_PERFMON) || self.may_monitor()
    }

    /// Which of the documented levels of privilege this is.
    pub(super) fn level(&self) -> &'static str {
        let opens = self.may_monitor() || has(self.bounding, CAP_PERFMON);
        match (opens && self.passes_seccomp(), self.may_trace()) {
            (true, true) => "C: PERFMON and SYS_PTRACE, any user's processes",
            (true, false) => "B: PERFMON, processes of the same user",
            (false, true) => "A with SYS_PTRACE: no perf events where a filter refuses them",
            (false, false) => "A: no capability, processes of the same user",
        }
    }

    /// Whether time within system calls is sampled, given that perf events are.
    pub(super) fn may_sample_kernel(&self) -> bool {
        let is_lax = |level| level <= MAX_PARANOID_FOR_KERNEL;
        self.may_monitor() || self.paranoid.is_some_and(is_lax)
    }

    /// Whether the rings find room.
    pub(super) fn may_lock_enough(&self) -> bool {
        self.mlock_kib.unwrap_or(0) >= MIN_MLOCK_KIB || self.may_monitor()
    }

    /// The line that lets perf events sample such a process.
    pub(super) fn perf_fix(&self, target: &Guard) -> String {
        if !self.passes_seccomp() {
            return "securityContext.capabilities.add: [\"PERFMON\"] for the agent opens the \
                    seccomp filter"
                .to_owned();
        }
        if !self.may_monitor() && self.paranoid.is_some_and(|level| level > MAX_PARANOID) {
            return "sysctl -w kernel.perf_event_paranoid=2 on the node, or securityContext.\
                    runAsUser: 0 and capabilities.add: [\"PERFMON\", \"SYS_PTRACE\"] for the agent"
                .to_owned();
        }
        if !self.may_monitor()
            && let Some(fix) = self.access_fix(target)
        {
            return fix;
        }
        "lower the sampler's needs: fewer agents of one user per node, or add capability PERFMON"
            .to_owned()
    }

    /// The line that lets the agent read memory and system calls of such a
    /// process.
    pub(super) fn memory_fix(&self, target: &Guard) -> String {
        match self.yama {
            Some(3..) => {
                return "kernel.yama.ptrace_scope is 3 until the machine is started again: nobody \
                        may read memory of others"
                    .to_owned();
            }
            Some(1..=2) if !self.may_trace() => {
                return "sysctl -w kernel.yama.ptrace_scope=0 on the node, or securityContext.\
                        runAsUser: 0 and capabilities.add: [\"SYS_PTRACE\"] for the agent"
                    .to_owned();
            }
            _ => {}
        }
        if self.may_trace() && self.uid != target.uid {
            return format!(
                "securityContext.runAsUser: {} for the agent: only its owner may open that file",
                target.uid
            );
        }
        self.access_fix(target).unwrap_or_else(|| {
            "run the agent in the target's user namespace (hostUsers in the pod's spec)".to_owned()
        })
    }

    /// The line that lets the agent look at such a process; nothing where users
    /// and capabilities are not in the way.
    fn access_fix(&self, target: &Guard) -> Option<String> {
        if self.may_trace() {
            return None;
        }
        let any = "securityContext.runAsUser: 0 and capabilities.add: [\"PERFMON\", \
                   \"SYS_PTRACE\"] for the agent";
        if self.uid != target.uid {
            return Some(format!(
                "securityContext.runAsUser: {} for the agent (the target's user), or {any}",
                target.uid
            ));
        }
        if target.capabilities & !self.capabilities != 0 {
            return Some(format!(
                "securityContext.capabilities.drop: [\"ALL\"] for the target, which has \
                 capabilities that the agent has not, or {any}"
            ));
        }
        target.is_hidden.then(|| {
            format!(
                "the target is not dumpable: start its program without file capabilities \
                 (setcap -r FILE) and without a change of user, or {any}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    const SANDBOXED: Host = Host {
        uid: 1000,
        capabilities: 0,
        bounding: 0,
        seccomp: SECCOMP_FILTER,
        paranoid: Some(2),
        mlock_kib: Some(516),
        yama: None,
    };
    const UNFILTERED: Host = Host {
        seccomp: 0,
        ..SANDBOXED
    };
    const PLAIN: Guard = Guard {
        uid: 1000,
        capabilities: 0,
        is_hidden: false,
    };
    const HIDDEN: Guard = Guard {
        is_hidden: true,
        ..PLAIN
    };
    const CAPABLE: Guard = Guard {
        capabilities: 1 << 10,
        ..PLAIN
    };
    const OTHERS: Guard = Guard { uid: 2000, ..PLAIN };

    fn check(rows: &[(&str, Host, Guard)], fix: fn(&Host, &Guard) -> String, expected: Expect) {
        let mut text = String::new();
        for (what, host, target) in rows {
            text.push_str(&format!("{what}: {}\n", fix(host, target)));
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn each_obstacle_to_perf_events_has_its_own_line() {
        let opened = Host {
            bounding: 1 << CAP_PERFMON,
            ..SANDBOXED
        };
        let strict = Host {
            paranoid: Some(4),
            ..opened.clone()
        };
        let privileged = Host {
            uid: 0,
            capabilities: 1 << CAP_PERFMON | 1 << CAP_SYS_PTRACE,
            paranoid: Some(4),
            ..SANDBOXED
        };
        check(
            &[
                ("filtered", SANDBOXED, PLAIN),
                ("paranoid", strict, PLAIN),
                ("another user", opened.clone(), OTHERS),
                ("capabilities", opened.clone(), CAPABLE),
                ("not dumpable", UNFILTERED, HIDDEN),
                ("nothing in the way", opened, PLAIN),
                ("privileged", privileged, OTHERS),
            ],
            Host::perf_fix,
            expect![[r#"
                filtered: securityContext.capabilities.add: ["PERFMON"] for the agent opens the seccomp filter
                paranoid: sysctl -w kernel.perf_event_paranoid=2 on the node, or securityContext.runAsUser: 0 and capabilities.add: ["PERFMON", "SYS_PTRACE"] for the agent
                another user: securityContext.runAsUser: 2000 for the agent (the target's user), or securityContext.runAsUser: 0 and capabilities.add: ["PERFMON", "SYS_PTRACE"] for the agent
                capabilities: securityContext.capabilities.drop: ["ALL"] for the target, which has capabilities that the agent has not, or securityContext.runAsUser: 0 and capabilities.add: ["PERFMON", "SYS_PTRACE"] for the agent
                not dumpable: the target is not dumpable: start its program without file capabilities (setcap -r FILE) and without a change of user, or securityContext.runAsUser: 0 and capabilities.add: ["PERFMON", "SYS_PTRACE"] for the agent
                nothing in the way: lower the sampler's needs: fewer agents of one user per node, or add capability PERFMON
                privileged: lower the sampler's needs: fewer agents of one user per node, or add capability PERFMON
            "#]],
        );
    }

    #[test]
    fn each_obstacle_to_memory_has_its_own_line() {
        let yama = |scope| Host {
            yama: Some(scope),
            ..SANDBOXED
        };
        let tracer = Host {
            capabilities: 1 << CAP_SYS_PTRACE,
            ..yama(1)
        };
        check(
            &[
                ("another user", SANDBOXED, OTHERS),
                ("capabilities", SANDBOXED, CAPABLE),
                ("not dumpable", yama(0), HIDDEN),
                ("Yama", yama(1), PLAIN),
                ("Yama for good", yama(3), PLAIN),
                ("traced", tracer, OTHERS),
            ],
            Host::memory_fix,
            expect![[r#"
                another user: securityContext.runAsUser: 2000 for the agent (the target's user), or securityContext.runAsUser: 0 and capabilities.add: ["PERFMON", "SYS_PTRACE"] for the agent
                capabilities: securityContext.capabilities.drop: ["ALL"] for the target, which has capabilities that the agent has not, or securityContext.runAsUser: 0 and capabilities.add: ["PERFMON", "SYS_PTRACE"] for the agent
                not dumpable: the target is not dumpable: start its program without file capabilities (setcap -r FILE) and without a change of user, or securityContext.runAsUser: 0 and capabilities.add: ["PERFMON", "SYS_PTRACE"] for the agent
                Yama: sysctl -w kernel.yama.ptrace_scope=0 on the node, or securityContext.runAsUser: 0 and capabilities.add: ["SYS_PTRACE"] for the agent
                Yama for good: kernel.yama.ptrace_scope is 3 until the machine is started again: nobody may read memory of others
                traced: securityContext.runAsUser: 2000 for the agent: only its owner may open that file
            "#]],
        );
    }

    #[test]
    fn the_level_is_told_by_what_the_kernel_and_the_filter_grant() {
        let perfmon = 1 << CAP_PERFMON;
        let both = perfmon | 1 << CAP_SYS_PTRACE;
        for (capabilities, bounding, expected) in [
            (0, 0, "A:"),
            (0, perfmon, "B:"),
            (perfmon, perfmon, "B:"),
            (both, both, "C:"),
            (1 << CAP_SYS_PTRACE, 0, "A with SYS_PTRACE:"),
        ] {
            let host = Host {
                capabilities,
                bounding,
                ..SANDBOXED
            };
            assert!(host.level().starts_with(expected), "{}", host.level());
        }
    }

    #[test]
    fn the_kernel_is_sampled_by_the_privileged_and_where_it_is_lax() {
        assert!(!UNFILTERED.may_sample_kernel());
        let lax = Host {
            paranoid: Some(1),
            ..SANDBOXED
        };
        assert!(lax.may_sample_kernel());
        let monitor = Host {
            capabilities: 1 << CAP_PERFMON,
            mlock_kib: Some(1),
            ..SANDBOXED
        };
        assert!(monitor.may_sample_kernel() && monitor.may_lock_enough());
        let tight = Host {
            mlock_kib: Some(1),
            ..SANDBOXED
        };
        assert!(SANDBOXED.may_lock_enough() && !tight.may_lock_enough());
    }

    #[test]
    fn the_status_file_is_read_by_name() {
        let status = "Name:\tagent\nUid:\t0\t1000\t0\t0\nCapEff:\t0000004000080000\nCapBnd:\tff\nSeccomp:\t2\n";
        let host = Host::parse(status);
        assert_eq!((host.uid, host.bounding, host.seccomp), (1000, 0xff, 2));
        assert!(host.may_monitor() && host.may_trace());
        assert_eq!(Host::parse("garbage"), Host::default());
    }

    #[test]
    fn the_own_process_is_not_hidden_from_its_user() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (guard, host) = (Guard::read(own), Host::read());
        assert_eq!((guard.uid, guard.is_hidden), (host.uid, false));
    }
}
