//! Single values of tensors: conversions between number types, and to JSON.

use half::{bf16, f16};
use serde_json::Value;

/// One value of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar<'a> {
    /// `float32`, `float16` or `bfloat16`.
    Float32(f32),
    /// `float64`
    Float64(f64),
    /// Any integer type except `uint64`.
    Int(i64),
    /// `uint64`
    Uint64(u64),
    /// `bool`
    Bool(bool),
    /// `string`
    Text(&'a str),
}

impl Scalar<'_> {
    /// Converts to float8, or `None` for a text. `true` is 1 and `false` is 0.
    #[must_use]
    pub fn number(self) -> Option<f64> {
        match self {
            Self::Float32(x) => Some(x.into()),
            Self::Float64(x) => Some(x),
            Self::Int(x) => Some(x as f64),
            Self::Uint64(x) => Some(x as f64),
            Self::Bool(x) => Some(f64::from(u8::from(x))),
            Self::Text(_) => None,
        }
    }

    /// Converts to float8 if that holds the value exactly. Returns `None` for a text or an integer of more than 53
    /// significant bits.
    #[must_use]
    pub fn exact(self) -> Option<f64> {
        self.number().filter(|_| self.whole().is_none_or(|x| has_digits(x, f64::MANTISSA_DIGITS)))
    }

    /// Converts to float4: integers exactly, float64 rounded as PostgreSQL's cast does. Returns `None` for a text or if
    /// the value does not fit.
    #[must_use]
    pub fn real(self) -> Option<f32> {
        match self {
            Self::Float32(x) => Some(x),
            Self::Float64(x) => narrow(x).filter(|y| *y != 0.0 || x == 0.0),
            _ => self
                .number()
                .filter(|_| self.whole().is_none_or(|x| has_digits(x, f32::MANTISSA_DIGITS)))
                .and_then(narrow),
        }
    }

    pub(crate) fn whole(self) -> Option<i128> {
        match self {
            Self::Int(x) => Some(x.into()),
            Self::Uint64(x) => Some(x.into()),
            _ => None,
        }
    }

    /// Converts to JSON. NaN and the infinities become strings.
    #[must_use]
    pub fn json(self) -> Value {
        match self {
            // Formats the shortest digits that read back as the same float32.
            Self::Float32(x) => x.to_string().parse::<f64>().map_or(Value::Null, float_json),
            Self::Float64(x) => float_json(x),
            Self::Int(x) => x.into(),
            Self::Uint64(x) => x.into(),
            Self::Bool(x) => x.into(),
            Self::Text(t) => t.into(),
        }
    }
}

/// Formats a float as JSON. A whole number has no decimal point, as in PostgreSQL.
fn float_json(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 && !(x == 0.0 && x.is_sign_negative()) {
        #[allow(clippy::cast_possible_truncation, reason = "a whole number below 1e15")]
        return (x as i64).into();
    }
    let named = if x.is_nan() {
        "NaN"
    } else if x > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    };
    serde_json::Number::from_f64(x).map_or_else(|| named.into(), Value::Number)
}

/// The maximum number of dimensions of an output. JSON has the same nesting depth, and its readers recurse.
pub const MOST_DIMENSIONS: usize = 64;
/// The maximum number of JSON arrays of a value without elements: `[30000000, 0]` has no elements but prints as 30
/// million arrays.
const MOST_EMPTY_ARRAYS: usize = 1 << 16;

/// Returns the number of elements of a shape, or `None` if it has too many dimensions, elements or empty arrays.
#[must_use]
pub fn element_count(shape: &[usize]) -> Option<usize> {
    if shape.len() > MOST_DIMENSIONS {
        return None;
    }
    let mut arrays = 1_usize;
    for n in shape {
        if *n == 0 {
            return (arrays <= MOST_EMPTY_ARRAYS).then_some(0);
        }
        arrays = arrays.checked_mul(*n)?;
    }
    u32::try_from(arrays).ok().map(|n| n as usize)
}

/// Nests values as JSON arrays according to `shape`. `value` returns the value at a position. A shape with too many
/// dimensions, elements or empty arrays is an error.
pub fn nest(shape: &[usize], value: &mut dyn FnMut(usize) -> crate::Result<Value>) -> crate::Result<Value> {
    fn level(
        shape: &[usize],
        at: &mut usize,
        value: &mut dyn FnMut(usize) -> crate::Result<Value>,
    ) -> crate::Result<Value> {
        match shape.split_first() {
            None => {
                *at += 1;
                value(*at - 1)
            }
            Some((n, rest)) => (0..*n).map(|_| level(rest, at, value)).collect(),
        }
    }
    if element_count(shape).is_none() {
        let reason = format!("A value of the shape {shape:?} has too many elements, dimensions or empty arrays.");
        return Err(crate::Error::Run { reason });
    }
    level(shape, &mut 0, value)
}

/// Rounds a number to float32. Returns `None` if it is finite but out of range.
#[must_use]
pub fn narrow(x: f64) -> Option<f32> {
    #[allow(clippy::cast_possible_truncation, reason = "rounds, and what becomes infinite is refused below")]
    let y = x as f32;
    (y.is_finite() || !x.is_finite()).then_some(y)
}

/// Returns whether an integer has at most `most` significant binary digits, so that a float type holds it exactly.
#[must_use]
pub fn has_digits(x: i128, most: u32) -> bool {
    let x = x.unsigned_abs();
    x == 0 || u128::BITS - x.leading_zeros() - x.trailing_zeros() <= most
}

/// Rounds a number to float16. Returns `None` if it is finite but out of range.
#[must_use]
pub fn narrow_f16(x: f64) -> Option<f16> {
    let y = f16::from_f64(x);
    (y.is_finite() || !x.is_finite()).then_some(y)
}

/// Rounds a number to bfloat16. Returns `None` if it is finite but out of range.
#[must_use]
pub fn narrow_bf16(x: f64) -> Option<bf16> {
    let y = bf16::from_f64(x);
    (y.is_finite() || !x.is_finite()).then_some(y)
}
