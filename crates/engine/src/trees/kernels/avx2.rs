//! The kernels for AVX2: 8 rows in a register, and up to four registers at once.

use std::arch::x86_64::*;

use crate::trees::compiled::{Compiled, Form, LeafWeights, Stretch, index};
use crate::trees::ensemble::Aggregate;
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
                Form::Walk(tests) => {
                    walk::exits(part, block, tree.root, tests, &mut exits);
                }
            }
            match tree.weights {
                LeafWeights::One { target, values } => add_values(part, block, index(target), index(values), &exits),
                LeafWeights::Same { targets, count, values, stride } => {
                    for (i, target) in compiled.targets[index(targets)..][..index(count)].iter().enumerate() {
                        add_values(part, block, index(*target), index(values) + i * index(stride), &exits);
                    }
                }
                LeafWeights::Any { .. } => portable::add_weights(part, block, tree.weights, &exits),
            }
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
        let columns = &columns[group..];
        let mut leaf = [_mm256_setzero_si256(); K];
        // The lowest word with a bit counts, so it comes last.
        for word in (0..words).rev() {
            let mut mask = [_mm256_set1_epi32(-1); K];
            let stretches = index(compiled.words[index(first + word)])..index(compiled.words[index(first + word) + 1]);
            for stretch in &compiled.stretches[stretches] {
                // The predicate is that of a row that takes the second child.
                match (stretch.test.comparison, stretch.test.nan_is_first) {
                    (Comparison::LessOrEqual, false) => clear::<_CMP_NLE_UQ, K>(compiled, stretch, columns, &mut mask),
                    (Comparison::LessOrEqual, true) => clear::<_CMP_GT_OQ, K>(compiled, stretch, columns, &mut mask),
                    (Comparison::Less, false) => clear::<_CMP_NLT_UQ, K>(compiled, stretch, columns, &mut mask),
                    (Comparison::Less, true) => clear::<_CMP_GE_OQ, K>(compiled, stretch, columns, &mut mask),
                    (Comparison::Equal, false) => clear::<_CMP_NEQ_UQ, K>(compiled, stretch, columns, &mut mask),
                    (Comparison::Equal, true) => clear::<_CMP_NEQ_OQ, K>(compiled, stretch, columns, &mut mask),
                }
            }
            // A power of two as a float has its logarithm as exponent, with an offset of 127.
            let offset = _mm256_set1_epi32((32 * word).cast_signed() - 127);
            for k in 0..K {
                let lowest = _mm256_and_si256(mask[k], _mm256_sub_epi32(_mm256_setzero_si256(), mask[k]));
                let float = _mm256_castps_si256(_mm256_cvtepi32_ps(lowest));
                let exponent = _mm256_and_si256(_mm256_srli_epi32::<23>(float), _mm256_set1_epi32(0xff));
                let position = _mm256_add_epi32(exponent, offset);
                let is_empty = _mm256_cmpeq_epi32(mask[k], _mm256_setzero_si256());
                leaf[k] = _mm256_blendv_epi8(position, leaf[k], is_empty);
            }
        }
        for (leaf, exits) in leaf.iter().zip(exits[group..].chunks_exact_mut(ROWS)) {
            // SAFETY: `exits` has the size of a register.
            unsafe { _mm256_storeu_si256(exits.as_mut_ptr().cast(), *leaf) };
        }
    }
}

/// Adds the weights at the exits to the sums of a target.
#[inline]
#[target_feature(enable = "avx2,bmi1")]
fn add_values(part: &mut Part<'_, f32>, block: usize, target: usize, values: usize, exits: &[u32; LANES]) {
    let values = part.compiled.values[values..].as_ptr();
    let rows = (part.rows - block * LANES).min(LANES).next_multiple_of(ROWS);
    let sums = &mut part.sums[target * part.capacity + block * LANES..][..rows];
    for (exits, sums) in exits.chunks_exact(ROWS).zip(sums.chunks_exact_mut(ROWS)) {
        // SAFETY: `exits` and `sums` have the size of a register. Every exit is a leaf of the tree, and has a value.
        unsafe {
            let value = _mm256_i32gather_ps::<4>(values, _mm256_loadu_si256(exits.as_ptr().cast()));
            let sum = _mm256_loadu_ps(sums.as_ptr());
            // As in C++, `min` and `max` return the second operand if the first is not less or greater.
            let sum = match part.compiled.scoring.aggregate {
                Aggregate::Sum | Aggregate::Average => _mm256_add_ps(sum, value),
                Aggregate::Min => _mm256_min_ps(value, sum),
                Aggregate::Max => _mm256_max_ps(value, sum),
            };
            _mm256_storeu_ps(sums.as_mut_ptr(), sum);
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
