//! Vectors over several epochs of a service's tree, as one over a single tree.
//!
//! Nearly every range lies within one epoch, and its tree is read as it is. Where
//! there are several, the stacks of the others are added to a copy.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use super::{Inner, QueryError};
use crate::memory::Share;
use crate::store::segment::RangeSum;
use crate::store::trees::{self, SharedTree};
use crate::store::{Epoch, ServiceId, TreeId};

/// The tree that the values of an answer are of.
#[derive(Debug)]
pub(super) struct OneTree {
    /// The tree; who reads it lets it go soon, since the writer waits for it.
    pub(super) tree: SharedTree,
    service: ServiceId,
    /// The epoch whose stacks have the same ids in it.
    epoch: Epoch,
    /// Whether values of it were given out.
    is_used: bool,
    /// Whether nobody else sees the tree.
    is_copy: bool,
    /// Stacks of the epoch that a copy has under their own ids.
    own_stacks: u32,
    /// How many plain answers over a tree it takes the memory of.
    answers: usize,
    /// The memory of it all.
    share: Option<Share>,
}

impl Inner {
    /// The tree that new stacks of `service` are added to, with the memory of
    /// `answers` answers over it.
    pub(super) fn one_tree(
        &self,
        service: ServiceId,
        answers: usize,
    ) -> Result<OneTree, QueryError> {
        let epoch = self.trees.current(service)?.epoch;
        let tree = self.trees.at(TreeId { service, epoch })?;
        let share = self.admission.share(&tree, answers)?;
        Ok(OneTree {
            tree,
            service,
            epoch,
            is_used: false,
            is_copy: false,
            own_stacks: u32::MAX,
            answers,
            share: Some(share),
        })
    }

    /// One vector in the unit of the type, whatever the rates and epochs were: by
    /// ids of stacks of `one`, which becomes another tree where it must.
    pub(super) fn in_units(
        &self,
        sum: &RangeSum,
        one: &mut OneTree,
    ) -> Result<Vec<i128>, QueryError> {
        let kinds = sum.sums.iter();
        let kinds = kinds.filter(|(_, of_kind)| of_kind.values.iter().any(|value| *value != 0));
        let epochs: BTreeSet<Epoch> = kinds.map(|(kind, _)| kind.epoch).collect();
        match (epochs.first(), epochs.len()) {
            (Some(&epoch), 1) if epoch != one.epoch && !one.is_used => {
                let service = one.service;
                one.tree = self.trees.at(TreeId { service, epoch })?;
                one.epoch = epoch;
                // Given back before anything is waited for.
                one.share = None;
                one.share = Some(self.admission.share(&one.tree, one.answers)?);
            }
            (Some(&epoch), 1) if epoch == one.epoch => {}
            (None, _) => {}
            _ => self.copy(one, &epochs)?,
        }
        one.is_used = true;
        let mut values: Vec<i128> = Vec::new();
        let mut add = |stack: usize, value: i128| {
            if values.len() <= stack {
                values.resize(stack.saturating_add(1), 0);
            }
            if let Some(slot) = values.get_mut(stack) {
                *slot = slot.saturating_add(value);
            }
        };
        for (kind, of_kind) in &sum.sums {
            let weight = i128::from(kind.weight);
            let stacks = (0_u32..).zip(&of_kind.values);
            let stacks = stacks.filter(|(_, value)| **value != 0);
            let weighted = stacks.map(|(stack, value)| (stack, value.saturating_mul(weight)));
            let index = |stack: u32| usize::try_from(stack).unwrap_or(usize::MAX);
            // Stacks that came after a tree was copied are looked up like others.
            let own_stacks = match kind.epoch == one.epoch {
                true => one.own_stacks,
                false => 0,
            };
            let mut other = None;
            for (stack, value) in weighted {
                if stack < own_stacks {
                    add(index(stack), value);
                    continue;
                }
                let other = match &other {
                    Some(other) => other,
                    None => other.insert(self.trees.at(TreeId {
                        service: one.service,
                        epoch: kind.epoch,
                    })?),
                };
                let path = trees::read(other).path(stack);
                let stack = trees::write(&one.tree).intern(path.iter());
                add(index(stack), value);
            }
        }
        Ok(values)
    }

    /// Makes `one` a copy that nobody else sees, unless it is one, and takes the
    /// memory for the stacks of `epochs` in it.
    fn copy(&self, one: &mut OneTree, epochs: &BTreeSet<Epoch>) -> Result<(), QueryError> {
        let mut trees = vec![Arc::clone(&one.tree)];
        for &epoch in epochs.iter().filter(|epoch| **epoch != one.epoch) {
            let service = one.service;
            trees.push(self.trees.at(TreeId { service, epoch })?);
        }
        // Given back before anything is waited for.
        one.share = None;
        one.share = Some(self.admission.share_copy(&trees, one.answers)?);
        if !one.is_copy {
            let mut copy = trees::read(&one.tree).clone().limited(usize::MAX);
            // What is not written may come to stand for something else.
            copy.roll_back();
            one.own_stacks = u32::try_from(copy.stack_count()).unwrap_or(u32::MAX);
            one.is_copy = true;
            one.tree = Arc::new(RwLock::new(copy));
        }
        Ok(())
    }
}
