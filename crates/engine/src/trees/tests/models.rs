//! Whole models give the same through compiled trees, and declare the same.

use crate::batch::{Batch, Shapes};
use crate::device::Device;
use crate::error::Error;
use crate::onnx::content::Content;
use crate::options::{Options, Trees};
use crate::ort::session::Session;
use crate::ort::stop::Stop;
use crate::run::RunContext;
use crate::signature::{Input, Signature};
use crate::tensor::{Column, ElementType, Strings};
use crate::tests::{config, model, work_of};
use crate::trees::rewriting::names_files;
use crate::trees::tests::generated::Dice;

/// The models of the repository with trees, and the number of their ensembles.
const MODELS: [(&str, usize); 6] = [
    ("models/credit.onnx", 0),
    ("models/late.onnx", 1),
    ("models/diamonds.onnx", 1),
    ("tests/reference/models/credit_isoforest.onnx", 50),
    ("tests/reference/models/credit_lgbm.onnx", 1),
    ("tests/reference/models/credit_lgbm_zipmap.onnx", 1),
];

/// Makes rows with these texts, and other numbers.
pub(super) fn batch_of(work: &RunContext, rows: usize, dice: &mut Dice, texts: &[&str]) -> Batch {
    let inputs = &work.version.signature.inputs;
    let mut column = |input: &Input| {
        let count = rows * input.width().unwrap();
        if input.element == ElementType::String {
            let mut column = Strings::default();
            (0..count).for_each(|_| column.push(dice.of(texts)));
            return Column::String(column);
        }
        Column::Float32((0..count).map(|_| dice.below(1000) as f32 / 10.0 - 20.0).collect())
    };
    let columns = inputs.iter().map(&mut column).collect();
    let shapes = inputs.iter().map(|input| Shapes::Same(input.shape.iter().map(|d| d.unwrap()).collect()));
    Batch { rows, columns, shapes: shapes.collect() }
}

fn options(trees: Trees) -> Options {
    Options { trees, ..Options::default() }
}

#[test]
fn models_give_and_declare_the_same_with_compiled_trees() {
    for (path, trees) in MODELS {
        let [compiled, plain] =
            [Trees::Compiled, Trees::OnnxRuntime].map(|t| work_of(&options(t), Content::of(model(path))));
        assert_eq!((compiled.session.trees, plain.session.trees), (trees, 0), "{path}");
        let (ours, theirs) = (compiled.session.declared().unwrap(), plain.session.declared().unwrap());
        assert_eq!(format!("{:?}", ours.inputs), format!("{:?}", theirs.inputs), "{path}");
        assert_eq!(format!("{:?}", ours.outputs), format!("{:?}", theirs.outputs), "{path}");
        let [ours, theirs] = [&compiled, &plain].map(|work| {
            let mut signature = work.version.signature.clone();
            signature.metadata.remove("compiled_trees");
            let Signature { inputs, outputs, batch_sensitive, verified, metadata, .. } = signature;
            (inputs, outputs, batch_sensitive, verified, metadata)
        });
        assert_eq!(ours, theirs, "{path}");
        let mut dice = Dice(3);
        for rows in [1, 3, 70, 500] {
            let batch = batch_of(&compiled, rows, &mut dice, &["", "a", "JFK", "AA", "home"]);
            let [ours, theirs] =
                [&compiled, &plain].map(|work| work.run(&batch, &Stop::new().unwrap()).unwrap().values);
            assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "{path} {rows}");
        }
    }
}

#[test]
fn trees_are_compiled_in_models_whose_texts_become_numbers_too() {
    let bytes = model("models/late.onnx");
    let session = Session::load(Content::of(bytes), &Options::default(), &config(Device::Cpu)).unwrap();
    assert_eq!((session.trees, session.categories.len()), (1, 3));
}

#[test]
fn a_model_with_weights_in_files_is_told_from_one_without() {
    for (path, outside) in [
        ("tests/models/external.onnx", true),
        ("tests/models/external_climbs.onnx", true),
        ("tests/models/trees.onnx", false),
        ("models/late.onnx", false),
        ("models/credit.onnx", false),
    ] {
        assert_eq!(names_files(&model(path)), outside, "{path}");
    }
    assert!(names_files(b"no model"));
}

#[test]
fn the_models_of_the_sql_tests_are_compiled_or_refused() {
    let load = |path| Session::load(Content::of(model(path)), &Options::default(), &config(Device::Cpu));
    assert_eq!(load("tests/models/trees.onnx").unwrap().trees, 1);
    assert_eq!(load("tests/models/trees_labels.onnx").unwrap().trees, 1);
    assert!(
        matches!(load("tests/models/trees_cycle.onnx"), Err(Error::InvalidModel { reason }) if reason.contains("cycle"))
    );
}
