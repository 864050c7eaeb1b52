//! Why the kernel does not let us read a process's memory, and the line that
//! changes it. Judging is pure.
//!
//! Reading takes what attaching a debugger takes (`man 2 ptrace`, "Ptrace
//! access mode checking"), though nothing is attached.

use std::io;

use crate::sys::peek::may_read_memory;

const CAP_SYS_PTRACE: u32 = 19;

/// What decides whether one process may read another's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Circumstances {
    own_uid: Option<u32>,
    target_uid: Option<u32>,
    /// Whether we have `SYS_PTRACE`.
    may_trace: bool,
    /// `kernel.yama.ptrace_scope`, where there is one.
    yama: Option<i32>,
}

/// Asks whether the memory of process `pid` may be read.
///
/// # Errors
///
/// The kernel's refusal, or that the process is gone.
pub(super) fn check(pid: i32) -> io::Result<()> {
    may_read_memory(pid)
}

/// What to change so that the memory of process `pid` may be read.
pub(super) fn advice(pid: i32) -> String {
    let own = status("self");
    let capabilities = own
        .as_deref()
        .and_then(|text| u64::from_str_radix(fields(text, "CapEff:").next()?, 16).ok())
        .unwrap_or(0);
    let circumstances = Circumstances {
        own_uid: own.as_deref().and_then(effective_uid),
        target_uid: status(&pid.to_string()).as_deref().and_then(effective_uid),
        may_trace: capabilities >> CAP_SYS_PTRACE & 1 == 1,
        yama: std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope")
            .ok()
            .and_then(|text| text.trim().parse().ok()),
    };
    circumstances.advice()
}

impl Circumstances {
    fn advice(&self) -> String {
        match self.yama {
            Some(3..) => {
                return "kernel.yama.ptrace_scope is 3: nobody may read memory of others until \
                        the machine is started again"
                    .to_owned();
            }
            Some(scope @ 1..=2) if !self.may_trace => {
                return format!(
                    "kernel.yama.ptrace_scope is {scope}: add the capability SYS_PTRACE to the \
                     agent (`securityContext.capabilities.add: [SYS_PTRACE]`), or type \
                     `sysctl -w kernel.yama.ptrace_scope=0` on the machine"
                );
            }
            _ => {}
        }
        if let (Some(own), Some(target)) = (self.own_uid, self.target_uid)
            && own != target
            && !self.may_trace
        {
            return format!(
                "the agent runs as uid {own}, the target as uid {target}: run the agent with \
                 `runAsUser: {target}`, or add the capability SYS_PTRACE"
            );
        }
        "the target has capabilities that the agent lacks, is not dumpable, or is of another user \
         namespace: add the capability SYS_PTRACE to the agent, or drop those of the target"
            .to_owned()
    }
}

fn status(process: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{process}/status")).ok()
}

fn fields<'a>(status: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().split_whitespace()
}

fn effective_uid(status: &str) -> Option<u32> {
    fields(status, "Uid:").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_fits_the_circumstances() {
        let plain = Circumstances {
            own_uid: Some(1000),
            target_uid: Some(1000),
            ..Circumstances::default()
        };
        let with = |change: fn(&mut Circumstances)| {
            let mut changed = plain;
            change(&mut changed);
            changed
        };
        for (circumstances, expected) in [
            (with(|c| c.target_uid = Some(7)), "runAsUser: 7"),
            (
                with(|c| c.yama = Some(1)),
                "sysctl -w kernel.yama.ptrace_scope=0",
            ),
            (with(|c| c.yama = Some(3)), "started again"),
            (
                with(|c| {
                    c.may_trace = true;
                    c.yama = Some(1);
                    c.target_uid = Some(7);
                }),
                "user namespace",
            ),
            (with(|c| c.yama = Some(0)), "not dumpable"),
        ] {
            let advice = circumstances.advice();
            assert!(advice.contains(expected), "{circumstances:?}: {advice}");
        }
    }

    #[test]
    fn a_child_s_memory_may_be_read_until_it_is_gone() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        check(pid).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(check(pid).is_err());
    }
}
