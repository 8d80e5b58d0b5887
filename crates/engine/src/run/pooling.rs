//! Pools the states of tokens into one vector per row, and normalizes vectors.

use half::{bf16, f16};

use crate::batch::Values;
use crate::options::Pooling;
use crate::tensor::Column;

/// Pools the states of each row's tokens into one vector per row.
pub(crate) fn pool<'a>(
    data: Column,
    shape: &[usize],
    own: &[(usize, usize)],
    masks: impl Iterator<Item = &'a [u32]>,
    pooling: Pooling,
) -> Values {
    let width: usize = shape[1..].iter().product();
    let states = data.into_float32().unwrap_or_default();
    let mut out = Vec::with_capacity(own.len() * width);
    for (i, ((from, n), mask)) in own.iter().zip(masks).enumerate() {
        let start = out.len();
        out.resize(start + width, 0.0_f32);
        let state = |token: usize| &states[(i * shape[0] + from + token) * width..][..width];
        let counts = |token: &usize| mask.get(*token).is_some_and(|m| *m != 0);
        let counted: Vec<usize> = match pooling {
            Pooling::Cls => (0..(*n).min(1)).collect(),
            Pooling::Last => (0..*n).rev().find(|t| counts(t)).into_iter().collect(),
            Pooling::Mean | Pooling::None => (0..*n).filter(counts).collect(),
        };
        for token in &counted {
            out[start..].iter_mut().zip(state(*token)).for_each(|(sum, x)| *sum += x);
        }
        let count = counted.len().max(1) as f32;
        out[start..].iter_mut().for_each(|x| *x /= count);
    }
    Values::Tensor { width, data: Column::Float32(out) }
}

/// Scales every row to a Euclidean length of 1. A row without a positive length stays unchanged.
pub(crate) fn normalize(values: &mut Values) {
    fn unit<T: Copy>(row: &mut [T], number: impl Fn(T) -> f64, back: impl Fn(f64) -> T) {
        let length = row.iter().map(|x| number(*x).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|x| *x = back(number(*x) / length));
        }
    }
    #[allow(clippy::cast_possible_truncation, reason = "rounds a number that is at most 1")]
    fn spans(column: &mut Column, rows: impl Iterator<Item = (usize, usize)>) {
        for (from, n) in rows {
            match column {
                Column::Float32(v) => unit(&mut v[from..from + n], f64::from, |x| x as f32),
                Column::Float64(v) => unit(&mut v[from..from + n], |x| x, |x| x),
                Column::Float16(v) => unit(&mut v[from..from + n], f64::from, f16::from_f64),
                Column::Bfloat16(v) => unit(&mut v[from..from + n], f64::from, bf16::from_f64),
                // The options are checked against the outputs when the version is created.
                _ => {}
            }
        }
    }
    match values {
        Values::Tensor { width, data } => {
            let (width, rows) = (*width, data.len() / (*width).max(1));
            spans(data, (0..rows).map(|i| (i * width, width)));
        }
        Values::Open(open) => {
            let starts = std::iter::once(0).chain(open.ends.iter().copied());
            let rows: Vec<(usize, usize)> = starts.zip(&open.ends).map(|(a, b)| (a, b - a)).collect();
            spans(&mut open.data, rows.into_iter());
        }
        Values::Maps(_) | Values::Nested(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pools states of width 1. The value of each state is its position in the tensor.
    fn pooled(length: usize, own: &[(usize, usize)], masks: &[&[u32]], pooling: Pooling) -> Vec<f32> {
        let states = Column::Float32((0..own.len() * length).map(|i| i as f32).collect());
        match pool(states, &[length, 1], own, masks.iter().copied(), pooling) {
            Values::Tensor { width: 1, data: Column::Float32(v) } => v,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_last_state_is_that_of_the_last_token_that_is_no_padding() {
        // A long text, a text of one token and an empty text: padded on the right, then on the left.
        let masks: [&[u32]; 3] = [&[1; 6], &[1], &[]];
        assert_eq!(pooled(6, &[(0, 6), (0, 1), (0, 0)], &masks, Pooling::Last), [5.0, 6.0, 0.0]);
        assert_eq!(pooled(6, &[(0, 6), (5, 1), (6, 0)], &masks, Pooling::Last), [5.0, 11.0, 0.0]);
        // A tokenizer may add padding of its own.
        let masks: [&[u32]; 2] = [&[1, 1, 0, 0], &[0, 0, 1, 1]];
        assert_eq!(pooled(4, &[(0, 4), (0, 4)], &masks, Pooling::Last), [1.0, 7.0]);
        assert_eq!(pooled(4, &[(0, 4), (0, 4)], &masks, Pooling::Mean), [0.5, 6.5]);
        assert_eq!(pooled(4, &[(0, 4), (0, 4)], &masks, Pooling::Cls), [0.0, 4.0]);
    }
}
