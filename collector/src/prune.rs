//! Smaller trees from larger ones: lines folded to functions, light nodes
//! folded into `other`. Pure.
//!
//! Each function keeps the tree's total. What was folded is counted, so that an
//! answer can say so.

use proto::stack::{Frame, FrameKind};
#[cfg(test)]
use regex::Regex;
use rustc_hash::FxHashMap;

use crate::top::Functions;
use crate::tree::CallTree;

/// Function name of the nodes that stand for what was pruned.
pub const OTHER: &str = "other";

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

/// Per node: the sum of the sizes of all values at and below it. Unlike a
/// total, it never grows towards the leaves.
pub(crate) fn sizes(tree: &CallTree) -> Vec<u128> {
    let mut sizes: Vec<u128> = tree
        .nodes()
        .iter()
        .map(|node| node.self_value.unsigned_abs())
        .collect();
    for (child, node) in tree.nodes().iter().enumerate().skip(1).rev() {
        let size = sizes.get(child).copied().unwrap_or(0);
        if let Some(parent) = sizes.get_mut(index(node.parent)) {
            *parent = parent.saturating_add(size);
        }
    }
    sizes
}

/// What frames are chosen by: the first number and, of equal ones, the second.
pub(crate) type Weight = (u128, u128);

/// A smaller tree, and where the nodes of the larger one went.
#[derive(Debug)]
pub(crate) struct Smaller {
    /// The tree, with the values of the larger.
    pub(crate) tree: CallTree,
    /// Per node of the larger tree: its node in the smaller.
    pub(crate) places: Vec<usize>,
    /// Nodes of the larger tree that are in an [`OTHER`] now.
    pub(crate) pruned_nodes: u64,
}

/// Returns `tree` with the nodes of one function under one parent merged.
///
/// A function is known by its name, as in [`crate::top`]. A merged node shows
/// the frame, with file and line, that the largest part of its value went
/// through; ties go to the smallest frame.
pub fn fold_lines(tree: &CallTree) -> CallTree {
    let sizes: Vec<Weight> = sizes(tree).into_iter().map(|size| (size, 0)).collect();
    fold_lines_by(tree, &sizes).tree
}

/// As [`fold_lines`], with the frame of a merged node chosen by `sizes`, one
/// per node.
pub(crate) fn fold_lines_by(tree: &CallTree, sizes: &[Weight]) -> Smaller {
    let functions = Functions::of(tree);
    // Per node of `tree`: its merged node. A merged node: parent and best frame.
    let mut merged_of = vec![0_usize; tree.nodes().len()];
    let mut merged: Vec<(usize, Option<(Weight, u32)>)> = vec![(0, None)];
    let mut ids: FxHashMap<(usize, usize), usize> = FxHashMap::default();
    // The same frame under one merged parent may come from several nodes.
    let mut frame_sizes: FxHashMap<(usize, u32), Weight> = FxHashMap::default();
    for (at, node) in tree.nodes().iter().enumerate().skip(1) {
        let (Some(frame), Some(function)) = (node.frame, functions.of_node(tree, at)) else {
            continue;
        };
        let parent = merged_of.get(index(node.parent)).copied().unwrap_or(0);
        let id = *ids.entry((parent, function)).or_insert_with(|| {
            merged.push((parent, None));
            merged.len() - 1
        });
        if let Some(slot) = merged_of.get_mut(at) {
            *slot = id;
        }
        let size = frame_sizes.entry((id, frame)).or_default();
        let more = sizes.get(at).copied().unwrap_or_default();
        *size = (size.0.saturating_add(more.0), size.1.saturating_add(more.1));
    }
    for (&(id, frame), &size) in &frame_sizes {
        let Some((_, best)) = merged.get_mut(id) else {
            continue;
        };
        let frame_at = |frame: u32| tree.frames().get(index(frame));
        let better = best.is_none_or(|(best_size, best_frame)| {
            size > best_size || (size == best_size && frame_at(frame) < frame_at(best_frame))
        });
        if better {
            *best = Some((size, frame));
        }
    }
    let mut folded = CallTree::new();
    let mut node_of = vec![0_usize; merged.len()];
    for (id, (parent, best)) in merged.iter().enumerate().skip(1) {
        let frame = best.and_then(|(_, frame)| tree.frames().get(index(frame)));
        if let (Some(frame), Some(&parent)) = (frame, node_of.get(*parent)) {
            let node = folded.child(parent, frame);
            if let Some(slot) = node_of.get_mut(id) {
                *slot = node;
            }
        }
    }
    let places: Vec<usize> = merged_of
        .iter()
        .map(|&id| node_of.get(id).copied().unwrap_or(0))
        .collect();
    for (node, &place) in tree.nodes().iter().zip(&places) {
        folded.add_self(place, node.self_value);
    }
    Smaller {
        tree: folded,
        places,
        pruned_nodes: 0,
    }
}

/// What [`crate::flatten`] chooses, from a call tree: the samples of `tree` with a
/// function that `focus` matches and none that `ignore` matches; the patterns are searched for, not anchored.
#[cfg(test)]
pub(crate) fn focus(tree: &CallTree, focus: Option<&Regex>, ignore: Option<&Regex>) -> CallTree {
    let matches = |pattern: Option<&Regex>| -> Vec<bool> {
        tree.frames()
            .iter()
            .map(|frame| pattern.is_some_and(|pattern| pattern.is_match(&frame.function)))
            .collect()
    };
    let (focused, ignored) = (matches(focus), matches(ignore));
    let hit = |list: &[bool], frame: u32| list.get(index(frame)).copied().unwrap_or(false);
    let mut seen = vec![(focus.is_none(), false); tree.nodes().len()];
    for (at, node) in tree.nodes().iter().enumerate().skip(1) {
        let above = seen.get(index(node.parent)).copied();
        if let (Some((focus, ignore)), Some(frame), Some(slot)) =
            (above, node.frame, seen.get_mut(at))
        {
            *slot = (
                focus || hit(&focused, frame),
                ignore || hit(&ignored, frame),
            );
        }
    }
    let keeps = |at: usize| seen.get(at) == Some(&(true, false));
    // A node stays when it or a node below it keeps a value.
    let mut stays = vec![false; tree.nodes().len()];
    for (at, node) in tree.nodes().iter().enumerate().rev() {
        if node.self_value != 0
            && keeps(at)
            && let Some(slot) = stays.get_mut(at)
        {
            *slot = true;
        }
        if stays.get(at) == Some(&true)
            && let Some(parent) = stays.get_mut(index(node.parent))
        {
            *parent = true;
        }
    }
    let mut chosen = CallTree::new();
    let mut node_of = vec![0_usize; tree.nodes().len()];
    for (at, node) in tree.nodes().iter().enumerate() {
        if stays.get(at) != Some(&true) {
            continue;
        }
        let mut id = 0;
        if let (Some(frame), Some(&parent)) = (tree.frame_of(at), node_of.get(index(node.parent))) {
            id = chosen.child(parent, frame);
        }
        if let Some(slot) = node_of.get_mut(at) {
            *slot = id;
        }
        if keeps(at) {
            chosen.add_self(id, node.self_value);
        }
    }
    chosen
}

/// Which nodes stay so that they and their `other` are at most `max_nodes`:
/// those with the largest of `sizes`, which never grow towards the leaves.
fn heaviest(tree: &CallTree, sizes: &[u128], max_nodes: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..tree.nodes().len()).collect();
    // Ties by index, so that a parent always comes before its children.
    order.sort_unstable_by_key(|&at| (std::cmp::Reverse(sizes.get(at)), at));
    let mut dropped_children: Vec<usize> = tree.children().iter().map(Vec::len).collect();
    let mut stays = vec![false; tree.nodes().len()];
    let mut size = 0_usize;
    for at in order {
        let Some(node) = tree.nodes().get(at) else {
            continue;
        };
        let own_other = usize::from(dropped_children.get(at).is_some_and(|&count| count > 0));
        let parent = index(node.parent);
        let completes = at != 0 && dropped_children.get(parent) == Some(&1);
        let larger = size + 1 + own_other - usize::from(completes);
        if at != 0 && larger > max_nodes {
            break;
        }
        size = larger;
        if at != 0
            && let Some(count) = dropped_children.get_mut(parent)
        {
            *count = count.saturating_sub(1);
        }
        if let Some(slot) = stays.get_mut(at) {
            *slot = true;
        }
    }
    stays
}

/// Returns the heaviest nodes of `tree`, at most `max_nodes` with the root and
/// the nodes called [`OTHER`], one per parent, that hold the rest; and how many
/// nodes those stand for. The total stays.
///
/// The root and one `other` stay even when `max_nodes` is less than two.
pub fn prune(tree: &CallTree, max_nodes: usize) -> (CallTree, u64) {
    let smaller = prune_by(tree, &sizes(tree), max_nodes);
    (smaller.tree, smaller.pruned_nodes)
}

/// As [`prune`], with the heaviest nodes chosen by `sizes`, one per node, which
/// must not grow towards the leaves.
pub(crate) fn prune_by(tree: &CallTree, sizes: &[u128], max_nodes: usize) -> Smaller {
    if tree.nodes().len() <= max_nodes {
        return Smaller {
            tree: tree.clone(),
            places: (0..tree.nodes().len()).collect(),
            pruned_nodes: 0,
        };
    }
    let stays = heaviest(tree, sizes, max_nodes);
    let other = Frame::named(FrameKind::Synthetic, OTHER);
    let mut pruned = CallTree::new();
    let mut pruned_nodes = 0_u64;
    // Per node: its node in the pruned tree, and whether that is an `other`.
    let mut node_of = vec![(0_usize, false); tree.nodes().len()];
    for (at, node) in tree.nodes().iter().enumerate() {
        let (parent, folded) = node_of
            .get(index(node.parent))
            .copied()
            .unwrap_or((0, false));
        let place = match (tree.frame_of(at), stays.get(at)) {
            (None, _) => (0, false),
            (Some(frame), Some(true)) => (pruned.child(parent, frame), false),
            _ if folded => (parent, true),
            _ => (pruned.child(parent, &other), true),
        };
        pruned_nodes = pruned_nodes.saturating_add(u64::from(place.1));
        pruned.add_self(place.0, node.self_value);
        if let Some(slot) = node_of.get_mut(at) {
            *slot = place;
        }
    }
    Smaller {
        tree: pruned,
        places: node_of.into_iter().map(|(node, _)| node).collect(),
        pruned_nodes,
    }
}

/// Returns `tree` with the value of samples that had no frame moved from the
/// root to a frame of its own, or `None` if there is no such value.
pub(crate) fn name_empty_stacks(tree: &CallTree) -> Option<CallTree> {
    let root = tree.nodes().first()?.self_value;
    if root == 0 {
        return None;
    }
    let mut named = tree.clone();
    named.add_self(0, root.checked_neg()?);
    let no_stack = Frame::named(FrameKind::Synthetic, "[no stack]");
    named.add(std::iter::once(&no_stack), root);
    Some(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(text: &str) -> Frame {
        match text.split_once(':') {
            None => Frame::named(FrameKind::Go, text),
            Some((name, line)) => {
                Frame::named(FrameKind::Go, name).at("x.go", line.parse().unwrap())
            }
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

    /// `root child:line=total` per node, in order.
    fn text(tree: &CallTree) -> Vec<String> {
        let totals = tree.totals();
        let mut paths = vec![String::new()];
        for (at, node) in tree.nodes().iter().enumerate().skip(1) {
            let frame = tree.frame_of(at).unwrap();
            let line = if frame.line == 0 {
                String::new()
            } else {
                format!(":{}", frame.line)
            };
            let path = format!("{} {}{line}", paths[index(node.parent)], frame.function);
            paths.push(path.trim().to_owned());
        }
        (1..paths.len())
            .map(|at| format!("{}={}", paths[at], totals[at]))
            .collect()
    }

    #[test]
    fn lines_of_a_function_are_one_node_at_the_heaviest_line() {
        let folded = fold_lines(&tree(&[
            ("main:1 f:5 g:9", 4),
            ("main:1 f:6 g:9", 5),
            ("main:2 f:5 h:1", 3),
            ("main:2", 1),
        ]));
        assert_eq!(
            text(&folded),
            [
                "main:1=13",
                "main:1 f:5=12",
                "main:1 f:5 g:9=9",
                "main:1 f:5 h:1=3"
            ]
        );
        assert_eq!(folded.total(), 13);
    }

    #[test]
    fn focus_and_ignore_choose_whole_samples() {
        let whole = tree(&[
            ("main a b", 1),
            ("main a c", 2),
            ("main d b", 4),
            ("main d", 8),
        ]);
        let check = |focus: Option<&str>, ignore: Option<&str>, expected: &[&str]| {
            let pattern = |text: Option<&str>| text.map(|text| Regex::new(text).unwrap());
            let chosen = super::focus(&whole, pattern(focus).as_ref(), pattern(ignore).as_ref());
            assert_eq!(text(&chosen), expected, "{focus:?} {ignore:?}");
        };
        check(
            Some("^a$"),
            None,
            &["main=3", "main a=3", "main a b=1", "main a c=2"],
        );
        check(
            None,
            Some("b"),
            &["main=10", "main a=2", "main a c=2", "main d=8"],
        );
        check(Some("d"), Some("b"), &["main=8", "main d=8"]);
        check(Some("none"), None, &[]);
        check(Some("."), Some("main"), &[]);
    }

    #[test]
    fn what_is_pruned_is_one_other_per_parent_and_counted() {
        let whole = tree(&[
            ("main a x", 50),
            ("main a y", 3),
            ("main a z", 2),
            ("main b p q", 4),
            ("main c", 1),
            ("main", 7),
        ]);
        assert_eq!(whole.nodes().len(), 10);
        let (pruned, pruned_nodes) = prune(&whole, 6);
        assert_eq!(
            text(&pruned),
            [
                "main=67",
                "main a=55",
                "main a x=50",
                "main a other=5",
                "main other=5"
            ]
        );
        assert_eq!(pruned_nodes, 6);
        let (untouched, pruned_nodes) = prune(&whole, 10);
        assert_eq!((untouched.nodes().len(), pruned_nodes), (10, 0));
    }

    #[test]
    fn a_sample_without_frames_gets_a_name() {
        let mut bare = tree(&[("main", 2)]);
        assert!(name_empty_stacks(&bare).is_none());
        bare.add_self(0, 3);
        let named = name_empty_stacks(&bare).unwrap();
        assert_eq!(text(&named), ["main=2", "[no stack]=3"]);
        assert_eq!(named.total(), 5);
    }

    proptest! {
        #[test]
        fn folding_and_pruning_keep_the_total_and_the_cap(
            samples in prop::collection::vec(
                (prop::collection::vec((0u8..4, 1u32..3), 0..7), -9i128..99),
                0..40,
            ),
            max_nodes in 2usize..40,
        ) {
            let mut tree = CallTree::new();
            for (stack, value) in &samples {
                let frames: Vec<Frame> = stack
                    .iter()
                    .map(|(name, line)| Frame::named(FrameKind::Go, &format!("f{name}")).at("f.go", *line))
                    .collect();
                tree.add(frames.iter(), *value);
            }
            let folded = fold_lines(&tree);
            prop_assert_eq!(folded.total(), tree.total());
            prop_assert_eq!(
                crate::top::top(&folded).iter().map(|r| (r.function.to_string(), r.flat, r.cum)).collect::<Vec<_>>(),
                crate::top::top(&tree).iter().map(|r| (r.function.to_string(), r.flat, r.cum)).collect::<Vec<_>>()
            );
            let nodes = tree.nodes().len();
            let total = tree.total();
            let (pruned, pruned_nodes) = prune(&tree, max_nodes);
            prop_assert!(pruned.nodes().len() <= max_nodes);
            prop_assert_eq!(pruned.total(), total);
            let others = pruned.nodes().iter().enumerate()
                .filter(|(at, _)| pruned.frame_of(*at).is_some_and(|f| &*f.function == OTHER))
                .count();
            prop_assert_eq!(u64::try_from(nodes).unwrap(),
                u64::try_from(pruned.nodes().len() - others).unwrap() + pruned_nodes);
        }
    }
}
