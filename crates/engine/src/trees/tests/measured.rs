//! Measures compiled ensembles against ONNX Runtime, in one process and by turns. Not a test: it prints a table.
//!
//! `TREES_MODELS` lists model files, separated by colons. Each has one input of floats or
//! doubles.

use std::time::{Duration, Instant};

use crate::onnx::content::Content;
use crate::options::{Options, Trees};
use crate::ort::stop::Stop;
use crate::tensor::{Column, ElementType};
use crate::tests::{ask, model, work_of};
use crate::trees::kernels::Kernel;
use crate::trees::tests::generated::Dice;
use crate::trees::tests::models::batch_of;
use crate::trees::tests::{compiled, difference, plain, run};
use crate::validation::ValidationResult;

/// The number of distinct rows of a measurement. With 4,096 of them, ONNX Runtime takes half the time for a lone tree.
const DISTINCT_ROWS: usize = 65_536;

/// Returns the time for one row, in nanoseconds: the shortest of several groups of runs.
fn nanoseconds(mut once: impl FnMut(), rows: usize) -> f64 {
    let group = (512 / rows).max(1);
    let mut best = f64::MAX;
    let began = Instant::now();
    let mut times = 0;
    while times < 3 || (began.elapsed() < Duration::from_millis(500) && times < 2000) {
        let start = Instant::now();
        (0..group).for_each(|_| once());
        best = best.min(start.elapsed().as_nanos() as f64 / (group * rows) as f64);
        times += 1;
    }
    best
}

#[test]
#[ignore = "a measurement: one process for each value of `TREES`, \"compiled\" or \"onnxruntime\""]
fn memory_of_models() {
    let paths = std::env::var("TREES_MODELS").unwrap_or_default();
    let options = Options::parse(&serde_json::json!({"trees": std::env::var("TREES").unwrap()})).unwrap();
    for path in paths.split(':').filter(|p| !p.is_empty()) {
        let bytes = std::fs::read(path).unwrap();
        let size = bytes.len();
        match ask(&options, Content::of(bytes)) {
            ValidationResult::Signature(signature) => {
                let (of_session, mib) = (signature.session_bytes as f64, 1024.0 * 1024.0);
                let ratio = of_session / size as f64;
                println!("{path} {:.1} MiB, session {:.1} MiB, {ratio:.2}x", size as f64 / mib, of_session / mib);
            }
            other => println!("{path} {other:?}"),
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn speed_of_flights() {
    let rows = 4096;
    for trees in [Trees::OnnxRuntime, Trees::Compiled] {
        let options = Options { trees, ..Options::default() };
        let work = work_of(&options, Content::of(model("models/late.onnx")));
        let batch = batch_of(&work, rows, &mut Dice(1), &["AA", "UA", "JFK", "EWR", "LGA", "ATL", "B6", "LAX"]);
        let stop = Stop::new().unwrap();
        let time = nanoseconds(|| drop(work.run(&batch, &stop).unwrap()), rows);
        println!("flights {trees:?}: {time:.0} ns per row");
    }
}

#[test]
#[ignore = "a measurement: `make trees-speed`"]
fn speed_of_models() {
    let paths = std::env::var("TREES_MODELS").unwrap_or_default();
    let kernels = Kernel::all();
    print!("{:28} {:>6} {:>12} {:>9}", "model", "rows", "ONNX Runtime", "load");
    kernels.iter().for_each(|kernel| print!(" {:>10} {:>7} {:>6}", format!("{kernel:?}"), "ratio", "load"));
    println!();
    for path in paths.split(':').filter(|p| !p.is_empty()) {
        let bytes = std::fs::read(path).unwrap();
        let began = Instant::now();
        let theirs = plain(&bytes).unwrap();
        let their_load = began.elapsed();
        let ours: Vec<_> = kernels
            .iter()
            .map(|kernel| {
                let began = Instant::now();
                (compiled(&bytes, *kernel).unwrap(), began.elapsed())
            })
            .collect();
        let declared = theirs.declared().unwrap();
        let [input] = declared.inputs.as_slice() else { panic!("{path} has several inputs") };
        let width = usize::try_from(*input.dims.last().unwrap()).unwrap();
        let fixed = usize::try_from(input.dims[0]).ok().filter(|rows| *rows > 0);
        for rows in fixed.map_or(vec![1, 16, 256, 4096], |rows| vec![rows]) {
            // The rows are others each time, or the branch predictors would learn them.
            let mut dice = Dice(1);
            let batches: Vec<Column> = (0..(DISTINCT_ROWS / rows).max(1))
                .map(|_| {
                    let mut value = || (dice.below(1 << 20) as f32) / (1 << 20) as f32;
                    match input.element {
                        ElementType::Float64 => Column::Float64((0..rows * width).map(|_| value().into()).collect()),
                        _ => Column::Float32((0..rows * width).map(|_| value()).collect()),
                    }
                })
                .collect();
            let mut next = (0..batches.len()).cycle();
            let mut batch = || &batches[next.next().unwrap()];
            let outputs = run(&theirs, &input.name, &batches[0], rows).unwrap();
            let base = nanoseconds(|| drop(run(&theirs, &input.name, batch(), rows).unwrap()), rows);
            let name = path.rsplit('/').next().unwrap_or(path);
            print!("{name:28} {rows:6} {base:12.0} {:>7.1}ms", their_load.as_secs_f64() * 1e3);
            for (session, load) in &ours {
                let Some(session) = session else {
                    print!(" {:>25}", "left");
                    continue;
                };
                let got = run(session, &input.name, &batches[0], rows).unwrap();
                let time = nanoseconds(|| drop(run(session, &input.name, batch(), rows).unwrap()), rows);
                let same = outputs.iter().zip(&got).all(|(a, b)| difference(a, b).is_none());
                let load = load.as_secs_f64() / their_load.as_secs_f64();
                print!(" {time:10.0} {:6.1}x {load:5.2}x{}", base / time, if same { "" } else { " DIFFERENT" });
            }
            println!();
        }
    }
}
