//! A quantity over time: sums of each step, per group of series.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use proto::labels::Selector;
use proto::value_type::{ProfileType, Temporality};

use super::admission::Work;
use super::basis::Asked;
use super::{Inner, QueryError, ServiceName};
use crate::rollup::read::Selection;
use crate::store::{PtypeId, ServiceId};
use crate::timeline::{StepValue, Steps};

/// Most points of a timeline.
pub const MAX_POINTS: usize = 20_000;

/// Asks for a quantity over time.
#[derive(Clone, Debug)]
pub struct TimelineRequest {
    /// Of which service.
    pub service: ServiceName,
    /// When.
    pub steps: Steps,
    /// What is counted; empty means CPU.
    pub profile_type: String,
    /// Which series.
    pub selector: Selector,
    /// Label whose values make groups.
    pub group_by: Option<String>,
}

/// Sums step by step, of each group by the value of its label.
#[derive(Clone, Debug)]
pub struct TimelineAnswer {
    /// What the values count.
    pub profile_type: ProfileType,
    /// How they behave over time.
    pub temporality: Temporality,
    /// One entry per step; groups that were never observed are left out.
    pub groups: BTreeMap<String, Vec<StepValue>>,
}

/// Adds up the steps. Stops when `gone` is set.
pub(super) fn answer(
    inner: &Inner,
    tenant: &str,
    request: &TimelineRequest,
    gone: &Arc<AtomicBool>,
) -> Result<TimelineAnswer, QueryError> {
    let services = inner.find(tenant, &request.service)?;
    let window = request.steps.window();
    let mut types = inner.types(&request.profile_type);
    // Of several types that answer to one name, the one with data.
    let has_data = |ptype: PtypeId| -> Result<bool, QueryError> {
        for (service, _) in &services {
            if !inner
                .store
                .active_series(ptype, *service, window)?
                .is_empty()
            {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let mut chosen = 0;
    for (at, (ptype, _)) in types.iter().enumerate() {
        if has_data(*ptype)? {
            chosen = at;
            break;
        }
    }
    if types.is_empty() {
        return Err(inner.unknown_type(Asked {
            name: &request.service,
            services: &services,
            window,
            profile_type: &request.profile_type,
        }));
    }
    let (ptype, stored) = types.swap_remove(chosen);
    let mut answer = TimelineAnswer {
        profile_type: stored.profile_type.clone(),
        temporality: stored.temporality,
        groups: BTreeMap::new(),
    };
    for (service, _) in services {
        let _memory = inner
            .admission
            .share(&inner.trees.get(service)?, Work::PLAIN)?;
        for (value, selection) in groups(inner, service, ptype, request)? {
            let points = (answer.groups.len() + 1).saturating_mul(request.steps.count());
            if points > MAX_POINTS {
                return Err(QueryError::TooManyPoints { points });
            }
            let values = steps(inner, service, ptype, &selection, &request.steps, gone)?;
            let sums = answer.groups.entry(value).or_default();
            sums.resize(request.steps.count(), StepValue::default());
            for (sum, value) in sums.iter_mut().zip(values) {
                sum.value = sum.value.saturating_add(value.value);
                sum.observed = sum.observed.max(value.observed);
            }
        }
    }
    answer
        .groups
        .retain(|_, values| values.iter().any(|value| !value.observed.is_zero()));
    Ok(answer)
}

/// The groups of a service's series that were active.
fn groups(
    inner: &Inner,
    service: ServiceId,
    ptype: PtypeId,
    request: &TimelineRequest,
) -> Result<Vec<(String, Selection)>, QueryError> {
    let Some(label) = &request.group_by else {
        return Ok(vec![(
            String::new(),
            inner.select(service, &request.selector)?,
        )]);
    };
    let of = (service, ptype, request.steps.window());
    inner.grouped(of, &request.selector, label)
}

fn steps(
    inner: &Inner,
    service: ServiceId,
    ptype: PtypeId,
    selection: &Selection,
    steps: &Steps,
    gone: &Arc<AtomicBool>,
) -> Result<Vec<StepValue>, QueryError> {
    let mut values = Vec::with_capacity(steps.count());
    for window in (0..steps.count()).filter_map(|at| steps.get(at)) {
        let (sum, _) = inner.vectors((service, ptype, selection, window), gone)?;
        let value = sum.sums.iter().fold(0_i128, |all, (kind, of_kind)| {
            let count = of_kind.values.total();
            all.saturating_add(count.saturating_mul(i128::from(kind.weight)))
        });
        values.push(StepValue {
            value,
            observed: Duration::from_secs(sum.covered_s()),
        });
    }
    Ok(values)
}
