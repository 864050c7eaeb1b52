//! One merged profile per value of a label.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proto::labels::Selector;
use proto::value_type::Temporality;
use proto::window::Window;

use super::basis::Basis;
use super::profile::ProfileRequest;
use super::{Inner, QueryError};
use crate::flatten::{Choice, flatten, total};
use crate::groups::{Group, GroupsAnswer, Member};
use crate::prune::{self, OTHER};
use crate::rollup::read::Selection;
use crate::store::trees;
use crate::store::{PtypeId, SeriesId, ServiceId, ServiceKey, StoreError};
use crate::top;
use crate::tree::CallTree;

/// Groups when the caller does not say.
pub const DEFAULT_GROUPS: usize = 20;
/// Most groups that a caller may ask for, the rest not counted.
pub const MAX_GROUPS: usize = 100;
/// Most values of a label that are looked at to find the largest.
pub(super) const MAX_VALUES: usize = 2_000;
/// Nodes of one group when the caller does not say.
const GROUP_NODES: usize = 2_048;
/// Most nodes of all groups together.
const ALL_NODES: usize = 1 << 18;
/// Nodes among which a group's top function is found, as many as tables have.
const TOP_NODES: usize = 65_536;

/// Asks for merged profiles by the value of a label.
#[derive(Clone, Debug)]
pub struct GroupsRequest {
    /// Of which samples; `max_nodes` is meant of each group.
    pub profile: ProfileRequest,
    /// Label whose values make groups.
    pub label: String,
    /// Groups beside the rest; 0 means [`DEFAULT_GROUPS`].
    pub max_groups: usize,
}

/// The series of one value, by service.
type Members = Vec<(ServiceId, Selection)>;

/// One group, added up. Gauges are not divided yet.
#[derive(Default)]
struct Part {
    tree: CallTree,
    basis: Basis,
    /// The function with the largest flat value, and that.
    top: Option<(Arc<str>, i128)>,
}

impl GroupsRequest {
    fn group_limit(&self) -> usize {
        match self.max_groups {
            0 => DEFAULT_GROUPS,
            asked => asked.min(MAX_GROUPS),
        }
    }

    /// The question for one group.
    fn of_group(&self) -> ProfileRequest {
        let asked = match self.profile.max_nodes {
            0 => GROUP_NODES,
            asked => asked,
        };
        ProfileRequest {
            max_nodes: asked.min(ALL_NODES / (self.group_limit() + 1)),
            ..self.profile.clone()
        }
    }
}

impl Inner {
    /// The series of a service that were active on a day of `window`, by the
    /// value of `label`: empty for those without it.
    pub(super) fn grouped(
        &self,
        (service, ptype, window): (ServiceId, PtypeId, Window),
        selector: &Selector,
        label: &str,
    ) -> Result<Vec<(String, Selection)>, QueryError> {
        let active = self.store.active_series(ptype, service, window)?;
        let by_value = self.directory.with_series(service, |table| {
            let mut meant = table.select(selector);
            meant.retain(|id| active.binary_search(id).is_ok());
            let mut by_value: BTreeMap<String, Vec<SeriesId>> = BTreeMap::new();
            for id in meant {
                let labels = table.labels(id);
                let value = labels.and_then(|labels| labels.get(label)).unwrap_or("");
                by_value.entry(value.to_owned()).or_default().push(id);
            }
            by_value
        })?;
        let groups = by_value.into_iter().map(|(value, members)| {
            // The sums of a whole group may be kept.
            let kept = match selector.is_empty() && !value.is_empty() {
                true => self.reader.groups().get(service, label, &value)?,
                false => None,
            };
            let selection = match kept {
                Some(id) => Selection::Group { id, members },
                None => Selection::Some(members),
            };
            Ok((value, selection))
        });
        groups.collect()
    }

    /// Adds up every group, and those beyond the limit as one.
    pub(super) fn groups(
        &self,
        tenant: &str,
        request: &GroupsRequest,
        gone: &Arc<AtomicBool>,
    ) -> Result<GroupsAnswer, QueryError> {
        let services = self.find(tenant, &request.profile.service)?;
        let question = request.of_group();
        let (stored, parts) = self.best(request.profile.asked(&services), |ptype| {
            let mut parts = Vec::new();
            for (member, members) in self.chosen(&services, ptype, request, gone)? {
                parts.push((member, self.part(&members, ptype, &question, gone)?));
            }
            let windows = parts.iter().map(|(_, part)| part.basis.windows());
            Ok((windows.fold(0, u64::saturating_add), parts))
        })?;
        let mut groups: Vec<Group> = Vec::new();
        for (member, mut part) in parts {
            if part.basis.windows() == 0 {
                continue;
            }
            let observed_s = match stored.temporality {
                Temporality::Gauge => part.basis.observed_s(),
                Temporality::Delta => 1,
            };
            let average = |value: i128| value.checked_div(observed_s).unwrap_or(value);
            let top = part.top.map(|(function, flat)| (function, average(flat)));
            groups.push(Group {
                member,
                answer: self.finish(&question, &stored, part.tree, part.basis),
                top,
            });
        }
        groups.sort_by_cached_key(|group| match &group.member {
            Member::Value(value) => {
                let size = group.answer.tree.total().unsigned_abs();
                (false, Reverse(size), value.clone())
            }
            Member::Rest(_) => (true, Reverse(0), String::new()),
        });
        Ok(GroupsAnswer {
            label: request.label.clone(),
            groups,
        })
    }

    /// The groups with the largest totals, and the rest.
    fn chosen(
        &self,
        services: &[(ServiceId, ServiceKey)],
        ptype: PtypeId,
        request: &GroupsRequest,
        gone: &Arc<AtomicBool>,
    ) -> Result<Vec<(Member, Members)>, QueryError> {
        let ProfileRequest {
            selector, window, ..
        } = &request.profile;
        let mut by_value: BTreeMap<String, Members> = BTreeMap::new();
        for (service, _) in services {
            let of = (*service, ptype, *window);
            for (value, selection) in self.grouped(of, selector, &request.label)? {
                by_value
                    .entry(value)
                    .or_default()
                    .push((*service, selection));
            }
        }
        let limit = request.group_limit();
        if by_value.len() <= limit {
            let members = by_value.into_iter();
            return Ok(members
                .map(|(value, members)| (Member::Value(value), members))
                .collect());
        }
        if by_value.len() > MAX_VALUES {
            return Err(QueryError::TooManyValues {
                label: request.label.clone(),
                values: by_value.len(),
            });
        }
        let types = self.directory.types();
        let is_gauge = types
            .iter()
            .any(|(id, stored)| *id == ptype && stored.temporality == Temporality::Gauge);
        // Which are large shows only in their sums, so each is added up twice.
        let mut sized = Vec::with_capacity(by_value.len());
        for (value, members) in by_value {
            if gone.load(Ordering::Relaxed) {
                return Err(StoreError::Cancelled.into());
            }
            let mut size = 0_i128;
            let mut basis = Basis::default();
            for (service, selection) in &members {
                let sum = (*service, ptype, selection, *window);
                let mut one = self.one_tree(*service, request.profile.work())?;
                let values = self.values(sum, gone, &mut one, &mut basis)?;
                let of_service = total(&trees::read(&one.tree), &values, &request.profile.choice());
                size = size.saturating_add(of_service);
            }
            if is_gauge {
                size = size.checked_div(basis.observed_s()).unwrap_or(size);
            }
            sized.push((Reverse(size.unsigned_abs()), value, members));
        }
        sized.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let rest = sized.split_off(limit);
        let mut chosen: Vec<(Member, Members)> = sized
            .into_iter()
            .map(|(_, value, members)| (Member::Value(value), members))
            .collect();
        let count = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        let mut series: BTreeMap<ServiceId, Vec<SeriesId>> = BTreeMap::new();
        for (service, selection) in rest.iter().flat_map(|(_, _, members)| members) {
            let ids = selection.series().unwrap_or(&[]);
            series.entry(*service).or_default().extend(ids);
        }
        let members = series.into_iter().map(|(service, mut ids)| {
            ids.sort_unstable();
            (service, Selection::Some(ids))
        });
        chosen.push((Member::Rest(count), members.collect()));
        Ok(chosen)
    }

    /// Adds up one group.
    fn part(
        &self,
        members: &Members,
        ptype: PtypeId,
        request: &ProfileRequest,
        gone: &Arc<AtomicBool>,
    ) -> Result<Part, QueryError> {
        let mut part = Part::default();
        for (service, selection) in members {
            let mut one = self.one_tree(*service, request.work().building(TOP_NODES))?;
            let sum = (*service, ptype, selection, request.window);
            if let Some(values) = self.sum(sum, gone, &mut part.basis, &mut one)? {
                let choice = Choice {
                    max_nodes: TOP_NODES.max(request.node_limit()),
                    ..request.choice()
                };
                let flat = flatten(&mut part.tree, &trees::read(&one.tree), &values, &choice);
                part.basis.add_pruned(flat.folded_nodes);
            }
        }
        let rows = top::top(&part.tree).into_iter();
        let mut named = rows.filter(|row| &*row.function != OTHER);
        part.top = named.next().map(|row| (row.function, row.flat));
        // The other groups are made while this one is kept.
        if part.tree.nodes().len() > request.node_limit() {
            let (pruned, nodes) = prune::prune(&part.tree, request.node_limit());
            part.tree = pruned;
            part.basis.add_pruned(nodes);
        }
        Ok(part)
    }
}
