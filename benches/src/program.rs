//! A made-up program: functions that call others at fixed lines, and the
//! stacks that walks through it leave behind.
//!
//! A frame is a function and the line that called the next one, so a stack is
//! consistent: the same caller, line and callee always go together. Most of a
//! new stack is the beginning of one that is there, as in real programs.

use proto::stack::{Frame, FrameKind};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::random::Random;

/// Functions where threads begin.
const ENTRIES: usize = 12;
/// Most call sites of a function.
const MAX_CALLS: usize = 3;
/// Attempts at a stack that is not there yet, for each stack.
const ATTEMPTS: usize = 64;

const WORDS: [&str; 48] = [
    "account", "audit", "batch", "buffer", "cache", "cart", "catalog", "claim", "codec", "column",
    "config", "cursor", "digest", "event", "fetch", "field", "filter", "flush", "graph", "header",
    "index", "invoice", "journal", "ledger", "limit", "lookup", "merge", "metric", "order", "page",
    "parse", "payment", "policy", "price", "query", "queue", "range", "record", "region", "reply",
    "route", "schema", "session", "shard", "stock", "token", "tracker", "vector",
];

/// How a program's stacks are shaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        depth: (30, 60),
    };
    /// A large one.
    pub const FAT: Self = Self {
        stacks: 20_000,
        functions: 6_000,
        depth: (30, 60),
    };

    /// This shape with another number of stacks.
    #[must_use]
    pub const fn with_stacks(mut self, stacks: usize) -> Self {
        self.stacks = stacks;
        self
    }
}

/// Frames, and stacks made of them.
#[derive(Debug)]
pub struct Program {
    /// Every frame that some stack has.
    pub frames: Vec<Frame>,
    /// Per stack: indices into `frames`, root first. No two are equal.
    pub stacks: Vec<Box<[u32]>>,
}

/// Where a function calls another.
#[derive(Clone, Copy, Debug)]
struct Call {
    line: u32,
    callee: usize,
}

struct Function {
    name: String,
    file: String,
    start_line: u32,
    calls: Vec<Call>,
}

/// One step of a walk: a function and the call site left through; `None` at
/// the leaf.
type Step = (usize, Option<usize>);

fn capitalized(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_uppercase() + rest
}

fn functions(shape: Shape, random: &mut Random) -> Vec<Function> {
    let count = shape.functions.max(ENTRIES);
    let mut names = FxHashSet::default();
    let mut functions = Vec::with_capacity(count);
    for number in 0..count {
        let mut word = || WORDS[random.below(WORDS.len())];
        let (package, kind, verb, noun) = (word(), word(), word(), word());
        let kind = capitalized(kind);
        let mut name = format!(
            "example.org/shop/internal/{package}.(*{kind}).{}{}",
            capitalized(verb),
            capitalized(noun)
        );
        if !names.insert(name.clone()) {
            name = format!("{name}{number}");
            names.insert(name.clone());
        }
        let start_line = u32::try_from(random.below(900)).unwrap_or(0) + 1;
        let calls = (0..1 + random.below(MAX_CALLS))
            .map(|_| Call {
                line: start_line + 1 + u32::try_from(random.below(60)).unwrap_or(0),
                callee: random.below(count),
            })
            .collect();
        functions.push(Function {
            name,
            file: format!("/src/shop/internal/{package}/{noun}.go"),
            start_line,
            calls,
        });
    }
    functions
}

/// A walk that keeps the beginning of a stack that is there, if any.
fn walk(
    functions: &[Function],
    stacks: &[Vec<Step>],
    depth: usize,
    random: &mut Random,
) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::with_capacity(depth);
    let mut at = random.below(ENTRIES);
    if !stacks.is_empty() {
        let other = &stacks[random.below(stacks.len())];
        // The largest of two draws: on the average two thirds are shared.
        let longest = other.len().min(depth) - 1;
        let kept = random.below(longest + 1).max(random.below(longest + 1));
        steps.extend(&other[..kept]);
        at = other[kept].0;
    }
    while steps.len() + 1 < depth {
        let site = random.below(functions[at].calls.len());
        steps.push((at, Some(site)));
        at = functions[at].calls[site].callee;
    }
    steps.push((at, None));
    steps
}

impl Program {
    /// Returns the program of `shape` and `seed`. It may have fewer stacks than
    /// asked for when its functions do not allow as many.
    pub fn new(shape: Shape, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let functions = functions(shape, &mut random);
        let (low, high) = (
            shape.depth.0.max(1),
            shape.depth.1.max(shape.depth.0).max(1),
        );
        let mut known: FxHashSet<Vec<Step>> = FxHashSet::default();
        let mut walks: Vec<Vec<Step>> = Vec::with_capacity(shape.stacks);
        for _ in 0..shape.stacks.saturating_mul(ATTEMPTS) {
            if walks.len() >= shape.stacks {
                break;
            }
            let depth = low + random.below(high - low + 1);
            let steps = walk(&functions, &walks, depth, &mut random);
            if known.insert(steps.clone()) {
                walks.push(steps);
            }
        }
        let mut ids: FxHashMap<Step, u32> = FxHashMap::default();
        let mut frames = Vec::new();
        let stacks = walks
            .iter()
            .map(|steps| {
                let ids = steps.iter().map(|&step| {
                    *ids.entry(step).or_insert_with(|| {
                        frames.push(frame(&functions[step.0], step.1));
                        u32::try_from(frames.len() - 1).unwrap_or(u32::MAX)
                    })
                });
                ids.collect()
            })
            .collect();
        Self { frames, stacks }
    }

    /// Nodes of the call tree of all stacks, without the root.
    pub fn tree_nodes(&self) -> usize {
        let mut nodes: FxHashMap<(usize, u32), usize> = FxHashMap::default();
        for stack in &self.stacks {
            let mut parent = 0;
            for &frame in stack {
                let next = nodes.len() + 1;
                parent = *nodes.entry((parent, frame)).or_insert(next);
            }
        }
        nodes.len()
    }
}

fn frame(function: &Function, site: Option<usize>) -> Frame {
    let line = match site.and_then(|site| function.calls.get(site)) {
        Some(call) => call.line,
        None => function.start_line + 2,
    };
    let mut frame = Frame::named(FrameKind::Go, &function.name).at(&function.file, line);
    frame.start_line = function.start_line;
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_have_the_depth_of_their_shape_and_differ() {
        for shape in [Shape::LEAN, Shape::MEDIUM] {
            let program = Program::new(shape, 3);
            assert_eq!(program.stacks.len(), shape.stacks);
            let distinct: FxHashSet<_> = program.stacks.iter().collect();
            assert_eq!(distinct.len(), shape.stacks);
            let depths = shape.depth.0..=shape.depth.1;
            assert!(program.stacks.iter().all(|s| depths.contains(&s.len())));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_program() {
        let (a, b) = (Program::new(Shape::LEAN, 7), Program::new(Shape::LEAN, 7));
        assert_eq!(a.stacks, b.stacks);
        assert_eq!(a.frames, b.frames);
        assert_ne!(a.stacks, Program::new(Shape::LEAN, 8).stacks);
    }

    #[test]
    fn the_large_program_has_a_tree_as_large_as_real_ones() {
        let program = Program::new(Shape::FAT, 1);
        assert_eq!(program.stacks.len(), 20_000);
        let nodes = program.tree_nodes();
        assert!((260_000..=320_000).contains(&nodes), "{nodes} nodes");
    }
}
