//! Sums of trees give the bits of ONNX Runtime, and other graphs stay as they are.

use std::borrow::Cow;

use crate::device::Device;
use crate::ort::origin::computed;
use crate::ort::stop::Stop;
use crate::ort::values::{Feed, RawOutput};
use crate::tensor::Column;
use crate::tests::config;
use crate::trees::folding::{LeafModel, folded};
use crate::trees::kernels::Kernel;
use crate::trees::rewriting::rewritten;
use crate::trees::tests::encoding::{Attribute, constant, model, node, value};
use crate::trees::tests::generated::{Dice, MODES};
use crate::trees::tests::{compiled, difference, plain, run};

/// ONNX Runtime computes all elements of such columns in the same way.
const WHOLE: usize = 64;

const FLOAT: u64 = 1;
const INT64: u64 = 7;
const STRING: i64 = 8;
const FLOAT64: u64 = 11;

/// A graph with the input `x`.
#[derive(Default)]
struct Sketch {
    graph: Vec<u8>,
    named: usize,
}

impl Sketch {
    fn name(&mut self) -> String {
        self.named += 1;
        format!("v{}", self.named)
    }

    fn put(&mut self, field: u32, content: &[u8]) {
        crate::onnx::wire::put(field, content, &mut self.graph);
    }

    fn float(&mut self, x: f32) -> String {
        self.constant(FLOAT, &[1], &x.to_le_bytes())
    }

    fn integers(&mut self, v: &[i64]) -> String {
        self.constant(INT64, &[v.len()], &v.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>())
    }

    fn constant(&mut self, element: u64, dims: &[usize], raw: &[u8]) -> String {
        let name = self.name();
        self.put(5, &constant(&name, element, dims, raw));
        name
    }

    /// Adds an operator of ONNX, and returns the name of its output.
    fn apply(&mut self, operator: &str, inputs: &[&str]) -> String {
        self.with("", operator, inputs, &[])
    }

    fn with(&mut self, domain: &str, operator: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        let output = self.name();
        let attributes: Vec<_> = attributes.iter().map(|(name, a)| ((*name).to_owned(), a.clone())).collect();
        self.put(1, &node(domain, operator, inputs, &[&output], &attributes));
        output
    }

    fn cast(&mut self, of: &str, to: i64) -> String {
        self.with("", "Cast", &[of], &[("to", Attribute::Integer(to))])
    }

    fn gather(&mut self, columns: &[i64]) -> String {
        let columns = self.integers(columns);
        self.with("", "Gather", &["x", &columns], &[("axis", Attribute::Integer(1))])
    }

    /// Adds a tree whose leaves have these weights, and whose thresholds are whole numbers.
    fn tree(&mut self, dice: &mut Dice, input: &str, width: usize, weights: &[f32]) -> String {
        self.tree_with(dice, input, width, weights, &[])
    }

    fn tree_with(
        &mut self,
        dice: &mut Dice,
        input: &str,
        width: usize,
        weights: &[f32],
        more: &[(&str, Attribute)],
    ) -> String {
        // The first nodes are branches, each with the next two nodes that have no parent yet.
        let branches = weights.len() - 1;
        let nodes = branches + weights.len();
        let each = |of: &mut dyn FnMut(usize) -> i64| Attribute::Integers((0..nodes).map(of).collect());
        let child = |i: usize, n: usize| if i < branches { (2 * i + n) as i64 } else { 0 };
        let modes = (0..nodes).map(|i| if i < branches { dice.of(&MODES) } else { "LEAF" }.to_owned()).collect();
        let leaves = || Attribute::Integers((branches..nodes).map(|i| i as i64).collect());
        let none = || Attribute::Integers(vec![0; weights.len()]);
        let mut attributes = vec![
            ("nodes_treeids", each(&mut |_| 0)),
            ("nodes_nodeids", each(&mut |i| i as i64)),
            ("nodes_featureids", each(&mut |_| dice.below(width) as i64)),
            ("nodes_truenodeids", each(&mut |i| child(i, 1))),
            ("nodes_falsenodeids", each(&mut |i| child(i, 2))),
            ("nodes_missing_value_tracks_true", each(&mut |_| dice.below(2) as i64)),
            ("nodes_values", Attribute::Floats((0..nodes).map(|_| dice.below(12) as f32 - 6.0).collect())),
            ("nodes_modes", Attribute::Texts(modes)),
            ("target_ids", none()),
            ("target_treeids", none()),
            ("target_nodeids", leaves()),
            ("target_weights", Attribute::Floats(weights.to_vec())),
            ("n_targets", Attribute::Integer(1)),
        ];
        attributes.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
        attributes.extend(more.iter().cloned());
        self.with("ai.onnx.ml", "TreeEnsembleRegressor", &[input], &attributes)
    }

    /// The operators that an isolation forest has behind a tree, or some of them.
    fn chain(&mut self, dice: &mut Dice, tree: &str, leaves: usize) -> String {
        let mut values = vec![tree.to_owned()];
        if dice.one_in(2) {
            let number = self.cast(tree, INT64 as i64);
            let known = leaves - dice.below(leaves.min(3));
            let encoder = [
                ("keys_int64s", Attribute::Integers((0..known as i64).collect())),
                ("values_floats", Attribute::Floats((0..known).map(|_| dice.below(300) as f32).collect())),
                ("default_float", Attribute::Float(-7.5)),
            ];
            let label = self.with("ai.onnx.ml", "LabelEncoder", &[&number], &encoder);
            let shape = self.integers(&[-1, 1]);
            values.push(self.apply("Reshape", &[&label, &shape]));
        } else if dice.one_in(4) {
            values.push(self.apply("Flatten", &[tree]));
        }
        for _ in 0..dice.below(9) {
            let (a, b) = (dice.of(&values), dice.of(&values));
            let c = self.float(dice.below(64) as f32 / 8.0 + 1.0);
            values.push(match dice.below(9) {
                0 => self.apply(dice.of(&["Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean"]), &[&a, &b]),
                1 => self.apply(dice.of(&["Add", "Sub", "Mul", "Div", "Max", "Min"]), &[&a, &c]),
                2 => self.apply(dice.of(&["Sub", "Pow", "Max"]), &[&c, &a]),
                3 => {
                    let positive = self.apply("Max", &[&a, &c]);
                    self.apply(dice.of(&["Log", "Sqrt", "Reciprocal", "Exp"]), &[&positive])
                }
                4 => {
                    let is_so = self.apply(dice.of(&["Greater", "Less", "Equal", "GreaterOrEqual"]), &[&a, &c]);
                    let number = self.cast(&is_so, 1);
                    self.apply("Mul", &[&number, &b])
                }
                5 => {
                    let is_so = self.apply("LessOrEqual", &[&a, &b]);
                    let is_not = self.apply("Not", &[&is_so]);
                    self.apply("Where", &[&is_not, &a, &b])
                }
                6 => self.apply(dice.of(&["Abs", "Neg", "Ceil", "Floor", "Round", "Sign", "Identity"]), &[&a]),
                7 => self.apply(dice.of(&["Relu", "Sigmoid", "Erf", "Cos"]), &[&a]),
                _ => self.apply("Clip", &[&a, "", &c]),
            });
        }
        values.pop().unwrap_or_default()
    }

    /// Finishes the model. The outputs are floats.
    fn model(self, element: u64, width: Option<usize>, outputs: &[&str]) -> Vec<u8> {
        let mut graph = self.graph;
        let put = |field, content: &[u8], to: &mut Vec<u8>| crate::onnx::wire::put(field, content, to);
        put(2, b"trees", &mut graph);
        let columns = [None, width];
        put(11, &value("x", element, if width.is_some() { &columns } else { &columns[..1] }), &mut graph);
        outputs.iter().for_each(|output| put(12, &value(output, FLOAT, &[]), &mut graph));
        model(&graph, 3)
    }
}

fn compute(leaves: &LeafModel) -> Option<Vec<Vec<f32>>> {
    computed(leaves, &config(Device::Cpu)).ok()
}

fn is_folded(model: &[u8]) -> bool {
    folded(&rewritten(model).unwrap().unwrap(), compute).is_some()
}

fn rows(dice: &mut Dice, count: usize, width: usize) -> Column {
    let mut value = || match dice.below(12) {
        0 => f32::NAN,
        1 => dice.of(&[f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e-40]),
        2..=7 => dice.below(14) as f32 - 7.0,
        _ => dice.below(1400) as f32 / 100.0 - 7.0,
    };
    Column::Float32((0..count * width).map(|_| value()).collect())
}

/// Panics if an answer is not that of ONNX Runtime, bit for bit.
fn same(model: &[u8], column: &Column, rows: usize, what: &str) {
    let theirs = run(&plain(model).unwrap(), "x", column, rows).unwrap();
    for kernel in Kernel::all() {
        let ours = run(&compiled(model, kernel).unwrap().unwrap(), "x", column, rows).unwrap();
        assert_eq!(ours.len(), theirs.len(), "{what}");
        for (a, b) in theirs.iter().zip(&ours) {
            assert_eq!(difference(a, b), None, "{what} {kernel:?}");
        }
    }
}

#[test]
fn random_sums_of_trees_give_the_bits_of_onnx_runtime() {
    const MODELS: usize = 150;
    let mut count = 0;
    for seed in 0..MODELS as u64 {
        let mut dice = Dice(seed);
        let mut sketch = Sketch::default();
        let width = 1 + dice.below(8);
        let is_gathered = dice.one_in(2);
        let mut added = Vec::new();
        for _ in 0..2 + dice.below(12) {
            let most = dice.of(&[300, 40, 40, 40]);
            let leaves = 1 + dice.below(most);
            let weights: Vec<f32> = match dice.below(3) {
                0 => (0..leaves).map(|i| i as f32).collect(),
                1 => (0..leaves).map(|_| dice.below(260) as f32).collect(),
                _ => (0..leaves).map(|_| (dice.below(2000) as f32 - 1000.0) / 64.0).collect(),
            };
            let tree = if is_gathered {
                let columns: Vec<i64> = (0..1 + dice.below(width)).map(|_| dice.below(width) as i64).collect();
                let gathered = sketch.gather(&columns);
                sketch.tree(&mut dice, &gathered, columns.len(), &weights)
            } else {
                sketch.tree(&mut dice, "x", width, &weights)
            };
            added.push(sketch.chain(&mut dice, &tree, leaves));
        }
        if dice.one_in(10) {
            added.push(dice.of(&added));
        }
        let sum = sketch.apply("Sum", &added.iter().map(String::as_str).collect::<Vec<_>>());
        let divisor = sketch.float(3.0);
        let score = sketch.apply("Div", &[&sum, &divisor]);
        let model = sketch.model(FLOAT, Some(width), &[&score]);
        count += usize::from(is_folded(&model));
        for size in [WHOLE, 5 * WHOLE] {
            same(&model, &rows(&mut dice, size, width), size, &format!("seed {seed}, {size} rows"));
        }
    }
    // A result that is NaN or -0.0 keeps the others from being folded.
    assert!(count > MODELS / 2, "{count} of {MODELS}");
}

#[test]
fn the_score_of_a_row_does_not_depend_on_its_place() {
    let mut dice = Dice(1);
    let mut sketch = Sketch::default();
    let mut added = Vec::new();
    for _ in 0..3 {
        // The last bit of their logarithms depends on the place in ONNX Runtime 1.32.
        let tree = sketch.tree(&mut dice, "x", 4, &[7.0, 37.0, 47.0, 49.0, 217.0, 239.0, 3.0]);
        added.push(sketch.apply("Log", &[&tree]));
    }
    let sum = sketch.apply("Sum", &[&added[0], &added[1], &added[2]]);
    let model = sketch.model(FLOAT, Some(4), &[&sum]);
    assert!(is_folded(&model));
    let Column::Float32(all) = rows(&mut dice, WHOLE, 4) else { panic!("floats") };
    let theirs = run(&plain(&model).unwrap(), "x", &Column::Float32(all.clone()), WHOLE).unwrap();
    let scores = |outputs: &[RawOutput]| match &outputs[0] {
        RawOutput::Tensor { data: Column::Float32(v), .. } => v.clone(),
        other => panic!("{other:?}"),
    };
    let session = compiled(&model, Kernel::chosen()).unwrap().unwrap();
    for count in [1, 3, 7, 30] {
        let column = Column::Float32(all[..count * 4].to_vec());
        assert_eq!(scores(&run(&session, "x", &column, count).unwrap()), scores(&theirs)[..count], "{count}");
    }
}

/// Makes a model of two trees that would be folded, but for what `change` does to the second. It returns the values that
/// are added, and the outputs other than the sum.
fn with(change: impl FnOnce(&mut Sketch, &mut Dice, String) -> (Vec<String>, Vec<String>)) -> Vec<u8> {
    let (mut sketch, mut dice) = (Sketch::default(), Dice(5));
    let first = sketch.tree(&mut dice, "x", 3, &[1.0, 2.0, 3.0]);
    let second = sketch.tree(&mut dice, "x", 3, &[4.0, 5.0, 6.0, 7.0]);
    let (mut added, others) = change(&mut sketch, &mut dice, second);
    added.insert(0, first);
    let sum = sketch.apply("Sum", &added.iter().map(String::as_str).collect::<Vec<_>>());
    let outputs: Vec<&str> = others.iter().map(String::as_str).chain([sum.as_str()]).collect();
    sketch.model(FLOAT, Some(3), &outputs)
}

#[test]
fn a_value_with_another_use_is_not_folded() {
    let plain = with(|s, _, y| (vec![s.apply("Neg", &[&y])], vec![]));
    assert!(is_folded(&plain));
    for (what, model) in [
        ("a tree is an output", with(|s, _, y| (vec![s.apply("Neg", &[&y])], vec![y]))),
        ("an operator is an output", {
            with(|s, _, y| {
                let negative = s.apply("Neg", &[&y]);
                (vec![s.apply("Abs", &[&negative])], vec![negative])
            })
        }),
        ("the added value is an output", {
            with(|s, _, y| {
                let negative = s.apply("Neg", &[&y]);
                (vec![negative.clone()], vec![negative])
            })
        }),
        ("it is added twice", {
            with(|s, _, y| {
                let negative = s.apply("Neg", &[&y]);
                (vec![negative.clone(), negative], vec![])
            })
        }),
        ("two values are added", with(|s, _, y| (vec![s.apply("Neg", &[&y]), y], vec![]))),
        ("another operator takes it", {
            with(|s, _, y| {
                let all = s.with("", "ReduceMax", &[&y], &[("keepdims", Attribute::Integer(1))]);
                (vec![s.apply("Neg", &[&y])], vec![all])
            })
        }),
    ] {
        assert!(!is_folded(&model), "{what}");
        same(&model, &rows(&mut Dice(2), WHOLE, 3), WHOLE, what);
    }
}

#[test]
fn operators_that_mix_rows_or_change_the_shape_are_not_folded() {
    let three = |s: &mut Sketch| s.constant(FLOAT, &[3], &[0; 12]);
    let deep = |s: &mut Sketch| s.constant(FLOAT, &[1, 1, 1], &[0; 4]);
    for (what, model) in [
        ("a constant of three elements", {
            with(|s, _, y| {
                let c = three(s);
                (vec![s.apply("Add", &[&y, &c])], vec![])
            })
        }),
        ("a constant of three dimensions", {
            with(|s, _, y| {
                let c = deep(s);
                (vec![s.apply("Add", &[&y, &c])], vec![])
            })
        }),
        ("a sum over the rows", {
            with(|s, _, y| {
                let axes = s.integers(&[0]);
                let total = s.with("", "ReduceSum", &[&y, &axes], &[("keepdims", Attribute::Integer(1))]);
                (vec![s.apply("Mul", &[&y, &total])], vec![])
            })
        }),
        ("another shape", {
            with(|s, _, y| {
                let (flat, back) = (s.integers(&[1, -1]), s.integers(&[-1, 1]));
                let flat = s.apply("Reshape", &[&y, &flat]);
                (vec![s.apply("Reshape", &[&flat, &back])], vec![])
            })
        }),
        ("a row of the whole column", {
            with(|s, _, y| {
                let row = s.with("", "Flatten", &[&y], &[("axis", Attribute::Integer(0))]);
                let back = s.integers(&[-1, 1]);
                (vec![s.apply("Reshape", &[&row, &back])], vec![])
            })
        }),
        ("a constant that is added", {
            with(|s, _, y| {
                let c = s.float(2.0);
                (vec![y, c], vec![])
            })
        }),
        ("texts", {
            with(|s, _, y| {
                let text = s.cast(&y, STRING);
                (vec![s.cast(&text, 1)], vec![])
            })
        }),
    ] {
        assert!(!is_folded(&model), "{what}");
        same(&model, &rows(&mut Dice(3), WHOLE, 3), WHOLE, what);
    }
}

#[test]
fn trees_that_are_not_weights_of_leaves_are_not_folded() {
    let numbers = |v: &[i64]| Attribute::Integers(v.to_vec());
    for (what, more) in [
        ("a base value", vec![("base_values", Attribute::Floats(vec![0.5]))]),
        // It is the only one of a single target, and is compiled on x86_64 only.
        #[cfg(target_arch = "x86_64")]
        ("a transformation", vec![("post_transform", Attribute::Text("PROBIT".to_owned()))]),
        ("three trees", {
            let modes = ["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_GT", "LEAF", "LEAF", "LEAF"];
            vec![
                ("nodes_treeids", numbers(&[0, 0, 0, 1, 1, 1, 2])),
                ("nodes_nodeids", numbers(&[0, 1, 2, 0, 1, 2, 0])),
                ("nodes_truenodeids", numbers(&[1, 0, 0, 1, 0, 0, 0])),
                ("nodes_falsenodeids", numbers(&[2, 0, 0, 2, 0, 0, 0])),
                ("nodes_modes", Attribute::Texts(modes.map(str::to_owned).to_vec())),
                ("target_treeids", numbers(&[0, 0, 1, 1, 2])),
                ("target_nodeids", numbers(&[1, 2, 1, 2, 0])),
                ("target_ids", numbers(&[0; 5])),
                ("target_weights", Attribute::Floats(vec![0.25, 0.5, 1.0, 2.0, 4.0])),
            ]
        }),
    ] {
        let model = with(|s, dice, _| (vec![s.tree_with(dice, "x", 3, &[1.0, 2.0, 3.0, 4.0], &more)], vec![]));
        assert_eq!(rewritten(&model).unwrap().unwrap().ensembles.len(), 3, "{what}");
        assert!(!is_folded(&model), "{what}");
        same(&model, &rows(&mut Dice(2), WHOLE, 3), WHOLE, what);
    }
}

#[test]
fn results_that_an_ensemble_would_change_are_not_folded() {
    let result = |operator: &'static str, x: f32| {
        with(move |s, dice, _| {
            let tree = s.tree(dice, "x", 3, &[x, 2.0]);
            (vec![s.apply(operator, &[&tree])], vec![])
        })
    };
    assert!(is_folded(&result("Neg", 1.0)));
    for (operator, x) in [("Neg", 0.0), ("Log", -1.0), ("Sqrt", -4.0)] {
        let model = result(operator, x);
        assert!(!is_folded(&model), "{operator} {x}");
        // NaN has many bit patterns.
        if operator == "Neg" {
            same(&model, &rows(&mut Dice(4), WHOLE, 3), WHOLE, operator);
        }
    }
    // An operator that fails for a leaf that no row may reach.
    let failing = with(|s, _, y| {
        let (number, zero) = (s.cast(&y, INT64 as i64), s.constant(INT64, &[1], &[0; 8]));
        let known = [("keys_int64s", Attribute::Integers(vec![1])), ("values_int64s", Attribute::Integers(vec![1, 2]))];
        let label = s.with("ai.onnx.ml", "LabelEncoder", &[&number], &known);
        let sum = s.apply("Add", &[&label, &zero]);
        (vec![s.cast(&sum, 1)], vec![])
    });
    assert!(!is_folded(&failing));
    // More work than loading may take.
    let many = with(|s, dice, _| {
        let weights: Vec<f32> = (0..1 << 18).map(|i| i as f32 + 1.0).collect();
        let mut value = s.tree(dice, "x", 3, &weights);
        for _ in 0..65 {
            value = s.apply("Neg", &[&value]);
        }
        (vec![value], vec![])
    });
    assert!(!is_folded(&many));
}

#[test]
fn only_columns_of_the_same_table_are_folded() {
    let gathered = |first: &[i64], second: &[i64], axis: i64| {
        let (mut s, mut dice) = (Sketch::default(), Dice(6));
        let mut added = Vec::new();
        for columns in [first, second] {
            let numbers = s.integers(columns);
            let table = s.with("", "Gather", &["x", &numbers], &[("axis", Attribute::Integer(axis))]);
            added.push(s.tree(&mut dice, &table, columns.len(), &[1.0, 2.0, 4.0, 8.0]));
        }
        let sum = s.apply("Sum", &[&added[0], &added[1]]);
        s.model(FLOAT, Some(3), &[&sum])
    };
    let column = rows(&mut Dice(7), WHOLE, 3);
    for (model, wanted) in [(gathered(&[2, 0], &[1, 1, 2], 1), true), (gathered(&[0, 1, 2], &[-1, 0, 1], 1), false)] {
        assert_eq!(is_folded(&model), wanted);
        same(&model, &column, WHOLE, "gathered");
    }
    assert!(!is_folded(&gathered(&[0, 1, 2], &[0, 1, 2], 0)));
    // A column that the table lacks is an error, also if no tree looks at it.
    let (mut s, mut dice) = (Sketch::default(), Dice(8));
    let table = s.gather(&[0, 9]);
    let trees = [(); 2].map(|()| s.tree(&mut dice, &table, 1, &[1.0, 2.0]));
    let sum = s.apply("Sum", &[&trees[0], &trees[1]]);
    let mut unknown = Vec::new();
    for width in [Some(10), Some(3)] {
        let graph = Sketch { graph: s.graph.clone(), named: s.named };
        unknown.push(graph.model(FLOAT, width, &[&sum]));
    }
    assert!(is_folded(&unknown[0]));
    same(&unknown[0], &rows(&mut dice, WHOLE, 10), WHOLE, "a wide table");
    let session = compiled(&unknown[1], Kernel::chosen()).ok().flatten();
    assert!(session.is_none_or(|session| run(&session, "x", &column, WHOLE).is_err()));
}

#[test]
fn doubles_and_lists_are_no_tables_of_floats() {
    let (mut s, mut dice) = (Sketch::default(), Dice(9));
    let trees = [(); 3].map(|()| s.tree(&mut dice, "x", 3, &[0.1, 0.2, 0.7]));
    let sum = s.apply("Sum", &[&trees[0], &trees[1], &trees[2]]);
    let model = Sketch { graph: s.graph.clone(), named: s.named }.model(FLOAT64, Some(3), &[&sum]);
    let Column::Float32(v) = rows(&mut dice, WHOLE, 3) else { panic!("floats") };
    same(&model, &Column::Float64(v.into_iter().map(f64::from).collect()), WHOLE, "doubles");
    // A list is one row for an ensemble, and no table to take columns of.
    let (mut s, mut dice) = (Sketch::default(), Dice(9));
    let table = s.gather(&[0]);
    let trees = [(); 2].map(|()| s.tree(&mut dice, &table, 1, &[0.1, 0.2, 0.7]));
    let sum = s.apply("Sum", &[&trees[0], &trees[1]]);
    let model = s.model(FLOAT, None, &[&sum]);
    let list = Column::Float32(vec![1.0, 2.0, 3.0]);
    let list = Feed { name: "x", column: Cow::Borrowed(&list), from: 0, len: 3, shape: vec![3] };
    let session = compiled(&model, Kernel::chosen()).ok().flatten();
    assert!(session.is_none_or(|session| session.infer(&[list], None, &Stop::new().unwrap()).is_err()));
}

#[test]
fn a_damaged_sum_is_never_worse_than_an_error() {
    let model = with(|s, _, y| {
        let (number, shape) = (s.cast(&y, INT64 as i64), s.integers(&[-1, 1]));
        let known =
            [("keys_int64s", Attribute::Integers(vec![4, 5])), ("values_floats", Attribute::Floats(vec![0.5, 2.0]))];
        let label = s.with("ai.onnx.ml", "LabelEncoder", &[&number], &known);
        let column = s.apply("Reshape", &[&label, &shape]);
        (vec![s.apply("Log", &[&column])], vec![])
    });
    let column = rows(&mut Dice(3), WHOLE, 3);
    let (mut dice, mut folded_ones, mut answered) = (Dice(11), 0, 0);
    for at in 0..model.len() {
        let mut damaged = model.clone();
        damaged[at] ^= 1 << dice.below(8);
        let Ok(Some(rewritten)) = rewritten(&damaged) else { continue };
        folded_ones += usize::from(folded(&rewritten, compute).is_some());
        let session = compiled(&damaged, Kernel::chosen()).ok().flatten();
        let Some(ours) = session.and_then(|s| run(&s, "x", &column, WHOLE).ok()) else { continue };
        // ONNX Runtime rejects some that have a meaning, such as an operator that a later version of ai.onnx.ml replaced.
        let Ok(theirs) = plain(&damaged).and_then(|s| run(&s, "x", &column, WHOLE)) else { continue };
        for (a, b) in theirs.iter().zip(&ours) {
            assert_eq!(difference(a, b), None, "byte {at}");
        }
        answered += 1;
    }
    assert!(folded_ones > 50 && answered > 100, "{folded_ones} {answered}");
}

#[test]
fn two_values_of_one_name_are_an_error() {
    let twice = |name: &'static str, is_constant: bool| {
        with(move |s, _, y| {
            let negative = s.apply("Neg", &[&y]);
            assert_eq!((y.as_str(), negative.as_str()), ("v2", "v3"));
            if is_constant {
                s.put(5, &constant(name, FLOAT, &[1], &[0; 4]));
            } else {
                s.put(1, &node("", "Identity", &["x"], &[name], &[]));
            }
            (vec![negative], vec![])
        })
    };
    assert!(is_folded(&twice("other", true)) && is_folded(&twice("another", false)));
    for name in ["v1", "v2", "v3"] {
        for is_constant in [false, true] {
            let model = twice(name, is_constant);
            assert!(!is_folded(&model), "{name} {is_constant}");
            assert_eq!(plain(&model).is_ok(), compiled(&model, Kernel::chosen()).is_ok(), "{name} {is_constant}");
        }
    }
}
