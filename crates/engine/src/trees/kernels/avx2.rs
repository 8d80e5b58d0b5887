//! The kernels for AVX2: 8 rows in a register, and up to four registers at once.

use std::arch::x86_64::*;

use crate::trees::compiled::{Compiled, Form, Stretch, index};
use crate::trees::forest::Comparison;
use crate::trees::kernels::{LANES, Part, portable, walk};

/// The rows of a register.
const ROWS: usize = 8;

/// Adds the weights of all trees to the sums.
pub(super) fn add(part: &mut Part<'_, f32>) {
    // SAFETY: `Kernel::all` offers this kernel only if the processor has these instructions.
    unsafe { add_trees(part) }
}

/// Adds the weights of all trees of doubles to the sums.
pub(super) fn add_doubles(part: &mut Part<'_, f64>) {
    // SAFETY: `Kernel::all` offers this kernel only if the processor has these instructions.
    unsafe { add_trees_of_doubles(part) }
}

#[target_feature(enable = "avx2,bmi1")]
fn add_trees_of_doubles(part: &mut Part<'_, f64>) {
    portable::add(part);
}

#[target_feature(enable = "avx2,bmi1")]
fn add_trees(part: &mut Part<'_, f32>) {
    let compiled = part.compiled;
    let mut exits = [0; LANES];
    for tree in &compiled.trees {
        for block in 0..part.rows.div_ceil(LANES) {
            match tree.form {
                Form::Leaf => exits.fill(0),
                Form::Masks { first, words } => match part.rows - block * LANES {
                    1..=8 => masks::<1>(part, block, first, words, &mut exits),
                    9..=16 => masks::<2>(part, block, first, words, &mut exits),
                    _ => masks::<4>(part, block, first, words, &mut exits),
                },
                Form::Walk { root, tests } => {
                    walk::exits(part, block, root, tests, &mut exits);
                }
            }
            portable::add_weights(part, block, tree.weights, &exits);
        }
    }
}

/// Finds the leaves of the rows of a block, `K` registers at a time.
#[inline]
#[target_feature(enable = "avx2,bmi1")]
fn masks<const K: usize>(part: &Part<'_, f32>, block: usize, first: u32, words: u32, exits: &mut [u32; LANES]) {
    let compiled = part.compiled;
    let columns = &part.columns[block * compiled.features.len() * LANES..];
    let rows = (part.rows - block * LANES).min(LANES);
    for group in (0..rows).step_by(ROWS * K) {
        let leaf: &mut [u32] = &mut exits[group..group + ROWS * K];
        // The lowest word with a bit counts, so it comes last.
        for word in (0..words).rev() {
            let mut mask = [_mm256_set1_epi32(-1); K];
            let stretches = index(compiled.words[index(first + word)])..index(compiled.words[index(first + word) + 1]);
            for stretch in &compiled.stretches[stretches] {
                // The predicate is that of a row that takes the second child.
                let columns = &columns[group..];
                match (stretch.test.comparison, stretch.test.nan_is_first) {
                    (Comparison::LessOrEqual, false) => clear::<_CMP_NLE_UQ, K>(compiled, stretch, columns, &mut mask),
                    (Comparison::LessOrEqual, true) => clear::<_CMP_GT_OQ, K>(compiled, stretch, columns, &mut mask),
                    (Comparison::Less, false) => clear::<_CMP_NLT_UQ, K>(compiled, stretch, columns, &mut mask),
                    (Comparison::Less, true) => clear::<_CMP_GE_OQ, K>(compiled, stretch, columns, &mut mask),
                    (Comparison::Equal, false) => clear::<_CMP_NEQ_UQ, K>(compiled, stretch, columns, &mut mask),
                    (Comparison::Equal, true) => clear::<_CMP_NEQ_OQ, K>(compiled, stretch, columns, &mut mask),
                }
            }
            for (mask, leaf) in mask.iter().zip(leaf.chunks_exact_mut(ROWS)) {
                let mut bits = [0_u32; ROWS];
                // SAFETY: `bits` has the size of a register.
                unsafe { _mm256_storeu_si256(bits.as_mut_ptr().cast(), *mask) };
                for (leaf, bits) in leaf.iter_mut().zip(bits) {
                    let lowest = 32 * word + bits.trailing_zeros();
                    *leaf = if bits == 0 { *leaf } else { lowest };
                }
            }
        }
    }
}

/// Clears the bits of the rows that take the second child. `columns` begins at the first row of the registers.
#[inline]
#[target_feature(enable = "avx2,bmi1")]
fn clear<const PREDICATE: i32, const K: usize>(
    compiled: &Compiled<f32>,
    stretch: &Stretch,
    columns: &[f32],
    mask: &mut [__m256i; K],
) {
    for cut in &compiled.cuts[index(stretch.cuts.0)..index(stretch.cuts.1)] {
        let threshold = _mm256_set1_ps(cut.threshold);
        let cleared = _mm256_set1_epi32((!cut.mask).cast_signed());
        // SAFETY: the block holds `LANES` values of each compiled feature, and `cut.feature` is one of them.
        let column = unsafe { columns.as_ptr().add(index(cut.feature) * LANES) };
        for (k, mask) in mask.iter_mut().enumerate() {
            // SAFETY: K registers from the first row on are within the `LANES` values of the feature.
            let x = unsafe { _mm256_loadu_ps(column.add(ROWS * k)) };
            let is_second = _mm256_castps_si256(_mm256_cmp_ps::<PREDICATE>(x, threshold));
            *mask = _mm256_andnot_si256(_mm256_and_si256(is_second, cleared), *mask);
        }
    }
}
