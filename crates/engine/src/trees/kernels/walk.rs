//! Walks rows through a tree from node to node, several rows at once so that their memory accesses overlap.

use crate::trees::compiled::{Compiled, NAN_IS_FIRST, index};
use crate::trees::kernels::{LANES, Part};
use crate::trees::number::Number;

/// The number of rows that walk at the same time.
const TOGETHER: usize = 8;

/// Finds the leaves of the rows of a block.
#[inline(always)]
pub(super) fn exits<T: Number>(
    part: &Part<'_, T>,
    block: usize,
    root: u32,
    less: bool,
    nan_is_first: bool,
    exits: &mut [u32; LANES],
) {
    match (less, nan_is_first) {
        (false, false) => walk::<T, false, false>(part, block, root, exits),
        (false, true) => walk::<T, false, true>(part, block, root, exits),
        (true, false) => walk::<T, true, false>(part, block, root, exits),
        (true, true) => walk::<T, true, true>(part, block, root, exits),
    }
}

#[inline(always)]
fn walk<T: Number, const LESS: bool, const NAN: bool>(
    part: &Part<'_, T>,
    block: usize,
    root: u32,
    exits: &mut [u32; LANES],
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
                let x = unsafe { *part.input.get_unchecked(row[i] + index(stop.feature & !NAN_IS_FIRST)) };
                let mut is_first = if LESS { x < stop.threshold } else { x <= stop.threshold };
                if NAN {
                    #[allow(clippy::eq_op, reason = "only NaN differs from itself")]
                    let is_nan = x != x;
                    is_first |= is_nan & (stop.feature & NAN_IS_FIRST != 0);
                }
                let next = std::hint::select_unpredictable(is_first, at[i] + 1, stop.second);
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
