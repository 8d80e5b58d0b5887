//! What the engine's own tests share: the real library, real models of this repository, and rows for them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::batch::{Batch, Shapes};
use crate::device::Device;
use crate::options::Options;
use crate::probe::{Answer, Request};
use crate::run::Work;
use crate::session::{Config, Content, Session};
use crate::signature::Signature;
use crate::tensor::Column;
use crate::version::Version;

/// The ONNX Runtime library that `scripts/engine.sh` names.
pub(crate) fn library() -> String {
    std::env::var("PG_PREDICT_TEST_ORT").expect("PG_PREDICT_TEST_ORT names the ONNX Runtime library: make test-engine")
}

pub(crate) fn model(path: &str) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

pub(crate) fn config(device: Device) -> Config {
    Config { library: library(), device, threads: 1, session_bytes: 0 }
}

pub(crate) fn ask(options: &Options, content: Content) -> Answer {
    let request = Request {
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
    crate::probe::run(&request, content)
}

pub(crate) fn probe(bytes: &[u8]) -> Answer {
    ask(&Options::default(), Content::of(bytes.to_vec()))
}

pub(crate) fn signature(bytes: &[u8]) -> Signature {
    match probe(bytes) {
        Answer::Signature(s) => *s,
        other => panic!("{other:?}"),
    }
}

/// A model that is ready to run, with all its outputs.
pub(crate) fn work(path: &str) -> Work {
    work_of(&Options::default(), Content::of(model(path)))
}

/// A version that is ready to run, with all its outputs.
pub(crate) fn work_of(options: &Options, content: Content) -> Work {
    let copy = Content {
        model: content.model.clone(),
        tokenizer: content.tokenizer.clone(),
        external: content.external.clone(),
    };
    let signature = match ask(options, copy) {
        Answer::Signature(s) => *s,
        other => panic!("{other:?}"),
    };
    let wanted = vec![true; signature.outputs.len()].into();
    let session = Session::load(content, options, &config(Device::Cpu)).unwrap();
    let version = Version { model: "m".to_owned(), number: 1, hash: [0; 32], signature, options: options.clone() };
    Work::new(Arc::new(session), Arc::new(version), wanted).unwrap()
}

/// Made-up rows of one float input.
pub(crate) fn floats(work: &Work, rows: usize) -> Batch {
    let width = work.version.signature.inputs[0].width().unwrap();
    let data = (0..rows * width).map(|i| (i * 7 % 23) as f32 / 3.0).collect();
    Batch { rows, columns: vec![Column::Float32(data)], shapes: vec![Shapes::Same(vec![width])] }
}
