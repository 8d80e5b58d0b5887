//! Generates ensembles of every kind, and rows that meet their thresholds.

use crate::tensor::Column;
use crate::trees::tests::encoding::{Attribute, Input, ModelOfTrees};

/// A seeded source of numbers (splitmix64).
#[derive(Debug, Clone)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    /// A number between -1 and 1.
    fn number(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}

/// An ensemble, and the thresholds of each of its features.
pub(super) struct Generated {
    pub(super) model: ModelOfTrees,
    pub(super) thresholds: Vec<Vec<f64>>,
}

/// A node. Children are positions.
struct Node {
    mode: usize,
    feature: usize,
    threshold: f64,
    missing: i64,
    children: Option<(usize, usize)>,
}

pub(super) const MODES: [&str; 6] = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];

const SPECIAL: [f64; 10] =
    [0.0, -0.0, 1e-40, -1e-40, f32::MIN_POSITIVE as f64, 1.0, f32::MAX as f64, -1e30, f64::INFINITY, 16_777_217.0];

/// What the trees of an ensemble have in common.
struct Style {
    modes: Vec<usize>,
    missing: usize,
    chain: bool,
    double: bool,
    features: usize,
}

fn tree(dice: &mut Dice, style: &Style, leaves: usize, thresholds: &mut [Vec<f64>]) -> Vec<Node> {
    let leaf = || Node { mode: 0, feature: 0, threshold: 0.0, missing: 0, children: None };
    let mut nodes = vec![leaf()];
    let mut open = vec![0];
    while open.len() < leaves {
        let i = if style.chain { open.len() - 1 } else { dice.below(open.len()) };
        let at = open.swap_remove(i);
        let feature = dice.below(style.features);
        let known = &mut thresholds[feature];
        let threshold = match dice.below(8) {
            0 => dice.of(&SPECIAL),
            1 | 2 if !known.is_empty() => dice.of(known),
            3 => (dice.number() * 8.0).round(),
            _ => dice.number(),
        };
        let threshold = if style.double { threshold } else { f64::from(threshold as f32) };
        known.push(threshold);
        nodes[at] = Node {
            mode: dice.of(&style.modes),
            feature,
            threshold,
            missing: [0, 1, (dice.next() % 2) as i64][style.missing % 3],
            children: Some((nodes.len(), nodes.len() + 1)),
        };
        open.extend([nodes.len(), nodes.len() + 1]);
        nodes.extend([leaf(), leaf()]);
    }
    nodes
}

fn style(dice: &mut Dice, double: bool) -> Style {
    let mode = dice.below(6);
    let modes = match dice.below(6) {
        0 | 1 => vec![0],
        2 => vec![1],
        3 => vec![mode],
        4 => vec![mode, dice.below(6)],
        _ => vec![0, 1, 2, 3, 4, 5],
    };
    Style { modes, missing: dice.below(4), chain: dice.one_in(5), double, features: 1 + dice.below(20) }
}

fn leaves(dice: &mut Dice) -> usize {
    match dice.below(12) {
        0 => 1,
        1 => 2,
        2 => dice.of(&[31, 32, 33]),
        3 => dice.of(&[63, 64, 65, 96, 97]),
        4 => 100 + dice.below(500),
        5 if dice.one_in(4) => 1000 + dice.below(1000),
        _ => 2 + dice.below(40),
    }
}

fn weight(dice: &mut Dice, style: usize) -> f64 {
    match style {
        0 => f64::from(dice.number() as f32),
        1 => f64::from(dice.number().abs() as f32 / 10.0),
        2 => dice.below(5) as f64 - 2.0,
        3 => dice.of(&[0.0, -0.0, 0.25, 0.5, -0.5]),
        _ => f64::from((dice.number() * 10_f64.powi(dice.below(60) as i32 - 30)) as f32),
    }
}

/// Generates an ensemble.
pub(super) fn generated(seed: u64) -> Generated {
    let mut dice = Dice(seed);
    match dice.below(5) {
        0 | 1 => by_node(&mut dice, "TreeEnsembleRegressor"),
        2 | 3 => by_node(&mut dice, "TreeEnsembleClassifier"),
        _ => by_leaf(&mut dice),
    }
}

fn numbers(values: Vec<f64>, double: bool) -> Attribute {
    if double {
        Attribute::DoubleTensor(values)
    } else {
        Attribute::FloatTensor(values.into_iter().map(|x| x as f32).collect())
    }
}

fn floats(values: Vec<f64>) -> Attribute {
    Attribute::Floats(values.into_iter().map(|x| x as f32).collect())
}

fn trees(dice: &mut Dice) -> usize {
    match dice.below(8) {
        0 => 1,
        1 => 81 + dice.below(60),
        _ => 1 + dice.below(20),
    }
}

fn by_node(dice: &mut Dice, operator: &'static str) -> Generated {
    let classifier = operator == "TreeEnsembleClassifier";
    let input = if classifier {
        dice.of(&[Input::Float32, Input::Float32, Input::Float32, Input::Float64, Input::Int64, Input::Int32])
    } else {
        dice.of(&[Input::Float32, Input::Float32, Input::Float32, Input::Float64])
    };
    let opset = dice.of(&[1, 3]);
    let double = input == Input::Float64 && opset == 3 && dice.one_in(2);
    let style = style(dice, double);
    let mut thresholds = vec![Vec::new(); style.features];
    let targets = if classifier { dice.of(&[2, 2, 2, 3, 4, 7]) } else { dice.of(&[1, 1, 1, 2, 3, 5]) };
    // One target for a tree, every target for a leaf, any.
    let pattern = dice.of(&[0, 0, 0, 1, 1, 2]);
    let only = dice.one_in(3).then(|| dice.below(targets));
    let weights_style = dice.below(5);
    let (mut ids, mut of_trees, mut features, mut modes, mut values) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut when_true, mut when_false, mut missing) = (vec![], vec![], vec![]);
    let (mut target_ids, mut target_nodes, mut target_trees, mut weights) = (vec![], vec![], vec![], vec![]);
    let shuffled = dice.one_in(4);
    let small = dice.one_in(2);
    for t in 0..trees(dice) {
        let leaves = if small { 1 + dice.below(32) } else { leaves(dice) };
        let nodes = tree(dice, &style, leaves, &mut thresholds);
        // The root stays first, the others come in any order and with any number.
        let mut order: Vec<usize> = (0..nodes.len()).collect();
        if shuffled {
            for i in (2..order.len()).rev() {
                order.swap(i, 1 + dice.below(i));
            }
        }
        let number: Vec<i64> = if shuffled && dice.one_in(2) {
            (0..nodes.len()).rev().map(|n| n as i64).collect()
        } else {
            (0..nodes.len()).map(|n| n as i64).collect()
        };
        let of_tree = dice.below(targets);
        for at in order {
            let node = &nodes[at];
            of_trees.push(t as i64);
            ids.push(number[at]);
            features.push(node.feature as i64);
            values.push(node.threshold);
            missing.push(node.missing);
            match node.children {
                Some((yes, no)) => {
                    modes.push(MODES[node.mode].to_owned());
                    when_true.push(number[yes]);
                    when_false.push(number[no]);
                }
                None => {
                    modes.push("LEAF".to_owned());
                    when_true.push(0);
                    when_false.push(0);
                    let leaf_targets: Vec<usize> = match (only, pattern) {
                        (Some(only), _) => vec![only],
                        (_, 0) => vec![of_tree],
                        (_, 1) => (0..targets).collect(),
                        _ if targets == 1 => vec![0],
                        _ => (0..1 + dice.below(targets)).map(|_| dice.below(targets)).collect(),
                    };
                    for target in leaf_targets {
                        target_ids.push(target as i64);
                        target_trees.push(t as i64);
                        target_nodes.push(number[at]);
                        weights.push(weight(dice, weights_style));
                    }
                }
            }
        }
    }
    let base_len = match (classifier, targets) {
        _ if dice.one_in(2) => 0,
        (true, 2) => 1 + dice.below(2),
        _ => targets,
    };
    let base: Vec<f64> = (0..base_len).map(|_| f64::from(dice.number() as f32)).collect();
    let mut model = ModelOfTrees { operator, opset, attributes: Vec::new(), input, width: style.features };
    let prefix = if classifier { "class" } else { "target" };
    model.set("nodes_treeids", Attribute::Integers(of_trees));
    model.set("nodes_nodeids", Attribute::Integers(ids));
    model.set("nodes_featureids", Attribute::Integers(features));
    model.set("nodes_modes", Attribute::Texts(modes));
    model.set("nodes_truenodeids", Attribute::Integers(when_true));
    model.set("nodes_falsenodeids", Attribute::Integers(when_false));
    if style.missing < 3 {
        model.set("nodes_missing_value_tracks_true", Attribute::Integers(missing));
    }
    if double {
        model.set("nodes_values_as_tensor", numbers(values, true));
        model.set(&format!("{prefix}_weights_as_tensor"), numbers(weights, true));
        if base_len > 0 {
            model.set("base_values_as_tensor", numbers(base, true));
        }
    } else {
        model.set("nodes_values", floats(values));
        model.set(&format!("{prefix}_weights"), floats(weights));
        if base_len > 0 {
            model.set("base_values", floats(base));
        }
    }
    model.set(&format!("{prefix}_ids"), Attribute::Integers(target_ids));
    model.set(&format!("{prefix}_nodeids"), Attribute::Integers(target_nodes));
    model.set(&format!("{prefix}_treeids"), Attribute::Integers(target_trees));
    let transform = dice.of(&["NONE", "NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"]);
    model.set("post_transform", Attribute::Text(transform.to_owned()));
    if classifier {
        if dice.one_in(3) {
            let labels =
                (0..targets).map(|i| dice.of(&["a", "é", "", "long label of a class"]).to_owned() + &i.to_string());
            model.set("classlabels_strings", Attribute::Texts(labels.collect()));
        } else {
            let labels = (0..targets).map(|i| i as i64 * 10 - 7);
            let labels = if dice.one_in(2) { labels.collect() } else { (0..targets as i64).collect() };
            model.set("classlabels_int64s", Attribute::Integers(labels));
        }
    } else {
        model.set("n_targets", Attribute::Integer(targets as i64));
        let aggregate = dice.of(&["SUM", "SUM", "AVERAGE", "MIN", "MAX"]);
        model.set("aggregate_function", Attribute::Text(aggregate.to_owned()));
    }
    Generated { model, thresholds }
}

fn by_leaf(dice: &mut Dice) -> Generated {
    let double = dice.one_in(2);
    let style = style(dice, double);
    let mut thresholds = vec![Vec::new(); style.features];
    let targets = dice.of(&[1, 1, 2, 3, 5]);
    let weights_style = dice.below(5);
    let (mut roots, mut features, mut modes, mut splits, mut missing) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut when_true, mut when_false, mut true_leaves, mut false_leaves) = (vec![], vec![], vec![], vec![]);
    let (mut leaf_targets, mut leaf_weights) = (vec![], vec![]);
    for _ in 0..trees(dice) {
        let leaves = leaves(dice).max(3);
        let nodes = tree(dice, &style, leaves, &mut thresholds);
        let of_tree = dice.one_in(2).then(|| dice.below(targets));
        // The position of each node among the nodes of its kind.
        let (mut branch, mut leaf) = (modes.len(), leaf_weights.len());
        let place: Vec<i64> = nodes
            .iter()
            .map(|node| {
                let next = if node.children.is_some() { &mut branch } else { &mut leaf };
                *next += 1;
                *next as i64 - 1
            })
            .collect();
        roots.push(place[0]);
        for node in &nodes {
            if let Some((yes, no)) = node.children {
                features.push(node.feature as i64);
                modes.push(node.mode as u8);
                splits.push(node.threshold);
                missing.push(node.missing);
                when_true.push(place[yes]);
                when_false.push(place[no]);
                true_leaves.push(i64::from(nodes[yes].children.is_none()));
                false_leaves.push(i64::from(nodes[no].children.is_none()));
            } else {
                leaf_targets.push(of_tree.unwrap_or_else(|| dice.below(targets)) as i64);
                leaf_weights.push(weight(dice, weights_style));
            }
        }
    }
    let input = if double { Input::Float64 } else { Input::Float32 };
    let mut model =
        ModelOfTrees { operator: "TreeEnsemble", opset: 5, attributes: Vec::new(), input, width: style.features };
    model.set("tree_roots", Attribute::Integers(roots));
    model.set("nodes_featureids", Attribute::Integers(features));
    model.set("nodes_modes", Attribute::ByteTensor(modes));
    model.set("nodes_splits", numbers(splits, double));
    model.set("nodes_truenodeids", Attribute::Integers(when_true));
    model.set("nodes_falsenodeids", Attribute::Integers(when_false));
    model.set("nodes_trueleafs", Attribute::Integers(true_leaves));
    model.set("nodes_falseleafs", Attribute::Integers(false_leaves));
    if style.missing < 3 {
        model.set("nodes_missing_value_tracks_true", Attribute::Integers(missing));
    }
    model.set("leaf_targetids", Attribute::Integers(leaf_targets));
    model.set("leaf_weights", numbers(leaf_weights, double));
    model.set("n_targets", Attribute::Integer(targets as i64));
    model.set("aggregate_function", Attribute::Integer(dice.of(&[0, 1, 1, 2, 3])));
    model.set("post_transform", Attribute::Integer(dice.below(5) as i64));
    Generated { model, thresholds }
}

impl Generated {
    /// Makes rows of NaN, infinities, zeros of both signs, denormals, thresholds, their neighbours, and other numbers.
    pub(super) fn rows(&self, dice: &mut Dice, count: usize) -> Column {
        let mut values = Vec::with_capacity(count * self.thresholds.len());
        for _ in 0..count {
            for known in &self.thresholds {
                let value = match dice.below(16) {
                    0 => f64::NAN,
                    1 => dice.of(&[f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e-40, -1e-40, 1e-310]),
                    2..=4 if !known.is_empty() => dice.of(known),
                    5 | 6 if !known.is_empty() => f64::from((dice.of(known) as f32).next_up()),
                    7 | 8 if !known.is_empty() => f64::from((dice.of(known) as f32).next_down()),
                    9 if !known.is_empty() => dice.of(known).next_up(),
                    10 => (dice.number() * 8.0).round(),
                    _ => dice.number(),
                };
                values.push(value);
            }
        }
        match self.model.input {
            Input::Float32 => Column::Float32(values.into_iter().map(|x| x as f32).collect()),
            Input::Float64 => Column::Float64(values),
            Input::Int64 => {
                let large = |x: f64| if x.is_nan() { i64::MAX - 1 } else { x as i64 };
                Column::Int64(values.into_iter().map(large).collect())
            }
            Input::Int32 => Column::Int32(values.into_iter().map(|x| x as i32).collect()),
        }
    }
}
