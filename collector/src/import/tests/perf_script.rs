//! Output of `perf script`.

use std::collections::BTreeMap;

use expect_test::expect;
use proto::stack::FrameKind;

use super::*;

#[test]
fn stacks_of_perf_are_weighted_by_the_period() {
    check(
        "perf-cpu.txt",
        Format::PerfScript,
        &expect![[r#"
        start None duration Some(147.504ms)
        process_cpu:cpu:nanoseconds:cpu:nanoseconds Delta period 10101010 weight 10101010 total 14
        native!__libc_start_call_main;native!main;native!__GI___fstatat64;kernel!entry_SYSCALL_64_after_hwframe;kernel!do_syscall_64;kernel!__do_sys_newfstatat;kernel!cp_new_stat [2]
        native!__libc_start_call_main;native!main;native!__GI___fstatat64;kernel!entry_SYSCALL_64_after_hwframe;kernel!do_syscall_64;kernel!__do_sys_newfstatat;kernel!vfs_fstatat;kernel!vfs_statx;kernel!filename_lookup;kernel!path_lookupat;kernel!complete_walk;kernel!try_to_unlazy [1]
        native!__libc_start_call_main;native!main;native!__GI___fstatat64;kernel!entry_SYSCALL_64_after_hwframe;kernel!do_syscall_64;kernel!__do_sys_newfstatat;kernel!vfs_fstatat;kernel!vfs_statx;kernel!filename_lookup;kernel!path_lookupat [3]
        native!__libc_start_call_main;native!main;native!__GI___stat64 [1]
        native!__libc_start_call_main;native!main;native!__GI___fstatat64 [1]
        native!__libc_start_call_main;native!main;native!calls [1]
        native!__libc_start_call_main;native!main;native!__GI___fstatat64;kernel!entry_SYSCALL_64_after_hwframe;kernel!do_syscall_64;kernel!__do_sys_newfstatat;kernel!vfs_fstatat;kernel!getname_flags.part.0;kernel!strncpy_from_user;kernel!__check_object_size;kernel!__check_heap_object [1]
        native!__libc_start_call_main;native!main;native!__GI___fstatat64;kernel!entry_SYSCALL_64_after_hwframe;kernel!do_syscall_64;kernel!__do_sys_newfstatat;kernel!vfs_fstatat;kernel!vfs_statx;kernel!filename_lookup;kernel!path_lookupat;kernel!link_path_walk;kernel!walk_component;kernel!lookup_fast;kernel!__d_lookup_rcu [1]
        native!__libc_start_call_main;native!main;native!__GI___fstatat64;kernel!entry_SYSCALL_64_after_hwframe;kernel!do_syscall_64;kernel!__do_sys_newfstatat;kernel!vfs_fstatat;kernel!vfs_statx;kernel!path_put;kernel!dput [1]
        native!__libc_start_call_main;native!main;native!__GI___fstatat64;kernel!entry_SYSCALL_64_after_hwframe;kernel!do_syscall_64;kernel!__do_sys_newfstatat;kernel!vfs_fstatat;kernel!vfs_statx;kernel!mntput_no_expire [1]
        native!__libc_start_call_main;native!main;native!__GI___fstatat64;kernel!entry_SYSCALL_64_after_hwframe;kernel!do_syscall_64;kernel!__do_sys_newfstatat;kernel!vfs_fstatat;kernel!vfs_statx [1]
    "#]],
    );
}

#[test]
fn events_of_perf_become_columns() {
    check(
        "perf-events.txt",
        Format::PerfScript,
        &expect![[r#"
        start None duration Some(41.52ms)
        perf:page-faults:count:page-faults:count Delta period 0 weight 1 total 6054
        process_cpu:cpu:nanoseconds:cpu:nanoseconds Delta period 20408163 weight 20408163 total 2
        made![unknown];kernel!entry_SYSCALL_64_after_hwframe;kernel!do_syscall_64;kernel!__x64_sys_execve;kernel!do_execveat_common.isra.0;kernel!bprm_execve;kernel!load_elf_binary;kernel!elf_load [2, 0]
        made![unknown];kernel!entry_SYSCALL_64_after_hwframe;kernel!do_syscall_64;kernel!__x64_sys_execve;kernel!do_execveat_common.isra.0;kernel!bprm_execve;kernel!load_elf_binary;kernel!__put_user_8 [1, 0]
        native!_start [50, 0]
        made![unknown];made![dash] [6001, 0]
        native!__libc_start_call_main;native!main;native!inner [0, 1]
        native!__libc_start_call_main;native!main;native!__GI___fstatat64;kernel!entry_SYSCALL_64_after_hwframe;kernel!do_syscall_64;kernel!__do_sys_newfstatat;kernel!vfs_fstatat;kernel!vfs_statx;kernel!filename_lookup;kernel!path_lookupat;kernel!path_init [0, 1]
    "#]],
    );
}

#[test]
fn without_call_chains_a_line_of_perf_is_a_sample() {
    check(
        "perf-no-callchain.txt",
        Format::PerfScript,
        &expect![[r#"
        start None duration Some(262.218ms)
        process_cpu:cpu:nanoseconds:cpu:nanoseconds Delta period 20408163 weight 20408163 total 12
        kernel!security_inode_getattr [1]
        native!__GI___fstatat64 [1]
        kernel!link_path_walk [1]
        kernel!generic_fillattr [1]
        kernel!from_kgid_munged [2]
        kernel!__schedule [1]
        kernel!try_to_unlazy [1]
        kernel!ext4_getattr [1]
        kernel!getname_flags.part.0 [1]
        kernel!__rcu_read_unlock [1]
        kernel!vfs_statx [1]
    "#]],
    );
}

#[test]
fn places_below_frames_of_perf_are_kept() {
    check(
        "perf-srcline.txt",
        Format::PerfScript,
        &expect![[r#"
        start None duration Some(37.332ms)
        process_cpu:cpu:nanoseconds:cpu:nanoseconds Delta period 10101010 weight 10101010 total 4
        native!__libc_start_call_main libc-start.c:74;native!main spin.c:9;native!__GI___fstatat64 fstatat64.c:169;kernel!entry_SYSCALL_64_after_hwframe;kernel!do_syscall_64;kernel!__do_sys_newfstatat;kernel!cp_new_stat [1]
        native!__libc_start_call_main libc-start.c:74;native!main spin.c:9;native!__GI___fstatat64 fstatat64.c:169;kernel!entry_SYSCALL_64_after_hwframe;kernel!do_syscall_64;kernel!__do_sys_newfstatat;kernel!vfs_fstatat;kernel!vfs_statx;kernel!filename_lookup;kernel!path_lookupat;kernel!complete_walk;kernel!try_to_unlazy [1]
        native!__libc_start_call_main libc-start.c:74;native!main spin.c:9;native!__GI___fstatat64 fstatat64.c:169;kernel!entry_SYSCALL_64_after_hwframe;kernel!do_syscall_64;kernel!__do_sys_newfstatat;kernel!vfs_fstatat;kernel!vfs_statx;kernel!filename_lookup;kernel!path_lookupat [2]
    "#]],
    );
}

#[test]
fn tracepoints_count_one_each_with_or_without_a_stack() {
    check(
        "perf-tracepoints.txt",
        Format::PerfScript,
        &expect![[r#"
        start None duration Some(1.257776s)
        perf:sched/sched_switch:count:sched/sched_switch:count Delta period 1 weight 1 total 1
        perf:syscalls/sys_enter_openat:count:syscalls/sys_enter_openat:count Delta period 1 weight 1 total 3
        made![unknown];made![unknown];native!_dl_map_object;native!_dl_map_object_from_fd;kernel!asm_exc_page_fault;kernel!irqentry_exit_to_user_mode;kernel!schedule;kernel!__schedule [1, 0]
         [0, 3]
    "#]],
    );
}

#[test]
fn inlined_compiled_and_unknown_code_of_perf_is_named() {
    check(
        "perf-inlined.txt",
        Format::PerfScript,
        &expect![[r#"
        start None duration Some(250ms)
        process_cpu:cpu:nanoseconds:cpu:nanoseconds Delta period 10101010 weight 10101010 total 2
        native!JavaThread::run();made![perf-4711.map];jvm!Interpreter;jvm!Lcom/acme/Work;::run;made![libc.so.6];kernel!getname_flags.part.0;kernel!strncpy_from_user [1]
        made![unknown];native!work;native!innermost;node!JS:*spin /app/w.js:12:5 [1]
    "#]],
    );
}

/// Stacks and weights as inferno folds them, without the command at the root.
fn folded_by_inferno(bytes: &[u8]) -> BTreeMap<String, i64> {
    use inferno::collapse::Collapse;
    use inferno::collapse::perf::{Folder, Options};
    let mut options = Options::default();
    options.annotate_kernel = true;
    options.nthreads = 1;
    let mut out = Vec::new();
    Folder::from(options).collapse(bytes, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let mut stacks = BTreeMap::new();
    for line in text.lines() {
        let (names, count) = line.rsplit_once(' ').unwrap();
        let (_, names) = names.split_once(';').unwrap();
        *stacks.entry(names.to_owned()).or_default() += count.parse::<i64>().unwrap();
    }
    stacks
}

#[test]
fn perf_is_read_as_inferno_reads_it() {
    for name in ["perf-cpu.txt", "perf-no-callchain.txt"] {
        let bytes = file(name);
        let imported = one(&bytes, Format::PerfScript);
        let column = &imported.columns[0];
        let weight = i64::try_from(column.weight).unwrap();
        let ours: BTreeMap<String, i64> = imported
            .stacks
            .iter()
            .zip(&column.values)
            .map(|(stack, value)| {
                let names = stack.iter().rev().map(|frame| match frame.kind {
                    FrameKind::Kernel => format!("{}_[k]", frame.function),
                    _ => frame.function.to_string(),
                });
                (names.collect::<Vec<_>>().join(";"), value * weight)
            })
            .collect();
        let theirs = folded_by_inferno(&bytes);
        assert_eq!(ours, theirs, "{name}");
        let lines: String = theirs
            .iter()
            .map(|(names, n)| format!("{names} {n}\n"))
            .collect();
        let again = folded(&lines, &Limits::default());
        let sorted = |imported: &Imported| {
            let mut stacks = imported.stacks.clone();
            stacks.sort();
            stacks
        };
        assert_eq!(sorted(&again), sorted(&imported), "{name}");
    }
}

fn perf(events: &[&str]) -> Result<Imported, ImportError> {
    let text: String = events
        .iter()
        .map(|header| format!("{header}\n\t     1145 work+0xc (/app/spin)\n\n"))
        .collect();
    read_as(text.as_bytes(), Format::PerfScript).map(|mut all| all.remove(0))
}

#[test]
fn headers_of_perf_are_read_in_every_form() {
    for (header, kind, value) in [
        ("spin 12 1.5:    250000 cpu-clock:ppp: ", "cpu", 250_000),
        ("spin 12/13 [003] 1.5: 7 cycles:u:", "cycles", 7),
        ("V8 WorkerThread 12 [000] 1.500000001: cycles:", "cycles", 1),
        ("worker 3 25607 4794564.109216: cycles:", "cycles", 1),
        (":99 99 1.5: 1 faults:", "faults", 1),
        (
            "swapper 0 [000] 1.5: 5 sched:sched_switch: prev_comm=a",
            "sched/sched_switch",
            5,
        ),
        ("a 1 1.5: 99999999999999999999 cycles:", "cycles", i64::MAX),
    ] {
        let imported = perf(&[header]).unwrap();
        let column = &imported.columns[0];
        assert_eq!(column.profile_type.sample().kind(), kind, "{header}");
        let weight = i64::try_from(column.weight).unwrap();
        assert_eq!(column.values[0] * weight, value, "{header}");
        assert_eq!(imported.left_out.lines, 0, "{header}");
    }
}

#[test]
fn a_clock_without_a_printed_period_counts_what_the_caller_says() {
    let imported = perf(&["a 1 1.5: cpu-clock:", "a 1 1.6: cpu-clock:"]).unwrap();
    let column = &imported.columns[0];
    assert_eq!(column.values, [2]);
    assert_eq!(column.weight, 10_101_010);
    assert_eq!(imported.duration, Some(Duration::from_millis(100)));
}

#[test]
fn two_events_of_perf_never_share_a_column() {
    let imported = perf(&[
        "a 1 1.1: 4 cpu-clock:",
        "a 1 1.1: 4 task-clock:",
        "a 1 1.1: 4 cycles:u:",
        "a 1 1.1: 4 cycles:",
        "a 1 1.1: 4 cycles:k:",
    ]);
    let types: Vec<String> = imported
        .unwrap()
        .columns
        .iter()
        .map(|column| column.profile_type.to_string())
        .collect();
    assert_eq!(
        types,
        [
            "process_cpu:cpu:nanoseconds:cpu:nanoseconds",
            "perf:task-clock:nanoseconds:task-clock:nanoseconds",
            "perf:cycles:count:cycles:count",
            "perf:cycles#2:count:cycles#2:count",
            "perf:cycles/k:count:cycles/k:count",
        ]
    );
}

#[test]
fn periods_that_differ_are_added_up() {
    let imported = perf(&["a 1 1.1: 4 cycles:", "a 1 1.2: 6 cycles:"]).unwrap();
    let column = &imported.columns[0];
    assert_eq!((column.period, column.weight), (0, 1));
    assert_eq!(column.values, [10]);
}

#[test]
fn unusable_output_of_perf_is_refused_with_the_reason() {
    let many: Vec<String> = (0..17).map(|n| format!("a 1 1.1: 4 event{n}:")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = format!("a 1 1.1: 4 {}:", "x".repeat(200));
    for (events, reason) in [
        (&many[..], "line 49 has event \"event16\""),
        (
            &["a 1 1.1: 4 cycles:", "a 1 1.2: cycles:"],
            "line 4 prints event",
        ),
        (&["a 1 cycles:"], "-F comm,pid,tid,time"),
        (
            &[long.as_str()],
            "line 1 has an event with an unusable name",
        ),
    ] {
        let message = proto::status::chain(&perf(events).unwrap_err());
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn lines_that_are_not_understood_are_counted() {
    let text = "a 1 1.1: 4 cycles:\n\t  1145 work (/app/spin)\nwhat is this\n\n";
    let imported = one(text.as_bytes(), Format::PerfScript);
    assert_eq!(imported.left_out.lines, 1);
    assert_eq!(imported.stacks.len(), 1);
}

#[test]
fn symbols_of_perf_are_taken_apart() {
    use FrameKind::{Kernel, Native, Synthetic};
    for (line, kind, function) in [
        ("1145 work+0xc (/app/spin)", Native, "work"),
        (
            "1145 f(int, char)+0x1 (/a b (deleted))",
            Native,
            "f(int, char)",
        ),
        ("1145 a+0xzz (/app/spin)", Native, "a+0xzz"),
        (
            "1145 core::f::h0123456789abcdef+0x1 (/x)",
            Native,
            "core::f",
        ),
        (
            "1145 [unknown] (/usr/lib/libc.so.6)",
            Synthetic,
            "[libc.so.6]",
        ),
        (
            "ffffffff81c3fa21 [unknown] ([kernel.kallsyms])",
            Synthetic,
            "[kernel]",
        ),
        ("0 [unknown] ([unknown])", Synthetic, "[unknown]"),
        ("1145  (/usr/lib/libc.so.6)", Synthetic, "[libc.so.6]"),
        ("ffffffff81c3fa21 f+0x31 ([kernel.kallsyms])", Kernel, "f"),
        ("ffffffff81c3fa21 f+0x31 (inlined)", Kernel, "f"),
        ("1145 f (inlined)", Native, "f"),
        ("7d8 f+0x7 ([nf_conntrack])", Kernel, "f"),
        (
            "7d8 f+0x7 (/lib/modules/6.1/kernel/net/x.ko.xz)",
            Kernel,
            "f",
        ),
        ("7d8 f+0x7 (/boot/vmlinux-6.1)", Kernel, "f"),
        (
            "7d8 bpf_prog_1234_f (bpf_prog_1234_f)",
            Kernel,
            "bpf_prog_1234_f",
        ),
        (
            "7ffc __vdso_gettimeofday+0x1 ([vdso])",
            Native,
            "__vdso_gettimeofday",
        ),
        ("1145 work", Native, "work"),
        ("1145 f(int)", Native, "f(int)"),
    ] {
        let text = format!("a 1 1.1: 4 cycles:\n\t{line}\n\n");
        let imported = one(text.as_bytes(), Format::PerfScript);
        let frame = &imported.stacks[0][0];
        assert_eq!((frame.kind, &*frame.function), (kind, function), "{line}");
    }
}
