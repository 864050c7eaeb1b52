//! Judges a change by its profiles: which functions became dearer, by how much, and
//! how sure that is. Pure.
//!
//! Both sides are observed in *units*, one for each pod (see [`Unit`]). Counts are
//! divided by the size of their unit, which the median function tells, so that a side
//! with more traffic is not dearer for it. Pods of one side differ among each other;
//! a function is named when the sides differ by more than that, at a rate of false
//! discoveries of [`Rules::false_discoveries`] over all functions that were looked at.
//!
//! The unit of every figure is the CPU time of the base: a gain of 0.05 means that the
//! new side spends 5 % of what the base spends in all on this function, on top of what
//! the base spends on it, for the same work.

mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::window::Window;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::feature::{FunctionCount, real};
use crate::statistics::{self, Group, critical, number};

/// Most functions of either side that are looked at.
const MAX_TESTED: usize = 2_000;
/// Functions with a smaller part of both sides are not looked at.
const LEAST_SHARE: f64 = 1e-4;
/// Least mean of samples a unit that can be judged.
const LEAST_SAMPLES: f64 = 2.0;
/// A function whose package gained less than this part of its gain was moved there.
pub(crate) const MOVED_SHARE: f64 = 0.3;
/// A function appears on a side when the other has less than this part of it.
const NEW_SHARE: f64 = 0.1;
/// Two functions did the same work when the loss of one is this part of the gain of
/// the other, or more, and not more than its inverse.
const RENAMED_SHARE: f64 = 0.8;
/// The deepest function with this part of the largest gain is named for it.
pub(crate) const DEEPEST_SHARE: f64 = 0.8;
/// Confidence of the intervals.
pub const CONFIDENCE: f64 = 0.95;
/// Fewest units of a side that say how units differ.
pub const MIN_UNITS: usize = 3;

/// What is judged how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Share of false discoveries among the functions that are named.
    pub false_discoveries: f64,
    /// Smallest change that is named, as a part of the base's CPU time.
    pub min_gain: f64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            false_discoveries: 0.05,
            min_gain: 0.001,
        }
    }
}

/// One observation of a side: a pod, some pods, or a stretch of a pod's time.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// Samples by function: where it is the leaf, and where it is anywhere.
    counts: FxHashMap<Arc<str>, [f64; 2]>,
    /// Samples in all.
    samples: f64,
}

impl Unit {
    /// Adds counts; a `count` of a function stands for `1 / scale` samples.
    pub fn add<'a>(
        &mut self,
        counts: impl Iterator<Item = FunctionCount<&'a str>>,
        scale: f64,
        names: &mut Names,
    ) {
        for count in counts {
            let (flat, cum) = (real(count.flat) * scale, real(count.cum) * scale);
            let sum = self.counts.entry(names.shared(count.function)).or_default();
            sum[0] += flat;
            sum[1] += cum;
            self.samples += flat;
        }
    }

    /// Samples in all.
    pub fn samples(&self) -> f64 {
        self.samples
    }

    /// About how many bytes it takes beside the names.
    pub fn bytes(&self) -> usize {
        self.counts.capacity() * (size_of::<(Arc<str>, [f64; 2])>() + 1)
    }
}

/// Names of functions, each kept once.
#[derive(Debug, Default)]
pub struct Names {
    all: FxHashSet<Arc<str>>,
    /// Bytes of them.
    text: usize,
}

impl Names {
    /// About how many bytes they take.
    pub fn bytes(&self) -> usize {
        self.text + self.all.capacity() * (size_of::<Arc<str>>() + 1)
    }

    fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.all.get(name) {
            return Arc::clone(known);
        }
        self.text += name.len() + 2 * size_of::<usize>();
        let name: Arc<str> = name.into();
        self.all.insert(Arc::clone(&name));
        name
    }
}

/// One side of a verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Side {
    /// Windows that start in this time.
    pub window: Window,
    /// Which series, as a selector.
    pub selector: String,
    /// Pods, or series without one.
    pub pods: u64,
    /// Units that were compared.
    pub units: u64,
    /// Samples in all.
    pub samples: f64,
    /// CPU time in cores, of all pods.
    pub cores: f64,
}

/// Which samples of a function changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Those where it is the leaf.
    Flat,
    /// Those where it is anywhere.
    Cum,
}

/// What happened to a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It became dearer.
    Regression,
    /// It became cheaper.
    Improvement,
    /// Its work was elsewhere before, or is elsewhere now.
    Moved,
}

impl Change {
    /// The word that the API uses; never changes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Regression => "regression",
            Self::Improvement => "improvement",
            Self::Moved => "moved",
        }
    }
}

/// An estimate with its interval of [`CONFIDENCE`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// The most likely value.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A function that changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Shift {
    /// Its name.
    pub function: Arc<str>,
    /// What happened.
    pub change: Change,
    /// Which of its samples changed.
    pub by: By,
    /// Part of the base's CPU time before.
    pub before: f64,
    /// Part of the base's CPU time that it takes now, for the same work.
    pub after: f64,
    /// `after` less `before`.
    pub gain: Estimate,
    /// `after` by `before`; infinite for a function that is new.
    pub ratio: Estimate,
    /// Share of false discoveries among those that are at least as sure.
    pub false_discovery: f64,
}

/// What became of the functions of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What was compared with.
    pub base: Side,
    /// What is judged.
    pub new: Side,
    /// Functions that were looked at.
    pub tested: u64,
    /// Those that changed: what became dearer first, the dearest first.
    pub shifts: Vec<Shift>,
    /// What the verdict lacks, in words.
    pub notes: Vec<String>,
}

impl Verdict {
    /// Judges the units of both sides.
    pub fn new(
        base: (Side, &[Unit]),
        new: (Side, &[Unit]),
        rules: Rules,
        mut notes: Vec<String>,
    ) -> Self {
        let ((base, base_units), (new, new_units)) = (base, new);
        let enough = base_units.len() >= MIN_UNITS && new_units.len() >= MIN_UNITS;
        if !enough {
            notes.push(format!(
                "each side needs {MIN_UNITS} pods or {MIN_UNITS} minutes with samples to tell a change from chance; \
                 the base has {} and the new side {}: nothing can be named",
                base_units.len(),
                new_units.len()
            ));
        }
        let (tested, shifts) = match enough {
            true => judge(base_units, new_units, rules),
            false => (0, Vec::new()),
        };
        Self {
            base,
            new,
            tested,
            shifts,
            notes,
        }
    }

    /// Functions that became dearer by at least `share` of the base's CPU time.
    pub fn regressions(&self, share: f64) -> impl Iterator<Item = &Shift> {
        self.shifts
            .iter()
            .filter(move |shift| shift.change == Change::Regression && shift.gain.value >= share)
    }
}

/// Counts of the functions that are looked at: per function, per unit.
struct Table {
    functions: Vec<Arc<str>>,
    /// Flat and cum.
    counts: [Vec<Vec<f64>>; 2],
    /// Size of each unit.
    sizes: Vec<f64>,
    /// Units of the base, which come first.
    base_units: usize,
}

impl Table {
    fn new(base: &[Unit], new: &[Unit]) -> Self {
        let functions = largest(base, new);
        let units: Vec<&Unit> = base.iter().chain(new).collect();
        let counts = [0, 1].map(|which| {
            let of = |function: &Arc<str>| {
                let count = |unit: &&Unit| {
                    let counts = unit.counts.get(function);
                    counts.and_then(|c| c.get(which)).copied().unwrap_or(0.0)
                };
                units.iter().map(count).collect()
            };
            functions.iter().map(of).collect()
        });
        let mut table = Self {
            functions,
            counts,
            sizes: Vec::new(),
            base_units: base.len(),
        };
        table.sizes = table.sized(units.len());
        table
    }

    /// Sizes of the units. The sides are brought to one scale by the median function,
    /// each unit to its side by the functions of that side, so that a change of many
    /// functions does not look like a change of size within a side.
    fn sized(&self, units: usize) -> Vec<f64> {
        let [flat, _] = &self.counts;
        let of_unit = |unit: usize| -> Vec<f64> {
            let counts = flat.iter();
            counts
                .map(|counts| counts.get(unit).copied().unwrap_or(0.0))
                .collect()
        };
        let mut sizes = vec![0.0; units];
        let mut means = Vec::new();
        for side in [0..self.base_units, self.base_units..units] {
            let count = number(side.len()).max(1.0);
            let mean: Vec<f64> = flat
                .iter()
                .map(|counts| counts.get(side.clone()).unwrap_or(&[]).iter().sum::<f64>() / count)
                .collect();
            for unit in side {
                if let Some(size) = sizes.get_mut(unit) {
                    *size = statistics::size_factor(&of_unit(unit), &mean).unwrap_or(0.0);
                }
            }
            means.push(mean);
        }
        if let [base, new] = means.as_slice() {
            let scale = statistics::size_factor(new, base).unwrap_or(1.0);
            for size in sizes.iter_mut().skip(self.base_units) {
                *size *= scale;
            }
        }
        sizes
    }

    /// Base and new side of a function.
    fn groups(&self, by: By, function: usize) -> [Group; 2] {
        let [flat, cum] = &self.counts;
        let counts = match by {
            By::Flat => flat,
            By::Cum => cum,
        };
        let counts = counts.get(function).map_or(&[][..], Vec::as_slice);
        let (base, new) = counts.split_at(self.base_units.min(counts.len()));
        let (base_sizes, new_sizes) = self.sizes.split_at(self.base_units.min(self.sizes.len()));
        [Group::new(base, base_sizes), Group::new(new, new_sizes)]
    }
}

/// Functions with a part of either side worth looking at, largest first.
fn largest(base: &[Unit], new: &[Unit]) -> Vec<Arc<str>> {
    let mut shares: FxHashMap<&Arc<str>, f64> = FxHashMap::default();
    for side in [base, new] {
        let samples: f64 = side.iter().map(Unit::samples).sum();
        let mut counts: FxHashMap<&Arc<str>, f64> = FxHashMap::default();
        for (function, [_, cum]) in side.iter().flat_map(|unit| &unit.counts) {
            *counts.entry(function).or_default() += cum;
        }
        for (function, cum) in counts {
            let share = shares.entry(function).or_default();
            *share = share.max(cum / samples.max(1.0));
        }
    }
    let mut shares: Vec<(&Arc<str>, f64)> = shares.into_iter().collect();
    shares.retain(|(_, share)| *share >= LEAST_SHARE);
    shares.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    shares.truncate(MAX_TESTED);
    shares
        .into_iter()
        .map(|(name, _)| Arc::clone(name))
        .collect()
}

/// A test of one function, before it is known which are named.
struct Test {
    function: usize,
    by: By,
    groups: [Group; 2],
    /// Both sides' own dispersion and its degrees of freedom.
    dispersion: f64,
    freedom: f64,
}

impl Test {
    fn of(table: &Table, by: By, function: usize) -> Option<Self> {
        let groups = table.groups(by, function);
        let [base, new] = groups;
        let units = base.size + new.size;
        let samples = base.mean * base.size + new.mean * new.size;
        if units <= 0.0 || samples / units < LEAST_SAMPLES {
            return None;
        }
        let freedom = base.freedom + new.freedom;
        // A side without samples says nothing of how units differ.
        let weighted = |group: &Group| match group.mean > 0.0 {
            true => group.dispersion * group.freedom,
            false => 0.0,
        };
        Some(Self {
            function,
            by,
            groups,
            dispersion: (weighted(&base) + weighted(&new)) / freedom.max(1.0),
            freedom,
        })
    }
}

/// How many functions were looked at, and those that changed.
fn judge(base: &[Unit], new: &[Unit], rules: Rules) -> (u64, Vec<Shift>) {
    let table = Table::new(base, new);
    let functions = 0..table.functions.len();
    let each = functions.flat_map(|function| [(By::Flat, function), (By::Cum, function)]);
    let tests: Vec<Test> = each
        .filter_map(|(by, function)| Test::of(&table, by, function))
        .collect();
    let mut dispersions: Vec<(f64, f64)> = tests
        .iter()
        .map(|test| (test.dispersion.max(0.0), 1.0))
        .collect();
    let typical = statistics::weighted_median(&mut dispersions).unwrap_or(0.0);
    let total = total(&table);
    let found: Vec<(Shift, f64)> = tests
        .iter()
        .filter_map(|test| estimate(&table, test, typical, total))
        .collect();
    let chances: Vec<f64> = found.iter().map(|(_, chance)| *chance).collect();
    let rates = statistics::false_discovery_rates(&chances);
    let mut shifts: Vec<Shift> = found
        .into_iter()
        .zip(rates)
        .map(|((shift, _), rate)| Shift {
            false_discovery: rate,
            ..shift
        })
        .filter(|shift| {
            shift.false_discovery <= rules.false_discoveries
                && shift.gain.value.abs() >= rules.min_gain
        })
        .collect();
    mark_moved(&mut shifts);
    let mut shifts = deepest(shifts, rules.min_gain);
    shifts.sort_by(|a, b| {
        let order = |shift: &Shift| match shift.change {
            Change::Regression => 0,
            Change::Improvement => 1,
            Change::Moved => 2,
        };
        let size = b.gain.value.abs().total_cmp(&a.gain.value.abs());
        order(a).cmp(&order(b)).then(size)
    });
    let tested = tests.iter().filter(|test| test.by == By::Cum).count();
    (u64::try_from(tested).unwrap_or(u64::MAX), shifts)
}

/// Samples of the base per unit of size 1.
fn total(table: &Table) -> f64 {
    let functions = 0..table.functions.len();
    let means = functions.map(|function| {
        let [base, _] = table.groups(By::Flat, function);
        base.mean
    });
    means.sum()
}

/// What became of a function, and how probable that is by chance.
fn estimate(table: &Table, test: &Test, typical: f64, total: f64) -> Option<(Shift, f64)> {
    let [base, new] = test.groups;
    let dispersion = statistics::shrunk(test.dispersion, test.freedom, typical);
    // The shrinkage adds to what is known of the dispersion.
    let freedom = test.freedom.max(1.0);
    let [base_variance, new_variance] = [base, new].map(|group| group.variance(dispersion));
    let least = |group: &Group| group.mean.max(0.5 / group.size.max(f64::MIN_POSITIVE));
    let (before, after) = (least(&base), least(&new));
    let error = (base_variance / (before * before) + new_variance / (after * after)).sqrt();
    let log_ratio = (after / before).ln();
    let chance = statistics::chance(log_ratio / error, freedom);
    let reach = critical(CONFIDENCE, freedom) * error;
    let ratio = |shift: f64| (log_ratio + shift).exp();
    let part = |mean: f64| mean / total.max(f64::MIN_POSITIVE);
    let absolute = critical(CONFIDENCE, freedom) * (base_variance + new_variance).sqrt();
    let gain = new.mean - base.mean;
    let shift = Shift {
        function: Arc::clone(table.functions.get(test.function)?),
        change: match gain > 0.0 {
            true => Change::Regression,
            false => Change::Improvement,
        },
        by: test.by,
        before: part(base.mean),
        after: part(new.mean),
        gain: Estimate {
            value: part(gain),
            low: part(gain - absolute),
            high: part(gain + absolute),
        },
        ratio: match base.mean > 0.0 {
            true => Estimate {
                value: new.mean / base.mean,
                low: ratio(-reach),
                high: ratio(reach),
            },
            false => Estimate {
                value: f64::INFINITY,
                low: ratio(-reach),
                high: f64::INFINITY,
            },
        },
        false_discovery: 1.0,
    };
    Some((shift, chance))
}

/// Marks changes that are no change of the work: what a function gained others of its
/// package lost, or one of another name lost. Only changes that are sure count.
fn mark_moved(shifts: &mut [Shift]) {
    let flat: Vec<Shift> = shifts
        .iter()
        .filter(|shift| shift.by == By::Flat)
        .cloned()
        .collect();
    let mut packages: BTreeMap<&str, f64> = BTreeMap::new();
    for shift in &flat {
        if let Some(package) = package(&shift.function) {
            *packages.entry(package).or_default() += shift.gain.value;
        }
    }
    // Gone on one side and there on the other.
    let appears = |shift: &Shift| shift.before < NEW_SHARE * shift.after;
    let vanishes = |shift: &Shift| shift.after < NEW_SHARE * shift.before;
    for shift in shifts.iter_mut().filter(|shift| shift.by == By::Flat) {
        let gain = shift.gain.value;
        let within = package(&shift.function).and_then(|package| packages.get(package));
        let stays_in_package = within.is_some_and(|sum| sum / gain < MOVED_SHARE);
        let is_renamed = flat.iter().any(|other| {
            let alike = -other.gain.value / gain;
            let trades = (appears(shift) && vanishes(other)) || (vanishes(shift) && appears(other));
            trades && (RENAMED_SHARE..=1.0 / RENAMED_SHARE).contains(&alike)
        });
        if stays_in_package || is_renamed {
            shift.change = Change::Moved;
        }
    }
}

/// Leaves out callers whose change is that of what they call. Where the change of a
/// caller is spread over too many to be named, the deepest such caller is.
fn deepest(shifts: Vec<Shift>, min_gain: f64) -> Vec<Shift> {
    let (mut kept, callers): (Vec<Shift>, Vec<Shift>) =
        shifts.into_iter().partition(|shift| shift.by == By::Flat);
    let mut guilty = Vec::new();
    for direction in [1.0, -1.0] {
        let gains = kept.iter().map(|shift| shift.gain.value * direction);
        let named: f64 = gains.filter(|gain| *gain > 0.0).sum();
        let unexplained: Vec<&Shift> = callers
            .iter()
            .filter(|shift| !kept.iter().any(|known| known.function == shift.function))
            .filter(|shift| {
                let gain = shift.gain.value * direction;
                let rest = gain - named;
                gain > 0.0 && rest >= min_gain && rest >= MOVED_SHARE * gain
            })
            .collect();
        let sizes = unexplained.iter().map(|shift| shift.gain.value.abs());
        let largest = sizes.fold(0.0, f64::max);
        let heavy = unexplained.into_iter();
        let heavy = heavy.filter(|shift| shift.gain.value.abs() >= DEEPEST_SHARE * largest);
        guilty.extend(heavy.min_by(|a, b| a.after.total_cmp(&b.after)).cloned());
    }
    kept.extend(guilty);
    kept
}

/// The package, crate or class of a function, where its name tells one.
pub(crate) fn package(function: &str) -> Option<&str> {
    let name = function.split(['(', '<', ' ']).next().unwrap_or(function);
    if let Some((package, _)) = name.split_once("::") {
        return (!package.is_empty()).then_some(package);
    }
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = name.get(file..)?.find('.')?;
    let end = match file {
        // `java.util.HashMap.get`: the class. `main.run`: the package.
        0 => name.rfind('.')?,
        _ => file + dot,
    };
    name.get(..end).filter(|package| !package.is_empty())
}

#[cfg(test)]
mod tests;
