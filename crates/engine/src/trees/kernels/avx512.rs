//! The kernels for AVX-512: 64 rows in a register, and up to four registers at once.

use std::arch::x86_64::*;

use crate::trees::compiled::Cut;
use crate::trees::ensemble::Aggregate;
use crate::trees::kernels::{Addition, BLOCK, GROUP, RanksOfRows, portable};
use crate::trees::ranks::{ABOVE, AT_LEAST, Count, NODE, ROWS, Ranks, Values};

/// The values of a register.
const VALUES: usize = 16;

/// Writes the ranks of rows, as `Ranks::fill` does.
pub(super) fn fill(of: &Ranks<f32>, ranks: &mut [i8], capacity: usize, rows: Values<'_, f32>) {
    #[target_feature(enable = "avx512f,avx512bw,avx2,bmi1,popcnt")]
    fn fill(of: &Ranks<f32>, ranks: &mut [i8], capacity: usize, rows: Values<'_, f32>) {
        of.fill(ranks, capacity, rows, Vectors);
    }
    // SAFETY: `Kernel::all` offers this kernel only if the processor has these instructions.
    unsafe { fill(of, ranks, capacity, rows) }
}

/// Counts with vectors. Only `fill` uses it.
#[derive(Debug, Clone, Copy)]
struct Vectors;

impl Count<f32> for Vectors {
    #[inline(always)]
    fn of_node<const BEYOND: u8>(self, value: f32, node: &[f32; NODE]) -> u32 {
        // SAFETY: the processor has the instructions, and the node has the values of a register.
        unsafe {
            let node = _mm512_loadu_ps(node.as_ptr());
            is_beyond::<BEYOND>(_mm512_set1_ps(value), node).count_ones()
        }
    }

    #[inline(always)]
    fn of_rows<const BEYOND: u8>(
        self,
        rows: &[f32],
        width: usize,
        feature: usize,
        thresholds: &[f32],
    ) -> ([f32; ROWS], [u32; ROWS]) {
        let (mut values, mut counts) = ([0.0; ROWS], [0; ROWS]);
        for (value, row) in values.iter_mut().zip(rows.chunks_exact(width)) {
            *value = row[feature];
        }
        // SAFETY: the processor has the instructions, and the arrays have the size of a register.
        unsafe {
            let of_rows = _mm512_loadu_ps(values.as_ptr());
            let mut all = _mm512_setzero_si512();
            for threshold in thresholds {
                let is_beyond = is_beyond::<BEYOND>(of_rows, _mm512_set1_ps(*threshold));
                all = _mm512_mask_add_epi32(all, is_beyond, all, _mm512_set1_epi32(1));
            }
            _mm512_storeu_si512(counts.as_mut_ptr().cast(), all);
        }
        (values, counts)
    }
}

/// Returns for each value whether it is beyond its threshold.
#[inline]
#[target_feature(enable = "avx512f")]
fn is_beyond<const BEYOND: u8>(values: __m512, thresholds: __m512) -> __mmask16 {
    match BEYOND {
        ABOVE => _mm512_cmp_ps_mask::<_CMP_GT_OQ>(values, thresholds),
        AT_LEAST => _mm512_cmp_ps_mask::<_CMP_GE_OQ>(values, thresholds),
        _ => _mm512_cmp_ps_mask::<_CMP_LT_OQ>(values, thresholds),
    }
}

/// Finds the leaves of rows, as `Kernel::leaves` does.
pub(super) fn leaves<const TREES: usize>(
    cuts: [&[Cut]; TREES],
    ranks: &RanksOfRows<'_>,
    rows: usize,
    leaves: &mut [[u8; GROUP]; TREES],
) {
    // SAFETY: as above.
    unsafe {
        match rows {
            0..=64 => leaves_of::<TREES, 1>(cuts, ranks, leaves),
            65..=128 => leaves_of::<TREES, 2>(cuts, ranks, leaves),
            129..=192 => leaves_of::<TREES, 3>(cuts, ranks, leaves),
            _ => leaves_of::<TREES, 4>(cuts, ranks, leaves),
        }
    }
}

/// Finds the leaves of `K` registers of rows.
#[target_feature(enable = "avx512f,avx512bw,avx2,bmi1,popcnt")]
fn leaves_of<const TREES: usize, const K: usize>(
    cuts: [&[Cut]; TREES],
    ranks: &RanksOfRows<'_>,
    leaves: &mut [[u8; GROUP]; TREES],
) {
    let mut at = [[_mm512_setzero_si512(); K]; TREES];
    portable::each_cut(cuts, |tree, cut| {
        let bound = _mm512_set1_epi32(i32::from_ne_bytes(cut.bound.map(i8::cast_unsigned)));
        let first = _mm512_set1_epi32(i32::from_ne_bytes(cut.first));
        let end = _mm512_set1_epi32(i32::from_ne_bytes(cut.end));
        for (k, at) in at[tree].iter_mut().enumerate() {
            // SAFETY: the cut is one of the ensemble's, and the register is within a block that has rows.
            let rank = unsafe { _mm512_loadu_si512(ranks.of::<BLOCK>(cut.column, BLOCK * k).as_ptr().cast()) };
            let moves = _mm512_mask_cmpgt_epi8_mask(_mm512_cmpeq_epi8_mask(*at, first), rank, bound);
            *at = _mm512_mask_mov_epi8(*at, moves, end);
        }
    });
    for (at, leaves) in at.iter().zip(leaves) {
        for (at, leaves) in at.iter().zip(leaves.chunks_exact_mut(BLOCK)) {
            // SAFETY: `leaves` has the size of a register.
            unsafe { _mm512_storeu_si512(leaves.as_mut_ptr().cast(), *at) };
        }
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
