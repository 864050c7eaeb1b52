//! Tier 1 of spin detection: at least half a core under one node of the call
//! tree whose leaves are few, mostly wait, and get nothing for it.
//!
//! Absolute cores are judged, never shares: a spinning thread in a service
//! that spends five more cores on real work is a seventh of it. A node is
//! looked at when its frame belongs to the program, or when none above it
//! does (a scheduler that spins runs on a stack of its own).

use std::time::Duration;

use proto::stack::{Frame, FrameKind};
use rustc_hash::FxHashMap;

use super::catalogue::{Catalogue, Role, plain_name};
use super::{Detector, Finding, FindingKind, Level};
use crate::feature::{self, PathFrame, SeriesRow, SpinCandidate, StepProfile, cores, count, real};
use crate::tree::CallTree;

/// Most candidates of a row.
pub const MAX_CANDIDATES: usize = 5;
/// Most leaf functions of a candidate that are named.
const MAX_TOP_LEAVES: usize = 5;
/// Most frames of a candidate's path; the middle of a longer one is left out.
const MAX_PATH: usize = 128;
/// The path goes on below the place while a child holds this share of it.
const PATH_SHARE: f64 = 0.5;
/// The rate and length of the step for which `min_samples` is given.
const NOMINAL_HZ: f64 = 99.0;
const NOMINAL_LENGTH: Duration = Duration::from_secs(60);

/// When a place in the call tree is a spin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpinSettings {
    /// Least CPU time, in cores, or in CPU limits where one is below a core.
    pub min_cores: f64,
    /// Share of `min_cores` at which a spin that began is over.
    pub leave_share: f64,
    /// Least share of samples whose leaf waits.
    pub min_wait: f64,
    /// Largest share of channel operations that succeed.
    pub max_progress: f64,
    /// Largest effective number of leaf functions.
    pub max_leaf_eff: f64,
    /// Least samples of a minute at 99 Hz; scales with rate and observed time.
    pub min_samples: f64,
    /// Least samples at any rate.
    pub floor_samples: f64,
    /// A deeper place is blamed if it (or several together) hold this share.
    pub deeper_share: f64,
}

impl Default for SpinSettings {
    /// Thresholds that separated real spins from real work when measured; see
    /// the tests of this module.
    fn default() -> Self {
        Self {
            min_cores: 0.5,
            leave_share: 0.6,
            min_wait: 0.60,
            max_progress: 0.03,
            max_leaf_eff: 10.0,
            min_samples: 100.0,
            floor_samples: 10.0,
            deeper_share: 0.8,
        }
    }
}

impl SpinSettings {
    /// Cores from which a place counts under a CPU limit, 0 meaning none.
    pub fn enter_cores(&self, limit_millicores: u32) -> f64 {
        let limit = match limit_millicores {
            0 => 1.0,
            limit => (f64::from(limit) / 1000.0).min(1.0),
        };
        self.min_cores * limit
    }

    /// Samples from which a place counts.
    fn enough_samples(&self, period_ns: u64, observed_ns: u64) -> f64 {
        if period_ns == 0 {
            return f64::INFINITY;
        }
        let rate_hz = 1e9 / real(period_ns);
        let length = real(observed_ns) / 1e9 / NOMINAL_LENGTH.as_secs_f64();
        (self.min_samples * (rate_hz / NOMINAL_HZ) * length).max(self.floor_samples)
    }
}

/// The tier-1 spin detector.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpinDetector {
    /// Its thresholds.
    pub settings: SpinSettings,
}

impl Detector for SpinDetector {
    fn kind(&self) -> FindingKind {
        FindingKind::Spin
    }

    fn judge(&self, row: &SeriesRow) -> Vec<Finding> {
        let settings = &self.settings;
        let enter = settings.enter_cores(row.facts.cpu_limit_millicores);
        let is_spin = |candidate: &&SpinCandidate| {
            candidate.cores >= enter * settings.leave_share
                && candidate.wait_share >= settings.min_wait
                && candidate.leaf_eff <= settings.max_leaf_eff
                && candidate.progress_share.unwrap_or(0.0) <= settings.max_progress
        };
        row.candidates
            .iter()
            .filter(is_spin)
            .map(|candidate| Finding {
                kind: FindingKind::Spin,
                level: if candidate.cores >= enter {
                    Level::Enter
                } else {
                    Level::Hold
                },
                step: row.step,
                path: candidate.path.clone(),
                identity: candidate.identity.clone(),
                cores: candidate.cores,
                samples: candidate.samples,
                wait_share: candidate.wait_share,
                progress_share: candidate.progress_share,
                leaf_eff: candidate.leaf_eff,
                top_leaves: candidate.top_leaves.clone(),
                throttled_share: throttled_share(row),
                shift: None,
                measure: None,
            })
            .collect()
    }
}

fn throttled_share(row: &SeriesRow) -> f64 {
    let throttled = Duration::from_nanos(row.facts.throttled_ns);
    (throttled.as_secs_f64() / row.step.duration().as_secs_f64()).min(1.0)
}

/// Whether a step with `waiting` samples whose leaf waits can hold a spin: a
/// place has enough samples, and enough of them wait.
pub fn may_spin(waiting: u64, profile: &StepProfile<'_>, settings: &SpinSettings) -> bool {
    let observed_ns = feature::observed(profile);
    let enter = settings.enter_cores(profile.facts.cpu_limit_millicores);
    let least_cores = enter * settings.leave_share * settings.min_wait;
    let least = settings.enough_samples(profile.period_ns, observed_ns) * settings.min_wait;
    real(waiting) >= least && cores(waiting, profile.period_ns, observed_ns) >= least_cores
}

/// Whether samples of a stack, given leaf first, count as waiting.
pub fn waits(leaf_first: impl Iterator<Item = Role>) -> bool {
    let mut deepest = None;
    for role in leaf_first {
        deepest = Some(role);
        if !role.is_transparent {
            break;
        }
    }
    deepest.is_some_and(|role| role.waits)
}

/// Places of `profile`'s call tree that look like a spin, largest first, at
/// most [`MAX_CANDIDATES`]. None lies above or below another.
pub(crate) fn candidates(
    profile: &StepProfile<'_>,
    observed_ns: u64,
    catalogue: &Catalogue,
    settings: &SpinSettings,
) -> Vec<SpinCandidate> {
    let cores_of = |samples: u64| cores(samples, profile.period_ns, observed_ns);
    let enter_cores = settings.enter_cores(profile.facts.cpu_limit_millicores);
    let leave_cores = enter_cores * settings.leave_share;
    let enough = settings.enough_samples(profile.period_ns, observed_ns);
    let whole = profile.samples;
    // Most series use less CPU than the smallest spin: they cost nothing.
    if cores_of(whole) < leave_cores || real(whole) < enough {
        return Vec::new();
    }
    let tree = Annotated::new(profile.tree, catalogue);
    let is_place = |node: usize, shape: &Shape| {
        let samples = shape.samples;
        tree.is_accountable(node)
            && real(samples) >= enough
            && cores_of(samples) >= leave_cores
            && shape.wait_share() >= settings.min_wait
            && shape.progress_share().unwrap_or(0.0) <= settings.max_progress
            && shape.leaf_eff() <= settings.max_leaf_eff
    };
    let places = tree.places(is_place);
    let can_enter = |place: &Place| cores_of(place.shape.samples) >= enter_cores;
    let mut chosen = choose(&places, settings.deeper_share, can_enter);
    chosen.sort_by_key(|&place| {
        let place = places.get(place);
        std::cmp::Reverse(place.map_or(0, |place| place.shape.samples))
    });
    chosen
        .into_iter()
        .take(MAX_CANDIDATES)
        .filter_map(|place| places.get(place))
        .map(|place| tree.candidate(place, cores_of(place.shape.samples)))
        .collect()
}

/// Of a forest of places: where the CPU time goes. From each topmost place it
/// descends as long as the places right below hold `deeper_share` of it.
fn choose(places: &[Place], deeper_share: f64, can_enter: impl Fn(&Place) -> bool) -> Vec<usize> {
    let mut chosen = Vec::new();
    let mut below: Vec<Vec<usize>> = vec![Vec::new(); places.len()];
    let mut open = Vec::new();
    for (index, place) in places.iter().enumerate() {
        match place.above.and_then(|above| below.get_mut(above)) {
            Some(list) => list.push(index),
            None => open.push((index, place.shape.samples)),
        }
    }
    // Each entry has the samples of the largest place on its way.
    while let Some((index, largest)) = open.pop() {
        let Some(place) = places.get(index) else {
            continue;
        };
        let deeper: Vec<(usize, u64)> = below
            .get(index)
            .into_iter()
            .flatten()
            .filter_map(|&index| Some((index, places.get(index)?)))
            .filter(|(_, deeper)| can_enter(deeper) || !can_enter(place))
            .map(|(index, deeper)| (index, deeper.shape.samples))
            .collect();
        let held: u64 = deeper.iter().map(|(_, samples)| samples).sum();
        if !deeper.is_empty() && real(held) >= deeper_share * real(largest) {
            let is_one = deeper.len() == 1;
            open.extend(
                deeper
                    .into_iter()
                    .map(|(index, samples)| (index, if is_one { largest } else { samples })),
            );
        } else {
            chosen.push(index);
        }
    }
    chosen
}

/// A node that looks like a spin.
#[derive(Debug)]
struct Place {
    node: usize,
    /// The nearest place above, an index into the places.
    above: Option<usize>,
    shape: Shape,
}

/// What lies below a node, itself included.
#[derive(Clone, Debug, Default)]
struct Shape {
    samples: u64,
    waiting: u64,
    in_channel: u64,
    progressing: u64,
    /// Samples by leaf function.
    leaves: FxHashMap<u32, u64>,
}

impl Shape {
    /// Adds `other`; the larger map takes in the smaller.
    fn merge(&mut self, mut other: Self) {
        self.samples = self.samples.saturating_add(other.samples);
        self.waiting = self.waiting.saturating_add(other.waiting);
        self.in_channel = self.in_channel.saturating_add(other.in_channel);
        self.progressing = self.progressing.saturating_add(other.progressing);
        if other.leaves.len() > self.leaves.len() {
            std::mem::swap(&mut self.leaves, &mut other.leaves);
        }
        for (function, samples) in other.leaves {
            let sum = self.leaves.entry(function).or_default();
            *sum = sum.saturating_add(samples);
        }
    }

    fn wait_share(&self) -> f64 {
        share(self.waiting, self.samples)
    }

    fn progress_share(&self) -> Option<f64> {
        (self.in_channel > 0).then(|| share(self.progressing, self.in_channel))
    }

    fn leaf_eff(&self) -> f64 {
        let entropy: f64 = self
            .leaves
            .values()
            .map(|&samples| share(samples, self.samples))
            .filter(|&part| part > 0.0)
            .map(|part| -part * part.ln())
            .sum();
        entropy.exp()
    }

    /// Largest leaf functions first, ties by name.
    fn top_leaves(&self, functions: &[&str]) -> Vec<(String, f64)> {
        let mut leaves: Vec<(&str, u64)> = self
            .leaves
            .iter()
            .map(|(&function, &samples)| {
                (
                    functions.get(index(function)).copied().unwrap_or(""),
                    samples,
                )
            })
            .collect();
        leaves.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        leaves
            .into_iter()
            .take(MAX_TOP_LEAVES)
            .map(|(function, samples)| (function.to_owned(), share(samples, self.samples)))
            .collect()
    }
}

/// A call tree without the lines, with what the catalogue says of its nodes.
/// A parent comes before its children; node 0 is the root.
struct Annotated<'a> {
    functions: Vec<&'a str>,
    roles: Vec<Role>,
    nodes: Vec<Node<'a>>,
}

/// A function under a parent.
#[derive(Clone, Copy, Debug, Default)]
struct Node<'a> {
    parent: usize,
    function: Option<u32>,
    /// The frame of the line that most samples ran, and how many did.
    frame: Option<(&'a Frame, u64)>,
    /// Samples that end here, and those that end here or below.
    own: u64,
    total: u64,
    /// The deepest function that takes the time of samples that end here.
    leaf: Option<u32>,
    in_channel: bool,
    progressing: bool,
    /// Whether a function between the root and here belongs to the program.
    has_program: bool,
    /// Whether this very one does.
    is_program: bool,
}

impl<'a> Annotated<'a> {
    fn new(tree: &'a CallTree, catalogue: &Catalogue) -> Self {
        let mut ids: FxHashMap<(FrameKind, &str), u32> = FxHashMap::default();
        let mut functions = Vec::new();
        let mut roles = Vec::new();
        let mut function_of_frame = Vec::new();
        for frame in tree.frames() {
            let fresh = u32::try_from(functions.len()).unwrap_or(u32::MAX);
            let function = *ids.entry((frame.kind, &frame.function)).or_insert(fresh);
            if function == fresh {
                functions.push(&*frame.function);
                roles.push(catalogue.role(frame));
            }
            function_of_frame.push(function);
        }
        let totals = tree.totals();
        let mut nodes = vec![Node::default()];
        let mut folded = Vec::with_capacity(tree.nodes().len());
        let mut known: FxHashMap<(usize, u32), usize> = FxHashMap::default();
        for (at, (call, total)) in tree.nodes().iter().zip(totals).enumerate() {
            let total = count(total);
            let frame = call.frame.map(index);
            let function = frame.and_then(|frame| function_of_frame.get(frame).copied());
            let parent = folded.get(index(call.parent)).copied().unwrap_or(0);
            let node = match function {
                Some(function) if at != 0 => {
                    *known.entry((parent, function)).or_insert_with(|| {
                        nodes.push(Node::below(&nodes, parent, function, &roles));
                        nodes.len() - 1
                    })
                }
                _ => 0,
            };
            folded.push(node);
            if let Some(node) = nodes.get_mut(node) {
                node.own = node.own.saturating_add(count(call.self_value));
                node.total = node.total.saturating_add(total);
                let heaviest = node.frame.map_or(0, |(_, samples)| samples);
                if let Some(frame) = frame.and_then(|frame| tree.frames().get(frame))
                    && (node.frame.is_none() || total > heaviest)
                {
                    node.frame = Some((frame, total));
                }
            }
        }
        Self {
            functions,
            roles,
            nodes,
        }
    }

    fn role(&self, function: Option<u32>) -> Role {
        function
            .and_then(|function| self.roles.get(index(function)))
            .copied()
            .unwrap_or_default()
    }

    /// Whether a spin at `node` could be blamed on it.
    fn is_accountable(&self, node: usize) -> bool {
        let can = |node: &Node<'_>| node.is_program || !node.has_program;
        node != 0 && self.nodes.get(node).is_some_and(can)
    }

    /// Nodes whose shape `is_place`, parents before children.
    fn places(&self, is_place: impl Fn(usize, &Shape) -> bool) -> Vec<Place> {
        let mut open: Vec<Option<Shape>> = vec![None; self.nodes.len()];
        let mut places = Vec::new();
        // Children come after their parent: when a node's turn comes,
        // everything below it has been added to it.
        for (at, node) in self.nodes.iter().enumerate().rev() {
            let mut shape = node.shape(self.role(node.leaf).waits);
            if let Some(below) = open.get_mut(at).and_then(Option::take) {
                shape.merge(below);
            }
            if shape.samples == 0 {
                continue;
            }
            if is_place(at, &shape) {
                places.push(Place {
                    node: at,
                    above: None,
                    shape: shape.clone(),
                });
            }
            if at != 0
                && let Some(parent) = open.get_mut(node.parent)
            {
                match parent {
                    Some(parent) => parent.merge(shape),
                    None => *parent = Some(shape),
                }
            }
        }
        places.reverse();
        self.link(&mut places);
        places
    }

    /// Finds the nearest place above each place.
    fn link(&self, places: &mut [Place]) {
        let by_node: FxHashMap<usize, usize> = places
            .iter()
            .enumerate()
            .map(|(index, place)| (place.node, index))
            .collect();
        for place in places {
            place.above = self
                .upwards(place.node)
                .skip(1)
                .find_map(|node| by_node.get(&node).copied());
        }
    }

    /// `node`, its parent, and so on, without the root.
    fn upwards(&self, node: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(node), |&node| {
            self.nodes.get(node).map(|node| node.parent)
        })
        .take_while(|&node| node != 0)
    }

    fn candidate(&self, place: &Place, cores: f64) -> SpinCandidate {
        let mut way: Vec<usize> = self.upwards(place.node).collect();
        way.reverse();
        let identity = self.identity(&way);
        way.extend(self.heaviest_below(place));
        let path = way
            .into_iter()
            .filter_map(|node| self.nodes.get(node)?.frame)
            .map(|(frame, _)| path_frame(frame))
            .collect();
        SpinCandidate {
            path: shortened(path),
            identity,
            cores,
            samples: place.shape.samples,
            leaf_eff: place.shape.leaf_eff(),
            wait_share: place.shape.wait_share(),
            progress_share: place.shape.progress_share(),
            top_leaves: place.shape.top_leaves(&self.functions),
        }
    }

    /// The functions that name a place: the program's on the way to it, or,
    /// without any, the first that is no entry. How the language gets from one
    /// to the next differs between its versions and between sources.
    fn identity(&self, way: &[usize]) -> Vec<String> {
        let functions: Vec<(Role, &str)> = way
            .iter()
            .filter_map(|&node| {
                let function = self.nodes.get(node)?.function;
                let name = self.functions.get(index(function?))?;
                Some((self.role(function), plain_name(name)))
            })
            .collect();
        let program: Vec<String> = functions
            .iter()
            .filter(|(role, _)| !role.is_system)
            .map(|(_, name)| (*name).to_owned())
            .collect();
        if !program.is_empty() {
            return program;
        }
        let first = functions.iter().find(|(role, _)| !role.is_entry);
        first
            .or(functions.last())
            .map(|(_, name)| vec![(*name).to_owned()])
            .unwrap_or_default()
    }

    /// The heaviest nodes below a place, as long as they hold half of it.
    fn heaviest_below(&self, place: &Place) -> Vec<usize> {
        let mut heaviest: FxHashMap<usize, usize> = FxHashMap::default();
        let total = |node: usize| self.nodes.get(node).map_or(0, |node| node.total);
        for (at, node) in self.nodes.iter().enumerate().skip(1) {
            let best = heaviest.entry(node.parent).or_insert(at);
            if node.total > total(*best) {
                *best = at;
            }
        }
        let least = PATH_SHARE * real(place.shape.samples);
        std::iter::successors(Some(place.node), |node| heaviest.get(node).copied())
            .skip(1)
            .take_while(|&node| real(total(node)) >= least)
            .collect()
    }
}

impl<'a> Node<'a> {
    /// A new node of `function` below `parent`.
    fn below(nodes: &[Node<'a>], parent: usize, function: u32, roles: &[Role]) -> Self {
        let above = nodes.get(parent).copied().unwrap_or_default();
        let role = roles.get(index(function)).copied().unwrap_or_default();
        let in_channel = above.in_channel || role.is_channel;
        Self {
            parent,
            function: Some(function),
            leaf: match role.is_transparent && above.leaf.is_some() {
                true => above.leaf,
                false => Some(function),
            },
            in_channel,
            progressing: above.progressing || (in_channel && role.progresses),
            has_program: above.has_program || !role.is_system,
            is_program: !role.is_system,
            ..Self::default()
        }
    }

    /// The samples that end here.
    fn shape(&self, waits: bool) -> Shape {
        let if_so = |yes: bool| if yes { self.own } else { 0 };
        Shape {
            samples: self.own,
            waiting: if_so(waits),
            in_channel: if_so(self.in_channel),
            progressing: if_so(self.progressing),
            leaves: self
                .leaf
                .filter(|_| self.own > 0)
                .map(|function| (function, self.own))
                .into_iter()
                .collect(),
        }
    }
}

fn path_frame(frame: &Frame) -> PathFrame {
    PathFrame {
        function: frame.function.to_string(),
        file: frame.file.to_string(),
        line: frame.line,
        kind: frame.kind,
    }
}

/// `path` with at most [`MAX_PATH`] frames: its beginning and its end.
fn shortened(mut path: Vec<PathFrame>) -> Vec<PathFrame> {
    if path.len() > MAX_PATH {
        let half = MAX_PATH / 2;
        path.drain(half..path.len() - half);
    }
    path
}

fn share(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        whole => real(part) / real(whole),
    }
}

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
