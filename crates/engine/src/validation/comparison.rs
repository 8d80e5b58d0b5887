//! Compares the outputs of rows in batches with their outputs alone.

use std::sync::Arc;

use crate::batch::Values;
use crate::error::Result;
use crate::ort::stop::Stop;
use crate::run::RunContext;
use crate::tensor::Column;
use crate::validation::made_rows::Made;
use crate::validation::reason_of;
use crate::validation::trial::Trial;
use crate::version::Version;

/// The relative tolerance between a value in a batch and the same value alone: ONNX's own tolerance.
const RELATIVE: f64 = 1e-3;

/// The absolute tolerance, per unit of the largest element of the vector: ONNX's own tolerance.
const ABSOLUTE: f64 = 1e-5;

/// The tolerance per unit of the row's largest input, for the rounding of a sum of large numbers.
const OF_LARGEST_INPUT: f64 = 1e-6;

impl<'a> Trial<'a> {
    /// Returns the reason why rows of unequal magnitude influence each other, or `None` if they do not. Each row must
    /// get the same outputs in every batch as alone.
    pub(crate) fn compare(&self, version: &Arc<Version>) -> Result<Option<String>> {
        if self.signature().whole || self.unequal.is_empty() {
            return Ok(None);
        }
        let wanted = vec![true; version.signature.outputs.len()].into();
        let work = RunContext::new(Arc::clone(self.session), Arc::clone(version), wanted)?;
        let stop = Stop::new()?;
        let run = |rows: &[Made]| match work.run(&self.made(rows), &stop) {
            Ok(ran) if ran.failed.is_empty() => Ok(ran.values),
            Ok(ran) => Err(ran.failed.into_iter().next().map(|(_, reason)| reason).unwrap_or_default()),
            Err(error) => Err(reason_of(&error)),
        };
        let name = |i: usize| version.signature.outputs[i].name.as_str();
        let mut alone = Vec::new();
        for row in &self.unequal {
            match run(&[*row]) {
                Ok(values) => alone.push(values),
                Err(reason) => return Ok(Some(format!("a row alone failed: {reason}"))),
            }
        }
        if let Ok(again) = run(&self.unequal[..1]) {
            let moved = |(a, b): (&Values, &Values)| differ(a, b, 0.0);
            if let Some(i) = alone[0].iter().zip(&again).position(moved) {
                return Ok(Some(format!("output \"{}\" differs from run to run for the same row", name(i))));
            }
        }
        let n = self.unequal.len();
        let orders: [Vec<usize>; 4] = [
            (0..n).collect(),
            (0..n).rev().collect(),
            (0..n).map(|i| i / 2).collect(),
            (0..n).map(|i| (i * 3 + n / 2) % n).collect(),
        ];
        for order in orders {
            let rows: Vec<Made> = order.iter().map(|i| self.unequal[*i]).collect();
            let together = match run(&rows) {
                Ok(values) => values,
                Err(reason) => return Ok(Some(format!("a batch of unequal rows failed: {reason}"))),
            };
            for (place, i) in order.iter().enumerate() {
                let largest = rows[place].largest();
                let moved = |(a, b): (&Values, &Values)| differ(a, &b.pick(&[place]), largest);
                if let Some(output) = alone[*i].iter().zip(&together).position(moved) {
                    let name = name(output);
                    return Ok(Some(format!(
                        "output \"{name}\" differs between a row alone and the same row in a batch of {n}"
                    )));
                }
            }
        }
        Ok(None)
    }
}

/// Whether two outputs of one row differ by more than a different order of additions explains. `largest`: the largest
/// number in the row's inputs, because a sum of large numbers rounds more.
pub(crate) fn differ(a: &Values, b: &Values, largest: f64) -> bool {
    // The absolute tolerance of a vector grows with its largest element.
    let scale = |column: &Column| {
        let numbers = (0..column.len()).filter_map(|i| column.scalar(i)?.number());
        numbers.map(f64::abs).filter(|x| x.is_finite()).fold(1.0, f64::max)
    };
    let apart = |x: f64, y: f64, scale: f64| {
        let tolerance = ABSOLUTE * scale + RELATIVE * y.abs() + OF_LARGEST_INPUT * largest;
        !(x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= tolerance)
    };
    let columns = |a: &Column, b: &Column| {
        let scale = scale(b);
        a.len() != b.len()
            || (0..a.len()).any(|i| match (a.scalar(i), b.scalar(i)) {
                (Some(x), Some(y)) => match (x.number(), y.number()) {
                    (Some(x), Some(y)) => apart(x, y, scale),
                    _ => x != y,
                },
                _ => true,
            })
    };
    match (a, b) {
        (Values::Tensor { data: a, .. }, Values::Tensor { data: b, .. }) => columns(a, b),
        (Values::Open(a), Values::Open(b)) => a.dims != b.dims || columns(&a.data, &b.data),
        (Values::Maps(a), Values::Maps(b)) => {
            a.keys != b.keys || a.values.iter().zip(&b.values).any(|(x, y)| apart((*x).into(), (*y).into(), 1.0))
        }
        (a, b) => a != b,
    }
}
