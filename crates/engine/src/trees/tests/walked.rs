//! Compares the kernels with a plain walk from node to node.

use crate::tensor::Column;
use crate::trees::compiled::Compiled;
use crate::trees::ensemble::{Aggregate, Ensemble};
use crate::trees::forest::{Comparison, Split};
use crate::trees::kernels::{Computed, Kernel, Rows, Runner};
use crate::trees::ranks::Ranks;
use crate::trees::rewriting::rewritten;
use crate::trees::scores::{Finish, Score};
use crate::trees::tests::generated::{Dice, generated};

const ENSEMBLES: u64 = 200;
/// More than a group of rows, and no whole block.
const ROWS: usize = 290;

/// Returns the leaf that a row reaches, counted from the first leaf of the tree.
fn leaf<T: Computed>(splits: &[Split], row: &[T]) -> usize {
    let (mut splits, mut leaf) = (splits, 0);
    while let Some((split, below)) = splits.split_first() {
        let (x, threshold) = (row[split.feature as usize], T::of_double(split.threshold));
        let is_nan = x.partial_cmp(&x).is_none();
        let is_first = match split.test.comparison {
            Comparison::LessOrEqual => x <= threshold,
            Comparison::Less => x < threshold,
            Comparison::Equal => x == threshold,
        };
        // The first child has as many leaves as splits, and one more.
        let of_first = (split.end - split.first) as usize - 1;
        if is_first || (is_nan && split.test.nan_is_first) {
            splits = &below[..of_first];
        } else {
            splits = &below[of_first..];
            leaf += of_first + 1;
        }
    }
    leaf
}

/// Computes the scores of a row.
fn walked<T: Computed>(ensemble: &Ensemble, row: &[T], finish: &mut Finish<T>) -> Vec<T> {
    let Ensemble { forest, weights, scoring, .. } = ensemble;
    let initial = match scoring.aggregate {
        Aggregate::Sum | Aggregate::Average => T::ZERO,
        Aggregate::Min => T::INFINITY,
        Aggregate::Max => -T::INFINITY,
    };
    let mut scores = vec![Score { sum: initial, is_set: false }; scoring.targets];
    for tree in &forest.trees {
        let leaf = tree.leaves.start + leaf(forest.splits_of(tree), row);
        for weight in &weights[forest.leaves[leaf].clone()] {
            let (score, value) = (&mut scores[weight.target as usize], T::of_double(weight.value));
            score.is_set = true;
            score.sum = match scoring.aggregate {
                Aggregate::Sum | Aggregate::Average => score.sum + value,
                Aggregate::Min if value < score.sum => value,
                Aggregate::Max if value > score.sum => value,
                Aggregate::Min | Aggregate::Max => score.sum,
            };
        }
    }
    if let [one] = scores.as_slice() {
        return vec![finish.single(scoring, one.sum)];
    }
    let mut outputs = vec![T::ZERO; scoring.targets];
    finish.several(scoring, scores.into_iter(), &mut outputs).unwrap();
    outputs
}

/// Compares every kernel on several numbers of rows.
fn compare<T: Computed>(ensemble: &Ensemble, rows: &[T], as_rows: fn(&[T]) -> Rows<'_>, width: usize, what: &str) {
    let count = rows.len() / width;
    let mut finish = Finish::new(&ensemble.scoring);
    let expected: Vec<u64> = rows
        .chunks_exact(width)
        .flat_map(|row| walked(ensemble, row, &mut finish))
        .map(|x| x.to_double().to_bits())
        .collect();
    let forms = [
        ("chosen", Compiled::of(ensemble).unwrap()),
        ("cuts", Compiled::with(ensemble, Compiled::ranks_of(ensemble).unwrap()).unwrap()),
        ("walks", Compiled::with(ensemble, Ranks::default()).unwrap()),
    ];
    for kernel in Kernel::all() {
        for (form, compiled) in &forms {
            let mut runner = Runner::new(compiled, kernel);
            for count in [1, 5, 17, 33, 70, 129, 200, count] {
                let mut scores = Vec::new();
                let write = |_, values: &[T], _: &[i64]| scores.extend(values.iter().map(|x| x.to_double().to_bits()));
                runner.run(compiled, as_rows(&rows[..count * width]), count, width, write).unwrap();
                let expected = &expected[..count * ensemble.scoring.targets];
                assert_eq!(scores, expected, "{what} {kernel:?} {form}, {count} rows");
            }
        }
    }
}

#[test]
fn every_kernel_gives_the_bits_of_a_plain_walk() {
    let mut compared = 0;
    for seed in 0..ENSEMBLES {
        let generated = generated(seed);
        let Ok(Some(rewritten)) = rewritten(&generated.model.encode()) else { continue };
        let [ensemble] = rewritten.ensembles.as_slice() else { continue };
        let (mut dice, what) = (Dice(seed), format!("seed {seed}"));
        let width = generated.model.width;
        match generated.rows(&mut dice, ROWS) {
            Column::Float32(rows) if ensemble.double != Some(true) => {
                compare(ensemble, &rows, |rows| Rows::Float32(rows), width, &what);
            }
            Column::Float64(rows) if ensemble.double != Some(false) => {
                compare(ensemble, &rows, |rows| Rows::Float64(rows), width, &what);
            }
            _ => continue,
        }
        compared += 1;
    }
    assert!(compared >= ENSEMBLES / 4, "{compared} of {ENSEMBLES}");
}
