//! Lays the trees of an ensemble out for the kernels. Each tree takes one of two forms.
//!
//! **Masks**, after QuickScorer (Lucchese et al., SIGIR 2015): a word has a bit for each of 32 leaves, and a row starts
//! with all bits set. A split whose first child the row does not take clears the bits of the leaves below that child.
//! The lowest bit that is left is the row's leaf. Splits may be tested in any order and without branches, for many rows
//! at once. A tree with more leaves has several words, and a split is tested once for each word that it clears bits of.
//!
//! **Walk**: from node to node. The work grows with the depth and not with the number of leaves, so it is the form of
//! large trees, and of all trees if there are only few rows.

use crate::trees::Unfit;
use crate::trees::ensemble::{Ensemble, Scored, Scoring, Weight};
use crate::trees::forest::{Comparison, Forest, Split, Test, Tree};
use crate::trees::number::Number;

/// The number of leaves of a mask's word.
pub(crate) const WORD: usize = 32;

/// A test of a row's feature. If the row takes the second child, the mask's zero bits are cleared.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Cut<T> {
    pub(crate) threshold: T,
    pub(crate) mask: u32,
    /// The position among the compiled features.
    pub(crate) feature: u32,
}

/// Consecutive cuts with the same test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    pub(crate) test: Test,
    pub(crate) cuts: (u32, u32),
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
    /// The tree has one leaf.
    Leaf,
    /// The position of the first word, and the number of words.
    Masks { first: u32, words: u32 },
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
    /// The features of the input that masks test.
    pub(crate) features: Vec<u32>,
    /// The stretches of each word: from this position up to the next word's.
    pub(crate) words: Vec<u32>,
    pub(crate) stretches: Vec<Stretch>,
    pub(crate) cuts: Vec<Cut<T>>,
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

/// What a kernel is good at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The most cuts of a tree that are faster than a walk.
    pub(crate) cuts: usize,
}

impl<T: Number> Compiled<T> {
    /// Compiles an ensemble.
    pub(crate) fn of(ensemble: &Ensemble, limits: Limits) -> Result<Self, Unfit> {
        let forest = &ensemble.forest;
        let mut compiled = Self {
            scoring: ensemble.scoring.clone(),
            trees: Vec::with_capacity(forest.trees.len()),
            features: Vec::new(),
            words: Vec::new(),
            stretches: Vec::new(),
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
        let mut dense = Dense::default();
        for tree in &forest.trees {
            let form = compiled.form(forest, tree, limits, &mut dense)?;
            let root = compiled.walk(forest.splits_of(tree))?;
            let weights = compiled.weights(ensemble, tree)?;
            compiled.trees.push(CompiledTree { form, root, weights });
        }
        compiled.words.push(position(compiled.stretches.len())?);
        compiled.starts.push(position(compiled.any.len())?);
        compiled.features = dense.features;
        Ok(compiled)
    }

    fn form(&mut self, forest: &Forest, tree: &Tree, limits: Limits, dense: &mut Dense) -> Result<Form, Unfit> {
        let splits = forest.splits_of(tree);
        if splits.is_empty() {
            return Ok(Form::Leaf);
        }
        let cuts = splits.iter().fold(0_usize, |n, split| n.saturating_add(words_of(split).count()));
        if cuts > limits.cuts {
            self.has_walks = true;
            return Ok(Form::Walk(Tests::of(splits)));
        }
        self.masks(splits, dense)
    }

    fn masks(&mut self, splits: &[Split], dense: &mut Dense) -> Result<Form, Unfit> {
        let words = (splits.len() + 1).div_ceil(WORD);
        let mut cuts = Vec::with_capacity(splits.len());
        for split in splits {
            let feature = dense.position(split.feature)?;
            for word in words_of(split) {
                let offset = word * WORD;
                let clears = bits_below(index(split.end), offset) & !bits_below(index(split.first), offset);
                let threshold = T::of_double(split.threshold);
                cuts.push((word, split.test, Cut { threshold, mask: !clears, feature }));
            }
        }
        cuts.sort_by_key(|(word, test, cut)| (*word, *test, cut.feature));
        let first = position(self.words.len())?;
        let mut rest = cuts.as_slice();
        for word in 0..words {
            self.words.push(position(self.stretches.len())?);
            while let Some((_, test, _)) = rest.first().filter(|(of, ..)| *of == word) {
                let length = rest.iter().take_while(|(of, other, _)| *of == word && other == test).count();
                let start = position(self.cuts.len())?;
                self.cuts.extend(rest[..length].iter().map(|(.., cut)| *cut));
                self.stretches.push(Stretch { test: *test, cuts: (start, position(self.cuts.len())?) });
                rest = &rest[length..];
            }
        }
        Ok(Form::Masks { first, words: position(words)? })
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
        // The kernels read the values of whole words.
        let stride = leaves.len().next_multiple_of(if leaves.len() <= 2 * WORD { WORD } else { 1 });
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

/// The features that masks test, and the position of each.
#[derive(Default)]
struct Dense {
    features: Vec<u32>,
    positions: std::collections::HashMap<u32, u32, foldhash::fast::FixedState>,
}

impl Dense {
    fn position(&mut self, feature: u32) -> Result<u32, Unfit> {
        let next = position(self.features.len())?;
        Ok(*self.positions.entry(feature).or_insert_with(|| {
            self.features.push(feature);
            next
        }))
    }
}

/// Returns the words that have leaves below the first child of a split.
fn words_of(split: &Split) -> std::ops::Range<usize> {
    index(split.first) / WORD..index(split.end).div_ceil(WORD)
}

/// Returns a word whose first leaf is `offset`, with the bits of the leaves before `end` set.
fn bits_below(end: usize, offset: usize) -> u32 {
    match end.saturating_sub(offset) {
        bits @ 0..WORD => (1 << bits) - 1,
        _ => u32::MAX,
    }
}

fn position(n: usize) -> Result<u32, Unfit> {
    // The highest bit stays free, so that a position is an `i32` too, which is what gathers take.
    u32::try_from(n).ok().filter(|n| *n < 1 << 31).ok_or(Unfit::Left("too many nodes"))
}

/// Returns a position as an index.
#[inline(always)]
pub(crate) fn index(position: u32) -> usize {
    position as usize
}
