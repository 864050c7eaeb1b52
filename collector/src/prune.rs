//! Smaller trees from larger ones: lines folded to functions, light nodes
//! folded into `other`. Pure.
//!
//! Each function keeps the tree's total. What was folded is counted, so that an
//! answer can say so.

use std::cmp::Reverse;

use proto::stack::{Frame, FrameKind};
#[cfg(test)]
use regex::Regex;
use rustc_hash::FxHashMap;

use crate::top::Functions;
use crate::tree::{CallTree, Taken};

/// Function name of the nodes that stand for what was pruned.
pub const OTHER: &str = "other";

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

/// Per node: the sum of the sizes of all values at and below it. Unlike a
/// total, it never grows towards the leaves.
pub(crate) fn sizes(tree: &CallTree) -> Vec<u128> {
    let own = tree.nodes().iter().map(|node| node.self_value);
    sizes_of(tree, own.map(i128::unsigned_abs))
}

/// As [`sizes`], of `own`, which are in the order of the nodes of `tree`.
pub(crate) fn sizes_of(tree: &CallTree, own: impl Iterator<Item = u128>) -> Vec<u128> {
    let mut sizes: Vec<u128> = own.collect();
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
    let nodes = tree.nodes();
    // Per node of `tree`: its merged node. A merged node: its parent.
    let mut places = vec![0_usize; nodes.len()];
    let mut parents: Vec<usize> = vec![0];
    let mut ids: FxHashMap<(usize, usize), usize> = FxHashMap::default();
    ids.reserve(nodes.len());
    for (at, node) in nodes.iter().enumerate().skip(1) {
        let Some(function) = functions.of_node(tree, at) else {
            continue;
        };
        let parent = places.get(index(node.parent)).copied().unwrap_or(0);
        let place = *ids.entry((parent, function)).or_insert_with(|| {
            parents.push(parent);
            parents.len() - 1
        });
        if let Some(slot) = places.get_mut(at) {
            *slot = place;
        }
    }
    if parents.len() == nodes.len() {
        return Smaller {
            tree: tree.clone(),
            places,
            pruned_nodes: 0,
        };
    }
    let mut nodes_at = vec![0_u32; parents.len()];
    for &place in &places {
        if let Some(count) = nodes_at.get_mut(place) {
            *count = count.saturating_add(1);
        }
    }
    // The frame of a merged node: that of its only node, or the largest.
    let mut best: Vec<Option<(Weight, u32)>> = vec![None; parents.len()];
    // The same frame under one merged parent may come from several nodes.
    let mut frame_sizes: FxHashMap<(usize, u32), Weight> = FxHashMap::default();
    for ((node, &place), &more) in nodes.iter().zip(&places).zip(sizes) {
        let (Some(frame), Some(best)) = (node.frame, best.get_mut(place)) else {
            continue;
        };
        if nodes_at.get(place) == Some(&1) {
            *best = Some((more, frame));
            continue;
        }
        let size = frame_sizes.entry((place, frame)).or_default();
        *size = (size.0.saturating_add(more.0), size.1.saturating_add(more.1));
    }
    for (&(place, frame), &size) in &frame_sizes {
        let frame_at = |frame: u32| tree.frames().get(index(frame));
        let Some(best) = best.get_mut(place) else {
            continue;
        };
        let is_better = best.is_none_or(|(best_size, best_frame)| {
            size > best_size || (size == best_size && frame_at(frame) < frame_at(best_frame))
        });
        if is_better {
            *best = Some((size, frame));
        }
    }
    let mut folded = Part::of(tree);
    // No two of one parent are of one function, so each becomes a node of its own.
    for (parent, best) in parents.into_iter().zip(best).skip(1) {
        folded.append(parent, best.map_or(u32::MAX, |(_, frame)| frame));
    }
    for (node, &place) in nodes.iter().zip(&places) {
        folded.tree.add_self(place, node.self_value);
    }
    Smaller {
        tree: folded.tree,
        places,
        pruned_nodes: 0,
    }
}

/// A tree that is made of frames of another, and of [`OTHER`].
struct Part<'t> {
    tree: CallTree,
    frames: Taken<'t>,
    /// The frame called [`OTHER`]: one of the whole, which may have been pruned
    /// before, or the id after its last one.
    other: u32,
    /// Its id in the part, when the whole has none.
    new_other: Option<u32>,
}

impl<'t> Part<'t> {
    fn of(whole: &'t CallTree) -> Self {
        let other = Frame::named(FrameKind::Synthetic, OTHER);
        let known = whole.frames().iter().position(|frame| *frame == other);
        let other = known.unwrap_or(whole.frames().len());
        Self {
            tree: CallTree::new(),
            frames: Taken::from(whole),
            other: u32::try_from(other).unwrap_or(u32::MAX),
            new_other: None,
        }
    }

    /// Adds a node with frame `frame` that `parent` does not have. Returns its index.
    fn append(&mut self, parent: usize, frame: u32) -> usize {
        let frame = self.frames.id(&mut self.tree, frame).unwrap_or_else(|| {
            *self.new_other.get_or_insert_with(|| {
                let other = Frame::named(FrameKind::Synthetic, OTHER);
                self.tree.append_frame(other)
            })
        });
        let parent = u32::try_from(parent).unwrap_or(u32::MAX);
        index(self.tree.append_child(parent, frame))
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
    // Ties by index, so that a parent always comes before its children.
    let mut order: Vec<(Reverse<u128>, usize)> =
        sizes.iter().copied().map(Reverse).zip(0..).collect();
    // No more than these are looked at.
    if max_nodes < order.len() {
        order.select_nth_unstable(max_nodes);
        order.truncate(max_nodes.saturating_add(1));
    }
    order.sort_unstable();
    let mut dropped_children = vec![0_usize; tree.nodes().len()];
    for node in tree.nodes().iter().skip(1) {
        if let Some(count) = dropped_children.get_mut(index(node.parent)) {
            *count += 1;
        }
    }
    let mut stays = vec![false; tree.nodes().len()];
    let mut size = 0_usize;
    for (_, at) in order {
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
    let mut pruned = Part::of(tree);
    let mut pruned_nodes = 0_u64;
    // Per node of the pruned tree: its `other`. Per node: its node in the pruned tree,
    // and whether it is only a part of that.
    let mut others: Vec<Option<usize>> = vec![None];
    let mut node_of: Vec<(usize, bool)> = Vec::with_capacity(tree.nodes().len());
    for (node, stays) in tree.nodes().iter().zip(stays) {
        let above = node_of.get(index(node.parent)).copied();
        let (parent, folded) = above.unwrap_or((0, false));
        let known = others.get(parent).copied().flatten();
        let place = match (node.frame, known) {
            (None, _) => (0, false),
            (Some(frame), _) if stays && frame != pruned.other => {
                others.push(None);
                (pruned.append(parent, frame), false)
            }
            (Some(_), _) if folded => (parent, true),
            (Some(_), Some(other)) => (other, !stays),
            (Some(_), None) => {
                let other = pruned.append(parent, pruned.other);
                others.push(None);
                if let Some(slot) = others.get_mut(parent) {
                    *slot = Some(other);
                }
                (other, !stays)
            }
        };
        pruned_nodes += u64::from(place.1);
        pruned.tree.add_self(place.0, node.self_value);
        node_of.push(place);
    }
    Smaller {
        tree: pruned.tree,
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
