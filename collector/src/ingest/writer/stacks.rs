//! Which tree stacks are added to, and what they are called there.

use std::sync::Arc;

use proto::window::UnixNanos;

use super::pending::Pending;
use super::prepare::{Refuse, refuse};
use super::{MAX_AHEAD, Names, Submission, Writer};
use crate::ingest::resolve::{ResolveError, lock};
use crate::ingest::whole::whole;
use crate::store::rows::{self, EpochRow};
use crate::store::trees::{self, SharedTree};
use crate::store::{Epoch, ServiceId, StoreError, TreeId};
use proto::pb::tepui::RefusalCode;

/// How long stacks are added to a tree at least, in seconds: each tree is kept as
/// long as anything that was seen while it grew.
const LEAST_EPOCH_S: u64 = 86_400;

impl Writer {
    /// The tree that stacks of `service` are added to by this group. A new epoch
    /// begins when names are normalised otherwise than before, and when the tree
    /// is full and not new.
    pub(super) fn current(
        &self,
        service: ServiceId,
        now: UnixNanos,
        pending: &mut Pending,
    ) -> Result<TreeId, StoreError> {
        if let Some(id) = pending.current.get(&service) {
            return Ok(*id);
        }
        let before = self.trees.current(service)?;
        let mut epoch = before.epoch;
        let old = TreeId { service, epoch };
        let now_s = u64::try_from(now.seconds()).unwrap_or(0);
        let is_renamed = before.rules != Some(self.rules.bits());
        let is_over =
            now_s.saturating_sub(before.since_s) >= LEAST_EPOCH_S && self.trees.is_full(old);
        if is_renamed || is_over {
            let tree = self.tree(old, pending)?;
            if trees::read(&tree).stack_count() > 0 {
                epoch = Epoch(epoch.0.saturating_add(1));
            }
            let row = EpochRow {
                epoch,
                // No window of the epoch before starts later, whatever our clock says.
                since_s: now_s
                    .max(pending.closed)
                    .max(before.since_s)
                    .saturating_add(MAX_AHEAD.as_secs()),
                rules: Some(self.rules.bits()),
            };
            if before == EpochRow::FIRST && epoch != before.epoch {
                // So that it is known to be there, and removed one day.
                pending.group.dictionary.push(rows::epoch(service, &before));
            }
            pending.group.dictionary.push(rows::epoch(service, &row));
            pending.begun.push((service, before));
            self.trees.set_current(service, row);
        }
        let id = TreeId { service, epoch };
        pending.current.insert(service, id);
        Ok(id)
    }

    /// A tree; what this group adds to it is written with it.
    pub(super) fn tree(&self, id: TreeId, pending: &mut Pending) -> Result<SharedTree, StoreError> {
        if let Some(tree) = pending.trees.get(&id) {
            return Ok(Arc::clone(tree));
        }
        let tree = self.trees.at(id)?;
        pending.trees.insert(id, Arc::clone(&tree));
        Ok(tree)
    }

    /// Stack ids for stack ids of the stream, and the epoch that they are of.
    pub(super) fn stacks(
        &mut self,
        submission: &Submission,
        service: ServiceId,
        wire: &[u32],
        now: UnixNanos,
        pending: &mut Pending,
    ) -> Result<(Epoch, Vec<u32>), Refuse> {
        if wire.is_empty() {
            return Ok((Epoch(0), Vec::new()));
        }
        let id = self.current(service, now, pending)?;
        let mut dictionary = match &submission.names {
            Names::Stream(dictionary) => lock(dictionary),
            Names::Whole(words) => {
                let tree = self.tree(id, pending)?;
                return match whole(words, wire, &tree, self.rules) {
                    Ok(stacks) => Ok((id.epoch, stacks)),
                    Err(error) => refuse(RefusalCode::Malformed, error.to_string()),
                };
            }
        };
        // This very batch may begin an epoch.
        if dictionary
            .trees()
            .any(|tree| tree.service == service && tree != id)
        {
            dictionary.make_void();
            return Err(Refuse::Anew);
        }
        let tree = |id| self.tree(id, pending);
        match dictionary.stacks(id, wire, tree) {
            Ok(stacks) => Ok((id.epoch, stacks)),
            Err(ResolveError::Store(error)) => Err(error.into()),
            Err(error) => refuse(RefusalCode::Malformed, error.to_string()),
        }
    }
}
