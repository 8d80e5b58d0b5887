//! The kernels for AVX-512: 64 rows in a register, and up to four registers at once.

use std::arch::x86_64::*;

use crate::trees::compiled::Cut;
use crate::trees::ensemble::Aggregate;
use crate::trees::kernels::{Addition, BLOCK, GROUP, RanksOfRows};
use crate::trees::ranks::{Beyond, NODE, Ranks, Values};

/// The values of a register.
const VALUES: usize = 16;

/// Writes the ranks of rows, as `Ranks::fill` does.
pub(super) fn fill(of: &Ranks<f32>, ranks: &mut [i8], capacity: usize, rows: Values<'_, f32>) {
    #[target_feature(enable = "avx512f,avx512bw,avx2,bmi1,popcnt")]
    fn fill(of: &Ranks<f32>, ranks: &mut [i8], capacity: usize, rows: Values<'_, f32>) {
        of.fill(ranks, capacity, rows, |beyond, x, node| match beyond {
            Beyond::Above => count::<_CMP_GT_OQ>(x, node),
            Beyond::AtLeast => count::<_CMP_GE_OQ>(x, node),
            Beyond::Below => count::<_CMP_LT_OQ>(x, node),
        });
    }
    // SAFETY: `Kernel::all` offers this kernel only if the processor has these instructions.
    unsafe { fill(of, ranks, capacity, rows) }
}

/// Counts the thresholds for which a comparison with a value holds.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx2,bmi1,popcnt")]
fn count<const COMPARISON: i32>(x: f32, node: &[f32; NODE]) -> u32 {
    // SAFETY: the node has the values of a register.
    let node = unsafe { _mm512_loadu_ps(node.as_ptr()) };
    _mm512_cmp_ps_mask::<COMPARISON>(_mm512_set1_ps(x), node).count_ones()
}

/// Finds the leaves of rows.
pub(super) fn leaves(cuts: &[Cut], ranks: &RanksOfRows<'_>, rows: usize, leaves: &mut [u8; GROUP]) {
    // SAFETY: as above.
    unsafe {
        match rows {
            0..=64 => leaves_of::<1>(cuts, ranks, leaves),
            65..=128 => leaves_of::<2>(cuts, ranks, leaves),
            129..=192 => leaves_of::<3>(cuts, ranks, leaves),
            _ => leaves_of::<4>(cuts, ranks, leaves),
        }
    }
}

/// Finds the leaves of `K` registers of rows.
#[target_feature(enable = "avx512f,avx512bw,avx2,bmi1,popcnt")]
fn leaves_of<const K: usize>(cuts: &[Cut], ranks: &RanksOfRows<'_>, leaves: &mut [u8; GROUP]) {
    let mut at = [_mm512_setzero_si512(); K];
    for cut in cuts {
        let bound = _mm512_set1_epi8(cut.bound);
        let first = _mm512_set1_epi8(cut.first.cast_signed());
        let end = _mm512_set1_epi8(cut.end.cast_signed());
        for (k, at) in at.iter_mut().enumerate() {
            // SAFETY: the cut is one of the ensemble's, and the register is within a block that has rows. The ranks have its
            // size.
            let rank = unsafe { _mm512_loadu_si512(ranks.of::<BLOCK>(cut.column, BLOCK * k).as_ptr().cast()) };
            let moves = _mm512_mask_cmpgt_epi8_mask(_mm512_cmpeq_epi8_mask(*at, first), rank, bound);
            *at = _mm512_mask_mov_epi8(*at, moves, end);
        }
    }
    for (at, leaves) in at.iter().zip(leaves.chunks_exact_mut(BLOCK)) {
        // SAFETY: `leaves` has the size of a register.
        unsafe { _mm512_storeu_si512(leaves.as_mut_ptr().cast(), *at) };
    }
}

/// Adds the values of leaves to sums.
pub(super) fn add(addition: &Addition<'_, f32>, sums: &mut [f32]) {
    // SAFETY: as above.
    unsafe { add_values(addition, sums) }
}

#[target_feature(enable = "avx512f,avx512bw,avx2,bmi1,popcnt")]
fn add_values(addition: &Addition<'_, f32>, sums: &mut [f32]) {
    let Addition { by, values, count, leaves, rows } = addition;
    let values = values.as_ptr();
    for (leaves, sums) in
        leaves[..rows.next_multiple_of(VALUES)].chunks_exact(VALUES).zip(sums.chunks_exact_mut(VALUES))
    {
        // SAFETY: `leaves` has 16 bytes.
        let leaf = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(leaves.as_ptr().cast()) });
        let value = match count {
            // SAFETY: the values of up to 64 leaves are padded to 32 or 64.
            0..=32 => unsafe {
                _mm512_permutex2var_ps(_mm512_loadu_ps(values), leaf, _mm512_loadu_ps(values.add(VALUES)))
            },
            // SAFETY: as above.
            33..=64 => unsafe {
                let (a, b) = (_mm512_loadu_ps(values), _mm512_loadu_ps(values.add(VALUES)));
                let (c, d) = (_mm512_loadu_ps(values.add(2 * VALUES)), _mm512_loadu_ps(values.add(3 * VALUES)));
                let is_high = _mm512_test_epi32_mask(leaf, _mm512_set1_epi32(32));
                let low = _mm512_permutex2var_ps(a, leaf, b);
                _mm512_mask_mov_ps(low, is_high, _mm512_permutex2var_ps(c, leaf, d))
            },
            // SAFETY: every row is at a leaf of the tree, and the leaf has a value.
            _ => unsafe { _mm512_i32gather_ps::<4>(leaf, values) },
        };
        // SAFETY: `sums` has the size of a register.
        unsafe {
            let sum = _mm512_loadu_ps(sums.as_ptr());
            // As in C++, `min` and `max` return the second operand if the first is not less or greater.
            let sum = match by {
                Aggregate::Sum | Aggregate::Average => _mm512_add_ps(sum, value),
                Aggregate::Min => _mm512_min_ps(value, sum),
                Aggregate::Max => _mm512_max_ps(value, sum),
            };
            _mm512_storeu_ps(sums.as_mut_ptr(), sum);
        }
    }
}
