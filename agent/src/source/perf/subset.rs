//! Which threads of a process are sampled when there are too many. Pure.
//!
//! Where every thread needs a ring of its own, at most [`MAX_THREADS`] have
//! one, drawn anew for each window: first those that used CPU in the window
//! before, so that a pool of sleeping threads does not hide the ones that work.

use rustc_hash::FxHashMap;

use super::worth::Share;
use crate::source::random::Random;

/// Most threads of a process that are sampled at a time.
pub(super) const MAX_THREADS: usize = 100;
/// Most threads whose CPU time is read between two windows; of more the draw
/// is blind.
pub(super) const MAX_READ: usize = 4096;

/// Draws from the threads `used`, each with the CPU time it used lately;
/// nothing where that is not known.
pub(super) fn draw(used: &[(i32, Option<u64>)], random: &mut Random) -> FxHashMap<i32, Share> {
    let (mut active, mut quiet): (Vec<i32>, Vec<i32>) = (Vec::new(), Vec::new());
    for (tid, ns) in used {
        match ns {
            Some(0) => quiet.push(*tid),
            Some(_) | None => active.push(*tid),
        }
    }
    let mut drawn = FxHashMap::default();
    for threads in [&mut active, &mut quiet] {
        let room = MAX_THREADS.saturating_sub(drawn.len());
        let sampled = room.min(threads.len());
        random.shuffle(threads);
        let count = |threads: usize| u32::try_from(threads).unwrap_or(u32::MAX);
        let share = Share {
            all: count(threads.len()),
            sampled: count(sampled),
        };
        drawn.extend(threads.iter().take(sampled).map(|tid| (*tid, share)));
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn threads(active: i32, quiet: i32, unknown: i32) -> Vec<(i32, Option<u64>)> {
        let all = active + quiet + unknown;
        (0..all)
            .map(|tid| {
                let used = match tid {
                    tid if tid < active => Some(5),
                    tid if tid < active + quiet => Some(0),
                    _ => None,
                };
                (tid, used)
            })
            .collect()
    }

    #[test]
    fn threads_that_work_come_first() {
        let mut random = Random::from_seed(3);
        let drawn = draw(&threads(8, 992, 0), &mut random);
        assert_eq!(drawn.len(), MAX_THREADS);
        for tid in 0..8 {
            assert_eq!(drawn[&tid], Share { all: 8, sampled: 8 });
        }
        let of_quiet = Share {
            all: 992,
            sampled: 92,
        };
        assert!(
            drawn
                .iter()
                .all(|(tid, share)| *tid < 8 || *share == of_quiet)
        );
    }

    #[test]
    fn few_threads_are_all_sampled() {
        let mut random = Random::from_seed(3);
        let drawn = draw(&threads(40, 30, 30), &mut random);
        assert_eq!(drawn.len(), 100);
        assert!(drawn.values().all(|share| share.all == share.sampled));
        assert!(draw(&[], &mut random).is_empty());
    }

    proptest! {
        #[test]
        fn those_drawn_stand_for_all_that_worked(
            active in 0_i32..400, quiet in 0_i32..400, unknown in 0_i32..400, seed: u64,
        ) {
            let drawn = draw(&threads(active, quiet, unknown), &mut Random::from_seed(seed));
            prop_assert!(drawn.len() <= MAX_THREADS);
            let stands_for: f64 = drawn
                .iter()
                .filter(|(tid, _)| !(active..active + quiet).contains(tid))
                .map(|(_, share)| f64::from(share.all) / f64::from(share.sampled))
                .sum();
            prop_assert!((stands_for - f64::from(active + unknown)).abs() < 1e-6);
        }
    }
}
