//! Scores rows in memory with a model, without PostgreSQL. Driven by `benches/trees/trees.py`.
//!
//!     score_rows LIBRARY MODEL ROWS OPTIONS OUTPUT BATCH
//!
//! ROWS is a file of little-endian floats: the rows of the model's only input. OPTIONS is the JSON of a version's
//! options. The program loads the model and prints how long that took and how much memory it keeps. For each line of
//! standard input it runs all rows in batches of BATCH rows, and prints the seconds. If the line is a path, it also
//! writes the rows of OUTPUT to that file, as floats.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a program for measurements fails by panicking")]

use std::io::BufRead;
use std::sync::Arc;
use std::time::Instant;

use pg_predict_engine::batch::{Batch, Shapes, Values};
use pg_predict_engine::device::Device;
use pg_predict_engine::memory::resident;
use pg_predict_engine::onnx::content::Content;
use pg_predict_engine::options::Options;
use pg_predict_engine::ort::environment::{Config, runtime};
use pg_predict_engine::ort::session::Session;
use pg_predict_engine::ort::stop::Stop;
use pg_predict_engine::run::RunContext;
use pg_predict_engine::tensor::Column;
use pg_predict_engine::validation::{self, ValidationRequest, ValidationResult};
use pg_predict_engine::version::Version;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, library, model, rows, options, output, batch] = arguments.as_slice() else {
        panic!("usage: score_rows LIBRARY MODEL ROWS OPTIONS OUTPUT BATCH")
    };
    let options = Options::parse(&serde_json::from_str(options).unwrap()).unwrap();
    let config = Config::of(library.clone(), Device::Cpu, 1);
    runtime(library).unwrap();

    let before = resident();
    let bytes = std::fs::read(model).unwrap();
    let began = Instant::now();
    let session = Session::load(Content::of(bytes), &options, &config).unwrap();
    let load = began.elapsed().as_secs_f64();
    let memory = resident().saturating_sub(before);
    println!("{}", serde_json::json!({"load_seconds": load, "memory_bytes": memory}));

    let content = Content::of(std::fs::read(model).unwrap());
    let request = ValidationRequest {
        library: library.clone(),
        options: options.clone(),
        model: content.model.len(),
        tokenizer: None,
        external: Vec::new(),
        may_ask: false,
    };
    let mut lines = std::io::stdin().lock().lines().map_while(Result::ok).peekable();
    if lines.peek().is_none() {
        return;
    }
    let signature = match validation::run(&request, content) {
        ValidationResult::Signature(signature) => *signature,
        other => panic!("{other:?}"),
    };
    let [input] = signature.inputs.as_slice() else { panic!("{model} has several inputs") };
    let width = input.width().unwrap();
    let wanted: Vec<bool> = signature.outputs.iter().map(|o| o.name == *output).collect();
    assert!(wanted.contains(&true), "{model} has no output {output}");
    let (bytes, size) = (std::fs::read(rows).unwrap(), batch.parse::<usize>().unwrap());
    let (values, []) = bytes.as_chunks::<4>() else { panic!("{rows} has no whole number of floats") };
    let batches: Vec<Batch> = values
        .chunks(size * width)
        .map(|values| Batch {
            rows: values.len() / width,
            columns: vec![Column::Float32(values.iter().map(|b| f32::from_le_bytes(*b)).collect())],
            shapes: vec![Shapes::Same(vec![width])],
        })
        .collect();
    drop(bytes);
    let version = Version { model: "m".to_owned(), number: 1, hash: [0; 32], signature, options };
    let context = RunContext::new(Arc::new(session), Arc::new(version), wanted.into()).unwrap();
    let stop = Stop::new().unwrap();
    for line in lines {
        let mut scores = Vec::new();
        let began = Instant::now();
        for batch in &batches {
            scores.push(context.run(batch, &stop).unwrap());
        }
        let seconds = began.elapsed().as_secs_f64();
        if !line.is_empty() {
            let mut written = Vec::new();
            for values in scores.iter().flat_map(|output| &output.values) {
                let Values::Tensor { data: Column::Float32(data), .. } = values else { panic!("{values:?}") };
                written.extend(data.iter().flat_map(|x| x.to_le_bytes()));
            }
            std::fs::write(&line, written).unwrap();
        }
        println!("{}", serde_json::json!({"seconds": seconds}));
    }
}
