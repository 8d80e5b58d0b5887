//! The trees of an ensemble in one normal form, whatever operator they come from.
//!
//! Each split has a first child and a second child. The first child is the one that a comparison `<=`, `<` or `==`
//! leads to when it holds, so `>`, `>=` and `!=` exchange the children. Splits are stored in preorder, first child
//! before second, and leaves in the order in which that walk meets them. So the leaves below the first child of a split
//! are consecutive, and the positions of both children follow from them.

use crate::trees::Unfit;

/// The comparison of a split with its threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Comparison {
    LessOrEqual,
    Less,
    Equal,
}

/// A comparison, and the child that NaN leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Test {
    pub(crate) comparison: Comparison,
    /// Whether NaN leads to the first child. Otherwise it leads to the second.
    pub(crate) nan_is_first: bool,
}

/// The comparison of a split, as a model file names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Greater,
    Equal,
    NotEqual,
}

/// A node of a tree, as a model file stores it.
pub(crate) enum Node {
    /// Its weights are at these positions of the ensemble's weights.
    Leaf(std::ops::Range<usize>),
    Branch {
        mode: Mode,
        feature: i64,
        threshold: f64,
        /// Whether NaN takes the true branch, whatever the comparison says.
        nan_is_true: bool,
        when_true: usize,
        when_false: usize,
    },
}

/// A split of a tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Split {
    pub(crate) threshold: f64,
    pub(crate) feature: u32,
    /// The first leaf below the split, counted from the first leaf of the tree.
    pub(crate) first: u32,
    /// The end of the leaves below the first child.
    pub(crate) end: u32,
    pub(crate) test: Test,
}

/// A tree: consecutive splits and leaves of the forest. The number of leaves is that of the splits and one.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub(crate) splits: std::ops::Range<usize>,
    pub(crate) leaves: std::ops::Range<usize>,
}

/// The trees of an ensemble, in order.
#[derive(Debug, Default)]
pub(crate) struct Forest {
    pub(crate) splits: Vec<Split>,
    /// For each leaf, the positions of its weights.
    pub(crate) leaves: Vec<std::ops::Range<usize>>,
    pub(crate) trees: Vec<Tree>,
    /// The largest feature that any node names, also a leaf.
    pub(crate) last_feature: usize,
}

/// A step of the walk through a tree.
enum Step {
    Enter(usize),
    /// All leaves below the first child of this split have been met.
    FirstEnds(usize),
    Leave(usize),
}

/// What the walk has seen of a node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Never,
    /// It is being walked through, so meeting it again is a cycle.
    Above,
    Done,
}

impl Forest {
    /// Adds the tree with this root. `seen` has an entry for each node. Refuses cycles. Nodes with two parents, and
    /// thresholds that are NaN, are unfit.
    pub(crate) fn add(
        &mut self,
        root: usize,
        seen: &mut [Seen],
        node: impl Fn(usize) -> Result<Node, Unfit>,
    ) -> Result<(), Unfit> {
        let (split_start, leaf_start) = (self.splits.len(), self.leaves.len());
        let mut steps = vec![Step::Enter(root)];
        while let Some(step) = steps.pop() {
            match step {
                Step::Leave(at) => {
                    if let Some(seen) = seen.get_mut(at) {
                        *seen = Seen::Done;
                    }
                }
                Step::FirstEnds(split) => self.splits[split].end = position(self.leaves.len() - leaf_start)?,
                Step::Enter(at) => {
                    let seen = seen.get_mut(at).ok_or(Unfit::Left("a node that does not exist"))?;
                    match *seen {
                        Seen::Never => {}
                        Seen::Above => return Err(Unfit::Refused("a tree of the model contains a cycle")),
                        Seen::Done => return Err(Unfit::Left("a node with two parents")),
                    }
                    match node(at)? {
                        Node::Leaf(weights) => {
                            *seen = Seen::Done;
                            self.leaves.push(weights);
                        }
                        Node::Branch { mode, feature, threshold, nan_is_true, when_true, when_false } => {
                            *seen = Seen::Above;
                            if threshold.is_nan() {
                                return Err(Unfit::Left("a threshold that is NaN"));
                            }
                            let feature = u32::try_from(feature).ok().filter(|f| *f <= LAST_FEATURE);
                            let feature = feature.ok_or(Unfit::Left("a feature out of range"))?;
                            let (test, swapped) = mode.test(nan_is_true);
                            let (first, second) =
                                if swapped { (when_false, when_true) } else { (when_true, when_false) };
                            let leaf = position(self.leaves.len() - leaf_start)?;
                            let split = self.splits.len();
                            self.splits.push(Split { threshold, feature, first: leaf, end: leaf, test });
                            steps.extend([
                                Step::Leave(at),
                                Step::Enter(second),
                                Step::FirstEnds(split),
                                Step::Enter(first),
                            ]);
                        }
                    }
                }
            }
        }
        self.trees.push(Tree { splits: split_start..self.splits.len(), leaves: leaf_start..self.leaves.len() });
        Ok(())
    }

    /// Returns the splits of a tree.
    pub(crate) fn splits_of(&self, tree: &Tree) -> &[Split] {
        self.splits.get(tree.splits.clone()).unwrap_or_default()
    }
}

/// The largest number of a feature. The highest bit of a feature is free for a kernel's use.
pub(crate) const LAST_FEATURE: u32 = (1 << 24) - 1;

fn position(n: usize) -> Result<u32, Unfit> {
    u32::try_from(n).map_err(|_| Unfit::Left("too many leaves"))
}

impl Mode {
    /// Returns the test, and whether the first child is the one of the false branch.
    fn test(self, nan_is_true: bool) -> (Test, bool) {
        let (comparison, nan_is_first, swapped) = match self {
            Self::LessOrEqual => (Comparison::LessOrEqual, nan_is_true, false),
            Self::Less => (Comparison::Less, nan_is_true, false),
            Self::Equal => (Comparison::Equal, nan_is_true, false),
            Self::Greater => (Comparison::LessOrEqual, !nan_is_true, true),
            Self::GreaterOrEqual => (Comparison::Less, !nan_is_true, true),
            // NaN differs from every number, so it takes the true branch in any case.
            Self::NotEqual => (Comparison::Equal, false, true),
        };
        (Test { comparison, nan_is_first }, swapped)
    }
}
