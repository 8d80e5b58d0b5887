//! Reads a tree-ensemble operator: its trees, and how their weights become outputs.
//!
//! An operator that is unusual in any way is left to ONNX Runtime, also if ONNX Runtime would reject it: then the
//! message is ONNX Runtime's own. Only a cycle is refused here, because ONNX Runtime would follow it until its stack
//! ends.

use std::collections::HashMap;
use std::ops::Range;

use crate::trees::Unfit;
use crate::trees::attributes::{Numbers, Value};
use crate::trees::forest::{Forest, LAST_FEATURE, Mode, Node, Seen};
use crate::trees::node_places::{Places, weights_of};

/// The operators for tree ensembles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    /// `TreeEnsembleRegressor` of ai.onnx.ml 1 and 3.
    Regressor,
    /// `TreeEnsembleClassifier` of ai.onnx.ml 1 and 3.
    Classifier,
    /// `TreeEnsemble` of ai.onnx.ml 5.
    Ensemble,
}

/// How the weights of the trees become one score for each target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aggregate {
    Sum,
    Average,
    Min,
    Max,
}

/// The transformation of the scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transform {
    None,
    Logistic,
    Softmax,
    SoftmaxZero,
    Probit,
}

/// The labels of a classifier's classes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Labels {
    Integers(Vec<i64>),
    Texts(Vec<String>),
}

impl Labels {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Integers(labels) => labels.len(),
            Self::Texts(labels) => labels.len(),
        }
    }
}

/// A weight of a leaf.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Weight {
    pub(crate) target: u32,
    pub(crate) value: f64,
}

/// Whether a target has a score. ONNX Runtime treats a target without a weight in a row's leaves as if it had none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scored {
    Never,
    Always,
    /// It depends on the row.
    Sometimes,
}

/// How the weights of the leaves become outputs.
#[derive(Debug, Clone)]
pub(crate) struct Scoring {
    pub(crate) operator: Operator,
    pub(crate) aggregate: Aggregate,
    pub(crate) transform: Transform,
    /// The number of targets or classes.
    pub(crate) targets: usize,
    pub(crate) trees: usize,
    pub(crate) base: Vec<f64>,
    pub(crate) labels: Option<Labels>,
    /// For each target.
    pub(crate) scored: Vec<Scored>,
    /// Whether there are two classes, and all weights are of one of them.
    pub(crate) one_class_weighted: bool,
    /// Whether no weight of a classifier is negative.
    pub(crate) no_negative_weight: bool,
}

/// A tree-ensemble operator.
#[derive(Debug)]
pub(crate) struct Ensemble {
    pub(crate) forest: Forest,
    pub(crate) weights: Vec<Weight>,
    pub(crate) scoring: Scoring,
    /// Whether numbers are doubles; `None` if they are what the input's element type asks for.
    pub(crate) double: Option<bool>,
    /// Whether an input of one dimension, which is one row otherwise, is an error.
    pub(crate) of_table: bool,
}

/// The largest number of targets. More are left to ONNX Runtime.
const MOST_TARGETS: usize = 1024;

/// The attributes of an operator by name. Each is taken once; what is left over is unknown.
pub(crate) struct Attributes<'a>(pub(crate) HashMap<&'a str, Value<'a>>);

impl<'a> Attributes<'a> {
    fn integers(&mut self, name: &str) -> Result<Vec<i64>, Unfit> {
        match self.0.remove(name) {
            None => Ok(Vec::new()),
            Some(Value::Integers(v)) => Ok(v),
            Some(_) => Err(Unfit::Left("an attribute of the wrong type")),
        }
    }

    fn texts(&mut self, name: &str) -> Result<Vec<&'a [u8]>, Unfit> {
        match self.0.remove(name) {
            None => Ok(Vec::new()),
            Some(Value::Texts(v)) => Ok(v),
            Some(_) => Err(Unfit::Left("an attribute of the wrong type")),
        }
    }

    fn text(&mut self, name: &str, default: &'static [u8]) -> Result<&'a [u8], Unfit> {
        match self.0.remove(name) {
            None => Ok(default),
            Some(Value::Text(v)) => Ok(v),
            Some(_) => Err(Unfit::Left("an attribute of the wrong type")),
        }
    }

    fn integer(&mut self, name: &str, default: i64) -> Result<i64, Unfit> {
        match self.0.remove(name) {
            None => Ok(default),
            Some(Value::Integer(v)) => Ok(v),
            Some(_) => Err(Unfit::Left("an attribute of the wrong type")),
        }
    }

    fn tensor(&mut self, name: &str) -> Result<Option<Numbers>, Unfit> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::Tensor(v)) => Ok(Some(v)),
            Some(_) => Err(Unfit::Left("an attribute of the wrong type")),
        }
    }

    /// Takes the numbers of an attribute, or of the tensor that replaces it.
    fn numbers(&mut self, name: &str, double: &mut Option<bool>) -> Result<Numbers, Unfit> {
        let tensor = self.tensor(&format!("{name}_as_tensor"))?;
        let floats = match self.0.remove(name) {
            None => Vec::new(),
            Some(Value::Floats(v)) => v,
            Some(_) => return Err(Unfit::Left("an attribute of the wrong type")),
        };
        match tensor {
            None => Ok(Numbers::Float32(floats)),
            Some(_) if !floats.is_empty() => Err(Unfit::Left("an attribute that is given twice")),
            Some(tensor) => {
                float_type(&tensor, double)?;
                Ok(tensor)
            }
        }
    }
}

/// Records the element type of a tensor. All tensors of an operator have the same.
fn float_type(tensor: &Numbers, double: &mut Option<bool>) -> Result<(), Unfit> {
    let is_double = match tensor {
        Numbers::Float32(_) => false,
        Numbers::Float64(_) => true,
        Numbers::Uint8(_) => return Err(Unfit::Left("a tensor of the wrong type")),
    };
    if double.is_some_and(|d| d != is_double) {
        return Err(Unfit::Left("tensors of different types"));
    }
    *double = Some(is_double);
    Ok(())
}

impl Ensemble {
    /// Returns the weight of each leaf, or `None` if a leaf has several.
    pub(crate) fn leaf_weights(&self) -> Option<Vec<f32>> {
        let weight = |of: &Range<usize>| match self.weights.get(of.clone()) {
            // The weights of this ensemble are floats.
            #[allow(clippy::cast_possible_truncation, reason = "a float stays the same")]
            Some([weight]) if self.double != Some(true) => Some(weight.value as f32),
            _ => None,
        };
        self.forest.leaves.iter().map(weight).collect()
    }

    /// Reads an operator from its attributes.
    pub(crate) fn read(operator: Operator, mut attributes: Attributes<'_>) -> Result<Self, Unfit> {
        let ensemble = match operator {
            Operator::Regressor | Operator::Classifier => Self::by_node(operator, &mut attributes)?,
            Operator::Ensemble => Self::by_leaf(&mut attributes)?,
        };
        if !attributes.0.is_empty() {
            return Err(Unfit::Left("an unknown attribute"));
        }
        Ok(ensemble)
    }

    /// Reads an operator of ai.onnx.ml 1 or 3, whose nodes name their tree.
    fn by_node(operator: Operator, attributes: &mut Attributes<'_>) -> Result<Self, Unfit> {
        let classifier = operator == Operator::Classifier;
        let mut double = None;
        let base = attributes.numbers("base_values", &mut double)?;
        drop(attributes.numbers("nodes_hitrates", &mut double)?);
        let values = attributes.numbers("nodes_values", &mut double)?;
        let [features, tree_ids, node_ids, when_true, when_false, missing] = [
            "nodes_featureids",
            "nodes_treeids",
            "nodes_nodeids",
            "nodes_truenodeids",
            "nodes_falsenodeids",
            "nodes_missing_value_tracks_true",
        ]
        .map(|name| attributes.integers(name));
        let (features, tree_ids, node_ids) = (features?, tree_ids?, node_ids?);
        let (when_true, when_false, missing) = (when_true?, when_false?, missing?);
        let modes = attributes.texts("nodes_modes")?;
        let prefix = if classifier { "class" } else { "target" };
        let [target_ids, target_nodes, target_trees] =
            ["ids", "nodeids", "treeids"].map(|name| attributes.integers(&format!("{prefix}_{name}")));
        let (target_ids, target_nodes, target_trees) = (target_ids?, target_nodes?, target_trees?);
        let target_weights = attributes.numbers(&format!("{prefix}_weights"), &mut double)?;
        let transform = match attributes.text("post_transform", b"NONE")? {
            b"NONE" => Transform::None,
            b"LOGISTIC" => Transform::Logistic,
            b"SOFTMAX" => Transform::Softmax,
            b"SOFTMAX_ZERO" => Transform::SoftmaxZero,
            b"PROBIT" => Transform::Probit,
            _ => return Err(Unfit::Left("an unknown transformation")),
        };
        let (targets, labels, aggregate) = if classifier {
            let labels = labels(attributes)?;
            (labels.len(), Some(labels), Aggregate::Sum)
        } else {
            let aggregate = match attributes.text("aggregate_function", b"SUM")? {
                b"SUM" => Aggregate::Sum,
                b"AVERAGE" => Aggregate::Average,
                b"MIN" => Aggregate::Min,
                b"MAX" => Aggregate::Max,
                _ => return Err(Unfit::Left("an unknown aggregate")),
            };
            (usize::try_from(attributes.integer("n_targets", 0)?).unwrap_or(0), None, aggregate)
        };

        let n = modes.len();
        let lengths = [features.len(), tree_ids.len(), node_ids.len(), when_true.len(), when_false.len(), values.len()];
        let missing_fits = missing.is_empty() || missing.len() == n;
        if n == 0 || lengths.iter().any(|length| *length != n) || !missing_fits {
            return Err(Unfit::Left("attributes of different lengths"));
        }
        let weights = target_ids.len();
        if [target_nodes.len(), target_trees.len(), target_weights.len()].iter().any(|length| *length != weights) {
            return Err(Unfit::Left("attributes of different lengths"));
        }

        let places = Places::of(&tree_ids, &node_ids)?;
        let (of_node, weights, outline) =
            weights_of(&places, &target_ids, &target_nodes, &target_trees, &target_weights, n)?;
        let mut forest = Forest::default();
        let mut seen = vec![Seen::Never; n];
        for feature in &features {
            let feature = u32::try_from(*feature).ok().filter(|f| *f <= LAST_FEATURE);
            let feature = feature.and_then(|f| usize::try_from(f).ok()).ok_or(Unfit::Left("a feature out of range"))?;
            forest.last_feature = forest.last_feature.max(feature);
        }
        for tree in &places.trees {
            let child = |id: i64| match usize::try_from(id) {
                Ok(id) if id < n => places.node(tree, i64::try_from(id).unwrap_or(-1)),
                _ => Err(Unfit::Left("a node that does not exist")),
            };
            forest.add(tree.nodes.start, &mut seen, |at| {
                let mode = match *modes.get(at).ok_or(Unfit::Left("a node that does not exist"))? {
                    b"LEAF" => return Ok(Node::Leaf(of_node.range(at))),
                    b"BRANCH_LEQ" => Mode::LessOrEqual,
                    b"BRANCH_LT" => Mode::Less,
                    b"BRANCH_GTE" => Mode::GreaterOrEqual,
                    b"BRANCH_GT" => Mode::Greater,
                    b"BRANCH_EQ" => Mode::Equal,
                    b"BRANCH_NEQ" => Mode::NotEqual,
                    _ => return Err(Unfit::Left("an unknown mode")),
                };
                Ok(Node::Branch {
                    mode,
                    feature: features[at],
                    threshold: values.get(at).unwrap_or(f64::NAN),
                    nan_is_true: missing.get(at) == Some(&1),
                    when_true: child(when_true[at])?,
                    when_false: child(when_false[at])?,
                })
            })?;
        }
        if seen.contains(&Seen::Never) {
            return Err(Unfit::Left("a node that no tree reaches"));
        }
        let scoring = Scoring {
            operator,
            aggregate,
            transform,
            targets,
            trees: forest.trees.len(),
            base: (0..base.len()).filter_map(|i| base.get(i)).collect(),
            labels,
            scored: Vec::new(),
            one_class_weighted: targets == 2 && outline.one_target,
            no_negative_weight: outline.no_negative,
        };
        Self::checked(forest, weights, scoring, double)
    }

    /// Reads an operator of ai.onnx.ml 5, whose leaves have a target and a weight each.
    fn by_leaf(attributes: &mut Attributes<'_>) -> Result<Self, Unfit> {
        let mut double = None;
        let mut required = |name: &str, attributes: &mut Attributes<'_>| {
            let tensor = attributes.tensor(name)?.ok_or(Unfit::Left("a missing attribute"))?;
            float_type(&tensor, &mut double)?;
            Ok(tensor)
        };
        let splits = required("nodes_splits", attributes)?;
        let leaf_weights = required("leaf_weights", attributes)?;
        drop(attributes.tensor("nodes_hitrates")?);
        if attributes.tensor("membership_values")?.is_some_and(|values| values.len() > 0) {
            return Err(Unfit::Left("set membership"));
        }
        let Some(Numbers::Uint8(modes)) = attributes.tensor("nodes_modes")? else {
            return Err(Unfit::Left("a missing attribute"));
        };
        let [features, when_true, when_false, true_leaves, false_leaves, missing] = [
            "nodes_featureids",
            "nodes_truenodeids",
            "nodes_falsenodeids",
            "nodes_trueleafs",
            "nodes_falseleafs",
            "nodes_missing_value_tracks_true",
        ]
        .map(|name| attributes.integers(name));
        let (features, when_true, when_false) = (features?, when_true?, when_false?);
        let (true_leaves, false_leaves, missing) = (true_leaves?, false_leaves?, missing?);
        let (leaf_targets, roots) = (attributes.integers("leaf_targetids")?, attributes.integers("tree_roots")?);
        let targets = usize::try_from(attributes.integer("n_targets", 0)?).unwrap_or(0);
        let aggregate = match attributes.integer("aggregate_function", 1)? {
            0 => Aggregate::Average,
            1 => Aggregate::Sum,
            2 => Aggregate::Min,
            3 => Aggregate::Max,
            _ => return Err(Unfit::Left("an unknown aggregate")),
        };
        // ONNX Runtime 1.32 reads 1 as LOGISTIC and 2 as SOFTMAX. The specification of ONNX has them the other way.
        let transform = match attributes.integer("post_transform", 0)? {
            0 => Transform::None,
            1 => Transform::Logistic,
            2 => Transform::Softmax,
            3 => Transform::SoftmaxZero,
            4 => Transform::Probit,
            _ => return Err(Unfit::Left("an unknown transformation")),
        };

        let (n, leaves) = (modes.len(), leaf_targets.len());
        let lengths =
            [features.len(), when_true.len(), when_false.len(), true_leaves.len(), false_leaves.len(), splits.len()];
        let missing_fits = missing.is_empty() || missing.len() == n;
        if n == 0
            || roots.is_empty()
            || lengths.iter().any(|l| *l != n)
            || !missing_fits
            || leaf_weights.len() != leaves
        {
            return Err(Unfit::Left("attributes of different lengths"));
        }
        let mut weights = Vec::with_capacity(leaves);
        for (i, target) in leaf_targets.iter().enumerate() {
            let target = u32::try_from(*target).map_err(|_| Unfit::Left("a target out of range"))?;
            weights.push(Weight { target, value: leaf_weights.get(i).unwrap_or(f64::NAN) });
        }
        let mut forest = Forest::default();
        // Leaves come after the other nodes.
        let mut seen = vec![Seen::Never; n + leaves];
        let child = |id: i64, leaf: i64| {
            let (offset, count) = if leaf != 0 { (n, leaves) } else { (0, n) };
            let id = usize::try_from(id).ok().filter(|id| *id < count);
            Ok(offset + id.ok_or(Unfit::Left("a node that does not exist"))?)
        };
        for root in roots {
            let root = usize::try_from(root).ok().filter(|root| *root < n);
            let root = root.ok_or(Unfit::Left("a node that does not exist"))?;
            // ONNX Runtime reads such a root as a leaf.
            if when_true[root] == when_false[root] && true_leaves[root] != 0 && false_leaves[root] != 0 {
                return Err(Unfit::Left("a tree of one leaf"));
            }
            forest.add(root, &mut seen, |at| {
                if at >= n {
                    return Ok(Node::Leaf(at - n..at - n + 1));
                }
                let mode = match modes[at] {
                    0 => Mode::LessOrEqual,
                    1 => Mode::Less,
                    2 => Mode::GreaterOrEqual,
                    3 => Mode::Greater,
                    4 => Mode::Equal,
                    5 => Mode::NotEqual,
                    _ => return Err(Unfit::Left("set membership")),
                };
                Ok(Node::Branch {
                    mode,
                    feature: features[at],
                    threshold: splits.get(at).unwrap_or(f64::NAN),
                    nan_is_true: missing.get(at) == Some(&1),
                    when_true: child(when_true[at], true_leaves[at])?,
                    when_false: child(when_false[at], false_leaves[at])?,
                })
            })?;
        }
        for split in &forest.splits {
            forest.last_feature = forest.last_feature.max(usize::try_from(split.feature).unwrap_or(usize::MAX));
        }
        let scoring = Scoring {
            operator: Operator::Ensemble,
            aggregate,
            transform,
            targets,
            trees: forest.trees.len(),
            base: Vec::new(),
            labels: None,
            scored: Vec::new(),
            one_class_weighted: false,
            no_negative_weight: false,
        };
        Self::checked(forest, weights, scoring, double)
    }

    /// Checks what both forms have in common.
    fn checked(
        forest: Forest,
        weights: Vec<Weight>,
        mut scoring: Scoring,
        double: Option<bool>,
    ) -> Result<Self, Unfit> {
        let Scoring { targets, base, .. } = &scoring;
        let classifier = scoring.operator == Operator::Classifier;
        if *targets == 0 || *targets > MOST_TARGETS {
            return Err(Unfit::Left("an unusual number of targets"));
        }
        if weights.iter().any(|w| usize::try_from(w.target).map_or(true, |target| target >= *targets)) {
            return Err(Unfit::Left("a target out of range"));
        }
        if weights.iter().any(|w| w.value.is_nan()) || base.iter().any(|b| b.is_nan()) {
            return Err(Unfit::Left("a weight that is NaN"));
        }
        let base_fits = match (classifier, *targets) {
            // ONNX Runtime writes two scores of one class, beyond the end of its output.
            (true, 1) => false,
            (true, 2) => base.len() <= 2,
            _ => base.is_empty() || base.len() == *targets,
        };
        if !base_fits {
            return Err(Unfit::Left("an unusual number of base values or classes"));
        }
        // What a leaf without a weight, or with several for one target, adds is not specified.
        if forest.leaves.iter().any(Range::is_empty) {
            return Err(Unfit::Left("a leaf without a weight"));
        }
        if *targets == 1 && forest.leaves.iter().any(|w| w.len() != 1) {
            return Err(Unfit::Left("a leaf with several weights"));
        }
        scoring.scored = scored(&forest, &weights, *targets);
        if may_write_one_of_two(&scoring) {
            return Err(Unfit::Left("a classifier of two classes whose second score is not specified"));
        }
        // With fused multiply-add, the compiler of ONNX Runtime may round this transformation differently.
        if scoring.transform == Transform::Probit && !cfg!(target_arch = "x86_64") {
            return Err(Unfit::Left("a transformation that is exact on x86_64 only"));
        }
        Ok(Self { forest, weights, scoring, double, of_table: false })
    }
}

/// Finds out which targets have a score in every row: those with a weight in every leaf of a tree.
fn scored(forest: &Forest, weights: &[Weight], targets: usize) -> Vec<Scored> {
    let mut scored = vec![Scored::Never; targets];
    // For each target, the leaf that had a weight for it last, and the number of such leaves in the tree.
    let mut last = vec![(usize::MAX, 0_usize); targets];
    for tree in &forest.trees {
        last.iter_mut().for_each(|(_, count)| *count = 0);
        for leaf in tree.leaves.clone() {
            let of_leaf = forest.leaves.get(leaf).and_then(|w| weights.get(w.clone())).unwrap_or_default();
            for weight in of_leaf {
                let target = weight.target as usize;
                if let (Some(scored), Some((last, count))) = (scored.get_mut(target), last.get_mut(target)) {
                    *count += usize::from(*last != leaf);
                    *last = leaf;
                    if *scored == Scored::Never {
                        *scored = Scored::Sometimes;
                    }
                    if *count == tree.leaves.len() {
                        *scored = Scored::Always;
                    }
                }
            }
        }
    }
    scored
}

/// Whether ONNX Runtime does not write the second score of some rows, so that it is what the memory held before.
fn may_write_one_of_two(scoring: &Scoring) -> bool {
    scoring.operator == Operator::Classifier
        && scoring.targets == 2
        && scoring.base.len() < 2
        && scoring.scored.get(1) != Some(&Scored::Always)
        && (scoring.transform == Transform::Probit || (scoring.base.len() == 1 && !scoring.one_class_weighted))
}

fn labels(attributes: &mut Attributes<'_>) -> Result<Labels, Unfit> {
    let integers = attributes.integers("classlabels_int64s")?;
    let texts = attributes.texts("classlabels_strings")?;
    match (integers.is_empty(), texts.is_empty()) {
        (false, true) => Ok(Labels::Integers(integers)),
        (true, false) => {
            let text = |t: &&[u8]| String::from_utf8(t.to_vec()).ok().filter(|t| !t.contains('\0'));
            let texts = texts.iter().map(text).collect::<Option<_>>();
            Ok(Labels::Texts(texts.ok_or(Unfit::Left("a label that is not text"))?))
        }
        _ => Err(Unfit::Left("no labels, or labels of two types")),
    }
}
