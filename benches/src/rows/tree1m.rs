//! Totals and pruning of a tree of a million nodes, in this process.

use std::hint::black_box;
use std::time::Instant;

use collector::prune::prune;
use collector::tree::CallTree;

use super::Measured;
use super::lab::Lab;
use crate::program::{Program, Shape};
use crate::quantile::{Quantiles, millis};

const NODES: usize = 1_000_000;
/// What is left of the tree.
const KEPT: usize = 10_000;
const RUNS: usize = 25;

/// A program whose stacks have enough nodes.
fn tree() -> CallTree {
    let shape = Shape {
        stacks: 80_000,
        functions: 20_000,
        depth: (30, 60),
    };
    let program = Program::new(shape, 1);
    let mut tree = CallTree::new();
    for (number, stack) in (1_i128..).zip(&program.stacks) {
        if tree.nodes().len() >= NODES {
            break;
        }
        let frames = stack.iter().filter_map(|&frame| {
            program
                .frames
                .get(usize::try_from(frame).unwrap_or(usize::MAX))
        });
        tree.add(frames, 1_000_000 / number + 1);
    }
    tree
}

pub(super) fn measure(_lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    let tree = tree();
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let began = Instant::now();
        black_box(tree.totals());
        black_box(prune(&tree, KEPT));
        times.push(began.elapsed());
    }
    let times = Quantiles::of(times);
    let nodes = tree.nodes().len();
    measured.add(
        format!("p50 {} ms ({nodes} nodes, {KEPT} kept)", millis(times.p50)),
        nodes >= NODES && times.p50.as_millis() <= 20,
    );
    Ok(measured)
}
