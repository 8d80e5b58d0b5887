//! Generates synthetic rows, which have the same values in every batch.

use std::borrow::Cow;

use crate::batch::{Batch, Each, Shapes};
use crate::tensor::{Column, ElementType, Strings};
use crate::validation::trial::Trial;

/// The magnitude of the numbers in each unequal row.
pub(crate) const MAGNITUDES: [f64; 10] = [1.0, 1e-6, 1e3, -30.0, 1e6, 0.0, 1e-3, 10.0, 1e5, -1e-2];

/// The largest integer in each unequal row.
const LARGEST_INTEGERS: [u64; 10] = [9, 1, 100, 3, 1000, 0, 2, 50, 20_000, 5];

/// The strings from which unequal rows are made.
const STRINGS: [&str; 10] =
    ["a", "", "b", "it was not what we had hoped for", "1e6", "0", "\u{e9}\u{4e2d}", "-1", "good", "c"];

/// The number of words in the text of each unequal row.
const NUMBERS_OF_WORDS: [usize; 10] = [2, 1, 30, 4, 12, 0, 7, 20, 3, 40];

/// A description of a synthetic row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// Small numbers that depend on the row's number.
    Simple(usize),
    /// The same value in every element.
    Fill(u8),
    /// Numbers of one magnitude, which depends on the row's number. With `simple_keys`, integers and strings are
    /// simple, for models that accept no others.
    Unequal { number: usize, simple_keys: bool },
}

impl Made {
    /// Returns an upper bound on the magnitude of the row's floating-point numbers.
    pub(crate) fn largest(self) -> f64 {
        if let Self::Unequal { number, .. } = self { MAGNITUDES[number].abs() } else { 3.0 }
    }
}

/// Mixes two numbers into one pseudorandom number.
pub(crate) fn hash(a: usize, b: usize) -> u32 {
    // Knuth's multiplicative hash, and a shift so that the low bits depend on the high ones.
    let low = |x: usize| u32::try_from(x & 0xffff_ffff).unwrap_or(0);
    let mixed = low(a).wrapping_add(1).wrapping_mul(2_654_435_761) ^ low(b).wrapping_add(1).wrapping_mul(2_246_822_519);
    let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(2_654_435_761);
    mixed ^ (mixed >> 13)
}

/// Rounds to the nearest float32.
#[allow(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
pub(crate) fn rounded(x: f64) -> f32 {
    x as f32
}

/// Converts to a number of rows, without the fraction.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of a float takes the nearest that there is"
)]
pub(crate) fn whole(x: f64) -> usize {
    x as usize
}

/// Converts a small count to a number.
pub(crate) fn small(n: usize) -> f64 {
    u16::try_from(n).unwrap_or(u16::MAX).into()
}

/// Synthetic texts of different lengths.
const WORDS: [&str; 3] = ["good", "it was not what we had hoped for after all these years", "a second one"];

impl<'a> Trial<'a> {
    /// Generates simple rows, starting at the row number `from`. `fill`: the value of every element instead.
    pub(crate) fn rows(&self, rows: usize, from: usize, fill: Option<u8>) -> Batch {
        self.made(&(from..from + rows).map(|row| fill.map_or(Made::Simple(row), Made::Fill)).collect::<Vec<_>>())
    }

    /// Generates a batch of these rows.
    pub(crate) fn made(&self, rows: &[Made]) -> Batch {
        let mut batch = Batch { rows: rows.len(), ..Batch::default() };
        let text = self.signature().takes_text();
        for input in self.signature().slots(1) {
            let shape: Vec<usize> = input.shape.iter().map(|d| d.unwrap_or(self.open)).collect();
            let width: usize = shape.iter().product();
            // An input that the whole batch shares must not differ by row.
            let shared = input.axis.is_none() && !self.signature().whole;
            let places = || {
                rows.iter().flat_map(|row| (0..width).map(move |i| (if shared { Made::Simple(0) } else { *row }, i)))
            };
            // Smaller element types cannot represent larger numbers.
            let most = match input.element {
                ElementType::Int8 | ElementType::Uint8 => 100,
                ElementType::Int16 => 30_000,
                _ => u64::MAX,
            };
            let number = |(row, i): (Made, usize)| self.number(row, i);
            let integer = |(row, i): (Made, usize)| self.integer(row, i).min(most);
            macro_rules! floats {
                ($kind:ident, $from:expr) => {
                    Column::$kind(places().map(number).map($from).collect())
                };
            }
            macro_rules! integers {
                ($kind:ident, $t:ty) => {
                    Column::$kind(places().map(integer).map(|x| <$t>::try_from(x).unwrap_or(<$t>::MAX)).collect())
                };
            }
            let column = match input.element {
                ElementType::Float32 => floats!(Float32, rounded),
                ElementType::Float64 => floats!(Float64, |x| x),
                ElementType::Float16 => floats!(Float16, half::f16::from_f64),
                ElementType::Bfloat16 => floats!(Bfloat16, half::bf16::from_f64),
                ElementType::Int8 => integers!(Int8, i8),
                ElementType::Int16 => integers!(Int16, i16),
                ElementType::Int32 => integers!(Int32, i32),
                ElementType::Int64 => integers!(Int64, i64),
                ElementType::Uint8 => integers!(Uint8, u8),
                ElementType::Uint16 => integers!(Uint16, u16),
                ElementType::Uint32 => integers!(Uint32, u32),
                ElementType::Uint64 => integers!(Uint64, u64),
                ElementType::Bool => Column::Bool(places().map(|place| integer(place) % 2 == 1).collect()),
                ElementType::String => {
                    let mut texts = Strings::default();
                    places().for_each(|(row, i)| texts.push(&self.string(row, i, text)));
                    Column::String(texts)
                }
            };
            let shapes = if input.width().is_some() {
                Shapes::Same(shape)
            } else {
                let mut each = Each { rank: shape.len(), ..Each::default() };
                rows.iter().for_each(|_| each.push(&shape));
                Shapes::Each(each)
            };
            batch.columns.push(column);
            batch.shapes.push(shapes);
        }
        batch
    }

    /// Returns a number of a row. `i` is its position in the input.
    pub(crate) fn number(&self, row: Made, i: usize) -> f64 {
        match row {
            Made::Fill(fill) => f64::from(fill),
            Made::Simple(row) if self.flavour == 0 => small((row * 7 + i * 3) % 10) / 4.0,
            Made::Simple(_) => small(self.flavour - 1) / 4.0,
            Made::Unequal { number, .. } => {
                let unit = f64::from(hash(number, i) >> 8) / f64::from(1_u32 << 23) - 1.0;
                MAGNITUDES[number] * unit
            }
        }
    }

    /// Returns an integer of a row. `i` is its position in the input.
    pub(crate) fn integer(&self, row: Made, i: usize) -> u64 {
        match row {
            Made::Fill(fill) => u64::from(fill),
            Made::Unequal { number, simple_keys: false } => u64::from(hash(number, i)) % (LARGEST_INTEGERS[number] + 1),
            Made::Simple(row) | Made::Unequal { number: row, .. } if self.flavour == 0 => row as u64 % 2,
            Made::Simple(_) | Made::Unequal { .. } => self.flavour as u64 - 1,
        }
    }

    /// Returns a string of a row, or with `text` its text for the tokenizer. `i` is its position in the input.
    pub(crate) fn string(&self, row: Made, i: usize, text: bool) -> Cow<'static, str> {
        let words = if text { WORDS } else { ["a", "b", ""] };
        match row {
            Made::Unequal { number, simple_keys: false } if text => {
                let word = |n: usize| STRINGS[hash(number, n) as usize % STRINGS.len()];
                (0..NUMBERS_OF_WORDS[number]).map(word).collect::<Vec<_>>().join(" ").into()
            }
            Made::Unequal { number, simple_keys: false } => STRINGS[(number + i) % STRINGS.len()].into(),
            Made::Simple(row) | Made::Unequal { number: row, .. } => words[(row + i + self.flavour) % 3].into(),
            Made::Fill(_) => words[(i + self.flavour) % 3].into(),
        }
    }
}
