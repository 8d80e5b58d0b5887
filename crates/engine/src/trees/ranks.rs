//! Ranks of values: how many thresholds of a feature a value is beyond, in one byte.
//!
//! With the thresholds of a feature sorted, a value is beyond one of them if its rank is greater than the threshold's
//! position. So each test of a split is a comparison of two small integers, whatever the type of the values and the
//! comparison of the split are, and a vector holds four times as many of them as floats.

use std::collections::HashMap;

use crate::trees::forest::{Comparison, Split};
use crate::trees::number::Number;
use crate::trees::{Unfit, index};

/// The most thresholds of a column of ranks.
const THRESHOLDS: u32 = u8::MAX as u32;

/// The number of thresholds that are compared at once to find a rank, as a power of two.
const NODE_BITS: u32 = 4;
pub(crate) const NODE: usize = 1 << NODE_BITS;

/// The number of rows whose values are compared at once with one threshold.
pub(crate) const ROWS: usize = 16;

/// When a value is beyond a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Beyond {
    Above,
    AtLeast,
    Below,
}

/// The same as a constant parameter of functions.
pub(crate) const ABOVE: u8 = 0;
pub(crate) const AT_LEAST: u8 = 1;
pub(crate) const BELOW: u8 = 2;

/// What the ranks of a column mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    feature: u32,
    beyond: Beyond,
    /// Whether NaN is beyond every threshold, or beyond none.
    nan_is_beyond: bool,
}

impl Key {
    /// Returns what a split tests: a row takes the second child if its value is beyond the threshold by one of these.
    fn of(split: &Split) -> impl Iterator<Item = Self> {
        let Split { feature, test, .. } = *split;
        let beyond: &[Beyond] = match test.comparison {
            Comparison::LessOrEqual => &[Beyond::Above],
            Comparison::Less => &[Beyond::AtLeast],
            Comparison::Equal => &[Beyond::Above, Beyond::Below],
        };
        beyond.iter().map(move |beyond| Self { feature, beyond: *beyond, nan_is_beyond: !test.nan_is_first })
    }
}

/// The position of a threshold: a value is beyond it if its rank in the column is greater than `bound`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) column: u32,
    pub(crate) bound: i8,
}

/// The thresholds of one key.
#[derive(Debug)]
struct Scale {
    key: Key,
    /// The number of thresholds.
    count: u32,
    /// Where the thresholds begin. They are in the order in which growing ranks are beyond them.
    start: usize,
    /// Where the highest level begins, and its number of thresholds, which is at most that of a node. The last
    /// thresholds of the nodes of a level are the level above.
    highest: (usize, usize),
    /// Where the levels below begin. The last level is all thresholds.
    levels: Vec<usize>,
    /// The first column of the ranks, and the end of its columns.
    columns: std::ops::Range<u32>,
}

/// The sorted thresholds of an ensemble.
#[derive(Debug, Default)]
pub(crate) struct Ranks<T> {
    scales: Vec<Scale>,
    positions: HashMap<Key, usize, foldhash::fast::FixedState>,
    thresholds: Vec<T>,
    /// The number of columns. A key with many thresholds has several, each with the rank among its part of them.
    pub(crate) columns: u32,
}

impl<T: Number> Ranks<T> {
    /// Sorts the thresholds of these splits.
    pub(crate) fn of<'a>(splits: impl Iterator<Item = &'a Split>) -> Result<Self, Unfit> {
        let mut of_key: HashMap<Key, usize, foldhash::fast::FixedState> = HashMap::default();
        let mut all: Vec<(Key, Vec<T>)> = Vec::new();
        for split in splits {
            for key in Key::of(split) {
                let position = *of_key.entry(key).or_insert_with(|| {
                    all.push((key, Vec::new()));
                    all.len() - 1
                });
                all[position].1.push(T::of_double(split.threshold));
            }
        }
        let mut ranks = Self { positions: of_key, ..Self::default() };
        for (key, mut thresholds) in all {
            // No threshold is NaN. Zeros of both signs are one threshold.
            thresholds.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
            thresholds.dedup();
            if key.beyond == Beyond::Below {
                thresholds.reverse();
            }
            let count = u32::try_from(thresholds.len()).map_err(|_| Unfit::Left("too many thresholds"))?;
            ranks.push(key, &thresholds, count);
        }
        Ok(ranks)
    }

    /// Returns the number of levels that are searched for the ranks of a row.
    pub(crate) fn steps(&self) -> usize {
        self.scales.iter().map(|scale| 1 + scale.levels.len()).sum()
    }

    fn push(&mut self, key: Key, thresholds: &[T], count: u32) {
        let start = self.thresholds.len();
        let first = self.columns;
        self.columns += count.div_ceil(THRESHOLDS);
        self.thresholds.extend(thresholds);
        let mut levels = Vec::new();
        let (mut level, mut level_start) = (thresholds.to_vec(), start);
        while level.len() > NODE {
            // A value is never beyond NaN.
            let padding = level.len().next_multiple_of(NODE) - level.len();
            self.thresholds.extend(std::iter::repeat_n(T::NAN, padding));
            levels.insert(0, level_start);
            // The last node needs no threshold above it: it is where all others end.
            let nodes = level.len().div_ceil(NODE);
            level = level.chunks_exact(NODE).take(nodes - 1).map(|node| node[NODE - 1]).collect();
            level_start = self.thresholds.len();
            self.thresholds.extend(&level);
        }
        let highest = (level_start, level.len());
        self.scales.push(Scale { key, count, start, highest, levels, columns: first..self.columns });
    }

    /// Returns the places of a split's threshold. A row takes the second child if it is beyond one of them.
    pub(crate) fn places(&self, split: &Split) -> impl Iterator<Item = Place> {
        let threshold = T::of_double(split.threshold);
        Key::of(split).map(move |key| {
            let scale = &self.scales[self.positions[&key]];
            let thresholds = &self.thresholds[scale.start..scale.start + index(scale.count)];
            let at = match key.beyond {
                Beyond::Below => thresholds.partition_point(|t| *t > threshold),
                Beyond::Above | Beyond::AtLeast => thresholds.partition_point(|t| *t < threshold),
            };
            // It is less than `count`, which is a `u32`.
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            Place { column: scale.columns.start + at / THRESHOLDS, bound: byte(at % THRESHOLDS) }
        })
    }

    /// Writes the ranks of rows, `capacity` bytes for each column. `capacity` is a multiple of `ROWS`. The ranks beyond
    /// the last row are any.
    #[inline(always)]
    pub(crate) fn fill<C: Count<T>>(&self, ranks: &mut [i8], capacity: usize, rows: Values<'_, T>, count: C) {
        for scale in &self.scales {
            let ranks = &mut ranks[index(scale.columns.start) * capacity..index(scale.columns.end) * capacity];
            match scale.key.beyond {
                Beyond::Above => self.fill_scale::<C, ABOVE>(scale, ranks, capacity, rows, count),
                Beyond::AtLeast => self.fill_scale::<C, AT_LEAST>(scale, ranks, capacity, rows, count),
                Beyond::Below => self.fill_scale::<C, BELOW>(scale, ranks, capacity, rows, count),
            }
        }
    }

    #[inline(always)]
    fn fill_scale<C: Count<T>, const BEYOND: u8>(
        &self,
        scale: &Scale,
        ranks: &mut [i8],
        capacity: usize,
        rows: Values<'_, T>,
        count: C,
    ) {
        let Values { input, width, rows } = rows;
        let feature = index(scale.key.feature);
        let of_nan = if scale.key.nan_is_beyond { scale.count } else { 0 };
        let highest = &self.thresholds[scale.highest.0..scale.highest.0 + scale.highest.1];
        for (block, first) in (0..rows).step_by(ROWS).enumerate() {
            let rows = &input[first * width..(first + ROWS).min(rows) * width];
            let (values, mut counts) = count.of_rows::<BEYOND>(rows, width, feature, highest);
            for level in &scale.levels {
                for (count_of_row, value) in counts.iter_mut().zip(values) {
                    let node = level + (index(*count_of_row) << NODE_BITS);
                    debug_assert!(node + NODE <= self.thresholds.len());
                    // SAFETY: a level has a node more than the level above has thresholds, and is padded to whole nodes.
                    // So there is a node for each count of the level above.
                    let node = unsafe { &*self.thresholds.as_ptr().add(node).cast() };
                    *count_of_row = (*count_of_row << NODE_BITS) + count.of_node::<BEYOND>(value, node);
                }
            }
            for (count_of_row, value) in counts.iter_mut().zip(values) {
                *count_of_row = if is_nan(value) { of_nan } else { *count_of_row };
            }
            for column in 0..scale.columns.end - scale.columns.start {
                let ranks = &mut ranks[index(column) * capacity + block * ROWS..][..ROWS];
                for i in 0..ROWS {
                    ranks[i] = byte(counts[i].saturating_sub(column * THRESHOLDS).min(THRESHOLDS));
                }
            }
        }
    }
}

/// Counts the thresholds that values are beyond. `BEYOND` is `ABOVE`, `AT_LEAST` or `BELOW`.
pub(crate) trait Count<T: Number>: Copy {
    /// Returns the number of thresholds of a node that a value is beyond.
    fn of_node<const BEYOND: u8>(self, value: T, node: &[T; NODE]) -> u32;

    /// Returns a feature's values of up to `ROWS` rows, and for each the number of thresholds that it is beyond.
    #[inline(always)]
    fn of_rows<const BEYOND: u8>(
        self,
        rows: &[T],
        width: usize,
        feature: usize,
        thresholds: &[T],
    ) -> ([T; ROWS], [u32; ROWS]) {
        let mut values = [T::ZERO; ROWS];
        for (value, row) in values.iter_mut().zip(rows.chunks_exact(width)) {
            *value = row[feature];
        }
        let mut counts = [0; ROWS];
        for threshold in thresholds {
            for i in 0..ROWS {
                counts[i] += u32::from(is_beyond::<BEYOND, T>(values[i], *threshold));
            }
        }
        (values, counts)
    }
}

/// Counts without instructions of a particular processor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

impl<T: Number> Count<T> for Portable {
    #[inline(always)]
    fn of_node<const BEYOND: u8>(self, value: T, node: &[T; NODE]) -> u32 {
        node.iter().map(|threshold| u32::from(is_beyond::<BEYOND, T>(value, *threshold))).sum()
    }
}

#[inline(always)]
fn is_beyond<const BEYOND: u8, T: Number>(value: T, threshold: T) -> bool {
    match BEYOND {
        ABOVE => value > threshold,
        AT_LEAST => value >= threshold,
        _ => value < threshold,
    }
}

/// Values, row by row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Values<'a, T> {
    pub(crate) input: &'a [T],
    pub(crate) width: usize,
    pub(crate) rows: usize,
}

#[inline(always)]
#[allow(clippy::eq_op, reason = "only NaN differs from itself")]
fn is_nan<T: Number>(x: T) -> bool {
    x != x
}

/// Returns a number up to 255 as a byte whose signed comparisons are those of the numbers, as vectors compare bytes.
#[inline(always)]
fn byte(number: u32) -> i8 {
    (number.to_le_bytes()[0] ^ 0x80).cast_signed()
}
