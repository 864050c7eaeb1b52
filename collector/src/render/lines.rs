//! The lines of a tree that is drawn in a terminal: which comes when, and the
//! guides before its name. What a line says is the drawing's own.

/// Lines at which a drawing leaves out more than its least.
pub(super) const MAX_LINES: usize = 250;
/// Callees without lines of their own get one together when there are others
/// beside them, or when they hold at least one part in this many of the whole.
pub(super) const LONE_REST: u8 = 20;
/// Deepest node with a line of its own.
pub(super) const MAX_DEPTH: usize = 128;
/// Width of a pipe's lines, for the bar only.
pub(super) const PIPE_COLUMNS: usize = 100;

/// What a line shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// This node.
    Node(usize),
    /// This many callees without lines of their own.
    Rest(usize),
}

/// A line; `V` is what is known of its subject.
#[derive(Debug)]
pub(super) struct Line<V> {
    /// What it shows.
    pub(super) subject: Subject,
    /// Lines above it, up to the root.
    pub(super) depth: usize,
    /// What is known of it.
    pub(super) value: V,
    /// Drawn before the name on this line.
    pub(super) lead: String,
    /// Drawn before the names on the lines below it.
    lead_below: String,
    /// What is known of the line above in a chain of single calls, which need
    /// not be said again.
    pub(super) above: Option<V>,
}

/// What is drawn before a name, and before those below it, where calls fork;
/// nothing in a chain of single calls.
const fn fork(chain: bool, last: bool) -> (&'static str, &'static str) {
    match (chain, last) {
        (true, _) => ("", ""),
        (false, false) => ("├─ ", "│  "),
        (false, true) => ("└─ ", "   "),
    }
}

/// The words of a line for so many callees.
pub(super) fn rest_words(count: usize) -> String {
    match count {
        1 => "… 1 more call".to_owned(),
        count => format!("… {count} more calls"),
    }
}

impl<V: Copy> Line<V> {
    /// The lines directly below, first line first.
    fn below(&self, subjects: Vec<(Subject, V)>) -> Vec<Self> {
        let chain = subjects.len() == 1;
        let last = subjects.len().saturating_sub(1);
        let numbered = subjects.into_iter().enumerate();
        let lines = numbered.map(|(at, (subject, value))| {
            let (fork, below) = fork(chain, at == last);
            Self {
                subject,
                depth: self.depth + 1,
                value,
                lead: format!("{}{fork}", self.lead_below),
                lead_below: format!("{}{below}", self.lead_below),
                above: chain.then_some(self.value),
            }
        });
        lines.collect()
    }
}

/// Calls `draw` with every line from the root's down, callers before callees.
/// `below` says what is directly below the node of a line, first line first.
pub(super) fn walk<V: Copy>(
    root: V,
    below: impl Fn(&Line<V>, usize) -> Vec<(Subject, V)>,
    mut draw: impl FnMut(&Line<V>),
) {
    let mut lines = vec![Line {
        subject: Subject::Node(0),
        depth: 0,
        value: root,
        lead: String::new(),
        lead_below: String::new(),
        above: None,
    }];
    while let Some(line) = lines.pop() {
        draw(&line);
        if let Subject::Node(node) = line.subject {
            let mut next = line.below(below(&line, node));
            next.reverse();
            lines.append(&mut next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fork_where_calls_do() {
        // Children of each node; the values are the nodes' numbers.
        let children: [&[usize]; 6] = [&[1], &[2, 3], &[4], &[], &[5], &[]];
        let mut drawn = Vec::new();
        walk(
            0,
            |_, node| {
                let mut below: Vec<_> = children[node]
                    .iter()
                    .map(|&child| (Subject::Node(child), child))
                    .collect();
                if node == 1 {
                    below.push((Subject::Rest(2), 9));
                }
                below
            },
            |line| drawn.push(format!("{}{} {:?}", line.lead, line.value, line.above)),
        );
        assert_eq!(
            drawn,
            [
                "0 None",
                "1 Some(0)",
                "├─ 2 None",
                "│  4 Some(2)",
                "│  5 Some(4)",
                "├─ 3 None",
                "└─ 9 None",
            ]
        );
    }
}
