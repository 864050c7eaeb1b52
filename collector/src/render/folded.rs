//! Folded stacks: `root;child;leaf value`, one line per stack, root first.
//!
//! The text form that Brendan Gregg's `flamegraph.pl` and its many readers take
//! (<https://github.com/brendangregg/FlameGraph>). Lines are sorted by bytes.
//! Values are whole numbers in the profile type's unit. In names `;` becomes
//! `:` and control characters `U+FFFD`, because the format cannot quote.

use std::borrow::Cow;
use std::cmp::Reverse;

use super::text;
use crate::answer::ProfileAnswer;
use crate::prune;
use crate::top::name_of;
use crate::tree::CallTree;

/// `name` as the format can hold it.
pub(super) fn folded_name(name: &str) -> String {
    match text::printable(name) {
        Cow::Borrowed(name) if !name.contains(';') => name.to_owned(),
        name => name.replace(';', ":"),
    }
}

/// Shows `visit` each node below the root, depth first and siblings by name,
/// with the path of its names and its own value. `names` has one per frame.
pub(super) fn walk(tree: &CallTree, names: &[String], mut visit: impl FnMut(&str, i128)) {
    walk_nodes(tree, names, |path, node| {
        let value = tree.nodes().get(node).map_or(0, |node| node.self_value);
        visit(path, value);
    });
}

/// As [`walk`], with the node itself instead of its value.
pub(super) fn walk_nodes(tree: &CallTree, names: &[String], mut visit: impl FnMut(&str, usize)) {
    let name_at = |node: usize| {
        let frame = tree.nodes().get(node)?.frame?;
        names.get(usize::try_from(frame).ok()?)
    };
    let mut children = tree.children();
    for list in &mut children {
        // Popped from the end of a stack, so the last name goes first.
        list.sort_by_key(|&child| Reverse(usize::try_from(child).ok().and_then(name_at)));
    }
    let mut path = String::new();
    // Per step: the node and the length of its parent's path.
    let mut steps = vec![(0_usize, 0_usize)];
    while let Some((node, parent_length)) = steps.pop() {
        path.truncate(parent_length);
        if let Some(name) = name_at(node) {
            if !path.is_empty() {
                path.push(';');
            }
            path.push_str(name);
            visit(&path, node);
        }
        let below = children.get(node).into_iter().flatten();
        steps.extend(
            below.filter_map(|&child| usize::try_from(child).ok().map(|child| (child, path.len()))),
        );
    }
}

/// Writes `answer` as folded stacks; no samples give no text.
pub fn render(answer: &ProfileAnswer) -> String {
    let tree = prune::fold_lines(&answer.tree);
    let names: Vec<String> = tree
        .frames()
        .iter()
        .map(|frame| folded_name(&name_of(frame)))
        .collect();
    let mut lines = Vec::new();
    walk(&tree, &names, |path, value| {
        if value != 0 {
            lines.push(format!("{path} {value}\n"));
        }
    });
    lines.sort_unstable();
    lines.concat()
}
