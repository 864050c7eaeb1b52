//! What a service is expected to spend on each function: as much as in rows of the same
//! time of day before.

use rustc_hash::FxHashMap;

use crate::feature::coarse::Grain;
use crate::feature::{ServiceRow, real};
use crate::statistics::{self, Group, number};
use crate::verdict::By;

/// Fewest rows that say what is expected.
const MIN_ROWS: usize = 3;
/// Of a function that fewer of the rows list, a mean says nothing.
const LISTED_SHARE: f64 = 0.8;
const HOUR_S: u64 = Grain::Hour.length_s();
const DAY_S: u64 = 24 * HOUR_S;
const DAY_NS: i64 = 86_400_000_000_000;
/// Days that a baseline is made of at most, and how far back they are looked for: of
/// seven days two are a weekend.
const DAYS: usize = 7;
const DAYS_BACK: u64 = 14;
/// Fewest days that say what is normal at a time of day.
const MIN_DAYS: usize = 3;
/// Hours that say it otherwise.
const HOURS_BACK: u64 = 6;

/// Which rows a baseline is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The same hours of several days.
    Days,
    /// The hours right before: what is normal at this time of day is not known.
    Hours,
}

/// What is expected of each function.
#[derive(Clone, Debug)]
pub struct Baseline {
    reach: Reach,
    /// Start and size of each row.
    rows: Vec<(i64, f64)>,
    days: f64,
    index: FxHashMap<String, usize>,
    functions: Vec<Function>,
    /// Flat counts of the mean row, by function.
    means: Vec<f64>,
    /// Samples in a row of size 1.
    total: f64,
    /// Dispersion of the median function.
    typical: f64,
}

#[derive(Clone, Debug)]
struct Function {
    name: String,
    /// Per row: flat and cum.
    counts: [Vec<f64>; 2],
    /// Rows that list it.
    listed: usize,
    /// Rows that tell how much of it there was.
    told: usize,
}

/// What is expected of one function in a row of size 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    group: Group,
    dispersion: f64,
    /// Its mean over the last day alone.
    last_day: f64,
    /// It was there now and then: this is what there was at most.
    is_rare: bool,
}

/// The time from which a function is learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Since when it is normal, if a person said so.
    pub since: Option<i64>,
    /// When a change of it began that is told.
    pub onset: Option<i64>,
}

impl Learned {
    fn holds(self, start: i64) -> bool {
        self.since.is_none_or(|since| start >= since)
            && self.onset.is_none_or(|onset| start < onset)
    }
}

impl Expected {
    /// Samples in a row of size 1.
    pub fn mean(&self) -> f64 {
        self.group.mean
    }

    /// Samples on the last day of the baseline, in a row of size 1.
    pub fn last_day(&self) -> f64 {
        self.last_day
    }

    /// Whether it was not there most of the time.
    pub fn is_rare(&self) -> bool {
        self.is_rare
    }

    /// Variance of the samples in a row of a size, beside what is expected of it.
    pub fn variance(&self, size: f64, days: f64) -> f64 {
        let mean = self.group.mean * size;
        let least = mean.max(0.5);
        let own = least + self.dispersion * mean * mean * (1.0 + 1.0 / days.max(1.0));
        own + mean * size / self.group.size.max(f64::MIN_POSITIVE)
    }
}

/// Whether a time is on a Saturday or Sunday, UTC.
fn is_weekend(start_s: u64) -> bool {
    // The first of January 1970 was a Thursday.
    matches!((start_s / DAY_S) % 7, 2 | 3)
}

impl Baseline {
    /// What is expected in the hour that begins at `hour`, in seconds since 1970: what
    /// the hours around it had on days of the same kind (working day or weekend), or,
    /// without enough days, the hours before it. `read` gives the row of an hour.
    ///
    /// # Errors
    ///
    /// Those of `read`.
    pub fn find<E>(
        hour: u64,
        mut read: impl FnMut(u64) -> Result<Vec<ServiceRow>, E>,
    ) -> Result<Option<Self>, E> {
        let mut rows = Vec::new();
        let mut days = 0;
        for day in 1..=DAYS_BACK {
            let Some(same) = hour.checked_sub(day * DAY_S) else {
                break;
            };
            if is_weekend(same) != is_weekend(hour) || days >= DAYS {
                continue;
            }
            let before = rows.len();
            for start_s in [same.saturating_sub(HOUR_S), same, same + HOUR_S] {
                // Around midnight the hour before is of another day.
                if start_s < hour && is_weekend(start_s) == is_weekend(hour) {
                    rows.extend(read(start_s)?);
                }
            }
            days += usize::from(rows.len() > before);
        }
        if days >= MIN_DAYS {
            return Ok(Self::new(&rows, Reach::Days));
        }
        let mut rows = Vec::new();
        for back in 1..=HOURS_BACK {
            rows.extend(read(hour.saturating_sub(back * HOUR_S))?);
        }
        Ok(Self::new(&rows, Reach::Hours))
    }

    /// Learns from rows; `None` if there are too few, or they are empty.
    pub fn new(rows: &[ServiceRow], reach: Reach) -> Option<Self> {
        if rows.len() < MIN_ROWS {
            return None;
        }
        let mut index = FxHashMap::default();
        let mut functions: Vec<Function> = Vec::new();
        // What a row that lists all does not list was not there.
        let whole = rows.iter().filter(|row| row.lists_all()).count();
        for (place, row) in rows.iter().enumerate() {
            for count in &row.functions {
                let at = *index.entry(count.function.clone()).or_insert_with(|| {
                    functions.push(Function {
                        name: count.function.clone(),
                        counts: [vec![0.0; rows.len()], vec![0.0; rows.len()]],
                        listed: 0,
                        told: whole,
                    });
                    functions.len() - 1
                });
                let Some(function) = functions.get_mut(at) else {
                    continue;
                };
                function.listed += 1;
                function.told += usize::from(!row.lists_all());
                let values = [count.flat, count.cum];
                for (counts, value) in function.counts.iter_mut().zip(values) {
                    if let Some(slot) = counts.get_mut(place) {
                        *slot += real(value);
                    }
                }
            }
        }
        let count = number(rows.len());
        let means: Vec<f64> = functions
            .iter()
            .map(|function| {
                let [flat, _] = &function.counts;
                flat.iter().sum::<f64>() / count
            })
            .collect();
        let sizes = rows.iter().enumerate().map(|(place, row)| {
            let counts: Vec<f64> = functions
                .iter()
                .map(|function| {
                    let [flat, _] = &function.counts;
                    flat.get(place).copied().unwrap_or(0.0)
                })
                .collect();
            let size = statistics::size_factor(&counts, &means);
            (row.step.start().get(), size.unwrap_or(0.0))
        });
        let rows_sized: Vec<(i64, f64)> = sizes.collect();
        let size: f64 = rows_sized.iter().map(|(_, size)| size).sum();
        let samples: f64 = rows.iter().map(|row| real(row.samples)).sum();
        if size <= 0.0 || samples <= 0.0 {
            return None;
        }
        let mut days: Vec<i64> = rows_sized.iter().map(|(start, _)| start / DAY_NS).collect();
        days.sort_unstable();
        days.dedup();
        let mut baseline = Self {
            reach,
            rows: rows_sized,
            days: number(days.len()),
            index,
            functions,
            means,
            total: samples / size,
            typical: 0.0,
        };
        baseline.typical = baseline.typical_dispersion();
        Some(baseline)
    }

    fn typical_dispersion(&self) -> f64 {
        let mut dispersions: Vec<(f64, f64)> = self
            .functions
            .iter()
            .filter(|function| self.is_most(function.listed))
            .map(|function| {
                let [flat, _] = &function.counts;
                let group = self.group(flat, Learned::default());
                (group.dispersion.max(0.0), 1.0)
            })
            .collect();
        statistics::weighted_median(&mut dispersions).unwrap_or(0.0)
    }

    /// Dispersion that is reckoned with for a function whose own is `own`. Hours of one
    /// day are alike, so only days tell; and no function is trusted to vary less than
    /// most, since with few days some seem to.
    fn dispersion(&self, own: f64) -> f64 {
        let freedom = (self.days - 1.0).max(0.0);
        statistics::shrunk(own, freedom, self.typical).max(self.typical)
    }

    fn is_most(&self, rows: usize) -> bool {
        number(rows) >= LISTED_SHARE * number(self.rows.len())
    }

    /// Counts of the rows of a time.
    fn group(&self, counts: &[f64], learned: Learned) -> Group {
        let rows = self.rows.iter().zip(counts);
        let rows = rows.filter(|((start, _), _)| learned.holds(*start));
        let (sizes, counts): (Vec<f64>, Vec<f64>) =
            rows.map(|((_, size), count)| (*size, *count)).unzip();
        Group::new(&counts, &sizes)
    }

    /// Whether it is of the same hours of several days.
    pub fn is_sure(&self) -> bool {
        self.reach == Reach::Days
    }

    /// Days that it is made of.
    pub fn days(&self) -> f64 {
        self.days
    }

    /// Samples in a row of size 1.
    pub fn total(&self) -> f64 {
        self.total
    }

    /// The functions that its rows list.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.functions.iter().map(|function| function.name.as_str())
    }

    /// Whether one of its rows lists `function`.
    pub fn knows(&self, function: &str) -> bool {
        self.index.contains_key(function)
    }

    /// How much larger `row` is than the mean row; `None` if that cannot be told.
    pub fn size_of(&self, row: &ServiceRow) -> Option<f64> {
        let mut counts = vec![0.0; self.means.len()];
        for count in &row.functions {
            if let Some(slot) = self
                .index
                .get(&count.function)
                .and_then(|at| counts.get_mut(*at))
            {
                *slot = real(count.flat);
            }
        }
        statistics::size_factor(&counts, &self.means).filter(|size| *size > 0.0)
    }

    /// What is expected of a function that had this part of the service's CPU time.
    pub fn of_share(&self, share: f64) -> Expected {
        let size: f64 = self.rows.iter().map(|(_, size)| size).sum();
        Expected {
            group: Group {
                mean: share * self.total,
                size,
                ..Group::default()
            },
            dispersion: self.typical.max(statistics::LEAST_DISPERSION),
            last_day: share * self.total,
            is_rare: false,
        }
    }

    /// What is expected of a function that few rows list: no more than the most that one
    /// of them had.
    fn rare(&self, counts: &[f64], learned: Learned) -> Expected {
        let rows = self.rows.iter().zip(counts);
        let held = rows.filter(|((start, size), _)| learned.holds(*start) && *size > 0.0);
        let most = held.map(|((_, size), count)| count / size);
        let most = most.fold(0.0, f64::max);
        Expected {
            is_rare: true,
            ..self.of_share(most / self.total)
        }
    }

    /// What is expected of a function, by the rows of a time; `None` if they do not say.
    pub fn expected(&self, function: &str, by: By, learned: Learned) -> Option<Expected> {
        let Some(function) = self
            .index
            .get(function)
            .and_then(|at| self.functions.get(*at))
        else {
            // No row lists it: it is new.
            return Some(self.of_share(0.0));
        };
        if !self.is_most(function.told) && !self.is_most(function.listed) {
            // It may be one that is too small to be listed.
            return None;
        }
        let [flat, cum] = &function.counts;
        let counts = match by {
            By::Flat => flat,
            By::Cum => cum,
        };
        if !self.is_most(function.listed) {
            return Some(self.rare(counts, learned));
        }
        let group = self.group(counts, learned);
        if group.freedom + 1.0 < number(MIN_ROWS) {
            return None;
        }
        let last = self.rows.iter().map(|(start, _)| *start);
        let last = last.filter(|start| learned.holds(*start));
        let day_before = last.max().map_or(i64::MIN, |last| last - DAY_NS / 2);
        let (mut count, mut size) = (0.0, 0.0);
        for ((start, of_row), value) in self.rows.iter().zip(counts) {
            if *start >= day_before && learned.holds(*start) {
                count += value;
                size += of_row;
            }
        }
        Some(Expected {
            group,
            dispersion: self.dispersion(group.dispersion),
            last_day: if size > 0.0 { count / size } else { group.mean },
            is_rare: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weekends_are_saturdays_and_sundays() {
        // 1970-01-03 was a Saturday; 2026-11-29 a Sunday.
        let sunday = 1_795_910_400;
        for (start_s, expected) in [
            (0, false),
            (2 * DAY_S - 1, false),
            (2 * DAY_S, true),
            (4 * DAY_S - 1, true),
            (4 * DAY_S, false),
            (sunday, true),
            (sunday + DAY_S, false),
        ] {
            assert_eq!(is_weekend(start_s), expected, "{start_s}");
        }
    }

    #[test]
    fn hours_of_like_days_are_asked_for() {
        // Friday, 2026-11-27, 13:00.
        let friday = 1_795_910_400 - 2 * DAY_S + 13 * HOUR_S;
        let mut asked = Vec::new();
        let found = Baseline::find(friday, |start_s| {
            asked.push((friday - start_s) / HOUR_S);
            Ok::<_, std::convert::Infallible>(Vec::new())
        });
        assert!(found.unwrap().is_none());
        // Three hours of each of ten working days, then the hours before.
        assert_eq!(asked.len(), 30 + 6, "{asked:?}");
        assert_eq!(asked[..3], [25, 24, 23]);
        assert_eq!(asked[30..], [1, 2, 3, 4, 5, 6]);
        assert!(
            asked
                .iter()
                .all(|hours| !(6 * 24..=6 * 24 + 1).contains(hours))
        );
    }
}
