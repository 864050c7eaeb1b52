//! What is judged by rows of ten minutes beside functions: numbers of pods, who is heard,
//! and what collecting garbage takes.

use std::collections::BTreeMap;

use proto::window::{UnixNanos, Window};

use super::{Alerts, Judged, Next, Service, Shown, WHOLE, row};
use crate::detect::past::Past;
use crate::detect::{Basis, Finding, gc, leak, sibling, silent};
use crate::feature::ServiceRow;
use crate::feature::pods::PodTotals;
use crate::store::{ServiceKey, StoreError};

/// A pod whose agent is connected and of which nothing came in a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Unheard {
    /// What came of it before.
    pub last: PodTotals,
    /// Until when, nanoseconds since 1970.
    pub until_ns: i64,
}

impl Alerts {
    /// Judges what the series of a service took in ten minutes. Rows that were judged
    /// before change nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if what came of it cannot be kept; it is judged anew with the next
    /// row then.
    pub fn observe_pods(
        &self,
        key: &ServiceKey,
        past: &Past,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let thresholds = &self.settings.thresholds;
        let mut found = leak::judge(past, &thresholds.leak);
        found.extend(sibling::judge(past, &thresholds.sibling));
        let pods = past.pods.iter().map(|pod| &pod.now);
        self.observe_measured(key, (Basis::Pods, past.step), pods, found, now)
    }

    /// Judges of which pods nothing comes in ten minutes: `past` has those that were
    /// seen, `unheard` the others whose agents are connected.
    ///
    /// # Errors
    ///
    /// As [`Self::observe_pods`].
    pub fn observe_presence(
        &self,
        key: &ServiceKey,
        step: Window,
        past: Option<&Past>,
        unheard: &[Unheard],
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let seen = past.map_or(&[][..], |past| &past.pods);
        let mut found = past.map_or_else(Vec::new, |past| {
            silent::judge(past, &self.settings.thresholds.silent)
        });
        found.extend(unheard.iter().enumerate().map(|(place, pod)| {
            let finding = silent::unheard(&pod.last, pod.until_ns, step);
            (seen.len() + place, finding)
        }));
        let pods = seen.iter().map(|pod| &pod.now);
        let pods = pods.chain(unheard.iter().map(|pod| &pod.last));
        self.observe_measured(key, (Basis::Presence, step), pods, found, now)
    }

    /// Judges what a service spent on collecting garbage in the ten minutes of `row`,
    /// beside the hours of the day before, which are read where it is much.
    ///
    /// # Errors
    ///
    /// As [`Self::observe_pods`].
    pub fn observe_collection(
        &self,
        key: &ServiceKey,
        row: &ServiceRow,
        hours: impl FnOnce() -> Result<Vec<ServiceRow>, StoreError>,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let thresholds = &self.settings.thresholds;
        let (collectors, settings) = (&thresholds.collectors, &thresholds.collection);
        let found = match gc::is_much(row, collectors, settings) {
            true => gc::judge(row, &hours()?, collectors, settings),
            false => None,
        };
        let found = found.map(|finding| (0, finding)).into_iter().collect();
        let instances = vec![(WHOLE.to_owned(), "")];
        self.observe_found(key, (Basis::Collection, row.step), instances, found, now)
    }

    fn observe_measured<'a>(
        &self,
        key: &ServiceKey,
        of: (Basis, Window),
        pods: impl Iterator<Item = &'a PodTotals>,
        found: Vec<(usize, Finding)>,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let instances = pods.map(|pod| {
            let name = row::instance_of(&pod.pod, pod.series);
            (name, pod.pod.as_str())
        });
        self.observe_found(key, of, instances.collect(), found, now)
    }

    /// Takes in findings by the place of the instance that shows them.
    fn observe_found(
        &self,
        key: &ServiceKey,
        (basis, window): (Basis, Window),
        instances: Vec<(String, &str)>,
        found: Vec<(usize, Finding)>,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let service: Service = (
            key.tenant.clone(),
            key.namespace.clone(),
            key.service.clone(),
        );
        let mut shown: Shown = BTreeMap::new();
        for (place, finding) in found {
            if self.settings.thresholds.wants(finding.kind) {
                let id = row::identity(&service, finding.kind, &finding.identity);
                shown.entry(id).or_default().insert(place, finding);
            }
        }
        let mut state = self.lock();
        let history = state.histories.get(&service).cloned().unwrap_or_default();
        let judged = Judged {
            service: &service,
            window,
            versions: vec![history.version(); instances.len()],
            instances,
            shown,
            basis,
        };
        let mut next = Next::default();
        self.judge(&state, &mut next, &judged, &history, now);
        self.keep(&mut state, next)
    }
}

#[cfg(test)]
mod tests;
