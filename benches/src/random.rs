//! Seeded numbers. No library's release can change the profiles.

/// A small generator of numbers (SplitMix64, by Sebastiano Vigna, public
/// domain).
#[derive(Clone, Debug)]
pub struct Random(u64);

/// Turns a number into an unrelated one; SplitMix64's last step.
pub(crate) const fn mix(number: u64) -> u64 {
    let z = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    /// Returns the generator of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the generator of several numbers together, order included.
    pub fn of(parts: &[u64]) -> Self {
        Self(parts.iter().fold(0x9e37_79b9_7f4a_7c15, |seed, part| {
            mix(seed.rotate_left(17) ^ *part).wrapping_add(0x9e37_79b9_7f4a_7c15)
        }))
    }

    /// The next number.
    #[inline]
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next_u64() % bound).unwrap_or(0)
    }

    /// A number in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        let bits = u32::try_from(self.next_u64() >> 32).unwrap_or(0);
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }
}
