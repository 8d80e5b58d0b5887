//! Shared helpers of the engine's tests: the ONNX Runtime library, models of this repository, and rows for them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::batch::{Batch, Shapes};
use crate::device::Device;
use crate::onnx::content::Content;
use crate::options::Options;
use crate::ort::environment::Config;
use crate::ort::session::Session;
use crate::run::RunContext;
use crate::signature::Signature;
use crate::tensor::Column;
use crate::validation::{ValidationRequest, ValidationResult};
use crate::version::Version;

/// Returns the path of the ONNX Runtime library, which `scripts/engine.sh` sets.
pub(crate) fn library() -> String {
    std::env::var("PG_PREDICT_TEST_ORT").expect("PG_PREDICT_TEST_ORT names the ONNX Runtime library: make test-engine")
}

pub(crate) fn model(path: &str) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

pub(crate) fn config(device: Device) -> Config {
    Config::of(library(), device, 1)
}

pub(crate) fn ask(options: &Options, content: Content) -> ValidationResult {
    let request = ValidationRequest {
        library: library(),
        options: options.clone(),
        model: content.model.len(),
        tokenizer: content.tokenizer.as_ref().map(Vec::len),
        external: content
            .external
            .iter()
            .map(|(name, b)| (Some(name.clone()).filter(|n| !n.is_empty()), b.len()))
            .collect(),
        may_ask: false,
    };
    crate::validation::run(&request, content)
}

pub(crate) fn probe(bytes: &[u8]) -> ValidationResult {
    ask(&Options::default(), Content::of(bytes.to_vec()))
}

pub(crate) fn signature(bytes: &[u8]) -> Signature {
    match probe(bytes) {
        ValidationResult::Signature(s) => *s,
        other => panic!("{other:?}"),
    }
}

/// Creates the `RunContext` of a model file, with all outputs.
pub(crate) fn work(path: &str) -> RunContext {
    work_of(&Options::default(), Content::of(model(path)))
}

/// Creates the `RunContext` of a version, with all outputs.
pub(crate) fn work_of(options: &Options, content: Content) -> RunContext {
    let copy = Content {
        model: content.model.clone(),
        tokenizer: content.tokenizer.clone(),
        external: content.external.clone(),
    };
    let signature = match ask(options, copy) {
        ValidationResult::Signature(s) => *s,
        other => panic!("{other:?}"),
    };
    let wanted = vec![true; signature.outputs.len()].into();
    let session = Session::load(content, options, &config(Device::Cpu)).unwrap();
    let version = Version { model: "m".to_owned(), number: 1, hash: [0; 32], signature, options: options.clone() };
    RunContext::new(Arc::new(session), Arc::new(version), wanted).unwrap()
}

/// Generates rows for a model with one float input.
pub(crate) fn floats(work: &RunContext, rows: usize) -> Batch {
    let width = work.version.signature.inputs[0].width().unwrap();
    let data = (0..rows * width).map(|i| (i * 7 % 23) as f32 / 3.0).collect();
    Batch { rows, columns: vec![Column::Float32(data)], shapes: vec![Shapes::Same(vec![width])] }
}

/// Builds a model with more than a megabyte of weights: x float [N, 10] times [10, 600] times [600, 600], and the sum
/// of each row.
pub(crate) fn wide() -> Vec<u8> {
    fn field(number: u32, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut out);
        prost::encoding::encode_varint(content.len() as u64, &mut out);
        [out, content.to_vec()].concat()
    }
    fn number(field: u32, value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        prost::encoding::encode_key(field, prost::encoding::WireType::Varint, &mut out);
        prost::encoding::encode_varint(value, &mut out);
        out
    }
    let weights = |name: &str, rows: u64, columns: u64| {
        let raw: Vec<u8> = (0..rows * columns).flat_map(|i| ((i % 17) as f32 / 100.0 - 0.08).to_le_bytes()).collect();
        field(
            5,
            &[number(1, rows), number(1, columns), number(2, 1), field(8, name.as_bytes()), field(9, &raw)].concat(),
        )
    };
    let node = |inputs: &[&str], output: &str, op: &str| {
        let inputs: Vec<u8> = inputs.iter().flat_map(|i| field(1, i.as_bytes())).collect();
        field(1, &[inputs, field(2, output.as_bytes()), field(4, op.as_bytes())].concat())
    };
    let value = |tag: u32, name: &str, width: u64| {
        let dims = [field(1, &field(2, b"N")), field(1, &number(1, width))].concat();
        let tensor = [number(1, 1), field(2, &dims)].concat();
        field(tag, &[field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat())
    };
    let graph = [
        node(&["x", "a"], "p", "MatMul"),
        node(&["p", "b"], "q", "MatMul"),
        node(&["q", "c"], "y", "MatMul"),
        field(2, b"wide"),
        weights("a", 10, 600),
        weights("b", 600, 600),
        weights("c", 600, 1),
        value(11, "x", 10),
        value(12, "y", 1),
    ];
    [number(1, 8), field(8, &number(2, 13)), field(7, &graph.concat())].concat()
}
