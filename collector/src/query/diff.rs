//! Two selections of one profile type, compared where they are stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proto::labels::Selector;
use proto::window::Window;

use super::basis::Basis;
use super::profile::ProfileRequest;
use super::{Inner, QueryError, ServiceName};
use crate::diff::{DiffAnswer, Reading};
use crate::flatten::{Choice, flatten_sides};
use crate::store::exact::ExactSums;
use crate::store::trees;
use crate::store::{PtypeId, ServiceId};
use crate::tree::CallTree;

/// Nodes that stay for the sake of each side before both are compared, for each of
/// the answer: several lines of a function become one node. What differs by much is
/// as heavy on one side, so it stays.
const SIDE_NODES: usize = 2;
/// Most nodes that stay for the sake of each side.
const MAX_SIDE_NODES: usize = 65_536;

/// Asks for a comparison.
#[derive(Clone, Debug)]
pub struct DiffRequest {
    /// The new side; its limit of nodes is that of the comparison.
    pub new: ProfileRequest,
    /// The base, which is the same but for these.
    pub base: DiffBase,
    /// What the sides are compared by.
    pub reading: Reading,
}

/// What is compared with.
#[derive(Clone, Debug)]
pub struct DiffBase {
    /// Of which service.
    pub service: ServiceName,
    /// Windows that start in this time.
    pub window: Window,
    /// Which series.
    pub selector: Selector,
}

impl DiffRequest {
    /// The questions for base and new side, without a limit of nodes.
    fn sides(&self) -> [ProfileRequest; 2] {
        let new = ProfileRequest {
            max_nodes: usize::MAX,
            ..self.new.clone()
        };
        let base = ProfileRequest {
            service: self.base.service.clone(),
            window: self.base.window,
            selector: self.base.selector.clone(),
            ..new.clone()
        };
        [base, new]
    }
}

/// Both sides of a type.
#[derive(Default)]
struct Sides {
    /// The nodes of both.
    tree: CallTree,
    /// Each side's values, by node.
    selves: [Vec<i128>; 2],
    bases: [Basis; 2],
    folded_nodes: u64,
}

impl Inner {
    /// Adds up both sides and compares them.
    pub(super) fn diff(
        &self,
        tenant: &str,
        request: &DiffRequest,
        gone: &Arc<AtomicBool>,
    ) -> Result<DiffAnswer, QueryError> {
        let [base, new] = request.sides();
        let known = self.find(tenant, &new.service)?;
        // Which sides each service is on: base, new, or both.
        let mut services: BTreeMap<ServiceId, [bool; 2]> = BTreeMap::new();
        for (at, name) in [&base.service, &new.service].into_iter().enumerate() {
            for (service, _) in self.find(tenant, name)? {
                if let Some(on) = services.entry(service).or_default().get_mut(at) {
                    *on = true;
                }
            }
        }
        let questions = [&base, &new];
        let side_nodes = request.new.node_limit().saturating_mul(SIDE_NODES);
        let side_nodes = side_nodes.min(MAX_SIDE_NODES);
        let (stored, mut sides) = self.best(new.asked(&known), |ptype| {
            let mut sides = Sides::default();
            for (service, on) in &services {
                let of = (*service, ptype, side_nodes);
                self.add_sides(of, questions, *on, gone, &mut sides)?;
            }
            let windows = sides.bases.iter().map(Basis::windows);
            Ok((windows.fold(0, u64::saturating_add), sides))
        })?;
        let selves = std::mem::take(&mut sides.selves);
        let [base_tree, new_tree] = selves.map(|selves| sides.tree.with_selves(selves));
        let [base_basis, new_basis] = sides.bases;
        let base = self.finish(&base, &stored, base_tree, base_basis);
        let new = self.finish(&new, &stored, new_tree, new_basis);
        let mut answer = DiffAnswer::new(&base, &new, request.reading)?;
        answer.pruned_nodes = sides.folded_nodes;
        Ok(answer.pruned(request.new.node_limit()))
    }

    /// Adds one service to the sides that it is on.
    fn add_sides(
        &self,
        (service, ptype, side_nodes): (ServiceId, PtypeId, usize),
        questions: [&ProfileRequest; 2],
        on: [bool; 2],
        gone: &Arc<AtomicBool>,
        sides: &mut Sides,
    ) -> Result<(), QueryError> {
        let [_, new] = questions;
        let mut one = self.one_tree(service, new.work().and(new.work()))?;
        let mut values: [ExactSums; 2] = Default::default();
        let of_sides = values.iter_mut().zip(&mut sides.bases).zip(questions);
        for (((values, basis), question), on) in of_sides.zip(on) {
            if !on {
                continue;
            }
            let selection = self.select(service, &question.selector)?;
            let sum = (service, ptype, &selection, question.window);
            *values = self.sum(sum, gone, basis, &mut one)?.unwrap_or_default();
        }
        let choice = Choice {
            max_nodes: side_nodes,
            ..new.choice()
        };
        let [base_values, new_values] = &values;
        let flat = flatten_sides(
            &mut sides.tree,
            &mut sides.selves,
            &trees::read(&one.tree),
            [base_values, new_values],
            &choice,
        );
        sides.folded_nodes = sides.folded_nodes.saturating_add(flat.folded_nodes);
        Ok(())
    }
}
