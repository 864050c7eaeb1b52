//! Two answers of one profile type, compared: what is scaled, and what to know
//! when reading the comparison.

use std::time::Duration;

use proto::value_type::{ProfileType, Temporality};
use proto::window::Window;

use super::{Change, DiffTree, Ratio, Reading};
use crate::answer::{Coverage, ProfileAnswer};
use crate::prune;
use crate::tree::CallTree;

/// What one side of a diff rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffSide {
    /// The range that was asked for.
    pub window: Window,
    /// Distance between samples in the period's unit; 0 when mixed.
    pub period: i64,
    /// The whole as measured, before any scaling, in the type's unit.
    pub total: i128,
    /// What it rests on and lacks.
    pub coverage: Coverage,
}

/// Two selections of one profile type, compared.
#[derive(Clone, Debug)]
pub struct DiffAnswer {
    /// What the values count.
    pub profile_type: ProfileType,
    /// How the values behave over time; gauges are averages here.
    pub temporality: Temporality,
    /// How the sides are compared.
    pub reading: Reading,
    /// What the base's values in `tree` were multiplied by.
    pub scale: Ratio,
    /// What is compared with.
    pub base: DiffSide,
    /// What is compared.
    pub new: DiffSide,
    /// Values in the profile type's unit, the base's times `scale`.
    pub tree: DiffTree,
    /// Nodes of `tree` folded into `other`, on both sides alike.
    pub pruned_nodes: u64,
    /// What to know when reading the comparison, in words, for a person.
    pub notes: Vec<String>,
}

/// Why two answers cannot be compared.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DiffError {
    /// They count different things.
    #[error("the base counts {base} and the new profile {new}, which cannot be compared")]
    DifferentTypes {
        /// Sample type and unit of the base.
        base: String,
        /// Sample type and unit of the new.
        new: String,
    },
}

impl DiffAnswer {
    /// Returns the comparison of `new` with `base`.
    ///
    /// Both trees should be whole: when each was pruned by itself, what lies in
    /// `other` on one side may have a name on the other and look like a change,
    /// of which a note warns.
    ///
    /// # Errors
    ///
    /// [`DiffError::DifferentTypes`] if sample type, unit or temporality
    /// differ. A side without windows takes those of the other.
    pub fn new(
        base: &ProfileAnswer,
        new: &ProfileAnswer,
        reading: Reading,
    ) -> Result<Self, DiffError> {
        let known = if new.coverage.windows == 0 { base } else { new };
        if base.coverage.windows > 0 && new.coverage.windows > 0 && !is_comparable(base, new) {
            let counts = |answer: &ProfileAnswer| answer.profile_type.sample().to_string();
            return Err(DiffError::DifferentTypes {
                base: counts(base),
                new: counts(new),
            });
        }
        let tree = DiffTree::new(&named(base), &named(new));
        let total = tree.total();
        let ratio = ratio(known, reading, total, base, new);
        let mut notes = basis_notes(base, new, reading);
        if ratio.is_none() && total.base != 0 && total.new != 0 {
            notes.push("nothing to scale the base by: values are as measured".to_owned());
        }
        let scale = ratio.unwrap_or(Ratio::ONE);
        let side = |answer: &ProfileAnswer, total| DiffSide {
            window: answer.window,
            period: answer.period,
            total,
            coverage: answer.coverage.clone(),
        };
        Ok(Self {
            profile_type: known.profile_type.clone(),
            temporality: known.temporality,
            reading,
            scale,
            base: side(base, total.base),
            new: side(new, total.new),
            tree: tree.scale_base(scale),
            pruned_nodes: 0,
            notes,
        })
    }

    /// Returns this comparison by function, of at most `max_nodes` nodes. This
    /// is what a collector sends: folded first, so that a function whose lines
    /// moved is one node, and pruned on both sides alike.
    #[must_use]
    pub fn pruned(&self, max_nodes: usize) -> Self {
        let (tree, pruned_nodes) = self.tree.fold_lines().prune(max_nodes);
        Self {
            pruned_nodes: self.pruned_nodes.saturating_add(pruned_nodes),
            ..self.with_tree(tree)
        }
    }

    /// This comparison with another tree, and all else the same.
    pub(crate) fn with_tree(&self, tree: DiffTree) -> Self {
        Self {
            profile_type: self.profile_type.clone(),
            temporality: self.temporality,
            reading: self.reading,
            scale: self.scale,
            base: self.base.clone(),
            new: self.new.clone(),
            tree,
            pruned_nodes: self.pruned_nodes,
            notes: self.notes.clone(),
        }
    }
}

fn is_comparable(base: &ProfileAnswer, new: &ProfileAnswer) -> bool {
    base.profile_type.sample() == new.profile_type.sample() && base.temporality == new.temporality
}

/// The tree of `answer`, in which every value has a frame.
fn named(answer: &ProfileAnswer) -> CallTree {
    prune::name_empty_stacks(&answer.tree).unwrap_or_else(|| answer.tree.clone())
}

/// What the base is multiplied by; `None` when a side has nothing to go by.
fn ratio(
    known: &ProfileAnswer,
    reading: Reading,
    total: Change,
    base: &ProfileAnswer,
    new: &ProfileAnswer,
) -> Option<Ratio> {
    let observed = |answer: &ProfileAnswer| answer.coverage.observed.as_nanos();
    match (reading, known.temporality) {
        (Reading::Absolute, _) | (Reading::PerTime, Temporality::Gauge) => Some(Ratio::ONE),
        (Reading::PerTime, Temporality::Delta) => Ratio::new(observed(new), observed(base)),
        (Reading::Share, _) => Ratio::new(
            u128::try_from(total.new).ok()?,
            u128::try_from(total.base).ok()?,
        ),
    }
}

/// What makes the two sides less comparable than they look.
fn basis_notes(base: &ProfileAnswer, new: &ProfileAnswer, reading: Reading) -> Vec<String> {
    let mut notes = Vec::new();
    let (before, after) = (base.coverage.series, new.coverage.series);
    if reading != Reading::Share && before != after && before > 0 && after > 0 {
        notes.push(format!(
            "the base rests on {before} series, the new side on {after}: shares of the total may compare better"
        ));
    }
    let length = |answer: &ProfileAnswer| answer.coverage.observed;
    if reading == Reading::Absolute && differ_much(length(base), length(new)) {
        notes.push(
            "the sides were observed for different lengths of time, and values are as measured"
                .to_owned(),
        );
    }
    if base.coverage.pruned_nodes > 0 || new.coverage.pruned_nodes > 0 {
        notes.push(
            "each side was pruned by itself: what is \"other\" on one may have a name on the other"
                .to_owned(),
        );
    }
    notes
}

/// Whether two lengths differ by more than a hundredth.
fn differ_much(a: Duration, b: Duration) -> bool {
    a.abs_diff(b).saturating_mul(100) > a.max(b)
}
