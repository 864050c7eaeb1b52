//! From events of a machine to what a source yields. Pure.
//!
//! CPU: the recorder says where, the kernel how much. The recorder looks at no
//! more than [`MAX_LOOKED_AT`] threads at each tick, takes a thread that waits
//! for a CPU for one that runs, and misses ticks on a busy machine; native code
//! and the kernel it does not sample at all. So a sample stands for a period,
//! but all together never for more than the CPU time of the threads that may
//! run Java code; and only where most ticks found as many threads as it looks
//! at, its samples stand for all of that time. What they do not stand for is
//! shown as [`NOT_SAMPLED`], what those threads used in the kernel as
//! [`KERNEL`], and what the machine used for itself under names of its own: the
//! sum is what the kernel counted.
//!
//! From JDK 25 on samples are taken by CPU time, also in native code and in the
//! kernel: each stands for its period.
//!
//! Allocations are named as Go's are. A wait for `synchronized` counts as
//! `mutex`, a thread that was parked as `block`, the names that Pyroscope and
//! Grafana have for both; the stack is that of the thread that waited, and its
//! leaf the class of the lock.

use std::sync::Arc;
use std::time::Duration;

use proto::profile::Column;
use proto::stack::{Frame, FrameKind, Stack};
use proto::value_type::{ProfileType, Temporality};
use proto::window::{UnixNanos, Window};
use rustc_hash::FxHashMap;

use super::account::{Account, Duty};
use super::jfr::{Event, Kind};
use super::recording::Sampling;
use crate::delta::{MAX_STACKS, merge_stacks};
use crate::source::{Collected, SampleGroup};

/// Threads running Java code that HotSpot looks at per tick
/// (`MAX_NR_OF_JAVA_SAMPLES` in `jfrThreadSampler.cpp`).
const MAX_LOOKED_AT: usize = 5;
/// CPU time that no sample stands for: native code, and Java code that the
/// recorder missed.
const NOT_SAMPLED: &str = "[not sampled]";
/// Time in the kernel.
const KERNEL: &str = "[kernel]";
/// An event without a stack.
const UNKNOWN: &str = "[unknown]";

/// What happened in a machine over a stretch of time.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    /// The events.
    pub(super) events: Vec<Event>,
    /// What the kernel counted; nothing while the source does not sample CPU.
    pub(super) account: Option<Account>,
    /// Samples and events that were lost.
    pub(super) lost: u64,
}

/// How the machine samples CPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Whether by ticks or by CPU time.
    pub(super) sampling: Sampling,
    /// Time between two samples.
    pub(super) period: Duration,
}

fn alone(name: &str) -> Stack {
    Arc::from([Frame::named(FrameKind::Synthetic, name)])
}

fn duty_name(duty: Duty) -> &'static str {
    match duty {
        Duty::Collection => "[gc]",
        Duty::Compilation => "[jit]",
        Duty::Upkeep => "[vm]",
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Whether most ticks found as many threads as are looked at in one. Samples of
/// one tick lie closer together than half a period.
fn is_saturated(mut times: Vec<UnixNanos>, period: Duration) -> bool {
    times.sort_unstable();
    let (mut ticks, mut full) = (0_usize, 0_usize);
    let mut rest = times.as_slice();
    while let Some(first) = rest.first() {
        let end = first.saturating_add(period / 2);
        let of_tick = rest.partition_point(|time| *time < end).max(1);
        ticks += 1;
        full += usize::from(of_tick >= MAX_LOOKED_AT);
        rest = rest.get(of_tick..).unwrap_or_default();
    }
    full * 2 > ticks
}

/// CPU time by stack: one value in nanoseconds each, and the number of samples
/// that it rests on.
fn cpu(stretch: &Stretch, account: Account, rate: Rate) -> (Vec<(Stack, Vec<i64>)>, u64) {
    let period_ns = u64::try_from(rate.period.as_nanos())
        .unwrap_or(u64::MAX)
        .max(1);
    let mut seen: FxHashMap<Stack, u64> = FxHashMap::default();
    let mut times = Vec::new();
    let mut samples_count: u64 = 0;
    for event in &stretch.events {
        let stands_for_ns = match event.kind {
            Kind::Execution => period_ns,
            Kind::CpuTime { period_ns } => period_ns,
            Kind::CpuTimeLost { .. }
            | Kind::Allocation { .. }
            | Kind::MonitorEnter { .. }
            | Kind::Park { .. } => continue,
        };
        times.push(event.at);
        samples_count += 1;
        let stack = event.stack.clone().unwrap_or_else(|| alone(UNKNOWN));
        let sum = seen.entry(stack).or_default();
        *sum = sum.saturating_add(stands_for_ns);
    }
    let sampled_ns: u64 = seen.values().fold(0, |sum, ns| sum.saturating_add(*ns));
    let (java_ns, kernel_ns) = match rate.sampling {
        Sampling::Ticks => (account.java.user_ns, account.java.system_ns),
        Sampling::CpuTime => (account.java.total_ns(), 0),
    };
    let is_saturated = rate.sampling == Sampling::Ticks && is_saturated(times, rate.period);
    let shown_ns = match is_saturated {
        true if sampled_ns > 0 => java_ns,
        true | false => sampled_ns.min(java_ns),
    };
    let scaled = |ns: u64| {
        let scaled = u128::from(ns) * u128::from(shown_ns) / u128::from(sampled_ns.max(1));
        i64::try_from(scaled).unwrap_or(i64::MAX)
    };
    let mut rows: Vec<(Stack, Vec<i64>)> = seen
        .into_iter()
        .map(|(stack, ns)| (stack, vec![scaled(ns)]))
        .collect();
    let rest = [
        (NOT_SAMPLED, java_ns.saturating_sub(shown_ns)),
        (KERNEL, kernel_ns),
    ];
    let mut own_ns: u64 = 0;
    let duties = Duty::ALL.iter().zip(account.duties).map(|(duty, used)| {
        own_ns = own_ns.saturating_add(used.total_ns());
        (duty_name(*duty), used.total_ns())
    });
    let duties: Vec<_> = duties.collect();
    let named = rest.into_iter().chain(duties);
    rows.extend(
        named
            .filter(|(_, ns)| *ns > 0)
            .map(|(name, ns)| (alone(name), vec![signed(ns)])),
    );
    rows.retain(|(_, values)| values.iter().any(|value| *value > 0));
    // Of the machine's own threads the kernel says all there is to know.
    (rows, samples_count.saturating_add(own_ns / period_ns))
}

fn with_lock(event: &Event, class: &str) -> Stack {
    let stack = event.stack.clone().unwrap_or_else(|| alone(UNKNOWN));
    if class.is_empty() {
        return stack;
    }
    let lock = Frame::named(FrameKind::Synthetic, &format!("[lock {class}]"));
    std::iter::once(lock).chain(stack.iter().cloned()).collect()
}

fn column(profile_type: ProfileType, period: i64, values: Vec<i64>) -> Column {
    Column {
        profile_type,
        temporality: Temporality::Delta,
        period,
        weight: 1,
        values,
    }
}

fn group(rows: Vec<(Stack, Vec<i64>)>, types: &[ProfileType], period: i64) -> SampleGroup {
    let rows = merge_stacks(rows, MAX_STACKS);
    let columns = types.iter().enumerate().map(|(at, profile_type)| {
        let values = rows.iter().map(|(_, values)| values.get(at).copied());
        let values = values.map(|value| value.unwrap_or(0)).collect();
        column(profile_type.clone(), period, values)
    });
    SampleGroup {
        labels: Vec::new(),
        columns: columns.collect(),
        stacks: rows.into_iter().map(|(stack, _)| stack).collect(),
    }
}

fn types(texts: &[&str]) -> Vec<ProfileType> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Makes yields of what happened in `window`: CPU first, if it is sampled, and
/// one for each other kind of profile that has samples.
pub(super) fn yields(stretch: &Stretch, window: Window, rate: Rate) -> Vec<Collected> {
    let made = |group: SampleGroup, samples_count, lost_samples| Collected {
        window,
        observed_ns: 0,
        lost_samples,
        dropped_labels: 0,
        samples_count,
        groups: vec![group],
    };
    let mut all = Vec::new();
    if let Some(account) = stretch.account {
        let (rows, samples_count) = cpu(stretch, account, rate);
        let lost: u64 = stretch.events.iter().fold(stretch.lost, |sum, event| {
            sum.saturating_add(match event.kind {
                Kind::CpuTimeLost { count } => count,
                Kind::Execution
                | Kind::CpuTime { .. }
                | Kind::Allocation { .. }
                | Kind::MonitorEnter { .. }
                | Kind::Park { .. } => 0,
            })
        });
        let period = i64::try_from(rate.period.as_nanos()).unwrap_or(i64::MAX);
        all.push(made(
            group(rows, &[ProfileType::cpu()], period),
            samples_count,
            lost,
        ));
    }
    let (mut allocated, mut entered, mut parked) = (Vec::new(), Vec::new(), Vec::new());
    for event in &stretch.events {
        match &event.kind {
            Kind::Allocation { bytes } => {
                let stack = event.stack.clone().unwrap_or_else(|| alone(UNKNOWN));
                allocated.push((stack, vec![signed(*bytes)]));
            }
            Kind::MonitorEnter { wait_ns, class } => {
                entered.push((with_lock(event, class), vec![1, signed(*wait_ns)]));
            }
            Kind::Park { wait_ns, class } => {
                parked.push((with_lock(event, class), vec![1, signed(*wait_ns)]));
            }
            Kind::Execution | Kind::CpuTime { .. } | Kind::CpuTimeLost { .. } => {}
        }
    }
    for (rows, texts) in [
        (allocated, &["memory:alloc_space:bytes:space:bytes"][..]),
        (
            entered,
            &[
                "mutex:contentions:count:contentions:count",
                "mutex:delay:nanoseconds:contentions:count",
            ],
        ),
        (
            parked,
            &[
                "block:contentions:count:contentions:count",
                "block:delay:nanoseconds:contentions:count",
            ],
        ),
    ] {
        if !rows.is_empty() {
            all.push(made(group(rows, &types(texts), 1), 0, 0));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::account::Used;
    use super::*;

    const PERIOD: Duration = Duration::from_millis(10);

    fn stack(name: &str) -> Stack {
        Arc::from([Frame::named(FrameKind::Jvm, name)])
    }

    fn event(at_ms: i64, name: &str, kind: Kind) -> Event {
        Event {
            at: UnixNanos::new(at_ms * 1_000_000),
            kind,
            stack: Some(stack(name)),
        }
    }

    fn used(user_ms: u64, system_ms: u64) -> Used {
        Used {
            user_ns: user_ms * 1_000_000,
            system_ns: system_ms * 1_000_000,
        }
    }

    /// CPU in milliseconds by name, and the samples it rests on.
    fn cpu_ms(events: Vec<Event>, account: Account, sampling: Sampling) -> (String, u64) {
        let stretch = Stretch {
            events,
            account: Some(account),
            lost: 0,
        };
        let window = Window::new(UnixNanos::new(0), UnixNanos::new(10_000_000_000)).unwrap();
        let rate = Rate {
            sampling,
            period: PERIOD,
        };
        let all = yields(&stretch, window, rate);
        let group = &all[0].groups[0];
        assert_eq!(group.columns[0].weight, 1);
        let mut rows: Vec<String> = group
            .stacks
            .iter()
            .zip(&group.columns[0].values)
            .map(|(stack, ns)| format!("{}={}", stack[0].function, ns / 1_000_000))
            .collect();
        rows.sort();
        (rows.join(" "), all[0].samples_count)
    }

    fn samples(count: i64, name: &str, per_tick: i64) -> impl Iterator<Item = Event> {
        (0..count).map(move |n| event(n / per_tick * 10, name, Kind::Execution))
    }

    #[test]
    fn samples_stand_for_their_period_and_the_kernel_for_the_rest() {
        let account = Account {
            java: used(100, 30),
            duties: [used(40, 0), used(20, 0), used(5, 5)],
        };
        let events = samples(6, "A.hot", 1).chain(samples(2, "A.cold", 1));
        assert_eq!(
            cpu_ms(events.collect(), account, Sampling::Ticks),
            (
                "A.cold=20 A.hot=60 [gc]=40 [jit]=20 [kernel]=30 [not sampled]=20 [vm]=10"
                    .to_owned(),
                8 + 7
            )
        );
    }

    #[test]
    fn samples_never_stand_for_more_than_the_kernel_counted() {
        let account = Account {
            java: used(40, 0),
            ..Account::default()
        };
        let events = samples(6, "A.hot", 1).chain(samples(2, "A.cold", 1));
        let (text, _) = cpu_ms(events.collect(), account, Sampling::Ticks);
        assert_eq!(text, "A.cold=10 A.hot=30");
    }

    #[test]
    fn where_more_threads_run_than_are_looked_at_samples_stand_for_all() {
        let account = Account {
            java: used(1600, 0),
            ..Account::default()
        };
        let (text, count) = cpu_ms(samples(50, "A.hot", 5).collect(), account, Sampling::Ticks);
        assert_eq!((text.as_str(), count), ("A.hot=1600", 50));
        let (text, _) = cpu_ms(samples(50, "A.hot", 4).collect(), account, Sampling::Ticks);
        assert_eq!(text, "A.hot=500 [not sampled]=1100");
    }

    #[test]
    fn samples_by_cpu_time_hold_the_kernel_too() {
        let account = Account {
            java: used(50, 30),
            ..Account::default()
        };
        let period_ns = 20_000_000;
        let events = (0..3).map(|n| event(n, "A.hot", Kind::CpuTime { period_ns }));
        let (text, _) = cpu_ms(events.collect(), account, Sampling::CpuTime);
        assert_eq!(text, "A.hot=60 [not sampled]=20");
    }

    #[test]
    fn an_idle_machine_has_an_empty_profile() {
        let (text, count) = cpu_ms(Vec::new(), Account::default(), Sampling::Ticks);
        assert_eq!((text.as_str(), count), ("", 0));
    }

    #[test]
    fn allocations_and_waits_are_profiles_of_their_own() {
        let class: Arc<str> = Arc::from("java.lang.Object");
        let wait_ns = 7;
        let stretch = Stretch {
            events: vec![
                event(1, "A.make", Kind::Allocation { bytes: 64 }),
                event(1, "A.make", Kind::Allocation { bytes: 36 }),
                event(1, "A.enter", Kind::MonitorEnter { wait_ns, class }),
                event(
                    1,
                    "A.park",
                    Kind::Park {
                        wait_ns,
                        class: Arc::from(""),
                    },
                ),
            ],
            account: None,
            lost: 0,
        };
        let window = Window::new(UnixNanos::new(0), UnixNanos::new(10)).unwrap();
        let rate = Rate {
            sampling: Sampling::Ticks,
            period: PERIOD,
        };
        let text: Vec<String> = yields(&stretch, window, rate)
            .iter()
            .flat_map(|collected| &collected.groups)
            .flat_map(|group| {
                let names: Vec<_> = group.stacks[0].iter().map(|f| &*f.function).collect();
                let names = names.join("<");
                let columns = group.columns.iter();
                columns.map(move |c| format!("{} {names} {:?}", c.profile_type, c.values))
            })
            .collect();
        assert_eq!(
            text,
            [
                "memory:alloc_space:bytes:space:bytes A.make [100]",
                "mutex:contentions:count:contentions:count [lock java.lang.Object]<A.enter [1]",
                "mutex:delay:nanoseconds:contentions:count [lock java.lang.Object]<A.enter [7]",
                "block:contentions:count:contentions:count A.park [1]",
                "block:delay:nanoseconds:contentions:count A.park [7]",
            ]
        );
    }
}
