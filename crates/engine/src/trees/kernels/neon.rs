//! The kernels for NEON, which every 64-bit ARM processor has: 16 rows in a register, and up to 16 registers at once.

use std::arch::aarch64::*;

use crate::trees::compiled::Cut;
use crate::trees::kernels::{GROUP, RanksOfRows, portable};
use crate::trees::ranks::{ABOVE, AT_LEAST, Count, NODE, Ranks, Values};

/// The rows of a register of bytes.
const ROWS: usize = 16;

/// The values of a register.
const VALUES: usize = 4;

/// Writes the ranks of rows, as `Ranks::fill` does.
pub(super) fn fill(of: &Ranks<f32>, ranks: &mut [i8], capacity: usize, rows: Values<'_, f32>) {
    #[target_feature(enable = "neon")]
    fn fill(of: &Ranks<f32>, ranks: &mut [i8], capacity: usize, rows: Values<'_, f32>) {
        of.fill(ranks, capacity, rows, Vectors);
    }
    // SAFETY: every 64-bit ARM processor has these instructions.
    unsafe { fill(of, ranks, capacity, rows) }
}

/// Counts with vectors. Only `fill` uses it.
#[derive(Debug, Clone, Copy)]
struct Vectors;

impl Count<f32> for Vectors {
    #[inline(always)]
    fn of_node<const BEYOND: u8>(self, value: f32, node: &[f32; NODE]) -> u32 {
        let (thresholds, []) = node.as_chunks::<VALUES>() else { return 0 };
        // SAFETY: the processor has the instructions, and each chunk has the values of a register.
        unsafe {
            let value = vdupq_n_f32(value);
            let mut count = vdupq_n_u32(0);
            for thresholds in thresholds {
                // All bits of a true comparison are set, which is -1.
                count = vsubq_u32(count, is_beyond::<BEYOND>(value, vld1q_f32(thresholds.as_ptr())));
            }
            vaddvq_u32(count)
        }
    }
}

/// Returns for each value whether it is beyond its threshold, in all of its bits.
#[inline]
#[target_feature(enable = "neon")]
fn is_beyond<const BEYOND: u8>(values: float32x4_t, thresholds: float32x4_t) -> uint32x4_t {
    match BEYOND {
        ABOVE => vcgtq_f32(values, thresholds),
        AT_LEAST => vcgeq_f32(values, thresholds),
        _ => vcltq_f32(values, thresholds),
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
            0..=16 => leaves_of::<TREES, 1>(cuts, ranks, leaves),
            17..=32 => leaves_of::<TREES, 2>(cuts, ranks, leaves),
            33..=64 => leaves_of::<TREES, 4>(cuts, ranks, leaves),
            65..=128 => leaves_of::<TREES, 8>(cuts, ranks, leaves),
            129..=192 => leaves_of::<TREES, 12>(cuts, ranks, leaves),
            _ => leaves_of::<TREES, 16>(cuts, ranks, leaves),
        }
    }
}

/// Finds the leaves of `K` registers of rows.
#[target_feature(enable = "neon")]
fn leaves_of<const TREES: usize, const K: usize>(
    cuts: [&[Cut]; TREES],
    ranks: &RanksOfRows<'_>,
    leaves: &mut [[u8; GROUP]; TREES],
) {
    let mut at = [[vdupq_n_u8(0); K]; TREES];
    portable::each_cut(cuts, |tree, Cut { column, bound: [bound, ..], first: [first, ..], end: [end, ..] }| {
        let (bound, first, end) = (vdupq_n_s8(*bound), vdupq_n_u8(*first), vdupq_n_u8(*end));
        for (k, at) in at[tree].iter_mut().enumerate() {
            // SAFETY: the cut is one of the ensemble's, and the register is within a block that has rows.
            let rank = unsafe { vld1q_s8(ranks.of::<ROWS>(*column, ROWS * k).as_ptr()) };
            let moves = vandq_u8(vcgtq_s8(rank, bound), vceqq_u8(*at, first));
            *at = vbslq_u8(moves, end, *at);
        }
    });
    for (at, leaves) in at.iter().zip(leaves) {
        for (at, leaves) in at.iter().zip(leaves.chunks_exact_mut(ROWS)) {
            // SAFETY: `leaves` has the size of a register.
            unsafe { vst1q_u8(leaves.as_mut_ptr(), *at) };
        }
    }
}
