//! One function in a call tree: who calls it, and what it calls. Pure: no I/O,
//! no clock.
//!
//! A sample counts when some frame of its stack matches, and it counts once,
//! however often the function calls itself: its stack is cut at the outermost
//! match, the one nearest the root. What lies above the cut, read from the
//! match upwards, is its path in the callers tree; the match and what lies
//! below it is its path in the callees tree. So callers never hold a match but
//! the first node, callees show recursion as it was, and both trees have the
//! same total, which is the function's cum.
//!
//! Paths keep file and line; [`crate::prune::fold_lines`] merges them to
//! functions, [`crate::prune::prune`] limits them. Leaves text and files to
//! [`crate::render::sandwich`].

use std::cmp::Reverse;
use std::sync::Arc;

use proto::stack::{Frame, FrameKind};
use regex::Regex;

use crate::flatten::pattern;
use crate::prune::OTHER;
use crate::top::{Functions, name_of};
use crate::tree::{CallNode, CallTree, Taken};

pub use answer::SandwichAnswer;

mod answer;

/// Nodes of a callers tree from which on light matches lose their callers.
pub const MAX_CALLERS: usize = 1 << 18;

/// Which functions are looked at.
#[derive(Clone, Debug)]
pub enum Subject {
    /// The function of this name.
    Named(String),
    /// Every function whose name holds a match; they are looked at as if they
    /// were one, so that a sample with several of them counts once.
    Matching(Regex),
}

impl Subject {
    /// Whether the function called `name` is meant.
    pub fn means(&self, name: &str) -> bool {
        match self {
            Self::Named(wanted) => wanted == name,
            Self::Matching(pattern) => pattern.is_match(name),
        }
    }

    /// The name or the pattern, as given.
    pub fn text(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::Matching(pattern) => pattern.as_str(),
        }
    }
}

/// A function as a reader asks for it: by its name or, when nothing is called
/// so, by a pattern.
#[derive(Clone, Debug)]
pub struct Wanted {
    text: String,
    pattern: Result<Option<Regex>, regex::Error>,
}

impl Wanted {
    /// Returns what `text` asks for. A pattern that does not compile still may
    /// be a name.
    pub fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            pattern: pattern(text),
        }
    }

    /// Name or pattern, as given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Why it is no pattern.
    pub fn no_pattern(&self) -> Option<&regex::Error> {
        self.pattern.as_ref().err()
    }

    /// Whether it is the name of a function called `name`, or matches it.
    pub fn may_mean(&self, name: &str) -> bool {
        let pattern = self.pattern.iter().flatten().next();
        self.text == name || pattern.is_some_and(|pattern| pattern.is_match(name))
    }

    /// What is meant in `tree`: the function of this name, if there is one.
    pub fn subject(&self, tree: &CallTree) -> Subject {
        let functions = Functions::of(tree);
        let is_name = functions.names.iter().any(|name| **name == *self.text);
        match &self.pattern {
            Ok(Some(pattern)) if !is_name => Subject::Matching(pattern.clone()),
            _ => Subject::Named(self.text.clone()),
        }
    }
}

/// A function between its callers and its callees. Values are in the profile
/// type's unit; sums beyond 128 bits are held at the limit.
#[derive(Clone, Debug)]
pub struct Sandwich {
    /// Names that were matched, sorted; empty when no sample counts.
    pub functions: Vec<Arc<str>>,
    /// Value of the samples whose leaf matches.
    pub flat: i128,
    /// Value of the samples in which some frame matches, each counted once.
    pub cum: i128,
    /// Value of the whole tree, the samples without a match too.
    pub total: i128,
    /// Places in the tree whose callers are in a node called [`OTHER`].
    pub cut_callers: u64,
    /// The root's children are the matching functions, theirs those that call
    /// them, and so on up to the roots of the stacks, where the values are.
    pub callers: CallTree,
    /// The root's children are the matching functions, theirs those they call.
    pub callees: CallTree,
}

/// Where a node of the whole tree stands to the matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// No match here or above.
    Outside,
    /// At this node of the callees tree.
    Inside(u32),
}

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

/// Adds the paths from each node of `matches` up to the root of `tree`, with
/// its value. Returns the tree and how many paths lost their callers.
fn callers_of(
    tree: &CallTree,
    mut matches: Vec<(usize, i128)>,
    max_nodes: usize,
) -> (CallTree, u64) {
    // The heaviest first, so that the lightest lose their callers.
    matches.sort_by_key(|&(at, value)| (Reverse(value.unsigned_abs()), at));
    let mut callers = CallTree::new();
    let mut frames = Taken::from(tree);
    let mut other = None;
    let mut cut = 0_u64;
    for (at, value) in matches {
        let is_cut = callers.nodes().len() >= max_nodes;
        let mut place = 0;
        let mut here = tree.nodes().get(at);
        while let Some(CallNode { parent, frame, .. }) = here
            && let Some(frame) = frame.and_then(|frame| frames.id(&mut callers, frame))
        {
            place = callers.child_of(place, frame);
            here = tree.nodes().get(index(*parent)).filter(|_| !is_cut);
        }
        if is_cut {
            let add = || callers.append_frame(Frame::named(FrameKind::Synthetic, OTHER));
            let other = *other.get_or_insert_with(add);
            place = callers.child_of(place, other);
            cut = cut.saturating_add(1);
        }
        callers.add_self(index(place), value);
    }
    (callers, cut)
}

/// Returns what calls `subject` in `tree` and what it calls; without a match
/// both trees have only a root.
///
/// Many matches at the end of deep stacks have far more callers than the tree
/// has nodes: from [`MAX_CALLERS`] nodes on, the callers of the lightest
/// matches are one node called [`OTHER`] and counted.
pub fn sandwich(tree: &CallTree, subject: &Subject) -> Sandwich {
    let mut matched: Vec<(usize, i128)> = Vec::new();
    let functions = Functions::of(tree);
    let wanted: Vec<bool> = functions
        .names
        .iter()
        .map(|name| subject.means(name))
        .collect();
    let totals = tree.totals();
    let mut places = vec![Place::Outside; tree.nodes().len()];
    let mut frames = Taken::from(tree);
    let mut found = Sandwich {
        functions: Vec::new(),
        flat: 0,
        cum: 0,
        total: tree.total(),
        cut_callers: 0,
        callers: CallTree::new(),
        callees: CallTree::new(),
    };
    for (at, node) in tree.nodes().iter().enumerate().skip(1) {
        let (Some(frame), Some(text)) = (node.frame, tree.frame_of(at)) else {
            continue;
        };
        let function = functions.of_node(tree, at);
        let matches = function.and_then(|id| wanted.get(id)) == Some(&true);
        let above = places.get(index(node.parent)).copied();
        let parent = match above.unwrap_or(Place::Outside) {
            Place::Inside(parent) => parent,
            Place::Outside if !matches => continue,
            Place::Outside => {
                let value = totals.get(at).copied().unwrap_or(0);
                found.cum = found.cum.saturating_add(value);
                matched.push((at, value));
                0
            }
        };
        let Some(frame) = frames.id(&mut found.callees, frame) else {
            continue;
        };
        let place = found.callees.child_of(parent, frame);
        found.callees.add_self(index(place), node.self_value);
        if let Some(slot) = places.get_mut(at) {
            *slot = Place::Inside(place);
        }
        if matches {
            found.flat = found.flat.saturating_add(node.self_value);
            found.functions.push(name_of(text));
        }
    }
    found.functions.sort_unstable();
    found.functions.dedup();
    (found.callers, found.cut_callers) = callers_of(tree, matched, MAX_CALLERS);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree(samples: &[(&str, i128)]) -> CallTree {
        let mut tree = CallTree::new();
        for (stack, value) in samples {
            let frames: Vec<Frame> = stack
                .split(' ')
                .map(|name| Frame::named(FrameKind::Go, name))
                .collect();
            tree.add(frames.iter(), *value);
        }
        tree
    }

    /// `path total`, sorted.
    fn text(tree: &CallTree) -> Vec<String> {
        let totals = tree.totals();
        let mut paths = vec![String::new()];
        for (at, node) in tree.nodes().iter().enumerate().skip(1) {
            let name = &tree.frame_of(at).unwrap().function;
            let path = format!("{} {name}", paths[index(node.parent)]);
            paths.push(path.trim().to_owned());
        }
        let lines = (1..paths.len()).map(|at| format!("{} {}", paths[at], totals[at]));
        let mut lines: Vec<String> = lines.collect();
        lines.sort();
        lines
    }

    fn named(name: &str) -> Subject {
        Subject::Named(name.to_owned())
    }

    #[test]
    fn a_name_goes_before_a_pattern() {
        let whole = tree(&[("main f.x", 5), ("main fox", 3), ("main (", 1)]);
        for (text, is_pattern, functions) in [
            ("f.x", false, &["f.x"][..]),
            ("f.", true, &["f.x", "fox"]),
            ("(", false, &["("]),
            ("f.x(", false, &[]),
            ("", false, &[]),
        ] {
            let wanted = Wanted::new(text);
            let subject = wanted.subject(&whole);
            assert_eq!(
                matches!(subject, Subject::Matching(_)),
                is_pattern,
                "{text}"
            );
            let found = sandwich(&whole, &subject).functions;
            let names: Vec<&str> = found.iter().map(|name| &**name).collect();
            assert_eq!(names, functions, "{text}");
            assert!(names.iter().all(|name| wanted.may_mean(name)), "{text}");
        }
    }

    #[test]
    fn callers_are_inverted_and_merged_and_callees_hang_below() {
        let whole = tree(&[
            ("main serve lock spin", 5),
            ("main serve lock", 2),
            ("main gc lock spin", 4),
            ("start lock wait", 1),
            ("main serve", 8),
        ]);
        let found = sandwich(&whole, &named("lock"));
        assert_eq!((found.flat, found.cum, found.total), (2, 12, 20));
        assert_eq!(found.functions, [Arc::from("lock")]);
        assert_eq!(
            text(&found.callers),
            [
                "lock 12",
                "lock gc 4",
                "lock gc main 4",
                "lock serve 7",
                "lock serve main 7",
                "lock start 1"
            ]
        );
        assert_eq!(
            text(&found.callees),
            ["lock 12", "lock spin 9", "lock wait 1"]
        );
    }

    #[test]
    fn recursion_is_cut_at_the_outermost_call() {
        let whole = tree(&[("main f g f h", 5), ("main f f", 3), ("main g f", 2)]);
        let found = sandwich(&whole, &named("f"));
        assert_eq!((found.flat, found.cum), (5, 10));
        assert_eq!(
            text(&found.callers),
            ["f 10", "f g 2", "f g main 2", "f main 8"]
        );
        assert_eq!(
            text(&found.callees),
            ["f 10", "f f 3", "f g 5", "f g f 5", "f g f h 5"]
        );
    }

    #[test]
    fn a_pattern_looks_at_its_functions_as_at_one() {
        let whole = tree(&[("main a1 a2 x", 5), ("main a2", 3), ("main b", 4)]);
        let found = sandwich(&whole, &Subject::Matching(Regex::new("^a").unwrap()));
        assert_eq!((found.flat, found.cum, found.total), (3, 8, 12));
        assert_eq!(found.functions, [Arc::from("a1"), Arc::from("a2")]);
        assert_eq!(
            text(&found.callers),
            ["a1 5", "a1 main 5", "a2 3", "a2 main 3"]
        );
        assert_eq!(
            text(&found.callees),
            ["a1 5", "a1 a2 5", "a1 a2 x 5", "a2 3"]
        );
    }

    #[test]
    fn a_name_is_matched_whole_and_nothing_found_is_empty() {
        let mut whole = tree(&[("main ab", 5)]);
        whole.add_self(0, 7);
        for subject in [
            named("a"),
            named(""),
            Subject::Matching(Regex::new("x").unwrap()),
        ] {
            let found = sandwich(&whole, &subject);
            assert_eq!((found.flat, found.cum, found.total), (0, 0, 12));
            assert!(found.functions.is_empty());
            assert_eq!(found.callers.nodes().len() + found.callees.nodes().len(), 2);
        }
        let unnamed = sandwich(&tree(&[("", 3)]), &named(crate::top::UNNAMED));
        assert_eq!(unnamed.cum, 3);
    }

    #[test]
    fn too_many_callers_are_other_lightest_first() {
        let whole = tree(&[("a b f", 3), ("c d f", 9), ("e f", 1), ("e g", 5)]);
        let matches = vec![(3, 3), (6, 9), (8, 1)];
        let (callers, cut) = callers_of(&whole, matches, 4);
        assert_eq!(cut, 2);
        assert_eq!(text(&callers), ["f 13", "f d 9", "f d c 9", "f other 4"]);
    }

    #[test]
    fn hostile_trees_stay_within_bounds() {
        let chain: Vec<Frame> = (0..1000)
            .map(|at| Frame::named(FrameKind::Go, &format!("f{at}")))
            .collect();
        let mut whole = CallTree::new();
        for at in 0..5_000 {
            let leaf = Frame::named(FrameKind::Go, &format!("leaf{at}"));
            whole.add(chain.iter().chain([&leaf]), 1);
        }
        let found = sandwich(&whole, &Subject::Matching(Regex::new("leaf").unwrap()));
        assert!(found.callers.nodes().len() < MAX_CALLERS + 3 * 5_000);
        assert_eq!((found.callers.total(), found.cum), (5_000, 5_000));
        assert!(found.cut_callers > 4_000);
    }

    #[test]
    fn extremes_are_held() {
        let whole = tree(&[("f a", i128::MAX), ("f b", i128::MAX), ("g f", i128::MIN)]);
        let found = sandwich(&whole, &named("f"));
        assert_eq!(found.cum, -1);
        assert_eq!(found.flat, i128::MIN);
    }

    proptest! {
        #[test]
        fn callers_callees_and_cum_are_one_sum_of_samples(
            samples in prop::collection::vec(
                (prop::collection::vec((0u8..5, 1u32..3), 0..9), -9i128..99), 0..40),
            pattern in 0usize..4,
        ) {
            let pattern = ["^f0$", "f[01]", "f9", "."][pattern];
            let subject = Subject::Matching(Regex::new(pattern).unwrap());
            let mut whole = CallTree::new();
            let (mut flat, mut cum) = (0, 0);
            let mut callers = CallTree::new();
            let mut callees = CallTree::new();
            for (stack, value) in &samples {
                let frames: Vec<Frame> = stack
                    .iter()
                    .map(|(id, line)| Frame::named(FrameKind::Go, &format!("f{id}")).at("f.go", *line))
                    .collect();
                whole.add(frames.iter(), *value);
                let is_match = |frame: &Frame| subject.means(&frame.function);
                if let Some(cut) = frames.iter().position(is_match) {
                    cum += value;
                    callers.add(frames[..=cut].iter().rev(), *value);
                    callees.add(frames[cut..].iter(), *value);
                }
                if frames.last().is_some_and(is_match) {
                    flat += value;
                }
            }
            let found = sandwich(&whole, &subject);
            prop_assert_eq!((found.flat, found.cum), (flat, cum));
            prop_assert_eq!(found.callers.total(), cum);
            prop_assert_eq!(found.callees.total(), cum);
            prop_assert_eq!(text(&found.callers), text(&callers));
            prop_assert_eq!(text(&found.callees), text(&callees));
        }

        #[test]
        fn the_table_of_functions_says_the_same(
            samples in prop::collection::vec((prop::collection::vec(0u8..5, 1..9), 1i128..99), 1..40),
        ) {
            let mut whole = CallTree::new();
            for (stack, value) in &samples {
                let frames: Vec<Frame> = stack
                    .iter()
                    .map(|id| Frame::named(FrameKind::Go, &format!("f{id}")))
                    .collect();
                whole.add(frames.iter(), *value);
            }
            for row in crate::top::top(&whole) {
                let found = sandwich(&whole, &named(&row.function));
                prop_assert_eq!((found.flat, found.cum), (row.flat, row.cum));
            }
        }
    }
}
