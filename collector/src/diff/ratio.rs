//! Exact scaling of 128-bit values by a fraction.

use std::fmt;

/// A positive factor, as a fraction in lowest terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    // Both within 1 and i128::MAX.
    numerator: u128,
    denominator: u128,
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.numerator, self.denominator)
    }
}

impl Ratio {
    /// Leaves values as they are.
    pub const ONE: Self = Self {
        numerator: 1,
        denominator: 1,
    };

    /// Returns `numerator ÷ denominator`, or `None` when either is zero or
    /// beyond [`i128::MAX`].
    pub fn new(numerator: u128, denominator: u128) -> Option<Self> {
        let (mut divisor, mut rest) = (numerator, denominator);
        while rest != 0 {
            (divisor, rest) = (rest, divisor.checked_rem(rest)?);
        }
        let term = |term: u128| {
            i128::try_from(term).ok().filter(|term| *term > 0)?;
            term.checked_div(divisor)
        };
        Some(Self {
            numerator: term(numerator)?,
            denominator: term(denominator)?,
        })
    }

    /// Reads a ratio as it is written: `3/2`.
    pub fn parse(text: &str) -> Option<Self> {
        let (numerator, denominator) = text.split_once('/')?;
        Self::new(numerator.parse().ok()?, denominator.parse().ok()?)
    }

    /// The nearest float.
    pub fn approximate(self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }

    /// `value` times this factor, exact, rounded half away from zero and held
    /// within 128 bits.
    pub fn times(self, value: i128) -> i128 {
        let size = self.times_size(value.unsigned_abs());
        match i128::try_from(size) {
            Ok(size) if value < 0 => -size,
            Ok(size) => size,
            Err(_) if value < 0 => i128::MIN,
            Err(_) => i128::MAX,
        }
    }

    /// Multiplies bit by bit and divides as it goes, because the whole product
    /// may need 256 bits. A remainder is below the denominator, so that twice
    /// one still fits.
    fn times_size(self, size: u128) -> u128 {
        let denominator = self.denominator;
        let whole = self.numerator.checked_div(denominator).unwrap_or(0);
        let part = self.numerator.checked_rem(denominator).unwrap_or(0);
        let (mut quotient, mut remainder) = (0_u128, 0_u128);
        for bit in (0..u128::BITS.saturating_sub(size.leading_zeros())).rev() {
            // Twice what is there, and once the factor where the bit is set.
            let set = (size >> bit) & 1;
            for (more, rest) in [(quotient, remainder), (whole * set, part * set)] {
                quotient = quotient.saturating_add(more);
                remainder = remainder.saturating_add(rest);
                if remainder >= denominator {
                    remainder = remainder.saturating_sub(denominator);
                    quotient = quotient.saturating_add(1);
                }
            }
        }
        quotient.saturating_add(u128::from(remainder >= denominator.div_ceil(2)))
    }
}
