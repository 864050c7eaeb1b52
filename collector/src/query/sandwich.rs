//! One function between its callers and its callees, from the whole tree of a
//! range.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proto::value_type::Temporality;

use super::admission::Work;
use super::basis::Basis;
use super::one_tree::OneTree;
use super::profile::ProfileRequest;
use super::{Inner, QueryError};
use crate::flatten::{Choice, flatten, functions};
use crate::near::near;
use crate::prune;
use crate::sandwich::{Sandwich, SandwichAnswer, Wanted, sandwich};
use crate::store::trees;
use crate::tree::CallTree;

/// Functions that are named when nothing is found.
const MAX_NEAR: usize = 5;

/// What is known of all samples, and the tree of those that go through the
/// function.
#[derive(Default)]
struct Found {
    tree: CallTree,
    total: i128,
    basis: Basis,
    /// The memory of `tree` and what is made of it.
    held: Vec<OneTree>,
    /// Functions of other samples that are like what was asked for.
    near: Vec<(usize, String)>,
}

/// By function, and at most `max_nodes` nodes; counts what was folded.
fn shown(tree: &CallTree, max_nodes: usize, basis: &mut Basis) -> CallTree {
    let folded = prune::fold_lines(tree);
    if folded.nodes().len() <= max_nodes {
        return folded;
    }
    let (pruned, nodes) = prune::prune(&folded, max_nodes);
    basis.add_pruned(nodes);
    pruned
}

impl Inner {
    /// Looks for a function among the samples of `request`.
    pub(super) fn sandwich(
        &self,
        tenant: &str,
        request: &ProfileRequest,
        wanted: &Wanted,
        gone: &Arc<AtomicBool>,
    ) -> Result<SandwichAnswer, QueryError> {
        let services = self.find(tenant, &request.service)?;
        let (stored, mut found) = self.best(request.asked(&services), |ptype| {
            let mut found = Found::default();
            for (service, _) in &services {
                let selection = self.select(*service, &request.selector)?;
                let mut one = self.one_tree(*service, request.work().and(Work::EVERY_NODE))?;
                let sum = (*service, ptype, &selection, request.window);
                let Some(values) = self.sum(sum, gone, &mut found.basis, &mut one)? else {
                    continue;
                };
                let choice = Choice {
                    through: Some(wanted),
                    max_nodes: usize::MAX,
                    ..request.choice()
                };
                let nodes = found.tree.nodes().len();
                let flat = flatten(&mut found.tree, &trees::read(&one.tree), &values, &choice);
                let [total] = flat.totals;
                found.total = found.total.saturating_add(total);
                if found.tree.nodes().len() == nodes {
                    // Copied, so that the tree is let go before they are compared.
                    let names: Vec<String> = functions(&trees::read(&one.tree), &values)
                        .into_iter()
                        .map(str::to_owned)
                        .collect();
                    let like = near(wanted.text(), names.iter().map(String::as_str), MAX_NEAR);
                    let like = like.into_iter().map(|(far, name)| (far, name.to_owned()));
                    found.near.extend(like);
                }
                found.held.push(one);
            }
            Ok((found.basis.windows(), found))
        })?;
        let observed_s = found.basis.observed_s();
        let mut whole_total = found.total;
        if stored.temporality == Temporality::Gauge {
            found.tree.divide(observed_s);
            whole_total = whole_total.checked_div(observed_s).unwrap_or(whole_total);
        }
        let subject = wanted.subject(&found.tree);
        let whole = sandwich(&found.tree, &subject);
        if whole.functions.is_empty() {
            return Err(no_function(request, wanted, &found));
        }
        let max_nodes = request.node_limit();
        let sandwich = Sandwich {
            callers: shown(&whole.callers, max_nodes, &mut found.basis),
            callees: shown(&whole.callees, max_nodes, &mut found.basis),
            total: whole_total,
            ..whole
        };
        let mut total = CallTree::new();
        total.add_self(0, found.total);
        let whole = self.finish(request, &stored, total, found.basis);
        Ok(SandwichAnswer {
            whole,
            subject,
            sandwich,
        })
    }
}

/// Says that no sample has the function, and what may have been meant.
fn no_function(request: &ProfileRequest, wanted: &Wanted, found: &Found) -> QueryError {
    let mut near: Vec<&(usize, String)> = found.near.iter().collect();
    near.sort();
    near.dedup();
    let names: Vec<&str> = near
        .iter()
        .take(MAX_NEAR)
        .map(|(_, name)| name.as_str())
        .collect();
    QueryError::NoFunction {
        service: request.service.to_string(),
        asked: wanted.text().to_owned(),
        pattern: wanted.no_pattern().cloned(),
        hint: match (found.basis.windows(), &names[..]) {
            (0, _) => "there are no windows in this range".to_owned(),
            (_, []) => "the table of functions lists those there are".to_owned(),
            (_, names) => format!("near it are: {}", names.join(", ")),
        },
    }
}
