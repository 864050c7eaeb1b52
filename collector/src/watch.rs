//! From windows to findings: looks at each step of time once it is over.
//!
//! The writer marks the steps that got a window. When a step and a grace for
//! stragglers have passed, every marked series is added up from the store,
//! its feature row is computed and written, and the rows go to the alerts.
//! Rows are a function of what is stored, so a step may be computed again:
//! after a restart, or when a late window arrives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proto::labels::{LabelSet, VERSION};
use proto::profile::Facts;
use proto::status::chain;
use proto::window::{Clock, UnixNanos, Window};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::alert::Alerts;
use crate::detect::catalogue::Catalogue;
use crate::detect::spin::SpinSettings;
use crate::directory::Directory;
use crate::dirty::Dirty;
use crate::feature::{self, StepProfile, codec};
use crate::flatten::{Choice, flatten};
use crate::metrics::Metrics;
use crate::store::segment::RangeSum;
use crate::store::tier::Tier;
use crate::store::trees::{self, Trees};
use crate::store::{
    KeyValue, PtypeId, SeriesId, ServiceId, ServiceKey, Store, StoreError, SumRequest,
};
use crate::tree::CallTree;

/// Longest wait for stragglers after a step; a shorter step waits its length.
const MAX_GRACE: Duration = Duration::from_secs(15);
/// How far back steps are computed again after a start.
const LOOK_BACK: Duration = Duration::from_secs(600);

/// Looks at steps that are over.
#[derive(Debug)]
pub struct Watch {
    store: Arc<dyn Store>,
    trees: Arc<Trees>,
    directory: Arc<Directory>,
    dirty: Arc<Dirty>,
    alerts: Arc<Alerts>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    catalogue: Catalogue,
    settings: SpinSettings,
}

fn window(start_s: u64, length_s: u64) -> Option<Window> {
    let start = i64::try_from(start_s.checked_mul(1_000_000_000)?).ok()?;
    Window::from_start(UnixNanos::new(start), length_s.checked_mul(1_000_000_000)?).ok()
}

impl Watch {
    /// Returns what watches `store` for `alerts`.
    #[expect(
        clippy::too_many_arguments,
        reason = "wiring: each is a part of its own"
    )]
    pub fn new(
        store: Arc<dyn Store>,
        trees: Arc<Trees>,
        directory: Arc<Directory>,
        dirty: Arc<Dirty>,
        alerts: Arc<Alerts>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        catalogue: Catalogue,
        settings: SpinSettings,
    ) -> Self {
        Self {
            store,
            trees,
            directory,
            dirty,
            alerts,
            metrics,
            clock,
            catalogue,
            settings,
        }
    }

    /// Looks at steps until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let watch = Arc::new(self);
        let first = Arc::clone(&watch);
        blocking(move || first.mark_recent()).await;
        let step = Duration::from_secs(watch.dirty.step_s());
        let pause = (step / 4).clamp(Duration::from_millis(250), Duration::from_secs(5));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let turn = Arc::clone(&watch);
            blocking(move || {
                turn.turn();
                Ok(())
            })
            .await;
        }
    }

    /// Marks what was written shortly before this start.
    fn mark_recent(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let Ok(recent) = Window::new(now.saturating_sub(LOOK_BACK), now) else {
            return Ok(());
        };
        for service in self.directory.service_ids() {
            let request = SumRequest {
                tier: Tier::Window,
                ptype: PtypeId::FACTS,
                service,
                series: None,
                window: recent,
            };
            self.store.facts(&request, &mut |key, _, _| {
                self.dirty.mark([(key.service, key.series, key.start_s)]);
            })?;
        }
        Ok(())
    }

    /// Looks at every step that is over by now.
    pub fn turn(&self) {
        let now = self.clock.now();
        let step = Duration::from_secs(self.dirty.step_s());
        let settled = now.saturating_sub(step.min(MAX_GRACE));
        let settled_s = u64::try_from(settled.seconds()).unwrap_or(0);
        let mut again = Vec::new();
        while let Some((step_s, marks)) = self.dirty.take(settled_s) {
            if !self.step(step_s, &marks, now) {
                again.extend(
                    marks
                        .into_iter()
                        .map(|(service, series)| (service, series, step_s)),
                );
            }
        }
        // Only now, or this turn would never end.
        self.dirty.mark(again);
        if let Err(failure) = self.alerts.tick(now) {
            error!(error = chain(&failure), "alerts not kept");
        }
    }

    /// Computes, writes and judges the rows of one step. Returns whether what
    /// came of it is kept.
    fn step(&self, step_s: u64, marks: &BTreeSet<(ServiceId, SeriesId)>, now: UnixNanos) -> bool {
        let Some(step) = window(step_s, self.dirty.step_s()) else {
            return true;
        };
        let mut encoded = Vec::new();
        let mut rows = Vec::new();
        let mut versions = BTreeSet::new();
        for &(service, series) in marks {
            // What cannot be read of one series does not keep the others from
            // being judged.
            let read = self.name(service, series).and_then(|name| {
                let samples = self.samples(step, service, &[series])?;
                Ok((name, samples))
            });
            let (name, samples) = match read {
                Ok((Some(name), samples)) => (name, samples),
                Ok((None, _)) => continue,
                Err(failure) => {
                    self.tell(&failure, "series not looked at");
                    continue;
                }
            };
            versions.insert((service, version(&name.labels).to_owned()));
            if let Some(samples) = samples {
                let row = feature::series_row(
                    &name.profile(step, &samples),
                    &self.catalogue,
                    &self.settings,
                );
                let key = codec::key(codec::SERIES_ROW, service.0, step.start(), series.0);
                encoded.push((key.to_vec(), row.encode()));
                rows.push(row);
            }
        }
        for (service, version) in versions {
            match self.service_row(step, service, &version) {
                Ok(row) => encoded.extend(row),
                Err(failure) => self.tell(&failure, "service not looked at"),
            }
        }
        if !encoded.is_empty()
            && let Err(failure) = self.store.write_features(step.start(), &encoded)
        {
            self.tell(&failure, "feature rows not kept");
        }
        if let Err(failure) = self.alerts.observe(&rows, now) {
            // Judged again from the store a little later; see `turn`.
            self.tell(&failure, "findings not kept");
            return false;
        }
        true
    }

    fn tell(&self, failure: &StoreError, what: &'static str) {
        self.metrics.store_read_errors.inc();
        error!(error = chain(failure), "{what}");
    }

    /// Names and labels of a series; `None` if it is not known any more.
    fn name(&self, service: ServiceId, series: SeriesId) -> Result<Option<Name>, StoreError> {
        let key = self.directory.service_key(service);
        let labels = self
            .directory
            .with_series(service, |table| table.labels(series).map(Arc::clone))?;
        Ok(key.zip(labels).map(|(key, labels)| Name { key, labels }))
    }

    /// Key and bytes of the functions of one version of a service in a step,
    /// over all its series; `None` without CPU samples.
    fn service_row(
        &self,
        step: Window,
        service: ServiceId,
        wanted: &str,
    ) -> Result<Option<KeyValue>, StoreError> {
        let series: Vec<SeriesId> = self.directory.with_series(service, |table| {
            let of_version = table.iter().filter(|(_, labels)| version(labels) == wanted);
            of_version.map(|(id, _)| id).collect()
        })?;
        let Some(first) = series.first() else {
            return Ok(None);
        };
        let (Some(name), Some(samples)) = (
            self.name(service, *first)?,
            self.samples(step, service, &series)?,
        ) else {
            return Ok(None);
        };
        let row = feature::service_row(&name.profile(step, &samples));
        let discriminator = codec::version_number(wanted);
        let key = codec::key(codec::SERVICE_ROW, service.0, step.start(), discriminator);
        Ok(Some((key.to_vec(), row.encode())))
    }

    /// CPU samples of some series of a service in a step, and what is known of
    /// them; `None` if nothing was observed.
    fn samples(
        &self,
        step: Window,
        service: ServiceId,
        series: &[SeriesId],
    ) -> Result<Option<Samples>, StoreError> {
        let request = |ptype| SumRequest {
            tier: Tier::Window,
            ptype,
            service,
            series: Some(series),
            window: step,
        };
        let mut samples = Samples::default();
        for (ptype, stored) in self.directory.types() {
            if !stored.profile_type.is_called("cpu") {
                continue;
            }
            let mut sum = RangeSum::default();
            self.store.sum(&request(ptype), &mut sum)?;
            // Rows hold the time that one series was observed, on average.
            let count = u64::try_from(sum.series.len()).unwrap_or(u64::MAX).max(1);
            samples.observed_ns = samples
                .observed_ns
                .saturating_add(sum.observed_ns() / count);
            let shared = self.trees.get(service)?;
            let stacks = trees::read(&shared);
            for (kind, sum) in sum.sums {
                // Steps of one rate are the rule; at a change of rate the
                // larger period stands for both, a few samples off.
                samples.period_ns = samples.period_ns.max(kind.weight);
                flatten(&mut samples.tree, &stacks, &sum.values, &Choice::ALL);
            }
        }
        if samples.observed_ns == 0 {
            return Ok(None);
        }
        let facts = &mut samples.facts;
        self.store
            .facts(&request(PtypeId::FACTS), &mut |_, _, window| {
                *facts = Facts {
                    cpu_ns: facts.cpu_ns.saturating_add(window.cpu_ns),
                    throttled_ns: facts.throttled_ns.saturating_add(window.throttled_ns),
                    lost_samples: facts.lost_samples.saturating_add(window.lost_samples),
                    ..*window
                };
            })?;
        Ok(Some(samples))
    }
}

/// What a series is called.
struct Name {
    key: Arc<ServiceKey>,
    labels: Arc<LabelSet>,
}

/// CPU samples of a step.
#[derive(Default)]
struct Samples {
    /// Sample counts.
    tree: CallTree,
    period_ns: u64,
    observed_ns: u64,
    facts: Facts,
}

impl Name {
    fn profile<'a>(&'a self, step: Window, samples: &'a Samples) -> StepProfile<'a> {
        StepProfile {
            step,
            tenant: &self.key.tenant,
            namespace: &self.key.namespace,
            service: &self.key.service,
            labels: &self.labels,
            tree: &samples.tree,
            period_ns: samples.period_ns,
            observed_ns: samples.observed_ns,
            facts: samples.facts,
        }
    }
}

fn version(labels: &LabelSet) -> &str {
    labels.get(VERSION).unwrap_or("")
}

/// Runs `work` on a blocking thread and reports its failure.
async fn blocking(work: impl FnOnce() -> Result<(), StoreError> + Send + 'static) {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => error!(error = chain(&failure), "recent windows not read"),
        Err(panicked) => warn!(error = %panicked, "a look at a step ended early"),
    }
}
