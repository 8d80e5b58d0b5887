//! Walks rows through a tree from node to node, several rows at once so that their memory accesses overlap.

use crate::trees::compiled::{Compiled, EQUAL_IS_FIRST, FEATURE, LESS_IS_FIRST, NAN_IS_FIRST, Stop, Tests, index};
use crate::trees::kernels::{LANES, Part};
use crate::trees::number::Number;

/// The number of rows that walk at the same time.
const TOGETHER: usize = 8;

/// Finds the leaves of the rows of a block.
#[inline(always)]
pub(super) fn exits<T: Number>(part: &Part<'_, T>, block: usize, root: u32, tests: Tests, exits: &mut [u32; LANES]) {
    // Comparisons with the threshold of a leaf, which is NaN, are false.
    let nan = |stop: &Stop<T>, x: T| is_nan(x) & (stop.feature & NAN_IS_FIRST != 0);
    match tests {
        Tests::LessOrEqual => walk(part, block, root, exits, |stop, x| x <= stop.threshold),
        Tests::Less => walk(part, block, root, exits, |stop, x| x < stop.threshold),
        Tests::LessOrEqualOrNan => walk(part, block, root, exits, |stop, x| (x <= stop.threshold) | nan(stop, x)),
        Tests::LessOrNan => walk(part, block, root, exits, |stop, x| (x < stop.threshold) | nan(stop, x)),
        Tests::Any => walk(part, block, root, exits, |stop, x| {
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
fn walk<T: Number>(
    part: &Part<'_, T>,
    block: usize,
    root: u32,
    exits: &mut [u32; LANES],
    is_first: impl Fn(&Stop<T>, T) -> bool,
) {
    let Compiled { stops, stop_leaves, .. } = part.compiled;
    let first = block * LANES;
    let rows = (part.rows - first).min(LANES);
    for group in (0..rows).step_by(TOGETHER) {
        // Lanes beyond the last row repeat it.
        let row: [usize; TOGETHER] = std::array::from_fn(|i| (first + (group + i).min(rows - 1)) * part.width);
        let mut at = [root; TOGETHER];
        loop {
            let mut moved = 0;
            for i in 0..TOGETHER {
                // SAFETY: `Compiled::walk` makes `root` and every `second` a position of `stops`. The node after a
                // split is its first child, which exists.
                let stop = unsafe { stops.get_unchecked(index(at[i])) };
                // SAFETY: every feature is smaller than `width`, which the caller of `Runner::run` ensures, and `row`
                // begins one of the `rows` rows of the input.
                let x = unsafe { *part.input.get_unchecked(row[i] + index(stop.feature & FEATURE)) };
                let next = std::hint::select_unpredictable(is_first(stop, x), at[i] + 1, stop.second);
                moved |= next ^ at[i];
                at[i] = next;
            }
            if moved == 0 {
                break;
            }
        }
        for (exit, at) in exits[group..].iter_mut().zip(at) {
            *exit = stop_leaves[index(at)];
        }
    }
}
