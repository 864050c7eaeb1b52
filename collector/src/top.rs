//! The functions of a call tree with their flat and cum values. Pure.
//!
//! Promises the rows of `go tool pprof -top -nodefraction=0 -nodecount=0`, to
//! the unit and in its order. That report knows a function by its name alone
//! (granularity `functions`): equal names in two files, and inlined and called
//! copies, are one row. Leaves units, percentages and text to `render`.

use std::cmp::Reverse;
use std::sync::Arc;

use proto::stack::Frame;
use rustc_hash::FxHashMap;

use crate::tree::{CallNode, CallTree};

/// What stands for a function without a name, as in `go tool pprof`.
pub const UNNAMED: &str = "<unknown>";

/// One function with its flat and cum value in the profile type's unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopRow {
    /// Name, never empty.
    pub function: Arc<str>,
    /// File of the function's heaviest frame; empty when unknown.
    pub file: Arc<str>,
    /// Line of that frame; 0 when unknown.
    pub line: u32,
    /// Value of the samples in which it is the leaf.
    pub flat: i128,
    /// Value of the samples in which it is anywhere, each counted once.
    pub cum: i128,
}

/// The name to show for `frame`, never empty.
pub fn name_of(frame: &Frame) -> Arc<str> {
    if frame.function.is_empty() {
        Arc::from(UNNAMED)
    } else {
        Arc::clone(&frame.function)
    }
}

/// Functions of a tree: dense ids by name, in order of first appearance.
#[derive(Debug)]
pub(crate) struct Functions {
    /// Per frame of the tree: its function.
    pub(crate) of_frame: Vec<usize>,
    /// Per function: its name.
    pub(crate) names: Vec<Arc<str>>,
}

impl Functions {
    pub(crate) fn of(tree: &CallTree) -> Self {
        let mut ids: FxHashMap<Arc<str>, usize> = FxHashMap::default();
        let mut names = Vec::new();
        let of_frame = tree
            .frames()
            .iter()
            .map(|frame| {
                let name = name_of(frame);
                *ids.entry(Arc::clone(&name)).or_insert_with(|| {
                    names.push(name);
                    names.len() - 1
                })
            })
            .collect();
        Self { of_frame, names }
    }

    /// The function of node `node`; `None` for the root.
    pub(crate) fn of_node(&self, tree: &CallTree, node: usize) -> Option<usize> {
        let frame = tree.nodes().get(node)?.frame?;
        self.of_frame.get(usize::try_from(frame).ok()?).copied()
    }
}

/// Per function: the sum of totals of its outermost nodes.
fn cums(tree: &CallTree, functions: &Functions, totals: &[i128]) -> Vec<i128> {
    let at = |id: u32| usize::try_from(id).unwrap_or(usize::MAX);
    let nodes = tree.nodes();
    // A child of each node, and the next child of its parent; 0 is none.
    let mut child = vec![0_usize; nodes.len()];
    let mut sibling = vec![0_usize; nodes.len()];
    for (node, CallNode { parent, .. }) in nodes.iter().enumerate().skip(1) {
        if let (Some(first), Some(next)) = (child.get_mut(at(*parent)), sibling.get_mut(node)) {
            *next = std::mem::replace(first, node);
        }
    }
    let mut cums = vec![0_i128; functions.names.len()];
    // Nodes of each function between the root and the node at hand.
    let mut open = vec![0_u32; functions.names.len()];
    let mut node = 0;
    loop {
        if let Some(function) = functions.of_node(tree, node)
            && let (Some(cum), Some(count)) = (cums.get_mut(function), open.get_mut(function))
        {
            if *count == 0 {
                *cum = cum.saturating_add(totals.get(node).copied().unwrap_or(0));
            }
            *count = count.saturating_add(1);
        }
        let mut next = child.get(node).copied().unwrap_or(0);
        // Up to where there is a way on.
        while next == 0 {
            if node == 0 {
                return cums;
            }
            if let Some(function) = functions.of_node(tree, node)
                && let Some(count) = open.get_mut(function)
            {
                *count = count.saturating_sub(1);
            }
            next = sibling.get(node).copied().unwrap_or(0);
            node = nodes.get(node).map_or(0, |node| at(node.parent));
        }
        node = next;
    }
}

/// Per function: its frame with the largest flat, then cum, then the smallest.
fn heaviest_frames<'t>(
    tree: &'t CallTree,
    functions: &Functions,
    totals: &[i128],
) -> Vec<Option<&'t Frame>> {
    let mut weights = vec![(0_u128, 0_u128); tree.frames().len()];
    for (node, total) in tree.nodes().iter().zip(totals) {
        let frame = node.frame.and_then(|frame| usize::try_from(frame).ok());
        if let Some((flat, cum)) = frame.and_then(|frame| weights.get_mut(frame)) {
            *flat = flat.saturating_add(node.self_value.unsigned_abs());
            *cum = cum.saturating_add(total.unsigned_abs());
        }
    }
    let mut heaviest = vec![None; functions.names.len()];
    for ((frame, weight), &function) in tree.frames().iter().zip(weights).zip(&functions.of_frame) {
        let candidate = Some((weight, Reverse(frame)));
        if let Some(best) = heaviest.get_mut(function)
            && *best < candidate
        {
            *best = candidate;
        }
    }
    heaviest
        .into_iter()
        .map(|best| best.map(|(_, Reverse(frame))| frame))
        .collect()
}

/// The row of each of `functions`, in their order, which are those of `tree` or of one
/// that is alike. Those that no sample has are zero.
pub(crate) fn rows(tree: &CallTree, functions: &Functions) -> impl Iterator<Item = TopRow> {
    let totals = tree.totals();
    let cums = cums(tree, functions, &totals);
    let frames = heaviest_frames(tree, functions, &totals);
    let mut flats = vec![0_i128; functions.names.len()];
    for (index, node) in tree.nodes().iter().enumerate() {
        let function = functions.of_node(tree, index);
        if let Some(flat) = function.and_then(|function| flats.get_mut(function)) {
            *flat = flat.saturating_add(node.self_value);
        }
    }
    let names = functions.names.iter().zip(frames);
    names
        .zip(flats.into_iter().zip(cums))
        .map(|((function, frame), (flat, cum))| TopRow {
            function: Arc::clone(function),
            file: frame.map_or_else(|| Arc::from(""), |frame| Arc::clone(&frame.file)),
            line: frame.map_or(0, |frame| frame.line),
            flat,
            cum,
        })
}

impl TopRow {
    /// Whether flat and cum are both zero.
    pub(crate) fn is_zero(&self) -> bool {
        self.flat == 0 && self.cum == 0
    }
}

/// Returns the functions of `tree`, largest flat first, ties by name.
///
/// Sizes are compared without their sign, as `go tool pprof` does. Functions
/// whose flat and cum are both zero have no row, and the root is no function.
pub fn top(tree: &CallTree) -> Vec<TopRow> {
    let functions = Functions::of(tree);
    let mut rows: Vec<TopRow> = rows(tree, &functions)
        .filter(|row| !row.is_zero())
        .collect();
    rows.sort_by(|a, b| {
        (b.flat.unsigned_abs().cmp(&a.flat.unsigned_abs()))
            .then_with(|| a.function.cmp(&b.function))
    });
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::stack::FrameKind;

    /// Root first, `name@file:line` or `name`.
    fn tree(samples: &[(&str, i128)]) -> CallTree {
        let mut tree = CallTree::new();
        for (stack, value) in samples {
            let frames: Vec<Frame> = stack
                .split(' ')
                .filter(|text| !text.is_empty())
                .map(|text| match text.split_once('@') {
                    None => Frame::named(FrameKind::Go, text),
                    Some((name, place)) => {
                        let (file, line) = place.split_once(':').unwrap();
                        Frame::named(FrameKind::Go, name).at(file, line.parse().unwrap())
                    }
                })
                .collect();
            tree.add(frames.iter(), *value);
        }
        tree
    }

    fn check(samples: &[(&str, i128)], expected: &[(&str, i128, i128)]) {
        let rows = top(&tree(samples));
        let found: Vec<(&str, i128, i128)> = rows
            .iter()
            .map(|row| (&*row.function, row.flat, row.cum))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_recursive_function_counts_once_per_sample() {
        check(
            &[("main f f f", 5), ("main f g f", 7), ("main g", 1)],
            &[("f", 12, 12), ("g", 1, 8), ("main", 0, 13)],
        );
    }

    #[test]
    fn ties_are_ordered_by_name_and_empty_functions_have_no_row() {
        check(
            &[
                ("b", 3),
                ("a", 3),
                ("z c", -4),
                ("y", 0),
                ("x", 2),
                ("x", -2),
            ],
            &[("c", -4, -4), ("a", 3, 3), ("b", 3, 3), ("z", 0, -4)],
        );
        check(&[], &[]);
        check(&[("", 9)], &[]);
    }

    #[test]
    fn equal_names_are_one_function_at_its_heaviest_frame() {
        let rows = top(&tree(&[
            ("main@m.go:3 init@a.go:10", 2),
            ("main@m.go:4 init@b.go:20", 3),
            ("main@m.go:4 init@b.go:21", 2),
        ]));
        let found: Vec<_> = rows
            .iter()
            .map(|row| (&*row.function, &*row.file, row.line, row.flat))
            .collect();
        assert_eq!(found, [("init", "b.go", 20, 7), ("main", "m.go", 4, 0)]);
    }

    proptest! {
        #[test]
        fn cum_is_what_counting_each_sample_gives(
            samples in prop::collection::vec((prop::collection::vec(0u8..5, 1..9), -9i128..99), 0..40)
        ) {
            let mut tree = CallTree::new();
            let mut expected = std::collections::BTreeMap::<String, (i128, i128)>::new();
            for (stack, value) in &samples {
                let frames: Vec<Frame> = stack
                    .iter()
                    .map(|id| Frame::named(FrameKind::Go, &format!("f{id}")))
                    .collect();
                tree.add(frames.iter(), *value);
                expected.entry(format!("f{}", stack[stack.len() - 1])).or_default().0 += value;
                for id in stack.iter().collect::<std::collections::BTreeSet<_>>() {
                    expected.entry(format!("f{id}")).or_default().1 += value;
                }
            }
            expected.retain(|_, values| *values != (0, 0));
            let rows = top(&tree);
            prop_assert_eq!(rows.len(), expected.len());
            for row in rows {
                prop_assert_eq!(expected.get(&*row.function), Some(&(row.flat, row.cum)));
            }
        }
    }
}
