//! How counts of samples vary from one observation to the next. Pure.
//!
//! A **unit** is one observation of a service: a pod over a range, or an hour. Units
//! differ in size, because one pod had more traffic than another: counts are compared
//! after division by a *size factor*. What is left varies by chance of sampling
//! (Poisson) and by the mix of work (a *dispersion* on top). Methods: median of ratios
//! and negative binomial variance as in Anders and Huber, Genome Biology 2010; rates of
//! false discovery as in Benjamini and Hochberg, 1995.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Functions with fewer samples a unit say nothing of its size.
const SIZED_SAMPLES: f64 = 50.0;
/// Fewest functions whose median is a size.
const SIZED_FUNCTIONS: usize = 5;
/// Dispersions are never taken to be smaller: the relative error is 1 % then.
pub const LEAST_DISPERSION: f64 = 1e-4;
/// A dispersion weighs as much as that of all functions at so many degrees of freedom.
const PRIOR_FREEDOM: f64 = 10.0;

/// The weighted median of `(value, weight)`; `None` without weight.
pub fn weighted_median(values: &mut [(f64, f64)]) -> Option<f64> {
    values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let half = values.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut below = 0.0;
    values.iter().find_map(|(value, weight)| {
        below += weight;
        (below >= half && *weight > 0.0).then_some(*value)
    })
}

/// How much larger a unit is than the mean unit, in which function `i` has `means[i]`
/// samples where this has `counts[i]`. One function that became dearer does not move
/// it. With few functions it is the ratio of the sums; `None` without samples.
pub fn size_factor(counts: &[f64], means: &[f64]) -> Option<f64> {
    let pairs = || counts.iter().zip(means);
    let mut ratios: Vec<(f64, f64)> = pairs()
        .filter(|(_, mean)| **mean >= SIZED_SAMPLES)
        .map(|(count, mean)| (count / mean, mean.sqrt()))
        .collect();
    if ratios.len() >= SIZED_FUNCTIONS
        && let Some(median) = weighted_median(&mut ratios)
        && median > 0.0
    {
        return Some(median);
    }
    let (count, mean) = pairs().fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
    (count > 0.0 && mean > 0.0).then(|| count / mean)
}

/// Units of one group that a function was counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Group {
    /// Samples per unit of size 1.
    pub mean: f64,
    /// Sum of the size factors.
    pub size: f64,
    /// Sum of their squares.
    pub squares: f64,
    /// Units less one.
    pub freedom: f64,
    /// Dispersion as these units show it; negative when they vary less than by chance.
    pub dispersion: f64,
}

impl Group {
    /// Looks at a function with `counts[i]` samples in a unit of size `sizes[i]`.
    pub fn new(counts: &[f64], sizes: &[f64]) -> Self {
        let units = || counts.iter().zip(sizes).filter(|(_, size)| **size > 0.0);
        let (mut sum, mut size, mut squares, mut inverse, mut number) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (count, factor) in units() {
            sum += count;
            size += factor;
            squares += factor * factor;
            inverse += 1.0 / factor;
            number += 1.0;
        }
        if number == 0.0 {
            return Self::default();
        }
        let mean = sum / size;
        let freedom: f64 = number - 1.0;
        let spread: f64 = units()
            .map(|(count, factor)| (count / factor - mean).powi(2))
            .sum();
        let by_chance = mean * inverse / number;
        let dispersion = match freedom > 0.0 && mean > 0.0 {
            true => (spread / freedom - by_chance) / (mean * mean),
            false => 0.0,
        };
        Self {
            mean,
            size,
            squares,
            freedom,
            dispersion,
        }
    }

    /// Variance of `mean` at a dispersion.
    pub fn variance(&self, dispersion: f64) -> f64 {
        if self.size <= 0.0 {
            return f64::INFINITY;
        }
        // Half a sample stands for none, so that nothing is certain without samples.
        let mean = self.mean.max(0.5 / self.size);
        mean / self.size + dispersion * mean * mean * self.squares / (self.size * self.size)
    }
}

/// Dispersion of one function: what its own units say, drawn towards that of `others`
/// by how few they are.
pub fn shrunk(own: f64, freedom: f64, others: f64) -> f64 {
    let weight = freedom / (freedom + PRIOR_FREEDOM);
    (weight * own.max(0.0) + (1.0 - weight) * others).max(LEAST_DISPERSION)
}

/// How many standard errors an estimate lies off at most with `confidence`, when the
/// error was estimated with so many degrees of freedom.
pub fn critical(confidence: f64, freedom: f64) -> f64 {
    students(freedom).map_or(f64::INFINITY, |t| t.inverse_cdf(0.5 + confidence / 2.0))
}

/// How probable it is by chance to lie `errors` standard errors off or more, to either
/// side.
pub fn chance(errors: f64, freedom: f64) -> f64 {
    if !errors.is_finite() {
        return 1.0;
    }
    students(freedom).map_or(1.0, |t| (2.0 * t.sf(errors.abs())).min(1.0))
}

fn students(freedom: f64) -> Option<StudentsT> {
    StudentsT::new(0.0, 1.0, freedom).ok()
}

/// Per test the least share of false discoveries among all that are at least as
/// improbable by chance as it.
pub fn false_discovery_rates(chances: &[f64]) -> Vec<f64> {
    let mut order: Vec<(usize, f64)> = chances.iter().copied().enumerate().collect();
    order.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
    let mut rates = vec![1.0; chances.len()];
    let mut least: f64 = 1.0;
    let count = number(chances.len());
    for (place, (index, chance)) in order.into_iter().enumerate() {
        let rank = count - number(place);
        least = least.min(chance * count / rank);
        if let Some(rate) = rates.get_mut(index) {
            *rate = least;
        }
    }
    rates
}

/// A length as a real number.
pub fn number(length: usize) -> f64 {
    crate::feature::real(u64::try_from(length).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_not_moved_by_one_function() {
        let means: Vec<f64> = (1..=40).map(|n| 100.0 * f64::from(n)).collect();
        let mut counts: Vec<f64> = means.iter().map(|mean| 1.5 * mean).collect();
        counts[39] *= 10.0;
        assert!((size_factor(&counts, &means).unwrap() - 1.5).abs() < 1e-9);
        // With few functions it is what it is.
        assert_eq!(size_factor(&[30.0, 30.0], &[10.0, 20.0]), Some(2.0));
        assert_eq!(size_factor(&[0.0], &[10.0]), None);
        assert_eq!(size_factor(&[], &[]), None);
    }

    #[test]
    fn a_median_goes_by_weight() {
        let mut values = [(3.0, 1.0), (1.0, 1.0), (2.0, 1.0), (9.0, 10.0)];
        assert_eq!(weighted_median(&mut values), Some(9.0));
        assert_eq!(weighted_median(&mut [(1.0, 0.0)]), None);
        assert_eq!(weighted_median(&mut []), None);
    }

    #[test]
    fn a_group_tells_chance_from_dispersion() {
        // Exactly alike: less than chance.
        let alike = Group::new(&[100.0; 8], &[1.0; 8]);
        assert_eq!(alike.mean, 100.0);
        assert!(alike.dispersion < 0.0);
        // Twice the size, twice the count: alike too.
        let sized = Group::new(&[100.0, 200.0, 50.0], &[1.0, 2.0, 0.5]);
        assert_eq!(sized.mean, 100.0);
        assert!(sized.dispersion < 0.0);
        // Off by 20 % at 10,000 samples: the variance is 0.04 of the square.
        let counts: Vec<f64> = [8e3, 12e3].into_iter().cycle().take(20).collect();
        let spread = Group::new(&counts, &[1.0; 20]);
        assert!((spread.dispersion - 0.042).abs() < 0.001, "{spread:?}");
        assert_eq!(Group::new(&[], &[]).variance(0.1), f64::INFINITY);
        assert!(Group::new(&[0.0; 4], &[1.0; 4]).variance(0.0) > 0.0);
    }

    #[test]
    fn few_units_are_drawn_towards_the_others() {
        assert_eq!(shrunk(-1.0, 5.0, 0.0), LEAST_DISPERSION);
        assert!((shrunk(0.3, 10.0, 0.1) - 0.2).abs() < 1e-12);
        assert!((shrunk(0.3, 0.0, 0.1) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn tails_are_those_of_the_tables() {
        // Two-sided 95 % of Student's t: 2.776 at 4, 1.96 at very many.
        assert!((critical(0.95, 4.0) - 2.776).abs() < 1e-3);
        assert!((critical(0.95, 1e6) - 1.960).abs() < 1e-3);
        assert!((chance(2.776, 4.0) - 0.05).abs() < 1e-4);
        assert!((chance(-2.776, 4.0) - 0.05).abs() < 1e-4);
        assert_eq!(chance(f64::NAN, 4.0), 1.0);
        assert_eq!(chance(3.0, 0.0), 1.0);
        assert_eq!(critical(0.95, 0.0), f64::INFINITY);
    }

    #[test]
    fn rates_of_false_discovery_are_those_of_the_paper() {
        let rates = false_discovery_rates(&[0.01, 0.04, 0.03, 0.5]);
        let expected = [0.04, 0.16 / 3.0, 0.16 / 3.0, 0.5];
        for (rate, expected) in rates.iter().zip(expected) {
            assert!((rate - expected).abs() < 1e-12, "{rates:?}");
        }
        assert!(false_discovery_rates(&[]).is_empty());
    }
}
