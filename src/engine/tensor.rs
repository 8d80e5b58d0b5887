//! Element types, and columns: growing typed buffers that become tensors without another copy.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The type of a tensor's elements, under the names that the views and errors use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum ElementType {
    /// IEEE single.
    Float32 = 1,
    /// IEEE double.
    Float64,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// Unsigned, 8 bits.
    Uint8,
    /// Unsigned, 16 bits.
    Uint16,
    /// Unsigned, 32 bits.
    Uint32,
    /// Unsigned, 64 bits.
    Uint64,
    /// True or false.
    Bool,
    /// UTF-8 text.
    String,
    /// IEEE half.
    Float16,
    /// The upper half of an IEEE single.
    Bfloat16,
}

impl ElementType {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Float32,
        Self::Float64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Bool,
        Self::String,
        Self::Float16,
        Self::Bfloat16,
    ];

    /// Bytes of one element (text: of its place in the index).
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Int8 | Self::Uint8 | Self::Bool => 1,
            Self::Int16 | Self::Uint16 | Self::Float16 | Self::Bfloat16 => 2,
            Self::Float32 | Self::Int32 | Self::Uint32 => 4,
            Self::Float64 | Self::Int64 | Self::Uint64 | Self::String => 8,
        }
    }

    /// Whether NaN exists in it.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::Float32 | Self::Float64 | Self::Float16 | Self::Bfloat16)
    }

    /// The type with this tag in encoded results.
    #[must_use]
    pub fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|t| *t as u8 == tag)
    }

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Uint8 => "uint8",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
        }
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Many short texts in one buffer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Strings {
    text: String,
    ends: Vec<usize>,
}

impl Strings {
    /// Appends one.
    pub fn push(&mut self, s: &str) {
        self.text.push_str(s);
        self.ends.push(self.text.len());
    }

    /// Appends one; false where there is no memory for it.
    #[must_use]
    pub fn try_push(&mut self, s: &str) -> bool {
        let room = self.text.try_reserve(s.len()).is_ok() && self.ends.try_reserve(1).is_ok();
        if room {
            self.push(s);
        }
        room
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The one at `i`, or the empty text where there is none.
    #[must_use]
    pub fn get(&self, i: usize) -> &str {
        let start = if i == 0 { 0 } else { self.ends.get(i - 1).copied().unwrap_or(0) };
        self.ends.get(i).and_then(|end| self.text.get(start..*end)).unwrap_or("")
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Keeps the first `n`.
    pub fn truncate(&mut self, n: usize) {
        self.ends.truncate(n);
        self.text.truncate(self.ends.last().copied().unwrap_or(0));
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len() + 8 * self.ends.len()
    }

    /// Bytes that there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.text.capacity() + 8 * self.ends.capacity()
    }
}

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

/// Runs one expression for whichever vector a column holds.
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
    /// An empty one.
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

    /// The type of its elements.
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

    /// Elements held.
    #[must_use]
    pub fn len(&self) -> usize {
        each!(self, v => v.len(), s => s.len())
    }

    /// Whether it holds none.
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
            // Callers append runs of one output, which has one type.
            _ => {}
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        each!(self, v => std::mem::size_of_val(v.as_slice()), s => s.bytes())
    }

    /// Bytes that there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        each!(self, v => v.capacity() * self.element().size(), s => s.capacity())
    }

    /// Copies the elements of these spans (start and length), in this order.
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
            // Made of one type a line above.
            _ => {}
        }
        out
    }

    /// Turns `[a, b, inner]` into `[b, a, inner]`.
    #[must_use]
    pub(crate) fn swap(&self, a: usize, b: usize, inner: usize) -> Self {
        let spans: Vec<(usize, usize)> =
            (0..b).flat_map(|j| (0..a).map(move |i| ((i * b + j) * inner, inner))).collect();
        self.copy(&spans)
    }

    /// Its numbers as float32: of a float type, none otherwise.
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

    /// The number at `i`; none where it is no number.
    #[must_use]
    pub fn number(&self, i: usize) -> Option<f64> {
        self.scalar(i).and_then(Scalar::number)
    }

    /// The value at `i`.
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

    /// Its elements as JSON, nested as a shape is.
    #[must_use]
    pub(crate) fn json(&self, shape: &[usize]) -> Value {
        nest(shape, &mut |i| Ok(self.scalar(i).map_or(Value::Null, Scalar::json))).unwrap_or(Value::Null)
    }

    /// Appends a JSON value; false where it is not one of the type. What JSON has no number for is a text.
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
            Self::Float64(v) => put!(v, float()),
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

    /// Appends elements from their bytes, little-endian; false where the bytes are no whole number of elements, or the
    /// type has no such form.
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

    /// Makes room for `n` more elements, or fails without ending the process.
    pub fn try_reserve(&mut self, n: usize) -> crate::Result<()> {
        let bytes = n.saturating_mul(self.element().size());
        let full = |_| crate::Error::OutOfMemory { what: "a batch".into(), bytes };
        each!(self, v => v.try_reserve(n).map_err(full), s => s.ends.try_reserve(n).map_err(full))
    }
}

/// One value of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar<'a> {
    /// Any float that float32 holds.
    Float32(f32),
    /// `float64`
    Float64(f64),
    /// Any integer but `uint64`.
    Int(i64),
    /// `uint64`
    Uint64(u64),
    /// `bool`
    Bool(bool),
    /// `string`
    Text(&'a str),
}

impl Scalar<'_> {
    /// As float8; none where it is no number. A truth is 1 or 0.
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

    /// As JSON; what JSON has no number for is a text.
    #[must_use]
    pub fn json(self) -> Value {
        match self {
            // The shortest digits that read back as the same float32.
            Self::Float32(x) => x.to_string().parse::<f64>().map_or(Value::Null, float_json),
            Self::Float64(x) => float_json(x),
            Self::Int(x) => x.into(),
            Self::Uint64(x) => x.into(),
            Self::Bool(x) => x.into(),
            Self::Text(t) => t.into(),
        }
    }
}

/// A float as JSON: a whole number without a point, as PostgreSQL writes it.
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

/// Values as JSON, nested as a shape is; `value` gives them by position.
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
    level(shape, &mut 0, value)
}

/// A number as float32; none where only a larger type holds it.
#[must_use]
pub fn narrow(x: f64) -> Option<f32> {
    #[allow(clippy::cast_possible_truncation, reason = "rounds, and what becomes infinite is refused below")]
    let y = x as f32;
    (y.is_finite() || !x.is_finite()).then_some(y)
}

/// A number as float16; none where only a larger type holds it.
#[must_use]
pub fn narrow_f16(x: f64) -> Option<f16> {
    let y = f16::from_f64(x);
    (y.is_finite() || !x.is_finite()).then_some(y)
}

/// A number as bfloat16; none where only a larger type holds it.
#[must_use]
pub fn narrow_bf16(x: f64) -> Option<bf16> {
    let y = bf16::from_f64(x);
    (y.is_finite() || !x.is_finite()).then_some(y)
}

/// The elements of nested JSON arrays and their shape; none where they are ragged or of another type.
#[must_use]
pub fn from_json(value: &Value, element: ElementType) -> Option<(Column, Vec<usize>)> {
    fn walk(value: &Value, depth: usize, shape: &mut Vec<usize>, column: &mut Column) -> bool {
        let Value::Array(items) = value else { return depth == shape.len() && column.push_json(value) };
        match shape.get(depth) {
            Some(n) if *n != items.len() => return false,
            Some(_) => {}
            // A new level is known before the first value only.
            None if column.is_empty() => shape.push(items.len()),
            None => return false,
        }
        items.iter().all(|item| walk(item, depth + 1, shape, column))
    }
    let (mut column, mut shape) = (Column::new(element), Vec::new());
    walk(value, 0, &mut shape, &mut column).then_some((column, shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_keep_order_and_truncate() {
        let mut s = Strings::default();
        for x in ["a", "", "ünï", "b"] {
            s.push(x);
        }
        assert_eq!(s.iter().collect::<Vec<_>>(), ["a", "", "ünï", "b"]);
        s.truncate(2);
        s.push("z");
        assert_eq!(s.iter().collect::<Vec<_>>(), ["a", "", "z"]);
        assert_eq!(s.get(9), "");
    }

    #[test]
    fn tags_name_every_type_once() {
        for t in ElementType::ALL {
            assert_eq!(ElementType::from_tag(t as u8), Some(t));
            assert_eq!(Column::new(t).element(), t);
            assert_eq!(serde_json::to_value(t).unwrap(), t.name());
        }
        assert_eq!(ElementType::from_tag(0), None);
    }
}
