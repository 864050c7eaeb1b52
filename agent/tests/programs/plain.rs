//! Burns CPU in its own code and that of the standard library, on two threads.
use std::collections::HashMap;
use std::hint::black_box;

#[inline(never)]
fn crunch(seed: u64) -> u64 {
    (0..50_000_u64).fold(seed, |sum, n| black_box(sum).wrapping_mul(31).wrapping_add(n))
}

#[inline(never)]
fn descend(depth: u32, seed: u64) -> u64 {
    let below = if depth == 0 { crunch(seed) } else { descend(depth - 1, seed ^ 1) };
    black_box(below).wrapping_add(1)
}

#[inline(never)]
fn sort_words() -> usize {
    let mut words: Vec<String> =
        (0..5_000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string()).collect();
    words.sort();
    words.len()
}

#[inline(never)]
fn count_letters(text: &str) -> usize {
    let mut counts: HashMap<char, usize> = HashMap::new();
    for letter in text.chars() {
        *counts.entry(letter).or_default() += 1;
    }
    counts.len()
}

fn work() {
    let text = "the quick brown fox jumps over the lazy dog ".repeat(200);
    loop {
        for _ in 0..50 {
            black_box(descend(20, 7));
        }
        black_box(sort_words());
        black_box(count_letters(&text));
    }
}

fn main() {
    let other = std::thread::spawn(work);
    work();
    drop(other);
}
