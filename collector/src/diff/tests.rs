use std::time::Duration;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use proto::stack::{Frame, FrameKind};
use proto::value_type::{ProfileType, Temporality};
use proto::window::{UnixNanos, Window};

use super::*;
use crate::answer::{Coverage, ProfileAnswer};

/// A frame from `name` or `name:line`.
fn frame(text: &str) -> Frame {
    match text.split_once(':') {
        None => Frame::named(FrameKind::Go, text),
        Some((name, line)) => Frame::named(FrameKind::Go, name).at("x.go", line.parse().unwrap()),
    }
}

fn tree(samples: &[(&str, i128)]) -> CallTree {
    let mut tree = CallTree::new();
    for (stack, value) in samples {
        let frames: Vec<Frame> = stack.split(' ').map(frame).collect();
        tree.add(frames.iter(), *value);
    }
    tree
}

fn answer(tree: CallTree, observed_s: u64) -> ProfileAnswer {
    ProfileAnswer {
        profile_type: ProfileType::cpu(),
        temporality: Temporality::Delta,
        period: 10_000_000,
        window: Window::from_start(UnixNanos::new(0), 600_000_000_000).unwrap(),
        tree,
        coverage: Coverage {
            windows: 1,
            series: 1,
            observed: Duration::from_secs(observed_s),
            ..Coverage::default()
        },
    }
}

/// `path base>new` of every node's total, one per line, sorted.
fn text(diff: &DiffTree) -> String {
    let totals = diff.totals();
    let mut paths: Vec<String> = vec![String::new()];
    let mut lines = Vec::new();
    for (at, node) in diff.new_side().nodes().iter().enumerate().skip(1) {
        let frame = diff.new_side().frame_of(at).unwrap();
        assert_eq!(Some(frame), diff.base_side().frame_of(at));
        let line = match frame.line {
            0 => String::new(),
            line => format!(":{line}"),
        };
        let path = format!("{} {}{line}", paths[index(node.parent)], frame.function);
        paths.push(path.trim().to_owned());
        lines.push(format!(
            "{} {}>{}\n",
            paths[at], totals[at].base, totals[at].new
        ));
    }
    lines.sort();
    lines.concat()
}

fn check(diff: &DiffTree, expected: Expect) {
    expected.assert_eq(&text(diff));
}

fn before() -> CallTree {
    tree(&[
        ("main:1 serve:5 read:9", 40),
        ("main:1 serve:6 write:3", 10),
        ("main:1 old:2", 7),
        ("main:1", 3),
    ])
}

fn after() -> CallTree {
    tree(&[
        ("main:1 serve:7 read:9", 20),
        ("main:1 serve:6 write:3", 10),
        ("main:1 spin:8 select:4", 170),
    ])
}

#[test]
fn the_union_has_each_path_once_with_both_values() {
    check(
        &DiffTree::new(&before(), &after()),
        expect![[r#"
            main:1 60>200
            main:1 old:2 7>0
            main:1 serve:5 40>0
            main:1 serve:5 read:9 40>0
            main:1 serve:6 10>10
            main:1 serve:6 write:3 10>10
            main:1 serve:7 0>20
            main:1 serve:7 read:9 0>20
            main:1 spin:8 0>170
            main:1 spin:8 select:4 0>170
        "#]],
    );
}

#[test]
fn lines_that_moved_are_one_function_at_the_new_line() {
    check(
        &DiffTree::new(&before(), &after()).fold_lines(),
        expect![[r#"
            main:1 60>200
            main:1 old:2 7>0
            main:1 serve:7 50>30
            main:1 serve:7 read:9 40>20
            main:1 serve:7 write:3 10>10
            main:1 spin:8 0>170
            main:1 spin:8 select:4 0>170
        "#]],
    );
}

#[test]
fn what_is_pruned_keeps_both_sides() {
    let (pruned, count) = DiffTree::new(&before(), &after()).fold_lines().prune(6);
    check(
        &pruned,
        expect![[r#"
            main:1 60>200
            main:1 other 57>30
            main:1 spin:8 0>170
            main:1 spin:8 select:4 0>170
        "#]],
    );
    assert_eq!(count, 4);
    let (untouched, count) = pruned.prune(100);
    assert_eq!((text(&untouched), count), (text(&pruned), 0));
}

#[test]
fn what_moved_within_a_subtree_is_a_change() {
    let diff = DiffTree::new(
        &tree(&[("main f x", 9), ("main g", 8)]),
        &tree(&[("main f y", 9), ("main g", 8)]),
    );
    let (kept, _) = diff.prune(5);
    check(
        &kept,
        expect![[r#"
            main 17>17
            main f 9>9
            main f other 9>9
            main other 8>8
        "#]],
    );
    let named = |name: &str| {
        (0..diff.new_side().nodes().len())
            .find(|&at| {
                diff.new_side()
                    .frame_of(at)
                    .is_some_and(|f| &*f.function == name)
            })
            .map(|at| (diff.changed()[at], diff.totals()[at].delta()))
    };
    assert_eq!(named("f"), Some((18, 0)));
    assert_eq!(named("g"), Some((0, 0)));
}

#[test]
fn functions_are_ordered_by_their_change() {
    let diff = DiffTree::new(&before(), &after());
    let rows: Vec<(String, Change, Change, u32)> = diff
        .functions()
        .into_iter()
        .map(|row| (row.function.to_string(), row.flat, row.cum, row.line))
        .collect();
    let change = |base, new| Change { base, new };
    let expected = [
        ("select", change(0, 170), change(0, 170), 4),
        ("read", change(40, 20), change(40, 20), 9),
        ("old", change(7, 0), change(7, 0), 2),
        ("main", change(3, 0), change(60, 200), 1),
        ("spin", change(0, 0), change(0, 170), 8),
        ("serve", change(0, 0), change(50, 30), 7),
        ("write", change(10, 10), change(10, 10), 3),
    ]
    .map(|(name, flat, cum, line)| (name.to_owned(), flat, cum, line));
    assert_eq!(rows, expected);
}

#[test]
fn a_recursive_function_counts_once_per_sample_on_both_sides() {
    let diff = DiffTree::new(&tree(&[("main f f", 5)]), &tree(&[("main f g f", 7)]));
    let rows = diff.functions();
    let f = rows.iter().find(|row| &*row.function == "f").unwrap();
    assert_eq!(f.cum, Change { base: 5, new: 7 });
}

#[test]
fn changes_are_new_minus_base_in_parts_of_the_base() {
    for (base, new, delta, relative) in [
        (10, 15, 5, Some(0.5)),
        (10, 0, -10, Some(-1.0)),
        (0, 7, 7, None),
        (0, 0, 0, None),
        (-10, -5, 5, Some(0.5)),
        (i128::MIN, i128::MAX, i128::MAX, Some(2.0)),
    ] {
        let change = Change { base, new };
        assert_eq!((change.delta(), change.relative()), (delta, relative));
    }
}

#[test]
fn ratios_are_exact_and_hold_at_the_limit() {
    for (numerator, denominator, value, expected) in [
        (1, 3, 2, 1),
        (1, 3, 1, 0),
        (1, 2, 1, 1),
        (1, 2, -1, -1),
        (1, 2, -3, -2),
        (2, 3, i128::MAX, i128::MAX / 3 * 2 + 1),
        (7, 7, i128::MIN, i128::MIN),
        (2, 1, i128::MAX, i128::MAX),
        (2, 1, i128::MIN, i128::MIN),
        (u128::MAX / 2, u128::MAX / 2 - 1, i128::MAX - 1, i128::MAX),
        (1, u128::MAX / 2, i128::MAX, 1),
        (u128::MAX / 2, 1, 0, 0),
    ] {
        let ratio = Ratio::new(numerator, denominator).unwrap();
        assert_eq!(ratio.times(value), expected, "{value} × {ratio:?}");
    }
    for (numerator, denominator) in [(0, 1), (1, 0), (0, 0), (u128::MAX, 1), (1, u128::MAX)] {
        assert_eq!(Ratio::new(numerator, denominator), None);
    }
    assert_eq!(Ratio::new(12, 12), Some(Ratio::ONE));
}

#[test]
fn each_reading_scales_the_base_by_its_own_amount() {
    let base = answer(tree(&[("main a", 600), ("main b", 600)]), 600);
    let new = answer(tree(&[("main a", 100), ("main b", 300)]), 60);
    for (reading, expected) in [
        (
            Reading::Absolute,
            "main 1200>400\nmain a 600>100\nmain b 600>300\n",
        ),
        (
            Reading::PerTime,
            "main 120>400\nmain a 60>100\nmain b 60>300\n",
        ),
        (
            Reading::Share,
            "main 400>400\nmain a 200>100\nmain b 200>300\n",
        ),
    ] {
        let diff = DiffAnswer::new(&base, &new, reading).unwrap();
        assert_eq!(text(&diff.tree), expected, "{reading:?}");
        assert_eq!((diff.base.total, diff.new.total), (1200, 400));
    }
}

#[test]
fn averages_are_not_scaled_by_time() {
    let gauge = |value, observed_s| ProfileAnswer {
        profile_type: "memory:inuse_space:bytes:space:bytes".parse().unwrap(),
        temporality: Temporality::Gauge,
        ..answer(tree(&[("main", value)]), observed_s)
    };
    let (base, new) = (gauge(100, 600), gauge(120, 60));
    let diff = DiffAnswer::new(&base, &new, Reading::PerTime).unwrap();
    assert_eq!(
        (diff.scale, text(&diff.tree)),
        (Ratio::ONE, "main 100>120\n".to_owned())
    );
    let diff = DiffAnswer::new(&base, &new, Reading::Share).unwrap();
    assert_eq!(text(&diff.tree), "main 120>120\n");
}

#[test]
fn what_cannot_be_scaled_is_shown_as_measured_and_said() {
    let some = answer(tree(&[("main", 9)]), 60);
    for (base, new, reading, says) in [
        (
            answer(tree(&[("main", 4)]), 0),
            some.clone(),
            Reading::PerTime,
            true,
        ),
        (
            answer(tree(&[("main", -4)]), 60),
            some.clone(),
            Reading::Share,
            true,
        ),
        (
            answer(CallTree::new(), 0),
            some.clone(),
            Reading::PerTime,
            false,
        ),
        (
            some.clone(),
            answer(CallTree::new(), 60),
            Reading::Share,
            false,
        ),
    ] {
        let diff = DiffAnswer::new(&base, &new, reading).unwrap();
        assert_eq!(diff.scale, Ratio::ONE);
        assert_eq!(diff.tree.total().base, base.tree.total());
        let said = diff.notes.iter().any(|note| note.contains("as measured"));
        assert_eq!(said, says, "{:?}", diff.notes);
    }
}

#[test]
fn different_things_are_not_compared_unless_one_is_empty() {
    let cpu = answer(tree(&[("main", 9)]), 60);
    let mut heap = cpu.clone();
    heap.profile_type = "memory:inuse_space:bytes:space:bytes".parse().unwrap();
    let error = DiffAnswer::new(&cpu, &heap, Reading::Absolute).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the base counts cpu:nanoseconds and the new profile inuse_space:bytes, which cannot be compared"
    );
    heap.coverage.windows = 0;
    heap.tree = CallTree::new();
    for (base, new) in [(&cpu, &heap), (&heap, &cpu)] {
        let diff = DiffAnswer::new(base, new, Reading::Absolute).unwrap();
        assert_eq!(diff.profile_type, ProfileType::cpu());
    }
}

#[test]
fn a_comparison_survives_the_wire() {
    for reading in [Reading::PerTime, Reading::Absolute, Reading::Share] {
        let (base, new) = (answer(before(), 60), answer(after(), 90));
        let sent = DiffAnswer::new(&base, &new, reading).unwrap().pruned(5);
        let read = DiffAnswer::from_wire(sent.to_wire()).unwrap();
        assert_eq!(text(&read.tree), text(&sent.tree));
        assert_eq!((&read.base, &read.new), (&sent.base, &sent.new));
        assert_eq!((read.reading, read.scale), (sent.reading, sent.scale));
        assert_eq!(read.pruned_nodes, sent.pruned_nodes);
        assert_eq!(read.notes, sent.notes);
        let cases: [fn(&mut proto::pb::tepui::DiffResponse); 4] = [
            |wire| wire.base = None,
            |wire| wire.scale = "1/0".to_owned(),
            |wire| wire.reading = 9,
            |wire| wire.base_self_values.push(1),
        ];
        for change in cases {
            let mut wire = sent.to_wire();
            change(&mut wire);
            assert!(DiffAnswer::from_wire(wire).is_err());
        }
    }
}

#[test]
fn unequal_bases_are_noted() {
    let mut base = answer(tree(&[("main", 9)]), 60);
    let mut new = answer(tree(&[("main", 9)]), 120);
    base.coverage.series = 10;
    new.coverage.pruned_nodes = 3;
    for (reading, expected) in [
        (
            Reading::Absolute,
            ["10 series", "lengths of time", "pruned by itself"].as_slice(),
        ),
        (Reading::PerTime, &["10 series", "pruned by itself"]),
        (Reading::Share, &["pruned by itself"]),
    ] {
        let notes = DiffAnswer::new(&base, &new, reading).unwrap().notes;
        assert_eq!(notes.len(), expected.len(), "{notes:?}");
        assert!(
            notes
                .iter()
                .zip(expected)
                .all(|(note, part)| note.contains(part))
        );
    }
}

#[test]
fn a_value_without_frames_has_a_name_on_both_sides() {
    let mut bare = tree(&[("main", 2)]);
    bare.add_self(0, 3);
    let diff = DiffAnswer::new(
        &answer(bare, 60),
        &answer(CallTree::new(), 60),
        Reading::Absolute,
    );
    assert_eq!(text(&diff.unwrap().tree), "[no stack] 3>0\nmain 2>0\n");
}

#[test]
fn extremes_are_held_and_do_not_panic() {
    let extreme = |sign: bool| {
        let (a, b) = if sign {
            (i128::MAX, i128::MIN)
        } else {
            (i128::MIN, i128::MAX)
        };
        answer(tree(&[("m a", a), ("m b", b), ("m a c", a), ("d", 1)]), 1)
    };
    let mut long = extreme(false);
    long.coverage.observed = Duration::MAX;
    for base in [extreme(true), extreme(false), long.clone()] {
        for new in [extreme(true), extreme(false), long.clone()] {
            for reading in [Reading::Absolute, Reading::PerTime, Reading::Share] {
                let diff = DiffAnswer::new(&base, &new, reading).unwrap();
                let pruned = diff.pruned(3);
                assert!(pruned.tree.new_side().nodes().len() <= 3);
                assert!(!pruned.tree.functions().is_empty());
                assert!(!diff.tree.functions().is_empty());
            }
        }
    }
}

type Samples = Vec<(Vec<(u8, u32)>, i128)>;

fn samples() -> impl Strategy<Value = Samples> {
    let value = prop_oneof![-9i128..99, -(1i128 << 90)..(1i128 << 90)];
    let stack = prop::collection::vec((0u8..4, 1u32..3), 0..6);
    prop::collection::vec((stack, value), 0..30)
}

fn tree_of(samples: &Samples) -> CallTree {
    let mut tree = CallTree::new();
    for (stack, value) in samples {
        let frames: Vec<Frame> = stack
            .iter()
            .map(|(name, line)| frame(&format!("f{name}:{line}")))
            .collect();
        tree.add(frames.iter(), *value);
    }
    tree
}

/// Per path of frames from the root: the node's total.
fn totals_by_path(tree: &CallTree) -> std::collections::BTreeMap<Vec<Frame>, i128> {
    let totals = tree.totals();
    (0..tree.nodes().len())
        .map(|at| {
            let mut path = Vec::new();
            let mut here = at;
            while let Some(frame) = tree.frame_of(here) {
                path.push(frame.clone());
                here = index(tree.nodes()[here].parent);
            }
            path.reverse();
            (path, totals[at])
        })
        .collect()
}

proptest! {
    #[test]
    fn a_tree_does_not_differ_from_itself(samples in samples(), observed_s in 0u64..3) {
        let side = answer(tree_of(&samples), observed_s);
        for reading in [Reading::Absolute, Reading::PerTime, Reading::Share] {
            let diff = DiffAnswer::new(&side, &side, reading).unwrap();
            prop_assert!(diff.tree.totals().iter().all(|change| change.delta() == 0));
            prop_assert!(diff.tree.changed().iter().all(|&changed| changed == 0));
            let rows = diff.tree.functions();
            prop_assert!(rows.iter().all(|row| row.flat.delta() == 0 && row.cum.delta() == 0));
        }
    }

    #[test]
    fn base_and_delta_are_new_and_both_sides_are_the_inputs(
        base in samples(), new in samples(),
    ) {
        let (base, new) = (tree_of(&base), tree_of(&new));
        let diff = DiffTree::new(&base, &new);
        for change in diff.totals().iter().chain(&diff.selves()) {
            prop_assert_eq!(change.base + change.delta(), change.new);
        }
        for (side, input) in [(diff.base_side(), &base), (diff.new_side(), &new)] {
            prop_assert_eq!(side.total(), input.total());
            let (side, input) = (totals_by_path(side), totals_by_path(input));
            for (path, total) in &side {
                prop_assert_eq!(input.get(path).copied().unwrap_or(0), *total);
            }
            prop_assert!(input.keys().all(|path| side.contains_key(path)));
        }
        let rows = diff.functions();
        for (input, of) in [(&base, false), (&new, true)] {
            for row in top::top(input) {
                let ours = rows.iter().find(|ours| ours.function == row.function).unwrap();
                let side = |change: Change| if of { change.new } else { change.base };
                prop_assert_eq!((side(ours.flat), side(ours.cum)), (row.flat, row.cum));
            }
        }
    }

    #[test]
    fn folding_and_pruning_keep_both_totals(
        base in samples(), new in samples(), max_nodes in 2usize..20,
    ) {
        let diff = DiffTree::new(&tree_of(&base), &tree_of(&new));
        let folded = diff.fold_lines();
        let (pruned, pruned_nodes) = folded.prune(max_nodes);
        for smaller in [&folded, &pruned] {
            prop_assert_eq!(smaller.total(), diff.total());
            prop_assert_eq!(smaller.base_side().frames(), smaller.new_side().frames());
        }
        prop_assert!(pruned.new_side().nodes().len() <= max_nodes);
        let is_other = |at: usize| {
            let frame = pruned.new_side().frame_of(at);
            frame.is_some_and(|frame| &*frame.function == prune::OTHER)
        };
        let named = (0..pruned.new_side().nodes().len()).filter(|&at| !is_other(at)).count();
        prop_assert_eq!(
            u64::try_from(folded.new_side().nodes().len()).unwrap(),
            u64::try_from(named).unwrap() + pruned_nodes
        );
        // What kept its name kept its totals.
        for (side, whole) in [
            (pruned.base_side(), folded.base_side()),
            (pruned.new_side(), folded.new_side()),
        ] {
            let whole = totals_by_path(whole);
            for (path, total) in totals_by_path(side) {
                if path.iter().all(|frame| &*frame.function != prune::OTHER) {
                    prop_assert_eq!(whole.get(&path), Some(&total));
                }
            }
        }
        let rows = |tree: &DiffTree| {
            tree.functions().into_iter().map(|row| (row.function, row.flat, row.cum)).collect::<Vec<_>>()
        };
        prop_assert_eq!(rows(&folded), rows(&diff));
    }

    #[test]
    fn what_is_by_function_need_not_be_folded_again(
        base in samples(), new in samples(), max_nodes in 1usize..20,
    ) {
        // A function called as what is pruned.
        let tree = |samples: &Samples| {
            let mut tree = CallTree::new();
            for (stack, value) in samples {
                let name = |name: &u8| if *name == 3 { "other".to_owned() } else { format!("f{name}") };
                let frames = stack.iter().map(|(of, line)| frame(&format!("{}:{line}", name(of))));
                tree.add(frames.collect::<Vec<_>>().iter(), *value);
            }
            tree
        };
        let folded = DiffTree::new(&tree(&base), &tree(&new)).fold_lines();
        let (pruned, _) = folded.prune(max_nodes);
        for tree in [folded, pruned] {
            let anew = DiffTree::of_sides(tree.base_side().clone(), tree.new_side().clone());
            prop_assert_eq!(text(&tree.fold_lines()), text(&anew.fold_lines()));
        }
    }

    #[test]
    fn trees_that_are_alike_compare_as_others_do(
        samples in samples(), selves in prop::collection::vec(-9i128..99, 0..60),
    ) {
        let base = tree_of(&samples);
        let new = base.with_selves(selves);
        prop_assert!(base.is_alike(&new));
        let other = tree_of(&samples.into_iter().rev().collect());
        let mut unlike = CallTree::new();
        hang(&mut unlike, &other, |_| 0);
        hang(&mut unlike, &new, |at| new.nodes()[at].self_value);
        prop_assert_eq!(text(&DiffTree::new(&base, &new)), text(&DiffTree::new(&base, &unlike)));
    }

    #[test]
    fn scaling_is_off_by_less_than_one_in_every_subtree(
        samples in samples(), numerator in 1u128..1000, denominator in 1u128..1000,
    ) {
        let ratio = Ratio::new(numerator, denominator).unwrap();
        let tree = tree_of(&samples);
        let diff = DiffTree::new(&tree, &CallTree::new());
        let scaled = diff.scale_base(ratio);
        prop_assert_eq!(scaled.total().base, ratio.times(tree.total()));
        let (n, d) = (i128::try_from(numerator).unwrap(), i128::try_from(denominator).unwrap());
        for (before, after) in diff.totals().iter().zip(scaled.totals()) {
            let off = after.base * d - before.base * n;
            prop_assert!(off.abs() <= d, "{} is not {} × {n}/{d}", after.base, before.base);
        }
        prop_assert!(diff.selves().iter().zip(scaled.selves())
            .all(|(before, after)| before.base != 0 || after.base == 0));
    }

    #[test]
    fn ratios_round_as_whole_numbers_do(
        value in -(1i128 << 60)..(1i128 << 60), n in 1i128..(1 << 60), d in 1i128..(1 << 60),
    ) {
        let ratio = Ratio::new(n.unsigned_abs(), d.unsigned_abs()).unwrap();
        let product = value * n;
        let rounded = (product.abs() * 2 + d) / (d * 2) * product.signum();
        prop_assert_eq!(ratio.times(value), rounded);
    }
}
