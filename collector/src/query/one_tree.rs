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
    /// The memory of a copy.
    copy: Option<Share>,
}

impl Inner {
    /// The tree that new stacks of `service` are added to.
    pub(super) fn one_tree(&self, service: ServiceId) -> Result<OneTree, QueryError> {
        let epoch = self.trees.current(service)?.epoch;
        Ok(OneTree {
            tree: self.trees.at(TreeId { service, epoch })?,
            service,
            epoch,
            is_used: false,
            copy: None,
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
            }
            (Some(&epoch), 1) if epoch == one.epoch => {}
            (None, _) => {}
            _ => self.copy_once(one)?,
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
            if kind.epoch == one.epoch {
                weighted.for_each(|(stack, value)| add(index(stack), value));
                continue;
            }
            let other = self.trees.at(TreeId {
                service: one.service,
                epoch: kind.epoch,
            })?;
            for (stack, value) in weighted {
                let path = trees::read(&other).path(stack);
                let stack = trees::write(&one.tree).intern(path.iter());
                add(index(stack), value);
            }
        }
        Ok(values)
    }

    /// Makes `one` a copy that nobody else sees, unless it is one.
    fn copy_once(&self, one: &mut OneTree) -> Result<(), QueryError> {
        if one.copy.is_none() {
            one.copy = Some(self.admission.share(&one.tree, 2)?);
            let copy = trees::read(&one.tree).clone().limited(usize::MAX);
            one.tree = Arc::new(RwLock::new(copy));
        }
        Ok(())
    }
}
