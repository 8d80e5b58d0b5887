//! A value's rank is greater than the place of a threshold exactly if a split at the threshold sends it to the second
//! child.

use crate::trees::forest::{Comparison, Split, Test};
use crate::trees::kernels::{BLOCK, Computed, Kernel};
use crate::trees::ranks::{Ranks, Values};
use crate::trees::tests::generated::Dice;

/// Numbers of thresholds around the sizes of nodes and columns, up to three levels and several columns.
const COUNTS: [usize; 14] = [1, 2, 15, 16, 17, 32, 254, 255, 256, 257, 272, 273, 511, 4500];

/// The features of the rows. The one that is split is not the first.
const WIDTH: usize = 3;
const FEATURE: u32 = 1;

fn is_second<T: Computed>(split: &Split, x: T) -> bool {
    let threshold = T::of_double(split.threshold);
    if x.partial_cmp(&x).is_none() {
        return !split.test.nan_is_first;
    }
    match split.test.comparison {
        Comparison::LessOrEqual => x > threshold,
        Comparison::Less => x >= threshold,
        Comparison::Equal => x != threshold,
    }
}

fn compare<T: Computed>(test: Test, count: usize, dice: &mut Dice) {
    // Some thresholds are equal, and zeros have both signs.
    let mut number =
        || (dice.below(2 * count + 3) as f64 - count as f64) / 8.0 * if dice.one_in(2) { 1.0 } else { -1.0 };
    let mut thresholds: Vec<f64> = (0..count).map(|_| number()).collect();
    thresholds.extend([f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0]);
    let splits: Vec<Split> =
        thresholds.iter().map(|t| Split { threshold: *t, feature: FEATURE, first: 0, end: 1, test }).collect();
    let ranks = Ranks::<T>::of(splits.iter()).unwrap();
    let mut values = thresholds.clone();
    values.extend((0..50).map(|_| number() + 1.0 / 16.0));
    values.push(f64::NAN);
    let values: Vec<T> = values.iter().map(|x| T::of_double(*x)).collect();
    let input: Vec<T> = values.iter().flat_map(|x| [T::NAN, *x, T::ZERO]).collect();
    let capacity = values.len().next_multiple_of(BLOCK);
    for kernel in Kernel::all() {
        let mut bytes = vec![0; ranks.columns as usize * capacity];
        T::fill(kernel, &ranks, &mut bytes, capacity, Values { input: &input, width: WIDTH, rows: values.len() });
        // Some hundred splits, and among them the last ones.
        for split in splits.iter().rev().step_by(1 + splits.len() / 300).chain(splits.iter().rev().take(4)) {
            for (row, x) in values.iter().enumerate() {
                let beyond = |(column, bound): (u32, i8)| bytes[column as usize * capacity + row] > bound;
                let got = ranks.places(split).any(|place| beyond((place.column, place.bound)));
                assert_eq!(got, is_second(split, *x), "{kernel:?} {split:?} {}", x.to_double());
            }
        }
    }
}

#[test]
fn ranks_are_beyond_the_thresholds_that_their_values_are_beyond() {
    let mut dice = Dice(1);
    for count in COUNTS {
        for comparison in [Comparison::LessOrEqual, Comparison::Less, Comparison::Equal] {
            for nan_is_first in [false, true] {
                let test = Test { comparison, nan_is_first };
                compare::<f32>(test, count, &mut dice);
                // Large numbers of thresholds take long, and doubles have the same levels.
                if count < 1000 {
                    compare::<f64>(test, count, &mut dice);
                }
            }
        }
    }
}
