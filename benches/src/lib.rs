//! Seeded synthetic profiles, shaped like those of real programs: a few
//! hundred functions, deep stacks, and a few stacks that hold most samples.
//!
//! The same seed gives the same profiles on every machine.

#![forbid(unsafe_code)]

use std::sync::Arc;

use proto::labels::LabelSet;
use proto::profile::{Column, Facts, Profile};
use proto::stack::{Frame, FrameKind, Stack};
use proto::value_type::{ProfileType, Temporality};
use proto::window::{UnixNanos, Window};

/// Nanoseconds that one sample stands for: 99 Hz.
pub const PERIOD_NS: u64 = 10_101_010;
/// Length of a window in nanoseconds.
pub const WINDOW_NS: u64 = 10_000_000_000;

/// A small generator of numbers (SplitMix64, by Sebastiano Vigna, public
/// domain), so that no release of a library changes the profiles.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Returns the generator of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
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

/// How a program's stacks are shaped.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Distinct stacks.
    pub stacks: usize,
    /// Functions they are made of.
    pub functions: usize,
    /// Shallowest and deepest stack.
    pub depth: (usize, usize),
}

impl Shape {
    /// A small service.
    pub const LEAN: Self = Self {
        stacks: 60,
        functions: 150,
        depth: (10, 30),
    };
    /// An ordinary service.
    pub const MEDIUM: Self = Self {
        stacks: 1_000,
        functions: 1_500,
        depth: (20, 50),
    };
    /// A large one.
    pub const FAT: Self = Self {
        stacks: 20_000,
        functions: 6_000,
        depth: (30, 60),
    };
}

/// The stacks of one program and how often each is sampled.
#[derive(Debug)]
pub struct Corpus {
    stacks: Vec<Stack>,
    /// Running sums of the stacks' shares; the last is 1.
    sums: Vec<f64>,
}

impl Corpus {
    /// Returns the corpus of `shape` and `seed`. Stack `n` is sampled in
    /// proportion to `1 / (n + 1)^1.05` (Zipf).
    pub fn new(shape: Shape, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let frames: Vec<Frame> = (0..shape.functions.max(1))
            .map(|n| {
                let line = u32::try_from(random.below(900)).unwrap_or(0) + 1;
                let package = n % 97;
                Frame::named(
                    FrameKind::Go,
                    &format!("example.org/app/pkg{package}.(*T{n}).Do{n}"),
                )
                .at(&format!("/src/app/pkg{package}/file{}.go", n % 13), line)
            })
            .collect();
        let mut stacks: Vec<Stack> = Vec::with_capacity(shape.stacks);
        for _ in 0..shape.stacks {
            let spread = shape.depth.1.saturating_sub(shape.depth.0) + 1;
            let depth = shape.depth.0 + random.below(spread);
            // Stacks of a program share their roots: take over most of one
            // that is there and grow another top.
            let kept = match stacks.len() {
                0 => Vec::new(),
                known => {
                    let other = &stacks[random.below(known)];
                    let keep = random.below(other.len().min(depth));
                    other.iter().rev().take(keep).cloned().collect()
                }
            };
            let mut root_first: Vec<Frame> = kept;
            while root_first.len() < depth {
                root_first.push(frames[random.below(frames.len())].clone());
            }
            root_first.reverse();
            stacks.push(Arc::from(root_first));
        }
        let mut sums = Vec::with_capacity(stacks.len());
        let mut sum = 0.0;
        for rank in (1_u32..).take(stacks.len()) {
            sum += f64::from(rank).powf(-1.05);
            sums.push(sum);
        }
        for share in &mut sums {
            *share /= sum;
        }
        Self { stacks, sums }
    }

    /// The stacks.
    pub fn stacks(&self) -> &[Stack] {
        &self.stacks
    }

    /// A window of `samples` samples of pod `pod`, drawn anew for each call.
    pub fn window(
        &self,
        pod: usize,
        start: UnixNanos,
        samples: usize,
        random: &mut Random,
    ) -> Profile {
        let mut counts = std::collections::BTreeMap::<usize, i64>::new();
        for _ in 0..samples {
            let at = random.unit();
            let stack = self.sums.partition_point(|sum| *sum <= at);
            *counts.entry(stack.min(self.stacks.len() - 1)).or_default() += 1;
        }
        let labels = LabelSet::new([
            ("service".to_owned(), "bench".to_owned()),
            ("pod".to_owned(), format!("bench-{pod}")),
        ]);
        let column = Column {
            profile_type: ProfileType::cpu(),
            temporality: Temporality::Delta,
            period: i64::try_from(PERIOD_NS).unwrap_or(i64::MAX),
            weight: PERIOD_NS,
            values: counts.values().copied().collect(),
        };
        let stacks = counts
            .keys()
            .map(|n| Arc::clone(&self.stacks[*n]))
            .collect();
        let window = Window::from_start(start, WINDOW_NS).expect("benches start after 1970");
        let labels = labels.expect("two short labels");
        Profile::new(labels, window, stacks, vec![column], Facts::default())
            .expect("one value per stack")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_windows_and_no_two_are_equal() {
        let corpus = Corpus::new(Shape::LEAN, 7);
        let again = Corpus::new(Shape::LEAN, 7);
        assert_eq!(corpus.stacks(), again.stacks());
        let start = UnixNanos::new(1_000_000_000);
        let (mut a, mut b) = (Random::new(1), Random::new(1));
        let first = corpus.window(0, start, 990, &mut a);
        assert_eq!(first, again.window(0, start, 990, &mut b));
        assert_ne!(first, corpus.window(0, start, 990, &mut a));
        assert_eq!(first.columns()[0].values.iter().sum::<i64>(), 990);
    }

    #[test]
    fn stacks_have_the_depth_of_their_shape() {
        let corpus = Corpus::new(Shape::MEDIUM, 3);
        assert_eq!(corpus.stacks().len(), 1_000);
        assert!(corpus.stacks().iter().all(|s| (20..=50).contains(&s.len())));
    }
}
