//! Tests of what needs no interpreter; `agent/tests/python.rs` has real ones.

use super::*;

#[derive(Debug, PartialEq)]
struct Claimed {
    name: char,
    id: Option<i32>,
    holds_lock: bool,
}

impl Claims for Claimed {
    fn id(&self) -> Option<i32> {
        self.id
    }

    fn holds_lock(&self) -> bool {
        self.holds_lock
    }
}

fn claimed(name: char, id: i32, holds_lock: bool) -> Claimed {
    Claimed {
        name,
        id: Some(id).filter(|id| *id > 0),
        holds_lock,
    }
}

#[test]
fn threads_that_run_are_told_by_id_and_otherwise_by_the_lock() {
    let check = |running: &[i32], python: &[Claimed], expected: &str| {
        let found = matched(running, &[7, 8, 9], 7, python);
        let names: String = found
            .iter()
            .map(|thread| thread.map_or('-', |thread| thread.name))
            .collect();
        assert_eq!(names, expected, "{running:?} {python:?}");
    };
    let known = [claimed('a', 7, true), claimed('b', 8, false)];
    check(&[7], &known, "a");
    check(&[8, 7], &known, "ba");
    // A thread of a library.
    check(&[9, 8], &known, "-b");
    // After a fork: the id is of a thread of the parent.
    check(&[7], &[claimed('a', 99, false)], "a");
    check(&[9], &[claimed('a', 99, true)], "-");
    check(&[9, 7], &[claimed('a', 99, true)], "-a");
    // Before 3.11.
    check(&[7], &[claimed('a', 0, false)], "a");
    let before = [claimed('a', 0, false), claimed('b', 0, true)];
    check(&[8], &before, "b");
    check(&[8, 9], &before, "b-");
    check(&[8], &[claimed('a', 0, false), claimed('b', 0, false)], "-");
    check(&[7], &[], "-");
    check(&[], &known, "");
}

#[test]
fn what_is_no_python_is_told_apart() {
    let own = i32::try_from(std::process::id()).unwrap();
    assert!(!runs_cpython(own));
    assert!(matches!(probe(own), Err(PythonError::NotPython { pid }) if pid == own));
    let mut sampler = PythonSampler::new(PythonOptions::default());
    assert!(matches!(
        sampler.add_process(own),
        Err(PythonError::Read { .. })
    ));
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let gone = i32::try_from(child.id()).unwrap();
    child.wait().unwrap();
    assert!(!runs_cpython(gone));
    assert!(matches!(probe(gone), Err(PythonError::TargetGone { .. })));
    assert!(matches!(
        sampler.add_process(gone),
        Err(PythonError::TargetGone { .. })
    ));
    assert!(!sampler.has_targets());
    sampler.look(Instant::now());
    assert_eq!(sampler.looks_count(), 0);
}
