//! From the sums of a service's stacks to a call tree: samples chosen by
//! function, and light nodes folded before anything is built. Pure.
//!
//! A service's tree has hundreds of thousands of nodes and an answer a few
//! thousand. Everything up to the choice of nodes is dense arrays over node
//! ids; only what stays becomes frames and names.

use std::borrow::Cow;

use proto::stack::{Frame, FrameKind};
use regex::{Regex, RegexBuilder};
use rustc_hash::FxHashMap;

use crate::prune::OTHER;
use crate::sandwich::Wanted;
use crate::store::tree::ServiceTree;
use crate::top::UNNAMED;
use crate::tree::CallTree;

mod hide;

/// Part of the nodes asked for that have names; each may have an `other` beside
/// its children.
const NAMED: usize = 2;
/// Largest compiled regular expression over functions, in bytes.
const MAX_REGEX_BYTES: usize = 1 << 20;
/// Steps within a factor of two at which sizes are told apart.
const FINE: u32 = 16;

/// Which samples are meant, and how much of the tree.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// Only samples with a function that matches.
    pub focus: Option<&'a Regex>,
    /// No samples with a function that matches.
    pub ignore: Option<&'a Regex>,
    /// Frames of functions that match vanish; their value goes to their callers.
    pub hide: Option<&'a Regex>,
    /// Of these, only samples with a function that may be meant; the others
    /// still count in the total.
    pub through: Option<&'a Wanted>,
    /// About how many nodes the answer will have.
    pub max_nodes: usize,
}

impl Choice<'_> {
    /// Every sample and every node.
    pub const ALL: Self = Self {
        focus: None,
        ignore: None,
        hide: None,
        through: None,
        max_nodes: usize::MAX,
    };
}

/// Compiles a function pattern within a size cap; an empty one is none.
///
/// # Errors
///
/// The regex crate's, when the pattern is not usable.
pub fn pattern(text: &str) -> Result<Option<Regex>, regex::Error> {
    if text.is_empty() {
        return Ok(None);
    }
    RegexBuilder::new(text)
        .size_limit(MAX_REGEX_BYTES)
        .build()
        .map(Some)
}

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

/// What became of a service's samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flattened<const N: usize> {
    /// Nodes that are in an `other` now.
    pub folded_nodes: u64,
    /// Of each side: value of the samples that `focus` and `ignore` mean.
    pub totals: [i128; N],
}

/// Per node of `tree`: the value of the samples that end there.
fn own_values(tree: &ServiceTree, values: &[i128]) -> Vec<i128> {
    let mut own = vec![0_i128; tree.node_count()];
    for (stack, &value) in (0_u32..).zip(values) {
        if value != 0
            && let Some(slot) = tree.leaf(stack).and_then(|leaf| own.get_mut(index(leaf)))
        {
            *slot = slot.saturating_add(value);
        }
    }
    own
}

/// Names of the functions that samples of `values`, by stack id of `tree`, have.
pub fn functions<'t>(tree: &'t ServiceTree, values: &[i128]) -> Vec<&'t str> {
    let mut is_live: Vec<bool> = own_values(tree, values)
        .into_iter()
        .map(|own| own != 0)
        .collect();
    let mut live = vec![false; tree.string_count()];
    for (node, &(parent, frame)) in tree.nodes().iter().enumerate().skip(1).rev() {
        if is_live.get(node) != Some(&true) {
            continue;
        }
        if let Some(above) = is_live.get_mut(index(parent)) {
            *above = true;
        }
        let function = tree.function(frame).map(index);
        if let Some(slot) = function.and_then(|function| live.get_mut(function)) {
            *slot = true;
        }
    }
    let live = (0_u32..).zip(live).filter(|(_, live)| *live);
    live.filter_map(|(function, _)| tree.string(function))
        .collect()
}

/// The value of the samples that `focus` and `ignore` of `choice` mean.
pub fn total(tree: &ServiceTree, values: &[i128], choice: &Choice<'_>) -> i128 {
    match (choice.focus, choice.ignore) {
        (None, None) => values.iter().copied().fold(0, i128::saturating_add),
        _ => {
            let [total] = leave_out(tree, choice, &mut [own_values(tree, values)]);
            total
        }
    }
}

/// One side's values by node.
struct Side {
    own: Vec<i128>,
    totals: Vec<i128>,
    /// Totals of sizes; `None` where no value is negative and they are the totals.
    sizes: Option<Vec<i128>>,
    /// The least step of a size that stays.
    least: usize,
}

impl Side {
    fn new(shape: &[(u32, u32)], own: Vec<i128>, max_nodes: usize) -> Self {
        let totals = sums_below(shape, own.clone());
        let sizes = own.iter().any(|own| *own < 0).then(|| {
            let positive = own.iter().map(|own| own.saturating_abs()).collect();
            sums_below(shape, positive)
        });
        Self {
            least: least_step(sizes.as_ref().unwrap_or(&totals), max_nodes),
            own,
            totals,
            sizes,
        }
    }

    fn size(&self, node: usize) -> i128 {
        let sizes = self.sizes.as_ref().unwrap_or(&self.totals);
        sizes.get(node).copied().unwrap_or(0)
    }

    /// Whether the node is large enough to stay for this side's sake.
    fn keeps(&self, node: usize) -> bool {
        step(self.size(node)) >= self.least
    }
}

/// Adds `values`, by stack id of `tree`, to `out`.
pub fn flatten(
    out: &mut CallTree,
    tree: &ServiceTree,
    values: &[i128],
    choice: &Choice<'_>,
) -> Flattened<1> {
    flatten_sides([out], tree, [values], choice)
}

/// Adds each side's values, by stack id of `tree`, to its tree of `outs`.
///
/// A node stays on all sides when it is large on one of them, so that what is in
/// an `other` is the same nodes on all.
pub fn flatten_sides<const N: usize>(
    outs: [&mut CallTree; N],
    tree: &ServiceTree,
    values: [&[i128]; N],
    choice: &Choice<'_>,
) -> Flattened<N> {
    let mut owns = values.map(|values| own_values(tree, values));
    let totals = leave_out(tree, choice, &mut owns);
    let shape = match choice.hide {
        None => Cow::Borrowed(tree.nodes()),
        Some(hide) => Cow::Owned(hide::without(tree, hide, &mut owns)),
    };
    let sides = owns.map(|own| Side::new(&shape, own, choice.max_nodes));
    let stays = |node: usize| sides.iter().any(|side| side.keeps(node));
    for (out, side) in outs.into_iter().zip(&sides) {
        build(out, (tree, &shape), side, stays);
    }
    let folded = (1..shape.len())
        .filter(|node| sides.iter().any(|side| side.size(*node) != 0) && !stays(*node));
    Flattened {
        folded_nodes: u64::try_from(folded.count()).unwrap_or(u64::MAX),
        totals,
    }
}

/// A function above or at a node matches `focus`.
const FOCUSED: u8 = 1;
/// One matches `ignore`.
const IGNORED: u8 = 2;
/// One is meant by `through`.
const THROUGH: u8 = 4;

/// Sets samples that are not meant to zero. Returns each side's value of those
/// that `focus` and `ignore` mean.
fn leave_out<const N: usize>(
    tree: &ServiceTree,
    choice: &Choice<'_>,
    sides: &mut [Vec<i128>; N],
) -> [i128; N] {
    let mut of_frames: Vec<u8> = Vec::new();
    let mut mark = |bit: u8, matches: &dyn Fn(&str) -> bool| {
        let hits = tree.functions_matching(matches);
        of_frames.resize(of_frames.len().max(hits.len()), 0);
        for (slot, hit) in of_frames.iter_mut().zip(hits) {
            *slot |= if hit { bit } else { 0 };
        }
    };
    // What a root has that is asked for nothing.
    let mut at_root = FOCUSED | THROUGH;
    if let Some(focus) = choice.focus {
        at_root &= !FOCUSED;
        mark(FOCUSED, &|function| focus.is_match(function));
    }
    if let Some(ignore) = choice.ignore {
        mark(IGNORED, &|function| ignore.is_match(function));
    }
    if let Some(wanted) = choice.through {
        at_root &= !THROUGH;
        mark(THROUGH, &|function| match function {
            "" => wanted.may_mean(UNNAMED),
            function => wanted.may_mean(function),
        });
    }
    let mut seen = vec![at_root; tree.node_count()];
    for (node, &(parent, frame)) in tree.nodes().iter().enumerate().skip(1) {
        let above = seen.get(index(parent)).copied().unwrap_or(at_root);
        let here = of_frames.get(index(frame)).copied().unwrap_or(0);
        if let Some(slot) = seen.get_mut(node) {
            *slot = above | here;
        }
    }
    sides.each_mut().map(|own| {
        let mut total = 0_i128;
        for (own, seen) in own.iter_mut().zip(&seen) {
            if seen & (FOCUSED | IGNORED) == FOCUSED {
                total = total.saturating_add(*own);
            }
            if *seen != FOCUSED | THROUGH {
                *own = 0;
            }
        }
        total
    })
}

/// Adds each node's value to its parent's: a parent's id is smaller.
fn sums_below(shape: &[(u32, u32)], mut values: Vec<i128>) -> Vec<i128> {
    for (node, &(parent, _)) in shape.iter().enumerate().skip(1).rev() {
        let value = values.get(node).copied().unwrap_or(0);
        if value != 0
            && let Some(slot) = values.get_mut(index(parent))
        {
            *slot = slot.saturating_add(value);
        }
    }
    values
}

/// Position of a size among all sizes, coarse: [`FINE`] steps per factor of two;
/// 0 for nothing.
fn step(size: i128) -> usize {
    let size = size.unsigned_abs();
    let bits = 128 - size.leading_zeros();
    let shift = bits.saturating_sub(1 + FINE.ilog2());
    let fine = usize::try_from(size >> shift).unwrap_or(0) % 16;
    usize::try_from(bits).unwrap_or(0) * 16 + fine
}

/// A step above 0 that so few nodes reach that they and an `other` for each are
/// at most `max_nodes`; the least when all nodes are.
fn least_step(sizes: &[i128], max_nodes: usize) -> usize {
    let mut counts = vec![0_usize; 129 * 16];
    for size in sizes {
        if let Some(count) = counts.get_mut(step(*size)) {
            *count += 1;
        }
    }
    if counts.iter().skip(1).sum::<usize>() <= max_nodes {
        return 1;
    }
    let mut reached = 0;
    for (at, count) in counts.iter().enumerate().skip(1).rev() {
        reached += count;
        if reached > max_nodes / NAMED {
            return at + 1;
        }
    }
    1
}

/// Adds the nodes that stay; what lies below is an `other`.
fn build(
    out: &mut CallTree,
    (tree, shape): (&ServiceTree, &[(u32, u32)]),
    side: &Side,
    stays: impl Fn(usize) -> bool,
) {
    let mut target = Target::new(out);
    let unknown = Frame::named(FrameKind::Synthetic, "[unknown]");
    // A parent comes before its children, so its place in `out` is known; what
    // is not built has none.
    let mut places: Vec<u32> = vec![u32::MAX; shape.len()];
    let mut frames: Vec<u32> = Vec::new();
    for (node, &(parent, frame)) in shape.iter().enumerate() {
        let own = side.own.get(node).copied().unwrap_or(0);
        if node == 0 {
            if let Some(slot) = places.first_mut() {
                *slot = 0;
            }
            target.tree.add_self(0, own);
            continue;
        }
        if side.size(node) == 0 {
            continue;
        }
        let above = places.get(index(parent)).copied().unwrap_or(u32::MAX);
        if !stays(node) {
            if above != u32::MAX {
                let total = side.totals.get(node).copied().unwrap_or(0);
                target.add_other(above, total);
            }
            continue;
        }
        if frames.len() <= index(frame) {
            frames.resize(index(frame) + 1, u32::MAX);
        }
        let Some(known) = frames.get_mut(index(frame)) else {
            continue;
        };
        if *known == u32::MAX {
            *known = target.frame(tree.frame(frame).unwrap_or_else(|| unknown.clone()));
        }
        let place = target.child(above, *known);
        target.tree.add_self(index(place), own);
        if let Some(slot) = places.get_mut(node) {
            *slot = place;
        }
    }
}

/// The tree that is built. As long as nothing else is in it, what is added is
/// new and need not be looked for.
struct Target<'a> {
    tree: &'a mut CallTree,
    is_alone: bool,
    /// The `other` of each node that has one.
    others: FxHashMap<u32, u32>,
    other_frame: Option<u32>,
}

impl<'a> Target<'a> {
    fn new(tree: &'a mut CallTree) -> Self {
        Self {
            is_alone: tree.nodes().len() <= 1,
            tree,
            others: FxHashMap::default(),
            other_frame: None,
        }
    }

    fn frame(&mut self, frame: Frame) -> u32 {
        match self.is_alone {
            true => self.tree.append_frame(frame),
            false => self.tree.intern(&frame),
        }
    }

    fn child(&mut self, parent: u32, frame: u32) -> u32 {
        match self.is_alone {
            true => self.tree.append_child(parent, frame),
            false => self.tree.child_of(parent, frame),
        }
    }

    fn add_other(&mut self, parent: u32, value: i128) {
        let place = match self.others.get(&parent) {
            Some(&known) => known,
            None => {
                let frame = match self.other_frame {
                    Some(known) => known,
                    None => {
                        let other = Frame::named(FrameKind::Synthetic, OTHER);
                        let frame = self.frame(other);
                        *self.other_frame.insert(frame)
                    }
                };
                let place = self.child(parent, frame);
                self.others.insert(parent, place);
                place
            }
        };
        self.tree.add_self(index(place), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prune;
    use crate::store::{Epoch, ServiceId};
    use proptest::prelude::*;

    /// A service's tree and, by stack id, values; and the call tree they mean.
    fn both(samples: &[(Vec<String>, i128)]) -> (ServiceTree, Vec<i128>, CallTree) {
        let mut tree = ServiceTree::new(ServiceId(1), Epoch(0));
        let mut values = Vec::new();
        let mut expected = CallTree::new();
        for (stack, value) in samples {
            let frames: Vec<Frame> = stack
                .iter()
                .map(|name| Frame::named(FrameKind::Go, name))
                .collect();
            let id = index(tree.intern(frames.iter()));
            values.resize(values.len().max(id + 1), 0);
            values[id] += value;
            expected.add(frames.iter(), *value);
        }
        (tree, values, expected)
    }

    fn content(tree: &CallTree) -> Vec<(String, i128)> {
        let mut out: Vec<(String, i128)> = (0..tree.nodes().len())
            .filter(|&node| tree.nodes()[node].self_value != 0)
            .map(|node| {
                let mut names = Vec::new();
                let mut at = node;
                while at != 0 {
                    names.push(tree.frame_of(at).unwrap().function.to_string());
                    at = index(tree.nodes()[at].parent);
                }
                names.reverse();
                (names.join(";"), tree.nodes()[node].self_value)
            })
            .collect();
        out.sort();
        out
    }

    /// Path and total of each node but the root.
    fn totals(tree: &CallTree) -> Vec<(String, i128)> {
        let mut paths = vec![String::new()];
        for (at, node) in tree.nodes().iter().enumerate().skip(1) {
            let name = &tree.frame_of(at).unwrap().function;
            paths.push(format!("{};{name}", paths[index(node.parent)]));
        }
        paths.into_iter().zip(tree.totals()).skip(1).collect()
    }

    fn samples() -> impl Strategy<Value = Vec<(Vec<String>, i128)>> {
        let stack = proptest::collection::vec("[a-d]", 0..6);
        let value = prop_oneof![1i128..100, -50i128..50, Just(i128::from(i64::MAX))];
        proptest::collection::vec((stack, value), 0..40)
    }

    proptest! {
        #[test]
        fn everything_comes_through(samples in samples()) {
            let (tree, values, expected) = both(&samples);
            let mut out = CallTree::new();
            prop_assert_eq!(flatten(&mut out, &tree, &values, &Choice::ALL).folded_nodes, 0);
            prop_assert_eq!(content(&out), content(&expected));
        }

        #[test]
        fn samples_are_chosen_as_from_the_whole_tree(samples in samples(), focus: bool, ignore: bool) {
            let (tree, values, expected) = both(&samples);
            let (a, b) = (Regex::new("^[ab]$").unwrap(), Regex::new("c").unwrap());
            let choice = Choice { focus: focus.then_some(&a), ignore: ignore.then_some(&b), ..Choice::ALL };
            let mut out = CallTree::new();
            let flattened = flatten(&mut out, &tree, &values, &choice);
            let expected = prune::focus(&expected, choice.focus, choice.ignore);
            prop_assert_eq!(content(&out), content(&expected));
            prop_assert_eq!(flattened.totals, [expected.total()]);
            prop_assert_eq!(total(&tree, &values, &choice), expected.total());
        }

        #[test]
        fn samples_through_a_function_are_chosen_and_the_others_counted(
            samples in samples(), ignore: bool, name in "[a-e]|[ab]x?",
        ) {
            let (tree, values, expected) = both(&samples);
            let wanted = Wanted::new(&name);
            let pattern = Regex::new("d").unwrap();
            let choice = Choice {
                ignore: ignore.then_some(&pattern), through: Some(&wanted), ..Choice::ALL
            };
            let mut out = CallTree::new();
            let flattened = flatten(&mut out, &tree, &values, &choice);
            let expected = prune::focus(&expected, None, choice.ignore);
            prop_assert_eq!(flattened.totals, [expected.total()]);
            let through = Regex::new(&name).unwrap();
            let expected = prune::focus(&expected, Some(&through), None);
            prop_assert_eq!(content(&out), content(&expected));
        }

        #[test]
        fn sides_are_folded_alike(
            base in samples(), new in samples(), max_nodes in 1usize..12, hide: bool,
        ) {
            let both_sides: Vec<_> = base.iter().chain(&new).cloned().collect();
            let (mut tree, _, _) = both(&both_sides);
            let values = |tree: &mut ServiceTree, samples: &[(Vec<String>, i128)]| {
                let mut values = vec![0_i128; tree.stack_count()];
                for (stack, value) in samples {
                    let frames: Vec<Frame> =
                        stack.iter().map(|name| Frame::named(FrameKind::Go, name)).collect();
                    values[index(tree.intern(frames.iter()))] += value;
                }
                values
            };
            let (base, new) = (values(&mut tree, &base), values(&mut tree, &new));
            let a = Regex::new("a").unwrap();
            let choice = Choice { max_nodes, hide: hide.then_some(&a), ..Choice::ALL };
            let (mut one, mut other) = (CallTree::new(), CallTree::new());
            let flat = flatten_sides([&mut one, &mut other], &tree, [&base, &new], &choice);
            for (out, values) in [(&one, &base), (&other, &new)] {
                let mut alone = CallTree::new();
                let plain = Choice { max_nodes: usize::MAX, ..choice };
                flatten(&mut alone, &tree, values, &plain);
                prop_assert_eq!(out.total(), alone.total());
                // What has a name on this side has the same value as in the whole.
                let whole: std::collections::BTreeMap<_, _> = totals(&alone).into_iter().collect();
                for (path, total) in totals(out) {
                    if !path.ends_with(OTHER) {
                        prop_assert_eq!(whole.get(&path), Some(&total), "{}", path);
                    }
                }
            }
            prop_assert_eq!(flat.totals, [one.total(), other.total()]);
            // Where one side has a name, the other has no `other` for the same.
            let names = |tree: &CallTree| totals(tree).into_iter().map(|(path, _)| path);
            let named: std::collections::BTreeSet<String> =
                names(&one).chain(names(&other)).filter(|path| !path.ends_with(OTHER)).collect();
            if flat.folded_nodes == 0 {
                prop_assert!(!names(&one).chain(names(&other)).any(|path| path.ends_with(OTHER)));
            }
            prop_assert!(named.len() <= 2 * max_nodes);
        }

        #[test]
        fn hidden_frames_vanish_before_nodes_are_chosen(
            samples in samples(), focus: bool, ignore: bool, max_nodes in 1usize..20,
            hide in prop_oneof![Just("^[ab]$"), Just("c"), Just("x"), Just(".")],
        ) {
            let (tree, values, _) = both(&samples);
            let (b, d) = (Regex::new("b").unwrap(), Regex::new("d").unwrap());
            let hide = Regex::new(hide).unwrap();
            let choice = Choice {
                focus: focus.then_some(&b), ignore: ignore.then_some(&d), hide: Some(&hide),
                through: None, max_nodes,
            };
            let mut out = CallTree::new();
            let flattened = flatten(&mut out, &tree, &values, &choice);
            // The naive way: no sample has such frames, in a tree of its own.
            let chosen = samples.iter().filter(|(stack, _)| {
                let has = |pattern: &Regex| stack.iter().any(|name| pattern.is_match(name));
                choice.focus.is_none_or(&has) && !choice.ignore.is_some_and(has)
            });
            let without: Vec<(Vec<String>, i128)> = chosen
                .map(|(stack, value)| {
                    let kept = stack.iter().filter(|name| !hide.is_match(name));
                    (kept.cloned().collect(), *value)
                })
                .collect();
            let (naive_tree, naive_values, _) = both(&without);
            let mut naive = CallTree::new();
            let plain = Choice { max_nodes, ..Choice::ALL };
            let expected = flatten(&mut naive, &naive_tree, &naive_values, &plain);
            prop_assert_eq!(content(&out), content(&naive));
            prop_assert_eq!(flattened, expected);
        }

        #[test]
        fn functions_are_those_of_samples_with_a_value(samples in samples()) {
            let (tree, values, expected) = both(&samples);
            let mut found = functions(&tree, &values);
            found.sort_unstable();
            let mut names: Vec<String> = content(&expected)
                .into_iter()
                .flat_map(|(path, _)| path.split(';').map(str::to_owned).collect::<Vec<_>>())
                .filter(|name| !name.is_empty())
                .collect();
            names.sort();
            names.dedup();
            prop_assert_eq!(found, names);
        }

        #[test]
        fn what_fits_is_not_folded(samples in samples()) {
            let (tree, values, expected) = both(&samples);
            let mut out = CallTree::new();
            let choice = Choice { max_nodes: tree.node_count(), ..Choice::ALL };
            prop_assert_eq!(flatten(&mut out, &tree, &values, &choice).folded_nodes, 0);
            prop_assert_eq!(content(&out), content(&expected));
        }

        #[test]
        fn folding_keeps_the_total_and_bounds_the_nodes(samples in samples(), max_nodes in 1usize..10) {
            let (tree, values, expected) = both(&samples);
            let mut out = CallTree::new();
            let choice = Choice { max_nodes, ..Choice::ALL };
            flatten(&mut out, &tree, &values, &choice);
            prop_assert_eq!(out.total(), expected.total());
            prop_assert!(out.nodes().len() <= max_nodes.max(2));
        }

        #[test]
        fn steps_rise_with_sizes(a in 0..i128::MAX, b in 0..i128::MAX, shift in 0u32..127) {
            let (small, large) = (a.min(b) >> shift, a.max(b) >> shift);
            prop_assert!(step(small) <= step(large));
            prop_assert_eq!(step(small) == 0, small == 0);
        }
    }
}
