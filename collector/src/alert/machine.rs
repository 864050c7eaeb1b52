//! The life of one alert, step by step: pure, without clock and store.
//!
//! An alert belongs to a service; its instances (pods, or processes without a
//! pod) each show it or not. It is pending while an instance shows it without
//! a break, fires once that has lasted for the hold, and resolves when the
//! instances that are present showed nothing for the keep. Absence of rows is
//! no evidence: it keeps the state, makes a silent alert stale and, much
//! later, ends it. A row that is seen twice changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::window::{UnixNanos, Window};
use serde::{Deserialize, Serialize};

use super::acknowledge::Acknowledged;
use super::{AlertState, Service};
use crate::detect::shift::Shift;
use crate::detect::{Basis, Finding, FindingKind, Level, Measure, Severity};
use crate::feature::PathFrame;

/// A step that ended longer ago raises nothing new.
const LATE: Duration = Duration::from_secs(600);
/// Without rows for so long, a firing alert is stale and a pending one gone.
pub(super) const STALE: Duration = Duration::from_secs(15 * 60);
/// Without rows for so long, an alert ends.
pub(super) const END: Duration = Duration::from_secs(24 * 3600);
/// Steps without rows after which a run begins anew, and the least time for it:
/// a source that samples a part of each minute leaves some out.
const GAP_STEPS: i64 = 3;
const MIN_GAP_NS: i64 = 120_000_000_000;
/// Most instances an alert tells apart; those seen longest ago are forgotten.
const MAX_INSTANCES: usize = 500;
/// Most times of firing that an alert remembers; as many as fire in a day.
const MAX_FIRED_BEFORE: usize = super::MAX_PER_DAY;
/// Most pods an alert names.
const MAX_PODS: usize = 50;

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// How long a finding lasts before it fires.
    pub(super) hold: Duration,
    /// How long it must be gone before it resolves.
    pub(super) keep: Duration,
}

/// One step of a service as one alert sees it.
#[derive(Debug)]
pub(super) struct Step<'a> {
    /// The step.
    pub(super) window: Window,
    /// The time now.
    pub(super) now: UnixNanos,
    /// The instances that sent rows; each once.
    pub(super) sights: Vec<Sight<'a>>,
    /// Whether the alert may fire now.
    pub(super) may_fire: bool,
}

/// What one instance showed in a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight<'a> {
    /// Names the instance.
    pub(super) instance: &'a str,
    /// Its pod, or `""`.
    pub(super) pod: &'a str,
    /// The strongest finding of this alert, if there is any.
    pub(super) finding: Option<&'a Finding>,
}

/// An alert as it is kept. Times are nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) tenant: String,
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) state: AlertState,
    /// Start of the first step of it.
    pub(super) onset_ns: i64,
    /// End of the last step in which an instance showed it.
    pub(super) positive_ns: i64,
    /// End of the last step of the service.
    pub(super) row_ns: i64,
    /// Since when no instance has shown it.
    pub(super) clear_ns: Option<i64>,
    pub(super) fired_ns: Option<i64>,
    /// When alerts of the same id fired before, latest last.
    #[serde(default)]
    pub(super) fired_before: Vec<i64>,
    /// When it resolved or ended.
    pub(super) closed_ns: Option<i64>,
    /// Whether it would have fired, were there not too many of the service.
    pub(super) held_back: bool,
    pub(super) instances: BTreeMap<String, Instance>,
    pub(super) evidence: Evidence,
    /// What the path cost before; `None` when nothing is known of the time.
    pub(super) baseline_cores: Option<f64>,
    /// What a person said of it.
    #[serde(default)]
    pub(super) acknowledged: Option<Acknowledged>,
    pub(super) version: String,
    pub(super) previous_version: String,
    /// The alert of the same id that was over when this one began; it is shown
    /// again should this one never fire.
    pub(super) earlier: Option<Box<Self>>,
}

/// An instance that showed the alert at least once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Instance {
    pod: String,
    /// Whether its last row showed the alert.
    positive: bool,
    /// Start of the rows that showed it without a break.
    run_ns: i64,
    /// End of its last row.
    row_ns: i64,
    /// Rows of the run and the sum of their cores.
    rows: u32,
    cores: f64,
}

/// What an alert shows. Shares are means over all its samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Evidence {
    pub(super) path: Vec<PathFrame>,
    /// The function that is blamed.
    pub(super) anchor: String,
    /// Mean cores while it lasted, summed over the instances that show it.
    pub(super) cores: f64,
    pub(super) samples: u64,
    pub(super) wait_share: f64,
    /// `None` without channel operations.
    pub(super) progress_share: Option<f64>,
    pub(super) leaf_eff: f64,
    pub(super) throttled_share: f64,
    pub(super) top_leaves: Vec<(String, f64)>,
    pub(super) pods: Vec<String>,
    /// What the function cost before, where the alert is about that.
    #[serde(default)]
    pub(super) shift: Option<Shift>,
    /// What is measured, where the alert is about that.
    #[serde(default)]
    pub(super) measure: Option<Measure>,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// The alert is as it was, or there still is none.
    Same,
    /// The alert is now this.
    Now(Box<Record>),
    /// The alert was pending and is no more.
    Gone,
}

/// What an alert that fires or resolves is told outside as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Fired,
    Resolved,
}

/// The transition from `before` to `after` that hooks are told, if it is one.
pub(super) fn transition(before: Option<AlertState>, after: AlertState) -> Option<Transition> {
    match (before, after) {
        (None | Some(AlertState::Pending), AlertState::Firing) => Some(Transition::Fired),
        // One that ended is over for those who were told of it, too: else it would
        // stay open with them for good.
        (
            Some(AlertState::Firing | AlertState::Stale),
            AlertState::Resolved | AlertState::Ended,
        ) => Some(Transition::Resolved),
        (_, AlertState::Pending)
        | (_, AlertState::Stale)
        | (_, AlertState::Ended)
        | (Some(_), AlertState::Firing)
        | (_, AlertState::Resolved) => None,
    }
}

/// Whether `step` came too late to raise anything.
pub(super) fn is_late(step: Window, now: UnixNanos) -> bool {
    step.end().saturating_add(LATE) < now
}

impl Record {
    /// An alert that begins with `finding`, before its first step.
    pub(super) fn begin(id: &str, service: &Service, version: &str, finding: &Finding) -> Self {
        let start_ns = finding.step.start().get();
        let (tenant, namespace, name) = service;
        Self {
            id: id.to_owned(),
            tenant: tenant.clone(),
            kind: finding.kind.name().to_owned(),
            namespace: namespace.clone(),
            service: name.clone(),
            state: AlertState::Pending,
            onset_ns: start_ns,
            positive_ns: start_ns,
            row_ns: start_ns,
            clear_ns: None,
            fired_ns: None,
            fired_before: Vec::new(),
            closed_ns: None,
            held_back: false,
            instances: BTreeMap::new(),
            evidence: Evidence::default(),
            baseline_cores: None,
            acknowledged: None,
            version: version.to_owned(),
            previous_version: String::new(),
            earlier: None,
        }
    }

    /// Takes over from the alert of the same id that is over.
    pub(super) fn follow(&mut self, earlier: Option<Self>) {
        let Some(earlier) = earlier else { return };
        let fired = earlier.fired_before.iter().chain(&earlier.fired_ns);
        let surplus = fired.clone().count().saturating_sub(MAX_FIRED_BEFORE);
        self.fired_before = fired.skip(surplus).copied().collect();
        self.earlier = Some(Box::new(earlier));
    }

    /// How bad it is.
    pub(super) fn severity(&self) -> Severity {
        FindingKind::named(&self.kind).map_or(Severity::Warning, FindingKind::severity)
    }

    /// Whether rows of an instance that does not show it say that it is over: where it is
    /// about one pod, only those of that pod do.
    pub(super) fn is_about(&self, instance: &str) -> bool {
        let is_of_pod = FindingKind::named(&self.kind).is_some_and(FindingKind::is_of_pod);
        !is_of_pod || self.instances.contains_key(instance)
    }

    /// The rows that it is judged by.
    pub(super) fn basis(&self) -> Basis {
        FindingKind::named(&self.kind).map_or(Basis::Series, FindingKind::basis)
    }

    /// Whether it may still change.
    pub(super) fn is_open(&self) -> bool {
        match self.state {
            AlertState::Pending | AlertState::Firing | AlertState::Stale => true,
            AlertState::Resolved | AlertState::Ended => false,
        }
    }

    /// How long it has lasted, as far as it was seen.
    pub(super) fn lasted(&self) -> Duration {
        UnixNanos::new(self.positive_ns).since(UnixNanos::new(self.onset_ns))
    }

    /// Looks at `step`.
    pub(super) fn advance(self, step: &Step<'_>, rules: Rules) -> Outcome {
        let before = self.clone();
        let mut record = self;
        if !record.is_open() || !record.take_in(step) {
            return Outcome::Same;
        }
        record.forget_old_instances();
        let outcome = match record.state {
            AlertState::Pending => record.judge_pending(step, rules),
            AlertState::Firing | AlertState::Stale => Some(record.judge_firing(step, rules)),
            AlertState::Resolved | AlertState::Ended => Some(record),
        };
        match outcome {
            None => before.give_way(),
            Some(record) if record == before => Outcome::Same,
            Some(record) => Outcome::Now(Box::new(record)),
        }
    }

    /// What is left of an alert that never fired.
    fn give_way(self) -> Outcome {
        self.earlier.map_or(Outcome::Gone, Outcome::Now)
    }

    /// Looks at the time `now`, without rows.
    pub(super) fn tick(self, now: UnixNanos) -> Outcome {
        let silent = now.since(UnixNanos::new(self.row_ns));
        let mut record = self;
        match record.state {
            AlertState::Pending if silent >= STALE => return record.give_way(),
            AlertState::Firing | AlertState::Stale if silent >= END => {
                record.state = AlertState::Ended;
                record.closed_ns = Some(now.get());
            }
            AlertState::Firing if silent >= STALE => record.state = AlertState::Stale,
            AlertState::Pending
            | AlertState::Firing
            | AlertState::Stale
            | AlertState::Resolved
            | AlertState::Ended => return Outcome::Same,
        }
        Outcome::Now(Box::new(record))
    }

    /// Notes what the instances showed. Returns whether anything was new.
    fn take_in(&mut self, step: &Step<'_>) -> bool {
        let (start, end) = (step.window.start().get(), step.window.end().get());
        let forgotten = UnixNanos::new(self.row_ns).saturating_sub(STALE).get();
        if end <= forgotten {
            return false;
        }
        let (mut positive, mut clear) = (false, false);
        for sight in &step.sights {
            let known = self.instances.get_mut(sight.instance);
            if known.as_ref().is_some_and(|known| end <= known.row_ns) {
                continue;
            }
            let shows = sight.finding.filter(|finding| {
                matches!(finding.level, Level::Enter) || self.state != AlertState::Pending
            });
            match (known, shows) {
                (None, None) => clear = true,
                (Some(known), None) => {
                    clear = true;
                    known.positive = false;
                    known.row_ns = end;
                }
                (_, Some(finding)) => {
                    positive = true;
                    self.show(sight, finding, start, end);
                }
            }
        }
        if positive {
            self.positive_ns = self.positive_ns.max(end);
            if self.clear_ns.is_some_and(|clear| clear < end) {
                self.clear_ns = None;
            }
        }
        if clear && end > self.positive_ns && self.clear_ns.is_none() {
            self.clear_ns = Some(start.max(self.positive_ns));
        }
        self.row_ns = self.row_ns.max(end);
        positive || clear
    }

    /// Notes that an instance showed `finding`.
    fn show(&mut self, sight: &Sight<'_>, finding: &Finding, start: i64, end: i64) {
        let known = self.instances.entry(sight.instance.to_owned()).or_default();
        // After a gap without rows nobody knows whether it went on.
        let silent = start.saturating_sub(known.row_ns);
        let longest = (end - start).saturating_mul(GAP_STEPS).max(MIN_GAP_NS);
        if !known.positive || silent > longest {
            *known = Instance {
                pod: sight.pod.to_owned(),
                positive: true,
                run_ns: finding.onset_ns().unwrap_or(start),
                ..Instance::default()
            };
        }
        known.row_ns = end;
        known.rows = known.rows.saturating_add(1);
        known.cores += finding.cores;
        self.evidence.take_in(finding, self.state);
    }

    /// Instances whose last row showed the alert.
    fn holders(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values().filter(|instance| instance.positive)
    }

    /// Drops instances that are gone for good, so that the record stays small.
    fn forget_old_instances(&mut self) {
        let horizon = UnixNanos::new(self.row_ns).saturating_sub(STALE).get();
        self.instances.retain(|_, known| known.row_ns > horizon);
        while self.instances.len() > MAX_INSTANCES {
            let oldest = self.instances.iter().min_by_key(|(_, known)| known.row_ns);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            self.instances.remove(&key);
        }
    }

    /// Cores and pods of the instances that show the alert; as they were when
    /// none does.
    fn sum_up(&mut self) {
        let mut cores = 0.0;
        let mut pods: Vec<String> = Vec::new();
        for holder in self.holders() {
            cores += holder.cores / f64::from(holder.rows.max(1));
            if !holder.pod.is_empty() && !pods.contains(&holder.pod) && pods.len() < MAX_PODS {
                pods.push(holder.pod.clone());
            }
        }
        if self.holders().next().is_some() {
            pods.sort();
            self.evidence.cores = cores;
            self.evidence.pods = pods;
        }
    }

    fn judge_pending(mut self, step: &Step<'_>, rules: Rules) -> Option<Self> {
        self.onset_ns = self.holders().map(|holder| holder.run_ns).min()?;
        self.sum_up();
        if self.lasted() >= rules.hold && !is_late(step.window, step.now) {
            self.held_back = !step.may_fire;
            if step.may_fire {
                self.state = AlertState::Firing;
                self.fired_ns = Some(step.now.get());
                self.earlier = None;
            }
        }
        Some(self)
    }

    fn judge_firing(mut self, step: &Step<'_>, rules: Rules) -> Self {
        self.sum_up();
        let last = UnixNanos::new(self.row_ns);
        let present_from = last.saturating_sub(rules.keep).get();
        let shown = self.holders().any(|holder| holder.row_ns > present_from);
        let clear_for = self.clear_ns.map(|clear| last.since(UnixNanos::new(clear)));
        if !shown && clear_for.is_some_and(|length| length >= rules.keep) {
            self.state = AlertState::Resolved;
            self.closed_ns = Some(step.now.get());
        } else if step.now.since(last) < STALE {
            self.state = AlertState::Firing;
        }
        self
    }
}

impl Evidence {
    /// Adds `finding`, weighted by its samples. The path is that of the
    /// strongest finding before the alert fires, and stays from then on.
    fn take_in(&mut self, finding: &Finding, state: AlertState) {
        let samples = self.samples.saturating_add(finding.samples);
        let weight = share(finding.samples, samples);
        let mean = |old: f64, new: f64| old + (new - old) * weight;
        self.wait_share = mean(self.wait_share, finding.wait_share);
        self.progress_share = match (self.progress_share, finding.progress_share) {
            (Some(old), Some(new)) => Some(mean(old, new)),
            (old, new) => new.or(old),
        };
        self.leaf_eff = mean(self.leaf_eff, finding.leaf_eff);
        self.throttled_share = mean(self.throttled_share, finding.throttled_share);
        self.samples = samples;
        self.shift.clone_from(&finding.shift);
        self.measure.clone_from(&finding.measure);
        self.top_leaves.clone_from(&finding.top_leaves);
        if state == AlertState::Pending || self.path.is_empty() {
            self.path.clone_from(&finding.path);
            // What is measured is of no function; its identity is a pod, if anything.
            self.anchor = match finding.measure {
                Some(_) => String::new(),
                None => finding.identity.last().cloned().unwrap_or_default(),
            };
        }
    }
}

/// `part` of `whole`; 1 when there is no whole.
fn share(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 1.0,
        whole => {
            // Past four billion samples the weight of a step is nil anyway.
            let number = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
            number(part) / number(whole)
        }
    }
}
