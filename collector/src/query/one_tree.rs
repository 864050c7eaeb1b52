//! Vectors over several epochs of a service's tree, as one over a single tree.
//!
//! Nearly every range lies within one epoch, and its tree is read as it is. Where
//! there are several, the stacks of the others are added to a copy.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use super::admission::Work;
use super::{Inner, QueryError};
use crate::memory::Share;
use crate::store::exact::ExactSums;
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
    /// What it takes memory for.
    work: Work,
    /// The memory of it all.
    share: Option<Share>,
}

impl Inner {
    /// The tree that new stacks of `service` are added to, with the memory of
    /// `work` over it.
    pub(super) fn one_tree(&self, service: ServiceId, work: Work) -> Result<OneTree, QueryError> {
        let epoch = self.trees.current(service)?.epoch;
        let tree = self.trees.at(TreeId { service, epoch })?;
        let share = self.admission.share(&tree, work)?;
        Ok(OneTree {
            tree,
            service,
            epoch,
            is_used: false,
            is_copy: false,
            own_stacks: u32::MAX,
            work,
            share: Some(share),
        })
    }

    /// One vector in the unit of the type, whatever the rates and epochs were: by
    /// ids of stacks of `one`, which becomes another tree where it must.
    pub(super) fn in_units(
        &self,
        sum: &RangeSum,
        one: &mut OneTree,
    ) -> Result<ExactSums, QueryError> {
        let kinds = sum.sums.iter();
        let kinds = kinds.filter(|(_, of_kind)| of_kind.values.held().next().is_some());
        let epochs: BTreeSet<Epoch> = kinds.map(|(kind, _)| kind.epoch).collect();
        match (epochs.first(), epochs.len()) {
            (Some(&epoch), 1) if epoch != one.epoch && !one.is_used => {
                let service = one.service;
                one.tree = self.trees.at(TreeId { service, epoch })?;
                one.epoch = epoch;
                // Given back before anything is waited for.
                one.share = None;
                one.share = Some(self.admission.share(&one.tree, one.work)?);
            }
            (Some(&epoch), 1) if epoch == one.epoch => {}
            (None, _) => {}
            _ => self.copy(one, &epochs)?,
        }
        one.is_used = true;
        let mut values = ExactSums::default();
        for (kind, of_kind) in &sum.sums {
            let weight = i128::from(kind.weight);
            if kind.epoch == one.epoch && !one.is_copy {
                values.absorb(&of_kind.values, weight);
            } else {
                self.add_named(kind.epoch, &of_kind.values, weight, one, &mut values)?;
            }
        }
        Ok(values)
    }

    /// Adds values of an epoch to those of `one`, which is a copy.
    fn add_named(
        &self,
        epoch: Epoch,
        of_epoch: &ExactSums,
        weight: i128,
        one: &OneTree,
        values: &mut ExactSums,
    ) -> Result<(), QueryError> {
        // Stacks that came after the tree was copied are looked up like others.
        let own_stacks = match epoch == one.epoch {
            true => one.own_stacks,
            false => 0,
        };
        let mut other = None;
        for (stack, value) in of_epoch.held() {
            let place = if stack < own_stacks {
                stack
            } else {
                let other = match &other {
                    Some(other) => other,
                    None => other.insert(self.trees.at(TreeId {
                        service: one.service,
                        epoch,
                    })?),
                };
                let path = trees::read(other).path(stack);
                trees::write(&one.tree).intern(path.iter())
            };
            values.add(place, value.saturating_mul(weight));
        }
        Ok(())
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
        one.share = Some(self.admission.share_copy(&trees, one.work)?);
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
