//! From the sums of a service's stacks to a call tree: samples chosen by
//! function, and light nodes folded before anything is built. Pure.
//!
//! A service's tree has hundreds of thousands of nodes and an answer a few
//! thousand. What is known of every node is its size, four bytes that choose which
//! nodes stay; values are only added where they are shown, and only what stays
//! becomes frames and names.

use std::borrow::Cow;

use proto::stack::{Frame, FrameKind};
use regex::{Regex, RegexBuilder};
use rustc_hash::FxHashMap;

use crate::prune::OTHER;
use crate::sandwich::Wanted;
use crate::store::exact::ExactSums;
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
const FINE: usize = 16;

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

/// Stands for no node.
const NONE: u32 = u32::MAX;

/// Names of the functions that samples of `values`, by stack id of `tree`, have.
pub fn functions<'t>(tree: &'t ServiceTree, values: &ExactSums) -> Vec<&'t str> {
    let is_live = live_nodes(tree, tree.leaves(), [values]);
    let mut live = vec![false; tree.string_count()];
    for (&(_, frame), _) in tree.nodes().iter().zip(is_live).filter(|(_, live)| *live) {
        let function = tree.function(frame).map(index);
        if let Some(slot) = function.and_then(|function| live.get_mut(function)) {
            *slot = true;
        }
    }
    let live = (0_u32..).zip(live).filter(|(_, live)| *live);
    live.filter_map(|(function, _)| tree.string(function))
        .collect()
}

/// Per node of `tree`: whether a sample of some side ends there or below, when that
/// of each stack ends at its node of `leaves`.
fn live_nodes<const N: usize>(
    tree: &ServiceTree,
    leaves: &[u32],
    values: [&ExactSums; N],
) -> Vec<bool> {
    let mut is_live = vec![false; tree.node_count()];
    for values in values {
        for (&leaf, _) in leaves.iter().zip(values.iter()).filter(|(_, v)| *v != 0) {
            if let Some(slot) = is_live.get_mut(index(leaf)) {
                *slot = true;
            }
        }
    }
    // A parent's id is smaller.
    for (node, &(parent, _)) in tree.nodes().iter().enumerate().skip(1).rev() {
        if is_live.get(node) == Some(&true)
            && let Some(above) = is_live.get_mut(index(parent))
        {
            *above = true;
        }
    }
    is_live
}

/// The value of the samples that `focus` and `ignore` of `choice` mean.
pub fn total(tree: &ServiceTree, values: &ExactSums, choice: &Choice<'_>) -> i128 {
    let [total] = meant(tree, [values], choice).1;
    total
}

/// Adds `values`, by stack id of `tree`, to `out`.
pub fn flatten(
    out: &mut CallTree,
    tree: &ServiceTree,
    values: &ExactSums,
    choice: &Choice<'_>,
) -> Flattened<1> {
    flatten_by(out, tree, [values], choice, |out, _, node, value| {
        out.add_self(node, value);
    })
}

/// Adds the nodes of each side's values, by stack id of `tree`, to `out`, and the values
/// themselves to that side of `selves`, by node of `out`.
///
/// A node stays when it is large on one of the sides, so that what is in an `other` is
/// the same nodes on all.
pub fn flatten_sides<const N: usize>(
    out: &mut CallTree,
    selves: &mut [Vec<i128>; N],
    tree: &ServiceTree,
    values: [&ExactSums; N],
    choice: &Choice<'_>,
) -> Flattened<N> {
    flatten_by(out, tree, values, choice, |out, side, node, value| {
        let Some(side) = selves.get_mut(side) else {
            return;
        };
        if side.len() < out.nodes().len() {
            side.resize(out.nodes().len(), 0);
        }
        if let Some(sum) = side.get_mut(node) {
            *sum = sum.saturating_add(value);
        }
    })
}

/// Adds nodes to `out`, and calls `add` with it, and with side, node and value of every
/// sample that is meant.
fn flatten_by<const N: usize>(
    out: &mut CallTree,
    tree: &ServiceTree,
    values: [&ExactSums; N],
    choice: &Choice<'_>,
    mut add: impl FnMut(&mut CallTree, usize, usize, i128),
) -> Flattened<N> {
    let (leaves, totals) = meant(tree, values, choice);
    let shown;
    let (shape, leaves, values) = match choice.hide {
        None => (tree.nodes(), &*leaves, values),
        Some(hide) => {
            shown = hide::without(tree, hide, &leaves, values);
            (&*shown.shape, &*shown.leaves, shown.values.each_ref())
        }
    };
    let kept = Kept::of(shape, leaves, values, choice.max_nodes);
    let nodes = kept.hang(out, tree);
    for (side, values) in values.into_iter().enumerate() {
        for (&leaf, value) in leaves.iter().zip(values.iter()).filter(|(_, v)| *v != 0) {
            let place = kept.places.get(index(leaf)).copied().unwrap_or(NONE);
            if let Some(&node) = nodes.get(index(place)) {
                add(out, side, index(node), value);
            }
        }
    }
    Flattened {
        folded_nodes: kept.folded_nodes,
        totals,
    }
}

/// A function above or at a node matches `focus`.
const FOCUSED: u8 = 1;
/// One matches `ignore`.
const IGNORED: u8 = 2;
/// One is meant by `through`.
const THROUGH: u8 = 4;

/// The node at which each stack ends, [`NONE`] for those that are not meant, and each
/// side's value of the samples that `focus` and `ignore` mean.
fn meant<'t, const N: usize>(
    tree: &'t ServiceTree,
    values: [&ExactSums; N],
    choice: &Choice<'_>,
) -> (Cow<'t, [u32]>, [i128; N]) {
    if choice.focus.is_none() && choice.ignore.is_none() && choice.through.is_none() {
        return (Cow::Borrowed(tree.leaves()), values.map(ExactSums::total));
    }
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
    let seen_by = |leaf: u32| seen.get(index(leaf)).copied().unwrap_or(0);
    let totals = values.map(|values| {
        let samples = tree.leaves().iter().zip(values.iter());
        let chosen = samples.filter(|(leaf, _)| seen_by(**leaf) & (FOCUSED | IGNORED) == FOCUSED);
        chosen.fold(0_i128, |total, (_, value)| total.saturating_add(value))
    });
    let leaves = tree.leaves().iter().map(|&leaf| match seen_by(leaf) {
        seen if seen == FOCUSED | THROUGH => leaf,
        _ => NONE,
    });
    (leaves.collect(), totals)
}

/// Frame of the nodes that stand for what was folded.
const OTHER_FRAME: u32 = u32::MAX;
/// Stands for a node that is itself an `other`.
const IS_OTHER: u32 = u32::MAX - 1;
/// Steps of sizes: exponents of [`f32`] times [`FINE`].
const STEPS: usize = 256 * FINE;

/// The nodes of an answer.
struct Kept {
    /// Parent among these and frame of each, a parent before its children; the first
    /// is the root.
    nodes: Vec<(u32, u32)>,
    /// Per node of the whole: where its values are among `nodes`.
    places: Vec<u32>,
    /// Nodes of the whole that are in an `other`.
    folded_nodes: u64,
}

impl Kept {
    /// Chooses about `max_nodes` nodes of those that samples have: on each side the
    /// largest.
    ///
    /// The size of a node is what all values at and below it add up to without their
    /// sign. Sizes only choose, so they are rounded to the 24 bits of an [`f32`].
    fn of<const N: usize>(
        shape: &[(u32, u32)],
        leaves: &[u32],
        values: [&ExactSums; N],
        max_nodes: usize,
    ) -> Self {
        let mut sizes = vec![[0_f32; N]; shape.len()];
        for (side, values) in values.into_iter().enumerate() {
            for (&leaf, value) in leaves.iter().zip(values.iter()).filter(|(_, v)| *v != 0) {
                let slot = sizes.get_mut(index(leaf));
                if let Some(slot) = slot.and_then(|sizes| sizes.get_mut(side)) {
                    *slot += size(value);
                }
            }
        }
        let mut counts = [const { [0_usize; STEPS] }; N];
        let mut rest = &mut *sizes;
        // A parent is mostly the node before: what goes there need not be stored first.
        let mut passed = [0_f32; N];
        // The children of a node come after it.
        for &(parent, _) in shape.iter().rev() {
            let Some((own, above)) = rest.split_last_mut() else {
                break;
            };
            for (size, passed) in own.iter_mut().zip(passed) {
                *size += passed;
            }
            let own = *own;
            for (counts, size) in counts.iter_mut().zip(own) {
                if let Some(count) = counts.get_mut(step(size)) {
                    *count += 1;
                }
            }
            passed = [0_f32; N];
            if index(parent) + 1 == above.len() {
                passed = own;
            } else if let Some(sums) = above.get_mut(index(parent)) {
                for (sum, size) in sums.iter_mut().zip(own) {
                    *sum += size;
                }
            }
            rest = above;
        }
        let least = counts.map(|counts| least_step(&counts, max_nodes));
        Self::from_sizes(shape, &sizes, least)
    }

    /// Keeps the nodes whose size on some side is at a step of `least` or above.
    fn from_sizes<const N: usize>(
        shape: &[(u32, u32)],
        sizes: &[[f32; N]],
        least: [usize; N],
    ) -> Self {
        let mut nodes = vec![(0, OTHER_FRAME)];
        // Per kept node: its `other`, or [`IS_OTHER`].
        let mut others = vec![NONE];
        let mut places = Vec::with_capacity(shape.len());
        let mut folded_nodes = 0_u64;
        places.push(0);
        for (&(parent, frame), sizes) in shape.iter().zip(sizes).skip(1) {
            let above = places.get(index(parent)).copied().unwrap_or(0);
            let steps = sizes.map(step);
            let place = if steps.iter().zip(&least).any(|(step, least)| step >= least) {
                others.push(NONE);
                added(&mut nodes, (above, frame))
            } else if steps.iter().all(|step| *step == 0) {
                // Nothing asks where it is.
                0
            } else {
                folded_nodes += 1;
                match others.get(index(above)).copied() {
                    Some(IS_OTHER) => above,
                    Some(other) if other != NONE => other,
                    _ => {
                        let other = added(&mut nodes, (above, OTHER_FRAME));
                        others.push(IS_OTHER);
                        if let Some(slot) = others.get_mut(index(above)) {
                            *slot = other;
                        }
                        other
                    }
                }
            };
            places.push(place);
        }
        Self {
            nodes,
            places,
            folded_nodes,
        }
    }

    /// Adds the nodes to `out`, with frames of `tree`. Returns the id of each there.
    fn hang(&self, out: &mut CallTree, tree: &ServiceTree) -> Vec<u32> {
        // As long as nothing else is in it, what is added is new and need not be
        // looked for.
        let is_alone = out.nodes().len() <= 1;
        let mut frames: FxHashMap<u32, u32> = FxHashMap::default();
        let mut ids = vec![0];
        for &(above, frame) in self.nodes.iter().skip(1) {
            let frame = *frames.entry(frame).or_insert_with(|| {
                let frame = match frame {
                    OTHER_FRAME => Frame::named(FrameKind::Synthetic, OTHER),
                    frame => tree
                        .frame(frame)
                        .unwrap_or_else(|| Frame::named(FrameKind::Synthetic, "[unknown]")),
                };
                match is_alone {
                    true => out.append_frame(frame),
                    false => out.intern(&frame),
                }
            });
            let above = ids.get(index(above)).copied().unwrap_or(0);
            ids.push(match is_alone {
                true => out.append_child(above, frame),
                false => out.child_of(above, frame),
            });
        }
        ids
    }
}

/// Appends `node`; returns its index.
fn added(nodes: &mut Vec<(u32, u32)>, node: (u32, u32)) -> u32 {
    nodes.push(node);
    u32::try_from(nodes.len() - 1).unwrap_or(NONE)
}

/// `value` without its sign.
#[inline]
fn size(value: i128) -> f32 {
    match i64::try_from(value) {
        Ok(value) => value.unsigned_abs() as f32,
        Err(_) => value.unsigned_abs() as f32,
    }
}

/// Position of a size among all sizes, coarse: [`FINE`] steps per factor of two;
/// 0 for nothing.
#[inline]
fn step(size: f32) -> usize {
    // The exponent of a positive float and the bits below it rise with its value.
    let below = f32::MANTISSA_DIGITS - 1 - FINE.ilog2();
    usize::try_from(size.to_bits() >> below).unwrap_or(usize::MAX)
}

/// A step above 0 that so few nodes reach that they and an `other` for each are
/// at most `max_nodes`; the least when all nodes are. `counts` says how many nodes
/// are at each step.
fn least_step(counts: &[usize], max_nodes: usize) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prune;
    use crate::store::{Epoch, ServiceId};
    use proptest::prelude::*;

    /// A service's tree and, by stack id, values; and the call tree they mean.
    #[test]
    fn the_largest_nodes_are_kept_and_about_half_as_many_as_asked_for() {
        let mut tree = ServiceTree::new(ServiceId(1), Epoch(0));
        let mut values = ExactSums::default();
        for size in 1..=1_000_u32 {
            let frame = Frame::named(FrameKind::Go, &format!("f{size}"));
            let stack = tree.intern([&frame].into_iter());
            values.reach(index(stack) + 1);
            values.add(stack, i128::from(size));
        }
        let mut out = CallTree::new();
        let choice = Choice {
            max_nodes: 100,
            ..Choice::ALL
        };
        let flattened = flatten(&mut out, &tree, &values, &choice);
        let mut kept: Vec<u32> = out
            .frames()
            .iter()
            .filter_map(|frame| frame.function.strip_prefix('f')?.parse().ok())
            .collect();
        kept.sort_unstable();
        // Sizes within a sixteenth of a power of two are one step.
        assert!((18..=50).contains(&kept.len()), "{}", kept.len());
        let largest: Vec<u32> = (1_001 - u32::try_from(kept.len()).unwrap()..=1_000).collect();
        assert_eq!(kept, largest);
        assert_eq!(
            flattened.folded_nodes,
            1_000 - u64::try_from(kept.len()).unwrap()
        );
    }

    fn both(samples: &[(Vec<String>, i128)]) -> (ServiceTree, ExactSums, CallTree) {
        let mut tree = ServiceTree::new(ServiceId(1), Epoch(0));
        let mut values = ExactSums::default();
        let mut expected = CallTree::new();
        for (stack, value) in samples {
            let frames: Vec<Frame> = stack
                .iter()
                .map(|name| Frame::named(FrameKind::Go, name))
                .collect();
            values.add(tree.intern(frames.iter()), *value);
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
        // Large ones are powers of two, so that sizes do not depend on the order.
        let large = prop_oneof![
            Just(1 << 63),
            Just(-1 << 63),
            Just(1 << 118),
            Just(-1 << 118)
        ];
        let value = prop_oneof![6 => 1i128..100, 6 => -50i128..50, 1 => large];
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
                let mut values = ExactSums::default();
                for (stack, value) in samples {
                    let frames: Vec<Frame> =
                        stack.iter().map(|name| Frame::named(FrameKind::Go, name)).collect();
                    values.add(tree.intern(frames.iter()), *value);
                }
                values
            };
            let (base, new) = (values(&mut tree, &base), values(&mut tree, &new));
            let a = Regex::new("a").unwrap();
            let choice = Choice { max_nodes, hide: hide.then_some(&a), ..Choice::ALL };
            let (mut shape, mut selves) = (CallTree::new(), [const { Vec::new() }; 2]);
            let flat = flatten_sides(&mut shape, &mut selves, &tree, [&base, &new], &choice);
            prop_assert_eq!(shape.total(), 0);
            let [one, other] = selves.map(|selves| shape.with_selves(selves));
            for (out, values) in [(&one, &base), (&other, &new)] {
                let mut alone = CallTree::new();
                let plain = Choice { max_nodes: usize::MAX, ..choice };
                flatten(&mut alone, &tree, values, &plain);
                prop_assert_eq!(out.total(), alone.total());
                // What has a name on this side has the same value as in the whole.
                let whole: std::collections::BTreeMap<_, _> = totals(&alone).into_iter().collect();
                for (path, total) in totals(out) {
                    if !path.ends_with(OTHER) {
                        let alone = whole.get(&path).copied().unwrap_or(0);
                        prop_assert_eq!(alone, total, "{}", path);
                    }
                }
            }
            prop_assert_eq!(flat.totals, [one.total(), other.total()]);
            let named = totals(&one).into_iter().filter(|(path, _)| !path.ends_with(OTHER)).count();
            prop_assert_eq!(flat.folded_nodes == 0, named + 1 == one.nodes().len());
            prop_assert!(named <= 2 * max_nodes);
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
            let steps = [small, large, -large].map(|value| step(size(value)));
            prop_assert!(steps[0] <= steps[1]);
            prop_assert_eq!(steps[1], steps[2]);
            prop_assert_eq!(steps[0] == 0, small == 0);
            prop_assert!(step(size(large) * f32::MAX) < STEPS);
        }
    }
}
