//! Rows of what the series of a service take, over ten minutes and hours: written once
//! their time is over, and judged together with who is connected.
//!
//! Like other coarse rows they are a function of finer ones, may be written again, and
//! are judged once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use proto::status::chain;
use proto::window::UnixNanos;
use tracing::error;

use super::replay::series_rows;
use crate::agents::{Agents, Attending};
use crate::alert::{Alerts, Unheard, instance_of};
use crate::detect::past::{HOURS, Past, TENS};
use crate::directory::Directory;
use crate::feature::coarse::Grain;
use crate::feature::pods::{self, PodTotals, PodsRow};
use crate::feature::{SeriesRow, codec};
use crate::store::tier::range;
use crate::store::{ServiceId, ServiceKey, Store, StoreError};

const TEN_MINUTES_S: u64 = Grain::TenMinutes.length_s();
const HOUR_S: u64 = Grain::Hour.length_s();
/// How far back a pod is known to have sent something.
const HEARD_BACK_S: u64 = 6 * HOUR_S;
/// Most pods of a service that are told to be silent at one time.
const MAX_UNHEARD: usize = 500;

/// Agents that are connected, by the service of their target.
pub(super) type ByService = BTreeMap<ServiceKey, Vec<Attending>>;

/// Writes and judges rows of pods.
#[derive(Debug)]
pub(super) struct Pods {
    store: Arc<dyn Store>,
    directory: Arc<Directory>,
    alerts: Arc<Alerts>,
    agents: Arc<Agents>,
    /// Length of the steps of fine rows.
    step_s: u64,
    /// The last ten minutes of which it was asked who is not heard.
    asked: Mutex<Option<u64>>,
}

impl Pods {
    pub(super) fn new(
        store: Arc<dyn Store>,
        directory: Arc<Directory>,
        alerts: Arc<Alerts>,
        agents: Arc<Agents>,
        step_s: u64,
    ) -> Self {
        Self {
            store,
            directory,
            alerts,
            agents,
            step_s,
            asked: Mutex::default(),
        }
    }

    /// The agents that are connected now.
    pub(super) fn attending(&self, now: UnixNanos) -> ByService {
        let mut found = ByService::new();
        for agent in self.agents.attending(now) {
            let of = agent.service.clone();
            found.entry(of).or_default().push(agent);
        }
        found
    }

    /// Writes the rows that hold the ten minutes from `bucket` on, and judges them.
    pub(super) fn look(
        &self,
        (service, key): (ServiceId, &ServiceKey),
        bucket: u64,
        attending: &ByService,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let store = &*self.store;
        let mut rows: Vec<SeriesRow> = Vec::new();
        let mut at = bucket.next_multiple_of(self.step_s);
        while at < bucket.saturating_add(TEN_MINUTES_S) {
            rows.extend(series_rows(store, service, at)?);
            at = at.saturating_add(self.step_s);
        }
        let step = range(bucket, bucket.saturating_add(TEN_MINUTES_S));
        let Some(row) = step.and_then(|step| pods::of_series(step, &rows)) else {
            return Ok(());
        };
        self.write(service, bucket, codec::TEN_MINUTES_PODS, &row)?;
        let hour_s = Grain::Hour.floor_s(bucket);
        let end_s = hour_s.saturating_add(HOUR_S);
        let tens = self::rows(store, service, codec::TEN_MINUTES_PODS, (hour_s, end_s))?;
        if let Some(hour) = range(hour_s, end_s).and_then(|step| pods::added_up(step, &tens)) {
            self.write(service, hour_s, codec::HOUR_PODS, &hour)?;
        }
        let agents = attending.get(key).map_or(&[][..], Vec::as_slice);
        judge(store, &self.alerts, (service, key), &row, agents, now)
    }

    fn write(
        &self,
        service: ServiceId,
        start_s: u64,
        kind: u8,
        row: &PodsRow,
    ) -> Result<(), StoreError> {
        let start = crate::store::tier::instant(start_s);
        let key = codec::key(kind, service.0, start, 0);
        self.store
            .write_features(start, &[(key.to_vec(), row.encode())])
    }

    /// Asks, once for each ten minutes that are over, of which connected agents nothing
    /// came at all.
    pub(super) fn turn(&self, settled_s: u64, attending: &ByService, now: UnixNanos) {
        let Some(bucket) = Grain::TenMinutes
            .floor_s(settled_s)
            .checked_sub(TEN_MINUTES_S)
        else {
            return;
        };
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if *asked == Some(bucket) {
                return;
            }
            *asked = Some(bucket);
        }
        for (key, agents) in attending {
            let Some(service) = self.directory.service(key) else {
                continue;
            };
            match self.ask((service, key), bucket, agents, now) {
                Ok(()) | Err(StoreError::Deleted) => {}
                Err(failure) => error!(error = chain(&failure), "silence not looked for"),
            }
        }
    }

    fn ask(
        &self,
        (service, key): (ServiceId, &ServiceKey),
        bucket: u64,
        agents: &[Attending],
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let end_s = bucket.saturating_add(TEN_MINUTES_S);
        let kind = codec::TEN_MINUTES_PODS;
        let Some(step) = range(bucket, end_s) else {
            return Ok(());
        };
        // Where something came, it was asked when that was judged.
        if !rows(&*self.store, service, kind, (bucket, end_s))?.is_empty() {
            return Ok(());
        }
        let from_s = bucket.saturating_sub(HEARD_BACK_S);
        let before = rows(&*self.store, service, kind, (from_s, bucket))?;
        let unheard = unheard(bucket, None, &before, agents);
        if unheard.is_empty() {
            return Ok(());
        }
        self.alerts.observe_presence(key, step, None, &unheard, now)
    }
}

/// Judges the ten minutes of `row`; `agents` are those of the service that are connected.
pub(super) fn judge(
    store: &dyn Store,
    alerts: &Alerts,
    (service, key): (ServiceId, &ServiceKey),
    row: &PodsRow,
    agents: &[Attending],
    now: UnixNanos,
) -> Result<(), StoreError> {
    let second = |time: UnixNanos| u64::try_from(time.seconds()).unwrap_or(0);
    let (start_s, end_s) = (second(row.step.start()), second(row.step.end()));
    let slots = |count: usize, length_s| u64::try_from(count).unwrap_or(0) * length_s;
    let back_s = slots(TENS, TEN_MINUTES_S).max(HEARD_BACK_S);
    let back = (start_s.saturating_sub(back_s), start_s);
    let tens = rows(store, service, codec::TEN_MINUTES_PODS, back)?;
    let whole_s = Grain::Hour.floor_s(end_s);
    let back = (whole_s.saturating_sub(slots(HOURS, HOUR_S)), whole_s);
    let hours = rows(store, service, codec::HOUR_PODS, back)?;
    let past = Past::new(row, &tens, &hours);
    let unheard = unheard(start_s, Some(row), &tens, agents);
    alerts.observe_pods(key, &past, now)?;
    alerts.observe_presence(key, row.step, Some(&past), &unheard, now)
}

/// Pods whose agents were connected before `start_s`, that are in rows before, and not
/// in `row`.
fn unheard(
    start_s: u64,
    row: Option<&PodsRow>,
    before: &[PodsRow],
    agents: &[Attending],
) -> Vec<Unheard> {
    let name = |pod: &PodTotals| instance_of(&pod.pod, pod.series);
    let heard: BTreeSet<String> = row
        .into_iter()
        .flat_map(|row| &row.pods)
        .map(name)
        .collect();
    let missing: BTreeSet<String> = agents
        .iter()
        .filter(|agent| u64::try_from(agent.since_s).is_ok_and(|since| since <= start_s))
        .map(|agent| instance_of(&agent.pod, agent.series))
        .filter(|agent| !heard.contains(agent))
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let mut last: BTreeMap<String, Unheard> = BTreeMap::new();
    for row in before {
        let until_ns = row.step.end().get();
        for pod in &row.pods {
            let name = name(pod);
            let is_later = last
                .get(&name)
                .is_none_or(|known| known.until_ns < until_ns);
            if missing.contains(&name) && is_later {
                let last_of = pod.clone();
                let unheard = Unheard {
                    last: last_of,
                    until_ns,
                };
                last.insert(name, unheard);
            }
        }
    }
    last.into_values().take(MAX_UNHEARD).collect()
}

/// Rows of `kind` of a service that begin from `from_s` on and before `until_s`.
pub(super) fn rows(
    store: &dyn Store,
    service: ServiceId,
    kind: u8,
    (from_s, until_s): (u64, u64),
) -> Result<Vec<PodsRow>, StoreError> {
    let Some(window) = range(from_s, until_s) else {
        return Ok(Vec::new());
    };
    let found = store.features(window, &codec::prefix(kind, service.0))?;
    let is_meant = |key: &[u8]| codec::start_s(key).is_some_and(|s| (from_s..until_s).contains(&s));
    let found = found.into_iter().filter(|(key, _)| is_meant(key));
    let rows = found.map(|(key, value)| {
        PodsRow::decode(&value)
            .map_err(|_| StoreError::damaged(&key, "no feature row of a known format"))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::past::tests::{pod, row};

    fn agent(pod: &str, series: u64, since_s: i64) -> Attending {
        Attending {
            service: ServiceKey {
                tenant: "anonymous".to_owned(),
                namespace: String::new(),
                service: "shop".to_owned(),
            },
            pod: pod.to_owned(),
            series,
            since_s,
        }
    }

    #[test]
    fn who_is_connected_and_was_heard_before_and_is_not_now_is_unheard() {
        let before = [
            row(600, 600, vec![pod(1, 600, 300), pod(2, 600, 300)]),
            row(1_200, 600, vec![pod(1, 600, 400)]),
        ];
        let now = row(1_800, 600, vec![pod(3, 600, 100)]);
        let named = |agents: &[Attending]| -> Vec<(String, i64)> {
            let found = unheard(1_800, Some(&now), &before, agents).into_iter();
            found
                .map(|unheard| (unheard.last.pod, unheard.until_ns / 1_000_000_000))
                .collect()
        };
        for (what, agents, expected) in [
            (
                "heard before",
                vec![agent("p-1", 0, 0)],
                vec![("p-1", 1_800)],
            ),
            ("longer ago", vec![agent("p-2", 0, 0)], vec![("p-2", 1_200)]),
            ("heard now", vec![agent("p-3", 0, 0)], vec![]),
            ("never heard", vec![agent("p-9", 0, 0)], vec![]),
            ("connected since", vec![agent("p-1", 0, 1_900)], vec![]),
            ("nobody is connected: scaled down", vec![], vec![]),
        ] {
            let expected: Vec<(String, i64)> = expected
                .into_iter()
                .map(|(pod, until): (&str, i64)| (pod.to_owned(), until))
                .collect();
            assert_eq!(named(&agents), expected, "{what}");
        }
        let nameless = PodTotals {
            pod: String::new(),
            ..pod(7, 600, 300)
        };
        let before = [row(600, 600, vec![nameless])];
        assert_eq!(unheard(1_800, None, &before, &[agent("", 7, 0)]).len(), 1);
        assert_eq!(unheard(1_800, None, &before, &[agent("", 8, 0)]).len(), 0);
    }
}
