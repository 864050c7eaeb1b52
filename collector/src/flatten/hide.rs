//! Frames that vanish: a service's tree without them. Pure.

use regex::Regex;
use rustc_hash::FxHashMap;

use super::index;
use crate::store::tree::ServiceTree;

/// Returns (parent, frame) of each node of `tree` as if no sample had a frame
/// that matches `hide`, and moves the values of each side to where they are then: a
/// hidden node's to its parent, and those of nodes that are one node now to the
/// first of them. A parent still comes before its children; a node that is not
/// there any more has no value.
///
/// As `go tool pprof -hide`, which also matches names of files; a sample of hidden
/// frames only is the root's.
pub(super) fn without<const N: usize>(
    tree: &ServiceTree,
    hide: &Regex,
    sides: &mut [Vec<i128>; N],
) -> Vec<(u32, u32)> {
    let hidden = tree.functions_matching(|function| hide.is_match(function));
    let mut is_live = vec![false; tree.node_count()];
    for own in &*sides {
        for (is_live, own) in is_live.iter_mut().zip(own) {
            *is_live |= *own != 0;
        }
    }
    for (node, &(parent, _)) in tree.nodes().iter().enumerate().skip(1).rev() {
        if is_live.get(node) == Some(&true)
            && let Some(above) = is_live.get_mut(index(parent))
        {
            *above = true;
        }
    }
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
        if place == node {
            if let Some(slot) = shape.get_mut(index(node)) {
                *slot = (above, frame);
            }
            continue;
        }
        for own in &mut *sides {
            let moved = own.get_mut(index(node)).map_or(0, std::mem::take);
            if let Some(slot) = own.get_mut(index(place)) {
                *slot = slot.saturating_add(moved);
            }
        }
    }
    shape
}
