//! Compares compiled tree ensembles with ONNX Runtime's own operators, bit for bit.

mod differential;
mod encoding;
mod folded;
mod generated;
mod hostile;
mod measured;
mod models;
mod ranks;
mod walked;

use std::borrow::Cow;

use crate::device::Device;
use crate::error::Result;
use crate::ort::origin::{Origin, with_trees};
use crate::ort::session::Session;
use crate::ort::stop::Stop;
use crate::ort::values::{Feed, RawOutput};
use crate::tensor::Column;
use crate::tests::config;
use crate::trees::kernels::Kernel;
use crate::trees::rewriting::rewritten;

/// Loads a model whose trees run in ONNX Runtime.
fn plain(model: &[u8]) -> Result<Session> {
    Session::open(&Origin::Memory(model, Vec::new()), &config(Device::Cpu)).map(Session::bare)
}

/// Loads a model whose trees run on a kernel. Returns `None` if its trees are left to ONNX Runtime.
fn compiled(model: &[u8], kernel: Kernel) -> Result<Option<Session>> {
    let Some(rewritten) = rewritten(model)? else { return Ok(None) };
    with_trees(rewritten, &[], kernel, &config(Device::Cpu)).map(|opened| Some(Session::bare(opened)))
}

/// Runs rows of the only input.
fn run(session: &Session, name: &str, column: &Column, rows: usize) -> Result<Vec<RawOutput>> {
    let len = column.len();
    let shape = vec![rows, len / rows.max(1)];
    let feed = Feed { name, column: Cow::Borrowed(column), from: 0, len, shape };
    session.infer(&[feed], None, &Stop::new()?)
}

/// Returns the first row in which outputs differ in any bit, and both values.
fn difference(a: &RawOutput, b: &RawOutput) -> Option<String> {
    let (RawOutput::Tensor { data: x, dims: of_x }, RawOutput::Tensor { data: y, dims: of_y }) = (a, b) else {
        let same = format!("{a:?}") == format!("{b:?}");
        return (!same).then(|| "values that are not tensors".to_owned());
    };
    if of_x != of_y {
        return Some(format!("shapes {of_x:?} and {of_y:?}"));
    }
    let first = |differs: &dyn Fn(usize) -> bool| {
        let width = of_x.iter().skip(1).product::<usize>().max(1);
        (0..x.len()).find(|i| differs(*i)).map(|i| (i / width, i % width, i))
    };
    let told = |at: Option<(usize, usize, usize)>, x: &dyn Fn(usize) -> String, y: &dyn Fn(usize) -> String| {
        at.map(|(row, column, i)| format!("row {row} column {column}: {} and {}", x(i), y(i)))
    };
    match (x, y) {
        (Column::Float32(x), Column::Float32(y)) => {
            told(first(&|i| x[i].to_bits() != y[i].to_bits()), &|i| format!("{:?} {:x}", x[i], x[i].to_bits()), &|i| {
                format!("{:?} {:x}", y[i], y[i].to_bits())
            })
        }
        (Column::Float64(x), Column::Float64(y)) => {
            told(first(&|i| x[i].to_bits() != y[i].to_bits()), &|i| format!("{:?} {:x}", x[i], x[i].to_bits()), &|i| {
                format!("{:?} {:x}", y[i], y[i].to_bits())
            })
        }
        _ => (x != y).then(|| "labels".to_owned()),
    }
}
