//! The kernels without instructions of a particular processor. The compiler vectorises the loops over rows.

use crate::trees::compiled::{Compiled, Cut, LeafWeights};
use crate::trees::ensemble::Aggregate;
use crate::trees::index;
use crate::trees::kernels::{Addition, GROUP, Part, RanksOfRows};
use crate::trees::number::Number;

/// Finds the leaves of rows, as `Kernel::leaves` does.
pub(super) fn leaves<const TREES: usize>(
    cuts: [&[Cut]; TREES],
    ranks: &RanksOfRows<'_>,
    rows: usize,
    leaves: &mut [[u8; GROUP]; TREES],
) {
    // As many rows as have their leaves in registers.
    match rows {
        0..=16 => leaves_of::<TREES, 16>(cuts, ranks, rows, leaves),
        _ => (0..TREES).for_each(|i| leaves_of::<1, 64>([cuts[i]], ranks, rows, std::array::from_mut(&mut leaves[i]))),
    }
}

#[inline(always)]
fn leaves_of<const TREES: usize, const ROWS: usize>(
    cuts: [&[Cut]; TREES],
    ranks: &RanksOfRows<'_>,
    rows: usize,
    leaves: &mut [[u8; GROUP]; TREES],
) {
    for first in (0..rows).step_by(ROWS) {
        let mut at = [[0; ROWS]; TREES];
        each_cut(cuts, |tree, Cut { column, bound: [bound, ..], first: [leaf, ..], end: [end, ..] }| {
            // SAFETY: the cut is one of the ensemble's, and these rows have a first one.
            let ranks = unsafe { ranks.of::<ROWS>(*column, first) };
            for i in 0..ROWS {
                // Written with bits, because the compiler does not vectorise a choice here.
                let moves = all_bits(ranks[i] > *bound) & all_bits(at[tree][i] == *leaf);
                at[tree][i] ^= moves & (leaf ^ end);
            }
        });
        for (at, leaves) in at.iter().zip(leaves.iter_mut()) {
            leaves[first..first + ROWS].copy_from_slice(at);
        }
    }
}

/// Calls a function for each cut of trees, with the tree's number. Cuts of different trees alternate.
#[inline(always)]
pub(super) fn each_cut<const TREES: usize>(cuts: [&[Cut]; TREES], mut f: impl FnMut(usize, &Cut)) {
    let joint = cuts.iter().map(|cuts| cuts.len()).min().unwrap_or(0);
    // Unrolled, so that what `f` keeps for each tree stays in registers.
    (0..joint).for_each(|i| (0..TREES).for_each(|tree| f(tree, &cuts[tree][i])));
    (0..TREES).for_each(|tree| cuts[tree][joint..].iter().for_each(|cut| f(tree, cut)));
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
