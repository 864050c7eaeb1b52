//! What other programs read from our bytes: `go tool pprof`, an XML parser.

use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::top;

/// What `command` prints; fails with the line to type when it is missing.
pub(super) fn run(command: &mut Command, install: &str) -> String {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run {command:?}: {error}; {install}"),
    };
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// What `go tool pprof` prints for `answer`'s pprof profile.
fn go_pprof(answer: &ProfileAnswer, options: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("profile.pb.gz");
    std::fs::write(&file, pprof::render(answer)).unwrap();
    run(
        Command::new("go")
            .args(["tool", "pprof"])
            .args(options)
            .arg(&file)
            .env("PPROF_TMPDIR", folder.path())
            .env("TZ", "UTC"),
        "install Go 1.19 or newer: apt-get install golang-go",
    )
}

/// A value of pprof's table in its base unit.
pub(super) fn value(text: &str, unit: &str) -> i128 {
    text.strip_suffix(unit).unwrap_or(text).parse().unwrap()
}

fn check_top(answer: &ProfileAnswer, unit_option: &str, suffix: &str) {
    let report = go_pprof(
        answer,
        &["-top", unit_option, "-nodefraction=0", "-nodecount=0"],
    );
    let (_, table) = report.split_once("cum%\n").unwrap();
    let theirs: Vec<(String, i128, i128)> = table
        .lines()
        .map(|line| {
            let mut rest = line.trim_start();
            let mut cells = Vec::new();
            for _ in 0..5 {
                let (cell, tail) = rest.split_once(' ').unwrap();
                cells.push(cell);
                rest = tail.trim_start();
            }
            (
                rest.to_owned(),
                value(cells[0], suffix),
                value(cells[3], suffix),
            )
        })
        .collect();
    let ours: Vec<(String, i128, i128)> = top::top(&answer.tree)
        .into_iter()
        .map(|row| (row.function.to_string(), row.flat, row.cum))
        .collect();
    assert_eq!(ours, theirs, "{report}");
}

#[test]
fn top_equals_go_tool_pprof_to_the_unit() {
    let recursive = answer(tree(&[
        (
            "main@m.go:1|walk@w.go:3|walk@w.go:3|walk@w.go:4",
            1_000_000_007,
        ),
        ("main@m.go:1|walk@w.go:3|leaf@l.go:1|walk@w.go:3", 3),
        ("main@m.go:1|init@a.go:3", 11),
        ("main@m.go:2|init@b.go:9", 13),
        ("main@m.go:2|zero", 0),
        ("tie.b", 24),
        ("tie.a", 24),
        (
            "std::vec::Vec<T>::push(u8)@vec.rs:7|core::ops::drop<(A, B)>",
            5,
        ),
        (
            "std::vec::Vec<T>::push(u16)@vec.rs:9|_ZN4core3fmt5write17h0123456789abcdefE",
            6,
        ),
        ("k:entry_SYSCALL_64|k:vfs_write", 2),
        ("main@m.go:1|minus", -4),
    ]));
    check_top(&recursive, "-unit=ns", "ns");
    check_top(&spin(), "-unit=ns", "ns");
    check_top(&answer(large(3_600)), "-unit=ns", "ns");
}

#[test]
fn top_of_a_heap_equals_go_tool_pprof_to_the_byte() {
    check_top(&heap(), "-unit=B", "B");
}

#[test]
fn go_tool_pprof_shows_files_lines_and_notes() {
    let lines = go_pprof(&spin(), &["-top", "-lines", "-nodefraction=0"]);
    for expected in [
        "1 window missing between 08:05:10 and 08:05:20",
        "61776 samples (12 lost), observed 10m",
        "Type: cpu",
        "Duration: 600s, Total samples = 624s (104.00%)",
        "runtime.selectgo /go/src/runtime/select.go:121",
        "main.startSink /app/logger/sink.go:38",
    ] {
        assert!(lines.contains(expected), "no {expected:?} in\n{lines}");
    }
    let traces = go_pprof(&spin(), &["-traces", "-lines"]);
    assert!(
        traces.contains("main.(*queue).push /app/logger/queue.go:58"),
        "{traces}"
    );
    let average = go_pprof(&heap(), &["-top"]);
    assert!(average.contains("values are averages"), "{average}");
    assert!(average.contains("Type: inuse_space"), "{average}");
}

/// Texts of all `title` elements of the SVG, as an XML parser reads them.
pub(super) fn titles(svg: &[u8]) -> Vec<String> {
    const READ: &str = "import sys, json, xml.dom.minidom as m\n\
        d = m.parse(sys.argv[1])\n\
        print(json.dumps([t.firstChild.data for t in d.getElementsByTagName('title')]))";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("graph.svg");
    std::fs::write(&file, svg).unwrap();
    let read = run(
        Command::new("python3").arg("-c").arg(READ).arg(&file),
        "install Python: apt-get install python3",
    );
    serde_json::from_str(&read).unwrap()
}

#[test]
fn svg_is_xml_whatever_the_names() {
    let context = RenderContext {
        title: "<&\u{1b}\"]]>".to_owned(),
        subtitle: Some("<&--\u{0}".to_owned()),
    };
    let drawn = svg::render(&hostile(), &context).unwrap();
    let titles_drawn = titles(&drawn);
    for expected in [
        "all (26,000 ms, 100%)",
        "<script>alert(1)</script> (5,000 ms, 19.23%)",
        "a & b (5,000 ms, 19.23%)",
        "y\u{a0}3.5 (",
        "#\u{a0}comment (7,000 ms, 26.92%)",
        "12 (8,000 ms, 30.77%)",
    ] {
        assert!(
            titles_drawn.iter().any(|title| title.starts_with(expected)),
            "no {expected:?} in {titles_drawn:#?}"
        );
    }
    assert!(titles(&svg::render(&answer(CallTree::new()), &context).unwrap()).is_empty());
}

#[test]
fn svg_draws_each_function_once_and_is_interactive() {
    let graph = answer(tree(&[
        ("main", 5_000_000_000),
        ("main|x", 5_000_000_000),
        ("main.init|y", 5_000_000_000),
        ("main 2|z", 5_000_000_000),
    ]));
    let drawn = svg::render(&graph, &context()).unwrap();
    let mut found = titles(&drawn);
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "all (20,000 ms, 100%)",
            "main (10,000 ms, 50.00%)",
            "main.init (5,000 ms, 25.00%)",
            "main\u{a0}2 (5,000 ms, 25.00%)",
            "x (5,000 ms, 25.00%)",
            "y (5,000 ms, 25.00%)",
            "z (5,000 ms, 25.00%)",
        ]
    );
    let text = String::from_utf8(drawn).unwrap();
    assert!(text.contains("logger · cpu") && text.contains("function zoom"));
    let memory = String::from_utf8(svg::render(&heap(), &context()).unwrap()).unwrap();
    assert!(
        memory.contains("main.newQueue (65,536 kB, 98.77%)"),
        "{memory}"
    );
}
