//! The merged call tree of a selection.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proto::labels::Selector;
use proto::value_type::Temporality;
use proto::window::Window;
use regex::Regex;

use super::admission::Work;
use super::basis::{Asked, Basis};
use super::{Inner, QueryError, ServiceName};
use crate::answer::ProfileAnswer;
use crate::flatten::{Choice, flatten};
use crate::prune;
use crate::store::trees;
use crate::store::{ServiceId, ServiceKey, StoredType};
use crate::tree::CallTree;

/// Nodes of an answer when the caller does not say: more than a screen shows.
pub const DEFAULT_MAX_NODES: usize = 4_096;

/// Asks for the merged call tree of a selection.
#[derive(Clone, Debug)]
pub struct ProfileRequest {
    /// Of which service.
    pub service: ServiceName,
    /// Windows that start in this time.
    pub window: Window,
    /// What is counted, as [`proto::value_type::ProfileType::is_called`] reads it;
    /// empty means CPU.
    pub profile_type: String,
    /// Which series.
    pub selector: Selector,
    /// Only samples with a function that matches.
    pub focus: Option<Regex>,
    /// No samples with a function that matches.
    pub ignore: Option<Regex>,
    /// Frames of functions that match vanish; their value goes to their callers.
    pub hide: Option<Regex>,
    /// Most nodes of the answer; 0 means [`DEFAULT_MAX_NODES`].
    pub max_nodes: usize,
}

impl ProfileRequest {
    /// Nodes that the answer may have.
    pub(super) fn node_limit(&self) -> usize {
        match self.max_nodes {
            0 => DEFAULT_MAX_NODES,
            asked => asked,
        }
    }

    /// The type that is asked for, of `services`.
    pub(super) fn asked<'a>(&'a self, services: &'a [(ServiceId, ServiceKey)]) -> Asked<'a> {
        Asked {
            name: &self.service,
            services,
            window: self.window,
            profile_type: &self.profile_type,
        }
    }

    /// What it takes memory for.
    pub(super) fn work(&self) -> Work {
        let work = Work::PLAIN.building(self.node_limit());
        match self.hide {
            None => work,
            Some(_) => work.and(Work::HIDING),
        }
    }

    /// Samples and nodes that are meant.
    pub(super) fn choice(&self) -> Choice<'_> {
        Choice {
            focus: self.focus.as_ref(),
            ignore: self.ignore.as_ref(),
            hide: self.hide.as_ref(),
            through: None,
            max_nodes: self.node_limit(),
        }
    }
}

impl Inner {
    /// Adds up and flattens every service that is meant.
    pub(super) fn profile(
        &self,
        tenant: &str,
        request: &ProfileRequest,
        gone: &Arc<AtomicBool>,
    ) -> Result<ProfileAnswer, QueryError> {
        let services = self.find(tenant, &request.service)?;
        let (stored, (tree, basis)) = self.best(request.asked(&services), |ptype| {
            let mut tree = CallTree::new();
            let mut basis = Basis::default();
            for (service, _) in &services {
                let selection = self.select(*service, &request.selector)?;
                let mut one = self.one_tree(*service, request.work())?;
                let sum = (*service, ptype, &selection, request.window);
                if let Some(values) = self.sum(sum, gone, &mut basis, &mut one)? {
                    let choice = request.choice();
                    let flat = flatten(&mut tree, &trees::read(&one.tree), &values, &choice);
                    basis.add_pruned(flat.folded_nodes);
                }
            }
            Ok((basis.windows(), (tree, basis)))
        })?;
        Ok(self.finish(request, &stored, tree, basis))
    }

    /// Divides gauges by the time they were seen, prunes and adds notes.
    pub(super) fn finish(
        &self,
        request: &ProfileRequest,
        stored: &StoredType,
        mut tree: CallTree,
        mut basis: Basis,
    ) -> ProfileAnswer {
        if stored.temporality == Temporality::Gauge {
            tree.divide(basis.observed_s());
        }
        // Several services together may have more than each was cut to.
        if tree.nodes().len() > request.node_limit() {
            let pruned;
            (tree, pruned) = prune::prune(&tree, request.node_limit());
            basis.add_pruned(pruned);
        }
        let period = basis.period();
        ProfileAnswer {
            profile_type: stored.profile_type.clone(),
            temporality: stored.temporality,
            period,
            window: request.window,
            tree,
            coverage: basis.coverage(request.window, &request.selector, self.clock.now()),
        }
    }
}
