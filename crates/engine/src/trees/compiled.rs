//! Lays the trees of an ensemble out for the kernels. Each tree takes one of two forms.
//!
//! **Cuts**: every row starts at the first leaf, and goes through all splits in preorder. A row that is at the first leaf
//! below a split and takes its second child moves on to the first leaf of that child. At the end it is at its leaf. All
//! that is compared is bytes, so that one instruction does it for many rows, without branches.
//!
//! **Walk**: from node to node. The work grows with the depth and not with the number of leaves, so it is the form of
//! trees whose leaves a byte cannot count, of all trees if there are only few rows, and of so few trees that ranks are
//! not worth their time.

use crate::trees::ensemble::{Ensemble, Scored, Scoring, Weight};
use crate::trees::forest::{Comparison, Forest, Split, Tree};
use crate::trees::number::Number;
use crate::trees::ranks::{Place, Ranks};
use crate::trees::{Unfit, index};

/// The most leaves of a tree that has cuts.
pub(crate) const LEAVES: usize = 1 << u8::BITS;

/// The values of the leaves of a tree with cuts are padded to a multiple of this number, up to `LOOKED_UP` leaves.
pub(crate) const PADDING: usize = 32;

/// The most leaves whose values kernels look up in registers.
pub(crate) const LOOKED_UP: usize = 64;

/// A test of a row that is at leaf `first`. If its rank is greater than the bound, it moves on to leaf `end`.
///
/// Each byte is there four times: a processor spreads four bytes over a register while it reads them, but not one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// The column of ranks.
    pub(crate) column: u32,
    pub(crate) bound: [i8; 4],
    pub(crate) first: [u8; 4],
    pub(crate) end: [u8; 4],
}

/// A node of a tree in the form of a walk. A leaf leads to itself.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Stop<T> {
    /// NaN for a leaf.
    pub(crate) threshold: T,
    /// The feature of the input. The highest bits say what leads to the first child.
    pub(crate) feature: u32,
    /// The second child. The first is the next node.
    pub(crate) second: u32,
}

/// The bits of `Stop::feature` that say what leads to the first child: NaN, a value below the threshold, and the
/// threshold itself.
pub(crate) const NAN_IS_FIRST: u32 = 1 << 31;
pub(crate) const LESS_IS_FIRST: u32 = 1 << 30;
pub(crate) const EQUAL_IS_FIRST: u32 = 1 << 29;

/// The bits of `Stop::feature` that are the feature.
pub(crate) const FEATURE: u32 = EQUAL_IS_FIRST - 1;

/// How a row's leaf is found.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    /// The positions of the cuts, and the number of leaves. A tree of one leaf has no cuts.
    Cuts { cuts: (u32, u32), leaves: u32 },
    /// From the tree's root.
    Walk(Tests),
}

/// The tests of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tests {
    LessOrEqual,
    /// NaN leads to the first child in some.
    LessOrEqualOrNan,
    Less,
    LessOrNan,
    Any,
}

/// The weights of a tree's leaves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LeafWeights {
    /// Each leaf has one weight, of the same target.
    One { target: u32, values: u32 },
    /// Each leaf has weights of the same targets in the same order. The weights of one target are consecutive.
    Same { targets: u32, count: u32, values: u32, stride: u32 },
    /// The position of the first leaf in `Compiled::starts`.
    Any { first: u32 },
}

/// A tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CompiledTree {
    pub(crate) form: Form,
    /// The position of the root among the stops.
    pub(crate) root: u32,
    pub(crate) weights: LeafWeights,
}

/// An ensemble that kernels can run.
#[derive(Debug)]
pub(crate) struct Compiled<T> {
    pub(crate) scoring: Scoring,
    pub(crate) trees: Vec<CompiledTree>,
    /// The ranks that cuts test.
    pub(crate) ranks: Ranks<T>,
    pub(crate) cuts: Vec<Cut>,
    pub(crate) stops: Vec<Stop<T>>,
    /// The leaf that each stop is.
    pub(crate) stop_leaves: Vec<u32>,
    pub(crate) values: Vec<T>,
    /// The targets of `LeafWeights::Same`.
    pub(crate) targets: Vec<u32>,
    /// For `LeafWeights::Any`, the weights of each leaf: from this position up to the next leaf's.
    pub(crate) starts: Vec<u32>,
    pub(crate) any: Vec<(u32, T)>,
    /// The largest feature that any node of the model names.
    pub(crate) last_feature: usize,
    pub(crate) has_walks: bool,
    /// The tests of all trees.
    pub(crate) tests: Tests,
}

impl<T: Number> Compiled<T> {
    /// Compiles an ensemble. Its trees have cuts if that is faster.
    pub(crate) fn of(ensemble: &Ensemble) -> Result<Self, Unfit> {
        let ranks = Self::ranks_of(ensemble)?;
        // To find a rank takes about as long as a step of a walk for each level, as measured, and cuts take little.
        let walks: usize = small_trees(&ensemble.forest).map(|tree| tree.leaves.len().ilog2() as usize).sum();
        Self::with(ensemble, if ranks.steps() < walks { ranks } else { Ranks::default() })
    }

    /// Returns the ranks that the cuts of all small trees need.
    pub(crate) fn ranks_of(ensemble: &Ensemble) -> Result<Ranks<T>, Unfit> {
        let forest = &ensemble.forest;
        Ranks::of(small_trees(forest).flat_map(|tree| forest.splits_of(tree)))
    }

    /// Compiles an ensemble with the ranks of `ranks_of`, or without ranks and so without cuts.
    pub(crate) fn with(ensemble: &Ensemble, ranks: Ranks<T>) -> Result<Self, Unfit> {
        let forest = &ensemble.forest;
        let mut compiled = Self {
            ranks,
            scoring: ensemble.scoring.clone(),
            trees: Vec::with_capacity(forest.trees.len()),
            cuts: Vec::new(),
            stops: Vec::new(),
            stop_leaves: Vec::new(),
            values: Vec::new(),
            targets: Vec::new(),
            starts: Vec::new(),
            any: Vec::new(),
            last_feature: forest.last_feature,
            has_walks: false,
            tests: Tests::of(&forest.splits),
        };
        for tree in &forest.trees {
            let form = compiled.form(forest, tree)?;
            let root = compiled.walk(forest.splits_of(tree))?;
            let weights = compiled.weights(ensemble, tree)?;
            compiled.trees.push(CompiledTree { form, root, weights });
        }
        compiled.starts.push(position(compiled.any.len())?);
        Ok(compiled)
    }

    fn form(&mut self, forest: &Forest, tree: &Tree) -> Result<Form, Unfit> {
        let splits = forest.splits_of(tree);
        if !is_small(tree) || (self.ranks.columns == 0 && !splits.is_empty()) {
            self.has_walks = true;
            return Ok(Form::Walk(Tests::of(splits)));
        }
        let start = position(self.cuts.len())?;
        for split in splits {
            let leaf = |leaf| u8::try_from(leaf).map_err(|_| Unfit::Left("too many leaves"));
            let (first, end) = (leaf(split.first)?, leaf(split.end)?);
            let cut = |Place { column, bound }| Cut { column, bound: [bound; 4], first: [first; 4], end: [end; 4] };
            self.cuts.extend(self.ranks.places(split).map(cut));
        }
        Ok(Form::Cuts { cuts: (start, position(self.cuts.len())?), leaves: position(tree.leaves.len())? })
    }

    /// Lays out the nodes of a tree. Returns the position of the root.
    fn walk(&mut self, splits: &[Split]) -> Result<u32, Unfit> {
        let root = self.stops.len();
        let nodes = 2 * splits.len() + 1;
        position(root + nodes)?;
        for i in 0..nodes {
            let itself = position(root + i)?;
            self.stops.push(Stop { threshold: T::NAN, feature: 0, second: itself });
        }
        let mut is_leaf = vec![true; nodes];
        for (i, split) in splits.iter().enumerate() {
            // In preorder, a split comes after the splits and the leaves before it, and its second child after all
            // nodes below the first: as many splits as leaves, with the split itself.
            let (first, end) = (index(split.first), index(split.end));
            let at = i + first;
            let second = i + (end - first) + end;
            let first_by_nan = if split.test.nan_is_first { NAN_IS_FIRST } else { 0 };
            let first_by_value = match split.test.comparison {
                Comparison::LessOrEqual => LESS_IS_FIRST | EQUAL_IS_FIRST,
                Comparison::Less => LESS_IS_FIRST,
                Comparison::Equal => EQUAL_IS_FIRST,
            };
            is_leaf[at] = false;
            self.stops[root + at] = Stop {
                threshold: T::of_double(split.threshold),
                feature: split.feature | first_by_nan | first_by_value,
                second: position(root + second)?,
            };
        }
        let mut leaf = 0;
        for is_leaf in is_leaf {
            self.stop_leaves.push(leaf);
            leaf += u32::from(is_leaf);
        }
        position(root)
    }

    fn weights(&mut self, ensemble: &Ensemble, tree: &Tree) -> Result<LeafWeights, Unfit> {
        let leaves = &ensemble.forest.leaves[tree.leaves.clone()];
        let of = |leaf: &std::ops::Range<usize>| -> &[Weight] { &ensemble.weights[leaf.clone()] };
        let pattern = of(&leaves[0]);
        let same = leaves.iter().all(|leaf| {
            let weights = of(leaf);
            weights.len() == pattern.len() && weights.iter().zip(pattern).all(|(a, b)| a.target == b.target)
        });
        if !same {
            let first = position(self.starts.len())?;
            for leaf in leaves {
                self.starts.push(position(self.any.len())?);
                self.any.extend(of(leaf).iter().map(|w| (w.target, T::of_double(w.value))));
            }
            return Ok(LeafWeights::Any { first });
        }
        let values = position(self.values.len())?;
        // The kernels read the padding too.
        let stride = leaves.len().next_multiple_of(if leaves.len() <= LOOKED_UP { PADDING } else { 1 });
        for (i, _) in pattern.iter().enumerate() {
            self.values.extend(leaves.iter().map(|leaf| T::of_double(of(leaf)[i].value)));
            self.values.resize(self.values.len() + stride - leaves.len(), T::ZERO);
        }
        position(self.values.len())?;
        Ok(match pattern {
            [one] => LeafWeights::One { target: one.target, values },
            _ => {
                let targets = position(self.targets.len())?;
                self.targets.extend(pattern.iter().map(|w| w.target));
                let (count, stride) = (position(pattern.len())?, position(stride)?);
                LeafWeights::Same { targets, count, values, stride }
            }
        })
    }

    /// Returns the cuts of a tree. A tree that is walked through has none.
    pub(crate) fn cuts_of(&self, tree: &CompiledTree) -> &[Cut] {
        match tree.form {
            Form::Cuts { cuts, .. } => &self.cuts[index(cuts.0)..index(cuts.1)],
            Form::Walk(_) => &[],
        }
    }

    /// Whether a target has a score in some rows only.
    pub(crate) fn has_sometimes(&self) -> bool {
        self.scoring.scored.contains(&Scored::Sometimes)
    }
}

impl Tests {
    fn of(splits: &[Split]) -> Self {
        let all = |comparison| splits.iter().all(|split| split.test.comparison == comparison);
        let nan = splits.iter().any(|split| split.test.nan_is_first);
        match (all(Comparison::LessOrEqual), all(Comparison::Less), nan) {
            (true, _, false) => Self::LessOrEqual,
            (true, _, true) => Self::LessOrEqualOrNan,
            (_, true, false) => Self::Less,
            (_, true, true) => Self::LessOrNan,
            _ => Self::Any,
        }
    }
}

/// Whether a byte can count the leaves of a tree.
fn is_small(tree: &Tree) -> bool {
    tree.leaves.len() <= LEAVES
}

fn small_trees(forest: &Forest) -> impl Iterator<Item = &Tree> {
    forest.trees.iter().filter(|tree| is_small(tree))
}

fn position(n: usize) -> Result<u32, Unfit> {
    // The highest bit stays free, so that a position is an `i32` too, which is what gathers take.
    u32::try_from(n).ok().filter(|n| *n < 1 << 31).ok_or(Unfit::Left("too many nodes"))
}
