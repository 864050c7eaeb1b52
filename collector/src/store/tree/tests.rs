//! What a tree promises, in memory and read back.

use super::*;
use proptest::prelude::*;

fn frames(names: &[&str]) -> Vec<Frame> {
    names
        .iter()
        .map(|name| Frame::named(FrameKind::Go, name).at("f.go", 3))
        .collect()
}

fn names(tree: &ServiceTree, stack: u32) -> Vec<String> {
    let mut out = Vec::new();
    let mut node = tree.leaf(stack).unwrap();
    while node != 0 {
        let (parent, frame) = tree.nodes()[node as usize];
        out.push(tree.frame(frame).unwrap().function.to_string());
        node = parent;
    }
    out.reverse();
    out
}

fn reload(tree: &ServiceTree, rows: &[Row]) -> ServiceTree {
    let mut rows = rows.to_vec();
    // Runs are read kind by kind, whatever their numbers.
    let place = |key: &[u8]| match key.first() {
        Some(&rows::LATER_STRING_ROW) => rows::STRING_ROW,
        Some(&rows::LATER_FRAME_ROW) => rows::FRAME_ROW,
        kind => kind.copied().unwrap_or(0),
    };
    rows.sort_by_key(|(key, _)| (place(key), key.clone()));
    let mut again = ServiceTree::new(tree.service, tree.epoch);
    for (key, value) in rows {
        again.load_run(&key, &value).unwrap();
    }
    again.loaded();
    again
}

#[test]
fn the_same_stack_has_one_id() {
    let mut tree = ServiceTree::new(ServiceId(1), Epoch(0));
    let a = tree.intern(frames(&["main", "a"]).iter());
    let b = tree.intern(frames(&["main", "b"]).iter());
    assert_eq!(tree.intern(frames(&["main", "a"]).iter()), a);
    assert_ne!(a, b);
    assert_eq!(names(&tree, b), ["main", "b"]);
    assert_eq!((tree.node_count(), tree.stack_count()), (4, 2));
    assert_eq!(
        tree.intern(std::iter::empty()),
        2,
        "the empty stack is one too"
    );
}

#[test]
fn what_was_not_written_is_taken_back_whole() {
    let mut tree = ServiceTree::new(ServiceId(1), Epoch(0));
    tree.intern(frames(&["main", "a"]).iter());
    let first = tree.fresh_rows();
    tree.mark_durable();
    let lost = tree.intern(frames(&["main", "lost", "x"]).iter());
    assert!(!tree.is_durable());
    tree.roll_back();
    assert!(tree.is_durable());
    assert!(tree.fresh_rows().is_empty());
    let kept = tree.intern(frames(&["main", "kept"]).iter());
    assert_eq!(kept, lost, "its ids are free again");
    assert_eq!(names(&tree, kept), ["main", "kept"]);
    let rows = [first, tree.fresh_rows()].concat();
    assert_eq!(names(&reload(&tree, &rows), kept), ["main", "kept"]);
}

#[test]
fn damaged_runs_are_refused() {
    let mut tree = ServiceTree::new(ServiceId(1), Epoch(0));
    for (key, value) in [
        (vec![rows::STACK_ROW, 0, 0, 0, 0], vec![7]),
        (vec![rows::NODE_ROW, 0, 0, 0, 1], vec![0, 0]),
        (vec![rows::STRING_ROW, 0, 0, 0, 5], vec![]),
        (vec![99, 0, 0, 0, 0], vec![]),
        (vec![], vec![]),
    ] {
        assert!(tree.load_run(&key, &value).is_err(), "{key:?}");
    }
}

#[test]
fn a_full_tree_ends_new_stacks_below_what_it_keeps() {
    let deep = ["main", "a", "b", "c", "d", "e", "f"];
    let mut tree = ServiceTree::new(ServiceId(1), Epoch(0)).limited(8);
    let kept = tree.intern(frames(&deep).iter());
    assert!(tree.is_full());
    for (path, expected) in [
        (&deep[..], &deep[..]),
        // A node that is there may be a leaf.
        (&["main", "a"], &["main", "a"]),
        (&["main", "a", "new"], &["main", "a", OVERFLOW]),
        (&["main", "a", "other", "deep"], &["main", "a", OVERFLOW]),
        // There is no room for a second one: the nearest is taken, or the root's.
        (&["main", "a", "b", "x"], &["main", "a", OVERFLOW]),
        (&["main", "b"], &[OVERFLOW]),
        (&["x"], &[OVERFLOW]),
        (&[], &[]),
    ] {
        let stack = tree.intern(frames(path).iter());
        assert_eq!(names(&tree, stack), expected, "{path:?}");
        assert_eq!(tree.intern(frames(path).iter()), stack);
    }
    assert_eq!(tree.node_count(), 10);
    assert_eq!(tree.take_overflowed(), 10);
    assert_eq!(tree.take_overflowed(), 0);
    assert_eq!(names(&tree, kept), deep);
    let rows = tree.fresh_rows();
    assert_eq!(reload(&tree, &rows).nodes, tree.nodes);
}

#[test]
fn names_fill_a_tree_too() {
    let mut tree = ServiceTree::new(ServiceId(1), Epoch(0)).limited(100);
    let long = "x".repeat(100 * NAME_BYTES);
    tree.intern(frames(&[long.as_str()]).iter());
    let strings = tree.string_count();
    let stack = tree.intern(frames(&["new", "names"]).iter());
    assert_eq!(names(&tree, stack), [OVERFLOW]);
    assert_eq!(tree.string_count(), strings);
}

proptest! {
    #[test]
    fn rows_reload_to_the_same_tree(groups in proptest::collection::vec(
        proptest::collection::vec(proptest::collection::vec("[a-d]", 0..5), 0..5), 0..5)) {
        let mut tree = ServiceTree::new(ServiceId(1), Epoch(3));
        let mut rows = Vec::new();
        for group in &groups {
            for stack in group {
                let names: Vec<&str> = stack.iter().map(String::as_str).collect();
                tree.intern(frames(&names).iter());
            }
            rows.extend(tree.fresh_rows());
            tree.mark_durable();
        }
        let mut again = reload(&tree, &rows);
        prop_assert_eq!(&again.nodes, &tree.nodes);
        prop_assert_eq!(&again.stacks, &tree.stacks);
        prop_assert_eq!(&again.frames, &tree.frames);
        prop_assert!(again.is_durable());
        prop_assert_eq!(&again.outermost, &tree.outermost);
        prop_assert!(again.bytes() <= tree.bytes());
        for group in &groups {
            for stack in group {
                let names: Vec<&str> = stack.iter().map(String::as_str).collect();
                let known = tree.intern(frames(&names).iter());
                prop_assert_eq!(again.intern(frames(&names).iter()), known);
            }
        }
        prop_assert!(again.is_durable());
    }
}
