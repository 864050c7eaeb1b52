//! What an answer rests on, and the sum of one service's vectors.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use proto::labels::Selector;
use proto::value_type::{ProfileType, Temporality};
use proto::window::{UnixNanos, Window};

use super::admission::Waiting;
use super::one_tree::OneTree;
use super::{Inner, QueryError, ServiceName};
use crate::answer::Coverage;
use crate::rollup::read::Selection;
use crate::rollup::total::Total;
use crate::store::exact::ExactSums;
use crate::store::segment::{RangeSum, Waiter};
use crate::store::tier::Tier;
use crate::store::{PtypeId, SeriesId, ServiceId, ServiceKey, StoreError, StoredType};

/// What is added up: of a service, of a type, these series, in this time.
pub(super) type Sum<'a> = (ServiceId, PtypeId, &'a Selection, Window);

/// Which type is asked for, and of what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The service as it was named.
    pub(super) name: &'a ServiceName,
    /// Those that this means.
    pub(super) services: &'a [(ServiceId, ServiceKey)],
    /// When.
    pub(super) window: Window,
    /// The type as it was named; empty means CPU.
    pub(super) profile_type: &'a str,
}

/// What an answer rests on, of all its services.
#[derive(Debug, Default)]
pub(super) struct Basis {
    coverage: Coverage,
    periods: Vec<i64>,
    /// Stretches of seconds during which something was observed.
    seconds: RangeSum,
    rounded_to: Option<Tier>,
}

impl Basis {
    /// Windows that were added up.
    pub(super) fn windows(&self) -> u64 {
        self.coverage.windows
    }

    /// Counts nodes that are in an `other` now.
    pub(super) fn add_pruned(&mut self, nodes: u64) {
        let pruned = &mut self.coverage.pruned_nodes;
        *pruned = pruned.saturating_add(nodes);
    }

    /// Adds the time during which something of a sum was observed.
    fn see(&mut self, sum: RangeSum) {
        self.seconds.absorb(&RangeSum {
            seconds: sum.seconds,
            ..RangeSum::default()
        });
    }

    /// Seconds during which something was observed: what a gauge is divided by.
    pub(super) fn observed_s(&mut self) -> i128 {
        self.seconds.finish();
        i128::from(self.seconds.covered_s())
    }

    /// Distance between samples; 0 when mixed.
    pub(super) fn period(&mut self) -> i64 {
        self.periods.sort_unstable();
        self.periods.dedup();
        match self.periods[..] {
            [only] => only,
            _ => 0,
        }
    }

    /// What a reader is told of it, at `now`.
    pub(super) fn coverage(
        mut self,
        window: Window,
        selector: &Selector,
        now: UnixNanos,
    ) -> Coverage {
        self.seconds.finish();
        let covered_s = self.seconds.covered_s();
        let mut coverage = self.coverage;
        coverage.observed = Duration::from_secs(covered_s);
        if let Some(tier) = self.rounded_to {
            coverage.notes.push(format!(
                "single windows of the edge of the range are not kept any more: it was rounded to whole {tier}s"
            ));
        }
        if coverage.windows == 0 {
            coverage.notes.push(match selector.is_empty() {
                true => "no windows in this range; widen it with --since, or check the agent with `agent doctor`".to_owned(),
                false => format!("no windows of series {selector} in this range; `collector labels` lists the values there are"),
            });
        }
        if coverage.lost_samples > 0 {
            let lost = coverage.lost_samples;
            coverage
                .notes
                .push(format!("{lost} samples were lost on the way"));
        }
        let range_s = window.duration().as_secs();
        let since_first = self.seconds.seconds.first().map_or(0, |(from, _)| {
            let end = window.end().min(now).seconds();
            u64::try_from(end).unwrap_or(0).saturating_sub(*from)
        });
        if coverage.windows > 0 && covered_s.saturating_mul(10) < since_first.saturating_mul(8) {
            coverage.notes.push(format!(
                "{covered_s} s of {} s were observed",
                since_first.min(range_s)
            ));
        }
        coverage
    }
}

impl Inner {
    /// The types that `asked` means, most used form first.
    pub(super) fn types(&self, asked: &str) -> Vec<(PtypeId, Arc<StoredType>)> {
        let asked = if asked.is_empty() { "cpu" } else { asked };
        let mut types = self.directory.types();
        types.retain(|(_, stored)| stored.profile_type.is_called(asked));
        types
    }

    /// Says which types there are.
    pub(super) fn unknown_type(&self, asked: Asked<'_>) -> QueryError {
        let mut known = BTreeSet::new();
        for (ptype, stored) in self.directory.types() {
            let is_there = asked.services.iter().any(|(service, _)| {
                let active = self.store.active_series(ptype, *service, asked.window);
                active.is_ok_and(|active| !active.is_empty())
            });
            if is_there {
                known.insert(stored.profile_type.sample().kind().to_owned());
            }
        }
        let known: Vec<String> = known.into_iter().collect();
        QueryError::UnknownType {
            service: asked.name.to_string(),
            asked: asked.profile_type.to_owned(),
            known: match known.is_empty() {
                true => "no windows there".to_owned(),
                false => known.join(", "),
            },
        }
    }

    /// What `make` makes of the type that a service is asked for: of several
    /// that answer to one name, of the one with most windows, which `make`
    /// returns too. Nothing, of CPU time, when nobody said which type and there
    /// is none.
    pub(super) fn best<T: Default>(
        &self,
        asked: Asked<'_>,
        mut make: impl FnMut(PtypeId) -> Result<(u64, T), QueryError>,
    ) -> Result<(Arc<StoredType>, T), QueryError> {
        let mut best: Option<(Arc<StoredType>, u64, T)> = None;
        for (ptype, stored) in self.types(asked.profile_type) {
            let (windows, made) = make(ptype)?;
            let had = best.as_ref().map(|(_, windows, _)| *windows);
            if had.is_none_or(|had| windows > 0 && windows >= had) {
                best = Some((stored, windows, made));
            }
        }
        match best {
            Some((stored, _, made)) => Ok((stored, made)),
            None if asked.profile_type.is_empty() => {
                let cpu = StoredType {
                    profile_type: ProfileType::cpu(),
                    temporality: Temporality::Delta,
                };
                Ok((Arc::new(cpu), T::default()))
            }
            None => Err(self.unknown_type(asked)),
        }
    }

    /// Adds up one service's vectors, apart by kind, and says which tier stands
    /// for an edge of the range. Stops when `gone` is set.
    pub(super) fn vectors(
        &self,
        (service, ptype, selection, window): Sum<'_>,
        gone: &Arc<AtomicBool>,
    ) -> Result<(RangeSum, Option<Tier>), QueryError> {
        let waiting = self.admission.waiting(gone);
        let waiter: Arc<dyn Waiter> = Arc::<Waiting>::clone(&waiting);
        let mut total = Total::Vectors(RangeSum {
            waiter: Some(waiter),
            ..RangeSum::default()
        });
        let added = self
            .reader
            .add(service, ptype, selection, window, &mut total);
        if let Some(refusal) = waiting.refusal() {
            return Err(refusal.into());
        }
        let rounded = added?;
        match total {
            Total::Vectors(sum) => Ok((sum, rounded)),
            Total::Facts(_) => Ok((RangeSum::default(), rounded)),
        }
    }

    /// Adds up one service's vectors: values by stack id of `one`, in the unit
    /// of the type.
    pub(super) fn values(
        &self,
        sum: Sum<'_>,
        gone: &Arc<AtomicBool>,
        one: &mut OneTree,
        basis: &mut Basis,
    ) -> Result<ExactSums, QueryError> {
        let (sum, _) = self.vectors(sum, gone)?;
        let values = self.in_units(&sum, one)?;
        basis.see(sum);
        Ok(values)
    }

    /// As [`Inner::values`], with what they rest on added to `basis`; `None`
    /// when there are no windows.
    pub(super) fn sum(
        &self,
        of: Sum<'_>,
        gone: &Arc<AtomicBool>,
        basis: &mut Basis,
        one: &mut OneTree,
    ) -> Result<Option<ExactSums>, QueryError> {
        let (sum, rounded) = self.vectors(of, gone)?;
        if sum.windows() == 0 {
            return Ok(None);
        }
        let (service, ptype, selection, window) = of;
        basis.rounded_to = basis.rounded_to.max(rounded);
        basis
            .periods
            .extend(sum.sums.keys().map(|kind| kind.period));
        let kinds = sum.sums.values().map(|of_kind| of_kind.values.total());
        let samples = kinds.fold(0, i128::saturating_add);
        let coverage = &mut basis.coverage;
        let samples = u64::try_from(samples.max(0)).unwrap_or(u64::MAX);
        coverage.samples = coverage.samples.saturating_add(samples);
        coverage.windows = coverage.windows.saturating_add(sum.windows());
        // Days are looked at, and no window has two series.
        let series = self.active(service, ptype, selection, window)?;
        let series = series.min(sum.windows());
        coverage.series = coverage.series.saturating_add(series);
        let lost = self.lost_samples(service, selection, window)?;
        coverage.lost_samples = coverage.lost_samples.saturating_add(lost);
        let values = self.in_units(&sum, one)?;
        basis.see(sum);
        Ok(Some(values))
    }

    /// How many series of a selection had a window on a day of `window`.
    fn active(
        &self,
        service: ServiceId,
        ptype: PtypeId,
        selection: &Selection,
        window: Window,
    ) -> Result<u64, StoreError> {
        let active = self.store.active_series(ptype, service, window)?;
        let count = match selection.series() {
            None => active.len(),
            Some(series) => {
                let is_active = |id: &&SeriesId| active.binary_search(id).is_ok();
                series.iter().filter(is_active).count()
            }
        };
        Ok(u64::try_from(count).unwrap_or(u64::MAX))
    }

    fn lost_samples(
        &self,
        service: ServiceId,
        selection: &Selection,
        window: Window,
    ) -> Result<u64, StoreError> {
        let mut total = Total::empty(PtypeId::FACTS);
        let facts = PtypeId::FACTS;
        self.reader
            .add(service, facts, selection, window, &mut total)?;
        Ok(match total {
            Total::Facts(Some((_, facts))) => facts.lost_samples,
            _ => 0,
        })
    }
}
