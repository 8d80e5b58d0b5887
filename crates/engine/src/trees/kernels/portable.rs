//! The kernels without instructions of a particular processor. The compiler vectorises the loops over rows.
//!
//! Other kernels use these functions for doubles, compiled for their instructions.

use crate::trees::compiled::{Compiled, Cut, Form, LeafWeights, index};
use crate::trees::ensemble::Aggregate;
use crate::trees::forest::{Comparison, Test};
use crate::trees::kernels::{LANES, Part, walk};
use crate::trees::number::Number;

/// The number of rows whose masks are in registers.
const GROUP: usize = 16;

/// Adds the weights of all trees to the sums.
#[inline(always)]
pub(super) fn add<T: Number>(part: &mut Part<'_, T>) {
    let compiled = part.compiled;
    let mut exits = [0; LANES];
    for tree in &compiled.trees {
        for block in 0..part.rows.div_ceil(LANES) {
            match tree.form {
                Form::Leaf => exits.fill(0),
                Form::Masks { first, words } => masks(part, block, first, words, &mut exits),
                Form::Walk(tests) => {
                    walk::exits(part, block, tree.root, tests, &mut exits);
                }
            }
            add_weights(part, block, tree.weights, &exits);
        }
    }
}

#[inline(always)]
fn masks<T: Number>(part: &Part<'_, T>, block: usize, first: u32, words: u32, exits: &mut [u32; LANES]) {
    let compiled = part.compiled;
    let size = compiled.features.len() * LANES;
    let columns = &part.columns[block * size..(block + 1) * size];
    let rows = (part.rows - block * LANES).min(LANES);
    for group in (0..rows).step_by(GROUP) {
        let mut leaf = [0; GROUP];
        // The lowest word with a bit counts, so it comes last.
        for word in (0..words).rev() {
            let mut mask = [u32::MAX; GROUP];
            let stretches = compiled.words[index(first + word)]..compiled.words[index(first + word) + 1];
            for stretch in &compiled.stretches[index(stretches.start)..index(stretches.end)] {
                let cuts = &compiled.cuts[index(stretch.cuts.0)..index(stretch.cuts.1)];
                clear_by(stretch.test, cuts, columns, group, &mut mask);
            }
            for (leaf, mask) in leaf.iter_mut().zip(mask) {
                let lowest = 32 * word + mask.trailing_zeros();
                *leaf = if mask == 0 { *leaf } else { lowest };
            }
        }
        exits[group..group + GROUP].copy_from_slice(&leaf);
    }
}

#[inline(always)]
fn clear_by<T: Number>(test: Test, cuts: &[Cut<T>], columns: &[T], group: usize, mask: &mut [u32; GROUP]) {
    // Comparisons are false for NaN, so the negations are true.
    #[allow(clippy::neg_cmp_op_on_partial_ord, reason = "NaN must take the same way as in the comparison")]
    match (test.comparison, test.nan_is_first) {
        (Comparison::LessOrEqual, false) => clear(cuts, columns, group, mask, |x, t| !(x <= t)),
        (Comparison::LessOrEqual, true) => clear(cuts, columns, group, mask, |x, t| x > t),
        (Comparison::Less, false) => clear(cuts, columns, group, mask, |x, t| !(x < t)),
        (Comparison::Less, true) => clear(cuts, columns, group, mask, |x, t| x >= t),
        (Comparison::Equal, false) => clear(cuts, columns, group, mask, |x, t| !(x == t)),
        (Comparison::Equal, true) => clear(cuts, columns, group, mask, |x, t| (x < t) | (x > t)),
    }
}

#[inline(always)]
fn clear<T: Number>(
    cuts: &[Cut<T>],
    columns: &[T],
    group: usize,
    mask: &mut [u32; GROUP],
    is_second: impl Fn(T, T) -> bool,
) {
    for cut in cuts {
        let start = index(cut.feature) * LANES + group;
        let Some(column) = columns.get(start..start + GROUP) else { return };
        for i in 0..GROUP {
            // Without a branch, so that the loop is vectorised.
            mask[i] &= cut.mask | u32::from(is_second(column[i], cut.threshold)).wrapping_sub(1);
        }
    }
}

/// Adds the weights of the leaves of a block to the sums.
#[inline(always)]
pub(super) fn add_weights<T: Number>(part: &mut Part<'_, T>, block: usize, weights: LeafWeights, exits: &[u32; LANES]) {
    let Compiled { values, targets, scoring, .. } = part.compiled;
    let (first, rows) = (block * LANES, (part.rows - block * LANES).min(LANES));
    match weights {
        LeafWeights::One { target, values: start } => {
            let start_of_sums = index(target) * part.capacity + first;
            let sums = &mut part.sums[start_of_sums..start_of_sums + rows];
            add_values(scoring.aggregate, sums, &values[index(start)..], exits);
        }
        LeafWeights::Same { targets: first_target, count, values: start, stride } => {
            let targets = &targets[index(first_target)..index(first_target) + index(count)];
            for (i, target) in targets.iter().enumerate() {
                let start_of_sums = index(*target) * part.capacity + first;
                let sums = &mut part.sums[start_of_sums..start_of_sums + rows];
                add_values(scoring.aggregate, sums, &values[index(start) + i * index(stride)..], exits);
            }
        }
        LeafWeights::Any { .. } => {
            for (i, exit) in exits.iter().take(rows).enumerate() {
                add_weights_of_row(part, first + i, weights, *exit);
            }
        }
    }
}

#[inline(always)]
fn add_values<T: Number>(by: Aggregate, sums: &mut [T], values: &[T], exits: &[u32; LANES]) {
    for i in 0..sums.len().min(LANES) {
        sums[i] = aggregate(by, sums[i], values[index(exits[i])]);
    }
}

/// Adds the weights of one leaf to the sums of a row.
#[inline(always)]
pub(super) fn add_weights_of_row<T: Number>(part: &mut Part<'_, T>, row: usize, weights: LeafWeights, exit: u32) {
    let Compiled { values, targets, starts, any, scoring, .. } = part.compiled;
    let mut add = |target: u32, value: T| {
        let at = index(target) * part.capacity + row;
        part.sums[at] = aggregate(scoring.aggregate, part.sums[at], value);
        if let Some(set) = part.set.get_mut(at) {
            *set = true;
        }
    };
    match weights {
        LeafWeights::One { target, values: start } => add(target, values[index(start) + index(exit)]),
        LeafWeights::Same { targets: first, count, values: start, stride } => {
            for (i, target) in targets[index(first)..index(first) + index(count)].iter().enumerate() {
                add(*target, values[index(start) + i * index(stride) + index(exit)]);
            }
        }
        LeafWeights::Any { first } => {
            let leaf = index(first) + index(exit);
            for (target, value) in &any[index(starts[leaf])..index(starts[leaf + 1])] {
                add(*target, *value);
            }
        }
    }
}

#[inline(always)]
fn aggregate<T: Number>(aggregate: Aggregate, sum: T, value: T) -> T {
    match aggregate {
        Aggregate::Sum | Aggregate::Average => sum + value,
        Aggregate::Min => lesser(sum, value),
        Aggregate::Max => greater(sum, value),
    }
}

#[inline(always)]
fn lesser<T: Number>(sum: T, value: T) -> T {
    if value < sum { value } else { sum }
}

#[inline(always)]
fn greater<T: Number>(sum: T, value: T) -> T {
    if value > sum { value } else { sum }
}
