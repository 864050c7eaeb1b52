//! Seeded synthetic profiles, shaped like those of real programs: a few stacks
//! hold most samples, every pod and every hour has some of its own.
//!
//! A window is a pure function of the corpus, its pod, its start and its number
//! of samples, so whoever needs it again draws it again. No two are equal.

use std::hint::select_unpredictable;

use proto::labels::LabelSet;
use proto::profile::{Column, Facts, Profile};
use proto::stack::{Frame, Stack};
use proto::value_type::{ProfileType, Temporality};
use proto::window::{UnixNanos, Window};

use crate::alias::Alias;
use crate::ledger::Entry;
use crate::program::{Program, Shape};
use crate::random::{Random, mix};

/// Nanoseconds that one sample stands for: 99 Hz.
pub const PERIOD_NS: u64 = 10_101_010;
/// Length of a window in nanoseconds.
pub const WINDOW_NS: u64 = 10_000_000_000;
/// Samples of a window of [`WINDOW_NS`]: one busy core at 99 Hz.
pub const WINDOW_SAMPLES: u32 = 990;
/// How steeply shares fall with rank.
const ZIPF: f64 = 1.05;
/// Of 2^16 draws, those from the stacks that all pods share: 88 %.
const COMMON: u64 = 57_672;
/// Those and the ones from the pod's own order of stacks: 8 % more. The
/// remaining 4 % come from the hour's own order.
const COMMON_OR_POD: u64 = 62_915;
/// Spreads neighbouring ranks over all stacks; a prime above any corpus.
const STRIDE: u64 = 1_000_003;
const HOUR_S: i64 = 3_600;

/// The stacks of one program and how often each is sampled.
#[derive(Debug)]
pub struct Corpus {
    program: Program,
    shares: Alias,
    fingerprints: Vec<u64>,
    seed: u64,
}

/// Which window of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Which pod.
    pub pod: u32,
    /// When the window starts.
    pub start: UnixNanos,
    /// How many samples it has.
    pub samples: u32,
}

/// The samples of one drawn window: stacks and how often each was seen. Meant
/// to be used again for the next.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Vec<u32>,
    /// The first `seen` are stacks in the order of their first sample.
    touched: Vec<u32>,
    seen: usize,
}

impl Tally {
    /// Returns a tally of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    fn clear(&mut self, stacks: usize) {
        for &stack in &self.touched[..self.seen] {
            self.counts[at(stack)] = 0;
        }
        self.seen = 0;
        self.counts.resize(stacks, 0);
        // One place more than there are stacks, see `add`.
        self.touched.resize(stacks + 1, 0);
    }

    #[inline]
    fn add(&mut self, stack: u32) {
        let count = &mut self.counts[at(stack)];
        // Written always and kept if it is the first: half of all are, in no
        // order that a processor could guess.
        self.touched[self.seen] = stack;
        self.seen += usize::from(*count == 0);
        *count += 1;
    }

    /// Each stack that was seen, in the order of its first sample, with how
    /// often it was.
    pub fn pairs(&self) -> impl ExactSizeIterator<Item = (u32, u32)> {
        self.touched[..self.seen]
            .iter()
            .map(|&stack| (stack, self.counts[at(stack)]))
    }
}

fn at(stack: u32) -> usize {
    usize::try_from(stack).unwrap_or(usize::MAX)
}

/// FNV-1a, 64 bits (public domain, Fowler, Noll and Vo).
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The fingerprint of the root of every call tree.
pub const ROOT_FINGERPRINT: u64 = 0x7465_7075_6921;

/// The fingerprint of a node: of the functions on the way to it. Files and
/// lines are left out, since readers may fold them.
pub fn fingerprint(parent: u64, function: &str) -> u64 {
    mix(parent.rotate_left(23) ^ fnv(function))
}

impl Corpus {
    /// Returns the corpus of `shape` and `seed`. The stack of rank `n` is drawn
    /// in proportion to `1 / n^1.05` (Zipf's law).
    pub fn new(shape: Shape, seed: u64) -> Self {
        let program = Program::new(shape, seed);
        let functions: Vec<u64> = program.frames.iter().map(|f| fnv(&f.function)).collect();
        let fingerprints = program
            .stacks
            .iter()
            .map(|stack| {
                stack.iter().fold(ROOT_FINGERPRINT, |parent, &frame| {
                    mix(parent.rotate_left(23) ^ functions[at(frame)])
                })
            })
            .collect();
        Self {
            shares: Alias::zipf(program.stacks.len(), ZIPF, STRIDE),
            fingerprints,
            program,
            seed,
        }
    }

    /// How many stacks there are.
    pub fn len(&self) -> usize {
        self.program.stacks.len()
    }

    /// Whether there is no stack.
    pub fn is_empty(&self) -> bool {
        self.program.stacks.is_empty()
    }

    /// The program the stacks are of.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Fingerprint of stack `stack`, 0 for an unknown one.
    pub fn fingerprint(&self, stack: u32) -> u64 {
        self.fingerprints.get(at(stack)).copied().unwrap_or(0)
    }

    /// Stack `stack`, leaf first; empty for an unknown one.
    pub fn stack(&self, stack: u32) -> Stack {
        let frames = self.program.stacks.get(at(stack));
        let frames = frames.into_iter().flatten().rev();
        frames.map(|&frame| self.frame(frame).clone()).collect()
    }

    fn frame(&self, frame: u32) -> &Frame {
        &self.program.frames[at(frame)]
    }

    /// Draws the window at `slot` into `tally`.
    pub fn draw(&self, slot: Slot, tally: &mut Tally) {
        let count = self.program.stacks.len();
        tally.clear(count);
        let total = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        let start = slot.start.get();
        let hour = start.div_euclid(1_000_000_000).div_euclid(HOUR_S);
        let shift = |number: u64| {
            let shift = mix(self.seed ^ number) % u64::from(total);
            u32::try_from(shift).unwrap_or(0)
        };
        // The order of stacks that all share, the pod's, and the hour's.
        let shifts = [
            0,
            shift(u64::from(slot.pod) << 1),
            shift((hour.unsigned_abs() << 1) | 1),
        ];
        let mut random = Random::of(&[
            self.seed,
            u64::from(slot.pod),
            start.unsigned_abs(),
            u64::from(slot.samples),
        ]);
        for _ in 0..slot.samples {
            let bits = random.next_u64();
            let part = bits & 0xffff;
            let order = usize::from(part >= COMMON) + usize::from(part >= COMMON_OR_POD);
            let place = self.shares.pick(bits) + shifts[order];
            let past = place.wrapping_sub(total);
            tally.add(select_unpredictable(place < total, place, past));
        }
    }

    /// The window at `slot` as a ledger has it.
    pub fn entry(&self, slot: Slot) -> Entry {
        let mut tally = Tally::new();
        self.draw(slot, &mut tally);
        let hash = tally.pairs().fold(0_u64, |hash, (stack, count)| {
            hash.wrapping_add(self.fingerprint(stack).wrapping_mul(count.into()))
        });
        Entry {
            start: slot.start,
            samples: slot.samples,
            hash,
        }
    }

    /// The window of `samples` samples that pod `pod` has at `start`, as the
    /// profile an agent's source would yield.
    pub fn profile(&self, labels: LabelSet, slot: Slot, duration_ns: u64) -> Profile {
        let mut tally = Tally::new();
        self.draw(slot, &mut tally);
        let column = Column {
            profile_type: ProfileType::cpu(),
            temporality: Temporality::Delta,
            period: i64::try_from(PERIOD_NS).unwrap_or(i64::MAX),
            weight: PERIOD_NS,
            values: tally.pairs().map(|(_, count)| i64::from(count)).collect(),
        };
        let stacks = tally.pairs().map(|(stack, _)| self.stack(stack)).collect();
        let window = Window::from_start(slot.start, duration_ns).expect("benches start after 1970");
        Profile::new(labels, window, stacks, vec![column], Facts::default())
            .expect("one value per stack")
    }

    /// The labels of pod `pod` of `service`.
    pub fn labels(service: &str, pod: u32) -> LabelSet {
        LabelSet::new([
            ("service", service.to_owned()),
            ("pod", pod_name(service, pod)),
            ("version", version_of(pod)),
            ("zone", format!("zone-{}", pod % 5)),
        ])
        .expect("a few short labels")
    }

    /// Stack `n` as an agent's source has it, for each `n`.
    pub fn stacks(&self) -> impl Iterator<Item = Stack> {
        (0_u32..).take(self.len()).map(|stack| self.stack(stack))
    }

    /// A window of service `bench`, drawn anew for each number that `random`
    /// yields.
    pub fn window(
        &self,
        pod: usize,
        start: UnixNanos,
        samples: usize,
        random: &mut Random,
    ) -> Profile {
        let pod = u32::try_from(pod).unwrap_or(u32::MAX);
        let labels = Self::labels("bench", pod);
        let within = u64::try_from(start.get()).unwrap_or(0) / WINDOW_NS * WINDOW_NS;
        let jitter = random.next_u64() % WINDOW_NS;
        let start = i64::try_from(within.saturating_add(jitter)).unwrap_or(i64::MAX);
        let slot = Slot {
            pod,
            start: UnixNanos::new(start),
            samples: u32::try_from(samples).unwrap_or(u32::MAX),
        };
        self.profile(labels, slot, WINDOW_NS)
    }
}

/// The version that pod `pod` runs.
pub fn version_of(pod: u32) -> String {
    format!("v{}", pod % 3)
}

/// The name of pod `pod` of `service`.
pub fn pod_name(service: &str, pod: u32) -> String {
    format!("{service}-{pod}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixNanos = UnixNanos::new(1_700_000_000_000_000_000);

    fn drawn(corpus: &Corpus, slot: Slot) -> Vec<(u32, u32)> {
        let mut tally = Tally::new();
        corpus.draw(slot, &mut tally);
        tally.pairs().collect()
    }

    fn slot(pod: u32, start: UnixNanos) -> Slot {
        Slot {
            pod,
            start,
            samples: WINDOW_SAMPLES,
        }
    }

    #[test]
    fn a_window_is_known_by_its_slot_alone_and_no_two_are_equal() {
        let corpus = Corpus::new(Shape::LEAN, 7);
        let again = Corpus::new(Shape::LEAN, 7);
        let later = UnixNanos::new(START.get() + 10_000_000_000);
        let first = drawn(&corpus, slot(0, START));
        assert_eq!(first, drawn(&again, slot(0, START)));
        assert_ne!(first, drawn(&corpus, slot(1, START)));
        assert_ne!(first, drawn(&corpus, slot(0, later)));
        let total: u32 = first.iter().map(|(_, count)| count).sum();
        assert_eq!(total, WINDOW_SAMPLES);
    }

    #[test]
    fn a_tally_used_again_forgets_what_it_had() {
        let corpus = Corpus::new(Shape::LEAN, 7);
        let mut tally = Tally::new();
        corpus.draw(slot(0, START), &mut tally);
        corpus.draw(slot(1, START), &mut tally);
        let again: Vec<_> = tally.pairs().collect();
        assert_eq!(again, drawn(&corpus, slot(1, START)));
    }

    #[test]
    fn pods_and_hours_have_stacks_of_their_own() {
        let corpus = Corpus::new(Shape::MEDIUM, 7);
        // Per stack: its samples over many windows of one pod and one hour.
        let sums = |pod: u32, hour: i64| -> Vec<u32> {
            let mut sums = vec![0; corpus.len()];
            for window in 0..200 {
                let start = START.get() / 3_600_000_000_000 + hour;
                let start = UnixNanos::new(start * 3_600_000_000_000 + window * 10_000_000_000);
                for (stack, count) in drawn(&corpus, slot(pod, start)) {
                    sums[usize::try_from(stack).unwrap()] += count;
                }
            }
            sums
        };
        // Samples that are in one sum and not in the other, in thousandths.
        let apart = |a: &[u32], b: &[u32]| -> u32 {
            let apart: u32 = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).sum();
            apart / 2 * 1_000 / (200 * WINDOW_SAMPLES)
        };
        let first = sums(0, 0);
        let (pod, hour) = (apart(&first, &sums(1, 0)), apart(&first, &sums(0, 1)));
        assert!((40..=110).contains(&pod), "{pod}");
        assert!((20..=75).contains(&hour), "{hour}");
    }

    #[test]
    fn fingerprints_are_of_the_functions_from_the_root() {
        let corpus = Corpus::new(Shape::LEAN, 7);
        for (id, stack) in (0_u32..).zip(corpus.stacks()) {
            let root_first = stack.iter().rev();
            let expected = root_first.fold(ROOT_FINGERPRINT, |parent, frame| {
                fingerprint(parent, &frame.function)
            });
            assert_eq!(corpus.fingerprint(id), expected);
        }
    }
}
