//! Functions that became dearer or cheaper: what a service spends on each, hour by hour
//! and ten minutes by ten minutes, against what it spent on it at the same time of day.
//!
//! Counts are divided by the size of their row, which the median function tells, so that
//! traffic does not matter; what is left varies by chance of sampling and by the mix of
//! work, see [`crate::statistics`]. Residuals are summed up (CUSUM, Page 1954): a small
//! change is found in hours, a large one in two rows of ten minutes. `baseline` says what
//! is expected, `track` sums up, `group` blames one function for what several show.

pub mod baseline;
mod group;
mod track;

use std::collections::BTreeMap;

use proto::window::UnixNanos;
use serde::{Deserialize, Serialize};

use self::baseline::{Baseline, Learned};
pub use self::group::Shift;
use self::track::{Direction, Seen, Track};
use super::FindingKind;
use crate::feature::coarse::Grain;
use crate::feature::{ServiceRow, real};
use crate::verdict::By;

/// Functions whose sums are remembered; of more the smallest sums are forgotten.
const MAX_TRACKS: usize = 2_000;
/// After so long a change is what is normal.
const NORMAL_NS: i64 = 7 * 86_400_000_000_000;
/// Functions that are remembered as normal; of more the oldest are forgotten.
const MAX_ACCEPTED: usize = 500;

/// When a change is one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShiftSettings {
    /// Whether changes are looked for at all.
    pub is_enabled: bool,
    /// What a residual must exceed, in standard errors, to add to the sum.
    pub slack: f64,
    /// Standard errors that a residual counts as at most: one odd hour is no change.
    pub most_errors: f64,
    /// The sum at which a change is sure.
    pub threshold: f64,
    /// Least ratio to what was expected, since it began.
    pub min_ratio: f64,
    /// Least change, as a part of the service's CPU time.
    pub min_gain: f64,
    /// Standard errors that rows of ten minutes must be off, one after the other.
    pub fast_errors: f64,
    /// Least ratio of such a row.
    pub fast_ratio: f64,
    /// Least change in such a row.
    pub fast_gain: f64,
    /// How many such rows.
    pub fast_rows: u32,
    /// Share of the CPU time from which a new function is hot.
    pub hot_share: f64,
    /// Samples a row that a new function must have.
    pub hot_samples: f64,
    /// Rows of an hour for which it must be hot.
    pub hot_rows: u32,
}

impl Default for ShiftSettings {
    fn default() -> Self {
        Self {
            is_enabled: true,
            slack: 1.0,
            most_errors: 6.0,
            threshold: 12.0,
            min_ratio: 1.07,
            min_gain: 0.002_5,
            fast_errors: 5.0,
            fast_ratio: 1.25,
            fast_gain: 0.005,
            fast_rows: 2,
            hot_share: 0.01,
            hot_samples: 30.0,
            hot_rows: 2,
        }
    }
}

impl ShiftSettings {
    /// Finds smaller changes of large services, later.
    pub const fn sensitive(self) -> Self {
        Self {
            slack: 0.75,
            threshold: 15.0,
            min_ratio: 1.015,
            min_gain: 0.000_2,
            ..self
        }
    }
}

/// What is remembered of a service between rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShiftState {
    /// End of the last row of each grain that was judged.
    last_ns: [i64; 2],
    /// Functions that are off, by name.
    tracks: BTreeMap<String, Vec<Track>>,
    /// Changes that are told, with what they are blamed on.
    active: Vec<Shift>,
    /// Functions of which a person said that they are normal, and since when.
    #[serde(default)]
    accepted: BTreeMap<String, i64>,
}

impl ShiftState {
    /// Whether a row of ten minutes that ends at `end` was not judged.
    pub fn awaits(&self, end: UnixNanos) -> bool {
        let [last_ns, _] = self.last_ns;
        end.get() > last_ns
    }

    /// Judges a row. Returns the changes that go on, or `None` when the row was judged
    /// before. Rows of an hour come before the row of ten minutes that ends with them.
    pub fn step(
        &mut self,
        grain: Grain,
        row: &ServiceRow,
        baseline: Option<&Baseline>,
        settings: &ShiftSettings,
    ) -> Option<&[Shift]> {
        let last_ns = match grain {
            Grain::TenMinutes => self.last_ns.first_mut(),
            Grain::Hour => self.last_ns.last_mut(),
        }?;
        let end_ns = row.step.end().get();
        if end_ns <= *last_ns {
            return None;
        }
        *last_ns = end_ns;
        let Some((baseline, size)) =
            baseline.and_then(|baseline| Some((baseline, baseline.size_of(row)?)))
        else {
            // It says nothing.
            return Some(&self.active);
        };
        let sure = self.judge(grain, row, baseline, size, settings);
        self.forget();
        // A change is over when the function it is blamed on is as expected again.
        let tracks = &self.tracks;
        self.active.retain_mut(|shift| {
            let mut of_function = tracks.get(&shift.function).into_iter().flatten();
            let track = of_function.find(|track| track.is(shift.by, shift.direction()));
            let Some(track) = track.filter(|track| track.is_active) else {
                return false;
            };
            shift.update(track, row);
            true
        });
        group::add(&mut self.active, sure, &self.tracks, settings);
        Some(&self.active)
    }

    /// What `function` costs is normal from `now` on, and what changed with it: they are
    /// learned anew.
    pub fn accept(&mut self, function: &str, now: UnixNanos) {
        let mut told = self.active.iter();
        let Some(told) = told.find(|shift| shift.function == function).cloned() else {
            return;
        };
        self.active.retain(|shift| shift.function != function);
        let is_of = |track: &Track| told.is_shown_by(track);
        for (function, tracks) in &mut self.tracks {
            if tracks.iter().any(is_of) {
                tracks.clear();
                self.accepted.insert(function.clone(), now.get());
            }
        }
        self.tracks.retain(|_, tracks| !tracks.is_empty());
        while self.accepted.len() > MAX_ACCEPTED {
            let oldest = self.accepted.iter().min_by_key(|(_, since)| **since);
            let Some(oldest) = oldest.map(|(function, _)| function.clone()) else {
                break;
            };
            self.accepted.remove(&oldest);
        }
    }

    /// The changes that go on.
    pub fn active(&self) -> &[Shift] {
        &self.active
    }

    /// Since when a function is told to be off, and the part of the service that was
    /// expected of it.
    fn told(&self, function: &str, by: By) -> Option<(i64, f64)> {
        let tracks = self.tracks.get(function)?.iter();
        let told = tracks.filter(|track| track.by == by && track.is_active);
        let first = told.min_by_key(|track| track.onset_ns)?;
        let (_, expected, _) = first.last();
        Some((first.onset_ns, expected))
    }

    /// Adds a row to the sums; returns the changes that are sure and show in this row.
    fn judge(
        &mut self,
        grain: Grain,
        row: &ServiceRow,
        baseline: &Baseline,
        size: f64,
        settings: &ShiftSettings,
    ) -> Vec<Shift> {
        let mut sure = Vec::new();
        let listed: BTreeMap<&str, [f64; 2]> = row
            .functions
            .iter()
            .map(|count| (count.function.as_str(), [real(count.flat), real(count.cum)]))
            .collect();
        // A function that is not in the row has at most as much as the least of them.
        let least = match row.lists_all() {
            true => 0.0,
            false => row.functions.last().map_or(0.0, |count| real(count.cum)),
        };
        let is_new = |name: &&str| !baseline.knows(name);
        let mut names: Vec<String> = baseline.functions().map(str::to_owned).collect();
        let listed_new = listed.keys().copied().filter(is_new);
        names.extend(listed_new.map(str::to_owned));
        let tracked = self.tracks.keys().map(String::as_str).filter(is_new);
        let gone = tracked.filter(|name| !listed.contains_key(name));
        names.extend(gone.map(str::to_owned));
        for function in &names {
            let counts = listed.get(function.as_str());
            for by in [By::Flat, By::Cum] {
                // What is told does not become normal while it is told, but in the end.
                let told = self.told(function, by);
                let onset = told.map(|(onset, _)| onset);
                if onset.is_some_and(|onset| row.step.start().get() - onset > NORMAL_NS) {
                    self.tracks.remove(function);
                    continue;
                }
                let since = self.accepted.get(function).copied();
                let expected = baseline.expected(function, by, Learned { since, onset });
                let frozen = || told.map(|(_, share)| baseline.of_share(share));
                let count = counts.and_then(|counts| counts.get(usize::from(by == By::Cum)));
                let count = count.copied().unwrap_or(0.0);
                let seen = expected.or_else(frozen).and_then(|expected| {
                    // What is told is over when it is gone.
                    let is_hidden = counts.is_none() && expected.mean() * size < 2.0 * least;
                    match is_hidden && told.is_none() {
                        true => None,
                        false => Seen::new(row, count, &expected, size, baseline),
                    }
                });
                let Some(seen) = seen else {
                    self.pass_over(grain, function, by);
                    continue;
                };
                let directions = [Direction::Up, Direction::Down].into_iter();
                for direction in directions.filter(|direction| seen.tells_of(*direction)) {
                    let tracks = self.tracks.entry(function.to_owned()).or_default();
                    let place = tracks.iter().position(|track| track.is(by, direction));
                    let before = place.map(|place| tracks.swap_remove(place));
                    let track = before.unwrap_or_else(|| Track::new(by, direction));
                    let Some(track) = track.add(grain, &seen, settings) else {
                        continue;
                    };
                    if track.is_active && track.shows() {
                        let kind = kind(direction, &seen, &track);
                        sure.push(Shift::new(function, kind, &track, row));
                    }
                    tracks.push(track);
                }
            }
        }
        self.tracks.retain(|_, tracks| !tracks.is_empty());
        sure
    }

    /// A row does not tell how much of a function there is: what was summed up until
    /// then says nothing of what comes after.
    fn pass_over(&mut self, grain: Grain, function: &str, by: By) {
        if let Some(tracks) = self.tracks.get_mut(function) {
            tracks.retain_mut(|track| track.by != by || track.pass_over(grain));
        }
    }

    /// Keeps the number of functions that are remembered in bounds.
    fn forget(&mut self) {
        if self.tracks.len() <= MAX_TRACKS {
            return;
        }
        let size = |tracks: &[Track]| tracks.iter().map(Track::weight).fold(0.0, f64::max);
        let mut sizes: Vec<(f64, String)> = self
            .tracks
            .iter()
            .map(|(function, tracks)| (size(tracks), function.clone()))
            .collect();
        sizes.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        for (_, function) in sizes.into_iter().skip(MAX_TRACKS) {
            self.tracks.remove(&function);
        }
    }
}

/// What kind of trouble a change is.
fn kind(direction: Direction, seen: &Seen, track: &Track) -> FindingKind {
    match direction {
        Direction::Down => FindingKind::Improvement,
        Direction::Up if seen.is_new() => FindingKind::NewHotFunction,
        Direction::Up if track.is_drift(seen) => FindingKind::Drift,
        Direction::Up => FindingKind::Regression,
    }
}

#[cfg(test)]
mod tests;
