//! Walks rows through trees from node to node, several at once so that their memory accesses overlap.
//!
//! The functions are not inlined: compiled for wide vectors, they would gather, which is slower.

use crate::trees::compiled::{CompiledTree, EQUAL_IS_FIRST, FEATURE, LESS_IS_FIRST, NAN_IS_FIRST, Stop, Tests};
use crate::trees::index;
use crate::trees::kernels::{GROUP, Part, add_weights, portable};
use crate::trees::number::Number;

/// The number of walks at the same time.
const TOGETHER: usize = 8;

/// Adds the weights of a tree to the sums of up to `GROUP` rows, from `first` on.
#[inline(never)]
pub(super) fn add<T: Number>(part: &mut Part<'_, T>, first: usize, rows: usize, tree: &CompiledTree, tests: Tests) {
    let compiled = part.compiled;
    let mut leaves = [0; GROUP];
    for group in (0..rows).step_by(TOGETHER) {
        let mut at = [tree.root; TOGETHER];
        // Lanes beyond the last row repeat it.
        let row = std::array::from_fn(|i| (first + (group + i).min(rows - 1)) * part.width);
        walk(part, tests, &mut at, &row);
        for (leaf, at) in leaves[group..].iter_mut().zip(at) {
            *leaf = compiled.stop_leaves[index(at)];
        }
    }
    let by = compiled.scoring.aggregate;
    let add = |values: &[T], sums: &mut [T]| portable::add(by, values, &leaves[..rows], sums);
    add_weights(part, first, rows, tree, add, |row| leaves[row]);
}

/// Adds the weights of all trees to the sums, row by row. Several trees are walked through at the same time.
#[inline(never)]
pub(super) fn add_few<T: Number>(part: &mut Part<'_, T>) {
    let compiled = part.compiled;
    if let [tree] = compiled.trees.as_slice() {
        for row in 0..part.rows {
            let mut at = [tree.root];
            walk(part, compiled.tests, &mut at, &[row * part.width]);
            portable::add_weights_of_row(part, row, tree.weights, compiled.stop_leaves[index(at[0])]);
        }
        return;
    }
    for row in 0..part.rows {
        for trees in compiled.trees.chunks(TOGETHER) {
            // Lanes beyond the last tree repeat it.
            let mut at: [u32; TOGETHER] = std::array::from_fn(|i| trees[i.min(trees.len() - 1)].root);
            walk(part, compiled.tests, &mut at, &[row * part.width; TOGETHER]);
            for (tree, at) in trees.iter().zip(at) {
                portable::add_weights_of_row(part, row, tree.weights, compiled.stop_leaves[index(at)]);
            }
        }
    }
}

/// Walks from stops to leaves. `row` has the position of the first value of each walk's row.
#[inline(always)]
fn walk<T: Number, const N: usize>(part: &Part<'_, T>, tests: Tests, at: &mut [u32; N], row: &[usize; N]) {
    // Comparisons with the threshold of a leaf, which is NaN, are false.
    let nan = |stop: &Stop<T>, x: T| is_nan(x) & (stop.feature & NAN_IS_FIRST != 0);
    match tests {
        Tests::LessOrEqual => walk_by(part, at, row, |stop, x| x <= stop.threshold),
        Tests::Less => walk_by(part, at, row, |stop, x| x < stop.threshold),
        Tests::LessOrEqualOrNan => walk_by(part, at, row, |stop, x| (x <= stop.threshold) | nan(stop, x)),
        Tests::LessOrNan => walk_by(part, at, row, |stop, x| (x < stop.threshold) | nan(stop, x)),
        Tests::Any => walk_by(part, at, row, |stop, x| {
            let less = (x < stop.threshold) & (stop.feature & LESS_IS_FIRST != 0);
            let equal = (x == stop.threshold) & (stop.feature & EQUAL_IS_FIRST != 0);
            less | equal | nan(stop, x)
        }),
    }
}

#[inline(always)]
#[allow(clippy::eq_op, reason = "only NaN differs from itself")]
fn is_nan<T: Number>(x: T) -> bool {
    x != x
}

#[inline(always)]
fn walk_by<T: Number, const N: usize>(
    part: &Part<'_, T>,
    at: &mut [u32; N],
    row: &[usize; N],
    is_first: impl Fn(&Stop<T>, T) -> bool,
) {
    loop {
        let mut moved = 0;
        for i in 0..N {
            // SAFETY: `Compiled::walk` makes every root and every `second` a position of `stops`. The node after a
            // split is its first child, which exists.
            let stop = unsafe { part.compiled.stops.get_unchecked(index(at[i])) };
            // SAFETY: every feature is smaller than `width`, which the caller of `Runner::run` ensures, and `row`
            // begins one of the rows of the input.
            let x = unsafe { *part.input.get_unchecked(row[i] + index(stop.feature & FEATURE)) };
            let next = std::hint::select_unpredictable(is_first(stop, x), at[i] + 1, stop.second);
            moved |= next ^ at[i];
            at[i] = next;
        }
        if moved == 0 {
            return;
        }
    }
}
