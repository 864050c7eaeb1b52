//! Two call trees side by side: what grew and what shrank. Pure: no I/O, no clock.
//!
//! A [`DiffTree`] is the union of a base and a new tree: each call path once,
//! with its value on both sides. A change is always new minus base, so growth
//! is positive. [`Reading`] says whether the base is scaled first, so that both
//! sides rest on the same amount; the new side always stays as it was measured.
//!
//! Promises: an absolute diff keeps every value of both sides; folding and
//! pruning keep both totals; the diff of a tree with itself is zero everywhere.
//! Sums and changes beyond 128 bits are held at the limit. Leaves text and
//! files to [`crate::render::diff`].

use std::cmp::Reverse;
use std::sync::Arc;

pub use answer::{DiffAnswer, DiffError, DiffSide};
pub use ratio::Ratio;
pub use wire::{reading_from_wire, reading_to_wire};

use crate::prune::{self, Smaller};
use crate::top::{self, Functions};
use crate::tree::CallTree;

mod answer;
mod ratio;
mod wire;

/// What the two sides are compared by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reading {
    /// Values as measured. Right when both sides are the same length of time
    /// of the same number of processes.
    Absolute,
    /// The base times `new observed time ÷ base observed time`, so that CPU
    /// compares as cores and allocations as bytes per second, whatever the two
    /// lengths. Observed is the time during which some series was seen
    /// ([`crate::answer::Coverage::observed`]), so that more load or more processes show as
    /// growth. Gauges are averages over time already and stay as they are.
    #[default]
    PerTime,
    /// The base times `new total ÷ base total`, so that shares of the total
    /// compare: which functions take a larger part than before. The totals are
    /// equal by construction; more load or more processes do not show. (`go tool
    /// pprof -normalize` scales the new side instead, to the base's total.)
    Share,
}

/// A value on both sides, in the profile type's unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Change {
    /// On the base's side, scaled as the [`Reading`] says.
    pub base: i128,
    /// On the new side.
    pub new: i128,
}

impl Change {
    /// New minus base, held within 128 bits.
    pub fn delta(self) -> i128 {
        self.new.saturating_sub(self.base)
    }

    /// The change in parts of the base: 0.5 is half as much again. `None` when
    /// the base is zero.
    pub fn relative(self) -> Option<f64> {
        // In floats, because the change of two extremes does not fit 128 bits.
        let (base, new) = (self.base as f64, self.new as f64);
        (self.base != 0).then(|| (new - base) / base.abs())
    }
}

/// The union of two call trees; node 0 is the root of both.
#[derive(Clone, Debug)]
pub struct DiffTree {
    // Equal but for their values: a node's index is the same in both.
    base: CallTree,
    new: CallTree,
    /// Whether no two nodes of one parent are known to be of one function.
    is_by_function: bool,
}

/// One function on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffRow {
    /// Name, never empty.
    pub function: Arc<str>,
    /// File of the function's heaviest frame on the new side, or on the base's
    /// when the new has none; empty when unknown.
    pub file: Arc<str>,
    /// Line of that frame; 0 when unknown.
    pub line: u32,
    /// Value of the samples in which it is the leaf.
    pub flat: Change,
    /// Value of the samples in which it is anywhere, each counted once.
    pub cum: Change,
}

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

/// Adds the nodes of `tree` to `out`, each with what `value` says of it. Nodes
/// keep their index when `out` was empty.
fn hang(out: &mut CallTree, tree: &CallTree, value: impl Fn(usize) -> i128) {
    let mut places: Vec<usize> = Vec::with_capacity(tree.nodes().len());
    for (at, node) in tree.nodes().iter().enumerate() {
        let place = match (tree.frame_of(at), places.get(index(node.parent))) {
            (Some(frame), Some(&parent)) => out.child(parent, frame),
            _ => 0,
        };
        out.add_self(place, value(at));
        places.push(place);
    }
}

/// The nodes of `shape` with the values of `from`, whose nodes lie at `places`.
fn moved(shape: &CallTree, from: &CallTree, places: &[usize]) -> CallTree {
    let mut tree = shape.with_selves(std::iter::empty());
    for (node, &place) in from.nodes().iter().zip(places) {
        tree.add_self(place, node.self_value);
    }
    tree
}

/// `values`, one per node of `tree`, times `ratio`.
///
/// Rounded such that the sum is the exact product rounded, and the sum below
/// any node is off by less than one: what is lost at one node is made good at
/// the next, in the order of a walk that visits a subtree without a break.
pub(crate) fn scaled(tree: &CallTree, values: &[i128], ratio: Ratio) -> Vec<i128> {
    if ratio == Ratio::ONE {
        return values.to_vec();
    }
    let children = tree.children();
    let mut out = vec![0_i128; tree.nodes().len()];
    let (mut sum, mut given) = (0_i128, 0_i128);
    let mut steps = vec![0_usize];
    while let Some(at) = steps.pop() {
        sum = sum.saturating_add(values.get(at).copied().unwrap_or(0));
        let due = ratio.times(sum);
        if let Some(slot) = out.get_mut(at) {
            *slot = due.saturating_sub(given);
        }
        given = due;
        let below = children.get(at).into_iter().flatten().rev();
        steps.extend(below.map(|&child| index(child)));
    }
    out
}

impl DiffTree {
    /// Returns the union of two trees, with their values as they are.
    ///
    /// Paths are told apart by whole frames, with file and line. Two builds of
    /// a program rarely agree on lines: [`DiffTree::fold_lines`] compares them
    /// by function.
    pub fn new(base: &CallTree, new: &CallTree) -> Self {
        if base.is_alike(new) {
            let selves = base.nodes().iter().map(|node| node.self_value);
            return Self::of_sides(new.with_selves(selves), new.clone());
        }
        let own =
            |tree: &CallTree, at: usize| tree.nodes().get(at).map_or(0, |node| node.self_value);
        let mut union = Self::of_sides(CallTree::new(), CallTree::new());
        hang(&mut union.base, base, |at| own(base, at));
        hang(&mut union.new, base, |_| 0);
        hang(&mut union.base, new, |_| 0);
        hang(&mut union.new, new, |at| own(new, at));
        union
    }

    /// The comparison of two trees that are alike.
    fn of_sides(base: CallTree, new: CallTree) -> Self {
        Self {
            base,
            new,
            is_by_function: false,
        }
    }

    /// The base's values; its nodes and frames have the indices of
    /// [`DiffTree::new_side`].
    pub fn base_side(&self) -> &CallTree {
        &self.base
    }

    /// The new values.
    pub fn new_side(&self) -> &CallTree {
        &self.new
    }

    /// Per node: its own value on both sides.
    pub fn selves(&self) -> Vec<Change> {
        let both = self.base.nodes().iter().zip(self.new.nodes());
        both.map(|(base, new)| Change {
            base: base.self_value,
            new: new.self_value,
        })
        .collect()
    }

    /// Per node: its value and that of everything below it, on both sides.
    pub fn totals(&self) -> Vec<Change> {
        let both = self.base.totals().into_iter().zip(self.new.totals());
        both.map(|(base, new)| Change { base, new }).collect()
    }

    /// The whole of both sides.
    pub fn total(&self) -> Change {
        Change {
            base: self.base.total(),
            new: self.new.total(),
        }
    }

    /// Per node: the sizes of all changes at and below it, added up. Unlike the
    /// change of a total, it shows work that moved from one callee to another.
    pub fn changed(&self) -> Vec<u128> {
        let changes = self.selves().into_iter().map(Change::delta);
        prune::sizes_of(&self.new, changes.map(i128::unsigned_abs))
    }

    /// Returns this tree with every value of the base times `ratio`, rounded
    /// such that no node's total is off by one or more.
    #[must_use]
    pub fn scale_base(&self, ratio: Ratio) -> Self {
        let selves = self.base.nodes().iter().map(|node| node.self_value);
        let values = scaled(&self.base, &selves.collect::<Vec<_>>(), ratio);
        Self {
            base: self.base.with_selves(values),
            ..self.clone()
        }
    }

    /// Returns this tree with the nodes of one function under one parent
    /// merged, as [`prune::fold_lines`] does. A merged node shows the heaviest
    /// frame of the new side, or of the base when the new has none.
    #[must_use]
    pub fn fold_lines(&self) -> Self {
        if self.is_by_function {
            return self.clone();
        }
        let sizes = prune::sizes(&self.new).into_iter();
        let sizes: Vec<_> = sizes.zip(prune::sizes(&self.base)).collect();
        Self {
            is_by_function: true,
            ..self.smaller(prune::fold_lines_by(&self.new, &sizes)).0
        }
    }

    /// Returns at most `max_nodes` nodes of this tree, with the root and the
    /// nodes called [`prune::OTHER`], one per parent, that hold the rest of
    /// both sides; and how many nodes those stand for. Both totals stay.
    ///
    /// Nodes stay by the largest of three sizes at and below them: the base's
    /// values, the new values, the changes. So neither what is heavy on one
    /// side only is lost, nor what moved within a subtree. The root and one
    /// `other` stay even when `max_nodes` is less than two.
    #[must_use]
    pub fn prune(&self, max_nodes: usize) -> (Self, u64) {
        let base = prune::sizes(&self.base);
        let new = prune::sizes(&self.new);
        let sides = base.into_iter().zip(new);
        let sizes: Vec<u128> = sides
            .zip(self.changed())
            .map(|((base, new), changed)| base.max(new).max(changed))
            .collect();
        let (smaller, pruned_nodes) = self.smaller(prune::prune_by(&self.new, &sizes, max_nodes));
        // A function may be called as what was pruned is.
        let frames = smaller.new.frames().iter();
        let others = frames.filter(|frame| *frame.function == *prune::OTHER);
        let is_by_function = self.is_by_function && others.count() < 2;
        let smaller = Self {
            is_by_function,
            ..smaller
        };
        (smaller, pruned_nodes)
    }

    /// The tree that `smaller` makes of the new side, with the base in it.
    fn smaller(&self, smaller: Smaller) -> (Self, u64) {
        let base = moved(&smaller.tree, &self.base, &smaller.places);
        (Self::of_sides(base, smaller.tree), smaller.pruned_nodes)
    }

    /// Returns the functions of both sides, largest change of flat first, then
    /// of cum, ties by name.
    ///
    /// Each side's values are those of [`top::top`]: cum counts a recursive
    /// function once per sample. Changes are compared without their sign. A
    /// function that did not change has a row too.
    pub fn functions(&self) -> Vec<DiffRow> {
        let functions = Functions::of(&self.new);
        let bases = top::rows(&self.base, &functions);
        let both = bases.zip(top::rows(&self.new, &functions));
        let known = both.filter(|(base, new)| !base.is_zero() || !new.is_zero());
        let mut rows: Vec<DiffRow> = known
            .map(|(base, new)| {
                let flat = Change {
                    base: base.flat,
                    new: new.flat,
                };
                let cum = Change {
                    base: base.cum,
                    new: new.cum,
                };
                let shown = if new.is_zero() { base } else { new };
                DiffRow {
                    function: shown.function,
                    file: shown.file,
                    line: shown.line,
                    flat,
                    cum,
                }
            })
            .collect();
        rows.sort_by_cached_key(|row| {
            (
                Reverse(row.flat.delta().unsigned_abs()),
                Reverse(row.cum.delta().unsigned_abs()),
                Arc::clone(&row.function),
            )
        });
        rows
    }
}

#[cfg(test)]
mod tests;
