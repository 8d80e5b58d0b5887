//! Damaged and absurd ensembles are refused or left to ONNX Runtime, in bounded time and memory.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::ort::values::RawOutput;
use crate::tensor::Column;
use crate::trees::kernels::Kernel;
use crate::trees::rewriting::rewritten;
use crate::trees::tests::encoding::{Attribute, Input, ModelOfTrees};
use crate::trees::tests::generated::{Dice, generated};
use crate::trees::tests::{compiled, difference, plain, run};

/// A regressor of one tree. A child of -1 is a leaf of its own.
fn tree(splits: &[(i64, i64)]) -> ModelOfTrees {
    let (mut modes, mut yes, mut no) = (Vec::new(), Vec::new(), Vec::new());
    let mut next = splits.len() as i64;
    let mut child = |c: i64| {
        next += i64::from(c < 0);
        if c < 0 { next - 1 } else { c }
    };
    for (a, b) in splits {
        modes.push("BRANCH_LEQ".to_owned());
        yes.push(child(*a));
        no.push(child(*b));
    }
    let n = next as usize;
    modes.resize(n, "LEAF".to_owned());
    yes.resize(n, 0);
    no.resize(n, 0);
    let leaves: Vec<i64> = (splits.len() as i64..next).collect();
    let mut model = ModelOfTrees {
        operator: "TreeEnsembleRegressor",
        opset: 3,
        attributes: Vec::new(),
        input: Input::Float32,
        width: 3,
    };
    model.set("n_targets", Attribute::Integer(1));
    model.set("nodes_modes", Attribute::Texts(modes));
    model.set("nodes_treeids", Attribute::Integers(vec![0; n]));
    model.set("nodes_nodeids", Attribute::Integers((0..next).collect()));
    model.set("nodes_featureids", Attribute::Integers((0..next).map(|i| i % 3).collect()));
    model.set("nodes_values", Attribute::Floats((0..n).map(|i| (i % 7) as f32 - 3.0).collect()));
    model.set("nodes_truenodeids", Attribute::Integers(yes));
    model.set("nodes_falsenodeids", Attribute::Integers(no));
    model.set("target_ids", Attribute::Integers(vec![0; leaves.len()]));
    model.set("target_treeids", Attribute::Integers(vec![0; leaves.len()]));
    model.set("target_weights", Attribute::Floats(leaves.iter().map(|l| *l as f32).collect()));
    model.set("target_nodeids", Attribute::Integers(leaves));
    model
}

fn is_left(model: &ModelOfTrees) -> bool {
    match rewritten(&model.encode()).unwrap() {
        None => true,
        Some(_) => Kernel::all().into_iter().all(|kernel| compiled(&model.encode(), kernel).is_err()),
    }
}

#[test]
fn a_cycle_is_refused() {
    for splits in [&[(0, -1)][..], &[(1, -1), (0, -1)], &[(-1, 1), (2, -1), (-1, 1)], &[(1, 2), (-1, -1), (-1, 0)]] {
        let refused = rewritten(&tree(splits).encode());
        assert!(matches!(refused, Err(Error::InvalidModel { .. })), "{splits:?}");
    }
}

#[test]
fn what_is_no_tree_is_left_to_onnx_runtime() {
    let fit = tree(&[(1, 2), (-1, -1), (-1, -1)]);
    assert!(!is_left(&fit));
    // A node with two parents, a node that does not exist, and nodes that no tree reaches.
    for splits in [&[(1, 1), (-1, -1)][..], &[(1, 99), (-1, -1)], &[(1, i64::MAX), (-1, -1)], &[(-1, -1), (-1, -1)]] {
        assert!(is_left(&tree(splits)), "{splits:?}");
    }
    let cases: &[(&str, Attribute)] = &[
        ("nodes_featureids", Attribute::Integers(vec![i64::MAX; 7])),
        ("nodes_featureids", Attribute::Integers(vec![-1; 7])),
        ("nodes_featureids", Attribute::Integers(vec![0; 6])),
        ("nodes_values", Attribute::Floats(vec![f32::NAN; 7])),
        ("nodes_values", Attribute::Floats(vec![])),
        ("nodes_values", Attribute::Integers(vec![0; 7])),
        ("nodes_values_as_tensor", Attribute::DoubleTensor(vec![0.0; 7])),
        ("nodes_modes", Attribute::Texts(vec!["BRANCH_MEMBER".to_owned(); 7])),
        ("nodes_nodeids", Attribute::Integers(vec![0; 7])),
        ("nodes_nodeids", Attribute::Integers(vec![-1, -2, -3, -4, -5, -6, -7])),
        ("nodes_treeids", Attribute::Integers(vec![0, 0, 0, 1, 0, 0, 0])),
        ("nodes_treeids", Attribute::Integers(vec![-1; 7])),
        ("nodes_truenodeids", Attribute::Integers(vec![-1; 7])),
        ("target_ids", Attribute::Integers(vec![1; 4])),
        ("target_ids", Attribute::Integers(vec![-1; 4])),
        ("target_nodeids", Attribute::Integers(vec![3, 4, 5, 5])),
        ("target_nodeids", Attribute::Integers(vec![3, 4, 5, 70])),
        ("target_treeids", Attribute::Integers(vec![9; 4])),
        ("target_weights", Attribute::Floats(vec![f32::NAN; 4])),
        ("base_values", Attribute::Floats(vec![1.0, 2.0])),
        ("n_targets", Attribute::Integer(0)),
        ("n_targets", Attribute::Integer(i64::MAX)),
        ("n_targets", Attribute::Integer(i64::MIN)),
        ("post_transform", Attribute::Text("UNKNOWN".to_owned())),
        ("aggregate_function", Attribute::Text("MEDIAN".to_owned())),
        ("surprise", Attribute::Integer(1)),
    ];
    for (name, attribute) in cases {
        let mut model = fit.clone();
        model.set(name, attribute.clone());
        assert!(is_left(&model), "{name} {attribute:?}");
    }
}

/// A classifier of two classes and one tree of three splits.
fn classifier() -> ModelOfTrees {
    let regressor = tree(&[(1, 2), (-1, -1), (-1, -1)]);
    let mut model = ModelOfTrees { operator: "TreeEnsembleClassifier", attributes: Vec::new(), ..regressor.clone() };
    for (name, attribute) in regressor.attributes {
        match name.strip_prefix("target_") {
            Some(rest) => model.set(&format!("class_{rest}"), attribute),
            None if name != "n_targets" => model.set(&name, attribute),
            None => {}
        }
    }
    model.set("class_ids", Attribute::Integers(vec![0, 1, 0, 1]));
    model.set("classlabels_int64s", Attribute::Integers(vec![10, 20, 30]));
    model
}

/// A `TreeEnsemble` of one tree of three splits.
fn by_leaf() -> ModelOfTrees {
    let mut model =
        ModelOfTrees { operator: "TreeEnsemble", opset: 5, attributes: Vec::new(), input: Input::Float32, width: 3 };
    let integers = |values: &[i64]| Attribute::Integers(values.to_vec());
    model.set("n_targets", Attribute::Integer(1));
    model.set("tree_roots", integers(&[0]));
    model.set("nodes_featureids", integers(&[0, 1, 2]));
    model.set("nodes_modes", Attribute::ByteTensor(vec![0; 3]));
    model.set("nodes_splits", Attribute::FloatTensor(vec![0.5, 1.5, -2.5]));
    model.set("nodes_truenodeids", integers(&[1, 0, 2]));
    model.set("nodes_trueleafs", integers(&[0, 1, 1]));
    model.set("nodes_falsenodeids", integers(&[2, 1, 3]));
    model.set("nodes_falseleafs", integers(&[0, 1, 1]));
    model.set("leaf_targetids", integers(&[0; 4]));
    model.set("leaf_weights", Attribute::FloatTensor(vec![1.0, 2.0, 3.0, 4.0]));
    model
}

/// Whether the model is refused as a cycle.
fn is_refused(model: &ModelOfTrees) -> bool {
    matches!(rewritten(&model.encode()), Err(Error::InvalidModel { .. }))
}

fn without(model: &ModelOfTrees, name: &str) -> ModelOfTrees {
    let mut model = model.clone();
    model.attributes.retain(|(other, _)| other != name);
    model
}

/// The same attribute with one element more, or one less.
fn resized(attribute: &Attribute, longer: bool) -> Option<Attribute> {
    fn change<T: Clone>(values: &[T], longer: bool) -> Vec<T> {
        let mut values = values.to_vec();
        if longer {
            values.extend(values.last().cloned())
        } else {
            drop(values.pop())
        }
        values
    }
    Some(match attribute {
        Attribute::Integer(_) | Attribute::Float(_) | Attribute::Text(_) => return None,
        Attribute::Floats(v) => Attribute::Floats(change(v, longer)),
        Attribute::Integers(v) => Attribute::Integers(change(v, longer)),
        Attribute::Texts(v) => Attribute::Texts(change(v, longer)),
        Attribute::FloatTensor(v) => Attribute::FloatTensor(change(v, longer)),
        Attribute::DoubleTensor(v) => Attribute::DoubleTensor(change(v, longer)),
        Attribute::ByteTensor(v) => Attribute::ByteTensor(change(v, longer)),
    })
}

#[test]
fn attributes_of_different_lengths_or_wrong_types_are_left_to_onnx_runtime() {
    let kinds = [
        Attribute::Integer(0),
        Attribute::Text("x".to_owned()),
        Attribute::Floats(vec![0.0; 4]),
        Attribute::Integers(vec![0; 4]),
        Attribute::Texts(vec!["x".to_owned(); 4]),
        Attribute::FloatTensor(vec![0.0; 4]),
        Attribute::DoubleTensor(vec![0.0; 4]),
        Attribute::ByteTensor(vec![0; 4]),
    ];
    for fit in [tree(&[(1, 2), (-1, -1), (-1, -1)]), classifier(), by_leaf()] {
        assert!(!is_left(&fit), "{}", fit.operator);
        for (name, attribute) in &fit.attributes {
            for longer in [false, true] {
                // More labels or roots than are used are no mistake, and a root twice is a node with two parents.
                if let Some(other) = resized(attribute, longer)
                    && (name, longer) != (&"classlabels_int64s".to_owned(), true)
                {
                    let mut model = fit.clone();
                    model.set(name, other);
                    let fits = name == "classlabels_int64s";
                    assert_eq!(is_left(&model), !fits, "{} {name} longer: {longer}", fit.operator);
                }
            }
            let kind = std::mem::discriminant(attribute);
            for other in kinds.iter().filter(|other| std::mem::discriminant(*other) != kind) {
                let mut model = fit.clone();
                model.set(name, other.clone());
                assert!(is_left(&model), "{} {name} {other:?}", fit.operator);
            }
            let defaults = ["aggregate_function", "post_transform"];
            assert!(defaults.contains(&name.as_str()) || is_left(&without(&fit, name)), "{} {name}", fit.operator);
        }
    }
}

#[test]
fn numbers_out_of_range_are_left_to_onnx_runtime() {
    let huge = [-1, i64::MIN, i64::from(i32::MAX) + 1, i64::MAX];
    for fit in [tree(&[(1, 2), (-1, -1), (-1, -1)]), classifier(), by_leaf()] {
        for (name, attribute) in &fit.attributes {
            for value in huge {
                let mut model = fit.clone();
                let is_label = name == "classlabels_int64s";
                let is_flag = name.ends_with("leafs");
                match attribute {
                    Attribute::Integer(_) => model.set(name, Attribute::Integer(value)),
                    Attribute::Integers(v) if !is_label && !is_flag => {
                        // One number of the array.
                        let mut v = v.clone();
                        v[0] = value;
                        model.set(name, Attribute::Integers(v));
                    }
                    _ => continue,
                }
                assert!(is_left(&model), "{} {name} {value}", fit.operator);
            }
        }
    }
    // A class that has no label.
    let mut model = classifier();
    model.set("class_ids", Attribute::Integers(vec![0, 1, 0, 3]));
    assert!(is_left(&model));
}

#[test]
fn what_trees_share_is_left_to_onnx_runtime() {
    // A root that does not exist, roots in a tree, a leaf of two trees, and a node of two trees.
    let cases: &[(&str, &[i64])] = &[
        ("tree_roots", &[3]),
        ("tree_roots", &[0, 1]),
        ("tree_roots", &[0, 0]),
        ("nodes_falsenodeids", &[2, 0, 3]),
        ("nodes_truenodeids", &[2, 0, 2]),
    ];
    for (name, values) in cases {
        let mut model = by_leaf();
        model.set(name, Attribute::Integers(values.to_vec()));
        assert!(is_left(&model), "{name} {values:?}");
    }
    let mut model = by_leaf();
    model.set("leaf_weights", Attribute::FloatTensor(vec![1.0, f32::NAN, 3.0, 4.0]));
    assert!(is_left(&model));
    // A cycle, also through the root of another tree.
    for (name, values, leaves) in
        [("nodes_truenodeids", [0, 0, 2], [0, 1, 1]), ("nodes_truenodeids", [1, 0, 2], [0, 0, 1])]
    {
        let mut model = by_leaf();
        model.set(name, Attribute::Integers(values.to_vec()));
        model.set("nodes_trueleafs", Attribute::Integers(leaves.to_vec()));
        assert!(is_refused(&model), "{values:?} {leaves:?}");
    }
    // Two trees that share the numbers of their nodes are no mistake.
    let mut model = tree(&[(-1, -1)]);
    let twice = |values: &[i64]| Attribute::Integers([values, values].concat());
    model.set(
        "nodes_modes",
        Attribute::Texts(["BRANCH_LT", "LEAF", "LEAF"].repeat(2).into_iter().map(str::to_owned).collect()),
    );
    model.set("nodes_treeids", Attribute::Integers(vec![0, 0, 0, 1, 1, 1]));
    for (name, values) in [
        ("nodes_nodeids", [0, 1, 2]),
        ("nodes_featureids", [0, 0, 0]),
        ("nodes_truenodeids", [1, 0, 0]),
        ("nodes_falsenodeids", [2, 0, 0]),
    ] {
        model.set(name, twice(&values));
    }
    model.set("nodes_values", Attribute::Floats(vec![0.5; 6]));
    model.set("target_ids", Attribute::Integers(vec![0; 4]));
    model.set("target_treeids", Attribute::Integers(vec![0, 0, 1, 1]));
    model.set("target_nodeids", Attribute::Integers(vec![1, 2, 1, 2]));
    model.set("target_weights", Attribute::Floats(vec![1.0, 2.0, 4.0, 8.0]));
    assert!(!is_left(&model));
    // The child of one tree in the other tree.
    model.set("nodes_truenodeids", Attribute::Integers(vec![4, 0, 0, 1, 0, 0]));
    assert!(is_left(&model));
}

#[test]
#[ignore = "takes 2.5 GB of memory: `make trees-hostile`"]
fn tens_of_millions_of_nodes_of_one_tree_take_bounded_time() {
    // A chain of splits, each with a leaf: 12 million splits and as many leaves.
    let n = 12_000_000_i64;
    let mut model = by_leaf();
    let integers = |of: &dyn Fn(i64) -> i64| Attribute::Integers((0..n).map(of).collect());
    model.set("nodes_featureids", integers(&|i| i % 3));
    model.set("nodes_modes", Attribute::ByteTensor(vec![0; n as usize]));
    model.set("nodes_splits", Attribute::FloatTensor((0..n).map(|i| -(i as f32)).collect()));
    model.set("nodes_truenodeids", integers(&|i| if i + 1 < n { i + 1 } else { n }));
    model.set("nodes_trueleafs", integers(&|i| i64::from(i + 1 == n)));
    model.set("nodes_falsenodeids", integers(&|i| i));
    model.set("nodes_falseleafs", integers(&|_| 1));
    model.set("leaf_targetids", Attribute::Integers(vec![0; n as usize + 1]));
    model.set("leaf_weights", Attribute::FloatTensor((0..=n).map(|i| i as f32).collect()));
    let bytes = model.encode();
    drop(model);
    let began = Instant::now();
    for kernel in Kernel::all() {
        let session = compiled(&bytes, kernel).unwrap().unwrap();
        let outputs = run(&session, "x", &Column::Float32(vec![-1000.5; 3]), 1).unwrap();
        let RawOutput::Tensor { data: Column::Float32(scores), .. } = &outputs[0] else { panic!("{outputs:?}") };
        // The first split whose threshold is below the value.
        assert_eq!(scores, &[1001.0], "{kernel:?}");
    }
    println!("{} bytes, {:?}", bytes.len(), began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(300));
}

#[test]
fn deep_and_numerous_trees_take_bounded_time() {
    // A chain, deeper on the first and on the second side.
    let deep = 300_000;
    for first in [true, false] {
        let chain: Vec<(i64, i64)> = (1..=deep)
            .map(|i| match (i == deep, first) {
                (true, _) => (-1, -1),
                (_, true) => (i, -1),
                (_, false) => (-1, i),
            })
            .collect();
        let bytes = tree(&chain).encode();
        let began = Instant::now();
        for kernel in Kernel::all() {
            let session = compiled(&bytes, kernel).unwrap().unwrap();
            let column = Column::Float32(vec![f32::NAN, 0.5, f32::INFINITY]);
            run(&session, "x", &column, 1).unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(120));
    }
    // A million trees of one leaf.
    let n = 1_000_000;
    let mut model = tree(&[(-1, -1)]);
    let zeros = || Attribute::Integers(vec![0; n]);
    model.set("nodes_modes", Attribute::Texts(vec!["LEAF".to_owned(); n]));
    for name in ["nodes_nodeids", "nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids", "target_nodeids"] {
        model.set(name, zeros());
    }
    model.set("target_ids", zeros());
    model.set("nodes_values", Attribute::Floats(vec![0.0; n]));
    model.set("target_weights", Attribute::Floats(vec![0.5; n]));
    let trees = || Attribute::Integers((0..n as i64).collect());
    model.set("nodes_treeids", trees());
    model.set("target_treeids", trees());
    let began = Instant::now();
    let session = compiled(&model.encode(), Kernel::chosen()).unwrap().unwrap();
    let column = Column::Float32(vec![0.0; 3]);
    run(&session, "x", &column, 1).unwrap();
    assert!(began.elapsed() < Duration::from_secs(120));
}

#[test]
fn a_feature_beyond_the_input_is_an_error_of_the_run() {
    let mut model = tree(&[(1, 2), (-1, -1), (-1, -1)]);
    model.set("nodes_featureids", Attribute::Integers(vec![0, 1, 9, 0, 0, 0, 0]));
    let bytes = model.encode();
    let column = Column::Float32(vec![0.0; 3]);
    assert!(run(&plain(&bytes).unwrap(), "x", &column, 1).is_err());
    for kernel in Kernel::all() {
        assert!(run(&compiled(&bytes, kernel).unwrap().unwrap(), "x", &column, 1).is_err());
    }
}

#[test]
fn a_damaged_ensemble_is_never_worse_than_an_error() {
    let mut dice = Dice(7);
    for seed in 0..60 {
        let ensemble = generated(seed);
        let bytes = ensemble.model.encode();
        if bytes.len() > 200_000 {
            continue;
        }
        for _ in 0..20 {
            let mut damaged = bytes.clone();
            for _ in 0..1 + dice.below(3) {
                let at = dice.below(damaged.len());
                damaged[at] ^= 1 << dice.below(8);
            }
            let Ok(Some(_)) = rewritten(&damaged) else { continue };
            let column = ensemble.rows(&mut dice, 33);
            let answers: Vec<_> = Kernel::all()
                .into_iter()
                .filter_map(|kernel| run(&compiled(&damaged, kernel).ok()??, "x", &column, 33).ok())
                .collect();
            // What is compiled from a damaged file is still the same on every kernel, and in ONNX Runtime.
            let theirs = plain(&damaged).ok().and_then(|s| run(&s, "x", &column, 33).ok());
            let all: Vec<_> = answers.iter().chain(&theirs).collect();
            for pair in all.windows(2) {
                for (a, b) in pair[0].iter().zip(pair[1]) {
                    assert_eq!(difference(a, b), None, "seed {seed}");
                }
            }
        }
    }
}
