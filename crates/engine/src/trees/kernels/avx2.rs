//! The kernels for AVX2: 32 rows in a register, and up to eight registers at once.

use std::arch::x86_64::*;

use crate::trees::compiled::{Cut, PADDING};
use crate::trees::ensemble::Aggregate;
use crate::trees::index;
use crate::trees::kernels::{Addition, GROUP, RanksOfRows, portable};
use crate::trees::ranks::{ABOVE, AT_LEAST, Count, NODE, Ranks, Values};

/// The rows of a register of bytes.
const ROWS: usize = 32;

/// The values of a register.
const VALUES: usize = 8;

/// Writes the ranks of rows, as `Ranks::fill` does.
pub(super) fn fill(of: &Ranks<f32>, ranks: &mut [i8], capacity: usize, rows: Values<'_, f32>) {
    #[target_feature(enable = "avx2,bmi1,popcnt")]
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
        // SAFETY: the processor has the instructions, and the node has the values of two registers.
        unsafe {
            let value = _mm256_set1_ps(value);
            let (low, high) = (_mm256_loadu_ps(node.as_ptr()), _mm256_loadu_ps(node.as_ptr().add(VALUES)));
            let low = _mm256_movemask_ps(is_beyond::<BEYOND>(value, low));
            let high = _mm256_movemask_ps(is_beyond::<BEYOND>(value, high));
            low.count_ones() + high.count_ones()
        }
    }
}

/// Returns for each value whether it is beyond its threshold, in all of its bits.
#[inline]
#[target_feature(enable = "avx")]
fn is_beyond<const BEYOND: u8>(values: __m256, thresholds: __m256) -> __m256 {
    match BEYOND {
        ABOVE => _mm256_cmp_ps::<_CMP_GT_OQ>(values, thresholds),
        AT_LEAST => _mm256_cmp_ps::<_CMP_GE_OQ>(values, thresholds),
        _ => _mm256_cmp_ps::<_CMP_LT_OQ>(values, thresholds),
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
            0..=32 => leaves_of::<TREES, 1>(cuts, ranks, leaves),
            33..=64 => leaves_of::<TREES, 2>(cuts, ranks, leaves),
            65..=128 => leaves_of::<TREES, 4>(cuts, ranks, leaves),
            129..=192 => leaves_of::<TREES, 6>(cuts, ranks, leaves),
            _ => leaves_of::<TREES, 8>(cuts, ranks, leaves),
        }
    }
}

/// Finds the leaves of `K` registers of rows.
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn leaves_of<const TREES: usize, const K: usize>(
    cuts: [&[Cut]; TREES],
    ranks: &RanksOfRows<'_>,
    leaves: &mut [[u8; GROUP]; TREES],
) {
    let mut at = [[_mm256_setzero_si256(); K]; TREES];
    portable::each_cut(cuts, |tree, cut| {
        let bound = _mm256_set1_epi32(i32::from_ne_bytes(cut.bound.map(i8::cast_unsigned)));
        let first = _mm256_set1_epi32(i32::from_ne_bytes(cut.first));
        let end = _mm256_set1_epi32(i32::from_ne_bytes(cut.end));
        for (k, at) in at[tree].iter_mut().enumerate() {
            // SAFETY: the cut is one of the ensemble's, and the register is within a block that has rows.
            let rank = unsafe { _mm256_loadu_si256(ranks.of::<ROWS>(cut.column, ROWS * k).as_ptr().cast()) };
            let moves = _mm256_and_si256(_mm256_cmpgt_epi8(rank, bound), _mm256_cmpeq_epi8(*at, first));
            *at = _mm256_blendv_epi8(*at, end, moves);
        }
    });
    for (at, leaves) in at.iter().zip(leaves) {
        for (at, leaves) in at.iter().zip(leaves.chunks_exact_mut(ROWS)) {
            // SAFETY: `leaves` has the size of a register.
            unsafe { _mm256_storeu_si256(leaves.as_mut_ptr().cast(), *at) };
        }
    }
}

/// Adds the values of leaves to sums. Of more leaves than `PADDING`, values are faster read one by one, as measured.
pub(super) fn add(addition: &Addition<'_, f32>, sums: &mut [f32]) {
    if index(addition.count) > PADDING {
        portable::add_bytes(addition, sums);
    } else {
        // SAFETY: as above.
        unsafe { look_up(addition, sums) }
    }
}

#[target_feature(enable = "avx2,bmi1,popcnt")]
fn look_up(addition: &Addition<'_, f32>, sums: &mut [f32]) {
    let Addition { by, values, count, leaves, rows } = addition;
    // SAFETY: the values of so few leaves are padded to this number.
    let values: &[f32; PADDING] = unsafe { &*values.as_ptr().cast() };
    // SAFETY: these are four registers.
    let registers: [__m256; 4] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(values.as_ptr().add(VALUES * i)) });
    for (leaves, sums) in
        leaves[..rows.next_multiple_of(VALUES)].chunks_exact(VALUES).zip(sums.chunks_exact_mut(VALUES))
    {
        // SAFETY: `leaves` has eight bytes.
        let leaf = _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(leaves.as_ptr().cast()) });
        // Blends go by the highest bit.
        let of = |i: usize| _mm256_permutevar8x32_ps(registers[i], leaf);
        let by_bit_3 = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(leaf));
        let mut value = _mm256_blendv_ps(of(0), of(1), by_bit_3);
        if *count > 16 {
            let by_bit_4 = _mm256_castsi256_ps(_mm256_slli_epi32::<27>(leaf));
            value = _mm256_blendv_ps(value, _mm256_blendv_ps(of(2), of(3), by_bit_3), by_bit_4);
        }
        // SAFETY: `sums` has the size of a register.
        unsafe {
            let sum = _mm256_loadu_ps(sums.as_ptr());
            // As in C++, `min` and `max` return the second operand if the first is not less or greater.
            let sum = match by {
                Aggregate::Sum | Aggregate::Average => _mm256_add_ps(sum, value),
                Aggregate::Min => _mm256_min_ps(value, sum),
                Aggregate::Max => _mm256_max_ps(value, sum),
            };
            _mm256_storeu_ps(sums.as_mut_ptr(), sum);
        }
    }
}
