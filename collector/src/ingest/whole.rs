//! What the stacks of a profile that came by itself are in the tree of its service.
//!
//! Most are known since an earlier one. Their keys tell, so that neither their names
//! are made normal nor their frames looked up.

use super::resolve::ResolveError;
use super::symbols;
use crate::import::Words;
use crate::normalize::Rules;
use crate::store::trees::{self, SharedTree};

/// Stacks that are looked up before others may use the tree.
const AT_ONCE: usize = 64;

/// Ids in `tree` of the stacks `wire` of `words`. What is new is added, with names
/// normalised by `rules`.
pub(super) fn whole(
    words: &Words,
    wire: &[u32],
    tree: &SharedTree,
    rules: Rules,
) -> Result<Vec<u32>, ResolveError> {
    let mut out = Vec::with_capacity(wire.len());
    // Ids of the frames that stacks which are not known have.
    let mut frames: Vec<Option<u32>> = Vec::new();
    let mut path = Vec::new();
    for some in wire.chunks(AT_ONCE) {
        let mut tree = trees::write(tree);
        for &id in some {
            let key = words.key(id).ok_or(ResolveError::Unknown(id))?;
            if let Some(known) = tree.known(key.get()) {
                out.push(known);
                continue;
            }
            frames.resize(words.frame_count(), None);
            path.clear();
            let leaf_first = words.stack(id).ok_or(ResolveError::Unknown(id))?;
            for &frame in leaf_first.iter().rev() {
                let place = usize::try_from(frame)
                    .ok()
                    .and_then(|place| frames.get_mut(place))
                    .ok_or(ResolveError::Unknown(id))?;
                let interned = match *place {
                    Some(interned) => interned,
                    None => {
                        let frame = words.frame(frame).ok_or(ResolveError::Unknown(id))?;
                        tree.intern_frame(symbols::normal(frame, rules).frame())
                    }
                };
                *place = Some(interned);
                path.push(interned);
            }
            let stack = tree.intern_path(&path);
            tree.remember(key.get(), stack);
            out.push(stack);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::{Limits, read_pprof};
    use crate::store::tree::ServiceTree;
    use crate::store::{Epoch, ServiceId};
    use proto::pprof::{PprofBuilder, PprofHead};
    use proto::stack::{Frame, FrameKind};
    use proto::value_type::ProfileType;
    use std::sync::{Arc, RwLock};

    /// Stacks of these names, root first, as a profile without file names has them.
    fn words(stacks: &[&[&str]]) -> Words {
        let cpu = ProfileType::cpu();
        let mut builder = PprofBuilder::new(&PprofHead {
            sample_types: vec![cpu.sample().clone()],
            period_type: cpu.period().clone(),
            period: 1,
            time_ns: 0,
            duration_ns: 0,
            comments: Vec::new(),
        });
        for names in stacks {
            let leaf_first = names.iter().rev();
            let frames: Vec<Frame> = leaf_first
                .map(|name| Frame::named(FrameKind::Native, name))
                .collect();
            builder.add(&frames, vec![1]);
        }
        let dense = read_pprof(&builder.finish(), &Limits::default());
        dense.unwrap().words
    }

    fn tree() -> ServiceTree {
        ServiceTree::new(ServiceId(1), Epoch(0))
    }

    fn shared(tree: ServiceTree) -> SharedTree {
        Arc::new(RwLock::new(tree))
    }

    fn ids(stacks: &[&[&str]], tree: &SharedTree) -> Vec<u32> {
        let wire: Vec<u32> = (0..).take(stacks.len()).collect();
        whole(&words(stacks), &wire, tree, Rules::DEFAULT).unwrap()
    }

    fn names(tree: &SharedTree, stack: u32) -> Vec<String> {
        let path = trees::read(tree).path(stack);
        path.iter()
            .map(|frame| frame.function.to_string())
            .collect()
    }

    #[test]
    fn a_stack_has_one_id_in_every_profile_and_build() {
        const OLD: &str = "logger::run::h0123456789abcdef";
        const NEW: &str = "logger::run::hfedcba9876543210";
        let tree = shared(tree());
        let first = ids(&[&["main", OLD], &["main"], &[]], &tree);
        assert_eq!(names(&tree, first[0]), ["main", "logger::run"]);
        assert_eq!(names(&tree, first[1]), ["main"]);
        assert_eq!(names(&tree, first[2]), [""; 0]);
        let later = ids(
            &[&["main", NEW], &["x", "main"], &["main"], &["main", OLD]],
            &tree,
        );
        assert_eq!(names(&tree, later[1]), ["x", "main"]);
        assert_eq!(
            (later[0], later[2], later[3]),
            (first[0], first[1], first[0])
        );
    }

    #[test]
    fn what_no_profile_has_is_an_error() {
        let unknown = whole(&words(&[&["main"]]), &[0, 1], &shared(tree()), Rules::NONE);
        assert!(matches!(unknown, Err(ResolveError::Unknown(1))));
    }

    #[test]
    fn what_a_full_tree_cuts_off_is_counted_each_time() {
        // Seven nodes and the root fill it; there is room for one end of what is cut off.
        let tree = shared(tree().limited(8));
        let deep: [&[&str]; 1] = [&["a", "b", "c", "d", "e", "f", "g"]];
        let kept = ids(&deep, &tree);
        for overflowed in [1, 1] {
            let cut = ids(&[&["a", "b", "z"]], &tree);
            assert_eq!(names(&tree, cut[0]), ["a", "b", "[other]"]);
            assert_eq!(trees::write(&tree).take_overflowed(), overflowed);
        }
        assert_eq!(ids(&deep, &tree), kept);
        assert_eq!(trees::write(&tree).take_overflowed(), 0);
    }

    #[test]
    fn what_was_not_written_is_known_no_more() {
        let tree = shared(tree());
        let durable = ids(&[&["main"]], &tree);
        trees::write(&tree).mark_durable();
        ids(&[&["main", "lost"]], &tree);
        trees::write(&tree).roll_back();
        let after = ids(&[&["main", "kept"], &["main"], &["main", "lost"]], &tree);
        assert_eq!(names(&tree, after[0]), ["main", "kept"]);
        assert_eq!(after[1], durable[0]);
        assert_eq!(names(&tree, after[2]), ["main", "lost"]);
    }

    #[test]
    fn keys_of_one_stack_take_no_more_than_the_tree() {
        let mut tree = tree();
        let stack = tree.intern_path(&[]);
        for key in 0..100_000 {
            tree.remember(key, stack);
        }
        assert!(tree.bytes() < 100_000, "{}", tree.bytes());
        assert_eq!(tree.known(99_999), Some(stack));
    }
}
