//! `agent doctor`: what can be sampled here, what is missing, and the line
//! that fixes it. The same record goes to the collector when the agent starts,
//! so that "why is there no data" is answered there, too.
//!
//! Judging is pure (`Host` to [`Check`]s); reading is done once, up front.

use std::fmt::{self, Write as _};
use std::fs;

use serde::Serialize;

use crate::config::{BudgetConfig, Config, ConfigError, EndpointChoice, JvmMode, WallSource};
use crate::ship::CapabilityLine;
use crate::source::endpoint::{Client, TargetState, find_once};
use crate::source::jvm::{self, JvmError};
use crate::source::proc::Precision;
use crate::source::{perf, proc, python};
use crate::target::{Process, Selection, Tracker, cgroup};
use host::{Guard, Host};

mod host;

/// Most processes that are asked whether they are Python's, or Java's.
const MAX_ASKED: usize = 64;

/// One thing the agent would like to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Name, for example `perf_event_open`.
    pub name: &'static str,
    /// Whether it can.
    pub available: bool,
    /// What was seen.
    pub detail: String,
    /// What to change; empty when nothing needs to be.
    pub fix: String,
}

/// Everything that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Name of the target's oldest process; empty when there is none.
    #[serde(skip)]
    pub target_name: String,
    /// The checks, in the order of importance.
    pub checks: Vec<Check>,
}

/// Whether Python frames can be had of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Python {
    /// None of its processes runs CPython.
    #[default]
    None,
    /// Yes, of process `pid` and its like.
    Readable { pid: i32, version: String },
    /// Not of process `pid`.
    Refused {
        pid: i32,
        reason: String,
        advice: String,
    },
}

impl Python {
    /// Asks for the first of `processes` that runs CPython.
    fn read(processes: &[Process]) -> Self {
        use crate::source::python::PythonError;
        for pid in processes.iter().take(MAX_ASKED).map(|process| process.pid) {
            match python::probe(pid) {
                Ok(version) => return Self::Readable { pid, version },
                Err(PythonError::NotPython { .. } | PythonError::TargetGone { .. }) => {}
                // Whether it is Python cannot be told.
                Err(PythonError::NotPermitted { .. }) if !python::looks_like(pid) => {}
                Err(PythonError::NotPermitted { advice, source, .. }) => {
                    return Self::Refused {
                        pid,
                        reason: format!("its memory may not be read: {source}"),
                        advice,
                    };
                }
                Err(error @ PythonError::Read { .. }) => {
                    return Self::Refused {
                        pid,
                        reason: proto::status::chain(&error),
                        advice: "run the program with CPython 2.7 or 3.3 to 3.15".to_owned(),
                    };
                }
            }
        }
        Self::None
    }

    fn check(&self) -> Check {
        let (available, detail, fix) = match self {
            Self::None => (
                false,
                "no process of the target is known to run CPython".to_owned(),
                "",
            ),
            Self::Readable { pid, version } => (
                true,
                format!("pid {pid} runs CPython {version}: its functions and lines are shown"),
                "",
            ),
            Self::Refused {
                pid,
                reason,
                advice,
            } => (false, format!("pid {pid}: {reason}"), advice.as_str()),
        };
        check("python_frames", available, detail, fix)
    }
}

/// What `/proc` tells of the target's threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Threads {
    /// How finely their CPU time is counted; nothing if it cannot be read.
    precision: Option<Precision>,
    readable: proc::Readable,
}

impl Threads {
    fn read(pid: i32) -> Self {
        let readable = proc::probe(pid);
        Self {
            precision: match readable.states_refusal {
                None => Some(Precision::of(pid)),
                Some(_) => None,
            },
            readable,
        }
    }

    /// Whether CPU by thread, states, and system calls can be read.
    fn checks(&self, host: &Host, target: &Target, wall: WallSource) -> [Check; 3] {
        let hidden = "mount /proc for the agent without hidepid, or run it as the target's user";
        let cpu = match (self.precision, &self.readable.states_refusal) {
            (Some(precision), _) => format!(
                "cpu by thread, without functions, is known {}; used where nothing better works",
                match precision {
                    Precision::Nanoseconds => "to the nanosecond".to_owned(),
                    Precision::Ticks(length) => format!("in steps of {} ms", length.as_millis()),
                }
            ),
            (None, refusal) => format!(
                "the threads of pid {} cannot be read: {}",
                target.pid,
                refusal.as_deref().unwrap_or("unknown")
            ),
        };
        let set = match wall {
            WallSource::Off => "off; wall.source = \"proc\" switches it on",
            WallSource::Proc => "on",
        };
        let states = match &self.readable.states_refusal {
            None => format!("states of threads can be read ({set})"),
            Some(refusal) => format!("states of threads cannot be read: {refusal} ({set})"),
        };
        let syscalls = match &self.readable.syscalls_refusal {
            None => "system calls that threads wait in can be read".to_owned(),
            Some(refusal) => {
                format!("system calls that threads wait in cannot be read: {refusal}")
            }
        };
        let fix = host.memory_fix(&target.guard);
        [
            check("thread_cpu", self.precision.is_some(), cpu, hidden),
            check(
                "wall_states",
                self.readable.states_refusal.is_none(),
                states,
                hidden,
            ),
            check(
                "wall_syscalls",
                self.readable.syscalls_refusal.is_none(),
                syscalls,
                fix,
            ),
        ]
    }
}

/// What the kernel says of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Target {
    pid: i32,
    name: String,
    processes: usize,
    guard: Guard,
    perf_refusal: Option<String>,
    python: Python,
    threads: Threads,
    maps_are_readable: bool,
    root_is_readable: bool,
    limit_millicores: u32,
}

fn check(name: &'static str, available: bool, detail: String, fix: impl Into<String>) -> Check {
    Check {
        name,
        available,
        detail,
        fix: if available { String::new() } else { fix.into() },
    }
}

impl Target {
    fn read(processes: &[Process]) -> Option<Self> {
        let first = processes.first()?;
        let pid = first.pid;
        Some(Self {
            pid,
            name: first.name.clone(),
            processes: processes.len(),
            guard: Guard::read(pid),
            perf_refusal: perf::probe(pid)
                .err()
                .map(|error| proto::status::chain(&error)),
            python: Python::read(processes),
            threads: Threads::read(pid),
            maps_are_readable: fs::File::open(format!("/proc/{pid}/maps")).is_ok(),
            root_is_readable: fs::read_dir(format!("/proc/{pid}/root/")).is_ok(),
            limit_millicores: cgroup::read(pid).limit_millicores,
        })
    }
}

/// What the configuration says of what is judged.
#[derive(Clone, Copy, Debug)]
struct Settings {
    wall: WallSource,
    budget: BudgetConfig,
}

fn judge(host: &Host, target: Option<&Target>, wanted: &str, settings: Settings) -> Vec<Check> {
    let level = |value: Option<i64>| value.map_or("unknown".to_owned(), |v| v.to_string());
    let Some(target) = target else {
        let fix = "shareProcessNamespace: true in the pod's spec, or name the target with --pid, --name or --command";
        let detail = format!("no process matches {wanted}");
        return vec![check("target", false, detail, fix)];
    };
    let (pid, name) = (target.pid, &target.name);
    let found = format!(
        "{name}, pid {pid}, user {}, {} processes",
        target.guard.uid, target.processes
    );
    let privileges = format!(
        "level {} (user {}, seccomp {}, perf_event_paranoid {}, ptrace_scope {}, PERFMON {}, SYS_PTRACE {})",
        host.level(),
        host.uid,
        host.seccomp,
        level(host.paranoid),
        level(host.yama),
        yes_or_no(host.may_monitor()),
        yes_or_no(host.may_trace()),
    );
    let perf_detail = match &target.perf_refusal {
        None => "cpu is sampled with perf events".to_owned(),
        Some(refusal) => refusal.clone(),
    };
    let kernel = target.perf_refusal.is_none() && host.may_sample_kernel();
    let kernel_detail = match (&target.perf_refusal, kernel) {
        (Some(_), _) => "perf events are refused",
        (None, true) => "time within system calls is sampled, too",
        (None, false) => "time within system calls is not sampled",
    };
    let budget = format!(
        "{} thousandths of a core, {} MiB; above it the sampling rate is lowered",
        settings.budget.cpu_millicores,
        settings.budget.memory_bytes >> 20
    );
    let is_readable = target.maps_are_readable && target.root_is_readable;
    let memory_detail = if is_readable {
        format!("/proc/{pid}/maps and /proc/{pid}/root are readable: stacks and names are complete")
    } else {
        format!("/proc/{pid}/maps or /proc/{pid}/root cannot be read: no names, no unwinding")
    };
    let limit = match target.limit_millicores {
        0 => "the target's cgroup has no cpu limit, or it cannot be seen".to_owned(),
        limit => format!("the target's cgroup is limited to {limit} thousandths of a core"),
    };
    let [thread_cpu, wall_states, wall_syscalls] =
        target.threads.checks(host, target, settings.wall);
    vec![
        check("target", true, found, ""),
        check("privileges", true, privileges, ""),
        check(
            "perf_event_open",
            target.perf_refusal.is_none(),
            perf_detail,
            host.perf_fix(&target.guard),
        ),
        check(
            "kernel_time",
            kernel,
            kernel_detail.to_owned(),
            "sysctl -w kernel.perf_event_paranoid=1 on the node, or securityContext.runAsUser: 0 and capabilities.add: [\"PERFMON\", \"SYS_PTRACE\"] for the agent",
        ),
        target.python.check(),
        thread_cpu,
        wall_states,
        wall_syscalls,
        check(
            "process_files",
            is_readable,
            memory_detail,
            host.memory_fix(&target.guard),
        ),
        check(
            "locked_memory",
            host.may_lock_enough(),
            format!(
                "perf_event_mlock_kb is {}, shared by all agents of a user",
                level(host.mlock_kib)
            ),
            "sysctl -w kernel.perf_event_mlock_kb=516 on the node",
        ),
        check("cgroup_cpu_limit", target.limit_millicores > 0, limit, ""),
        check("budget", true, budget, ""),
    ]
}

fn yes_or_no(holds: bool) -> &'static str {
    match holds {
        true => "yes",
        false => "no",
    }
}

/// Name of the check of a Java virtual machine.
const JVM: &str = "jvm_flight_recorder";

/// The first of the target's processes that is a Java virtual machine.
fn first_jvm(processes: &[Process]) -> Option<i32> {
    let pids = processes.iter().map(|process| process.pid);
    pids.take(MAX_ASKED).find(|pid| jvm::is_jvm(*pid))
}

fn judge_jvm(pid: i32, mode: JvmMode, found: &Result<String, JvmError>) -> Check {
    match (mode, found) {
        (JvmMode::Off, _) => check(
            JVM,
            false,
            format!("pid {pid} is a Java virtual machine; switched off by jvm.mode"),
            "jvm.mode = \"auto\" in the agent's configuration",
        ),
        (JvmMode::Auto, Ok(what)) => check(
            JVM,
            true,
            format!("pid {pid} records itself: cpu, allocations, waits for locks ({what})"),
            "",
        ),
        (JvmMode::Auto, Err(error)) => check(JVM, false, proto::status::chain(error), error.fix()),
    }
}

fn processes(config: &Config) -> Result<(Selection, Vec<Process>), ConfigError> {
    let selection = config.selection()?;
    let found = Tracker::new(selection.clone()).and_then(|mut tracker| {
        tracker.scan()?;
        Ok(tracker.processes())
    });
    Ok((selection, found.unwrap_or_default()))
}

fn wanted(selection: &Selection) -> String {
    match selection {
        Selection::Pid(pid) => format!("pid {pid}"),
        Selection::Name(name) => format!("name {name:?}"),
        Selection::Command(regex) => format!("command {:?}", regex.as_str()),
        Selection::Others => "(any other process of this PID namespace)".to_owned(),
    }
}

/// Checks this host and the processes of the target, without a request to it.
pub fn examine_host(config: &Config) -> Report {
    match processes(config) {
        Ok((selection, processes)) => {
            let target = Target::read(&processes);
            let mut checks = judge(
                &Host::read(),
                target.as_ref(),
                &wanted(&selection),
                Settings {
                    wall: config.wall.source,
                    budget: config.budget,
                },
            );
            if let Some(pid) = first_jvm(&processes) {
                let found = jvm::look(pid).map(|()| "attaching is allowed".to_owned());
                checks.push(judge_jvm(pid, config.jvm.mode, &found));
            }
            Report {
                checks,
                target_name: target.map(|target| target.name).unwrap_or_default(),
            }
        }
        Err(error) => Report {
            target_name: String::new(),
            checks: vec![check("target", false, error.to_string(), "")],
        },
    }
}

/// Checks everything, also whether the target has an endpoint.
pub async fn examine(config: &Config) -> Report {
    let mut report = examine_host(config);
    let processes = processes(config)
        .map(|(_, found)| found)
        .unwrap_or_default();
    // In place of the look from outside.
    if let Some(check) = report.checks.iter_mut().find(|check| check.name == JVM)
        && let Some(pid) = first_jvm(&processes)
        && config.jvm.mode == JvmMode::Auto
    {
        let found = jvm::probe(pid).await;
        *check = judge_jvm(pid, config.jvm.mode, &found.map(|v| format!("JDK {v}")));
    }
    let state = TargetState {
        started: processes.first().map(|p| p.started).unwrap_or_default(),
        processes,
        may_be_unseen: matches!(config.selection(), Ok(Selection::Others)),
        is_sampled_from_outside: None,
    };
    let found = match Client::new() {
        Ok(client) => find_once(&client, &config.endpoint.url, &state).await,
        Err(_) => None,
    };
    let detail = match (&found, &config.endpoint.url) {
        (Some(found), _) => format!("{}: heap, goroutine, mutex, block, threadcreate", found.url),
        (None, EndpointChoice::Off) => "switched off by endpoint.url".to_owned(),
        (None, EndpointChoice::Auto | EndpointChoice::Url(_)) => {
            "no listening port of the target answers as Go's /debug/pprof".to_owned()
        }
    };
    report.checks.push(check(
        "go_pprof_endpoint",
        found.is_some(),
        detail,
        "in a Go program: import _ \"net/http/pprof\" and serve http on 127.0.0.1:6060",
    ));
    report
}

impl Report {
    /// The record that the collector is told.
    pub fn capabilities(&self) -> Vec<CapabilityLine> {
        let lines = self.checks.iter().map(|check| CapabilityLine {
            name: check.name.to_owned(),
            available: check.available,
            detail: if check.fix.is_empty() {
                check.detail.clone()
            } else {
                format!("{}; fix: {}", check.detail, check.fix)
            },
        });
        lines.collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let mark = if check.available { "yes" } else { "no " };
            let mut line = format!("{mark}  {:<18} {}", check.name, check.detail);
            if !check.fix.is_empty() {
                write!(line, "\n     {:<18} fix: {}", "", check.fix)?;
            }
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    const SETTINGS: Settings = Settings {
        wall: WallSource::Off,
        budget: BudgetConfig {
            cpu_millicores: 10,
            memory_bytes: 40 << 20,
        },
    };

    fn sandboxed() -> Host {
        Host {
            uid: 1000,
            seccomp: host::SECCOMP_FILTER,
            paranoid: Some(2),
            mlock_kib: Some(516),
            ..Host::default()
        }
    }

    fn refused(uid: u64) -> Target {
        Target {
            pid: 7,
            name: "logger".to_owned(),
            processes: 2,
            guard: Guard {
                uid,
                ..Guard::default()
            },
            perf_refusal: Some("permission denied".to_owned()),
            threads: Threads {
                precision: Some(Precision::Nanoseconds),
                readable: proc::Readable {
                    states_refusal: None,
                    syscalls_refusal: Some("permission denied".to_owned()),
                },
            },
            maps_are_readable: true,
            root_is_readable: true,
            ..Target::default()
        }
    }

    #[test]
    fn without_a_target_the_pod_is_to_be_changed() {
        let checks = judge(&sandboxed(), None, "pid 9", SETTINGS);
        assert_eq!(checks.len(), 1);
        assert!(checks[0].fix.contains("shareProcessNamespace"));
    }

    #[test]
    fn the_report_reads_as_text_and_json() {
        let report = Report {
            target_name: String::new(),
            checks: judge(&sandboxed(), Some(&refused(1000)), "", SETTINGS).split_off(1),
        };
        expect![[r#"
            yes  privileges         level A: no capability, processes of the same user (user 1000, seccomp 2, perf_event_paranoid 2, ptrace_scope unknown, PERFMON no, SYS_PTRACE no)
            no   perf_event_open    permission denied
                                    fix: securityContext.capabilities.add: ["PERFMON"] for the agent opens the seccomp filter
            no   kernel_time        perf events are refused
                                    fix: sysctl -w kernel.perf_event_paranoid=1 on the node, or securityContext.runAsUser: 0 and capabilities.add: ["PERFMON", "SYS_PTRACE"] for the agent
            no   python_frames      no process of the target is known to run CPython
            yes  thread_cpu         cpu by thread, without functions, is known to the nanosecond; used where nothing better works
            yes  wall_states        states of threads can be read (off; wall.source = "proc" switches it on)
            no   wall_syscalls      system calls that threads wait in cannot be read: permission denied
                                    fix: run the agent in the target's user namespace (hostUsers in the pod's spec)
            yes  process_files      /proc/7/maps and /proc/7/root are readable: stacks and names are complete
            yes  locked_memory      perf_event_mlock_kb is 516, shared by all agents of a user
            no   cgroup_cpu_limit   the target's cgroup has no cpu limit, or it cannot be seen
            yes  budget             10 thousandths of a core, 40 MiB; above it the sampling rate is lowered
        "#]]
        .assert_eq(&report.to_string());
        expect![[r#"{"checks":[{"name":"locked_memory","available":true,"detail":"perf_event_mlock_kb is 516, shared by all agents of a user","fix":""}]}"#]]
        .assert_eq(&serde_json::to_string(&Report { target_name: String::new(), checks: vec![report.checks[8].clone()] }).unwrap());
    }
}
