//! Folded stacks.

use expect_test::expect;
use proto::stack::FrameKind;
use proto::value_type::ProfileType;

use super::*;

#[test]
fn folded_stacks_of_py_spy_have_places() {
    check(
        "py-spy.folded",
        Format::Folded,
        &expect![[r#"
        start None duration None
        process_cpu:cpu:nanoseconds:cpu:nanoseconds Delta period 10101010 weight 10101010 total 26
        python!Thread._bootstrap threading.py:1002;python!Thread._bootstrap_inner threading.py:1045;python!Thread.run threading.py:982;python!loop work.py:12;python!cube work.py:7;python!cube.<locals>.<genexpr> work.py:7 [10]
        python!<module> work.py:20;python!main work.py:17;python!loop work.py:12;python!square work.py:4;python!square.<locals>.<genexpr> work.py:4 [11]
        python!<module> work.py:20;python!main work.py:17;python!loop work.py:12;python!square work.py:4 [3]
        python!Thread._bootstrap threading.py:1002;python!Thread._bootstrap_inner threading.py:1045;python!Thread.run threading.py:982;python!loop work.py:12;python!cube work.py:7 [2]
    "#]],
    );
}

#[test]
fn names_of_folded_stacks_tell_the_kind_of_code() {
    use FrameKind::{Jvm, Kernel, Native, Node, Python, Synthetic};
    for (line, expected) in [
        ("a b;c d 3", vec![(Native, "c d"), (Native, "a b")]),
        (
            "main;sys_read_[k] 1",
            vec![(Kernel, "sys_read"), (Native, "main")],
        ),
        (
            "Main.run_[j];Main.step_[i] 1",
            vec![(Jvm, "Main.step"), (Jvm, "Main.run")],
        ),
        ("main;step_[i] 1", vec![(Native, "step"), (Native, "main")]),
        (
            "Main.run_[0];Main.go_[1] 1",
            vec![(Jvm, "Main.go"), (Jvm, "Main.run")],
        ),
        (
            "LazyCompile:*f /a.js:1_[j] 1",
            vec![(Node, "LazyCompile:*f /a.js:1")],
        ),
        ("py::f:/a.py_[j] 1", vec![(Python, "py::f:/a.py")]),
        ("f (a.py:12) 1", vec![(Python, "f")]),
        ("f (a.c:12) 1", vec![(Native, "f")]),
        ("operator() (int) 1", vec![(Native, "operator() (int)")]),
        (
            "[libc.so.6];a_[i] 1",
            vec![(Native, "a"), (Synthetic, "[libc.so.6]")],
        ),
        ("_[k] 1", vec![(Native, "_[k]")]),
        (";a;;b; 1", vec![(Native, "b"), (Native, "a")]),
        ("a\t1", vec![(Native, "a")]),
    ] {
        let imported = folded(line, &Limits::default());
        let found: Vec<_> = imported.stacks[0]
            .iter()
            .map(|frame| (frame.kind, &*frame.function))
            .collect();
        assert_eq!(found, expected, "{line}");
    }
}

#[test]
fn equal_folded_stacks_are_added_and_comments_skipped() {
    let imported = folded(
        "# made by hand\n\na;b 1\r\na;b 2\na 4\n",
        &Limits::default(),
    );
    assert_eq!(imported.stacks.len(), 2);
    assert_eq!(imported.columns[0].values, [3, 4]);
}

#[test]
fn folded_stacks_count_what_the_caller_says() {
    let bytes: ProfileType = "memory:alloc_space:bytes:space:bytes".parse().unwrap();
    let limits = Limits::default();
    let assumed = Assumed::values(bytes.clone());
    let all = read(b"a 10\n", None, &assumed, &limits).unwrap();
    let column = &all[0].columns[0];
    assert_eq!(column.profile_type, bytes);
    assert_eq!((column.period, column.weight), (0, 1));
    assert_eq!(column.values, [10]);
}

#[test]
fn wrong_lines_of_folded_stacks_are_refused_by_number() {
    for (line, reason) in [
        ("a;b 1.5", "line 2 counts \"1.5\", which is no whole number"),
        ("a;b 2.0", "line 2 counts \"2.0\""),
        ("a;b", "line 2 has no count"),
        ("a;b x", "line 2 has no count"),
        ("a;b 99999999999999999999", "line 2 counts"),
        (" 7", "line 2 has no stack"),
        (";; 7", "line 2 has no stack"),
    ] {
        let message = failure(format!("a 1\n{line}\n").as_bytes(), Format::Folded);
        assert!(message.contains(reason), "{message}");
    }
    let message = failure(b"# nothing\n", Format::Folded);
    assert!(message.contains("no stacks"), "{message}");
}

#[test]
fn a_stack_of_any_length_is_recognized() {
    let bytes = format!("{}leaf 1\n", "recursive;".repeat(20_000));
    assert_eq!(Format::detect(bytes.as_bytes()).unwrap(), Format::Folded);
    let imported = folded(&bytes, &Limits::default());
    assert_eq!(imported.stacks[0].len(), Limits::default().depth + 1);
}
