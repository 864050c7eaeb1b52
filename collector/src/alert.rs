//! From findings to alerts: one state machine for every detector.
//!
//! Alerts are judged per service, kept in the state store together with what
//! the hook must still be told, and survive a restart with everything that is
//! pending. `machine` has the rules, `history` the baselines, `text` the
//! sentence and the links.

mod acknowledge;
mod forget;
mod history;
mod machine;
mod measured;
mod row;
mod sentence;
mod text;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::window::{UnixNanos, Window};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::detect::shift::baseline::Baseline;
use crate::detect::shift::{ShiftSettings, ShiftState};
use crate::detect::{Basis, Detector, Finding, Level, Quantity, Severity, Thresholds};
use crate::feature::coarse::Grain;
use crate::feature::{PathFrame, SeriesRow, ServiceRow};
use crate::hook::{Happening, Hooks};
use crate::metrics::Metrics;
use crate::query::ServiceName;
use crate::store::memory::MemoryState;
use crate::store::{Change, ServiceKey, StateStore, StoreError};
pub use acknowledge::MAX_NOTE_BYTES;
use history::History;
use machine::{Outcome, Record, Rules, Sight, Step, Transition};
pub use measured::Unheard;
pub(crate) use row::instance_of;

/// Prefix of alerts in the state store.
const ALERTS: &[u8] = b"alert/";
/// Prefix of what is remembered of services.
const HISTORIES: &[u8] = b"history/";
/// Prefix of what functions of services are off.
const SHIFTS: &[u8] = b"shift/";
/// Format of what is stored, its first byte.
const FORMAT: u8 = 1;
/// Alerts that are over and still shown; the oldest are forgotten.
const MAX_CLOSED: usize = 1_000;
/// Alerts of a tenant, and of one of its services, that are pending, firing or stale;
/// more are not begun, which the log says.
const MAX_OPEN: usize = 1_000;
const MAX_OPEN_OF_SERVICE: usize = 50;
/// New alerts of one service in [`DAY`]; more are held back.
const MAX_PER_DAY: usize = 5;
const DAY: Duration = Duration::from_secs(86_400);
/// How long an alert that is judged by rows of ten minutes must be gone before it
/// resolves: two rows, or three.
const KEEP_COLLECTION: Duration = Duration::from_secs(1_200);
const KEEP_PODS: Duration = Duration::from_secs(1_800);

/// Where an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertState {
    /// Seen, but not for long enough.
    Pending,
    /// Seen for long enough; hooks were told.
    Firing,
    /// Gone while its pods were present; hooks were told.
    Resolved,
    /// Its pods are silent.
    Stale,
    /// Its pods were silent for a day.
    Ended,
}

/// A word that names no state.
#[derive(Debug, thiserror::Error)]
#[error("no alert state is called {0:?}; there are pending, firing, resolved, stale and ended")]
pub struct UnknownState(String);

impl FromStr for AlertState {
    type Err = UnknownState;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "pending" => Ok(Self::Pending),
            "firing" => Ok(Self::Firing),
            "resolved" => Ok(Self::Resolved),
            "stale" => Ok(Self::Stale),
            "ended" => Ok(Self::Ended),
            other => Err(UnknownState(other.chars().take(64).collect())),
        }
    }
}

/// An alert as readers see it. Its JSON is an interface: fields may be added.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alert {
    /// Its id: the same for the same frames of the same service.
    pub id: String,
    /// Whose it is.
    #[serde(skip)]
    pub tenant: String,
    /// What was seen, for example `spin`.
    pub kind: String,
    /// Where it stands.
    pub state: AlertState,
    /// How bad it is.
    pub severity: String,
    /// Namespace of the service, or `""`.
    pub namespace: String,
    /// The service.
    pub service: String,
    /// The function that is blamed.
    pub anchor: String,
    /// From the root to it and on down the heaviest calls.
    pub path: Vec<PathFrame>,
    /// Mean cores while it lasted, summed over the pods that show it.
    pub cores: f64,
    /// What the same path cost before, if anything is known of the time.
    pub baseline_cores: Option<f64>,
    /// What happened, in a few words: a headline.
    pub title: String,
    /// Share of samples that wait, 0 to 1, where the alert is about that.
    pub wait_share: Option<f64>,
    /// Share of channel operations that got something, 0 to 1, if there are any.
    pub progress_share: Option<f64>,
    /// Effective number of leaf functions.
    pub leaf_eff: f64,
    /// Share of time the cgroup was throttled, 0 to 1.
    pub throttled_share: f64,
    /// Heaviest leaf functions with their shares.
    pub top_leaves: Vec<(String, f64)>,
    /// What the function cost before, where the alert is about that.
    pub shift: Option<AlertShift>,
    /// What is measured, where the alert is about that.
    pub measure: Option<AlertMeasure>,
    /// Samples it rests on.
    pub samples: u64,
    /// Start of the first step of it, RFC 3339.
    pub since: String,
    /// End of the last step in which it was seen, RFC 3339.
    pub last_seen: String,
    /// When it fired, RFC 3339.
    pub fired_at: Option<String>,
    /// When it resolved or ended, RFC 3339.
    pub resolved_at: Option<String>,
    /// When a person said that they know of it, RFC 3339.
    pub acknowledged_at: Option<String>,
    /// What they noted, or `""`.
    pub note: String,
    /// Version that ran when it began, or `""`.
    pub version: String,
    /// The version before that, or `""`.
    pub previous_version: String,
    /// Pods that show it.
    pub pods: Vec<String>,
    /// What a person reads first.
    pub summary: String,
    /// `query`, `flamegraph`, `pprof`.
    pub links: BTreeMap<String, String>,
}

/// How the cost of a function changed. Parts are of the CPU time that the service would
/// take without the change, for the same work.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AlertShift {
    /// Part that was expected.
    pub before: f64,
    /// Part that it takes now.
    pub after: f64,
    /// `after` by `before`, and the ends of its interval of 95 %; `None` when it is new.
    pub ratio: Option<[f64; 3]>,
    /// Whether the samples of what it calls count, too.
    pub inclusive: bool,
    /// CPU hours a day that it costs more, or less.
    pub cpu_hours_a_day: f64,
    /// Other functions that changed with it.
    pub also: Vec<String>,
}

/// A number now and before, see [`Quantity`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AlertMeasure {
    /// What it is.
    pub quantity: Quantity,
    /// What it is now.
    pub now: f64,
    /// What it was before, or is elsewhere.
    pub before: f64,
    /// How much it grows an hour, where it grows.
    pub per_hour: Option<f64>,
    /// The pod that it is of, or `""`.
    pub pod: String,
}

/// Which alerts a reader asks for.
#[derive(Clone, Debug, Default)]
pub struct AlertFilter {
    /// Of this service.
    pub service: Option<ServiceName>,
    /// In this state.
    pub state: Option<AlertState>,
    /// With this id.
    pub id: Option<String>,
}

impl AlertFilter {
    fn admits(&self, record: &Record) -> bool {
        let of_service = self.service.as_ref().is_none_or(|service| {
            let namespace = service.namespace.as_ref();
            service.name == record.service && namespace.is_none_or(|n| *n == record.namespace)
        });
        of_service
            && self.state.is_none_or(|state| state == record.state)
            && self.id.as_ref().is_none_or(|id| *id == record.id)
    }
}

/// How alerts behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Length of the steps that rows are of.
    pub step: Duration,
    /// How long a finding lasts before it fires.
    pub hold: Duration,
    /// How long it must be gone before it resolves.
    pub keep: Duration,
    /// What links begin with.
    pub public_url: String,
    /// Who is told of transitions.
    pub hooks: Arc<Hooks>,
    /// When a function became dearer.
    pub shift: ShiftSettings,
    /// When numbers are findings, and which kinds are not looked for.
    pub thresholds: Thresholds,
}

/// A service: tenant, namespace, name.
type Service = (String, String, String);

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<String, Record>,
    histories: BTreeMap<Service, History>,
    shifts: BTreeMap<Service, ShiftState>,
}

/// Every alert of a collector.
#[derive(Debug)]
pub struct Alerts {
    store: Arc<dyn StateStore>,
    settings: Settings,
    detectors: Arc<[Box<dyn Detector>]>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

fn stored(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    serde_json::to_writer(&mut bytes, value).expect("alerts are plain numbers and texts");
    bytes
}

fn read<T: for<'a> Deserialize<'a>>(key: &[u8], bytes: &[u8]) -> Result<T, StoreError> {
    bytes
        .strip_prefix(&[FORMAT])
        .and_then(|json| serde_json::from_slice(json).ok())
        .ok_or_else(|| StoreError::damaged(key, "no alert of a known format"))
}

fn alert_key(id: &str) -> Vec<u8> {
    [ALERTS, id.as_bytes()].concat()
}

fn service_key(prefix: &[u8], service: &Service) -> Vec<u8> {
    let (tenant, namespace, name) = service;
    [prefix, &stored(&(tenant, namespace, name))].concat()
}

fn service_of(key: &ServiceKey) -> Service {
    (
        key.tenant.clone(),
        key.namespace.clone(),
        key.service.clone(),
    )
}

fn history_key(service: &Service) -> Vec<u8> {
    service_key(HISTORIES, service)
}

fn shift_key(service: &Service) -> Vec<u8> {
    service_key(SHIFTS, service)
}

impl Alerts {
    /// Reads the alerts that `store` keeps.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store fails or an alert is damaged.
    pub fn open(
        store: Arc<dyn StateStore>,
        settings: Settings,
        detectors: Vec<Box<dyn Detector>>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        Self::open_with(store, settings, detectors.into(), metrics)
    }

    /// Alerts that begin with nothing, by the same detectors with other settings, and
    /// are kept nowhere.
    ///
    /// # Errors
    ///
    /// None, since nothing is read.
    pub fn afresh(&self, change: impl FnOnce(&mut Settings)) -> Result<Self, StoreError> {
        let mut settings = Settings {
            hooks: Arc::default(),
            ..self.settings.clone()
        };
        change(&mut settings);
        let store = Arc::<MemoryState>::default();
        Self::open_with(store, settings, Arc::clone(&self.detectors), Arc::default())
    }

    fn open_with(
        store: Arc<dyn StateStore>,
        settings: Settings,
        detectors: Arc<[Box<dyn Detector>]>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let mut state = State::default();
        for (key, value) in store.scan(ALERTS)? {
            let record: Record = read(&key, &value)?;
            state.records.insert(record.id.clone(), record);
        }
        for (key, value) in store.scan(HISTORIES)? {
            let service = read(&key, key.get(HISTORIES.len()..).unwrap_or(&[]))?;
            state.histories.insert(service, read(&key, &value)?);
        }
        for (key, value) in store.scan(SHIFTS)? {
            let service = read(&key, key.get(SHIFTS.len()..).unwrap_or(&[]))?;
            state.shifts.insert(service, read(&key, &value)?);
        }
        let alerts = Self {
            store,
            settings,
            detectors,
            metrics,
            state: Mutex::new(state),
        };
        alerts.count_firing(&alerts.lock());
        Ok(alerts)
    }

    /// Length of the steps that rows are of.
    pub fn step_length(&self) -> Duration {
        self.settings.step
    }

    /// What hooks must still be told.
    pub fn queue(&self) -> Arc<Hooks> {
        Arc::clone(&self.settings.hooks)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_firing(&self, state: &State) {
        let records = state.records.values();
        let firing = records
            .filter(|record| record.state == AlertState::Firing)
            .filter(|record| record.severity() > Severity::Info)
            .count();
        self.metrics
            .alerts_firing
            .set(i64::try_from(firing).unwrap_or(i64::MAX));
    }

    /// Alerts of `tenant`, latest first.
    pub fn list(&self, tenant: &str, filter: &AlertFilter) -> Vec<Alert> {
        let state = self.lock();
        let mut found: Vec<&Record> = state
            .records
            .values()
            .filter(|record| record.tenant == tenant && filter.admits(record))
            .collect();
        found.sort_by(|a, b| (b.onset_ns, &a.id).cmp(&(a.onset_ns, &b.id)));
        let url = &self.settings.public_url;
        found
            .into_iter()
            .map(|record| text::view(record, url))
            .collect()
    }

    /// Judges rows, in any order. A row that was judged before changes nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if what came of it cannot be kept; it is judged anew with
    /// the next rows then.
    pub fn observe(&self, rows: &[SeriesRow], now: UnixNanos) -> Result<(), StoreError> {
        let mut steps: BTreeMap<(i64, Service), Vec<&SeriesRow>> = BTreeMap::new();
        for row in rows {
            let service = (
                row.tenant.clone(),
                row.namespace.clone(),
                row.service.clone(),
            );
            let step = (row.step.start().get(), service);
            steps.entry(step).or_default().push(row);
        }
        let mut state = self.lock();
        let mut next = Next::default();
        for ((_, service), rows) in &steps {
            self.step(&state, &mut next, service, rows, now);
        }
        self.keep(&mut state, next)
    }

    /// Looks at the time: alerts whose pods are silent become stale and end.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if what came of it cannot be kept.
    pub fn tick(&self, now: UnixNanos) -> Result<(), StoreError> {
        let mut state = self.lock();
        let mut next = Next::default();
        for record in state.records.values() {
            next.take(record, record.clone().tick(now));
        }
        self.keep(&mut state, next)
    }

    /// Whether [`Alerts::observe_shifts`] has something to do with a row that ends at
    /// `end`.
    pub fn awaits_shifts(&self, key: &ServiceKey, end: UnixNanos) -> bool {
        let state = self.lock();
        let known = state.shifts.get(&service_of(key));
        self.settings.shift.is_enabled && known.is_none_or(|shifts| shifts.awaits(end))
    }

    /// Judges what a service spent on its functions over ten minutes, and over the hour
    /// that ended with them. A row that was judged before changes nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if what came of it cannot be kept; it is judged anew with the next
    /// row then.
    pub fn observe_shifts(
        &self,
        key: &ServiceKey,
        row: &ServiceRow,
        hour: Option<&ServiceRow>,
        baseline: Option<&Baseline>,
        now: UnixNanos,
    ) -> Result<(), StoreError> {
        let settings = &self.settings.shift;
        if !settings.is_enabled {
            return Ok(());
        }
        let service = service_of(key);
        let mut state = self.lock();
        let mut shifts = state.shifts.get(&service).cloned().unwrap_or_default();
        if let Some(hour) = hour {
            shifts.step(Grain::Hour, hour, baseline, settings);
        }
        let Some(active) = shifts.step(Grain::TenMinutes, row, baseline, settings) else {
            return Ok(());
        };
        let wanted = active.iter();
        let wanted = wanted.filter(|shift| self.settings.thresholds.wants(shift.kind));
        let findings = wanted.map(|shift| Finding::of_shift(shift, row));
        let mut shown: Shown = BTreeMap::new();
        for finding in findings {
            let id = row::identity(&service, finding.kind, &finding.identity);
            shown.insert(id, BTreeMap::from([(0, finding)]));
        }
        let mut next = Next::default();
        let history = state.histories.get(&service).cloned().unwrap_or_default();
        let judged = Judged {
            service: &service,
            window: row.step,
            instances: vec![(WHOLE.to_owned(), "")],
            versions: vec![history.version()],
            shown,
            basis: Basis::Functions,
        };
        self.judge(&state, &mut next, &judged, &history, now);
        next.shifts.insert(service, shifts);
        self.keep(&mut state, next)
    }

    /// Judges the rows of one service in one step.
    fn step(
        &self,
        state: &State,
        next: &mut Next,
        service: &Service,
        rows: &[&SeriesRow],
        now: UnixNanos,
    ) {
        let Some(window) = rows.first().map(|row| row.step) else {
            return;
        };
        let known = next
            .histories
            .get(service)
            .or_else(|| state.histories.get(service));
        let mut history = known.cloned().unwrap_or_default();
        let instances: Vec<(String, &str)> = rows
            .iter()
            .map(|row| (row::instance(row), row.pod.as_str()))
            .collect();
        // Per alert: the strongest finding of each row that shows it.
        let mut shown: Shown = BTreeMap::new();
        let mut cores: BTreeMap<String, f64> = BTreeMap::new();
        for (place, row) in rows.iter().enumerate() {
            for finding in self
                .detectors
                .iter()
                .filter(|detector| self.settings.thresholds.wants(detector.kind()))
                .flat_map(|detector| detector.judge(row))
            {
                let id = row::identity(service, finding.kind, &finding.identity);
                *cores.entry(id.clone()).or_default() += finding.cores;
                let strongest = shown.entry(id).or_default().entry(place);
                strongest
                    .and_modify(|known| {
                        if known.cores < finding.cores {
                            known.clone_from(&finding);
                        }
                    })
                    .or_insert(finding);
            }
        }
        let versions: Vec<&str> = rows.iter().map(|row| row.version.as_str()).collect();
        let judged = Judged {
            service,
            window,
            instances,
            versions,
            shown,
            basis: Basis::Series,
        };
        self.judge(state, next, &judged, &history, now);
        history.add(window, &judged.versions, &cores);
        next.histories.insert(service.clone(), history);
    }

    /// Judges what the instances of a service show in one step.
    fn judge(
        &self,
        state: &State,
        next: &mut Next,
        judged: &Judged<'_>,
        history: &History,
        now: UnixNanos,
    ) {
        let &Judged {
            service, window, ..
        } = judged;
        let mut records: Vec<Record> = current(state, next)
            .filter(|record| record.is_open())
            .filter(|record| record.basis() == judged.basis)
            .filter(|record| {
                let of = (&record.tenant, &record.namespace, &record.service);
                of == (&service.0, &service.1, &service.2)
            })
            .cloned()
            .collect();
        for (id, findings) in &judged.shown {
            let is_open = records.iter().any(|record| record.id == *id);
            let begins = findings
                .iter()
                .find(|(_, finding)| matches!(finding.level, Level::Enter));
            let Some((place, finding)) = begins else {
                continue;
            };
            let is_judged = current(state, next)
                .any(|record| record.id == *id && window.end().get() <= record.row_ns);
            if is_open || is_judged || machine::is_late(window, now) {
                continue;
            }
            let of_tenant = current(state, next).filter(|r| r.is_open() && r.tenant == service.0);
            let (mut open, mut of_service) = (0, 0);
            for record in of_tenant {
                open += 1;
                of_service +=
                    usize::from(record.namespace == service.1 && record.service == service.2);
            }
            if open >= MAX_OPEN || of_service >= MAX_OPEN_OF_SERVICE {
                warn!(service = service.2, "alert not begun: too many are open");
                continue;
            }
            // Rows of a service have one version.
            let version = judged.versions.get(*place).copied().unwrap_or_default();
            let mut record = Record::begin(id, service, version, finding);
            let earlier = current(state, next).find(|record| record.id == *id);
            record.follow(earlier.cloned());
            record.baseline_cores = match (&finding.shift, &finding.measure) {
                (Some(shift), _) => shift.cores.last().copied(),
                (None, Some(_)) => None,
                (None, None) => history.baseline(id, window.start()),
            };
            history
                .version_before(&record.version)
                .clone_into(&mut record.previous_version);
            records.push(record);
        }
        for record in records {
            let nothing = BTreeMap::new();
            let findings = judged.shown.get(&record.id).unwrap_or(&nothing);
            let seen = by_instance(&judged.instances, findings);
            let step = Step {
                window,
                now,
                sights: seen
                    .iter()
                    .filter(|((instance, _), finding)| {
                        finding.is_some() || record.is_about(instance)
                    })
                    .map(|((instance, pod), finding)| Sight {
                        instance,
                        pod,
                        finding: finding.as_ref(),
                    })
                    .collect(),
                may_fire: record.severity() == Severity::Info
                    || fired_today(state, next, service, now) < MAX_PER_DAY,
            };
            let outcome = record.clone().advance(&step, self.rules(judged.basis));
            next.take(&record, outcome);
        }
    }

    /// How long things last. What is found in rows of ten minutes lasted already.
    fn rules(&self, basis: Basis) -> Rules {
        let hold = Duration::ZERO;
        match basis {
            Basis::Functions | Basis::Presence => Rules { hold, keep: hold },
            Basis::Collection => Rules {
                hold,
                keep: KEEP_COLLECTION,
            },
            Basis::Pods => Rules {
                hold,
                keep: KEEP_PODS,
            },
            Basis::Series => Rules {
                hold: self.settings.hold,
                keep: self.settings.keep,
            },
        }
    }

    /// Writes what came of a look, with what the hook must be told, and only
    /// then makes it known.
    fn keep(&self, state: &mut State, next: Next) -> Result<(), StoreError> {
        let mut changes: Vec<Change> = Vec::new();
        let mut told = Vec::new();
        for (id, record) in &next.records {
            changes.push((alert_key(id), Some(stored(record))));
            let before = state.records.get(id).map(|record| record.state);
            let Some(transition) = machine::transition(before, record.state) else {
                continue;
            };
            info!(
                id,
                service = record.service,
                state = ?record.state,
                cores = record.evidence.cores,
                frame = record.evidence.anchor,
                "alert changed"
            );
            // What is only good to know is sent to nobody.
            if record.severity() > Severity::Info {
                let happening = match transition {
                    Transition::Fired => Happening::Firing,
                    Transition::Resolved => Happening::Resolved,
                };
                let Settings {
                    hooks, public_url, ..
                } = &self.settings;
                let alert = text::view(record, public_url);
                told.extend(hooks.entries(&alert, happening, public_url));
            }
        }
        for id in &next.gone {
            changes.push((alert_key(id), None));
        }
        for id in forgotten(state, &next) {
            changes.push((alert_key(&id), None));
            state.records.remove(&id);
        }
        for (service, history) in &next.histories {
            if state.histories.get(service) != Some(history) {
                changes.push((history_key(service), Some(stored(history))));
            }
        }
        for (service, shifts) in &next.shifts {
            if state.shifts.get(service) != Some(shifts) {
                changes.push((shift_key(service), Some(stored(shifts))));
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        changes.extend(told.iter().map(|entry| entry.change()));
        self.store.write(changes)?;
        self.settings.hooks.push(told);
        state.records.extend(next.records);
        for id in &next.gone {
            state.records.remove(id);
        }
        state.histories.extend(next.histories);
        state.shifts.extend(next.shifts);
        self.count_firing(state);
        Ok(())
    }
}

/// What comes of a look, before it is kept.
#[derive(Debug, Default)]
struct Next {
    records: BTreeMap<String, Record>,
    gone: Vec<String>,
    histories: BTreeMap<Service, History>,
    shifts: BTreeMap<Service, ShiftState>,
}

/// Per alert: the strongest finding of each row that shows it, by its place.
type Shown = BTreeMap<String, BTreeMap<usize, Finding>>;

/// The one instance of what is judged of a whole service.
const WHOLE: &str = "service";

/// What a service shows in one step.
struct Judged<'a> {
    service: &'a Service,
    window: Window,
    /// Name and pod of each instance that sent a row.
    instances: Vec<(String, &'a str)>,
    versions: Vec<&'a str>,
    shown: Shown,
    /// The rows that it is judged by.
    basis: Basis,
}

impl Next {
    fn take(&mut self, before: &Record, outcome: Outcome) {
        match outcome {
            Outcome::Same => {}
            Outcome::Now(record) => {
                self.gone.retain(|id| *id != record.id);
                self.records.insert(record.id.clone(), *record);
            }
            Outcome::Gone => {
                self.records.remove(&before.id);
                self.gone.push(before.id.clone());
            }
        }
    }
}

/// Alerts as they are after the steps of this look that were judged so far.
fn current<'a>(state: &'a State, next: &'a Next) -> impl Iterator<Item = &'a Record> {
    let is_kept = |r: &&Record| !next.records.contains_key(&r.id) && !next.gone.contains(&r.id);
    let kept = state.records.values().filter(is_kept);
    kept.chain(next.records.values())
}

/// What each instance shows, over all its rows: a pod may have several series,
/// and shows what any of them does. `findings` are by row.
fn by_instance<'a>(
    instances: &'a [(String, &'a str)],
    findings: &BTreeMap<usize, Finding>,
) -> BTreeMap<(&'a str, &'a str), Option<Finding>> {
    let mut seen: BTreeMap<(&str, &str), Option<Finding>> = BTreeMap::new();
    for (place, (instance, pod)) in instances.iter().enumerate() {
        let sum = seen.entry((instance, pod)).or_default();
        let Some(finding) = findings.get(&place) else {
            continue;
        };
        *sum = Some(match sum.take() {
            None => finding.clone(),
            Some(other) => together(other, finding.clone()),
        });
    }
    seen
}

/// The stronger of two findings with the cores of both.
fn together(one: Finding, other: Finding) -> Finding {
    let cores = one.cores + other.cores;
    let begins = [&one, &other].iter().any(|f| f.level == Level::Enter);
    let stronger = if one.cores >= other.cores { one } else { other };
    Finding {
        cores,
        level: if begins { Level::Enter } else { Level::Hold },
        ..stronger
    }
}

/// How often alerts of a service fired within a day before `now`, an alert that
/// comes and goes each time.
fn fired_today(state: &State, next: &Next, service: &Service, now: UnixNanos) -> usize {
    let horizon = now.saturating_sub(DAY).get();
    current(state, next)
        .filter(|r| (&r.tenant, &r.namespace, &r.service) == (&service.0, &service.1, &service.2))
        .filter(|r| r.severity() > Severity::Info)
        .flat_map(|r| r.fired_before.iter().chain(&r.fired_ns))
        .filter(|fired| **fired > horizon)
        .count()
}

/// Closed alerts beyond [`MAX_CLOSED`], oldest first.
fn forgotten(state: &State, next: &Next) -> Vec<String> {
    let mut closed: Vec<(i64, &String)> = state
        .records
        .values()
        .filter(|record| !record.is_open() && !next.records.contains_key(&record.id))
        .map(|record| (record.closed_ns.unwrap_or(0), &record.id))
        .collect();
    closed.sort_unstable();
    let surplus = closed.len().saturating_sub(MAX_CLOSED);
    closed
        .into_iter()
        .take(surplus)
        .map(|(_, id)| id.clone())
        .collect()
}

#[cfg(test)]
mod tests;
