//! CPU limit of a process' control group and the time it was throttled.
//!
//! Looks where the target itself would (`/proc/PID/root/sys/fs/cgroup`) and
//! where the agent would, in cgroup v2 and v1; the tightest limit on the way
//! to the root holds. Follows the kernel's `cgroup-v2.rst` (`cpu.max`,
//! `cpu.stat`) and `sched-bwc.rst` (v1).

use std::fs;
use std::path::{Path, PathBuf};

/// Deepest control group that is followed to its root.
const MAX_DEPTH: usize = 16;

/// What the control groups of a process say. Zero means none or unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CgroupCpu {
    /// Tightest limit in thousandths of a core.
    pub(crate) limit_millicores: u32,
    /// Time throttled since the group was made, in nanoseconds.
    pub(crate) throttled_ns: u64,
}

/// Parses `cpu.max`: `QUOTA PERIOD` in microseconds, or `max PERIOD`.
fn parse_cpu_max(text: &str) -> Option<u32> {
    let (quota, period) = text.trim().split_once(' ')?;
    millicores(quota, period)
}

fn millicores(quota: &str, period: &str) -> Option<u32> {
    let quota: u64 = quota.trim().parse().ok()?;
    let period: u64 = period.trim().parse().ok()?;
    let millicores = quota.checked_mul(1000)?.checked_div(period)?;
    u32::try_from(millicores).ok().filter(|limit| *limit > 0)
}

/// Parses the throttled time of `cpu.stat`, in nanoseconds.
fn parse_throttled(text: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        let value: u64 = value.trim().parse().ok()?;
        match key {
            "throttled_usec" => value.checked_mul(1000),
            "throttled_time" => Some(value),
            _ => None,
        }
    })
}

/// The group's path below the mount of its hierarchy, from
/// `/proc/PID/cgroup`: v2, or else the v1 hierarchy of `cpu`.
fn group_path(text: &str) -> Option<(bool, &str)> {
    let fields = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        Some((parts.next()?, parts.next()?, parts.next()?))
    });
    let mut unified = None;
    for (id, controllers, path) in fields {
        if controllers.split(',').any(|name| name == "cpu") {
            return Some((false, path));
        }
        if id == "0" && controllers.is_empty() {
            unified = Some((true, path));
        }
    }
    unified
}

fn read_folder(folder: &Path) -> CgroupCpu {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let limit = parse_cpu_max(&read("cpu.max"))
        .or_else(|| millicores(&read("cpu.cfs_quota_us"), &read("cpu.cfs_period_us")));
    CgroupCpu {
        limit_millicores: limit.unwrap_or(0),
        throttled_ns: parse_throttled(&read("cpu.stat")).unwrap_or(0),
    }
}

/// The tightest limit and the innermost throttled time from `folder` up to `top`.
fn read_upwards(folder: &Path, top: &Path) -> CgroupCpu {
    let mut found = CgroupCpu::default();
    for folder in folder.ancestors().take(MAX_DEPTH) {
        let here = read_folder(folder);
        found.limit_millicores = match (found.limit_millicores, here.limit_millicores) {
            (0, limit) | (limit, 0) => limit,
            (one, other) => one.min(other),
        };
        found.throttled_ns = found.throttled_ns.max(here.throttled_ns);
        if folder == top {
            break;
        }
    }
    found
}

/// Reads what holds for process `pid`.
pub(crate) fn read(pid: i32) -> CgroupCpu {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let Some((is_unified, path)) = group_path(&text) else {
        return CgroupCpu::default();
    };
    let relative = path.trim_start_matches('/');
    let target_root = PathBuf::from(format!("/proc/{pid}/root/sys/fs/cgroup"));
    let tops = [PathBuf::from("/sys/fs/cgroup"), target_root];
    for top in tops {
        let top = if is_unified { top } else { top.join("cpu") };
        // A path with ".." lies outside of the agent's own view; the target
        // sees its group as the root then.
        let inside = if relative.split('/').any(|part| part == "..") {
            top.clone()
        } else {
            top.join(relative)
        };
        let found = read_upwards(&inside, &top);
        if found != CgroupCpu::default() {
            return found;
        }
    }
    CgroupCpu::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_read_as_thousandths_of_a_core() {
        for (text, expected) in [
            ("150000 100000\n", Some(1500)),
            ("max 100000\n", None),
            ("-1 100000", None),
            ("1 0", None),
            ("18446744073709551615 1", None),
            ("", None),
        ] {
            assert_eq!(parse_cpu_max(text), expected, "{text:?}");
        }
    }

    #[test]
    fn throttled_time_reads_in_both_versions() {
        for (text, expected) in [
            ("usage_usec 5\nthrottled_usec 7\n", Some(7000)),
            ("nr_periods 0\nthrottled_time 9\n", Some(9)),
            ("throttled_usec x", None),
        ] {
            assert_eq!(parse_throttled(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_group_of_the_cpu_controller_counts() {
        for (text, expected) in [
            ("0::/pod/a\n", Some((true, "/pod/a"))),
            ("4:cpu,cpuacct:/v1\n0::/\n", Some((false, "/v1"))),
            ("garbage", None),
        ] {
            assert_eq!(group_path(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_holds() {
        let top = tempfile::tempdir().unwrap();
        let inner = top.path().join("pod/app");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("cpu.max"), "200000 100000").unwrap();
        fs::write(inner.join("cpu.stat"), "throttled_usec 3").unwrap();
        fs::write(top.path().join("pod/cpu.max"), "50000 100000").unwrap();
        let found = read_upwards(&inner, top.path());
        assert_eq!((found.limit_millicores, found.throttled_ns), (500, 3000));
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(
            text in prop_oneof!["\\PC{0,60}", "[0-9]{0,22} [0-9]{0,22}\n?", "(throttled_(usec|time) [0-9]{0,22}\n){0,3}"],
            group in prop_oneof!["\\PC{0,60}", "([0-9]:[a-z,]{0,8}:/[a-z/.]{0,12}\n){0,4}"],
        ) {
            prop_assert!(parse_cpu_max(&text).is_none_or(|limit| limit > 0));
            parse_throttled(&text);
            if let Some((_, path)) = group_path(&group) {
                prop_assert!(group.contains(path));
            }
        }
    }
}
