//! Columns: growable typed buffers that become tensors without another copy.

use half::{bf16, f16};
use serde_json::Value;

use crate::tensor::element::ElementType;
use crate::tensor::scalar::{Scalar, has_digits, narrow, narrow_bf16, narrow_f16, nest};
use crate::tensor::strings::Strings;

/// A typed buffer of elements, in row order.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// `float32`
    Float32(Vec<f32>),
    /// `float64`
    Float64(Vec<f64>),
    /// `int8`
    Int8(Vec<i8>),
    /// `int16`
    Int16(Vec<i16>),
    /// `int32`
    Int32(Vec<i32>),
    /// `int64`
    Int64(Vec<i64>),
    /// `uint8`
    Uint8(Vec<u8>),
    /// `uint16`
    Uint16(Vec<u16>),
    /// `uint32`
    Uint32(Vec<u32>),
    /// `uint64`
    Uint64(Vec<u64>),
    /// `bool`
    Bool(Vec<bool>),
    /// `string`
    String(Strings),
    /// `float16`
    Float16(Vec<f16>),
    /// `bfloat16`
    Bfloat16(Vec<bf16>),
}

/// Evaluates one expression for the vector of a numeric column, and another for a string column.
macro_rules! each {
    ($column:expr, $v:ident => $e:expr, $s:ident => $se:expr) => {
        match $column {
            Column::Float32($v) => $e,
            Column::Float64($v) => $e,
            Column::Int8($v) => $e,
            Column::Int16($v) => $e,
            Column::Int32($v) => $e,
            Column::Int64($v) => $e,
            Column::Uint8($v) => $e,
            Column::Uint16($v) => $e,
            Column::Uint32($v) => $e,
            Column::Uint64($v) => $e,
            Column::Bool($v) => $e,
            Column::Float16($v) => $e,
            Column::Bfloat16($v) => $e,
            Column::String($s) => $se,
        }
    };
}

impl Column {
    /// Creates an empty column.
    #[must_use]
    pub fn new(element: ElementType) -> Self {
        match element {
            ElementType::Float32 => Self::Float32(Vec::new()),
            ElementType::Float64 => Self::Float64(Vec::new()),
            ElementType::Int8 => Self::Int8(Vec::new()),
            ElementType::Int16 => Self::Int16(Vec::new()),
            ElementType::Int32 => Self::Int32(Vec::new()),
            ElementType::Int64 => Self::Int64(Vec::new()),
            ElementType::Uint8 => Self::Uint8(Vec::new()),
            ElementType::Uint16 => Self::Uint16(Vec::new()),
            ElementType::Uint32 => Self::Uint32(Vec::new()),
            ElementType::Uint64 => Self::Uint64(Vec::new()),
            ElementType::Bool => Self::Bool(Vec::new()),
            ElementType::String => Self::String(Strings::default()),
            ElementType::Float16 => Self::Float16(Vec::new()),
            ElementType::Bfloat16 => Self::Bfloat16(Vec::new()),
        }
    }

    /// Returns the element type.
    #[must_use]
    pub fn element(&self) -> ElementType {
        match self {
            Self::Float32(_) => ElementType::Float32,
            Self::Float64(_) => ElementType::Float64,
            Self::Int8(_) => ElementType::Int8,
            Self::Int16(_) => ElementType::Int16,
            Self::Int32(_) => ElementType::Int32,
            Self::Int64(_) => ElementType::Int64,
            Self::Uint8(_) => ElementType::Uint8,
            Self::Uint16(_) => ElementType::Uint16,
            Self::Uint32(_) => ElementType::Uint32,
            Self::Uint64(_) => ElementType::Uint64,
            Self::Bool(_) => ElementType::Bool,
            Self::String(_) => ElementType::String,
            Self::Float16(_) => ElementType::Float16,
            Self::Bfloat16(_) => ElementType::Bfloat16,
        }
    }

    /// Returns the elements as bytes, for types that SQL holds in the same form. `None` for other types.
    #[must_use]
    pub fn plain(&self) -> Option<&[u8]> {
        Some(match self {
            Self::Float32(v) => bytemuck::cast_slice(v),
            Self::Float64(v) => bytemuck::cast_slice(v),
            Self::Int16(v) => bytemuck::cast_slice(v),
            Self::Int32(v) => bytemuck::cast_slice(v),
            Self::Int64(v) => bytemuck::cast_slice(v),
            _ => return None,
        })
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        each!(self, v => v.len(), s => s.len())
    }

    /// Returns whether the column has no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the first `n` elements.
    pub fn truncate(&mut self, n: usize) {
        each!(self, v => v.truncate(n), s => s.truncate(n));
    }

    /// Appends the elements of another column of the same type.
    pub(crate) fn append(&mut self, other: Self) {
        match (self, other) {
            (Self::Float32(a), Self::Float32(b)) => a.extend(b),
            (Self::Float64(a), Self::Float64(b)) => a.extend(b),
            (Self::Int8(a), Self::Int8(b)) => a.extend(b),
            (Self::Int16(a), Self::Int16(b)) => a.extend(b),
            (Self::Int32(a), Self::Int32(b)) => a.extend(b),
            (Self::Int64(a), Self::Int64(b)) => a.extend(b),
            (Self::Uint8(a), Self::Uint8(b)) => a.extend(b),
            (Self::Uint16(a), Self::Uint16(b)) => a.extend(b),
            (Self::Uint32(a), Self::Uint32(b)) => a.extend(b),
            (Self::Uint64(a), Self::Uint64(b)) => a.extend(b),
            (Self::Bool(a), Self::Bool(b)) => a.extend(b),
            (Self::Float16(a), Self::Float16(b)) => a.extend(b),
            (Self::Bfloat16(a), Self::Bfloat16(b)) => a.extend(b),
            (Self::String(a), Self::String(b)) => b.iter().for_each(|t| a.push(t)),
            // Callers append values of one output, which has one type.
            _ => {}
        }
    }

    /// Returns the size of the elements, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        each!(self, v => std::mem::size_of_val(v.as_slice()), s => s.bytes())
    }

    /// Returns the size of the allocated buffers, in bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        each!(self, v => v.capacity() * self.element().size(), s => s.capacity())
    }

    /// Copies the elements of the given spans (start and length), in that order.
    #[must_use]
    pub(crate) fn copy(&self, spans: &[(usize, usize)]) -> Self {
        let total = spans.iter().map(|(_, n)| n).sum();
        let mut out = Self::new(self.element());
        macro_rules! spans {
            ($from:expr, $to:expr) => {{
                $to.reserve_exact(total);
                spans.iter().for_each(|(at, n)| $to.extend_from_slice(&$from[*at..at + n]));
            }};
        }
        match (self, &mut out) {
            (Self::Float32(a), Self::Float32(b)) => spans!(a, b),
            (Self::Float64(a), Self::Float64(b)) => spans!(a, b),
            (Self::Int8(a), Self::Int8(b)) => spans!(a, b),
            (Self::Int16(a), Self::Int16(b)) => spans!(a, b),
            (Self::Int32(a), Self::Int32(b)) => spans!(a, b),
            (Self::Int64(a), Self::Int64(b)) => spans!(a, b),
            (Self::Uint8(a), Self::Uint8(b)) => spans!(a, b),
            (Self::Uint16(a), Self::Uint16(b)) => spans!(a, b),
            (Self::Uint32(a), Self::Uint32(b)) => spans!(a, b),
            (Self::Uint64(a), Self::Uint64(b)) => spans!(a, b),
            (Self::Bool(a), Self::Bool(b)) => spans!(a, b),
            (Self::Float16(a), Self::Float16(b)) => spans!(a, b),
            (Self::Bfloat16(a), Self::Bfloat16(b)) => spans!(a, b),
            (Self::String(a), Self::String(b)) => {
                spans.iter().for_each(|(at, n)| (*at..at + n).for_each(|i| b.push(a.get(i))));
            }
            // `out` is created with the same type above.
            _ => {}
        }
        out
    }

    /// Transposes the first two axes: `[a, b, inner]` becomes `[b, a, inner]`.
    #[must_use]
    pub(crate) fn swap(&self, a: usize, b: usize, inner: usize) -> Self {
        let spans: Vec<(usize, usize)> =
            (0..b).flat_map(|j| (0..a).map(move |i| ((i * b + j) * inner, inner))).collect();
        self.copy(&spans)
    }

    /// Converts a column of a float type to float32. Returns `None` for any other type.
    pub(crate) fn into_float32(self) -> Option<Vec<f32>> {
        match self {
            Self::Float32(v) => Some(v),
            #[allow(clippy::cast_possible_truncation, reason = "rounds to the nearest float32, as callers ask")]
            Self::Float64(v) => Some(v.into_iter().map(|x| x as f32).collect()),
            Self::Float16(v) => Some(v.into_iter().map(f16::to_f32).collect()),
            Self::Bfloat16(v) => Some(v.into_iter().map(bf16::to_f32).collect()),
            _ => None,
        }
    }

    /// Returns the number at `i`, or `None` if it is not a number.
    #[must_use]
    pub fn number(&self, i: usize) -> Option<f64> {
        self.scalar(i).and_then(Scalar::number)
    }

    /// Returns whether float8 certainly holds every number exactly: no integer is beyond 2^53. `false` for strings.
    #[must_use]
    pub fn fits_float8(&self) -> bool {
        match self {
            Self::Int64(v) => v.iter().all(|x| x.unsigned_abs() <= 1 << f64::MANTISSA_DIGITS),
            Self::Uint64(v) => v.iter().all(|x| *x <= 1 << f64::MANTISSA_DIGITS),
            Self::String(_) => false,
            _ => true,
        }
    }

    /// Returns the value at `i`.
    #[must_use]
    pub(crate) fn scalar(&self, i: usize) -> Option<Scalar<'_>> {
        match self {
            Self::Float32(v) => v.get(i).copied().map(Scalar::Float32),
            Self::Float64(v) => v.get(i).copied().map(Scalar::Float64),
            Self::Int8(v) => v.get(i).map(|x| Scalar::Int((*x).into())),
            Self::Int16(v) => v.get(i).map(|x| Scalar::Int((*x).into())),
            Self::Int32(v) => v.get(i).map(|x| Scalar::Int((*x).into())),
            Self::Int64(v) => v.get(i).copied().map(Scalar::Int),
            Self::Uint8(v) => v.get(i).map(|x| Scalar::Int((*x).into())),
            Self::Uint16(v) => v.get(i).map(|x| Scalar::Int((*x).into())),
            Self::Uint32(v) => v.get(i).map(|x| Scalar::Int((*x).into())),
            Self::Uint64(v) => v.get(i).copied().map(Scalar::Uint64),
            Self::Bool(v) => v.get(i).copied().map(Scalar::Bool),
            Self::Float16(v) => v.get(i).map(|x| Scalar::Float32(x.to_f32())),
            Self::Bfloat16(v) => v.get(i).map(|x| Scalar::Float32(x.to_f32())),
            Self::String(s) => (i < s.len()).then(|| Scalar::Text(s.get(i))),
        }
    }

    /// Returns the elements as JSON arrays, nested according to `shape`.
    pub(crate) fn json(&self, shape: &[usize]) -> crate::Result<Value> {
        nest(shape, &mut |i| Ok(self.scalar(i).map_or(Value::Null, Scalar::json)))
    }

    /// Appends a JSON value. Returns `false` if it does not fit the type. NaN and the infinities are JSON strings.
    #[must_use]
    pub fn push_json(&mut self, value: &Value) -> bool {
        let float = || match value.as_str() {
            Some("NaN") => Some(f64::NAN),
            Some("Infinity") => Some(f64::INFINITY),
            Some("-Infinity") => Some(f64::NEG_INFINITY),
            _ => value.as_f64(),
        };
        macro_rules! put {
            ($v:expr, $x:expr) => {
                match $x {
                    Some(x) => {
                        $v.push(x);
                        true
                    }
                    None => false,
                }
            };
        }
        macro_rules! integer {
            ($v:expr, $t:ty) => {
                put!(
                    $v,
                    value
                        .as_i64()
                        .and_then(|x| <$t>::try_from(x).ok())
                        .or_else(|| value.as_u64().and_then(|x| <$t>::try_from(x).ok()))
                )
            };
        }
        match self {
            Self::Float32(v) => put!(v, float().and_then(narrow)),
            // Beyond 53 bits, float64 holds only some integers.
            Self::Float64(v) => put!(
                v,
                float().filter(|_| {
                    let whole = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
                    whole.is_none_or(|n| has_digits(n, f64::MANTISSA_DIGITS))
                })
            ),
            Self::Float16(v) => put!(v, float().and_then(narrow_f16)),
            Self::Bfloat16(v) => put!(v, float().and_then(narrow_bf16)),
            Self::Int8(v) => integer!(v, i8),
            Self::Int16(v) => integer!(v, i16),
            Self::Int32(v) => integer!(v, i32),
            Self::Int64(v) => integer!(v, i64),
            Self::Uint8(v) => integer!(v, u8),
            Self::Uint16(v) => integer!(v, u16),
            Self::Uint32(v) => integer!(v, u32),
            Self::Uint64(v) => integer!(v, u64),
            Self::Bool(v) => put!(v, value.as_bool()),
            Self::String(v) => put!(v, value.as_str()),
        }
    }

    /// Appends elements from their little-endian bytes. Returns `false` if the bytes are not a whole number of
    /// elements, or for strings.
    #[must_use]
    pub fn push_bytes(&mut self, bytes: &[u8]) -> bool {
        macro_rules! pods {
            ($v:expr, $t:ty) => {{
                let (parts, rest) = bytes.as_chunks::<{ size_of::<$t>() }>();
                if !rest.is_empty() || $v.try_reserve(parts.len()).is_err() {
                    return false;
                }
                $v.extend(parts.iter().map(|b| <$t>::from_le_bytes(*b)));
            }};
        }
        match self {
            Self::Float32(v) => pods!(v, f32),
            Self::Float64(v) => pods!(v, f64),
            Self::Float16(v) => pods!(v, f16),
            Self::Bfloat16(v) => pods!(v, bf16),
            Self::Int8(v) => pods!(v, i8),
            Self::Int16(v) => pods!(v, i16),
            Self::Int32(v) => pods!(v, i32),
            Self::Int64(v) => pods!(v, i64),
            Self::Uint8(v) => pods!(v, u8),
            Self::Uint16(v) => pods!(v, u16),
            Self::Uint32(v) => pods!(v, u32),
            Self::Uint64(v) => pods!(v, u64),
            Self::Bool(v) => {
                if bytes.iter().any(|b| *b > 1) {
                    return false;
                }
                v.extend(bytes.iter().map(|b| *b == 1));
            }
            Self::String(_) => return false,
        }
        true
    }

    /// Appends the value at `from` of another column of the same type, `n` times.
    pub(crate) fn repeat(&mut self, value: &Self, from: usize, n: usize) {
        self.append(value.copy(&vec![(from, 1); n]));
    }

    /// Reserves room for `n` more elements. A failed allocation is an error and does not end the process.
    pub fn try_reserve(&mut self, n: usize) -> crate::Result<()> {
        let bytes = n.saturating_mul(self.element().size());
        let full = |_| crate::Error::OutOfMemory { what: "a batch".into(), bytes };
        each!(self, v => v.try_reserve(n).map_err(full), s => s.ends.try_reserve(n).map_err(full))
    }
}

/// Returns the elements of nested JSON arrays and their shape, or `None` if the arrays are ragged or do not fit the
/// type.
#[must_use]
pub fn from_json(value: &Value, element: ElementType) -> Option<(Column, Vec<usize>)> {
    fn walk(value: &Value, depth: usize, shape: &mut Vec<usize>, column: &mut Column) -> bool {
        let Value::Array(items) = value else { return depth == shape.len() && column.push_json(value) };
        match shape.get(depth) {
            Some(n) if *n != items.len() => return false,
            Some(_) => {}
            // The depth of the arrays is unknown only before the first value.
            None if column.is_empty() => shape.push(items.len()),
            None => return false,
        }
        items.iter().all(|item| walk(item, depth + 1, shape, column))
    }
    let (mut column, mut shape) = (Column::new(element), Vec::new());
    walk(value, 0, &mut shape, &mut column).then_some((column, shape))
}
