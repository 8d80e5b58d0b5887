//! The kernels without instructions of a particular processor. The compiler vectorises the loops over rows.

use crate::trees::compiled::{Compiled, Cut, LeafWeights};
use crate::trees::ensemble::Aggregate;
use crate::trees::index;
use crate::trees::kernels::{Addition, GROUP, Part, RanksOfRows};
use crate::trees::number::Number;

/// The number of rows whose leaves are in registers.
const TOGETHER: usize = 64;

/// Finds the leaves of rows.
pub(super) fn leaves(cuts: &[Cut], ranks: &RanksOfRows<'_>, rows: usize, leaves: &mut [u8; GROUP]) {
    for (group, leaves) in leaves.chunks_exact_mut(TOGETHER).enumerate().take(rows.div_ceil(TOGETHER)) {
        let mut at = [0_u8; TOGETHER];
        for Cut { column, bound, first, end } in cuts {
            // SAFETY: the cut is one of the ensemble's, and every group has a row.
            let ranks = unsafe { ranks.of::<TOGETHER>(*column, group * TOGETHER) };
            for i in 0..TOGETHER {
                // Written with bits, because the compiler does not vectorise a choice here.
                let moves = all_bits(ranks[i] > *bound) & all_bits(at[i] == *first);
                at[i] ^= moves & (first ^ end);
            }
        }
        leaves.copy_from_slice(&at);
    }
}

#[inline(always)]
fn all_bits(condition: bool) -> u8 {
    u8::from(condition).wrapping_neg()
}

/// Adds the values of leaves to sums.
pub(super) fn add_bytes<T: Number>(addition: &Addition<'_, T>, sums: &mut [T]) {
    add(addition.by, addition.values, &addition.leaves[..addition.rows], sums);
}

/// Adds the values of leaves to sums.
#[inline(always)]
pub(super) fn add<T: Number>(by: Aggregate, values: &[T], leaves: &[impl Copy + Into<u32>], sums: &mut [T]) {
    match by {
        Aggregate::Sum | Aggregate::Average => each(values, leaves, sums, |sum, value| sum + value),
        Aggregate::Min => each(values, leaves, sums, lesser),
        Aggregate::Max => each(values, leaves, sums, greater),
    }
}

#[inline(always)]
fn each<T: Number>(values: &[T], leaves: &[impl Copy + Into<u32>], sums: &mut [T], aggregate: impl Fn(T, T) -> T) {
    for (sum, leaf) in sums.iter_mut().zip(leaves) {
        *sum = aggregate(*sum, values[index((*leaf).into())]);
    }
}

/// Adds the weights of one leaf to the sums of a row.
#[inline(always)]
pub(super) fn add_weights_of_row<T: Number>(part: &mut Part<'_, T>, row: usize, weights: LeafWeights, leaf: u32) {
    let Compiled { values, targets, starts, any, scoring, .. } = part.compiled;
    let mut add = |target: u32, value: T| {
        let at = index(target) * part.capacity + row;
        part.sums[at] = match scoring.aggregate {
            Aggregate::Sum | Aggregate::Average => part.sums[at] + value,
            Aggregate::Min => lesser(part.sums[at], value),
            Aggregate::Max => greater(part.sums[at], value),
        };
        if let Some(set) = part.set.get_mut(at) {
            *set = true;
        }
    };
    match weights {
        LeafWeights::One { target, values: start } => add(target, values[index(start) + index(leaf)]),
        LeafWeights::Same { targets: first, count, values: start, stride } => {
            for (i, target) in targets[index(first)..index(first) + index(count)].iter().enumerate() {
                add(*target, values[index(start) + i * index(stride) + index(leaf)]);
            }
        }
        LeafWeights::Any { first } => {
            let leaf = index(first) + index(leaf);
            for (target, value) in &any[index(starts[leaf])..index(starts[leaf + 1])] {
                add(*target, *value);
            }
        }
    }
}

// As in C++, `min` and `max` return the sum if the value is not less or greater.

#[inline(always)]
fn lesser<T: Number>(sum: T, value: T) -> T {
    if value < sum { value } else { sum }
}

#[inline(always)]
fn greater<T: Number>(sum: T, value: T) -> T {
    if value > sum { value } else { sum }
}
