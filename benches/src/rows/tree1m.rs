//! Totals and pruning of a tree of a million nodes, in this process: what a query does
//! with the sums of a service's stacks before it writes its answer.

use std::hint::black_box;
use std::time::Instant;

use collector::flatten::{Choice, flatten};
use collector::store::exact::ExactSums;
use collector::store::tree::ServiceTree;
use collector::store::{Epoch, ServiceId};
use collector::tree::CallTree;

use super::Measured;
use super::lab::Lab;
use crate::program::{Program, Shape};
use crate::quantile::{Quantiles, millis};

const NODES: usize = 1_000_000;
/// What is left of the tree.
const KEPT: usize = 10_000;
const RUNS: usize = 25;

/// The tree of a program whose stacks have enough nodes, and a value for each stack.
fn tree() -> (ServiceTree, ExactSums) {
    let shape = Shape {
        stacks: 80_000,
        functions: 20_000,
        depth: (30, 60),
    };
    let program = Program::new(shape, 1);
    let mut tree = ServiceTree::new(ServiceId(1), Epoch(0));
    let mut values = ExactSums::default();
    for (number, stack) in (1_i128..).zip(&program.stacks) {
        if tree.node_count() >= NODES {
            break;
        }
        let frames = stack.iter().filter_map(|&frame| {
            program
                .frames
                .get(usize::try_from(frame).unwrap_or(usize::MAX))
        });
        values.add(tree.intern(frames), 1_000_000 / number + 1);
    }
    (tree, values)
}

pub(super) fn measure(_lab: &mut Lab) -> anyhow::Result<Measured> {
    let mut measured = Measured::nothing();
    let (tree, values) = tree();
    let choice = Choice {
        max_nodes: KEPT,
        ..Choice::ALL
    };
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let began = Instant::now();
        let mut out = CallTree::new();
        black_box(flatten(&mut out, &tree, &values, &choice));
        black_box(out);
        times.push(began.elapsed());
    }
    let times = Quantiles::of(times);
    let nodes = tree.node_count();
    measured.add(
        format!("p50 {} ms ({nodes} nodes, {KEPT} kept)", millis(times.p50)),
        nodes >= NODES && times.p50.as_millis() <= 20,
    );
    Ok(measured)
}
