//! Whether an amount that a process holds grows, and does not slow down.
//!
//! Three rules, from fast to slow. **Fast**: over four hours, above all of the day
//! before. **Middle**: over a day, against the same hours of days of the same kind, and
//! more than over a day before. **Slow**: means over a day, half a day apart, so that
//! the time of day does not matter. A cache that warms after a start grows less and
//! less: the first two compare with a day of the same process, in which such a cache grew
//! more, and the slow one asks that the last growth is nearly the largest. A trend is
//! asked by Mann (1945) and Kendall, its slope by Theil (1950) and Sen.

use super::past::{HOURS, TENS};

/// Slots of a day, and those of it that must be known.
const DAY: usize = 24;
const MOST_OF_DAY: usize = 18;
/// Hours of the middle rule, and those of them that must be known.
const MIDDLE: usize = 24;
const MOST_OF_MIDDLE: usize = 20;
/// Slots of ten minutes that the fast rule must know.
const MOST_OF_TENS: usize = 20;
/// Days of the same kind that the middle rule compares with, and how far back they are
/// looked for: of seven days two are a weekend.
const DAYS_BEFORE: usize = 3;
const DAYS_BACK: usize = 7;
/// Hours that the slow rule looks at.
const SLOW: usize = 96;
/// Hours between the means of the slow rule.
const APART: usize = 12;
/// The first of the three rises of the slow rule, as a part of the largest.
const STEADY: f64 = 0.4;
/// Standard errors from which a trend of hours before is one.
const LIKE_A_TREND: f64 = 2.0;
/// Growth of which more than this part came from so many slots to the next as many is a
/// step.
const ONE_PLACE_SHARE: f64 = 0.6;
const ONE_PLACE: usize = 3;

/// When growth is a leak. Rises are parts of what was held before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GrowthSettings {
    /// Least growth, in the unit of the amount.
    pub least: f64,
    /// Least rise over the largest amount of the day before, in four hours.
    pub fast_rise: f64,
    /// Least trend of the fast rule, in standard errors of Mann and Kendall.
    pub fast_trend: f64,
    /// Slope at the end of the window of the fast rule, as a part of that at its
    /// beginning: a cache that fills in four hours has 0.37.
    pub fast_persistence: f64,
    /// Least rise within a day, against the same hours of days before.
    pub middle_rise: f64,
    /// Least trend of the middle rule.
    pub middle_trend: f64,
    /// As `fast_persistence`, over a day.
    pub middle_persistence: f64,
    /// How often the largest rise of a day before it must be.
    pub middle_unusual: f64,
    /// Least rise from one mean of a day to the next, half a day later; three times.
    pub slow_rise: f64,
    /// The last of the three as a part of the largest, and slope at the end as a part of
    /// that at the beginning, of as many days as are known.
    pub slow_persistence: f64,
    /// Rise from one day to the next from which growth that was told goes on.
    pub leave_rise: f64,
}

/// How fast an amount grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Within hours.
    Fast,
    /// Within a day.
    Middle,
    /// Over days.
    Slow,
    /// Not enough to begin an alert, but to keep one.
    GoesOn,
}

/// An amount that grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// How fast.
    pub pace: Pace,
    /// What it is now, and what it was before.
    pub now: f64,
    /// As said.
    pub before: f64,
    /// Growth an hour.
    pub per_hour: f64,
    /// Hours since it was as before, at least.
    pub hours: f64,
}

/// Whether an amount grows, by its slots of hours and of ten minutes, latest last.
/// `until_h` is the end of the last hour, in hours since 1970.
pub fn judge(
    hours: &[Option<f64>],
    tens: &[Option<f64>],
    until_h: u64,
    settings: &GrowthSettings,
) -> Option<Growth> {
    let found = fast(hours, tens, settings)
        .or_else(|| middle(hours, until_h, settings))
        .or_else(|| slow(hours, settings));
    found
        .filter(|growth| growth.now - growth.before >= settings.least)
        .or_else(|| goes_on(hours, settings))
}

/// Growth that began within some hours, above all of the day before.
fn fast(hours: &[Option<f64>], tens: &[Option<f64>], settings: &GrowthSettings) -> Option<Growth> {
    let window = points(tens.get(tens.len().checked_sub(TENS)?..)?);
    // The hours that the window touches are not before it.
    let until = hours.len().checked_sub(TENS / 6 + 1)?;
    let day: Vec<f64> = day_before(hours, until).collect();
    if window.len() < MOST_OF_TENS || day.len() < MOST_OF_DAY {
        return None;
    }
    let before = day.iter().copied().fold(0.0, f64::max);
    let [.., now] = quarters(&window)?;
    let is_growing = now >= before * (1.0 + settings.fast_rise)
        && trend(&window) >= settings.fast_trend
        && persistence(&window)? >= settings.fast_persistence
        && !is_step(&window)?;
    let slots = real(TENS);
    let latest = latest_slope(&window)?;
    is_growing.then_some(Growth {
        pace: Pace::Fast,
        now,
        before,
        per_hour: latest * 6.0,
        hours: slots / 6.0,
    })
}

/// Growth within a day, against the same hours of the days before.
fn middle(hours: &[Option<f64>], until_h: u64, settings: &GrowthSettings) -> Option<Growth> {
    let end = hours.len();
    let kinds = kinds_of_day(hours.len(), until_h);
    let (window, level) = relative(hours, &kinds, end)?;
    let rise = slope(&window)? * real(MIDDLE - 1);
    let is_growing = rise >= settings.middle_rise
        && trend(&window) >= settings.middle_trend
        && persistence(&window)? >= settings.middle_persistence
        && !is_step(&window)?;
    if !is_growing {
        return None;
    }
    // Days before, each six hours later: no trend was like this one.
    let earlier = (0..).map(|back| MIDDLE + back * 6);
    let largest = earlier
        .map_while(|back| end.checked_sub(back))
        .take_while(|end| *end >= MIDDLE + DAY)
        .filter_map(|end| {
            let (before, _) = relative(hours, &kinds, end)?;
            let is_trend = trend(&before).abs() >= LIKE_A_TREND;
            is_trend.then(|| slope(&before)).flatten()
        })
        .fold(0.0, |most: f64, slope| {
            most.max((slope * real(MIDDLE - 1)).abs())
        });
    let [.., last] = quarters(&window)?;
    let latest = latest_slope(&window)?;
    (rise >= settings.middle_unusual * largest).then_some(Growth {
        pace: Pace::Middle,
        now: level * (1.0 + last),
        before: level,
        per_hour: latest * level,
        hours: real(MIDDLE),
    })
}

/// The day that ends before slot `end`, each as the part by which it is above
/// the same hour of the last days of the same kind; and the mean of what was held then.
fn relative(hours: &[Option<f64>], kinds: &[bool], end: usize) -> Option<(Vec<(f64, f64)>, f64)> {
    let start = end.checked_sub(MIDDLE)?;
    let mut found = Vec::with_capacity(MIDDLE);
    let mut levels = 0.0;
    for at in start..end {
        let Some(value) = hours.get(at).copied().flatten() else {
            continue;
        };
        let (mut sum, mut count, mut days) = (0.0, 0.0, 0);
        for day in 1..=DAYS_BACK {
            let Some(same) = at.checked_sub(day * DAY) else {
                break;
            };
            if kinds.get(same) != kinds.get(at) || days >= DAYS_BEFORE {
                continue;
            }
            let before = count;
            for near in same.saturating_sub(1)..=same + 1 {
                if let Some(value) = hours.get(near).copied().flatten() {
                    sum += value;
                    count += 1.0;
                }
            }
            days += usize::from(count > before);
        }
        if count >= 2.0 && sum > 0.0 {
            let level = sum / count;
            levels += level;
            found.push((real(at - start), value / level - 1.0));
        }
    }
    (found.len() >= MOST_OF_MIDDLE).then(|| {
        let level = levels / real(found.len());
        (found, level)
    })
}

/// Of each slot whether it is of a weekend (UTC), as baselines of functions have it.
fn kinds_of_day(slots: usize, until_h: u64) -> Vec<bool> {
    let slots = u64::try_from(slots).unwrap_or(0);
    let hours = until_h.saturating_sub(slots)..until_h.max(slots);
    // The first of January 1970 was a Thursday.
    hours.map(|hour| matches!((hour / 24) % 7, 2 | 3)).collect()
}

/// Growth over days that does not slow down.
fn slow(hours: &[Option<f64>], settings: &GrowthSettings) -> Option<Growth> {
    let hours = hours.get(hours.len().checked_sub(SLOW)?..)?;
    let means: Vec<Option<f64>> = (DAY..=hours.len())
        .map(|end| mean_of_day(hours, end))
        .collect();
    let ago = |back: usize| *means.get(means.len().checked_sub(back * APART + 1)?)?;
    let [now, third, second, first] = [ago(0)?, ago(1)?, ago(2)?, ago(3)?];
    let steps = [second - first, third - second, now - third];
    let largest = steps.iter().copied().fold(0.0, f64::max);
    let least = settings.slow_rise * first;
    // A step rises over the day that a mean is of: two of the three at most.
    let is_growing = steps.iter().all(|step| *step >= least)
        && second - first >= STEADY * largest
        && now - third >= settings.slow_persistence * largest
        && persistence(&points(&means))? >= settings.slow_persistence;
    let length = real(3 * APART);
    is_growing.then(|| Growth {
        pace: Pace::Slow,
        now,
        before: first,
        per_hour: (now - first) / length,
        hours: length,
    })
}

/// Whether it is still more from day to day.
fn goes_on(hours: &[Option<f64>], settings: &GrowthSettings) -> Option<Growth> {
    let until = hours.len().checked_sub(DAY)?;
    let before: Vec<f64> = day_before(hours, until).collect();
    let now = mean_of_day(hours, hours.len())?;
    if before.len() < MOST_OF_DAY / 2 {
        return None;
    }
    let before = before.iter().sum::<f64>() / real(before.len());
    let is_more = before > 0.0 && now >= before * (1.0 + settings.leave_rise);
    is_more.then(|| Growth {
        pace: Pace::GoesOn,
        now,
        before,
        per_hour: (now - before) / real(DAY),
        hours: real(DAY),
    })
}

/// What is known of the day that ends before slot `until`.
fn day_before(hours: &[Option<f64>], until: usize) -> impl Iterator<Item = f64> {
    let day = hours.get(until.saturating_sub(DAY)..until);
    day.into_iter().flatten().copied().flatten()
}

fn mean_of_day(hours: &[Option<f64>], until: usize) -> Option<f64> {
    until.checked_sub(DAY)?;
    let (mut sum, mut count) = (0.0, 0);
    for value in day_before(hours, until) {
        sum += value;
        count += 1;
    }
    (count >= MOST_OF_DAY).then(|| sum / real(count))
}

/// Slots that are known, with their places.
fn points(slots: &[Option<f64>]) -> Vec<(f64, f64)> {
    let slots = slots.iter().enumerate();
    slots
        .filter_map(|(place, value)| Some((real(place), (*value)?)))
        .collect()
}

/// Medians of the four quarters of `points`, which are by time.
fn quarters(points: &[(f64, f64)]) -> Option<[f64; 4]> {
    let at = |quarter: usize| points.len() * quarter / 4;
    let median_of = |quarter: usize| {
        let part = points.get(at(quarter)..at(quarter + 1))?;
        median(part.iter().map(|(_, value)| *value).collect())
    };
    Some([median_of(0)?, median_of(1)?, median_of(2)?, median_of(3)?])
}

/// Whether most of the growth is in one place, from three slots to the next three.
fn is_step(points: &[(f64, f64)]) -> Option<bool> {
    let values: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
    let medians: Vec<f64> = values
        .windows(ONE_PLACE)
        .filter_map(|near| median(near.to_vec()))
        .collect();
    let [first, ..] = quarters(points)?;
    let most = ONE_PLACE_SHARE * (medians.last()? - first);
    let later = medians.iter().skip(ONE_PLACE);
    Some(
        later
            .zip(&medians)
            .any(|(after, before)| after - before > most),
    )
}

/// Standard errors by which later values are above earlier ones (Mann and Kendall).
fn trend(points: &[(f64, f64)]) -> f64 {
    let mut sum = 0.0;
    for (place, (_, earlier)) in points.iter().enumerate() {
        for (_, later) in points.iter().skip(place + 1) {
            sum += match later.partial_cmp(earlier) {
                Some(std::cmp::Ordering::Greater) => 1.0,
                Some(std::cmp::Ordering::Less) => -1.0,
                Some(std::cmp::Ordering::Equal) | None => 0.0,
            };
        }
    }
    let count = real(points.len());
    let variance = count * (count - 1.0) * (2.0 * count + 5.0) / 18.0;
    (sum - 1.0) / variance.max(1.0).sqrt()
}

/// The median slope over all pairs (Theil and Sen), by slot.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
    for (place, (early, before)) in points.iter().enumerate() {
        let later = points.iter().skip(place + 1);
        slopes.extend(later.map(|(late, after)| (after - before) / (late - early)));
    }
    median(slopes)
}

/// The median slope of the second half: what grows may have begun within the first.
fn latest_slope(points: &[(f64, f64)]) -> Option<f64> {
    slope(points.get(points.len() / 2..)?)
}

/// Slope at the end of a parabola through `points` (least squares), as a part of its
/// slope at the beginning: 1 for a line, less for what slows down.
fn persistence(points: &[(f64, f64)]) -> Option<f64> {
    let (first, last) = (points.first()?.0, points.last()?.0);
    let scaled = || {
        points
            .iter()
            .map(|(at, value)| (2.0 * (at - first) / (last - first) - 1.0, *value))
    };
    let count = real(points.len());
    let sum = |of: &dyn Fn(f64, f64) -> f64| scaled().map(|(u, y)| of(u, y)).sum::<f64>();
    let (u1, u2, u3, u4) = (
        sum(&|u, _| u),
        sum(&|u, _| u.powi(2)),
        sum(&|u, _| u.powi(3)),
        sum(&|u, _| u.powi(4)),
    );
    let (y0, y1, y2) = (sum(&|_, y| y), sum(&|u, y| u * y), sum(&|u, y| u * u * y));
    // Cramer's rule for the normal equations of y = a + b u + c u^2.
    let of = |m: [[f64; 3]; 3]| {
        let [[a, b, c], [d, e, f], [g, h, i]] = m;
        a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    };
    let whole = of([[count, u1, u2], [u1, u2, u3], [u2, u3, u4]]);
    let linear = of([[count, y0, u2], [u1, y1, u3], [u2, y2, u4]]) / whole;
    let square = of([[count, u1, y0], [u1, u2, y1], [u2, u3, y2]]) / whole;
    let (begin, end) = (linear - 2.0 * square, linear + 2.0 * square);
    if !begin.is_finite() || !end.is_finite() {
        return None;
    }
    Some(if begin <= 0.0 {
        f64::INFINITY
    } else {
        end / begin
    })
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied()?;
    match values.len() % 2 {
        0 => Some(f64::midpoint(upper, *values.get(middle.checked_sub(1)?)?)),
        _ => Some(upper),
    }
}

/// A number of slots.
fn real(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

const _: () = assert!(HOURS >= DAYS_BACK * DAY + MIDDLE && HOURS >= SLOW);

#[cfg(test)]
mod tests;
