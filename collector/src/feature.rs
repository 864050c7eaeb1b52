//! Feature rows: what the detectors know of a step of time.
//!
//! Per series a [`SeriesRow`]: totals, facts and spin candidates, searched on
//! the call tree. Per service and version a [`ServiceRow`]: counts of the
//! largest functions. Coarser rows are in [`coarse`] and [`pods`]. Pure: rows are computed from trees of sample counts;
//! storing them is left to the store. See [`codec`] for bytes and keys.

pub mod coarse;
pub mod codec;
pub mod pods;

use proto::labels::{LabelSet, POD, VERSION};
use proto::profile::Facts;
use proto::stack::FrameKind;
use proto::window::Window;
#[cfg(test)]
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_64;

use crate::detect::catalogue::Catalogue;
use crate::detect::spin::{self, SpinSettings};
use crate::store::exact::ExactSums;
use crate::store::tree::ServiceTree;
use crate::tree::CallTree;

/// Most functions of a [`ServiceRow`].
pub const MAX_FUNCTIONS: usize = 200;

/// Samples of CPU time of one series (or of a whole version) over a step.
#[derive(Clone, Copy, Debug)]
pub struct StepProfile<'a> {
    /// The step.
    pub step: Window,
    /// Who the service belongs to.
    pub tenant: &'a str,
    /// Namespace of the service, or `""`.
    pub namespace: &'a str,
    /// The service.
    pub service: &'a str,
    /// Labels of the series.
    pub labels: &'a LabelSet,
    /// How many samples.
    pub samples: u64,
    /// Call tree whose self values are numbers of samples; empty when nothing
    /// in it can be a spin, see [`spin::may_spin`].
    pub tree: &'a CallTree,
    /// CPU time that one sample stands for.
    pub period_ns: u64,
    /// Time within the step during which samples were taken; 0 means all. Of
    /// several series: the mean.
    pub observed_ns: u64,
    /// What else is known of the step.
    pub facts: Facts,
}

/// A frame of a candidate's path.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PathFrame {
    /// Function.
    pub function: String,
    /// File, or `""`.
    pub file: String,
    /// The line that most samples ran, or 0.
    pub line: u32,
    /// What kind of code it runs.
    #[serde(with = "kind_name")]
    pub kind: FrameKind,
}

/// A place in the call tree that looks like a spin.
#[derive(Clone, Debug, PartialEq)]
pub struct SpinCandidate {
    /// Frames from the root to the heaviest leaf below the place.
    pub path: Vec<PathFrame>,
    /// The same path up to the place, without what varies from build to build
    /// and without entry frames; never empty.
    pub identity: Vec<String>,
    /// CPU time below the place in cores.
    pub cores: f64,
    /// Samples below the place.
    pub samples: u64,
    /// Effective number of leaf functions: e to their entropy.
    pub leaf_eff: f64,
    /// Share of samples whose leaf waits, 0 to 1.
    pub wait_share: f64,
    /// Share of the samples in channel operations that show one succeed;
    /// `None` without channel operations.
    pub progress_share: Option<f64>,
    /// The largest leaf functions with their share, largest first.
    pub top_leaves: Vec<(String, f64)>,
}

/// What is known of one series over one step.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesRow {
    /// The step.
    pub step: Window,
    /// Who the service belongs to.
    pub tenant: String,
    /// Namespace of the service, or `""`.
    pub namespace: String,
    /// The service.
    pub service: String,
    /// Hash of the series' labels.
    pub series: u64,
    /// Pod of the series, or `""`.
    pub pod: String,
    /// Version that runs in it, or `""`.
    pub version: String,
    /// CPU time that one sample stands for.
    pub period_ns: u64,
    /// Time within the step during which samples were taken.
    pub observed_ns: u64,
    /// Samples taken.
    pub samples: u64,
    /// CPU time in cores.
    pub cores: f64,
    /// What else is known of the step.
    pub facts: Facts,
    /// Places that look like a spin, largest first.
    pub candidates: Vec<SpinCandidate>,
}

/// Samples of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionCount<Name = String> {
    /// Its name.
    pub function: Name,
    /// Samples in which it is the leaf.
    pub flat: u64,
    /// Samples in which it is anywhere, once per sample.
    pub cum: u64,
}

/// The largest functions of a version of a service over a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRow {
    /// The step.
    pub step: Window,
    /// The version, or `""`.
    pub version: String,
    /// CPU time that one sample stands for.
    pub period_ns: u64,
    /// Mean over the series of the time during which samples were taken.
    pub observed_ns: u64,
    /// Samples taken.
    pub samples: u64,
    /// At most [`MAX_FUNCTIONS`], largest cum first, ties by name.
    pub functions: Vec<FunctionCount>,
    /// Samples whose leaf is none of `functions`.
    pub other_flat: u64,
}

impl ServiceRow {
    /// Whether a function that it does not list had no sample.
    pub fn lists_all(&self) -> bool {
        self.functions.len() < MAX_FUNCTIONS
    }
}

/// Computes the row of one series.
pub fn series_row(
    profile: &StepProfile<'_>,
    catalogue: &Catalogue,
    settings: &SpinSettings,
) -> SeriesRow {
    let observed_ns = observed(profile);
    let samples = profile.samples;
    SeriesRow {
        step: profile.step,
        tenant: profile.tenant.to_owned(),
        namespace: profile.namespace.to_owned(),
        service: profile.service.to_owned(),
        series: series_hash(profile.labels),
        pod: profile.labels.get(POD).unwrap_or("").to_owned(),
        version: profile.labels.get(VERSION).unwrap_or("").to_owned(),
        period_ns: profile.period_ns,
        observed_ns,
        samples,
        cores: cores(samples, profile.period_ns, observed_ns),
        facts: profile.facts,
        candidates: spin::candidates(profile, observed_ns, catalogue, settings),
    }
}

/// Computes the row of one version of a service from the functions of its
/// series; the tree is not looked at.
pub fn service_row(profile: &StepProfile<'_>, counts: Vec<FunctionCount<&str>>) -> ServiceRow {
    let (functions, other_flat) = largest(counts);
    ServiceRow {
        step: profile.step,
        version: profile.labels.get(VERSION).unwrap_or("").to_owned(),
        period_ns: profile.period_ns,
        observed_ns: observed(profile),
        samples: profile.samples,
        other_flat,
        functions,
    }
}

/// At most [`MAX_FUNCTIONS`] of `counts`, largest cum first, and the flat values of the
/// others together.
fn largest(mut counts: Vec<FunctionCount<&str>>) -> (Vec<FunctionCount>, u64) {
    type Count<'t> = FunctionCount<&'t str>;
    let by_flat =
        |a: &Count<'_>, b: &Count<'_>| b.flat.cmp(&a.flat).then_with(|| a.function.cmp(b.function));
    let by_cum =
        |a: &Count<'_>, b: &Count<'_>| b.cum.cmp(&a.cum).then_with(|| a.function.cmp(b.function));
    let flat = counts.iter().map(|count| count.flat);
    let flat = flat.fold(0, u64::saturating_add);
    // Half of the places go to the largest flat values: a deep chain of
    // callers must not push out the functions that do the work.
    let (half, all) = (MAX_FUNCTIONS / 2, counts.len());
    if all > half {
        counts.select_nth_unstable_by(half, by_flat);
    }
    if all > MAX_FUNCTIONS
        && let Some(rest) = counts.get_mut(half..)
    {
        rest.select_nth_unstable_by(MAX_FUNCTIONS - half, by_cum);
        counts.truncate(MAX_FUNCTIONS);
    }
    counts.sort_unstable_by(by_cum);
    let listed = counts.iter().map(|count| count.flat);
    let others = flat.saturating_sub(listed.fold(0, u64::saturating_add));
    let owned = counts.into_iter().map(|count| FunctionCount {
        function: count.function.to_owned(),
        flat: count.flat,
        cum: count.cum,
    });
    (owned.collect(), others)
}

/// Mean cores below `function` over `rows`; `None` without rows. In a row that
/// does not list it, it counts as zero. Rows of the same step (of several
/// versions) add up.
pub fn function_cores(rows: &[ServiceRow], function: &str) -> Option<f64> {
    let mut steps: Vec<_> = rows.iter().map(|row| row.step.start()).collect();
    steps.sort_unstable();
    steps.dedup();
    let sum: f64 = rows
        .iter()
        .filter_map(|row| {
            let found = row.functions.iter().find(|f| f.function == function)?;
            Some(cores(found.cum, row.period_ns, row.observed_ns))
        })
        .sum();
    (!steps.is_empty()).then(|| sum / real(u64::try_from(steps.len()).unwrap_or(u64::MAX)))
}

/// A number that names a series by its labels; never changes.
pub fn series_hash(labels: &LabelSet) -> u64 {
    let mut text = Vec::new();
    for (name, value) in labels.iter() {
        text.extend_from_slice(name.as_bytes());
        text.push(0xff);
        text.extend_from_slice(value.as_bytes());
        text.push(0xfe);
    }
    xxh3_64(&text)
}

/// `samples` in cores; zero if nothing was observed.
pub(crate) fn cores(samples: u64, period_ns: u64, observed_ns: u64) -> f64 {
    if observed_ns == 0 {
        return 0.0;
    }
    real(samples) * real(period_ns) / real(observed_ns)
}

/// `value` as a real number; above 2^53 the nearest one.
#[expect(
    clippy::cast_precision_loss,
    reason = "shares and rates need no more than 53 bits"
)]
pub(crate) fn real(value: u64) -> f64 {
    value as f64
}

/// A sum of sample counts as a count; a negative one is none.
pub(crate) fn count(value: i128) -> u64 {
    u64::try_from(value.max(0)).unwrap_or(u64::MAX)
}

pub(crate) fn observed(profile: &StepProfile<'_>) -> u64 {
    let whole = u64::try_from(profile.step.duration().as_nanos()).unwrap_or(u64::MAX);
    match profile.observed_ns {
        0 => whole,
        part => part.min(whole),
    }
}

/// Flat and cum of every function, in no order, of the sums `values` by stack id
/// of a service's tree. A function counts once for a stack that it is on.
pub fn function_counts<'t>(
    tree: &'t ServiceTree,
    values: &ExactSums,
) -> Vec<FunctionCount<&'t str>> {
    let at = |id: u32| usize::try_from(id).unwrap_or(usize::MAX);
    let add = |sums: &mut [u64], index: u32, value: u64| {
        if let Some(slot) = sums.get_mut(at(index)) {
            *slot = slot.saturating_add(value);
        }
    };
    // By frame at first: several are of one function, but a look less for each node.
    let functions = tree.functions();
    let mut flat_of_frames = vec![0_u64; functions.len()];
    let mut cum_of_frames = vec![0_u64; functions.len()];
    // Samples at and below each node; complete when its turn comes.
    let mut totals = vec![0_u64; tree.node_count()];
    for (stack, value) in values.held() {
        if value > 0
            && let Some(leaf) = tree.leaf(stack)
            && let Some(&(_, frame)) = tree.nodes().get(at(leaf))
        {
            add(&mut totals, leaf, count(value));
            add(&mut flat_of_frames, frame, count(value));
        }
    }
    let nodes = tree.nodes().iter().zip(tree.outermost()).enumerate();
    for (node, (&(parent, frame), outermost)) in nodes.skip(1).rev() {
        let total = totals.get(node).copied().unwrap_or(0);
        if total == 0 {
            continue;
        }
        add(&mut totals, parent, total);
        if *outermost {
            add(&mut cum_of_frames, frame, total);
        }
    }
    let mut sums = vec![(0_u64, 0_u64); tree.string_count()];
    let frames = flat_of_frames.into_iter().zip(cum_of_frames);
    for (function, (flat, cum)) in functions.into_iter().zip(frames) {
        if let Some(sum) = sums.get_mut(at(function)) {
            *sum = (sum.0.saturating_add(flat), sum.1.saturating_add(cum));
        }
    }
    (0_u32..)
        .zip(sums)
        .filter(|(_, (_, cum))| *cum > 0)
        .map(|(function, (flat, cum))| FunctionCount {
            function: tree.string(function).unwrap_or_default(),
            flat,
            cum,
        })
        .collect()
}

/// What [`function_counts`] finds, from a call tree.
#[cfg(test)]
fn counts_of_tree(tree: &CallTree) -> Vec<FunctionCount<&str>> {
    let mut ids: FxHashMap<&str, usize> = FxHashMap::default();
    let mut counts: Vec<FunctionCount<&str>> = Vec::new();
    let of_frame: Vec<usize> = tree
        .frames()
        .iter()
        .map(|frame| {
            *ids.entry(&frame.function).or_insert_with(|| {
                counts.push(FunctionCount {
                    function: &*frame.function,
                    flat: 0,
                    cum: 0,
                });
                counts.len() - 1
            })
        })
        .collect();
    let totals = tree.totals();
    let children = tree.children();
    // How often each function is on the path to the node at hand.
    let mut on_path = vec![0_u32; counts.len()];
    let mut walk = vec![(0_usize, Visit::Enter)];
    while let Some((node, visit)) = walk.pop() {
        let function = tree
            .nodes()
            .get(node)
            .and_then(|node| node.frame)
            .and_then(|frame| of_frame.get(usize::try_from(frame).ok()?).copied());
        let depth = function.and_then(|function| on_path.get_mut(function));
        match visit {
            Visit::Enter => {
                if let (Some(function), Some(depth)) = (function, depth) {
                    if let Some(counts) = counts.get_mut(function) {
                        let own = tree.nodes().get(node).map_or(0, |node| node.self_value);
                        counts.flat = counts.flat.saturating_add(count(own));
                        if *depth == 0 {
                            let total = totals.get(node).copied().unwrap_or(0);
                            counts.cum = counts.cum.saturating_add(count(total));
                        }
                    }
                    *depth = depth.saturating_add(1);
                }
                walk.push((node, Visit::Leave));
                let below = children.get(node).into_iter().flatten();
                walk.extend(
                    below.filter_map(|&child| Some((usize::try_from(child).ok()?, Visit::Enter))),
                );
            }
            Visit::Leave => {
                if let Some(depth) = depth {
                    *depth = depth.saturating_sub(1);
                }
            }
        }
    }
    counts.retain(|function| function.cum > 0);
    counts
}

#[cfg(test)]
#[derive(Clone, Copy)]
enum Visit {
    Enter,
    Leave,
}

/// A frame's kind by its language, as the JSON of an alert shows it.
mod kind_name {
    use proto::stack::FrameKind;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    const NAMES: [(FrameKind, &str); 9] = [
        (FrameKind::Native, "native"),
        (FrameKind::Go, "go"),
        (FrameKind::Kernel, "kernel"),
        (FrameKind::Python, "python"),
        (FrameKind::Ruby, "ruby"),
        (FrameKind::Jvm, "jvm"),
        (FrameKind::Node, "node"),
        (FrameKind::Unsymbolized, "unsymbolized"),
        (FrameKind::Synthetic, "synthetic"),
    ];

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    pub(super) fn serialize<S: Serializer>(kind: &FrameKind, to: S) -> Result<S::Ok, S::Error> {
        let name = NAMES.iter().find(|(known, _)| known == kind);
        to.serialize_str(name.map_or("", |(_, name)| name))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<FrameKind, D::Error> {
        let text = String::deserialize(from)?;
        let kind = NAMES.iter().find(|(_, name)| *name == text);
        kind.map(|(kind, _)| *kind)
            .ok_or_else(|| D::Error::custom(format!("no kind of frame is called {text:?}")))
    }
}

#[cfg(test)]
mod tests;
