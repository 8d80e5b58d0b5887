//! What the engine's own tests share: the real library, real models of this repository, and rows for them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::batch::Batch;
use crate::device::Device;
use crate::options::Options;
use crate::pipeline::Work;
use crate::probe::{Answer, Request};
use crate::session::{Config, Session};
use crate::signature::Signature;
use crate::tensor::Column;

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

pub(crate) fn probe(bytes: &[u8]) -> Answer {
    crate::probe::run(bytes, &Request { library: library(), options: Options::default() })
}

pub(crate) fn signature(bytes: &[u8]) -> Signature {
    match probe(bytes) {
        Answer::Signature(s) => *s,
        Answer::Refusal(e) => panic!("{e}"),
    }
}

/// A model that is ready to run, with all its outputs.
pub(crate) fn work(path: &str) -> Work {
    let bytes = model(path);
    let signature = signature(&bytes);
    let wanted = vec![true; signature.outputs.len()].into();
    let session = Session::load(&bytes, &config(Device::Cpu)).unwrap();
    Work { session: Arc::new(session), signature: Arc::new(signature), wanted }
}

/// Made-up rows of one float input.
pub(crate) fn floats(work: &Work, rows: usize) -> Batch {
    let width = work.signature.inputs[0].width().unwrap();
    let data = (0..rows * width).map(|i| (i * 7 % 23) as f32 / 3.0).collect();
    Batch { rows, columns: vec![Column::Float32(data)], shapes: vec![vec![width]] }
}
