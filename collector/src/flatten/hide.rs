//! Frames that vanish: a service's tree without them. Pure.

use regex::Regex;
use rustc_hash::FxHashMap;

use super::{index, live_nodes};
use crate::store::exact::ExactSums;
use crate::store::tree::ServiceTree;

/// A service's tree and its samples without some frames.
pub(super) struct Shown<const N: usize> {
    /// (parent, frame) of each node. A parent still comes before its children; a
    /// node that is not there any more has no samples.
    pub(super) shape: Vec<(u32, u32)>,
    /// The node at which what is at each place of `values` ends.
    pub(super) leaves: Vec<u32>,
    /// Each side's values; those of samples that end at one node now are one.
    pub(super) values: [ExactSums; N],
}

/// Returns `tree` as if no sample had a frame that matches `hide`, and the `values` of
/// stacks that end at `leaves`: those that end at a hidden node end at its parent, and
/// nodes that are one node now are the first of them.
///
/// As `go tool pprof -hide`, which also matches names of files; a sample of hidden
/// frames only is the root's.
pub(super) fn without<const N: usize>(
    tree: &ServiceTree,
    hide: &Regex,
    leaves: &[u32],
    values: [&ExactSums; N],
) -> Shown<N> {
    let hidden = tree.functions_matching(|function| hide.is_match(function));
    let is_live = live_nodes(tree, leaves, values);
    let mut shape = tree.nodes().to_vec();
    // Per node: the node that it is now.
    let mut places: Vec<u32> = (0..).take(shape.len()).collect();
    let mut known: FxHashMap<(u32, u32), u32> = FxHashMap::default();
    for ((node, &(parent, frame)), is_live) in (0_u32..).zip(tree.nodes()).zip(is_live).skip(1) {
        if !is_live {
            continue;
        }
        let above = places.get(index(parent)).copied().unwrap_or(0);
        let place = match hidden.get(index(frame)) {
            Some(true) => above,
            _ => *known.entry((above, frame)).or_insert(node),
        };
        if let Some(slot) = places.get_mut(index(node)) {
            *slot = place;
        }
        if place == node
            && let Some(slot) = shape.get_mut(index(node))
        {
            *slot = (above, frame);
        }
    }
    let by_node = values.map(|values| {
        let mut by_node = ExactSums::default();
        by_node.reach(shape.len());
        for (&leaf, value) in leaves.iter().zip(values.iter()) {
            if let Some(&place) = places.get(index(leaf)) {
                by_node.add(place, value);
            }
        }
        by_node
    });
    Shown {
        leaves: (0..).take(shape.len()).collect(),
        shape,
        values: by_node,
    }
}
