//! Whether the functions of a selection became dearer: both sides in units.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use proto::labels::{POD, Selector};
use proto::window::{UnixNanos, Window};

use super::admission::Work;
use super::diff::DiffRequest;
use super::{Inner, QueryError, ServiceName};
use crate::feature::{function_counts, real};
use crate::memory::Share;
use crate::rollup::read::Selection;
use crate::store::trees;
use crate::store::{PtypeId, SeriesId, ServiceId, ServiceKey};
use crate::verdict::{MIN_UNITS, Names, Rules, Side, Unit, Verdict};

/// Most units of a side; the pods of a larger one are put together.
const MAX_UNITS: usize = 40;
/// Stretches into which the time of a side is cut at most when there are few pods, and
/// the length of the shortest.
const MAX_STRETCHES: usize = 12;
const LEAST_STRETCH: Duration = Duration::from_secs(60);

/// What one side is.
struct Asked<'a> {
    service: &'a ServiceName,
    window: Window,
    selector: &'a Selector,
}

/// A pod, or some: the series of each service.
type Pod = Vec<(ServiceId, Vec<SeriesId>)>;

/// A side, added up.
#[derive(Default)]
struct Units {
    units: Vec<Unit>,
    pods: usize,
    windows: u64,
    value: f64,
    covered_s: u64,
}

/// What stays of all units until both sides are there.
struct Held {
    names: Names,
    /// Memory for the names and the units.
    share: Share,
}

impl Inner {
    /// Adds up both sides in units and judges them. Filters of functions and limits of
    /// nodes are not looked at.
    pub(super) fn verdict(
        &self,
        tenant: &str,
        request: &DiffRequest,
        gone: &Arc<AtomicBool>,
    ) -> Result<Verdict, QueryError> {
        let [base, new] = [
            Asked {
                service: &request.base.service,
                window: request.base.window,
                selector: &request.base.selector,
            },
            Asked {
                service: &request.new.service,
                window: request.new.window,
                selector: &request.new.selector,
            },
        ];
        // Only there a sample is one that was taken, and no weight.
        let asked = &request.new.profile_type;
        let mut types = self.types(asked).into_iter();
        if types.any(|(_, stored)| !stored.profile_type.is_called("cpu")) {
            return Err(QueryError::NotCpu {
                asked: asked.clone(),
            });
        }
        let base_services = self.find(tenant, base.service)?;
        let new_services = self.find(tenant, new.service)?;
        let (_, [base_units, new_units]) =
            self.best(request.new.asked(&new_services), |ptype| {
                let pods = [
                    self.pods(&base_services, ptype, &base)?,
                    self.pods(&new_services, ptype, &new)?,
                ];
                let is_cut = pods.iter().any(|pods| pods.len() < MIN_UNITS);
                let [base_pods, new_pods] = pods;
                let mut held = Held {
                    names: Names::default(),
                    share: self.admission.nothing(),
                };
                let base = self.units(base_pods, ptype, base.window, is_cut, &mut held, gone)?;
                let new = self.units(new_pods, ptype, new.window, is_cut, &mut held, gone)?;
                let windows = base.windows.saturating_add(new.windows);
                Ok((windows, [base, new]))
            })?;
        let mut notes = Vec::new();
        for (side, units) in [("base", &base_units), ("new side", &new_units)] {
            if units.windows == 0 {
                notes.push(format!("the {side} has no windows in its range"));
            } else if units.pods < MIN_UNITS {
                notes.push(format!(
                    "the {side} has {} pods: minutes of one pod are more alike than pods, so its changes are less sure than they look",
                    units.pods
                ));
            }
        }
        let (base_side, new_side) = (base_units.side(&base), new_units.side(&new));
        Ok(Verdict::new(
            (base_side, &base_units.units),
            (new_side, &new_units.units),
            Rules::default(),
            notes,
        ))
    }

    /// The pods of a side; a series without a pod counts as one.
    fn pods(
        &self,
        services: &[(ServiceId, ServiceKey)],
        ptype: PtypeId,
        asked: &Asked<'_>,
    ) -> Result<Vec<Pod>, QueryError> {
        let mut pods: Vec<Pod> = Vec::new();
        for (service, _) in services {
            let of = (*service, ptype, asked.window);
            for (pod, selection) in self.grouped(of, asked.selector, POD)? {
                let series = selection.series().unwrap_or(&[]);
                match pod.is_empty() {
                    true => pods.extend(series.iter().map(|id| vec![(*service, vec![*id])])),
                    false => pods.push(vec![(*service, series.to_vec())]),
                }
            }
        }
        Ok(pods)
    }

    /// Adds up the units of a side.
    fn units(
        &self,
        pods: Vec<Pod>,
        ptype: PtypeId,
        window: Window,
        is_cut: bool,
        held: &mut Held,
        gone: &Arc<AtomicBool>,
    ) -> Result<Units, QueryError> {
        let mut side = Units {
            pods: pods.len(),
            ..Units::default()
        };
        let pods = merged(pods);
        let stretches = match is_cut {
            true => {
                let most = (MAX_UNITS / pods.len().max(1)).clamp(1, MAX_STRETCHES);
                stretches(window, self.clock.now(), most)
            }
            false => vec![window],
        };
        for pod in pods {
            for stretch in &stretches {
                let mut unit = Unit::default();
                for (service, series) in &pod {
                    let selection = Selection::Some(series.clone());
                    let of = (*service, ptype, &selection, *stretch);
                    self.add_unit(of, &mut side, &mut unit, held, gone)?;
                }
                if unit.samples() > 0.0 {
                    side.units.push(unit);
                }
            }
        }
        Ok(side)
    }

    /// Adds one service's samples to a unit, and what they rest on to its side.
    fn add_unit(
        &self,
        of: super::basis::Sum<'_>,
        side: &mut Units,
        unit: &mut Unit,
        held: &mut Held,
        gone: &Arc<AtomicBool>,
    ) -> Result<(), QueryError> {
        let work = Work::PLAIN.and(Work::EVERY_NODE);
        let (service, ..) = of;
        let mut one = self.one_tree(service, work)?;
        let (mut sum, _) = self.vectors(of, gone)?;
        if sum.windows() == 0 {
            return Ok(());
        }
        let samples = sum.sums.values().map(|of_kind| of_kind.values.total());
        let samples = samples.fold(0_i128, i128::saturating_add);
        let values = self.in_units(&sum, &mut one)?;
        let value = values.total();
        side.windows = side.windows.saturating_add(sum.windows());
        sum.finish();
        side.covered_s = side.covered_s.max(sum.covered_s());
        if samples <= 0 || value <= 0 {
            return Ok(());
        }
        let count = |value: i128| real(u64::try_from(value.max(0)).unwrap_or(u64::MAX));
        side.value += count(value);
        let tree = trees::read(&one.tree);
        let scale = count(samples) / count(value);
        let before = unit.bytes() + held.names.bytes();
        unit.add(
            function_counts(&tree, &values).into_iter(),
            scale,
            &mut held.names,
        );
        let after = unit.bytes() + held.names.bytes();
        held.share.grow(after.saturating_sub(before))?;
        Ok(())
    }
}

impl Units {
    fn side(&self, asked: &Asked<'_>) -> Side {
        let samples = self.units.iter().map(Unit::samples).sum();
        let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        Side {
            window: asked.window,
            selector: asked.selector.to_string(),
            pods: count(self.pods),
            units: count(self.units.len()),
            samples,
            cores: match self.covered_s {
                0 => 0.0,
                seconds => self.value / 1e9 / real(seconds),
            },
        }
    }
}

/// At most [`MAX_UNITS`] pods, several put together where there are more.
fn merged(pods: Vec<Pod>) -> Vec<Pod> {
    let mut merged: BTreeMap<usize, BTreeMap<ServiceId, Vec<SeriesId>>> = BTreeMap::new();
    for (place, pod) in pods.into_iter().enumerate() {
        let services = merged.entry(place % MAX_UNITS).or_default();
        for (service, series) in pod {
            services.entry(service).or_default().extend(series);
        }
    }
    let sorted = merged.into_values().map(|services| {
        let of_service = services.into_iter().map(|(service, mut series)| {
            series.sort_unstable();
            series.dedup();
            (service, series)
        });
        of_service.collect()
    });
    sorted.collect()
}

/// `window` up to now, in at most `most` stretches of one length.
fn stretches(window: Window, now: UnixNanos, most: usize) -> Vec<Window> {
    let end = window.end().min(now);
    let length = end.since(window.start());
    let count = length.as_secs() / LEAST_STRETCH.as_secs();
    let most = u32::try_from(most).unwrap_or(u32::MAX);
    let count = u32::try_from(count).unwrap_or(u32::MAX).clamp(1, most);
    let stretch = length / count;
    let cut = (0..count).filter_map(|place| {
        let start = window.start().saturating_add(stretch * place);
        Window::new(start, start.saturating_add(stretch)).ok()
    });
    cut.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_cut_in_minutes_or_twelve_parts() {
        let at = |seconds: i64| UnixNanos::new(seconds * 1_000_000_000);
        let window = Window::new(at(0), at(600)).unwrap();
        for (now, count, length_s) in [(600, 10, 60), (90, 1, 90), (10_000, 10, 60)] {
            let cut = stretches(window, at(now), MAX_STRETCHES);
            assert_eq!(cut.len(), count, "{now}");
            assert!(cut.iter().all(|part| part.duration().as_secs() == length_s));
        }
        let hour = Window::new(at(0), at(3600)).unwrap();
        let cut = stretches(hour, at(3600), MAX_STRETCHES);
        assert_eq!((cut.len(), cut.last().unwrap().end()), (12, at(3600)));
        // Nothing of the range is over.
        assert!(stretches(window, at(-5), MAX_STRETCHES).is_empty());
    }

    #[test]
    fn many_pods_are_put_together() {
        let pods: Vec<Pod> = (0..100)
            .map(|n| vec![(ServiceId(1), vec![SeriesId(n)])])
            .collect();
        let merged = merged(pods);
        assert_eq!(merged.len(), MAX_UNITS);
        assert_eq!(
            merged[0],
            [(ServiceId(1), vec![SeriesId(0), SeriesId(40), SeriesId(80)])]
        );
    }
}
