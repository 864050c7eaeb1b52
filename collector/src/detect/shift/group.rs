//! Blames one function for what several show: its callers grow with it, and what began
//! with it has one cause.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ShiftSettings;
use super::track::{Direction, INTERVAL, Track};
use crate::detect::{FindingKind, Severity};
use crate::feature::{ServiceRow, cores, real};
use crate::verdict::{By, DEEPEST_SHARE, MOVED_SHARE, package};

/// What began within this time of each other has one cause.
const TOGETHER_NS: u64 = 3_600_000_000_000;
/// Other functions that are named beside the one that is blamed.
const MAX_ALSO: usize = 20;
/// Changes of a service that are told at once, and as many that nobody is woken for.
const MAX_ACTIVE: usize = 20;

/// A function whose cost changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    /// Its name.
    pub function: String,
    /// What happened to it.
    pub kind: FindingKind,
    /// Which of its samples changed.
    pub by: By,
    /// Start of the first row that showed it, in nanoseconds since 1970.
    pub onset_ns: i64,
    /// Part of the service's CPU time that was expected.
    pub before: f64,
    /// Part of the CPU time that the service was expected to take that it takes now.
    pub after: f64,
    /// `after` by `before`, with the ends of its interval; `None` when it is new.
    pub ratio: Option<[f64; 3]>,
    /// CPU time in cores, now and as expected.
    pub cores: [f64; 2],
    /// Samples it rests on.
    pub samples: u64,
    /// Other functions that changed with it: those that call it, mostly.
    pub also: Vec<String>,
    /// How much of the service it was when it was told, to either side.
    size: f64,
}

impl Shift {
    pub(super) fn new(function: &str, kind: FindingKind, track: &Track, row: &ServiceRow) -> Self {
        let mut shift = Self {
            function: function.to_owned(),
            kind,
            by: track.by,
            onset_ns: track.onset_ns,
            before: 0.0,
            after: 0.0,
            ratio: None,
            cores: [0.0; 2],
            samples: 0,
            also: Vec::new(),
            size: track.gain().abs(),
        };
        shift.update(track, row);
        shift
    }

    pub(super) fn direction(&self) -> Direction {
        match self.kind {
            FindingKind::Improvement => Direction::Down,
            _ => Direction::Up,
        }
    }

    /// Takes in what the last row showed.
    pub(super) fn update(&mut self, track: &Track, row: &ServiceRow) {
        let (after, before, error) = track.last();
        (self.before, self.after) = (before, after);
        self.ratio = (before * real(row.samples) >= 1.0).then(|| {
            let ratio = after / before;
            let reach = INTERVAL * error;
            [ratio, (ratio - reach).max(0.0), ratio + reach]
        });
        let of_sample = cores(1, row.period_ns, row.observed_ns);
        self.cores = track.last_samples().map(|samples| samples * of_sample);
        self.samples = row.samples;
        if self.kind == FindingKind::Drift && track.has_jumped() {
            self.kind = FindingKind::Regression;
            self.onset_ns = row.step.start().get();
        }
    }

    /// Whether what `track` sums up is this change: it is told with it, or what calls
    /// the function became dearer by as much.
    pub(super) fn is_shown_by(&self, track: &Track) -> bool {
        track.direction == self.direction()
            && is_together(track.onset_ns, self.onset_ns)
            && (track.is_active || track.gain().abs() >= DEEPEST_SHARE * self.size)
    }

    fn tells_of(&self, other: &Self) -> bool {
        self.direction() == other.direction()
            && (self.function == other.function || self.also.contains(&other.function))
    }
}

/// Adds changes that are sure to those that are told, one for each cause. One for which
/// there is no room, or whose cause was another that is over, comes again with the next
/// row.
pub(super) fn add(
    active: &mut Vec<Shift>,
    mut sure: Vec<Shift>,
    tracks: &BTreeMap<String, Vec<Track>>,
    settings: &ShiftSettings,
) {
    sure.retain(|shift| {
        let is_told = active.iter().any(|told| told.tells_of(shift));
        !is_told && !is_moved(shift, tracks, settings)
    });
    sure.sort_by(|a, b| b.size.total_cmp(&a.size));
    while let Some(largest) = sure.first().cloned() {
        let is_of = |shift: &Shift| {
            shift.direction() == largest.direction()
                && is_together(shift.onset_ns, largest.onset_ns)
        };
        let (members, others): (Vec<Shift>, Vec<Shift>) = sure.into_iter().partition(is_of);
        sure = others;
        let known = active
            .iter_mut()
            .find(|known| is_of(known) && known.size >= DEEPEST_SHARE * largest.size);
        let mut names: Vec<String> = members.iter().map(|s| s.function.clone()).collect();
        match known {
            Some(known) => also(known, names),
            None => {
                let Some(mut guilty) = guilty(members) else {
                    continue;
                };
                names.retain(|name| *name != guilty.function);
                also(&mut guilty, names);
                let is_quiet = |shift: &Shift| shift.kind.severity() == Severity::Info;
                let like = active.iter().filter(|s| is_quiet(s) == is_quiet(&guilty));
                if like.count() < MAX_ACTIVE {
                    active.push(guilty);
                }
            }
        }
    }
}

fn also(shift: &mut Shift, names: Vec<String>) {
    for name in names {
        let is_known = name == shift.function || shift.also.contains(&name);
        if !is_known && shift.also.len() < MAX_ALSO {
            shift.also.push(name);
        }
    }
}

/// Of functions that changed together, the deepest that holds most of it.
fn guilty(members: Vec<Shift>) -> Option<Shift> {
    let largest = members.iter().map(|shift| shift.size).fold(0.0, f64::max);
    let heavy = members
        .into_iter()
        .filter(|shift| shift.size >= DEEPEST_SHARE * largest);
    // What takes the time itself comes before what calls it; of callers, the smallest.
    heavy.min_by(|a, b| {
        let depth = |shift: &Shift| (shift.by == By::Cum, shift.after);
        let (a, b) = (depth(a), depth(b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    })
}

/// Whether two changes that began at these times have one cause.
pub(super) const fn is_together(one_ns: i64, other_ns: i64) -> bool {
    one_ns.abs_diff(other_ns) <= TOGETHER_NS
}

/// Whether others of the function's package lost what it gained.
fn is_moved(
    shift: &Shift,
    tracks: &BTreeMap<String, Vec<Track>>,
    settings: &ShiftSettings,
) -> bool {
    let Some(of) = package(&shift.function) else {
        return false;
    };
    // Where the change is in what it calls, its package says nothing.
    let own = tracks.get(&shift.function).into_iter().flatten();
    let own = own.filter(|track| track.by == By::Flat).map(Track::gain);
    if own.sum::<f64>().abs() < DEEPEST_SHARE * shift.size {
        return false;
    }
    let flat = tracks
        .iter()
        .filter(|(function, _)| package(function) == Some(of))
        .flat_map(|(_, tracks)| tracks)
        .filter(|track| track.by == By::Flat && track.is_likely(settings));
    let sum: f64 = flat.map(Track::gain).sum();
    let gain = match shift.direction() {
        Direction::Up => shift.size,
        Direction::Down => -shift.size,
    };
    sum / gain < MOVED_SHARE
}
