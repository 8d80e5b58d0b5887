//! The kernels for AVX-512: 16 rows in a register, and up to four registers at once.

use std::arch::x86_64::*;

use crate::trees::compiled::{Compiled, CompiledTree, Form, LeafWeights, Stretch, index};
use crate::trees::ensemble::Aggregate;
use crate::trees::forest::Comparison;
use crate::trees::kernels::{LANES, Part, portable, walk};

/// The rows of a register.
const ROWS: usize = 16;

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

#[target_feature(enable = "avx512f,avx512cd,avx512bw,avx512dq,avx512vl,avx2,bmi1")]
fn add_trees_of_doubles(part: &mut Part<'_, f64>) {
    portable::add(part);
}

#[target_feature(enable = "avx512f,avx512cd,avx512bw,avx512dq,avx512vl,avx2,bmi1")]
fn add_trees(part: &mut Part<'_, f32>) {
    let compiled = part.compiled;
    for tree in &compiled.trees {
        for block in 0..part.rows.div_ceil(LANES) {
            match part.rows - block * LANES {
                1..=16 => add_tree::<1>(part, block, tree),
                17..=32 => add_tree::<2>(part, block, tree),
                _ => add_tree::<4>(part, block, tree),
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512cd,avx512bw,avx512dq,avx512vl,avx2,bmi1")]
fn add_tree<const K: usize>(part: &mut Part<'_, f32>, block: usize, tree: &CompiledTree) {
    let mut words = 0;
    let exits: [__m512i; K] = match tree.form {
        Form::Leaf => [_mm512_setzero_si512(); K],
        Form::Masks { first, words: count } => {
            words = count;
            masks(part, block, first, count)
        }
        Form::Walk(tests) => {
            let mut exits = [0; LANES];
            walk::exits(part, block, tree.root, tests, &mut exits);
            let mut registers = [_mm512_setzero_si512(); K];
            for (k, register) in registers.iter_mut().enumerate() {
                // SAFETY: `exits` has the rows of four registers.
                *register = unsafe { _mm512_loadu_si512(exits.as_ptr().add(ROWS * k).cast()) };
            }
            registers
        }
    };
    let Compiled { targets, .. } = part.compiled;
    match tree.weights {
        LeafWeights::One { target, values } => add_values(part, block, index(target), index(values), words, &exits),
        LeafWeights::Same { targets: first, count, values, stride } => {
            for (i, target) in targets[index(first)..][..index(count)].iter().enumerate() {
                let values = index(values) + i * index(stride);
                add_values(part, block, index(*target), values, words, &exits);
            }
        }
        LeafWeights::Any { .. } => {
            let mut of_rows = [0_u32; LANES];
            for (k, exits) in exits.iter().enumerate() {
                // SAFETY: `of_rows` has the rows of four registers.
                unsafe { _mm512_storeu_si512(of_rows.as_mut_ptr().add(ROWS * k).cast(), *exits) };
            }
            portable::add_weights(part, block, tree.weights, &of_rows);
        }
    }
}

/// Finds the leaves of the rows of a block.
#[inline]
#[target_feature(enable = "avx512f,avx512cd,avx512bw,avx512dq,avx512vl,avx2,bmi1")]
fn masks<const K: usize>(part: &Part<'_, f32>, block: usize, first: u32, words: u32) -> [__m512i; K] {
    let compiled = part.compiled;
    let columns = &part.columns[block * compiled.features.len() * LANES..];
    let mut leaf = [_mm512_setzero_si512(); K];
    // The lowest word with a bit counts, so it comes last.
    for word in (0..words).rev() {
        let mut mask = [_mm512_set1_epi32(-1); K];
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
        let offset = _mm512_set1_epi32((32 * word + 31).cast_signed());
        for k in 0..K {
            let lowest = _mm512_and_si512(mask[k], _mm512_sub_epi32(_mm512_setzero_si512(), mask[k]));
            let position = _mm512_sub_epi32(offset, _mm512_lzcnt_epi32(lowest));
            leaf[k] = _mm512_mask_mov_epi32(leaf[k], _mm512_test_epi32_mask(mask[k], mask[k]), position);
        }
    }
    leaf
}

/// Clears the bits of the rows that take the second child.
#[inline]
#[target_feature(enable = "avx512f,avx512cd,avx512bw,avx512dq,avx512vl,avx2,bmi1")]
fn clear<const PREDICATE: i32, const K: usize>(
    compiled: &Compiled<f32>,
    stretch: &Stretch,
    columns: &[f32],
    mask: &mut [__m512i; K],
) {
    for cut in &compiled.cuts[index(stretch.cuts.0)..index(stretch.cuts.1)] {
        let threshold = _mm512_set1_ps(cut.threshold);
        let cleared = _mm512_set1_epi32(cut.mask.cast_signed());
        // SAFETY: `columns` holds `LANES` values of each compiled feature, and `cut.feature` is one of them.
        let column = unsafe { columns.as_ptr().add(index(cut.feature) * LANES) };
        for (k, mask) in mask.iter_mut().enumerate() {
            // SAFETY: K registers have at most `LANES` values.
            let x = unsafe { _mm512_loadu_ps(column.add(ROWS * k)) };
            let is_second = _mm512_cmp_ps_mask::<PREDICATE>(x, threshold);
            *mask = _mm512_mask_and_epi32(*mask, is_second, *mask, cleared);
        }
    }
}

/// Adds the weights at the exits to the sums of a target. `words` is the number of words of the tree's masks, or 0.
#[inline]
#[target_feature(enable = "avx512f,avx512cd,avx512bw,avx512dq,avx512vl,avx2,bmi1")]
fn add_values<const K: usize>(
    part: &mut Part<'_, f32>,
    block: usize,
    target: usize,
    values: usize,
    words: u32,
    exits: &[__m512i; K],
) {
    let values = part.compiled.values[values..].as_ptr();
    let sums = &mut part.sums[target * part.capacity + block * LANES..][..LANES];
    for (exits, sums) in exits.iter().zip(sums.chunks_exact_mut(ROWS)) {
        let value = match words {
            // SAFETY: the values of a tree of one or two words are padded to whole words.
            1 => unsafe { _mm512_permutex2var_ps(_mm512_loadu_ps(values), *exits, _mm512_loadu_ps(values.add(ROWS))) },
            // SAFETY: as above.
            2 => unsafe {
                let (a, b) = (_mm512_loadu_ps(values), _mm512_loadu_ps(values.add(ROWS)));
                let (c, d) = (_mm512_loadu_ps(values.add(2 * ROWS)), _mm512_loadu_ps(values.add(3 * ROWS)));
                let is_high = _mm512_test_epi32_mask(*exits, _mm512_set1_epi32(32));
                let low = _mm512_permutex2var_ps(a, *exits, b);
                _mm512_mask_mov_ps(low, is_high, _mm512_permutex2var_ps(c, *exits, d))
            },
            // SAFETY: every exit is a leaf of the tree, and has a value.
            _ => unsafe { _mm512_i32gather_ps::<4>(*exits, values) },
        };
        // SAFETY: `sums` are the values of one register.
        unsafe {
            let sum = _mm512_loadu_ps(sums.as_ptr());
            // As in C++, `min` and `max` return the second operand if the first is not less or greater.
            let sum = match part.compiled.scoring.aggregate {
                Aggregate::Sum | Aggregate::Average => _mm512_add_ps(sum, value),
                Aggregate::Min => _mm512_min_ps(value, sum),
                Aggregate::Max => _mm512_max_ps(value, sum),
            };
            _mm512_storeu_ps(sums.as_mut_ptr(), sum);
        }
    }
}
